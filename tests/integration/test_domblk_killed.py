# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies that are killed between any two steps, and at any other moment: the next run ends them right."""

from __future__ import annotations

import random

import pytest

from tests.lab import faults

from .conftest import ansible
from .engine import HYPERVISORS, LOCAL, Answer, Call, other, qemus, wait_for
from .extent import chosen
from .test_domblk import ELSEWHERE, FIRM, STOPPED, at_home, images, listing, quiet
from .test_engine_killed import comes_to, going, held, nothing_is_left, recover
from .test_engine_witness import lab

pytestmark = pytest.mark.usefixtures("mended", "elsewhere")

IMAGE = f"{ELSEWHERE}/centos64-32bit.qcow2"
# Where each kind of copy can be held.
STEPS = {
    "shut off": ("journalled", "copying", "verifying", "copied", "prepared", "moved", "finishing"),
    "running": ("journalled", "copying", "copied", "prepared", "moving", "moved", "finishing"),
    "far": ("journalled", "copying", "verifying", "copied", "prepared", "moving", "moved", "settled", "finishing"),
}
CASES = [(kind, step) for kind, steps in STEPS.items() for step in steps]


@pytest.fixture(scope="module", name="elsewhere")
def a_second_directory():
    for host in HYPERVISORS:
        faults.must(host, "sh", "-c", f"mkdir -p {ELSEWHERE}; rm -rf {ELSEWHERE}/*")
    yield
    for host in HYPERVISORS:
        faults.inside(host, "rm", "-rf", ELSEWHERE)


def begin(source: str, kind: str, **more: object) -> Call:
    options = {"name": LOCAL.name, "dest_dir": ELSEWHERE, "remove_source": True, **more}
    if kind == "far":
        options["dest_host"] = other(source)
    return Call(source, options, module="virt_domblk_copy")


def ends_right(source: str, kind: str, answer: Answer) -> None:
    """The disk is where it was wanted, and only there; the guest is what it was."""
    assert answer.rc == 0, answer.out
    host = other(source) if kind == "far" else source
    assert LOCAL.shapes() == {host: "running, persistent" if kind == "running" else STOPPED}
    assert images(host)["defined"] == [IMAGE]
    if kind == "running":
        assert images(host)["live"] == [IMAGE]
        LOCAL.goes_on(host)
    files = [path for name in HYPERVISORS for path in listing(name, "/vm", ELSEWHERE)]
    assert [path for path in files if "centos64" in path or "kvmops" in path] == [IMAGE]
    nothing_is_left(LOCAL)
    for name in HYPERVISORS:
        quiet(name)


def comes_home(host: str, kind: str) -> None:
    if kind == "running":
        LOCAL.virsh(host, "destroy")
    LOCAL.boot(host)
    LOCAL.virsh(host, "destroy")
    again = {"name": LOCAL.name, "dest_dir": "/vm", "remove_source": True}
    Call(host, again, module="virt_domblk_copy").answer().ok()
    LOCAL.boot(host)


@pytest.mark.parametrize(("kind", "step"), chosen(CASES, 2))
def test_c3_75_a_copy_that_is_killed_between_two_steps_ends_right(kind, step):
    source = at_home("running, persistent" if kind == "running" else STOPPED)
    with held(source, step):
        call = begin(source, kind)
        status = comes_to(LOCAL, source, step)
        faults.must(source, "kill", "-KILL", str(status["pid"]))
    assert call.answer().rc != 0
    assert sum(qemus(LOCAL.name).values()) == int(kind == "running")
    if random.Random(kind + step).random() < 0.5:
        recover()
        nothing_is_left(LOCAL)
    ends_right(source, kind, begin(source, kind).answer())
    again = begin(source, kind).answer().ok()
    assert again["changed"] is False
    comes_home(other(source) if kind == "far" else source, kind)


def kill_module(source: str, dest: str, status: dict) -> None:
    faults.must(source, "kill", "-KILL", str(status["pid"]))


def kill_ssh(source: str, dest: str, status: dict) -> None:
    faults.must(source, "pkill", "-KILL", "-P", str(status["pid"]), "ssh")


def kill_receiver(source: str, dest: str, status: dict) -> None:
    faults.must(dest, "pkill", "-KILL", "-f", "os[.]read.0,n-len")


def kill_daemon(source: str, dest: str, status: dict) -> None:
    faults.kill_daemon(dest)


def fill_disk(source: str, dest: str, status: dict) -> None:
    faults.inside(dest, "sh", "-c", f"head -c 1G /dev/zero > {ELSEWHERE}/other")


def cut_link(source: str, dest: str, status: dict) -> None:
    faults.drop(dest)


def copied(source: str, percent: float) -> dict | None:
    """The status of a copy that has come that far."""
    status = going(source, LOCAL.name)
    return status if status and status["phase"] == "copying" and status.get("percent", 0) >= percent else None


RANDOM = {
    "the module": kill_module,
    "ssh": kill_ssh,
    "the receiver": kill_receiver,
    "the destination's daemon": kill_daemon,
    "a full disk": fill_disk,
    "a cut link": cut_link,
}
MOMENTS = [(what, turn) for turn in (1, 2) for what in RANDOM]


@pytest.mark.parametrize(("what", "turn"), chosen(MOMENTS, 1))
def test_c3_75_a_copy_that_something_happens_to_ends_right(what, turn):
    source = at_home(STOPPED)
    dest = other(source)
    if what == "a full disk":
        faults.must(dest, "mount", "-t", "tmpfs", "-o", "size=300m", "none", ELSEWHERE)
    try:
        # About six seconds.
        call = begin(source, "far", bandwidth=4)
        moment = 80 * random.Random(f"{what} {turn}").random()
        status = wait_for(lambda: copied(source, moment), 30, f"{moment:.0f} % of the copy")
        RANDOM[what](source, dest, status)
        answer = call.answer()
        if what == "a cut link":
            assert answer.rc != 0 and answer["outcome"] == "undetermined", answer.out
        # The images go over SSH: a daemon that is up again when they are there has missed nothing.
        elif what != "the destination's daemon":
            assert answer.rc != 0, answer.out
    finally:
        faults.mend(dest)
        if what == "a full disk":
            faults.must(dest, "umount", ELSEWHERE)
    ends_right(source, "far", begin(source, "far").answer())
    comes_home(dest, "far")


@pytest.mark.parametrize("guest", [LOCAL, FIRM], ids=lambda guest: guest.name)
def test_zz_no_record_was_lost_torn_or_written_twice(guest):
    guest.bring()
    lab("witness", guest.name, f"--boots={guest.boots}")
    assert "nothing moves" in ansible("ansible-playbook", "status.yml").out


def test_zz_no_guest_ever_ran_in_two_places():
    lab("watch")
