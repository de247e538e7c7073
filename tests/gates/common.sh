# shellcheck shell=bash
# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
# Places shared by the scripts here. Everything that can be made again lives under one cache directory outside the checkout.

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
CACHE=${KVMOPS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kvmops-migration}
mkdir -p "$CACHE"
CACHE=$(cd "$CACHE" && pwd -P)
# Two checkouts share the cache, not the link tree that makes one of them "the collection".
COLLECTIONS="$CACHE/collections/$(printf '%s' "$TOP" | sha256sum | cut -c1-12)"
export TOP CACHE COLLECTIONS

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# logged LOG COMMAND...: runs it with its output in the log, and says every 20 s which line it is at.
logged() {
    local log=$1 clock note status=0
    shift
    : >"$log"
    # A descriptor on which nothing ever comes: waiting for it needs no process that could outlive this one.
    exec {clock}<> <(:)
    while ! read -rt 20 -u "$clock" && kill -0 $$ 2>/dev/null; do
        say "  ...   $(tail -c 400 "$log" | tr '\r' '\n' | grep -av '^ *$' | tail -n 1 | cut -c 1-100)"
    done &
    note=$!
    "$@" >>"$log" 2>&1 </dev/null || status=$?
    kill "$note"
    wait "$note" 2>/dev/null || :
    exec {clock}>&-
    return "$status"
}
