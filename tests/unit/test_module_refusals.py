# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""virt_migrate says no: in one line, with a cure, and with nothing changed anywhere."""

from __future__ import annotations

import copy
from unittest import mock

import pytest

from ansible_collections.kvmops.migration.plugins.module_utils._libvirt import Host
from ansible_collections.kvmops.migration.plugins.module_utils._migrate import probe, settle
from fake import libvirt as fake
from fake.lab import DEST_URI, IMAGE, OTHER, disk_xml, domain_xml, volume_xml

RUNNING, PAUSED, SHUTOFF = fake.VIR_DOMAIN_RUNNING, fake.VIR_DOMAIN_PAUSED, fake.VIR_DOMAIN_SHUTOFF


def states(host):
    return {pool.name: pool.active for pool in host.pools.values()}


def everything(lab):
    return {
        host.name: (copy.deepcopy(host.directories), copy.deepcopy(host.guests), states(host))
        for host in lab.world.hosts.values()
    }


@pytest.fixture
def refused(lab):
    """Run virt_migrate, which must refuse and change nothing, and give the answer back."""

    def run(failure_class, *texts, **options):
        before, records = everything(lab), lab.record()
        result = lab.move(**options)
        assert result.failed
        assert result.failure_class == failure_class, result.msg
        for text in texts:
            assert text in result.msg
        assert "\n" not in result.msg
        assert not result.changed
        assert everything(lab) == before
        assert lab.world.migrations == []
        assert lab.record() == records
        return result

    return run


def test_c1_18_a_vm_that_is_nowhere(lab, refused):
    lab.add(name="b", uuid=OTHER)
    result = refused("not_found", "VM a was not found on either host", "kvm1 (qemu:///system)", f"kvm2 ({DEST_URI})")
    assert "kvm1: b; kvm2: none" in result.msg
    assert result.outcome == "refused"


@pytest.mark.parametrize("alias", ["kvm1", "alias"])
def test_c2_36_one_host_under_two_names_while_the_vm_is_elsewhere(lab, refused, alias):
    lab.world.aliases["alias"] = "kvm1"
    lab.add("kvm2")
    refused(
        "same_host",
        f"qemu:///system and qemu+ssh://root@{alias}/system are the same host",
        dest_uri=f"qemu+ssh://root@{alias}/system",
    )


def test_one_host_is_known_by_what_the_action_plugin_brings(lab, refused):
    lab.add("kvm2")
    refused("same_host", _dest_facts={"host": {"uuid": lab.kvm1.uuid}, "journal": []})
    assert "open" not in lab.kvm2.calls


def test_another_vm_of_that_name_at_the_destination(lab, refused):
    lab.add()
    lab.add("kvm2", uuid=OTHER, image="/vm/b.qcow2")
    refused("foreign_vm", "kvm2 has another VM named a", OTHER)


def test_the_vm_under_another_name_at_the_destination(lab, refused):
    lab.add()
    lab.add("kvm2", name="b", state=SHUTOFF, image="")
    refused("foreign_vm", "under the name b")


@pytest.mark.parametrize(
    ("there", "outcome"),
    [(RUNNING, "split_brain"), (PAUSED, "split_brain")],
)
def test_a_vm_that_runs_on_both(lab, refused, there, outcome):
    lab.add()
    lab.add("kvm2", state=there)
    assert refused(outcome, "a runs on kvm1").outcome == outcome


def test_a_vm_that_is_paused_here_and_runs_there(lab, refused):
    lab.add(state=PAUSED)
    lab.add("kvm2")
    refused("split_brain", "never resume it on kvm1")


def test_a_vm_that_is_still_arriving(lab, refused):
    lab.add()
    lab.add("kvm2", state=PAUSED, reason=fake.VIR_DOMAIN_PAUSED_MIGRATION)
    refused("undetermined", "still arriving on kvm2")


def test_a_vm_whose_post_copy_failed(lab, refused):
    lab.add(state=PAUSED, reason=fake.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED)
    lab.add("kvm2", reason=fake.VIR_DOMAIN_RUNNING_POSTCOPY_FAILED)
    refused("postcopy_failed", "nothing was touched")


def test_a_crashed_vm(lab, refused):
    lab.add(state=fake.VIR_DOMAIN_CRASHED)
    refused("crashed", "a has crashed on kvm1")


