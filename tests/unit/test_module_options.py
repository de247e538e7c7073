# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every option of virt_migrate on its way through the whole module: what libvirt gets, or why it gets nothing."""

from __future__ import annotations

import json

import pytest

from ansible_collections.kvmops.migration.plugins.module_utils import _libvirt
from fake import libvirt as fake
from fake.lab import DEST_URI, IMAGE, OTHER, UUID, disk_xml, domain_xml

RUNNING, PAUSED, SHUTOFF = fake.VIR_DOMAIN_RUNNING, fake.VIR_DOMAIN_PAUSED, fake.VIR_DOMAIN_SHUTOFF
USUAL = {"LIVE", "PEER2PEER", "PERSIST_DEST", "UNDEFINE_SOURCE"}
FILES = ["ca-cert.pem", "server-cert.pem", "server-key.pem", "client-cert.pem", "client-key.pem"]


@pytest.fixture
def shared(lab):
    """VM `a` runs on kvm1, on storage that both hosts share and on a libvirt that knows everything."""
    lab.kvm2.share("/vm", lab.kvm1)
    lab.kvm1.version = lab.kvm2.version = 12002000
    lab.kvm1.hypervisor = lab.kvm2.hypervisor = 9000000
    lab.add()
    return lab


@pytest.fixture
def local(lab):
    """VM `a` runs on kvm1 with a disk that must be copied, on a libvirt that knows everything."""
    lab.kvm1.version = lab.kvm2.version = 12002000
    lab.kvm1.hypervisor = lab.kvm2.hypervisor = 9000000
    lab.add()
    return lab


def refuse(lab, failure_class, *texts, **arguments):
    before = (lab.where(), {host.name: dict(host.directories["/vm"]) for host in (lab.kvm1, lab.kvm2)})
    result = lab.move(**arguments)
    assert result.failed
    assert result.failure_class == failure_class, result.msg
    for text in texts:
        assert text in result.msg
    assert "\n" not in result.msg
    assert lab.world.migrations == []
    assert before == (lab.where(), {host.name: dict(host.directories["/vm"]) for host in (lab.kvm1, lab.kvm2)})
    return result


def fail_in_perform(phase, source, dest, guest):
    if phase == "perform":
        raise fake.libvirtError("operation failed: migration out job: unexpectedly failed", 9)


@pytest.mark.parametrize(
    ("given", "flags", "params"),
    [
        ({"change_protection": True}, {"CHANGE_PROTECTION"}, {}),
        ({"abort_on_error": True}, {"ABORT_ON_ERROR"}, {}),
        ({"tunnelled": True}, {"TUNNELLED"}, {}),
        ({"unsafe": True}, {"UNSAFE"}, {}),
        ({"migrate_uri": "tcp://[fd00::2]:49200"}, set(), {"migrate_uri": "tcp://[fd00::2]:49200"}),
        ({"migrate_uri": "unix:///run/a.sock"}, set(), {"migrate_uri": "unix:///run/a.sock"}),
        ({"listen_address": "172.16.1.232"}, set(), {"listen_address": "172.16.1.232"}),
        ({"graphics_uri": "spice://kvm2:5900"}, set(), {"graphics_uri": "spice://kvm2:5900"}),
        ({"bandwidth": 10}, set(), {"bandwidth": 10}),
        ({"bandwidth": 0, "switchover_bandwidth": 0}, set(), {}),
        ({"switchover_bandwidth": 100}, set(), {"bandwidth.avail.switchover": 100}),
        ({"parallel": True}, {"PARALLEL"}, {}),
        ({"parallel": True, "parallel_connections": 4}, {"PARALLEL"}, {"parallel.connections": 4}),
        ({"parallel": True, "zerocopy": True}, {"PARALLEL", "ZEROCOPY"}, {}),
        (
            {"compression": ["xbzrle", "mt"], "compression_xbzrle_cache": 2**26, "compression_mt_level": 0},
            {"COMPRESSED"},
            {"compression": ["xbzrle", "mt"], "compression.xbzrle.cache": 2**26, "compression.mt.level": 0},
        ),
        (
            {"compression": ["mt"], "compression_mt_threads": 3, "compression_mt_dthreads": 2},
            {"COMPRESSED"},
            {"compression": ["mt"], "compression.mt.threads": 3, "compression.mt.dthreads": 2},
        ),
        (
            {"compression": ["zlib"], "parallel": True, "compression_zlib_level": 9},
            {"COMPRESSED", "PARALLEL"},
            {"compression": ["zlib"], "compression.zlib.level": 9},
        ),
        (
            {"compression": ["zstd"], "parallel": True, "compression_zstd_level": 20},
            {"COMPRESSED", "PARALLEL"},
            {"compression": ["zstd"], "compression.zstd.level": 20},
        ),
        ({"tls": True}, {"TLS"}, {}),
        ({"tls": "true", "tls_destination": "kvm2.lan"}, {"TLS"}, {"tls.destination": "kvm2.lan"}),
    ],
)
def test_an_option_reaches_libvirt_and_the_result(shared, given, flags, params):
    # The files of this machine are not those of an arbitrary host: nothing is known of its certificates.
    shared.certificates["kvm1"] = None
    result = shared.move(**given)
    assert result.outcome == "migrated", result
    assert shared.flags() == USUAL | flags
    assert shared.params() == params
    assert set(result.flags) == USUAL | flags
    assert result.params == params
    assert shared.where() == (None, RUNNING)


