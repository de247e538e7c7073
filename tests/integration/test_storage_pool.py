# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scenario `storage_pool`: what libvirt says of the pools after the role, and what stays when it is undone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

BINDINGS = "/usr/lib/python3/dist-packages/libvirt.py"
POOLS = (
    "for pool in $(virsh pool-list --all --name | sort); do virsh pool-dumpxml $pool; virsh pool-info $pool; done"
    " | grep -v -i -e capacity -e allocation -e available;"
    " find /vm /vmmount /srv/other -printf '%p %m %u\\n' 2>/dev/null | sort"
)


@pytest.fixture
def run(role):
    return partial(role, "storage_pool")


def pools(*named: tuple[str, str]) -> list[str]:
    return ["-e", json.dumps({"storage_pool_pools": [{"name": name, "path": path} for name, path in named]})]


def state(hypervisors) -> dict[str, str]:
    return {name: host.run(POOLS).stdout for name, host in hypervisors.items()}


def told(host, pool: str) -> dict[str, str]:
    lines = host.check_output("virsh pool-info %s", pool).splitlines()
    return {key.strip(): value.strip() for key, value in (line.split(":", 1) for line in lines if line.strip())}


def test_the_pool_of_the_inventory_is_active_everywhere_and_starts_at_boot(hypervisors):
    for host in hypervisors.values():
        said = told(host, "vm")
        assert (said["State"], said["Autostart"], said["Persistent"]) == ("running", "yes", "yes")
        assert "<path>/vm</path>" in host.check_output("virsh pool-dumpxml vm")
        assert host.file("/vm").mode == 0o711


def test_every_run_refreshes_and_says_that_nothing_has_changed(hypervisors, run):
    """An image that came without libvirt is known after the next run."""
    image = "/vm/came-without-libvirt.qcow2"
    try:
        for host in hypervisors.values():
            host.check_output("qemu-img create -q -f qcow2 %s 1M", image)
            assert image not in host.check_output("virsh vol-list vm")
        done = run()
        assert (done.rc, done.changed) == (0, 0), done.out
        assert all(image in host.check_output("virsh vol-list vm") for host in hypervisors.values())
    finally:
        for host in hypervisors.values():
            host.check_output("rm -f %s; virsh -q pool-refresh vm", image)


def test_a_pool_that_somebody_has_stopped_is_started_again(hypervisors, run):
    host = hypervisors["labkvm1"]
    host.check_output("virsh pool-destroy vm; virsh pool-autostart vm --disable")
    checked = run("--check")
    assert checked.rc == 0, checked.out
    assert checked.changed == 1, checked.out
    assert told(host, "vm")["State"] == "inactive"
    done = run()
    assert (done.rc, done.changed) == (0, 1), done.out
    assert (told(host, "vm")["State"], told(host, "vm")["Autostart"]) == ("running", "yes")


def test_a_mount_point_keeps_its_owner_and_its_mode(hypervisors, run):
    before = state(hypervisors)
    wanted = pools(("vm", "/vm"), ("mounted", "/vmmount/"))
    try:
        for host in hypervisors.values():
            host.check_output("mkdir /vmmount && mount -t tmpfs -o size=1m,mode=0750,uid=1000 tmpfs /vmmount")
        done = run(*wanted)
        assert (done.rc, done.changed) == (0, len(hypervisors)), done.out
        for host in hypervisors.values():
            assert told(host, "mounted")["State"] == "running"
            assert (host.file("/vmmount").mode, host.file("/vmmount").uid) == (0o750, 1000)
        again = run(*wanted)
        assert (again.rc, again.changed) == (0, 0), again.out
    finally:
        undone = run("-e", "storage_pool_state=absent", *pools(("mounted", "/vmmount")))
        for host in hypervisors.values():
            host.check_output("umount /vmmount && rmdir /vmmount")
    assert undone.rc == 0, undone.out
    assert state(hypervisors) == before


def test_undone_the_pool_is_gone_and_its_images_stay(hypervisors, run):
    image = "/vm/stays.qcow2"
    before = {
        name: host.check_output("virsh pool-dumpxml vm | grep -v -e uuid -e capacity -e allocation -e available")
        for name, host in hypervisors.items()
    }
    try:
        for host in hypervisors.values():
            host.check_output("qemu-img create -q -f qcow2 %s 1M", image)
        checked = run("-e", "storage_pool_state=absent", "--check")
        assert (checked.rc, checked.changed) == (0, len(hypervisors)), checked.out
        assert all(told(host, "vm")["State"] == "running" for host in hypervisors.values())
        undone = run("-e", "storage_pool_state=absent")
        assert (undone.rc, undone.changed) == (0, len(hypervisors)), undone.out
        for host in hypervisors.values():
            assert "vm" not in host.check_output("virsh pool-list --all --name").split()
            assert host.file(image).exists
        again = run("-e", "storage_pool_state=absent")
        assert (again.rc, again.changed) == (0, 0), again.out
        checked = run("--check")
        assert (checked.rc, checked.changed) == (0, len(hypervisors)), checked.out
        assert all(
            "vm" not in host.check_output("virsh pool-list --all --name").split() for host in hypervisors.values()
        )
    finally:
        for host in hypervisors.values():
            host.check_output("rm -f %s", image)
        done = run()
    assert (done.rc, done.changed) == (0, len(hypervisors)), done.out
    after = {
        name: host.check_output("virsh pool-dumpxml vm | grep -v -e uuid -e capacity -e allocation -e available")
        for name, host in hypervisors.items()
    }
    assert after == before


