# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab's hosts are: containers (quick), or virtual machines with a kernel of their own (NFS, SELinux).

Both start from the same root file system, have the same names, networks and logins, and answer to the same calls.
"""

from __future__ import annotations

import json
from typing import Any

from .host import Host
from .machine import Machine
from .paths import STATE, LabError

TIERS: dict[str, type[Host]] = {"container": Host, "vm": Machine}
RECORD = STATE / "lab.json"


def kind(tier: str) -> type[Host]:
    if tier not in TIERS:
        raise LabError(f"lab_tier {tier}: it is one of {', '.join(TIERS)}")
    return TIERS[tier]


def facts() -> dict[str, Any]:
    """What `up` found out about the lab that stands."""
    try:
        found: dict[str, Any] = json.loads(RECORD.read_text(encoding="ascii"))
    except FileNotFoundError as error:
        raise LabError("the lab is not up; `make lab` boots it") from error
    return found


def host(name: str) -> Host:
    """A host of the lab that stands."""
    known = facts()
    if name not in known["networks"]:
        raise LabError(f"host {name} is none of the lab's: {', '.join(known['networks'])}")
    return kind(known["tier"])(name, known["networks"][name], hypervisor=name in known["hypervisors"])
