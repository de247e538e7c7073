# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""Where VMs live and where they shall live: declared placement against what every host says.

Pure: the facts of all hosts come in, a plan of moves or a list of errors comes out.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from . import messages, needs, preflight, queue
from . import options as table
from .refusal import Refusal

MODES = ("auto", "live", "offline")
STORAGES = ("auto", "shared", "copy")
DECLARED_KEYS = ("host", "mode", "storage")
# Options of virt_migrate that come from somewhere else than from those for every VM.
SAID_ELSEWHERE = {
    "name": "vm",
    "guest": "vm",
    "dest_host": "dest",
    "mode": "migration_vms.NAME.mode",
    "storage": "migration_vms.NAME.storage",
    "cancel": "cancel.yml",
    "cleanup": "recover.yml",
}
# A domain in one of these states runs, or will as soon as somebody resumes it: it must not be started elsewhere.
ACTIVE_STATES = ("running", "paused", "postcopy_failed")


@dataclass
class Seen:
    """What one host of the inventory said, or that it said nothing."""

    name: str
    error: str = ""
    identity: tuple[str, str] = ("", "")
    # What VMs can have there, where it was asked for that.
    facts: Mapping[str, Any] = field(default_factory=dict)
    domains: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    # What goes on there by the VM's name, and what was killed there by its UUID.
    runs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    unfinished: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def answers(self) -> bool:
        return not self.error


@dataclass
class Step:
    """What happens to one VM: `source` is empty where it already lives as wished."""

    name: str
    dest: str
    source: str = ""
    state: str = ""
    mode: str = "auto"
    storage: str = "auto"
    # Only settle what a killed run has left.
    cleanup: bool = False
    note: str = ""
    # Whether it is what migrate.yml would do, where it is one of several to be judged; None where that would do nothing
    # without a host.
    chosen: bool | None = True

    def plain(self) -> dict[str, Any]:
        """As a mapping, with `move` as virt_migrate_queue takes it."""
        wish = (
            {"cleanup": True} if self.cleanup else {"dest_host": self.dest, "mode": self.mode, "storage": self.storage}
        )
        own = {} if self.chosen else {"chosen": False}
        return {**asdict(self), "move": {"name": self.name, "source": self.source, "dest": self.dest, **own, **wish}}


def read_facts(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, Seen]:
    """Turn the registered results of C(virt_migrate_info), by inventory host, into what each host said."""
    hosts = {}
    for name, result in facts.items():
        if "domains" in result:
            host = result["host"]
            hosts[name] = Seen(
                name,
                identity=(host.get("uuid", ""), host.get("hostname", "")),
                facts=host.get("facts") or {},
                domains={domain["name"]: domain for domain in result["domains"]},
                runs={run["name"]: run for run in result.get("runs", [])},
                unfinished={run["uuid"]: run for run in result.get("unfinished", [])},
            )
        else:
            hosts[name] = Seen(name, error=_first_line(result))
    return hosts


def _first_line(result: Mapping[str, Any]) -> str:
    lines = str(result.get("msg") or "no answer").strip().splitlines()
    return lines[0].removeprefix("Task failed: ").removeprefix("Failed to connect to the host via ssh: ").strip()


