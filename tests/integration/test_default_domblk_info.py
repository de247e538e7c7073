# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""virt_domblk_info against virsh and qemu-img, of running and stopped guests."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import pytest

from .conftest import ansible

VM = "centos64a"
FOLDER = "/vm/odd é"
TEMPLATE = "/usr/share/OVMF/OVMF_VARS_4M.fd"
SIZES = {"Capacity": "virtual_size", "Allocation": "allocated", "Physical": "physical"}
# What no guest of the scenario has. It is never started.
ODD = f"""
<domain type='qemu'><name>odd</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type>
<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader><nvram template='{TEMPLATE}'/></os>
<features><acpi/></features><devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none' discard='unmap'/>
<source file='{FOLDER}/top image.qcow2'/><target dev='vda' bus='virtio'/><serial>X-1</serial></disk>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{FOLDER}/raw'/>
<target dev='vdb' bus='virtio'/><shareable/></disk>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{FOLDER}/gone'/>
<target dev='vdc' bus='virtio'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{FOLDER}/raw'/>
<target dev='vdd' bus='virtio'/><readonly/></disk>
<disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='/dev/kvmops-none'/>
<target dev='vde' bus='virtio'/></disk>
<disk type='volume' device='disk'><driver name='qemu' type='qcow2'/><source pool='vm' volume='volume.qcow2'/>
<target dev='vdf' bus='virtio'/></disk>
<disk type='volume' device='disk'><driver name='qemu' type='qcow2'/><source pool='vm' volume='gone'/>
<target dev='vdg' bus='virtio'/></disk>
<disk type='network' device='disk'><driver name='qemu' type='raw'/>
<source protocol='nbd' name='export'><host name='192.0.2.1' port='10809'/></source>
<target dev='vdh' bus='virtio'/></disk>
<disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>
<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>
</devices></domain>
"""
IMAGES = (
    "qemu-img create -q -f qcow2 'base image' 8M",
    "qemu-img snapshot -c one 'base image'",
    "qemu-img create -q -f qcow2 -b 'base image' -F qcow2 'top image.qcow2'",
    "head -c 1000000 /dev/urandom > raw",
    "truncate -s 5M raw",
    "qemu-img create -q -f qcow2 /vm/volume.qcow2 3M",
    "virsh pool-refresh vm",
)


def disks(host: str, *arguments: str, **options: object) -> dict[str, Any]:
    """The module's answer by the names of the guests."""
    module = ("-m", "kvmops.migration.virt_domblk_info", "-a", json.dumps({"name": [], **options}))
    run = ansible("ansible", host, *module, *arguments)
    assert run.rc == 0, run.out
    assert "WARNING" not in run.out
    answer = json.loads(run.out[run.out.index("=> {") + 3 :])
    assert answer["changed"] is False
    return {domain["name"]: domain for domain in answer["domains"]}


def listed(host, vm: str) -> dict[str, tuple[str, str, str]]:
    """What virsh says of each disk: type, device and source."""
    lines = host.check_output("virsh domblklist --details %s", vm).splitlines()[2:]
    rows = [line.split(None, 3) for line in lines if line.strip()]
    return {target: (kind, device, source.strip()) for kind, device, target, source in rows}


def sizes(host, vm: str, target: str) -> dict[str, int] | None:
    said = host.run("virsh domblkinfo %s %s", vm, target)
    found = {SIZES[name]: int(number) for name, number in re.findall(r"(\w+): +(\d+)", said.stdout)}
    return found if said.rc == 0 else None


@pytest.mark.parametrize("name", ["labkvm1", "labkvm2"])
def test_what_virsh_knows_of_every_disk_is_told(hypervisors, name):
    host = hypervisors[name]
    vms = host.check_output("virsh list --all --name").split()
    before = {vm: {target: sizes(host, vm, target) for target in listed(host, vm)} for vm in vms}
    told = disks(name)
    assert sorted(told) == sorted(vms)
    for vm in vms:
        rows = listed(host, vm)
        assert {
            disk["target"]: (disk["type"], disk["device"], disk["source"] or "-") for disk in told[vm]["disks"]
        } == rows
        for disk in told[vm]["disks"]:
            at_first, at_last = before[vm][disk["target"]], sizes(host, vm, disk["target"])
            for field in SIZES.values():
                assert at_first[field] <= disk[field] <= at_last[field]


