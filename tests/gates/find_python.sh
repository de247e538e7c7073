#!/usr/bin/env bash
# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
# Usage: find_python.sh VERSION...   prints the first interpreter among these versions (3.13, ...) that works.
# Each candidate is really run: a name on PATH may be a shim of a version manager that leads nowhere, and an interpreter
# built by hand may lack the modules that a virtual environment needs.
set -euo pipefail
probe='import ctypes, ensurepip, ssl, sys, venv; print(sys.executable)'
for version in "$@"; do
    for candidate in "python$version" "$HOME/.pyenv/versions/$version".*/bin/"python$version" "/usr/local/bin/python$version" "/usr/bin/python$version"; do
        if found=$("$candidate" -c "$probe" 2>/dev/null) && [ -n "$found" ]; then
            printf '%s\n' "$found"
            exit 0
        fi
    done
done
printf 'error: no working Python among %s (each needs the modules ctypes, ensurepip, ssl and venv): make setup, as root, installs python3-venv\n' "$*" >&2
exit 1
