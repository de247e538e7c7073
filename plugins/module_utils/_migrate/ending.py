# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""How a run ends: where the guest is, what is still to be done about it, and what is answered.

All that it needs is in the ledger of the run, so that the run's own process can do it or, where that was killed, the
next one.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any, Callable, Dict, List, Mapping, Tuple

from .._images import carry
from .._images.stream import StreamError
from .._libvirt import Host, LibvirtFailure
from .._pure import jobstats, messages, outcome, storage
from .._pure import status as statuses
from .._pure import uri as uris
from .._pure.refusal import Refusal
from . import guest, moments
from . import worker as workers
from .job import Job
from .ledger import Image, Ledger
from .local import Local
from .place import names
from .probe import Storage
from .report import Report
from .settle import End, Settlement
from .worker import Worker

# What a stream that ended in the middle may look like.
CUT = ("connection_lost", "stream", "guest_died")
# Of a job that was ended from here, by failure class.
GIVEN_UP_CURES = {
    "not_converged": "give it more bandwidth or a higher max_downtime, or let policy: must_complete bring it to an end",
    "no_statistics": "look at the libvirt daemon on the source, then run again",
    workers.CANCELLED: "run again when it is wanted",
    workers.CONTROLLER_LOST: "run again, or say on_controller_loss: continue",
}
# What a person does about an outcome that the engine must not touch.
CURES = {
    outcome.FAILED: "run again when the cause is removed",
    outcome.SPLIT_BRAIN: "find out which of the two is the right one, and destroy the other with virsh destroy",
    outcome.UNDETERMINED: "run again when both hosts answer and no job is going on",
    "paused": "find out by /var/log/libvirt/qemu/{name}.log on {dest} whether it has run there: if so, virsh destroy"
    " {name} on {source}, else virsh resume {name} there; then run again",
    outcome.POSTCOPY: "restore the network between the hosts, then run again with postcopy_resume: true (since libvirt"
    " 8.5.0); destroy neither of the two",
    outcome.CRASH: "look at the end of /var/log/libvirt/qemu/{name}.log, then virsh destroy and start the VM",
    outcome.LOST: "restore the definition from a backup; the images are where they were",
    "guest_died": "look at the end of /var/log/libvirt/qemu/{name}.log on both hosts, and start it again",
    outcome.MIGRATED: "undefine it on the source when it is no longer needed there",
}
# Seconds for a login at the destination.
CONNECT_TIMEOUT = 10.0
# Outcomes after which nothing of the run is left to do.
SETTLED = (outcome.MIGRATED, outcome.FAILED, outcome.CRASH, outcome.LOST)


