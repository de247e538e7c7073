# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tells a block device from all others, read from files as sysfs and udev have them."""

from __future__ import annotations

import pytest

from ansible_collections.kvmops.migration.plugins.module_utils._migrate import devices, facts

WWN = "naa.600140501a2b3c4d"


class Machine:
    def __init__(self, root):
        self.root = root
        for name in ("sys/class/block", "sys/devices", "dev/mapper", "dev/disk/by-id"):
            (root / name).mkdir(parents=True)

    def device(self, name, *, sectors=8, parent="", held_by=(), on=(), **files):
        """A device with files in its folder; `dm__uuid` is the file dm/uuid."""
        place = self.root / "sys/devices" / parent / name
        for below in ("holders", "slaves"):
            (place / below).mkdir(parents=True)
        for below, names in (("holders", held_by), ("slaves", on)):
            for one in names:
                (place / below / one).mkdir()
        for file, text in {"size": sectors, **files}.items():
            path = place / file.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{text}\n")
        (self.root / "sys/class/block" / name).symlink_to(place)
        node = self.root / "dev" / name.replace("!", "/")
        node.parent.mkdir(exist_ok=True)
        node.write_text("")

    def link(self, name, target):
        path = self.root / "dev" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)

    def ids(self):
        return {path: one["id"] for path, one in devices.known().items()}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.setattr(facts, "ROOT", str(tmp_path))
    return Machine(tmp_path)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"device__wwid": WWN.upper().replace("NAA", "naa")}, WWN),
        ({"wwid": "eui.0025388b71b0a4d2"}, "eui.0025388b71b0a4d2"),
        ({"wwid": "uuid.0f1e2d3c-0000-4000-8000-000000000001"}, "uuid.0f1e2d3c-0000-4000-8000-000000000001"),
        ({"dm__uuid": "mpath-3600140501a2b3c4d"}, WWN),
        ({"dm__uuid": "mpath-20025388b71b0a4d2"}, "eui.0025388b71b0a4d2"),
        # Names that two devices can have.
        ({"device__wwid": "t10.QEMU    QEMU HARDDISK"}, ""),
        ({"dm__uuid": "mpath-1QEMU_HARDDISK"}, ""),
        ({"wwid": "eui.0000000000000000"}, ""),
        ({"serial": "1234"}, ""),
    ],
)
def test_only_names_that_are_unique_in_the_world_count(machine, files, expected):
    machine.device("sda", **files)
    assert machine.ids() == {"/dev/sda": expected}


def test_a_volume_is_known_with_all_that_it_lies_on(machine):
    machine.device("sda", device__wwid="naa.61", held_by=["dm-0"])
    machine.device("sdb", device__wwid="naa.62", held_by=["dm-0"])
    machine.device("dm-0", dm__uuid="LVM-abc", on=["sdb", "sda"])
    machine.link("vg/a", "../dm-0")
    machine.link("mapper/vg-a", "../dm-0")
    known = machine.ids()
    assert known["/dev/vg/a"] == known["/dev/mapper/vg-a"] == known["/dev/dm-0"] == "LVM-abc on naa.61, naa.62"


def test_a_volume_on_a_disk_of_its_host_is_not_known_by_its_uuid(machine):
    """Two hosts that were made from one image have it both."""
    machine.device("vda", held_by=["dm-0"])
    machine.device("dm-0", dm__uuid="LVM-abc", on=["vda"])
    assert machine.ids()["/dev/dm-0"] == ""


def test_a_partition_is_part_of_a_device(machine):
    machine.device("sda", device__wwid="naa.61")
    machine.device("sda1", parent="sda", partition=1, start=2048)
    assert machine.ids()["/dev/sda1"] == "partition at 2048 on naa.61"


def test_ways_of_multipath_empty_devices_and_dead_links_are_left_out(machine):
    machine.device("sda", device__wwid=WWN, held_by=["dm-0"])
    machine.device("dm-0", dm__uuid="mpath-3600140501a2b3c4d", on=["sda"])
    machine.device("nbd0", sectors=0)
    machine.link("disk/by-id/gone", "../../sdz")
    machine.link("disk/by-id/elsewhere", "/etc")
    assert machine.ids() == {"/dev/dm-0": WWN}


def test_sizes_and_names_in_folders(machine):
    machine.device("cciss!c0d0", sectors=16)
    assert devices.known() == {"/dev/cciss/c0d0": {"id": "", "size": 8192}}


def test_a_machine_without_any(tmp_path, monkeypatch):
    monkeypatch.setattr(facts, "ROOT", str(tmp_path))
    assert devices.known() == {}


def test_this_machine():
    for path, one in devices.known().items():
        assert path.startswith("/dev/") and one["size"] > 0
