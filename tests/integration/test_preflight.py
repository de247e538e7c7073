# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scenario `preflight`: obstacles that are real, each found with its cure while nothing changes, cured, and gone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.lab import faults

from .conftest import Run, ansible

VM, SOURCE, DEST = "centos64a", "labkvm1", "labkvm2"
IMAGE = "/vm/centos64-32bit.qcow2"
CONF = "/etc/libvirt/qemu.conf"
# As the role has it.
RULE = 'rule family="ipv4" source address="172.16.1.231" port port="49152-49215" protocol="tcp" accept'
KEYS = "/root/.ssh/authorized_keys"
# One that needs nothing to be made for it.
NETWORK = "<network><name>blue</name><forward mode='bridge'/><bridge name='br-lan'/></network>"
MAC, ALIAS = "52:54:00:00:77:01", "ua-more"

pytestmark = pytest.mark.usefixtures("mended")


@dataclass
class Obstacle:
    """By host, what a person does wrong and what undoes it; where a role cures it, `undo` is only for afterwards.

    `evidence` and `cure` are what must be said.
    """

    check: str
    evidence: str
    cure: str
    do: dict[str, str]
    undo: dict[str, str]
    role: str = ""


def attached(kind: str, source: str) -> tuple[str, str]:
    """Commands that give the guest another network card, and take it away."""
    attach = f"virsh attach-interface {VM} {kind} {source} --mac {MAC} --model virtio --alias {ALIAS} --live"
    return attach, f"virsh detach-device-alias {VM} {ALIAS} --live; sleep 3"


def conf(line: str) -> dict[str, str]:
    return {DEST: f"cp -p {CONF} {CONF}.before; echo '{line}' >> {CONF}"}


CONF_UNDO = {DEST: f"[ ! -e {CONF}.before ] || mv {CONF}.before {CONF}"}
BRIDGE, NO_BRIDGE = attached("bridge", "brlab")
BLUE, NO_BLUE = attached("network", "blue")
DEFINE = f'echo "{NETWORK}" > /tmp/blue.xml; virsh net-define /tmp/blue.xml; rm /tmp/blue.xml'
UNDEFINE = "virsh net-destroy blue; virsh net-undefine blue"

OBSTACLES = [
    Obstacle(
        "dest_connection",
        "Permission denied",
        "ssh_trust",
        {DEST: f"mv {KEYS} {KEYS}.before; install -m 600 /dev/null {KEYS}"},
        {DEST: f"[ ! -e {KEYS}.before ] || mv {KEYS}.before {KEYS}"},
        role="ssh_trust",
    ),
    Obstacle(
        "ports",
        "cannot be reached from labkvm1: No route to host",
        "open ports 49152-49215/tcp on labkvm2 for labkvm1",
        {DEST: f"for one in '' --permanent; do firewall-cmd $one --remove-rich-rule='{RULE}'; done"},
        {DEST: f"for one in '' --permanent; do firewall-cmd $one --add-rich-rule='{RULE}'; done"},
        role="firewall",
    ),
    Obstacle(
        "pools",
        "labkvm2 has no active storage pool with target path /vm (its pool vm is not started)",
        "storage_pool",
        {DEST: "virsh pool-destroy vm"},
        {DEST: "virsh pool-start vm"},
        role="storage_pool",
    ),
    Obstacle(
        "space",
        "/vm on labkvm2 has",
        "free space in /vm on labkvm2",
        {DEST: "mount -t tmpfs -o size=2m tmpfs /vm; virsh pool-refresh vm"},
        {DEST: "umount /vm; virsh pool-refresh vm"},
    ),
    Obstacle(
        "bridges",
        "labkvm2 has no bridge brlab, which centos64a is attached to",
        "make the bridge brlab on labkvm2",
        {SOURCE: f"ip link add brlab type bridge; ip link set brlab up; {BRIDGE}"},
        {SOURCE: f"{NO_BRIDGE}; ip link del brlab"},
    ),
    Obstacle(
        "networks",
        "labkvm2 has no libvirt network blue, which centos64a is in",
        "virsh net-dumpxml blue on labkvm1, virsh net-define on labkvm2",
        {SOURCE: f"{DEFINE}; virsh net-start blue; {BLUE}"},
        {SOURCE: f"{NO_BLUE}; {UNDEFINE}"},
    ),
    Obstacle(
        "networks",
        "the libvirt network blue of centos64a is not active on labkvm2",
        "virsh net-start blue on labkvm2",
        {SOURCE: f"{DEFINE}; virsh net-start blue; {BLUE}", DEST: DEFINE},
        {SOURCE: f"{NO_BLUE}; {UNDEFINE}", DEST: UNDEFINE},
    ),
    Obstacle(
        "tls_force",
        "labkvm2 lets nothing travel unencrypted",
        "say tls: true",
        conf("migrate_tls_force = 1"),
        CONF_UNDO,
    ),
    Obstacle(
        "free_ports",
        "1 of the ports 49152-49152 of labkvm2 are free, and centos64a needs 2",
        "widen migration_port_max in its qemu.conf",
        conf("migration_port_max = 49152"),
        CONF_UNDO,
    ),
    Obstacle(
        "dest_images",
        f"{IMAGE} exists on labkvm2",
        "force: true",
        {DEST: f"qemu-img create -qf qcow2 {IMAGE} 1M"},
        {DEST: f"rm -f {IMAGE}; virsh pool-refresh vm"},
    ),
    Obstacle(
        "media",
        "labkvm2 has no /vm/medium.img, the image of read-only disk vdz",
        "copy it there",
        {
            SOURCE: "truncate -s 1M /vm/medium.img; virsh pool-refresh vm;"
            f" virsh attach-disk {VM} /vm/medium.img vdz --targetbus virtio --mode readonly --live"
        },
        {SOURCE: f"virsh detach-disk {VM} vdz --live; sleep 3; rm -f /vm/medium.img; virsh pool-refresh vm"},
    ),
]


