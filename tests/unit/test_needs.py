# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guest needs of switches and port groups, as its XML says it, running or not."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from ansible_collections.kvmops.migration.plugins.module_utils._pure import needs, preflight

SWITCH = "<virtualport type='openvswitch'><parameters interfaceid='x'/></virtualport>"
STOPPED = "<interface type='network'><source network='n' portgroup='web'/></interface>"
# Where it runs, libvirt tells its bridge, too, and the port that it has there.
RUNNING = f"<interface type='bridge'><source network='n' portgroup='web' portid='p' bridge='ovs0'/>{SWITCH}</interface>"


def of(*interfaces):
    return needs.of(f"<domain><devices>{''.join(interfaces)}</devices></domain>")


@pytest.mark.parametrize("interface", [STOPPED, RUNNING])
def test_a_port_group_is_one_of_a_network(interface):
    found = of(interface, interface, "<interface type='network'><source network='m'/></interface>")
    assert (found.networks, found.portgroups) == (("n", "m"), (("n", "web"),))
    assert (found.bridges, found.switches) == ((), ())


def test_a_bridge_of_open_vswitch_is_told_from_one_of_linux():
    plain = "<interface type='bridge'><source bridge='br0'/></interface>"
    switched = f"<interface type='bridge'><source bridge='ovs0'/>{SWITCH}</interface>"
    other = "<interface type='direct'><source dev='eth1'/><virtualport type='802.1Qbh'/></interface>"
    found = of(plain, switched, other)
    assert (found.bridges, found.switches, found.devices) == (("br0", "ovs0"), ("ovs0",), ("eth1",))


@pytest.mark.parametrize(("groups", "fits"), [(["web"], True), (["db"], False), (None, True)])
def test_needs_that_were_told_as_plain_data_are_judged_alike(groups, fits):
    told = needs.read(json.loads(json.dumps(asdict(of(STOPPED)))))
    network = {"name": "n", "active": True, **({} if groups is None else {"portgroups": groups})}
    case = preflight.Case("a", "live", told, {}, there={"networks": [network]})
    lacking = [one for one in preflight.obstacles(case) if "port group web" in one]
    assert bool(lacking) != fits


def test_the_port_groups_of_a_network():
    text = "<network><name>n</name><portgroup name='web' default='yes'><vlan/></portgroup><portgroup/></network>"
    assert needs.network(text) == ("", ["web"])
    assert needs.network("<network><bridge name='br0'/></network>") == ("br0", [])


def test_filters_of_its_interfaces():
    filtered = "<interface type='network'><source network='n'/><filterref filter='no-spoofing'/></interface>"
    assert of(filtered, filtered, STOPPED).filters == ("no-spoofing",)


@pytest.mark.parametrize(
    ("device", "listens"),
    [
        ("<graphics type='vnc' port='5901' autoport='yes' listen='10.0.0.1'/>", [("vnc", "10.0.0.1", 0)]),
        ("<graphics type='vnc' port='-1' listen='10.0.0.1'/>", [("vnc", "10.0.0.1", 0)]),
        (
            "<graphics type='vnc' port='5901' autoport='yes' websocket='5799' listen='10.0.0.1'/>",
            [("vnc", "10.0.0.1", 5799)],
        ),
        ("<graphics type='vnc' port='5901' autoport='no'/>", [("vnc", "127.0.0.1", 5901)]),
        (
            "<graphics type='spice' port='5901' tlsPort='5902' autoport='no'><listen type='address'"
            " address='10.0.0.1'/></graphics>",
            [("spice", "10.0.0.1", 5901), ("spice", "10.0.0.1", 5902)],
        ),
        # The address is the one that this network has on its host.
        ("<graphics type='vnc' port='5901'><listen type='network' network='n' address='10.0.0.1'/></graphics>", []),
        ("<graphics type='vnc'><listen type='socket' socket='/run/a'/></graphics>", []),
        ("<graphics type='spice'><listen type='none'/></graphics>", []),
        ("<graphics type='egl-headless'/>", []),
        (
            "<graphics type='vnc' port='5901' websocket='5799' autoport='no'/>",
            [("vnc", "127.0.0.1", 5901), ("vnc", "127.0.0.1", 5799)],
        ),
        (
            "<serial type='tcp'><source mode='bind' host='10.0.0.1' service='4555'/></serial>"
            "<console type='tcp'><source mode='bind' host='10.0.0.1' service='4555'/></console>",
            [("serial", "10.0.0.1", 4555)],
        ),
        ("<serial type='tcp'><source mode='connect' host='10.0.0.1' service='4555'/></serial>", []),
    ],
)
def test_where_somebody_can_connect_to_it(device, listens):
    assert of(device).listens == tuple(listens)


