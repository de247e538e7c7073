# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""Hosts as an action plugin reaches them: the task's own, and any other of the inventory by that one's own login."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from ansible import constants
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import become_loader

from ansible_collections.kvmops.migration.plugins.plugin_utils.patience import limited

# Seconds for a command that takes none.
SHELL_LIMIT = 20.0


class Here:
    """The host of the task."""

    def __init__(self, action: ActionBase, host: str, task_vars: dict[str, Any]):
        self._action = action
        self._vars = task_vars
        self.host = host

    def execute(self, module: str, args: dict[str, Any], wrap_async: bool = False) -> dict[str, Any]:
        """The module's result."""
        result: dict[str, Any] = self._action._execute_module(module, args, task_vars=self._vars, wrap_async=wrap_async)
        if not wrap_async:
            self._action._remove_tmp_path(self._action._connection._shell.tmpdir)
        return result

    def shell(self, command: str) -> str:
        """What the command printed, whatever its status."""
        with limited(SHELL_LIMIT, self.host):
            return str(self._action._low_level_execute_command(command, sudoable=True)["stdout"])

    def reset(self) -> None:
        self._action._connection.reset()

    def close(self) -> None:
        """The connection is the task's own, which closes it."""


class Elsewhere:
    """Another host of the inventory than the task's, through that host's own login; connected when it is needed."""

    def __init__(self, action: ActionBase, host: str, host_vars: Any):
        self._action = action
        self.host = host
        self._vars = _readable(host_vars)
        self._task = action._task.copy()
        self._task.delegate_to = None
        self._task.async_val = 0
        self._play_context = action._play_context.copy()
        self._play_context.remote_addr = self._vars.get("ansible_host", host)
        self._running: Any = None

    def execute(self, module: str, args: dict[str, Any]) -> dict[str, Any]:
        """The module's result."""
        runner = self._runner()
        result: dict[str, Any] = runner._execute_module(module, args, task_vars=self._vars)
        runner._remove_tmp_path(runner._connection._shell.tmpdir)
        return result

    def shell(self, command: str) -> str:
        """What the command printed, whatever its status."""
        with limited(SHELL_LIMIT, self.host):
            return str(self._runner()._low_level_execute_command(command, sudoable=True)["stdout"])

    def reset(self) -> None:
        self.close()

    def close(self) -> None:
        if self._running is not None:
            self._running._connection.close()
            self._running = None

    def _runner(self) -> Any:
        if self._running is None:
            action = self._action
            self._running = action._shared_loader_obj.action_loader.get(
                "ansible.builtin.normal",
                task=self._task,
                connection=self._connect(),
                play_context=self._play_context,
                loader=action._loader,
                templar=action._templar.copy_with_new_env(available_variables=self._vars),
                shared_loader_obj=action._shared_loader_obj,
            )
        return self._running

    def _connect(self) -> Any:
        kind = self._vars.get("ansible_connection") or self._task.connection
        connection, _context = self._action._shared_loader_obj.connection_loader.get_with_context(
            kind, self._play_context, new_stdin=None, task_uuid=self._task._uuid, ansible_playbook_pid=str(os.getppid())
        )
        if connection is None:
            raise AnsibleActionFail(f"{self.host} has an unknown connection plugin: {kind}")
        become = self._become()
        connection.set_become_plugin(become)
        keys = self._task.dump_attrs()
        # The task's own timeout and retries are not the connection's.
        keys["timeout"] = self._play_context.timeout
        keys.pop("retries", None)
        if self._play_context.password:
            keys["password"] = self._play_context.password
        if self._play_context.become_pass:
            keys["become_pass"] = self._play_context.become_pass
        self._set_options(connection, "connection", keys)
        self._set_options(connection._shell, "shell", keys)
        if become is not None:
            self._set_options(become, "become", keys)
            self._play_context.set_become_plugin(become.name)
        self._play_context.become = become is not None
        return connection

    def _become(self) -> Any:
        wanted = self._vars.get("ansible_become", self._task.become)
        if wanted is None or not boolean(wanted):
            return None
        method = self._vars.get("ansible_become_method") or self._task.become_method or constants.DEFAULT_BECOME_METHOD
        plugin = become_loader.get(method)
        if plugin is None:
            raise AnsibleActionFail(f"{self.host} has an unknown become method: {method}")
        return plugin

    def _set_options(self, plugin: Any, kind: str, keys: dict[str, Any]) -> None:
        names = constants.config.get_plugin_vars(kind, plugin._load_name)
        plugin.set_options(task_keys=keys, var_options={name: self._vars[name] for name in names if name in self._vars})


class Others:
    """The other hosts of the inventory by their names, each connected once. Used as a context, which closes them."""

    def __init__(self, action: ActionBase, variables: dict[str, Any]):
        self._action = action
        self._variables = variables
        self._sites: dict[str, Elsewhere] = {}

    def __enter__(self) -> Others:
        return self

    def __exit__(self, *_exception: object) -> None:
        for site in self._sites.values():
            site.close()

    def __call__(self, host: str) -> Elsewhere:
        if host not in self._sites:
            self._sites[host] = Elsewhere(self._action, host, self._variables["hostvars"][host])
        return self._sites[host]


def _readable(host_vars: Any) -> dict[str, Any]:
    """The host's variables that Ansible itself uses; one that cannot be templated there is as good as not set."""
    found: dict[str, Any] = {"ansible_facts": {}}
    for name in host_vars:
        if name.startswith("ansible_") or name in ("inventory_hostname", "inventory_hostname_short"):
            with suppress(AnsibleError):
                found[name] = host_vars[name]
    return found
