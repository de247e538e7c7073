# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""virt_migrate and what a guest has besides memory and disks: carried over, or refused with its cure."""

from __future__ import annotations

import copy

import pytest

from ansible_collections.kvmops.migration.plugins.module_utils._migrate import guest, job
from ansible_collections.kvmops.migration.plugins.module_utils._pure import guest as pure_guest
from ansible_collections.kvmops.migration.plugins.module_utils._pure.domblk import TPM, File, Folder
from fake import libvirt as fake
from fake.lab import DEST_URI, IMAGE, OTHER, UUID, disk_xml, domain_xml

RUNNING, PAUSED, SHUTOFF = fake.VIR_DOMAIN_RUNNING, fake.VIR_DOMAIN_PAUSED, fake.VIR_DOMAIN_SHUTOFF
NVRAM = "/nvram/a_VARS.fd"
ISO = "/iso/a.iso"
AGENT = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel>"


def everything(lab):
    return copy.deepcopy([(host.directories, host.guests, set(host.pools)) for host in lab.world.hosts.values()])


@pytest.fixture
def shared(lab):
    lab.kvm2.share("/vm", lab.kvm1)
    return lab


def refused(lab, failure_class, *texts, **options):
    """The move is refused, and nothing has changed."""
    before = everything(lab)
    result = lab.move(**options)
    assert result.failed
    assert result.failure_class == failure_class, result.msg
    assert all(text in result.msg for text in texts), result.msg
    assert result.cure
    assert everything(lab) == before
    assert lab.world.migrations == []
    return result


# --- devices


@pytest.mark.parametrize("check", [True, False])
def test_c2_57_all_devices_that_stay_are_named_before_anything_moves(lab, check):
    devices = [disk_xml(), "<hostdev mode='subsystem' type='pci'/>", "<shmem name='m' role='peer'/>"]
    lab.add(xml=domain_xml(disks=devices))
    result = refused(lab, "device", "a PCI device of the host and memory that it shares", check=check)
    assert "virsh detach-device" in result.cure
    assert "role='master'" in result.cure


def test_c2_57_unsafe_leaves_it_to_libvirt(lab):
    lab.add(xml=domain_xml(disks=[disk_xml(), "<hostdev mode='subsystem' type='usb'/>"]))
    result = lab.move(unsafe=True)
    assert result.outcome == "migrated"
    assert "a has a USB device of the host: unsafe leaves it to libvirt and QEMU" in result.warnings[0]


def test_c2_57_a_vm_that_is_shut_off_moves_with_its_devices(shared):
    shared.add(state=SHUTOFF, xml=domain_xml(disks=[disk_xml(), "<hostdev mode='subsystem' type='pci'/>"]))
    assert shared.move().outcome == "migrated"


def test_what_moves_with_a_loss_is_said(lab):
    lab.add(xml=domain_xml(disks=[disk_xml(), "<interface type='user'/>"]))
    result = lab.move()
    assert result.outcome == "migrated"
    assert result.warnings == [
        "a has an interface of user-mode networking: its connections break, because they end in the host that it leaves"
    ]


def test_c1_29_a_block_job_is_waited_for(lab):
    lab.add().around.block_jobs.add("vda")
    refused(lab, "busy", "a block job is going on with disk vda", "virsh blockjob a vda --abort")


def test_an_empty_drive_is_not_asked_for_jobs(lab):
    lab.add(xml=domain_xml(disks=[disk_xml("sda", "", device="cdrom")]))
    assert lab.move().outcome == "migrated"
    assert "blockJobInfo" not in lab.kvm1.calls


# --- definitions


def test_c1_10_changes_that_wait_for_the_next_start_arrive_as_such(lab):
    pending = domain_xml().replace("256", "512")
    lab.add(inactive_xml=pending)
    assert lab.move().warnings == []
    assert lab.kvm2.guests[UUID].inactive_xml == pending
    assert "256" in lab.kvm2.guests[UUID].xml