def plan(
    facts: Mapping[str, Mapping[str, Any]],
    vm: Any = None,
    dest: Any = None,
    declared: Mapping[str, Mapping[str, Any]] | None = None,
    inventory: Iterable[str] = (),
    limits: Mapping[str, Any] | None = None,
    at_once: bool = True,
    every: bool = False,
    options: Mapping[str, Any] | None = None,
    judge: Callable[[Mapping[str, Any]], str] = lambda args: "",
) -> dict[str, list[Any]]:
    """Compare the placement asked for with where the VMs are.

    Returns C(moves) and C(settled) (lists of steps as mappings), C(waves) (the moves in groups) and C(errors) (one line
    each). With any error nothing may be moved: a list of VMs is done whole or not begun. The groups are such that each
    keeps the limits, or one group of all C(at_once) where whoever moves them keeps the limits. With C(every) there is a
    step for each host that is wished for, or that a VM without a wish could go to: to be judged, not to be done; and
    C(unfit) are the lines about hosts that a VM cannot go to while it can to others.
    C(judge) says in one line what virt_migrate would refuse of its arguments, or nothing.
    """
    hosts = read_facts(facts)
    declared = declared or {}
    errors = _check_options(options, judge) or _check_hosts(hosts) or _check_declared(declared)
    errors = errors or _check_given(vm=vm, dest=dest)
    moves: list[dict[str, Any]] = []
    settled: list[dict[str, Any]] = []
    # What is wrong with some hosts keeps nobody from another one.
    unfit: list[str] = []
    if not errors:
        wrongs: dict[str, list[str]] = {}
        fit: set[str] = set()
        # What would be done, where a host is wished for.
        firsts: dict[str, Step | str | None] = {}
        names = split_names(vm) or sorted(declared)
        if not names and every:
            names = sorted({known for host in hosts.values() for known in host.domains})
        if not names:
            errors = ["no vm is given and no placement is declared: say -e vm=NAME, or declare migration_vms"]
        for name, wanted in _wishes(names, split_names(dest), declared, hosts, every):
            step = _plan_one(name, wanted, declared, hosts, set(inventory))
            if name not in firsts:
                firsts[name] = step
                if every:
                    wished = dest or declared.get(name, {}).get("host")
                    all_of_them = split_names(dest)
                    firsts[name] = _plan_one(name, all_of_them, declared, hosts, set(inventory)) if wished else None
                _take(firsts[name], hosts)
            if isinstance(step, str):
                wrongs.setdefault(name, []).append(step)
                continue
            fit.add(name)
            if every:
                step.chosen = _is_chosen(step, firsts[name])
            plain = step.plain()
            wrong = judge({**(options or {}), **_arguments(plain["move"])}) if step.source else ""
            if wrong:
                errors.append(f"{name}: {wrong}")
            else:
                (moves if step.source else settled).append(plain)
        for name, wrong_there in wrongs.items():
            goes = name in fit and not isinstance(firsts.get(name), str)
            (unfit if goes else errors).extend(wrong_there)
    waves = [moves] if moves and at_once else []
    try:
        groups = queue.waves(moves, limits)
        waves = waves or groups
    except Refusal as refusal:
        errors = [*errors, refusal.message]
    # What is wrong with the destination is wrong with it for every VM.
    told = {"errors": list(dict.fromkeys(errors)), "unfit": list(dict.fromkeys(unfit))}
    return {"moves": moves, "settled": settled, "waves": waves, **told}


def _wishes(
    names: Iterable[str],
    dest: list[str],
    declared: Mapping[str, Mapping[str, Any]],
    hosts: Mapping[str, Seen],
    every: bool,
) -> Iterable[tuple[str, list[str]]]:
    """Each VM with the hosts of which any will do; with every of them by itself."""
    for name in names:
        homes = _homes(name, hosts)
        if not every or not homes:
            yield name, dest
            continue
        lives = [home for home in homes if home.domains[name]["state"] in ACTIVE_STATES] or homes
        elsewhere = [host.name for host in hosts.values() if host.identity not in [home.identity for home in lives]]
        for one in dest or split_names(declared.get(name, {}).get("host")) or elsewhere:
            yield name, [one]


def _is_chosen(step: Step, first: Step | str | None) -> bool | None:
    if first is None:
        return None
    return isinstance(first, Step) and (first.source, first.dest) == (step.source, step.dest)


def split_names(value: Any) -> list[str]:
    """A name, a comma list, a list or nothing, as a list of distinct names in their order."""
    parts = value if isinstance(value, (list, tuple)) else [] if value is None else str(value).split(",")
    return list(dict.fromkeys(str(part).strip() for part in parts if str(part).strip()))


def _check_given(**given: Any) -> list[str]:
    """What was said must say something: an empty name would silently mean every VM, or any host."""
    errors = []
    for option, value in given.items():
        if isinstance(value, Mapping):
            errors.append(f"{option} is {value!r}; accepted: a name, a comma list or a list of names")
        elif value is not None and not split_names(value):
            errors.append(f"{option} is given and empty; accepted: a name, a comma list or a list of names")
    return errors


def _arguments(move: Mapping[str, Any]) -> dict[str, Any]:
    """What of a move is an option of virt_migrate."""
    return {key: value for key, value in move.items() if key in table.PUBLIC}


