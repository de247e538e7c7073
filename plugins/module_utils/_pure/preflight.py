# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""The checks before a move, one row each, and the judges of those that only facts are needed for.

A judge is a generator over what is known of the guest and of both hosts. It says nothing where all is well or where
nothing is known to the contrary; a check that cannot be made for want of a fact says so. What stands in the way of a
VM that is shut off only when it starts is a warning.
"""

from __future__ import annotations

import errno
import math
import os
import posixpath
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Mapping, Sequence, Tuple

from . import certificates, forecast, names, storage
from . import options as table
from . import uri as uris
from .findings import FAIL, PASS, SKIPPED, WARN, Takes
from .forecast import Forecast
from .needs import Needs
from .status import size
from .storage import DiskPlan
from .uri import Uri

# What libvirt knows as shared by its kind (virfile.c, virFileIsSharedFSType), as the mount table of Linux names it.
SHARED_TYPES = frozenset(
    (
        *("nfs", "nfs4", "gfs2", "ocfs2", "afs", "cifs", "smb3", "smb2", "ceph", "fuse.ceph", "gpfs", "fuse.glusterfs"),
        *("fuse.quobyte", "acfs", "beegfs"),
    )
)
NFS_TYPES = frozenset(("nfs", "nfs4"))
# What no other host sees, whatever lies below it.
LOCAL_TYPES = frozenset(("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "tmpfs", "overlay"))
# File systems whose hosts agree about what is in their caches (virFileIsClusterFS).
CLUSTER_TYPES = frozenset(("gfs2", "ocfs2", "ceph", "fuse.ceph", "gpfs"))
SAFE_CACHES = ("", "none", "directsync")
# The first libvirt, and the first QEMU, that drop what they have cached of a disk before the other host reads it.
DROPS_CACHE = ((5, 7, 0), (4, 0, 0))
# The ports that libvirt takes by itself.
PORTS = (49152, 49215)
# What Open vSwitch has beside its bridges, by where it passes packets on.
SWITCHES = ("ovs-system", "ovs-netdev")
SSH = ("ssh", "libssh", "libssh2")
# Seconds that two clocks may differ, and what asking for the time may take besides.
CLOCKS = 30.0
ASKING = 30.0


@dataclass(frozen=True)
class Found:
    """What a judge says; several are several things."""

    status: str
    evidence: str
    cure: str = ""
    # Whether the role of the check cures this.
    by_role: bool = True
    takes: Takes | None = None


@dataclass(frozen=True)
class Case:
    """One guest, two hosts and a plan, with everything that is known of them.

    Facts are those of _migrate.facts; `between` is what was tried on the way from the one host to the other.
    """

    name: str
    mode: str
    needs: Needs
    options: Mapping[str, Any]
    source: str = "the source"
    dest: str = "the destination"
    here: Mapping[str, Any] = field(default_factory=dict)
    there: Mapping[str, Any] = field(default_factory=dict)
    # What its definition asks for, where that is another one than the guest that runs has.
    defined: Needs | None = None
    plans: Tuple[DiskPlan, ...] = ()
    # Files here and there that may be one, which nothing has proven: what is in the way of the proof is found.
    undecided: Tuple[Tuple[str, str], ...] = ()
    # By path, capacity and allocation of the images that are copied, and of those that they replace.
    images: Mapping[str, Tuple[int, int]] = field(default_factory=dict)
    replaced: Mapping[str, Tuple[int, int]] = field(default_factory=dict)
    # By directory at the destination, what is free.
    free: Mapping[str, int] = field(default_factory=dict)
    # By disk, how it is cached.
    caches: Mapping[str, str] = field(default_factory=dict)
    versions: Sequence[Tuple[Any, Any]] = ()
    between: Mapping[str, Any] = field(default_factory=dict)
    # What was reckoned of the move, which takes a measurement that only check mode makes.
    forecast: Forecast | None = None

    @property
    def runs(self) -> bool:
        return self.mode in table.ACTIVE

    @property
    def copied(self) -> Tuple[DiskPlan, ...]:
        return tuple(plan for plan in self.plans if plan.action == storage.COPY)

    @property
    def used(self) -> Tuple[DiskPlan, ...]:
        """Disks that are files which both hosts use where they are."""
        return tuple(plan for plan in self.plans if plan.action == storage.USE and plan.source.startswith("/"))

    @property
    def in_place(self) -> Tuple[Tuple[str, str], ...]:
        """Files that both hosts use where they are, or would if they proved to be shared, here and there."""
        return (*((plan.source, plan.dest) for plan in self.used), *self.undecided)

    @property
    def stops(self) -> str:
        """How bad it is when the guest could not run there."""
        return FAIL if self.runs else WARN

    def lacks(self, *facts: str) -> List[Found]:
        """What is said where the destination did not tell what a check needs to know."""
        missing = [fact for fact in facts if self.there.get(fact) is None]
        if not missing:
            return []
        what = {"listening": "ports, and one where somebody listens must not be tried"}.get(missing[0], missing[0])
        return [Found(SKIPPED, f"{self.dest} did not tell of its {what.replace('_', ' ')}")]


Judge = Callable[[Case], Iterator[Found]]


def _machine(case: Case) -> Iterator[Found]:
    needs = case.needs
    known = case.there.get("machines") or {}
    if not (needs.machine and needs.arch and known):
        return
    if needs.arch not in known:
        yield Found(
            case.stops,
            f"QEMU on {case.dest} has no machines of architecture {needs.arch}, which {case.name} has",
            f"install the QEMU for {needs.arch} on {case.dest}",
        )
    elif needs.machine not in known[needs.arch]:
        yield Found(
            case.stops,
            f"QEMU on {case.dest} does not know machine type {needs.machine}, which {case.name} has",
            f"upgrade QEMU on {case.dest}, or give {case.name} a machine type that both hosts have and start it anew",
        )
    else:
        yield Found(PASS, f"{case.dest} knows {needs.machine}")


def _emulator(case: Case) -> Iterator[Found]:
    needs, trouble = case.needs, case.between.get("emulator")
    known = (case.there.get("types") or {}).get(needs.arch, ())
    if known and needs.type and needs.type not in known:
        helps = "turn virtualization on in its firmware, and load the kvm modules" if needs.type == "kvm" else ""
        yield Found(
            case.stops,
            f"{case.name} is of type {needs.type}, and {case.dest} runs {', '.join(known)} for {needs.arch}",
            helps or f"install on {case.dest} what runs them",
        )
    if needs.emulator in case.there.get("emulators", ()):
        yield Found(PASS, f"{case.dest} has {needs.emulator}")
    elif trouble:
        yield Found(
            case.stops,
            f"{case.dest} cannot use {needs.emulator}, the emulator of {case.name}: {trouble}",
            f"install QEMU on {case.dest} so that it is found there, or name the one of {case.dest} in dest_xml",
        )


def _cpu(case: Case) -> Iterator[Found]:
    needs, trouble = case.needs, case.between.get("cpu")
    if trouble:
        yield Found(
            case.stops,
            f"{case.dest} cannot give {case.name} its CPU: {trouble}",
            f"give {case.name} a CPU model that both hosts have (virsh hypervisor-cpu-baseline), and start it anew",
        )
    elif trouble is not None:
        yield Found(PASS, f"{case.dest} has what the CPU of {case.name} needs")
    elif needs.cpu_mode in ("host-passthrough", "maximum") and case.runs:
        here, there = case.here.get("cpu"), case.there.get("cpu")
        if here and there and here != there:
            yield Found(
                WARN,
                f"{case.name} has the CPU of its host as it is, and {case.source} has {here}, {case.dest} {there}",
                "give it a CPU model that both hosts have (virsh hypervisor-cpu-baseline), and start it anew",
            )


def _networks(case: Case) -> Iterator[Found]:
    if not case.needs.networks:
        return
    unknown = case.lacks("networks")
    if unknown:
        yield from unknown
        return
    known = {network["name"]: network["active"] for network in case.there["networks"]}
    groups = {network["name"]: network.get("portgroups") for network in case.there["networks"]}
    bridges = {network["name"]: network.get("bridge", "") for network in case.there["networks"]}
    interfaces = case.there.get("interfaces")
    for name in case.needs.networks:
        if name not in known:
            cure = (
                f"define and start it there: virsh net-dumpxml {name} on {case.source}, virsh net-define on {case.dest}"
            )
            yield Found(case.stops, f"{case.dest} has no libvirt network {name}, which {case.name} is in", cure)
        elif not known[name]:
            cure = f"start it: virsh net-start {name} on {case.dest}"
            yield Found(case.stops, f"the libvirt network {name} of {case.name} is not active on {case.dest}", cure)
        elif bridges.get(name) and interfaces is not None and bridges[name] not in interfaces:
            # libvirt starts a network of a bridge that is not there.
            yield Found(
                case.stops,
                f"{case.dest} has no {bridges[name]}, the bridge of its libvirt network {name}",
                f"make the bridge {bridges[name]} on {case.dest}, or name its own one there: virsh net-edit {name}",
            )
        else:
            yield Found(PASS, f"network {name} is active on {case.dest}")
    for name, group in case.needs.portgroups:
        # Without it libvirt would leave its VLAN and its limits out, and say nothing.
        if groups.get(name) is not None and group not in groups[name]:
            yield Found(
                case.stops,
                f"the libvirt network {name} of {case.dest} has no port group {group}, which {case.name} is in",
                f"add it there as it is in virsh net-dumpxml {name} on {case.source}: virsh net-edit {name}",
            )


def _filters(case: Case) -> Iterator[Found]:
    if not case.needs.filters:
        return
    unknown = case.lacks("filters")
    if unknown:
        yield from unknown
        return
    known: Mapping[str, Sequence[str]] = case.there["filters"]
    for name, why in _filters_below(known, [(name, f"an interface of {case.name} has") for name in case.needs.filters]):
        if name not in known:
            yield Found(
                case.stops,
                f"{case.dest} has no network filter {name}, which {why}",
                f"define it there: virsh nwfilter-dumpxml {name} on {case.source},"
                f" virsh nwfilter-define on {case.dest}",
            )
        else:
            yield Found(PASS, f"{case.dest} has network filter {name}")


def _filters_below(known: Mapping[str, Sequence[str]], wanted: List[Tuple[str, str]]) -> Iterator[Tuple[str, str]]:
    """Each filter that is wanted, with those that they refer to, and by whom."""
    seen = set()
    while wanted:
        name, why = wanted.pop(0)
        if name not in seen:
            seen.add(name)
            yield name, why
            wanted += [(below, f"filter {name} refers to") for below in known.get(name, ())]


def _taps(case: Case) -> Iterator[Found]:
    taken = case.there.get("interfaces") or {}
    for name in case.needs.taps if case.runs else ():
        if name in taken:
            yield Found(
                FAIL,
                f"an interface of {case.name} is to be {name} on its host, and {case.dest} has a network device of"
                " that name",
                f"remove {name} from {case.dest}, or let libvirt choose the name: no <target dev/> in dest_xml",
            )
    for name in case.needs.ready_taps if case.there.get("interfaces") is not None else ():
        if name not in taken:
            yield Found(
                case.stops,
                f"an interface of {case.name} is {name}, which its host has made before (managed='no'), and"
                f" {case.dest} has no such network device",
                f"make it there as it was made on {case.source}: ip tuntap add {name} mode tap",
            )


def _listens(case: Case) -> Iterator[Found]:
    """Where people reach its screen and its consoles: libvirt takes the address along, and a port that was chosen."""
    local, listeners = case.there.get("local_addresses"), case.there.get("listeners")
    if case.needs.listens and (local is None or listeners is None):
        yield from case.lacks("local_addresses", "listeners")
        return
    for what, address, port in case.needs.listens:
        cure = f"let its {what} listen on 0.0.0.0, or on an address of {case.dest}: dest_xml, or virsh edit {case.name}"
        if not _is_anywhere(address) and names.address_of(address) not in map(names.address_of, local or ()):
            yield Found(
                case.stops, f"the {what} of {case.name} listens on {address}, which {case.dest} does not have", cure
            )
        elif port and any(port == taken and _meet(address, other) for other, taken in listeners or ()):
            yield Found(
                case.stops,
                f"the {what} of {case.name} listens on port {port}, and somebody on {case.dest} does already",
                f"let libvirt choose the port (autoport), or name one that is free on {case.dest}, in dest_xml",
            )
        else:
            yield Found(PASS, f"the {what} of {case.name} can listen on {case.dest}")


def _is_anywhere(address: str) -> bool:
    """Whether every host has that address, or what it is called by is for its host to find out."""
    return names.address_of(address) is None or address in _EVERYWHERE or names.is_loopback(address)


def _meet(one: str, other: str) -> bool:
    """Whether nobody else can listen on the one address while somebody listens on the other, on one port."""
    both = [names.address_of("127.0.0.1" if names.is_localhost(address) else address) for address in (one, other)]
    if None in both:
        return False
    # That of IPv6 is IPv4's, too.
    wide = "::" in both or (_EVERYWHERE[0] in both and not any(":" in str(address) for address in both))
    return wide or both[0] == both[1]


_EVERYWHERE = ("0.0.0.0", "::")


def _connects(case: Case) -> Iterator[Found]:
    listeners = case.there.get("listeners")
    if listeners is None:
        return
    for what, address, port in case.needs.connects:
        if any(port == taken for _other, taken in listeners):
            yield Found(PASS, f"somebody listens on port {port} of {case.dest}")
            continue
        yield Found(
            case.stops,
            f"the {what} of {case.name} connects to {address}:{port} of its own host, and nobody listens there on"
            f" {case.dest}",
            f"start on {case.dest} what listens there on {case.source}, or let the {what} be something else",
        )


def _host_files(case: Case) -> Iterator[Found]:
    absent: Sequence[str] = case.between.get("absent") or ()
    for path in case.needs.files:
        if path in absent:
            yield Found(
                case.stops,
                f"{case.dest} has no {path}, which {case.name} starts from",
                f"install or copy it there, or name the one of {case.dest} in dest_xml",
            )
    for folder in case.needs.folders:
        if folder in absent:
            yield Found(
                case.stops,
                f"{case.dest} has no directory {folder}, where consoles of {case.name} have their files",
                f"mkdir -p {folder} on {case.dest}, and mkfifo what is a pipe",
            )


def _bridges(case: Case) -> Iterator[Found]:
    wanted = [("bridge", name) for name in case.needs.bridges] + [
        ("network device", name) for name in case.needs.devices
    ]
    if not wanted:
        return
    unknown = case.lacks("interfaces")
    if unknown:
        yield from unknown
        return
    here, there = case.here.get("interfaces") or {}, case.there["interfaces"]
    for kind, name in wanted:
        if name not in there:
            yield Found(
                case.stops,
                f"{case.dest} has no {kind} {name}, which {case.name} is attached to",
                f"make the {kind} {name} on {case.dest}, or name another one in dest_xml",
            )
        elif kind == "bridge" and _other_bridge(case, name):
            yield Found(
                case.stops,
                f"{name} of {case.dest} is {_other_bridge(case, name)}, which {case.name} is attached to",
                f"make {name} on {case.dest} as it is on {case.source}, or name another bridge in dest_xml",
            )
        elif name in here and here[name] != there[name]:
            yield Found(
                WARN,
                f"{kind} {name} has MTU {here[name]} on {case.source} and {there[name]} on {case.dest}",
                f"ip link set {name} mtu {here[name]} on {case.dest}",
            )
        else:
            yield Found(PASS, f"{kind} {name} is there")


def _other_bridge(case: Case, name: str) -> str:
    """What is wrong with the kind of a bridge that is there: Linux and Open vSwitch each take ports their own way."""
    here, there = case.here.get("linux_bridges"), case.there.get("linux_bridges")
    if there is None:
        return ""
    if name in case.needs.switches:
        switches = any(one in case.there["interfaces"] for one in SWITCHES)
        return "" if switches and name not in there else "no bridge of Open vSwitch"
    return "no bridge of Linux" if name in (here or ()) and name not in there else ""


def _memory(case: Case) -> Iterator[Found]:
    if not case.runs:
        return
    if case.needs.huge_page:
        yield from _pages(case)
        return
    unknown = case.lacks("memory")
    if unknown:
        yield from unknown
        return
    need, free = case.needs.memory, case.there["memory"]["available"] + (case.there.get("swap_free") or 0)
    takes = Takes("memory", need, free)
    if need > free:
        yield Found(
            FAIL,
            f"{case.name} has {size(need)} of memory, and {case.dest} can give {size(free)}",
            f"free memory on {case.dest}, or choose another host; preflight: warn where that is meant to be so",
            takes=takes,
        )
    else:
        yield Found(PASS, f"{case.dest} can give {size(free)}, and {size(need)} are needed", takes=takes)


def _pages(case: Case) -> Iterator[Found]:
    pages = case.there.get("huge_pages")
    if pages is None:
        yield from case.lacks("huge_pages")
        return
    page = case.needs.huge_page
    free = sum(int(one) * count for one, count in pages.items() if page in (-1, int(one)))
    what = "huge pages" if page < 0 else f"huge pages of {size(page)}"
    takes = Takes(what, case.needs.memory, free)
    if free < case.needs.memory:
        yield Found(
            FAIL,
            f"{case.name} has {size(case.needs.memory)} in {what}, and {case.dest} has {size(free)} of them free",
            f"set more of them aside on {case.dest} (vm.nr_hugepages)",
            takes=takes,
        )
    else:
        yield Found(PASS, f"{case.dest} has {size(free)} in {what}, and {size(takes.need)} are needed", takes=takes)


def _space(case: Case) -> Iterator[Found]:
    """What is copied beside libvirt is looked at by who copies it."""
    if not case.runs:
        return
    by_folder: Dict[str, List[DiskPlan]] = {}
    for plan in case.copied:
        by_folder.setdefault(posixpath.dirname(plan.dest), []).append(plan)
    for folder, plans in by_folder.items():
        if folder not in case.free:
            yield Found(SKIPPED, f"{case.dest} did not tell what is free in {folder}")
            continue
        sizes = [case.images[plan.source] for plan in plans if plan.source in case.images]
        freed = sum(case.replaced.get(plan.dest, (0, 0))[1] for plan in plans)
        need, most, free = sum(one[1] for one in sizes), sum(one[0] for one in sizes), case.free[folder] + freed
        what = f"{', '.join(plan.target for plan in plans)} of {case.name}"
        # libvirt makes an image with all of its blocks, and they are given back only while it is filled.
        made = [case.images[plan.source] for plan in plans if _is_made_whole(case, plan)]
        at_first = need + sum(one[0] - one[1] for one in made)
        takes = Takes(f"room in {folder}", max(0, need - freed), case.free[folder])
        if need > free or at_first > free:
            how = f"takes {size(at_first)} at first" if need <= free else f"holds {size(need)}"
            yield Found(
                FAIL,
                f"disk {what} {how}, and {folder} on {case.dest} has {size(free)} free",
                f"free space in {folder} on {case.dest}, or put the disk elsewhere with dest_xml",
                takes=takes,
            )
        elif most > free:
            yield Found(
                WARN,
                f"disk {what} may grow to {size(most)}, and {folder} on {case.dest} has {size(free)} free",
                f"free space in {folder} on {case.dest}",
                takes=takes,
            )
        else:
            yield Found(
                PASS, f"{folder} on {case.dest} has {size(free)} free, and {size(need)} are needed", takes=takes
            )


def _is_made_whole(case: Case, plan: DiskPlan) -> bool:
    if case.options.get("copy_storage") == "inc" or plan.dest in case.replaced:
        return False
    return plan.format in ("raw", "qcow2") and plan.source in case.images


def _secrets(case: Case) -> Iterator[Found]:
    if not case.needs.secrets:
        return
    unknown = case.lacks("secrets")
    if unknown:
        yield from unknown
        return
    for one in case.needs.secrets:
        if one not in case.there["secrets"]:
            yield Found(
                case.stops,
                f"{case.dest} has no secret {one}, which {case.name} needs",
                f"define it there and set its value: virsh secret-define, virsh secret-set-value on {case.dest}",
            )


def _ports(case: Case) -> Iterator[Found]:
    if case.between.get("unknown"):
        yield from case.lacks("listening")
    tried: Mapping[str, Mapping[int, str]] = case.between.get("ports") or {}
    for address, answers in tried.items():
        closed = {port: why for port, why in answers.items() if why}
        if not closed:
            yield Found(PASS, f"{address} lets packets to {_listed(answers)}/tcp through")
            continue
        if case.between.get("name") and address == case.between["address"] and _leads_there(case) is False:
            yield Found(SKIPPED, f"{address} is no address of {case.dest}")
            continue
        named = address in case.between["named"]
        wanted = _listed(closed) if named else "{}-{}".format(*case.between["range"])
        # The last port of the range stands for all of them, and where it is closed the first ones are all there is.
        rest = set(closed) == {case.between["range"][1]} and len(answers) > 1
        yield Found(
            WARN if rest else FAIL,
            f"port {_listed(closed)}/tcp of {address} cannot be reached from {case.source}: {closed[min(closed)]}"
            + ("; the first ones can" if rest else ""),
            f"open ports {wanted}/tcp on {case.dest} for {case.source}"
            + ("" if named or case.between["range"][0] == PORTS[0] else ", by firewall_ports for the role")
            + "; where they are, something else drops it: nft list ruleset",
        )


def _free_ports(case: Case) -> Iterator[Found]:
    busy = case.there.get("listening")
    if not case.runs or case.options["tunnelled"] or busy is None:
        return
    for option, number in (("migrate_uri", case.between.get("port")), ("disks", case.between.get("disks_port"))):
        if number and number in busy:
            yield Found(
                FAIL,
                f"{option}: somebody listens on port {number} of {case.dest} already",
                f"end what listens there (ss -ltnp on {case.dest}), or name another port",
            )
    low, high = case.between.get("range") or PORTS
    free = high - low + 1 - sum(low <= port <= high for port in busy)
    need = (not case.between.get("port")) + (bool(case.copied) and not case.between.get("disks_port"))
    if free < need:
        yield Found(
            FAIL,
            f"{free} of the ports {low}-{high} of {case.dest} are free, and {case.name} needs {need}",
            f"wait until other moves to it have ended, end what else listens there (ss -ltnp on {case.dest}), or widen"
            " migration_port_max in its qemu.conf",
        )
    else:
        yield Found(PASS, f"{free} of the ports {low}-{high} are free")


def _dest_name(case: Case) -> Iterator[Found]:
    """libvirt sends the guest to the destination's own name, unless an address is given."""
    name = case.between.get("name")
    if not name:
        if _leads_there(case) is False:
            # It may be one that is translated on the way, as one that somebody has named.
            yield _elsewhere(case, case.between["address"], "name one that it has, unless it is translated", WARN)
        elif _leads_there(case):
            yield Found(PASS, f"{case.between['address']} is an address of {case.dest}")
        return
    resolved = case.between.get("name_here")
    given = case.between.get("name_given", False)
    which = "which migrate_uri names" if given else f"as {case.dest} calls itself"
    if name.startswith("localhost") and not given:
        yield Found(
            FAIL,
            f"{case.dest} calls itself {name}, and libvirt would send {case.name} there",
            "give the host a name of its own, or set migration_address",
        )
    elif not resolved:
        yield Found(
            FAIL,
            f"{case.source} cannot resolve {name}, {which}, and libvirt would send the data there",
            f"let {case.source} resolve {name}, or {'name an address' if given else 'set migration_address'}",
        )
    elif all(map(names.is_loopback, resolved)):
        yield Found(
            FAIL,
            f"on {case.source} the name {name} of {case.dest} leads to {resolved[0]}, which is {case.source} itself",
            f"correct the entry of {name} in /etc/hosts on {case.source}, or set migration_address",
        )
    elif _leads_there(case) is False:
        yield _elsewhere(
            case,
            f"{name} ({resolved[0]}), {which},",
            f"correct the entry of {name} in /etc/hosts on {case.source}, or set migration_address",
        )
    elif not given and case.there.get("addresses") and all(map(names.is_loopback, case.there["addresses"])):
        yield Found(
            WARN,
            f"on {case.dest} its own name {name} leads to {case.there['addresses'][0]}",
            f"let {case.dest} resolve its own name to its address, or set migration_address",
        )
    else:
        yield Found(PASS, f"{name} is {resolved[0]} on {case.source}")


