# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Platforms that the roles do not know, and what is asked of the package manager."""

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


def play(folder: Path, hosts: dict, *tasks: dict, check: bool = False, path: str = "") -> str:
    """What Ansible prints of a play on hosts that are this machine, each with variables of its own."""
    told = {"hosts": "all", "gather_facts": False, "connection": "local", "tasks": tasks}
    (folder / "site.yml").write_text(json.dumps([told]), encoding="ascii")
    (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts}}), encoding="ascii")
    programs = f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"]
    done = subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", "-i", "hosts.json", "site.yml", *(["--check"] if check else [])],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "ANSIBLE_HOME": str(folder / "home"), "ANSIBLE_NOCOLOR": "1", "PATH": programs},
        cwd=folder,
    )
    return done.stdout + done.stderr


def family(name: str) -> dict:
    return {"ansible.builtin.set_fact": {"os_family": name, "cacheable": True}}


def role(name: str, **more: str) -> dict:
    return {"ansible.builtin.include_role": {"name": f"kvmops.migration.{name}", **more}}


def test_a_platform_that_is_not_known_is_one_line_of_each_role(tmp_path):
    hosts = {name: {"asks": asks} for name, asks in ROLES.items()}
    printed = play(tmp_path, hosts, family("Alpine"), role("{{ inventory_hostname }}", tasks_from="{{ asks }}"))
    for name in ROLES:
        said = f"{name} is of the Alpine family, and this collection knows hosts of these: Debian, RedHat"
        assert said in printed
    assert printed.count("failed=1") == len(ROLES), printed


def test_the_package_manager_is_asked_only_where_something_is_missing(tmp_path):
    """What dpkg has only the configuration of is not installed."""
    (tmp_path / "bin").mkdir()
    query = tmp_path / "bin" / "dpkg-query"
    query.write_text("#!/bin/sh\nprintf 'kept installed\\nother installed\\nremoved config-files\\n'\n")
    query.chmod(0o755)
    hosts = {
        "has": {"packages_names": ["kept", "other"]},
        "lacks": {"packages_names": ["kept", "removed"]},
    }
    told = {"ansible.builtin.debug": {"msg": "{{ inventory_hostname }}: {{ packages_installed is skipped }}"}}
    tasks = [family("Debian"), role("packages"), told, role("packages")]
    printed = play(tmp_path, hosts, *tasks, check=True, path=str(query.parent))
    assert "has: True" in printed, printed
    assert "lacks: False" in printed, printed
    # The second time what is known of the host is known.
    assert printed.count("TASK [kvmops.migration.packages : Ask the host for its packages]") == 1, printed
