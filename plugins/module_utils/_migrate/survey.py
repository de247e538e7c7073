# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""Brings together what is known of a guest, of both hosts and of the way between them, for the judges of preflight."""

from __future__ import annotations

import posixpath
from contextlib import suppress
from dataclasses import replace
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

from .._libvirt import Host, LibvirtFailure, NoAnswer, Volume
from .._pure import names, preflight, storage
from .._pure import needs as parts
from .._pure import options as table
from .._pure import uri as uris
from .._pure.domain_xml import Definition
from .._pure.findings import FAIL, WARN, Finding
from .._pure.needs import Needs
from .._pure.preflight import Case, Check, Found
from .._pure.refusal import Refusal
from . import facts, writes
from .disks import Layout
from .local import Local
from .probe import Storage, missing_pools
from .report import Report

# Tries to write in directories, by what the machine is.
Attempt = Callable[[Sequence[str], Mapping[str, Any]], Dict[str, Any]]


class Survey:
    """One way from a source to a destination, which may not answer; `local` where this machine is the source.

    `there` is what the destination said of itself by its own login, None where only libvirt can be asked, and `attempt`
    what may know of earlier attempts to write here.
    """

    def __init__(
        self,
        name: str,
        mode: str,
        options: Mapping[str, Any],
        source: Host,
        dest: Host | None,
        pools: Storage | None,
        there: Mapping[str, Any] | None,
        local: Local | None,
        dest_name: str = "",
        attempt: Attempt | None = None,
    ):
        self._name = name
        self._mode = mode
        self._options = options
        self._source = source
        self._dest = dest
        self._pools = pools
        self._there = there
        self._local = local
        self._attempt = attempt or writes.attempt
        self._dest_name = str(dest) if dest is not None else dest_name

    def case(
        self,
        text: str,
        defined: str,
        layout: Layout,
        definition: Definition,
        images: Mapping[str, Volume | None],
    ) -> Case:
        """Everything that is known; `text` is the guest's XML, and `defined` its definition where it runs."""
        needs = self._needs(text, definition.uuid)
        here: Mapping[str, Any] = {"cpu": parts.offers(self._source.capabilities).cpu}
        if self._local is not None:
            machine = facts.of_machine()
            used = [plan.source for plan in layout.plans if plan.action == storage.USE]
            used += [path for path, _there in layout.undecided]
            here = {**here, **machine, "writes": self._attempt(list(map(posixpath.dirname, used)), machine)}
            if self._options["tls"] == "true":
                here["certificates"] = self._local.certificate_facts()
        there = self._facts_there(needs)
        hosts = [self._source] + ([self._dest] if self._dest is not None else [])
        return Case(
            name=self._name,
            mode=self._mode,
            needs=needs,
            options=self._options,
            source=str(self._source),
            dest=self._dest_name,
            here=here,
            there=there,
            defined=parts.of(defined) if defined else None,
            plans=layout.plans,
            undecided=layout.undecided,
            images=_sizes(images),
            replaced=self._replaced(layout),
            free=self._free(layout),
            caches={disk.target: disk.cache for disk in definition.disks},
            versions=[(host.libvirt_version, host.hypervisor_version) for host in hosts],
            between={
                **self._asked(needs, there),
                **self._way(there, layout),
                "absent": self._absent(needs),
                **({"answers": True} if self._dest is not None else {}),
            },
        )

    def _needs(self, text: str, uuid: str) -> Needs:
        """What goes along is the migratable XML: not what libvirt has filled in by the configuration of this host."""
        given = self._options.get("dest_xml")
        needs = parts.of(given or text)
        if not given:
            with suppress(LibvirtFailure):
                arriving = parts.of(self._source.xml(uuid, migratable=True))
                return replace(needs, listens=arriving.listens, folders=arriving.folders)
        return needs

    @property
    def _runs(self) -> bool:
        return self._mode in table.ACTIVE

    def _facts_there(self, needs: Needs) -> Mapping[str, Any]:
        if self._there is not None:
            return self._there
        if self._dest is None:
            return {}
        wanted = {
            "networks": needs.networks,
            "filters": needs.filters,
            "secrets": needs.secrets,
            "memory": self._runs and not needs.huge_page,
        }
        return facts.of_host(self._dest, [name for name, needed in wanted.items() if needed])

    def _replaced(self, layout: Layout) -> Dict[str, Tuple[int, int]]:
        if self._dest is None or not self._runs:
            return {}
        return _sizes({path: self._dest.volume(path) for path in layout.replaced})

    def _free(self, layout: Layout) -> Dict[str, int]:
        found: Dict[str, int] = {}
        for folder in dict.fromkeys(posixpath.dirname(plan.dest) for plan in layout.copied) if self._runs else ():
            pool = self._pools.pool(folder) if self._pools is not None else None
            if pool is not None and self._dest is not None:
                with suppress(LibvirtFailure):
                    found[folder] = self._dest.pool_free(pool.name)
        return found

    def _absent(self, needs: Needs) -> List[str]:
        """Which of the files and directories that it needs the destination has not."""
        # libvirt makes the directories of a session itself, elsewhere for each user.
        if self._pools is None or uris.parse(self._source.uri).path == "/session":
            return []
        absent = [path for path in needs.files if self._pools.has(*posixpath.split(path)) is False]
        return absent + [folder for folder in needs.folders if self._pools.has(folder) is False]

    def _asked(self, needs: Needs, there: Mapping[str, Any]) -> Dict[str, str]:
        """What libvirt at the destination says of this guest's CPU, and of an emulator that it does not name itself."""
        found: Dict[str, str] = {}
        if self._dest is None or uris.parse(self._source.uri).driver != "qemu":
            return found
        kind = (needs.emulator, needs.arch, needs.machine, needs.type)
        if needs.emulator and needs.emulator not in there.get("emulators", ()):
            try:
                self._dest.check_emulator(*kind)
            except LibvirtFailure as error:
                found["emulator"] = str(error)
                return found
        if needs.cpu:
            with suppress(LibvirtFailure):
                found["cpu"] = self._dest.cpu_trouble(needs.cpu, *kind)
        return found

    # The way of the data

    def _way(self, there: Mapping[str, Any], layout: Layout) -> Dict[str, Any]:
        """What was tried from this machine, where the data goes from here to a port of the destination."""
        options = self._options
        conf = there.get("qemu_conf") or {}
        low, high = (
            int(conf.get(f"migration_port_{name}", default)) for name, default in zip(("min", "max"), preflight.PORTS)
        )
        found: Dict[str, Any] = {"range": (low, high)}
        migrate_uri = options["migrate_uri"] or ""
        other_ways = ("unix:", "rdma:")
        if not self._runs or self._local is None:
            return found
        if options["tunnelled"] or migrate_uri.startswith(other_ways):
            # Nothing is to be tried there, and yet a link leads there.
            tunnel = uris.parse(self._dest.uri).host if options["tunnelled"] and self._dest is not None else ""
            rdma = uris.parse_data(migrate_uri) if migrate_uri.startswith("rdma:") else ""
            return {**found, "address": tunnel or rdma}
        if uris.parse(self._source.uri).driver != "qemu":
            return found
        address = uris.parse_data(migrate_uri) if migrate_uri else ""
        # What QEMU compares the destination's certificate with.
        found["tls_name"] = options["tls_destination"] or address or (self._dest.hostname if self._dest else "")
        if not address:
            name = conf.get("migration_host") or (self._dest.hostname if self._dest is not None else "")
            if not name:
                return found
            found.update(name=name, name_here=facts.addresses(name))
            address = next(iter(found["name_here"]), "")
        elif names.address_of(address.partition("%")[0]) is None:
            found.update(name=address, name_here=facts.addresses(address), name_given=True)
        found["address"] = address
        if there.get("listening") is None:
            return {**found, "unknown": True}
        return {**found, **self._ports(found["range"], address, there, layout)}

    def _ports(self, span: Tuple[int, int], address: str, there: Mapping[str, Any], layout: Layout) -> Dict[str, Any]:
        options = self._options
        low, high = span
        port = uris.port_of_data(options["migrate_uri"] or "")
        disks_uri = options["disks_uri"] or ""
        disks_port = options["disks_port"] or uris.port_of_data(disks_uri)
        copies = bool(layout.copied) and not disks_uri.startswith("unix:")
        found: Dict[str, Any] = {"port": port, "disks_port": disks_port if copies else None, "ports": {}, "named": []}
        busy = there.get("listening") or ()
        free = [one for one in range(low, high + 1) if one not in busy]
        needed = (not port) + (copies and not disks_port)
        named = [one for one in (port, options["disks_port"] if copies else None) if one and one not in busy]
        try:
            if address and named:
                found["ports"][address] = facts.ports(address, named)
                found["named"].append(address)
            elif address and free and needed:
                # Nobody but a host with as many guests under way as there are ports takes the last one.
                answers = facts.ports(address, free[-1:])
                if any(answers.values()):
                    answers.update(facts.ports(address, free[:needed]))
                found["ports"][address] = answers
                found["range"] = (low, free[-1])
            if copies and disks_uri and disks_port and disks_port not in busy:
                there_to = uris.parse_data(disks_uri)
                found["ports"].setdefault(there_to, {}).update(facts.ports(there_to, [disks_port]))
                found["named"].append(there_to)
        except (OSError, NoAnswer):
            # A name that does not resolve is told of elsewhere.
            found["ports"] = {}
        return found


