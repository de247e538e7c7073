# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every obstacle before a move is found at once, in check mode as before a real run, and what passes moves."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, Callable

import pytest

from ansible_collections.kvmops.migration.plugins.module_utils._pure import preflight
from fake import libvirt as fake
from fake.lab import IMAGE, UUID, disk_xml, domain_xml

ADDRESS = "172.16.1.2"
USER = {"name": "libvirt-qemu", "uid": 64055, "gid": 64055}
EXT4, NFS = {"path": "/", "type": "ext4", "read_only": False}, {"path": "/nfs", "type": "nfs4", "read_only": False}
MACHINE = {
    "now": 1000.0,
    "interfaces": {"br-default": 1500, "br0": 1500, "eth1": 1500, "lo": 65536},
    "local_addresses": ["127.0.0.1", ADDRESS, "172.16.1.9", "::1"],
    "mounts": [EXT4, NFS],
    "qemu_conf": {},
    "qemu_user": USER,
    "selinux": {},
    "listening": [22],
    "listeners": [["0.0.0.0", 22], ["10.0.0.9", 5901], ["127.0.0.1", 5902]],
    "huge_pages": {"2097152": 1024},
    "swap_free": 0,
    "userfaultfd": "1",
    "swtpm": True,
    "linux_bridges": ["br0"],
    "ssh_helpers": ["nc"],
    "daemon_ssh": True,
}
CPU = "<cpu mode='custom' match='exact'><model>Skylake-Client</model></cpu>"
RICH = f"""<domain type='qemu'><name>a</name><uuid>{UUID}</uuid><memory unit='GiB'>2</memory>
<currentMemory unit='GiB'>1</currentMemory><vcpu>2</vcpu>
<os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>{CPU}
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{disk_xml()}
<interface type='network'><mac address='52:54:00:00:00:01'/><source network='default'/></interface>
<interface type='bridge'><mac address='52:54:00:00:00:02'/><source bridge='br0'/></interface>
<interface type='direct'><mac address='52:54:00:00:00:03'/><source dev='eth1' mode='bridge'/></interface>
</devices></domain>"""


def rich(old: str = "", new: str = "") -> str:
    assert old in RICH
    return RICH.replace(old, new) if old else RICH


def with_shared_disk(lab, cache: str = "none") -> None:
    """The guest's disk is on NFS, which both hosts have mounted."""
    lab.kvm2.directories["/nfs"] = {}
    lab.kvm1.share("/nfs", lab.kvm2)
    lab.kvm2.add_pool("nfs", "/nfs")
    lab.kvm1.write("/nfs/a.qcow2", fake.File(content="a"))
    disk = disk_xml(path="/nfs/a.qcow2").replace("type='qcow2'", f"type='qcow2' cache='{cache}'")
    lab.kvm1.guests[UUID].xml = rich(disk_xml(), disk)


@pytest.fixture
def ready(lab):
    """Two hosts that have everything, and a guest that needs a lot of it."""
    lab.machines = {name: copy.deepcopy(MACHINE) for name in ("kvm1", "kvm2")}
    lab.add(xml=rich())
    return lab


def go(lab, check: bool = False, **options):
    if "_dest_facts" not in options:
        options["_dest_facts"] = lab.facts("kvm2")
    options = {"migrate_uri": f"tcp://{ADDRESS}", **options}
    return lab.move(check=check, **{key: value for key, value in options.items() if value is not None})


def rows(result, status: str = "fail") -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in result.checks:
        if row["status"] == status:
            found.setdefault(row["id"], []).append(row)
    return found


@dataclass
class Obstacle:
    """What is made wrong, and what the check says of it."""

    check: str
    make: Callable[[Any], Any]
    evidence: str
    cure: str
    role: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    failure_class: str = ""


def there(**changes):
    return lambda lab: lab.machines["kvm2"].update(changes)


def both(*makers):
    return lambda lab: [make(lab) for make in makers]


def change(old: str, new: str):
    def make(lab):
        lab.kvm1.guests[UUID].xml = rich(old, new)

    return make


def tried(host, **answers):
    """What an attempt to write on NFS comes to there, by user; a user of whom nothing is said may."""
    may = {"look": "", "error": "", "owner": 0}
    answer = {who: {**may, **answers.get(who, {})} for who in ("qemu", "root")}
    return lambda lab: lab.writes.update({host: {"/nfs": {"silent": True} if "silent" in answers else answer}})


def set_dest(**values):
    return lambda lab: [setattr(lab.kvm2, name, value) for name, value in values.items()]


def nothing(_lab) -> None:
    """What is asked for is enough."""


def stopped(lab) -> None:
    lab.kvm1.guests[UUID].state = fake.VIR_DOMAIN_SHUTOFF


def with_shared_xml(lab) -> None:
    """The disk on NFS again, with what else was changed."""
    lab.kvm1.guests[UUID].xml = lab.kvm1.guests[UUID].xml.replace(IMAGE, "/nfs/a.qcow2")


def with_tap(lab) -> None:
    """The destination has a network device of that name."""
    lab.machines["kvm2"]["interfaces"]["mytap0"] = 1500


def with_tpm_state(lab) -> None:
    lab.kvm1.write(f"/var/lib/libvirt/swtpm/{UUID}", fake.File(content="state"))
    lab.kvm2.directories["/var/lib/libvirt/swtpm"] = {}


def with_tls(lab) -> None:
    """Both hosts have certificates, in order and valid for a month."""
    names = ("ca-cert.pem", "server-cert.pem", "server-key.pem", "client-cert.pem", "client-key.pem")
    for host in ("kvm1", "kvm2"):
        lab.certificates[host] = {"directory": "/pki", "files": list(names), "verify": True}
        one = {"not_before": 0, "not_after": 1000 + 30 * 86400, "fingerprint": "AA", "trouble": ""}
        lab.certificate_facts[host] = {
            name: {**one, "path": f"/pki/{name}", "names": [f"{host}.example", "172.16.1.2"]}
            for name in names
            if "key" not in name
        }


def certificate(host: str, name: str, **changes):
    return lambda lab: lab.certificate_facts[host][name].update(changes)