def _dest_listens(case: Case) -> Iterator[Found]:
    """What QEMU and libvirt listen on for a guest that comes: an option, else the destination's qemu.conf."""
    given = case.options.get("listen_address") or ""
    address = given or (case.there.get("qemu_conf") or {}).get("migration_address", "")
    local = case.there.get("local_addresses")
    if not (case.runs and address and local) or case.options["tunnelled"]:
        return
    if _is_anywhere(address) or names.address_of(address) in map(names.address_of, local):
        yield Found(PASS, f"{case.dest} listens on {address}")
        return
    yield Found(
        FAIL,
        f"{case.dest} is to listen on {address} for what comes"
        f" ({'listen_address' if given else 'migration_address in its qemu.conf'}), and has no such address",
        f"name an address of {case.dest}, or leave listen_address out"
        if given
        else f"correct migration_address in /etc/libvirt/qemu.conf of {case.dest}, and restart its libvirt daemon",
        by_role=not given,
    )


def _leads_there(case: Case) -> bool | None:
    """Whether an address of the data is one of the destination's own, None where that is not known."""
    found = case.between.get("name_here") or [str(case.between.get("address") or "")]
    addresses = [names.address_of(one.partition("%")[0]) for one in found]
    local = case.there.get("local_addresses")
    if None in addresses or not local or case.options["tunnelled"]:
        return None
    return any(address in map(names.address_of, local) for address in addresses)


