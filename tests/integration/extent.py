# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How much of a matrix of cases runs: what fits into the time of `make test`, or with KVMOPS_FULL=1 everything.

What is left out is drawn by KVMOPS_SEED: the same for the same seed, so that a red run can be repeated.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from itertools import product
from typing import Any, TypeVar

import pytest

T = TypeVar("T")

FULL = bool(os.environ.get("KVMOPS_FULL"))
SEED = int(os.environ.get("KVMOPS_SEED", "1"))
# For cases that would take `make test` beyond the time that CI has, each of a kind of which others run.
full = pytest.mark.skipif(not FULL, reason="KVMOPS_FULL=1 has the time for it")


def chosen(cases: Sequence[T], count: int) -> list[T]:
    """So many of the cases, in their order."""
    places = range(len(cases)) if FULL else sorted(random.Random(SEED).sample(range(len(cases)), count))
    return [cases[place] for place in places]


def combined(*axes: Sequence[Any]) -> list[tuple[Any, ...]]:
    """One value of each axis in every combination, or in the half of them in which still any two values meet."""
    places = product(*(range(len(axis)) for axis in axes))
    return [tuple(axis[at] for axis, at in zip(axes, place)) for place in places if FULL or sum(place) % 2 == 0]
