# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""virt_domblk_info: the disks of a host's VMs, from the module's arguments to its answer, on real images."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from ansible_collections.kvmops.migration.plugins.module_utils._images import look
from ansible_collections.kvmops.migration.plugins.modules import virt_domblk_info
from fake import libvirt as fake
from fake.lab import DEST_URI, OTHER, UUID, disk_xml, domain_xml

MIB = 1 << 20
needs_qemu_img = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")


@pytest.fixture
def folder(lab, tmp_path):
    """A directory with images that both this machine and the fake kvm1 have, and a pool in it."""
    made = tmp_path / "images é"
    made.mkdir()
    lab.kvm1.directories[str(made)] = {}
    lab.kvm1.add_pool("images", str(made))
    return made


def image(lab, path, *options, size="2M"):
    """An image, known to libvirt as of its last look."""
    subprocess.run(["qemu-img", "create", "-f", "qcow2", *options, str(path), size], check=True, capture_output=True)
    lab.kvm1.write(str(path), fake.File("qcow2", 2 * MIB, 200704))
    lab.kvm1.pools["images"].listed = dict(lab.kvm1.directories[str(path.parent)])
    return str(path)


def with_disks(*disks, **more):
    return {"image": "", "xml": domain_xml(disks=disks, **more)}


def the_disk(result):
    assert not result.failed
    ((disk,),) = [domain["disks"] for domain in result.domains]
    return disk


@needs_qemu_img
@pytest.mark.parametrize("state", [fake.VIR_DOMAIN_RUNNING, fake.VIR_DOMAIN_SHUTOFF])
def test_a_disk_is_told_with_its_images_pool_and_file_system(lab, folder, state):
    base = image(lab, folder / "base image")
    top = image(lab, folder / "top.qcow2", "-b", "base image", "-F", "qcow2")
    lab.add(state=state, **with_disks(disk_xml(path=top).replace("dev='vda'", "dev='vda' bus='virtio'")))
    before = copy.deepcopy(lab.kvm1.guests)
    result = lab.domblk_info()
    assert not result.changed
    assert result.warnings == []
    assert [domain["name"] for domain in result.domains] == ["a"]
    assert result.domains[0]["uuid"] == UUID
    assert result.domains[0]["state"] == ("running" if state == fake.VIR_DOMAIN_RUNNING else "shut_off")
    assert (result.domains[0]["nvram"], result.domains[0]["tpm"]) == (None, None)
    disk = the_disk(result)
    chain, filesystem = disk.pop("chain"), disk.pop("filesystem")
    assert disk == {
        "target": "vda",
        "device": "disk",
        "type": "file",
        "bus": "virtio",
        "source": top,
        "protocol": None,
        "format": "qcow2",
        "virtual_size": 2 * MIB,
        "allocated": 200704,
        "physical": 200704,
        "pool": "images",
        "volume": "top.qcow2",
        "read_only": False,
        "shareable": False,
        "transient": False,
        "empty": False,
        "encrypted": False,
        "cache": None,
        "discard": None,
        "detect_zeroes": None,
        "serial": None,
    }
    assert [(each["path"], each["format"], each["state"]) for each in chain] == [
        (top, "qcow2", "ok"),
        (base, "qcow2", "ok"),
    ]
    space = os.statvfs(folder)
    assert filesystem["total"] == space.f_blocks * space.f_frsize
    assert folder.is_relative_to(filesystem["mount_point"])
    assert lab.kvm1.guests == before
    assert "refresh" not in lab.kvm1.calls
    assert lab.domblk_info(check=True).domains[0]["disks"][0]["chain"] == chain


@needs_qemu_img
def test_what_is_returned_is_documented_and_the_other_way_round(lab, folder):
    lab.add(**with_disks(disk_xml(path=image(lab, folder / "a"))))
    (domain,) = lab.domblk_info().domains
    told = yaml.safe_load(virt_domblk_info.RETURN)["domains"]["contains"]
    assert list(told) == list(domain)
    (disk,), told = domain["disks"], told["disks"]["contains"]
    assert sorted(told) == sorted(disk)
    assert sorted(told["chain"]["contains"]) == sorted(disk["chain"][0])


def test_what_the_definition_says_of_a_disk_is_told(lab):
    xml = (
        "<disk type='block' device='lun'><driver name='qemu' type='raw' cache='none' discard='unmap'"
        " detect_zeroes='on'/><source dev='/dev/kvmops-none'><encryption format='luks'/></source>"
        "<target dev='sda' bus='scsi'/><serial>X1</serial><shareable/><readonly/><transient/></disk>"
    )
    lab.add(**with_disks(xml))
    disk = the_disk(lab.domblk_info())
    told = {key: disk[key] for key in ("cache", "discard", "detect_zeroes", "serial", "shareable", "read_only")}
    assert told == {
        "cache": "none",
        "discard": "unmap",
        "detect_zeroes": "on",
        "serial": "X1",
        "shareable": True,
        "read_only": True,
    }
    assert (disk["transient"], disk["encrypted"], disk["device"], disk["bus"]) == (True, True, "lun", "scsi")
    assert [(each["path"], each["format"], each["state"]) for each in disk["chain"]] == [
        ("/dev/kvmops-none", "luks", "missing")
    ]
    assert (disk["virtual_size"], disk["allocated"], disk["physical"]) == (None, None, None)
    assert disk["filesystem"]["mount_point"] == "/dev"


