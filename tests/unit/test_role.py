# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role migrate as ansible-playbook runs it, on hosts that tell what a test has written down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ansible_collections.kvmops.migration.plugins.module_utils._domblk import start
from ansible_collections.kvmops.migration.plugins.module_utils._pure import options as table

TOP = Path(__file__).resolve().parents[2]
# A module that answers with what was written down for its host.
MODULE = """#!/usr/bin/python
import json
import os
from ansible.module_utils.basic import AnsibleModule
names = ("name", "cleanup", "moves", "options", "limits", "facts", "records",
         "dest_dir", "dest_host", "format", "force")
module = AnsibleModule(argument_spec={name: {"type": "raw"} for name in names}, supports_check_mode=True)
with open(os.environ["TEST_TOLD"]) as stream:
    said = json.load(stream)[os.environ["TEST_HOST"]][NAME]
    said["moves"], said["check"] = module.params["moves"], module.check_mode
    if not module.params["records"]:
        said.pop("records", None)
    (module.fail_json if said.get("failed") else module.exit_json)(**said)
"""
INFO = {"changed": False, "domains": [], "unfinished": [], "runs": [], "journal": []}
LEFT = {"run": "r1", "name": "a", "uuid": "u", "dest": "kvm2"}


@pytest.fixture(scope="module")
def collections(tmp_path_factory):
    """The collection with those modules; one for all tests, so that what is compiled of it is compiled once."""
    top = tmp_path_factory.mktemp("collections")
    collection = top / "ansible_collections" / "kvmops" / "migration"
    (collection / "plugins" / "modules").mkdir(parents=True)
    for name in ("roles", "playbooks", "galaxy.yml", "meta", "plugins/filter", "plugins/module_utils"):
        (collection / name).symlink_to(TOP / name)
    (collection / "plugins" / "plugin_utils").symlink_to(TOP / "plugins" / "plugin_utils")
    for kind in ("action", "modules"):
        own = f"{kind}/virt_migrate_report.py"
        (collection / "plugins" / kind).mkdir(exist_ok=True)
        (collection / "plugins" / own).symlink_to(TOP / "plugins" / own)
    for name in ("virt_migrate_info", "virt_migrate", "virt_migrate_queue", "virt_domblk_copy"):
        (collection / "plugins" / "modules" / f"{name}.py").write_text(MODULE.replace("NAME", repr(name)))
    return top


@pytest.fixture
def play(collections, tmp_path):
    """Run a playbook of the collection on hosts that tell `infos` of themselves; gives back status and output."""
    told = tmp_path / "told.json"

    def place(host):
        python = tmp_path / f"python-{host}"
        python.write_text(f'#!/bin/sh\nTEST_HOST={host} exec {sys.executable} "$@"\n')
        python.chmod(0o755)
        return {"ansible_connection": "local", "ansible_python_interpreter": str(python)}

    def play(playbook, *infos, queue=None, copied=None, check=False, **variables):
        hosts = {f"kvm{number}": info for number, info in enumerate(infos, 1)}
        moved = {"virt_migrate": {"outcome": "migrated"}, "virt_migrate_queue": queue or {"results": []}}
        moved["virt_domblk_copy"] = copied or {"name": "a", "outcome": "already_there"}
        told.write_text(json.dumps({host: {"virt_migrate_info": info, **moved} for host, info in hosts.items()}))
        inventory = tmp_path / "hosts.json"
        inventory.write_text(json.dumps({"hypervisors": {"hosts": {host: place(host) for host in hosts}}}))
        command = [sys.executable, "-m", "ansible", "playbook", "-i", str(inventory), f"kvmops.migration.{playbook}"]
        environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(collections),
            "ANSIBLE_DEPRECATION_WARNINGS": "true",
            "ANSIBLE_HOME": str(tmp_path / "home"),
            "ANSIBLE_NOCOLOR": "1",
            "TEST_TOLD": str(told),
        }
        done = subprocess.run(
            [*command, *(["--check"] if check else []), "-e", json.dumps(variables)],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            cwd=tmp_path,
        )
        assert "[DEPRECATION WARNING]" not in done.stderr, done.stderr
        return done

    return play