# Without an address: the fake's hosts have names only.
FILES: dict[str, Any] = {"migrate_uri": None}
BASE = "<backingStore type='file'><format type='qcow2'/><source file='/vm/base.qcow2'/></backingStore>"
LUKS = "<encryption format='luks'><secret type='passphrase' uuid='5EC4E700-0000-4000-8000-000000000001'/></encryption>"
TPM = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"
SWITCHED = "<virtualport type='openvswitch'/>"
PAGES = "<memoryBacking><hugepages><page size='1' unit='G'/></hugepages></memoryBacking>"
OBSTACLES = [
    Obstacle(
        "machine",
        set_dest(machines=["pc-i440fx-6.2"]),
        "QEMU on kvm2 does not know machine type pc-q35-7.2, which a has",
        "upgrade QEMU on kvm2",
    ),
    Obstacle("emulator", set_dest(types=["kvm"]), "a is of type qemu, and kvm2 runs kvm", "install on kvm2"),
    Obstacle(
        "emulator",
        set_dest(emulator="/opt/qemu"),
        "kvm2 cannot use /usr/bin/qemu-system-x86_64, the emulator of a: Cannot check QEMU binary",
        "in dest_xml",
    ),
    Obstacle(
        "cpu",
        set_dest(lacks_features={"Skylake-Client": "avx2,hle"}),
        "kvm2 cannot give a its CPU: the CPU is incompatible with host CPU: Host CPU does not provide required"
        " features: avx2,hle",
        "virsh hypervisor-cpu-baseline",
    ),
    Obstacle(
        "cpu",
        set_dest(lacks_features={"Skylake-Client": "model"}),
        "Unknown CPU model Skylake-Client",
        "virsh hypervisor-cpu-baseline",
    ),
    Obstacle("memory", set_dest(memory_free=512 << 20), "a has 1.0 GiB of memory, and kvm2 can give 512 MiB", "kvm2"),
    Obstacle(
        "memory",
        both(change("<os>", PAGES + "<os>"), there(huge_pages={"1073741824": 0, "2097152": 1024})),
        "a has 1.0 GiB in huge pages of 1.0 GiB, and kvm2 has 0 B of them free",
        "vm.nr_hugepages",
    ),
    Obstacle(
        "networks",
        set_dest(networks={}),
        "kvm2 has no libvirt network default, which a is in",
        "virsh net-dumpxml default on kvm1, virsh net-define on kvm2",
    ),
    Obstacle(
        "networks",
        set_dest(networks={"default": False}),
        "the libvirt network default of a is not active on kvm2",
        "virsh net-start default on kvm2",
    ),
    Obstacle(
        "networks",
        # As it is in a guest that runs, where the network is a bridge of its host.
        change("<source bridge='br0'/>", "<source network='blue' portid='x' bridge='br-blue'/>"),
        "kvm2 has no libvirt network blue, which a is in",
        "virsh net-define on kvm2",
    ),
    Obstacle(
        "networks",
        change("<source network='default'/>", "<source network='default' portgroup='web'/>"),
        "the libvirt network default of kvm2 has no port group web, which a is in",
        "virsh net-edit default",
    ),
    Obstacle(
        "networks",
        there(interfaces={"br0": 1500, "eth1": 1500}),
        "kvm2 has no br-default, the bridge of its libvirt network default",
        "virsh net-edit default",
    ),
    Obstacle(
        "filters",
        change("<source bridge='br0'/>", "<source bridge='br0'/><filterref filter='adm-filter'/>"),
        "kvm2 has no network filter adm-filter, which an interface of a has",
        "virsh nwfilter-dumpxml adm-filter on kvm1, virsh nwfilter-define on kvm2",
        failure_class="filter_missing",
    ),
    Obstacle(
        "filters",
        both(
            change("<source bridge='br0'/>", "<source bridge='br0'/><filterref filter='outer'/>"),
            lambda lab: lab.kvm2.filters.update(outer=["clean-traffic", "inner"]),
        ),
        "kvm2 has no network filter inner, which filter outer refers to",
        "virsh nwfilter-dumpxml inner on kvm1, virsh nwfilter-define on kvm2",
    ),
    Obstacle(
        "taps",
        both(change("<source bridge='br0'/>", "<source bridge='br0'/><target dev='mytap0'/>"), with_tap),
        "an interface of a is to be mytap0 on its host, and kvm2 has a network device of that name",
        "remove mytap0 from kvm2, or let libvirt choose the name",
    ),
    Obstacle(
        "taps",
        change("<source bridge='br0'/>", "<source bridge='br0'/><target dev='mytap0' managed='no'/>"),
        "an interface of a is mytap0, which its host has made before (managed='no'), and kvm2 has no such network"
        " device",
        "ip tuntap add mytap0 mode tap",
    ),
    Obstacle(
        "networks",
        change("</devices>", "<graphics type='vnc'><listen type='network' network='screens'/></graphics></devices>"),
        "kvm2 has no libvirt network screens, which a is in",
        "virsh net-define on kvm2",
    ),
    Obstacle(
        "connects",
        change(
            "</devices>",
            "<serial type='tcp'><source mode='connect' host='127.0.0.1' service='4555'/></serial></devices>",
        ),
        "the serial of a connects to 127.0.0.1:4555 of its own host, and nobody listens there on kvm2",
        "start on kvm2 what listens there on kvm1",
        failure_class="nobody_listens",
    ),
    Obstacle(
        "storage",
        change(
            disk_xml(),
            "<disk type='network'><source protocol='nbd' name='a'><host name='127.0.0.1'/></source>"
            "<target dev='vda'/></disk>",
        ),
        "its server is 127.0.0.1, which is another one on each host",
        "say storage: shared if they do",
        failure_class="sharedness_unknown",
    ),
    *(
        Obstacle(
            "listens",
            change("</devices>", f"{device}</devices>"),
            evidence,
            cure,
            failure_class="listen_address",
        )
        for device, evidence, cure in (
            (
                "<graphics type='vnc' port='-1' autoport='yes' listen='172.16.1.1'/>",
                "the vnc of a listens on 172.16.1.1, which kvm2 does not have",
                "listen on 0.0.0.0, or on an address of kvm2: dest_xml, or virsh edit a",
            ),
            (
                "<serial type='tcp'><source mode='bind' host='172.16.1.1' service='4555'/></serial>",
                "the serial of a listens on 172.16.1.1, which kvm2 does not have",
                "dest_xml",
            ),
            (
                "<graphics type='vnc' port='5902' autoport='no'/>",
                "the vnc of a listens on port 5902, and somebody on kvm2 does already",
                "let libvirt choose the port (autoport), or name one that is free on kvm2",
            ),
            (
                "<graphics type='vnc' port='5901' autoport='no' listen='0.0.0.0'/>",
                "the vnc of a listens on port 5901",
                "autoport",
            ),
        )
    ),
    *(
        Obstacle("host_files", make, evidence, cure, failure_class="file_missing")
        for make, evidence, cure in (
            (
                change("<os>", "<os><loader type='rom'>/fw/bios.bin</loader>"),
                "kvm2 has no /fw/bios.bin, which a starts from",
                "install or copy it there",
            ),
            (
                both(
                    change("<os>", "<os><loader type='rom'>/fw/bios.bin</loader>"),
                    lambda lab: lab.kvm2.write("/fw/other.bin", fake.File(content="o")),
                ),
                "kvm2 has no /fw/bios.bin, which a starts from",
                "dest_xml",
            ),
            (
                change("</devices>", "<serial type='file'><source path='/logs/a.log'/></serial></devices>"),
                "kvm2 has no directory /logs, where consoles of a have their files",
                "mkdir -p /logs on kvm2",
            ),
        )
    ),
    *(
        Obstacle(
            "bridges",
            both(change("<source bridge='br0'/>", f"<source bridge='br0'/>{SWITCHED}"), there(**facts)),
            "br0 of kvm2 is no bridge of Open vSwitch, which a is attached to",
            "name another bridge in dest_xml",
        )
        for facts in (
            {},
            {"linux_bridges": []},
            {"interfaces": {"br-default": 1500, "br0": 1500, "eth1": 1500, "ovs-system": 1500}},
        )
    ),
    Obstacle(
        "bridges",
        there(linux_bridges=[]),
        "br0 of kvm2 is no bridge of Linux, which a is attached to",
        "make br0 on kvm2 as it is on kvm1",
    ),
    Obstacle(
        "daemon_ssh",
        lambda lab: lab.machines["kvm1"].update(daemon_ssh=False),
        "the libvirt daemon of kvm1 finds no ssh in its PATH",
        "let the PATH of the libvirt daemon find it",
        "libvirt_host",
        failure_class="ssh_missing",
    ),
    Obstacle(
        "bridges",
        there(interfaces={"br-default": 1500, "eth1": 1500}),
        "kvm2 has no bridge br0, which a is attached to",
        "make the bridge br0 on kvm2",
    ),
    Obstacle(
        "bridges",
        there(interfaces={"br-default": 1500, "br0": 1500}),
        "kvm2 has no network device eth1",
        "make the network device eth1",
    ),
    Obstacle(
        "secrets",
        change("<target dev='vda'/>", f"<target dev='vda'/>{LUKS}"),
        "kvm2 has no secret 5ec4e700-0000-4000-8000-000000000001",
        "virsh secret-define",
    ),
    Obstacle(
        "swtpm", both(change("</devices>", TPM + "</devices>"), there(swtpm=False)), "kvm2 has no swtpm", "install"
    ),
    Obstacle(
        "pools",
        lambda lab: lab.kvm2.pools.clear(),
        "kvm2 has no active storage pool with target path /vm",
        "start it, or define it: virsh pool-list --all --details on kvm2",
        "storage_pool",
    ),
    Obstacle(
        "space",
        set_dest(pool_free={"/vm": 1 << 20}),
        "disk vda of a holds 64.0 MiB, and /vm on kvm2 has 1.0 MiB free",
        "free space in /vm on kvm2",
        failure_class="no_space",
    ),
    *(
        Obstacle(
            "dest_mounts",
            lambda lab, kind=kind: lab.machines["kvm1"].update(mounts=[EXT4, {**NFS, "path": "/vm", "type": kind}]),
            f"/vm/a.qcow2 is on {kind}, mounted at /vm on kvm1 and not on kvm2: a copy would lie where that mount hides"
            " it",
            "mount /vm on kvm2; where a copy is meant, say storage: copy",
            role=role,
            failure_class="not_mounted",
        )
        for kind, role in (("nfs4", "nfs_client"), ("fuse.glusterfs", None))
    ),
    *(
        Obstacle(
            "space",
            both(
                lambda lab, kind=kind: setattr(lab.kvm1.guests[UUID], "xml", rich("type='qcow2'", f"type='{kind}'")),
                set_dest(pool_free={"/vm": 1 << 30}),
            ),
            "disk vda of a takes 2.0 GiB at first, and /vm on kvm2 has 1.0 GiB free",
            "free space in /vm on kvm2",
            failure_class="no_space",
        )
        for kind in ("raw", "qcow2")
    ),
    Obstacle(
        "directories",
        there(closed={"/vm": "/"}),
        "libvirt-qemu, who runs QEMU on kvm2, may not pass /, and a has its disks in /vm",
        "chmod o+x / on kvm2",
    ),
    Obstacle(
        "dest_listens",
        there(qemu_conf={"migration_address": "172.16.1.77"}),
        "kvm2 is to listen on 172.16.1.77 for what comes (migration_address in its qemu.conf), and has no such address",
        "correct migration_address in /etc/libvirt/qemu.conf of kvm2",
        role="libvirt_host",
        failure_class="listen_address",
    ),
    Obstacle(
        "dest_listens",
        lambda _lab: None,
        "kvm2 is to listen on 172.16.1.78 for what comes (listen_address), and has no such address",
        "name an address of kvm2, or leave listen_address out",
        options={"listen_address": "172.16.1.78"},
        failure_class="listen_address",
    ),
    Obstacle(
        "mounts",
        both(with_shared_disk, there(mounts=[EXT4, {**NFS, "read_only": True}])),
        "/nfs, where /nfs/a.qcow2 lies, is mounted read-only on kvm2",
        "mount it for writing on kvm2",
    ),
    *(
        Obstacle(
            "exports",
            both(with_shared_disk, tried(host, **answer)),
            evidence.format(host),
            cure.format(host),
            failure_class="nfs_export",
        )
        for host in ("kvm1", "kvm2")
        for answer, evidence, cure in (
            ({"qemu": {"error": "EROFS"}}, "/nfs is exported read-only to {}", "export it with rw to {}"),
            (
                {"qemu": {"look": "ESTALE"}, "root": {"look": "ESTALE"}},
                "{} cannot look into /nfs: Stale file handle",
                "export it to {}, and mount it there anew",
            ),
            ({"silent": True}, "the server of /nfs does not answer {}", "see to the server"),
        )
    ),
    Obstacle(
        "caches",
        both(lambda lab: with_shared_disk(lab, "writeback"), set_dest(hypervisor=3001000)),
        "disk vda has cache=writeback",
        "set cache='none' on the disks of a",
    ),
    Obstacle(
        "qemu_users",
        both(with_shared_disk, there(qemu_user={"name": "qemu", "uid": 107, "gid": 107})),
        "QEMU uses /nfs/a.qcow2 as libvirt-qemu (64055:64055) on kvm1, and as qemu (107:107) on kvm2",
        "the same numbers",
    ),
    *(
        Obstacle(
            "selinux",
            both(
                with_shared_disk,
                lambda lab, host=host: lab.machines[host].update(selinux={"enforcing": True, "on": []}),
            ),
            f"SELinux on {host} keeps QEMU from /nfs/a.qcow2 on nfs4: virt_use_nfs is off",
            f"setsebool -P virt_use_nfs 1 on {host}",
            "selinux",
        )
        for host in ("kvm1", "kvm2")
    ),
    Obstacle(
        "dest_name",
        lambda lab: lab.names.update(kvm2=[]),
        "kvm1 cannot resolve kvm2",
        "let kvm1 resolve kvm2, or set migration_address",
        "name_resolution",
        {"migrate_uri": None},
    ),
    Obstacle(
        "dest_name",
        lambda lab: lab.names.update(kvm2=["127.0.1.1"]),
        "on kvm1 the name kvm2 of kvm2 leads to 127.0.1.1",
        "/etc/hosts on kvm1",
        "name_resolution",
        {"migrate_uri": None},
    ),
    *(
        Obstacle(
            "dest_name",
            both(
                lambda lab: lab.names.update(kvm2=["172.16.1.77"]),
                lambda lab, closed=closed: lab.closed_ports.update(closed),
            ),
            f"the data would go to {said} and kvm2 has no such address",
            cure,
            "name_resolution",
            {"migrate_uri": uri},
        )
        for uri, said, cure in (
            (
                "tcp://kvm2",
                "kvm2 (172.16.1.77), which migrate_uri names,",
                "correct the entry of kvm2 in /etc/hosts on kvm1",
            ),
            (None, "kvm2 (172.16.1.77), as kvm2 calls itself,", "correct the entry of kvm2 in /etc/hosts on kvm1"),
        )
        for closed in ({}, {"172.16.1.77": range(49152, 49216)})
    ),
    Obstacle(
        "dest_name",
        lambda lab: lab.names.update({"kvm2-private": []}),
        "kvm1 cannot resolve kvm2-private, which migrate_uri names, and libvirt would send the data there",
        "let kvm1 resolve kvm2-private, or name an address",
        "name_resolution",
        {"migrate_uri": "tcp://kvm2-private"},
    ),
    Obstacle(
        "dest_name",
        there(qemu_conf={"migration_host": "localhost.localdomain"}),
        "kvm2 calls itself localhost.localdomain",
        "set migration_address",
        "name_resolution",
        {"migrate_uri": None},
    ),
    Obstacle(
        "ports",
        lambda lab: lab.closed_ports.update({ADDRESS: range(49152, 49216)}),
        f"port 49152, 49153, 49215/tcp of {ADDRESS} cannot be reached from kvm1: No route to host",
        "open ports 49152-49215/tcp on kvm2 for kvm1",
        "firewall",
        failure_class="port_closed",
    ),
    Obstacle(
        "ports",
        lambda lab: lab.closed_ports.update({ADDRESS: range(49153, 49216)}),
        f"port 49153, 49215/tcp of {ADDRESS} cannot be reached",
        "open ports 49152-49215/tcp on kvm2",
        "firewall",
    ),
    Obstacle(
        "ports",
        lambda lab: lab.closed_ports.update({ADDRESS: [50000]}),
        f"port 50000/tcp of {ADDRESS} cannot be reached",
        "open ports 50000/tcp on kvm2",
        "firewall",
        {"migrate_uri": f"tcp://{ADDRESS}:50000", "disks_port": 50001},
    ),
    Obstacle(
        "free_ports",
        both(there(qemu_conf={"migration_port_min": "49152", "migration_port_max": "49153"}, listening=[49152])),
        "1 of the ports 49152-49153 of kvm2 are free, and a needs 2",
        "widen migration_port_max",
    ),
    Obstacle(
        "free_ports",
        there(listening=[50000]),
        "somebody listens on port 50000 of kvm2",
        "name another port",
        options={"migrate_uri": f"tcp://{ADDRESS}:50000"},
    ),
    *(
        Obstacle(
            "tls_force",
            lambda lab, host=host: lab.machines[host].update(qemu_conf={"migrate_tls_force": "1"}),
            f"{host} lets nothing travel unencrypted",
            "say tls: true",
            "libvirt_tls",
        )
        for host in ("kvm1", "kvm2")
    ),
    Obstacle(
        "userfaultfd",
        there(userfaultfd="0"),
        "QEMU runs as libvirt-qemu there, who may not use userfaultfd",
        "sysctl vm.unprivileged_userfaultfd=1 on kvm2",
        options={"postcopy": True},
    ),
    Obstacle(
        "devices",
        change("</devices>", "<hostdev mode='subsystem' type='usb'/></devices>"),
        "which a running guest cannot take along",
        "detach",
    ),
    Obstacle(
        "block_jobs", lambda lab: lab.kvm1.guests[UUID].around.block_jobs.add("vda"), "a block job", "virsh blockjob a"
    ),
    Obstacle(
        "job", lambda lab: lab.kvm1.guests[UUID].job.update(type=2), "a job is going on with VM a", "domjobabort a"
    ),
    Obstacle(
        "versions",
        set_dest(version=7000000),
        "synchronous_writes: true needs libvirt 8.0.0",
        "upgrade libvirt",
        options={"synchronous_writes": True},
    ),
    Obstacle(
        "dest_images",
        lambda lab: lab.kvm2.write(IMAGE, fake.File(content="foreign")),
        f"{IMAGE} exists on kvm2",
        "force: true",
    ),
    Obstacle("images", lambda lab: lab.kvm1.remove(IMAGE), f"{IMAGE} does not exist on kvm1", "restore it"),
    *(
        Obstacle(
            "certificates",
            both(with_tls, change_one),
            evidence,
            cure,
            "libvirt_tls",
            {"tls": "true", **options},
            "tls_certificate",
        )
        for change_one, evidence, cure, options in (
            (
                certificate("kvm2", "server-cert.pem", not_after=900),
                "/pki/server-cert.pem on kvm2 is of no use: it has expired on 1970-01-01",
                "issue a new one",
                {},
            ),
            (
                certificate("kvm1", "client-cert.pem", not_before=90000),
                "/pki/client-cert.pem on kvm1 is of no use: it is not valid before 1970-01-02",
                "issue a new one",
                {},
            ),
            (
                certificate("kvm1", "client-cert.pem", trouble="it is not of /pki/ca-cert.pem: unable to get issuer"),
                "is of no use: it is not of /pki/ca-cert.pem",
                "issue a new one",
                {},
            ),
            (
                certificate("kvm2", "ca-cert.pem", fingerprint="BB"),
                "kvm1 and kvm2 trust different authorities",
                "of the same authority on both hosts",
                {},
            ),
            (
                nothing,
                "/pki/server-cert.pem on kvm2 is for kvm2.example, 172.16.1.2, and the data goes to kvm2.other",
                "say tls_destination",
                {"tls_destination": "kvm2.other"},
            ),
        )
    ),
    # What the engine finds by itself; more of each is in the tests of what it refuses.
    Obstacle(
        "source_connection",
        nothing,
        "uri: qemu+ssh://root@nowhere/system cannot be used",
        "resolve the name of nowhere",
        "name_resolution",
        {"uri": "qemu+ssh://root@nowhere/system"},
    ),
    Obstacle(
        "dest_connection",
        nothing,
        "dest_uri: qemu+ssh://root@nowhere/system cannot be used",
        "resolve the name of nowhere",
        "name_resolution",
        {"dest_uri": "qemu+ssh://root@nowhere/system"},
    ),
    Obstacle(
        "hosts",
        lambda lab: lab.kvm2.guests.update({UUID: lab.kvm1.guests.pop(UUID)}),
        "are the same host",
        "name two hosts",
        options={"dest_uri": "qemu+ssh://root@kvm1/system"},
    ),
    Obstacle("guest", nothing, "VM b was not found on either host", "kvm1: a; kvm2: none", options={"name": "b"}),
    Obstacle("place", lambda lab: lab.add("kvm2"), "a runs on kvm1", "a"),
    Obstacle(
        "mode", stopped, "mode: live was said, and VM a is shut off", "mode: auto", options={**FILES, "mode": "live"}
    ),
    Obstacle(
        "managed_save",
        both(stopped, lambda lab: setattr(lab.kvm1.guests[UUID], "managed_save", True)),
        "VM a has a saved state on kvm1",
        "virsh managedsave-remove a",
        options=FILES,
    ),
    Obstacle(
        "definition",
        nothing,
        "dest_xml: the XML has UUID",
        "give XML of this VM",
        options={"dest_xml": domain_xml(uuid=UUID[:-1] + "9")},
    ),
    Obstacle(
        "dest_definition",
        lambda lab: lab.add("kvm2", state=fake.VIR_DOMAIN_SHUTOFF, managed_save=True, image=""),
        "kvm2 has a saved state of VM a",
        "virsh managedsave-remove a",
    ),
    Obstacle(
        "snapshots",
        lambda lab: lab.kvm1.guests[UUID].around.snapshots.update(
            s=f"<domainsnapshot><name>s</name><domain>{disk_xml()}</domain><memory file='/vm/s.mem'/></domainsnapshot>"
        ),
        "which snapshot s needs, is not shared",
        "virsh snapshot-delete a NAME --metadata",
    ),
    Obstacle(
        "firmware",
        both(
            change("</os>", "<nvram>/vm/a.fd</nvram></os>"),
            lambda lab: lab.kvm2.write("/vm/a.fd", fake.File(content="foreign")),
        ),
        "/vm/a.fd exists on kvm2",
        "force: true",
    ),
    Obstacle(
        "tpm",
        both(stopped, with_shared_disk, change("</devices>", TPM + "</devices>"), with_shared_xml, with_tpm_state),
        "an offline move must copy the state of its TPM",
        "run virt_migrate on the source",
        options={**FILES, "uri": "qemu+ssh://root@kvm1/system"},
    ),
    Obstacle(
        "asleep",
        both(
            with_shared_disk,
            lambda lab: vars(lab.kvm1.guests[UUID]).update(state=fake.VIR_DOMAIN_PAUSED, cpu_time=0),
        ),
        "VM a has not run since it came to kvm1",
        "virsh resume a",
    ),
    Obstacle(
        "storage",
        change(disk_xml(), disk_xml(path="/dev/x", kind="block", attribute="dev", image="raw")),
        "it is not known whether both hosts share disk vda",
        "storage: shared",
    ),
    Obstacle(
        "backing_files",
        both(
            with_shared_disk,
            lambda lab: setattr(
                lab.kvm1.guests[UUID],
                "xml",
                rich(disk_xml(), disk_xml(path="/nfs/a.qcow2", extra=BASE)),
            ),
        ),
        "disk vda is shared, and /vm/base.qcow2 below it is not",
        "put /vm/base.qcow2 on storage that both hosts share",
    ),
    Obstacle(
        "base_images",
        both(
            change(disk_xml(), disk_xml(extra=BASE)),
            lambda lab: lab.kvm1.write("/vm/base.qcow2", fake.File(content="base")),
        ),
        "copy_storage: inc needs /vm/base.qcow2, the base image of disk vda, and kvm2 has none",
        "copy it there",
        options={"copy_storage": "inc"},
    ),
    Obstacle(
        "media",
        change("</devices>", disk_xml("sda", "/vm/x.iso", device="cdrom", image="raw") + "</devices>"),
        "kvm2 has no /vm/x.iso, the medium in drive sda",
        "virsh change-media a sda --eject",
    ),
    Obstacle(
        "files",
        both(stopped, lambda lab: lab.world.free_bytes.update(kvm2=1)),
        "kvm2",
        "make room",
        options=FILES,
    ),
    Obstacle(
        "sockets",
        with_shared_disk,
        "migrate_uri: unix:///nowhere/a.sock cannot be reached from kvm1",
        "forward the socket",
        options={"migrate_uri": "unix:///nowhere/a.sock"},
    ),
    Obstacle(
        "pinned_memory",
        with_shared_disk,
        "migrate_uri: RDMA pins memory, and VM a has no limit to that",
        "virsh memtune a --hard-limit",
        options={"migrate_uri": f"rdma://{ADDRESS}"},
    ),
    Obstacle(
        "copies",
        nothing,
        "migrate_uri: unix:///tmp/a.sock takes in memory only, and disk vda is not shared",
        "disks_uri: unix:///PATH",
        options={"migrate_uri": "unix:///tmp/a.sock"},
    ),
    Obstacle(
        "postcopy",
        change("<os>", "<memoryBacking><hugepages/></memoryBacking><os>"),
        "postcopy: post-copy is not possible with VM a: it has its memory in huge pages",
        "leave post-copy out",
        options={"postcopy": True},
    ),
    Obstacle(
        "tls", nothing, "tls: there is no /etc/pki/qemu/ca-cert.pem", "libvirt_tls", "libvirt_tls", {"tls": "true"}
    ),
]
IDS = [f"{obstacle.check}-{number}" for number, obstacle in enumerate(OBSTACLES)]


