# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""What the checks before a move have found: all of it, although a move begins only when nothing stands in its way."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Dict, Iterator, List, Sequence

from .refusal import Refusal

PASS, WARN, FAIL, SKIPPED = "pass", "warn", "fail", "skipped"

NOT_CONCERNED = "nothing of this move depends on it"
NOT_REACHED = "it cannot be judged before what has failed is cured"


@dataclass(frozen=True)
class Takes:
    """How much of one thing of the destination a VM needs, and how much of it there is, in bytes."""

    what: str
    need: int
    free: int


@dataclass(frozen=True)
class Finding:
    """What one check says of one thing; `role` is the role of this collection that cures it."""

    id: str
    status: str
    evidence: str = ""
    cure: str = ""
    role: str | None = None
    # Several VMs that go to one host take this together.
    takes: Takes | None = None


class Findings:
    """The findings while they come together.

    A refusal within `of` is noted, and the next check is made all the same; `settle` refuses then, before anything is
    changed. `warnings` is where the engine puts what it warns of: what comes within a check, that one warns of.
    """

    def __init__(self, warnings: List[str]):
        self._warnings = warnings
        self._found: Dict[str, List[Finding]] = {}
        self._refusals: List[Refusal] = []

    @property
    def good(self) -> bool:
        """Whether nothing stands in the way so far."""
        return not self._refusals

    @contextmanager
    def of(self, check: str) -> Iterator[None]:
        """Whatever is done within is about that check; a refusal ends it, and no more."""
        known = len(self._warnings)
        try:
            yield
        except Refusal as refusal:
            self.refuse(check, refusal)
        self._close(check, known)

    @contextmanager
    def must(self, check: str) -> Iterator[None]:
        """The same, where nothing can be done without what is checked."""
        known = len(self._warnings)
        try:
            yield
        except Refusal as refusal:
            self.refuse(check, refusal)
            if len(self._refusals) == 1:
                raise
            raise self.refusal from refusal
        self._close(check, known)

    def add(self, finding: Finding) -> None:
        """Note what a check has said that does not refuse by itself."""
        self._found.setdefault(finding.id, []).append(finding)

    def refuse(self, check: str, refusal: Refusal) -> None:
        """Note what stands in the way."""
        self._refusals.append(refusal)
        self.add(Finding(check, FAIL, refusal.problem, refusal.cure, refusal.role))

    def settle(self) -> None:
        """Refuse where something stands in the way."""
        if self._refusals:
            raise self.refusal

    def results(self, order: Sequence[str]) -> List[Dict[str, Any]]:
        """A row for each thing that was found, and one for each check that has nothing to say; nothing was done without
        any."""
        if not self._found:
            return []
        reason = NOT_CONCERNED if self.good else NOT_REACHED
        rows: List[Finding] = []
        for check in order:
            found = self._found.get(check, [])
            found = [one for one in found if one.status in (FAIL, WARN) or one.takes] or found[-1:]
            rows += found or [Finding(check, SKIPPED, reason)]
        return [{key: value for key, value in asdict(row).items() if key != "takes" or value} for row in rows]

    def _close(self, check: str, known: int) -> None:
        for text in self._warnings[known:]:
            self.add(Finding(check, WARN, text))
        self.add(Finding(check, PASS))

    @property
    def refusal(self) -> Refusal:
        """The first thing in the way, which has a class and a cure, with what the others say."""
        first, *others = self._refusals
        if not others:
            return first
        also = "; ".join(dict.fromkeys(refusal.problem for refusal in others))
        return Refusal(
            f"{first.problem} (also in the way: {also})", first.failure_class, first.cure, first.role, **first.details
        )
