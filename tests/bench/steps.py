# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the time of one `ansible -m virt_migrate` goes: seconds of each step, seen from beside the run."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.lab.host import Host

from .moves import by_module, home
from .pairs import SETTLE
from .report import Report

LOOK = 0.005  # seconds between two looks
RUNS = "run/kvmops-migration/*"
COMMAND, ANSWERED, RETURNED = "command", "answered", "returned"
PHASES = ("checking", "journalled", "prepared", "moving", "moved", "settled", "finishing")
ORDER = (COMMAND, *PHASES, ANSWERED, RETURNED)
# Each step, and what ends it.
STEPS = (
    ("start s", "checking"),
    ("checks s", "moving"),
    ("job s", "moved"),
    ("settling s", ANSWERED),
    ("answer s", RETURNED),
)


@dataclass(frozen=True)
class Steps:
    """One line of the table."""

    name: str
    about: str
    runs: int
    vm: str
    image: str

    def measure(self, runs: int) -> str:
        report = Report(self.name, self.about, [column for column, _end in STEPS])
        for _number in range(runs):
            time.sleep(SETTLE)
            report.add(self._steps())
        return report.finished("virt_migrate as an ad-hoc command")

    def _steps(self) -> list[float]:
        observer = Observer(home(self.vm))
        observer.start()
        observer.saw(COMMAND)
        by_module(self.vm, self.image, ())
        observer.saw(RETURNED)
        observer.join()
        times = [observer.reached(COMMAND), *(observer.reached(end) for _column, end in STEPS)]
        return [end - begin for begin, end in zip(times, times[1:])]


class Observer(threading.Thread):
    """Watches the files of the run on its host, as whoever asks for its status does."""

    def __init__(self, host: str):
        super().__init__(daemon=True)
        self._root = Path(f"/proc/{Host(host).leader()}/root")
        self.seen: dict[str, float] = {}

    def saw(self, phase: str) -> None:
        self.seen.setdefault(phase, time.monotonic())

    def reached(self, phase: str) -> float:
        """When this phase began, or the next one that was seen: short ones may come and go between two looks."""
        return min(self.seen[later] for later in ORDER[ORDER.index(phase) :] if later in self.seen)

    def run(self) -> None:
        while RETURNED not in self.seen:
            for folder in self._root.glob(RUNS):
                with suppress(OSError, ValueError):
                    self.saw(json.loads((folder / "status.json").read_text(encoding="utf-8"))["phase"])
                if (folder / "result.json").exists():
                    self.saw(ANSWERED)
            time.sleep(LOOK)