@pytest.mark.parametrize(
    ("given", "flags", "params"),
    [
        ({"disks_port": 49300}, set(), {"disks_port": 49300}),
        ({"disks_uri": "tcp://kvm2:49300"}, set(), {"disks_uri": "tcp://kvm2:49300"}),
        (
            {"migrate_uri": "unix:///run/a", "disks_uri": "unix:///run/b"},
            set(),
            {"migrate_uri": "unix:///run/a", "disks_uri": "unix:///run/b"},
        ),
        ({"synchronous_writes": True}, {"NON_SHARED_SYNCHRONOUS_WRITES"}, {}),
        ({"detect_zeroes": ["vda"]}, set(), {"migrate_disks_detect_zeroes": ["vda"]}),
        ({"target_zero": ["vda"]}, set(), {"migrate_disks_target_zero": ["vda"]}),
    ],
)
def test_an_option_about_copies_counts_where_disks_are_copied(local, given, flags, params):
    assert local.move(**given).outcome == "migrated"
    assert local.flags() == USUAL | flags | {"NON_SHARED_DISK"}
    assert local.params() == {"migrate_disks": ["vda"], **params}


def test_an_option_about_copies_means_nothing_without_them(shared):
    shared.move(disks_port=49300, synchronous_writes=True, detect_zeroes=["vda"], target_zero=["vda"])
    assert shared.flags() == USUAL
    assert shared.params() == {}


def test_options_about_the_way_mean_nothing_for_a_vm_that_is_shut_off(shared):
    shared.kvm1.guests[UUID].state = SHUTOFF
    result = shared.move(tls="auto", suspend=True, compression=["mt"], bandwidth=1, tunnelled=True)
    assert shared.flags() == {"OFFLINE", "PEER2PEER", "PERSIST_DEST", "UNDEFINE_SOURCE"}
    assert shared.params() == {}
    assert (result.transport, result.warnings) == ("native", [])


def test_a_tunnelled_move_is_said_to_be_one(shared):
    assert shared.move(tunnelled=True).transport == "tunnelled"


def test_a_tunnel_takes_no_local_disk(local):
    refuse(local, "bad_combination", "tunnelled: libvirt copies no disk", "disk vda is not shared", tunnelled=True)


def test_a_socket_for_memory_takes_no_disk(local):
    refuse(local, "bad_combination", "unix:///x takes in memory only", "disks_uri", migrate_uri="unix:///x")