def world(lab):
    return {
        name: (copy.deepcopy(host.directories), copy.deepcopy(host.guests), set(host.pools))
        for name, host in lab.world.hosts.items()
    }


@pytest.mark.parametrize("check", [True, False], ids=["check mode", "real run"])
@pytest.mark.parametrize("obstacle", OBSTACLES, ids=IDS)
def test_c2_33_34_39_40_42_43_44_45_48_49_53_54_55_56_60_65_each_obstacle_is_found_and_keeps_the_vm_where_it_is(
    ready, obstacle, check
):
    obstacle.make(ready)
    before = world(ready)
    result = go(ready, check=check, **obstacle.options)
    assert result.failed
    assert list(rows(result)) == [obstacle.check], result.msg
    (row,) = rows(result)[obstacle.check]
    assert obstacle.evidence in row["evidence"]
    assert obstacle.cure in row["cure"]
    assert row["role"] == obstacle.role
    assert row["evidence"] in result.msg
    assert "\n" not in result.msg
    assert obstacle.failure_class in ("", result.failure_class)
    assert result.outcome == ("split_brain" if obstacle.check == "place" else "refused")
    assert not result.changed
    assert ready.world.migrations == []
    assert world(ready) == before


def test_a_block_device_that_both_hosts_have_is_used_where_it_is(ready):
    disk = disk_xml(path="/dev/vg/a", kind="block", attribute="dev", image="raw").replace("'raw'", "'raw' cache='none'")
    ready.kvm1.guests[UUID].xml = rich(disk_xml(), disk)
    for machine in ready.machines.values():
        machine["devices"] = {"/dev/vg/a": {"id": "naa.600140501", "size": 1 << 30}}
    result = go(ready)
    assert result.outcome == "migrated", result
    (found,) = result.disks
    assert (found["action"], found["evidence"]) == ("shared", "shared")
    assert found["reason"] == "/dev/vg/a on kvm1 and /dev/vg/a on kvm2 are naa.600140501"
    assert "UNSAFE" not in ready.flags()


