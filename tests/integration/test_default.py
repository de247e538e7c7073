# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scenario `default`: centos64a has moved to its declared host; then what else a user does with it, good and bad."""

from __future__ import annotations

import difflib
import json
import re
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from .conftest import PLAYBOOKS, REPOSITORY, ansible, plain_environment
from .extent import FULL, chosen

VM = "centos64a"
IMAGE = "/vm/centos64-32bit.qcow2"
CONSOLE = f"/var/log/libvirt/qemu/{VM}.serial.log"


def boots(hypervisors) -> set[str]:
    """The boot ids that the guest printed on all hosts together."""
    consoles = (host.file(CONSOLE) for host in hypervisors.values())
    text = "".join(console.content_string for console in consoles if console.exists)
    return set(re.findall(r"kvmops: record (\S+) \d+", text))


def last_record(host) -> int:
    said = host.check_output("tail -c 2000 %s", CONSOLE)
    return int(re.findall(r"kvmops: record \S+ (\d+)", said)[-1])


# --- what converge left


def test_the_guest_runs_at_its_declared_host_and_nowhere_else(home):
    assert home(VM) == {"labkvm2": "running"}


def test_its_definition_moved_with_it(hypervisors):
    assert hypervisors["labkvm2"].check_output("virsh dominfo %s | grep Persistent", VM).split()[-1] == "yes"


def test_it_went_on_and_did_not_boot_again(hypervisors):
    host = hypervisors["labkvm2"]
    before = last_record(host)
    host.run("sleep 1")
    assert last_record(host) > before
    assert len(boots(hypervisors)) == 1


def test_it_answers_on_the_lan(hosts):
    assert hosts["labstor1"].run("ping -c 3 -i 0.2 -W 2 192.168.1.101").rc == 0


def test_one_host_is_logged_in_as_an_ordinary_user(inventory):
    users = {name: facts["ansible_user"] for name, facts in inventory["_meta"]["hostvars"].items()}
    assert users["labkvm2"] not in ("root", "")


def test_every_run_left_its_record(hypervisors):
    folder = "/var/lib/kvmops-migration/runs"
    names = hypervisors["labkvm1"].check_output("ls %s", folder).split()
    records = [json.loads(hypervisors["labkvm1"].file(f"{folder}/{name}").content_string) for name in names]
    moved = [record for record in records if record["changed"]]
    assert {(record["name"], record["outcome"]) for record in moved} == {(VM, "migrated")}
    assert all(record["downtime_ms"] > 0 and record["memory"]["bytes"] > 0 for record in moved)
    assert all(record["left_behind"][0]["path"] == IMAGE for record in moved)


# --- good use


def test_c1_19_check_mode_announces_the_move_and_makes_none(migrate, footprint, home):
    before = footprint()
    run = migrate("-e", f"vm={VM}", "-e", "dest=labkvm1", "--check", "--diff")
    assert run.rc == 0, run.out
    assert run.changed == 1, run.out
    assert f"{VM}: would move live, labkvm2 -> labkvm1" in run.out
    assert differences(before, footprint()) == []
    assert home(VM) == {"labkvm2": "running"}


def test_c1_23_there_and_back_again_and_again_leaves_nothing(migrate, footprint, home):
    """Source images are kept on purpose and listed; all else is as it was when the guest is back."""
    before = footprint()
    for _turn in range(5 if FULL else 2):
        for dest in ("labkvm1", "labkvm2"):
            run = migrate("-e", f"vm={VM}", "-e", f"dest={dest}")
            assert run.rc == 0, run.out
            assert run.changed == 1, run.out
            assert f"left behind on {({'labkvm1', 'labkvm2'} - {dest}).pop()}: {IMAGE}" in run.out
            assert home(VM) == {dest: "running"}
    # The record of each run, and what it says that it left behind; nothing else.
    kept = ("/var/lib/kvmops-migration/", IMAGE)
    assert [line for line in differences(before, footprint()) if not any(path in line for path in kept)] == []


def differences(before: dict[str, list[str]], after: dict[str, list[str]]) -> list[str]:
    """What one footprint of the hosts has more or less than the other."""
    return [
        f"{host}: {line}"
        for host in before
        for line in difflib.unified_diff(before[host], after[host], lineterm="", n=0)
        if line[0] in "+-" and line[:3] not in ("+++", "---")
    ]


def test_c1_16_a_list_of_hosts_takes_the_one_it_lives_on(migrate, home):
    run = migrate("-e", f"vm={VM}", "-e", "dest=labkvm1,labkvm2")
    assert (run.rc, run.changed) == (0, 0), run.out
    assert home(VM) == {"labkvm2": "running"}