@pytest.mark.parametrize("state", [RUNNING, SHUTOFF])
def test_c1_2_another_definition_at_the_destination_is_replaced_and_named(shared, state):
    shared.add(state=state)
    shared.add("kvm2", state=SHUTOFF, xml=domain_xml().replace("256", "512"))
    result = shared.move()
    assert result.outcome == "migrated"
    assert result.warnings == ["kvm2 has another definition of a than kvm1: it is replaced"]


def test_c1_2_the_same_definition_is_no_news(shared):
    shared.add()
    shared.add("kvm2", state=SHUTOFF, xml=domain_xml().replace("><", ">\n  <"))
    assert shared.move().warnings == []


def test_c1_2_a_transient_vm_leaves_a_definition_at_the_destination_alone(shared):
    shared.add(persistent=False)
    stale = domain_xml().replace("256", "512")
    shared.add("kvm2", state=SHUTOFF, xml=stale)
    result = shared.move()
    assert result.warnings == [
        "kvm2 has another definition of a than kvm1: it stays, and counts when the VM starts next"
    ]
    assert shared.kvm2.guests[UUID].inactive_xml == stale


def test_c1_27_a_saved_state_at_the_destination_is_older_than_the_disks(shared):
    shared.add()
    shared.add("kvm2", state=SHUTOFF, managed_save=True)
    refused(shared, "managed_save", "kvm2 has a saved state of VM a", "virsh managedsave-remove a")


def test_c1_1_autostart_is_at_the_destination_what_it_was_on_the_source(shared):
    shared.add(autostart=False)
    shared.add("kvm2", state=SHUTOFF, autostart=True)
    shared.move()
    assert not shared.kvm2.guests[UUID].autostart


def test_persistent_xml_makes_a_transient_vm_persistent(lab):
    lab.add(persistent=False)
    lab.move(persistent_xml=domain_xml())
    assert lab.kvm2.guests[UUID].persistent


# --- firmware and TPM


@pytest.fixture
def uefi(lab):
    """VM `a` with UEFI variables on a local disk of its host."""
    lab.kvm2.directories["/nvram"] = {}
    lab.kvm1.write(NVRAM, fake.File("raw", 540672, 540672, "variables of a"))
    lab.add(xml=domain_xml(nvram=NVRAM))
    return lab


def test_c1_26_firmware_variables_arrive_and_their_old_file_is_named(uefi):
    result = uefi.move()
    assert result.outcome == "migrated"
    assert uefi.kvm2.file(NVRAM).content == "variables of a"
    assert {"host": "kvm1", "target": "nvram", "path": NVRAM} in result.left_behind
    assert [image["path"] for image in uefi.journal_file()["images"]] == [IMAGE, NVRAM]


def test_c1_26_a_vm_with_firmware_variables_comes_home(uefi):
    uefi.move()
    uefi.kvm2.file(NVRAM).content = "changed since"
    uefi.on("kvm2")
    back = uefi.move(dest_uri="qemu+ssh://root@kvm1/system", _dest_facts=uefi.facts("kvm1"))
    assert back.outcome == "migrated"
    assert uefi.kvm1.file(NVRAM).content == "changed since"


def test_c1_26_firmware_variables_that_nothing_accounts_for_are_not_overwritten(uefi):
    uefi.kvm2.write(NVRAM, fake.File("raw", content="precious"))
    refused(uefi, "dest_image_exists", NVRAM, "force: true")
    assert uefi.move(force=True).outcome == "migrated"


def test_c1_26_firmware_variables_of_another_vm_are_never_overwritten(uefi):
    uefi.kvm2.write(NVRAM, fake.File("raw", content="precious"))
    uefi.add("kvm2", "b", OTHER, image="/vm/b.qcow2", xml=domain_xml("b", OTHER, disks=[], nvram=NVRAM))
    refused(uefi, "image_in_use", f"{NVRAM} exists on kvm2 as a file of VM b", force=True)