@pytest.mark.parametrize("check", [True, False], ids=["check mode", "real run"])
def test_without_obstacles_nothing_is_found_and_the_vm_moves(ready, check):
    result = go(ready, check=check)
    assert not result.failed
    assert rows(result) == rows(result, "warn") == {}
    assert {row["id"] for row in result.checks} == set(preflight.ORDER)
    expected = ("machine", "cpu", "memory", "networks", "bridges", "space", "ports", "free_ports", "clocks", "storage")
    assert set(expected) <= set(rows(result, "pass"))
    for rest in rows(result, "skipped").values():
        assert rest[0]["evidence"], "nothing is skipped without a reason"
    assert ready.where() == ((fake.VIR_DOMAIN_RUNNING, None) if check else (None, fake.VIR_DOMAIN_RUNNING))


def test_c1_19_all_obstacles_are_found_at_once(ready):
    ready.kvm2.networks = {}
    ready.kvm2.pools.clear()
    ready.kvm2.lacks_features = {"Skylake-Client": "avx2"}
    ready.closed_ports = {ADDRESS: range(49152, 49216)}
    ready.kvm1.guests[UUID].around.block_jobs.add("vda")
    ready.machines["kvm2"]["interfaces"] = {}
    result = go(ready, check=True)
    assert set(rows(result)) == {"networks", "pools", "cpu", "ports", "block_jobs", "bridges"}
    assert len(rows(result)["bridges"]) == 2
    assert result.failure_class == "pool_missing"
    for found in rows(result).values():
        for row in found:
            assert row["evidence"] in result.msg
    seen = [[row for row in one.checks if row["id"] != "convergence"] for one in (result, go(ready))]
    assert seen[0] == seen[1], "a real run sees what check mode sees, but for the forecast"
    assert ready.world.migrations == []