def _elsewhere(case: Case, what: str, cure: str, status: str = FAIL) -> Found:
    return Found(status, f"the data would go to {what} and {case.dest} has no such address", cure)


def _tls_force(case: Case) -> Iterator[Found]:
    # Where libvirt's own connection carries the data, it lets that pass.
    if not case.runs or case.options["tls"] == "true" or case.options["tunnelled"]:
        return
    for host, facts in ((case.source, case.here), (case.dest, case.there)):
        if (facts.get("qemu_conf") or {}).get("migrate_tls_force", "0") != "0":
            yield Found(
                FAIL,
                f"{host} lets nothing travel unencrypted (migrate_tls_force in its qemu.conf), and TLS is not used",
                "say tls: true",
            )


def _certificates(case: Case) -> Iterator[Found]:
    """Those that QEMU shows and asks for; whether they are there at all is known before."""
    here, there = case.here.get("certificates"), case.there.get("certificates")
    if not case.runs or case.options["tls"] != "true" or not (here and there):
        return
    sides = [
        (case.source, here, case.here.get("now"), name) for name in (certificates.AUTHORITY, certificates.CLIENT[0])
    ]
    sides += [
        (case.dest, there, case.there.get("now"), name) for name in (certificates.AUTHORITY, certificates.SERVER[0])
    ]
    cure = "issue a new one, of the same authority on both hosts"
    for host, known, now, name in sides:
        one = known.get(name)
        if one is None or now is None:
            continue
        trouble, soon = certificates.trouble(one, now), certificates.ends_soon(one, now)
        if trouble:
            yield Found(FAIL, f"{one['path']} on {host} is of no use: {trouble}", cure)
        elif soon:
            yield Found(WARN, f"{one['path']} on {host} expires on {soon}", cure)
        else:
            yield Found(PASS, f"{one['path']} on {host} is valid")
    prints = [known.get(certificates.AUTHORITY, {}).get("fingerprint", "") for known in (here, there)]
    if all(prints) and prints[0] != prints[1]:
        yield Found(FAIL, f"{case.source} and {case.dest} trust different authorities for TLS", cure)
    wanted, server = case.between.get("tls_name"), there.get(certificates.SERVER[0])
    if wanted and server and not certificates.is_for(server, wanted):
        has = ", ".join(server["names"]) or "nobody"
        yield Found(
            FAIL,
            f"{server['path']} on {case.dest} is for {has}, and the data goes to {wanted}",
            "say tls_destination with one of these names, or issue one for the name that is used",
        )


