# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong while a guest moves: links, daemons, QEMUs and the guest itself, on real hosts."""

from __future__ import annotations

import time

import pytest

from tests.lab import faults

from .engine import (
    BUSY,
    HYPERVISORS,
    LOCAL,
    PRIVATE,
    SHARED,
    Answer,
    Call,
    Guest,
    other,
    virt_migrate,
    wait_for,
    without_records,
)
from .extent import combined, full

pytestmark = pytest.mark.usefixtures("mended")

# Slow enough for a fault to come in time: some ten seconds for the memory of a small guest.
SLOW = 6


def slowly(guest: Guest, source: str, **options) -> Call:
    """A move that is under way, its memory travelling."""
    call = Call(source, {"name": guest.name, "dest_host": other(source), "bandwidth": SLOW, **options})
    guest.moves_from(source)
    return call


def stayed(guest: Guest, source: str, answer: Answer, *failure_classes: str) -> None:
    """It failed, and the guest runs where it was and nowhere else."""
    answer.failed(*failure_classes)
    guest.lives(source)


def moves_on(guest: Guest, source: str) -> None:
    """Nothing of the fault is in the way of the next run."""
    virt_migrate(source, name=guest.name, dest_host=other(source)).ok()
    guest.lives(other(source))


# --- the link


@full
def test_c3_66_a_link_that_comes_back_is_waited_for():
    source = SHARED.bring()
    call = slowly(SHARED, source)
    with faults.cut(*HYPERVISORS, ports=faults.MIGRATION_PORTS):
        time.sleep(8)
        assert "Memory remaining" in SHARED.job(source)
        SHARED.goes_on(source)
    call.answer().ok()
    SHARED.lives(other(source))


def test_c3_67_a_stream_that_is_dead_is_given_up_by_the_policy(footprint):
    source = SHARED.bring()
    before = footprint()
    steps = [{"when": "no_progress", "at": 5, "do": "abort"}]
    call = slowly(SHARED, source, policy="patient", policy_steps=steps)
    with faults.cut(*HYPERVISORS, ports=faults.MIGRATION_PORTS):
        answer = call.answer()
    stayed(SHARED, source, answer, "not_converged")
    assert "nothing has been gained for 5 s" in answer["msg"]
    assert without_records(footprint()) == without_records(before)


@full
def test_c3_67_a_link_that_is_dead_leaves_the_guest_where_it_is():
    """libvirt gives the destination up after half a minute; whether the guest is there is known when it is back."""
    source = SHARED.bring()
    call = slowly(SHARED, source)
    with faults.cut(*HYPERVISORS):
        answer = call.answer().failed(outcome="undetermined")
        assert answer["dest"]["state"] == "unknown"
        SHARED.goes_on(source)
    wait_for(lambda: SHARED.shapes() == {source: "running, persistent"}, 60, "the end of the guest's copy")
    moves_on(SHARED, source)


@full
@pytest.mark.parametrize("side", ["source", "destination", "both"])
def test_c3_68_without_keepalive_a_dead_link_is_given_up_by_the_policy(side):
    """Nobody else would: the job, and the daemons with it, would wait for as long as the link is dead."""
    source = SHARED.bring()
    silent = {"source": [source], "destination": [other(source)], "both": HYPERVISORS}[side]
    steps = [{"when": "no_progress", "at": 5, "do": "abort"}]
    with faults.no_keepalive(*silent):
        call = slowly(SHARED, source, policy="patient", policy_steps=steps)
        with faults.cut(*HYPERVISORS):
            answer = call.answer()
            assert answer["outcome"] in ("failed", "undetermined"), answer.out
            SHARED.goes_on(source)
        wait_for(lambda: SHARED.shapes() == {source: "running, persistent"}, 120, "the end of the guest's copy")
        moves_on(SHARED, source)


# --- the daemons


@pytest.mark.parametrize(("side", "control"), combined(("source", "destination"), ("p2p", "direct")))
def test_c3_69_a_daemon_that_is_killed_leaves_the_guest_where_it_is(side, control):
    source = SHARED.bring()
    call = slowly(SHARED, source, control=control)
    faults.kill_daemon(source if side == "source" else other(source))
    stayed(SHARED, source, call.answer(), "connection_lost", "libvirt", "guest_died")
    moves_on(SHARED, source)


def test_c3_69_a_copy_whose_daemon_is_killed_leaves_no_image(footprint):
    source = LOCAL.bring()
    before = footprint()
    call = Call(source, {"name": LOCAL.name, "dest_host": other(source), "bandwidth": 2})
    LOCAL.copies_from(source)
    faults.kill_daemon(source)
    stayed(LOCAL, source, call.answer(), "connection_lost", "libvirt")
    assert without_records(footprint()) == without_records(before)
    moves_on(LOCAL, source)


# --- the guest and its QEMUs


def test_c3_73_a_guest_that_switches_itself_off_stays_off_where_it_was():
    source = SHARED.bring()
    call = slowly(SHARED, source)
    SHARED.tell("poweroff")
    answer = call.answer().failed()
    assert SHARED.shapes() == {source: "shut off, persistent"}
    assert answer["source"]["state"] == "shut_off"
    assert "shut off" in answer["msg"]


def test_c3_a_qemu_that_dies_at_the_destination_takes_nothing_with_it(footprint):
    source = LOCAL.bring()
    before = footprint()
    # A limit of bandwidth would count the holes of the disk as well.
    with faults.shaped(24, *HYPERVISORS):
        call = slowly(LOCAL, source, bandwidth=0)
        faults.kill_qemu(other(source), LOCAL.name)
        answer = call.answer()
    stayed(LOCAL, source, answer, "guest_died", "connection_lost", "libvirt")
    assert without_records(footprint()) == without_records(before)
    moves_on(LOCAL, source)


