#!/bin/sh
# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Mount an export where nobody else sees it, or take it where it is mounted, and write to it as a guest's disk would.
# Runs in a mount namespace of its own. Usage: try.sh SOURCE OPTIONS WRITABLE [MOUNTED]
set -u
source=$1 options=$2 writable=$3 folder=${4:-}
export LC_ALL=C

probe() {
    # With the host's name, because the other hypervisors write at the same time; what a killed run has left goes.
    rm -f "$folder/.kvmops-migration-$(uname -n)-"??????
    file=$(mktemp "$folder/.kvmops-migration-$(uname -n)-XXXXXX") || return
    head -c 65536 /dev/zero > "$file" && sync "$file"
    status=$?
    rm -f "$file"
    return "$status"
}

private=
if [ -z "$folder" ]; then
    private=$(mktemp -d /run/kvmops-migration-nfs.XXXXXX) || exit
    trap 'rmdir "$private"' EXIT
    mount -n -t nfs -o "$options" "$source" "$private" || exit
    trap 'umount "$private" || umount -l "$private"; rmdir "$private"' EXIT
    folder=$private
fi
if [ "$writable" = yes ]; then probe; fi
