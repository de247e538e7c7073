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
