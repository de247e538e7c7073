# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scenario `firewall`: what is open to whom, by what firewalld and iptables say and by connections that are tried."""

from __future__ import annotations

import json
import re

import pytest

from .conftest import REPOSITORY, ansible
from .ports import listening, reached

CONVERGE = REPOSITORY / "extensions" / "molecule" / "firewall" / "converge.yml"
RECORD = "/var/lib/kvmops-migration/firewall.json"
UNIT = "kvmops-migration-firewall.service"
KVM1, KVM2, STORAGE = (
    ["192.168.1.231", "172.16.1.231"],
    ["192.168.1.232", "172.16.1.232"],
    ["192.168.1.235", "10.0.1.235"],
)
FIRST, LAST, BEYOND, DAEMON, NFS = 49152, 49215, 49216, 16509, 2049
# Its order is that in which rules were added.
STATE = """(firewall-cmd --list-all-zones; firewall-cmd --permanent --list-all-zones; systemctl is-active firewalld;
systemctl is-enabled firewalld) | sort"""


def play(*arguments, **variables):
    """The role as converge.yml has it, with these variables."""
    run = ansible("ansible-playbook", str(CONVERGE), *arguments, *(["-e", json.dumps(variables)] if variables else []))
    assert "[WARNING]" not in run.out, run.out
    return run


def done(*arguments, **variables) -> int:
    """How many tasks of a run that went well have changed something."""
    run = play(*arguments, **variables)
    assert run.rc == 0, run.out
    return run.changed


def rich_rules(host, *options) -> set[tuple[str, str]]:
    """`(source, port or service)` of all that the zone lets in by rich rules."""
    listed = host.check_output("firewall-cmd --list-rich-rules " + " ".join(options))
    found = re.findall(
        r'^rule family="ipv4" source address="(\S+)" (?:port port|service name)="(\S+)".* accept$', listed, re.M
    )
    assert len(found) == len(listed.splitlines()), listed
    return set(found)


def product(addresses, *opened) -> set[tuple[str, str]]:
    return {(address, each) for address in addresses for each in opened}


# --- what converge left


@pytest.mark.parametrize("options", [[], ["--permanent"]])
def test_c8_117_what_is_needed_is_open_to_the_peers_for_now_and_after_a_reboot(hosts, options):
    assert rich_rules(hosts["labkvm1"], *options) == product(KVM2, "49152-49215", "16509")
    assert rich_rules(hosts["labkvm2"], *options) == product(KVM1, "49152-49215", "16509")
    clients = [*KVM1, "10.0.1.231", *KVM2, "10.0.1.232"]
    assert rich_rules(hosts["labstor1"], *options) == product(clients, "nfs", "mountd", "rpc-bind")


def test_firewalld_runs_now_and_after_a_reboot(hosts):
    for host in hosts.values():
        assert host.service("firewalld").is_running
        assert host.service("firewalld").is_enabled


def test_c8_117_a_peer_comes_in_and_nobody_else(hosts):
    ports = (FIRST, LAST, BEYOND, DAEMON)
    with listening(hosts["labkvm2"], *ports):
        assert reached(hosts["labkvm1"], KVM2, *ports) == {FIRST, LAST, DAEMON}
        assert reached(hosts["labstor1"], KVM2[:1], *ports) == set()
    with listening(hosts["labstor1"], NFS, FIRST, DAEMON):
        assert reached(hosts["labkvm2"], STORAGE, NFS, FIRST, DAEMON) == {NFS}
        # Who was no peer from the beginning, and who is none any more.
        assert done("--limit", "labstor1", firewall_peers=["labkvm1"]) > 0
        assert reached(hosts["labkvm2"], STORAGE, NFS) == set()
        assert reached(hosts["labkvm1"], STORAGE, NFS) == {NFS}
        assert done("--limit", "labstor1") > 0
        assert reached(hosts["labkvm2"], STORAGE, NFS) == {NFS}


def test_to_all_on_request(hosts):
    with listening(hosts["labkvm2"], FIRST, DAEMON):
        assert done("--limit", "labkvm2", firewall_open_to="all") > 0
        assert reached(hosts["labstor1"], KVM2[:1], FIRST, DAEMON) == {FIRST, DAEMON}
        assert done("--limit", "labkvm2", firewall_open_to="all") == 0
        assert done("--limit", "labkvm2") > 0
        assert reached(hosts["labstor1"], KVM2[:1], FIRST, DAEMON) == set()