def test_hooks_run_before_and_after_on_the_source(migrate, home, tmp_path):
    for name in ("pre", "post"):
        said = f"{name} on {{{{ inventory_hostname }}}}: {{{{ migrate_step.name }}}} to {{{{ migrate_step.dest }}}}"
        task = f"---\n- name: Say it\n  ansible.builtin.debug:\n    msg: '{said}'\n"
        (tmp_path / f"{name}.yml").write_text(task, encoding="ascii")
    hooks = {f"migrate_{name}_tasks": str(tmp_path / f"{name}.yml") for name in ("pre", "post")}
    run = migrate("-e", f"vm={VM}", "-e", "dest=labkvm1", "-e", json.dumps(hooks))
    assert run.rc == 0, run.out
    assert run.out.index(f"pre on labkvm2: {VM} to labkvm1") < run.out.index(f"{VM}: moved live")
    assert run.out.index(f"{VM}: moved live") < run.out.index(f"post on labkvm2: {VM} to labkvm1")
    assert migrate("-e", f"vm={VM}").rc == 0
    assert home(VM) == {"labkvm2": "running"}


def test_a_report_of_a_move_is_written_and_a_second_run_changes_nothing(migrate, home, tmp_path):
    page = tmp_path / "report.html"
    outage = {"outage_address": "192.168.1.101", "outage_from": "labstor1"}
    wish = ("-e", f"vm={VM}", "-e", "dest=labkvm1", "-e", json.dumps({"report": str(page), "migrate_options": outage}))
    run = migrate(*wish)
    assert run.rc == 0, run.out
    assert f"the report of {VM} is at {page}" in run.out
    text = page.read_text(encoding="utf-8")
    for part in ("labkvm2", "labkvm1", "Downtime, by libvirt", "asked from labstor1", "Memory still to be sent"):
        assert part in text, part
    assert "not measured" not in text
    run = migrate(*wish)
    assert (run.rc, run.changed) == (0, 0), run.out
    assert page.read_text(encoding="utf-8") == text
    assert migrate("-e", f"vm={VM}").rc == 0
    assert home(VM) == {"labkvm2": "running"}


# --- faults on the way


def wait_for(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.5)