@pytest.mark.parametrize("name", [None, "kvm2.example"])
def test_certificates_that_are_in_order_are_used(ready, name):
    with_tls(ready)
    result = go(ready, tls="auto", tls_destination=name)
    assert not result.failed, result.msg
    assert "TLS" in ready.flags()
    assert len(rows(result, "warn")) == 0
    assert "certificates" in rows(result, "pass")


def test_a_certificate_that_ends_soon_is_a_warning(ready):
    both(with_tls, certificate("kvm2", "server-cert.pem", not_after=1000 + 86400))(ready)
    result = go(ready, tls="true")
    assert not result.failed, result.msg
    assert "/pki/server-cert.pem on kvm2 expires on 1970-01-02" in rows(result, "warn")["certificates"][0]["evidence"]


def test_every_disk_is_looked_at(ready):
    more = disk_xml("vdb", "/other/b.qcow2") + disk_xml("vdc", "/gone/c.qcow2", device="cdrom", image="raw")
    change("</devices>", more + "</devices>")(ready)
    ready.kvm1.write("/other/b.qcow2", fake.File())
    ready.kvm2.write(IMAGE, fake.File(content="foreign"))
    result = go(ready, check=True)
    assert set(rows(result)) == {"pools", "dest_images", "media"}
    assert "/other" in rows(result)["pools"][0]["evidence"]


