# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Models of a job: a link, a guest that dirties its memory, and a clock of its own; or what a test has written."""

from __future__ import annotations

from dataclasses import dataclass, field

MIB = 2**20
PAGE = 4096


class Scripted:
    """Statistics one after the other, as a test has written them down; the job ends with the last ones."""

    def __init__(self, *told: dict):
        self.told = list(told)

    def tick(self, world, guest) -> dict:
        stats = self.told.pop(0) if self.told else {}
        if not self.told:
            world.complete_job()
        return stats


@dataclass
class PreCopy:
    """All sizes in bytes, all rates in bytes per second; each tick lasts `step` seconds."""

    memory: int = 1024 * MIB
    link: int = 100 * MIB
    dirty: int = 10 * MIB
    # What the guest writes to; no pass can leave more behind.
    working_set: int = 512 * MIB
    step: float = 0.5
    disk: int = 0
    # By time, another link; the last one that has come counts.
    links: dict = field(default_factory=dict)
    # libvirt may go on counting where an earlier, cancelled job ended.
    carried_over: int = 0
    clock: float = 0.0
    iteration: int = 1
    processed: int = 0
    disk_processed: int = 0
    remaining: int = -1
    downtime: int = 300
    throttle: float = 0.0
    auto_converge: bool = False
    suspended: bool = False
    postcopy: bool = False
    done: bool = False
    _pass_began: float = 0.0

    def __post_init__(self) -> None:
        self.remaining = self.memory

    def now(self) -> float:
        return self.clock

    def advance(self) -> dict:
        """One step of the clock; the statistics after it."""
        self.clock += self.step
        for at, link in sorted(self.links.items()):
            if self.clock >= at:
                self.link = link
        budget = int(self.link * self.step)
        if self.disk_processed < self.disk:
            sent = min(budget, self.disk - self.disk_processed)
            self.disk_processed += sent
            self._pass_began = self.clock
            return self.stats()
        sent = min(budget, self.remaining)
        self.remaining -= sent
        self.processed += sent
        if self.remaining <= 0 or (not self.postcopy and self.remaining <= self.link * self.downtime / 1000):
            self._end_pass()
        return self.stats()

    def _end_pass(self) -> None:
        rate = 0 if self.suspended or self.postcopy else self.dirty * (1 - self.throttle)
        dirtied = min(self.working_set, int(rate * max(self.step, self.clock - self._pass_began)))
        if dirtied + self.remaining <= self.link * self.downtime / 1000:
            self.done = True
            return
        self.remaining += dirtied
        self.iteration += 1
        self._pass_began = self.clock
        if self.auto_converge and self.iteration > 2:
            self.throttle = min(0.99, self.throttle + (0.1 if self.throttle else 0.2))

    def stats(self) -> dict:
        disks = {"disk_total": self.disk, "disk_processed": self.disk_processed} if self.disk else {}
        if self.disk:
            disks["disk_remaining"] = self.disk - self.disk_processed
        if self.disk_processed < self.disk:
            return {"type": 2, "time_elapsed": int(self.clock * 1000), **disks}
        return {
            "type": 2,
            "time_elapsed": int(self.clock * 1000),
            "memory_total": self.memory,
            "memory_processed": self.processed,
            "memory_remaining": self.remaining,
            "memory_bps": self.link,
            "memory_iteration": self.iteration + self.carried_over,
            "memory_dirty_rate": int(self.dirty * (1 - self.throttle)) // PAGE,
            "memory_page_size": PAGE,
            "memory_postcopy_requests": 7 if self.postcopy else 0,
            "auto_converge_throttle": int(100 * self.throttle),
            **disks,
        }

    def tick(self, world, guest) -> dict:
        """A step inside the fake libvirt: what was done there counts, and the end of the copy ends the job."""
        self.downtime = guest.limits["MaxDowntime"]
        self.suspended = guest.state == 3 and guest.reason in (1, 2)
        self.postcopy = guest.state == 3 and guest.reason == 12
        self.auto_converge = bool(world.migrations[-1]["flags"] & 8192)
        stats = self.advance()
        if self.done:
            world.complete_job()
        return stats
