# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""Job statistics of libvirt, as the result of a migration has them. Missing fields are simply not known."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Tuple

# Ours, and libvirt's; each exists in libvirt 9.0 and may be missing in an answer.
MEMORY = (
    ("bytes", "memory_processed"),
    ("total", "memory_total"),
    ("remaining", "memory_remaining"),
    ("iterations", "memory_iteration"),
    ("throughput", "memory_bps"),
    ("constant_pages", "memory_constant"),
    ("normal_bytes", "memory_normal_bytes"),
    ("postcopy_requests", "memory_postcopy_requests"),
    ("throttle", "auto_converge_throttle"),
)
DISK = (
    ("bytes", "disk_processed"),
    ("total", "disk_total"),
    ("remaining", "disk_remaining"),
    ("throughput", "disk_bps"),
)
TIMES = (("time_ms", "time_elapsed"), ("setup_ms", "setup_time"))
# Seconds before which a copy has no throughput that means anything.
SETTLED = 0.2


def _pick(stats: Mapping[str, Any], fields: Any) -> Dict[str, Any]:
    return {ours: stats[theirs] for ours, theirs in fields if theirs in stats}


def dirty_rate(stats: Mapping[str, Any]) -> int | None:
    """Bytes of memory that the guest dirties per second."""
    if "memory_dirty_rate" not in stats:
        return None
    return int(stats["memory_dirty_rate"]) * int(stats.get("memory_page_size", 4096))


def record(stats: Mapping[str, Any]) -> Dict[str, Any]:
    """The part of a result that comes from the statistics of the finished job."""
    memory = _pick(stats, MEMORY)
    if "time_elapsed" in stats and stats["time_elapsed"] and not memory.get("throughput"):
        memory["throughput"] = int(stats.get("memory_processed", 0)) * 1000 // int(stats["time_elapsed"])
    rate = dirty_rate(stats)
    if rate is not None:
        memory["dirty_rate"] = rate
    return {"memory": memory, "disk": _pick(stats, DISK), "downtime_ms": stats.get("downtime"), **_pick(stats, TIMES)}


def sample(stats: Mapping[str, Any], seconds: float) -> Dict[str, Any]:
    """One point of the series that is taken while the job runs."""
    return {
        "t": round(seconds, 3),
        "memory_processed": stats.get("memory_processed", 0),
        "memory_remaining": stats.get("memory_remaining", 0),
        "disk_processed": stats.get("disk_processed", 0),
        "disk_remaining": stats.get("disk_remaining", 0),
        "iteration": stats.get("memory_iteration", 0),
        "throughput": stats.get("memory_bps", 0),
        "dirty_rate": dirty_rate(stats) or 0,
    }


def copied(done: int, total: int, seconds: float) -> Dict[str, Any]:
    """One point of the series that is taken while files are copied."""
    point = {"t": round(seconds, 3), "disk_processed": done, "disk_remaining": max(0, total - done)}
    return {**point, "throughput": int(done / seconds)} if seconds >= SETTLED else point


def networks(before: Mapping[str, Tuple[int, int]], after: Mapping[str, Tuple[int, int]]) -> List[Dict[str, Any]]:
    """What each network interface has carried between two looks at its counters, the busiest first."""
    carried = [
        {"interface": name, "tx_bytes": after[name][0] - sent, "rx_bytes": after[name][1] - received}
        for name, (sent, received) in before.items()
        if name in after and after[name] != (sent, received)
    ]
    return sorted(carried, key=lambda one: -(int(one["tx_bytes"]) + int(one["rx_bytes"])))


class Series:
    """Samples of a job of any length in bounded room: when it is full, every second one goes."""

    def __init__(self, limit: int = 120):
        self._limit = max(2, limit)
        self._stride = 1
        self._seen = 0
        self.points: List[Dict[str, Any]] = []

    def add(self, point: Dict[str, Any]) -> None:
        if self._seen % self._stride == 0:
            if len(self.points) >= self._limit:
                self.points = self.points[::2]
                self._stride *= 2
            if self._seen % self._stride == 0:
                self.points.append(point)
        self._seen += 1
