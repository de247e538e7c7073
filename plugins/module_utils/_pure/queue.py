# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""Which of several moves may go on at a time: so many from one host, to one host, and in all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Sequence, Set

from .refusal import Refusal

# The names of the limits, and what holds where nothing is said: what oVirt and KubeVirt found to be safe.
DEFAULTS = {"source": 2, "dest": 2, "total": 5}


@dataclass(frozen=True)
class Limits:
    """How many moves may go on from one source, to one destination, and in all."""

    source: int = DEFAULTS["source"]
    dest: int = DEFAULTS["dest"]
    total: int = DEFAULTS["total"]

    @classmethod
    def read(cls, given: Mapping[str, Any] | None) -> Limits:
        """Limits as a person gives them; raises Refusal for what is none."""
        if not isinstance(given or {}, Mapping):
            raise Refusal(f"limits: {given!r} is not accepted", "bad_option", f"accepted keys: {', '.join(DEFAULTS)}")
        values = dict(DEFAULTS)
        for key, value in (given or {}).items():
            number = str(value)
            if key not in DEFAULTS:
                raise Refusal(f"limits: {key!r} is not known", "bad_option", f"accepted: {', '.join(DEFAULTS)}")
            if not number.isdecimal() or int(number) < 1:
                raise Refusal(f"limits: {key}: {value!r} is not accepted", "bad_option", "accepted: a number from 1 on")
            values[key] = int(number)
        return cls(**values)


class Queue:
    """Moves in their order, each from a `source` to a `dest`; one that has to wait keeps no other one waiting."""

    def __init__(self, moves: Sequence[Mapping[str, Any]], limits: Limits):
        self._moves = moves
        self._limits = limits
        self._waiting: List[int] = list(range(len(moves)))
        self._going: Set[int] = set()

    @property
    def is_over(self) -> bool:
        return not (self._waiting or self._going)

    def begin(self) -> List[int]:
        """The moves that may begin now, which count as going on from then on."""
        begun = []
        for number in list(self._waiting):
            if self._may_begin(self._moves[number]):
                self._waiting.remove(number)
                self._going.add(number)
                begun.append(number)
        return begun

    def end(self, number: int) -> None:
        self._going.discard(number)

    def _may_begin(self, move: Mapping[str, Any]) -> bool:
        going = [self._moves[number] for number in self._going]
        return (
            len(going) < self._limits.total
            and sum(other.get("source") == move.get("source") for other in going) < self._limits.source
            and sum(other.get("dest") == move.get("dest") for other in going) < self._limits.dest
        )


def waves(moves: Sequence[Mapping[str, Any]], limits: Mapping[str, Any] | None = None) -> List[List[Dict[str, Any]]]:
    """The moves in groups that may each go on at a time."""
    queue = Queue(moves, Limits.read(limits))
    groups = []
    while not queue.is_over:
        begun = queue.begin()
        groups.append([dict(moves[number]) for number in begun])
        for number in begun:
            queue.end(number)
    return groups