def test_disks_may_take_a_socket_while_the_memory_goes_over_tcp(local):
    """libvirt has no rule against it: a forwarder makes the file reachable."""
    assert local.move(migrate_uri="tcp://kvm2", disks_uri="unix:///run/b").outcome == "migrated"


@pytest.mark.parametrize("option", ["migrate_uri", "disks_uri"])
def test_a_socket_that_the_source_cannot_reach_is_refused(local, option):
    other = {"disks_uri": "unix:///run/b"} if option == "migrate_uri" else {}
    given = {**other, option: "unix:///nowhere/at/all/x"}
    refuse(local, "no_socket", f"{option}: unix:///nowhere/at/all/x cannot", "kvm1, which has no directory", **given)
    local.kvm1.guests[UUID].state = SHUTOFF
    local.kvm2.share("/vm", local.kvm1)
    assert local.move(**given).outcome == "migrated", "nothing travels"


def test_a_socket_for_disks_that_are_not_copied_means_nothing(shared):
    assert shared.move(disks_uri="unix:///nowhere/x").outcome == "migrated"


def test_tls_through_a_socket_needs_a_name_to_look_for(shared):
    said = "tls: true with migrate_uri: unix:///run/x needs tls_destination"
    refuse(shared, "bad_combination", said, migrate_uri="unix:///run/x", tls="true")
    assert shared.kvm1.calls == []
    assert shared.move(migrate_uri="unix:///run/x", tls="true", tls_destination="kvm2").outcome == "migrated"


@pytest.mark.parametrize("option", ["detect_zeroes", "target_zero"])
def test_a_disk_that_is_not_copied_has_no_zeroes_to_look_for(local, option):
    refuse(local, "disk_target", f"{option}: disk 'vdx' of a is not copied", "are: vda", **{option: ["vdx"]})


def test_rdma_needs_a_limit_and_pins(shared):
    refuse(shared, "no_hard_limit", "virsh memtune a --hard-limit", migrate_uri="rdma://kvm2")
    guest = shared.kvm1.guests[UUID]
    guest.xml = guest.xml.replace("<devices>", "<memtune><hard_limit unit='GiB'>1</hard_limit></memtune><devices>")
    assert shared.move(migrate_uri="rdma://kvm2", rdma_pin_all=True).outcome == "migrated"
    assert shared.flags() == USUAL | {"RDMA_PIN_ALL"}
    assert shared.params() == {"migrate_uri": "rdma://kvm2"}


class TestControl:
    def test_managed_direct_drives_both_ends_itself(self, local):
        result = local.move(control="direct")
        assert result.outcome == "migrated"
        assert local.flags() == {"LIVE", "PERSIST_DEST", "UNDEFINE_SOURCE", "NON_SHARED_DISK"}
        assert local.world.migrations[0]["uri"] is None
        assert "migrate3" in local.kvm1.calls
        assert local.where() == (None, RUNNING)
        assert not local.move(control="direct").changed

    def test_managed_direct_that_fails_leaves_the_vm_where_it_was(self, local):
        local.world.script = fail_in_perform
        result = local.move(control="direct")
        assert result.outcome == "failed"
        assert local.where() == (RUNNING, None)
        assert local.kvm2.file(IMAGE) is None

    def test_a_stopped_vm_moves_direct(self, shared):
        shared.kvm1.guests[UUID].state = SHUTOFF
        assert shared.move(control="direct").outcome == "migrated"
        assert shared.flags() == {"OFFLINE", "PERSIST_DEST", "UNDEFINE_SOURCE"}

    def test_qemu_is_never_unmanaged_and_no_connection_is_used_to_say_so(self, local):
        result = refuse(local, "bad_combination", "control: unmanaged is for xen URIs only", control="unmanaged")
        assert "control: direct" in result.cure
        assert local.kvm1.calls == local.kvm2.calls == []

    def test_xen_may_be_unmanaged(self, shared):
        shared.move(control="unmanaged", uri="xen:///system", dest_uri="xen+ssh://root@kvm2/system")
        # What libvirt's fake says of it: nobody was named who would prepare the destination.
        assert "migrate" in shared.kvm1.calls
        assert shared.where() == (RUNNING, None)

    def test_two_hypervisors_do_not_meet(self, local):
        refuse(local, "bad_option", "has the driver xen, and uri has qemu", dest_uri="xen+ssh://root@kvm2/system")
        assert local.kvm1.calls == []


