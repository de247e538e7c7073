# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""The disks of the guest on both hosts: evidence, the plan, and what lies at the destination already."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, replace
from typing import Any, Dict, Iterable, List, Mapping, Sequence, Tuple

from .._images.look import Images, users_of
from .._libvirt import Host, LibvirtFailure
from .._pure import domain_xml, storage
from .._pure.domain_xml import Definition, Disk
from .._pure.findings import Findings
from .._pure.images import MISSING, NO_ANSWER, UNREADABLE
from .._pure.refusal import Refusal
from .._pure.storage import COPY, DiskPlan, Evidence, Wish
from . import devices
from .probe import Storage

# By what became of the look at an image that nobody could copy or use, what helps.
_UNUSABLE = {
    UNREADABLE: "look at it with qemu-img check {path}, and restore it from a backup",
    NO_ANSWER: "bring back the server of the storage that it is on",
}


@dataclass(frozen=True)
class Overlay:
    """An image on top of a base image, to be made at the destination before the move."""

    path: str
    pool: str
    capacity: int
    format: str
    backing: str
    backing_format: str


@dataclass(frozen=True)
class Layout:
    """What happens to the disks; `replaced` are images at the destination that go away just before the move.

    `undecided` are files here and there that may be one, which nothing has proven.
    """

    plans: Tuple[DiskPlan, ...] = ()
    undecided: Tuple[Tuple[str, str], ...] = ()
    replaced: Tuple[str, ...] = ()
    overlays: Tuple[Overlay, ...] = ()

    @property
    def copied(self) -> Tuple[DiskPlan, ...]:
        return tuple(plan for plan in self.plans if plan.action == COPY)


