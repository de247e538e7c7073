# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""One run of virt_migrate: the guest lives at the destination afterwards, and nowhere else."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping

from .._libvirt import Host, LibvirtFailure
from .._pure import checks, outcome
from .._pure import uri as uris
from .._pure.refusal import Refusal
from . import place as places
from .move import CURES, Move
from .place import Place
from .report import ALREADY_THERE, PLANNED, REFUSED, Report, Request
from .settle import Ledger, Settlement


def run(request: Request) -> Dict[str, Any]:
    """The module's result; a Refusal carries what the result has so far."""
    report = Report(request.options["name"])
    hosts: List[Host] = []
    try:
        return _run(request, report, hosts)
    except Refusal as error:
        error.details = {**report.finished(), "outcome": REFUSED, **error.details}
        raise
    except LibvirtFailure as error:
        raise places.refusal(error, "libvirt failed", **{**report.finished(), "outcome": REFUSED}) from error
    finally:
        for host in hosts:
            host.close()


def _run(request: Request, report: Report, hosts: List[Host]) -> Dict[str, Any]:
    options = request.options
    checks.check(options)
    source_uri = uris.parse(options["uri"], "uri")
    dest_uri = _dest_uri(options)
    timeout = options["connect_timeout"]

    source = places.connect(options["uri"], timeout, "uri")
    hosts.append(source)
    if request.facts_uuid == source.uuid:
        return _same_host(request, report, source, dest_uri)
    dest = places.connect(dest_uri, timeout, "dest_uri")
    hosts.append(dest)
    if dest.uuid == source.uuid:
        return _same_host(request, report, source, dest_uri)

    place = places.locate(source, dest, options["name"], options["dest_name"] or "")
    report.note_place(place, source, dest)
    if place.settled:
        return report.finished(outcome=ALREADY_THERE)
    move = Move(request, report, source, dest, place, local=request.local if source_uri.is_local else None)
    if place.movable:
        return move.run()
    if place.half_moved and options["postcopy_resume"]:
        return move.resume()
    return _settle_earlier(request, report, source, dest, place)


def _dest_uri(options: Mapping[str, Any]) -> str:
    if not options.get("dest_uri"):
        host = options.get("dest_host")
        raise Refusal(
            f"dest_host: {host!r} is an inventory name, and the bare module knows no inventory"
            if host
            else "no destination was given",
            "bad_option",
            "give dest_uri, for example qemu+ssh://root@kvm2/system",
        )
    return str(options["dest_uri"])


def _same_host(request: Request, report: Report, host: Host, dest_uri: str) -> Dict[str, Any]:
    name = request.options["name"]
    known = host.find(request.options["dest_name"] or name)
    place = places.same_host(host.uuid, host.uri, dest_uri, known, name)
    report.note_place(place, host, host)
    return report.finished(outcome=ALREADY_THERE)


def _settle_earlier(request: Request, report: Report, source: Host, dest: Host, place: Place) -> Dict[str, Any]:
    """The guest is on both hosts: finish what an earlier run has left, or say what stands in the way."""
    row = outcome.look_up(place.source_state, place.dest_state)
    if row.outcome != outcome.MIGRATED or outcome.UNDEFINE_SOURCE not in row.actions:
        said = outcome.say(row, place.name, source.hostname, dest.hostname, place.source_state, place.dest_state)
        raise Refusal(said, row.outcome, CURES[row.outcome], outcome=row.outcome)
    if not request.options["undefine_source"]:
        return report.finished(outcome=ALREADY_THERE)
    if request.check_mode:
        return report.finished(changed=True, outcome=PLANNED)
    ledger = Ledger(persistent=places.stays_persistent(place, request.options))
    end = Settlement(source, dest, place.name, place.uuid, ledger).settle()
    report.note_end(end)
    return report.finished(changed=True, outcome=end.row.outcome)
