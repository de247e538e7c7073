# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks a host about itself and, where other hosts are named, which of its VMs could move to which of those."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.kvmops.migration.plugins.module_utils._pure import options as table
from ansible_collections.kvmops.migration.plugins.module_utils._pure.refusal import Refusal
from ansible_collections.kvmops.migration.plugins.plugin_utils.errand import INFO_MODULE, Errand
from ansible_collections.kvmops.migration.plugins.plugin_utils.sites import Here, Others
from ansible_collections.kvmops.migration.plugins.plugin_utils.values import check_known, listed

# Stands for a VM of which the name is not known yet.
SOME_VM = "-"


class ActionModule(ActionBase):
    """Runs virt_migrate_info, with the ways to the other hosts resolved from the inventory."""

    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        here = Here(self, self._task.delegate_to or variables["inventory_hostname"], variables)
        args = dict(self._task.args)
        if "_moves" in args:
            raise AnsibleActionFail("_moves is filled by the collection and is not an option")
        with Others(self, variables) as reach:
            if args.get("dest_hosts"):
                args["_moves"] = self._moves(args, here, variables, reach)
            result.update(here.execute(INFO_MODULE, args, wrap_async=bool(self._task.async_val)))
        return result

    def _moves(self, args: dict[str, Any], here: Here, variables: dict[str, Any], reach: Any) -> list[dict[str, Any]]:
        options = args.get("options") or {}
        try:
            check_known(options, table.PUBLIC, "options")
        except Refusal as refusal:
            raise AnsibleActionFail(refusal.message) from refusal
        common = {key: args[key] for key in ("uri", "connect_timeout") if key in args}
        # A move without a name is that of every VM.
        names = [{"name": name} for name in listed(args.get("name") or args.get("guest"))] or [{}]
        moves = []
        for dest in listed(args["dest_hosts"]):
            if dest == here.host:
                continue
            move = {**options, **common, "dest_host": dest}
            resolved = Errand(here, {**move, "name": SOME_VM}, variables, reach).arguments()
            moves += [{**{key: value for key, value in resolved.items() if key != "name"}, **one} for one in names]
        return moves
