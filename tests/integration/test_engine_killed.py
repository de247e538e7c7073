# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever is killed between any two steps of a run: the next run, or recover.yml, ends it right."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab import faults

from .conftest import ansible
from .engine import BUSY, HYPERVISORS, LOCAL, SHARED, Call, Guest, other, qemus, wait_for
from .extent import chosen, full

pytestmark = pytest.mark.usefixtures("mended")

RUNS = "/run/kvmops-migration"
STATE = "/var/lib/kvmops-migration"
# The steps at which a run can be held, and the middle of libvirt's own job.
STEPS = ("journalled", "prepared", "moving", "moved", "settled", "finishing")
JOB = "in the job"
# Seconds.
DEAD = 45


def statuses(host: str) -> list[dict]:
    """The runs whose folders are there."""
    said = faults.inside(host, "sh", "-c", f"cat {RUNS}/*/status.json 2>/dev/null").stdout
    decoder, found = json.JSONDecoder(), []
    while said.strip():
        status, end = decoder.raw_decode(said.lstrip())
        found.append(status)
        said = said.lstrip()[end:]
    return found


def going(host: str, name: str) -> dict | None:
    """The run of that guest whose process lives."""
    for status in statuses(host):
        if status["name"] == name:
            lock = f"{RUNS}/{status['run']}/lock"
            if faults.inside(host, "flock", "-n", lock, "true").returncode == 1:
                return status
    return None


@contextmanager
def held(host: str, step: str) -> Iterator[None]:
    """Runs on that host wait when they come to that step."""
    if step == JOB:
        yield
        return
    faults.must(host, "sh", "-c", f"mkdir -p {RUNS}/hold && touch {RUNS}/hold/{step}")
    try:
        yield
    finally:
        faults.must(host, "rm", "-rf", f"{RUNS}/hold")


def comes_to(guest: Guest, host: str, step: str) -> dict:
    """The status of the run once it is there."""
    if step == JOB:
        guest.moves_from(host)
        return wait_for(lambda: going(host, guest.name), 20, "a run")
    return wait_for(
        lambda: (status := going(host, guest.name)) and status["phase"] == step and status, 60, f"a run at {step}"
    )


def at_rest(guest: Guest) -> None:
    """Neither a run nor a job goes on."""
    for host in HYPERVISORS:
        wait_for(lambda host=host: not going(host, guest.name), 120, f"the end of the run on {host}")
        wait_for(lambda host=host: "Unbounded" not in guest.job(host).get("Job type", ""), 120, "the end of the job")


def nothing_is_left(guest: Guest) -> None:
    for host in HYPERVISORS:
        assert faults.inside(host, "ls", "-A", f"{STATE}/unfinished").stdout == "", host
        assert "kvmops" not in faults.inside(host, "ls", "-A", str(Path(guest.image).parent)).stdout, host


def reconcile(guest: Guest, dest: str) -> None:
    """`migrate.yml` to that destination, which must bring the guest there; and once more, which must do nothing."""
    run = ansible("ansible-playbook", "migrate.yml", "-e", f"vm={guest.name}", "-e", f"dest={dest}")
    assert run.rc == 0, run.out
    guest.lives(dest)
    again = ansible("ansible-playbook", "migrate.yml", "-e", f"vm={guest.name}", "-e", f"dest={dest}")
    assert (again.rc, again.changed) == (0, 0), again.out


def recover() -> None:
    run = ansible("ansible-playbook", "recover.yml")
    assert run.rc == 0, run.out


def kill_worker(source: str, dest: str, status: dict, call: Call) -> None:
    faults.must(source, "kill", "-KILL", str(status["pid"]))


def kill_controller(source: str, dest: str, status: dict, call: Call) -> None:
    os.killpg(call.process.pid, signal.SIGKILL)


def interrupt_controller(source: str, dest: str, status: dict, call: Call) -> None:
    """Ctrl-C on a terminal goes to the whole group."""
    os.killpg(call.process.pid, signal.SIGINT)


def kill_source_daemon(source: str, dest: str, status: dict, call: Call) -> None:
    faults.kill_daemon(source)


def kill_dest_daemon(source: str, dest: str, status: dict, call: Call) -> None:
    faults.kill_daemon(dest)


def kill_both(source: str, dest: str, status: dict, call: Call) -> None:
    kill_worker(source, dest, status, call)
    kill_controller(source, dest, status, call)


VICTIMS = {
    "the worker": kill_worker,
    "the controller": kill_controller,
    "the controller, by Ctrl-C": interrupt_controller,
    "the worker and the controller": kill_both,
    "the source's daemon": kill_source_daemon,
    "the destination's daemon": kill_dest_daemon,
}
CASES = [(victim, step) for victim in VICTIMS for step in (*STEPS, JOB)]