def test_files_and_directories_of_its_host():
    found = needs.of(
        "<domain><os><loader type='rom'>/usr/share/qemu/bios.bin</loader><kernel>/boot/vmlinuz</kernel><dtb/></os>"
        "<sysinfo type='fwcfg'><entry name='opt/a' file='/etc/a.ign'/><entry name='opt/b'>b</entry></sysinfo><devices>"
        "<interface type='network'><source network='n'/><rom file='/usr/lib/pxe.rom'/></interface>"
        "<interface type='network'><source network='n'/><rom bar='off'/></interface>"
        "<serial type='file'><source path='/var/log/vm/a.log'/></serial>"
        "<console type='pty'><log file='/var/log/consoles/a.log'/></console>"
        "<channel type='unix'><source mode='bind' path='/var/lib/libvirt/qemu/channel/target/a'/></channel>"
        "<console type='pty'><log file='/var/log/libvirt/qemu/a.log'/></console>"
        "<channel type='unix'><source mode='bind' path='/srv/a.sock'/></channel>"
        "<channel type='unix'><source mode='connect' path='/elsewhere/a.sock'/></channel>"
        "<serial type='pipe'><source path='/pipes/a'/></serial>"
        "<graphics type='vnc'><listen type='socket' socket='/screens/a.sock'/></graphics>"
        "<disk type='network'><source protocol='nbd'><host transport='unix' socket='/nbd/a.sock'/></source></disk>"
        "</devices></domain>"
    )
    assert found.files == ("/usr/share/qemu/bios.bin", "/boot/vmlinuz", "/usr/lib/pxe.rom", "/etc/a.ign")
    assert set(found.folders) == {
        "/var/log/vm",
        "/var/log/consoles",
        "/srv",
        "/elsewhere",
        "/pipes",
        "/screens",
        "/nbd",
    }


@pytest.mark.parametrize(
    ("device", "connects"),
    [
        (
            "<serial type='tcp'><source mode='connect' host='127.0.0.1' service='4555'/></serial>",
            [("serial", "127.0.0.1", 4555)],
        ),
        ("<serial type='tcp'><source mode='connect' host='10.0.0.1' service='4555'/></serial>", []),
        (
            "<rng model='virtio'><backend model='egd' type='tcp'><source mode='connect' host='localhost' service='70'/>"
            "</backend></rng>",
            [("rng", "localhost", 70)],
        ),
        (
            "<serial type='tcp'><source mode='connect' host='127.0.0.1' service='4555'>"
            "<reconnect enabled='yes' timeout='5'/></source></serial>",
            [],
        ),
        ("<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>", []),
        (
            "<disk type='network' device='cdrom'><source protocol='nbd' name='a'><host name='127.0.0.1'/></source>"
            "<target dev='sda'/></disk>",
            [("disk sda", "127.0.0.1", 10809)],
        ),
        (
            "<disk type='network'><readonly/><source protocol='nbd'><host name='10.0.0.1' port='70'/></source></disk>",
            [],
        ),
        ("<disk type='network'><readonly/><source protocol='rbd'><host name='localhost'/></source></disk>", []),
    ],
)
def test_what_it_connects_to_on_its_own_host(device, connects):
    assert of(device).connects == tuple(connects)


def test_names_of_its_network_devices_that_somebody_has_given():
    devices = "".join(f"<interface><target dev='{name}'/></interface>" for name in ("vnet3", "mytap0", "macvtap1"))
    assert of(devices).taps == ("mytap0",)
    ready = of("<interface type='ethernet'><target dev='vnet5' managed='no'/></interface>")
    assert (ready.taps, ready.ready_taps) == ((), ("vnet5",))


def test_networks_that_it_is_in_and_whose_address_its_screen_has():
    screen = "<graphics type='vnc'><listen type='network' network='screens'/></graphics>"
    assert of(f"<interface type='network'><source network='default'/></interface>{screen}").networks == (
        "default",
        "screens",
    )


def test_filters_that_a_filter_refers_to():
    assert needs.references("<filter name='a'><filterref filter='b'/><rule/></filter>") == ["b"]


def test_what_listens_is_told_as_plain_data_too():
    one = of("<graphics type='vnc' port='5901'/>")
    assert needs.read(json.loads(json.dumps(asdict(one)))) == one