class TestModes:
    def test_a_vm_may_be_paused_for_the_time_of_the_move(self, local):
        result = local.move(mode="nonlive")
        assert local.flags() == (USUAL - {"LIVE"}) | {"NON_SHARED_DISK"}
        assert (result.mode, result.downtime_ms) == ("nonlive", 94)
        assert local.where() == (None, RUNNING)
        assert not local.move(mode="nonlive").changed

    def test_a_paused_vm_moves_nonlive_and_stays_paused(self, local):
        local.kvm1.guests[UUID].state = PAUSED
        assert local.move(mode="nonlive").outcome == "migrated"
        assert local.where() == (None, PAUSED)

    def test_a_vm_that_was_paused_for_a_move_that_failed_runs_again(self, local):
        def fail(phase, source, dest, guest):
            if phase == "perform":
                guest.state, guest.reason = PAUSED, fake.VIR_DOMAIN_PAUSED_MIGRATION
            fail_in_perform(phase, source, dest, guest)

        local.world.script = fail
        assert local.move(mode="nonlive").outcome == "failed"
        assert local.where() == (RUNNING, None)

    def test_a_stopped_vm_has_nothing_to_pause(self, local):
        local.kvm1.guests[UUID].state = SHUTOFF
        refuse(local, "wrong_state", "mode: nonlive was said, and VM a is shut off", mode="nonlive")

    def test_c1_22_a_vm_that_is_left_paused_is_no_surprise(self, local):
        result = local.move(suspend=True)
        assert local.flags() == USUAL | {"PAUSED", "NON_SHARED_DISK"}
        assert local.where() == (None, PAUSED)
        assert result.warnings == []
        assert not local.move(suspend=True).changed


class TestName:
    def test_c1_20_a_vm_is_renamed_and_a_second_run_finds_it(self, local):
        result = local.move(dest_name="b")
        assert result.outcome == "migrated"
        assert local.params() == {"migrate_disks": ["vda"], "destination_name": "b"}
        assert local.kvm2.guests[UUID].name == "b"
        again = local.move(dest_name="b")
        assert (again.changed, again.outcome, again.uuid) == (False, "already_there", UUID)

    def test_c1_20_a_stopped_vm_is_renamed(self, shared):
        shared.kvm1.guests[UUID].state = SHUTOFF
        assert shared.move(dest_name="b").outcome == "migrated"
        assert shared.kvm2.guests[UUID].name == "b"

    def test_the_name_of_another_vm_is_taken(self, local):
        local.add("kvm2", "b", OTHER, image="")
        refuse(local, "foreign_vm", "kvm2 has another VM named b", dest_name="b")

    def test_another_vm_with_the_old_name_is_not_in_the_way(self, local):
        local.add("kvm2", "a", OTHER, image="")
        assert local.move(dest_name="b").outcome == "migrated"
        assert {guest.name for guest in local.kvm2.guests.values()} == {"a", "b"}

    def test_the_same_vm_under_its_old_name_at_the_destination(self, local):
        local.add("kvm2", state=SHUTOFF, image="")
        refuse(local, "foreign_vm", "under the name a", dest_name="b")

    def test_a_vm_that_is_nowhere_under_either_name(self, lab):
        refuse(lab, "not_found", "under the name b", dest_name="b")

    def test_what_a_killed_run_left_is_defined_under_the_new_name(self, lab):
        lab.add(state=SHUTOFF)
        lab.add("kvm2", name="b", persistent=False, image="")
        assert lab.move(dest_name="b").changed
        assert lab.where() == (None, RUNNING)
        assert lab.kvm2.guests[UUID].persistent
        assert "<name>b</name>" in lab.kvm2.guests[UUID].xml

    def test_the_plan_shows_the_name(self, local):
        result = local.move(dest_name="b", check=True, diff=True)
        assert "<name>a</name>" in result.diff[1]["before"]
        assert "<name>b</name>" in result.diff[1]["after"]