def _clocks(case: Case) -> Iterator[Found]:
    here, there = case.here.get("now"), case.there.get("now")
    if here is None or there is None:
        return
    # The destination was asked first.
    passed = here - there
    if -CLOCKS <= passed <= CLOCKS + ASKING:
        yield Found(PASS, "the clocks of both hosts agree")
        return
    yield Found(
        WARN,
        f"the clocks of {case.source} and {case.dest} differ by about {abs(passed):.0f} s",
        "let both hosts take their time from one source: timedatectl set-ntp true",
    )


def _on_demand(case: Case) -> Iterator[Found]:
    barred = no_page_faults(case.there, "there") if case.runs and case.options["postcopy"] else ""
    if barred:
        yield Found(
            FAIL,
            f"post-copy is not possible to {case.dest}: {barred}",
            f"sysctl vm.unprivileged_userfaultfd=1 on {case.dest}, which role libvirt_host keeps where"
            " libvirt_host_postcopy is true",
        )


def no_page_faults(there: Mapping[str, Any], where: str) -> str:
    """Why QEMU could not fetch pages on demand there, or nothing: as an ordinary user it may not have userfaultfd."""
    user = there.get("qemu_user") or {}
    barred = there.get("userfaultfd") == "0" and not there.get("userfaultfd_device")
    if not (barred and user and user["uid"] != 0):
        return ""
    return f"QEMU runs as {user['name']} {where}, who may not use userfaultfd"


