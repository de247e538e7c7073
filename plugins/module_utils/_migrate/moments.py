# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""Snapshots and checkpoints. The images hold what they are; what libvirt knows of them is carried over here.

libvirt moves no domain that has snapshots, and forgets checkpoints with the definition. So the destination is told of
all of them before the move, in a definition that is made for it where there is none, and only then does the source
forget the snapshots: there is no moment at which no host knows them, whatever happens to the run.
"""

from __future__ import annotations

from typing import Any, List, Mapping, Sequence, Set

from .._libvirt import CHECKPOINT, SNAPSHOT, Host, LibvirtFailure, Moment
from .._pure import domain_xml, guest, outcome, storage
from .._pure.refusal import Refusal
from . import place as places
from .disks import Disks, Layout
from .place import Place
from .probe import Storage
from .report import Report

# The first libvirt and the first QEMU that take the bitmaps of a copied disk along.
_BITMAPS = ((7, 1, 0), (6, 0, 0))
_KINDS = (SNAPSHOT, CHECKPOINT)


def named(moments: Sequence[Moment]) -> str:
    """For people: snapshots a, b and checkpoint c."""
    said = []
    for kind in _KINDS:
        names = [moment.name for moment in moments if moment.kind == kind]
        if names:
            said.append(f"{kind}{'s' if len(names) > 1 else ''} {', '.join(names)}")
    return " and ".join(said)


def _of(host: Host, uuid: str) -> List[Moment]:
    return [moment for kind in _KINDS for moment in host.moments(uuid, kind)]


class Moments:
    """The snapshots and checkpoints of one guest between two hosts."""

    def __init__(self, options: Mapping[str, Any], report: Report, source: Storage, dest: Storage, place: Place):
        self._options = options
        self._report = report
        self._source = source
        self._dest = dest
        self._place = place
        self._name = place.name
        self._uuid = place.uuid
        self._all: List[Moment] = []
        # What the destination was told by this run.
        self._told: List[Moment] = []
        # Whether its definition was made for that, and whether the source has begun to forget.
        self.defined = False
        self.parked = False

    @property
    def _snapshots(self) -> List[Moment]:
        return [moment for moment in self._all if moment.kind == SNAPSHOT]

    # Before the move

    def check(self, disks: Disks, layout: Layout) -> None:
        """Refuse what cannot be carried over; nothing is changed."""
        self._all = _of(self._source.host, self._uuid)
        for kind in _KINDS:
            self._report.add(**{f"{kind}s": [moment.name for moment in self._all if moment.kind == kind]})
        self._check_known_there()
        if self._all:
            self._check_options()
        for moment in self._all:
            self._check_files(moment, disks, {plan.source for plan in layout.copied})

    def _check_known_there(self) -> None:
        if self._place.at_dest is None:
            return
        ours = {(moment.kind, moment.name) for moment in self._all}
        others = [moment for moment in _of(self._dest.host, self._uuid) if (moment.kind, moment.name) not in ours]
        if others:
            self._report.warn(f"{self._dest.host} knows {named(others)} of {self._name} already, and keeps them")

    def _check_options(self) -> None:
        for option in ("dest_name", "dest_xml", "persistent_xml"):
            if self._options[option]:
                raise self._refusal(f"it is described in them without {option}", f"leave {option} out")
        domain = self._place.at_source
        lasting = self._options["persistent"] and self._options["undefine_source"]
        if domain is None or not (domain.persistent and lasting):
            raise self._refusal(
                "they belong to one persistent definition",
                "leave persistent and undefine_source out, and let the VM be persistent",
            )

    def _check_files(self, moment: Moment, disks: Disks, copied: Set[str]) -> None:
        for path in guest.moment_files(moment.xml):
            if path in copied and moment.kind == CHECKPOINT and self._carries_bitmaps():
                continue
            evidence = disks.of_directory(domain_xml.directory(path))
            if evidence.verdict != storage.SHARED:
                raise self._refusal(
                    f"{path}, which {moment.kind} {moment.name} needs, is not shared: {evidence.reason}",
                    "put it on storage that both hosts share",
                )

    def _carries_bitmaps(self) -> bool:
        return all(
            host.libvirt_version >= _BITMAPS[0] and host.hypervisor_version >= _BITMAPS[1]
            for host in (self._source.host, self._dest.host)
        )

    def _refusal(self, reason: str, cure: str) -> Refusal:
        kinds = dict.fromkeys(moment.kind for moment in self._all)
        forget = " and ".join(f"virsh {kind}-delete {self._name} NAME --metadata" for kind in kinds)
        return Refusal(
            f"VM {self._name} has {named(self._all)}, and {reason}",
            "snapshots",
            f"{cure}, or let libvirt forget them: {forget}",
        )

    # Around the job

    def park(self) -> None:
        """Let the destination know all of them, and then the source forget the snapshots."""
        if not self._all:
            return
        source, dest = self._source.host, self._dest.host
        try:
            if self._place.at_dest is None:
                dest.define(source.xml(self._uuid, inactive=True, secure=True))
                self.defined = True
            known = {(moment.kind, moment.name): moment.xml for moment in _of(dest, self._uuid)}
            for moment in self._all:
                if known.get((moment.kind, moment.name)) != moment.xml:
                    dest.add_moment(self._uuid, moment)
                    self._told.append(moment)
            self.parked = bool(self._snapshots)
            # Children first: with its parent gone libvirt would describe a child anew.
            for moment in reversed(self._snapshots):
                source.drop_moment(self._uuid, moment.kind, moment.name)
        except LibvirtFailure as error:
            what = f"{named(self._all)} of {self._name} could not be made known on {dest}"
            raise places.refusal(error, what, outcome=outcome.FAILED) from error

    def give_back(self) -> None:
        """The guest has stayed: the source knows its snapshots again, and then the destination what it knew before."""
        if not self._all:
            return
        source, dest = self._source.host, self._dest.host
        try:
            known = {moment.name for moment in source.moments(self._uuid, SNAPSHOT)}
            for moment in self._snapshots:
                if moment.name not in known:
                    source.add_moment(self._uuid, moment)
        except LibvirtFailure as error:
            self._report.warn(f"{named(self._snapshots)} of {self._name} stay known on {dest} only: {error}")
            return
        try:
            self._take_from(dest)
        except LibvirtFailure as error:
            self._report.warn(f"{dest} still knows {named(self._told)} of {self._name}: {error}")

    def _take_from(self, dest: Host) -> None:
        there = dest.find_uuid(self._uuid)
        if there is None or there.active:
            return
        if self.defined:
            dest.undefine(self._uuid, moments=True)
            return
        for moment in reversed(self._told):
            dest.drop_moment(self._uuid, moment.kind, moment.name)

    # After the move

    def confirm(self) -> None:
        """Say which of them have not arrived."""
        if not self._all:
            return
        dest = self._dest.host
        try:
            known = {(moment.kind, moment.name) for moment in _of(dest, self._uuid)}
            there = dest.find_uuid(self._uuid)
        except LibvirtFailure as error:
            self._report.warn(f"{dest} does not tell whether it knows {named(self._all)} of {self._name}: {error}")
            return
        lost = [moment for moment in self._all if (moment.kind, moment.name) not in known]
        if lost:
            self._report.warn(f"{dest} does not know {named(lost)} of {self._name}")
        for moment in self._all:
            if moment.kind == CHECKPOINT and moment not in lost and there is not None and there.active:
                self._validate(dest, moment)

    def _validate(self, dest: Host, moment: Moment) -> None:
        try:
            dest.add_moment(self._uuid, moment, validate=True)
        except LibvirtFailure as error:
            forget = f"virsh checkpoint-delete {self._name} {moment.name} --metadata"
            self._report.warn(
                f"checkpoint {moment.name} of {self._name} is worth nothing any more ({error}): let libvirt forget it"
                f" ({forget}), and begin with a full backup"
            )
