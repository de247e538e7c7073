# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scenario `name_resolution`: what the hosts' own resolvers say after the role, and what is left when it is undone."""

from __future__ import annotations

import json
from functools import partial

import pytest

NAME = "name_resolution"
NETWORKS = {"": "ansible_host", "-private": "migration_address", "-storage": "storage_address"}
# The line that Debian's installer writes, as tests/lab/host.py has it, and one of another family in another encoding.
TRAP = "127.0.1.1\t{host}.example.com {host} printer\n"
FOREIGN = b"# caf\xe9\n10.9.9.9\tscanner  copier # foreign\n::1 {host} localhost6\n"


@pytest.fixture
def run(role):
    return partial(role, NAME)


@pytest.fixture
def bare(hosts, run):
    """The hosts without the role, as somebody else has left them; afterwards as the scenario has made them."""
    before = {name: host.check_output("base64 -w0 /etc/hosts") for name, host in hosts.items()}
    undone = run("-e", "name_resolution_state=absent")
    assert undone.rc == 0, undone.out
    try:
        yield
    finally:
        for name, host in hosts.items():
            host.check_output("echo %s | base64 -d > /etc/hosts", before[name])


def content(host) -> str:
    """To the byte, which no encoding may hide."""
    return host.check_output("od -An -v -tx1 /etc/hosts")


def answer(host, name: str) -> list[str]:
    """The addresses that programs on the host get for a name."""
    said = host.run("getent ahosts %s", name)
    return sorted({line.split()[0] for line in said.stdout.splitlines()})


def test_c8_119_every_name_is_known_everywhere_and_the_own_one_is_not_loopback(hosts, inventory):
    facts = inventory["_meta"]["hostvars"]
    wrong = [
        (where, name + suffix, answer(host, name + suffix))
        for where, host in hosts.items()
        for name in facts
        for suffix, variable in NETWORKS.items()
        if variable in facts[name] and answer(host, name + suffix) != [facts[name][variable]]
    ]
    assert wrong == []
    assert {name: host.check_output("hostname -f") for name, host in hosts.items()} == {name: name for name in hosts}


@pytest.mark.usefixtures("bare")
def test_c8_119_foreign_lines_stay_and_come_back_when_the_role_is_undone(hosts, run):
    for name, host in hosts.items():
        text = TRAP.format(host=name).encode() + FOREIGN.replace(b"{host}", name.encode())
        host.check_output("printf %s >> /etc/hosts", escaped(text))
    before = {name: content(host) for name, host in hosts.items()}

    checked = run("--check", "--diff")
    assert checked.rc == 0, checked.out
    assert checked.changed == len(hosts), checked.out
    assert {name: content(host) for name, host in hosts.items()} == before

    done = run()
    assert done.rc == 0, done.out
    for name, host in hosts.items():
        assert host.check_output("hostname -f") == f"{name}.example.com"
        assert answer(host, "printer") == ["127.0.1.1"]
        assert answer(host, "scanner") == answer(host, "copier") == ["10.9.9.9"]
        for other in hosts:
            assert answer(host, f"{other}.example.com") == answer(host, other) != []
    again = run()
    assert (again.rc, again.changed) == (0, 0), again.out

    undone = run("-e", "name_resolution_state=absent")
    assert (undone.rc, undone.changed) == (0, len(hosts)), undone.out
    assert {name: content(host) for name, host in hosts.items()} == before


def escaped(text: bytes) -> str:
    """For printf."""
    return "".join(f"\\{byte:03o}" for byte in text)


BAD = {
    "an address with a prefix": ({"migration_address": "172.16.1.231/24"}, "'172.16.1.231/24': neither an address"),
    "one address for two hosts": ({"storage_address": "10.0.1.7"}, "have the same address 10.0.1.7"),
    "a network without a suffix": ({"name_resolution_networks": [{"variable": "ansible_host"}]}, "suffix"),
    "a suffix that is none": (
        {"name_resolution_networks": [{"variable": "ansible_host", "suffix": " x"}]},
        "name_resolution_networks: ' x' is no end of a host name",
    ),
    "an unknown host": ({"name_resolution_hosts": ["labkvm9"]}, "not in the inventory: labkvm9"),
    "an unknown state": ({"name_resolution_state": "gone"}, "name_resolution_state"),
}


@pytest.mark.parametrize("case", BAD)
def test_c8_119_bad_input_gets_one_line_and_changes_nothing(case, hosts, run):
    variables, expected = BAD[case]
    before = {name: content(host) for name, host in hosts.items()}
    refused = run("-e", json.dumps(variables))
    assert refused.rc != 0, refused.out
    assert expected in refused.message, refused.out
    assert "Traceback" not in refused.out
    assert {name: content(host) for name, host in hosts.items()} == before


@pytest.mark.usefixtures("bare")
def test_c8_119_a_line_that_contradicts_the_inventory_is_named(hosts, run):
    hosts["labkvm1"].check_output("echo '10.9.9.9 labkvm2' >> /etc/hosts")
    before = content(hosts["labkvm1"])
    refused = run()
    assert refused.rc != 0, refused.out
    assert "/etc/hosts says that labkvm2 is 10.9.9.9, the inventory says 192.168.1.232" in refused.message, refused.out
    assert content(hosts["labkvm1"]) == before


def test_a_host_that_is_left_out_keeps_its_names(run):
    limited = run("--limit", "labkvm1")
    assert (limited.rc, limited.changed) == (0, 0), limited.out
