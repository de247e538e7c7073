# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""virt_migrate with a VM that is shut off and whose files must go along."""

from __future__ import annotations

import threading
import time

import pytest
from test_module_recover import killed_at

from ansible_collections.kvmops.migration.plugins.module_utils._images.stream import StreamError
from ansible_collections.kvmops.migration.plugins.module_utils._migrate import worker
from ansible_collections.kvmops.migration.plugins.module_utils._pure import status as statuses
from ansible_collections.kvmops.migration.plugins.modules import virt_domblk_copy
from fake import carry as fake_carry
from fake import libvirt as fake
from fake.lab import DEST_URI, IMAGE, OTHER, UUID, disk_xml, domain_xml

SHUTOFF = fake.VIR_DOMAIN_SHUTOFF


def files(host) -> set[str]:
    return {f"{folder}/{name}" for folder, names in host.directories.items() for name in names}


@pytest.fixture
def stopped(lab):
    lab.add(state=SHUTOFF)
    return lab


def test_c1_14_the_disk_goes_along(stopped):
    result = stopped.move()
    assert not result.failed, result
    assert result.outcome == "migrated"
    assert stopped.where() == (None, SHUTOFF)
    assert stopped.kvm2.file(IMAGE).content == "a v1"
    assert result.disks[0]["action"] == "copy"
    assert [row["action"] for row in result.files] == ["copy"]
    assert result.left_behind == [{"host": "kvm1", "target": "vda", "path": IMAGE}]
    assert stopped.flags() >= {"OFFLINE", "PEER2PEER"}
    assert not stopped.flags() & {"NON_SHARED_DISK", "NON_SHARED_INC"}
    assert files(stopped.kvm2) == {IMAGE}
    assert not stopped.world.source_locks
    assert not stopped.unfinished()
    again = stopped.move()
    assert (again.changed, again.outcome) == (False, "already_there")


@pytest.mark.parametrize("mode", ["auto", "offline"])
def test_c1_14_a_disk_that_is_to_be_copied_goes_along(stopped, mode):
    result = stopped.move(mode=mode, storage="copy")
    assert not result.failed, result
    assert (result.outcome, result.storage) == ("migrated", "copy")
    assert stopped.kvm2.file(IMAGE).content == "a v1"


def test_a_disk_that_both_hosts_share_is_not_copied_offline(lab):
    lab.kvm1.share("/vm", lab.kvm2)
    lab.add(state=SHUTOFF)
    result = lab.move(mode="offline", storage="copy")
    assert result.failure_class == "copy_of_shared"
    assert lab.where() == (SHUTOFF, None)


def test_c1_14_check_mode_says_what_would_be_done_and_does_nothing(stopped):
    result = stopped.move(check=True, diff=True)
    assert (result.changed, result.outcome) == (True, "planned")
    [row] = result.files
    assert row == {
        "target": "vda",
        "source": IMAGE,
        "dest": IMAGE,
        "format": "qcow2",
        "action": "copy",
        "reason": "it is not there",
        "bytes": 64 << 20,
    }
    assert stopped.where() == (SHUTOFF, None)
    assert files(stopped.kvm2) == set()


def test_c7_111_a_stale_copy_is_brought_up_to_date(stopped):
    stopped.move()
    stopped.kvm2.file(IMAGE).content = "a v2"
    facts = stopped.facts("kvm1")
    stopped.on("kvm2")
    back = stopped.move(dest_uri="qemu+ssh://root@kvm1/system", _dest_facts=facts)
    assert back.outcome == "migrated", back
    assert [row["action"] for row in back.files] == ["update"]
    assert stopped.world.sent[-1]["update"] is True
    assert stopped.kvm1.file(IMAGE).content == "a v2"


def test_an_image_there_that_nothing_accounts_for_is_not_replaced(stopped):
    stopped.kvm2.write(IMAGE, fake.File(content="mine"))
    result = stopped.move()
    assert result.failure_class == "dest_image_exists"
    assert stopped.kvm2.file(IMAGE).content == "mine"
    assert stopped.move(force=True).outcome == "migrated"
    assert stopped.kvm2.file(IMAGE).content == "a v1"


def test_c1_26_firmware_variables_go_along(lab):
    lab.kvm2.directories["/nvram"] = {}
    lab.kvm1.write("/nvram/a.fd", fake.File("raw", content="boot order"))
    lab.add(state=SHUTOFF, xml=domain_xml(nvram="/nvram/a.fd"))
    result = lab.move()
    assert result.outcome == "migrated", result
    assert lab.kvm2.file("/nvram/a.fd").content == "boot order"
    assert {one["target"] for one in result.left_behind} == {"vda", "nvram"}


