# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scenario `system`: shared storage on hosts with kernels of their own, where NFS and SELinux are real.

The tests follow each other as a story does: what prepare.yml has made of bare hosts, centos64a's disk moves to NFS, the
guest moves live to the other hypervisor and comes home over TLS, everything again, and what goes wrong.
"""

from __future__ import annotations

import subprocess
import sys

from tests.lab import tiers

from .conftest import REPOSITORY

# --- the hosts


def test_each_host_has_a_kernel_of_its_own(hosts):
    boots = {host.check_output("cat /proc/sys/kernel/random/boot_id") for host in hosts.values()}
    assert len(boots) == 3
    assert {host.check_output("systemd-detect-virt") for host in hosts.values()} <= {"qemu", "kvm"}


def test_one_host_is_logged_in_as_an_ordinary_user(inventory, hosts):
    users = {name: facts["ansible_user"] for name, facts in inventory["_meta"]["hostvars"].items()}
    assert users["labkvm2"] == "deploy"
    assert hosts["labkvm2"].check_output("id -un") == "root"


def test_selinux_knows_everything_by_its_label(hypervisors):
    for host in hypervisors.values():
        assert host.check_output("getenforce") == "Permissive"
        assert ":virtd_exec_t:" in host.check_output("stat -c %C /usr/sbin/libvirtd")
        # It ends where nobody needs it, and its socket starts it.
        assert ":virtd_t:" in host.check_output("virsh version >/dev/null && ps -o label= -C libvirtd")
        # What a host has of its own is labelled as well.
        assert ":sshd_key_t:" in host.check_output("stat -c %C /etc/ssh/ssh_host_ed25519_key")
        assert "unlabeled_t" not in host.check_output("ls -Z / /etc /etc/ssh /usr/lib/systemd/system")


def test_their_clocks_go_as_this_machines_does(hosts):
    """The watchers are put together by them: each is behind by a part of a second, and stays so."""
    asked = [{name: tiers.host(name).ahead() / 1e9 for name in hosts} for _turn in range(2)]
    for name in hosts:
        assert -1.1 < asked[0][name] < 0.1, asked
        assert abs(asked[0][name] - asked[1][name]) < 0.05, asked


# --- last: the witnesses of everything above


def test_no_vm_ever_ran_in_two_places():
    done = subprocess.run(
        [sys.executable, "-m", "tests.lab", "watch"], cwd=REPOSITORY, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