def test_c1_26_firmware_variables_of_its_own_old_definition_are_overwritten(uefi):
    uefi.kvm2.write(NVRAM, fake.File("raw", content="old"))
    uefi.add("kvm2", state=SHUTOFF, image="", xml=domain_xml(nvram=NVRAM))
    assert uefi.move().outcome == "migrated"
    assert uefi.kvm2.file(NVRAM).content == "variables of a"


def test_c1_26_shared_firmware_variables_stay_where_they_are(uefi):
    uefi.kvm2.directories["/nvram"] = uefi.kvm1.directories["/nvram"]
    result = uefi.move()
    assert result.outcome == "migrated"
    assert [image["target"] for image in result.left_behind] == ["vda"]


def test_c1_26_after_a_failure_no_firmware_variables_stay_at_the_destination(uefi):
    uefi.world.hold_job()
    uefi.world.fail_job(fake.libvirtError("operation failed: Lost connection to destination host", 9))
    result = uefi.move()
    assert result.outcome == "failed"
    assert uefi.kvm2.file(NVRAM) is None
    assert uefi.kvm1.file(NVRAM).content == "variables of a"
    assert uefi.journal_file() is None


def test_c1_26_after_a_failure_those_that_were_there_before_stay(uefi):
    uefi.kvm2.write(NVRAM, fake.File("raw", content="precious"))
    uefi.world.hold_job()
    uefi.world.fail_job(fake.libvirtError("operation failed: Lost connection to destination host", 9))
    assert uefi.move(force=True).outcome == "failed"
    assert uefi.kvm2.file(NVRAM).content == "precious"


def test_c1_26_check_mode_names_what_would_be_left(uefi):
    before = everything(uefi)
    assert uefi.move(check=True).left_behind[-1]["path"] == NVRAM
    assert everything(uefi) == before


def test_c1_26_an_offline_move_without_state_loses_none(shared):
    """A VM that has never run has neither firmware variables nor a TPM's state yet."""
    tpm = "<tpm model='tpm-crb'><backend type='emulator'/></tpm>"
    shared.add(state=SHUTOFF, xml=domain_xml(disks=[disk_xml(), tpm], nvram=NVRAM))
    assert shared.move().outcome == "migrated"


@pytest.mark.parametrize("everywhere", [True, False])
def test_c1_26_an_offline_move_brings_the_state_of_a_tpm_unless_it_is_there(shared, everywhere):
    tpm = "<tpm model='tpm-crb'><backend type='emulator'/></tpm>"
    shared.add(state=SHUTOFF, xml=domain_xml(disks=[disk_xml(), tpm]))
    state = f"{pure_guest.TPM_STATE}/{UUID}"
    shared.kvm1.write(state, fake.File("dir"))
    shared.kvm1.write(f"{state}/tpm2/tpm2-00.permall", fake.File("raw", content="secrets"))
    if everywhere:
        shared.kvm2.directories[pure_guest.TPM_STATE] = shared.kvm1.directories[pure_guest.TPM_STATE]
    result = shared.move()
    assert result.outcome == "migrated", result
    there = shared.kvm2.file(f"{state}/tpm2/tpm2-00.permall")
    assert (there is None) if everywhere else there.content == "secrets"


