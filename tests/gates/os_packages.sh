#!/usr/bin/env bash
# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
# Installs the Debian packages of apt.txt that are missing; does not touch apt when none is.
set -euo pipefail
. "$(dirname "$0")/common.sh"

if ! command -v dpkg-query >/dev/null; then
    say "warning: no dpkg here: the packages of tests/gates/apt.txt cannot be checked, install their equivalents by hand"
    exit 0
fi
missing=()
while read -r package; do
    case $package in '' | \#*) continue ;; esac
    state=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)
    [ "$state" = 'install ok installed' ] || missing+=("$package")
done <"$TOP/tests/gates/apt.txt"
[ ${#missing[@]} -gt 0 ] || exit 0

[ "$(id -u)" = 0 ] || die "these Debian packages are missing and only root can install them: run as root: apt-get install ${missing[*]}"
say "installing ${#missing[@]} Debian packages: ${missing[*]}"
log="$CACHE/apt.log"
export DEBIAN_FRONTEND=noninteractive
# A machine may carry package lists that are good enough; they are fetched anew only when the installation fails with those.
install() { apt-get install -y --no-install-recommends "${missing[@]}"; }
install_with_new_lists() { apt-get update && install; }
if ! logged "$log" install && ! logged "$log" install_with_new_lists; then
    cat "$log" >&2
    die "apt-get could not install the packages above (log: $log)"
fi
