# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""The one way in which this collection says no."""

from __future__ import annotations

from typing import Any


class Refusal(Exception):
    """Something cannot or must not be done: one line that says what, and what would help.

    `problem` names the option or thing and what was found, `cure` what the person can do, `role` the role of this
    collection that does it. Other facts about the failure travel in `details` and end up in the module's result.
    """

    def __init__(self, problem: str, failure_class: str, cure: str = "", role: str | None = None, **details: Any):
        self.problem = " ".join(problem.split())
        self.failure_class = failure_class
        self.cure = cure
        self.role = role
        self.details = details
        super().__init__(self.message)

    @property
    def message(self) -> str:
        return f"{self.problem}; cure: {self.cure}" if self.cure else self.problem

    def result(self) -> dict[str, Any]:
        """What the module returns besides `msg`."""
        return {"failure_class": self.failure_class, "cure": self.cure, "role": self.role, **self.details}