def preflight(*arguments: str, dest: str = DEST) -> Run:
    return ansible("ansible-playbook", "preflight.yml", "-e", f"vm={VM}", "-e", f"dest={dest}", *arguments)


def failing(run: Run) -> list[str]:
    return re.findall(r"  FAIL (\w+): ", run.out)


@contextmanager
def made(obstacle: Obstacle) -> Iterator[None]:
    try:
        for host, script in obstacle.do.items():
            faults.must(host, "sh", "-c", script)
        yield
    finally:
        for host, script in obstacle.undo.items():
            faults.inside(host, "sh", "-c", script)


def test_on_hosts_that_are_ready_nothing_is_found_and_nothing_changes(footprint):
    before = footprint()
    done = preflight()
    assert done.rc == 0, done.out
    assert failing(done) == []
    assert f"{VM}: can move live, {SOURCE} -> {DEST}, storage copy" in done.out
    assert done.changed == 0
    assert footprint() == before


@pytest.mark.parametrize("obstacle", OBSTACLES, ids=[f"{one.check}-{number}" for number, one in enumerate(OBSTACLES)])
def test_c2_37_40_42_45_46_48_58_an_obstacle_is_found_and_cured(obstacle, footprint, home):
    with made(obstacle):
        before = footprint()
        done = preflight()
        assert done.rc != 0, done.out
        assert set(failing(done)) == {obstacle.check}, done.out
        assert obstacle.evidence in done.out, done.out
        assert obstacle.cure in done.out, done.out
        assert done.changed == 0
        real = ansible("ansible-playbook", "migrate.yml", "-e", f"vm={VM}", "-e", f"dest={DEST}")
        assert real.rc != 0, "what fails in the check must fail in the run"
        assert obstacle.evidence in real.out, real.out
        assert home(VM) == {SOURCE: "running"}
        assert footprint() == before
        if obstacle.role:
            cured = preflight("-e", "fix=true")
            assert cured.rc == 0, cured.out
    done = preflight()
    assert done.rc == 0, done.out


def test_every_vm_is_judged_for_every_other_host_and_nothing_changes(footprint):
    before = footprint()
    asked = json.dumps({"dest_hosts": [SOURCE, DEST], "options": {"tls": "false"}})
    run = ansible("ansible", SOURCE, "-m", "kvmops.migration.virt_migrate_info", "-a", asked)
    assert run.rc == 0, run.out
    told = json.loads(run.out[run.out.index("{") :])
    assert told["matrix"] == {VM: {DEST: "planned"}}
    (move,) = told["moves"]
    forecast = move["forecast"]
    # QEMU has measured it: the witness alone writes a little all the time.
    assert 0 <= forecast["dirty_rate"] < 64 << 20, forecast
    assert forecast["converges"], forecast
    assert "convergence" in {check["id"] for check in move["checks"] if check["status"] == "pass"}
    assert footprint() == before


def test_what_passes_moves(home):
    there = ansible("ansible-playbook", "migrate.yml", "-e", f"vm={VM}", "-e", f"dest={DEST}")
    assert there.rc == 0, there.out
    assert home(VM) == {DEST: "running"}
    assert preflight(dest=SOURCE).rc == 0
    back = ansible("ansible-playbook", "migrate.yml", "-e", f"vm={VM}", "-e", f"dest={SOURCE}")
    assert back.rc == 0, back.out
    assert home(VM) == {SOURCE: "running"}