def test_c3_75_a_killed_module_leaves_one_running_vm_that_can_come_home(migrate, hypervisors, home):
    source = hypervisors["labkvm2"]
    slow = json.dumps({"migrate_options": {"bandwidth": 60}})
    arguments = ["ansible-playbook", "migrate.yml", "-e", f"vm={VM}", "-e", "dest=labkvm1", "-e", slow]
    with subprocess.Popen(
        arguments, cwd=PLAYBOOKS, env=plain_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as run:
        wait_for(lambda: "Unbounded" in source.run("virsh domjobinfo %s", VM).stdout)
        # Through the pipe that Ansible uses a module's Python has no arguments; the watcher's has.
        source.check_output("kill -KILL $(pgrep -xf /usr/bin/python3)")
        run.wait(timeout=120)
    during = migrate("-e", f"vm={VM}", "-e", "dest=labkvm1")
    assert during.rc == 0 or re.search(r"is being moved to labkvm1 right now|a job is going on", during.message)
    # Peer to peer: libvirt finishes what it has begun, whoever asked for it.
    wait_for(lambda: list(home(VM).values()) == ["running"], 180)
    assert home(VM) == {"labkvm1": "running"}
    back = migrate("-e", f"vm={VM}", "-e", "dest=labkvm2")
    assert back.rc == 0, back.out
    assert home(VM) == {"labkvm2": "running"}


# --- bad use: one clear line, nothing changed


@contextmanager
def nothing(_hypervisors):
    yield


@contextmanager
def no_bindings(hypervisors):
    module = "/usr/lib/python3/dist-packages/libvirt.py"
    hypervisors["labkvm1"].check_output(f"mv {module} {module}.away")
    try:
        yield
    finally:
        hypervisors["labkvm1"].check_output(f"mv {module}.away {module}")


@contextmanager
def no_pool(hypervisors):
    hypervisors["labkvm1"].check_output("virsh pool-destroy vm")
    try:
        yield
    finally:
        hypervisors["labkvm1"].check_output("virsh pool-start vm")


@contextmanager
def foreign_image(hypervisors):
    """An image at the destination that no journal knows: the stale one, written to by somebody else."""
    hypervisors["labkvm1"].check_output(f"cp {IMAGE} /vm/aside && echo x >> {IMAGE}")
    try:
        yield
    finally:
        hypervisors["labkvm1"].check_output(f"mv /vm/aside {IMAGE} && rm -f {IMAGE}")


@contextmanager
def unreadable_image(hypervisors):
    """A second VM whose image is no qcow2 image, though its definition says so."""
    host = hypervisors["labkvm2"]
    host.check_output(
        "echo garbage > /vm/broken.qcow2 && "
        f"virsh dumpxml --inactive {VM} | sed -e '/<uuid>/d' -e '/<mac /d' -e 's/{VM}/broken/g' "
        f"-e 's#{IMAGE}#/vm/broken.qcow2#' > /root/broken.xml && virsh define /root/broken.xml"
    )
    try:
        yield
    finally:
        host.check_output("virsh undefine broken; rm -f /vm/broken.qcow2 /root/broken.xml")


ALIAS = {
    "ansible_host": "192.168.1.232",
    "ansible_user": "deploy",
    "ansible_become": True,
    "ansible_ssh_common_args": f"-F {PLAYBOOKS}/inventory/ssh.cfg",
}
ONE_HOST_TWO_NAMES = {"all": {"children": {"hypervisors": {"hosts": {"alias": ALIAS}}}}}
BAD = {
    "unknown VM": (nothing, ["-e", "vm=nosuch"], r"unknown VM 'nosuch'; known: centos64a \(labkvm2\)"),
    "unknown destination": (
        nothing,
        ["-e", f"vm={VM}", "-e", "dest=nosuch"],
        r"unknown destination 'nosuch'; hosts: labkvm1, labkvm2",
    ),
    "destination that is no hypervisor": (
        nothing,
        ["-e", f"vm={VM}", "-e", "dest=labstor1"],
        r"unknown destination 'labstor1' \(in the inventory, but not in the hypervisor group\)",
    ),
    "no vm and no placement": (
        nothing,
        ["-e", '{"migration_vms": {}}'],
        r"no vm is given and no placement is declared",
    ),
    "VM without host and without dest": (
        nothing,
        ["-e", f"vm={VM}", "-e", '{"migration_vms": {}}'],
        r"no declared host and no dest is given; it is on labkvm2 and could go to: labkvm1",
    ),
    "destination without bindings": (
        no_bindings,
        ["-e", f"vm={VM}", "-e", "dest=labkvm1"],
        r"labkvm1.*python3-libvirt",
    ),
    "destination without the pool": (
        no_pool,
        ["-e", f"vm={VM}", "-e", "dest=labkvm1"],
        r"no active storage pool with target path /vm.*storage_pool",
    ),
    "foreign image at the destination": (
        foreign_image,
        ["-e", f"vm={VM}", "-e", "dest=labkvm1"],
        rf"{IMAGE}.*force",
    ),
    "unreadable guest image": (
        unreadable_image,
        ["-e", "vm=broken", "-e", "dest=labkvm1"],
        r"/vm/broken\.qcow2",
    ),
    "an empty name, as of an unset variable": (nothing, ["-e", "vm="], r"vm is given and empty"),
    "an empty destination": (nothing, ["-e", f"vm={VM}", "-e", "dest="], r"dest is given and empty"),
    "a limit without hypervisors": (
        nothing,
        ["-e", f"vm={VM}", "--limit", "labstor1"],
        r"--limit leaves no hypervisor",
    ),
    "a limit without the VM's host": (
        nothing,
        ["-e", f"vm={VM}", "-e", "dest=labkvm1", "--limit", "labkvm1"],
        r"labkvm2 does not answer \(it was not asked: --limit\)",
    ),
    "a group without hosts": (nothing, ["-e", "migration_hosts_group=nosuch"], r"group 'nosuch'.*no hosts"),
}


@pytest.mark.parametrize("case", chosen(list(BAD), 6))
def test_c2_46_c8_126_bad_input_gets_one_line_and_changes_nothing(case, migrate, hypervisors, footprint):
    condition, arguments, expected = BAD[case]
    with condition(hypervisors):
        before = footprint()
        run = migrate(*arguments)
        after = footprint()
    assert run.rc != 0, run.out
    assert re.search(expected, run.message), run.out
    assert "Traceback" not in run.out
    assert differences(before, after) == []


def test_c2_36_one_host_under_two_names_is_refused(migrate, footprint, tmp_path):
    (tmp_path / "alias.json").write_text(json.dumps(ONE_HOST_TWO_NAMES), encoding="ascii")
    before = footprint()
    run = migrate("-i", "inventory", "-i", str(tmp_path / "alias.json"), "-e", f"vm={VM}", "-e", "dest=alias")
    assert run.rc != 0, run.out
    assert re.search(r"source labkvm2 and destination alias are one host under two names", run.message), run.out
    assert differences(before, footprint()) == []


def test_a_lab_that_is_not_up_is_said_plainly(migrate):
    """The inventory's own way in, to a lab that does not exist: nothing is sent, one line says what to do."""
    run = migrate("-e", f"vm={VM}", KVMOPS_LAB_NAME="kvmops-absent")
    assert run.rc != 0
    assert "the lab is not up: make lab boots it" in run.message, run.out


def test_the_bare_module_answers_an_ad_hoc_call():
    run = ansible("ansible", "labkvm2", "-m", "kvmops.migration.virt_migrate_info", "-a", f"name={VM}")
    assert run.rc == 0, run.out
    assert f'"name": "{VM}"' in run.out


# --- last: the witnesses of everything above


def test_c7_109_no_record_was_lost_torn_or_written_twice(hypervisors):
    """The guest's own records: what its consoles printed against what is on its disk."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.lab", "witness", VM],
        cwd=REPOSITORY,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_vm_ever_ran_in_two_places():
    done = subprocess.run(
        [sys.executable, "-m", "tests.lab", "watch"], cwd=REPOSITORY, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
