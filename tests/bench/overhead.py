# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What virt_migrate costs over a bare `virsh migrate` of the same guest, in interleaved pairs on the lab.

`make bench` with the lab up. Reported, never asserted: machines are noisy, the median of the differences is the figure.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PLAYBOOKS = REPOSITORY / "playbooks"
sys.path.insert(0, str(REPOSITORY))

from tests.lab.host import Host  # noqa: E402 - the repository must be on the path first

VM = "centos64a"
IMAGE = "/vm/centos64-32bit.qcow2"
ADDRESSES = {"labkvm1": "172.16.1.231", "labkvm2": "172.16.1.232"}


def inside(host: str, *command: str) -> subprocess.CompletedProcess[str]:
    lab_host = Host(host)
    leader = lab_host.leader()
    if leader is None:
        sys.exit(f"{host} is not up: `make lab` boots the lab")
    return lab_host.execute(leader, *command)


def home() -> str:
    for host in ADDRESSES:
        if inside(host, "virsh", "domstate", VM).stdout.strip() == "running":
            return host
    sys.exit(f"{VM} runs on no host of the lab")


def bare(source: str, dest: str) -> float:
    """The same flags by hand, with the two things that virsh leaves to its user: a fresh image, fresh pools."""
    inside(dest, "rm", "-f", IMAGE)
    for host in (source, dest):
        inside(host, "virsh", "pool-refresh", "vm")
    began = time.monotonic()
    done = inside(
        source,
        *("virsh", "migrate", "--live", "--p2p", "--persistent", "--undefinesource", "--copy-storage-all"),
        *("--migrate-disks", "vda", VM, f"qemu+ssh://root@{ADDRESSES[dest]}/system"),
        *("--migrateuri", f"tcp://{ADDRESSES[dest]}"),
    )
    seconds = time.monotonic() - began
    if done.returncode:
        sys.exit(f"virsh migrate failed: {done.stderr}")
    return seconds


def module(source: str, dest: str) -> tuple[float, float]:
    """The module through Ansible: its own `duration_s`, and the wall clock of the task."""
    began = time.monotonic()
    done = subprocess.run(
        [
            *("ansible", source, "-m", "kvmops.migration.virt_migrate"),
            *("-a", json.dumps({"name": VM, "dest_host": dest, "force": True})),
        ],
        cwd=PLAYBOOKS,
        env={**os.environ, "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1", "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.oneline"},
        text=True,
        capture_output=True,
        check=False,
    )
    wall = time.monotonic() - began
    if done.returncode:
        sys.exit(f"virt_migrate failed: {done.stdout}{done.stderr}")
    return json.loads(done.stdout.split("=>", 1)[1])["duration_s"], wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    rows = []
    print(f"{'pair':>4} {'virsh s':>8} {'duration_s':>10} {'more s':>7} {'task wall s':>11}")
    for number in range(1, parser.parse_args().pairs + 1):
        # A whole pair goes one way with virsh and back with the module, or the reverse: each pays for both directions.
        first, second = (bare, module) if number % 2 else (module, bare)
        seconds = {}
        for mover in (first, second):
            source = home()
            dest = next(host for host in ADDRESSES if host != source)
            seconds[mover] = mover(source, dest)
        ours, wall = seconds[module]
        rows.append((seconds[bare], ours, ours - seconds[bare], wall))
        print(f"{number:>4} {rows[-1][0]:>8.2f} {ours:>10.2f} {rows[-1][2]:>7.2f} {wall:>11.2f}")
    print("median", *(f"{statistics.median(column):.2f}" for column in zip(*rows, strict=True)))


if __name__ == "__main__":
    main()
