# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""`python3 -m tests.lab COMMAND`: what molecule's create.yml and destroy.yml call.

`up` and `guests` read what to build as JSON on standard input; the inventory is the only place that knows it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import time
from pathlib import Path

from . import cgroup, kernel, kvm, network, rootfs, tiers
from .host import WATCH_LOG, Host, kill_all, make_controller_key
from .machine import Machine
from .paths import NAME, STATE, LabError, locked, require_root, run, say

# Options of the guest builder that a guest of the inventory may set.
GUEST_OPTIONS = ("name", "address", "gateway", "dirty", "write", "interval")


def build(_options: argparse.Namespace) -> dict:
    with locked():
        return {"rootfs": str(rootfs.build())}


def up(_options: argparse.Namespace) -> dict:
    """Boot the lab from nothing: whatever an earlier, perhaps killed, run left is removed first."""
    spec = json.load(sys.stdin)
    kind = tiers.kind(spec["tier"])
    with locked():
        root = rootfs.build()
        bare = rootfs.build(bare=True) if any(host.get("bare") for host in spec["hosts"].values()) else root
        accelerated = kvm.usable(root)
        began = time.monotonic()
        _remove()
        STATE.mkdir(parents=True, mode=0o700)
        # Where Ansible and ssh keep the connections that they share; they end with the lab.
        (STATE / "cp").mkdir(mode=0o700)
        make_controller_key()
        network.create(spec["networks"], spec["hosts"], machines=kind is Machine)
        hosts = [_host(kind, name, spec) for name in spec["hosts"]]
        for host in hosts:
            host.prepare()
            host.boot(bare if spec["hosts"][host.name].get("bare") else root, kvm=accelerated)
            say(f"{host.name} is booting")
        for host in hosts:
            host.wait()
            say(f"{host.name} is up")
        facts = {
            "tier": spec["tier"],
            # Whether virtualization within virtualization is of use is not asked: emulation always works.
            "domain_type": "kvm" if accelerated and kind is Host else "qemu",
            "accelerated": accelerated,
            "rootfs": str(root),
            "networks": {host.name: host.addresses for host in hosts},
            "hypervisors": [host.name for host in hosts if host.hypervisor],
            "boot_seconds": round(time.monotonic() - began, 1),
        }
        tiers.RECORD.write_text(json.dumps(facts), encoding="ascii")
        return facts


def _host(kind: type[Host], name: str, spec: dict) -> Host:
    facts = spec["hosts"][name]
    host = kind(name, facts["networks"], hypervisor=facts["hypervisor"])
    if isinstance(host, Machine):
        host.commands = network.host_commands(name, spec["hosts"], spec["networks"])
        host.macs = {net: network.mac(net, name, spec["networks"], spec["hosts"]) for net in facts["networks"]}
    return host


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
        options = [f"--{key}={guest[key]}" for key in GUEST_OPTIONS if key in guest]
        options += ["--agent"] if guest.get("agent") else []
        with tiers.host(guest["host"]).writing(guest["image"]) as target:
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
    # What is copied first must not seem to have ended first.
    until = time.time_ns()
    for name in sorted(tiers.facts()["networks"]):
        host = tiers.host(name)
        if not host.reachable():
            raise LabError(f"host {name} is not up: its watcher cannot have seen the whole scenario")
        logs.append(_by_our_clock(host, until))
    return json.loads(run(sys.executable, "-m", "tests.lab.watch.watch", "judge", *logs))


def _by_our_clock(host: Host, until: int) -> Path:
    """The log of a host's watcher with this machine's time, by which the logs of all hosts are put together."""
    log = host.look(WATCH_LOG)
    ahead = host.ahead()
    if not ahead:
        return log
    say(f"{host.name}: its clock is {-ahead / 1e6:.0f} ms behind")
    shifted = log.with_suffix(".shifted")
    with log.open(encoding="utf-8") as lines, shifted.open("w", encoding="utf-8") as target:
        for text in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError):  # a line that was cut is no line
                line = json.loads(text)
                if line["at"] - ahead <= until:
                    target.write(json.dumps({**line, "at": line["at"] - ahead}) + "\n")
    return shifted


def witness(options: argparse.Namespace) -> dict:
    """Judge one guest by its own records: what its consoles printed on all hosts against what is on its disk."""
    vm = options.vm
    if not vm:
        raise LabError("witness NAME: the guest to judge is missing")
    hosts = {name: host for name in sorted(tiers.facts()["networks"]) if (host := tiers.host(name)).reachable()}
    # What has been rotated away lies beside them, and is found there.
    log = f"/var/log/libvirt/qemu/{vm}.serial.log"
    there = [name for name, host in hosts.items() if host.execute("test", "-e", log).returncode == 0]
    consoles = [f"--console={name}={hosts[name].look(log)}" for name in there]
    if not consoles:
        raise LabError(f"no host has a console log of {vm}")
    home = next((name for name in hosts if _virsh(name, "domstate", vm).strip() in ("running", "paused")), None)
    if home is None:
        raise LabError(f"{vm} is active on no host")
    # Its disk at one moment: the guest stands still while it is read, and one that was paused stays so.
    image = _virsh(home, "domblklist", vm, "--details").split()[-1]
    runs = _virsh(home, "domstate", vm).strip() == "running"
    if runs:
        _virsh(home, "suspend", vm)
    try:
        judge = (sys.executable, "-m", "tests.lab.guest.witness", "judge", f"--boots={options.boots}")
        said = run(*judge, *consoles, f"--image={hosts[home].look(image)}")
    finally:
        if runs:
            _virsh(home, "resume", vm)
    return json.loads(said)


def _virsh(host: str, *command: str) -> str:
    done = tiers.host(host).execute("virsh", *command)
    return done.stdout if done.returncode == 0 else ""


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
