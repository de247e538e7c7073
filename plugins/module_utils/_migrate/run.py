# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""One run of virt_migrate: the guest lives at the destination afterwards, and nowhere else."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import Any, Dict, List, Mapping

from .._images.carry import way_to
from .._libvirt import MIGRATION_OUT, Host, LibvirtFailure
from .._pure import domain_xml, outcome
from .._pure import status as statuses
from .._pure import uri as uris
from .._pure.refusal import Refusal
from . import place as places
from .disks import Layout
from .ending import CURES, tried
from .ledger import Ledger
from .links import Links
from .move import Move
from .place import Place
from .recover import Recovery, unfinished
from .relocated import settle_earlier
from .report import Report, Request
from .settle import Settlement
from .survey import Survey, note, note_pools

# Between two looks at a job that somebody else has begun, in seconds.
JOB_STEP = 1.0
# Seconds that a run which was asked to end gets for it, and a job that was aborted.
END_PATIENCE = 120.0


def run(request: Request) -> Dict[str, Any]:
    """The module's result; a Refusal carries what the result has so far."""
    with Links() as links:
        return run_through(links, request)


def run_through(links: Links, request: Request) -> Dict[str, Any]:
    """The same by connections that others use, too."""
    report = Report(request.options["name"], request.now)
    try:
        result = _run(request, report, links)
    except Refusal as error:
        error.details = {**report.finished(), "outcome": outcome.REFUSED, **error.details}
        _keep(request, report, {"failed": True, "msg": error.message, **error.result()})
        raise
    except LibvirtFailure as error:
        known_as = {"name": request.options["name"]}
        said = places.refusal(error, "libvirt failed", known_as, **{**report.finished(), "outcome": outcome.REFUSED})
        _keep(request, report, {"failed": True, "msg": said.message, **said.result()})
        raise said from error
    _keep(request, report, result)
    return result


def _keep(request: Request, report: Report, result: Mapping[str, Any]) -> None:
    """The record of a run that has begun to change something is what it answers, but for the definitions."""
    if report.recorded:
        record = {key: value for key, value in request.cleaned(dict(result)).items() if key != "diff"}
        trouble = tried(lambda local: local.record_run(report.recorded, record), request.local)
        if trouble:
            report.warn(trouble)


def _run(request: Request, report: Report, links: Links) -> Dict[str, Any]:
    options = request.options
    source_uri = uris.parse(options["uri"], "uri")
    timeout = options["connect_timeout"]
    moves = not (options["cancel"] or options["cleanup"])
    with report.findings.must("source_connection") if moves else nullcontext():
        source = links.connect(options["uri"], timeout, "uri")
    relocated = settle_earlier(request, source, report.result) if source_uri.is_local else []
    if not moves:
        aborted = options["cancel"] and _abort(request, source)
        return _clean_up(request, report, source, links.hosts, aborted, relocated)

    dest_uri = options["dest_uri"]
    if request.facts_uuid == source.uuid:
        return _same_host(request, report, source, dest_uri)
    if source_uri.is_local and request.copy.only_stopped and _is_stopped(source, options["name"]):
        links.ahead.begin(way_to(dest_uri, options["migrate_uri"]), timeout)
    dest: Host | None = None
    with report.findings.of("dest_connection"):
        dest = links.connect(dest_uri, timeout, "dest_uri")
    if dest is None:
        raise _unreached(request, report, source)
    if dest.uuid == source.uuid:
        return _same_host(request, report, source, dest_uri)
    with report.findings.must("hosts"):
        # They are two.
        pass
    request.worker.say(source=str(source), dest=str(dest))

    if source_uri.is_local:
        finished = _settle_unfinished(request, report, source, dest, links.hosts)
        request.worker.say(phase=statuses.CHECKING)
        if finished is not None:
            return report.finished(**finished)
    with report.findings.must("guest"):
        place = _locate(request, source, dest)
    report.note_place(place, source, dest)
    if place.settled or (not options["undefine_source"] and places.defined_twice(source, dest, place)):
        return report.finished(outcome=outcome.ALREADY_THERE)
    move = Move(request, report, source, dest, place, request.local if source_uri.is_local else None, links)
    if place.half_moved and options["postcopy_resume"]:
        return move.resume()
    with report.findings.must("place"):
        if not place.movable:
            return _settle_earlier(request, report, source, dest, place)
    return move.run()


def _unreached(request: Request, report: Report, source: Host) -> Refusal:
    """The refusal, with what else is in the way by what the destination said of itself through another login."""
    options = request.options
    domain, said = source.find(options["name"]), (request.facts or {}).get("host", {})
    if domain is None or not said.get("facts") or options["preflight"] == "skip":
        return report.findings.refusal
    mode = "live" if domain.active else "offline"
    text = source.xml(domain.uuid)
    local = request.local if uris.parse(options["uri"]).is_local else None
    look = Survey(domain.name, mode, options, source, None, None, said["facts"], local, said["hostname"])
    definition = domain_xml.parse(text)
    case = look.case(text, "", Layout(), definition, {})
    note_pools(case, definition, request.facts or {}, report)
    note(case, report, options["preflight"])
    return report.findings.refusal


