# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""What a relocation is about in plain data, and how one ends: by what the domain's XML says, killed or not."""

from __future__ import annotations

import os
import posixpath
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Dict, List, Mapping, Sequence

from .._images import carry
from .._images.carry import Carried, Way
from .._images.look import path_of, users_of
from .._libvirt import Domain, Host, LibvirtFailure
from .._pure import domain_xml, outcome
from .._pure.domain_xml import Place
from . import worker as workers
from .local import Local

KIND = "relocation"


@dataclass(frozen=True)
class Move:
    """One disk, by its target: where its image is and where it shall be."""

    target: str
    source: str
    dest: str
    format: str
    block: bool = False
    flat: bool = False

    @property
    def place(self) -> Place:
        return Place(self.dest, self.block, self.format, self.flat)


@dataclass
class CopyLedger:
    """One relocation, in plain data: it is kept as JSON from before the first change until it is settled."""

    run: str
    name: str
    uuid: str
    moves: List[Move]
    carried: List[Carried] = field(default_factory=list)
    # By path, the sources that go away afterwards, and what tells them from others.
    remove: Dict[str, Dict[str, int]] = field(default_factory=dict)
    # By path, the disks of the VM that need such a source until they have moved as well.
    needed: Dict[str, List[str]] = field(default_factory=dict)
    # By path, what QEMU has begun to write, and what tells it from others.
    made: Dict[str, Dict[str, int]] = field(default_factory=dict)
    kind: str = KIND
    # What a person calls where it goes, as in the other ledgers.
    dest_host: str = "another place on this host"

    def plain(self) -> Dict[str, Any]:
        return asdict(self)

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> CopyLedger:
        known = {own.name: plain[own.name] for own in fields(cls) if own.name in plain}
        known["moves"] = [Move(**one) for one in plain["moves"]]
        known["carried"] = [Carried(**one) for one in plain.get("carried", ())]
        return cls(**known)


@dataclass
class End:
    """What has become of a relocation: the targets of the disks that have moved."""

    moved: List[str] = field(default_factory=list)
    removed: List[str] = field(default_factory=list)
    left: List[Dict[str, Any]] = field(default_factory=list)
    warnings: List[str] = field(default_factory=list)


def settle(ledger: CopyLedger, host: Host, local: Local) -> End:
    """Do what is left to do: every disk is in one place afterwards, and what is not a disk's any more is gone."""
    end = End()
    domain = host.find_uuid(ledger.uuid)
    if domain is None:
        # Whoever has undefined it has its images, and nobody else may decide which of them.
        where = ", ".join(f"{one.source} or {one.dest}" for one in ledger.moves)
        end.warnings.append(
            f"{ledger.name}, whose disks were moving (run {ledger.run}), is not on {host} any more: {where}"
        )
        end.warnings += carry.take_back_unfinished(ledger.carried, Way(), ledger.run, 0.0)
        local.close_run(ledger.run)
        return end
    copying = {move.target for move in ledger.moves if domain.active and _mirror(move, domain, host) is not None}
    end.moved = [move.target for move in ledger.moves if _moved(move, domain, host)]
    _agree(ledger.moves, domain, host)
    for move in ledger.moves:
        if move.target not in end.moved and not ledger.carried:
            end.warnings += _remove_new(move, host, ledger.made.get(move.dest), move.target in copying)
    back = [one for one in ledger.carried if one.target not in end.moved]
    end.warnings += carry.take_back(back, Way(), ledger.run, 0.0)
    for move in ledger.moves:
        if move.target not in end.moved:
            continue
        is_needed = set(ledger.needed.get(move.source, ())) - set(end.moved)
        own = {path: known for path, known in ledger.remove.items() if path == move.source and not is_needed}
        gone, warnings = carry.remove_sources(own)
        end.removed += gone
        end.warnings += warnings
        if not gone:
            end.left.append({"host": host.hostname, "target": move.target, "path": move.source})
    _refresh_pools(ledger.moves, host)
    local.close_run(ledger.run)
    return end


