# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several moves at a time: no limit is ever passed, and every move has its turn."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.kvmops.migration.plugins.module_utils._pure.queue import Limits, Queue, waves
from ansible_collections.kvmops.migration.plugins.module_utils._pure.refusal import Refusal

HOSTS = st.sampled_from(["kvm1", "kvm2", "kvm3"])
MOVES = st.lists(st.fixed_dictionaries({"source": HOSTS, "dest": HOSTS}), max_size=12)
LIMITS = st.builds(Limits, *[st.integers(1, 3)] * 3)


@given(MOVES, LIMITS, st.randoms(use_true_random=False))
def test_c8_120_limits_hold_at_every_moment_and_all_have_their_turn(moves, limits, random):
    queue = Queue(moves, limits)
    going, seen = [], []
    while not queue.is_over:
        begun = queue.begin()
        assert begun or going, "nothing goes on, and nothing may begin"
        going += begun
        seen += begun
        assert len(going) <= limits.total
        assert max(Counter(moves[number]["source"] for number in going).values()) <= limits.source
        assert max(Counter(moves[number]["dest"] for number in going).values()) <= limits.dest
        ended = random.choice(going)
        going.remove(ended)
        queue.end(ended)
    assert sorted(seen) == list(range(len(moves)))


def test_one_that_waits_keeps_no_other_waiting():
    moves = [{"source": "kvm1", "dest": "kvm2"}, {"source": "kvm1", "dest": "kvm3"}, {"source": "kvm2", "dest": "kvm3"}]
    assert Queue(moves, Limits(source=1)).begin() == [0, 2]


def test_waves_are_groups_that_keep_the_limits():
    moves = [{"n": number, "source": "kvm1", "dest": "kvm2"} for number in range(5)]
    assert [[move["n"] for move in wave] for wave in waves(moves, {"source": 2})] == [[0, 1], [2, 3], [4]]
    assert waves([]) == []


@pytest.mark.parametrize(
    ("given_limits", "said"),
    [
        ({"sources": 2}, "limits: 'sources' is not known; cure: accepted: source, dest, total"),
        ({"total": 0}, "limits: total: 0 is not accepted; cure: accepted: a number from 1 on"),
        ({"total": "all"}, "limits: total: 'all' is not accepted; cure: accepted: a number from 1 on"),
        ([2], "limits: [2] is not accepted; cure: accepted keys: source, dest, total"),
    ],
)
def test_what_is_no_limit_is_refused(given_limits, said):
    with pytest.raises(Refusal) as refused:
        Limits.read(given_limits)
    assert refused.value.message == said
