# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guest is, and what its definitions are, before and after a move."""

from __future__ import annotations

import pytest

from tests.lab import faults

from . import engine
from .engine import LOCAL, SHARED, other, virt_migrate, without_records
from .extent import combined, full

pytestmark = pytest.mark.usefixtures("mended")

STALE = "a definition of long ago"
PINNED = "<vcpu placement='static' cpuset='0'>"


def leave_stale(guest: engine.Guest, host: str) -> None:
    """On that host and not on the other one, where an earlier test may have left it."""
    guest.virsh(host, "desc", "--config", "--title", "--new-desc", STALE)
    if guest.look()[other(host)].persistent:
        guest.virsh(other(host), "desc", "--config", "--title", "--new-desc", "")


def is_stale(guest: engine.Guest, host: str) -> bool:
    return guest.virsh(host, "desc", "--config", "--title").strip() == STALE


SITUATIONS = combined(("transient", "persistent"), ("running", "paused"), ("none", "stale"))


@pytest.mark.parametrize(("keeping", "state", "there"), SITUATIONS)
def test_c1_2_9_a_guest_stays_as_it_is(keeping, state, there):
    """Running or paused, persistent or transient; undefined at the source, whatever the destination had."""
    source = SHARED.bring(shape=f"{state}, {keeping}", elsewhere="" if there == "none" else "shut off, persistent")
    dest = other(source)
    if there == "stale":
        leave_stale(SHARED, dest)
    answer = virt_migrate(source, name="shared", dest_host=dest).ok()
    # A guest without a definition brings none, and the one that is there stays.
    kept = there == "stale" and keeping == "transient"
    SHARED.lives(dest, f"{state}, {'persistent' if kept else keeping}")
    assert kept or keeping == "transient" or not is_stale(SHARED, dest)
    assert not kept or is_stale(SHARED, dest)
    assert (answer["source"]["state"], answer["dest"]["state"]) == ("absent", state)


# As in libvirt's table of configuration files: what is persistent afterwards, and whether the source keeps it too.
FLAGS = [
    {"persistent": False, "undefine_source": False},
    {"persistent": False, "undefine_source": True},
    {"persistent": True, "undefine_source": False},
]
CASES = combined(("transient", "persistent"), ("none", "stale"), FLAGS)


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


# --- definitions alone


@pytest.mark.parametrize("keep", [False, True])
def test_c1_14_a_guest_that_is_shut_off_moves_as_a_definition(keep):
    source = SHARED.bring(shape="shut off, persistent")
    answer = virt_migrate(source, name="shared", dest_host=other(source), undefine_source=not keep).ok()
    assert answer["mode"] == "offline"
    assert ("UNDEFINE_SOURCE" in answer["flags"]) is not keep
    there = {other(source): "shut off, persistent"}
    assert SHARED.shapes() == ({**there, source: "shut off, persistent"} if keep else there)
    assert (
        virt_migrate(source, name="shared", dest_host=other(source), undefine_source=not keep).ok()["changed"] is False
    )


@full
def test_c1_14_a_guest_that_runs_does_not_move_as_a_definition(footprint):
    """It would be defined at both hosts and run on one of them."""
    source = SHARED.bring()
    before = footprint()
    answer = virt_migrate(source, name="shared", dest_host=other(source), mode="offline").failed(outcome="refused")
    assert "mode: offline was said, and VM shared is running" in answer["msg"]
    assert footprint() == before


@full
def test_c1_15_no_definition_moves_without_being_defined(footprint):
    source = SHARED.bring(shape="shut off, persistent")
    before = footprint()
    answer = virt_migrate(source, name="shared", dest_host=other(source), persistent=False).failed(outcome="refused")
    assert "persistent: false" in answer["msg"]
    assert footprint() == before


def test_c1_27_a_saved_state_is_not_left_behind(footprint):
    source = SHARED.bring()
    SHARED.virsh(source, "managedsave")
    try:
        before = footprint()
        answer = virt_migrate(source, name="shared", dest_host=other(source)).failed(outcome="refused")
        assert answer["failure_class"] == "managed_save"
        assert footprint() == before
    finally:
        SHARED.virsh(source, "start")
    SHARED.lives(source)


# --- runs that change nothing