def test_c1_26_the_state_of_a_tpm_gets_the_owner_that_the_destination_has_for_it(shared, monkeypatch):
    tpm = "<tpm model='tpm-crb'><backend type='emulator'/></tpm>"
    shared.add(state=SHUTOFF, xml=domain_xml(disks=[disk_xml(), tpm]))
    state = f"{pure_guest.TPM_STATE}/{UUID}"
    shared.kvm1.write(state, fake.File("dir"))
    path = f"{state}/tpm2/tpm2-00.permall"
    shared.kvm1.write(path, fake.File("raw", content="secrets"))
    folders = (Folder(state, 0o711, "root", "root"), Folder(f"{state}/tpm2", 0o700, "swtpm", "swtpm"))
    file = File(TPM, path, path, owner="swtpm", group="swtpm", folders=folders)
    monkeypatch.setattr(guest, "tpm_files", lambda _directory: [file])
    for check in (True, False):
        refused(shared, "tpm_owner", f"{path} belongs to swtpm, and kvm2 has neither that user", check=check)
    assert shared.kvm2.file(path) is None
    shared.world.tpm_owner = {"owner": "tss", "group": "tss"}
    assert shared.move().outcome == "migrated"
    assert ("tss", "tss") in shared.world.owners
    assert shared.kvm2.file(path).content == "secrets"


def test_c1_26_where_a_users_own_libvirt_keeps_the_state_of_a_tpm_is_not_guessed(shared):
    tpm = "<tpm model='tpm-crb'><backend type='emulator'/></tpm>"
    shared.add(state=SHUTOFF, xml=domain_xml(disks=[disk_xml(), tpm]))
    session = {"uri": "qemu:///session", "dest_uri": "qemu+ssh://root@kvm2/session"}
    refused(shared, "offline_local_disk", "keeps it for a user is not known", **session)


# --- drives


def cdrom(policy="", device="cdrom"):
    xml = disk_xml("sda", ISO, "raw", device, "<readonly/>")
    return xml.replace("<source ", f"<source startupPolicy='{policy}' ") if policy else xml


@pytest.mark.parametrize("device", ["cdrom", "floppy"])
@pytest.mark.parametrize("directory", [True, False])
def test_c2_58_a_medium_that_the_destination_has_not_is_found_without_a_pool(lab, device, directory):
    lab.kvm1.write(ISO, fake.File("iso"))
    if directory:
        lab.kvm2.directories["/iso"] = {}
    lab.add(xml=domain_xml(disks=[disk_xml(), cdrom(device=device)]))
    refused(lab, "image_missing", f"kvm2 has no {ISO}", "virsh change-media a sda --eject", check=True)


@pytest.mark.parametrize("state", [RUNNING, SHUTOFF])
def test_c2_59_a_read_only_disk_must_be_there(shared, state):
    shared.kvm1.write(ISO, fake.File("iso"))
    shared.add(state=state, xml=domain_xml(disks=[disk_xml(), cdrom(device="disk")]))
    assert refused(shared, "image_missing", f"kvm2 has no {ISO}").cure == "copy it there"
    shared.kvm2.write(ISO, fake.File("iso"))
    assert shared.move().outcome == "migrated"


def test_c2_58_a_medium_that_is_there_is_used(lab):
    for host in (lab.kvm1, lab.kvm2):
        host.write(ISO, fake.File("iso"))
    lab.add(xml=domain_xml(disks=[disk_xml(), cdrom()]))
    assert lab.move().outcome == "migrated"


@pytest.mark.parametrize(
    ("policy", "state", "moves"),
    [
        ("mandatory", RUNNING, False),
        ("requisite", RUNNING, True),
        ("optional", RUNNING, True),
        ("mandatory", SHUTOFF, False),
        # It would arrive, and not start.
        ("requisite", SHUTOFF, False),
        ("optional", SHUTOFF, True),
    ],
)
def test_c2_58_the_startup_policy_says_whether_a_missing_medium_matters(shared, monkeypatch, policy, state, moves):
    shared.kvm1.write(ISO, fake.File("iso"))
    shared.kvm2.directories["/iso"] = {}
    shared.add(state=state, xml=domain_xml(disks=[disk_xml(), cdrom(policy)]))
    if not moves:
        refused(shared, "image_missing", ISO)
        return
    # Where libvirt would let the medium go, the fake misses it.
    monkeypatch.setattr(fake.Guest, "disks", lambda self: [("vda", IMAGE, False), ("sda", "", True)])
    result = shared.move()
    assert result.outcome == "migrated"
    assert f"kvm2 has no {ISO}, the medium in drive sda: the drive will be empty there" in result.warnings


