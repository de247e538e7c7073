# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scenario `ssh_trust`: root of each hypervisor logs in to the other, by every name, and from nowhere else."""

from __future__ import annotations

import json
from functools import partial

import pytest

# As libvirt's daemon would: nobody answers a question, and no key is trusted because it is the first one.
SSH = "ssh -o BatchMode=yes -o StrictHostKeyChecking=yes -o UpdateHostKeys=no -o ConnectTimeout=5"
KEY = "/root/.ssh/id_ed25519"
FILES = (
    "cd /root/.ssh && for file in known_hosts authorized_keys id_ed25519 id_ed25519.pub; do echo $file; cat $file; done"
)
OTHER = {"labkvm1": "labkvm2", "labkvm2": "labkvm1"}


@pytest.fixture
def run(role):
    return partial(role, "ssh_trust")


def state(hypervisors) -> dict[str, str]:
    return {name: host.run(FILES).stdout for name, host in hypervisors.items()}


def login(host, where: str, *options: str) -> str:
    """What ssh says, or the name of the host that it has come to."""
    said = host.run(f"{SSH} {' '.join(options)} root@{where} hostname || true")
    return said.stdout.strip() or said.stderr.strip()


def test_root_of_each_reaches_the_other_by_its_names_and_addresses(hypervisors, inventory):
    facts = inventory["_meta"]["hostvars"]
    for name, host in hypervisors.items():
        other = OTHER[name]
        for where in (facts[other][key] for key in ("ansible_host", "migration_address", "storage_address")):
            assert login(host, where) == other
        # The names are those of role name_resolution; which key belongs to them is known without it.
        known = host.check_output("cat /root/.ssh/known_hosts")
        assert f"{other},{other}-private,{other}-storage," in known


def test_a_key_is_accepted_from_its_own_host_only(hosts):
    stolen = hosts["labkvm1"].check_output("base64 -w0 %s", KEY)
    thief = hosts["labstor1"]
    thief.check_output("umask 077; echo %s | base64 -d > /root/stolen", stolen)
    try:
        said = thief.run(
            "ssh -o BatchMode=yes -o StrictHostKeyChecking=no -i /root/stolen root@192.168.1.232 hostname || true"
        )
        assert "Permission denied" in said.stderr, said
        assert hosts["labstor1"].run("ls /root/.ssh/id_ed25519").rc != 0
    finally:
        thief.check_output("rm -f /root/stolen /root/.ssh/known_hosts")


def test_a_host_key_of_another_type_is_known_and_one_that_has_changed_is_replaced(hypervisors, run):
    here, there = hypervisors["labkvm1"], hypervisors["labkvm2"]
    path = "/etc/ssh/ssh_host_ecdsa_key"
    wanted = ["-o HostKeyAlgorithms=ecdsa-sha2-nistp256"]
    make = f"rm -f {path} {path}.pub; ssh-keygen -q -t ecdsa -N '' -f {path}; systemctl restart ssh"
    try:
        there.check_output(make)
        assert "verification failed" in login(here, "192.168.1.232", *wanted)
        run()
        assert login(here, "192.168.1.232", *wanted) == "labkvm2"
        there.check_output(make)
        assert "verification failed" in login(here, "192.168.1.232", *wanted)
        done = run()
        assert (done.rc, done.changed) == (0, 1), done.out
        assert login(here, "192.168.1.232", *wanted) == "labkvm2"
        assert here.check_output("grep -c ecdsa /root/.ssh/known_hosts") == "1"
        again = run()
        assert (again.rc, again.changed) == (0, 0), again.out
    finally:
        there.check_output(f"rm -f {path} {path}.pub; systemctl restart ssh")
        run()


def test_a_host_that_is_left_out_is_still_trusted(hypervisors, run):
    before = state(hypervisors)
    limited = run("--limit", "labkvm1")
    assert (limited.rc, limited.changed) == (0, 0), limited.out
    assert "labkvm2 was not asked now" in limited.out
    assert state(hypervisors) == before


