#!/usr/bin/env bash
# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
# Makes this checkout findable as kvmops.migration. The tree with the link lies outside the checkout, so that no tool that
# walks the checkout walks into itself; .venv and playbooks/.collections are what people and playbooks/ansible.cfg name.
set -euo pipefail
. "$(dirname "$0")/common.sh"
mkdir -p "$COLLECTIONS/ansible_collections/kvmops" "$TOP/playbooks"
ln -sfn "$TOP" "$COLLECTIONS/ansible_collections/kvmops/migration"
ln -sfn "$COLLECTIONS" "$TOP/playbooks/.collections"
ln -sfn "$CACHE/venv" "$TOP/.venv"
# Compiled code of what tests have made for themselves, and of what nobody will ask for again.
rm -rf "$CACHE/pycache${TMPDIR:-/tmp}"
