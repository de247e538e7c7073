# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""The images of a guest move to another place on its own host, while it runs or while it is shut off.

Of a guest that is shut off the images are copied and verified, then the definition is changed. Those of a running guest
are copied by QEMU, which goes over to the copies; the definition is changed before that, because from the moment on at
which a copy is complete every write goes to both images: whatever is killed or loses its power then, the definition
names an image that has everything.

What has become of it is what the domain's XML says. So a run that was killed is settled like one that was not.
"""

from __future__ import annotations

import os
import posixpath
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

from .._images import carry, receiver
from .._images.carry import Carrying, Way
from .._images.look import Images, chain_of, path_of, users_of, whole_chain
from .._images.stream import StreamError
from .._libvirt import Domain, Host, LibvirtFailure
from .._migrate import moments
from .._migrate.local import Local
from .._migrate.place import connect, refusal, state_of
from .._migrate.relocated import CopyLedger, Move, file_of, is_block, settle, settle_earlier, source_of
from .._migrate.worker import Worker
from .._pure import domain_xml, domblk, outcome
from .._pure import status as statuses
from .._pure import uri as uris
from .._pure.domain_xml import Definition, Disk
from .._pure.domblk import File, Wish
from .._pure.refusal import Refusal

# The first libvirt that writes to both images before the guest hears that it is done.
SYNCHRONOUS: Tuple[int, int, int] = (8, 0, 0)
STEP = 0.25


@dataclass
class Request:
    """One call of the module on one host."""

    options: Mapping[str, Any]
    wish: Wish
    local: Local
    images: Images
    worker: Worker
    check_mode: bool = False
    diff: bool = False


class Relocation:
    """One run."""

    def __init__(self, request: Request, host: Host, result: Dict[str, Any]):
        self._request = request
        self._host = host
        self._result = result
        self._began = round(time.time(), 3)

    def run(self) -> Dict[str, Any]:
        request, host, options = self._request, self._host, self._request.options
        settle_earlier(request, host, self._result)
        domain = host.find(options["name"])
        if domain is None:
            known = ", ".join(one.name for one in host.domains()) or "none"
            raise Refusal(
                f"VM {options['name']} was not found on {host}", "not_found", f"give the name of one that is: {known}"
            )
        state = state_of(domain)
        self._result.update(uuid=domain.uuid, state=state, host=host.hostname)
        text = host.xml(domain.uuid, inactive=domain.persistent and not domain.active)
        definition = domain_xml.parse(text)
        domblk.check(request.wish, definition)
        paths = {disk.target: path_of(host, disk) for disk in definition.disks}
        concerned = [disk for disk in definition.disks if domblk.concerns(request.wish, disk, paths[disk.target])]
        domblk.check_map(request.wish, [paths[disk.target] for disk in concerned], domain.name)
        self._say_what_stays(definition, paths)
        moves = [move for disk in definition.disks if (move := self._move(disk, paths[disk.target])) is not None]
        before = host.xml(domain.uuid, inactive=domain.persistent)
        self._result["disks"] = [asdict(move) for move in moves]
        if not moves:
            return self._finished(outcome.ALREADY_THERE, changed=False)
        self._check_others(domain, moves)
        needed = self._needed(definition, moves) if request.wish.remove_source else {}
        self._check_alone(domain, moves)
        if domain.active:
            ledger = self._relocate_running(domain, definition, moves, needed)
        else:
            ledger = self._relocate_stopped(domain, definition, moves, needed)
        if ledger is None:
            after = domain_xml.relocated(before, {move.target: move.place for move in moves})
            return self._finished(outcome.PLANNED, changed=True, **self._diff(before, after))
        return self._finished(outcome.COPIED, changed=True, **self._diff(before, host.xml(domain.uuid, inactive=True)))

    def _finished(self, said: str, changed: bool, **more: Any) -> Dict[str, Any]:
        self._result.update(outcome=said, changed=changed or self._result["changed"], **more)
        return self._result

    def _diff(self, before: str, after: str) -> Dict[str, Any]:
        if not self._request.diff:
            return {}
        name = self._request.options["name"]
        # Written the same way, so that only what has changed differs.
        texts = {"before": domain_xml.relocated(before, {}) + "\n", "after": domain_xml.relocated(after, {}) + "\n"}
        return {"diff": [{"before_header": name, "after_header": name, **texts}]}

    def _say_what_stays(self, definition: Definition, paths: Mapping[str, str]) -> None:
        """Nobody who names a directory means a device by that, but for one that is named itself."""
        wish = self._request.wish
        for disk in definition.disks if wish.dest_dir and not wish.disks else ():
            path = paths[disk.target]
            if domblk.is_device(path) and not disk.readonly:
                self._result["warnings"].append(
                    f"disk {disk.target} is the device {path} and stays it: name it in disks to have it moved as well"
                )

    def _move(self, disk: Disk, path: str) -> Move | None:
        """What has to be done about a disk, or nothing."""
        wish = self._request.wish
        if not domblk.concerns(wish, disk, path):
            return None
        if not path.startswith("/"):
            raise Refusal(
                f"disk {disk.target} is no file or device of {self._host}", "disk_target", "leave it out of disks"
            )
        dest = domblk.mapped(path, wish)
        wanted = wish.format or disk.format
        chain = chain_of(disk, path, self._request.images)
        flat = len(chain) > 1 and (wish.backing == domblk.FLATTEN or wanted != disk.format)
        if dest == path and wanted == disk.format and not flat:
            return None
        if dest == path:
            raise Refusal(
                f"disk {disk.target}: {path} cannot be replaced by itself in another format",
                "same_path",
                "give another place with dest_dir or path_map",
            )
        return Move(disk.target, path, dest, wanted, is_block(dest), flat)

    def _check_others(self, domain: Domain, moves: Sequence[Move]) -> None:
        """Other VMs must not lose what they use, and nothing of theirs may be written to."""
        removes = self._request.wish.remove_source
        users = users_of(self._host, domain.uuid, self._request.images if removes else None)
        for move in moves:
            if move.dest in users:
                raise Refusal(f"{move.dest} is used by VM {users[move.dest][0]}", "image_in_use", "give another place")
            if removes and move.source in users:
                raise Refusal(
                    f"remove_source: {move.source} is used by VM {users[move.source][0]} as well",
                    "image_in_use",
                    "leave remove_source out",
                )

    def _needed(self, definition: Definition, moves: Sequence[Move]) -> Dict[str, List[str]]:
        """By source, other disks of the VM that are the same image or lie on it, which they do until they have moved.

        Refused where one of them still would afterwards: it stays where it is, or becomes no whole image.
        """
        moving = {move.target: move for move in moves}
        sources = {move.source for move in moves}
        needed: Dict[str, List[str]] = {}
        for disk in definition.disks:
            move = moving.get(disk.target)
            path = path_of(self._host, disk)
            chain = whole_chain(self._request.options["name"], disk, path, self._request.images)
            for image in chain if move is None else chain[1:]:
                if image.path not in sources:
                    continue
                if move is None or not move.flat:
                    raise Refusal(
                        f"remove_source: {image.path} is used by disk {disk.target} as well",
                        "image_in_use",
                        "leave remove_source out"
                        + ("" if move is None else f", or say backing: flatten, so that {disk.target} becomes whole"),
                    )
                needed.setdefault(image.path, []).append(disk.target)
        return needed

    def _check_alone(self, domain: Domain, moves: Sequence[Move]) -> None:
        """Nothing else may know the disks where they are, and no two of them may go to one place."""
        taken: Dict[str, str] = {}
        for move in moves:
            if taken.setdefault(move.dest, move.target) != move.target:
                raise Refusal(
                    f"disks {taken[move.dest]} and {move.target} would both become {move.dest}",
                    "same_path",
                    "give each its own place with path_map",
                )
        known = moments.of(self._host, domain.uuid)
        if known:
            raise Refusal(
                f"VM {domain.name} has {moments.named([moments.key(one) for one in known])}, which know its disks where"
                " they are",
                "snapshots",
                f"let libvirt forget them: virsh {known[0].kind}-delete {domain.name} NAME --metadata",
            )
        if domain.active and domain.persistent:
            self._check_unchanged(domain, moves)

    def _check_unchanged(self, domain: Domain, moves: Sequence[Move]) -> None:
        """The definition that is about to be changed says what it said: somebody may have changed it meanwhile."""
        for move in moves:
            defined = source_of(self._host, domain, move.target, inactive=True)
            if defined != move.source:
                raise Refusal(
                    f"the definition of {domain.name} gives disk {move.target} the image {defined or 'none'}, and not"
                    f" {move.source}",
                    "definition_changed",
                    "let the VM use what its definition says (restart it), or correct the definition; then run again",
                )

    # A guest that is shut off

    def _relocate_stopped(
        self, domain: Domain, definition: Definition, moves: Sequence[Move], needed: Dict[str, List[str]]
    ) -> CopyLedger | None:
        request, worker = self._request, self._request.worker
        if self._host.has_managed_save(domain.uuid):
            raise Refusal(
                f"VM {domain.name} has a saved state, which knows its disks where they are",
                "managed_save",
                f"start it, or give the state up: virsh managedsave-remove {domain.name}",
            )
        files: List[File] = []
        for move in moves:
            disk = definition[move.target]
            chain = chain_of(disk, move.source, request.images)
            files += domblk.files(disk, chain, request.wish, move.dest, bases_stay=True)
        timeout = request.options["connect_timeout"]

        def others() -> Dict[str, Tuple[str, str]]:
            """Other disks of this very VM too."""
            return users_of(self._host)

        begun = request.local.begun(domain.uuid)
        with Carrying(files, Way(), request.wish, worker.run_id, timeout, self._may_replace, others, begun) as carrying:
            carrying.check()
            self._result["files"] = carrying.plan()
            if request.check_mode:
                return None
            ledger = CopyLedger(worker.run_id, domain.name, domain.uuid, list(moves), carrying.carried(), needed=needed)
            ledger.remove = carrying.known_sources() if request.wish.remove_source else {}
            self._note(ledger)
            try:
                worker.phase(statuses.JOURNALLED)
                worker.phase(statuses.COPYING)
                tell = self._teller()
                known = carrying.copy(tell, worker.phase, lambda dest, begun: self._note_begun(ledger, dest, begun))
                worker.phase(statuses.COPIED)
                # The last moment at which nothing has its name yet.
                tell(carrying.total, carrying.total)
                for one in ledger.carried:
                    one.known = known[one.dest]
                self._note(ledger)
                carrying.commit()
                worker.phase(statuses.PREPARED)
                self._check_unchanged(domain, moves)
                places = {move.target: move.place for move in moves}
                current = self._host.xml(domain.uuid, inactive=True, secure=True)
                self._host.define(domain_xml.relocated(current, places))
                worker.phase(statuses.MOVED)
            except Exception as error:
                carrying.close()
                raise self._failed(ledger, error) from error
            self._result.update(bytes_sent=carrying.bytes_sent)
        self._settle(ledger)
        return ledger

    def _may_replace(self, file: File) -> bool:
        if not self._request.wish.force:
            raise Refusal(
                f"{file.dest} exists, and nothing says that it may be replaced",
                "dest_image_exists",
                "remove it, give another place, or say force: true to have it replaced",
            )
        return True

    # A running guest

    def _relocate_running(
        self, domain: Domain, definition: Definition, moves: Sequence[Move], needed: Dict[str, List[str]]
    ) -> CopyLedger | None:
        request, worker = self._request, self._request.worker
        folders = [posixpath.dirname(move.dest) for move in moves]
        missing = [folder for folder in folders if not os.path.isdir(folder)]
        if missing:
            raise domblk.no_directories(missing, "on this host")
        rows = self._result["files"] = [self._check_running(domain, definition, move) for move in moves]
        with closing(Way().open(request.options["connect_timeout"])) as peer:
            needs = {move.dest: row["bytes"] for move, row in zip(moves, rows) if not move.block}
            carry.reserve(peer, needs, worker.run_id, named=True)
            return None if request.check_mode else self._copy_running(domain, moves, needed)

    def _copy_running(self, domain: Domain, moves: Sequence[Move], needed: Dict[str, List[str]]) -> CopyLedger:
        host, worker, wish = self._host, self._request.worker, self._request.wish
        ledger = CopyLedger(worker.run_id, domain.name, domain.uuid, list(moves), needed=needed)
        if wish.remove_source:
            # The guest goes on writing: its size and time will change.
            ledger.remove = {move.source: file_of(move.source) for move in moves if not is_block(move.source)}
        self._note(ledger)
        try:
            worker.phase(statuses.JOURNALLED)
            worker.phase(statuses.COPYING)
            for move in moves:
                shallow = not move.flat
                host.block_copy(domain.uuid, move.target, domain_xml.copy_target(move.place), wish.bandwidth, shallow)
                if not move.block:
                    ledger.made[move.dest] = file_of(move.dest)
                    self._note(ledger)
            tell = self._teller()
            self._wait_until_ready(domain, moves, tell)
            worker.phase(statuses.COPIED)
            self._wait_until_ready(domain, moves, tell)
            if domain.persistent:
                self._check_unchanged(domain, moves)
                places = {move.target: move.place for move in moves}
                current = host.xml(domain.uuid, inactive=True, secure=True)
                host.define(domain_xml.relocated(current, places))
            worker.phase(statuses.PREPARED)
            for move in moves:
                host.end_block_copy(domain.uuid, move.target, pivot=True)
                worker.phase(statuses.MOVING)
            worker.phase(statuses.MOVED)
        except Exception as error:
            raise self._failed(ledger, error) from error
        self._settle(ledger)
        return ledger

    def _check_running(self, domain: Domain, definition: Definition, move: Move) -> Dict[str, Any]:
        host, name = self._host, domain.name
        if host.libvirt_version < SYNCHRONOUS:
            raise Refusal(
                f"VM {name} runs, and {host} has libvirt {'.'.join(map(str, host.libvirt_version))}: only since"
                f" {'.'.join(map(str, SYNCHRONOUS))} does a copy of a running VM's disk lose no write when the power"
                " fails",
                "too_old",
                "shut the VM down, or upgrade libvirt",
            )
        if host.block_job(domain.uuid, move.target):
            raise Refusal(
                f"a block job is going on with disk {move.target} of VM {name}",
                "busy",
                f"wait for its end, or end it: virsh blockjob {name} {move.target} --abort",
            )
        if move.block and not (self._request.wish.force or _is_blank(move.dest)):
            raise Refusal(
                f"{move.dest} is a device that holds something",
                "dest_image_exists",
                f"see what it is with blkid -p {move.dest}, and say force: true to have it overwritten",
            )
        if os.path.lexists(move.dest) and not move.block:
            raise Refusal(
                f"{move.dest} exists, and QEMU makes a new image for a running VM",
                "dest_image_exists",
                "remove it (an earlier relocation leaves the image where it was, unless told remove_source: true),"
                " or give another place; or shut the VM down, and say force: true",
            )
        disk = definition[move.target]
        chain = chain_of(disk, move.source, self._request.images)
        copied = chain if move.flat else chain[:1]
        domblk.check_losses(disk, copied, self._request.wish, running=True)
        return {
            "target": move.target,
            "source": move.source,
            "dest": move.dest,
            "format": move.format,
            "action": "block_copy",
            "reason": "the VM runs",
            "bytes": sum(image.allocated or 0 for image in copied),
        }

    def _teller(self) -> Callable[[int, int], None]:
        return carry.teller(self._request.worker, "it", lambda points: self._result.update(series=points))

    def _wait_until_ready(self, domain: Domain, moves: Sequence[Move], tell: Callable[[int, int], None]) -> None:
        while True:
            found = domain_xml.mirrors(self._host.xml(domain.uuid))
            jobs = [self._host.block_job_progress(domain.uuid, move.target) for move in moves]
            for move, job in zip(moves, jobs):
                if job is None or move.target not in found:
                    raise Refusal(
                        f"the copy of disk {move.target} ended before it was complete",
                        "copy_failed",
                        f"look at /var/log/libvirt/qemu/{domain.name}.log",
                    )
            # One byte in all is libvirt's word for a copy whose size QEMU does not know yet, or that has nothing to do.
            known = [job for job in jobs if job is not None and job[1] > 1]
            tell(sum(job[0] for job in known), sum(job[1] for job in known))
            if all(found[move.target].ready for move in moves):
                return
            time.sleep(STEP)

    # The end

    def _note_begun(self, ledger: CopyLedger, dest: str, begun: Dict[str, Any]) -> None:
        for one in ledger.carried:
            if one.dest == dest:
                one.begun = begun
        self._note(ledger)

    def _note(self, ledger: CopyLedger) -> None:
        try:
            self._request.local.open_copy(ledger)
        except OSError as error:
            raise Refusal(
                f"the journal cannot be written: {error}", "not_permitted", "run as root (become: true)"
            ) from error
        worker = self._request.worker
        self._result.update(
            run=ledger.run, began=self._began, steps=worker.steps, series=self._result.get("series", [])
        )

    def _failed(self, ledger: CopyLedger, error: Exception) -> Refusal:
        """The refusal that says so, once nothing is left of the run."""
        said = _said(error)
        try:
            moved = self._settle(ledger)
        except (LibvirtFailure, Refusal, StreamError) as trouble:
            return Refusal(
                f"moving the disks of {ledger.name} failed: {said.problem}; and it is not known what has become of"
                f" them: {_said(trouble).problem}",
                outcome.UNDETERMINED,
                "run again, or recover.yml, when libvirt answers",
                outcome=outcome.UNDETERMINED,
                changed=True,
            )
        problem = f"moving the disks of {ledger.name} failed: {said.problem}"
        if moved:
            problem += f"; {', '.join(moved)} moved all the same"
        return Refusal(problem, said.failure_class, said.cure, outcome=outcome.FAILED, changed=bool(moved))

    def _settle(self, ledger: CopyLedger) -> List[str]:
        end = settle(ledger, self._host, self._request.local)
        self._result["warnings"] += end.warnings
        self._result.update(removed=end.removed, left_behind=end.left)
        self._request.worker.phase(statuses.FINISHING)
        return end.moved


def _said(error: Exception) -> Refusal:
    if isinstance(error, Refusal):
        return error
    if isinstance(error, LibvirtFailure):
        return refusal(error, "libvirt failed")
    return Refusal(f"{type(error).__name__}: {error}", "broke_down", "report this as a fault of the collection")


def _is_blank(path: str) -> bool:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return receiver.is_blank(handle)
    finally:
        os.close(handle)


def run(request: Request) -> Dict[str, Any]:
    """The module's result; a Refusal carries what the result has so far."""
    began = time.monotonic()
    result: Dict[str, Any] = {
        "changed": False,
        "name": request.options["name"],
        "warnings": [],
        "disks": [],
        "files": [],
    }
    host: Host | None = None
    failure: Refusal | None = None
    try:
        uri = request.options["uri"]
        if not uris.parse(uri, "uri").is_local:
            raise Refusal(
                f"uri: {uris.redact(uri)} leads to another host, and images are moved by the host that has them",
                "bad_option",
                "run virt_domblk_copy on that host",
            )
        host = connect(uri, request.options["connect_timeout"], "uri")
        return Relocation(request, host, result).run()
    except Refusal as error:
        failure = error
        error.details = {**result, "outcome": outcome.REFUSED, **error.details}
        raise
    except LibvirtFailure as error:
        failure = refusal(error, "libvirt failed", {}, **{**result, "outcome": outcome.FAILED})
        raise failure from error
    finally:
        result["duration_s"] = round(time.monotonic() - began, 3)
        _keep(request, result, failure)
        if host is not None:
            host.close()


def _keep(request: Request, result: Dict[str, Any], failure: Refusal | None) -> None:
    """The record of a run that has begun something is what it answers, but for the definitions."""
    if not result.get("run") or not (failure or result.get("outcome")):
        return
    said = {"failed": True, "msg": failure.message, **failure.result()} if failure is not None else {}
    record = {key: value for key, value in {**result, **said}.items() if key != "diff"}
    try:
        request.local.record_run(result["run"], {**record, "duration_s": result["duration_s"]})
    except OSError as error:
        result["warnings"].append(f"the record of the run cannot be written: {error}")