def test_a_pool_of_somebody_else_is_not_undone(hypervisors, run):
    before = state(hypervisors)
    undone = run("-e", "storage_pool_state=absent", *pools(("vm", "/srv/other")))
    assert (undone.rc, undone.changed) == (0, 0), undone.out
    assert state(hypervisors) == before


@contextmanager
def nothing(_hypervisors) -> Iterator[None]:
    yield


@contextmanager
def a_file(hypervisors) -> Iterator[None]:
    for host in hypervisors.values():
        host.check_output("touch /srv/other")
    try:
        yield
    finally:
        for host in hypervisors.values():
            host.check_output("rm /srv/other")


@contextmanager
def no_bindings(hypervisors) -> Iterator[None]:
    host = hypervisors["labkvm1"]
    host.check_output(f"mv {BINDINGS} {BINDINGS}.away")
    try:
        yield
    finally:
        host.check_output(f"mv {BINDINGS}.away {BINDINGS}")


@contextmanager
def another_path_there(hypervisors) -> Iterator[None]:
    """The pool of the inventory is somewhere else on one host."""
    host = hypervisors["labkvm1"]
    host.check_output(
        "mkdir /srv/other; virsh pool-destroy vm; virsh pool-undefine vm;"
        " virsh pool-define-as vm dir --target /srv/other"
    )
    try:
        yield
    finally:
        host.check_output("virsh pool-undefine vm; rmdir /srv/other")


BAD = {
    "a pool at another path": (
        another_path_there,
        [],
        r"storage pool 'vm' is at /srv/other and shall be at /vm: .*virsh pool-destroy vm; virsh pool-undefine vm",
    ),
    "another pool at that path": (
        nothing,
        pools(("images", "/vm")),
        r"storage pool 'vm' already is at /vm.*pool-undefine vm",
    ),
    "a path that is a file": (a_file, pools(("other", "/srv/other")), r"/srv/other of pool 'other' is no directory"),
    "a path that is relative": (nothing, pools(("other", "srv")), r"the path of pool 'other' is 'srv': it must be"),
    "one name twice": (nothing, pools(("other", "/a"), ("other", "/b")), r"two pools are called 'other'"),
    "one path twice": (
        nothing,
        pools(("a", "/srv/other"), ("b", "/srv/other/")),
        r"two pools have the path /srv/other",
    ),
    "a name that is none": (nothing, pools(("a/b", "/srv/other")), r"'a/b' is no name of a pool"),
    "no libvirt": (no_bindings, [], r"libvirt at qemu:///system does not tell its pools .*: role libvirt_host"),
    "an unknown state": (nothing, ["-e", "storage_pool_state=gone"], r"storage_pool_state"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_and_changes_nothing(case, hypervisors, run):
    condition, arguments, expected = BAD[case]
    try:
        with condition(hypervisors):
            before = state(hypervisors)
            refused = run(*arguments)
            after = state(hypervisors)
    finally:
        run()
    assert refused.rc != 0, refused.out
    assert re.search(expected, refused.message), refused.out
    assert "Traceback" not in refused.out
    assert before == after


def test_paths_that_differ_between_hosts_are_refused(hypervisors, run, tmp_path):
    (tmp_path / "more.json").write_text(
        json.dumps({"all": {"hosts": {"labkvm2": {"storage_pool_pools": [{"name": "vm", "path": "/srv/other"}]}}}}),
        encoding="ascii",
    )
    before = state(hypervisors)
    refused = run("-i", "inventory", "-i", str(tmp_path / "more.json"))
    assert refused.rc != 0, refused.out
    assert "shall be at /vm here and at /srv/other on labkvm2" in refused.out
    assert state(hypervisors) == before


def test_check_mode_without_libvirt_says_what_would_be_done(hypervisors, run):
    with no_bindings(hypervisors):
        checked = run("--check", "--diff")
    assert checked.rc == 0, checked.out
    assert "libvirt at qemu:///system does not tell its pools" in checked.out
    assert checked.changed == 1, checked.out
