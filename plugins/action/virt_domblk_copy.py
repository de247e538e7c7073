# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Begins a copy of images on the host that has them, and watches it."""

from __future__ import annotations

from ansible_collections.kvmops.migration.plugins.action import virt_migrate


class ActionModule(virt_migrate.ActionModule):
    """Runs virt_domblk_copy on the host of the VM, with another host resolved from the inventory."""

    MODULE = "kvmops.migration.virt_domblk_copy"
