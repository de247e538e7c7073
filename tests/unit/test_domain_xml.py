# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is read from a domain's XML, and the little that is written into it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ansible_collections.kvmops.migration.plugins.module_utils._pure import domain_xml
from ansible_collections.kvmops.migration.plugins.module_utils._pure.domain_xml import Layer
from ansible_collections.kvmops.migration.plugins.module_utils._pure.refusal import Refusal

FULL = """
<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>centos64a</name>
  <uuid>5BA1AB1E-0000-4000-8000-000000000001</uuid>
  <memory unit='MiB'>512</memory>
  <os><nvram template='/x'>/var/lib/libvirt/qemu/nvram/a.fd</nvram></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none'/>
      <source file='/vm//sub/a b.qcow2' index='2'/>
      <backingStore type='file'><format type='qcow2'/><source file='/vm/base.qcow2'/>
        <backingStore type='block'><source dev='/dev/vg/root'/><backingStore/></backingStore>
      </backingStore>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='file' device='cdrom'><driver name='qemu' type='raw'/><target dev='sda'/><readonly/></disk>
    <disk type='file' device='cdrom'><source file='/iso/x.iso' startupPolicy='optional'/><target dev='sdb'/></disk>
    <disk type='block' device='disk'><source dev='/dev/vg/b'/><target dev='vdb'/><shareable/></disk>
    <disk type='network' device='disk'><source protocol='rbd' name='pool/c'/><target dev='vdc'/></disk>
    <disk type='volume' device='disk'><source pool='vm' volume='d'/><target dev='vdd'/></disk>
    <interface type='bridge'><source bridge='br0'/></interface>
  </devices>
  <qemu:commandline><qemu:arg value='-S'/></qemu:commandline>
</domain>
"""


def test_a_domain_is_read():
    read = domain_xml.parse(FULL)
    assert (read.name, read.uuid) == ("centos64a", "5ba1ab1e-0000-4000-8000-000000000001")
    assert read.memory == 512 << 20
    assert read.nvram == "/var/lib/libvirt/qemu/nvram/a.fd"
    assert [disk.target for disk in read.disks] == ["vda", "sda", "sdb", "vdb", "vdc", "vdd"]
    vda, sda, sdb, vdb, vdc, vdd = read.disks
    assert (vda.source, vda.directory, vda.format, vda.cache) == ("/vm//sub/a b.qcow2", "/vm/sub", "qcow2", "none")
    assert vda.files == ("/vm//sub/a b.qcow2", "/vm/base.qcow2", "/dev/vg/root")
    assert (sda.readonly, sda.source, sda.files) == (True, "", ())
    assert (sdb.readonly, sdb.startup) == (True, "optional")
    assert (vdb.type, vdb.shareable, vdb.directory) == ("block", True, "")
    assert (vdc.type, vdc.source, vdc.files) == ("network", "pool/c", ())
    assert (vdd.pool, vdd.source) == ("vm", "d")
    assert (vda.bus, vdc.protocol, vda.ends, vdb.ends) == ("virtio", "rbd", True, False)
    assert vda.layers == (Layer("file", "/vm/base.qcow2", "qcow2"), Layer("block", "/dev/vg/root", ""))
    assert domain_xml.nvram_template(FULL) == "/x"
    assert read.disk("vdb") is vdb
    assert read.disk("vdz") is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<domain>", "cannot be read"),
        ("<pool/>", "is a <pool>"),
        ("<!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/shadow'>]><domain>&e;</domain>", "document type"),
    ],
)
def test_what_is_no_domain_is_refused(text, says):
    with pytest.raises(Refusal, match=says):
        domain_xml.parse(text)


def test_a_domain_with_nothing_in_it_is_read_too():
    read = domain_xml.parse("<domain/>")
    assert (read.name, read.uuid, read.memory, read.disks) == ("", "", 0, ())


def test_sparse_disks_are_kept_sparse_and_the_others_as_they_were():
    text = FULL.replace("cache='none'", "cache='none' discard='ignore'")
    assert domain_xml.keep_sparse(text, ["vda"]).count("discard=") == 1
    kept = domain_xml.keep_sparse(FULL, ["vda"])
    assert kept.count('discard="unmap"') == 1
    assert "http://libvirt.org/schemas/domain/qemu/1.0" in kept
    first, *others = domain_xml.parse(kept).disks
    assert first.discard == "unmap"
    assert (replace(first, discard=""), *others) == domain_xml.parse(FULL).disks
    assert 'discard="unmap"' not in domain_xml.keep_sparse(FULL, ["vdz"])


def test_pools_and_volumes_are_read_and_written():
    assert domain_xml.pool_path(domain_xml.dir_pool("p", "/vm/a & b/")) == ("dir", "/vm/a & b")
    assert domain_xml.pool_path("<pool type='rbd'/>") == ("rbd", "")
    assert domain_xml.volume_format(domain_xml.volume("v", 512)) == "raw"
    assert domain_xml.volume_format("<volume/>") == "raw"
    assert domain_xml.host_uuid("<capabilities><host><uuid> AB </uuid></host></capabilities>") == "ab"
