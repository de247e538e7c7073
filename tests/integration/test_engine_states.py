# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guest is, and what its definitions are, before and after a move."""

from __future__ import annotations

import os
from itertools import product

import pytest

from . import engine
from .engine import SHARED, other, virt_migrate

pytestmark = pytest.mark.usefixtures("mended")

FULL = bool(os.environ.get("KVMOPS_FULL"))
STALE = "a definition of long ago"


def leave_stale(guest: engine.Guest, host: str) -> None:
    guest.virsh(host, "desc", "--config", "--title", "--new-desc", STALE)


def is_stale(guest: engine.Guest, host: str) -> bool:
    return guest.virsh(host, "desc", "--config", "--title").strip() == STALE


SITUATIONS = list(product(("transient", "persistent"), ("running", "paused"), ("none", "stale")))


@pytest.mark.parametrize(("keeping", "state", "there"), SITUATIONS)
def test_c1_2_9_a_guest_stays_as_it_is(keeping, state, there):
    """Running or paused; persistent at the destination and undefined at the source, whatever was there."""
    source = SHARED.bring(shape=f"{state}, {keeping}", elsewhere="" if there == "none" else "shut off, persistent")
    dest = other(source)
    if there == "stale":
        leave_stale(SHARED, dest)
    answer = virt_migrate(source, name="shared", dest_host=dest).ok()
    SHARED.lives(dest, f"{state}, persistent")
    assert not is_stale(SHARED, dest)
    assert (answer["source"]["state"], answer["dest"]["state"]) == ("absent", state)


# As in libvirt's table of configuration files: what is persistent afterwards, and whether the source keeps it too.
FLAGS = [
    {"persistent": False, "undefine_source": False},
    {"persistent": False, "undefine_source": True},
    {"persistent": True, "undefine_source": False},
]
CASES = list(product(("transient", "persistent"), ("none", "stale"), FLAGS))


@pytest.mark.parametrize(("keeping", "there", "flags"), CASES)
def test_c1_10_13_definitions_are_kept_and_taken_away_as_asked(keeping, there, flags):
    source = SHARED.bring(shape=f"running, {keeping}", elsewhere="" if there == "none" else "shut off, persistent")
    dest = other(source)
    if there == "stale":
        leave_stale(SHARED, dest)
    virt_migrate(source, name="shared", dest_host=dest, **flags).ok()
    persistent = flags["persistent"] or there == "stale"
    wanted = {dest: f"running, {'persistent' if persistent else 'transient'}"}
    if keeping == "persistent" and not flags["undefine_source"]:
        wanted[source] = "shut off, persistent"
    assert SHARED.shapes() == wanted
    if there == "stale":
        assert is_stale(SHARED, dest) is not flags["persistent"]
    SHARED.goes_on(dest)
