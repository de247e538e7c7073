# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""`python3 -m tests.lab COMMAND`: what molecule's create.yml and destroy.yml call.

`up` and `place` read what to build as JSON on standard input; the inventory is the only place that knows it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

from . import cgroup, kvm, network, rootfs
from .host import Host, kill_all, make_controller_key
from .paths import NAME, STATE, LabError, locked, require_root, run, say


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
    if STATE.exists():
        shutil.rmtree(STATE)
    return there


def place(_options: argparse.Namespace) -> dict:
    """Put files into hosts: `{host: {path in the host: file on this machine}}`, sparsely and at disk speed."""
    placed = []
    for name, files in json.load(sys.stdin).items():
        leader = Host(name, {}).leader()
        if leader is None:
            raise LabError(f"host {name} is not up; `make lab` boots the lab")
        for target, source in files.items():
            inside = Path(f"/proc/{leader}/root") / target.lstrip("/")
            if not inside.parent.is_dir():
                raise LabError(f"{name} has no folder {Path(target).parent}")
            run("cp", "--sparse=always", source, inside)
            placed.append(f"{name}:{target}")
    return {"placed": placed}


COMMANDS = {"build": build, "up": up, "down": down, "place": place}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.lab", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
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