@pytest.mark.parametrize(("victim", "step"), chosen(CASES, 3))
def test_c3_75_a_run_in_which_something_is_killed_ends_right(victim, step):
    guest = LOCAL
    source = guest.bring(shape="running, persistent")
    dest = other(source)
    options = {"name": guest.name, "dest_host": dest, "tls": "false"}
    if step == JOB:
        # Slow enough to be met on the way.
        options["bandwidth"] = 150
    with held(source, step):
        call = Call(source, options)
        VICTIMS[victim](source, dest, comes_to(guest, source, step), call)
    answer = call.answer()
    at_rest(guest)
    counts = qemus(guest.name)
    assert sum(counts.values()) == 1, (counts, answer.out)
    if answer.rc == 0 and not answer.result.get("failed"):
        assert answer["outcome"] == "migrated"
    # The next run does it, whether recover.yml has been there before or not.
    if random.Random(victim + step).random() < 0.5:
        recover()
        assert sum(qemus(guest.name).values()) == 1
        nothing_is_left(guest)
    reconcile(guest, dest)
    nothing_is_left(guest)


@pytest.mark.parametrize("which", [pytest.param("source", marks=full), "dest"])
def test_c3_73_a_qemu_that_is_killed_in_the_job(which):
    """The source's own ends the guest, as it would without a move; the destination's costs only the move."""
    guest = LOCAL
    source = guest.bring(shape="running, persistent")
    dest = other(source)
    call = Call(source, {"name": guest.name, "dest_host": dest, "tls": "false", "bandwidth": 150})
    guest.moves_from(source)
    faults.kill_qemu(source if which == "source" else dest, guest.name)
    answer = call.answer().failed()
    if which == "source":
        assert answer["failure_class"] == "guest_died"
    assert answer["logs"]["source"] and answer["logs"]["dest"], answer.out
    if which == "dest":
        guest.lives(source)
        nothing_is_left(guest)
        reconcile(guest, dest)
    else:
        assert guest.shapes() == {source: "shut off, persistent"}
        assert sum(qemus(guest.name).values()) == 0


@pytest.mark.parametrize(("side", "step"), chosen([(side, step) for side in ("source", "dest") for step in STEPS], 1))
def test_c3_73_a_qemu_that_is_killed_between_two_steps_ends_its_guest_in_one_place(side, step):
    """The guest dies with its only QEMU; it is defined in one place then, and can be started and moved."""
    guest = LOCAL
    source = guest.bring(shape="running, persistent")
    dest = other(source)
    victim = source if side == "source" else dest
    with held(source, step):
        call = Call(source, {"name": guest.name, "dest_host": dest, "tls": "false"})
        comes_to(guest, source, step)
        died = qemus(guest.name)[victim] > 0
        if died:
            faults.kill_qemu(victim, guest.name)
    answer = call.answer()
    at_rest(guest)
    if not died:
        answer.ok()
        guest.lives(dest)
        nothing_is_left(guest)
        return
    recover()
    assert sum(qemus(guest.name).values()) == 0, answer.out
    shapes = guest.shapes()
    assert list(shapes.values()) == ["shut off, persistent"], (shapes, answer.out)
    nothing_is_left(guest)
    (home,) = shapes
    guest.boot(home)
    reconcile(guest, dest)
    nothing_is_left(guest)


@full
@pytest.mark.parametrize("step", STEPS)
def test_c3_67_a_link_that_is_dead_for_a_while_between_two_steps_ends_right(step):
    """For longer than libvirt waits for a sign of life of the other host."""
    guest = LOCAL
    source = guest.bring(shape="running, persistent")
    dest = other(source)
    with held(source, step):
        call = Call(source, {"name": guest.name, "dest_host": dest, "tls": "false"})
        comes_to(guest, source, step)
        for host in HYPERVISORS:
            faults.drop(host)
    time.sleep(DEAD)
    counts = qemus(guest.name)
    for host in HYPERVISORS:
        faults.restore(host)
    assert sum(counts.values()) >= 1, counts
    answer = call.answer()
    at_rest(guest)
    recover()
    counts = qemus(guest.name)
    assert sum(counts.values()) == 1, (counts, answer.out)
    nothing_is_left(guest)
    reconcile(guest, dest)
    nothing_is_left(guest)


# MiB per second: its working set alone takes a minute. A guest that gets no CPU for a moment dirties nothing, and may
# converge on any faster link.
ENDLESS = {"name": "busy", "tls": "false", "bandwidth": 1}


@full
def test_c5_98_a_lost_controller_cancels_where_that_was_said():
    source = BUSY.bring(shape="running, persistent")
    with BUSY.busy(60):
        options = {**ENDLESS, "dest_host": other(source), "on_controller_loss": "cancel"}
        call = Call(source, options)
        BUSY.moves_from(source)
        os.killpg(call.process.pid, signal.SIGKILL)
        began = time.monotonic()
        call.answer()
        at_rest(BUSY)
        assert time.monotonic() - began > 25
    BUSY.lives(source)
    nothing_is_left(BUSY)