def test_c4_86_a_policy_goes_without_post_copy_where_pages_cannot_be_fetched(ready):
    there(userfaultfd="0")(ready)
    result = go(ready, policy="must_complete")
    assert result.outcome == "migrated", result.msg
    assert "POSTCOPY" not in result.flags
    (told,) = [text for text in result.warnings if "goes without post-copy" in text]
    assert "QEMU runs as libvirt-qemu on kvm2, who may not use userfaultfd" in told


def test_what_keeps_libvirt_from_the_proof_that_a_disk_is_shared_is_found_as_well(ready):
    """SELinux keeps libvirt from the storage before it keeps QEMU from it."""
    both(with_shared_disk, lambda lab: lab.machines["kvm2"].update(selinux={"enforcing": True, "on": []}))(ready)
    ready.kvm2.denied.add("/nfs")
    result = go(ready, check=True)
    assert set(rows(result)) == {"storage", "selinux"}
    assert rows(result)["selinux"][0]["role"] == "selinux"
    assert all(pool.active for pool in ready.kvm2.pools.values())


@pytest.mark.parametrize(("preflight_is", "moves"), [("enforce", False), ("warn", True), ("skip", True)])
def test_what_happens_on_a_finding_can_be_said(ready, preflight_is, moves):
    ready.kvm2.networks = {}
    result = go(ready, preflight=preflight_is)
    assert result.failed != moves
    assert bool(rows(result)) != moves
    told = [text for text in result.warnings if "no libvirt network default" in text]
    assert bool(told) == (preflight_is == "warn") == ("networks" in rows(result, "warn"))
    assert ready.where()[1] == (fake.VIR_DOMAIN_RUNNING if moves else None)


@pytest.mark.parametrize(
    ("mounts_there", "options", "moves"),
    [
        ([EXT4], {}, False),
        # Somebody has said so.
        ([EXT4], {"storage": "copy"}, True),
        # Another file system is meant to be there.
        ([EXT4, {**EXT4, "path": "/vm"}], {}, True),
        ([EXT4, {**NFS, "path": "/vm"}], {}, True),
        # A host whose whole file system is on a server.
        ([{**NFS, "path": "/"}], {}, True),
    ],
)
def test_a_copy_in_place_of_a_mount_is_only_made_on_request(ready, mounts_there, options, moves):
    ready.machines["kvm1"]["mounts"] = [EXT4, {**NFS, "path": "/vm"}]
    ready.machines["kvm2"]["mounts"] = mounts_there
    result = go(ready, **options)
    assert result.failed != moves, result.msg
    assert ready.where() == ((None, fake.VIR_DOMAIN_RUNNING) if moves else (fake.VIR_DOMAIN_RUNNING, None))


def test_checks_that_were_made_are_told_from_those_that_do_not_matter(ready):
    with_shared_disk(ready)
    passed = {one["id"] for one in go(ready, check=True).checks if one["status"] == "pass"}
    assert {"mounts", "locks", "qemu_users", "live_definition", "settings"} <= passed


@pytest.mark.parametrize("preflight_is", ["warn", "skip"])
def test_what_would_put_the_vm_at_risk_is_refused_in_any_case(ready, preflight_is):
    ready.kvm2.write(IMAGE, fake.File(content="foreign"))
    result = go(ready, preflight=preflight_is)
    assert result.failed
    assert set(rows(result)) == {"dest_images"}


def test_what_only_matters_at_its_start_is_a_warning_for_a_vm_that_is_shut_off(ready):
    ready.kvm1.guests[UUID].state = fake.VIR_DOMAIN_SHUTOFF
    ready.kvm2.networks = {}
    ready.kvm2.machines = ["pc-i440fx-6.2"]
    ready.kvm2.memory_free = 1 << 20
    result = go(ready, migrate_uri=None)
    assert not result.failed, result.msg
    assert set(rows(result, "warn")) == {"networks", "machine"}
    assert ready.where() == (None, fake.VIR_DOMAIN_SHUTOFF)


WARNINGS = [
    (there(now=700.0), "clocks", "the clocks of kvm1 and kvm2 differ by about 300 s"),
    (there(now=1040.0), "clocks", "differ by about 40 s"),
    (
        there(interfaces={"br-default": 1500, "br0": 9000, "eth1": 1500}),
        "bridges",
        "bridge br0 has MTU 1500 on kvm1 and 9000 on kvm2",
    ),
    (
        lambda lab: lab.closed_ports.update({ADDRESS: [49215]}),
        "ports",
        "port 49215/tcp of 172.16.1.2 cannot be reached from kvm1: No route to host; the first ones can",
    ),
    (
        lambda lab: setattr(lab.kvm1.guests[UUID], "inactive_xml", rich("<vcpu>2", "<vcpu>4")),
        "live_definition",
        "the definition of a is not what runs: 4 vCPUs; 2 vCPUs",
    ),
    *(
        (
            both(
                with_shared_disk,
                lambda lab, host=host: lab.machines[host].update(mounts=[EXT4, {**NFS, "own_locks": True}]),
            ),
            "locks",
            f"/nfs is mounted on {host} so that no other host sees its locks",
        )
        for host in ("kvm1", "kvm2")
    ),
    (
        there(qemu_conf={"lock_manager": "lockd"}),
        "settings",
        "lock_manager in qemu.conf is not set on kvm1 and lockd on",
    ),
    (
        both(there(hooks=["/etc/libvirt/hooks/qemu"]), lambda lab: lab.machines["kvm1"].update(hooks=[])),
        "settings",
        "libvirt calls /etc/libvirt/hooks/qemu for each VM on kvm2, and nothing like it on kvm1",
    ),
    (
        both(change(CPU, "<cpu mode='host-passthrough'/>"), set_dest(cpu="Milan")),
        "cpu",
        "a has the CPU of its host as it is, and kvm1 has AMD EPYC, kvm2 AMD Milan",
    ),
    *(
        (
            both(with_shared_disk, tried("kvm2", qemu={"error": "EACCES"}, root=root)),
            "exports",
            "libvirt-qemu may make no file in /nfs on kvm2 (Permission denied), and root is nobody there",
        )
        for root in ({"error": "EACCES"}, {"owner": 65534})
    ),
    (
        both(with_shared_disk, tried("kvm2", qemu={"error": "ENOSPC"}, root={"error": "ENOSPC"})),
        "exports",
        "nothing can be written in /nfs on kvm2: No space left on device",
    ),
    (
        both(
            with_shared_disk,
            lambda lab: lab.machines["kvm1"].update(mounts=[EXT4, {**NFS, "type": "fuse.sshfs"}]),
        ),
        "mounts",
        "/nfs/a.qcow2 is on fuse.sshfs, which libvirt does not know to be shared",
    ),
    # It may be one that is translated on the way.
    (
        there(local_addresses=["127.0.0.1", "172.16.1.9"]),
        "dest_name",
        f"the data would go to {ADDRESS} and kvm2 has no such address",
    ),
]