def test_c2_58_a_host_that_does_not_let_us_look_is_left_to_libvirt(lab):
    for host in (lab.kvm1, lab.kvm2):
        host.write(ISO, fake.File("iso"))
    lab.kvm2.add_pool("iso", "/iso", active=False)
    lab.add(xml=domain_xml(disks=[disk_xml(), cdrom()]))
    assert lab.move().outcome == "migrated"


@pytest.mark.parametrize("state", [RUNNING, SHUTOFF])
def test_c7_105_a_vm_with_only_an_empty_drive_moves(lab, state):
    lab.add(state=state, xml=domain_xml(disks=[disk_xml("sda", "", "raw", "cdrom", "<readonly/>")]))
    result = lab.move()
    assert result.outcome == "migrated"
    assert result.storage == "none"
    assert result.left_behind == []


# --- snapshots and checkpoints


def snapshot(name, parent="", path=IMAGE, kind="snapshot"):
    return (
        f"<domain{kind}><name>{name}</name><parent><name>{parent}</name></parent><domain><uuid>{UUID}</uuid><devices>"
        f"{disk_xml(path=path)}<graphics passwd='sesame'/></devices></domain></domain{kind}>"
    )


@pytest.fixture
def history(shared):
    """VM `a` on shared storage with two snapshots and a checkpoint."""
    around = shared.add().around
    around.snapshots = {"s1": snapshot("s1"), "s2": snapshot("s2", "s1")}
    around.current = "s2"
    around.checkpoints = {"c1": snapshot("c1", kind="checkpoint")}
    return shared


def moments(host):
    around = copy.deepcopy(host.guests[UUID].around)
    return around.snapshots, around.current, around.checkpoints


@pytest.mark.parametrize("state", [RUNNING, PAUSED, SHUTOFF])
def test_c1_29_snapshots_and_checkpoints_come_along(history, state):
    history.kvm1.guests[UUID].state = state
    before = moments(history.kvm1)
    result = history.move()
    assert result.outcome == "migrated", result
    assert history.where() == (None, state)
    assert moments(history.kvm2) == before
    assert (result.snapshots, result.checkpoints) == (["s1", "s2"], ["c1"])
    assert result.warnings == []
    assert "sesame" not in str(vars(result)) + str(history.record())


def test_c1_29_the_definition_that_is_made_for_them_has_its_secrets(history, monkeypatch):
    """A run that is killed leaves it at the destination until it is settled."""
    guest = history.kvm1.guests[UUID]
    guest.xml = guest.xml.replace("</devices>", "<graphics type='vnc' passwd='sesame'/></devices>")
    defined = []
    monkeypatch.setattr(fake.virConnect, "defineXML", lambda self, xml: defined.append(xml) or kill())
    with pytest.raises(Killed):
        history.move()
    assert ["sesame" in xml for xml in defined] == [True]
    assert "sesame" not in str(history.unfinished())


def test_c1_29_check_mode_names_them_and_touches_none(history):
    before = everything(history)
    result = history.move(check=True)
    assert (result.outcome, result.snapshots, result.checkpoints) == ("planned", ["s1", "s2"], ["c1"])
    assert everything(history) == before


def test_c1_29_at_every_moment_some_host_knows_every_snapshot(history):
    known = []
    called = fake.FakeHost.called

    def watch(host, what):
        known.append({name for each in (history.kvm1, history.kvm2) for name in all_names(each)})
        called(host, what)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fake.FakeHost, "called", watch)
        history.move()
    assert len(known) > 20
    assert all(names == {"s1", "s2", "c1"} for names in known)


def all_names(host):
    return [name for kept in moments(host)[::2] for name in kept] if UUID in host.guests else []