@pytest.mark.parametrize("shape", ["running, persistent", "paused, persistent", "running, transient"])
def test_c1_16_a_second_run_changes_nothing(shape, footprint):
    home = SHARED.bring(shape=shape)
    before = footprint()
    answer = virt_migrate(other(home), name="shared", dest_host=home).ok()
    assert (answer["changed"], answer["outcome"]) == (False, "already_there")
    assert footprint() == before


@pytest.mark.parametrize("guest", [SHARED, LOCAL], ids=lambda guest: guest.name)
def test_c1_19_check_mode_changes_nothing(guest, footprint):
    source = guest.bring()
    before = footprint()
    answer = virt_migrate(source, name=guest.name, dest_host=other(source), arguments=("--check",)).ok()
    assert (answer["changed"], answer["outcome"]) == (True, "planned")
    assert footprint() == before
    guest.lives(source)


# --- what the guest is at the destination


def test_c1_1_the_autostart_flag_goes_along():
    source = SHARED.bring()
    SHARED.virsh(source, "autostart")
    virt_migrate(source, name="shared", dest_host=other(source), undefine_source=False).ok()
    seen = SHARED.look()
    assert {host: one.autostart for host, one in seen.items()} == {source: False, other(source): True}


def test_c1_20_a_guest_gets_another_name_and_its_own_back():
    source = SHARED.bring()
    dest = other(source)
    renamed = engine.Guest("shared-renamed", SHARED.image, shared=True)
    options = {"name": "shared", "dest_host": dest, "dest_name": renamed.name}
    answer = virt_migrate(source, **options).ok()
    try:
        assert SHARED.shapes() == {}
        assert renamed.shapes() == {dest: "running, persistent"}
        assert faults.must(dest, "virsh", "domuuid", renamed.name).strip() == answer["uuid"]
        assert virt_migrate(source, **options).ok()["changed"] is False
    finally:
        virt_migrate(dest, name=renamed.name, dest_host=source, dest_name="shared").ok()
    SHARED.lives(source)


def test_c1_21_the_destination_may_give_the_guest_other_things_of_its_own():
    """What the guest does not see: here its title and the CPUs that it may run on."""
    source = SHARED.bring()
    xml = SHARED.virsh(source, "dumpxml", "--migratable")
    wanted = xml.replace("<memory", "<title>moved</title><memory", 1).replace("<vcpu placement='static'>", PINNED)
    assert wanted.count("moved") == 1 and PINNED in wanted
    virt_migrate(source, name="shared", dest_host=other(source), dest_xml=wanted).ok()
    SHARED.lives(other(source))
    assert SHARED.virsh(other(source), "desc", "--title").strip() == "moved"
    assert PINNED in SHARED.virsh(other(source), "dumpxml")


@pytest.mark.parametrize("change", [("52:54:00:", "52:54:01:"), ("bus='virtio'", "bus='sata'")])
def test_c1_21_what_the_guest_sees_stays_the_same(change, footprint):
    source = SHARED.bring()
    xml = SHARED.virsh(source, "dumpxml", "--migratable")
    before = footprint()
    answer = virt_migrate(source, name="shared", dest_host=other(source), dest_xml=xml.replace(*change)).failed()
    assert "unsupported configuration" in answer["msg"]
    SHARED.lives(source)
    assert without_records(footprint()) == without_records(before)


def test_c1_22_a_guest_is_left_paused_and_must_run_before_it_can_move_on():
    source = SHARED.bring()
    dest = other(source)
    virt_migrate(source, name="shared", dest_host=dest, suspend=True).ok()
    SHARED.lives(dest, "paused, persistent")
    # QEMU 7.2 dies on both hosts of a guest that moves on without having run.
    answer = virt_migrate(dest, name="shared", dest_host=source).failed(outcome="refused")
    assert answer["failure_class"] == "asleep"
    SHARED.lives(dest, "paused, persistent")
    SHARED.virsh(dest, "resume")
    SHARED.goes_on(dest)
    SHARED.virsh(dest, "suspend")
    virt_migrate(dest, name="shared", dest_host=source).ok()
    SHARED.lives(source, "paused, persistent")


def test_c1_22_a_guest_whose_disk_is_copied_moves_on_without_having_run():
    source = LOCAL.bring()
    virt_migrate(source, name=LOCAL.name, dest_host=other(source), suspend=True).ok()
    LOCAL.lives(other(source), "paused, persistent")
    virt_migrate(other(source), name=LOCAL.name, dest_host=source).ok()
    LOCAL.lives(source, "paused, persistent")
    LOCAL.virsh(source, "resume")
    LOCAL.goes_on(source)
