# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Begins a run on the source host with what only the controller knows, and watches it."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.kvmops.migration.plugins.plugin_utils.errand import Errand
from ansible_collections.kvmops.migration.plugins.plugin_utils.runs import MODULE
from ansible_collections.kvmops.migration.plugins.plugin_utils.sites import Here, Others


class ActionModule(ActionBase):
    """Runs virt_migrate on the source, with the destination resolved from the inventory."""

    MODULE = MODULE
    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        here = Here(self, self._task.delegate_to or variables["inventory_hostname"], variables)
        with Others(self, variables) as reach:
            errand = Errand(here, self._task.args, variables, reach, self.MODULE)
            try:
                if self._task.async_val or self._task.check_mode:
                    answer = here.execute(self.MODULE, errand.arguments(), wrap_async=bool(self._task.async_val))
                else:
                    answer = errand.run()
            finally:
                errand.close()
        result.update(answer)
        return result
