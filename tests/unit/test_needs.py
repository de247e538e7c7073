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
    assert needs.portgroups(text) == ["web"]
