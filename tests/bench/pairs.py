# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""virt_migrate against a bare `virsh migrate` of the same guest with the same options, in interleaved pairs."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.lab import console
from tests.lab.faults import inside, must, shaped
from tests.lab.paths import LabError

from .moves import ADDRESSES, PLAYBOOKS, Moved, by_module, by_virsh, home, options
from .report import REPOSITORY, Report

SETTLE = 2.0  # seconds between two moves: the host that was left tidies up behind the guest
COLUMNS = (
    "virsh s",
    "duration_s",
    "ratio",
    "more s",
    "virsh downtime ms",
    "downtime ms",
    "more ms",
    "command s",
)


@dataclass(frozen=True)
class Load:
    """A guest of its own, busy with its memory, and the link that it moves over. The link's speed is for each host."""

    memory_mib: int
    link_mib_per_s: int
    dirty_mib_per_s: int
    over_mib: int


@dataclass(frozen=True)
class Pairs:
    """One line of the table; without a load, a guest of the lab moves as it is."""

    name: str
    about: str
    runs: int
    vm: str
    image: str
    load: Load | None = None

    def measure(self, runs: int) -> str:
        report = Report(self.name, self.about, COLUMNS)
        with self._prepared():
            words = options(self.vm, self.image)
            for number in range(runs):
                # The first one goes there and the second one back, in turns: each pays for both directions.
                moved: dict[str, Moved] = {}
                for mover in (by_module, by_virsh) if number % 2 else (by_virsh, by_module):
                    time.sleep(SETTLE)
                    moved[mover.__name__] = mover(self.vm, self.image, words)
                report.add(_row(moved["by_virsh"], moved["by_module"]))
        return report.finished(f"pairs of virt_migrate and `virsh migrate {' '.join(words)}`")

    @contextlib.contextmanager
    def _prepared(self) -> Iterator[None]:
        if self.load is None:
            yield
            return
        self._remove()
        try:
            self._start(self.load)
            with shaped(self.load.link_mib_per_s, *ADDRESSES):
                yield
        finally:
            self._remove()

    def _start(self, load: Load) -> None:
        """From the recipe of the lab's guests, and at work when this returns."""
        guest = {"name": self.vm, "host": "labkvm1", "image": self.image, "memory": load.memory_mib}
        playbook = REPOSITORY / "extensions" / "molecule" / "lab" / "guests.yml"
        done = subprocess.run(
            ["ansible-playbook", playbook, "-e", json.dumps({"lab_guests": [guest]})],
            cwd=PLAYBOOKS,
            text=True,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise LabError(f"the guest {self.vm} did not start:\n{done.stdout}{done.stderr}")
        console.tell(home(self.vm), self.vm, f"dirty {load.dirty_mib_per_s} over {load.over_mib}")
        # Until it has been over all of it once, there is less to move.
        time.sleep(1.5 * load.over_mib / load.dirty_mib_per_s)

    def _remove(self) -> None:
        for host in ADDRESSES:
            inside(host, "virsh", "destroy", self.vm)
            inside(host, "virsh", "undefine", self.vm)
            must(host, "rm", "-f", self.image, console.log(self.vm))


def _row(bare: Moved, ours: Moved) -> tuple[float, ...]:
    return (
        bare.seconds,
        ours.seconds,
        ours.seconds / bare.seconds,
        ours.seconds - bare.seconds,
        bare.downtime,
        ours.downtime,
        ours.downtime - bare.downtime,
        ours.wall,
    )