@pytest.mark.parametrize("stale", [True, False])
@pytest.mark.parametrize("state", [RUNNING, SHUTOFF])
def test_c1_29_after_a_failure_the_source_knows_them_again_and_the_destination_does_not(history, state, stale):
    history.kvm1.guests[UUID].state = state
    if stale:
        history.add("kvm2", state=SHUTOFF)
    before = everything(history)
    history.world.script = fail_at("prepare")
    result = history.move()
    assert result.outcome == "failed"
    assert everything(history) == before


def fail_at(wanted):
    def script(phase, source, dest, guest):
        if phase == wanted:
            raise fake.libvirtError("operation failed: no", fake.VIR_ERR_OPERATION_FAILED)

    return script


@pytest.mark.parametrize("fault", [("kvm2", "defineXML"), ("kvm2", "create snapshot"), ("kvm1", "delete moment")])
def test_c1_29_a_carriage_that_fails_is_undone_and_nothing_moves(history, fault):
    before = everything(history)
    history.world.faults[fault] = fake.libvirtError("internal error: no", 1)
    result = history.move()
    assert result.outcome == "failed"
    assert "snapshots s1, s2 and checkpoint c1 of a could not be made known on kvm2" in result.msg
    assert everything(history) == before
    assert history.world.migrations == []


def test_c1_29_what_the_source_cannot_be_told_stays_known_at_the_destination(history):
    history.world.script = fail_at("prepare")
    history.world.faults["kvm1", "create snapshot"] = fake.libvirtError("internal error: no", 1)
    result = history.move()
    assert result.outcome == "failed"
    assert sorted(moments(history.kvm2)[0]) == ["s1", "s2"]
    said = "giving snapshots s1, s2 and checkpoint c1 back to kvm1 failed: internal error: no; cure: look for more"
    assert any(warning.startswith(said) for warning in result.warnings)


def test_c1_29_a_run_that_was_killed_between_the_two_is_finished_by_the_next(history):
    """The destination knows them already, and the source has forgotten some."""
    before = moments(history.kvm1)
    history.add("kvm2", state=SHUTOFF).around = copy.deepcopy(history.kvm1.guests[UUID].around)
    del history.kvm1.guests[UUID].around.snapshots["s2"]
    result = history.move()
    assert result.outcome == "migrated"
    assert moments(history.kvm2) == before
    assert "kvm2 knows snapshot s2 of a already, and keeps them" in result.warnings


def test_c1_29_snapshots_of_a_disk_that_is_copied_would_be_lost(lab):
    lab.add().around.snapshots = {"s1": snapshot("s1")}
    result = refused(lab, "snapshots", "VM a has snapshot s1", f"{IMAGE}, which snapshot s1 needs, is not shared")
    assert "virsh snapshot-delete a NAME --metadata" in result.cure


def test_c1_29_an_older_image_of_a_snapshot_must_be_shared_too(shared):
    shared.kvm1.write("/old/a.qcow2", fake.File())
    shared.add().around.snapshots = {"s1": snapshot("s1", path="/old/a.qcow2")}
    refused(shared, "snapshots", "/old/a.qcow2, which snapshot s1 needs, is not shared")


def test_c1_29_checkpoints_of_a_disk_that_is_copied_come_along_where_qemu_takes_bitmaps(lab):
    lab.add().around.checkpoints = {"c1": snapshot("c1", kind="checkpoint")}
    lab.kvm2.version = 7000000
    refused(lab, "snapshots", "VM a has checkpoint c1", "virsh checkpoint-delete a NAME --metadata")
    lab.kvm2.version = 9000000
    assert lab.move().outcome == "migrated"
    assert sorted(moments(lab.kvm2)[2]) == ["c1"]


