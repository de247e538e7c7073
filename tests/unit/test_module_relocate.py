# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""virt_domblk_copy on one host, from its arguments to its answer: real files, and a libvirt that is none."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from test_module_recover import Killed, killed_at

from ansible_collections.kvmops.migration.plugins.module_utils._domblk import relocate, start
from ansible_collections.kvmops.migration.plugins.module_utils._images import carry, stream
from ansible_collections.kvmops.migration.plugins.module_utils._images.look import Images
from ansible_collections.kvmops.migration.plugins.module_utils._migrate import local, worker
from ansible_collections.kvmops.migration.plugins.module_utils._pure.domblk import Wish
from ansible_collections.kvmops.migration.plugins.module_utils._pure.images import NO_ANSWER, Image
from ansible_collections.kvmops.migration.plugins.module_utils._pure.refusal import Refusal
from ansible_collections.kvmops.migration.plugins.modules import virt_domblk_copy, virt_migrate
from fake import blockcopy
from fake import libvirt as fake
from fake.lab import OTHER, UUID, disk_xml, domain_xml, volume_xml

# Real images are made and looked at.
needs_qemu_img = pytest.mark.skipif(not shutil.which("qemu-img"), reason="qemu-img is not installed here")
SHUTOFF, RUNNING = fake.VIR_DOMAIN_SHUTOFF, fake.VIR_DOMAIN_RUNNING


class Here:
    """One host with VM `a`, whose images are real files."""

    def __init__(self, tmp_path, monkeypatch, capsys):
        self.old, self.new = tmp_path / "old", tmp_path / "new place"
        self.old.mkdir()
        self.new.mkdir()
        self._capsys = capsys
        self.host = fake.use(fake.World("kvm1", "kvm2"))["kvm1"]
        self.host.world.local = "kvm1"
        monkeypatch.setattr(local, "STATE_DIRECTORY", str(tmp_path / "state"))
        monkeypatch.setattr(worker, "RUN_DIRECTORY", str(tmp_path / "run"))
        self.warnings = []
        monkeypatch.setattr(AnsibleModule, "warn", lambda _, text, **more: self.warnings.append(text))
        monkeypatch.setattr(relocate, "STEP", 0.001)

    def add(self, state=SHUTOFF, disks=("a.img",), name="a", uuid=UUID, **more):
        devices = []
        for number, image in enumerate(disks):
            (self.old / image).write_bytes(os.urandom(100_000))
            devices.append(disk_xml(f"vd{chr(97 + number)}", str(self.old / image), "raw"))
        guest = fake.Guest(name, uuid, domain_xml(name, uuid, devices), state=state, **more)
        if guest.active:
            guest.inactive_xml = guest.xml
        self.host.guests[uuid] = guest
        return guest

    def run(self, module=virt_domblk_copy, check=False, diff=False, **options):
        self._capsys.readouterr()
        arguments = {"name": "a", **options, "_ansible_check_mode": check, "_ansible_diff": diff}
        with patch_module_args(arguments), pytest.raises(SystemExit) as end:
            module.main()
        result = json.loads(self._capsys.readouterr().out)
        result.setdefault("failed", False)
        assert (end.value.code != 0) == result["failed"], result
        return SimpleNamespace(**result)

    def move(self, **options):
        return self.run(dest_dir=str(self.new), **options)

    def files(self):
        return sorted(path.name for path in self.new.iterdir())

    def unfinished(self):
        folder = Path(local.STATE_DIRECTORY) / "unfinished"
        return list(folder.iterdir()) if folder.is_dir() else []

    def sources(self, guest):
        texts = [guest.xml, guest.inactive_xml or guest.xml]
        disks = [blockcopy.ET.fromstring(text).findall("devices/disk/source") for text in texts]
        return [[node.get("file") for node in found] for found in disks]


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    made = Here(tmp_path, monkeypatch, capsys)
    yield made
    strays = [path for path in tmp_path.rglob("*") if "kvmops" in path.name]
    assert not strays
    assert all(not guest.around.copies for guest in made.host.guests.values())


@pytest.fixture
def kill(here, monkeypatch):
    def kill(phase, **options):
        with killed_at(phase, monkeypatch):
            here.move(**options)

    return kill


@pytest.mark.parametrize("state", [SHUTOFF, RUNNING])
@pytest.mark.parametrize("remove", [True, False])
def test_c7_110_the_disks_are_at_the_new_place(here, state, remove):
    guest = here.add(state, ("a.img", "b.img"))
    before = [(here.old / name).read_bytes() for name in ("a.img", "b.img")]
    result = here.move(remove_source=remove)
    assert (result.outcome, result.changed) == ("copied", True)
    assert here.sources(guest) == [[str(here.new / "a.img"), str(here.new / "b.img")]] * 2
    assert [(here.new / name).read_bytes() for name in ("a.img", "b.img")] == before
    assert len(list(here.old.iterdir())) == (0 if remove else 2)
    assert len(result.removed) == (2 if remove else 0)
    assert not here.unfinished()
    again = here.move(remove_source=remove)
    assert (again.outcome, again.changed) == ("already_there", False)


