# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""The move itself, once it is known that the guest is on the source and nothing is in its way at the destination."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Callable, Dict, List

from .._libvirt import Host, LibvirtFailure
from .._pure import domain_xml, jobstats, messages, outcome, storage
from .._pure import options as table
from .._pure import uri as uris
from .._pure.refusal import Refusal
from . import place as places
from .disks import Disks, Layout
from .job import Job
from .local import Local
from .place import Place
from .probe import Storage
from .report import MOVING, PLANNED, Report, Request
from .settle import End, Ledger, Settlement

# What a person does about an outcome that the engine must not touch.
CURES = {
    outcome.FAILED: "run again when the cause is removed",
    outcome.SPLIT_BRAIN: "find out which of the two is the right one, and destroy the other with virsh destroy",
    outcome.UNDETERMINED: "run again when both hosts answer and no job is going on",
    outcome.POSTCOPY: "restore the network between the hosts; destroy neither of the two",
    outcome.CRASH: "look at the end of /var/log/libvirt/qemu/NAME.log, then virsh destroy and start the VM",
    outcome.LOST: "restore the definition from a backup; the images are where they were",
    outcome.MIGRATED: "undefine it on the source when it is no longer needed there",
}


class Move:
    """Moves one guest. `local` is the source's own files where this machine is the source, else None."""

    def __init__(
        self, request: Request, report: Report, source: Host, dest: Host, place: Place, local: Local | None
    ) -> None:
        self._request = request
        self._options = request.options
        self._report = report
        self._source = source
        self._dest = dest
        self._place = place
        self._local = local
        self._source_pools = Storage(source, request.run_id, request.now)
        self._dest_pools = Storage(dest, request.run_id, request.now)

    def run(self) -> Dict[str, Any]:
        """Check everything, then move; nothing is changed before the last check has passed."""
        mode = self._check_guest()
        before = self._source.xml(self._place.uuid, inactive=True)
        layout = self._lay_out(mode)
        values = self._resolve(mode, layout)
        table.check_versions(values, {str(host): host.libvirt_version for host in (self._source, self._dest)})
        self._report.add(
            mode=mode,
            storage=storage.summary(layout.plans),
            transport="native",
            flags=table.flags(values),
            params={
                key: uris.redact(value) if isinstance(value, str) else value
                for key, value in table.params(values).items()
            },
            disks=[plan.result() for plan in layout.plans],
        )
        if self._request.check_mode:
            self._report.add(left_behind=self._left_behind(layout))
            return self._report.finished(changed=True, outcome=PLANNED, **self._diff(before, before))
        self._move(mode, layout, values)
        after = before
        if self._request.diff:
            with suppress(LibvirtFailure):
                after = self._dest.xml(self._place.uuid, inactive=True)
        return self._report.finished(**self._diff(before, after))

    # Before the move

    def _check_guest(self) -> str:
        mode = places.choose_mode(self._place, self._options)
        uuid = self._place.uuid
        if mode == "live" and self._source.job_active(uuid):
            raise Refusal(
                f"a job is going on with VM {self._place.name} on {self._source}",
                "busy",
                f"wait for its end, or end it: virsh domjobabort {self._place.name}",
            )
        if mode == "offline" and self._source.has_managed_save(uuid):
            raise Refusal(
                f"VM {self._place.name} has a saved state on {self._source}, which an offline move would leave there",
                "managed_save",
                f"start it, or give the state up: virsh managedsave-remove {self._place.name}",
            )
        return mode

    def _lay_out(self, mode: str) -> Layout:
        definition = domain_xml.parse(self._source.xml(self._place.uuid))
        self._check_facts()
        wish = storage.Wish(
            self._options["storage"],
            self._options["copy_storage"],
            tuple(self._options["migrate_disks"] or ()),
            self._options["unsafe"],
        )
        disks = Disks(definition, self._source_pools, self._dest_pools, self._request.run_id, self._local)
        return disks.lay_out(wish, mode == "offline", self._facts, self._options["force"])

    def _check_facts(self) -> None:
        self._facts = self._request.facts
        if self._facts is not None and self._request.facts_uuid != self._dest.uuid:
            self._report.warn(
                f"dest_uri leads to {self._dest}, which is not the host that dest_host names: its journal is not used"
            )
            self._facts = None

    def _resolve(self, mode: str, layout: Layout) -> Dict[str, Any]:
        """The options with what the evidence has made of them."""
        targets = [plan.target for plan in layout.copied]
        domain = self._place.at_source
        return {
            **self._options,
            "mode": mode,
            "copy_storage": "all" if targets else "none",
            "migrate_disks": targets or None,
            # A transient guest leaves no definition behind, and libvirt has nothing to undefine.
            "undefine_source": self._options["undefine_source"] and domain is not None and domain.persistent,
            "bandwidth": self._options["bandwidth"] or None,
        }

    def _left_behind(self, layout: Layout) -> List[Dict[str, Any]]:
        return [{"host": self._source.hostname, "target": plan.target, "path": plan.source} for plan in layout.copied]

    # The move

    def _move(self, mode: str, layout: Layout, values: Dict[str, Any]) -> None:
        place = self._place
        ledger = Ledger(
            ran=place.source_state == outcome.RUNNING,
            defined_at_dest_before=place.at_dest is not None,
            persistent=self._options["persistent"],
            undefine_source=self._options["undefine_source"],
            images=tuple(plan.source for plan in layout.copied),
        )
        params = {**table.params(values), **self._dest_xml(layout)}
        trouble = self._record(MOVING) or self._note_left_behind(layout)
        if trouble:
            raise Refusal(trouble, "not_permitted", "run as root (become: true)")
        self._remove_replaced(layout)
        job = Job(self._source, place.uuid, self._open_watcher)
        job.run(self._dest.uri, params, table.flags(values))

        settlement = Settlement(self._source, self._dest, place.name, place.uuid, ledger)
        end = settlement.settle()
        # Connections that broke on the way were opened anew.
        self._source, self._dest = settlement.source.host, settlement.dest.host
        self._report.note_end(end)
        self._report.add(series=job.series)
        if end.row.outcome == outcome.MIGRATED:
            self._succeed(mode, layout, job, end)
        else:
            self._fail(layout, job, end)

    def _dest_xml(self, layout: Layout) -> Dict[str, str]:
        """The running guest's XML for the destination, where its sparse disks would not stay sparse without it."""
        sparse = [plan.target for plan in layout.copied if self._is_sparse(plan.source)]
        if not sparse:
            return {}
        # With its secrets, and so in no result, log or journal.
        current = self._source.xml(self._place.uuid, migratable=True, secure=True)
        return {"destination_xml": domain_xml.keep_sparse(current, sparse)}

    def _is_sparse(self, path: str) -> bool:
        volume = self._source.volume(path)
        return volume is not None and volume.allocation < volume.capacity

    def _remove_replaced(self, layout: Layout) -> None:
        for path in layout.replaced:
            try:
                self._dest.delete_volume(path)
            except LibvirtFailure as error:
                self._forget_left_behind(layout)
                self._record(outcome.FAILED)
                raise places.refusal(
                    error, f"{path} on {self._dest} could not be replaced", outcome=outcome.FAILED
                ) from error

    def _open_watcher(self) -> Host:
        return Host.open(self._options["uri"], self._options["connect_timeout"])

    def _succeed(self, mode: str, layout: Layout, job: Job, end: End) -> None:
        self._report.add(left_behind=self._left_behind(layout))
        self._warn(self._note_left_behind(layout, final=True))
        self._carry_autostart()
        self._refresh_pools()
        if mode == "live":
            self._add_statistics(layout, job)
        if job.error is not None:
            self._report.warn(
                f"libvirt reported an error, and both hosts show that the VM has moved: {uris.redact(str(job.error))}"
            )
        if self._place.source_state == outcome.RUNNING and end.dest_state != outcome.RUNNING:
            self._report.warn(f"{self._place.name} ran before the move and is {end.dest_state} on {self._dest} now")
        self._report.finished(changed=True, outcome=outcome.MIGRATED)
        self._warn(self._record(outcome.MIGRATED))

    def _fail(self, layout: Layout, job: Job, end: End) -> None:
        place = self._place
        message = uris.redact(str(job.error)) if job.error else "libvirt reported success"
        known = messages.look_up(message)
        settled = end.row.outcome == outcome.FAILED
        if settled:
            self._warn(self._forget_left_behind(layout))
            self._refresh_pools()
        said = outcome.say(end.row, place.name, str(self._source), str(self._dest), end.source_state, end.dest_state)
        self._report.finished(changed=not settled, outcome=end.row.outcome, actions=end.done)
        failure_class = known.failure_class if settled else end.row.outcome
        self._report.add(failure_class=failure_class)
        self._warn(self._record(end.row.outcome))
        raise Refusal(
            f"moving {place.name} from {self._source} to {self._dest} failed: {message}; {said}",
            failure_class,
            (known.cure if settled else "") or CURES[end.row.outcome],
            known.role if settled else None,
            outcome=end.row.outcome,
        )

    def _carry_autostart(self) -> None:
        domain = self._place.at_source
        if domain is None or not domain.autostart:
            return
        try:
            if self._options["persistent"]:
                self._dest.set_autostart(self._place.uuid, True)
            if not self._options["undefine_source"]:
                # Both hosts know the VM: only one of them may start it by itself.
                self._source.set_autostart(self._place.uuid, False)
        except LibvirtFailure as error:
            self._report.warn(f"the autostart flag could not be carried over: {error}")

    def _refresh_pools(self) -> None:
        self._source_pools.host, self._dest_pools.host = self._source, self._dest
        self._report.warn(*self._source_pools.refresh_again(), *self._dest_pools.refresh_again())

    def _add_statistics(self, layout: Layout, job: Job) -> None:
        stats = job.last
        with suppress(LibvirtFailure):
            stats = self._dest.job_stats(self._place.uuid, completed=True) or stats
        # The destination's statistics know nothing of the disks, whose copy the source drove.
        record = {**jobstats.record(stats), "disk": jobstats.record(job.last)["disk"]}
        moved = record["disk"].get("bytes")
        for disk in self._report.result["disks"]:
            if disk["action"] == storage.COPY:
                # libvirt counts all disks together.
                disk["bytes"] = moved if len(layout.copied) == 1 else None
        self._report.add(**record)

    # What stays on the source

    def _note_left_behind(self, layout: Layout, final: bool = False) -> str:
        """Write the journal; returns what went wrong."""
        if not layout.copied:
            return ""
        if self._local is None:
            where = f"the images left on {self._source} are not in its journal: virt_migrate did not run there"
            return where if final else ""
        noted = []
        for image in self._left_behind(layout):
            # Without an identity the entry counts for nothing: only a finished run knows what it has left behind.
            identity = self._local.identity(image["path"]) if final else None
            noted.append(
                {
                    "path": image["path"],
                    "target": image["target"],
                    "run": self._request.run_id,
                    "phase": "left_behind" if final else MOVING,
                    "left_at": int(self._request.now),
                    **(identity or {}),
                }
            )
        return _tried(lambda local: local.leave_behind(self._place.uuid, self._place.name, noted), self._local)

    def _forget_left_behind(self, layout: Layout) -> str:
        paths = [plan.source for plan in layout.copied]
        return _tried(lambda local: local.forget(self._place.uuid, paths), self._local)

    def _record(self, phase: str) -> str:
        record = {**self._report.result, "outcome": phase, "run": self._request.run_id}
        return _tried(lambda local: local.record_run(self._request.run_id, record), self._local)

    def _warn(self, text: str) -> None:
        if text:
            self._report.warn(text)

    def _diff(self, before: str, after: str) -> Dict[str, Any]:
        if not self._request.diff:
            return {}
        source, dest = places.label(self._source), places.label(self._dest)
        name = self._place.name
        return {
            "diff": [
                {
                    "before_header": name,
                    "after_header": name,
                    "before": f"host: {source}\n",
                    "after": f"host: {dest}\n",
                },
                {
                    "before_header": f"{name} on {source}",
                    "after_header": f"{name} on {dest}",
                    "before": before,
                    "after": after,
                },
            ]
        }


def _tried(act: Callable[[Local], None], local: Local | None) -> str:
    """What went wrong with the journal, or nothing: once the guest may have moved, it must not stop the answer."""
    if local is not None:
        try:
            act(local)
        except OSError as error:
            return f"the journal cannot be written: {error}"
    return ""
