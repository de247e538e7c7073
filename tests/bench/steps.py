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
# Each step, and the phases of which one says that it is over: the short ones may come and go unseen.
STEPS = (
    ("start s", ("checking",)),
    ("checks s", ("moving",)),
    ("job s", ("moved", "settled", "finishing", ANSWERED)),
    ("settling s", (ANSWERED,)),
    ("answer s", (RETURNED,)),
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
        report = Report(self.name, self.about, [column for column, _phases in STEPS])
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
        seen = observer.seen
        ends = [min(seen[phase] for phase in phases if phase in seen) for _column, phases in STEPS]
        return [end - begin for begin, end in zip([seen[COMMAND], *ends], ends)]


class Observer(threading.Thread):
    """Watches the files of the run on its host, as whoever asks for its status does."""

    def __init__(self, host: str):
        super().__init__(daemon=True)
        self._root = Path(f"/proc/{Host(host).leader()}/root")
        self.seen: dict[str, float] = {}

    def saw(self, phase: str) -> None:
        self.seen.setdefault(phase, time.monotonic())

    def run(self) -> None:
        while RETURNED not in self.seen:
            for folder in self._root.glob(RUNS):
                with suppress(OSError, ValueError):
                    self.saw(json.loads((folder / "status.json").read_text(encoding="utf-8"))["phase"])
                if (folder / "result.json").exists():
                    self.saw(ANSWERED)
            time.sleep(LOOK)
