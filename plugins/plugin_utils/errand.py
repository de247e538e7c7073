# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""What a run needs from the inventory, and what is done around it on other hosts than its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.utils.display import Display

from ansible_collections.kvmops.migration.plugins.module_utils._pure import options as table
from ansible_collections.kvmops.migration.plugins.module_utils._pure import outcome
from ansible_collections.kvmops.migration.plugins.module_utils._pure import uri as uris
from ansible_collections.kvmops.migration.plugins.plugin_utils import runs
from ansible_collections.kvmops.migration.plugins.plugin_utils.outage import Outage

INFO_MODULE = "kvmops.migration.virt_migrate_info"
DEFAULT_GROUP = "hypervisors"
# What of a failure is worth a look at QEMU's logs: not what was refused before anything was tried.
TRIED = (
    outcome.FAILED,
    outcome.UNDETERMINED,
    outcome.CRASH,
    outcome.LOST,
    outcome.SPLIT_BRAIN,
    outcome.POSTCOPY,
)

display = Display()


class Errand:
    """One VM that shall move: its options as the user said them, from the inventory and from the destination.

    `reach` gives another host of the inventory by its name, and `facts` keeps what destinations have said, for errands
    that are only judged at one moment.
    """

    def __init__(
        self,
        site: Any,
        args: Mapping[str, Any],
        variables: Mapping[str, Any],
        reach: Callable[[str], Any],
        module: str = runs.MODULE,
        facts: dict[str, dict[str, Any] | None] | None = None,
    ):
        self._site = site
        self._module = module
        self._variables = variables
        self._reach = reach
        self._given = dict(args)
        self._known = {} if facts is None else facts
        self._dest: Any = None
        self._outage: Outage | None = None
        self._run: runs.Run | None = None
        self.name = str(args.get("name"))
        for hidden in table.HIDDEN:
            if hidden in args:
                raise refused(f"{hidden} is filled by the collection and is not an option")

    @property
    def result(self) -> dict[str, Any] | None:
        return self._run.result if self._run else None

    def arguments(self) -> dict[str, Any]:
        """The module's arguments."""
        args = dict(self._given)
        if args.get("dest_host") and not (_said(args, "cancel") or _said(args, "cleanup")):
            args.update(self._destination(args))
        return args

    def start(self) -> None:
        args = self.arguments()
        tell = self._tell if _said(args, "progress", True) else None
        self._run = runs.Run(self._site, args, tell, self._module)
        if args.get("outage_address"):
            self._outage = Outage(self._reach(args.get("outage_from") or "localhost"), args["outage_address"])
            self._outage.start()
        self._run.start()
        self._conclude()

    def run(self) -> dict[str, Any]:
        """Begin it and watch it to its end; the result."""
        self.start()
        vigil = runs.Vigil()
        while self.result is None:
            vigil.wait()
            self.look()
        return self.result

    def look(self) -> None:
        if self._run is not None and self._run.result is None:
            self._run.look()
            self._conclude()

    def close(self) -> None:
        """Whatever happened: no probe goes on."""
        if self._outage is not None:
            self._outage.stop()

    def _tell(self, line: str) -> None:
        display.display(f"  {line}")

    def _conclude(self) -> None:
        result = self.result
        if result is None:
            return
        if self._outage is not None:
            # Where nothing has moved nothing had to be measured, but a probe that cannot run must be known of.
            matters = result.get("changed") or not self._outage.runs
            found = result["outage"] = self._outage.stop()
            if matters and self._outage.trouble(found):
                result["warnings"] = [*result.get("warnings", []), self._outage.trouble(found)]
            self._outage = None
            if result.get("run"):
                runs.keep_outage(self._site, str(result["run"]), found)
        if result.get("failed") and result.get("outcome") in TRIED:
            logs = {"source": runs.log_tail(self._site, self.name)}
            if self._dest is not None:
                dest_name = str(self._given.get("dest_name") or self.name)
                logs["dest"] = runs.log_tail(self._dest, dest_name)
            result["logs"] = logs

    def _destination(self, args: dict[str, Any]) -> dict[str, Any]:
        """The options that follow from the destination's inventory name."""
        dest, variables = str(args["dest_host"]), self._variables
        if dest not in variables["hostvars"]:
            known = variables["groups"].get(variables.get("migration_hosts_group", DEFAULT_GROUP))
            hosts = known or variables["groups"]["all"]
            raise refused(f"dest_host: {dest!r} is not in the inventory; known hosts: {', '.join(hosts)}")
        host_vars = variables["hostvars"][dest]
        address = host_vars.get("migration_address")
        if dest == self._site.host:
            # The host itself: no way leads there, and the module says what that means.
            return {"dest_uri": args.get("dest_uri") or args.get("uri") or "qemu:///system"}
        added: dict[str, Any] = {
            "dest_uri": args.get("dest_uri") or uris.for_host(address or host_vars.get("ansible_host") or dest)
        }
        if address and self._module == runs.MODULE and not args.get("migrate_uri") and not _said(args, "tunnelled"):
            added["migrate_uri"] = uris.for_data(address)
        self._dest = self._reach(dest)
        if dest not in self._known:
            self._known[dest] = self._facts(dest)
        facts = self._known[dest]
        if facts is not None:
            added["_dest_facts"] = facts
        return added

    def _facts(self, dest: str) -> dict[str, Any] | None:
        """Who the destination is and what earlier moves left there; None when it does not tell."""
        try:
            said = self._dest.execute(INFO_MODULE, {"name": [self.name], "facts": True})
        except AnsibleError as error:
            said = {"failed": True, "msg": str(error)}
        if "host" not in said:
            reason = " ".join(str(said.get("msg") or "no answer").split())
            display.warning(f"dest_host: {dest} does not tell what is on it, its journal is not used: {reason}")
            return None
        return {key: said[key] for key in ("host", "journal", "pools") if key in said}


def refused(message: str) -> AnsibleActionFail:
    """The failure of a task whose options cannot be used, with what the module itself would answer."""
    result = {"changed": False, "outcome": outcome.REFUSED, "failure_class": "bad_option"}
    return AnsibleActionFail(message, result=result)


def _said(args: Mapping[str, Any], option: str, default: bool = False) -> bool:
    return bool(boolean(args.get(option, default) or False, strict=False))