def _is_stopped(host: Host, name: str) -> bool:
    domain = host.find(name)
    return domain is not None and not domain.active


def _same_host(request: Request, report: Report, host: Host, dest_uri: str) -> Dict[str, Any]:
    name = request.options["name"]
    known = host.find(request.options["dest_name"] or name)
    with report.findings.must("hosts"):
        place = places.same_host(host.uuid, host.uri, dest_uri, known, name)
    report.note_place(place, host, host)
    return report.finished(outcome=outcome.ALREADY_THERE)


def _locate(request: Request, source: Host, dest: Host) -> Place:
    """Where the guest is, once a job that somebody else has begun is over, where that was to be waited for."""
    options = request.options
    place = places.locate(source, dest, options["name"], options["dest_name"] or "")
    waits = options["wait_for_job"] and not request.check_mode and place.at_source is not None
    if not waits or not source.job_active(place.uuid):
        return place
    while source.find_uuid(place.uuid) is not None and source.job_active(place.uuid):
        request.worker.say(phase="waiting for the job that goes on")
        wish = request.worker.wish()
        if wish is not None:
            raise Refusal(f"{options['name']} was waited for, and {wish[1]}", wish[0], "run again when it is wanted")
        time.sleep(JOB_STEP)
    return places.locate(source, dest, options["name"], options["dest_name"] or "")


# What earlier runs have left


def _settle_unfinished(
    request: Request, report: Report, source: Host, dest: Host, hosts: List[Host]
) -> Dict[str, Any] | None:
    """Settle what killed runs have left of this VM; the answer where one of them has done what this one shall do."""
    recovery = Recovery(request, report, source, hosts)
    finished = None
    for ledger in unfinished(request):
        if request.check_mode:
            report.warn(f"run {ledger.run} of {ledger.name} to {ledger.dest_host} is not settled; a real run does it")
            continue
        if recovery.settle(ledger, {dest.uuid: dest}) != outcome.MIGRATED:
            continue
        if ledger.dest_uuid != dest.uuid:
            raise Refusal(
                f"{ledger.name} was on its way to {ledger.dest_host} and is there now",
                "moved_elsewhere",
                "run again: it moves on from there",
                outcome=outcome.MIGRATED,
                changed=True,
            )
        finished = recovery.answer()
    return finished


def _settle_earlier(request: Request, report: Report, source: Host, dest: Host, place: Place) -> Dict[str, Any]:
    """The guest is on both hosts: finish what an earlier run has left, or say what stands in the way."""
    row = outcome.look_up(place.source_state, place.dest_state)
    if row.outcome != outcome.MIGRATED or outcome.UNDEFINE_SOURCE not in row.actions:
        said = outcome.say(row, place.name, source.hostname, dest.hostname, place.source_state, place.dest_state)
        raise Refusal(said, row.outcome, CURES[row.outcome].format(name=place.name), outcome=row.outcome)
    if not request.options["undefine_source"]:
        return report.finished(outcome=outcome.ALREADY_THERE)
    if request.check_mode:
        return report.finished(changed=True, outcome=outcome.PLANNED)
    persistent = places.stays_persistent(place, request.options)
    ledger = Ledger(name=place.name, uuid=place.uuid, persistent=persistent)
    end = Settlement(source, dest, ledger).settle()
    report.note_end(end)
    return report.finished(changed=True, outcome=end.row.outcome)


def _clean_up(
    request: Request, report: Report, source: Host, hosts: List[Host], aborted: bool, relocated: List[str]
) -> Dict[str, Any]:
    """Settle every unfinished run of this VM, and begin no new one."""
    ledgers = unfinished(request)
    if not ledgers and relocated:
        return report.finished(outcome=relocated[-1])
    if not ledgers:
        # A job that was aborted has left the VM where it was.
        return report.finished(changed=aborted, outcome=outcome.FAILED if aborted else outcome.NOTHING)
    if request.check_mode:
        return report.finished(changed=True, outcome=outcome.PLANNED)
    recovery = Recovery(request, report, source, hosts)
    last = ""
    for ledger in ledgers:
        last = recovery.settle(ledger, {})
    # A post-copy that has failed is left as it is.
    return report.finished(changed=last != outcome.POSTCOPY, outcome=last)


def _abort(request: Request, source: Host) -> bool:
    """End a migration of this VM that no run of ours watches any more; whether there was one."""
    domain = source.find(request.options["name"])
    if domain is None or not domain.active or not source.job_active(domain.uuid):
        return False
    try:
        operation = source.job_stats(domain.uuid).get("operation")
    except LibvirtFailure:
        # The other end of a migration tells nothing of it.
        return False
    if operation != MIGRATION_OUT:
        raise Refusal(
            f"the job of {domain.name} on {source} is no migration",
            "busy",
            f"see virsh domjobinfo {domain.name}",
        )
    if request.check_mode:
        return True
    source.abort_job(domain.uuid)
    deadline = time.monotonic() + END_PATIENCE
    while source.find_uuid(domain.uuid) is not None and source.job_active(domain.uuid):
        if time.monotonic() > deadline:
            raise Refusal(f"the migration of {domain.name} does not end", "busy", "run again, or recover later")
        time.sleep(JOB_STEP)
    return True
