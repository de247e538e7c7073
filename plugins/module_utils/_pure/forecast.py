# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""What a move of a guest that runs will be like: an estimate, by what is known before it begins.

Pre-copy sends all memory once and then, pass after pass, what was written meanwhile: a geometric series, which comes
to its end where the guest writes less than the path carries. Rates are in bytes per second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Dict, List, Tuple

MIB = 1 << 20
# Rates are two to three times higher during a migration than before it, which makes forecasts unreliable (KubeVirt's
# enhancement proposal 246): the worst of that is reckoned with.
FACTOR = 3.0
# What of a link's speed is left for data: 117 of 125 MB/s on gigabit Ethernet.
PAYLOAD = 0.94
# One connection is one thread of QEMU, which is the limit from 10 Gb/s on, and libvirt's own connection carries 2.
ONE_CONNECTION = 10 * 10**9 / 8 * PAYLOAD
TUNNEL = 2 * 10**9 / 8
MOST_CONNECTIONS = 255
# What auto-converge leaves a guest of its time at most (QEMU's max-cpu-throttle is 99 percent).
UNTHROTTLED = 0.01
# A standstill longer than that, in milliseconds, is not recommended.
LONGEST = 10000

LIMIT, LINK, CONNECTION, TUNNELLED = "limit", "link", "connection", "tunnel"
# By what the move has for a guest that does not converge, what that does.
HELPS = {
    "auto_converge": "auto-converge slows it down",
    "postcopy": "post-copy ends it",
    "suspend": "it is stopped in the end",
}


@dataclass(frozen=True)
class Known:
    """What is known before the move; None is unknown."""

    # Bytes that travel.
    memory: int
    disk: int | None = 0
    # Whether the guest goes on meanwhile.
    runs: bool = True
    dirty_rate: int | None = None
    # Why that is not known.
    trouble: str = ""
    # The network interface that leads to the destination, and what it carries.
    link: str = ""
    link_speed: float | None = None
    # The limit that was set, for this move or for the guest.
    limit: int | None = None
    connections: int = 1
    tunnelled: bool = False
    # Milliseconds that the guest may stand still.
    downtime: int = 300
    # Those of HELPS that the move has.
    helps: Tuple[str, ...] = ()
    # Seconds after which it is given up.
    patience: float | None = None


@dataclass(frozen=True)
class Advice:
    """An option of the move that would help, and what it does."""

    option: str
    value: Any
    reason: str
    # Whether it is of use only together with the next one.
    with_next: bool = False

    @property
    def text(self) -> str:
        value = str(self.value).lower() if isinstance(self.value, bool) else self.value
        return f"{self.option}: {value} " + ("and " if self.with_next else f"({self.reason}) or ")


@dataclass(frozen=True)
class Forecast:
    """What is to be expected. Times are those of the slower case, with the rate times FACTOR."""

    known: Known
    # None where it cannot be told.
    converges: bool | None
    speed: float | None
    # What the speed is limited by.
    speed_by: str
    # Seconds for all memory once, for the memory of the whole move, and for its disks, which come first.
    pass_s: float | None
    memory_s: float | None
    disk_s: float | None
    # At most.
    downtime_ms: int | None
    recommended: Tuple[Advice, ...] = ()

    @property
    def total_s(self) -> float | None:
        return None if self.memory_s is None or self.disk_s is None else self.memory_s + self.disk_s

    @property
    def is_given_up(self) -> bool:
        """Whether it would end, and not in time."""
        patience = self.known.patience
        return patience is not None and self.total_s is not None and self.total_s > patience

    @property
    def unknown(self) -> str:
        """Why it cannot be told whether it converges."""
        if self.known.dirty_rate is None:
            return f"how fast it writes its memory is not known: {self.known.trouble or 'nobody has measured it'}"
        return (
            "the speed of the path is not known: no bandwidth was given, and no link to the destination tells its own"
        )

    @property
    def text(self) -> str:
        """All of it in one line."""
        known, said = self.known, []
        if not known.runs:
            said.append("it stands still meanwhile")
        elif known.dirty_rate is None:
            said.append(self.unknown)
        else:
            rate = f"it writes {_rate(known.dirty_rate)}"
            said.append(f"{rate}, reckoned {FACTOR:g} times that while it moves" if known.dirty_rate else rate)
        if self.speed is None:
            said.append("the speed of the path is not known")
        else:
            by = {
                LIMIT: "the bandwidth limit lets",
                LINK: f"{known.link or 'the link'} lets",
                CONNECTION: "a connection lets" if known.connections == 1 else f"{known.connections} connections let",
                TUNNELLED: "libvirt's own connection lets",
            }[self.speed_by]
            said.append(f"{by} {_rate(self.speed)} through")
        said += self._times()
        return "; ".join(said)

    @property
    def cure(self) -> str:
        """What is recommended, for a person; each by itself is enough."""
        return "".join(one.text for one in self.recommended)[: -len(" or ")] or "give it a faster path"

    def _times(self) -> List[str]:
        parts = []
        if self.memory_s is not None:
            parts.append(f"memory in about {_seconds(self.memory_s)}")
        elif self.pass_s is not None:
            parts.append(f"{_seconds(self.pass_s)} for all memory once")
        if self.disk_s:
            parts.append(f"disks in about {_seconds(self.disk_s)}")
        if self.downtime_ms is not None:
            parts.append(f"a standstill of {self.downtime_ms} ms at most")
        if self.converges is False:
            parts.append("by itself it does not come to an end")
        return parts

    def result(self) -> Dict[str, Any]:
        """As the result of a module has it."""
        rounded = {
            name: None if value is None else round(value, 3)
            for name, value in (("pass_s", self.pass_s), ("memory_s", self.memory_s), ("disk_s", self.disk_s))
        }
        return {
            "converges": self.converges,
            "dirty_rate": self.known.dirty_rate,
            "factor": FACTOR,
            "speed": None if self.speed is None else int(self.speed),
            "link": self.known.link,
            **rounded,
            "downtime_ms": self.downtime_ms,
            "recommended": [
                {"option": one.option, "value": one.value, "reason": one.reason} for one in self.recommended
            ],
            "text": self.text,
        }


