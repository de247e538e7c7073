# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""virt_migrate_info with moves to judge: who can go where, by connections that all moves share."""

from __future__ import annotations

import copy

from ansible_collections.kvmops.migration.plugins.module_utils._migrate import writes
from fake import libvirt as fake
from fake.lab import DEST_URI, IMAGE, OTHER, UUID


def moves(*names, **more):
    return [{"name": name, "dest_host": "kvm2", "dest_uri": DEST_URI, "tls": "false", **more} for name in names]


def test_every_move_gets_the_answer_of_check_mode(lab):
    lab.add()
    lab.add(name="b", uuid=OTHER, image="/vm/b.qcow2")
    lab.kvm2.write("/vm/b.qcow2", fake.File(content="mine"))
    before = (copy.deepcopy(lab.kvm1.directories), copy.deepcopy(lab.kvm2.directories))
    result = lab.info(_moves=moves("a", "b", "nosuch"))
    assert not result.failed
    assert not result.changed
    assert result.matrix == {
        name: {"kvm2": said} for name, said in (("a", "planned"), ("b", "refused"), ("nosuch", "refused"))
    }
    assert [one.get("failed", False) for one in result.moves] == [False, True, True]
    alone = vars(lab.move(check=True))
    assert result.moves[0]["checks"] == alone["checks"]
    assert (lab.kvm1.directories, lab.kvm2.directories) == before
    assert not lab.world.migrations


def test_all_vms_of_the_host_are_judged_where_none_is_named(lab):
    lab.add()
    lab.add(name="b", uuid=OTHER, state=fake.VIR_DOMAIN_SHUTOFF, image="/vm/b.qcow2")
    [move] = moves("a")
    del move["name"]
    assert lab.info(_moves=[move]).matrix == {"a": {"kvm2": "planned"}, "b": {"kvm2": "planned"}}


def test_connections_and_what_was_looked_at_are_shared(lab):
    """What both hosts say of themselves is asked once, however many VMs there are."""
    lab.add()
    counts = []
    for number in range(2):
        if number:
            for more in range(5):
                lab.add(name=f"b{more}", uuid=f"33333333-3333-4333-8333-33333333333{more}", image=f"/vm/b{more}.qcow2")
        lab.kvm1.calls.clear()
        lab.kvm2.calls.clear()
        said = lab.info(_moves=moves(*(["a"] if not number else ["a", *(f"b{more}" for more in range(5))])))
        assert all(dests == {"kvm2": "planned"} for dests in said.matrix.values()), said.matrix
        counts.append(lab.kvm2.calls[:])
    for what in ("open", "getCapabilities", "refresh"):
        assert counts[0].count(what) == counts[1].count(what) > 0, (what, counts)


def test_a_destination_that_is_silent_is_waited_for_once(lab):
    lab.add()
    lab.add(name="b", uuid=OTHER, image="/vm/b.qcow2")
    lab.world.faults["kvm2", "open"] = fake.libvirtError("no route", fake.VIR_ERR_SYSTEM_ERROR)
    lab.kvm2.calls.clear()
    result = lab.info(_moves=moves("a", "b"))
    assert [one["failure_class"] for one in result.moves] == [result.moves[0]["failure_class"]] * 2
    assert lab.kvm2.calls.count("open") == 1
    assert [one["name"] for one in result.moves] == ["a", "b"]


def test_a_password_is_not_in_what_is_answered(lab):
    lab.add()
    result = lab.info(_moves=moves("a", dest_uri="qemu+tcp://root:hush@kvm2/system"))
    assert "hush" not in str(vars(result)), result


def test_a_bad_option_is_the_answer_to_its_move_alone(lab):
    lab.add()
    bad, good = moves("a", bandwidth=-1)[0], moves("a")[0]
    result = lab.info(_moves=[bad, good])
    assert result.moves[0]["failure_class"] == "bad_option"
    assert result.moves[1]["outcome"] == "planned"
    assert result.moves[1]["disks"][0]["source"] == IMAGE


def test_all_guests_are_measured_at_once_and_once(lab):
    """However many they are, and however many hosts they could go to, no more than a second is waited for."""
    lab.add()
    lab.add(name="b", uuid=OTHER, image="/vm/b.qcow2")
    lab.add(name="c", uuid="33333333-3333-4333-8333-333333333333", image="", state=fake.VIR_DOMAIN_SHUTOFF)
    result = lab.info(_moves=[*moves("a", "b", "c"), *moves("a", dest_host="kvm3"), *moves("nosuch")])
    calls = [one for one in lab.kvm1.calls if one in ("startDirtyRateCalc", "domainListGetStats")]
    assert calls[:2] == ["startDirtyRateCalc"] * 2
    assert calls[2:] == ["domainListGetStats"] * 6, "three looks for each of two guests"
    assert ["forecast" in one for one in result.moves] == [True, True, False, True, False]


def test_a_directory_is_tried_once_for_all_vms(lab, monkeypatch):
    lab.kvm2.directories["/nfs"] = {}
    lab.kvm1.share("/nfs", lab.kvm2)
    lab.machines["kvm1"] = {"mounts": [{"path": "/nfs", "type": "nfs4", "read_only": False}]}
    for name, uuid in (("a", UUID), ("b", OTHER)):
        lab.add(name=name, uuid=uuid, image=f"/nfs/{name}.qcow2")
    tried = []
    attempt = writes.attempt
    monkeypatch.setattr(writes, "attempt", lambda paths, machine: tried.extend(paths) or attempt(paths, machine))
    result = lab.info(_moves=moves("a", "b"))
    assert tried == ["/nfs"]
    assert all(one["outcome"] == "planned" for one in result.moves)
