# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The passwords of a VM go where its definition goes, and nowhere else: into no answer, record, ledger or journal."""

from __future__ import annotations

import json

import pytest

from ansible_collections.kvmops.migration.plugins.module_utils import _libvirt
from fake import libvirt as fake
from fake.lab import IMAGE, UUID, disk_xml, domain_xml

RUNNING, SHUTOFF = fake.VIR_DOMAIN_RUNNING, fake.VIR_DOMAIN_SHUTOFF
SECRET = "s3cret-of-the-console"


def with_password(xml, secret=SECRET):
    return xml.replace("</devices>", f"<graphics type='vnc' passwd='{secret}'/></devices>")


@pytest.fixture
def guarded(lab, tmp_path):
    """VM `a` with a console that has a password; gives the function that looks for it where it must not be."""
    lab.add(xml=with_password(domain_xml()))

    def tells(*results):
        written = [path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
        answers = [json.dumps(vars(result)) for result in results]
        return any(SECRET in text for text in [*written, *answers])

    lab.tells = tells
    return lab


def at_dest(lab):
    """The definitions of the VM at the destination: as it runs, and as it would be started."""
    guest = lab.kvm2.guests[UUID]
    return guest.xml, guest.inactive_xml or guest.xml


def test_the_fake_libvirt_tells_no_secret_unless_it_is_asked_for(guarded):
    domain = fake.open("qemu:///system").lookupByUUIDString(UUID)
    assert SECRET not in domain.XMLDesc(0)
    assert SECRET in domain.XMLDesc(fake.VIR_DOMAIN_XML_SECURE)
    with pytest.raises(fake.libvirtError, match="secure flag"):
        fake.openReadOnly("qemu:///system").lookupByUUIDString(UUID).XMLDesc(fake.VIR_DOMAIN_XML_SECURE)


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("allocation", [64 << 20, 2 << 30])
def test_c8_124_a_copied_vm_keeps_its_password_and_nobody_tells_it(guarded, check, allocation):
    """A sparse image needs a definition of its own at the destination, and that one has the password, too."""
    guarded.kvm1.file(IMAGE).allocation = allocation
    result = guarded.move(check=check, diff=True)
    assert not result.failed
    assert not guarded.tells(result)
    if not check:
        assert all(SECRET in xml for xml in at_dest(guarded))


def test_c8_124_a_vm_whose_images_lie_elsewhere_keeps_its_password(guarded):
    """Its definition is rewritten for the paths there."""
    guarded.kvm2.directories["/data"] = {}
    guarded.kvm2.add_pool("data", "/data")
    there = with_password(domain_xml(disks=[disk_xml(path="/data/a.qcow2")]))
    result = guarded.move(dest_xml=there, diff=True)
    assert result.outcome == "migrated"
    assert SECRET in guarded.params()["persistent_xml"]
    assert all(SECRET in xml for xml in at_dest(guarded))
    assert not guarded.tells(result)


def test_c8_124_a_definition_that_is_carried_over_afterwards_has_its_password(lab, guarded):
    guarded.kvm1.guests[UUID].state = SHUTOFF
    lab.add("kvm2", persistent=False, xml=with_password(domain_xml()))
    result = guarded.move(diff=True)
    assert lab.where() == (None, RUNNING)
    assert SECRET in lab.kvm2.guests[UUID].inactive_xml
    assert not guarded.tells(result)


@pytest.mark.parametrize("state", [RUNNING, SHUTOFF])
def test_c8_124_a_vm_with_snapshots_keeps_its_password(guarded, state):
    """The destination gets its definition before the move, so that it can be told of them."""
    guarded.kvm2.share("/vm", guarded.kvm1)
    guest = guarded.kvm1.guests[UUID]
    guest.state = state
    guest.around.snapshots = {
        "s1": f"<domainsnapshot><name>s1</name><domain><uuid>{UUID}</uuid></domain></domainsnapshot>"
    }
    seen = []

    def script(phase, source, dest, guest):
        if phase == "begin":
            seen.append(dest.guests[UUID].xml)

    guarded.world.script = script
    result = guarded.move(diff=True)
    assert result.outcome == "migrated"
    assert SECRET in seen[0]
    assert all(SECRET in xml for xml in at_dest(guarded))
    assert not guarded.tells(result)


@pytest.mark.parametrize("phase", ["begin", "perform", "finish"])
def test_c8_124_a_move_that_fails_tells_no_password(guarded, phase):
    def script(at, source, dest, guest):
        if at == phase:
            raise fake.libvirtError("operation failed: Lost connection to destination host", 9)

    guarded.world.script = script
    result = guarded.move(diff=True)
    assert result.failed
    assert not guarded.tells(result, guarded.info())


@pytest.mark.parametrize("there", [SECRET, "another one"])
def test_two_definitions_with_different_passwords_are_not_the_same(lab, guarded, there):
    lab.kvm2.share("/vm", lab.kvm1)
    guarded.kvm1.guests[UUID].state = SHUTOFF
    lab.add("kvm2", state=SHUTOFF, xml=with_password(domain_xml(), there))
    result = guarded.move(undefine_source=False)
    assert result.changed == (there != SECRET)
    assert all(SECRET in xml for xml in at_dest(lab))
    assert not guarded.tells(result)


@pytest.mark.parametrize("silent", [True, False])
@pytest.mark.parametrize("control", ["p2p", "direct"])
def test_c8_124_the_password_of_a_uri_is_told_nowhere(guarded, monkeypatch, silent, control):
    """Neither when all goes well, nor in what is said of a host that does not answer any more."""
    monkeypatch.setattr(_libvirt.Host.open.__func__, "__defaults__", (False, 0.2))

    def script(phase, source, dest, guest):
        if phase == "perform" and silent:
            dest.answers.clear()
            raise fake.libvirtError(f"unable to connect to 'qemu+ssh://root:{SECRET}@kvm2/system'", 38)

    guarded.world.script = script
    result = guarded.move(dest_uri=f"qemu+ssh://root:{SECRET}@kvm2/system", control=control)
    assert result.outcome == ("undetermined" if silent else "migrated")
    assert guarded.world.migrations
    assert not guarded.tells(result)


@pytest.mark.parametrize("uri", ["qemu+ssh://root:a/b?{}@kvm2/system", "qemu+ssh://root:{}#@kvm2/system"])
def test_c8_124_what_is_no_uri_tells_no_password_either(guarded, uri):
    result = guarded.move(dest_uri=uri.format(SECRET))
    assert result.failure_class == "bad_option"
    assert not guarded.tells(result)
