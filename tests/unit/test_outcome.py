# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of outcomes: every pair of states has its row, and no row harms a side that runs or may run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.kvmops.migration.plugins.module_utils._migrate.ending import CURES
from ansible_collections.kvmops.migration.plugins.module_utils._pure import outcome

STATE = st.sampled_from(outcome.STATES)
ALL = [(source, dest) for source in outcome.STATES for dest in outcome.STATES]
# The side that an action takes something away from, and the side that must have the guest or its definition then.
DESTRUCTIVE = {
    outcome.UNDEFINE_SOURCE: "source",
    outcome.REMOVE_DEST_DEFINITION: "dest",
    outcome.REMOVE_DEST_IMAGES: "dest",
}


@pytest.mark.parametrize(("source", "dest"), ALL)
def test_every_pair_has_a_row_that_can_be_said(source, dest):
    row = outcome.look_up(source, dest)
    said = outcome.say(row, "a", "kvm1", "kvm2", source, dest)
    assert "a" in said
    assert "{" not in said
    assert row.outcome in CURES


def test_a_state_that_does_not_exist_is_an_error():
    with pytest.raises(ValueError, match="no row"):
        outcome.look_up("asleep", "running")


@given(STATE, STATE, st.booleans())
def test_unknown_counts_as_running(source, dest, keep):
    if outcome.UNKNOWN in (source, dest):
        row = outcome.judge(source, dest, keep)
        assert row.outcome == outcome.UNDETERMINED
        assert row.actions == ()
        assert not any(outcome.permitted(action, source, dest) for action in outcome.GUARDS)


@given(STATE, STATE, st.booleans())
def test_nothing_is_taken_from_a_side_that_is_or_may_be_active(source, dest, keep):
    states = {"source": source, "dest": dest}
    for action in outcome.GUARDS:
        if action in DESTRUCTIVE and (action in outcome.judge(source, dest, keep).actions or permitted(action, states)):
            side = DESTRUCTIVE[action]
            other = states["dest" if side == "source" else "source"]
            assert states[side] in (outcome.SHUT_OFF, outcome.ABSENT)
            # Something goes only while the other side is proven to have the guest.
            assert other in (outcome.RUNNING, outcome.PAUSED, outcome.SHUT_OFF)


def permitted(action, states):
    return outcome.permitted(action, states["source"], states["dest"])


@given(STATE, STATE)
def test_the_source_is_resumed_only_when_the_destination_cannot_run(source, dest):
    if outcome.RESUME_SOURCE in outcome.look_up(source, dest).actions or outcome.permitted(
        outcome.RESUME_SOURCE, source, dest
    ):
        assert source == outcome.PAUSED
        assert dest not in outcome.ACTIVE


@given(STATE, STATE)
def test_a_row_never_wants_what_its_guard_forbids_at_once(source, dest):
    actions = outcome.look_up(source, dest).actions
    assert not actions or any(outcome.permitted(action, source, dest) for action in actions)


@given(STATE, STATE)
def test_running_twice_is_split_brain_and_nothing_else_is_done(source, dest):
    if {source, dest} <= {outcome.RUNNING, outcome.PAUSED} and outcome.RUNNING in (source, dest):
        row = outcome.look_up(source, dest)
        assert row.outcome == outcome.SPLIT_BRAIN
        assert row.actions == ()


@given(STATE, STATE)
def test_a_failed_post_copy_is_never_cleaned_up(source, dest):
    if outcome.POSTCOPY_FAILED in (source, dest):
        assert outcome.look_up(source, dest).actions == ()


@given(STATE, STATE, st.booleans())
def test_it_has_moved_only_when_the_destination_has_it_and_the_source_does_not_run_it(source, dest, keep):
    if outcome.judge(source, dest, keep).outcome == outcome.MIGRATED:
        assert dest in (outcome.RUNNING, outcome.PAUSED, outcome.SHUT_OFF)
        assert source not in outcome.ACTIVE


@given(STATE, STATE, st.booleans())
def test_a_guest_that_was_active_has_moved_only_when_it_still_is(source, dest, keep):
    row = outcome.judge(source, dest, keep, active=True)
    if row.outcome == outcome.MIGRATED:
        assert dest in (outcome.RUNNING, outcome.PAUSED)


@given(STATE, STATE)
def test_it_has_stayed_only_when_the_source_has_it_and_the_destination_does_not_run_it(source, dest):
    if outcome.look_up(source, dest).outcome == outcome.FAILED:
        assert source in (outcome.RUNNING, outcome.PAUSED, outcome.SHUT_OFF)
        assert dest not in outcome.ACTIVE


def test_both_definitions_are_a_success_only_when_asked_for():
    assert outcome.judge("shut_off", "shut_off", keep_source=True).outcome == outcome.MIGRATED
    assert outcome.judge("shut_off", "shut_off", keep_source=True).actions == ()
    assert outcome.judge("shut_off", "shut_off").outcome == outcome.FAILED


@pytest.mark.parametrize(
    ("state", "reason", "arriving", "means"),
    [
        ("running", "", False, outcome.RUNNING),
        ("blocked", "", False, outcome.RUNNING),
        ("no_state", "", False, outcome.RUNNING),
        ("shutting_down", "", False, outcome.RUNNING),
        ("running", "postcopy_failed", True, outcome.POSTCOPY_FAILED),
        ("paused", "", True, outcome.PAUSED),
        ("pmsuspended", "", False, outcome.PAUSED),
        ("paused", "migration", False, outcome.PAUSED),
        ("paused", "migration", True, outcome.INCOMING),
        ("paused", "starting_up", False, outcome.INCOMING),
        ("paused", "postcopy_failed", False, outcome.POSTCOPY_FAILED),
        ("shut_off", "", True, outcome.SHUT_OFF),
        ("crashed", "", False, outcome.CRASHED),
        ("something new", "", False, outcome.UNKNOWN),
    ],
)
def test_libvirts_states_are_ours(state, reason, arriving, means):
    assert outcome.classify(state, reason, arriving) == means
