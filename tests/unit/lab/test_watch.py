# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The judge of the watchers: a hand-over is none, a real overlap is a fault, and so is a watcher that looked away."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.lab.watch import watch

MS = watch.MS
T0 = 1_700_000_000 * 1000 * MS
PERIOD_US = watch.PERIOD_NS // watch.US


def run(host: str, start: int, length: int, share: float = 0.8, uuid: str = "u") -> list[dict[str, Any]]:
    """Lines of a VM that ran from `start` ms on for `length` ms, using that share of the time."""
    cpu = int(PERIOD_US * share)
    count = length * MS // watch.PERIOD_NS
    samples = [(i * PERIOD_US, (i + 1) * PERIOD_US, cpu) for i in range(count)]
    identity = {"uuid": uuid, "name": "vm", "pid": 1, "birth": 1, "vcpus": 1}
    return [{"kind": "run", "host": host, **identity, "at": T0 + start * MS, "samples": samples}] if samples else []


def beats(*hosts: str) -> list[dict[str, Any]]:
    return [
        {"kind": "beat", "host": host, "at": T0 + at * MS, "monotonic": at * MS, "samples": 50, "latest": 0}
        for host in hosts
        for at in range(0, 20000, 1000)
    ]


def faults(*runs: list[dict[str, Any]]) -> list[str]:
    lines = [line for lines in runs for line in lines]
    return watch.judge([*beats("a", "b"), *lines])["faults"]


def test_one_after_the_other_is_a_hand_over():
    assert faults(run("a", 0, 5000), run("b", 5100, 5000)) == []


def test_two_vms_may_run_at_a_time():
    assert faults(run("a", 0, 5000), run("b", 0, 5000, uuid="other")) == []


def test_what_a_source_uses_while_it_is_torn_down_is_no_run():
    wake = [{**run("a", 0, 5000)[0], "at": T0 + 5029 * MS, "samples": [(0, PERIOD_US, 900)]}]
    assert faults(run("a", 0, 4900), wake, run("b", 5000, 5000)) == []


@pytest.mark.parametrize("overlap", [60, 100, 2000])
def test_an_overlap_of_60_ms_is_found(overlap):
    found = faults(run("a", 0, 5000), run("b", 5000 - overlap, 5000))
    assert len(found) == 1
    assert "ran in two places" in found[0]
    assert " a " in found[0] and " b " in found[0]


def test_resuming_where_it_had_left_is_found_though_nothing_overlaps():
    assert len(faults(run("a", 0, 2000), run("b", 3000, 2000), run("a", 8000, 2000))) == 1


@given(gap=st.integers(0, 500), share=st.floats(0.05, 1.0), length=st.integers(100, 4000))
def test_no_hand_over_is_a_false_alarm(gap, share, length):
    length -= length % 20
    assert faults(run("a", 0, length, share), run("b", length + gap, 2000, share)) == []


@given(overlap=st.integers(60, 3000), share=st.floats(0.2, 1.0))
def test_no_real_overlap_is_missed(overlap, share):
    assert faults(run("a", 0, 4000, share), run("b", 4000 - overlap, 4000, share)) != []


def test_a_watcher_that_looked_away_is_a_fault():
    lines = [beat for beat in beats("a", "b") if beat["host"] == "a" or not 5000 * MS < beat["at"] - T0 < 12000 * MS]
    assert watch.judge([*lines, *run("a", 0, 1000)])["faults"] != []


def test_watchers_that_saw_nothing_prove_nothing():
    assert watch.judge(beats("a", "b"))["ok"] is False
    assert watch.judge(beats("a", "b"), idle=True)["ok"] is True