SECRET = "s3cret-of-the-console"


def given_xml(**more):
    graphics = f"<graphics type='vnc' passwd='{SECRET}' listen='172.16.1.232'/></devices>"
    return domain_xml(**more).replace("</devices>", graphics)


class TestXml:
    def test_c8_124_it_reaches_libvirt_and_nothing_else(self, shared):
        result = shared.move(dest_xml=given_xml(), persistent_xml=given_xml(), diff=True)
        assert result.outcome == "migrated"
        assert shared.world.migrations[0]["xml"] == given_xml()
        assert shared.params() == {"persistent_xml": given_xml()}
        assert result.params == {
            "destination_xml": "(as given in dest_xml)",
            "persistent_xml": "(as given in persistent_xml)",
        }
        assert SECRET not in json.dumps(shared.record())

    def test_it_is_not_repeated_with_the_options(self, shared):
        result = shared.move(dest_xml=given_xml(), tls="nonsense")
        assert result.failed
        assert SECRET not in str(vars(result))

    def test_a_copied_disk_stays_sparse_on_top_of_it(self, local):
        local.move(dest_xml=given_xml())
        xml = local.world.migrations[0]["xml"]
        assert 'discard="unmap"' in xml
        assert SECRET in xml

    def test_an_offline_move_takes_it_as_definition(self, shared):
        shared.kvm1.guests[UUID].state = SHUTOFF
        assert shared.move(dest_xml=given_xml()).outcome == "migrated"
        assert shared.kvm2.guests[UUID].xml == given_xml()

    def test_an_offline_move_has_no_persistent_one(self, shared):
        shared.kvm1.guests[UUID].state = SHUTOFF
        refuse(shared, "wrong_state", "give dest_xml instead", persistent_xml=given_xml())

    @pytest.mark.parametrize("option", ["dest_xml", "persistent_xml"])
    @pytest.mark.parametrize(
        ("xml", "says"),
        [
            ("<domain>", "the XML cannot be read"),
            ("", "the XML cannot be read"),
            ("<network/>", "the XML is a <network>, not a <domain>"),
            ("<!DOCTYPE domain><domain/>", "has a document type"),
            ("<domain><name>a</name></domain>", "has no <uuid>"),
        ],
    )
    def test_what_is_no_domain_is_refused_before_a_connection_is_used(self, local, option, xml, says):
        refuse(local, "bad_option", f"{option}: ", says, **{option: xml})
        assert local.kvm1.calls == []

    @pytest.mark.parametrize("option", ["dest_xml", "persistent_xml"])
    def test_it_is_of_this_vm(self, local, option):
        refuse(local, "bad_option", f"{option}: the XML has UUID {OTHER}", **{option: domain_xml(uuid=OTHER)})

    def test_it_does_not_rename(self, local):
        refuse(local, "bad_option", "dest_xml: the XML has the name 'b'", "dest_name", dest_xml=domain_xml("b"))

    def test_c1_21_it_has_the_disks_that_the_guest_sees(self, local):
        refuse(local, "bad_option", "dest_xml: the XML has no disk 'vda'", dest_xml=domain_xml(disks=[]))

    def test_c1_21_c7_110_a_disk_may_lie_elsewhere_at_the_destination(self, local):
        local.kvm2.directories["/data"] = {}
        local.kvm2.add_pool("data", "/data")
        result = local.move(dest_xml=domain_xml(disks=[disk_xml(path="/data/b.qcow2")]))
        assert result.outcome == "migrated", result
        assert local.kvm2.file("/data/b.qcow2").content == "a v1"
        assert local.kvm2.file(IMAGE) is None
        assert (result.disks[0]["source"], result.disks[0]["dest"]) == (IMAGE, "/data/b.qcow2")
        assert "/data/b.qcow2" in local.params()["persistent_xml"]
        assert "persistent_xml" not in result.params

    def test_an_image_that_lies_there_is_not_overwritten(self, local):
        local.kvm2.write("/vm/b.qcow2", fake.File(content="precious"))
        xml = domain_xml(disks=[disk_xml(path="/vm/b.qcow2")])
        refuse(local, "dest_image_exists", "/vm/b.qcow2 exists on kvm2", dest_xml=xml)
        refuse(local, "pool_missing", "/data", dest_xml=domain_xml(disks=[disk_xml(path="/data/b.qcow2")]))

    def test_a_failed_move_takes_away_the_image_under_its_own_path(self, local):
        local.world.script = fail_in_perform
        local.kvm2.write(IMAGE, fake.File(content="somebody else's"))
        result = local.move(dest_xml=domain_xml(disks=[disk_xml(path="/vm/b.qcow2")]))
        assert result.outcome == "failed"
        assert set(local.kvm2.directories["/vm"]) == {"a.qcow2"}

    def test_another_image_on_shared_storage_is_a_copy(self, shared):
        result = shared.move(dest_xml=domain_xml(disks=[disk_xml(path="/vm/b.qcow2")]))
        assert result.disks[0]["action"] == "copy"
        assert "another image" in result.disks[0]["reason"]
        assert shared.kvm2.file("/vm/b.qcow2").content == "a v1"

    def test_shared_storage_under_another_path_is_not_copied(self, local):
        local.kvm2.directories["/mnt"] = local.kvm1.directories["/vm"]
        local.kvm1.shared_types |= {"/vm", "/mnt"}
        result = local.move(dest_xml=domain_xml(disks=[disk_xml(path="/mnt/a.qcow2")]))
        assert result.disks[0]["action"] == "shared", result
        assert result.outcome == "migrated"
        assert "/mnt/a.qcow2" in local.params()["persistent_xml"]

    def test_what_is_no_file_there_is_not_guessed_at(self, local):
        disk = disk_xml(path="/dev/vg/a", kind="block", attribute="dev")
        refuse(local, "sharedness_unknown", "another source, block /dev/vg/a", dest_xml=domain_xml(disks=[disk]))


