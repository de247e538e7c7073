#!/bin/sh
# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Put certificates where they belong, each whole or not at all. Usage: put.sh [PATH CERTIFICATE]...
set -eu
export LC_ALL=C
part=
trap '[ -z "$part" ] || rm -f -- "$part"' EXIT
trap 'exit 1' HUP INT TERM
while [ $# -gt 0 ]; do
    part=$(mktemp -p "${1%/*}")
    printf '%s' "$2" >"$part"
    chown root -- "$part"
    chmod 644 -- "$part"
    mv -fT -- "$part" "$1"
    part=
    shift 2
done