@pytest.mark.parametrize(("make", "check", "evidence"), WARNINGS)
def test_c2_45_52_55_61_what_may_be_meant_is_a_warning_and_keeps_nobody_from_moving(ready, make, check, evidence):
    make(ready)
    result = go(ready)
    assert not result.failed, result.msg
    assert list(rows(result, "warn")) == [check]
    assert evidence in rows(result, "warn")[check][0]["evidence"]
    assert ready.where()[1] == fake.VIR_DOMAIN_RUNNING


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("0.0.0.0", "127.0.0.1", True),
        ("0.0.0.0", "::1", False),
        ("0.0.0.0", "::", True),
        ("::", "127.0.0.1", True),
        ("localhost", "127.0.0.1", True),
        ("localhost", "10.0.0.2", False),
        ("somewhere", "10.0.0.2", False),
        ("10.0.0.2", "10.0.0.2", True),
    ],
)
def test_who_keeps_whom_from_a_port(one, other, meet):
    assert {preflight._meet(*both) for both in ((one, other), (other, one))} == {meet}


def test_with_the_way_broken_both_hosts_are_judged_all_the_same(ready):
    """The destination has told of itself through Ansible's own login."""
    ready.kvm2.networks = {}
    ready.closed_ports = {ADDRESS: range(49152, 49216)}
    ready.machines["kvm2"]["swtpm"] = False
    change("</devices>", TPM + "</devices>")(ready)
    known = ready.facts("kvm2")
    result = go(ready, check=True, dest_uri="qemu+ssh://root@elsewhere/system", _dest_facts=known)
    assert set(rows(result)) == {"dest_connection", "networks", "ports", "swtpm"}
    assert "elsewhere" in rows(result)["dest_connection"][0]["evidence"]
    assert "kvm2 has no libvirt network default" in rows(result)["networks"][0]["evidence"]
    assert result.failure_class == "name_resolution"
    assert "machine" in rows(result, "pass")
    assert rows(result, "skipped")["storage"][0]["evidence"] == "it cannot be judged before what has failed is cured"
    assert ready.world.migrations == []


@pytest.mark.parametrize(
    ("make", "options", "lacks"),
    [
        (lambda lab: lab.kvm2.pools.clear(), {}, True),
        (lambda lab: lab.kvm2.add_pool("vm", "/vm", active=False), {}, True),
        (lambda lab: lab.kvm2.pools.clear(), {"storage": "shared"}, False),
        (both(lambda lab: lab.kvm2.pools.clear(), stopped), {}, False),
        (both(lambda lab: lab.kvm2.pools.clear(), with_shared_disk), {}, False),
    ],
)
def test_with_the_way_broken_a_pool_that_is_missing_is_found(ready, make, options, lacks):
    make(ready)
    known = ready.facts("kvm2")
    result = go(ready, check=True, dest_uri="qemu+ssh://root@elsewhere/system", _dest_facts=known, **options)
    assert ("pools" in rows(result)) == lacks
    assert not lacks or rows(result)["pools"][0]["role"] == "storage_pool"


@pytest.mark.parametrize("is_there", [True, False])
def test_the_directory_of_what_is_said_to_be_shared_is_at_the_destination(ready, is_there):
    """Where libvirt on the source cannot make a probe file there is no proof."""
    ready.world.faults["kvm1", "createXML"] = fake.libvirtError("Failed to create file: Permission denied", 38, 13)
    ready.kvm2.pools.clear()
    if not is_there:
        del ready.kvm2.directories["/vm"]
    result = go(ready, check=True, storage="shared")
    assert result.failed != is_there
    if not is_there:
        assert rows(result)["storage"][0]["evidence"] == "disk vda is said to be shared, and kvm2 has no /vm"
        assert result.failure_class == "image_missing"


def test_devices_of_the_destination_are_not_opened(ready):
    """libvirt opens everything in a directory that it looks into, a watchdog for one."""
    change("</devices>", "<serial type='file'><source path='/dev/null'/></serial></devices>")(ready)
    ready.kvm2.directories["/dev"] = {}
    calls = len(ready.kvm2.calls)
    assert not go(ready, check=True).failed
    looked = ready.kvm2.calls[calls:].count("storagePoolCreateXML")
    change("", "")(ready)
    calls = len(ready.kvm2.calls)
    assert not go(ready, check=True).failed
    assert ready.kvm2.calls[calls:].count("storagePoolCreateXML") == looked


@pytest.mark.parametrize(
    ("helpers", "lacks", "uri"),
    [
        ([], "virt-ssh-helper and no nc", "qemu+ssh://root@kvm2/system"),
        (["nc"], "virt-ssh-helper", "qemu+ssh://root@kvm2/system?proxy=native"),
        (["virt-ssh-helper"], "nc", "qemu+libssh2://root@kvm2/system?proxy=netcat"),
        (["nc"], "", "qemu+ssh://root@kvm2/system"),
        ([], "", "qemu+ssh://root@kvm2/system?netcat=/opt/nc"),
        ([], "", "qemu+tcp://kvm2/system"),
    ],
)
def test_c2_38_a_destination_without_what_ssh_calls_there_is_told(ready, helpers, lacks, uri):
    there(ssh_helpers=helpers)(ready)
    known = ready.facts("kvm2")
    ready.world.faults[("kvm2", "open")] = fake.libvirtError("End of file while reading data: : Input/output error", 38)
    result = go(ready, check=True, dest_uri=uri, _dest_facts=known)
    found = rows(result)
    assert set(found) == {"dest_connection"} | ({"ssh_helper"} if lacks else set())
    if lacks:
        assert f"kvm2 has no {lacks}, which libvirt's ssh calls there" in result.msg
        assert found["ssh_helper"][0]["role"] == "libvirt_host"
        assert "install virt-ssh-helper" in found["ssh_helper"][0]["cure"]


def test_with_the_way_broken_and_nothing_known_the_way_is_what_is_told(lab):
    lab.add()
    result = lab.move(dest_uri="qemu+ssh://root@elsewhere/system")
    assert set(rows(result)) == {"dest_connection"}
    assert result.outcome == "refused"