def test_c7_110_a_chain_goes_along_and_a_base_that_is_there_is_not_sent_again(lab):
    lab.kvm1.write("/vm/base.qcow2", fake.File(content="base"))
    lab.kvm1.write("/vm/a.qcow2", fake.File(content="top", backing="/vm/base.qcow2"))
    lab.kvm1.write("/vm/b.qcow2", fake.File(content="other", backing="/vm/base.qcow2"))
    lab.add(state=SHUTOFF, xml=domain_xml(disks=[disk_xml(), disk_xml("vdb", "/vm/b.qcow2")]))
    result = lab.move()
    assert result.outcome == "migrated", result
    assert [row["source"] for row in result.files] == ["/vm/base.qcow2", "/vm/a.qcow2", "/vm/b.qcow2"]
    assert lab.kvm2.file("/vm/base.qcow2").content == "base"
    assert {one["path"] for one in result.left_behind} == {"/vm/base.qcow2", "/vm/a.qcow2", "/vm/b.qcow2"}
    back = lab.on("kvm2").move(dest_uri="qemu+ssh://root@kvm1/system", _dest_facts=lab.facts("kvm1"))
    assert [row["action"] for row in back.files] == ["keep", "update", "update"], back.files


@pytest.mark.parametrize("force", [False, True])
def test_a_base_of_another_vm_at_the_destination_is_not_replaced(lab, force):
    lab.kvm1.write("/vm/base.qcow2", fake.File(content="base"))
    lab.kvm1.write("/vm/a.qcow2", fake.File(content="top", backing="/vm/base.qcow2"))
    lab.add(state=SHUTOFF)
    assert lab.move().outcome == "migrated"
    # It stayed there when the VM moved away, and another VM lies on it; then the VM got another base where it is now.
    lab.kvm1.write("/vm/b.qcow2", fake.File(content="other", backing="/vm/base.qcow2"))
    lab.add(name="b", uuid=OTHER, state=SHUTOFF, image="/vm/b.qcow2")
    lab.kvm2.file("/vm/base.qcow2").content = "new base"
    facts = lab.facts("kvm1")
    back = lab.on("kvm2").move(dest_uri="qemu+ssh://root@kvm1/system", _dest_facts=facts, force=force)
    assert back.failure_class == "image_in_use", back
    assert "VM b (/vm/b.qcow2)" in back.msg
    assert lab.kvm1.file("/vm/base.qcow2").content == "base"


@pytest.mark.parametrize("phase", [statuses.COPYING, statuses.PREPARED])
def test_of_a_vm_that_was_undefined_no_half_image_stays_and_whole_ones_are_named(stopped, monkeypatch, phase):
    with killed_at(phase, monkeypatch):
        stopped.move()
    [ledger] = stopped.unfinished()
    half = fake_carry.part_name(IMAGE, ledger["run"])
    if phase == statuses.COPYING:
        stopped.kvm2.write(half, fake.File(content="half"))
    del stopped.kvm1.guests[UUID]
    result = stopped.move(cleanup=True)
    assert result.outcome == "lost", result
    assert not stopped.unfinished()
    if phase == statuses.COPYING:
        assert files(stopped.kvm2) == set()
    else:
        # It may be the last one.
        assert files(stopped.kvm2) == {IMAGE}
        assert any(warning.startswith(f"{IMAGE} on kvm2") for warning in stopped.warnings), stopped.warnings


def test_too_little_room_is_refused_before_anything(stopped):
    stopped.world.free_bytes["kvm2"] = 1 << 20
    result = stopped.move()
    assert result.failure_class == "no_space"
    assert "67108864 bytes in /vm on kvm2, and 1048576 are free" in result.msg
    assert files(stopped.kvm2) == set()


def test_a_destination_without_the_directory_is_refused(lab):
    lab.kvm1.directories["/data"] = {}
    lab.add(state=SHUTOFF, image="/data/a.qcow2")
    assert lab.move().failure_class == "directory_missing"


def test_without_a_login_nothing_is_tried(stopped):
    stopped.world.unreachable_by_ssh.add("kvm2")
    result = stopped.move()
    assert (result.failure_class, result.role) == ("ssh_login", "ssh_trust")
    assert not stopped.unfinished()


