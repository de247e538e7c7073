#!/bin/sh
# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# What is at each path, below a heading as head(1) writes it: of a directory or a private key who may use it, of a key also
# the SHA-256 of its public one, of any other file what is in it. Usage: look.sh PATH...
export LC_ALL=C
for path; do
    [ -e "$path" ] || continue
    printf '\n==> %s <==\n' "$path"
    case $path in
    *key.pem)
        stat -c '%U %a %F' -- "$path"
        # Of nothing at all, where it is no key, or one with a password.
        openssl pkey -in "$path" -passin pass: -pubout -outform DER | sha256sum
        ;;
    *)
        if [ -d "$path" ]; then
            stat -L -c '%U %a %F' -- "$path"
        else
            head -c 65536 -- "$path"
        fi
        ;;
    esac
done 2>/dev/null
