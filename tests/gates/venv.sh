#!/usr/bin/env bash
# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
# Usage: venv.sh NAME REQUIREMENTS VERSION...   makes $CACHE/NAME a link to a complete virtual environment and prints its path.
# The environment is keyed by its interpreter and its requirements. It cannot be made elsewhere and moved, because its scripts
# carry its path; so the last step of a complete one is a marker file, and one without the marker is made anew.
set -euo pipefail
. "$(dirname "$0")/common.sh"
name=$1 requirements=$TOP/$2
shift 2

python=$("$(dirname "$0")/find_python.sh" "$@")
key=$({ "$python" -c 'import sys; print(sys.version, sys.base_prefix)'; cat "$requirements"; } | sha256sum | cut -c1-12)
venv=$CACHE/venvs/$name-$key
mkdir -p "$CACHE/venvs"
exec 9>"$CACHE/venvs/$name.lock"
flock 9
if [ ! -e "$venv/.complete" ]; then
    say "making the virtual environment $venv with $("$python" -V) (a minute or two)"
    rm -rf "$venv"
    log=$CACHE/venvs/$name.log
    # The ansible package has tens of thousands of files: only what we use of it is compiled.
    make_venv() {
        "$python" -m venv "$venv" || return
        "$venv/bin/python" -m pip install --no-compile --disable-pip-version-check --no-input --progress-bar off -r "$requirements" || return
        "$venv/bin/python" -m pip check || return
        # Some packages carry templates named .py that no interpreter compiles.
        "$venv/bin/python" -m compileall -q -j 0 -x 'ansible_collections/(?!ansible/posix/|community/(general|libvirt)/)' "$venv/lib" || :
    }
    logged "$log" make_venv || { cat "$log" >&2; die "pip could not install $requirements (log: $log)"; }
    touch "$venv/.complete"
fi
ln -sfn "$venv" "$CACHE/$name.new.$$"
mv -T "$CACHE/$name.new.$$" "$CACHE/$name"
printf '%s\n' "$venv"
