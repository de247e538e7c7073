# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One measured move of a lab guest: by `virsh migrate`, or by virt_migrate through Ansible."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.faults import inside, must
from tests.lab.paths import LabError

PLAYBOOKS = Path(__file__).resolve().parents[2] / "playbooks"
MODULE = "kvmops.migration.virt_migrate"
ADDRESSES = {"labkvm1": "172.16.1.231", "labkvm2": "172.16.1.232"}
# virsh's words for what virt_migrate hands to libvirt.
WORDS = {
    "LIVE": "--live",
    "PEER2PEER": "--p2p",
    "PERSIST_DEST": "--persistent",
    "UNDEFINE_SOURCE": "--undefinesource",
    "NON_SHARED_DISK": "--copy-storage-all",
    "CHANGE_PROTECTION": "--change-protection",
    "migrate_uri": "--migrateuri",
    "migrate_disks": "--migrate-disks",
    "bandwidth": "--bandwidth",
}


@dataclass(frozen=True)
class Moved:
    """One move: the seconds that are compared, those of the whole command, and the guest's downtime by libvirt."""

    seconds: float
    wall: float
    downtime: float


def home(vm: str) -> str:
    for host in ADDRESSES:
        if inside(host, "virsh", "domstate", vm).stdout.strip() == "running":
            return host
    raise LabError(f"{vm} runs on no host of the lab")


def other(host: str) -> str:
    return next(name for name in ADDRESSES if name != host)


def options(vm: str, image: str) -> list[str]:
    """The words that make virsh do what virt_migrate does by default, learned from a move of its own."""
    source = home(vm)
    make_room(source, other(source), image)
    result = move(source, vm)
    named = {**dict.fromkeys(result["flags"]), **result["params"]}
    unknown = sorted(set(named) - set(WORDS))
    if unknown:
        raise LabError(f"virt_migrate uses {', '.join(unknown)}, for which tests/bench/moves.py has no word of virsh")
    words = []
    for name, value in named.items():
        words.append(WORDS[name])
        if name == "migrate_uri":
            words.append("tcp://{address}")
        elif value is not None:
            words.append(",".join(value) if isinstance(value, list) else str(value))
    return words


def make_room(source: str, dest: str, image: str) -> None:
    """What virsh leaves to its user, so that both begin with it done: no image at the destination, fresh pools."""
    must(dest, "rm", "-f", image)
    for host in (source, dest):
        must(host, "virsh", "pool-refresh", "vm")


def by_virsh(vm: str, image: str, words: Sequence[str]) -> Moved:
    source = home(vm)
    dest = other(source)
    make_room(source, dest, image)
    address = ADDRESSES[dest]
    there = f"qemu+ssh://root@{address}/system"
    began = time.monotonic()
    must(source, "virsh", "migrate", vm, there, *(word.format(address=address) for word in words))
    seconds = time.monotonic() - began
    return Moved(seconds, seconds, downtime(dest, vm))


def by_module(vm: str, image: str, _words: Sequence[str]) -> Moved:
    source = home(vm)
    make_room(source, other(source), image)
    began = time.monotonic()
    result = move(source, vm)
    wall = time.monotonic() - began
    return Moved(result["duration_s"], wall, downtime(other(source), vm))


def move(source: str, vm: str) -> dict[str, Any]:
    """The result of virt_migrate, called as a user calls it."""
    return ansible(source, MODULE, {"name": vm, "dest_host": other(source), "tls": "false"})


def ansible(host: str, module: str, options: dict[str, Any]) -> dict[str, Any]:
    """The result of a module that has changed something."""
    done = subprocess.run(
        ["ansible", host, "-m", module, "-a", json.dumps(options)],
        cwd=PLAYBOOKS,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
        text=True,
        capture_output=True,
        check=False,
    )
    found = re.search(rf"^{host} \| CHANGED => (?=\{{)", done.stdout, re.MULTILINE)
    if done.returncode or not found:
        raise LabError(f"{module} failed: {done.stdout}{done.stderr}")
    result: dict[str, Any] = json.JSONDecoder().raw_decode(done.stdout, found.end())[0]
    return result


def downtime(dest: str, vm: str) -> float:
    """Milliseconds, as libvirt at the destination tells them to whoever asks."""
    said = must(dest, "virsh", "domjobinfo", vm, "--completed")
    found = re.search(r"^Total downtime:\s+([\d.]+)\s+(m?s)\b", said, re.MULTILINE)
    if found is None:
        raise LabError(f"{dest} tells no downtime of {vm}:\n{said}")
    return float(found[1]) * (1 if found[2] == "ms" else 1000)