def test_a_running_guest_has_every_write_in_both_images_before_it_goes_over(here):
    guest = here.add(RUNNING)
    here.move()
    wanted = blockcopy.VIR_DOMAIN_BLOCK_COPY_SYNCHRONOUS_WRITES | blockcopy.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB
    assert guest.around.copy_flags[0] & wanted == wanted


def test_one_of_several_disks_goes(here):
    guest = here.add(SHUTOFF, ("a.img", "b.img"))
    here.move(disks=["vdb"])
    assert here.sources(guest)[1] == [str(here.old / "a.img"), str(here.new / "b.img")]


def test_check_mode_says_what_would_be_done_and_shows_the_definition(here):
    guest = here.add(SHUTOFF)
    result = here.move(check=True, diff=True)
    assert (result.outcome, result.changed) == ("planned", True)
    assert [(row["action"], row["bytes"]) for row in result.files] == [("copy", 100_000)]
    assert str(here.new) in result.diff[0]["after"] and str(here.new) not in result.diff[0]["before"]
    assert here.files() == []
    assert here.sources(guest)[0] == [str(here.old / "a.img")]


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    ("options", "failure_class", "said"),
    [
        ({"dest_dir": "relative"}, "bad_option", "dest_dir: 'relative' is no absolute path"),
        ({"path_map": {"/old": "new"}}, "bad_option", "are not two absolute paths"),
        ({"dest_dir": "/nowhere/at/all"}, "directory_missing", "no directory /nowhere/at/all"),
        ({"disks": ["vdx"], "dest_dir": "/tmp"}, "disk_target", "a has no disk 'vdx'"),
        (
            {"bandwidth": -1, "dest_dir": "/tmp"},
            "bad_option",
            "accepted: MiB per second from 0 (the default) to 8796093022207",
        ),
        ({"name": "none", "dest_dir": "/tmp"}, "not_found", "VM none was not found"),
        ({}, "bad_option", "neither another place nor another host"),
        ({"disks": [], "dest_dir": "/tmp"}, "bad_option", "disks: the list is empty"),
        ({"path_map": {"/nowhere": "/elsewhere"}}, "bad_option", "path_map: no image of a is /nowhere, or in it"),
        ({"connect_timeout": 0, "dest_dir": "/tmp"}, "bad_option", "connect_timeout: 0 is not accepted"),
        ({"uri": "qemu+ssh://root@kvm2/system", "dest_dir": "/tmp"}, "bad_option", "leads to another host"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(here, options, failure_class, said, check):
    here.add()
    result = here.run(check=check, **options)
    assert result.failed
    assert (result.failure_class, result.outcome) == (failure_class, "refused")
    assert said in result.msg and "\n" not in result.msg
    assert result.cure


@pytest.mark.parametrize("state", [SHUTOFF, RUNNING])
def test_a_file_in_the_way_stays(here, state):
    here.add(state)
    (here.new / "a.img").write_text("mine")
    result = here.move()
    assert result.failure_class == "dest_image_exists"
    assert (here.new / "a.img").read_text() == "mine"
    assert not here.unfinished()


def test_a_disk_of_another_guest_is_not_written_to_and_not_removed(here):
    here.add()
    other = here.add(name="b", uuid=OTHER, disks=())
    other.xml = domain_xml("b", OTHER, [disk_xml(path=str(here.new / "a.img"), image="raw")])
    assert here.move().failure_class == "image_in_use"
    other.xml = domain_xml("b", OTHER, [disk_xml(path=str(here.old / "a.img"), image="raw")])
    result = here.move(remove_source=True)
    assert (result.failure_class, result.failed) == ("image_in_use", True)
    assert "used by VM b as well" in result.msg


@pytest.mark.parametrize("state", [SHUTOFF, RUNNING])
def test_a_volume_of_another_guest_is_not_written_to_and_not_removed(here, state):
    here.add(state)
    for pool, folder in (("old", here.old), ("new", here.new)):
        here.host.directories[str(folder)] = {"a.img": fake.File("raw")}
        here.host.add_pool(pool, str(folder))
    (here.new / "a.img").write_text("of b")
    other = here.add(name="b", uuid=OTHER, disks=())
    other.xml = domain_xml("b", OTHER, [volume_xml("a.img", "new", "raw")])
    result = here.move(force=True)
    assert (result.failure_class, (here.new / "a.img").read_text()) == ("image_in_use", "of b"), result
    (here.new / "a.img").unlink()
    other.xml = domain_xml("b", OTHER, [volume_xml("a.img", "old", "raw")])
    result = here.move(remove_source=True)
    assert "used by VM b as well" in result.msg


def test_a_volume_of_a_pool_that_is_not_started_is_not_written_to(here):
    here.add()
    here.host.directories[str(here.new)] = {"a.img": fake.File("raw")}
    here.host.add_pool("new", str(here.new))
    here.host.pools["new"].active = False
    (here.new / "a.img").write_text("of b")
    here.add(name="b", uuid=OTHER, disks=()).xml = domain_xml("b", OTHER, [volume_xml("a.img", "new", "raw")])
    assert here.move(force=True).failure_class == "image_in_use"
    assert (here.new / "a.img").read_text() == "of b"


def test_what_lies_below_a_volume_that_nobody_finds_is_not_removed(here):
    here.add()
    base = f"<backingStore type='file'><format type='raw'/><source file='{here.old / 'a.img'}'/></backingStore></disk>"
    volume = volume_xml("b.qcow2", "gone").replace("</disk>", base)
    here.add(name="b", uuid=OTHER, disks=()).xml = domain_xml("b", OTHER, [volume])
    assert "used by VM b as well" in here.move(remove_source=True).msg


def test_an_image_is_not_removed_where_another_one_does_not_tell_what_it_lies_on(here, monkeypatch):
    here.add()
    here.add(name="b", uuid=OTHER, disks=()).xml = domain_xml("b", OTHER, [disk_xml(path="/silent/b.qcow2")])
    look = Images.image

    def image(self, path, declared):
        if path.startswith("/silent"):
            return Image(path, declared, state=NO_ANSWER, problem="it did not answer")
        return look(self, path, declared)

    monkeypatch.setattr(Images, "image", image)
    refused = here.move(remove_source=True)
    assert refused.failure_class == "image_unreadable"
    assert "/silent/b.qcow2, which VM b uses, does not tell what it lies on" in refused.msg
    assert here.move().outcome == "copied"


@pytest.mark.parametrize("taken", [False, True])
def test_what_a_killed_run_was_writing_stays_where_it_is_a_volume_of_another_guest(here, kill, taken):
    here.add(RUNNING)
    kill("copying")
    new = here.new / "a.img"
    new.write_bytes(b"begun")
    found = new.stat()
    [ledger] = here.unfinished()
    plain = {**json.loads(ledger.read_text()), "made": {str(new): {"inode": found.st_ino, "device": found.st_dev}}}
    ledger.write_text(json.dumps(plain))
    if taken:
        here.host.directories[str(here.new)] = {"a.img": fake.File("raw")}
        here.host.add_pool("new", str(here.new))
        other = here.add(name="b", uuid=OTHER, disks=())
        other.xml = domain_xml("b", OTHER, [volume_xml("a.img", "new", "raw")])
    here.run(virt_migrate, cleanup=True)
    assert new.exists() == taken


@needs_qemu_img
def test_an_image_that_another_guest_lies_on_is_not_removed(here):
    here.add()
    overlay = here.old / "b.qcow2"
    base = str(here.old / "a.img")
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", str(overlay)]
    subprocess.run(create, check=True)
    # A definition says nothing of what lies below; the image does.
    other = here.add(name="b", uuid=OTHER, disks=())
    other.xml = domain_xml("b", OTHER, [disk_xml(path=str(overlay))])
    result = here.move(remove_source=True)
    assert result.failure_class == "image_in_use", result
    assert here.move().outcome == "copied"


@needs_qemu_img
@pytest.mark.parametrize("state", [SHUTOFF, RUNNING])
@pytest.mark.parametrize("lies_on", [True, False])
def test_an_image_that_another_disk_of_the_vm_needs_is_not_removed(here, state, lies_on):
    guest = here.add(state, disks=("a.img", "b.img"))
    top, second = here.old / "top.qcow2", here.old / "b.img"
    if lies_on:
        base = str(here.old / "a.img")
        subprocess.run(["qemu-img", "create", "-qf", "qcow2", "-b", base, "-F", "raw", str(top)], check=True)
    new = disk_xml("vdb", str(top), "qcow2") if lies_on else disk_xml("vdb", str(here.old / "a.img"), "raw")
    guest.xml = guest.xml.replace(disk_xml("vdb", str(second), "raw"), new)
    guest.inactive_xml = guest.xml if guest.active else guest.inactive_xml
    result = here.move(disks=["vda"], remove_source=True)
    assert result.failure_class == "image_in_use", result
    assert "disk vdb" in result.msg
    assert (here.old / "a.img").exists()
    assert here.move(disks=["vda"]).outcome == "copied"


@pytest.fixture
def stacked(here):
    """A VM whose first disk lies on its second one."""

    def stacked(state):
        guest = here.add(state, disks=("base.img",))
        base, top = here.old / "base.img", here.old / "top.qcow2"
        subprocess.run(["qemu-img", "create", "-qf", "qcow2", "-b", str(base), "-F", "raw", str(top)], check=True)
        guest.xml = domain_xml(disks=[disk_xml("vda", str(top)), disk_xml("vdb", str(base), "raw")])
        guest.inactive_xml = guest.xml if guest.active else ""
        return guest

    return stacked


@needs_qemu_img
@pytest.mark.parametrize("state", [SHUTOFF, RUNNING])
def test_an_image_is_removed_when_what_lay_on_it_has_become_whole(here, stacked, state):
    stacked(state)
    kept = here.move(remove_source=True)
    assert (kept.failure_class, "backing: flatten" in kept.cure) == ("image_in_use", True), kept
    result = here.move(remove_source=True, backing="flatten")
    assert result.outcome == "copied", result
    assert sorted(result.removed) == [str(here.old / "base.img"), str(here.old / "top.qcow2")]
    assert here.files() == ["base.img", "top.qcow2"]


@needs_qemu_img
def test_an_image_stays_as_long_as_what_lies_on_it_has_not_moved(here, stacked):
    guest = stacked(RUNNING)
    guest.around.pivot_errors = [fake.libvirtError("internal error: pivot failed", 1) for _number in range(2)]
    result = here.move(remove_source=True, backing="flatten")
    assert "vdb moved all the same" in result.msg, result
    assert here.sources(guest)[0] == [str(here.old / "top.qcow2"), str(here.new / "base.img")]
    assert (here.old / "base.img").exists() and (here.old / "top.qcow2").exists()
    assert str(here.old / "base.img") in [one["path"] for one in result.left_behind]


@pytest.mark.parametrize("state", [SHUTOFF, RUNNING])
def test_two_disks_that_would_become_one_are_refused(here, state):
    guest = here.add(state)
    (here.old / "sub").mkdir()
    (here.old / "sub" / "a.img").write_bytes(b"other")
    disks = [disk_xml("vda", str(here.old / "a.img"), "raw"), disk_xml("vdb", str(here.old / "sub" / "a.img"), "raw")]
    guest.xml = domain_xml(disks=disks)
    guest.inactive_xml = guest.xml if guest.active else ""
    result = here.move()
    assert result.failure_class == "same_path"
    assert here.files() == []


@pytest.mark.parametrize("state", [SHUTOFF, RUNNING])
def test_snapshots_keep_disks_where_they_are(here, state):
    guest = here.add(state)
    guest.around.snapshots["first"] = (
        f"<domainsnapshot><name>first</name><domain><uuid>{UUID}</uuid></domain></domainsnapshot>"
    )
    result = here.move()
    assert result.failure_class == "snapshots"
    assert "virsh snapshot-delete a NAME --metadata" in result.cure


@pytest.mark.parametrize("state", [SHUTOFF, RUNNING])
def test_a_definition_that_somebody_changes_meanwhile_is_not_overwritten(here, monkeypatch, state):
    guest = here.add(state)
    edited = guest.xml.replace("a.img", "edited.img")

    def edit(self, name):
        self.say(phase=name)
        if name == "copied":
            setattr(guest, "inactive_xml" if guest.active else "xml", edited)

    with monkeypatch.context() as patch:
        patch.setattr(worker.Worker, "phase", edit)
        result = here.move(remove_source=True)
    assert (result.failure_class, result.outcome) == ("definition_changed", "failed"), result
    assert "edited.img" in (guest.inactive_xml or guest.xml)
    assert here.files() == []
    assert (here.old / "a.img").exists()
    assert not here.unfinished()


@pytest.mark.parametrize("replace", [False, True])
def test_an_image_that_changes_during_the_copy_does_not_move(here, monkeypatch, replace):
    guest = here.add()
    before = here.sources(guest)

    def write(self, name):
        """As on a file system without locks, or by what asks for none."""
        self.say(phase=name)
        if name == "copied":
            if replace:
                (here.old / "other").write_bytes((here.old / "a.img").read_bytes())
                (here.old / "other").rename(here.old / "a.img")
            with (here.old / "a.img").open("r+b") as file:
                file.write(b"changed")

    with monkeypatch.context() as patch:
        patch.setattr(worker.Worker, "phase", write)
        result = here.move(remove_source=True)
    assert (result.failure_class, result.outcome) == ("image_changed", "failed"), result
    assert here.sources(guest) == before
    assert here.files() == []
    assert (here.old / "a.img").read_bytes().startswith(b"changed")
    assert not here.unfinished()


def test_a_file_that_somebody_else_has_put_there_is_not_removed(here, kill):
    here.add(RUNNING)
    kill("journalled")
    (here.new / "a.img").write_text("mine")
    result = here.run(virt_migrate, cleanup=True)
    assert result.outcome == "failed"
    assert (here.new / "a.img").read_text() == "mine"


def test_a_guest_that_was_undefined_keeps_nobody_waiting(here, kill):
    here.add()
    kill("copied")
    here.host.guests.clear()
    other = here.add(uuid=OTHER)
    assert here.move().outcome == "copied"
    assert not here.unfinished()
    assert here.sources(other)[0] == [str(here.new / "a.img")]


@pytest.mark.parametrize("state", [SHUTOFF, RUNNING])
def test_c5_95_a_copy_that_is_to_end_ends_as_long_as_nothing_has_its_name(here, monkeypatch, state):
    guest = here.add(state)
    before = here.sources(guest)

    def ask(self, name):
        self.say(phase=name)
        if name == "copied":
            worker.ask_to_end(self.run_id)

    with monkeypatch.context() as patch:
        patch.setattr(worker.Worker, "phase", ask)
        result = here.move(remove_source=True)
    assert (result.failure_class, result.outcome, result.changed) == ("cancelled", "failed", False), result
    assert here.sources(guest) == before
    assert here.files() == []
    assert not here.unfinished()


def test_what_it_was_told_is_where_others_look_for_it(here, monkeypatch):
    here.add()
    said = []

    def look(self, name):
        self.say(phase=name)
        said.append((worker.told(self.run_id), worker.status_of(self.run_id)))

    with monkeypatch.context() as patch:
        patch.setattr(worker.Worker, "phase", look)
        here.move()
    told, status = said[0]
    assert told == start.told(Wish(dest_dir=str(here.new)))
    assert str(here.new) not in str(status)


def test_the_difference_is_the_place_alone(here):
    guest = here.add()
    guest.xml = guest.xml.replace(
        "<domain ", "<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0' "
    ).replace("<devices>", "<qemu:commandline><qemu:arg value='-no-hpet'/></qemu:commandline><devices>")
    diff = here.move(check=True, diff=True).diff[0]
    assert "<qemu:arg" in diff["after"]
    assert diff["after"].replace(str(here.new), str(here.old)) == diff["before"]


@needs_qemu_img
def test_a_whole_image_needs_what_lies_below_as_well(here):
    here.add()
    top = here.old / "top.qcow2"
    base = str(here.old / "a.img")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", str(top)], check=True)
    here.host.guests[UUID].xml = domain_xml(disks=[disk_xml(path=str(top))])
    [row] = here.move(backing="flatten", check=True).files
    assert (row["action"], row["reason"]) == ("convert", "it becomes one whole image")
    assert row["bytes"] > 100_000


def test_what_a_killed_run_has_left_is_gone_when_it_is_settled(here, kill):
    here.add()
    kill("copied")
    [ledger] = here.unfinished()
    folder = Path(worker.RUN_DIRECTORY) / ledger.stem
    folder.mkdir()
    (folder / "lock").touch()
    assert here.run(virt_migrate, cleanup=True).outcome == "failed"
    assert not folder.exists()


def test_a_saved_state_is_refused(here):
    here.add(managed_save=True)
    assert here.move().failure_class == "managed_save"


def test_an_older_libvirt_does_not_copy_under_a_running_guest(here):
    here.add(RUNNING)
    here.host.version = 7_009_000
    result = here.move()
    assert result.failure_class == "too_old"
    assert "shut the VM down" in result.cure


def test_a_job_that_goes_on_is_left_alone(here):
    here.add(RUNNING).around.block_jobs.add("vda")
    assert here.move().failure_class == "busy"


def test_a_definition_that_libvirt_refuses_leaves_everything_as_it_was(here, monkeypatch):
    guest = here.add()

    def refuse(self, xml):
        raise fake.libvirtError("unsupported configuration: no", 67)

    with monkeypatch.context() as patch:
        patch.setattr(fake.virConnect, "defineXML", refuse)
        result = here.move(remove_source=True)
    assert (result.outcome, result.changed) == ("failed", False), result
    assert here.sources(guest)[0] == [str(here.old / "a.img")]
    assert here.files() == []
    assert (here.old / "a.img").exists()
    assert not here.unfinished()


@pytest.mark.parametrize("errors", [1, 9])
def test_a_pivot_that_fails_leaves_every_disk_in_one_place(here, errors):
    guest = here.add(RUNNING, ("a.img", "b.img"))
    guest.around.pivot_errors = [fake.libvirtError("internal error: pivot failed", 1) for _number in range(errors)]
    result = here.move(remove_source=True)
    assert result.failed, result
    live, defined = here.sources(guest)
    assert live == defined
    # A second try goes through where that is possible, and that is said.
    assert ("moved all the same" in result.msg) == (errors == 1) == result.changed
    assert sorted(path for folder in (here.old, here.new) for path in map(str, folder.iterdir())) == sorted(live)
    assert not here.unfinished()


@pytest.mark.parametrize("phase", ["journalled", "copying", "verifying", "copied", "prepared", "moved", "finishing"])
@pytest.mark.parametrize("settle", ["the next run", "cleanup"])
def test_c3_75_a_killed_copy_of_a_guest_that_is_shut_off(here, kill, phase, settle):
    guest = here.add()
    kill(phase, remove_source=True)
    _settled(here, guest, settle, moved=phase in ("moved", "finishing"), done=phase == "finishing")


@pytest.mark.parametrize("phase", ["journalled", "copying", "copied", "prepared", "moving", "moved", "finishing"])
@pytest.mark.parametrize("settle", ["the next run", "cleanup"])
def test_c3_75_a_killed_copy_of_a_running_guest(here, kill, phase, settle):
    guest = here.add(RUNNING)
    kill(phase, remove_source=True)
    # Once the definition names the copy, it has everything, and the guest goes over.
    _settled(
        here, guest, settle, moved=phase in ("prepared", "moving", "moved", "finishing"), done=phase == "finishing"
    )


@pytest.mark.parametrize("phase", ["prepared", "moving", "moved"])
def test_c3_75_a_guest_that_ends_after_its_copy_was_killed_has_every_write(here, kill, phase):
    guest = here.add(RUNNING)
    kill(phase)
    # Its power is gone, and with it the block job; libvirt has the definition.
    guest.around.copies.clear()
    guest.state, guest.xml, guest.inactive_xml = SHUTOFF, guest.inactive_xml, ""
    result = here.move()
    assert not result.failed, result
    assert here.sources(guest)[0] == [str(here.new / "a.img")]


def _settled(here, guest, settle, moved, done):
    assert len(here.unfinished()) == (0 if done else 1)
    if settle == "cleanup":
        result = here.run(virt_migrate, cleanup=True)
        assert result.outcome == ("nothing_to_do" if done else "copied" if moved else "failed"), result
    else:
        result = here.move(remove_source=True)
        assert result.outcome == ("already_there" if moved else "copied"), result
        moved = True
    assert not result.failed
    assert not here.unfinished()
    place = here.new if moved else here.old
    assert here.sources(guest) == [[str(place / "a.img")]] * 2
    assert [path.name for folder in (here.old, here.new) for path in folder.iterdir()] == ["a.img"]
    assert (place / "a.img").exists()


@needs_qemu_img
def test_c7_110_a_format_changes_by_the_way_unless_that_loses_something(here):
    guest = here.add()
    result = here.run(path_map={str(here.old): str(here.new / "a.qcow2")[: -len("/a.qcow2")]}, format="qcow2")
    assert result.outcome == "copied", result
    assert (here.new / "a.img").read_bytes()[:4] == b"QFI\xfb"
    subprocess.run(["qemu-img", "snapshot", "-c", "first", str(here.new / "a.img")], check=True)
    back = here.run(path_map={str(here.new / "a.img"): str(here.old / "b.raw")}, format="raw")
    assert back.failure_class == "conversion_loses"
    assert "internal snapshot first" in back.msg
    assert here.sources(guest)[0] == [str(here.new / "a.img")]


@needs_qemu_img
def test_force_replaces_no_image_that_a_vm_has_or_lies_on(here):
    guest = here.add(disks=("a.img", "b.img"))
    before = here.sources(guest)
    base, top = here.new / "base.img", here.new / "top.qcow2"
    base.write_bytes(os.urandom(100_000))
    subprocess.run(["qemu-img", "create", "-qf", "qcow2", "-b", str(base), "-F", "raw", str(top)], check=True)
    (here.new / "link").symlink_to(base)
    here.host.guests[OTHER] = fake.Guest(
        "c", OTHER, domain_xml("c", OTHER, [disk_xml("vda", str(top), "qcow2")]), state=SHUTOFF
    )
    for dest, user in ((base, "c"), (here.new / "link", "c"), (here.old / "b.img", "a")):
        kept = dest.read_bytes()
        result = here.run(path_map={str(here.old / "a.img"): str(dest)}, force=True)
        assert result.failure_class == "image_in_use", (dest, result)
        assert f"is used by VM {user}" in result.msg
        assert dest.read_bytes() == kept
    assert here.sources(guest) == before


@pytest.fixture
def slow_qemu_img(here, monkeypatch, tmp_path):
    """A qemu-img whose conversions never end; where it notes its number."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "qemu-img"
    real = shutil.which("qemu-img")
    program.write_text(
        f'#!/bin/sh\nif [ $1 = convert ]; then echo $$ >{folder}/pid; exec sleep 1000; fi\nexec {real} "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder / "pid"


def test_c5_95_a_conversion_can_be_ended(here, monkeypatch, slow_qemu_img):
    here.add()
    wishes = iter([None, None])
    monkeypatch.setattr(worker.Worker, "wish", lambda _self: next(wishes, ("cancelled", "somebody asked for it")))
    result = here.move(format="qcow2")
    assert (result.failure_class, result.outcome) == ("cancelled", "failed"), result
    assert here.files() == []
    assert not Path(f"/proc/{slow_qemu_img.read_text().strip()}").exists()


def test_c3_75_of_a_killed_conversion_nothing_is_left(here, slow_qemu_img):
    here.add()
    child = os.fork()
    if not child:
        try:
            here.move(format="qcow2")
        finally:
            os._exit(1)
    deadline = time.monotonic() + 20
    while not (slow_qemu_img.exists() and slow_qemu_img.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    number = Path(f"/proc/{slow_qemu_img.read_text().strip()}")
    [stage] = here.files()
    assert (here.new / stage).stat().st_mode & 0o777 == 0o600
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while number.exists() and "Z" not in (number / "stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert here.run(virt_migrate, cleanup=True).outcome == "failed"
    assert here.files() == []


def test_a_running_vm_counts_on_room_that_other_copies_have_not_been_promised(here, monkeypatch):
    here.add(state=RUNNING)
    asked = {}
    monkeypatch.setattr(carry.Peer, "ask", spied(carry.Peer.ask, asked))
    assert here.move(check=True).outcome == "planned"
    [need] = asked["reserve"]["needs"].values()
    assert need > 0 and asked["reserve"]["named"]
    full = {"missing": [{"directory": "/new", "need": need, "free": 1}]}
    monkeypatch.setattr(carry.Peer, "ask", lambda self, do, **more: full if do == "reserve" else None)
    result = here.move()
    assert result.failure_class == "no_space" and "1 are free and not promised to other copies" in result.msg


def test_a_conversion_needs_room_for_the_converted_image_as_well(here, monkeypatch):
    here.add()
    asked = {}
    monkeypatch.setattr(carry.Peer, "ask", spied(carry.Peer.ask, asked))
    here.move(format="qcow2", check=True)
    assert len(asked["reserve"]["needs"]) == 2


@pytest.mark.parametrize(
    ("said", "failure_class", "cure"),
    [
        ("there is no python3", "python_missing", "install python3"),
        ("sudo: a password is required", "not_permitted", "sudo without a password"),
        ("root@kvm2: Permission denied (publickey).", "ssh_login", "role ssh_trust"),
    ],
)
def test_why_a_host_takes_no_images_is_told_apart(monkeypatch, said, failure_class, cure):
    def refused(_login, _timeout):
        return carry.Peer(["sh", "-c", f"echo '{said}' >&2; exit 127"], "kvm2")

    monkeypatch.setattr(carry.Peer, "over_ssh", refused)
    with pytest.raises(Refusal, match=re.escape(said)) as caught:
        carry.Way("kvm2").open(1.0)
    assert caught.value.failure_class == failure_class
    assert cure in caught.value.cure


@pytest.mark.parametrize(
    ("source", "dest", "is_local", "folder"),
    [
        ("/vm/a", "/new/a", True, "/new"),
        ("/vm/a", "/new/a", False, "/vm"),
        ("/vm/a", "/dev/vg/a", True, "/vm"),
        ("/dev/vg/a", "/new/a", True, "/new"),
        ("/dev/vg/a", "/new/a", False, "/var/tmp"),
        ("/dev/vg/a", "/dev/vg2/a", True, "/var/tmp"),
    ],
)
def test_no_image_is_made_in_the_memory_that_dev_is(source, dest, is_local, folder):
    assert str(Path(carry.stage_of(source, dest, is_local, "1-a")).parent) == folder


def spied(ask, asked):
    def spy(self, do, **arguments):
        asked[do] = arguments
        return ask(self, do, **arguments)

    return spy


@pytest.fixture
def device(tmp_path):
    backing = tmp_path / "backing"
    backing.write_bytes(bytes(4 << 20))
    made = subprocess.run(["losetup", "--find", "--show", str(backing)], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no loop device here: {made.stderr.strip()}")
    yield made.stdout.strip()
    subprocess.run(["losetup", "--detach", made.stdout.strip()], check=True)


def test_c7_110_a_disk_goes_to_a_device_and_back(here, device):
    guest = here.add()
    before = (here.old / "a.img").read_bytes()
    result = here.run(path_map={str(here.old / "a.img"): device}, remove_source=True)
    assert result.outcome == "copied", result
    assert f'dev="{device}"' in guest.xml and 'type="block"' in guest.xml
    assert Path(device).read_bytes()[: len(before)] == before
    back = here.run(path_map={device: str(here.old / "b.img")}, remove_source=True)
    assert (back.outcome, back.removed) == ("copied", []), back
    assert Path(device).is_block_device()
    assert (here.old / "b.img").read_bytes()[: len(before)] == before
    # A device is left, and what it holds is not overwritten by mistake.
    again = here.run(path_map={str(here.old / "b.img"): device})
    assert again.failure_class == "dest_image_exists"
    assert "holds something" in again.msg
    assert here.run(path_map={str(here.old / "b.img"): device}, force=True).outcome == "copied"


@pytest.mark.parametrize("state", [SHUTOFF, RUNNING])
def test_a_device_becomes_a_file_only_where_it_is_named(here, device, state):
    guest = here.add()
    guest.xml = domain_xml(
        disks=[
            disk_xml("vda", str(here.old / "a.img"), "raw"),
            disk_xml("vdb", device, "raw", kind="block", attribute="dev"),
        ]
    )
    if state == RUNNING:
        guest.state, guest.inactive_xml = RUNNING, guest.xml
    assert here.move().outcome == "copied"
    assert here.files() == ["a.img"]
    assert f"dev='{device}'" in guest.xml.replace('"', "'")
    assert any(f"disk vdb is the device {device} and stays it" in text for text in here.warnings)
    if state == SHUTOFF:
        assert here.move(disks=["vdb"]).outcome == "copied"
        assert here.files() == ["a.img", Path(device).name]


def test_c7_107_a_device_that_is_too_small_is_refused(here, device):
    here.add()
    (here.old / "a.img").write_bytes(os.urandom(5 << 20))
    result = here.run(path_map={str(here.old / "a.img"): device})
    assert result.failure_class == "dest_too_small"
    assert Path(device).read_bytes() == bytes(4 << 20)


@pytest.mark.parametrize("run_too", [False, True])
def test_c7_111_a_device_that_a_killed_receiver_has_half_written_needs_no_force(here, monkeypatch, device, run_too):
    guest = here.add()
    (here.old / "a.img").write_bytes(os.urandom(1 << 22))
    options = {"path_map": {str(here.old / "a.img"): device}}

    def send(image, peer, *more, **options):
        def kill(_count):
            # What was written is on the device, and the end is not clean.
            os.pwrite(handle, os.pread(image.handle, 4 << 10, 0), 0)
            peer._process.kill()
            if run_too:
                raise Killed

        handle = os.open(device, os.O_RDWR)
        try:
            return stream.send(image, peer, *more, **{**options, "progress": kill})
        finally:
            os.close(handle)

    with monkeypatch.context() as patch:
        patch.setattr(carry, "send", send)
        if run_too:
            with pytest.raises(Killed):
                here.run(**options)
            assert here.unfinished()
        else:
            assert here.run(**options).outcome == "failed"
    assert (Path(device).read_bytes()[:4096] != bytes(4096)) == run_too
    assert here.run(check=True, **options).outcome == "planned"
    again = here.run(**options)
    assert again.outcome == "copied", again
    assert blockcopy.ET.fromstring(guest.xml).find("devices/disk/source").get("dev") == device
    assert Path(device).read_bytes() == (here.old / "a.img").read_bytes()


def test_what_was_made_and_is_another_file_now_is_named(here, kill):
    here.add()
    kill("prepared")
    (here.new / "a.img").write_bytes(b"mine")
    result = here.move()
    assert result.failure_class == "dest_image_exists"
    assert any(f"{here.new / 'a.img'} on this host was left in place" in text for text in here.warnings)


def test_a_file_that_was_not_replaced_yet_is_not_spoken_of(here, kill):
    here.add()
    (here.new / "a.img").write_bytes(b"old")
    kill("copied", force=True)
    result = here.move(force=True)
    assert result.outcome == "copied"
    assert not here.warnings


@pytest.mark.parametrize("state", [SHUTOFF, RUNNING])
def test_all_directories_that_are_missing_are_named_at_once(here, state):
    here.add(state, ("a.img", "b.img"))
    options = {str(here.old / name): f"/nowhere/{name[0]}/{name}" for name in ("a.img", "b.img")}
    result = here.run(path_map=options)
    assert result.failure_class == "directory_missing"
    assert "there are no directories /nowhere/a and /nowhere/b on this host" in result.msg


@needs_qemu_img
def test_an_image_keeps_its_name_in_another_format(here):
    guest = here.add()
    assert here.move(format="qcow2").outcome == "copied"
    assert here.files() == ["a.img"]
    assert 'type="qcow2"' in guest.xml


def records():
    return [json.loads(path.read_text()) for path in sorted((Path(local.STATE_DIRECTORY) / "runs").glob("*.json"))]


@pytest.mark.parametrize("state", [SHUTOFF, RUNNING])
def test_a_relocation_leaves_its_record(here, state):
    here.add(state)
    result = here.move(diff=True)
    (record,) = records()
    assert (record["name"], record["outcome"], record["host"]) == ("a", "copied", "kvm1")
    assert record["run"] == result.run
    assert "diff" not in record
    assert [one["step"] for one in record["steps"]][0::2][:2] == ["checking", "copying"]
    assert record["series"][-1]["disk_remaining"] == 0
    assert record["duration_s"] >= 0
    # Nothing to do leaves nothing.
    here.move()
    assert len(records()) == 1


def test_a_relocation_that_has_failed_leaves_its_record(here, monkeypatch):
    here.add()

    def full(*_arguments, **_more):
        raise stream.StreamError("no space left")

    monkeypatch.setattr(carry.Carrying, "copy", full)
    result = here.move()
    assert result.failed
    (record,) = records()
    assert record["failed"]
    assert record["outcome"] == "failed"
    assert record["msg"] == result.msg