def _check_options(options: Any, judge: Callable[[Mapping[str, Any]], str]) -> list[str]:
    """What nobody knows or accepts would be found only by the first VM that has to move, after the hooks before it."""
    if not isinstance(options or {}, Mapping):
        return [f"migrate_options is {options!r}; accepted: a mapping of options of virt_migrate"]
    errors = []
    for name in options or {}:
        if name in SAID_ELSEWHERE:
            errors.append(f"migrate_options.{name} is not the same for every VM: say {SAID_ELSEWHERE[name]} instead")
        elif name not in table.PUBLIC:
            near = difflib.get_close_matches(str(name), table.PUBLIC, 1)
            meant = f", perhaps {near[0]} is meant" if near else ""
            errors.append(f"migrate_options.{name} is unknown{meant}; accepted: options of virt_migrate")
    wrong = "" if errors or not options else judge({"name": "vm", "dest_host": "host", **options})
    return [f"migrate_options: {wrong}"] if wrong else errors


def _check_hosts(hosts: Mapping[str, Seen]) -> list[str]:
    if not hosts:
        return ["the hypervisor group is empty: name it with migration_hosts_group, or add hosts to it"]
    if not any(host.answers for host in hosts.values()):
        reasons = {host.error for host in hosts.values()}
        return [f"no hypervisor answers ({', '.join(hosts)}): {'; '.join(sorted(reasons))}"]
    by_uuid: dict[str, list[Seen]] = {}
    for host in hosts.values():
        if host.identity[0]:
            by_uuid.setdefault(host.identity[0], []).append(host)
    return [
        f"hosts {', '.join(host.name for host in same)} have the same libvirt host UUID {uuid}: "
        f"libvirt would refuse to migrate between them; {messages.SAME_UUID} (role kvmops.migration.libvirt_host)"
        for uuid, same in by_uuid.items()
        if len({host.identity[1] for host in same}) > 1
    ]


def _check_declared(declared: Any) -> list[str]:
    if not isinstance(declared, Mapping):
        return [f"migration_vms is {declared!r}; accepted: a mapping of VM names to placements"]
    errors = []
    for name, placement in declared.items():
        if not isinstance(placement, Mapping):
            errors.append(f"migration_vms.{name} is not a mapping; accepted keys: {', '.join(DECLARED_KEYS)}")
            continue
        errors += [f"migration_vms.{name}.{line}" for line in _check_given(host=placement.get("host"))]
        unknown = sorted(set(placement) - set(DECLARED_KEYS))
        if unknown:
            errors.append(f"migration_vms.{name}.{unknown[0]} is unknown; accepted keys: {', '.join(DECLARED_KEYS)}")
        for key, accepted in (("mode", MODES), ("storage", STORAGES)):
            if placement.get(key, "auto") not in accepted:
                errors.append(f"migration_vms.{name}.{key} is {placement[key]!r}; accepted: {', '.join(accepted)}")
    return errors


