# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host that loses its power while a guest moves, and comes back."""

from __future__ import annotations

import pytest

from tests.lab import faults

from .engine import SHARED, other, wait_for
from .extent import full
from .test_engine_faults import moves_on, slowly
from .test_engine_killed import nothing_is_left, recover

pytestmark = pytest.mark.usefixtures("mended")


def settles(source: str) -> None:
    """Nothing of the run is left, and the guest moves as if nothing had been."""
    recover()
    moves_on(SHARED, source)
    nothing_is_left(SHARED)


@full
def test_c3_76_a_destination_without_power_leaves_the_guest_where_it_is():
    source = SHARED.bring()
    call = slowly(SHARED, source)
    with faults.no_power(other(source)):
        answer = call.answer().failed(outcome="undetermined")
        assert answer["dest"]["state"] == "unknown"
        SHARED.goes_on(source)
    assert SHARED.shapes() == {source: "running, persistent"}
    settles(source)


@full
def test_c3_77_a_source_without_power_takes_its_guest_with_it_and_the_destination_starts_nothing():
    source = SHARED.bring()
    dest = other(source)
    call = slowly(SHARED, source)
    with faults.no_power(source):
        # As long as libvirt's keepalive waits for one that is silent.
        wait_for(lambda: not SHARED.shapes([dest]), 90, "the end of the guest's half at the destination")
        call.answer().failed(outcome="undetermined")
        assert SHARED.shapes([dest]) == {}
    assert SHARED.shapes() == {source: "shut off, persistent"}
    SHARED.boot(source)
    settles(source)