class Ending:
    """The end of one run. `local` is the source's own files where this machine is the source, else None."""

    def __init__(
        self,
        ledger: Ledger,
        report: Report,
        source: Host,
        dest: Host,
        local: Local | None,
        worker: Worker,
        pools: Tuple[Storage, Storage] | None = None,
    ):
        self._ledger = ledger
        self._pools = pools
        self._report = report
        self._source = source
        self._dest = dest
        self._local = local
        self._worker = worker
        # Whether something of the run is still at the destination, so that it must be settled once more.
        self._leftover = False

    def settle(self, job: Job) -> End:
        """Look at both hosts, and do what may safely be done."""
        self._worker.phase(statuses.MOVED)
        settlement = Settlement(
            self._source,
            self._dest,
            self._ledger,
            witnessed=job.begun_here,
            tell=lambda text: self._worker.say(waits=text, elapsed=job.elapsed()),
        )
        end = settlement.settle()
        # Connections that broke on the way were opened anew.
        self._source, self._dest = settlement.source.host, settlement.dest.host
        self._report.note_end(end)
        self._report.add(
            series=job.series or self._report.result["series"],
            actions=job.actions + [_cleanup(job, what) for what in end.done],
            progress=job.progress(finished=end.row.outcome == outcome.MIGRATED),
            downtime_limit_ms=job.downtime_limit,
        )
        self._worker.phase(statuses.SETTLED)
        return end

    @property
    def hosts(self) -> List[Host]:
        return [self._source, self._dest]

    def succeed(self, job: Job, end: End) -> None:
        """The guest is at the destination: let it and its images be there as they were here."""
        self._reconnect()
        self._report.add(left_behind=self.left_behind())
        self._warn(self.note_left_behind(final=True))
        self._wake(end)
        self._carry_autostart()
        self._report.warn(*moments.confirm(self._ledger, self._dest))
        self._remove_markers()
        self._remove_sources()
        self._refresh_pools()
        if self._ledger.mode != "offline":
            self._add_statistics(job)
        if job.error is not None:
            self._report.warn(
                f"libvirt reported an error, and both hosts show that the VM has moved: {uris.redact(str(job.error))}"
            )
        stays_paused = self._ledger.suspend and end.dest_state == outcome.PAUSED
        if self._ledger.ran and end.dest_state != outcome.RUNNING and not stays_paused:
            self._report.warn(f"{self._ledger.name} ran before the move and is {end.dest_state} on {self._dest} now")
        if self._ledger.sync_time and end.dest_state == outcome.RUNNING:
            guest.set_clock(self._ledger, self._report, self._dest)
        self._worker.phase(statuses.FINISHING)
        self._report.finished(changed=True, outcome=outcome.MIGRATED)
        self._conclude(outcome.MIGRATED)

    def fail(self, job: Job, end: End) -> Refusal:
        """The guest is not at the destination: leave nothing of the run where it is not; the refusal that says so."""
        ledger = self._ledger
        known_as = names(ledger.name, self._source, self._dest)
        message, known = self._message(job, known_as)
        if known.failure_class in CUT and end.disk_error:
            # QEMU has cut the stream for that; what libvirt hears of first is chance.
            message = f"{messages.DISK_ERROR}; {message}"
            known = messages.look_up(messages.DISK_ERROR, **known_as)
        settled = end.row.outcome == outcome.FAILED
        if settled:
            self._reconnect()
            if end.source_state in outcome.ACTIVE:
                self._report.warn(*job.restore(self._source))
            self.take_back()
            self._warn(self.forget_left_behind())
            self._remove_markers()
            self._report.warn(*guest.remove_nvram(self._ledger, self._storages()[1]))
            self._refresh_pools()
        elif end.row.outcome == outcome.LOST:
            self._take_back_unfinished()
        if end.row.outcome in SETTLED and not settled:
            # Nobody is going to ask by which run the images were made.
            self._reconnect()
            self._remove_markers()
        self._worker.phase(statuses.FINISHING)
        said = outcome.say(end.row, ledger.name, str(self._source), str(self._dest), end.source_state, end.dest_state)
        self._report.finished(changed=not settled, outcome=end.row.outcome)
        failure_class, cure = end.row.outcome, CURES[_cure(end)].format(**known_as)
        if settled and job.given_up is not None:
            failure_class, reason = job.given_up
            message, cure = f"it was given up: {reason} ({message})", GIVEN_UP_CURES[failure_class]
        elif settled and ledger.mode != "offline" and end.source_state == outcome.SHUT_OFF:
            # Whatever libvirt has noticed of it first.
            failure_class, cure = "guest_died", CURES["guest_died"].format(name=ledger.name)
        elif settled:
            failure_class, cure = known.failure_class, known.cure
        self._report.add(failure_class=failure_class)
        self._conclude(end.row.outcome)
        return Refusal(
            f"moving {ledger.name} from {self._source} to {self._dest} failed: {message}; {said}",
            failure_class,
            cure,
            known.role if settled and job.given_up is None else None,
            outcome=end.row.outcome,
        )

    def take_back(self) -> None:
        """Remove the files that were sent; while that cannot be done, the run is not settled."""
        ledger = self._ledger
        try:
            self._report.warn(*carry.take_back(ledger.carried, ledger.way, ledger.run, CONNECT_TIMEOUT))
        except (Refusal, StreamError) as error:
            said = error.problem if isinstance(error, Refusal) else str(error)
            raise Refusal(
                f"{ledger.name} is where it was, and what was sent to {self._dest} is still there: {said}",
                outcome.UNDETERMINED,
                "run again, or recover.yml, when that host answers",
                outcome=outcome.UNDETERMINED,
            ) from error

    def _take_back_unfinished(self) -> None:
        ledger = self._ledger
        try:
            said = carry.take_back_unfinished(ledger.carried, ledger.way, ledger.run, CONNECT_TIMEOUT)
        except (Refusal, StreamError) as error:
            said = [f"what was sent to {self._dest} is still there: {getattr(error, 'problem', error)}"]
        self._report.warn(*said)

    def _remove_sources(self) -> None:
        """Remove what was copied, where that was asked for and the guest is defined nowhere else."""
        gone, warnings = carry.remove_sources(self._ledger.remove)
        self._report.warn(*warnings)
        if gone:
            left = [one for one in self._report.result["left_behind"] if one["path"] not in gone]
            self._report.add(left_behind=left, removed=gone)
            self._warn(tried(lambda local: local.forget(self._ledger.uuid, gone), self._local))

    def _message(self, job: Job, known_as: Mapping[str, str]) -> Tuple[str, messages.Known]:
        """What libvirt said about it, or would have said, and what is known of that."""
        said = str(job.error) if job.error else "libvirt reported no error"
        reasons: List[str] = []
        if messages.is_overwritten(said) and self._local is not None:
            alone = all(run["name"] == self._ledger.name for run in workers.live())
            # The clock and the journal's may differ by a little.
            reasons = messages.reasons(self._local.daemon_errors(time.time() - job.elapsed() - 0.1), alone)
        known = [messages.look_up(one, **known_as) for one in reasons or [said]]
        if len({(one.failure_class, one.cure) for one in known}) > 1:
            # Whose is whose is not known.
            known = [messages.look_up(said, **known_as)]
        if len(reasons) > 1:
            said += f"; the libvirt daemon has logged then, of this VM or of others that moved: {'; '.join(reasons)}"
        elif reasons:
            said = reasons[0]
        return messages.shortened(uris.redact(said)), known[0]

    def _conclude(self, what: str) -> None:
        self._warn(self.record(what))
        if what in SETTLED and not self._leftover:
            self._warn(tried(lambda local: local.close_run(self._ledger.run), self._local))

    # At the destination

    def _wake(self, end: End) -> None:
        """Let a guest go on that was stopped for the end of the job only, where libvirt has not done it."""
        if not self._ledger.suspended or end.dest_state != outcome.PAUSED or self._ledger.suspend:
            return
        try:
            self._dest.resume(self._ledger.uuid)
        except LibvirtFailure as error:
            self._report.warn(f"{self._ledger.name} could not be resumed on {self._dest}: {error}")
            return
        end.dest_state = self._report.result["dest"]["state"] = outcome.RUNNING

    def _carry_autostart(self) -> None:
        ledger = self._ledger
        try:
            there = self._dest.find_uuid(ledger.uuid)
            if ledger.persistent and there is not None and there.persistent and there.autostart != ledger.autostart:
                self._dest.set_autostart(ledger.uuid, ledger.autostart)
            if ledger.autostart and not ledger.undefine_source:
                # Both hosts know the VM: only one of them may start it by itself.
                self._source.set_autostart(ledger.uuid, False)
        except LibvirtFailure as error:
            self._report.warn(f"the autostart flag could not be carried over: {error}")

    def _reconnect(self) -> None:
        """A daemon may have been started anew since both hosts were asked."""
        self._source, self._dest = self._alive(self._source), self._alive(self._dest)

    def _alive(self, host: Host) -> Host:
        try:
            host.find_uuid(self._ledger.uuid)
        except LibvirtFailure:
            with suppress(LibvirtFailure):
                again = Host.open(host.uri, CONNECT_TIMEOUT, patience=CONNECT_TIMEOUT)
                host.close()
                return again
        return host

    def _remove_markers(self) -> None:
        for image in self._ledger.images:
            try:
                if image.marker and self._dest.volume(image.marker) is not None:
                    self._dest.delete_volume(image.marker)
            except LibvirtFailure as error:
                self._leftover = True
                self._report.warn(
                    f"{image.marker} on {self._dest} could not be removed ({error}); the next run with"
                    f" {self._ledger.name}, or recover.yml, does it"
                )

    def _refresh_pools(self) -> None:
        """libvirt shall know of the images that have come and gone."""
        if not self._ledger.images:
            return
        source, dest = self._storages()
        self._report.warn(
            *source.refresh_those_of([image.source for image in self._ledger.images]),
            *dest.refresh_those_of([image.dest for image in self._ledger.images]),
        )

    def _storages(self) -> Tuple[Storage, Storage]:
        source, dest = self._pools or (Storage(host, self._ledger.run, 0.0) for host in self.hosts)
        source.host, dest.host = self._source, self._dest
        return source, dest

    def _add_statistics(self, job: Job) -> None:
        stats = job.last
        with suppress(LibvirtFailure):
            stats = self._dest.job_stats(self._ledger.uuid, completed=True) or stats
        # The destination's statistics know nothing of the disks, whose copy the source drove.
        seen = jobstats.record(job.last)
        record = {**jobstats.record(stats), "disk": seen["disk"]}
        # What a finished job does not tell any more is as it was seen last.
        record["memory"] = {**seen["memory"], **record["memory"]}
        moved = record["disk"].get("bytes")
        for disk in self._report.result["disks"]:
            if disk["action"] == storage.COPY:
                # libvirt counts all disks together.
                disk["bytes"] = moved if len(self._ledger.images) == 1 else None
        self._report.add(**record)

    # What stays on the source

    def left_behind(self) -> List[Dict[str, Any]]:
        return [
            {"host": self._source.hostname, "target": image.target, "path": image.source} for image in self._ledger.left
        ]

    def note_left_behind(self, final: bool = False) -> str:
        """Write the journal; returns what went wrong."""
        if not self._ledger.left:
            return ""
        if self._local is None:
            where = f"the images left on {self._source} are not in its journal: virt_migrate did not run there"
            return where if final else ""
        noted = [self._entry(image, self._local, final) for image in self._ledger.left]
        return tried(lambda local: local.leave_behind(self._ledger.uuid, self._ledger.name, noted), self._local)

    def _entry(self, image: Image, local: Local, final: bool) -> Dict[str, Any]:
        # The running guest still writes: until it has left, only the file itself can be named, not its content.
        identity = local.identity(image.source) or {}
        if not final:
            identity = {key: value for key, value in identity.items() if key in ("inode", "device")}
        return {
            "path": image.source,
            "target": image.target,
            "run": self._ledger.run,
            "phase": "left_behind" if final else statuses.MOVING,
            "left_at": self._report.began,
            **identity,
        }

    def forget_left_behind(self) -> str:
        paths = [image.source for image in self._ledger.left]
        return tried(lambda local: local.forget(self._ledger.uuid, paths), self._local)

    def record(self, phase: str) -> str:
        """Keep what is known so far; the run's own process completes it by its answer, see `run.py`."""
        run = self._ledger.run
        self._report.note_run(run, self._worker.steps, recorded=self._local is not None)
        record = {**self._report.result, "outcome": phase}
        return tried(lambda local: local.record_run(run, record), self._local)

    def _warn(self, text: str) -> None:
        if text:
            self._report.warn(text)


def _cure(end: End) -> str:
    """What helps, as CURES has it: some of what cannot be told is told well enough for that."""
    if end.row in (outcome.SENT, outcome.UNPROVEN):
        return "paused"
    torn = outcome.POSTCOPY_FAILED in (end.source_state, end.dest_state)
    return outcome.POSTCOPY if torn and end.row.outcome == outcome.UNDETERMINED else end.row.outcome


def _cleanup(job: Job, what: str) -> Dict[str, Any]:
    return {"t": round(job.elapsed(), 3), "action": what, "value": None, "reason": "left by the job"}


def tried(act: Callable[[Local], None], local: Local | None) -> str:
    """What went wrong with the journal, or nothing: once the guest may have moved, it must not stop the answer."""
    if local is not None:
        try:
            act(local)
        except OSError as error:
            return f"the journal cannot be written: {error}"
    return ""
