# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""Plots of a report as pure geometry: numbers in, places out.

A place along an axis is a percentage of it: a page can stretch lines to any width then, while its text keeps its size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ansible_collections.kvmops.migration.plugins.module_utils._pure.status import size

# The height of lines is in these units; their width is in hundredths of a percent.
HEIGHT = 1000
WIDTH = 10000
# Ticks that an axis should have at most.
TIME_TICKS = 6
VALUE_TICKS = 4
# Seconds between two ticks that people find their way by.
STEPS_OF_TIME = (
    *(digit * 10**power for power in (-3, -2, -1, 0) for digit in (1, 2, 5)),
    *(10, 15, 20, 30, 60, 120, 300, 600, 900, 1200, 1800, 3600, 7200, 14400, 28800, 43200, 86400),
)
# Marks that are closer than this many percent of the width have one label: on a telephone they would lie on each other.
CLOSE = 12.0

Point = tuple[float, float]


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Mark:
    """A moment, or several that are close together, by the numbers of what was done; the label is at the first one."""

    at: float
    label: str
    lines: tuple[float, ...]


@dataclass(frozen=True)
class Line:
    """One quantity, as paths: `dots` has a point for each value, `area` what lies below."""

    name: str
    kind: str
    line: str
    area: str
    dots: str
    said: str


@dataclass(frozen=True)
class Plot:
    title: str
    lines: Sequence[Line]
    values: Sequence[Tick]
    times: Sequence[Tick]
    marks: Sequence[Mark]

    @property
    def said(self) -> str:
        """The plot for whoever does not see it."""
        return ". ".join((self.title, *(line.said for line in self.lines)))


def time_ticks(end: float) -> list[Tick]:
    """Round moments between 0 and `end` seconds."""
    step = next(
        (step for step in STEPS_OF_TIME if end / step <= TIME_TICKS), 86400 * math.ceil(end / 86400 / TIME_TICKS)
    )
    count = int(end / step + 1e-9)
    return [Tick(percent(number * step, end), clock(number * step)) for number in range(count + 1)]


def value_ticks(top: float, suffix: str) -> list[Tick]:
    """Round numbers of bytes between 0 and `top`."""
    unit = 1.0
    while top / unit >= 1000:
        unit *= 1024
    rough = top / unit / VALUE_TICKS
    power = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    step = unit * power * next((digit for digit in (1, 2, 2.5, 5, 10) if digit * power >= rough), 10)
    count = int(top / step + 1e-9)
    return [Tick(percent(number * step, top), tick_size(number * step) + suffix) for number in range(count + 1)]


def tick_size(count: float) -> str:
    """Bytes without a fraction where there is none."""
    return size(count).replace(".0 ", " ") if count else "0"


def percent(value: float, whole: float) -> float:
    return round(min(100.0, max(0.0, 100 * value / whole)), 3) if whole > 0 else 0.0


def clock(seconds: float) -> str:
    """A moment of a run, short enough for a tick."""
    if seconds < 60:
        return f"{seconds:g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def line(name: str, kind: str, points: Iterable[tuple[float, float | None]], end: float, top: float) -> Line:
    """`points` are seconds and values; where a value is not known, the line is interrupted."""
    runs: list[list[Point]] = [[]]
    for at, value in points:
        if value is None:
            runs.append([])
        else:
            runs[-1].append((round(100 * percent(at, end)), HEIGHT - round(HEIGHT * percent(value, top) / 100)))
    runs = [run for run in runs if run]
    known = [value for _at, value in points if value is not None]
    return Line(
        name,
        kind,
        " ".join(f"M{_joined(run)}" for run in runs),
        " ".join(f"M{run[0][0]:g},{HEIGHT} L{_joined(run)} L{run[-1][0]:g},{HEIGHT}Z" for run in runs),
        # A line of no length with round ends is a round point, however the picture is stretched.
        " ".join(f"M{x:g},{y:g}h0" for run in runs for x, y in run),
        f"{name}: {len(known)} values from {size(known[0])} to {size(known[-1])}, at most {size(max(known))}"
        if known
        else f"{name}: not known",
    )


def _joined(run: Sequence[Point]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in run)


def marks(moments: Sequence[float], end: float) -> list[Mark]:
    """Moments in their order, numbered from 1."""
    groups: list[list[tuple[int, float]]] = []
    for number, moment in enumerate(moments, 1):
        at = percent(moment, end)
        if groups and at - groups[-1][0][1] < CLOSE:
            groups[-1].append((number, at))
        else:
            groups.append([(number, at)])
    return [
        Mark(
            group[0][1],
            str(group[0][0]) if len(group) == 1 else f"{group[0][0]}-{group[-1][0]}",
            tuple(at for _number, at in group),
        )
        for group in groups
    ]


def plot(
    title: str,
    series: Sequence[tuple[str, str, Sequence[tuple[float, float | None]]]],
    end: float,
    moments: Sequence[float] = (),
    suffix: str = "",
) -> Plot | None:
    """A plot of quantities, each with a name, a kind and its points; None where none of them has anything to show."""
    shown = [one for one in series if any(value for _at, value in one[2])]
    if not shown or end <= 0:
        return None
    top = 1.06 * max(value for _name, _kind, points in shown for _at, value in points if value is not None)
    return Plot(
        title,
        [line(name, kind, points, end, top) for name, kind, points in shown],
        value_ticks(top, suffix),
        time_ticks(end),
        marks(moments, end),
    )