def test_a_bare_module_judges_what_its_uris_reach_and_says_what_it_cannot(lab):
    lab.add(xml=rich())
    lab.kvm2.memory_free = 1 << 20
    result = lab.move(check=True, migrate_uri=f"tcp://{ADDRESS}")
    assert set(rows(result)) == {"memory"}
    assert "networks" in rows(result, "pass")
    assert rows(result, "skipped")["bridges"][0]["evidence"] == "kvm2 did not tell of its interfaces"
    assert "clocks" in rows(result, "skipped")
    assert "one where somebody listens must not be tried" in rows(result, "skipped")["ports"][0]["evidence"]
    assert lab.probed == []


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (lambda lab: lab.names.update(kvm2=["::1", "192.0.2.2"]), {"migrate_uri": None}),
        (
            lambda lab: lab.machines["kvm2"].update(qemu_conf={"migrate_tls_force": "1"}),
            {"tunnelled": True, "migrate_uri": None},
        ),
        (there(userfaultfd="0", userfaultfd_device=True), {"postcopy": True}),
        (there(userfaultfd="0", qemu_user={"name": "root", "uid": 0, "gid": 0}), {"postcopy": True}),
        (there(selinux={"enforcing": True, "on": []}, mounts=[EXT4, {**NFS, "labelled": True}]), {}),
        (there(selinux={"enforcing": True, "on": ["virt_use_nfs"]}), {}),
        (there(selinux={"enforcing": False, "on": []}), {}),
        (lambda lab: lab.closed_ports.update({ADDRESS: range(49152, 49216)}), {"migrate_uri": f"rdma://{ADDRESS}"}),
        (there(huge_pages={"1073741824": 1}), {}),
        # libvirt gives the image to QEMU's user, or the user may do so itself.
        (tried("kvm2", qemu={"error": "EACCES"}), {}),
        (tried("kvm2", root={"error": "EACCES"}), {}),
        (tried("kvm2", root={"owner": 65534}), {}),
        (there(ssh_helpers=[]), {}),
        (lambda lab: lab.machines["kvm1"].update(daemon_ssh=False), {"control": "direct"}),
        (lambda lab: lab.machines["kvm1"].update(daemon_ssh=False), {"dest_uri": "qemu+tcp://kvm2/system"}),
        (
            both(
                lambda lab: setattr(
                    lab.kvm1.guests[UUID],
                    "xml",
                    lab.kvm1.guests[UUID].xml.replace("<source bridge='br0'/>", f"<source bridge='br0'/>{SWITCHED}"),
                ),
                there(linux_bridges=[], interfaces={"br-default": 1500, "br0": 1500, "eth1": 1500, "ovs-system": 1500}),
            ),
            {},
        ),
        (
            both(
                lambda lab: setattr(
                    lab.kvm1.guests[UUID],
                    "xml",
                    lab.kvm1.guests[UUID].xml.replace("network='default'", "network='default' portgroup='web'"),
                ),
                lambda lab: lab.kvm2.portgroups.update(default=["web"]),
            ),
            {},
        ),
        (there(swap_free=4 << 30), {"_memory": 512 << 20}),
        (there(closed={"/elsewhere": "/elsewhere"}), {}),
        (there(qemu_conf={"migration_address": ADDRESS}), {}),
        (there(qemu_conf={"migration_address": "0.0.0.0"}), {}),
        (there(qemu_conf={"migration_address": "172.16.1.77"}), {"tunnelled": True, "migrate_uri": None}),
    ],
)
def test_nothing_is_found_where_nothing_is_in_the_way(ready, make, options):
    with_shared_disk(ready)
    ready.kvm1.guests[UUID].xml = ready.kvm1.guests[UUID].xml.replace(
        "<os>", "<memtune><hard_limit unit='GiB'>3</hard_limit></memtune><os>"
    )
    ready.kvm2.memory_free = options.pop("_memory", ready.kvm2.memory_free)
    make(ready)
    result = go(ready, check=True, **options)
    assert not result.failed, result.msg
    assert [one for one in rows(result, "warn") if one not in ("qemu_users",)] == []


def test_it_says_what_several_would_take_together(ready):
    result = go(ready, check=True)
    assert rows(result, "pass")["memory"][0]["takes"] == {"what": "memory", "need": 1 << 30, "free": 8 << 30}
    takes = rows(result, "pass")["space"][0]["takes"]
    assert takes["what"] == "room in /vm"
    assert 0 < takes["need"] < takes["free"]
    assert "takes" not in rows(result, "pass")["guest"][0]
    ready.kvm1.guests[UUID].xml = ready.kvm1.guests[UUID].xml.replace("<os>", PAGES + "<os>")
    there(huge_pages={"1073741824": 2})(ready)
    row = rows(go(ready, check=True), "pass")["memory"][0]
    assert row["takes"] == {"what": "huge pages of 1.0 GiB", "need": 1 << 30, "free": 2 << 30}
    assert row["evidence"] == "kvm2 has 2.0 GiB in huge pages of 1.0 GiB, and 1.0 GiB are needed"


def test_a_port_where_somebody_listens_is_not_connected_to(ready):
    """A QEMU that waits for another guest would take the probe for it."""
    ready.machines["kvm2"]["listening"] = [49152, 49215]
    go(ready, check=True)
    assert ready.probed == [(ADDRESS, 49214)]


def test_the_way_is_not_tried_where_the_data_takes_another(ready):
    go(ready, check=True, tunnelled=True, migrate_uri=None, copy_storage=None)
    assert ready.probed == []


def test_the_engines_own_warnings_are_findings(ready):
    ready.add("kvm2", xml=domain_xml(), state=fake.VIR_DOMAIN_SHUTOFF, image="")
    result = go(ready, check=True, tls="auto")
    assert set(rows(result, "warn")) == {"dest_definition", "tls"}
    assert all(row["evidence"] in result.warnings for found in rows(result, "warn").values() for row in found)


def fails_on_the_way(lab, message: str, make):
    def fail(phase, _source, _dest, _guest):
        if phase == "perform":
            make(lab)
            raise fake.libvirtError(message)

    lab.world.script = fail


def test_a_failure_on_the_way_tells_what_is_in_the_way_now(ready):
    def closed(lab):
        lab.closed_ports[ADDRESS] = range(49152, 49216)

    fails_on_the_way(ready, "internal error: something broke", closed)
    result = go(ready)
    assert (result.outcome, result.failure_class, result.role) == ("failed", "port_closed", "firewall")
    assert "something broke" in result.msg
    assert f"found now: port 49152, 49153, 49215/tcp of {ADDRESS} cannot be reached" in result.msg
    assert "open ports 49152-49215/tcp on kvm2" in result.cure
    assert list(rows(result)) == ["ports"]
    assert ready.where() == (fake.VIR_DOMAIN_RUNNING, None)


def test_what_libvirt_says_of_a_cause_counts_before_what_is_found_beside_it(ready):
    fails_on_the_way(ready, "Certificate does not match the hostname x", set_dest(networks={}))
    result = go(ready)
    assert result.failure_class == "tls_name"
    assert "found now: kvm2 has no libvirt network default" in result.msg


def test_a_failure_with_nothing_in_the_way_is_told_as_it_is(ready):
    fails_on_the_way(ready, "internal error: something broke", nothing)
    result = go(ready)
    assert result.failure_class == "libvirt"
    assert "found now" not in result.msg
    assert rows(result) == {}


def test_a_destination_that_is_gone_is_not_looked_at(ready):
    def gone(lab):
        lab.world.faults[("kvm2", "listAllStoragePools")] = fake.libvirtError("gone")

    fails_on_the_way(ready, "internal error: something broke", gone)
    assert go(ready).failure_class == "libvirt"


def test_every_check_has_an_obstacle_here():
    known = {one.check for one in OBSTACLES} | {check for _make, check, _evidence in WARNINGS}
    # What only check mode looks at is in test_forecast.py, and a helper that is missing comes with another finding.
    assert set(preflight.ORDER) == known | {"convergence", "ssh_helper"}


def test_the_checks_have_names_of_their_own():
    assert len(set(preflight.ORDER)) == len(preflight.CHECKS)


def test_a_vm_that_is_there_already_is_not_checked(ready):
    ready.add("kvm2", name="b", uuid="5ba1ab1e-0000-4000-8000-00000000000b", image="")
    result = go(ready, name="b")
    assert not result.failed
    assert not result.changed
    assert rows(result) == {}
