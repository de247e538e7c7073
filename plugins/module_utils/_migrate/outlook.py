# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""Measures and gathers what a forecast of a live move is made of."""

from __future__ import annotations

import time
from typing import Any, Mapping, Sequence, Tuple

from .._libvirt import Host, LibvirtFailure
from .._pure import forecast, schedule
from .._pure.forecast import Forecast, Known
from .._pure.preflight import Case
from .._pure.schedule import Size, Step
from . import facts
from .local import Local

# What QEMU measures over, and what it gets besides to tell, in seconds.
SECONDS = 1
PATIENCE = 5.0
STEP = 0.1
# QEMU's words where somebody else has begun.
GOES_ON = "already being measured"


class Measuring:
    """QEMU's measurement of a guest's dirty rate, which goes on while other things are looked at."""

    def __init__(self, host: Host, uuid: str):
        self._host = host
        self._uuid = uuid
        self._rate: int | None = None
        self._trouble = ""
        try:
            host.measure_dirty_rate(uuid, SECONDS)
        except LibvirtFailure as error:
            # Somebody else looks at the same guest, and one measurement is for all.
            self._trouble = "" if GOES_ON in str(error) else str(error)

    def result(self) -> Tuple[int | None, str]:
        """Bytes per second, or None with the reason; it is waited for once."""
        deadline = time.monotonic() + SECONDS + PATIENCE
        try:
            while self._rate is None and not self._trouble:
                self._rate = self._host.dirty_rate(self._uuid)
                if self._rate is not None:
                    break
                if time.monotonic() > deadline:
                    self._trouble = f"QEMU did not tell within {SECONDS + PATIENCE:g} s"
                else:
                    time.sleep(STEP)
        except LibvirtFailure as error:
            self._trouble = str(error)
        return self._rate, self._trouble


def look_ahead(
    case: Case,
    uuid: str,
    measuring: Measuring | None,
    source: Host,
    local: Local | None,
    steps: Sequence[Step],
    size: Size,
) -> Forecast:
    """The forecast of a move; without a measurement the guest stands still."""
    options = case.options
    rate, trouble = measuring.result() if measuring is not None else (0, "")
    link, megabits = _link(case, local)
    return forecast.of(
        Known(
            memory=case.needs.memory,
            disk=size.disk,
            runs=measuring is not None,
            dirty_rate=rate,
            trouble=trouble,
            link=link,
            link_speed=megabits * 10**6 / 8 if megabits else None,
            limit=_limit(options, source, uuid),
            connections=(options["parallel_connections"] or 2) if options["parallel"] else 1,
            tunnelled=bool(options["tunnelled"]),
            downtime=_downtime(options, steps, source.limit(uuid, "downtime")),
            helps=_helps(options, steps),
            patience=_patience(steps, size),
        )
    )


def _link(case: Case, local: Local | None) -> Tuple[str, int | None]:
    address = case.between.get("address")
    if not address or local is None:
        return "", None
    # It may be a name.
    known = facts.addresses(address)
    return local.link(known[0]) if known else ("", None)


def _limit(options: Mapping[str, Any], source: Host, uuid: str) -> int | None:
    """Bytes per second that were set, for the move or for the guest."""
    limit = options["bandwidth"] or source.limit(uuid, "bandwidth")
    return limit * forecast.MIB if limit and limit < schedule.MAX_BANDWIDTH else None


def _downtime(options: Mapping[str, Any], steps: Sequence[Step], limit: int | None) -> int:
    """The standstill that is permitted at first: a policy that raises it begins with what the guest has."""
    now = schedule.QEMU_DOWNTIME if limit is None else limit
    wanted = options["max_downtime"]
    if wanted is None or (wanted > now and schedule.asks(steps, schedule.RAISE_DOWNTIME)):
        return now
    return int(wanted)


def _helps(options: Mapping[str, Any], steps: Sequence[Step]) -> Tuple[str, ...]:
    found = {
        "auto_converge": bool(options["auto_converge"]),
        "postcopy": schedule.asks(steps, schedule.POSTCOPY),
        "suspend": schedule.asks(steps, schedule.SUSPEND),
    }
    return tuple(name for name, there in found.items() if there)


def _patience(steps: Sequence[Step], size: Size) -> float | None:
    """Seconds after which a step gives the move up."""
    gib = size.gib(schedule.Sample(0.0))
    per = {schedule.ELAPSED: 1.0, schedule.SECONDS_PER_GIB: gib}
    limits = [step.at * per[step.when] for step in steps if step.do == schedule.ABORT and step.when in per]
    return min(limits, default=None)
