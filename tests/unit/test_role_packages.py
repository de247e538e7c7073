# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the roles say to a host of a platform that they do not know."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
# Each role that has variables of platforms, and its tasks that ask for them first.
ROLES = {
    "libvirt_host": "platform",
    "libvirt_tls": "main",
    "nfs_client": "main",
    "nfs_server": "main",
    "selinux": "install",
}


def test_a_platform_that_is_not_known_is_one_line_of_each_role(tmp_path):
    tasks = [
        {"ansible.builtin.set_fact": {"os_family": "Alpine", "cacheable": True}},
        {
            "ansible.builtin.include_role": {
                "name": "kvmops.migration.{{ inventory_hostname }}",
                "tasks_from": "{{ asks }}",
            }
        },
    ]
    play = {"hosts": "all", "gather_facts": False, "connection": "local", "tasks": tasks}
    (tmp_path / "site.yml").write_text(json.dumps([play]), encoding="ascii")
    hosts = {role: {"asks": asks} for role, asks in ROLES.items()}
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts}}), encoding="ascii")
    done = subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", "-i", "hosts.json", "site.yml"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "ANSIBLE_HOME": str(tmp_path / "home"), "ANSIBLE_NOCOLOR": "1"},
        cwd=tmp_path,
    )
    for role in ROLES:
        said = f"{role} is of the Alpine family, and this collection knows hosts of these: Debian, RedHat"
        assert said in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("failed=1") == len(ROLES), done.stdout