def _qemu_users(case: Case) -> Iterator[Found]:
    here, there = case.here.get("qemu_user"), case.there.get("qemu_user")
    if not (here and there):
        return
    numbers = [(user["uid"], user["gid"]) for user in (here, there)]
    for plan in case.used if numbers[0] != numbers[1] else ():
        kind = mount_fact(plan.source, case.here.get("mounts") or ()).get("type", "")
        yield Found(
            # A root that is not squashed may use them all the same.
            FAIL if kind in NFS_TYPES and here["uid"] and there["uid"] else WARN,
            f"QEMU uses {plan.source} as {here['name']} ({_numbers(here)}) on {case.source}, and as {there['name']}"
            f" ({_numbers(there)}) on {case.dest}",
            "give that user and its group the same numbers on all hosts, and the images to them; then restart libvirt",
        )
    if case.used and numbers[0] == numbers[1]:
        yield Found(PASS, f"QEMU is {_numbers(here)} on both hosts")


def _directories(case: Case) -> Iterator[Found]:
    """libvirt gives an image to QEMU's user, and never a directory."""
    closed, user = case.there.get("closed"), case.there.get("qemu_user") or {}
    paths = [plan.dest for plan in case.plans if plan.action != storage.SKIP and plan.dest.startswith("/")]
    if closed is None or not user:
        return
    for folder in dict.fromkeys(map(posixpath.dirname, paths)):
        kind = mount_fact(f"{folder}/image", case.there.get("mounts") or ()).get("type", "")
        if folder in closed:
            yield Found(
                case.stops,
                f"{user['name']}, who runs QEMU on {case.dest}, may not pass {closed[folder]}, and {case.name} has its"
                f" disks in {folder}",
                f"chmod o+x {closed[folder]} on {case.dest}",
            )
        elif kind in LOCAL_TYPES:
            yield Found(PASS, f"{user['name']} may pass to {folder} on {case.dest}")
        else:
            yield Found(
                SKIPPED, f"{folder} on {case.dest} is on {kind or 'what is not known'}, which decides by itself"
            )


