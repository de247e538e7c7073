# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""virt_migrate_info: what one host says, and that it changes nothing."""

from __future__ import annotations

import copy

from fake import libvirt as fake
from fake.lab import DEST_URI, IMAGE, NO_TLS, OTHER, UUID, domain_xml


def test_a_host_tells_of_itself_its_vms_and_its_pools(lab):
    lab.add(autostart=True)
    lab.add(name="b", uuid=OTHER, state=fake.VIR_DOMAIN_SHUTOFF, image="/vm/b.qcow2")
    before = (copy.deepcopy(lab.kvm1.directories), copy.deepcopy(lab.kvm1.guests))
    result = lab.info()
    assert not result.changed
    assert result.host == {
        "uri": "qemu:///system",
        "uuid": lab.kvm1.uuid,
        "hostname": "kvm1",
        "libvirt_version": "9.0.0",
        "hypervisor_version": "7.2.0",
        "certificates": NO_TLS,
    }
    assert [domain["name"] for domain in result.domains] == ["a", "b"]
    assert result.domains[0] == {
        "name": "a",
        "uuid": UUID,
        "state": "running",
        "persistent": True,
        "autostart": True,
        "disks": [{"target": "vda", "type": "file", "device": "disk", "path": IMAGE, "format": "qcow2"}],
    }
    assert result.domains[1]["state"] == "shut_off"
    assert result.pools == [{"name": "vm", "path": "/vm", "active": True}]
    assert result.journal == []
    assert (lab.kvm1.directories, lab.kvm1.guests) == before
    assert "refresh" not in lab.kvm1.calls


def test_names_narrow_the_vms_down(lab):
    lab.add()
    lab.add(name="b", uuid=OTHER, image="")
    assert [domain["name"] for domain in lab.info(name=["b"]).domains] == ["b"]
    assert lab.info(guest=["c"]).domains == []


def test_a_guest_that_is_arriving_is_told_from_a_paused_one(lab):
    lab.add(state=fake.VIR_DOMAIN_PAUSED, reason=fake.VIR_DOMAIN_PAUSED_MIGRATION)
    assert lab.info().domains[0]["state"] == "incoming"


def test_the_journal_tells_what_moves_left_behind(lab):
    lab.add()
    lab.move()
    (entry,) = lab.info().journal
    assert (entry["uuid"], entry["path"], entry["target"]) == (UUID, IMAGE, "vda")
    assert (entry["state"], entry["locked"], entry["phase"]) == ("unchanged", False, "left_behind")


def test_another_hosts_journal_is_not_told(lab):
    lab.add()
    lab.move()
    assert lab.info(uri=DEST_URI).journal == []
    assert lab.info(uri=DEST_URI).host["certificates"] is None


def test_a_host_that_does_not_answer_is_a_failure_of_one_line(lab):
    result = lab.info(uri="qemu+ssh://root:pw@nohost/system")
    assert result.failed
    assert result.failure_class == "name_resolution"
    assert "\n" not in result.msg
    assert "pw@" not in result.msg


def test_a_bad_uri_is_refused_before_anything_is_asked(lab):
    assert lab.info(uri="qemu:///sistem").failure_class == "bad_option"
    assert lab.kvm1.calls == []


def test_what_vms_need_and_can_have_is_told_where_it_was_asked_for(lab):
    interface = "<interface type='bridge'><source bridge='br0'/></interface><interface type='network'/>"
    lab.add(xml=domain_xml().replace("</devices>", interface + "</devices>"))
    lab.kvm1.networks = {"default": True, "blue": False}
    lab.kvm1.portgroups = {"default": ["web"]}
    lab.kvm1.secrets = {"5EC4E700-0000-4000-8000-000000000001": "client.kvm secret"}
    lab.machines = {"kvm1": {"interfaces": {"br0": 1500}}}
    plain = lab.info()
    assert "facts" not in plain.host
    assert "needs" not in plain.domains[0]
    calls = len(lab.kvm1.calls)
    said = lab.info(facts=True)
    facts = said.host["facts"]
    assert facts["networks"] == [
        {"name": "default", "active": True, "bridge": "br-default", "portgroups": ["web"]},
        {"name": "blue", "active": False, "bridge": "br-blue", "portgroups": []},
    ]
    assert facts["secrets"] == ["5ec4e700-0000-4000-8000-000000000001", "ceph:client.kvm secret"]
    assert facts["memory"]["available"] == 8 << 30
    assert facts["machines"]["x86_64"] == ["pc-i440fx-7.2", "pc-q35-7.2", "q35"]
    assert (facts["emulators"], facts["types"]["x86_64"]) == (["/usr/bin/qemu-system-x86_64"], ["qemu", "kvm"])
    assert (facts["interfaces"], facts["addresses"]) == ({"br0": 1500}, ["172.16.1.9"])
    assert (said.domains[0]["needs"]["bridges"], said.domains[0]["needs"]["memory"]) == (["br0"], 256 << 20)
    assert not {"refresh", "createXML", "storagePoolCreateXML"} & set(lab.kvm1.calls[calls:])


def test_over_a_connection_only_libvirt_tells(lab):
    lab.machines = {"kvm1": {"interfaces": {"br0": 1500}}, "kvm2": {"interfaces": {}}}
    facts = lab.info(uri=DEST_URI, facts=True).host["facts"]
    assert "networks" in facts
    assert "interfaces" not in facts
    assert "addresses" not in facts


def test_a_driver_that_does_not_know_networks_is_no_failure(lab):
    lab.world.faults[("kvm1", "listAllNetworks")] = fake.libvirtError("this function is not supported", 3)
    said = lab.info(facts=True)
    assert not said.failed
    assert "networks" not in said.host["facts"]
    assert "memory" in said.host["facts"]