def note(case: Case, report: Report, preflight_is: str) -> None:
    """Put what the judges say among the findings; what is only to be warned of stands in nobody's way."""
    for check, found in preflight.judge(case):
        if found.status == FAIL and preflight_is == "enforce":
            report.findings.refuse(
                check.id,
                Refusal(found.evidence, check.failure_class or check.id, found.cure, _role(check, found)),
            )
            continue
        if found.status == FAIL:
            report.warn(f"{found.evidence}; cure: {found.cure}")
        status = WARN if found.status == FAIL else found.status
        role = _role(check, found) if status == WARN else None
        report.findings.add(Finding(check.id, status, found.evidence, found.cure, role, found.takes))


def _role(check: Check, found: Found) -> str | None:
    return check.role if found.by_role else None


def note_pools(case: Case, definition: Definition, said: Mapping[str, Any], report: Report) -> None:
    """Pools that disks would be copied to and that the destination, which libvirt does not reach, says it has not.

    Nothing can prove then what both hosts share: the kind of its file system is what is known.
    """
    if not case.runs or case.options["storage"] == "shared" or case.options["dest_xml"] or "pools" not in said:
        return
    pools = {posixpath.normpath(pool["path"]): pool for pool in said["pools"] if pool["path"]}
    missing: Dict[str, Refusal] = {}
    for disk in definition.disks:
        pool = pools.get(disk.directory)
        if disk.type != "file" or not storage.writable(disk) or (pool and pool["active"]):
            continue
        mounts = [preflight.mount_fact(disk.source, host.get("mounts") or ()) for host in (case.here, case.there)]
        kinds = [mount.get("type") for mount in mounts]
        if all(kinds) and any(kind in preflight.LOCAL_TYPES for kind in kinds):
            inactive = f" (its pool {pool['name']} is not started)" if pool else ""
            missing[disk.directory] = missing_pools(case.dest, disk.directory + inactive)
    for refusal in missing.values():
        report.findings.refuse("pools", refusal)


# Failures of which libvirt tells only that they were.
UNEXPLAINED = ("libvirt", "connection_lost", "connection_reset", "unreachable", "guest_died", "stream", "job_failed")


def explained(refusal: Refusal, case: Case, report: Report) -> Refusal:
    """A failure together with what the judges find now, which is its cause where libvirt knows none."""
    found = [(check, one) for check, one in preflight.judge(case) if one.status == FAIL]
    for check, one in found:
        report.findings.add(Finding(check.id, FAIL, one.evidence, one.cure, _role(check, one)))
    if not found:
        return refusal
    problem = f"{refusal.problem}; found now: {'; '.join(one.evidence for _check, one in found)}"
    check, one = found[0]
    if refusal.failure_class in UNEXPLAINED:
        failure_class = check.failure_class or check.id
        report.add(failure_class=failure_class)
        return Refusal(problem, failure_class, one.cure, _role(check, one), **refusal.details)
    return Refusal(problem, refusal.failure_class, refusal.cure, refusal.role, **refusal.details)


def _sizes(volumes: Mapping[str, Volume | None]) -> Dict[str, Tuple[int, int]]:
    return {path: (one.capacity, one.allocation) for path, one in volumes.items() if one is not None}
