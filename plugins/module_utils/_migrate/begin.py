# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""Begins a run, in this process or in one of its own that a controller watches, or joins the one that goes on.

Both moves are begun so, to another host and to another place on the same one: either finds the other at its VM.
"""

from __future__ import annotations

import os
import time
from typing import Any, Dict, List, Mapping

from .._answer import Act, kept
from .._pure import options as table
from .._pure import outcome
from .._pure import uri as uris
from .._pure.refusal import Refusal
from . import worker as workers
from .report import Report
from .run import END_PATIENCE
from .worker import Held, Worker

# A run that is joined ends when it ends.
JOIN_PATIENCE = 7 * 24 * 3600.0
# What a run was told besides the options of virt_migrate, as a person calls it.
COPIES = "copies of the disks"
# What is told of a run that was ended.
ENDED = ("name", "uuid", "source", "dest", "actions")


def new_worker(options: Mapping[str, Any], told: Mapping[str, Any]) -> Worker:
    """The run of one call, which nobody has begun yet.

    It was `told` options of virt_migrate, as `_pure.options` has it, and the COPIES, as `_pure.domblk` has it.
    """
    run_id = f"{int(time.time())}-{os.urandom(4).hex()}"
    return Worker(run_id, options["name"], options["on_controller_loss"] if options["_watch"] else "", told)


def begin(module: Any, options: Mapping[str, Any], worker: Worker, act: Act) -> Dict[str, Any]:
    """The result of `act`, or of a run that does the same; `run` and `watching` for a controller that watches it."""
    if module.check_mode:
        return would_join(options, worker.told) or act()
    while True:
        try:
            worker.take()
            break
        except Held as held:
            joined = _join(options, worker.told, held.status)
            if joined is not None:
                return joined
    if options["_watch"] and worker.detach(lambda: kept(module, act)):
        return {"changed": False, "run": worker.run_id, "watching": True}
    try:
        return act()
    finally:
        worker.leave()


def would_join(options: Mapping[str, Any], own: Mapping[str, Any]) -> Dict[str, Any] | None:
    """What check mode says of a VM that a run is at: a real call joins that run, or is refused; None where none is."""
    status = next((run for run in workers.live() if run["name"] == options["name"]), None)
    if status is None or own.get("cancel"):
        return None
    run_id = str(status["run"])
    report = Report(options["name"], time.time())
    report.warn(*_agree(options["name"], own, status, workers.told(run_id)))
    return report.finished(changed=True, outcome=outcome.PLANNED, adopted=run_id, disks=[])


def _join(options: Mapping[str, Any], own: Mapping[str, Any], status: Mapping[str, Any]) -> Dict[str, Any] | None:
    """Do with another run of this VM what was asked for; None where that one has gone without an answer."""
    run_id = str(status["run"])
    if own.get("cancel"):
        ended = workers.wait_for(run_id, END_PATIENCE, end=True)
        if ended is None:
            _check_ended(options["name"], workers.status_of(run_id))
            return None
        answer: Dict[str, Any] = {key: ended[key] for key in ENDED if key in ended}
        # One that was asked too late has done what it was about.
        too_late = not ended.get("failed", False)
        return {**answer, "changed": not too_late, "outcome": ended.get("outcome", outcome.NOTHING), "ended": run_id}
    run = workers.told(run_id)
    if run is None and not workers.goes_on(run_id):
        return None
    warnings = _agree(options["name"], own, status, run)
    if options["_watch"]:
        return {"changed": False, "run": run_id, "watching": True, "adopted": True, "warnings": warnings}
    ended = workers.wait_for(run_id, JOIN_PATIENCE)
    if ended is None:
        return None
    return {**ended, "adopted": run_id, "warnings": [*warnings, *ended.get("warnings", [])]}


def _check_ended(name: str, status: Mapping[str, Any]) -> None:
    """Refuse to wait any longer for a run that goes on though its end was asked for."""
    if not status:
        return
    cure = "see with status.yml when it ends, which it does as soon as it can"
    if status.get("held"):
        cure = f"remove {status['held']}, which keeps it waiting"
    raise Refusal(
        f"run {status['run']} of VM {name} was asked to end, and still goes on {END_PATIENCE:g} s later:"
        f" {status['line']}",
        "busy",
        f"{cure}; or kill its process {status['pid']}, and let recover.yml settle what it has left",
        outcome=outcome.UNDETERMINED,
    )


def _agree(name: str, own: Mapping[str, Any], status: Mapping[str, Any], run: Mapping[str, Any] | None) -> List[str]:
    """Warnings about what that run does otherwise than it was said here; refused where its end would be another."""
    run_id = str(status["run"])
    differing = table.differing(run or {}, own)
    if run and run.get(COPIES) != own[COPIES]:
        differing[table.RESULT].append(COPIES)
    if run is None or own.get("cleanup") or differing[table.RESULT]:
        there = status.get("dest") or uris.redact(str((run or {}).get("dest_uri") or "another host"))
        others = [] if own.get("cleanup") else differing[table.RESULT]
        otherwise = f" with other options: {', '.join(others)}" if others else ""
        how_far = status.get("line", "it has just begun")
        raise Refusal(
            f"VM {name} is being moved to {there} by run {run_id}{otherwise}: {how_far}",
            "busy",
            "wait for its end (status.yml shows how far it is), or end it (cancel.yml)"
            + (", or give the same options, which joins it" if otherwise else ""),
            outcome=outcome.REFUSED,
        )
    if not differing[table.WAY]:
        return []
    return [f"run {run_id} of {name} was begun with other options and keeps them: {', '.join(differing[table.WAY])}"]