def test_a_crashed_domain_in_the_way(lab, refused):
    lab.add()
    lab.add("kvm2", state=fake.VIR_DOMAIN_CRASHED)
    refused("failed", "has crashed on kvm2")


def test_c2_64_a_job_that_is_going_on(lab, refused):
    lab.add(job={"type": fake.VIR_DOMAIN_JOB_UNBOUNDED})
    refused("busy", "a job is going on with VM a on kvm1")


@pytest.mark.parametrize(("mode", "state"), [("live", SHUTOFF), ("offline", RUNNING), ("offline", PAUSED)])
def test_a_mode_that_does_not_fit(lab, refused, mode, state):
    lab.add(state=state)
    refused("wrong_state", f"mode: {mode} was said", mode=mode)


def test_c1_15_a_stopped_vm_cannot_be_transient(lab, refused):
    lab.add(state=SHUTOFF)
    refused("wrong_state", "persistent: false", persistent=False)


def test_c1_27_a_saved_state_would_stay_behind(lab, refused):
    lab.kvm2.share("/vm", lab.kvm1)
    lab.add(state=SHUTOFF, managed_save=True)
    refused("managed_save", "saved state")


def test_c2_46_a_destination_without_the_pool(lab, refused):
    lab.add()
    del lab.kvm2.pools["vm"]
    result = refused(
        "pool_missing", "kvm2 has no active storage pool with target path /vm", "cure: start it, or define it"
    )
    assert result.role == "storage_pool"


def test_c2_46_a_destination_whose_pool_is_not_active(lab, refused):
    lab.add()
    lab.kvm2.pools["vm"].active = False
    result = refused("pool_missing", "kvm2 has no active storage pool", "its pool vm is not started")
    assert result.role == "storage_pool"


def test_c2_46_a_destination_without_the_directory(lab, refused):
    lab.kvm1.directories["/data"] = {}
    lab.add(image="/data/a.qcow2")
    refused("pool_missing", "no active storage pool with target path /data")


def test_c2_46_all_directories_that_have_no_pool_there_are_named_at_once(lab, refused):
    for folder in ("/data", "/more"):
        lab.kvm1.directories[folder] = {}
        lab.kvm1.write(f"{folder}/a.qcow2", fake.File())
    lab.add(xml=domain_xml(disks=[disk_xml(path="/data/a.qcow2"), disk_xml("vdb", "/more/a.qcow2")]), image="")
    refused("pool_missing", "no active storage pool with target path /data nor with /more")


def test_an_image_that_nothing_accounts_for(lab, refused):
    lab.add()
    lab.kvm2.write(IMAGE, fake.File(content="precious"))
    refused("dest_image_exists", f"{IMAGE} exists on kvm2", "nothing says whose it is", "force: true")


def test_an_image_that_the_journal_does_not_name(lab, refused):
    lab.add()
    lab.kvm2.write(IMAGE, fake.File(content="precious"))
    refused("dest_image_exists", "is not known as a copy", _dest_facts=lab.facts("kvm2"))


@pytest.fixture
def left_behind(lab):
    """VM `a` has moved from kvm1 to kvm2, and kvm1 has its old image."""
    lab.add()
    lab.move()
    lab.on("kvm2")
    lab.world.migrations.clear()
    return {"dest_uri": "qemu+ssh://root@kvm1/system", "_dest_facts": lab.facts("kvm1")}


def test_a_stale_copy_that_has_changed_since(lab, refused, left_behind):
    lab.kvm1.file(IMAGE).content = "somebody's work"
    refused("dest_image_exists", "has changed since", **{**left_behind, "_dest_facts": lab.facts("kvm1")})


def test_a_stale_copy_of_another_disk(lab, refused, left_behind):
    left_behind["_dest_facts"]["journal"][0]["target"] = "vdb"
    refused("dest_image_exists", **left_behind)


def test_a_stale_copy_of_another_vm(lab, refused, left_behind):
    left_behind["_dest_facts"]["journal"][0]["uuid"] = OTHER
    refused("dest_image_exists", **left_behind)


def test_a_stale_copy_that_another_vm_has_as_its_disk_now(lab, refused, left_behind):
    lab.add("kvm1", "b", OTHER, state=SHUTOFF)
    refused("image_in_use", "as a file of VM b", force=True, **left_behind)


