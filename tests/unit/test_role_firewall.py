# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What role firewall decides to open and close, on a host that answers as firewall-cmd and iptables do."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

PLAN = Path(__file__).resolve().parents[2] / "roles" / "firewall" / "files" / "plan.py"
spec = importlib.util.spec_from_file_location("firewall_plan", PLAN)
plan = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plan)

RECORD = "/var/lib/kvmops-migration/firewall.json"
MIGRATION = "49152-49215/tcp"
PUBLIC = """block
  target: %%REJECT%%
  interfaces:
  rich rules:

public (active)
  target: default
  icmp-block-inversion: no
  interfaces: {interfaces}
  sources:
  services: dhcpv6-client {services}
  ports:
  rich rules:
{rules}
internal (active)
  target: default
  interfaces: private0
  sources: 10.0.1.0/24
  services: ssh
  rich rules:
"""
OVER_LAN = 'rule family="ipv4" source address="192.168.1.232" port port="49152-49215" protocol="tcp" accept'
OVER_PRIVATE = OVER_LAN.replace("192.168.1.232", "172.16.1.232")
FOREIGN = 'rule family="ipv4" source address="192.0.2.9" port port="16509" protocol="tcp" accept'


BUS = "org.fedoraproject.FirewallD1"


class Host:
    """A host with a firewall that these commands describe; what is not described fails."""

    def __init__(self, active=("firewalld",), runtime=(), permanent=(), programs=("firewall-cmd", "ip"), **more):
        self.units, self.programs = active, programs
        self.files = more.pop("files", {})
        self.names = more.pop("names", {})
        shape = {"interfaces": more.pop("interfaces", ""), "services": more.pop("services", "ssh")}
        listed = [
            PUBLIC.format(rules="".join(f"\t{rule}\n" for rule in rules), **shape) for rules in (runtime, permanent)
        ]
        ask = "firewall-cmd" if "firewalld" in active else "firewall-offline-cmd"
        self.answers = {
            "firewall-offline-cmd --get-default-zone": "public\n",
            f"busctl call {BUS} /org/fedoraproject/FirewallD1 {BUS} getDefaultZone": 's "public"\n',
            f"{ask} --list-all-zones": listed[0],
            f"{ask} --permanent --list-all-zones": listed[1],
            "ip route get 192.168.1.232": "192.168.1.232 dev lan0 src 192.168.1.231 uid 0\n",
            "ip route get 172.16.1.232": "172.16.1.232 dev private0 src 172.16.1.231 uid 0\n",
            "systemctl is-enabled firewalld": "enabled\n" if more.pop("enabled", True) else "disabled\n",
            **more.pop("answers", {}),
        }

    def run(self, *command):
        return self.answers.get(" ".join(command))

    def has(self, program):
        return program in self.programs

    def active(self, units):
        return [unit for unit in units if unit in self.units]

    def enabled(self, unit):
        return self.run("systemctl", "is-enabled", unit) == "enabled\n"

    def read(self, path):
        return self.files.get(path)

    def resolve(self, name):
        return self.names.get(name, [])


def wish(**changed):
    peer = {"ports": ["192.168.1.232", "172.16.1.232"], "services": ["192.168.1.232", "172.16.1.232", "10.0.1.232"]}
    return {
        "state": "present",
        "backend": "firewalld",
        "open_to": "peers",
        "peers": {"kvm2": peer},
        "sources": [],
        "ports": [MIGRATION],
        "services": [],
        "zone": "",
        "login_port": 22,
        "record_file": RECORD,
        "unit_file": "/etc/systemd/system/kvmops-migration-firewall.service",
        "chains": {"first": "KVMOPS-MIGRATION", "last": "KVMOPS-MIGRATION-END"},
        **changed,
    }


def recorded(rules=(), active=True, enabled=True):
    record = {"service": {"active": active, "enabled": enabled}, "login": [], "rules": list(rules)}
    return {RECORD: json.dumps(record)}


def entry(zone, rule, immediate=True):
    return {"zone": zone, "rule": rule, "permanent": True, "immediate": immediate}


def changes(answer):
    return {(each["state"], each["zone"], each["rule"]) for each in answer["changes"]}


def test_each_address_of_a_peer_is_let_in_where_its_packets_arrive():
    answer = plan.plan(wish(), Host())
    assert answer["errors"] == []
    assert changes(answer) == {("enabled", "public", OVER_LAN), ("enabled", "internal", OVER_PRIVATE)}
    assert all(each["permanent"] and each["immediate"] for each in answer["changes"])
    assert answer["record"]["rules"] == [entry("internal", OVER_PRIVATE), entry("public", OVER_LAN)]