def test_c1_29_a_checkpoint_without_its_bitmap_is_said_to_be_worth_nothing(history, monkeypatch):
    redefine = fake.virDomain.checkpointCreateXML

    def without_bitmap(self, xml, flags=0):
        self.around.lost_bitmaps.add("c1")
        return redefine(self, xml, flags)

    monkeypatch.setattr(fake.virDomain, "checkpointCreateXML", without_bitmap)
    result = history.move()
    assert result.outcome == "migrated"
    assert "checkpoint c1 of a is worth nothing any more" in result.warnings[0]


def test_c1_29_snapshots_that_did_not_arrive_are_named(history):
    def lose(phase, source, dest, guest):
        if phase == "finish":
            del dest.guests[UUID].around.snapshots["s2"]

    history.world.script = lose
    assert "kvm2 does not know snapshot s2 of a" in history.move().warnings


@pytest.mark.parametrize(
    "options",
    [
        {"dest_name": "b"},
        {"dest_xml": domain_xml()},
        {"persistent_xml": domain_xml()},
        {"persistent": False},
        {"undefine_source": False},
    ],
)
def test_c1_29_what_snapshots_do_not_go_with(history, options):
    result = refused(history, "snapshots", "VM a has snapshots s1, s2 and checkpoint c1", **options)
    assert f"leave {next(iter(options))}" in result.cure or "leave persistent and undefine_source out" in result.cure


def test_c1_29_snapshots_of_a_transient_vm_would_die_with_it(history):
    history.kvm1.guests[UUID].persistent = False
    refused(history, "snapshots", "one persistent definition")


@pytest.mark.parametrize("call", ["listAllSnapshots", "listAllCheckpoints", "blockJobInfo"])
@pytest.mark.parametrize("code", [fake.VIR_ERR_NO_SUPPORT, fake.VIR_ERR_INTERNAL_ERROR])
def test_what_a_hypervisor_does_not_have_is_not_in_the_way(shared, call, code):
    shared.add()
    shared.world.faults["kvm1", call] = fake.libvirtError("this function is not supported", code)
    assert shared.move().outcome == ("migrated" if code == fake.VIR_ERR_NO_SUPPORT else "refused")


def test_what_qemu_cannot_move_is_nothing_to_another_hypervisor(lab):
    lab.add(xml=domain_xml(disks=[disk_xml(), "<hostdev mode='subsystem' type='pci'/>"]))
    assert lab.move(uri="xen:///system", dest_uri="xen+ssh://root@kvm2/system").outcome == "migrated"


# --- runs that are killed


class Killed(BaseException):
    """What no `except Exception` sees, as nothing sees SIGKILL."""


def kill():
    raise Killed


def kill_at_change(lab, monkeypatch, number):
    """Run virt_migrate and kill it at that change which it makes before the job."""
    called, changing = fake.FakeHost.called, []

    def count(host, what):
        if what in ("defineXML", "create snapshot", "create checkpoint", "delete moment"):
            changing.append(what)
            if len(changing) == number:
                raise Killed
        called(host, what)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(fake.FakeHost, "called", count)
        lab.move()


@pytest.mark.parametrize("state", [RUNNING, SHUTOFF])
@pytest.mark.parametrize("number", range(1, 7))
def test_c1_29_a_run_killed_at_any_change_costs_no_snapshot(history, monkeypatch, number, state):
    history.kvm1.guests[UUID].state = state
    before = everything(history)
    known = moments(history.kvm1)
    kill_at_change(history, monkeypatch, number)
    assert history.move(cleanup=True).outcome == "failed"
    assert everything(history) == before
    assert history.move().outcome == "migrated"
    assert moments(history.kvm2) == known
    assert history.where() == (None, state)


