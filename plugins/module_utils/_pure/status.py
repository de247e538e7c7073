# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""What a run says of itself while it goes on, and the one line that a person reads of it."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping

# Where each run has a folder of its own, on volatile storage of the host that it runs on.
RUN_DIRECTORY = "/run/kvmops-migration"
# What outlives it: the journal, ledgers of what has begun, and the records of runs.
STATE_DIRECTORY = "/var/lib/kvmops-migration"
RUNS = "runs"
# The phases of a run, in their order. Between any two of them everything may be killed, and the next run must know what
# to do; see `Worker.phase`.
CHECKING = "checking"
JOURNALLED = "journalled"
# With disks that nobody but this collection copies: on their way, all there under temporary names, and with their own.
COPYING = "copying"
VERIFYING = "verifying"
COPIED = "copied"
PREPARED = "prepared"
MOVING = "moving"
MOVED = "moved"
SETTLED = "settled"
FINISHING = "finishing"
PHASES = (CHECKING, JOURNALLED, COPYING, VERIFYING, COPIED, PREPARED, MOVING, MOVED, SETTLED, FINISHING)

# What a run is about while it moves nothing, for a person.
_WORDS = {
    CHECKING: "checking",
    JOURNALLED: "the destination is being prepared",
    VERIFYING: "a copy is being verified",
    COPIED: "the files are there",
    PREPARED: "the destination is prepared",
    MOVED: "the job is over, both hosts are asked where the VM is",
    SETTLED: "both hosts have told where the VM is, what is left is put in order",
    FINISHING: "the result is being recorded",
}

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(count: float) -> str:
    """Bytes for a person."""
    unit = 0
    while count >= 1000 and unit < len(_UNITS) - 1:
        count /= 1024
        unit += 1
    return f"{count:.0f} {_UNITS[unit]}" if count >= 100 or not unit else f"{count:.1f} {_UNITS[unit]}"


def progress(
    point: Mapping[str, Any], stats: Mapping[str, Any], disk: Mapping[str, int], upcoming: str
) -> Dict[str, Any]:
    """The part of a status that changes with every sample of the job."""
    memory, remaining = int(stats.get("memory_total", 0)), int(stats.get("memory_remaining", 0))
    return {
        "elapsed": point["t"],
        "percent": point["percent"],
        "memory": {"total": memory, "done": max(0, memory - remaining)},
        "disk": dict(disk),
        "throughput": point["throughput"],
        "dirty_rate": point["dirty_rate"],
        "iteration": point["iteration"],
        "next": upcoming,
        "waits": "",
    }


def copying(done: int, total: int, elapsed: float) -> Dict[str, Any]:
    """The part of a status that changes while files are copied; bytes and seconds."""
    return {
        "elapsed": elapsed,
        "percent": 100 * done // total if total else 100,
        "memory": {"total": 0, "done": 0},
        "disk": {"total": total, "done": done},
        "throughput": done / elapsed if elapsed else 0.0,
        "dirty_rate": 0,
        "iteration": 0,
        "next": "",
        "waits": "",
    }


def line(status: Mapping[str, Any]) -> str:
    """How far a run is, in one line."""
    where = f"{status['name']}: {status['source']} -> {status['dest']}" if status.get("dest") else status["name"]
    phase, besides = str(status["phase"]), "; its controller is gone" if status.get("controller") == "lost" else ""
    besides += "; its end was asked for" if status.get("ending") else ""
    besides += f"; held by {status['held']}" if status.get("held") else ""
    if status.get("waits") or phase in _WORDS or "percent" not in status:
        # The figures of before would stand still.
        waits = f": {status['waits']}, {status['elapsed']:.0f} s" if status.get("waits") else ""
        return f"{where}: {_WORDS.get(phase, phase)}{waits}{besides}"
    parts = [f"{status['percent']} %"]
    for what in ("memory", "disk"):
        part = status[what]
        if part["total"]:
            parts.append(f"{what} {size(part['done'])} of {size(part['total'])}")
    parts.append(f"{size(status['throughput'])}/s")
    if status["dirty_rate"]:
        parts.append(f"{size(status['dirty_rate'])}/s dirtied")
    if status["iteration"]:
        parts.append(f"pass {status['iteration']}")
    parts.append(f"{status['elapsed']:.0f} s")
    end = f"; next: {status['next']}" if status.get("next") else ""
    return f"{where}: {', '.join(parts)}{end}{besides}"


def action_line(name: str, action: Mapping[str, Any]) -> str:
    """One action of the policy, in one line."""
    value = "" if action.get("value") is None else f" {action['value']}"
    failed = f" (refused: {action['error']})" if action.get("error") else ""
    return f"{name}: {action['action'].replace('_', ' ')}{value} at {action['t']:.0f} s: {action['reason']}{failed}"


class Teller:
    """Decides when a person hears of a run: at its start, on every action, and at least every few seconds."""

    def __init__(self, every: float) -> None:
        self._every = every
        self._told: float | None = None
        self._actions = 0
        self._phase = ""

    def lines(self, status: Mapping[str, Any], now: float) -> List[str]:
        """What to say at this moment, given the newest status."""
        actions = list(status.get("actions") or [])
        lines = [action_line(status["name"], action) for action in actions[self._actions :]]
        self._actions = max(self._actions, len(actions))
        began = status.get("phase") != self._phase and status.get("phase") in (COPYING, MOVING)
        self._phase = str(status.get("phase"))
        # What is over before it has begun to move anything is told by its answer.
        self._told = now if self._told is None else self._told
        if began or now - self._told >= self._every:
            lines.append(line(status))
            self._told = now
        return lines
