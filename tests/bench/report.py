# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was measured, as people read it: in the terminal while it goes on, and on a page."""

from __future__ import annotations

import functools
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab import tiers
from tests.lab.paths import LabError

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "performance.md"
WIDTH = 10
QUARTILES = (("median", 1), ("lower quartile", 0), ("upper quartile", 2))


@dataclass
class Report:
    """One bench: a row for each run, and over all of them the median and the quartiles of each column."""

    name: str
    about: str
    columns: Sequence[str]
    rows: list[Sequence[float]] = field(default_factory=list)
    began: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M"))
    load: float = field(default_factory=lambda: os.getloadavg()[0])

    def __post_init__(self) -> None:
        print(f"\n{self.name}: {self.about}")
        self._print("run", self.columns)

    def add(self, row: Sequence[float]) -> None:
        self.rows.append(row)
        self._print(str(len(self.rows)), self._cells(row))

    def finished(self, command: str) -> str:
        """Its part of the page, for which `command` has been measured."""
        table = [(name, *self._cells([parts[index] for parts in self._parts()])) for name, index in QUARTILES]
        for name, *cells in table:
            self._print(name, cells)
        loads = f"{self.load:.1f} before and {os.getloadavg()[0]:.1f} after"
        # A name may have a pipe, which is no border of a cell.
        names = [name.replace("|", r"\|") for name in self.columns]
        lines = ["| | " + " | ".join(names) + " |", "|---" * (1 + len(self.columns)) + "|"]
        return "\n".join(
            (
                f"{self.about[0].upper()}{self.about[1:]}; {len(self.rows)} runs on {self.began}, load {loads}.",
                f"`make bench B='{self.name} --runs {len(self.rows)}'` measures {command}.",
                machine(),
                "",
                *lines,
                *("| " + " | ".join(cells) + " |" for cells in table),
            )
        )

    def _parts(self) -> list[list[float]]:
        columns = [list(column) for column in zip(*self.rows)]
        if len(self.rows) == 1:
            return [column * 3 for column in columns]
        return [statistics.quantiles(column, n=4, method="inclusive") for column in columns]

    def _cells(self, row: Sequence[float]) -> list[str]:
        return [f"{cell:.0f}" if name.endswith(" ms") else f"{cell:.2f}" for name, cell in zip(self.columns, row)]

    def _print(self, first: str, cells: Sequence[str]) -> None:
        widths = [max(WIDTH, len(name)) for name in self.columns]
        line = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths))
        print(f"{first:>14}  {line}", flush=True)


@functools.cache
def commit() -> str:
    """What is measured; nobody else has what is not committed."""
    asked = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(asked, cwd=REPOSITORY, text=True, capture_output=True, check=False).stdout.strip()


@functools.cache
def machine() -> str:
    """Where the figures come from: without it they mean nothing."""
    cpus = Path("/proc/cpuinfo").read_text(encoding="ascii")
    model = next(iter(re.findall(r"^model name\s*: (.*)", cpus, re.MULTILINE)), platform.machine())
    accelerated = tiers.facts()["domain_type"] == "kvm"
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    guests = "KVM" if accelerated else "TCG"
    hardware = f"{os.cpu_count()} cores ({model}), {gib:.0f} GiB, Linux {platform.release().partition('-')[0]}"
    return f"{hardware}; guests on {guests}; commit {commit()}."


def write(name: str, part: str) -> None:
    """Put the part of that name between its marks on the page."""
    before, after = around(name)
    PAGE.write_text(f"{before}{part}{after}", encoding="utf-8")


def around(name: str) -> tuple[str, str]:
    """The page before and after the part of that name, with its marks."""
    begin, end = f"<!-- {name} -->\n\n", f"\n\n<!-- end of {name} -->"
    before, _begin, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    _part, found, after = rest.partition(end)
    if not found:
        raise LabError(f"{PAGE} has no marks for {name}")
    return before + begin, end + after