def test_an_empty_drive_has_no_image(lab):
    lab.add(**with_disks(disk_xml("sda", "", "raw", "cdrom"), disk_xml("fda", "", "raw", "floppy")))
    for disk in lab.domblk_info().domains[0]["disks"]:
        assert (disk["empty"], disk["source"], disk["format"], disk["chain"]) == (True, None, None, [])
        assert (disk["virtual_size"], disk["filesystem"], disk["pool"]) == (None, None, None)
    assert "blockInfo" not in lab.kvm1.calls


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("<source protocol='rbd' name='pool/img:key=s3cret'><host name='h'/></source>", "pool/img"),
        ("<source protocol='https' name='disk.img?token=s3cret'><host name='h'/></source>", "disk.img"),
        ("<source protocol='iscsi' name='iqn.2013-07.com.example:pool/1'/>", "iqn.2013-07.com.example:pool/1"),
    ],
)
def test_a_network_disk_is_named_without_secrets(lab, source, name):
    lab.add(**with_disks(f"<disk type='network'><driver type='raw'/>{source}<target dev='vda'/></disk>"))
    disk = the_disk(lab.domblk_info())
    assert (disk["type"], disk["source"], disk["filesystem"], disk["physical"]) == ("network", name, None, None)
    assert [(each["path"], each["kind"], each["state"]) for each in disk["chain"]] == [(name, "network", "remote")]
    assert disk["protocol"] in source
    assert "s3cret" not in json.dumps(disk)


@needs_qemu_img
def test_a_volume_is_resolved_by_its_pool(lab, folder):
    path = image(lab, folder / "v")
    lab.add(
        **with_disks(
            "<disk type='volume'><driver type='qcow2'/><source pool='images' volume='v'/><target dev='vda'/></disk>"
        )
    )
    disk = the_disk(lab.domblk_info())
    assert (disk["type"], disk["source"], disk["pool"], disk["volume"]) == ("volume", path, "images", "v")
    assert disk["chain"][0]["state"] == "ok"
    lab.kvm1.pools["images"].active = False
    disk = the_disk(lab.domblk_info())
    assert (disk["source"], disk["pool"], disk["volume"], disk["filesystem"]) == (None, "images", "v", None)
    assert disk["chain"][0]["state"] == "missing"
    assert disk["chain"][0]["problem"] == "the pool images does not tell where v is"


def test_a_volume_that_is_no_path_is_not_looked_for_here(lab, monkeypatch):
    monkeypatch.setattr(fake.virStorageVol, "path", lambda volume: "rbd/v")
    lab.kvm1.write("/vm/v", fake.File())
    lab.kvm1.add_pool("vm", "/vm")
    lab.add(**with_disks("<disk type='volume'><source pool='vm' volume='v'/><target dev='vda'/></disk>"))
    disk = the_disk(lab.domblk_info())
    assert (disk["source"], disk["chain"][0]["state"], disk["filesystem"]) == ("rbd/v", "remote", None)


def test_an_image_that_is_missing_is_an_answer(lab, folder):
    lab.add(**with_disks(disk_xml(path=f"{folder}/gone")))
    disk = the_disk(lab.domblk_info())
    assert [(each["path"], each["state"]) for each in disk["chain"]] == [(f"{folder}/gone", "missing")]
    assert (disk["source"], disk["virtual_size"], disk["pool"]) == (f"{folder}/gone", None, None)
    assert disk["filesystem"] is not None


def test_what_libvirt_cannot_tell_of_the_sizes_the_image_does(lab, folder):
    (folder / "r").write_bytes(b"x" * 4096)
    lab.kvm1.write(f"{folder}/r", fake.File())
    lab.world.faults["kvm1", "blockInfo"] = fake.libvirtError("Operation not supported", 84)
    lab.add(**with_disks(disk_xml(path=f"{folder}/r", image="raw")))
    disk = the_disk(lab.domblk_info())
    assert (disk["virtual_size"], disk["physical"]) == (4096, 4096)


@needs_qemu_img
def test_of_a_remote_host_only_libvirts_word_counts(lab, folder):
    path = image(lab, folder / "a")
    store = f"<backingStore type='file'><format type='raw'/><source file='{path}'/><backingStore/></backingStore>"
    lab.kvm2.write("/vm/x", fake.File("qcow2", 7 * MIB, MIB))
    lab.kvm2.add_pool("vm", "/vm")
    lab.add("kvm2", **with_disks(disk_xml(path="/vm/x", extra=store)))
    disk = the_disk(lab.domblk_info(uri=DEST_URI))
    assert [(each["path"], each["format"], each["state"], each["size"]) for each in disk["chain"]] == [
        ("/vm/x", "qcow2", "unread", None),
        (path, "raw", "unread", None),
    ]
    assert (disk["virtual_size"], disk["allocated"], disk["pool"], disk["volume"]) == (7 * MIB, MIB, "vm", "x")
    assert disk["filesystem"] is None