def test_a_stale_copy_that_another_vm_has_as_a_volume_now(lab, refused, left_behind):
    lab.add("kvm1", "b", OTHER, state=SHUTOFF, image="", xml=domain_xml("b", OTHER, [volume_xml("a.qcow2")]))
    refused("image_in_use", "as a file of VM b", force=True, **left_behind)


def test_a_stale_copy_that_somebody_has_open(lab, refused, left_behind):
    lab.locked.add(IMAGE)
    refused("image_in_use", "has it open", force=True, **{**left_behind, "_dest_facts": lab.facts("kvm1")})


def test_the_journal_of_another_host_counts_for_nothing(lab, left_behind):
    left_behind["_dest_facts"]["host"]["uuid"] = lab.world.hosts["kvm2"].uuid[::-1]
    result = lab.move(**left_behind)
    assert result.failure_class == "dest_image_exists"
    assert "its journal is not used" in result.warnings[0]


@pytest.fixture
def killed_run(lab, monkeypatch):
    """A run that died after libvirt had moved the guest: its journal on kvm1 says `moving`, and the way leads back."""
    lab.add()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(settle.Settlement, "settle", mock.Mock(side_effect=KeyboardInterrupt))
        lab.move()
    assert lab.where() == (None, RUNNING)
    assert lab.journal_file()["images"][0]["phase"] == "moving"
    assert [ledger["uuid"] for ledger in lab.unfinished()] == ["5ba1ab1e-0000-4000-8000-000000000001"]
    lab.on("kvm2")
    lab.world.migrations.clear()
    return {"dest_uri": "qemu+ssh://root@kvm1/system", "_dest_facts": lab.facts("kvm1")}


def test_the_image_that_a_killed_run_left_is_known_when_the_guest_comes_back(lab, killed_run):
    assert killed_run["_dest_facts"]["journal"][0]["state"] == "unsettled"
    result = lab.move(**killed_run)
    assert not result.failed, result.msg
    assert lab.where() == (RUNNING, None)


def test_another_file_in_its_place_is_not(lab, refused, killed_run):
    killed_run["_dest_facts"]["journal"][0]["state"] = "changed"
    refused("dest_image_exists", **killed_run)


def test_nor_is_it_while_the_guest_is_still_defined_there(lab, refused, killed_run):
    lab.add("kvm1", state=SHUTOFF)
    refused("dest_image_exists", **killed_run)


@pytest.mark.parametrize("options", [{"storage": "copy"}, {"migrate_disks": ["vda"]}, {"copy_storage": "all"}])
def test_a_shared_disk_is_never_copied(lab, refused, options):
    lab.kvm2.share("/vm", lab.kvm1)
    lab.add()
    refused("copy_of_shared", "proven shared", force=True, **options)


@pytest.mark.parametrize("options", [{"storage": "shared"}, {"copy_storage": "none"}])
def test_c2_50_a_local_disk_is_not_taken_for_shared(lab, refused, options):
    lab.add()
    refused("not_shared", "is not shared by the two hosts", **options)


def test_a_disk_left_out_of_the_list_would_be_missing(lab, refused):
    lab.add(xml=domain_xml(disks=[disk_xml(), disk_xml("vdb", "/vm/b.qcow2")]))
    lab.kvm1.write("/vm/b.qcow2", fake.File())
    refused("not_shared", "migrate_disks leaves out vdb", migrate_disks=["vda"])


@pytest.mark.parametrize(
    ("disks", "text"),
    [(["vdx"], "has no disk 'vdx'"), (["sda"], "disk sda of a is read-only"), (["sdb"], "disk sdb of a is empty")],
)
def test_a_disk_that_cannot_be_copied(lab, refused, disks, text):
    drives = [disk_xml(), disk_xml("sda", "/vm/x.iso", "raw", "cdrom"), disk_xml("sdb", "", device="cdrom")]
    lab.add(xml=domain_xml(disks=drives))
    result = refused("disk_target", text, migrate_disks=disks)
    assert [row["id"] for row in result.checks if row["status"] == "fail"] == ["storage"]


