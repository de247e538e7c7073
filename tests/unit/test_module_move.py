# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""virt_migrate from its arguments to its answer, over two fake hosts: what goes well."""

from __future__ import annotations

import threading
import time

import pytest

from fake import libvirt as fake
from fake.lab import DEST_URI, IMAGE, OTHER, UUID, disk_xml, domain_xml

RUNNING, PAUSED, SHUTOFF = fake.VIR_DOMAIN_RUNNING, fake.VIR_DOMAIN_PAUSED, fake.VIR_DOMAIN_SHUTOFF


def test_a_running_vm_moves_live_with_its_disk(lab):
    lab.add()
    result = lab.move()
    assert result.changed
    assert result.outcome == "migrated"
    assert lab.where() == (None, RUNNING)
    assert lab.flags() == {"LIVE", "PEER2PEER", "PERSIST_DEST", "UNDEFINE_SOURCE", "NON_SHARED_DISK"}
    assert lab.world.migrations[-1]["params"] == {"migrate_disks": ["vda"]}
    assert lab.kvm2.file(IMAGE).content == "a v1"
    assert lab.kvm2.guests[UUID].persistent
    assert result.mode == "live"
    assert result.storage == "copy"
    assert result.transport == "native"
    assert result.uuid == UUID
    assert result.source == {"uri": "qemu:///system", "host": "kvm1", "state": "absent"}
    assert result.dest == {"uri": DEST_URI, "host": "kvm2", "state": "running"}
    assert result.left_behind == [{"host": "kvm1", "target": "vda", "path": IMAGE}]
    assert result.warnings == []


def test_the_result_has_the_statistics_of_the_job(lab):
    lab.add()
    lab.world.hold_job()
    lab.world.complete_soon()
    result = lab.move()
    assert result.downtime_ms == 94
    assert result.memory["bytes"] == 201326592
    assert result.memory["iterations"] == 3
    assert result.memory["throughput"] == 134217728
    assert result.memory["dirty_rate"] == 40960
    assert result.disks[0]["bytes"] == 67108864
    assert result.duration_s >= 0


def test_c7_108_a_sparse_image_stays_sparse_and_the_definition_stays_as_it_was(lab):
    lab.add(xml=domain_xml(disks=[disk_xml(), disk_xml("vdb", "/vm/b.qcow2")]))
    lab.kvm1.write("/vm/b.qcow2", fake.File(allocation=2 << 30))
    lab.move()
    assert lab.world.migrations[-1]["xml"].count('discard="unmap"') == 1
    assert lab.kvm2.guests[UUID].inactive_xml == domain_xml(disks=[disk_xml(), disk_xml("vdb", "/vm/b.qcow2")])


def test_c1_16_a_second_run_changes_nothing(lab):
    lab.add()
    lab.move()
    calls = len(lab.world.migrations)
    result = lab.move()
    assert not result.changed
    assert result.outcome == "already_there"
    assert len(lab.world.migrations) == calls


def test_c1_19_check_mode_says_what_would_happen_and_changes_nothing(lab):
    lab.add()
    before = (dict(lab.kvm1.directories["/vm"]), dict(lab.kvm2.directories["/vm"]))
    result = lab.move(check=True)
    assert result.changed
    assert result.outcome == "planned"
    assert result.mode == "live"
    assert result.disks[0]["action"] == "copy"
    assert result.left_behind == [{"host": "kvm1", "target": "vda", "path": IMAGE}]
    assert lab.where() == (RUNNING, None)
    assert (lab.kvm1.directories["/vm"], lab.kvm2.directories["/vm"]) == before
    assert lab.world.migrations == []
    assert lab.record() == []
    assert lab.journal_file() is None


def test_c1_19_check_mode_keeps_an_image_that_would_be_replaced(lab):
    lab.add()
    lab.kvm2.write(IMAGE, fake.File(content="old"))
    assert lab.move(check=True, force=True).changed
    assert lab.kvm2.file(IMAGE).content == "old"


def test_check_mode_of_a_vm_that_is_there_reports_no_change(lab):
    lab.add("kvm2")
    assert not lab.move(check=True).changed


def test_diff_shows_the_place_and_both_definitions(lab):
    lab.add()
    result = lab.move(diff=True)
    assert result.diff[0]["before"] == "host: kvm1 (qemu:///system)\n"
    assert result.diff[0]["after"] == f"host: kvm2 ({DEST_URI})\n"
    assert "<domain" in result.diff[1]["before"]
    assert "<domain" in result.diff[1]["after"]


def test_c1_1_a_shared_disk_is_not_copied(lab):
    lab.kvm2.share("/vm", lab.kvm1)
    lab.add()
    result = lab.move()
    assert result.outcome == "migrated"
    assert result.storage == "shared"
    assert result.left_behind == []
    assert "NON_SHARED_DISK" not in lab.flags()
    assert lab.world.migrations[-1]["params"] == {}
    assert lab.journal_file() is None