def _plan_one(
    name: str,
    dest: list[str],
    declared: Mapping[str, Mapping[str, Any]],
    hosts: Mapping[str, Seen],
    inventory: set[str],
) -> Step | str:
    silent = [host for host in hosts.values() if not host.answers]
    homes = _homes(name, hosts)
    if not homes:
        if silent:
            return (
                f"VM {name} is on no host that answers, and {_say_silent(silent)}: it may be there, so nothing is moved"
            )
        return f"unknown VM {name!r}; known: {_known(hosts)}"
    if len({home.domains[name]["uuid"] for home in homes}) > 1:
        places = ", ".join(f"{home.name} ({home.domains[name]['uuid']})" for home in homes)
        return f"{name} is the name of different VMs on {places}: rename one of them"
    arriving = [home for home in homes if home.domains[name]["state"] == "incoming"]
    running = [home for home in homes if home.domains[name]["state"] in ACTIVE_STATES]
    half = [home for home in homes if home.domains[name]["state"] == "postcopy_failed"]
    if len(running) > 1 and not half:
        return f"VM {name} is active on {' and '.join(home.name for home in running)} at once; nothing is touched"

    wanted = dest or split_names(declared.get(name, {}).get("host"))
    if not wanted:
        others = {host.name: obstacle(name, homes[0], host) for host in hosts.values() if host.answers}
        others = {host: why for host, why in others.items() if host not in [home.name for home in homes]}
        no = "".join(f"; not to {host}: {why}" for host, why in others.items() if why)
        return f"VM {name} has no declared host and no dest is given; it is on {homes[0].name} and could go to: " + (
            (", ".join(host for host, why in others.items() if not why) or "no other host") + no
        )
    unknown = [host for host in wanted if host not in hosts]
    if unknown:
        return (
            f"unknown destination {unknown[0]!r}{_not_a_hypervisor(unknown[0], inventory)}; hosts: {', '.join(hosts)}"
        )

    if arriving and not (running and arriving[0].name in wanted):
        going = next((f": {host.runs[name]['line']}" for host in hosts.values() if name in host.runs), "")
        there = arriving[0].name
        return f"VM {name} is being moved to {there} right now{going}; wait for its end, or end it with cancel.yml"
    # Where it leaves from; after a post-copy that has failed two hosts have half of it each, and one may not know it.
    elsewhere = [home for home in homes if home.name not in wanted]
    torn = [home for home in running if home.name not in wanted] if half else []
    home = (torn or running or elsewhere or homes)[0]
    state = home.domains[name]["state"]
    placement = declared.get(name, {})
    step = Step(
        name,
        dest=home.name,
        state=state,
        mode=placement.get("mode", "auto"),
        storage=placement.get("storage", "auto"),
    )
    if home.name in wanted and (running or len(homes) == 1):
        left = next((host for host in hosts.values() if home.domains[name]["uuid"] in host.unfinished), None)
        if left is not None:
            step.source, step.cleanup, step.note = left.name, True, "a run that was killed is settled"
        else:
            step.note = f"already lives on {home.name}"
        return step
    if silent and not running:
        return f"VM {name} is {state.replace('_', ' ')} on {home.name}, but {_say_silent(silent)}: it may run there"
    alias = next((host for host in wanted if hosts[host].answers and hosts[host].identity == home.identity), None)
    if alias:
        return f"source {home.name} and destination {alias} are one host under two names (UUID {home.identity[0]})"
    answering = [host for host in wanted if hosts[host].answers]
    # Where none fits the first one is told of, with all that is in the way.
    fit = next((host for host in answering if not obstacle(name, home, hosts[host])), next(iter(answering), None))
    if torn:
        fit = next((home.name for home in running if home.name in wanted), fit)
    if arriving:
        # Whoever moves it there already is joined.
        fit = arriving[0].name
    if fit is None:
        return f"VM {name} cannot move: {_say_silent([hosts[host] for host in wanted])}"
    step.source, step.dest = home.name, fit
    return step


def obstacle(name: str, home: Seen, there: Seen) -> str:
    """What keeps a VM from a host, by what all of them have told; nothing where they have not."""
    domain = home.domains[name]
    if not (domain.get("needs") and there.facts):
        return ""
    case = preflight.Case(
        name=name,
        mode="live" if domain["state"] in ACTIVE_STATES else "offline",
        needs=needs.read(domain["needs"]),
        options={option.name: option.default for option in table.OPTIONS},
        source=home.name,
        dest=there.name,
        here=home.facts,
        there=there.facts,
    )
    return "; ".join(preflight.obstacles(case))


def _take(step: Step | str | None, hosts: dict[str, Seen]) -> None:
    """From here on its destination has so much less memory: the next VM may have to go to another one of its list."""
    if not isinstance(step, Step) or not step.source or step.cleanup or step.state not in ACTIVE_STATES:
        return
    home, there = hosts[step.source], hosts[step.dest]
    need = needs.read(home.domains[step.name].get("needs") or {})
    # One that arrives has it already, and one that does not fit will not go there.
    if need.huge_page or step.name in there.domains or obstacle(step.name, home, there):
        return
    for name, host in hosts.items():
        memory = host.facts.get("memory")
        if memory and host.identity == there.identity:
            left = {**memory, "available": max(0, memory["available"] - need.memory)}
            hosts[name] = replace(host, facts={**host.facts, "memory": left})


def _homes(name: str, hosts: Mapping[str, Seen]) -> list[Seen]:
    """The hosts that know the VM, a host with several inventory names only once."""
    homes: dict[tuple[str, str], Seen] = {}
    for host in hosts.values():
        if name in host.domains:
            homes.setdefault(host.identity, host)
    return list(homes.values())


def _known(hosts: Mapping[str, Seen]) -> str:
    known = sorted({f"{name} ({host.name})" for host in hosts.values() for name in host.domains})
    return ", ".join(known) or "none on any host"


def _say_silent(silent: Iterable[Seen]) -> str:
    return "; ".join(f"{host.name} does not answer ({host.error})" for host in silent)


def _not_a_hypervisor(name: str, inventory: set[str]) -> str:
    return " (in the inventory, but not in the hypervisor group)" if name in inventory else ""