# --- removal


def test_c8_117_absent_restores_exactly_what_was(hosts):
    before = {name: host.check_output(STATE) for name, host in hosts.items()}
    assert done(firewall_state="absent") > 0
    bare = {name: host.check_output(STATE) for name, host in hosts.items()}
    assert all("rule family" not in text and "active" in text for text in bare.values())
    assert not any(host.file(RECORD).exists for host in hosts.values())
    assert done(firewall_state="absent") == 0
    assert done() > 0
    assert {name: host.check_output(STATE) for name, host in hosts.items()} == before
    assert done() == 0


def test_c8_117_rules_of_others_stay(hosts):
    """Those for now only too, which a reload of firewalld would take away; and one like ours, which is not ours."""
    host = hosts["labkvm1"]
    assert done("--limit", "labkvm1", firewall_state="absent") > 0
    ours = f'rule family="ipv4" source address="{KVM2[1]}" port port="16509" protocol="tcp" accept'
    host.check_output("firewall-cmd --add-port=9999/tcp && firewall-cmd --permanent --add-port=9998/tcp")
    host.check_output("firewall-cmd --add-rich-rule=%s && firewall-cmd --permanent --add-rich-rule=%s", ours, ours)
    try:
        bare = host.check_output(STATE)
        assert done("--limit", "labkvm1") > 0
        assert host.check_output("firewall-cmd --list-ports") == "9999/tcp"
        assert host.check_output("firewall-cmd --permanent --list-ports") == "9998/tcp"
        assert done("--limit", "labkvm1", firewall_state="absent") > 0
        assert host.check_output(STATE) == bare
    finally:
        host.run("firewall-cmd --remove-port=9999/tcp; firewall-cmd --permanent --remove-port=9998/tcp")
        host.run("firewall-cmd --remove-rich-rule=%s; firewall-cmd --permanent --remove-rich-rule=%s", ours, ours)
    assert done("--limit", "labkvm1") > 0


def test_a_firewalld_that_the_role_starts_lets_ansible_in_and_is_stopped_again(hosts):
    """Its zone does not open SSH: started as it is, it would close the host."""
    host = hosts["labkvm2"]
    assert done("--limit", "labkvm2", firewall_state="absent") > 0
    host.check_output(
        "systemctl disable --now firewalld && firewall-offline-cmd --zone=public --remove-service-from-zone=ssh"
    )
    try:
        bare = host.check_output("firewall-offline-cmd --list-all-zones")
        announced = play("--limit", "labkvm2", "--check")
        assert (announced.rc, announced.changed > 0) == (0, True), announced.out
        assert not host.service("firewalld").is_running
        assert done("--limit", "labkvm2") > 0
        # By a connection of its own, not by one that stood before firewalld did.
        fresh = "-o ControlMaster=no -o ControlPath=none"
        run = play("--limit", "labkvm2", "--ssh-extra-args", fresh)
        assert (run.rc, run.changed) == (0, 0), run.out
        assert host.service("firewalld").is_running
        assert host.service("firewalld").is_enabled
        assert rich_rules(host) == rich_rules(host, "--permanent") == product(KVM1, "49152-49215", "16509")
        assert done("--limit", "labkvm2", firewall_state="absent") > 0
        assert not host.service("firewalld").is_running
        assert not host.service("firewalld").is_enabled
        assert host.check_output("firewall-offline-cmd --list-all-zones") == bare
        assert done("--limit", "labkvm2", firewall_state="absent") == 0
    finally:
        host.run("firewall-offline-cmd --zone=public --add-service=ssh; systemctl enable --now firewalld")
    assert done("--limit", "labkvm2") > 0


# --- check mode and bad input


