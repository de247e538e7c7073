# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""Snapshots and checkpoints. The images hold what they are; what libvirt knows of them is carried over here.

libvirt moves no domain that has snapshots, and forgets checkpoints with the definition. So the destination is told of
all of them before the job, in a definition that is made for it where there is none, and only then does the source
forget the snapshots: there is no moment at which no host knows them, whatever happens to the run.
"""

from __future__ import annotations

from typing import Iterable, List, Tuple

from .._libvirt import CHECKPOINT, SNAPSHOT, Host, LibvirtFailure, Moment
from .ledger import Ledger

KINDS = (SNAPSHOT, CHECKPOINT)
Key = Tuple[str, str]


def key(moment: Moment) -> Key:
    return moment.kind, moment.name


def named(keys: Iterable[Key]) -> str:
    """For people: snapshots a, b and checkpoint c."""
    by_kind = {kind: [name for of, name in keys if of == kind] for kind in KINDS}
    said = [f"{kind}{'s' if len(names) > 1 else ''} {', '.join(names)}" for kind, names in by_kind.items() if names]
    return " and ".join(said)


def of(host: Host, uuid: str) -> List[Moment]:
    """All that the host knows of one guest, each after the one that it builds upon."""
    return [moment for kind in KINDS for moment in host.moments(uuid, kind)]


def park(ledger: Ledger, source: Host, dest: Host) -> None:
    """Let the destination know all of them, and then the source forget the snapshots."""
    if not ledger.moments:
        return
    moments = of(source, ledger.uuid)
    if not ledger.defined_at_dest_before:
        dest.define(source.xml(ledger.uuid, inactive=True, secure=True))
    for moment in moments:
        dest.add_moment(ledger.uuid, moment)
    # Children first: with its parent gone libvirt would describe a child anew.
    for moment in reversed(moments):
        if moment.kind == SNAPSHOT:
            source.drop_moment(ledger.uuid, moment.kind, moment.name)


def give_back(ledger: Ledger, source: Host, dest: Host) -> None:
    """The guest has stayed: the source knows its snapshots again, and then the destination what it knew before."""
    if not ledger.moments or dest.find_uuid(ledger.uuid) is None:
        return
    here = set(map(key, of(source, ledger.uuid)))
    there = [moment for moment in of(dest, ledger.uuid) if key(moment) in ledger.moments]
    for moment in there:
        if key(moment) not in here:
            source.add_moment(ledger.uuid, moment)
    for moment in reversed(there):
        if key(moment) not in ledger.moments_at_dest_before:
            dest.drop_moment(ledger.uuid, moment.kind, moment.name)


def take_back(ledger: Ledger, source: Host, dest: Host) -> List[str]:
    """All is as before, also the destination's definition; returns what went wrong."""
    try:
        give_back(ledger, source, dest)
        if ledger.moments and not ledger.defined_at_dest_before and dest.find_uuid(ledger.uuid) is not None:
            dest.undefine(ledger.uuid)
    except LibvirtFailure as error:
        return [f"{dest} still knows {named(ledger.moments)} of {ledger.name}: {error}"]
    return []


def confirm(ledger: Ledger, dest: Host) -> List[str]:
    """Warnings about what of them has not arrived with the guest."""
    if not ledger.moments:
        return []
    try:
        known = of(dest, ledger.uuid)
        there = dest.find_uuid(ledger.uuid)
    except LibvirtFailure as error:
        return [f"{dest} does not tell whether it knows {named(ledger.moments)} of {ledger.name}: {error}"]
    lost = [one for one in ledger.moments if one not in map(key, known)]
    trouble = [f"{dest} does not know {named(lost)} of {ledger.name}"] if lost else []
    if there is not None and there.active:
        for moment in known:
            trouble += _check_bitmap(ledger, dest, moment)
    return trouble


def _check_bitmap(ledger: Ledger, dest: Host, moment: Moment) -> List[str]:
    if moment.kind == CHECKPOINT:
        try:
            dest.add_moment(ledger.uuid, moment, validate=True)
        except LibvirtFailure as error:
            forget = f"virsh checkpoint-delete {ledger.name} {moment.name} --metadata"
            return [
                f"checkpoint {moment.name} of {ledger.name} is worth nothing any more ({error}): let libvirt forget it"
                f" ({forget}), and begin with a full backup"
            ]
    return []