BASE = "/base/b.qcow2"
BACKING = f"<backingStore type='file'><format type='qcow2'/><source file='{BASE}'/></backingStore>"


class TestIncremental:
    @pytest.fixture
    def layered(self, local):
        for host in (local.kvm1, local.kvm2):
            host.directories["/base"] = {}
            host.write(BASE, fake.File(content="base"))
            host.add_pool("base", "/base")
        local.kvm1.guests[UUID].xml = domain_xml(disks=[disk_xml(extra=BACKING)])
        return local

    def test_c7_105_the_top_is_copied_onto_an_image_that_this_run_makes(self, layered):
        result = layered.move(copy_storage="inc")
        assert result.outcome == "migrated", result
        assert layered.flags() == USUAL | {"NON_SHARED_INC"}
        assert layered.params() == {"migrate_disks": ["vda"]}
        image = layered.kvm2.file(IMAGE)
        assert (image.content, image.backing, image.format, image.capacity) == ("a v1", BASE, "qcow2", 2 << 30)
        assert layered.kvm2.file(BASE).content == "base"

    def test_check_mode_makes_nothing(self, layered):
        assert layered.move(copy_storage="inc", check=True).outcome == "planned"
        assert layered.kvm2.file(IMAGE) is None

    def test_a_failed_move_takes_the_image_away(self, layered):
        layered.world.script = fail_in_perform
        assert layered.move(copy_storage="inc").outcome == "failed"
        assert layered.kvm2.file(IMAGE) is None
        assert layered.kvm2.file(BASE).content == "base"

    def test_an_image_that_cannot_be_made_ends_the_run(self, layered, monkeypatch):
        original = fake.virStoragePool.createXML

        def create(self, xml, flags):
            if "backingStore" in xml:
                raise fake.libvirtError("cannot create: No space left on device", 38, 28)
            return original(self, xml, flags)

        monkeypatch.setattr(fake.virStoragePool, "createXML", create)
        result = layered.move(copy_storage="inc")
        assert f"{IMAGE} on kvm2 could not be made" in result.msg
        assert result.outcome == "failed"
        assert layered.where() == (RUNNING, None)
        assert layered.world.migrations == []
        assert layered.journal_file() is None

    def test_a_disk_without_a_base_has_no_top(self, local):
        refuse(local, "no_base_image", "disk vda", "say copy_storage: all", copy_storage="inc")

    def test_the_base_must_be_there(self, layered):
        layered.kvm2.remove(BASE)
        refuse(layered, "image_missing", f"{BASE}, the base image of disk vda, and kvm2", copy_storage="inc")

    def test_the_base_must_be_the_same(self, layered):
        layered.kvm2.file(BASE).capacity = 1 << 30
        refuse(layered, "base_image_differs", f"{BASE} differs", copy_storage="inc")

    def test_the_base_must_be_in_a_pool(self, layered):
        del layered.kvm2.pools["base"]
        refuse(layered, "pool_missing", "target path /base", copy_storage="inc")

    def test_a_shared_disk_is_not_copied_in_part_either(self, shared):
        refuse(shared, "copy_of_shared", "copy_storage: inc", copy_storage="inc")


