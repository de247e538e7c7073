# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action groups: who is in them, and that module_defaults reach every module by them, through its action plugin too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

TOP = Path(__file__).resolve().parents[2]
MODULES = sorted(path.stem for path in (TOP / "plugins" / "modules").glob("*.py"))
GROUPS = yaml.safe_load((TOP / "meta" / "runtime.yml").read_text(encoding="utf-8"))["action_groups"]
# Those that have one begin with their action plugin; the last one stands for those that have none.
CALLED = [*sorted(path.stem for path in (TOP / "plugins" / "action").glob("*.py")), "nfs_export_info"]
# What every one of them refuses by its name, whether its action plugin or the module comes first.
DEFAULTS = {"no_such_option": 1}


def options(module):
    text = (TOP / "plugins" / "modules" / f"{module}.py").read_text(encoding="utf-8")
    return yaml.safe_load(text.split('DOCUMENTATION = r"""')[1].split('"""')[0])["options"] or {}


def test_every_module_is_in_the_group_of_all():
    assert GROUPS["migration"] == MODULES


def test_a_default_uri_is_one_that_the_whole_group_libvirt_takes():
    assert GROUPS["libvirt"] == [module for module in MODULES if "uri" in options(module)]
    assert all("connect_timeout" in options(module) for module in GROUPS["libvirt"])


def test_module_defaults_of_a_group_reach_modules_and_action_plugins(tmp_path):
    tree = tmp_path / "ansible_collections" / "kvmops"
    tree.mkdir(parents=True)
    (tree / "migration").symlink_to(TOP)
    tasks = [
        {
            # What would be missing is told of before what is too much.
            f"kvmops.migration.{module}": {option: "a" for option in ("name", "path") if option in options(module)},
            "register": module,
            "ignore_errors": True,
        }
        for module in CALLED
    ]
    told = {"ansible.builtin.debug": {"msg": "{{ query('ansible.builtin.vars', *names) | map(attribute='msg') }}"}}
    play = {
        "hosts": "all",
        "gather_facts": False,
        "vars": {"names": CALLED},
        "module_defaults": {"group/kvmops.migration.migration": DEFAULTS},
        "tasks": [*tasks, told],
    }
    (tmp_path / "play.json").write_text(json.dumps([play]))
    host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"hosts": {"kvm1": host}}}))
    environment = {
        **os.environ,
        "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
        "ANSIBLE_COLLECTIONS_PATH": str(tmp_path),
        "ANSIBLE_HOME": str(tmp_path / "home"),
        "ANSIBLE_NOCOLOR": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", "-i", "hosts.json", "play.json"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answers = json.loads(done.stdout.rpartition("ok: [kvm1] => ")[2].partition("\n\nPLAY RECAP")[0])["msg"]
    assert len(answers) == len(tasks)
    assert all("no_such_option" in answer for answer in answers), answers