def known(number=1, domains=("a",), **more):
    domains = [{"name": name, "uuid": name, "state": "running"} for name in domains]
    return {**INFO, "host": {"uuid": f"h{number}", "hostname": f"kvm{number}"}, "domains": domains, **more}


def test_recover_says_that_nothing_is_left_and_who_has_not_told(play):
    silent = {"failed": True, "msg": "no libvirt\nmore"}
    done = play("recover", known(unfinished=[{**LEFT, "name": "b"}]), silent, vm="a")
    assert '"nothing is left to settle of a"' in done.stdout, done.stdout + done.stderr
    assert "kvm2: does not answer, so what it has left is not known: no libvirt" in done.stdout, done.stdout


def test_recover_says_what_it_has_settled_and_not_that_nothing_was_there(play):
    done = play("recover", known(), known(2, (), unfinished=[LEFT]))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a: it has moved" in done.stdout
    assert "nothing is left to settle" not in done.stdout
    # Whatever a loop is over, the message alone is printed.
    assert '"outcome"' not in done.stdout, done.stdout


def test_recover_says_which_runs_go_on_and_leaves_them_alone(play):
    going = {"name": "a", "run": "r2", "line": "a: kvm1 -> kvm2: 43 %"}
    done = play("recover", known(unfinished=[LEFT], runs=[going]), known(2, ()))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not settled, because it goes on:" in done.stdout, done.stdout
    assert "a: kvm1 -> kvm2: 43 % (run r2)" in done.stdout
    assert "it has moved" not in done.stdout
    other = play("recover", known(2, (), unfinished=[{**LEFT, "name": "b"}], runs=[going]), vm="b")
    assert "goes on" not in other.stdout, other.stdout
    assert "b: it has moved" in other.stdout


@pytest.mark.parametrize(("bandwidth", "hooked"), [(-1, False), (5, True)])
def test_no_hook_runs_before_a_bad_value_is_refused(play, tmp_path, bandwidth, hooked):
    hook = tmp_path / "hook.yml"
    hook.write_text(f"- ansible.builtin.copy: {{content: x, dest: '{tmp_path}/hooked'}}\n")
    options = {"migrate_pre_tasks": str(hook), "migrate_options": {"bandwidth": bandwidth}}
    done = play("migrate", known(), known(2, ()), vm="a", dest="kvm2", **options)
    assert ("migrate_options: " in done.stdout) != hooked, done.stdout
    assert (tmp_path / "hooked").exists() == hooked, done.stdout


TLS = {"id": "tls", "status": "warn", "evidence": "it travels unencrypted", "cure": "", "role": None}
PORTS = {"id": "ports", "status": "fail", "evidence": "port 49152 is closed", "cure": "open it", "role": "firewall"}
GUEST = {"id": "guest", "status": "pass", "evidence": "", "cure": "", "role": None}
TPM = {"id": "tpm", "status": "skipped", "evidence": "nothing depends on it", "cure": "", "role": None}
GOOD = {"name": "a", "changed": True, "mode": "live", "storage": "copy", "checks": [GUEST, TLS, TPM]}
BAD = {"name": "a", "failed": True, "changed": False, "outcome": "refused", "msg": "x", "checks": [GUEST, TLS, PORTS]}
REFUSED = {"failed": True, "msg": "a: port 49152 is closed", "results": [GOOD, BAD]}


