#!/bin/sh
# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Make directories and private keys, and ask for certificates: all of a host at once, because each task of Ansible costs a
# host the start of a Python. It prints a heading for each key, the SHA-256 of its public key, and the request, in PEM.
#
# Usage: ask.sh NAME NAMES [directory MODE PATH | key OWNER PATH | ask USAGE PATH]...
#   NAME     the common name of the requests
#   NAMES    subjectAltName, as in x509v3_config(5)
#   USAGE    extendedKeyUsage, serverAuth or clientAuth; PATH is that of the key
set -eu
export LC_ALL=C
umask 077
name=$(printf '%s' "$1" | sed 's/[\\"'\''`#$]/\\&/g')
names=$2
shift 2
part=
trap '[ -z "$part" ] || rm -f -- "$part"' EXIT
trap 'exit 1' HUP INT TERM

is_key() {
    # Whoever may write here could have put a link to a key that is not his.
    [ ! -L "$1" ] && openssl pkey -in "$1" -passin pass: -noout 2>/dev/null
}

while [ $# -gt 0 ]; do
    path=$3
    case $1 in
    directory)
        (umask 022 && mkdir -p -- "$path")
        chown root -- "$path"
        # Only so many digits take the set-group-ID bit away, which comes from the directory above.
        chmod "0$2" -- "$path"
        ;;
    key)
        # One that is there may only have to be given to its owner.
        if ! is_key "$path"; then
            part=$(mktemp -p "${path%/*}")
            openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:named_curve -out "$part"
            mv -fT -- "$part" "$path"
            part=
        fi
        chown "$2" -- "$path"
        chmod 400 -- "$path"
        ;;
    ask)
        printf '\n==> %s <==\n' "$path"
        openssl pkey -in "$path" -passin pass: -pubout -outform DER | sha256sum | cut -c 1-64
        # libvirt and QEMU up to 2024 wanted keyEncipherment of every key.
        openssl req -new -sha256 -key "$path" -config /dev/stdin <<END
[req]
prompt = no
utf8 = yes
string_mask = utf8only
distinguished_name = subject
req_extensions = wanted
[subject]
CN = "$name"
[wanted]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature, keyEncipherment
extendedKeyUsage = $2
subjectAltName = $names
END
        ;;
    esac
    shift 3
done