def test_all_rules_of_a_zone_are_one_call_for_now_and_one_for_good():
    host = Host(runtime=[OVER_LAN, FOREIGN], permanent=[FOREIGN], files=recorded([entry("public", FOREIGN)]))
    for_good, now = ["firewall-cmd", "--permanent", "--zone=public"], ["firewall-cmd", "--zone=public"]
    add, remove = "--add-rich-rule=", "--remove-rich-rule="
    assert plan.plan(wish(zone="public"), host)["commands"] == [
        [*for_good, add + OVER_PRIVATE, add + OVER_LAN],
        [*now, add + OVER_PRIVATE],
        [*for_good, remove + FOREIGN],
        [*now, remove + FOREIGN],
    ]
    # Where firewalld does not run there is nothing but what is for good.
    host = Host(
        active=(), permanent=[FOREIGN], runtime=[FOREIGN], files=recorded([entry("public", FOREIGN)], active=False)
    )
    said = plan.plan(wish(state="absent"), host)["commands"]
    assert said == [["firewall-offline-cmd", "--zone=public", "--remove-rich-rule=" + FOREIGN]]


def test_the_source_decides_the_zone_before_the_interface_does():
    answer = plan.plan(wish(ports=[], services=["nfs"]), Host(files={"/usr/lib/firewalld/services/nfs.xml": ""}))
    rule = 'rule family="ipv4" source address="10.0.1.232" service name="nfs" accept'
    assert ("enabled", "internal", rule) in changes(answer)
    assert len(answer["changes"]) == 3


def test_a_zone_that_is_given_takes_all():
    assert {each["zone"] for each in plan.plan(wish(zone="block"), Host())["changes"]} == {"block"}
    answer = plan.plan(wish(zone="nosuch"), Host())
    assert answer["errors"] == [
        "firewall_zone: firewalld has no zone 'nosuch' here, but these: block, internal, public"
    ]


def test_to_all_means_without_a_source_in_every_zone_that_a_peer_may_come_in_by():
    rule = 'rule port port="49152-49215" protocol="tcp" accept'
    answer = plan.plan(wish(open_to="all"), Host())
    assert changes(answer) == {("enabled", "public", rule), ("enabled", "internal", rule)}


def test_ipv6_names_and_networks():
    host = Host(names={"kvm2.example": ["2001:db8::2", "192.168.1.232"], "self": ["127.0.1.1"]})
    peers = {"kvm2": {"ports": ["kvm2.example"], "services": []}}
    answer = plan.plan(wish(peers=peers, sources=["192.0.2.0/24", "2001:db8:1::/64"]), host)
    said = [each["rule"].split(" port ")[0] for each in answer["changes"]]
    assert said == [
        'rule family="ipv4" source address="192.0.2.0/24"',
        'rule family="ipv4" source address="192.168.1.232"',
        'rule family="ipv6" source address="2001:db8::2"',
        'rule family="ipv6" source address="2001:db8:1::/64"',
    ]


def test_what_is_there_stays_and_is_nobody_elses_to_take():
    """The same rule of somebody else is no rule of ours: it is not on record, and so `absent` leaves it."""
    host = Host(runtime=[OVER_LAN, FOREIGN], permanent=[OVER_LAN, FOREIGN])
    answer = plan.plan(wish(zone="public"), host)
    assert changes(answer) == {("enabled", "public", OVER_PRIVATE)}
    host.files = {RECORD: json.dumps(answer["record_after"])}
    host.answers["firewall-cmd --list-all-zones"] = PUBLIC.format(
        interfaces="", services="ssh", rules=f"\t{OVER_LAN}\n\t{OVER_PRIVATE}\n\t{FOREIGN}\n"
    )
    host.answers["firewall-cmd --permanent --list-all-zones"] = host.answers["firewall-cmd --list-all-zones"]
    assert plan.plan(wish(zone="public"), host)["changes"] == []
    assert changes(plan.plan(wish(zone="public", state="absent"), host)) == {("disabled", "public", OVER_PRIVATE)}


def test_a_rule_that_is_there_for_now_only_becomes_permanent_and_goes_back_to_what_it_was():
    host = Host(runtime=[OVER_LAN, OVER_PRIVATE], permanent=[OVER_PRIVATE])
    answer = plan.plan(wish(zone="public"), host)
    assert answer["changes"] == [dict(entry("public", OVER_LAN, immediate=False), state="enabled")]
    assert answer["record"]["rules"] == [entry("public", OVER_LAN, immediate=False)]