def test_preflight_tells_what_is_in_the_way_first_with_its_cure_and_fails(play):
    queue = {**REFUSED, "results": [BAD, GOOD]}
    done = play("preflight", known(), known(2, ()), known(3, ()), queue=queue, vm="a", dest="kvm3,kvm2")
    assert done.returncode != 0
    assert "obstacles before a" in done.stdout, done.stdout
    lines = [line.strip(' ",') for line in done.stdout.splitlines()]
    told = [
        "a: cannot move, kvm1 -> kvm3",
        "FAIL ports: port 49152 is closed",
        "cure: open it (role kvmops.migration.firewall)",
        "WARN tls: it travels unencrypted",
        "pass: guest",
        "a: can move live, kvm1 -> kvm2, storage copy",
        "WARN tls: it travels unencrypted",
        "pass: guest",
        "skipped, nothing depends on it: tpm",
    ]
    first = lines.index(told[0])
    assert lines[first : first + len(told)] == told


def test_what_is_wrong_with_a_host_is_told_whole_once(play):
    mine = {"id": "cpu", "status": "fail", "evidence": "b has a CPU of its own", "cure": "", "role": None}
    queue = {**REFUSED, "results": [BAD, {**BAD, "name": "b", "checks": [GUEST, GUEST, PORTS, mine]}]}
    done = play("preflight", known(domains=("a", "b")), known(2, ()), queue=queue, vm="a,b", dest="kvm2")
    lines = [line.strip(' ",') for line in done.stdout.splitlines()]
    first = lines.index("b: cannot move, kvm1 -> kvm2")
    told = ["FAIL ports: as for a", "FAIL cpu: b has a CPU of its own", "pass: guest"]
    assert lines[first + 1 : first + 4] == told, done.stdout
    assert lines.count("FAIL ports: port 49152 is closed") == 1
    assert lines.count("cure: open it (role kvmops.migration.firewall)") == 1


@pytest.mark.parametrize(
    ("wish", "judged", "passes"),
    [
        # Any of these hosts will do, and migrate.yml takes the first one.
        ({"dest": "kvm2,kvm3"}, [GOOD, BAD], True),
        ({"dest": "kvm2,kvm3"}, [BAD, GOOD], False),
        # It lives on one of them.
        ({"dest": "kvm1,kvm3"}, [BAD], True),
        # It could go anywhere.
        ({}, [BAD, GOOD], True),
        ({}, [BAD, BAD], False),
    ],
)
def test_preflight_fails_where_migrate_would(play, wish, judged, passes):
    queue = {"failed": True, "msg": "a: port 49152 is closed", "results": judged}
    done = play("preflight", known(), known(2, ()), known(3, ()), queue=queue, vm="a", **wish)
    assert (done.returncode == 0) == passes, done.stdout
    assert ("obstacles before a" in done.stdout) != passes


@pytest.mark.parametrize("fix", [True, False])
def test_preflight_passes_where_nothing_is_in_the_way(play, fix):
    """There is nothing to cure, and so it is told once."""
    done = play("preflight", known(), known(2, ()), queue={"results": [GOOD]}, vm="a", fix=fix)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("a: can move live, kvm1 -> kvm2, storage copy") == 1
    assert "now the roles that cure it are" not in done.stdout
    assert "FAIL" not in done.stdout
    assert "changed=0" in done.stdout


def test_preflight_tells_what_it_cures_before_it_does(play):
    cured = {**PORTS, "role": "nosuch"}
    queue = {"failed": True, "msg": "x", "results": [{**BAD, "checks": [GUEST, cured]}]}
    done = play("preflight", known(), known(2, ()), queue=queue, vm="a", dest="kvm2", fix=True)
    lines = [line.strip(' ",') for line in done.stdout.splitlines()]
    assert "a: cannot move, kvm1 -> kvm2" in lines, done.stdout + done.stderr
    first = lines.index("a: cannot move, kvm1 -> kvm2")
    assert lines[first : first + 5] == [
        "a: cannot move, kvm1 -> kvm2",
        "FAIL ports: port 49152 is closed",
        "cure: open it (role kvmops.migration.nosuch)",
        "pass: guest",
        "now the roles that cure it are applied: kvmops.migration.nosuch",
    ]
    # ansible-core 2.19 says so on stderr, older ones on stdout as well.
    assert "'kvmops.migration.nosuch' was not found" in done.stdout + done.stderr