def test_a_running_guest_is_seen_to_hold_its_image(hypervisors):
    host = hypervisors["labkvm2"]
    (disk,) = disks("labkvm2", name=VM)[VM]["disks"]
    (top,) = disk["chain"]
    assert (top["state"], top["lock"], top["format"], top["backing"]) == ("ok", "write", "qcow2", "")
    assert (disk["pool"], disk["volume"]) == ("vm", top["path"].rpartition("/")[2])
    assert disk["filesystem"]["mount_point"] == host.check_output("findmnt -no TARGET -T %s", top["path"])
    assert disk["filesystem"]["fstype"] == host.check_output("findmnt -no FSTYPE -T %s", top["path"])
    assert host.file(top["path"]).size >= top["size"] > 0
    assert disks("labkvm2", "--check", name=VM)[VM]["disks"][0]["chain"][0]["path"] == top["path"]


def test_from_another_host_libvirts_word_is_told(hypervisors):
    (disk,) = disks("labkvm1", name=VM, uri="qemu+ssh://root@labkvm2/system")[VM]["disks"]
    (top,) = disk["chain"]
    assert (top["state"], top["virtual_size"], top["lock"], disk["filesystem"]) == ("unread", None, None, None)
    assert disk["virtual_size"] == sizes(hypervisors["labkvm2"], VM, "vda")["virtual_size"]
    assert disk["pool"] == "vm"


@pytest.fixture
def odd(hypervisors):
    host = hypervisors["labkvm1"]
    try:
        host.check_output("mkdir -p %s && cd %s && " + " && ".join(IMAGES), FOLDER, FOLDER)
        host.check_output("echo %s > /root/odd.xml; virsh define /root/odd.xml", ODD)
        yield host
    finally:
        host.run("virsh undefine odd --nvram")
        host.run(f"rm -rf {shlex.quote(FOLDER)} /vm/volume.qcow2 /root/odd.xml; virsh pool-refresh vm")


def test_a_stopped_guest_is_told_with_all_that_is_wrong_with_it(odd):
    domain = disks("labkvm1", name="odd")["odd"]
    assert domain["state"] == "shut_off"
    told = {disk["target"]: disk for disk in domain["disks"]}
    rows = listed(odd, "odd")
    assert {target: (disk["type"], disk["device"]) for target, disk in told.items()} == {
        target: row[:2] for target, row in rows.items()
    }
    states = {target: [image["state"] for image in disk["chain"]] for target, disk in told.items()}
    assert states == {
        "vda": ["ok", "ok"],
        "vdb": ["ok"],
        "vdc": ["missing"],
        "vdd": ["unreadable"],
        "vde": ["missing"],
        "vdf": ["ok"],
        "vdg": ["missing"],
        "vdh": ["remote"],
        "sda": [],
    }
    for target in ("vda", "vdb"):
        assert {field: told[target][field] for field in SIZES.values()} == sizes(odd, "odd", target), target
    # What libvirt does not tell of a guest that is shut off, the image does.
    assert sizes(odd, "odd", "vdf") is None
    assert (told["vdf"]["virtual_size"], told["vdf"]["physical"]) == (
        3 << 20,
        odd.file("/vm/volume.qcow2").size,
    )
    for target in ("vdc", "vde", "vdg", "vdh", "sda"):
        assert sizes(odd, "odd", target) is None
        assert {told[target][field] for field in SIZES.values()} == {None}
    top, base = told["vda"]["chain"]
    assert (top["path"], base["path"]) == (f"{FOLDER}/top image.qcow2", f"{FOLDER}/base image")
    assert (base["snapshots"], top["snapshots"], top["lock"], base["lock"]) == (["one"], [], "none", "none")
    assert (told["vda"]["serial"], told["vda"]["discard"], told["vdb"]["shareable"]) == ("X-1", "unmap", True)
    assert (told["vdf"]["source"], told["vdf"]["pool"], told["vdg"]["source"]) == ("/vm/volume.qcow2", "vm", None)
    assert (told["vdh"]["source"], told["vdh"]["protocol"], told["sda"]["empty"]) == ("export", "nbd", True)
    variables = odd.check_output("virsh dumpxml odd | sed -n 's/.*<nvram[^>]*>\\(.*\\)<.*/\\1/p'")
    assert domain["nvram"]["path"] == variables
    assert domain["nvram"]["template"] == TEMPLATE
    uuid = odd.check_output("virsh domuuid odd").strip()
    assert domain["tpm"]["path"] == f"/var/lib/libvirt/swtpm/{uuid}"