def test_from_elsewhere_a_local_disk_cannot_be_copied(stopped):
    stopped.on("kvm2")
    result = stopped.move(uri="qemu+ssh://root@kvm1/system", dest_uri="qemu:///system")
    assert result.failure_class == "offline_local_disk"
    assert "run virt_migrate on the source" in result.msg


@pytest.mark.parametrize("kind", ["ENOSPC", "differs", "gone"])
@pytest.mark.parametrize("do", ["send", "commit"])
def test_c7_111_a_copy_that_fails_leaves_nothing(stopped, kind, do):
    def fail(_host):
        raise StreamError("kvm2: it went wrong", kind)

    stopped.world.peer_scripts[do] = fail
    result = stopped.move()
    assert result.failed
    assert result.outcome == "failed"
    assert "it went wrong" in result.msg
    assert stopped.where() == (SHUTOFF, None)
    assert files(stopped.kvm2) == set()
    assert not stopped.unfinished()
    assert stopped.journal_file() is None
    stopped.world.peer_scripts.clear()
    assert stopped.move().outcome == "migrated"


def test_a_definition_that_does_not_arrive_takes_the_images_back(stopped):
    def script(at, source, dest, guest):
        if at == "prepare":
            raise fake.libvirtError("Hook script execution failed: no", 38)

    stopped.world.script = script
    result = stopped.move()
    assert result.outcome == "failed", result
    assert stopped.where() == (SHUTOFF, None)
    assert files(stopped.kvm2) == set()
    assert not stopped.unfinished()


def test_c5_95_a_move_that_is_to_end_ends_as_long_as_nothing_has_its_name(stopped, monkeypatch):
    def ask(self, name):
        self.say(phase=name)
        if name == statuses.COPIED:
            worker.ask_to_end(self.run_id)

    monkeypatch.setattr(worker.Worker, "phase", ask)
    result = stopped.move()
    assert (result.failure_class, result.outcome) == ("cancelled", "failed"), result
    assert stopped.where() == (SHUTOFF, None)
    assert files(stopped.kvm2) == set()
    assert not stopped.unfinished()


@pytest.mark.parametrize("is_gone", [False, True])
@pytest.mark.parametrize("options", [{}, {"path_map": {"/vm": "/data"}}], ids=["as it is", "to another place"])
def test_a_definition_that_somebody_changes_during_the_copy_does_not_move(stopped, monkeypatch, options, is_gone):
    stopped.kvm2.directories["/data"] = {}
    guest = stopped.kvm1.guests[UUID]
    edited = domain_xml(disks=[disk_xml(), disk_xml("vdb", "/vm/new.qcow2")])

    def edit(self, name):
        self.say(phase=name)
        if name == statuses.COPIED and is_gone:
            del stopped.kvm1.guests[UUID]
        elif name == statuses.COPIED:
            guest.xml = edited

    with monkeypatch.context() as patch:
        patch.setattr(worker.Worker, "phase", edit)
        result = stopped._main(virt_domblk_copy, {"name": "a", "dest_uri": DEST_URI, **options})
    assert (result.failure_class, result.outcome) == ("definition_changed", "failed"), result
    assert stopped.where() == (None if is_gone else SHUTOFF, None)
    assert files(stopped.kvm2) == set()
    assert not stopped.unfinished()


def test_what_cannot_be_taken_back_is_undetermined_until_it_can(stopped):
    def cut(host):
        stopped.world.unreachable_by_ssh.add(host.name)
        raise StreamError("kvm2: cut", "gone")

    stopped.world.peer_scripts["send"] = cut
    result = stopped.move()
    assert result.outcome == "undetermined", result
    assert "kvm2: cut; a is where it was, and what was sent to kvm2 is still there" in result.msg
    assert len(stopped.unfinished()) == 1
    stopped.world.peer_scripts.clear()
    stopped.world.unreachable_by_ssh.clear()
    settled = stopped.move(cleanup=True)
    assert settled.outcome == "failed"
    assert not stopped.unfinished()
    assert files(stopped.kvm2) == set()