@pytest.mark.parametrize("status", ["pass", "warn"])
def test_preflight_tells_the_forecast_once(play, status):
    text = "it writes 10.0 MiB/s"
    row = {**GUEST, "id": "convergence", "status": status, "evidence": f"estimate: {text}", "cure": "policy: x"}
    good = {**GOOD, "checks": [GUEST, row], "forecast": {"text": text}}
    done = play("preflight", known(), known(2, ()), queue={"results": [good]}, vm="a")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(text) == 1, done.stdout
    assert (f"  forecast: {text}" in done.stdout) == (status == "pass")


def test_preflight_judges_what_it_can_while_a_host_is_silent(play):
    silent = {"failed": True, "msg": "no libvirt"}
    done = play("preflight", known(), known(2, ()), silent, queue={"results": [GOOD]}, vm="a")
    assert done.returncode == 0, done.stdout
    assert "WARN VM a cannot move: kvm3 does not answer (no libvirt)" in done.stdout, done.stdout
    assert "a: can move live, kvm1 -> kvm2" in done.stdout


def test_migrate_tells_every_finding(play):
    refused = {**REFUSED, "results": [BAD]}
    done = play("migrate", known(), known(2, ()), queue=refused, vm="a", dest="kvm2")
    assert done.returncode != 0
    for told in ("FAIL ports: port 49152 is closed", "cure: open it (role", "WARN tls: it travels", "pass: guest"):
        assert told in done.stdout, done.stdout


RECORD = {"name": "a", "run": "5-x", "began": 5, "duration_s": 3.0, "outcome": "migrated", "mode": "live"}
MOVED = {"results": [{**RECORD, "changed": True, "msg": "in hand only"}], "changed": True}


