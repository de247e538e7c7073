# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What may go wrong between lab hosts, made on purpose: a slow link, a dead one, a process that is killed.

Each fault is a context that ends with the fault; `mend` takes away what a test that was killed itself has left.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from . import cgroup, network, tiers
from .host import end_processes
from .paths import LabError, netns_of

TABLE = "kvmops_cut"
# Of the private network, over which guests move.
DEVICE = "private0"
# Ports on which the destination takes in memory and disks.
MIGRATION_PORTS = "49152-49215"
DAEMON = "libvirtd.service"
CONFIGURATION = "/etc/libvirt/qemu.conf /etc/libvirt/libvirtd.conf"
NO_KEEPALIVE = "keepalive_interval = -1"
SOCKETS = ("libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket")


def inside(host: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command on a lab host as its root, past Ansible and ssh: they may be what a fault has hit."""
    return tiers.host(host).execute(*command)


def must(host: str, *command: str) -> str:
    done = inside(host, *command)
    if done.returncode:
        raise LabError(f"{host}: {' '.join(command)} failed ({done.returncode}): {done.stderr.strip()}")
    return done.stdout


@contextlib.contextmanager
def shaped(mib: int, *hosts: str) -> Iterator[None]:
    """Let each of the hosts send no more than that many MiB per second into the network."""
    try:
        for host in hosts:
            # The queue holds a tenth of a second: whatever else goes this way is slow, and not dead.
            must(
                host,
                *("tc", "qdisc", "replace", "dev", DEVICE, "root", "tbf"),
                *("rate", f"{mib}mibps", "burst", "256kb", "latency", "100ms"),
            )
        yield
    finally:
        for host in hosts:
            inside(host, "tc", "qdisc", "del", "dev", DEVICE, "root")


@contextlib.contextmanager
def cut(*hosts: str, ports: str = "") -> Iterator[None]:
    """Let the hosts drop what arrives from the network, or only to and from these TCP ports; nobody is told."""
    try:
        for host in hosts:
            drop(host, ports)
        yield
    finally:
        for host in hosts:
            restore(host)


def drop(host: str, ports: str = "") -> None:
    device = f'iifname "{DEVICE}"'
    rules = [f"{device} tcp {side} {ports} drop" for side in ("dport", "sport")] if ports else [f"{device} drop"]
    lines = "\n".join(("type filter hook input priority -300", *rules))
    must(host, "nft", f"table inet {TABLE} {{\nchain arriving {{\n{lines}\n}}\n}}")


def restore(host: str) -> None:
    inside(host, "nft", "delete", "table", "inet", TABLE)


def tear(host: str, address: str) -> None:
    """End the TCP connections with that address that carry a migration; both ends are told."""
    low, _dash, high = MIGRATION_PORTS.partition("-")
    sides = (f"( {side} >= :{low} and {side} <= :{high} )" for side in ("sport", "dport"))
    must(host, "ss", "--kill", "--tcp", "dst", address, "and", f"( {' or '.join(sides)} )")


def kill(host: str, pattern: str) -> None:
    """End the processes whose command line fits, without giving them a chance to say so."""
    must(host, "pkill", "-KILL", "-f", pattern)


def kill_qemu(host: str, vm: str) -> None:
    kill(host, f"qemu-system.*guest={vm},")


def kill_daemon(host: str) -> None:
    """The libvirt daemon dies, and systemd starts it again at once."""
    must(host, "systemctl", "kill", "--kill-who=main", "--signal=KILL", DAEMON)


def start_daemon(host: str) -> None:
    must(host, "systemctl", "reset-failed", DAEMON)
    must(host, "systemctl", "start", DAEMON)


@contextlib.contextmanager
def no_keepalive(*hosts: str) -> Iterator[None]:
    """These daemons never take the other side of a connection for dead."""
    try:
        for host in hosts:
            must(host, "sh", "-c", f"echo '{NO_KEEPALIVE}' | tee -a {CONFIGURATION}; systemctl restart {DAEMON}")
        yield
    finally:
        for host in hosts:
            restore_keepalive(host)


def restore_keepalive(host: str) -> None:
    edit = f"sed -i '/^{NO_KEEPALIVE}$/d' {CONFIGURATION}"
    inside(host, "sh", "-c", f"grep -q '^{NO_KEEPALIVE}$' {CONFIGURATION} && {edit} && systemctl restart {DAEMON}")


@contextlib.contextmanager
def no_power(host: str) -> Iterator[None]:
    """The host is off: nothing of it runs, and nobody was told; it boots again when the context ends."""
    facts = tiers.facts()
    lab_host = tiers.host(host)
    links = [f"link set {name}0 " for name in lab_host.addresses]
    try:
        # First the links: the kernel of this machine would end the connections of the dead politely.
        network.batch(netns_of(host), [link + "down" for link in links])
        end_processes(lambda: cgroup.processes(host))
        yield
    finally:
        network.batch(netns_of(host), [link + "up" for link in links])
        lab_host.boot(Path(facts["rootfs"]), kvm=facts["accelerated"])
        lab_host.wait()


def mend(host: str) -> None:
    """The host without any of these faults."""
    restore(host)
    restore_keepalive(host)
    inside(host, "tc", "qdisc", "del", "dev", DEVICE, "root")
    if inside(host, "systemctl", "is-active", "--quiet", DAEMON).returncode:
        start_daemon(host)