@pytest.mark.parametrize("phase", statuses.PHASES[1:])
@pytest.mark.parametrize("settle", ["the next run", "cleanup"])
def test_c3_75_a_killed_run_is_ended_by_the_next(stopped, monkeypatch, phase, settle):
    with killed_at(phase, monkeypatch):
        stopped.move()
    assert len(stopped.unfinished()) == 1
    result = stopped.move(cleanup=True) if settle == "cleanup" else stopped.move()
    assert not result.failed, result
    assert not stopped.unfinished()
    moved = phase in (statuses.MOVED, statuses.SETTLED, statuses.FINISHING)
    if settle == "cleanup" and not moved:
        assert stopped.where() == (SHUTOFF, None)
        assert files(stopped.kvm2) == set()
        assert stopped.journal_file() is None
    else:
        assert stopped.where() == (None, SHUTOFF)
        assert files(stopped.kvm2) == {IMAGE}
        assert stopped.kvm2.file(IMAGE).content == "a v1"
    assert UUID in (*stopped.kvm1.guests, *stopped.kvm2.guests)


BLOCK = disk_xml("vdb", "/dev/vg/b", "raw", kind="block", attribute="dev")


def copy(lab, **options):
    return lab._main(virt_domblk_copy, {"name": "a", "dest_uri": DEST_URI, **options})


def test_a_block_device_goes_to_no_other_host_and_what_helps_is_said(lab):
    lab.add(state=SHUTOFF, xml=domain_xml(disks=[BLOCK]), image="")
    result = copy(lab, dest_dir="/vm")
    assert result.failure_class == "sharedness_unknown", result
    assert "move the VM with virt_migrate and storage: shared if they do" in result.cure
    assert "without dest_host, with disks: [vdb] and dest_dir: /DIRECTORY" in result.cure


def test_a_block_device_that_both_hosts_see_is_left_out_and_stays_what_it_is(lab):
    lab.kvm2.directories["/data"] = {}
    lab.add(state=SHUTOFF, xml=domain_xml(disks=[disk_xml(), BLOCK]))
    refused = copy(lab, dest_dir="/data")
    assert "say disks: [vda] if they do" in refused.cure, refused
    result = copy(lab, dest_dir="/data", disks=["vda"])
    assert result.outcome == "migrated", result
    assert [(disk["target"], disk["action"]) for disk in result.disks] == [("vda", "copy"), ("vdb", "shared")]
    there = lab.kvm2.guests[UUID].xml
    assert "/data/a.qcow2" in there
    assert "/dev/vg/b" in there and "/data/b" not in there
    assert there.replace('"', "'").count("type='block'") == 1
    assert files(lab.kvm2) == {"/data/a.qcow2"}


def test_a_file_becomes_a_device_of_another_host(stopped):
    stopped.kvm2.directories["/dev/vg"] = {}
    options = {"path_map": {IMAGE: "/dev/vg/a"}}
    refused = copy(stopped, **options)
    assert (refused.failure_class, "/dev/vg/a is no block device" in refused.msg) == ("image_missing", True), refused
    stopped.world.devices.add(("kvm2", "/dev/vg/a"))
    result = copy(stopped, **options)
    assert result.outcome == "migrated", result
    there = stopped.kvm2.guests[UUID].xml.replace('"', "'")
    assert "type='block'" in there and "dev='/dev/vg/a'" in there


def test_all_directories_that_are_missing_there_are_named_at_once(lab):
    for folder in ("/data", "/more"):
        lab.kvm1.directories[folder] = {}
        lab.kvm1.write(f"{folder}/a.qcow2", fake.File())
    lab.add(
        state=SHUTOFF,
        xml=domain_xml(disks=[disk_xml(path="/data/a.qcow2"), disk_xml("vdb", "/more/a.qcow2")]),
        image="",
    )
    assert "there are no directories /data and /more at the destination" in lab.move().msg


class OnceBegun(threading.Event):
    """A host that answers only when a receiver has been begun."""

    def __init__(self, world):
        super().__init__()
        self._world = world

    def wait(self, timeout=None):
        until = time.monotonic() + (timeout or 0)
        while not self._world.peers and time.monotonic() < until:
            time.sleep(0.01)
        return bool(self._world.peers)


def test_the_receiver_is_begun_before_the_destination_has_answered(stopped):
    stopped.world.hang_limit = 5
    stopped.kvm2.answers = OnceBegun(stopped.world)
    result = copy(stopped)
    assert result.outcome == "migrated", result
    assert [peer.is_open for peer in stopped.world.peers] == [False]


def test_a_receiver_that_nobody_wants_is_let_go(stopped):
    stopped.add("kvm2", uuid=OTHER)
    result = copy(stopped)
    assert result.failure_class == "foreign_vm", result
    assert [peer.is_open for peer in stopped.world.peers] == [False]


def test_a_guest_that_runs_gets_no_receiver(lab):
    lab.add()
    assert copy(lab).failure_class == "wrong_state"
    assert not lab.world.peers