class TestTls:
    @pytest.fixture
    def facts(self, shared):
        for host in ("kvm1", "kvm2"):
            shared.certificates[host] = {"directory": "/etc/pki/qemu", "files": list(FILES), "verify": True}
        return lambda: shared.facts("kvm2")

    def test_c8_125_both_hosts_with_certificates_encrypt(self, shared, facts):
        result = shared.move(tls="auto", tls_destination="kvm2.lan", _dest_facts=facts())
        assert shared.flags() == USUAL | {"TLS"}
        assert shared.params() == {"tls.destination": "kvm2.lan"}
        assert result.warnings == []

    @pytest.mark.parametrize(
        ("host", "file", "where"),
        [
            ("kvm1", "ca-cert.pem", "source"),
            ("kvm1", "client-key.pem", "source"),
            ("kvm2", "ca-cert.pem", "destination"),
            ("kvm2", "server-cert.pem", "destination"),
            ("kvm2", "server-key.pem", "destination"),
        ],
    )
    def test_c2_60_c8_125_one_file_less_and_it_is_clear_with_a_warning(self, shared, facts, host, file, where):
        shared.certificates[host]["files"].remove(file)
        result = shared.move(tls="auto", tls_destination="kvm2.lan", _dest_facts=facts())
        assert shared.flags() == USUAL
        assert shared.params() == {}
        assert f"there is no /etc/pki/qemu/{file} on the {where}" in result.warnings[0]
        assert "role libvirt_tls" in result.warnings[0]

    def test_c2_60_asked_for_it_is_refused_then(self, shared, facts):
        shared.certificates["kvm2"]["files"].remove("server-key.pem")
        result = refuse(
            shared, "tls_missing", "tls: there is no /etc/pki/qemu/server-key.pem", tls=True, _dest_facts=facts()
        )
        assert result.role == "libvirt_tls"

    def test_the_clients_own_certificate_is_needed_only_where_it_is_looked_at(self, shared, facts):
        shared.certificates["kvm1"]["files"] = ["ca-cert.pem"]
        shared.certificates["kvm2"]["verify"] = False
        shared.move(tls="auto", _dest_facts=facts())
        assert "TLS" in shared.flags()

    def test_c8_125_what_is_not_known_is_clear_with_a_warning(self, shared):
        result = shared.move(tls="auto")
        assert shared.flags() == USUAL
        assert "it is not known whether both hosts have certificates" in result.warnings[0]

    def test_asked_for_it_is_tried_where_nothing_is_known(self, shared):
        shared.move(tls="true")
        assert "TLS" in shared.flags()

    def test_clear_that_was_asked_for_needs_no_warning(self, shared, facts):
        assert shared.move(tls=False, _dest_facts=facts()).warnings == []
        assert shared.flags() == USUAL

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"parallel": True, "zerocopy": True}, "zerocopy: true and tls: true exclude each other"),
            ({"tunnelled": True}, None),
            ({"migrate_uri": "unix:///x"}, None),
            ({"disks_uri": "unix:///x"}, "disks_uri: unix:///x and tls: true exclude each other"),
        ],
    )
    def test_what_cannot_be_encrypted_is_clear(self, shared, facts, options, says):
        result = shared.move(tls="auto", _dest_facts=facts(), **options)
        assert "TLS" not in shared.flags()
        assert len(result.warnings) == (1 if says else 0)
        assert not says or says in result.warnings[0]

    def test_a_libvirt_that_does_not_know_it_is_clear(self, shared, facts):
        shared.kvm2.version = 3001000
        assert "needs libvirt 3.2.0" in shared.move(tls="auto", _dest_facts=facts()).warnings[0]
        assert shared.flags() == USUAL


