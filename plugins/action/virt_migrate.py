# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings what the module on the source cannot see: the inventory, and the destination through its own login."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from ansible import constants
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import become_loader
from ansible.utils.display import Display

from ansible_collections.kvmops.migration.plugins.module_utils._pure import uri as uris

MODULE = "kvmops.migration.virt_migrate"
INFO_MODULE = "kvmops.migration.virt_migrate_info"
DEFAULT_GROUP = "hypervisors"
FACTS = "_dest_facts"

display = Display()


class ActionModule(ActionBase):
    """Runs virt_migrate on the source, with the destination resolved from the inventory."""

    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        args = dict(self._task.args)
        if FACTS in args:
            raise AnsibleActionFail(f"{FACTS} is filled by the collection and is not an option")
        if args.get("dest_host"):
            args.update(self._destination(args, variables))
        result.update(self._execute_module(MODULE, args, task_vars=variables, wrap_async=bool(self._task.async_val)))
        if not self._task.async_val:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return result

    def _destination(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """The options that follow from the destination's inventory name."""
        dest = str(args["dest_host"])
        if dest not in variables["hostvars"]:
            known = variables["groups"].get(variables.get("migration_hosts_group", DEFAULT_GROUP))
            hosts = known or variables["groups"]["all"]
            raise AnsibleActionFail(f"dest_host: {dest!r} is not in the inventory; known hosts: {', '.join(hosts)}")
        host_vars = variables["hostvars"][dest]
        address = host_vars.get("migration_address")
        if dest == (self._task.delegate_to or variables["inventory_hostname"]):
            # The host itself: no way leads there, and the module says what that means.
            return {"dest_uri": args.get("dest_uri") or args.get("uri") or "qemu:///system"}
        added: dict[str, Any] = {
            "dest_uri": args.get("dest_uri") or uris.for_host(address or host_vars.get("ansible_host") or dest)
        }
        tunnelled = boolean(args.get("tunnelled") or False, strict=False)
        if address and not args.get("migrate_uri") and not tunnelled:
            added["migrate_uri"] = uris.for_data(address)
        facts = self._facts(dest, host_vars, args)
        if facts is not None:
            added[FACTS] = facts
        return added

    def _facts(self, dest: str, host_vars: Any, args: dict[str, Any]) -> dict[str, Any] | None:
        """Who the destination is and what earlier moves left there; None when it does not tell."""
        try:
            said = Elsewhere(self, dest, host_vars).execute(INFO_MODULE, {"name": [str(args.get("name", ""))]})
        except AnsibleError as error:
            said = {"failed": True, "msg": str(error)}
        if "host" not in said:
            reason = " ".join(str(said.get("msg") or "no answer").split())
            display.warning(f"dest_host: {dest} does not tell what is on it, its journal is not used: {reason}")
            return None
        return {"host": said["host"], "journal": said["journal"]}


class Elsewhere:
    """Runs a module on another host of the inventory than the task's, through that host's own login."""

    def __init__(self, action: ActionBase, host: str, host_vars: Any):
        self._action = action
        self._host = host
        self._vars = _readable(host_vars)
        self._task = action._task.copy()
        self._task.delegate_to = None
        self._task.async_val = 0
        self._play_context = action._play_context.copy()
        self._play_context.remote_addr = self._vars.get("ansible_host", host)

    def execute(self, module: str, args: dict[str, Any]) -> dict[str, Any]:
        """The module's result."""
        action = self._action
        connection = self._connect()
        try:
            runner = action._shared_loader_obj.action_loader.get(
                "ansible.builtin.normal",
                task=self._task,
                connection=connection,
                play_context=self._play_context,
                loader=action._loader,
                templar=action._templar.copy_with_new_env(available_variables=self._vars),
                shared_loader_obj=action._shared_loader_obj,
            )
            result: dict[str, Any] = runner._execute_module(module, args, task_vars=self._vars)
            runner._remove_tmp_path(connection._shell.tmpdir)
            return result
        finally:
            connection.close()

    def _connect(self) -> Any:
        kind = self._vars.get("ansible_connection") or self._task.connection
        connection, _context = self._action._shared_loader_obj.connection_loader.get_with_context(
            kind, self._play_context, new_stdin=None, task_uuid=self._task._uuid, ansible_playbook_pid=str(os.getppid())
        )
        if connection is None:
            raise AnsibleActionFail(f"{self._host} has an unknown connection plugin: {kind}")
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
            raise AnsibleActionFail(f"{self._host} has an unknown become method: {method}")
        return plugin

    def _set_options(self, plugin: Any, kind: str, keys: dict[str, Any]) -> None:
        names = constants.config.get_plugin_vars(kind, plugin._load_name)
        plugin.set_options(task_keys=keys, var_options={name: self._vars[name] for name in names if name in self._vars})


def _readable(host_vars: Any) -> dict[str, Any]:
    """The host's variables that Ansible itself uses; one that cannot be templated there is as good as not set."""
    found: dict[str, Any] = {"ansible_facts": {}}
    for name in host_vars:
        if name.startswith("ansible_") or name in ("inventory_hostname", "inventory_hostname_short"):
            with suppress(AnsibleError):
                found[name] = host_vars[name]
    return found