class Disks:
    """The disks of one guest between two hosts.

    `arriving` is the guest as it shall be at the destination, where that was given; `here` are the images of this
    machine where that is the source, else None. `to_devices` are the targets of files that are to be copied to a device
    there, and `devices_there` what the destination says of its block devices.
    """

    def __init__(
        self,
        definition: Definition,
        arriving: Definition | None,
        source: Storage,
        dest: Storage,
        here: Images | None,
        findings: Findings,
        to_devices: Sequence[str] = (),
        devices_there: Mapping[str, Any] | None = None,
    ):
        self._findings = findings
        self._to_devices = frozenset(to_devices)
        self._devices_there = devices_there or {}
        # Those of this machine, which are looked at once there is a disk that is one.
        self._devices_here: Mapping[str, Any] | None = None
        self._definition = definition
        self._arriving = arriving or definition
        self._source = source
        self._dest = dest
        self._images = here

    def lay_out(self, wish: Wish, offline: bool, facts: Mapping[str, Any] | None, force: bool) -> Layout:
        """Decide for every disk; what must not move like this is a finding, and has no part in the layout."""
        findings = self._findings
        with findings.must("storage"):
            storage.check_listed(self._definition, wish.migrate_disks)
        evidence: Dict[str, Evidence] = {}
        for disk in self._definition.disks:
            if storage.writable(disk):
                with findings.of("images"):
                    self._check_image(disk)
            with findings.of("definition"):
                self._there(disk.target)
                # A pool that is not started keeps its directory from the check as well.
                with findings.of("pools"):
                    evidence[disk.target] = self._evidence(disk)
        plans = tuple(
            replace(plan, dest=self._there(plan.target).source)
            for plan in storage.plan(self._definition, evidence, wish, offline, lambda: findings.of("storage"))
        )
        undecided = self._undecided(evidence, plans)
        self._check_backing(plans)
        self._check_said(plans)
        copied = [self._there(target) for target in storage.copied(plans)]
        if offline:
            # libvirt has no part in their copy, and needs no pool.
            return Layout(plans, undecided)
        with findings.of("pools"):
            self._look_into(dict.fromkeys(disk.directory for disk in copied))
        # Where no pool covers them nobody tells what lies there.
        told = [disk for disk in copied if self._dest.pool(disk.directory) is not None]
        present = [disk for disk in told if self._dest.host.volume(disk.source) is not None]
        if told or findings.good:
            with findings.of("dest_images"):
                self.check_replaceable(present, facts, force)
        overlays = []
        for disk in copied if wish.copy_storage == "inc" else ():
            with findings.of("base_images"):
                overlays.append(self._overlay(disk))
        return Layout(plans, undecided, tuple(disk.source for disk in present), tuple(overlays))

    def _look_into(self, directories: Iterable[str]) -> None:
        """Know what lies where disks are copied to; refused where no pool covers it."""
        pools = {directory: self._dest.pool(directory) for directory in directories}
        for pool in filter(None, pools.values()):
            try:
                self._dest.refresh(pool)
            except LibvirtFailure as error:
                raise Refusal(
                    f"pool {pool.name} on {self._dest.host} could not be refreshed: {error}",
                    "pool_missing",
                    f"let libvirt read {pool.path} there, then role storage_pool",
                    role="storage_pool",
                ) from error
        lacking = [directory for directory, pool in pools.items() if pool is None]
        if lacking:
            raise self._dest.missing(*lacking)

    def _undecided(self, evidence: Mapping[str, Evidence], plans: Sequence[DiskPlan]) -> Tuple[Tuple[str, str], ...]:
        decided = {plan.target for plan in plans}
        return tuple(
            (disk.source, self._there(disk.target).source)
            for disk in self._definition.disks
            if disk.type == "file" and disk.target not in decided
            if disk.target in evidence and evidence[disk.target].verdict == storage.UNKNOWN
        )

    def _there(self, target: str) -> Disk:
        """A disk as it shall be at the destination."""
        disk = self._arriving.disk(target)
        if disk is None:
            raise Refusal(
                f"dest_xml: the XML has no disk {target!r}, and {self._definition.name} has one",
                "bad_option",
                "the VM must see the same disks at the destination",
            )
        return disk

    def _evidence(self, disk: Disk) -> Evidence:
        there = self._there(disk.target)
        if disk.target in self._to_devices:
            return Evidence(storage.NOT_SHARED, f"it becomes the device {there.source} there")
        known = storage.by_kind(disk) or storage.by_kind(there)
        if known is not None:
            if (there.type, there.source) != (disk.type, disk.source):
                return Evidence(storage.UNKNOWN, f"dest_xml gives it another source, {there.type} {there.source}")
            return known
        if not storage.writable(disk):
            return Evidence(storage.UNKNOWN, "it is read-only")
        if disk.type != there.type:
            return Evidence(storage.UNKNOWN, f"dest_xml gives it another source, {there.type} {there.source}")
        if disk.type == "block":
            return self._same_device(disk, there)
        evidence = self.of_directory(disk.directory, there.directory)
        if evidence.verdict == storage.SHARED and posixpath.basename(there.source) != posixpath.basename(disk.source):
            return Evidence(storage.NOT_SHARED, f"dest_xml gives it another image, {there.source}")
        return evidence

    def _same_device(self, disk: Disk, there: Disk) -> Evidence:
        if self._devices_here is None:
            self._devices_here = devices.known() if self._images is not None else {}
        return storage.same_device(
            self._devices_here.get(disk.source),
            self._devices_there.get(there.source),
            f"{disk.source} on {self._source.host}",
            f"{there.source} on {self._dest.host}",
        )

    def of_directory(self, directory: str, at_dest: str = "") -> Evidence:
        """Whether both hosts share a directory."""
        return self._source.same(self._dest, directory, at_dest or directory)

    def _overlay(self, disk: Disk) -> Overlay:
        """What a disk of which only the top is copied needs at the destination: its base images, all the same."""
        here = self._definition.disk(disk.target) or disk
        for path in here.backing:
            self._check_base(disk.target, path)
        directory = here.directory
        pool, dest_pool = self._source.pool(directory), self._dest.pool(disk.directory)
        volume = self._source.host.volume(here.source)
        if pool is None or volume is None:
            raise self._source.missing(directory)
        name = dest_pool.name if dest_pool is not None else ""
        return Overlay(disk.source, name, volume.capacity, here.format, here.backing[0], here.backing_format)

    def _check_base(self, target: str, path: str) -> None:
        directory = domain_xml.directory(path)
        sizes = []
        for side in (self._source, self._dest):
            pool = side.pool(directory)
            if pool is None:
                raise side.missing(directory)
            side.refresh(pool)
            volume = side.host.volume(path)
            if volume is None:
                raise Refusal(
                    f"copy_storage: inc needs {path}, the base image of disk {target}, and {side.host} has none",
                    "image_missing",
                    "copy it there, or say copy_storage: all",
                )
            sizes.append((volume.format, volume.capacity))
        if sizes[0] != sizes[1]:
            raise Refusal(
                f"copy_storage: inc needs the same base image on both hosts, and {path} differs:"
                f" {_image(*sizes[0])} on {self._source.host}, {_image(*sizes[1])} on {self._dest.host}",
                "base_image_differs",
                "copy it anew, or say copy_storage: all",
            )

    def _check_image(self, disk: Disk) -> None:
        if disk.type != "file":
            return
        if self._images is not None:
            image = self._images.image(disk.source, disk.format)
            if image.state == MISSING:
                raise self._missing(disk)
            if image.state in _UNUSABLE:
                raise Refusal(
                    f"the guest's image {disk.source} cannot be read as {disk.format}: {image.problem}",
                    "image_unreadable",
                    _UNUSABLE[image.state].format(path=disk.source),
                )
        pool = self._source.pool(disk.directory)
        if pool is None:
            return
        volume = self._source.host.volume(disk.source)
        if volume is None or self._images is None:
            self._source.refresh(pool)
            volume = self._source.host.volume(disk.source)
        if volume is None:
            raise self._missing(disk)
        if disk.format != "raw" and volume.format != disk.format:
            raise Refusal(
                f"the guest's image {disk.source} on {self._source.host} is not {disk.format} but {volume.format}",
                "image_unreadable",
                "restore it from a backup, or correct the VM's definition",
            )

    def _missing(self, disk: Disk) -> Refusal:
        return Refusal(
            f"the guest's image {disk.source} does not exist on {self._source.host}",
            "image_missing",
            "restore it, or correct the VM's definition",
        )

    def _check_backing(self, plans: Sequence[DiskPlan]) -> None:
        """A disk that is used in place needs every image below it there as well; a copied one is made whole."""
        for plan in plans:
            with self._findings.of("backing_files"):
                for path in self._definition[plan.target].backing if plan.action == storage.USE else ():
                    evidence = self.of_directory(domain_xml.directory(path))
                    if evidence.verdict == storage.NOT_SHARED:
                        raise Refusal(
                            f"disk {plan.target} is shared, and {path} below it is not: {evidence.reason}",
                            "not_shared",
                            f"put {path} on storage that both hosts share",
                        )

    def _check_said(self, plans: Sequence[DiskPlan]) -> None:
        """What is only said to be shared must lie there, at least."""
        for plan in plans:
            absent = self._absent(plan) if (plan.action, plan.evidence) == (storage.USE, storage.UNKNOWN) else ""
            if absent:
                self._findings.refuse(
                    "storage",
                    Refusal(
                        f"disk {plan.target} is said to be shared, and {self._dest.host} has no {absent}",
                        "image_missing",
                        f"bring the storage of {plan.dest} to {self._dest.host}, or say storage: copy",
                    ),
                )

    def _absent(self, plan: DiskPlan) -> str:
        """What is certainly not there. A file that libvirt may not open is not among those that it lists."""
        kind, directory = self._there(plan.target).type, posixpath.dirname(plan.dest)
        if kind == "block" and plan.dest.startswith("/dev/") and self._devices_there:
            return "" if plan.dest in self._devices_there else plan.dest
        return directory if kind == "file" and self._dest.has(directory) is False else ""

    def check_replaceable(self, disks: Sequence[Disk], facts: Mapping[str, Any] | None, force: bool) -> None:
        """Refuse to replace files that lie at the destination and that nothing accounts for."""
        users = users_of(self._dest.host, self._definition.uuid) if disks else {}
        for disk in disks:
            self._check_replaceable(disk, users, facts, force)

    def _check_replaceable(
        self, disk: Disk, users: Mapping[str, Tuple[str, str]], facts: Mapping[str, Any] | None, force: bool
    ) -> None:
        where = f"{disk.source} exists on {self._dest.host}"
        if disk.source in users:
            raise Refusal(
                f"{where} as a file of VM {users[disk.source][0]}",
                "image_in_use",
                "move or rename one of the two images",
            )
        entry = self._entry(disk, facts)
        if entry.get("locked"):
            raise Refusal(f"{where} and a process there has it open", "image_in_use", "end that process")
        if force or (entry.get("target") == disk.target and self._is_stale(entry)):
            return
        raise Refusal(
            f"{where} and {_why_not(entry, facts)}",
            "dest_image_exists",
            "remove it there, or say force: true to have it replaced",
        )

    def _is_stale(self, entry: Mapping[str, Any]) -> bool:
        """An earlier move left it behind; also one that was killed on the way, where the guest is gone from there."""
        if entry.get("state") == "unsettled":
            return self._dest.host.find_uuid(self._definition.uuid) is None
        return entry.get("state") == "unchanged"

    def _entry(self, disk: Disk, facts: Mapping[str, Any] | None) -> Dict[str, Any]:
        """What the destination's journal says about that path for this VM."""
        for entry in (facts or {}).get("journal") or []:
            if entry.get("path") == disk.source and entry.get("uuid") == self._definition.uuid:
                return dict(entry)
        return {}


def _image(image: str, capacity: int) -> str:
    return f"{image} of {capacity} bytes"


def _why_not(entry: Mapping[str, Any], facts: Mapping[str, Any] | None) -> str:
    if facts is None:
        return "nothing says whose it is"
    if not entry:
        return "is not known as a copy that an earlier move of this VM left behind"
    return "has changed since an earlier move of this VM left it behind"


def remove_images(host: Host, uuid: str, paths: Sequence[str]) -> List[str]:
    """Delete images that a failed move made on the host; returns warnings about those that stay."""
    warnings = []
    users = users_of(host, uuid) if paths else {}
    for path in paths:
        try:
            if path in users:
                warnings.append(f"{path} on {host} was left in place: VM {users[path][0]} has it as a disk")
            elif host.volume(path) is not None:
                host.delete_volume(path)
        except LibvirtFailure as error:
            warnings.append(f"{path} on {host} could not be removed: {error}")
    return warnings