def _selinux(case: Case) -> Iterator[Found]:
    needed = {"cifs": "virt_use_samba", "smb3": "virt_use_samba", **dict.fromkeys(NFS_TYPES, "virt_use_nfs")}
    for host, facts, paths in (
        (case.source, case.here, [here for here, _there in case.in_place]),
        (case.dest, case.there, [there for _here, there in case.in_place]),
    ):
        selinux = facts.get("selinux") or {}
        for path in paths if selinux.get("enforcing") else ():
            mount = mount_fact(path, facts.get("mounts") or ())
            # A share that has labels, or one label for all of it, needs no switch.
            kind = "" if mount.get("labelled") else mount.get("type", "")
            switch = needed.get(kind, "virt_use_fusefs" if kind.startswith("fuse") else "")
            if switch and switch not in selinux["on"]:
                yield Found(
                    case.stops,
                    f"SELinux on {host} keeps QEMU from {path} on {kind}: {switch} is off",
                    f"setsebool -P {switch} 1 on {host}",
                )


def _dest_mounts(case: Case) -> Iterator[Found]:
    """A disk on storage of several hosts is copied to one that has not mounted it only where somebody says so.

    The copy would lie below the mount point, and the next mount would show the old image in its place.
    """
    if case.options.get("storage") == "copy":
        return
    for plan in case.copied:
        here = mount_fact(plan.source, case.here.get("mounts") or ())
        there = mount_fact(plan.dest, case.there.get("mounts") or ())
        kind = here.get("type", "")
        if plan.source != plan.dest or not there or kind not in SHARED_TYPES:
            continue
        if here["path"] == "/" or there["path"] == here["path"] or there.get("type") not in LOCAL_TYPES:
            continue
        yield Found(
            FAIL,
            f"{plan.source} is on {kind}, mounted at {here['path']} on {case.source} and not on {case.dest}: a copy"
            " would lie where that mount hides it",
            f"mount {here['path']} on {case.dest}; where a copy is meant, say storage: copy, or give it another place",
            by_role=kind in NFS_TYPES,
        )


def _mounts(case: Case) -> Iterator[Found]:
    """A shared disk must be one that both hosts may write to, and that libvirt knows to be shared."""
    for source, dest in case.in_place:
        here = mount_fact(source, case.here.get("mounts") or ())
        there = mount_fact(dest, case.there.get("mounts") or ())
        if there.get("read_only"):
            yield Found(
                case.stops,
                f"{there['path']}, where {dest} lies, is mounted read-only on {case.dest}",
                f"mount it for writing on {case.dest}"
                + (", and export it so" if there.get("type") in NFS_TYPES else ""),
            )
        kind = here.get("type", "")
        if (
            here
            and kind.startswith(("fuse", "cifs", "smb"))
            and kind not in SHARED_TYPES
            and not case.options["unsafe"]
        ):
            yield Found(
                WARN,
                f"{source} is on {kind}, which libvirt does not know to be shared",
                f"name {here['path']} in shared_filesystems of qemu.conf (libvirt 11.1.0), or say unsafe: true",
            )
        elif here and there and not there.get("read_only"):
            yield Found(PASS, f"{dest} may be written to on both hosts")


def _exports(case: Case) -> Iterator[Found]:
    """What an NFS server lets both hosts do, which it tells nobody who does not try."""
    for host, facts, paths in (
        (case.source, case.here, [here for here, _there in case.in_place]),
        (case.dest, case.there, [there for _here, there in case.in_place]),
    ):
        for folder in dict.fromkeys(map(posixpath.dirname, paths)):
            if mount_fact(f"{folder}/image", facts.get("mounts") or ()).get("type", "") not in NFS_TYPES:
                continue
            tried = (facts.get("writes") or {}).get(folder)
            if tried is None:
                yield Found(SKIPPED, f"{host} has not tried to write in {folder}: no storage pool covers it")
            else:
                yield _export(case, host, folder, tried, facts.get("qemu_user") or {})


def _export(case: Case, host: str, folder: str, tried: Mapping[str, Any], user: Mapping[str, Any]) -> Found:
    if tried.get("silent"):
        return Found(
            case.stops, f"the server of {folder} does not answer {host}", "see to the server, and the way there"
        )
    qemu, root = tried["qemu"], tried["root"]
    if qemu["look"] and root["look"]:
        return Found(
            case.stops,
            f"{host} cannot look into {folder}: {_why(root)}",
            f"export it to {host}, and mount it there anew",
        )
    if "EROFS" in (qemu["error"], root["error"]):
        return Found(
            case.stops, f"{folder} is exported read-only to {host}", f"export it with rw to {host} (module nfs_export)"
        )
    # What root makes belongs to somebody else where root is nobody.
    squashed = root["error"] in _DENIED or root["owner"]
    if qemu["error"] in _DENIED and squashed:
        return Found(
            WARN,
            f"{user.get('name', 'QEMU')} may make no file in {folder} on {host} ({_why(qemu)}), and root is nobody"
            " there, so that libvirt cannot give images to it",
            f"export it with no_root_squash to {host} (module nfs_export), or let QEMU's user own directory and images",
        )
    # An image that is there already may have what a new file lacks.
    other = [one for one in (qemu, root) if one["error"] and one["error"] not in _DENIED]
    if other:
        return Found(WARN, f"nothing can be written in {folder} on {host}: {_why(other[0])}", "see to the server")
    return Found(PASS, f"files can be made in {folder} on {host}")


_DENIED = ("EACCES", "EPERM")


def _why(tried: Mapping[str, Any]) -> str:
    code = tried["look"] or tried["error"]
    return os.strerror(getattr(errno, code)) if hasattr(errno, code) else code


def _caches(case: Case) -> Iterator[Found]:
    drops = all(libvirt >= DROPS_CACHE[0] and qemu >= DROPS_CACHE[1] for libvirt, qemu in case.versions)
    if case.runs and case.used and drops:
        yield Found(PASS, "libvirt and QEMU of both hosts give up what they have cached")
    if not case.runs or drops or case.options["unsafe"]:
        return
    for plan in case.used:
        cache = case.caches.get(plan.target, "")
        kind = mount_fact(plan.source, case.here.get("mounts") or ()).get("type", "")
        if cache not in SAFE_CACHES and kind not in CLUSTER_TYPES:
            yield Found(
                FAIL,
                f"disk {plan.target} has cache={cache}, and QEMU is too old to give up what it has cached",
                f"set cache='none' on the disks of {case.name} and start it anew, or upgrade QEMU on both hosts",
            )


def _swtpm(case: Case) -> Iterator[Found]:
    if case.needs.emulated_tpm and case.there.get("swtpm") is False:
        yield Found(
            case.stops,
            f"{case.name} has an emulated TPM, and {case.dest} has no swtpm",
            f"install swtpm on {case.dest}",
        )


