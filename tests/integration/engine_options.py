# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of virt_migrate that Debian 12 can do, as axes of which each value goes with nearly every other one.

Each value says what it adds to the call and what libvirt must be told for it: as libvirt's documentation has it, and
not as the product's own table has, which is to be judged by it.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Value:
    """One value of an axis. Text in options and parameters may name {dest}, {address} and {socket}."""

    options: dict[str, Any] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    params: dict[str, Any] = field(default_factory=dict)
    # Values of any axis that it does not go with.
    never: tuple[str, ...] = ()


# QEMU locks the memory that it sends without a copy, and libvirt must be able to permit it that.
CAP_SYS_RESOURCE = 24
MAY_LOCK_MEMORY = bool(
    int(re.findall(r"CapBnd:\s*(\S+)", Path("/proc/self/status").read_text(encoding="ascii"))[0], 16)
    >> CAP_SYS_RESOURCE
    & 1
)

PARALLEL = ("parallel", "four", "zerocopy")
POSTCOPY = ("postcopy", "postcopy-slow", "armed", "must-complete")
TCP = "tcp://{address}"
MEMORY_SOCKET, DISK_SOCKET = "unix://{socket}/memory", "unix://{socket}/disks"
# Where the disk is the guest's own; through a socket file it goes only beside memory that does the same.
LOCAL = ("copied", "copy", "all", "listed", "disk-port", "disk-uri", "synchronous")
MT = {"level": 3, "threads": 2, "dthreads": 3}

AXES: dict[str, dict[str, Value]] = {
    # Who drives, and which way the two libvirts and the data take.
    "way": {
        "p2p": Value(params={"migrate_uri": TCP}),
        "direct": Value({"control": "direct"}, without=("PEER2PEER",), params={"migrate_uri": TCP}),
        "tunnelled": Value(
            {"tunnelled": True}, ("TUNNELLED",), never=(*PARALLEL, *POSTCOPY, *LOCAL, "disk-socket", "listen")
        ),
        "named": Value(
            {"dest_uri": "qemu+ssh://root@{dest}/system"},
            params={"migrate_uri": TCP},
        ),
        "fixed-port": Value({"migrate_uri": TCP + ":49160"}, params={"migrate_uri": TCP + ":49160"}),
        "tcp": Value({"dest_uri": "qemu+tcp://{address}/system"}, params={"migrate_uri": TCP}),
        "libssh2": Value(
            {
                "dest_uri": "qemu+libssh2://root@{address}/system?keyfile=/root/.ssh/id_ed25519&known_hosts=/root/.ssh/known_hosts"
            },
            params={"migrate_uri": TCP},
        ),
        "unix": Value(
            {"dest_uri": "qemu+unix:///system?socket={socket}/libvirt", "migrate_uri": MEMORY_SOCKET},
            params={"migrate_uri": MEMORY_SOCKET},
            never=("listen", *LOCAL),
        ),
    },
    "memory": {
        "plain": Value(),
        "parallel": Value({"parallel": True}, ("PARALLEL",), never=POSTCOPY),
        "four": Value(
            {"parallel": True, "parallel_connections": 4},
            ("PARALLEL",),
            params={"parallel.connections": 4},
            never=POSTCOPY,
        ),
        "zerocopy": Value({"parallel": True, "zerocopy": True}, ("PARALLEL", "ZEROCOPY"), never=POSTCOPY),
        "xbzrle": Value({"compression": ["xbzrle"]}, ("COMPRESSED",), params={"compression": ["xbzrle"]}),
        "xbzrle-cache": Value(
            {"compression": ["xbzrle"], "compression_xbzrle_cache": 2**25},
            ("COMPRESSED",),
            params={"compression": ["xbzrle"], "compression.xbzrle.cache": 2**25},
        ),
        "mt": Value(
            {"compression": ["mt"], **{f"compression_mt_{name}": value for name, value in MT.items()}},
            ("COMPRESSED",),
            params={"compression": ["mt"], **{f"compression.mt.{name}": value for name, value in MT.items()}},
            never=POSTCOPY,
        ),
        "armed": Value({"postcopy": True}, ("POSTCOPY",)),
        "postcopy": Value({"postcopy": True, "postcopy_after_precopy": True}, ("POSTCOPY",)),
        "postcopy-slow": Value(
            {"postcopy": True, "postcopy_after_precopy": True, "postcopy_bandwidth": 40},
            ("POSTCOPY",),
            params={"bandwidth.postcopy": 40},
        ),
    },
    "pace": {
        "free": Value(),
        "bandwidth": Value({"bandwidth": 150}, params={"bandwidth": 150}),
        "downtime": Value({"max_downtime": 700}),
        "slowed": Value({"auto_converge": True}, ("AUTO_CONVERGE",)),
        "slowed-more": Value(
            {"auto_converge": True, "auto_converge_initial": 30, "auto_converge_increment": 25},
            ("AUTO_CONVERGE",),
            params={"auto_converge.initial": 30, "auto_converge.increment": 25},
        ),
        "timeout": Value({"timeout": 100, "timeout_per_gib": 300, "timeout_action": "suspend"}),
        "never-pause": Value({"policy": "never_pause"}, ("AUTO_CONVERGE",), never=("nonlive",)),
        "must-complete": Value({"policy": "must_complete", "max_downtime": 900}, ("POSTCOPY",)),
    },
    "keep": {
        "moved": Value(),
        "transient": Value({"persistent": False}, without=("PERSIST_DEST",)),
        "both": Value({"undefine_source": False}, without=("UNDEFINE_SOURCE",)),
        "suspended": Value({"suspend": True}, ("PAUSED",), never=POSTCOPY),
        "titled": Value({"dest_xml": "live"}, params={"destination_xml": "(as given in dest_xml)"}),
        "defined": Value({"persistent_xml": "persistent"}, params={"persistent_xml": "(as given in persistent_xml)"}),
    },
    "guard": {
        "open": Value(),
        "protected": Value({"change_protection": True}, ("CHANGE_PROTECTION",)),
        "strict": Value({"abort_on_error": True}, ("ABORT_ON_ERROR",)),
        "unsafe": Value({"unsafe": True}, ("UNSAFE",)),
        "graphics": Value({"graphics_uri": "vnc://{address}:5901"}, params={"graphics_uri": "vnc://{address}:5901"}),
    },
    "address": {
        "any": Value(),
        "listen": Value({"listen_address": "{address}"}, params={"listen_address": "{address}"}),
    },
    "mode": {
        "live": Value(),
        "nonlive": Value({"mode": "nonlive"}, without=("LIVE",), never=POSTCOPY),
    },
    "disk": {
        "shared": Value(),
        "said-shared": Value({"storage": "shared"}),
        "not-copied": Value({"copy_storage": "none"}),
        "copied": Value(flags=("NON_SHARED_DISK",)),
        "copy": Value({"storage": "copy"}, ("NON_SHARED_DISK",)),
        "all": Value({"copy_storage": "all"}, ("NON_SHARED_DISK",)),
        "listed": Value({"migrate_disks": ["vda"]}, ("NON_SHARED_DISK",)),
        "disk-port": Value({"disks_port": 49170}, ("NON_SHARED_DISK",), params={"disks_port": 49170}),
        "disk-uri": Value({"disks_uri": TCP + ":49171"}, ("NON_SHARED_DISK",), params={"disks_uri": TCP + ":49171"}),
        "disk-socket": Value({"disks_uri": DISK_SOCKET}, ("NON_SHARED_DISK",), params={"disks_uri": DISK_SOCKET}),
        "synchronous": Value({"synchronous_writes": True}, ("NON_SHARED_DISK", "NON_SHARED_SYNCHRONOUS_WRITES")),
    },
}
ALWAYS = ("LIVE", "PEER2PEER", "PERSIST_DEST", "UNDEFINE_SOURCE")