def test_c3_a_qemu_that_dies_at_the_source_is_no_guest_that_has_moved():
    source = SHARED.bring()
    call = slowly(SHARED, source)
    faults.kill_qemu(source, "shared")
    answer = call.answer()
    assert answer.rc != 0
    assert answer["outcome"] in ("failed", "crashed")
    assert SHARED.shapes() == {source: "shut off, persistent"}


# --- post-copy


INTO_POSTCOPY = {"bandwidth": 24, "postcopy": True, "postcopy_after_precopy": True}


def torn(source: str) -> None:
    """Both QEMUs lose the connection that they have."""
    faults.tear(source, PRIVATE[other(source)])
    BUSY.is_said_to_be(source, "paused", "post-copy failed")
    BUSY.is_said_to_be(other(source), "running", "post-copy failed")


def resumed(source: str) -> None:
    """QEMU 7.2 may lose a connection that comes back too soon once more, and takes its time to notice that."""
    for _turn in range(10):
        answer = virt_migrate(source, name="busy", dest_host=other(source), postcopy_resume=True)
        if answer.rc == 0:
            return
        answer.failed(outcome="postcopy_failed")
        time.sleep(3)
    answer.ok()


def in_postcopy(source: str, **options) -> Call:
    """A move of the busy guest that has just gone over, with most of its memory still to fetch."""
    options = {**INTO_POSTCOPY, "postcopy_bandwidth": 2, **options}
    call = Call(source, {"name": "busy", "dest_host": other(source), **options})
    BUSY.is_said_to_be(source, "paused", "post-copy")
    # What it needs to breathe is there first: an emulated guest that waits for a page of that can block its whole QEMU.
    time.sleep(3)
    return call


def test_c6_99_post_copy_begins_after_the_first_pass():
    source = BUSY.bring()
    with BUSY.busy(40, 32):
        answer = virt_migrate(source, name="busy", dest_host=other(source), **INTO_POSTCOPY).ok()
    assert answer.did == ["postcopy"]
    assert answer["actions"][0]["reason"] == "pass 2 has begun"
    BUSY.lives(other(source))


def test_c6_103_post_copy_cannot_be_ended():
    source = BUSY.bring()
    with BUSY.busy(40, 32):
        call = in_postcopy(source)
        refused = faults.inside(source, "virsh", "domjobabort", "busy")
        answer = call.answer().ok()
    assert "post-copy" in refused.stderr
    assert answer.did == ["postcopy"]
    BUSY.lives(other(source))


def test_c6_100_a_post_copy_that_fails_is_left_alone_until_it_is_resumed():
    source = BUSY.bring()
    dest = other(source)
    with BUSY.busy(40, 32):
        call = in_postcopy(source)
        torn(source)
        answer = call.answer().failed(outcome="postcopy_failed")
        assert (answer["source"]["state"], answer["dest"]["state"]) == ("postcopy_failed", "postcopy_failed")
        assert "postcopy_resume" in answer["cure"]
        before = BUSY.look()
        assert {host: seen.reason for host, seen in before.items()} == dict.fromkeys(HYPERVISORS, "post-copy failed")
        # Whoever only wishes it to be there touches nothing.
        virt_migrate(source, name="busy", dest_host=dest).failed(outcome="postcopy_failed")
        virt_migrate(source, name="busy", cleanup=True)
        assert BUSY.look() == before
        resumed(source)
        BUSY.lives(dest)


@full
def test_c6_102_a_post_copy_fails_twice_and_is_resumed_twice():
    source = BUSY.bring()
    dest = other(source)
    with BUSY.busy(40, 32):
        call = in_postcopy(source)
        torn(source)
        call.answer().failed(outcome="postcopy_failed")
        slow = {"postcopy": True, "postcopy_bandwidth": 2, "postcopy_resume": True}
        again = Call(source, {"name": "busy", "dest_host": dest, **slow})
        BUSY.is_said_to_be(source, "paused", "post-copy")
        torn(source)
        again.answer().failed(outcome="postcopy_failed")
        faults.kill_daemon(source)
        resumed(source)
        BUSY.lives(dest)


def test_c6_102_a_guest_whose_destination_died_in_post_copy_is_said_to_be_gone():
    source = BUSY.bring()
    with BUSY.busy(40, 32):
        call = in_postcopy(source)
        faults.kill_qemu(other(source), "busy")
        answer = call.answer()
    assert answer["outcome"] == "crashed", answer.out
    assert "postcopy_resume" not in answer["cure"]
    # What is left of it is never let go on.
    BUSY.stands_still(source)


@full
def test_c6_101_a_post_copy_goes_on_while_the_daemons_have_lost_each_other():
    source = BUSY.bring()
    with BUSY.busy(40, 32):
        call = in_postcopy(source)
        with faults.cut(*HYPERVISORS, ports="22"):
            answer = call.answer()
        assert answer["outcome"] in ("undetermined", "postcopy_failed", "migrated"), answer.out
    wait_for(
        lambda: virt_migrate(source, name="busy", dest_host=other(source)).rc == 0, 120, "the end of the post-copy"
    )
    BUSY.lives(other(source))


def test_c6_104_a_guest_that_is_paused_moves_without_post_copy():
    source = SHARED.bring(shape="paused, persistent")
    answer = virt_migrate(source, name="shared", dest_host=other(source), postcopy=True).ok()
    assert "POSTCOPY" not in answer["flags"]
    SHARED.lives(other(source), "paused, persistent")
