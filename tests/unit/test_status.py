# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person reads of a run that goes on."""

from __future__ import annotations

import pytest

from ansible_collections.kvmops.migration.plugins.module_utils._pure import status as statuses

MIB = 2**20
STATUS = {
    "name": "a",
    "source": "kvm1",
    "dest": "kvm2",
    "phase": "moving",
    "percent": 43,
    "memory": {"total": 256 * MIB, "done": 120 * MIB},
    "disk": {"total": 2048 * MIB, "done": 2048 * MIB},
    "throughput": 118 * MIB,
    "dirty_rate": 12 * MIB,
    "iteration": 3,
    "elapsed": 24.2,
    "next": "suspend after 60 s",
    "actions": [],
}
RAISED = {"t": 12.3, "action": "raise_downtime", "value": 400, "reason": "it has taken 12 s"}


def test_the_line_says_how_far_it_is_and_what_comes_next():
    assert statuses.line(STATUS) == (
        "a: kvm1 -> kvm2: 43 %, memory 120 MiB of 256 MiB, disk 2.0 GiB of 2.0 GiB, 118 MiB/s, 12.0 MiB/s dirtied,"
        " pass 3, 24 s; next: suspend after 60 s"
    )


def test_a_run_that_moves_nothing_yet_says_its_phase():
    assert statuses.line({"name": "a", "phase": "checking"}) == "a: checking"


@pytest.mark.parametrize("phase", [statuses.MOVED, statuses.SETTLED, statuses.FINISHING])
def test_a_job_that_is_over_shows_no_figures_that_stand_still(phase):
    said = statuses.line({**STATUS, "phase": phase})
    assert said.startswith("a: kvm1 -> kvm2: ")
    assert "%" not in said
    assert phase not in said
    waiting = statuses.line({**STATUS, "phase": phase, "waits": "kvm2 does not answer", "elapsed": 71.4})
    assert waiting == f"{said}: kvm2 does not answer, 71 s"


def test_a_run_that_waits_is_told_of_as_often():
    teller = statuses.Teller(10.0)
    lines = [teller.lines({**STATUS, "phase": "moved", "waits": "x", "elapsed": at}, at) for at in range(0, 31, 5)]
    assert [len(some) for some in lines] == [0, 0, 1, 0, 1, 0, 1]
    assert len({some[0] for some in lines if some}) == 3


def test_a_lost_controller_is_said():
    assert statuses.line({**STATUS, "controller": "lost"}).endswith("; its controller is gone")


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 KiB"), (1024, "1.0 KiB"), (20 * MIB, "20.0 MiB"), (2**45, "32.0 TiB")],
)
def test_bytes_for_a_person(count, said):
    assert statuses.size(count) == said


def test_it_is_told_at_the_start_on_every_action_and_every_few_seconds():
    teller = statuses.Teller(10.0)
    assert teller.lines({**STATUS, "phase": "checking"}, 0.0) == []
    assert len(teller.lines(STATUS, 1.0)) == 1
    assert teller.lines(STATUS, 10.9) == []
    assert len(teller.lines(STATUS, 11.0)) == 1
    acted = {**STATUS, "actions": [RAISED]}
    assert teller.lines(acted, 12.0) == ["a: raise downtime 400 at 12 s: it has taken 12 s"]
    assert teller.lines(acted, 13.0) == []
    refused = {**STATUS, "actions": [RAISED, {**RAISED, "error": "no"}]}
    assert teller.lines(refused, 14.0) == ["a: raise downtime 400 at 12 s: it has taken 12 s (refused: no)"]


def test_checks_that_take_long_are_told_as_well():
    teller = statuses.Teller(10.0)
    checking = {"name": "a", "phase": "checking"}
    assert teller.lines(checking, 0.0) == []
    assert teller.lines(checking, 10.0) == ["a: checking"]
