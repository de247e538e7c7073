# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scenario `bare`: one hypervisor has nothing but systemd, sshd, python3 and packages as files.

The tests follow each other as a person's first hour does: what is missing, two commands, and both again.
"""

from __future__ import annotations

from .conftest import REPOSITORY, ansible

BARE = "labkvm2"
GUESTS = REPOSITORY / "extensions/molecule/lab/guests.yml"
# What is installed, and what is new in /etc.
STATE = "dpkg-query -W | sha256sum; find /etc -type f -newer /etc/hostname | sort"


def test_the_host_is_bare(hosts):
    host = hosts[BARE]
    for program in ("virsh", "qemu-system-x86_64", "firewall-cmd", "swtpm"):
        assert not host.exists(program), program
    assert host.run("python3 -c 'import libvirt'").rc != 0
    assert host.check_output("grep -h ^deb /etc/apt/sources.list") == "deb [trusted=yes] file:/srv/packages ./"


def test_check_mode_says_what_is_missing_and_installs_nothing(hosts):
    before = hosts[BARE].check_output(STATE)
    run = ansible("ansible-playbook", "prepare.yml", "--check", "--diff")
    assert run.rc == 0, run.out
    assert run.changed > 10
    assert "[WARNING]" not in run.out, run.out
    assert hosts[BARE].check_output(STATE) == before


def test_a_missing_package_is_told_with_its_cure_and_changes_nothing(hosts):
    host = hosts[BARE]
    before = host.check_output(STATE)
    host.check_output("mv /etc/apt/sources.list /root && rm -rf /var/lib/apt/lists/*")
    try:
        run = ansible("ansible-playbook", "prepare.yml", "--tags", "libvirt_host", "--limit", BARE)
    finally:
        host.check_output("mv /root/sources.list /etc/apt")
    assert run.rc != 0, run.out
    assert f"{BARE} cannot install libvirt: E: Unable to locate package" in run.message, run.out
    assert "Give the host a source of packages that has them" in run.message
    assert host.check_output(STATE) == before


def test_prepare_installs_everything_and_its_second_run_nothing(hypervisors):
    run = ansible("ansible-playbook", "prepare.yml")
    assert run.rc == 0, run.out
    again = ansible("ansible-playbook", "prepare.yml")
    assert (again.rc, again.changed) == (0, 0), again.out
    uuids = {host.check_output("virsh capabilities | grep -m 1 '<uuid>'") for host in hypervisors.values()}
    assert len(uuids) == len(hypervisors)


def test_the_guest_moves_there_and_stays(migrate, home):
    started = ansible("ansible-playbook", str(GUESTS))
    assert started.rc == 0, started.out
    run = migrate("-e", "vm=centos64a", "-e", f"dest={BARE}")
    assert run.rc == 0, run.out
    assert home("centos64a") == {BARE: "running"}
    again = migrate("-e", "vm=centos64a", "-e", f"dest={BARE}")
    assert (again.rc, again.changed) == (0, 0), again.out
    back = migrate("-e", "vm=centos64a", "-e", "dest=labkvm1")
    assert back.rc == 0, back.out
    assert home("centos64a") == {"labkvm1": "running"}
