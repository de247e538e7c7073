#!/usr/bin/env bash
# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
# Usage: in_venv.sh sanity.sh [ansible-test options]   runs ansible-test sanity on what users get: the built collection.
set -euo pipefail
. "$(dirname "$0")/common.sh"

work=$CACHE/sanity/$(basename "$COLLECTIONS")
tree=$work/ansible_collections/kvmops/migration
mkdir -p "$work"
exec 9>"$work/lock"
flock 9

# ansible-test keeps its controller environment below tests/output: carried over, a second run need not make it again.
rm -rf "$work/build"
[ ! -d "$tree/tests/output/.tmp" ] || { rm -rf "$work/kept" && mv "$tree/tests/output/.tmp" "$work/kept"; }
rm -rf "$tree"
mkdir -p "$work/build" "$tree/tests/output"
[ ! -d "$work/kept" ] || mv "$work/kept" "$tree/tests/output/.tmp"

ansible-galaxy collection build "$TOP" --output-path "$work/build" >/dev/null
tar -xzf "$work/build"/kvmops-migration-*.tar.gz -C "$tree"
cd "$tree"
# ansible-test asks git which files there are.
git init -q
echo /tests/output/ >.git/info/exclude
git add -A

if [ $# -eq 0 ]; then
    python "$TOP/tests/gates/get_pip_shim.py"
    set -- --venv --python "$(python -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
fi
exec ansible-test sanity --color no "$@" </dev/null
