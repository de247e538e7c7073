# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""`python3 -m tests.lab COMMAND`: what molecule's create.yml and destroy.yml call.

`up` and `guests` read what to build as JSON on standard input; the inventory is the only place that knows it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

from . import cgroup, kernel, kvm, network, rootfs
from .host import WATCH_LOG, Host, kill_all, make_controller_key
from .paths import NAME, STATE, LabError, locked, require_root, run, say

# Options of the guest builder that a guest of the inventory may set.
GUEST_OPTIONS = ("name", "address", "gateway", "dirty", "write", "interval")


def build(_options: argparse.Namespace) -> dict:
    with locked():
        return {"rootfs": str(rootfs.build())}


def up(_options: argparse.Namespace) -> dict:
    """Boot the lab from nothing: whatever an earlier, perhaps killed, run left is removed first."""
    spec = json.load(sys.stdin)
    with locked():
        root = rootfs.build()
        accelerated = kvm.usable(root)
        began = time.monotonic()
        _remove()
        STATE.mkdir(parents=True, mode=0o700)
        # Where Ansible and ssh keep the connections that they share; they end with the lab.
        (STATE / "cp").mkdir(mode=0o700)
        make_controller_key()
        network.create(spec["networks"], spec["hosts"])
        hosts = [Host(name, facts["networks"]) for name, facts in spec["hosts"].items()]
        for host in hosts:
            host.prepare()
            host.boot(root, kvm=accelerated)
            say(f"{host.name} is booting")
        for host in hosts:
            host.wait()
            say(f"{host.name} is up")
        facts = {
            "domain_type": "kvm" if accelerated else "qemu",
            "rootfs": str(root),
            "networks": {host.name: host.addresses for host in hosts},
            "boot_seconds": round(time.monotonic() - began, 1),
        }
        (STATE / "lab.json").write_text(json.dumps(facts), encoding="ascii")
        return facts


def down(_options: argparse.Namespace) -> dict:
    with locked():
        return {"changed": _remove()}


def _remove() -> bool:
    """Take away every process, namespace, control group and file of the lab; the cache stays."""
    there = bool(cgroup.processes() or network.namespaces() or STATE.exists())
    kill_all()
    cgroup.remove()
    network.destroy()
    kernel.restore()
    if STATE.exists():
        shutil.rmtree(STATE)
    return there


def guests(_options: argparse.Namespace) -> dict:
    """Build the disk of each guest on the list and put it where the guest starts."""
    built = []
    root = rootfs.build()
    for guest in json.load(sys.stdin):
        leader = Host(guest["host"]).leader()
        if leader is None:
            raise LabError(f"host {guest['host']} is not up; `make lab` boots the lab")
        options = [f"--{key}={guest[key]}" for key in GUEST_OPTIONS if key in guest]
        options += ["--agent"] if guest.get("agent") else []
        target = f"/proc/{leader}/root{guest['image']}"
        run(sys.executable, "-m", "tests.lab.guest.build", f"--rootfs={root}", f"--output={target}", *options)
        built.append(f"{guest['host']}:{guest['image']}")
        say(f"guest {guest['name']}: {built[-1]}")
    return {"built": built}


def postcopy(_options: argparse.Namespace) -> dict:
    """Let guests of this lab move by post-copy, until it is taken down."""
    return {"changed": kernel.permit_postcopy()}


def watch(_options: argparse.Namespace) -> dict:
    """Judge what the watchers of all hosts saw since they booted: did a VM ever run in two places?"""
    logs = []
    for folder in sorted((STATE / "hosts").iterdir()):
        leader = Host(folder.name).leader()
        if leader is None:
            raise LabError(f"host {folder.name} is not up: its watcher cannot have seen the whole scenario")
        logs.append(f"/proc/{leader}/root{WATCH_LOG}")
    return json.loads(run(sys.executable, "-m", "tests.lab.watch.watch", "judge", *logs))


def witness(options: argparse.Namespace) -> dict:
    """Judge one guest by its own records: what its consoles printed on all hosts against what is on its disk."""
    vm = options.vm
    if not vm:
        raise LabError("witness NAME: the guest to judge is missing")
    leaders = {folder.name: Host(folder.name).leader() for folder in sorted((STATE / "hosts").iterdir())}
    roots = {name: Path(f"/proc/{leader}/root") for name, leader in leaders.items() if leader}
    # What has been rotated away lies beside them, and is found there.
    logs = {name: root / f"var/log/libvirt/qemu/{vm}.serial.log" for name, root in roots.items()}
    consoles = [f"--console={name}={log}" for name, log in logs.items() if log.exists()]
    if not consoles:
        raise LabError(f"no host has a console log of {vm}")
    home = next((name for name in roots if _virsh(name, "domstate", vm).strip() in ("running", "paused")), None)
    if home is None:
        raise LabError(f"{vm} is active on no host")
    # Its disk at one moment: the guest stands still while it is read, and one that was paused stays so.
    image = _virsh(home, "domblklist", vm, "--details").split()[-1]
    runs = _virsh(home, "domstate", vm).strip() == "running"
    if runs:
        _virsh(home, "suspend", vm)
    try:
        judge = (sys.executable, "-m", "tests.lab.guest.witness", "judge", f"--boots={options.boots}")
        said = run(*judge, *consoles, f"--image={roots[home]}{image}")
    finally:
        if runs:
            _virsh(home, "resume", vm)
    return json.loads(said)


def _virsh(host: str, *command: str) -> str:
    lab_host = Host(host)
    leader = lab_host.leader()
    done = lab_host.execute(leader, "virsh", *command) if leader else None
    return done.stdout if done and done.returncode == 0 else ""


COMMANDS = {
    "build": build,
    "up": up,
    "down": down,
    "guests": guests,
    "postcopy": postcopy,
    "watch": watch,
    "witness": witness,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.lab", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("vm", nargs="?", help="the guest that `witness` judges")
    parser.add_argument("--boots", type=int, default=1, help="how often that guest may have booted (default 1)")
    options = parser.parse_args()
    try:
        require_root()
        print(json.dumps(COMMANDS[options.command](options)))
    except LabError as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