def test_check_mode_announces_and_changes_nothing(hosts):
    before = hosts["labkvm1"].check_output(STATE)
    run = play("--limit", "labkvm1", "--check", "--diff", firewall_open_to="all")
    assert run.rc == 0, run.out
    assert run.changed > 0
    assert 'rule port port=\\"49152-49215\\" protocol=\\"tcp\\" accept' in run.out, run.out
    assert hosts["labkvm1"].check_output(STATE) == before


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"firewall_ports": ["16509"]}, "firewall_ports: '16509' is not PORT/PROTOCOL or FIRST-LAST/PROTOCOL, like"),
        ({"firewall_zone": "nosuch"}, "firewall_zone: firewalld has no zone 'nosuch' here, but these: block, dmz, "),
        ({"firewall_peers": ["labkvm9"]}, "firewall_peers: 'labkvm9' is not in the inventory"),
        ({"firewall_services": ["nosuch"]}, "firewall_services: firewalld knows no service 'nosuch' here"),
        ({"firewall_backend": "ufw"}, "value of firewall_backend must be one of: firewalld, iptables, got: ufw"),
        ({"firewall_backend": "iptables"}, "firewall_backend: rules of iptables open nothing beside firewalld.service"),
    ],
)
def test_bad_input_is_one_clear_line_and_nothing_changes(hosts, changed, said):
    before = hosts["labkvm1"].check_output(STATE)
    run = play("--limit", "labkvm1", **changed)
    assert (run.rc, run.changed) == (2, 0), run.out
    assert said in run.out
    assert hosts["labkvm1"].check_output(STATE) == before


# --- iptables


@pytest.fixture
def without_firewalld(hosts):
    """labkvm2 without a firewall, but for a rule of somebody else."""
    host = hosts["labkvm2"]
    assert done("--limit", "labkvm2", firewall_state="absent") > 0
    host.check_output("systemctl stop firewalld && iptables -A INPUT -s 192.0.2.1 -j DROP")
    yield host
    play("--limit", "labkvm2", firewall_state="absent")
    host.run("iptables -D INPUT -s 192.0.2.1 -j DROP; systemctl start firewalld")
    assert done("--limit", "labkvm2") > 0


def test_c8_117_iptables_lets_the_peers_in_and_nobody_else(hosts, without_firewalld):
    host, limit = without_firewalld, ("--limit", "labkvm2")
    tables = "for each in iptables ip6tables; do $each-save -t filter | grep -v '^#' | sed 's/ \\[.*//'; done"
    bare = host.check_output(tables)
    announced = play(*limit, "--check", firewall_backend="iptables")
    assert (announced.rc, announced.changed > 0) == (0, True), announced.out
    assert host.check_output(tables) == bare
    with listening(host, FIRST, LAST, BEYOND, DAEMON):
        assert reached(hosts["labstor1"], KVM2[:1], FIRST, BEYOND, DAEMON) == {FIRST, BEYOND, DAEMON}
        assert done(*limit, firewall_backend="iptables") > 0
        assert reached(hosts["labkvm1"], KVM2, FIRST, LAST, DAEMON) == {FIRST, LAST, DAEMON}
        # What the role does not open is as it was, and the host itself reaches all of its own.
        assert reached(hosts["labstor1"], KVM2[:1], FIRST, LAST, BEYOND, DAEMON) == {BEYOND}
        assert reached(host, ["127.0.0.1"], FIRST, DAEMON) == {FIRST, DAEMON}
        assert done(*limit, firewall_backend="iptables") == 0
        assert "-A INPUT -s 192.0.2.1/32 -j DROP" in host.check_output("iptables -S INPUT")
        assert "KVMOPS-MIGRATION-END" in host.check_output("ip6tables -S INPUT")
        # After a reboot: nothing is set, and systemd starts what is enabled.
        assert host.service(UNIT).is_enabled
        host.check_output(f"systemctl stop {UNIT}")
        assert host.check_output(tables).replace(":INPUT ACCEPT", "") == bare.replace(":INPUT ACCEPT", "")
        host.check_output(f"systemctl start {UNIT}")
        assert reached(hosts["labstor1"], KVM2[:1], FIRST) == set()
        # Somebody has cleared everything.
        host.check_output("iptables -F")
        assert done(*limit, firewall_backend="iptables") == 1
        assert reached(hosts["labkvm1"], KVM2, FIRST) == {FIRST}
        assert reached(hosts["labstor1"], KVM2[:1], FIRST) == set()
        host.check_output("iptables -A INPUT -s 192.0.2.1 -j DROP")
        assert done(*limit, firewall_state="absent") > 0
        assert reached(hosts["labstor1"], KVM2[:1], FIRST, DAEMON) == {FIRST, DAEMON}
    assert host.check_output(tables) == bare
    assert done(*limit, firewall_state="absent") == 0
    assert not host.file(f"/etc/systemd/system/{UNIT}").exists