def test_a_shared_disk_on_top_of_a_local_one(lab, refused):
    lab.kvm2.share("/vm", lab.kvm1)
    for host in (lab.kvm1, lab.kvm2):
        host.directories["/base"] = {}
    backing = "<backingStore type='file'><source file='/base/b.qcow2'/></backingStore>"
    lab.add(xml=domain_xml(disks=[disk_xml(extra=backing)]))
    refused("not_shared", "disk vda is shared, and /base/b.qcow2 below it is not")


def test_c2_59_a_shareable_disk_on_local_storage(lab, refused):
    lab.add(xml=domain_xml(disks=[disk_xml(extra="<shareable/>")]))
    refused("not_shared", "a shareable disk cannot be copied")


def test_a_block_device_of_which_nothing_is_known(lab, refused):
    lab.add(xml=domain_xml(disks=[disk_xml(path="/dev/vg/a", kind="block", attribute="dev")]), image="")
    cure = "say storage: shared if they do; if not, make a file of it first: virt_domblk_copy on this host"
    refused("sharedness_unknown", "/dev/vg/a", cure)
    refused("sharedness_unknown", storage="copy")


def test_a_block_device_that_is_another_one_there(lab, refused):
    lab.add(xml=domain_xml(disks=[disk_xml(path="/dev/vg/a", kind="block", attribute="dev")]), image="")
    for host, name in (("kvm1", "naa.61"), ("kvm2", "naa.62")):
        lab.machines[host] = {"devices": {"/dev/vg/a": {"id": name, "size": 1 << 20}}}
    facts = lab.facts("kvm2")
    cure = "make a file of it first: virt_domblk_copy on this host"
    for options in ({}, {"storage": "copy"}):
        refused("not_shared", "naa.61, and /dev/vg/a on kvm2 is naa.62", cure, _dest_facts=facts, **options)
    refused("not_shared", "storage: shared was said", _dest_facts=facts, storage="shared")


def test_c2_58_a_medium_that_the_destination_lacks(lab, refused):
    lab.add(xml=domain_xml(disks=[disk_xml(), disk_xml("sda", "/vm/x.iso", "raw", "cdrom")]))
    lab.kvm1.write("/vm/x.iso", fake.File("raw"))
    refused("image_missing", "kvm2 has no /vm/x.iso", "--eject")


def test_an_image_that_is_not_there(lab, refused):
    lab.add(image="", xml=domain_xml())
    refused("image_missing", f"image {IMAGE} does not exist on kvm1")


def test_an_image_that_is_not_what_the_definition_says(lab, refused):
    lab.add()
    lab.kvm1.file(IMAGE).format = "raw"
    refused("image_unreadable", f"{IMAGE} on kvm1 is not qcow2 but raw")


@pytest.mark.parametrize(
    ("state", "problem", "cure"),
    [
        ("unreadable", "Image is not in qcow2 format", f"look at it with qemu-img check {IMAGE}"),
        ("no_answer", f"{IMAGE} did not answer within 10 s", "bring back the server"),
    ],
)
def test_an_image_that_cannot_be_read(lab, refused, state, problem, cure):
    lab.add()
    lab.unreadable[IMAGE] = (state, problem)
    refused("image_unreadable", f"{IMAGE} cannot be read as qcow2: {problem}", cure)


@pytest.mark.parametrize("state", ["denied", "unread", "undeclared"])
def test_of_an_image_that_may_not_be_looked_into_libvirts_word_is_enough(lab, state):
    lab.add()
    lab.unreadable[IMAGE] = (state, "no")
    assert lab.move().outcome == "migrated"


def test_a_probe_that_cannot_be_made_proves_nothing(lab, refused):
    lab.add()
    lab.world.faults["kvm1", "createXML"] = fake.libvirtError("Failed to create file: Permission denied", 38, 13)
    refused("sharedness_unknown", "kvm1 could not make a probe file in /vm")


def test_a_probe_that_cannot_be_made_on_the_other_side_proves_nothing(lab, refused):
    lab.add()
    lab.world.faults["kvm2", "createXML"] = fake.libvirtError("Failed to create file: Permission denied", 38, 13)
    refused("sharedness_unknown", "kvm2 could not make a probe file in /vm", storage="copy")


def test_a_directory_that_cannot_be_looked_into_proves_nothing_and_its_pool_goes_on(lab, refused):
    """libvirt stops a pool that it fails to refresh."""
    lab.add()
    lab.kvm2.denied.add("/vm")
    refused("sharedness_unknown", "kvm2 could not look into /vm", storage="copy")
    assert states(lab.kvm2) == {"vm": True}


