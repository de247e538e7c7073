# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""How far a move is, for a person: it never goes backwards, and is not done before it is done."""

from __future__ import annotations

from typing import Dict

from .schedule import Sample, Size

CAP = 99


class Progress:
    """Percent of memory, of disks where any are copied, and of both by the bytes that each of them has."""

    def __init__(self, size: Size):
        self._size = size
        self._memory = 0.0
        self._disk = 0.0
        self._disk_bytes = 0
        self._percent = 0
        self._disks = bool(size.disk)
        self._done = False

    def take(self, sample: Sample) -> Dict[str, int]:
        """The percentages after this sample."""
        # What the guest has dirtied anew is sent once more, and was there already.
        self._memory = max(self._memory, _share(sample.memory_total, sample.memory_remaining))
        self._disk = max(self._disk, _share(sample.disk_total, sample.disk_remaining))
        memory, disk = self._size.memory or sample.memory_total, self._copied(sample)
        self._disk_bytes = max(self._disk_bytes, disk)
        self._disks = self._disks or disk > 0
        whole = memory + disk
        done = (memory * self._memory + disk * self._disk) / whole if whole else self._memory
        self._percent = max(self._percent, min(CAP, int(100 * done)))
        return self.now()

    def _copied(self, sample: Sample) -> int:
        """Bytes of disks that travel: libvirt counts a sparse disk whole, and its holes cost no time."""
        told, allocated = sample.disk_total, self._size.disk
        if allocated is None:
            return told
        return min(told, allocated) if told else allocated

    @property
    def disk(self) -> Dict[str, int]:
        """The bytes of disks that travel, and those of them that are there."""
        return {"total": self._disk_bytes, "done": int(self._disk_bytes * self._disk)}

    def finish(self) -> None:
        self._done = True

    def now(self) -> Dict[str, int]:
        shares = {"memory": self._memory, **({"disk": self._disk} if self._disks else {})}
        if self._done:
            return {"percent": 100, **dict.fromkeys(shares, 100)}
        return {"percent": self._percent, **{name: min(CAP, int(100 * share)) for name, share in shares.items()}}


def _share(total: int, remaining: int) -> float:
    return min(1.0, max(0.0, 1 - remaining / total)) if total > 0 else 0.0
