# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Job statistics as the result has them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.kvmops.migration.plugins.module_utils._pure import jobstats

STATS = {
    "type": 3,
    "time_elapsed": 2000,
    "downtime": 94,
    "setup_time": 3,
    "memory_processed": 1000,
    "memory_total": 4000,
    "memory_iteration": 2,
    "memory_dirty_rate": 7,
    "memory_page_size": 100,
    "disk_processed": 50,
}


def test_a_record_names_things_as_the_result_does():
    record = jobstats.record(STATS)
    assert record["downtime_ms"] == 94
    assert record["time_ms"] == 2000
    assert record["setup_ms"] == 3
    assert record["memory"] == {"bytes": 1000, "total": 4000, "iterations": 2, "throughput": 500, "dirty_rate": 700}
    assert record["disk"] == {"bytes": 50}


def test_libvirts_own_throughput_is_preferred():
    assert jobstats.record({**STATS, "memory_bps": 9})["memory"]["throughput"] == 9


def test_what_is_not_known_is_left_out():
    assert jobstats.record({}) == {"memory": {}, "disk": {}, "downtime_ms": None}


@given(st.integers(0, 3000), st.integers(2, 50))
def test_a_series_is_bounded_and_in_order_and_keeps_its_first_point(count, limit):
    series = jobstats.Series(limit)
    for number in range(count):
        series.add(jobstats.sample({}, number))
    times = [point["t"] for point in series.points]
    assert len(times) <= limit
    assert times == sorted(set(times))
    assert times[:1] == ([0] if count else [])
    if count >= 2 * limit:
        assert times[-1] >= count / 2


def test_networks_are_those_that_carried_something_the_busiest_first():
    before = {"lan0": (10, 10), "private0": (5, 5), "idle0": (1, 1), "gone0": (3, 3)}
    after = {"lan0": (12, 13), "private0": (905, 25), "idle0": (1, 1), "new0": (9, 9)}
    assert jobstats.networks(before, after) == [
        {"interface": "private0", "tx_bytes": 900, "rx_bytes": 20},
        {"interface": "lan0", "tx_bytes": 2, "rx_bytes": 3},
    ]


def test_a_copy_has_no_throughput_at_once():
    assert jobstats.copied(0, 10, 0.0) == {"t": 0.0, "disk_processed": 0, "disk_remaining": 10}
    assert jobstats.copied(6, 10, 2.0) == {"t": 2.0, "disk_processed": 6, "disk_remaining": 4, "throughput": 3}