def test_who_is_no_peer_any_more_is_closed_out():
    files = recorded([entry("public", FOREIGN), entry("public", OVER_LAN)])
    host = Host(runtime=[FOREIGN, OVER_LAN, OVER_PRIVATE], permanent=[FOREIGN, OVER_LAN, OVER_PRIVATE], files=files)
    answer = plan.plan(wish(zone="public"), host)
    assert changes(answer) == {("disabled", "public", FOREIGN)}
    # Known until it is closed, and not after that.
    assert entry("public", FOREIGN) in answer["record"]["rules"]
    assert answer["record_after"]["rules"] == [entry("public", OVER_LAN)]


def test_a_second_run_has_nothing_to_do_and_nothing_to_write():
    files = recorded([entry("public", OVER_PRIVATE), entry("public", OVER_LAN)])
    answer = plan.plan(
        wish(zone="public"), Host(runtime=[OVER_LAN, OVER_PRIVATE], permanent=[OVER_LAN, OVER_PRIVATE], files=files)
    )
    assert answer["changes"] == []
    assert answer["recorded"] == answer["record"] == answer["record_after"]


@pytest.mark.parametrize(("active", "enabled"), [(True, True), (False, False), (True, False), (False, True)])
def test_absent_stops_firewalld_only_where_the_role_has_started_it(active, enabled):
    answer = plan.plan(wish(state="absent"), Host(files=recorded(active=active, enabled=enabled)))
    assert answer["service"] == {"stop": not active, "disable": not enabled}


def test_absent_where_the_role_never_was_does_nothing():
    answer = plan.plan(wish(state="absent"), Host(runtime=[OVER_LAN], permanent=[OVER_LAN]))
    assert (answer["changes"], answer["service"]) == ([], {"stop": False, "disable": False})
    assert plan.plan(wish(state="absent"), Host(active=(), programs=()))["errors"] == []


def test_what_was_before_is_remembered_from_the_first_run_on():
    host = Host(active=(), enabled=False)
    first = plan.plan(wish(), host)["record"]
    assert first["service"] == {"active": False, "enabled": False}
    assert plan.plan(wish(), Host(files={RECORD: json.dumps(first)}))["record"]["service"] == first["service"]


def login_at(port):
    """Files of this process's ancestors: Ansible has come in through this port."""
    pid = plan.os.getpid()
    return {
        f"/proc/{pid}/environ": "HOME=/root\0",
        f"/proc/{pid}/status": "Name:\tpython3\nPPid:\t4711\n",
        "/proc/4711/environ": f"A=b\0SSH_CONNECTION=192.168.1.1 50000 192.168.1.231 {port}\0",
    }


@pytest.mark.parametrize(
    ("port", "more", "opened"),
    [
        (22, {}, []),
        (2222, {}, [{"zone": "public", "port": "2222/tcp"}]),
        (22, {"services": ""}, [{"zone": "public", "port": "22/tcp"}]),
    ],
)
def test_the_way_in_stays_open_where_firewalld_is_started(port, more, opened):
    host = Host(active=(), files=login_at(port), **more)
    host.answers["ip -o address show"] = "2: lan0    inet 192.168.1.231/24 scope global lan0\n"
    answer = plan.plan(wish(), host)
    assert answer["login"] == opened
    assert answer["record"]["login"] == opened
    # Where it runs already it has let Ansible in, and nothing is opened.
    assert plan.plan(wish(), Host(files=login_at(port), **more))["login"] == []


def test_without_ssh_the_port_of_the_inventory_is_the_way_in():
    assert plan.plan(wish(login_port=2022), Host(active=()))["login"] == [{"zone": "public", "port": "2022/tcp"}]


@pytest.mark.parametrize("unit", ["nftables", "iptables", "ufw"])
def test_no_firewall_of_somebody_else_is_thrown_out(unit):
    answer = plan.plan(wish(), Host(active=(unit,)))
    assert len(answer["errors"]) == 1
    assert answer["errors"][0].startswith(f"firewall_backend: firewalld would take the place of {unit}.service")