if not MAY_LOCK_MEMORY:
    del AXES["memory"]["zerocopy"]

Case = dict[str, str]


def values(case: Case) -> list[Value]:
    return [AXES[axis][name] for axis, name in case.items()]


def fits(case: Case) -> bool:
    names = set(case.values())
    return not any(names & set(value.never) for value in values(case))


def label(case: Case) -> str:
    """What is not the first of its axis."""
    return " ".join(name for axis, name in case.items() if name != next(iter(AXES[axis]))) or "plain"


def flags(case: Case) -> set[str]:
    """The flags that libvirt must get."""
    chosen = values(case)
    wanted = {*ALWAYS, *(flag for value in chosen for flag in value.flags)}
    return wanted - {flag for value in chosen for flag in value.without}


def merged(case: Case, what: str) -> dict[str, Any]:
    return {key: item for value in values(case) for key, item in getattr(value, what).items()}


def cases(every_pair: bool, seed: int) -> list[Case]:
    """Cases in which each value occurs, or each pair of values that go together; the same for the same seed."""
    dice = random.Random(seed)
    chosen: list[Case] = []
    left = _parts(2 if every_pair else 1)
    while left:
        part = left[0]
        tries = [drawn for drawn in (_draw(dice, part) for _try in range(200)) if fits(drawn)]
        case = max(tries, key=lambda drawn: sum(one.items() <= drawn.items() for one in left))
        chosen.append(case)
        left = [one for one in left if not one.items() <= case.items()]
    return chosen


def _draw(dice: random.Random, part: Case) -> Case:
    return {axis: part.get(axis) or dice.choice(list(names)) for axis, names in AXES.items()}


def _parts(size: int) -> list[Case]:
    """Every combination of so many values that go together."""
    singles = [(axis, name) for axis, names in AXES.items() for name in names]
    groups = (dict(group) for group in combinations(singles, size))
    return [group for group in groups if len(group) == size and fits(group)]
