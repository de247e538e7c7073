# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scenario `prepare`: all roles in one go, on bare hosts, under another group's name, one by one, and undone."""

from __future__ import annotations

import json
import re

import pytest

from .conftest import Run, ansible
from .extent import full

# A slow host has so many tasks in one run and no more.
MOST_TASKS = 60
# In the order in which what others need goes last.
UNDONE = ("storage_pool", "ssh_trust", "selinux", "firewall", "libvirt_host", "name_resolution")
SEEN = """
cat /etc/hosts /root/.ssh/known_hosts /root/.ssh/authorized_keys /etc/libvirt/libvirtd.conf /etc/libvirt/qemu.conf
virsh pool-list --all --name; firewall-cmd --list-all; firewall-cmd --permanent --list-all
systemctl list-sockets --all 'libvirtd*' | awk '{print $2}'; ls /var/lib/kvmops-migration
"""


@pytest.fixture(scope="session")
def prepare():
    """`ansible-playbook prepare.yml` with these arguments."""
    return lambda *arguments: ansible("ansible-playbook", "prepare.yml", *arguments)


def tasks(run: Run) -> dict[str, int]:
    """How many tasks ran on each host."""
    return {host: int(count) for host, count in re.findall(r"^(\S+)\s+: ok=(\d+)", run.out, re.MULTILINE)}


def state(hosts) -> dict[str, str]:
    return {name: host.run(SEEN).stdout for name, host in hosts.items()}


def test_a_second_run_changes_nothing_and_has_few_tasks(prepare, hosts):
    run = prepare()
    assert (run.rc, run.changed) == (0, 0), run.out
    assert tasks(run).keys() == hosts.keys()
    assert max(tasks(run).values()) <= MOST_TASKS, run.out
    assert "[WARNING]" not in run.out
    assert "[DEPRECATION WARNING]" not in run.out


def test_the_hosts_are_fit_for_migration(hypervisors):
    for name, host in hypervisors.items():
        other = "labkvm2" if name == "labkvm1" else "labkvm1"
        address = host.check_output("getent hosts %s-private", other).split()[0]
        assert address.startswith("172.16.1.")
        said = host.check_output(f"virsh -c qemu+ssh://root@{other}-private/system hostname")
        assert said.strip() == other
        assert "/vm" in host.check_output("virsh pool-dumpxml vm")
        assert "49152-49215" in host.check_output("firewall-cmd --list-all")


def test_another_name_of_the_group_changes_nothing(prepare, tmp_path):
    more = {"all": {"children": {"kvm": {"hosts": {"labkvm1": {}, "labkvm2": {}}}}}}
    (tmp_path / "more.json").write_text(json.dumps(more), encoding="ascii")
    run = prepare("-i", "inventory", "-i", str(tmp_path / "more.json"), "-e", "migration_hosts_group=kvm")
    assert (run.rc, run.changed) == (0, 0), run.out
    missing = prepare("-e", "migration_hosts_group=nosuch")
    assert missing.rc != 0
    assert "group 'nosuch' has no hosts" in missing.message, missing.out


def test_a_tag_runs_one_role_and_skipping_it_leaves_it_out(prepare):
    run = prepare("--tags", "ssh_trust")
    assert (run.rc, run.changed) == (0, 0), run.out
    assert "ssh_trust : " in run.out
    assert "storage_pool : " not in run.out
    run = prepare("--skip-tags", "name_resolution,libvirt_host,firewall,selinux,storage_pool")
    assert (run.rc, run.changed) == (0, 0), run.out
    assert "ssh_trust : " in run.out
    assert "storage_pool : " not in run.out


@full
def test_undone_it_is_as_before_check_mode_says_what_is_missing_and_a_run_brings_it_back(prepare, hosts):
    before = state(hosts)
    for role in UNDONE:
        undone = prepare("--tags", role, "-e", f"{role}_state=absent")
        assert undone.rc == 0, undone.out
    bare = state(hosts)
    assert bare != before
    for name, seen in bare.items():
        assert "kvmops.migration" not in seen, name
        assert "49152-49215" not in seen, name
    checked = prepare("--check", "--diff")
    assert checked.rc == 0, checked.out
    assert checked.changed > len(UNDONE), checked.out
    assert state(hosts) == bare
    done = prepare()
    assert done.rc == 0, done.out
    assert max(tasks(done).values()) <= MOST_TASKS, done.out
    again = prepare()
    assert (again.rc, again.changed) == (0, 0), again.out


def test_a_site_playbook_has_the_roles_among_its_own_tasks(hypervisors):
    site = ["site.yml", "--skip-tags", "vms"]
    try:
        done = ansible("ansible-playbook", *site)
        assert done.rc == 0, done.out
        assert all("site" in host.check_output("virsh pool-list --name").split() for host in hypervisors.values())
        again = ansible("ansible-playbook", *site)
        assert (again.rc, again.changed) == (0, 0), again.out
    finally:
        for host in hypervisors.values():
            host.run("virsh pool-destroy site; virsh pool-undefine site; rmdir /var/lib/libvirt/site")
