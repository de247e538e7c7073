# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan for the disks: a shared disk is never copied, a local one never taken for shared."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.kvmops.migration.plugins.module_utils._pure import storage
from ansible_collections.kvmops.migration.plugins.module_utils._pure.domain_xml import Definition, Disk
from ansible_collections.kvmops.migration.plugins.module_utils._pure.refusal import Refusal

VERDICTS = (storage.SHARED, storage.NOT_SHARED, storage.UNKNOWN)


@st.composite
def cases(draw):
    disks, evidence = [], {}
    for number in range(draw(st.integers(0, 4))):
        target = f"vd{'abcd'[number]}"
        disks.append(
            Disk(
                target,
                device=draw(st.sampled_from(["disk", "cdrom"])),
                source=draw(st.sampled_from(["", f"/vm/{target}"])),
                readonly=draw(st.booleans()),
                shareable=draw(st.booleans()),
            )
        )
        evidence[target] = storage.Evidence(draw(st.sampled_from(VERDICTS)), "so it was found")
    wish = storage.Wish(
        storage=draw(st.sampled_from(["auto", "shared", "copy"])),
        copy_storage=draw(st.sampled_from([None, "none", "all"])),
        migrate_disks=tuple(draw(st.lists(st.sampled_from(["vda", "vdb", "vdx"]), unique=True, max_size=2))),
        unsafe=draw(st.booleans()),
    )
    return Definition("a", "u", disks=tuple(disks)), evidence, wish, draw(st.booleans())


def planned(case):
    try:
        storage.check_listed(case[0], case[2].migrate_disks)
        return storage.plan(*case)
    except Refusal as refusal:
        assert refusal.cure
        assert "\n" not in refusal.message
        return None


@given(cases())
def test_a_disk_that_is_or_may_be_shared_is_never_copied(case):
    for plan in planned(case) or ():
        if plan.action == storage.COPY:
            assert case[1][plan.target].verdict == storage.NOT_SHARED


@given(cases())
def test_a_local_disk_is_used_in_place_only_when_unsafe_was_asked_for(case):
    evidence, wish, offline = case[1:]
    for plan in planned(case) or ():
        if plan.action == storage.USE and evidence[plan.target].verdict == storage.NOT_SHARED:
            assert wish.unsafe
            assert wish.copy_storage == "none"
            assert not offline


@given(cases())
def test_an_unknown_disk_is_used_in_place_only_when_it_was_said_to_be_shared(case):
    evidence, wish = case[1:3]
    for plan in planned(case) or ():
        if plan.action == storage.USE and evidence[plan.target].verdict == storage.UNKNOWN:
            assert wish.storage == "shared" or (wish.unsafe and wish.copy_storage == "none")


@given(cases())
def test_only_writable_disks_that_hold_something_are_copied(case):
    definition = case[0]
    for target in storage.copied(planned(case) or ()):
        disk = definition.disk(target)
        assert disk.source
        assert not disk.readonly
        assert not disk.shareable


@given(cases())
def test_nothing_is_copied_offline_that_must_stay(case):
    definition, evidence, wish = case[:3]
    plans = planned((definition, evidence, replace(wish, stays="nobody can copy it"), True))
    assert storage.copied(plans or ()) == ()


@given(cases())
def test_every_disk_has_its_plan_with_a_reason(case):
    plans = planned(case)
    if plans is not None:
        assert [plan.target for plan in plans] == [disk.target for disk in case[0].disks]
        assert all(plan.reason for plan in plans)
        assert storage.summary(plans) in ("none", "copy", "shared", "mixed")


@given(cases())
def test_a_list_of_disks_is_kept_to(case):
    definition, wish = case[0], case[2]
    plans = planned(case)
    # The options refuse a list beside a word that says that nothing is copied.
    if plans is not None and wish.migrate_disks and wish.storage != "shared" and wish.copy_storage != "none":
        assert set(storage.copied(plans)) == set(wish.migrate_disks)
        assert all(definition.disk(target) for target in wish.migrate_disks)


@given(cases())
def test_copy_all_is_never_silently_nothing(case):
    definition, wish = case[0], case[2]
    plans = planned(case)
    if plans is not None and wish.copy_storage == "all" and any(map(storage.writable, definition.disks)):
        assert storage.copied(plans)


@pytest.mark.parametrize(
    ("disk", "verdict"),
    [
        (Disk("vda"), storage.SHARED),
        (Disk("vda", type="network", source="rbd/a"), storage.SHARED),
        (Disk("vda", type="block", source="/dev/x"), None),
        (Disk("vda", type="volume", source="a", pool="p"), storage.UNKNOWN),
        (Disk("vda", source="/vm/a"), None),
    ],
)
def test_what_the_kind_of_a_disk_proves(disk, verdict):
    evidence = storage.by_kind(disk)
    assert (evidence and evidence.verdict) == verdict


NAA, OTHER = "naa.600140501", "naa.600140502"


@pytest.mark.parametrize(
    ("here", "there", "verdict", "reason"),
    [
        ((NAA, 10), (NAA, 10), storage.SHARED, "/dev/x on a and /dev/y on b are naa.600140501"),
        ((NAA, 10), (OTHER, 10), storage.NOT_SHARED, "/dev/x on a is naa.600140501, and /dev/y on b is naa.600140502"),
        # A volume that has grown, and one host has not noticed.
        ((NAA, 10), (NAA, 20), storage.UNKNOWN, "/dev/x on a has 10 bytes, /dev/y on b 20"),
        (("", 10), ("", 20), storage.NOT_SHARED, "/dev/x on a has 10 bytes, and /dev/y on b 20"),
        (("", 10), ("", 10), storage.UNKNOWN, "/dev/x on a has no name that is its own"),
        ((NAA, 10), ("", 10), storage.UNKNOWN, "/dev/y on b has no name that is its own"),
        ((NAA, 10), None, storage.UNKNOWN, "nothing is known of /dev/y on b"),
        (None, (NAA, 10), storage.UNKNOWN, "nothing is known of /dev/x on a"),
    ],
)
def test_devices_are_the_same_by_what_nothing_else_is_called(here, there, verdict, reason):
    told = [one and {"id": one[0], "size": one[1]} for one in (here, there)]
    evidence = storage.same_device(*told, "/dev/x on a", "/dev/y on b")
    assert (evidence.verdict, reason in evidence.reason) == (verdict, True), evidence
