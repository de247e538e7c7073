# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes a page of the records of runs, on the controller; no host is touched."""

from __future__ import annotations

import os
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase

from ansible_collections.kvmops.migration.plugins.plugin_utils import pagefile, report
from ansible_collections.kvmops.migration.plugins.plugin_utils.values import plain

SPEC = {
    "path": {"type": "path", "required": True},
    "results": {"type": "list", "elements": "dict", "default": []},
    "records": {"type": "list", "elements": "dict", "default": []},
}


class ActionModule(ActionBase):
    """Writes the page where it is not what it would be."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        judged = ArgumentSpecValidator(SPEC).validate(plain(self._task.args))
        if judged.error_messages:
            raise AnsibleActionFail(" ".join(judged.error_messages[0].split()))
        args = judged.validated_parameters
        path = os.path.abspath(args["path"])
        obstacle = pagefile.obstacle(path, str(args["path"]))
        if obstacle:
            raise AnsibleActionFail(obstacle)
        shown = report.chosen(args["results"], args["records"])
        return {**result, "path": path, "runs": report.listed(shown), **self._write(path, shown)}

    def _write(self, path: str, shown: list[report.Record]) -> dict[str, Any]:
        if not shown:
            return {"changed": False, "msg": f"there is no run to report, so nothing is written to {path}"}
        text = report.page(shown)
        changed = pagefile.differs(path, text)
        if changed and not self._task.check_mode:
            try:
                pagefile.write(path, text)
            except OSError as error:
                raise AnsibleActionFail(f"report: {path} cannot be written: {error.strerror}") from error
        names = ", ".join(dict.fromkeys(str(one.get("name") or "?") for one in shown))
        said = "would be written to" if self._task.check_mode else "is at"
        return {"changed": changed, "msg": f"the report of {names} {said} {path}"}
