# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""What a killed run has left is finished, or taken back, by the next one, from its ledger and both hosts' states."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, List, Mapping

from .._libvirt import Host, LibvirtFailure, NotFound
from .._pure import outcome, schedule
from .._pure import uri as uris
from .._pure.refusal import Refusal
from .._pure.schedule import Size
from . import place as places
from . import worker as workers
from .ending import Ending
from .job import Job, Watch
from .ledger import Image, Ledger
from .limits import Limits
from .place import Place, state_of
from .probe import Storage
from .report import Report, Request


def unfinished(request: Request) -> List[Ledger]:
    """The ledgers of runs with this VM that were not settled."""
    name = request.options["name"]
    return [ledger for ledger in request.local.unfinished() if name in (ledger.name, ledger.dest_name)]


class Recovery:
    """Settles one run whose process is gone. `hosts` gets the connections that it opens."""

    def __init__(self, request: Request, report: Report, source: Host, hosts: List[Host]):
        self._request = request
        self._report = report
        self._source = source
        self._hosts = hosts
        # Of the run that was settled last.
        self._last = report

    def settle(self, ledger: Ledger, known: Mapping[str, Host]) -> str:
        """The outcome of that run; raises Refusal where it cannot be told, or where nothing may be touched."""
        dest = known.get(ledger.dest_uuid) or self._open(ledger)
        place = self._place(ledger, dest)
        if outcome.look_up(place.source_state, place.dest_state).outcome == outcome.POSTCOPY:
            # Only postcopy_resume may touch it.
            return outcome.POSTCOPY
        report = Report(ledger.name, self._request.now)
        report.note_place(place, self._source, dest)
        report.add(mode=ledger.mode)
        job = self._job(ledger)
        if place.at_source is not None and self._source.job_active(ledger.uuid):
            self._request.worker.say(name=ledger.name, source=str(self._source), dest=str(dest), adopted=ledger.run)
            job.attach()
        self._take_stock(ledger, dest)
        ending = Ending(ledger, report, self._source, dest, self._request.local, self._request.worker)
        end = ending.settle(job)
        if end.row.outcome == outcome.MIGRATED:
            ending.succeed(job, end)
        else:
            refusal = ending.fail(job, end)
            if end.row.outcome != outcome.FAILED:
                refusal.details = {**report.finished(), **refusal.details}
                raise refusal
        self._report.warn(*report.result["warnings"])
        workers.forget(ledger.run)
        settled = {"run": ledger.run, "outcome": end.row.outcome, "actions": report.result["actions"]}
        self._report.result.setdefault("settled", []).append(settled)
        self._last = report
        return end.row.outcome

    def answer(self) -> Dict[str, Any]:
        """What the run would have answered, as far as it can still be told."""
        return {key: value for key, value in self._last.result.items() if key not in ("warnings", "duration_s")}

    def _open(self, ledger: Ledger) -> Host:
        uri = self._way(ledger)
        try:
            host = Host.open(uri, self._request.options["connect_timeout"])
        except LibvirtFailure as error:
            raise places.refusal(
                error,
                f"run {ledger.run} of {ledger.name} to {ledger.dest_host} is not settled, and that host is silent",
                {"name": ledger.name, "source": str(self._source), "dest": ledger.dest_host, "host": ledger.dest_host},
                outcome=outcome.UNDETERMINED,
            ) from error
        self._hosts.append(host)
        if host.uuid != ledger.dest_uuid:
            raise Refusal(
                f"run {ledger.run} of {ledger.name} went to {ledger.dest_host} (UUID {ledger.dest_uuid}), and"
                f" {uris.redact(uri)} leads to another host",
                "other_host",
                "let that URI lead to the host again",
                outcome=outcome.UNDETERMINED,
            )
        return host

    def _way(self, ledger: Ledger) -> str:
        """The URI of the run's destination: a password of it is in no ledger, and must be said again."""
        options = self._request.options
        if not uris.lost_password(ledger.dest_uri):
            return ledger.dest_uri
        # That of a move leads elsewhere: it was tried before.
        if options["dest_uri"] and options["cleanup"]:
            return str(options["dest_uri"])
        raise Refusal(
            f"run {ledger.run} of {ledger.name} to {ledger.dest_host} is not settled: its dest_uri {ledger.dest_uri}"
            " had a password, which is kept nowhere",
            "password_needed",
            f"run virt_migrate on {self._source} with cleanup: true and that dest_uri with its password again",
            outcome=outcome.UNDETERMINED,
        )

    def _place(self, ledger: Ledger, dest: Host) -> Place:
        return Place(ledger.name, ledger.uuid, self._source.find_uuid(ledger.uuid), dest.find_uuid(ledger.uuid))

    def _job(self, ledger: Ledger) -> Job:
        options = self._request.options
        steps = schedule.without(schedule.build(options), schedule.AUTO_CONVERGE)

        def note_suspended() -> None:
            ledger.suspended = True
            self._request.local.open_run(ledger)

        return Job(
            self._source,
            ledger.uuid,
            lambda: places.watcher(options),
            Watch(statistics=ledger.mode != "offline", steps=steps, size=Size(0, None)),
            Limits(ledger.uuid, ledger.limits),
            self._request.worker,
            note_suspended,
        )

    def _take_stock(self, ledger: Ledger, dest: Host) -> None:
        """What of the ledger still holds: a run that was killed may not have come so far."""
        domain = self._source.find_uuid(ledger.uuid)
        if ledger.ran and domain is not None and not ledger.suspended and domain.reason != "migration":
            # Whoever has stopped the guest since then wanted that.
            ledger.ran = state_of(domain) == outcome.RUNNING
        pools = Storage(dest, ledger.run, self._request.now)
        pools.refresh_those_of([image.dest for image in ledger.images])
        ledger.images = tuple(_as_marked(image, dest) for image in ledger.images)


def _as_marked(image: Image, dest: Host) -> Image:
    """Without its mark at the destination an image there is not known to be the run's."""
    try:
        there = bool(image.marker) and dest.volume(image.marker) is not None
    except NotFound:
        there = False
    return image if there else replace(image, marker="")