def of(known: Known) -> Forecast:
    """The forecast."""
    speed, speed_by = _speed(known)
    need = None if known.dirty_rate is None else known.dirty_rate * FACTOR
    converges = _converges(known, need, speed)
    memory_s = downtime_ms = None
    if speed and converges:
        # What is left when the guest is stopped, and the sum of the series until then.
        left = known.memory if not known.runs else min(known.memory, speed * known.downtime / 1000)
        before = (known.memory - left) / (speed - need) if known.memory > left and need is not None else 0.0
        memory_s = before + left / speed
        downtime_ms = math.ceil(left / speed * 1000)
    return Forecast(
        known,
        converges,
        speed,
        speed_by,
        known.memory / speed if speed else None,
        memory_s,
        known.disk / speed if speed and known.disk is not None else (0.0 if known.disk == 0 else None),
        downtime_ms,
        _advice(known, need, speed, speed_by) if converges is False and speed and need else (),
    )


def _converges(known: Known, need: float | None, speed: float | None) -> bool | None:
    fits = speed is not None and known.memory <= speed * known.downtime / 1000
    if not known.runs or fits or need == 0:
        return True
    if need is None or speed is None:
        return None
    return need < speed


def _speed(known: Known) -> Tuple[float | None, str]:
    """What the path carries, and what limits it. Neither the tunnel nor a thread tells anything where no link does."""
    bounds = []
    if known.limit:
        bounds.append((float(known.limit), LIMIT))
    if known.link_speed:
        bounds.append((known.link_speed * PAYLOAD, LINK))
    if not bounds:
        return None, ""
    if known.tunnelled:
        bounds.append((TUNNEL, TUNNELLED))
    else:
        bounds.append((ONE_CONNECTION * known.connections, CONNECTION))
    return min(bounds)


def _advice(known: Known, need: float, speed: float, speed_by: str) -> Tuple[Advice, ...]:
    """What helps a guest that does not converge: a faster path where there is one, before it is the guest's turn."""
    link = known.link_speed * PAYLOAD if known.link_speed else None
    advice = []
    most = TUNNEL if known.tunnelled else ONE_CONNECTION * known.connections
    if speed_by == LIMIT and need < min(most, most if link is None else link):
        what = f"{known.link} carries it" if link else "where the link carries it"
        advice.append(Advice("bandwidth", math.floor(need / MIB) + 1, what))
    wanted = math.floor(need / ONE_CONNECTION) + 1
    if speed_by == CONNECTION and link and need < link and wanted <= MOST_CONNECTIONS:
        advice.append(Advice("parallel", True, f"{known.link} carries more than one connection does", True))
        advice.append(Advice("parallel_connections", max(2, wanted), f"{known.link} carries as many"))
    if speed_by == TUNNELLED and link and need < min(link, ONE_CONNECTION):
        advice.append(Advice("tunnelled", False, "the way from QEMU to QEMU is faster"))
    stop = math.ceil(known.memory / speed * 1000)
    if stop <= LONGEST:
        advice.append(Advice("max_downtime", stop, "all of its memory passes within that"))
    if not known.helps:
        advice.append(Advice("policy", "must_complete", "post-copy, or a stop, ends it"))
        if need * UNTHROTTLED < speed:
            advice.append(Advice("policy", "minimal_downtime", "it is slowed down until it ends"))
    return tuple(advice)


def helped(one: Forecast) -> List[str]:
    """What of the move ends it where the guest does not converge."""
    rate, speed = one.known.dirty_rate or 0, one.speed or 0
    return [
        text
        for name, text in HELPS.items()
        if name in one.known.helps and (name != "auto_converge" or rate * FACTOR * UNTHROTTLED < speed)
    ]


def _rate(count: float) -> str:
    return f"{count / MIB:.1f} MiB/s"


def _seconds(count: float) -> str:
    return f"{count:.1f} s" if count < 10 else f"{count:.0f} s"