def test_where_nothing_can_be_written_a_shared_probe_is_seen_all_the_same(lab):
    lab.kvm2.share("/vm", lab.kvm1)
    lab.add()
    lab.world.faults["kvm2", "createXML"] = fake.libvirtError("Failed to create file: Read-only file system", 38, 30)
    result = lab.move()
    assert result.storage == "shared"
    assert "was seen on kvm2" in result.disks[0]["reason"]


@pytest.mark.parametrize("where", ["kvm1", "kvm2"])
def test_a_directory_without_space_is_no_reason_to_call_it_shared(lab, refused, where):
    lab.add()
    lab.world.faults[where, "createXML"] = fake.libvirtError("cannot allocate 512 bytes: No space left", 38, 28)
    refused("sharedness_unknown", f"{where} could not make a probe file in /vm", f"free space in /vm on {where}")


def test_of_a_pool_that_is_missing_nobody_says_what_lies_there(lab):
    lab.kvm2.pools["vm"].active = False
    lab.add()
    lab.kvm2.write(IMAGE, fake.File(content="foreign"))
    said = {row["id"]: row["status"] for row in lab.move(check=True).checks}
    assert (said["pools"], said["dest_images"]) == ("fail", "skipped")


def test_another_check_may_look_at_the_same_moment(lab):
    """libvirt has no two pools of one path."""
    lab.add()
    storage = probe.Storage(Host.open("qemu:///system", 5), "1-1", 1.0)
    lab.kvm1.add_pool("kvmops-probe-2-2", next(storage._detours("/vm"))).transient = True
    assert storage.look("/vm") == list(lab.kvm1.directories["/vm"])
    assert lab.kvm1.pools.pop("kvmops-probe-2-2")
    assert set(lab.kvm1.pools) == {"vm"}


def test_a_pool_that_a_killed_check_has_left_is_in_nobodys_way(lab):
    lab.add()
    for host in (lab.kvm1, lab.kvm2):
        host.add_pool("kvmops-probe-1000-0badcafe", "/vm/.").transient = True
    result = lab.move()
    assert result.outcome == "migrated", result.msg
    for host in (lab.kvm1, lab.kvm2):
        assert set(host.pools) == {"vm"}
        assert not [name for name in host.directories["/vm"] if "kvmops-probe" in name]


def test_a_pool_into_which_a_copy_goes_must_be_read(lab, refused):
    lab.add()
    lab.world.faults["kvm2", "storagePoolCreateXML"] = fake.libvirtError("cannot read dir '/vm': I/O error", 38, 5)
    refused("pool_missing", "pool vm on kvm2 could not be refreshed: cannot read dir '/vm'")