def _live_definition(case: Case) -> Iterator[Found]:
    if case.defined is None or case.options["persistent_xml"] is not None:
        return
    here, next_start = list(case.needs.parts), list(case.defined.parts)
    differs = [part for part in next_start if part not in here] + [part for part in here if part not in next_start]
    if differs:
        yield Found(
            WARN,
            f"the definition of {case.name} is not what runs: {'; '.join(differs)}",
            f"the definition goes along as it is: virsh dumpxml --inactive {case.name}",
        )
    else:
        yield Found(PASS, f"the definition of {case.name} is what runs")


def _way_to(case: Case) -> Uri:
    return uris.parse(case.options.get("dest_uri") or "qemu:///system", "dest_uri")


def _ssh_helper(case: Case) -> Iterator[Found]:
    """libvirt's ssh needs a program at its other end, which tells nobody that it is missing but by an end of file."""
    way, helpers = _way_to(case), case.there.get("ssh_helpers")
    extras = dict(way.query)
    if way.transport not in SSH or helpers is None or extras.get("netcat"):
        return
    wanted = {"native": ("virt-ssh-helper",), "netcat": ("nc",)}.get(extras.get("proxy", ""), ("virt-ssh-helper", "nc"))
    if case.between.get("answers"):
        yield Found(PASS, f"{case.dest} has answered by that way")
    elif not any(one in helpers for one in wanted):
        yield Found(
            FAIL,
            f"{case.dest} has no {' and no '.join(wanted)}, which libvirt's ssh calls there",
            f"install virt-ssh-helper (package libvirt-daemon) or netcat-openbsd on {case.dest}",
        )


def _daemon_ssh(case: Case) -> Iterator[Found]:
    """Peer to peer it is the source's daemon that calls ssh, and not who asks for the move."""
    finds = case.here.get("daemon_ssh")
    if _way_to(case).transport != "ssh" or case.options.get("control") != "p2p" or finds is None:
        return
    if finds:
        yield Found(PASS, f"the libvirt daemon of {case.source} finds ssh")
    else:
        yield Found(
            FAIL,
            f"the libvirt daemon of {case.source} finds no ssh in its PATH",
            f"install openssh-client on {case.source} and let the PATH of the libvirt daemon find it",
        )


def _convergence(case: Case) -> Iterator[Found]:
    """An estimate, which is never in the way."""
    one = case.forecast
    if one is None:
        if case.runs:
            yield Found(SKIPPED, "a forecast is made in check mode, once the destination answers")
    elif one.converges is None:
        yield Found(SKIPPED, one.unknown)
    elif one.is_given_up:
        yield Found(
            WARN,
            f"estimate: {one.text}; and after {one.known.patience:.0f} s it is given up",
            f"let timeout, timeout_per_gib or the steps of the policy have more than {math.ceil(one.total_s or 0)} s",
        )
    elif one.converges:
        yield Found(PASS, f"estimate: {one.text}")
    elif forecast.helped(one):
        yield Found(PASS, f"estimate: {one.text}; {', '.join(forecast.helped(one))}")
    else:
        yield Found(WARN, f"estimate: {one.text}", one.cure)


def _settings(case: Case) -> Iterator[Found]:
    here, there = (facts.get("qemu_conf") for facts in (case.here, case.there))
    if here is None or there is None:
        return
    for setting in ("lock_manager", "security_driver", "dynamic_ownership"):
        if here.get(setting) == there.get(setting):
            yield Found(PASS, f"{setting} is {here.get(setting, 'not set')} on both hosts")
            continue
        yield Found(
            WARN,
            f"{setting} in qemu.conf is {here.get(setting, 'not set')} on {case.source} and"
            f" {there.get(setting, 'not set')} on {case.dest}",
            "let both hosts have the same",
        )
    hooks = [(case.source, case.here.get("hooks")), (case.dest, case.there.get("hooks"))]
    for (host, own), (other, others) in (hooks, hooks[::-1]):
        if own and others is not None and not others:
            yield Found(
                WARN,
                f"libvirt calls {own[0]} for each VM on {host}, and nothing like it on {other}: it may refuse or change"
                f" {case.name}",
                f"let both hosts have the same hooks, or see that {own[0]} lets {case.name} through",
            )


def _locks(case: Case) -> Iterator[Found]:
    """QEMU keeps a second one off an image by locks on it, which a mount can keep to its own host (nfs(5))."""
    for host, facts, paths in (
        (case.source, case.here, [here for here, _there in case.in_place]),
        (case.dest, case.there, [there for _here, there in case.in_place]),
    ):
        found = {one["path"]: one for one in (mount_fact(path, facts.get("mounts") or ()) for path in paths) if one}
        for path, mount in found.items():
            if mount.get("own_locks"):
                yield Found(
                    WARN,
                    f"{path} is mounted on {host} so that no other host sees its locks: QEMU would not notice that its"
                    " disk is in use elsewhere",
                    f"mount {path} on {host} anew without nolock and local_lock",
                )
            else:
                yield Found(PASS, f"locks on {path} are not kept to {host}")


