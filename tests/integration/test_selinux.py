# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scenario `selinux`: nothing is done on hosts with neither SELinux nor AppArmor, then AppArmor is made believe."""

from __future__ import annotations

import json
import re

import pytest

from .conftest import REPOSITORY, ansible

CONVERGE = REPOSITORY / "extensions" / "molecule" / "selinux" / "converge.yml"
LOCAL = "/etc/apparmor.d/local/usr.lib.libvirt.virt-aa-helper"
PROFILE = "/etc/apparmor.d/usr.lib.libvirt.virt-aa-helper"
# Everything that the role could install, write or label.
STATE = f"""dpkg-query -W | sha256sum; cat {LOCAL}; ls -R /etc/selinux /var/lib/selinux /var/lib/kvmops-migration 2>&1
ls -ldZ /vm 2>&1; find /etc -newer /run/kvmops-before"""


def play(*arguments, **variables):
    run = ansible("ansible-playbook", str(CONVERGE), *arguments, *(["-e", json.dumps(variables)] if variables else []))
    # On a new host Ansible warns once that it has made the place for its own files.
    assert "[WARNING]" not in re.sub(r"\[WARNING\]: Module remote_tmp .*", "", run.out), run.out
    return run


def done(*arguments, **variables) -> int:
    run = play(*arguments, **variables)
    assert run.rc == 0, run.out
    return run.changed


@pytest.mark.parametrize("variables", [{}, {"selinux_state": "absent"}, {"selinux_booleans": {"nosuch": True}}])
@pytest.mark.parametrize("arguments", [[], ["--check", "--diff"]])
def test_c8_118_nothing_is_done_where_there_is_neither(hypervisors, arguments, variables):
    for host in hypervisors.values():
        assert not host.file("/sys/fs/selinux/enforce").exists
        host.check_output("touch /run/kvmops-before")
    before = {name: host.check_output(STATE) for name, host in hypervisors.items()}
    assert done(*arguments, **variables) == 0
    assert {name: host.check_output(STATE) for name, host in hypervisors.items()} == before


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"selinux_booleans": {"virt_use_nfs": "perhaps"}}, 'virt_use_nfs is \\"perhaps\\", and must be true or false'),
        (
            {"selinux_image_directories": ["/vm/*"]},
            'selinux_image_directories: \\"/vm/*\\" is no absolute path, or has',
        ),
        ({"selinux_state": "off"}, "value of selinux_state must be one of: present, absent, got: off"),
    ],
)
def test_bad_input_is_one_clear_line(variables, said):
    run = play("--limit", "labkvm1", **variables)
    assert (run.rc, run.changed) == (2, 0), run.out
    assert said in run.out or said.replace('\\"', '"') in run.out, run.out


@pytest.fixture(params=["labkvm1", "labkvm2"])
def apparmor(request, hypervisors):
    """A host that seems to confine guests by AppArmor: the kernel's files, and a parser that tells what it loads."""
    host = hypervisors[request.param]
    host.check_output(
        "mount -t tmpfs none /sys/module && mount -t tmpfs none /sys/kernel/security &&"
        " mkdir -p /sys/module/apparmor/parameters /sys/kernel/security/apparmor &&"
        " echo Y > /sys/module/apparmor/parameters/enabled &&"
        " echo 'virt-aa-helper (enforce)' > /sys/kernel/security/apparmor/profiles &&"
        " printf '#!/bin/sh\\necho \"$@\" >> /run/kvmops-parsed\\n' > /usr/local/sbin/apparmor_parser &&"
        f" chmod +x /usr/local/sbin/apparmor_parser && cp -a {LOCAL} /run/kvmops-local && echo '/foreign r,' >> {LOCAL}"
    )
    yield request.param, host
    host.check_output(
        f"cp -a /run/kvmops-local {LOCAL}; rm -f /usr/local/sbin/apparmor_parser /run/kvmops-parsed /run/kvmops-local;"
        " umount /sys/module /sys/kernel/security"
    )


def test_c8_118_apparmors_helper_is_let_into_the_pools_and_out_again(apparmor):
    name, host = apparmor
    loads = f"--replace {PROFILE}"

    def parsed():
        return host.run("cat /run/kvmops-parsed").stdout.splitlines()

    before = host.file(LOCAL).content_string
    announced = play("--limit", name, "--check", "--diff")
    assert (announced.rc, announced.changed) == (0, 1), announced.out
    assert '+"/vm/**" r,' in announced.out, announced.out
    assert (host.file(LOCAL).content_string, parsed()) == (before, [])
    assert done("--limit", name) == 2
    permitted = host.file(LOCAL).content_string
    assert permitted.startswith(before)
    assert permitted[len(before) :].splitlines()[1:-1] == ['"/vm/" r,', '"/vm/**" r,']
    assert parsed() == [loads]
    assert done("--limit", name) == 0
    assert done("--limit", name, selinux_image_directories=["/data", "/var/lib/libvirt/images"]) == 2
    assert '"/data/**" r,' in host.file(LOCAL).content_string
    assert '"/vm/' not in host.file(LOCAL).content_string
    assert done("--limit", name, selinux_state="absent") == 2
    assert (host.file(LOCAL).content_string, parsed()) == (before, [loads] * 3)
    assert done("--limit", name, selinux_state="absent") == 0
    assert parsed() == [loads] * 3