def test_c1_26_a_run_killed_on_the_way_leaves_no_firmware_variables(uefi, monkeypatch):
    def die(phase, source, dest, guest):
        if phase == "perform":
            dest.guests.clear()
            raise Killed

    uefi.world.script = die
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(job.Job, "run", lambda self, *arguments: self._host.migrate(self._uuid, *arguments))
        uefi.move()
    uefi.world.script = lambda *_: None
    uefi.kvm1.guests[UUID].job = {}
    assert uefi.kvm2.file(NVRAM) is not None
    assert uefi.move(cleanup=True).outcome == "failed"
    assert uefi.kvm2.file(NVRAM) is None
    assert uefi.kvm1.file(NVRAM).content == "variables of a"


def test_c1_26_a_resumed_post_copy_names_the_firmware_variables(uefi):
    uefi.lose_postcopy()
    assert uefi.move(postcopy=True).outcome == "postcopy_failed"
    assert uefi.kvm2.file(NVRAM) is not None, "nothing is touched"
    uefi.world.script = lambda *_: None
    result = uefi.move(postcopy_resume=True)
    assert result.outcome == "migrated"
    assert [image["target"] for image in result.left_behind] == ["vda", "nvram"]


# --- the clock


@pytest.fixture
def with_agent(lab, monkeypatch):
    monkeypatch.setattr(guest, "AGENT_LIMIT", 0.3)
    monkeypatch.setattr(guest, "AGENT_STEP", 0.01)
    lab.add(xml=domain_xml(disks=[disk_xml(), AGENT]))
    return lab


def clock_set(lab):
    return lab.kvm2.guests[UUID].around.clock_set


def test_c1_25_the_agent_sets_the_clock_after_the_move(with_agent):
    result = with_agent.move()
    assert (result.guest_time, result.warnings, clock_set(with_agent)) == ("set", [], 1)


def test_c1_25_without_an_agent_nobody_can(lab):
    lab.add()
    result = lab.move()
    assert (result.guest_time, result.warnings, clock_set(lab)) == ("no_agent", [], 0)


@pytest.mark.parametrize(
    ("options", "state"), [({"sync_time": False}, RUNNING), ({"suspend": True}, RUNNING), ({}, PAUSED)]
)
def test_c1_25_a_clock_that_shall_not_or_cannot_be_set_is_left_alone(with_agent, options, state):
    with_agent.kvm1.guests[UUID].state = state
    result = with_agent.move(**options)
    assert (result.outcome, result.guest_time, clock_set(with_agent)) == ("migrated", None, 0)


def unresponsive():
    message = "Guest agent is not responding: QEMU guest agent is not connected"
    return fake.libvirtError(message, fake.VIR_ERR_AGENT_UNRESPONSIVE)


def arriving_errors(lab, *errors):
    def script(phase, source, dest, moved):
        if phase == "finish":
            dest.guests[UUID].around.agent_errors = list(errors)

    lab.world.script = script


def test_c1_25_an_agent_that_is_there_a_moment_later_is_waited_for(with_agent):
    arriving_errors(with_agent, unresponsive(), unresponsive())
    assert with_agent.move().guest_time == "set"


@pytest.mark.parametrize(
    "errors", [[unresponsive()] * 1000, [fake.libvirtError("internal error: hwclock failed to set hardware clock", 1)]]
)
def test_c1_25_an_agent_that_fails_is_only_warned_about(with_agent, errors):
    arriving_errors(with_agent, *errors)
    result = with_agent.move()
    assert (result.failed, result.outcome, result.guest_time) == (False, "migrated", "failed")
    assert result.warnings == [f"the clock of a was not set after the move: {errors[0]}"]


def test_c1_25_an_agent_that_hangs_costs_a_connection_of_its_own_only(with_agent, monkeypatch):
    monkeypatch.setattr(guest, "AGENT_PATIENCE", 0.05)
    monkeypatch.setattr(fake.virDomain, "setTime", lambda self, time, flags: fake._never.wait(1))
    result = with_agent.move()
    assert (result.outcome, result.guest_time) == ("migrated", "failed")
    assert f"{DEST_URI} did not answer within 0.05 s" in result.warnings[0]
    assert result.dest["state"] == "running"