def mount_fact(path: str, mounts: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """What a host says of the mount that a file lies on; `mounts` are those that no other mount hides."""
    best: Mapping[str, Any] = {}
    for one in mounts:
        below = one["path"].rstrip("/") + "/"
        if path.startswith(below) and len(one["path"]) >= len(best.get("path", "")):
            best = one
    return best


def _listed(ports: Mapping[int, str]) -> str:
    return ", ".join(map(str, sorted(ports)))


def _numbers(user: Mapping[str, Any]) -> str:
    return f"{user['uid']}:{user['gid']}"


@dataclass(frozen=True)
class Check:
    """One thing that is looked at before a VM moves.

    Without a judge the engine looks itself, by the very code that would refuse in the midst of its work.
    """

    id: str
    title: str
    judge: Judge | None = None
    # What a move is refused with, where that is not the id, and the role of this collection that cures it.
    failure_class: str = ""
    role: str | None = None
    # Whether what the hosts and the guest say of themselves is enough for it, whoever asks.
    anywhere: bool = False


CHECKS = (
    # The way to both daemons, and where the VM is.
    Check("source_connection", "The source's libvirt answers."),
    Check("dest_connection", "The destination's libvirt answers the source, by the way that the move takes."),
    Check("hosts", "Source and destination are two hosts, and libvirt tells them apart."),
    Check("guest", "The VM is there, and its name belongs to no other VM at the destination."),
    Check("place", "The VM is on one host only, and no earlier move of it is half done."),
    Check("mode", "The VM's state goes with the kind of move that was asked for."),
    Check("job", "No other job is going on with the VM."),
    Check("managed_save", "No saved state would be left behind."),
    # What it is.
    Check("definition", "Definitions that were given for the destination describe this VM."),
    Check("dest_definition", "An older definition of it at the destination is not in the way."),
    Check("devices", "It has no device and no feature that ties it to its host."),
    Check("snapshots", "Its snapshots and checkpoints can go along."),
    Check("firmware", "The variables of its firmware can go along."),
    Check("tpm", "The state of its TPM can go along."),
    Check("asleep", "QEMU survives the move of a guest that has not run since it came."),
    # Its disks.
    Check("images", "Its images are there and can be read."),
    Check("storage", "For each disk it is known whether both hosts share it, and what happens to it."),
    Check("backing_files", "What lies below a shared disk is shared, too."),
    Check("pools", "The destination has an active storage pool for each disk that is copied.", role="storage_pool"),
    Check("dest_images", "What a copy would replace at the destination is known as an older copy."),
    Check("base_images", "Base images that are not copied are the same on both hosts."),
    Check("media", "Media in its drives are at the destination."),
    Check("block_jobs", "No block job is going on with its disks."),
    Check("files", "What is copied beside libvirt can be read here and written there."),
    # The way for its memory and disks.
    Check("sockets", "Socket files that were named for its data can be reached."),
    Check("pinned_memory", "Memory that is pinned has a limit."),
    Check("copies", "What was said of copies goes with the disks that are copied."),
    Check("postcopy", "Post-copy is possible, where it was asked for."),
    Check("tls", "Both hosts have certificates, where the data shall be encrypted.", role="libvirt_tls"),
    Check("versions", "Both hosts know the options that were asked for."),
    # What only facts are needed for.
    Check("machine", "The destination's QEMU knows its machine type.", _machine, anywhere=True),
    Check("emulator", "The destination has its emulator, and runs guests of its type.", _emulator, anywhere=True),
    Check("cpu", "The destination has the features of its CPU.", _cpu),
    Check("memory", "The destination has memory, or huge pages, for it.", _memory, "no_memory", anywhere=True),
    Check(
        "networks",
        "libvirt's networks that it is in are active at the destination.",
        _networks,
        "network_missing",
        anywhere=True,
    ),
    Check(
        "filters",
        "Network filters of its interfaces are at the destination.",
        _filters,
        "filter_missing",
        anywhere=True,
    ),
    Check(
        "bridges",
        "Bridges and network devices are there, with the same MTU.",
        _bridges,
        "bridge_missing",
        anywhere=True,
    ),
    Check("taps", "Network devices of given names can be made, or are there.", _taps, "device_name", anywhere=True),
    Check("listens", "Its screen and its consoles can be listened for there.", _listens, "listen_address"),
    Check("connects", "What it connects to on its own host listens there, too.", _connects, "nobody_listens"),
    Check(
        "host_files",
        "Firmware, kernels and directories that its definition names are at the destination.",
        _host_files,
        "file_missing",
    ),
    Check("secrets", "Secrets that it needs are at the destination.", _secrets, "secret_missing", anywhere=True),
    Check("swtpm", "What emulates its TPM is there.", _swtpm, anywhere=True),
    Check("live_definition", "What runs is what its definition says.", _live_definition),
    Check("space", "There is room for the disks that are copied.", _space, "no_space"),
    Check(
        "dest_mounts",
        "What a disk that is copied lies on is mounted at the destination, or the copy was asked for.",
        _dest_mounts,
        "not_mounted",
        "nfs_client",
    ),
    Check("mounts", "Shared disks are on file systems that both hosts may write to.", _mounts, "read_only"),
    Check("locks", "A lock on a shared disk is seen by the other host.", _locks, role="nfs_client"),
    Check("exports", "NFS servers let both hosts write to shared disks.", _exports, "nfs_export"),
    Check("caches", "Caches of shared disks are seen by the other host, or given up.", _caches, "unsafe_cache"),
    Check("qemu_users", "QEMU has the same numbers on both hosts.", _qemu_users, "qemu_user"),
    Check("directories", "QEMU may pass to the directories of its disks at the destination.", _directories),
    Check("selinux", "SELinux lets QEMU use shared storage.", _selinux, role="selinux"),
    Check(
        "dest_name",
        "The name to which the data goes leads to the destination.",
        _dest_name,
        "destination_hostname",
        "name_resolution",
    ),
    Check(
        "dest_listens",
        "The destination has the address on which it is to listen for what comes.",
        _dest_listens,
        "listen_address",
        "libvirt_host",
    ),
    Check("ports", "The firewall lets the ports for memory and disks through.", _ports, "port_closed", "firewall"),
    Check("free_ports", "Enough of these ports are free.", _free_ports, "port_busy"),
    Check(
        "certificates",
        "Certificates for TLS are valid, of one authority, and for the name that is used.",
        _certificates,
        "tls_certificate",
        "libvirt_tls",
    ),
    Check("tls_force", "No host insists on TLS where it is not used.", _tls_force, "tls_required", "libvirt_tls"),
    Check("userfaultfd", "QEMU may fetch pages on demand, for post-copy.", _on_demand, "no_postcopy"),
    Check("ssh_helper", "The destination has what libvirt's ssh calls there.", _ssh_helper, role="libvirt_host"),
    Check("daemon_ssh", "The source's libvirt daemon finds ssh.", _daemon_ssh, "ssh_missing", "libvirt_host"),
    Check("convergence", "It writes its memory slower than the path to the destination carries it.", _convergence),
    Check("clocks", "Both hosts have the same time.", _clocks),
    Check("settings", "Settings of libvirt that both hosts must share are the same.", _settings),
)
ORDER = tuple(check.id for check in CHECKS)


def judge(case: Case) -> Iterator[Tuple[Check, Found]]:
    """What the judges say, in the order of the table."""
    for check in CHECKS:
        for found in check.judge(case) if check.judge is not None else ():
            yield check, found


def obstacles(case: Case) -> List[str]:
    """What keeps a guest from a host, by what both and the guest say of themselves; the way there is not looked at."""
    judges = [check.judge for check in CHECKS if check.anywhere and check.judge is not None]
    return [found.evidence for judge in judges for found in judge(case) if found.status == FAIL]