def test_bad_options_are_refused_before_a_connection_is_used(lab, refused):
    lab.add()
    for options, text in (
        ({"dest_uri": "qemu+ssh://kvm2/sistem"}, "has the path '/sistem'"),
        ({"uri": "nonsense"}, "uri: 'nonsense' is not a libvirt URI"),
        ({"migrate_uri": "kvm2"}, "accepted: tcp://ADDRESS[:PORT]"),
        ({"bandwidth": -1}, "bandwidth: -1 is not accepted"),
        ({"bandwidth": 2**63 // 2**20}, "MiB per second from 0"),
        ({"connect_timeout": 0}, "seconds from 1 to 600"),
        ({"migrate_disks": []}, "at least one"),
        ({"name": "a/b"}, "the name of a VM"),
    ):
        refused("bad_option", text, **options)
    assert lab.kvm1.calls == []


def test_c2_63_combinations_are_refused_before_a_connection_is_used(lab, refused):
    lab.add()
    for options, texts in (
        (
            {"mode": "offline", "copy_storage": "all"},
            ("mode: offline and copy_storage: all", "takes along what the hosts do not share"),
        ),
        ({"mode": "offline", "migrate_disks": ["vda"]}, ("migrate_disks: vda and mode: offline",)),
        ({"mode": "offline", "persistent": False}, ("persistent: false and mode: offline",)),
        ({"copy_storage": "none", "storage": "shared"}, ("copy_storage: none and storage: shared",)),
        ({"copy_storage": "none", "migrate_disks": ["vda"]}, ("migrate_disks: vda and copy_storage: none",)),
        ({"storage": "shared", "migrate_disks": ["vda"]}, ("migrate_disks: vda and storage: shared",)),
    ):
        refused("bad_combination", *texts, **options)
    assert lab.kvm1.calls == []


def test_the_bare_module_knows_no_inventory(lab, refused):
    lab.add()
    refused("bad_option", "dest_host: 'kvm2' is an inventory name", dest_uri=None, dest_host="kvm2")


def test_c2_62_an_option_newer_than_one_end(lab, refused):
    lab.add()
    lab.kvm2.version = 1002016
    refused("too_old", "migrate_disks: vda needs libvirt 1.2.17; kvm2 has 1.2.16")


def test_c2_32_a_destination_that_cannot_be_reached(lab, refused):
    lab.add()
    refused("name_resolution", "dest_uri: qemu+ssh://root@nohost/system", dest_uri="qemu+ssh://root@nohost/system")


def test_c2_30_a_destination_that_does_not_answer(lab, refused):
    lab.add()
    lab.kvm2.answers.clear()
    result = refused("unreachable", "did not answer within 1 s", connect_timeout=1)
    assert result.outcome == "refused"


def test_a_destination_that_falls_silent_while_it_is_looked_at(lab, refused, monkeypatch):
    from ansible_collections.kvmops.migration.plugins.module_utils import _libvirt

    monkeypatch.setattr(_libvirt.Host.open.__func__, "__defaults__", (False, 0.2))
    lab.add()
    lab.world.faults["kvm2", "listAllStoragePools"] = None
    called = lab.kvm2.called

    def silent(what):
        if what == "listAllStoragePools":
            lab.kvm2.answers.clear()
        called(what)

    monkeypatch.setattr(lab.kvm2, "called", silent)
    before = everything(lab)
    result = lab.move()
    assert result.failure_class == "unreachable"
    lab.kvm2.answers.set()
    assert everything(lab) == before


def test_c8_124_a_password_in_a_uri_is_never_shown(lab, refused):
    lab.add()
    result = refused("name_resolution", "root:***@nohost", dest_uri="qemu+ssh://root:s3cret@nohost/system")
    # Not even in the options, which come back with every answer.
    assert "s3cret" not in str(vars(result))


# --- what would end the guest


def asleep(lab, **more):
    """A guest on a shared disk that came here paused."""
    lab.kvm2.share("/vm", lab.kvm1)
    return lab.add(state=fake.VIR_DOMAIN_PAUSED, cpu_time=10**6, **more)


def test_a_guest_that_came_paused_and_has_not_run_since_would_not_survive(lab):
    asleep(lab)
    for check in (True, False):
        result = lab.move(check=check)
        assert (result.outcome, result.failure_class) == ("refused", "asleep")
        assert "has not run since it came to kvm1" in result.msg
        assert "virsh resume a" in result.cure
    assert lab.world.migrations == []


@pytest.mark.parametrize("trace", [{"cpu_time": 10**9}, {"requests": 1}])
def test_a_paused_guest_that_has_run_moves(lab, trace):
    vars(asleep(lab)).update(trace)
    assert lab.move().outcome == "migrated"


def test_a_newer_qemu_moves_it_asleep(lab):
    lab.kvm1.hypervisor = lab.kvm2.hypervisor = 10000000
    asleep(lab)
    assert lab.move().outcome == "migrated"


def test_firmware_variables_are_a_disk_that_is_not_copied(lab):
    lab.kvm2.directories["/nvram"] = {}
    lab.kvm1.write("/nvram/a.fd", fake.File("raw"))
    guest = lab.add(state=fake.VIR_DOMAIN_PAUSED, cpu_time=0, xml=domain_xml(nvram="/nvram/a.fd"))
    result = lab.move()
    assert result.failure_class == "asleep"
    assert "it has not taken over its firmware variables, /nvram/a.fd" in result.msg
    guest.cpu_time = 10**9
    assert lab.move().outcome == "migrated"


def test_disks_that_are_copied_have_been_taken_over(lab):
    lab.add(state=fake.VIR_DOMAIN_PAUSED, cpu_time=0)
    assert lab.move().outcome == "migrated"
