# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host that loses its power while a guest moves, and comes back."""

from __future__ import annotations

import pytest

from tests.lab import faults

from .conftest import ansible
from .engine import SHARED, Call, other, virt_migrate, wait_for
from .test_engine_killed import nothing_is_left

pytestmark = pytest.mark.usefixtures("mended")


def begin(source: str) -> Call:
    """A move that is under way, its memory travelling."""
    call = Call(source, {"name": SHARED.name, "dest_host": other(source), "tls": "false", "bandwidth": 3})
    SHARED.moves_from(source)
    return call


def settles(source: str) -> None:
    """Nothing of the run is left, and the guest moves as if nothing had been."""
    run = ansible("ansible-playbook", "recover.yml")
    assert run.rc == 0, run.out
    virt_migrate(source, name=SHARED.name, dest_host=other(source), tls="false").ok()
    SHARED.lives(other(source))
    nothing_is_left(SHARED)


def test_c3_76_a_destination_without_power_leaves_the_guest_where_it_is():
    source = SHARED.bring()
    call = begin(source)
    with faults.no_power(other(source)):
        answer = call.answer().failed(outcome="undetermined")
        assert answer["dest"]["state"] == "unknown"
        SHARED.goes_on(source)
    assert SHARED.shapes() == {source: "running, persistent"}
    settles(source)


def test_c3_77_a_source_without_power_takes_its_guest_with_it_and_the_destination_starts_nothing():
    source = SHARED.bring()
    dest = other(source)
    call = begin(source)
    with faults.no_power(source):
        # As long as libvirt's keepalive waits for one that is silent.
        wait_for(lambda: not SHARED.shapes([dest]), 90, "the end of the guest's half at the destination")
        call.answer().failed(outcome="undetermined")
        assert SHARED.shapes([dest]) == {}
    assert SHARED.shapes() == {source: "shut off, persistent"}
    SHARED.boot(source)
    settles(source)