def test_undone_only_what_is_ours_goes_and_it_can_be_made_again(hypervisors, run):
    before = state(hypervisors)
    try:
        for host in hypervisors.values():
            host.check_output("echo 'foreign ssh-ed25519 AAAAforeign' >> /root/.ssh/known_hosts")
            host.check_output("echo 'ssh-ed25519 AAAAforeign somebody' >> /root/.ssh/authorized_keys")
        undone = run("-e", "ssh_trust_state=absent")
        assert undone.rc == 0, undone.out
        for name, host in hypervisors.items():
            left = host.run(FILES).stdout
            assert "foreign ssh-ed25519 AAAAforeign" in left
            assert "AAAAforeign somebody" in left
            assert "kvmops.migration" not in left
            # The login of Ansible was never ours.
            assert "controller of" in left or name == "labkvm2"
            assert not host.file(KEY).exists
            assert login(host, "192.168.1.231" if name == "labkvm2" else "192.168.1.232") != OTHER[name]
        again = run("-e", "ssh_trust_state=absent")
        assert (again.rc, again.changed) == (0, 0), again.out
        checked = run("--check", "--diff")
        assert checked.rc == 0, checked.out
        assert all(not host.file(KEY).exists for host in hypervisors.values())
    finally:
        for host in hypervisors.values():
            host.check_output("sed -i /AAAAforeign/d /root/.ssh/known_hosts /root/.ssh/authorized_keys")
        done = run()
    assert done.rc == 0, done.out
    assert state(hypervisors).keys() == before.keys()
    assert login(hypervisors["labkvm1"], "172.16.1.232") == "labkvm2"
    assert login(hypervisors["labkvm2"], "172.16.1.231") == "labkvm1"


def test_a_key_of_somebody_else_is_used_and_stays(hypervisors, run):
    host = hypervisors["labkvm1"]
    foreign = "/root/.ssh/foreign"
    chosen = ["-e", f"ssh_trust_key_file={foreign}"]
    try:
        host.check_output(f"ssh-keygen -q -t rsa -N '' -C mine -f {foreign} && rm {foreign}.pub")
        done = run(*chosen)
        assert done.rc == 0, done.out
        assert login(host, "172.16.1.232", "-i", foreign) == "labkvm2"
        assert "rsa" in hypervisors["labkvm2"].check_output("grep labkvm1 /root/.ssh/authorized_keys")
        undone = run("-e", "ssh_trust_state=absent", *chosen)
        assert undone.rc == 0, undone.out
        assert host.file(foreign).exists
    finally:
        host.check_output(f"rm -f {foreign} {foreign}.pub")
        hypervisors["labkvm2"].check_output(f"rm -f {foreign} {foreign}.pub")
        run()


BAD = {
    "an address with a prefix": ({"migration_address": "172.16.1.231/24"}, "'172.16.1.231/24': neither an address"),
    "an unknown host": ({"ssh_trust_hosts": ["labkvm1", "labkvm9"]}, "not in the inventory: labkvm9"),
    "an unknown state": ({"ssh_trust_state": "gone"}, "ssh_trust_state"),
    "a key with a passphrase": (
        {"ssh_trust_key_file": "/root/.ssh/locked"},
        "/root/.ssh/locked is of no use to libvirt",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_and_changes_nothing(case, hypervisors, run):
    variables, expected = BAD[case]
    try:
        for host in hypervisors.values():
            host.check_output("ssh-keygen -q -t ed25519 -N secret -f /root/.ssh/locked")
        before = state(hypervisors)
        refused = run("-e", json.dumps(variables))
        assert refused.rc != 0, refused.out
        assert expected in refused.message, refused.out
        assert "Traceback" not in refused.out
        assert state(hypervisors) == before
    finally:
        for host in hypervisors.values():
            host.check_output("rm -f /root/.ssh/locked /root/.ssh/locked.pub")
