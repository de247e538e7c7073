# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""Where a guest is, and what that means: decided from the states on both hosts and from nothing else.

No error code of libvirt says where the guest is, so every pair of states has its row here. A side that does not answer
counts as running: then nothing is started, resumed, undefined or deleted on either side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, FrozenSet, Tuple

RUNNING = "running"
PAUSED = "paused"
POSTCOPY_FAILED = "postcopy_failed"
INCOMING = "incoming"
SHUT_OFF = "shut_off"
CRASHED = "crashed"
ABSENT = "absent"
UNKNOWN = "unknown"
STATES = (RUNNING, PAUSED, POSTCOPY_FAILED, INCOMING, SHUT_OFF, CRASHED, ABSENT, UNKNOWN)
# A domain in one of these states holds its disks, or may hold them.
ACTIVE = frozenset((RUNNING, PAUSED, POSTCOPY_FAILED, INCOMING, UNKNOWN))

# What happened.
MIGRATED = "migrated"
FAILED = "failed"
SPLIT_BRAIN = "split_brain"
UNDETERMINED = "undetermined"
POSTCOPY = "postcopy_failed"
CRASH = "crashed"
LOST = "lost"
COPIED = "copied"
# Or why nothing did.
REFUSED = "refused"
ALREADY_THERE = "already_there"
PLANNED = "planned"
NOTHING = "nothing_to_do"

# What is done about it.
UNDEFINE_SOURCE = "undefine_source"
RESUME_SOURCE = "resume_source"
REMOVE_DEST_DEFINITION = "remove_dest_definition"
REMOVE_DEST_IMAGES = "remove_dest_images"

_STATES = {
    "shut_off": SHUT_OFF,
    "crashed": CRASHED,
    "paused": PAUSED,
    "pmsuspended": PAUSED,
    "running": RUNNING,
    # A guest that is blocked on I/O or is just shutting down still holds its disks.
    "blocked": RUNNING,
    "shutting_down": RUNNING,
    "no_state": RUNNING,
}


def classify(state: str, reason: str, arriving: bool = False) -> str:
    """One of our states for a domain's state and reason as libvirt names them.

    `arriving` is true for the side that the guest shall come to: a guest that is paused for migration there has never
    run there, while on the side that it leaves it is a guest that was stopped for the hand-over.
    """
    if reason == "postcopy_failed":
        return POSTCOPY_FAILED
    if state == "paused" and (reason == "starting_up" or (arriving and reason == "migration")):
        return INCOMING
    return _STATES.get(state, UNKNOWN)


@dataclass(frozen=True)
class Row:
    """What one kind of pair means; `wait` when a look a little later may show another pair."""

    source: FrozenSet[str]
    dest: FrozenSet[str]
    outcome: str
    message: str
    actions: Tuple[str, ...] = ()
    wait: bool = False


def _row(source: str, dest: str, outcome: str, message: str, *actions: str, wait: bool = False) -> Row:
    return Row(_states(source), _states(dest), outcome, message, actions, wait)


def _states(text: str) -> FrozenSet[str]:
    return frozenset(STATES if text == "*" else text.split())