def test_migrate_writes_a_report_of_the_record_and_a_second_run_changes_nothing(play, tmp_path):
    page = tmp_path / "report.html"
    done = play(
        "migrate", known(records=[RECORD]), known(2, ()), queue=MOVED, vm="a", dest="kvm2", report="report.html"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"the report of a is at {page}" in done.stdout
    first = page.read_text()
    assert "a: moved" in first
    # The VM is at its destination now, and its record where it was.
    again = play("migrate", known(domains=(), records=[RECORD]), known(2), vm="a", dest="kvm2", report=str(page))
    assert again.returncode == 0, again.stdout + again.stderr
    assert "changed=0" in again.stdout
    assert page.read_text() == first


def test_a_move_that_has_failed_has_a_report_and_fails(play, tmp_path):
    page = tmp_path / "report.html"
    silent = {"failed": True, "msg": "no libvirt"}
    refused = {**REFUSED, "results": [BAD]}
    done = play("migrate", known(), known(2, ()), silent, queue=refused, vm="a", dest="kvm2", report=str(page))
    assert done.returncode != 0
    assert "a: port 49152 is closed" in done.stdout, done.stdout
    text = page.read_text()
    assert "Refused, nothing was tried" in text
    assert "port 49152 is closed" in text
    assert "open it" in text


def test_what_could_not_even_begin_is_in_the_report(play, tmp_path):
    page = tmp_path / "report.html"
    broken = {"failed": True, "msg": "moves: no way"}
    done = play("migrate", known(records=[RECORD]), known(2, ()), queue=broken, vm="a", dest="kvm2", report=str(page))
    assert done.returncode != 0
    assert "moves: no way" in page.read_text()


def test_a_report_tells_of_all_groups_of_moves(play, tmp_path):
    """With hooks VMs move in groups, and the second one has failed here after its hook."""
    page, hook = tmp_path / "report.html", tmp_path / "hook.yml"
    hook.write_text("- ansible.builtin.fail: {msg: hooked}\n  when: migrate_step.name == 'b'\n")
    queue = {"results": [{**RECORD, "changed": True}, {**RECORD, "name": "b", "run": "6-x", "changed": True}]}
    infos = known(domains=("a", "b")), known(2, ())
    limits = {"migrate_limits": {"total": 1}, "migrate_post_tasks": str(hook)}
    done = play("migrate", *infos, queue=queue, vm="a,b", dest="kvm2", report=str(page), **limits)
    assert done.returncode != 0
    assert "hooked" in done.stdout
    text = page.read_text()
    assert 'id="run-1"' in text
    assert 'id="run-2"' in text


def test_check_mode_writes_no_report_and_says_so(play, tmp_path):
    page = tmp_path / "report.html"
    planned = {"results": [{**GOOD, "outcome": "planned"}], "changed": True}
    done = play("migrate", known(), known(2, ()), queue=planned, check=True, vm="a", dest="kvm2", report=str(page))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"check mode: no report is written to {page}" in done.stdout
    assert not page.exists()


@pytest.mark.parametrize("playbook", ["migrate", "import"])
def test_check_mode_says_which_run_would_be_joined(play, playbook):
    joined = {"name": "a", "changed": True, "outcome": "planned", "adopted": "r7", "checks": []}
    queue = {"results": [joined], "changed": True}
    done = play(playbook, known(), known(2, ()), queue=queue, copied=joined, check=True, vm="a", dest="kvm2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a: run r7 " in done.stdout
    assert "already, kvm1 -> kvm2, and would be joined" in done.stdout or playbook == "import"
    assert "changed=1" in done.stdout


@pytest.mark.parametrize("playbook", ["migrate", "import", "relocate"])
@pytest.mark.parametrize("check", [True, False])
def test_a_report_that_cannot_be_written_stops_everything_before_it_begins(play, tmp_path, playbook, check):
    hook = tmp_path / "hook.yml"
    hook.write_text(f"- ansible.builtin.copy: {{content: x, dest: '{tmp_path}/hooked'}}\n")
    options = {"vm": "a", "dest": "kvm2", "dest_dir": "/x", "report": "missing/a.html", "migrate_pre_tasks": str(hook)}
    done = play(playbook, known(), known(2, ()), check=check, **options)
    assert done.returncode != 0
    assert "there is no directory" in done.stdout, done.stdout + done.stderr
    assert "Ask the hypervisors" not in done.stdout
    assert not (tmp_path / "hooked").exists()


@pytest.mark.parametrize("playbook", ["import", "relocate"])
@pytest.mark.parametrize("failed", [True, False])
def test_copies_have_a_report_too(play, tmp_path, playbook, failed):
    page = tmp_path / "report.html"
    record = {
        **RECORD,
        "outcome": "failed" if failed else "copied",
        "failed": failed,
        "msg": "no space",
        "host": "kvm1",
    }
    infos = known(records=[record]), known(2, ())
    done = play(playbook, *infos, copied=record, vm="a", dest="kvm2", dest_dir="/x", report=str(page))
    assert (done.returncode != 0) == failed, done.stdout + done.stderr
    text = page.read_text()
    assert ("no space" in text) == failed
    assert ("Disks moved" in text) != failed
    assert ("a: not copied: failed" in done.stdout) == failed, done.stdout


def test_a_vm_without_any_run_has_no_report(play, tmp_path):
    page = tmp_path / "report.html"
    done = play("migrate", known(domains=()), known(2), vm="a", dest="kvm2", report=str(page))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "there is no run to report" in done.stdout
    assert not page.exists()


@pytest.mark.parametrize(
    ("playbook", "check", "options", "said"),
    [
        ("import", True, {"on_controler_loss": "cancel"}, "on_controler_loss is unknown; accepted: backing, "),
        ("relocate", False, {"_watch": True}, "_watch is unknown; accepted: backing, bandwidth, "),
        ("import", True, {"name": "b"}, "name is not taken here: say -e vm=NAME instead; accepted: "),
        ("import", False, {"dest_dir": "/x", "force": True}, "dest_dir is not taken here: say -e dest_dir=DIRECTORY "),
        ("relocate", True, {"dest_uri": "qemu+ssh://x/system"}, "dest_uri is not taken here: say import.yml -e dest="),
    ],
)
def test_an_option_of_copies_that_is_not_known_is_refused_before_anything(play, playbook, check, options, said):
    infos = known(), known(2, ())
    done = play(playbook, *infos, check=check, vm="a", dest="kvm2", migrate_copy_options=options)
    assert done.returncode != 0
    [line] = [line for line in done.stdout.splitlines() if '"msg"' in line]
    assert f"migrate_copy_options.{said}" in line, done.stdout
    assert "Ask the hypervisors" not in done.stdout


def test_options_of_copies_that_are_known_keep_nobody(play):
    infos = known(), known(2, ())
    done = play("import", *infos, vm="a", dest="kvm2", migrate_copy_options={"force": True, "format": "raw"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a: everything is at its place already" in done.stdout


def test_every_option_of_copies_can_be_said():
    """The list of the role is that of the module, and its task hands each of them on."""
    role = TOP / "roles" / "migrate"
    variables = yaml.safe_load((role / "vars" / "main.yml").read_text(encoding="utf-8"))
    accepted, given = variables["__migrate_copy_accepted"], variables["__migrate_copy_given"]
    options = {name: row for name, row in start.argument_spec().items() if name not in table.HIDDEN}
    named = [one for name, row in options.items() for one in (name, *row.get("aliases", []))]
    assert sorted([*accepted, *given]) == sorted(named)
    tasks = yaml.safe_load((role / "tasks" / "copy.yml").read_text(encoding="utf-8"))
    [block] = [task["block"] for task in tasks if "block" in task]
    [handed] = [task["kvmops.migration.virt_domblk_copy"] for task in block]
    assert set(handed) == set(options)
    assert {name: handed[name] for name in accepted} == {
        name: f"{{{{ migrate_copy_options.{name} | default(omit) }}}}" for name in accepted
    }


@pytest.mark.parametrize("check", [True, False])
def test_import_says_which_vm_is_there_already(play, check):
    done = play("import", known(), known(2, ("b",)), check=check, vm="a,b", dest="kvm2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("already lives on") == 1, done.stdout
    assert '"b already lives on kvm2 (running); relocate.yml moves disks on their host"' in done.stdout
    assert "a: everything is at its place already" in done.stdout
    assert "changed=1" not in done.stdout


def test_a_copy_that_was_refused_tells_every_finding(play):
    refused = {**BAD, "msg": "a: port 49152 is closed"}
    done = play("import", known(), known(2, ()), copied=refused, vm="a", dest="kvm2")
    assert done.returncode != 0
    lines = [line.strip(' ",') for line in done.stdout.splitlines()]
    first = lines.index("a: not copied: refused")
    assert lines[first + 1 : first + 5] == [
        "FAIL ports: port 49152 is closed",
        "cure: open it (role kvmops.migration.firewall)",
        "WARN tls: it travels unencrypted",
        "pass: guest",
    ]


@pytest.mark.parametrize("outcome", ["refused", "failed", None])
def test_a_copy_that_has_failed_without_findings_says_why(play, outcome):
    failed = {"failed": True, "changed": False, "name": "a", "msg": "no room in /x; cure: make some"}
    failed.update({"outcome": outcome} if outcome else {})
    done = play("relocate", known(), known(2, ()), copied=failed, vm="a", dest_dir="/x")
    assert done.returncode != 0
    lines = [line.strip(' ",') for line in done.stdout.splitlines()]
    first = lines.index(f"a: not copied: {outcome or 'refused'}")
    assert lines[first + 1] == "no room in /x; cure: make some"