def test_c5_95_cancel_yml_ends_what_status_yml_shows():
    source = BUSY.bring(shape="running, persistent")
    with BUSY.busy(60):
        call = Call(source, {**ENDLESS, "dest_host": other(source)})
        BUSY.moves_from(source)
        shown = ansible("ansible-playbook", "status.yml")
        assert f"busy: {source} -> {other(source)}: " in shown.out, shown.out
        ended = ansible("ansible-playbook", "cancel.yml", "-e", "vm=busy")
        assert ended.rc == 0, ended.out
        # What became of the move tells why, where nothing was there to end.
        assert "busy: ended, it is where it was" in ended.out, ended.out + call.answer().out
        answer = call.answer().failed()
    assert answer["failure_class"] == "cancelled"
    assert answer.did[-1] == "abort"
    BUSY.lives(source)
    nothing_is_left(BUSY)
    assert "nothing moves" in ansible("ansible-playbook", "status.yml").out


def test_c3_75_a_second_run_with_the_same_wish_joins_the_first():
    source = BUSY.bring(shape="running, persistent")
    dest = other(source)
    # Half a minute: the playbook takes its time to come to the VM.
    with faults.shaped(6, source), BUSY.busy(4, over=24):
        first = Call(source, {"name": "busy", "dest_host": dest, "tls": "false"})
        BUSY.moves_from(source)
        os.killpg(first.process.pid, signal.SIGKILL)
        first.answer()
        second = ansible("ansible-playbook", "migrate.yml", "-e", "vm=busy", "-e", f"dest={dest}")
    assert second.rc == 0, second.out
    assert "is at it already; watching that one" in second.out
    BUSY.lives(dest)
    nothing_is_left(BUSY)


def test_c4_92_a_person_sees_how_far_it_is_and_what_is_done_about_it():
    source = BUSY.bring(shape="running, persistent")
    dest = other(source)
    policy = {"policy_steps": [{"when": "elapsed", "at": 12, "do": "raise_downtime", "downtime": 1500}]}
    with faults.shaped(12, source), BUSY.busy(4, over=24):
        call = Call(source, {"name": "busy", "dest_host": dest, "tls": "false", **policy})
        answer = call.answer().ok()
    lines = [line.strip() for line in answer.out.splitlines() if line.strip().startswith("busy: ")]
    assert any("raise downtime" in line for line in lines), answer.out
    told = [line for line in lines if " %, memory " in line]
    assert told, answer.out
    assert len(lines) >= answer["duration_s"] / 10 - 1
    BUSY.lives(dest)


def test_c5_98_async_goes_on_without_a_controller():
    source = SHARED.bring(shape="running, persistent")
    dest = other(source)
    options = json.dumps({"name": "shared", "dest_host": dest, "tls": "false"})
    module = ("-m", "kvmops.migration.virt_migrate", "-a", options)
    begun = ansible("ansible", source, *module, "-B", "120", "-P", "0")
    assert begun.rc == 0, begun.out
    wait_for(lambda: SHARED.shapes() == {dest: "running, persistent"}, 60, "the move")
    at_rest(SHARED)
    nothing_is_left(SHARED)


def test_several_vms_move_at_a_time_and_no_more_than_permitted(inventory):
    for guest in (LOCAL, SHARED):
        guest.bring("labkvm1", "running, persistent")
    limits = json.dumps({"migrate_limits": {"source": 1}, "migrate_options": {"tls": "false"}})
    run = ansible("ansible-playbook", "migrate.yml", "-e", "vm=centos64a,shared", "-e", "dest=labkvm2", "-e", limits)
    assert run.rc == 0, run.out
    for guest in (LOCAL, SHARED):
        guest.lives("labkvm2")
        assert f"{guest.name}: moved live, labkvm1 -> labkvm2" in run.out


def test_the_outage_is_measured_from_a_third_host_and_the_network_that_carried_it():
    """The private network carries the stream, and not the one that the controller uses."""
    source = SHARED.bring(shape="running, persistent")
    options = {"outage_address": "192.168.1.102", "outage_from": "labstor1", "tls": "false"}
    answer = Call(source, {"name": "shared", "dest_host": other(source), **options}).answer().ok()
    outage = answer["outage"]
    assert outage["replies"] > 10, outage
    assert 0 < outage["longest_ms"] < 20000, outage
    busiest = answer["networks"][0]
    assert busiest["interface"] == "private0", answer["networks"]
    assert busiest["tx_bytes"] > 0.9 * answer["memory"]["bytes"]
    assert faults.inside("labstor1", "pgrep", "-x", "ping").stdout == ""