# The first row that fits counts; together they fit every pair.
TABLE = (
    _row(
        "postcopy_failed",
        "unknown",
        UNDETERMINED,
        "post-copy failed by what {source} says, and {dest} does not say whether {name} runs; nothing was touched",
        wait=True,
    ),
    _row(
        "unknown",
        "postcopy_failed",
        UNDETERMINED,
        "post-copy failed by what {dest} says, and {source} does not say whether {name} runs; nothing was touched",
        wait=True,
    ),
    _row(
        "unknown", "*", UNDETERMINED, "{source} does not say whether {name} runs there; nothing was touched", wait=True
    ),
    _row("*", "unknown", UNDETERMINED, "{dest} does not say whether {name} runs there; nothing was touched", wait=True),
    _row(
        "postcopy_failed",
        "shut_off crashed absent",
        CRASH,
        "{name} has ended on {dest} in post-copy, and what {source} holds is no whole guest: never resume it there;"
        " nothing was touched",
    ),
    _row(
        "postcopy_failed", "*", POSTCOPY, "post-copy failed: the memory of {name} is on both hosts; nothing was touched"
    ),
    _row(
        "*", "postcopy_failed", POSTCOPY, "post-copy failed: the memory of {name} is on both hosts; nothing was touched"
    ),
    _row("running", "running", SPLIT_BRAIN, "{name} runs on {source} and on {dest}; nothing was touched", wait=True),
    _row(
        "running",
        "paused",
        SPLIT_BRAIN,
        "{name} runs on {source} and is paused on {dest}; nothing was touched",
        wait=True,
    ),
    _row(
        "paused",
        "running",
        SPLIT_BRAIN,
        "{name} runs on {dest} and is paused on {source}: never resume it on {source}; nothing was touched",
        wait=True,
    ),
    _row(
        "paused", "paused", UNDETERMINED, "{name} is paused on {source} and on {dest}; nothing was touched", wait=True
    ),
    _row("incoming", "*", UNDETERMINED, "{name} is being received on {source} from another run", wait=True),
    _row("*", "incoming", UNDETERMINED, "{name} is {source_state} on {source} and still arriving on {dest}", wait=True),
    _row("running", "absent", FAILED, "{name} goes on running on {source}", REMOVE_DEST_IMAGES),
    _row("running", "shut_off", FAILED, "{name} goes on running on {source}", REMOVE_DEST_DEFINITION),
    _row("running", "crashed", FAILED, "{name} goes on running on {source} and has crashed on {dest}"),
    _row("paused", "absent", FAILED, "{name} is on {source}", RESUME_SOURCE, REMOVE_DEST_IMAGES),
    _row("paused", "shut_off", FAILED, "{name} is on {source}", RESUME_SOURCE, REMOVE_DEST_DEFINITION),
    _row("paused", "crashed", FAILED, "{name} is on {source} and has crashed on {dest}", RESUME_SOURCE),
    _row("shut_off", "running paused", MIGRATED, "{name} is on {dest}", UNDEFINE_SOURCE),
    _row("shut_off", "shut_off", FAILED, "{name} is shut off on {source}", REMOVE_DEST_DEFINITION),
    _row("shut_off", "absent", FAILED, "{name} is shut off on {source}", REMOVE_DEST_IMAGES),
    _row("shut_off", "crashed", CRASH, "{name} is shut off on {source} and has crashed on {dest}"),
    _row("crashed", "running paused", MIGRATED, "{name} is on {dest}; {source} keeps a crashed domain of it"),
    _row("crashed", "shut_off crashed absent", CRASH, "{name} has crashed on {source}"),
    _row("absent", "running paused shut_off", MIGRATED, "{name} is on {dest}"),
    _row("absent", "crashed", CRASH, "{name} has crashed on {dest}"),
    _row("absent", "absent", LOST, "{name} is neither on {source} nor on {dest}"),
)

# Seen only by the engine: the states look like a failure, and the job has not ended yet.
UNFINISHED = _row(
    "*", "*", UNDETERMINED, "{name} is {source_state} on {source}, where a job still goes on; nothing was touched"
)

# For a guest that was active: it has ended on the way, or at the destination with writes that are nowhere else.
ENDED = _row(
    "absent shut_off", "shut_off", CRASH, "{name} has ended: {source_state} on {source}, {dest_state} on {dest}"
)

# Seen only by the engine: the source has sent everything, so the guest may have run, and written, elsewhere since then.
SENT = _row(
    "*",
    "*",
    UNDETERMINED,
    "{name} is paused on {source}, which has sent all of it: it may have run on {dest} since then; nothing was touched",
)

# The same, where nobody can tell whether it has: a daemon that began anew has forgotten how far its job was, and a
# guest that gets no definition at the destination leaves nothing there when it ends.
UNPROVEN = _row(
    "*",
    "*",
    UNDETERMINED,
    "{name} is paused on {source}, and nothing proves that it has not run on {dest} since then; nothing was touched",
)

# What must be true of both sides for an action, checked again at the moment of acting.
GUARDS: Dict[str, Tuple[FrozenSet[str], FrozenSet[str]]] = {
    UNDEFINE_SOURCE: (_states("shut_off"), _states("running paused")),
    RESUME_SOURCE: (_states("paused"), _states("absent shut_off crashed")),
    REMOVE_DEST_DEFINITION: (_states("running paused shut_off"), _states("shut_off")),
    REMOVE_DEST_IMAGES: (_states("running paused shut_off"), _states("absent")),
}


def look_up(source: str, dest: str) -> Row:
    """The row of a pair of states."""
    for row in TABLE:
        if source in row.source and dest in row.dest:
            return row
    raise ValueError(f"no row for source {source!r} and destination {dest!r}")


def permitted(action: str, source: str, dest: str) -> bool:
    """Whether that action may be done while the sides are in these states."""
    sources, dests = GUARDS[action]
    return source in sources and dest in dests


def judge(source: str, dest: str, keep_source: bool = False, active: bool = False) -> Row:
    """The row of a pair after a move.

    `keep_source` when the definition was to stay on the source as well, `active` when the guest ran or was paused.
    """
    if active and source in ENDED.source and dest in ENDED.dest:
        return ENDED
    if keep_source and source == SHUT_OFF and dest == SHUT_OFF:
        return _row("shut_off", "shut_off", MIGRATED, "{name} is defined on {dest}, and still on {source} as asked")
    return look_up(source, dest)


def say(row: Row, name: str, source: str, dest: str, source_state: str, dest_state: str) -> str:
    """The row's message for one guest."""
    return row.message.format(
        name=name,
        source=source,
        dest=dest,
        source_state=source_state.replace("_", " "),
        dest_state=dest_state.replace("_", " "),
    )