def test_only_the_disk_that_is_not_shared_is_copied(lab):
    lab.kvm1.directories["/nfs"] = {}
    lab.kvm2.share("/nfs", lab.kvm1)
    lab.add(xml=domain_xml(disks=[disk_xml(), disk_xml("vdb", "/nfs/b.qcow2")]))
    lab.kvm1.write("/nfs/b.qcow2", fake.File(content="b v1"))
    result = lab.move()
    assert result.storage == "mixed"
    assert lab.world.migrations[-1]["params"] == {"migrate_disks": ["vda"]}
    assert [disk["action"] for disk in result.disks] == ["copy", "shared"]


def test_a_stale_listing_does_not_make_a_shared_disk_look_local(lab):
    lab.kvm2.share("/vm", lab.kvm1)
    lab.kvm2.stale_listings.add("/vm")
    lab.add()
    result = lab.move()
    assert result.storage == "shared"
    assert "was in the way" in result.disks[0]["reason"]


def test_c7_105_a_vm_without_disks_moves(lab):
    lab.add(image="")
    result = lab.move()
    assert result.outcome == "migrated"
    assert result.storage == "none"
    assert "NON_SHARED_DISK" not in lab.flags()


def test_an_empty_drive_and_a_shared_medium_stay_out_of_the_copy(lab):
    drives = [disk_xml(), disk_xml("sda", "", device="cdrom"), disk_xml("sdb", "/vm/x.iso", "raw", "cdrom")]
    lab.add(xml=domain_xml(disks=drives))
    for host in (lab.kvm1, lab.kvm2):
        host.write("/vm/x.iso", fake.File("raw"))
    result = lab.move()
    assert result.outcome == "migrated"
    assert lab.world.migrations[-1]["params"] == {"migrate_disks": ["vda"]}


def test_c1_2_a_paused_vm_stays_paused(lab):
    lab.add(state=PAUSED)
    result = lab.move()
    assert result.outcome == "migrated"
    assert lab.where() == (None, PAUSED)
    assert result.warnings == []


def test_c1_14_a_stopped_vm_on_shared_storage_moves_offline(lab):
    lab.kvm2.share("/vm", lab.kvm1)
    lab.add(state=SHUTOFF, autostart=True)
    result = lab.move(bandwidth=10, migrate_uri="tcp://kvm2")
    assert result.mode == "offline"
    assert lab.flags() == {"OFFLINE", "PEER2PEER", "PERSIST_DEST", "UNDEFINE_SOURCE"}
    assert lab.world.migrations[-1]["params"] == {}
    assert lab.where() == (None, SHUTOFF)
    assert lab.kvm2.guests[UUID].autostart
    assert not lab.move().changed


def test_c1_14_an_offline_move_can_leave_the_definition_without_autostart(lab):
    lab.kvm2.share("/vm", lab.kvm1)
    lab.add(state=SHUTOFF, autostart=True)
    result = lab.move(undefine_source=False)
    assert result.outcome == "migrated"
    assert lab.where() == (SHUTOFF, SHUTOFF)
    assert not lab.kvm1.guests[UUID].autostart
    assert lab.kvm2.guests[UUID].autostart
    again = lab.move(undefine_source=False)
    assert (again.changed, again.outcome) == (False, "already_there")
    # The wish is another one now: to be nowhere else.
    assert lab.move().changed
    assert lab.where() == (None, SHUTOFF)


def test_another_definition_at_the_destination_is_no_move_that_has_been_made(lab):
    lab.kvm2.share("/vm", lab.kvm1)
    lab.add(state=SHUTOFF)
    lab.add("kvm2", state=SHUTOFF, image="", xml=domain_xml(disks=[disk_xml(path="/vm/old.qcow2")]))
    assert lab.move(undefine_source=False).changed


def test_the_autostart_flag_comes_along(lab):
    lab.add(autostart=True)
    lab.move()
    assert lab.kvm2.guests[UUID].autostart


@pytest.mark.parametrize(("options", "persistent"), [({}, False), ({"persistent": True}, True)])
def test_c1_2_a_transient_vm_stays_so_unless_it_is_said_and_nothing_is_undefined(lab, options, persistent):
    lab.add(persistent=False)
    result = lab.move(**options)
    assert result.outcome == "migrated"
    assert "UNDEFINE_SOURCE" not in lab.flags()
    assert ("PERSIST_DEST" in lab.flags()) == persistent
    assert lab.kvm2.guests[UUID].persistent == persistent


def test_options_reach_libvirt(lab):
    lab.add()
    result = lab.move(migrate_uri="tcp://172.16.1.232", bandwidth=100, persistent=False, undefine_source=False)
    assert lab.world.migrations[-1]["params"] == {
        "migrate_disks": ["vda"],
        "migrate_uri": "tcp://172.16.1.232",
        "bandwidth": 100,
    }
    assert lab.flags() == {"LIVE", "PEER2PEER", "NON_SHARED_DISK"}
    assert result.params["bandwidth"] == 100


