# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's networks: one bridge per network in a control namespace, one namespace per host, nothing else.

No namespace has a way out: the control namespace holds the bridges and an address on the LAN (from there the
controller logs in), and no interface of it leads to the machine itself.
"""

from __future__ import annotations

from pathlib import Path

from .paths import CONTROL_NETNS, LabError, netns_of, run

GUEST_BRIDGE = "br-lan"  # on each hypervisor: the host's LAN address and its guests' interfaces
# QEMU guests and containers share the machine's bridge netfilter switch; the lab's frames are none of its business.
SYSCTLS = (
    "net/bridge/bridge-nf-call-iptables",
    "net/bridge/bridge-nf-call-ip6tables",
    "net/ipv6/conf/all/disable_ipv6",
)


def create(networks: dict, hosts: dict, *, machines: bool = False) -> None:
    """The bridges, and for each host a namespace with its interfaces; a machine has a tap at each bridge instead."""
    run("ip", "netns", "add", CONTROL_NETNS)
    if not machines:
        for host in hosts:
            run("ip", "netns", "add", netns_of(host))
    batch(CONTROL_NETNS, _control_commands(networks, hosts, machines=machines))
    if not machines:
        for host in hosts:
            batch(netns_of(host), host_commands(host, hosts, networks))


def destroy() -> None:
    for name in namespaces():
        run("ip", "netns", "delete", name)


def namespaces() -> list[str]:
    """The lab's namespaces that exist now: the control one and the hosts'."""
    folder = Path("/run/netns")
    return sorted(path.name for name in (CONTROL_NETNS, netns_of("*")) for path in folder.glob(name))


def processes() -> set[int]:
    """The processes that live in the lab's namespaces."""
    return {int(pid) for name in namespaces() for pid in run("ip", "netns", "pids", name).split()}


def tap(network: str, host: str) -> str:
    """The name of a machine's interface at the bridge; the kernel takes 15 characters."""
    return f"{network[:6]}.{host[-8:]}"


def mac(network: str, host: str, networks: dict, hosts: dict) -> str:
    """A locally administered address of a machine's interface."""
    return f"02:00:5e:00:{list(networks).index(network) + 1:02x}:{list(hosts).index(host) + 1:02x}"


def _control_commands(networks: dict, hosts: dict, *, machines: bool) -> list[str]:
    lines = ["link set lo up"]
    for network, facts in networks.items():
        lines += [f"link add br-{network} type bridge", f"link set br-{network} up"]
        if "controller" in facts:
            lines.append(f"address add {facts['controller']}/{facts['prefix']} dev br-{network}")
    for number, (host, facts) in enumerate(hosts.items()):
        for network in facts["networks"]:
            if network not in networks:
                raise LabError(f"host {host} is on network {network}, which the inventory does not declare")
            port = tap(network, host) if machines else f"{network}.{number}"
            lines += [
                f"tuntap add dev {port} mode tap"
                if machines
                else f"link add {port} type veth peer name {network}0 netns {netns_of(host)}",
                f"link set {port} master br-{network} up",
            ]
    return lines


def host_commands(host: str, hosts: dict, networks: dict) -> list[str]:
    """What gives a host its addresses."""
    lines = ["link set lo up"]
    for network, address in hosts[host]["networks"].items():
        device = f"{network}0"
        lines.append(f"link set {device} up")
        if network == "lan" and hosts[host]["hypervisor"]:
            # A locally administered address of the bridge's own: it must not follow the guests' interfaces.
            lines += [
                f"link add {GUEST_BRIDGE} address 02:00:5e:00:00:{list(hosts).index(host) + 1:02x} type bridge",
                f"link set {device} master {GUEST_BRIDGE}",
                f"link set {GUEST_BRIDGE} up",
            ]
            device = GUEST_BRIDGE
        lines.append(f"address add {address}/{networks[network]['prefix']} dev {device}")
    return lines


def batch(namespace: str, lines: list[str]) -> None:
    """Commands of ip(8) in one of the namespaces."""
    run("ip", "-n", namespace, "-batch", "-", stdin="\n".join(lines) + "\n")
    script = "; ".join(f"[ ! -e /proc/sys/{key} ] || echo {int('ipv6' in key)} > /proc/sys/{key}" for key in SYSCTLS)
    run("nsenter", f"--net=/run/netns/{namespace}", "sh", "-c", script)