def _moved(move: Move, domain: Domain, host: Host) -> bool:
    """Whether the guest has its disk at the new place; a copy that still goes on comes to its end."""
    if not domain.active:
        return source_of(host, domain, move.target, inactive=True) == move.dest
    mirror = _mirror(move, domain, host)
    if mirror is not None and mirror.ready and source_of(host, domain, move.target, inactive=True) == move.dest:
        with suppress(LibvirtFailure):
            host.end_block_copy(domain.uuid, move.target, pivot=True)
        mirror = _mirror(move, domain, host)
    if mirror is not None:
        host.end_block_copy(domain.uuid, move.target, pivot=False)
    return source_of(host, domain, move.target, inactive=False) == move.dest


def _mirror(move: Move, domain: Domain, host: Host) -> domain_xml.Mirror | None:
    mirror = domain_xml.mirrors(host.xml(domain.uuid)).get(move.target)
    return mirror if mirror is not None and mirror.path == move.dest else None


def source_of(host: Host, domain: Domain, target: str, inactive: bool) -> str:
    disk = domain_xml.parse(host.xml(domain.uuid, inactive=inactive)).disk(target)
    return path_of(host, disk) if disk is not None else ""


def _agree(moves: Sequence[Move], domain: Domain, host: Host) -> None:
    """Let the definition of a running guest name the images that it uses; what somebody has changed in it stays."""
    if not (domain.active and domain.persistent):
        return
    here = domain_xml.parse(host.xml(domain.uuid))
    places = {}
    for move in moves:
        disk = here.disk(move.target)
        used = path_of(host, disk) if disk is not None else ""
        defined = source_of(host, domain, move.target, inactive=True)
        if disk is not None and used and used != defined and defined in (move.source, move.dest):
            places[move.target] = move.place if used == move.dest else Place(used, is_block(used), disk.format)
    if places:
        host.define(domain_xml.relocated(host.xml(domain.uuid, inactive=True, secure=True), places))


def _remove_new(move: Move, host: Host, made: Mapping[str, int] | None, was_copying: bool) -> List[str]:
    """Remove the image that QEMU had begun to write, where it is known to be that one."""
    if move.block or not os.path.lexists(move.dest):
        return []
    try:
        if move.dest in users_of(host):
            return []
    except LibvirtFailure as error:
        return [f"{move.dest} was left in place: it cannot be told who uses it ({error})"]
    if not was_copying and (made is None or file_of(move.dest) != dict(made)):
        return [f"{move.dest} was left in place: it is not known to be of this run"]
    try:
        os.unlink(move.dest)
    except OSError as error:
        return [f"{move.dest} could not be removed: {error.strerror}"]
    return []


def _refresh_pools(moves: Sequence[Move], host: Host) -> None:
    folders = {posixpath.dirname(path) for move in moves for path in (move.source, move.dest)}
    with suppress(LibvirtFailure):
        for pool in host.pools():
            if pool.active and pool.is_directory and pool.path in folders:
                host.refresh_pool(pool.name)


def settle_earlier(request: Any, host: Host, result: Dict[str, Any]) -> List[str]:
    """Settle what killed relocations of this VM have left; `result` gets what became of them. Returns the outcomes."""
    name, outcomes = request.options["name"], []
    domain = host.find(name)
    for plain in request.local.copies():
        ledger = CopyLedger.read(plain)
        if ledger.name != name and (domain is None or ledger.uuid != domain.uuid):
            continue
        if request.check_mode:
            result["warnings"].append(f"run {ledger.run} of {name} is not settled; a real run does it")
            continue
        end = settle(ledger, host, request.local)
        workers.forget(ledger.run)
        said = outcome.COPIED if len(end.moved) == len(ledger.moves) else outcome.FAILED
        result["warnings"] += end.warnings
        result["changed"] = True
        result.setdefault("settled", []).append({"run": ledger.run, "outcome": said, "actions": []})
        outcomes.append(said)
    return outcomes


def is_block(path: str) -> bool:
    try:
        return os.stat(path).st_mode & 0o170000 == 0o060000
    except OSError:
        return False


def file_of(path: str) -> Dict[str, int]:
    found = os.stat(path)
    return {"inode": found.st_ino, "device": found.st_dev}
