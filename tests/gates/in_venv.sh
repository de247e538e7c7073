#!/usr/bin/env bash
# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
# Usage: in_venv.sh [-e NAME] COMMAND...   runs it at the top of the checkout as in the activated environment (venv unless
# named), with this checkout as kvmops.migration.
set -euo pipefail
. "$(dirname "$0")/common.sh"
name=venv
if [ "$1" = -e ]; then
    name=$2
    shift 2
fi
venv=$CACHE/$name
[ -e "$venv/.complete" ] || die "there is no virtual environment at $venv: run make setup"
export VIRTUAL_ENV=$venv PATH="$venv/bin:$PATH" PYTHONNOUSERSITE=1
export ANSIBLE_COLLECTIONS_PATH=$COLLECTIONS
# A fresh clone may belong to another user than the one who runs the gates.
export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'
unset PYTHONHOME PYTHONPATH PYTHONDONTWRITEBYTECODE
# A third of the unit tests' time would be compiling what has not changed, and the checkout stays as git has it.
export PYTHONPYCACHEPREFIX=$CACHE/pycache
cd "$TOP"
exec "$@"