BAD = {
    "no protocol": ({"ports": ["16509"]}, "firewall_ports: '16509' is not PORT/PROTOCOL or FIRST-LAST/PROTOCOL"),
    "backwards": ({"ports": ["9-8/tcp"]}, "firewall_ports: '9-8/tcp' is not"),
    "too far": ({"ports": ["1-65536/tcp"]}, "firewall_ports: '1-65536/tcp' is not"),
    "no network": ({"sources": ["lan"]}, "firewall_sources: 'lan' is not an address or a network"),
    "nobody": ({"peers": {}}, "firewall_peers is empty, so nobody could come in"),
    "unknown peer": ({"peers": {"kvm9": None}}, "firewall_peers: 'kvm9' is not in the inventory"),
    "nowhere": (
        {"peers": {"kvm9": {"ports": ["kvm9"], "services": []}}},
        "firewall_peers: kvm9 has no address that this host knows (kvm9)",
    ),
    "unknown service": ({"services": ["nosuch"]}, "firewall_services: firewalld knows no service 'nosuch' here"),
    "iptables": (
        {"services": ["samba"], "backend": "iptables"},
        "firewall_services: 'samba' is not known for iptables, these are: mountd, nfs, nfs3, rpc-bind, ssh",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_line(name):
    changed, said = BAD[name]
    (error,) = plan.plan(wish(**changed), Host())["errors"]
    assert error.startswith(said)
    assert "\n" not in error


# --- iptables

CHAINS = """-P INPUT ACCEPT
-N KVMOPS-MIGRATION
-N KVMOPS-MIGRATION-END
-A INPUT -j KVMOPS-MIGRATION
-A INPUT -s 192.0.2.1/32 -j DROP
-A INPUT -j KVMOPS-MIGRATION-END
"""


def iptables_host(*rules, jumps=CHAINS, **more):
    said = jumps + "".join(f"{rule}\n" for rule in rules)
    programs = ("iptables-restore",)
    return Host(active=(), programs=programs, answers={"iptables -w -S": said, "ip6tables -w -S": ""}, **more)


def test_iptables_lets_peers_in_first_and_turns_all_others_away_last():
    answer = plan.plan(
        wish(
            backend="iptables",
            services=["mountd"],
            peers={"kvm2": {"ports": ["172.16.1.232", "fd00::2"], "services": ["10.0.1.232"]}},
        ),
        iptables_host(),
    )
    assert answer["tables"]["4"] == [
        "-A KVMOPS-MIGRATION -s 172.16.1.232/32 -p tcp -m tcp --dport 49152:49215 -j ACCEPT",
        "-A KVMOPS-MIGRATION-END ! -i lo -p tcp -m tcp --dport 49152:49215 -m conntrack --ctstate NEW -j REJECT",
        "-A KVMOPS-MIGRATION -s 10.0.1.232/32 -p tcp -m tcp --dport 20048 -j ACCEPT",
        "-A KVMOPS-MIGRATION-END ! -i lo -p tcp -m tcp --dport 20048 -m conntrack --ctstate NEW -j REJECT",
        "-A KVMOPS-MIGRATION -s 10.0.1.232/32 -p udp -m udp --dport 20048 -j ACCEPT",
        "-A KVMOPS-MIGRATION-END ! -i lo -p udp -m udp --dport 20048 -m conntrack --ctstate NEW -j REJECT",
    ]
    assert answer["tables"]["6"][0] == "-A KVMOPS-MIGRATION -s fd00::2/128 -p tcp -m tcp --dport 49152:49215 -j ACCEPT"
    everybody = plan.plan(wish(backend="iptables", open_to="all"), iptables_host())["tables"]
    assert everybody["4"] == everybody["6"] == ["-A KVMOPS-MIGRATION -p tcp -m tcp --dport 49152:49215 -j ACCEPT"]


def test_rules_that_somebody_has_cleared_are_loaded_again():
    asked = wish(backend="iptables")
    lines = plan.plan(asked, iptables_host())["tables"]["4"]
    # As iptables repeats it.
    lines = [line.replace("-j REJECT", "-j REJECT --reject-with icmp-port-unreachable") for line in lines]
    assert not plan.plan(asked, iptables_host(*lines))["repair"]
    assert plan.plan(asked, iptables_host(*lines[1:]))["repair"]
    assert plan.plan(asked, iptables_host(*lines, jumps=CHAINS.replace("-A INPUT -j KVMOPS-MIGRATION-END\n", "")))[
        "repair"
    ]


def test_iptables_beside_a_running_firewalld_is_refused():
    (error,) = plan.plan(wish(backend="iptables"), Host())["errors"]
    assert error.startswith("firewall_backend: rules of iptables open nothing beside firewalld.service")