class TestVersions:
    def test_c2_62_the_older_end_is_named(self, shared):
        shared.kvm2.version = 9000000
        refuse(
            shared,
            "too_old",
            "compression: zstd needs libvirt 9.4.0; kvm2 has 9.0.0",
            compression=["zstd"],
            parallel=True,
        )

    def test_c2_62_the_older_qemu_is_named(self, shared):
        shared.kvm1.hypervisor = 7000000
        refuse(shared, "too_old", "zerocopy: true needs QEMU 7.1.0; kvm1 has 7.0.0", zerocopy=True, parallel=True)

    def test_c2_62_a_qemu_that_has_dropped_it_is_named(self, shared):
        shared.kvm2.hypervisor = 9001000
        refuse(shared, "too_new", "compression: mt needs a QEMU before 9.1.0; kvm2 has 9.1.0", compression=["mt"])

    def test_c2_62_bindings_that_are_too_old_are_named(self, shared, monkeypatch):
        monkeypatch.delattr(_libvirt.libvirt, "VIR_MIGRATE_ZEROCOPY")
        refuse(shared, "too_old", "zerocopy: the libvirt bindings", zerocopy=True, parallel=True)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"parallel": True, "parallel_connections": 0}, "a number from 1 to 255"),
        ({"parallel": True, "parallel_connections": 256}, "parallel_connections: 256 is not accepted"),
        ({"compression": ["xbzrle"], "compression_xbzrle_cache": 12345}, "a power of two"),
        ({"bandwidth": 2**63 // 2**20}, "MiB per second"),
        ({"uri": "qemu:///sistem"}, "has the path '/sistem'"),
        ({"dest_uri": "http://kvm2/system"}, "accepted drivers: qemu, xen, test"),
        ({"dest_uri": "qemu+ext://kvm2/system"}, "add ?command="),
        ({"migrate_uri": "http://kvm2"}, "accepted: tcp://ADDRESS[:PORT], rdma://"),
        ({"disks_port": 1, "disks_uri": "unix:///x"}, "both say where the disks are taken in"),
        ({"tunnelled": True, "parallel": True}, "one libvirt connection is one stream"),
    ],
)
def test_what_needs_no_host_to_be_wrong_is_refused_without_one(local, given, says):
    result = local.move(**given)
    assert result.failed
    assert says in result.msg
    assert "\n" not in result.msg
    assert local.kvm1.calls == local.kvm2.calls == []


def test_c8_124_no_uri_shows_its_password(local):
    result = local.move(migrate_uri="tcp://root:s3cret@kvm2", dest_uri=DEST_URI)
    assert result.failed
    assert "s3cret" not in str(vars(result))