def test_firmware_variables_and_the_state_of_a_tpm_are_told(lab, folder):
    (folder / "vars").write_bytes(b"x" * 9000)
    firmware = f"<os><nvram template='/usr/share/vars.fd'>{folder}/vars</nvram></os>"
    tpm = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"
    xml = domain_xml(disks=[]).replace("<devices>", f"{firmware}<devices>{tpm}")
    lab.add(image="", xml=xml)
    used = (folder / "vars").stat().st_blocks * 512
    (domain,) = lab.domblk_info().domains
    assert domain["nvram"] == {"path": f"{folder}/vars", "template": "/usr/share/vars.fd", "allocated": used}
    assert domain["tpm"] == {"path": f"/var/lib/libvirt/swtpm/{UUID}", "allocated": None}
    state = xml.replace("version='2.0'/>", f"version='2.0'><source type='dir' path='{folder}'/></backend>")
    lab.kvm1.guests[UUID].xml = state
    expected = used + folder.stat().st_blocks * 512
    assert lab.domblk_info().domains[0]["tpm"] == {"path": str(folder), "allocated": expected}


def test_of_a_users_session_the_place_of_its_tpm_is_not_known(lab):
    tpm = "<tpm model='tpm-crb'><backend type='emulator'/></tpm>"
    lab.add(image="", xml=domain_xml(disks=[]).replace("<devices>", f"<devices>{tpm}"))
    assert lab.domblk_info(uri="qemu:///session").domains[0]["tpm"] == {"path": None, "allocated": None}


def test_names_narrow_the_vms_down(lab):
    lab.add(image="")
    lab.add(name="b", uuid=OTHER, image="")
    assert [domain["name"] for domain in lab.domblk_info().domains] == ["a", "b"]
    assert [domain["name"] for domain in lab.domblk_info(name=["b"]).domains] == ["b"]
    assert lab.domblk_info(guest=["c"]).domains == []


def test_a_vm_that_goes_away_while_it_is_looked_at_is_left_out(lab):
    lab.add(image="")
    lab.world.faults["kvm1", "XMLDesc"] = fake.libvirtError("Domain not found", fake.VIR_ERR_NO_DOMAIN)
    assert lab.domblk_info().domains == []


def test_a_host_that_breaks_down_is_a_failure_of_one_line(lab):
    lab.add(image="")
    lab.world.faults["kvm1", "listAllDomains"] = fake.libvirtError("internal error: client socket is closed", 1)
    result = lab.domblk_info()
    assert result.failed
    assert result.msg.startswith("qemu:///system cannot be read: ")
    assert "\n" not in result.msg
    assert lab.domblk_info(uri="qemu:///sistem").failure_class == "bad_option"


@needs_qemu_img
def test_without_qemu_img_there_is_one_warning(lab, folder, monkeypatch):
    paths = [image(lab, folder / name) for name in ("a", "b")]
    lab.add(**with_disks(*(disk_xml(f"vd{path[-1]}", path) for path in paths)))
    monkeypatch.setenv("PATH", str(folder))
    result = lab.domblk_info()
    assert result.warnings == ["qemu-img is not installed here: what is in images other than raw ones is not known"]
    for disk, path in zip(result.domains[0]["disks"], paths):
        (top,) = disk["chain"]
        assert (top["path"], top["state"], top["backing"]) == (path, "unread", None)
        assert top["size"] == Path(path).stat().st_size
        assert disk["virtual_size"] == 2 * MIB


def test_without_qemu_img_nothing_is_missing_of_raw_images(lab, folder, monkeypatch):
    (folder / "r").write_bytes(b"x" * 4096)
    lab.kvm1.write(f"{folder}/r", fake.File())
    lab.add(**with_disks(disk_xml(path=f"{folder}/r", image="raw")))
    monkeypatch.setenv("PATH", str(folder))
    result = lab.domblk_info()
    assert result.warnings == []
    assert the_disk(result)["chain"][0]["state"] == "ok"


@needs_qemu_img
def test_a_path_is_no_text_with_variables(lab, folder):
    path = image(lab, folder / "$HOME~")
    lab.add(**with_disks(disk_xml(path=path)))
    (top,) = the_disk(lab.domblk_info())["chain"]
    assert (top["path"], top["state"], top["problem"]) == (path, "ok", "")


@needs_qemu_img
def test_a_disk_whose_file_system_does_not_answer_is_not_asked_of_libvirt(lab, folder, monkeypatch):
    path = image(lab, folder / "a")
    lab.add(**with_disks(disk_xml(path=path)))

    def silent(call, seconds, what):
        raise look.NoAnswer(f"{what} did not answer within {seconds:g} s")

    monkeypatch.setattr(look, "bounded", silent)
    disk = the_disk(lab.domblk_info())
    assert disk["chain"][0]["state"] == "no_answer"
    assert disk["virtual_size"] is None
    assert disk["filesystem"]["free"] is None
    assert "blockInfo" not in lab.kvm1.calls
