# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of what a running guest cannot take along, and what else of its XML decides how it moves."""

from __future__ import annotations

import pytest

from ansible_collections.kvmops.migration.plugins.module_utils._pure import guest

OLD, BOOKWORM, NEW = ((8, 0, 0), (5, 2, 0)), ((9, 0, 0), (7, 2, 0)), ((11, 0, 0), (9, 2, 0))

PLAIN = (
    "<interface type='bridge'/>",
    "<disk type='file' device='disk'><source file='/vm/a.qcow2'/></disk>",
    "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>",
    "<input type='mouse' bus='ps2'/>",
    "<video><model type='virtio'><acceleration accel3d='no'/></model></video>",
    "<shmem name='m' role='master'/>",
    "<hostdev mode='subsystem' type='pci'><teaming type='transient' persistent='ua-a'/></hostdev>",
    "<interface type='hostdev'><teaming type='transient' persistent='ua-a'/></interface>",
)


def domain(*devices, outside=""):
    return f"<domain><name>a</name>{outside}<devices>{''.join(devices)}</devices></domain>"


def found(text, versions=BOOKWORM):
    return [(part.failure_class, part.what) for part in guest.parts(text, *versions) if not part.warning]


def test_what_every_guest_has_moves():
    assert list(guest.parts(domain(*PLAIN), *BOOKWORM)) == []


@pytest.mark.parametrize(
    ("device", "since"),
    [
        ("<hostdev mode='subsystem' type='pci'/>", NEW),
        ("<interface type='hostdev'/>", NEW),
        ("<hostdev mode='subsystem' type='mdev'/>", NEW),
        ("<hostdev mode='subsystem' type='usb'/>", None),
        ("<hostdev mode='subsystem' type='scsi'/>", None),
        ("<hostdev mode='subsystem' type='scsi_host'/>", None),
        ("<disk type='nvme' device='disk'/>", None),
        ("<interface type='vdpa'/>", NEW),
        ("<input type='passthrough' bus='virtio'/>", None),
        ("<tpm model='tpm-tis'><backend type='passthrough'/></tpm>", None),
        ("<filesystem type='mount'><driver type='virtiofs'/></filesystem>", NEW),
        ("<shmem name='m'/>", None),
        ("<shmem name='m' role='peer'/>", None),
        ("<memory model='sgx-epc'/>", None),
        ("<disk type='file' device='disk'><transient/></disk>", None),
        ("<video><model type='virtio'><acceleration accel3d='yes'/></model></video>", None),
    ],
)
def test_c2_57_a_device_that_stays(device, since):
    text = domain(*PLAIN, device)
    for versions in (OLD, BOOKWORM, NEW):
        classes = [name for name, _what in found(text, versions)]
        assert classes == ([] if versions == since else ["device"])


@pytest.mark.parametrize("policy", ["require", "force"])
def test_c2_57_invariant_tsc_needs_a_frequency(policy):
    cpu = f"<cpu><feature policy='{policy}' name='invtsc'/></cpu>"
    clock = "<clock offset='utc'><timer name='rtc'/><timer name='tsc' {}/></clock>"
    assert [name for name, _what in found(domain(outside=cpu + clock.format("mode='native'")))] == ["tsc"]
    assert found(domain(outside=cpu + clock.format("frequency='2400000000'"))) == []
    assert found(domain(outside=cpu.replace(policy, "disable"))) == []


def test_c2_57_encrypted_memory():
    assert [name for name, _what in found(domain(outside="<launchSecurity type='sev'/>"))] == ["device"]


def test_one_kind_of_device_is_found_once():
    assert len(found(domain("<hostdev type='usb'/>", "<hostdev type='usb'/>"))) == 1


@pytest.mark.parametrize(
    "device",
    ["<interface type='user'/>", "<filesystem type='mount' accessmode='mapped'><source dir='/x'/></filesystem>"],
)
def test_c2_57_some_things_move_with_a_warning(device):
    text = domain(*PLAIN, device)
    assert found(text) == []
    assert len([part for part in guest.parts(text, *BOOKWORM) if part.warning]) == 1


def test_every_row_that_refuses_has_a_cure_and_every_other_a_warning():
    for part in guest.PARTS:
        assert bool(part.cure) != bool(part.warning)


def test_an_agent_is_connected_by_its_own_channel():
    channel = "<channel type='unix'><target type='virtio' name='{}'{}/></channel>"
    connected, closed = " state='connected'", " state='disconnected'"
    assert guest.agent_connected(domain(channel.format("org.qemu.guest_agent.0", connected)))
    assert not guest.agent_connected(domain(channel.format("org.qemu.guest_agent.0", closed)))
    assert not guest.agent_connected(domain(channel.format("org.qemu.guest_agent.0", "")))
    assert not guest.agent_connected(domain(channel.format("com.redhat.spice.0", connected)))
    assert not guest.agent_connected(domain())


def test_the_state_of_a_tpm_lies_where_the_xml_says_or_libvirt_keeps_it():
    tpm = "<tpm model='tpm-crb'><backend type='{}'>{}</backend></tpm>"
    assert guest.tpm_state(domain(tpm.format("emulator", "")), "/default") == "/default"
    own = tpm.format("emulator", "<source type='dir' path='/srv/tpm'/>")
    assert guest.tpm_state(domain(own), "/default") == "/srv/tpm"
    assert guest.tpm_state(domain(tpm.format("passthrough", "")), "/default") == ""
    assert guest.tpm_state(domain(), "/default") == ""


SNAPSHOT = """<domainsnapshot><name>s1</name><memory snapshot='external' file='/save/a.mem'/>
<disks><disk name='vda' snapshot='external'><source file='/vm/over.qcow2'/></disk>
  <disk name='vdb' snapshot='no'/></disks>
<domain><devices>
  <disk type='file' device='disk'><source file='/vm/a.qcow2'/>
    <backingStore type='file'><source file='/vm/base.qcow2'/></backingStore></disk>
  <disk type='network' device='disk'><source protocol='rbd' name='pool/b'/></disk>
  <disk type='file' device='cdrom'><source file='/iso/a.iso'/></disk></devices></domain>
<inactiveDomain><devices>
  <disk type='file' device='disk'><source file='/vm/other.qcow2'/></disk></devices></inactiveDomain>
</domainsnapshot>"""


def test_the_files_of_a_snapshot_are_what_going_back_to_it_needs():
    assert guest.moment_files(SNAPSHOT) == [
        "/save/a.mem",
        "/vm/over.qcow2",
        "/vm/a.qcow2",
        "/vm/base.qcow2",
        "/vm/other.qcow2",
    ]


@pytest.mark.parametrize(
    ("variables", "files"),
    [
        ("<nvram template='/usr/x.fd' format='qcow2'>/nvram/a.qcow2</nvram>", ["/nvram/a.qcow2"]),
        ("<nvram type='file' format='qcow2'>\n<source file='/nvram/a.qcow2'/>\n</nvram>", ["/nvram/a.qcow2"]),
        ("<nvram template='/usr/x.fd'>/nvram/a.fd</nvram>", []),
    ],
)
def test_firmware_variables_with_snapshots_of_their_own_are_such_files(variables, files):
    text = f"<domainsnapshot><name>s1</name><domain><os>{variables}</os></domain></domainsnapshot>"
    assert guest.moment_files(text) == files