def test_pools_are_refreshed_on_both_hosts_before_and_after(lab):
    lab.add()
    lab.move()
    for host in (lab.kvm1, lab.kvm2):
        assert host.calls.count("refresh") == 2


def test_a_pool_is_made_for_the_check_where_none_covers_the_directory(lab):
    lab.kvm1.directories["/nfs"] = {}
    lab.kvm2.share("/nfs", lab.kvm1)
    lab.add(image="/nfs/a.qcow2")
    assert lab.move().storage == "shared"
    assert list(lab.kvm2.pools) == ["vm"]


def test_probes_of_killed_runs_are_removed_and_young_ones_stay(lab):
    old = f".kvmops-probe-{int(time.time()) - 7200}-0badcafe"
    young = f".kvmops-probe-{int(time.time()) - 60}-0badcafe"
    for name in (old, young, ".kvmops-probe-notes"):
        lab.kvm1.write(f"/vm/{name}", fake.File("raw"))
        lab.kvm2.write(f"/vm/{name}", fake.File("raw"))
    lab.add()
    lab.move()
    for host in (lab.kvm1, lab.kvm2):
        assert old not in host.directories["/vm"]
        assert host.directories["/vm"].pop(young)
        assert host.directories["/vm"].pop(".kvmops-probe-notes")


def test_the_series_is_sampled_while_the_job_runs(lab):
    lab.add()
    lab.world.hold_job()

    def end_later():
        # Only then is there something to sample, whatever else this machine does.
        lab.world.held_at.wait(30)
        time.sleep(0.2)
        lab.world.complete_job()

    threading.Thread(target=end_later, daemon=True).start()
    result = lab.move()
    assert result.series
    assert result.series[0]["memory_processed"] == 201326592


def test_a_source_definition_that_a_killed_run_left_is_cleared(lab):
    lab.add(state=SHUTOFF)
    lab.add("kvm2")
    assert lab.move(check=True).changed
    assert lab.where() == (SHUTOFF, RUNNING)
    result = lab.move()
    assert result.changed
    assert lab.where() == (None, RUNNING)
    assert not lab.move().changed


def test_a_definition_is_not_lost_with_its_last_host(lab):
    lab.add(state=SHUTOFF)
    lab.add("kvm2", persistent=False)
    lab.move()
    assert lab.where() == (None, RUNNING)
    assert lab.kvm2.guests[UUID].persistent


def test_a_source_definition_stays_where_it_was_asked_to(lab):
    lab.add(state=SHUTOFF)
    lab.add("kvm2")
    assert not lab.move(undefine_source=False).changed
    assert lab.where() == (SHUTOFF, RUNNING)


def test_c2_36_one_host_under_two_names_where_the_vm_is(lab):
    lab.world.aliases["alias"] = "kvm1"
    lab.add()
    result = lab.move(dest_uri="qemu+ssh://root@alias/system")
    assert not result.changed
    assert result.outcome == "already_there"


def test_other_vms_are_left_alone(lab):
    lab.add()
    lab.add("kvm2", "b", OTHER, image="/vm/b.qcow2")
    lab.move()
    assert lab.kvm2.guests[OTHER].state == RUNNING
    assert lab.kvm2.file("/vm/b.qcow2").content == "b v1"


def test_c1_23_there_and_back_five_times(lab):
    lab.add()
    for _turn in range(5):
        there = lab.on("kvm1").move(_dest_facts=lab.facts("kvm2"))
        assert there.outcome == "migrated", there
        lab.kvm2.file(IMAGE).content += "+"
        content = lab.kvm2.file(IMAGE).content
        back = lab.on("kvm2").move(dest_uri="qemu+ssh://root@kvm1/system", _dest_facts=lab.facts("kvm1"))
        assert back.outcome == "migrated", back
        assert lab.where() == (RUNNING, None)
        assert lab.kvm1.file(IMAGE).content == content
    assert set(lab.kvm1.directories["/vm"]) == {"a.qcow2"}
    assert lab.on("kvm2").info().journal[0]["state"] == "unchanged"


def test_every_run_that_acts_is_recorded_on_the_source(lab):
    lab.add()
    result = lab.move()
    lab.move()
    assert [(record["name"], record["outcome"]) for record in lab.record()] == [("a", "migrated")]
    assert lab.record()[0]["left_behind"] == result.left_behind
    assert lab.record()[0]["downtime_ms"] == 94


def test_a_run_from_elsewhere_has_no_journal_and_says_so(lab):
    lab.world.hosts["admin"] = fake.FakeHost(lab.world, "admin")
    lab.add()
    result = lab.on("admin").move(uri="qemu+ssh://root@kvm1/system")
    assert result.outcome == "migrated"
    assert "are not in its journal" in result.warnings[0]


@pytest.mark.parametrize("storage", ["auto", "copy"])
def test_a_disk_proven_not_shared_is_copied(lab, storage):
    lab.add()
    assert lab.move(storage=storage).storage == "copy"
