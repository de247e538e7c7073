# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names in images, the kernel's table of mounts, and what is said of a disk, apart from all files."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.kvmops.migration.plugins.module_utils._pure import images
from ansible_collections.kvmops.migration.plugins.module_utils._pure.domain_xml import Disk, Layer
from ansible_collections.kvmops.migration.plugins.module_utils._pure.images import Image


@pytest.mark.parametrize(
    ("name", "leads_to"),
    [
        ("", ""),
        ("base.qcow2", "/vm/base.qcow2"),
        ("../iso/./x y.img", "/vm/../iso/x y.img"),
        ("/a//b", "/a/b"),
        ("/a:b/c", "/a:b/c"),
        ("./a:b", "/vm/a:b"),
        ("file:/a/b", "/a/b"),
        ("file:///a/b", "/a/b"),
        ("file:b", "/vm/b"),
        ("host_device:/dev/sdb", "/dev/sdb"),
        ('json:{"driver":"qcow2","file":{"driver":"file","filename":"/a/b"}}', "/a/b"),
        ('json:{"driver":"file","filename":"/a/b"}', "/a/b"),
        ('json:{"file.driver":"host_device","file.filename":"/dev/b","driver":"raw"}', "/dev/b"),
        ('json:{"file":{"filename":"/a/b"}}', "/a/b"),
        # Its directory is that of a process, which nobody knows.
        ('json:{"driver":"file","filename":"b"}', "json:file"),
        ('json:{"driver":"raw","file":{"driver":"rbd","pool":"p","password-secret":"s3cret"}}', "json:rbd"),
        ('json:{"driver":"raw","file":{"driver":"https","url":"https://u:s3cret@h/x"}}', "json:https"),
        ("json:{", "json:"),
        ("json:[]", "json:"),
        ("nbd://host/x", "nbd://host/x"),
        ("nbd://[::1]:10809/a@b", "nbd://[::1]:10809/a@b"),
        ("nbd+unix:///export?socket=/run/x", "nbd+unix:///export"),
        ("nbd:unix:/run/x:exportname=y", "nbd:unix"),
        ("https://u:s3cret@host/x?token=s3cret", "https://host/x"),
        ("iscsi://user%s3cret@host/iqn/0", "iscsi://host/iqn/0"),
        ("ssh://u:s3cret/with@host/x", "ssh://host/x"),
        ("https://u:s3cret?with@host/x", "https://host/x"),
        ("rbd:pool/image:id=admin:key=s3cret:mon_host=a", "rbd:pool/image"),
    ],
)
def test_what_a_name_in_an_image_leads_to(name, leads_to):
    assert images.resolved(name, "/vm") == leads_to


@given(st.text(st.characters(blacklist_characters="/"), min_size=1))
def test_a_password_is_never_shown(password):
    assert images.resolved(f"nbd://user:{password}@host/x", "/vm") == "nbd://host/x"


@given(st.text())
def test_every_name_leads_somewhere(name):
    assert isinstance(images.resolved(name, "/vm"), str)
    assert isinstance(images.resolved(f"json:{name}", "/vm"), str)


def line(number, parent, point, source="/dev/x", root="/", more="shared:1 master:2"):
    return f"{number} {parent} 8:1 {root} {point} rw,relatime {more} - ext4 {source} rw"


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("/", 1),
        ("/vm", 2),
        ("/vm/a/b", 2),
        ("/vm2", 1),
        ("/vm data/x", 3),
        ("/vm data", 3),
        # Four was there before five, which covers it.
        ("/srv/pool/x", 5),
        # Seven is on the very point of six.
        ("/mnt/x", 7),
        ("/mnt", 7),
    ],
)
@pytest.mark.parametrize("turn", [1, -1])
def test_the_mount_of_a_path_is_the_one_that_is_on_top(path, number, turn):
    table = [
        line(1, 0, "/"),
        line(2, 1, "/vm", root="/images"),
        line(3, 1, "/vm\\040data", more=""),
        line(4, 1, "/srv/pool"),
        line(5, 1, "/srv"),
        line(6, 1, "/mnt"),
        line(7, 6, "/mnt"),
        "no such line",
    ]
    known = images.mounts("\n".join(table[::turn]))
    assert len(known) == 7
    assert images.mount_of(path, known).number == number


def test_fields_of_a_mount_are_read_as_they_are_meant():
    (mount,) = images.mounts(line(3, 1, "/a\\040b\\134c\\011d\\012é\x85\u2028", source="nas:/x\\043y"))
    assert (mount.point, mount.source, mount.fstype, mount.root) == ("/a b\\c\td\né\x85\u2028", "nas:/x#y", "ext4", "/")


@pytest.mark.parametrize("table", [[], [line(7, 7, "/vm")], [line(7, 8, "/vm"), line(8, 7, "/vm")]])
def test_a_table_that_knows_no_root_is_no_riddle(table):
    known = images.mounts("\n".join(table))
    assert images.mount_of("/other", known) is None


def test_a_disk_is_plain_data():
    disk = Disk("vda", source="/vm/a", bus="virtio", layers=(Layer("file", "/vm/b", "raw"),))
    chain = [Image("/vm/a", "qcow2", snapshots=("s",), options={"compat": "1.1"}), images.from_layer(disk.layers[0])]
    plain = images.disk_info(disk, "/vm/a", chain, (3, 2, 1), ("vm", "a"), None).plain()
    assert json.loads(json.dumps(plain)) == plain
    assert (plain["virtual_size"], plain["allocated"], plain["physical"]) == (3, 2, 1)
    assert plain["chain"][0]["snapshots"] == ["s"]
    assert (plain["chain"][1]["path"], plain["chain"][1]["state"]) == ("/vm/b", "unread")
    assert (plain["cache"], plain["filesystem"], plain["encrypted"]) == (None, None, None)
