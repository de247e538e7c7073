# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scenario `preflight`: obstacles that are real, each found with its cure while nothing changes, cured, and gone."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.lab import faults

from .conftest import Run, ansible
from .extent import chosen, full

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

    `evidence` and `cure` are what must be said, and `others` are checks that fail of the same thing. `given` are
    variables that the person gives. What is `only_warned` of does not keep the VM from moving, and of what is `planned`
    the plan tells before there is anything to check.
    """

    check: str
    evidence: str
    cure: str
    do: dict[str, str] = field(default_factory=dict)
    undo: dict[str, str] = field(default_factory=dict)
    role: str = ""
    given: dict[str, Any] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    only_warned: bool = False
    planned: bool = False


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

DAEMON_CONF = "/etc/libvirt/libvirtd.conf"
SERVICES = " ".join((faults.DAEMON, *faults.SOCKETS))
RESTART = f"systemctl restart {faults.DAEMON}"
TWIN = "7f1c2d3e-0000-4000-8000-00000000000a"
SAME_UUID = f"cp -p {DAEMON_CONF} {DAEMON_CONF}.before; echo 'host_uuid = \"{TWIN}\"' >> {DAEMON_CONF}; {RESTART}"
OWN_UUID = f"mv {DAEMON_CONF}.before {DAEMON_CONF}; {RESTART}"
NAMESAKE = f'<domain type="qemu"><name>{VM}</name><memory>65536</memory><os><type>hvm</type></os></domain>'
SLIRP = f'<interface type="user"><mac address="{MAC}"/><model type="virtio"/><alias name="{ALIAS}"/></interface>'


def started_with(*edits: str, start: str = "start") -> tuple[str, str]:
    """Commands that start the guest anew with its definition changed by sed, and as it was before."""
    script = " ".join(f"-e '{edit}'" for edit in edits)
    again = f"virsh destroy {VM}; virsh define /root/{VM}.{{}}; virsh {{}} {VM}"
    do = f"virsh dumpxml --inactive {VM} > /root/{VM}.before; sed {script} /root/{VM}.before > /root/{VM}.now; "
    undo = again.format("before", "start") + f"; rm /root/{VM}.before /root/{VM}.now"
    return do + again.format("now", start), undo


# A filter of no rules, a screen, consoles and firmware, each of which only its host can have.
FILTER, NO_FILTER = started_with(r"s|</interface>|<filterref filter=\"own\"/>&|")
DEFINE_FILTER = "echo \"<filter name='own'/>\" > /tmp/own.xml; virsh nwfilter-define /tmp/own.xml; rm /tmp/own.xml"
SCREEN, NO_SCREEN = started_with(r"s|</devices>|<graphics type=\"vnc\" port=\"-1\" listen=\"172.16.1.231\"/>&|")
PORT, NO_PORT = started_with(r"s|</devices>|<graphics type=\"vnc\" port=\"5999\" autoport=\"no\"/>&|")
LISTEN = "systemd-run --unit=own python3 -m http.server 5999 --bind 127.0.0.1; sleep 2"
TAP, NO_TAP = started_with(r"s|</interface>|<target dev=\"own0\"/>&|")
CONNECTED, NOT_CONNECTED = started_with(
    r"s|</devices>|<serial type=\"tcp\"><source mode=\"connect\" host=\"127.0.0.1\" service=\"5998\"/></serial>&|"
)
PEER = "systemd-run --unit=own-peer python3 -m http.server 5998 --bind 127.0.0.1; sleep 2"
LOG = "/var/log/own"
CONSOLE, NO_CONSOLE = started_with(rf"s|</devices>|<serial type=\"file\"><source path=\"{LOG}/a\"/></serial>&|")
ROM = "/usr/local/share/own.bin"
LOADER, NO_LOADER = started_with(rf"s|</os>|<loader type=\"rom\">{ROM}</loader>&|")
GONE = NETWORK.replace("br-lan", "br-gone")
DEFINE_GONE = f'echo "{GONE}" > /tmp/gone.xml; virsh net-define /tmp/gone.xml; rm /tmp/gone.xml; virsh net-start blue'
LUKS = f"""
cat > /tmp/secret.xml <<END
<secret ephemeral='yes' private='yes'><usage type='volume'><volume>/vm/luks.img</volume></usage></secret>
END
cat > /tmp/luks.xml <<END
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/vm/luks.img'>
<encryption format='luks'><secret type='passphrase' usage='/vm/luks.img'/></encryption></source>
<target dev='vdz' bus='virtio'/></disk>
END
qemu-img create -q --object secret,id=key,data=word -f luks -o key-secret=key,iter-time=10 /vm/luks.img 1M
uuid=$(virsh secret-define /tmp/secret.xml | cut -d' ' -f2)
virsh secret-set-value $uuid --base64 $(printf word | base64)
virsh pool-refresh vm; virsh attach-device {VM} /tmp/luks.xml --live; rm /tmp/secret.xml /tmp/luks.xml
"""
NO_LUKS = f"""
virsh detach-disk {VM} vdz --live; sleep 3; rm -f /vm/luks.img; virsh pool-refresh vm
virsh secret-undefine $(virsh secret-list | awk '$3 == "/vm/luks.img" {{print $1}}')
"""

# As the template of the lab's guests has it.
UUID = uuid.uuid5(uuid.UUID("361e6d51-faec-444a-9079-341386da8e2e"), VM)
# It has no disk, and so nothing to lose.
SAME = f"<name>{VM}</name><uuid>{UUID}</uuid><memory unit='MiB'>16</memory><os><type arch='x86_64'>hvm</type></os>"
START_SAME = f"echo \"<domain type='qemu'>{SAME}</domain>\" > /tmp/same.xml; virsh create /tmp/same.xml"
DEFINE_SAME = f"echo \"<domain type='qemu'>{SAME}</domain>\" > /tmp/same.xml; virsh define /tmp/same.xml"
# What only listens where it runs, until it is aborted.
BACKUP = f"""
echo "<domainbackup mode='pull'><server name='localhost' port='10809'/></domainbackup>" > /tmp/backup.xml
virsh backup-begin {VM} /tmp/backup.xml; rm /tmp/backup.xml
"""
END_BACKUP = f"virsh domjobabort {VM}; sleep 2; rm -f {IMAGE}.scratch*; virsh pool-refresh vm"
# The guest's own, which only its host has.
OWN_QEMU = "/usr/local/bin/qemu-own"
DAEMON_DROP_IN = f"/run/systemd/system/{faults.DAEMON}.d"
PROGRAMS = "/run/programs"
NO_SSH = f"""
mkdir -p {DAEMON_DROP_IN} {PROGRAMS}; ln -s /usr/bin/* {PROGRAMS}; rm {PROGRAMS}/ssh
printf '[Service]\nEnvironment=PATH={PROGRAMS}:/usr/sbin\n' > {DAEMON_DROP_IN}/path.conf
systemctl daemon-reload; {RESTART}
"""
SSH_AGAIN = f"rm -r {DAEMON_DROP_IN} {PROGRAMS}; systemctl daemon-reload; {RESTART}"


EMULATOR, NO_EMULATOR = started_with(f"s|<emulator>.*|<emulator>{OWN_QEMU}</emulator>|")
# Nearly all that the machine has: QEMU takes it when the guest does.
LARGE = "$(awk '/^(MemTotal|SwapTotal)/ {sum += $2} END {printf \"%d\", sum * 0.98}' /proc/meminfo)"
MEMORY, NO_MEMORY = started_with(r"/<currentMemory/d", f"s|<memory.*|<memory>'\"{LARGE}\"'</memory>|")
TPM, NO_TPM = started_with(r"s|</devices>|<tpm model=\"tpm-crb\"><backend type=\"emulator\" version=\"2.0\"/></tpm>&|")
STATES = "/var/lib/libvirt/swtpm"
VARIABLES = f"/vm/{VM}.fd"
UEFI = (
    r"s|</os>|<loader readonly=\"yes\" type=\"pflash\">/usr/share/OVMF/OVMF_CODE_4M.fd</loader>"
    rf"<nvram template=\"/usr/share/OVMF/OVMF_VARS_4M.fd\">{VARIABLES}</nvram>&|"
)
FIRMWARE, NO_FIRMWARE = started_with(UEFI)
FIRMWARE_ASLEEP, _NO_FIRMWARE = started_with(UEFI, start="start --paused")
NO_VARIABLES = f"rm -f {VARIABLES}; virsh pool-refresh vm"

# A disk more, on storage that both hosts share.
TOP, BASE = "/vmshared/top.qcow2", "/vm/base.qcow2"
TOP_ATTACHED = (
    f"virsh pool-refresh vmshared; virsh attach-disk {VM} {TOP} vdz --targetbus virtio --subdriver qcow2"
    " --cache none --live"
)
SHARED = f"qemu-img create -qf qcow2 {TOP} 1M; {TOP_ATTACHED}"
NO_SHARED = f"virsh detach-disk {VM} vdz --live; sleep 3; rm -f {TOP}; virsh pool-refresh vmshared"
SPARSE = f"""
truncate -s 1G /vm/sparse.img; virsh pool-refresh vm
virsh attach-disk {VM} /vm/sparse.img vdz --targetbus virtio --subdriver raw --cache none --live
"""
NO_SPARSE = f"virsh detach-disk {VM} vdz --live; sleep 3; rm -f /vm/sparse.img; virsh pool-refresh vm"
OVER_LOCAL = f"""
qemu-img create -qf qcow2 {BASE} 1M; virsh pool-refresh vm
qemu-img create -qf qcow2 -b {BASE} -F qcow2 {TOP}; {TOP_ATTACHED}
"""

PKI = "/etc/pki/qemu"
EC = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
OWN_AUTHORITY = f"""
[ ! -e {PKI} ] || mv {PKI} {PKI}.before; mkdir -p {PKI}; cd {PKI}
openssl req -x509 {EC} -days 30 -subj /CN=own -keyout ca-key.pem -out ca-cert.pem
for one in server client; do
    openssl req {EC} -subj /CN=$(hostname) -keyout $one-key.pem -out $one.csr
    openssl x509 -req -in $one.csr -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial -days 30 -out $one-cert.pem
done
chmod a+r *.pem
"""
NO_AUTHORITY = f"rm -r {PKI}; [ ! -e {PKI}.before ] || mv {PKI}.before {PKI}"


def options(**said: Any) -> dict[str, Any]:
    return {"migrate_options": said}


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


# What takes a guest, a daemon or a role more than a few seconds, or differs from others by its words only.
MORE = [
    Obstacle(
        "hosts",
        "have the same libvirt host UUID",
        "host_uuid_source",
        dict.fromkeys((DEST, SOURCE), SAME_UUID),
        dict.fromkeys((DEST, SOURCE), OWN_UUID),
        planned=True,
    ),
    Obstacle(
        "source_connection",
        "labkvm1 does not answer",
        "it may be there, so nothing is moved",
        {SOURCE: f"systemctl stop {SERVICES}"},
        {SOURCE: f"systemctl start {SERVICES}"},
        planned=True,
    ),
    Obstacle(
        "dest_connection",
        "labkvm2 does not answer",
        "VM centos64a cannot move",
        {DEST: f"systemctl stop {SERVICES}"},
        {DEST: f"systemctl start {SERVICES}"},
        planned=True,
    ),
    Obstacle(
        "guest",
        "centos64a is the name of different VMs",
        "rename one of them",
        {DEST: f"echo '{NAMESAKE}' > /tmp/namesake.xml; virsh define /tmp/namesake.xml; rm /tmp/namesake.xml"},
        {DEST: f"virsh undefine {VM}"},
        planned=True,
    ),
    Obstacle(
        "mode",
        "mode: offline was said, and VM centos64a is running",
        "shut it down, or use mode: auto",
        given={"migration_vms": {VM: {"host": DEST, "mode": "offline"}}},
    ),
    Obstacle(
        "managed_save",
        "VM centos64a has a saved state on labkvm1",
        "virsh managedsave-remove centos64a",
        {SOURCE: f"virsh managedsave {VM}"},
        {SOURCE: f"virsh start {VM}"},
    ),
    Obstacle(
        "definition",
        "persistent_xml: the XML has no <uuid>, and libvirt would make one up",
        "give the VM's own UUID",
        given=options(persistent_xml=NAMESAKE),
        planned=True,
    ),
    Obstacle(
        "devices",
        "centos64a has an interface of user-mode networking: its connections break",
        "",
        {SOURCE: f"echo '{SLIRP}' > /tmp/slirp.xml; virsh attach-device {VM} /tmp/slirp.xml --live; rm /tmp/slirp.xml"},
        {SOURCE: NO_BRIDGE},
        only_warned=True,
    ),
    Obstacle(
        "images",
        f"the guest's image {IMAGE} does not exist",
        "restore it, or correct the VM's definition",
        {SOURCE: f"mv {IMAGE} {IMAGE}.away; virsh pool-refresh vm"},
        {SOURCE: f"mv {IMAGE}.away {IMAGE}; virsh pool-refresh vm"},
    ),
    Obstacle(
        "storage",
        "copy_storage: inc copies what lies on top of a base image, and disk vda",
        "say copy_storage: all",
        given=options(copy_storage="inc"),
    ),
    Obstacle(
        "block_jobs",
        "a block job is going on with disk vda of VM centos64a on labkvm1",
        "virsh blockjob centos64a vda --abort",
        {SOURCE: f"virsh blockcopy {VM} vda /vm/copy.qcow2 --transient-job"},
        {SOURCE: f"virsh blockjob {VM} vda --abort; sleep 1; rm -f /vm/copy.qcow2; virsh pool-refresh vm"},
    ),
    Obstacle(
        "sockets",
        "migrate_uri: unix:///nowhere/memory cannot be reached from labkvm1",
        "let both hosts see one directory there",
        given=options(migrate_uri="unix:///nowhere/memory", disks_uri="unix:///nowhere/disks"),
        others=("copies",),
    ),
    Obstacle(
        "pinned_memory",
        "RDMA pins memory, and VM centos64a has no limit to that",
        "virsh memtune centos64a --hard-limit",
        given=options(migrate_uri="rdma://172.16.1.232"),
    ),
    Obstacle(
        "copies",
        "tunnelled: libvirt copies no disk through its own connection, and disk vda is not shared",
        "leave tunnelled out",
        given=options(tunnelled=True),
    ),
    Obstacle(
        "userfaultfd",
        "",
        "",
        given=options(postcopy=True),
    ),
    Obstacle(
        "tls",
        "there is no",
        "libvirt_tls",
        given=options(tls="true"),
        role="libvirt_tls",
    ),
    Obstacle(
        "versions",
        "detect_zeroes",
        "10.9.0",
        given=options(detect_zeroes=["vda"]),
    ),
    Obstacle(
        "secrets",
        "labkvm2 has no secret volume:/vm/luks.img, which centos64a needs",
        "virsh secret-define, virsh secret-set-value on labkvm2",
        {SOURCE: LUKS},
        {SOURCE: NO_LUKS},
    ),
    Obstacle(
        "live_definition",
        "the definition of centos64a is not what runs",
        "virsh dumpxml --inactive centos64a",
        {SOURCE: f"virsh attach-interface {VM} bridge br-lan --mac {MAC} --model virtio --config"},
        {SOURCE: f"virsh detach-interface {VM} bridge --mac {MAC} --config"},
        only_warned=True,
    ),
    Obstacle(
        "dest_name",
        "labkvm1 cannot resolve labkvm2-private, which migrate_uri names",
        "let labkvm1 resolve labkvm2-private",
        {SOURCE: "cp -p /etc/hosts /etc/hosts.before; sed '/labkvm2/d' /etc/hosts.before > /etc/hosts"},
        {SOURCE: "rm -f /etc/hosts.before"},
        role="name_resolution",
        given=options(migrate_uri="tcp://labkvm2-private"),
    ),
    Obstacle(
        "dest_name",
        "the data would go to labkvm2-private (172.16.1.240), which migrate_uri names, and labkvm2 has no such address",
        "correct the entry of labkvm2-private in /etc/hosts on labkvm1",
        {
            SOURCE: "cp -p /etc/hosts /etc/hosts.before;"
            " (echo 172.16.1.240 labkvm2-private; sed '/labkvm2-private/d' /etc/hosts.before) > /etc/hosts"
        },
        {SOURCE: "cp -p /etc/hosts.before /etc/hosts; rm /etc/hosts.before"},
        given=options(migrate_uri="tcp://labkvm2-private"),
    ),
    Obstacle(
        "networks",
        "labkvm2 has no br-gone, the bridge of its libvirt network blue",
        "make the bridge br-gone on labkvm2, or name its own one there: virsh net-edit blue",
        {SOURCE: f"{DEFINE}; virsh net-start blue; {BLUE}", DEST: DEFINE_GONE},
        {SOURCE: f"{NO_BLUE}; {UNDEFINE}", DEST: UNDEFINE},
    ),
    Obstacle(
        "filters",
        "labkvm2 has no network filter own, which an interface of centos64a has",
        "virsh nwfilter-dumpxml own on labkvm1, virsh nwfilter-define on labkvm2",
        {SOURCE: f"{DEFINE_FILTER}; {FILTER}"},
        {SOURCE: f"{NO_FILTER}; virsh nwfilter-undefine own"},
    ),
    Obstacle(
        "listens",
        "the vnc of centos64a listens on 172.16.1.231, which labkvm2 does not have",
        "let its vnc listen on 0.0.0.0, or on an address of labkvm2",
        {SOURCE: SCREEN},
        {SOURCE: NO_SCREEN},
    ),
    Obstacle(
        "listens",
        "the vnc of centos64a listens on port 5999, and somebody on labkvm2 does already",
        "let libvirt choose the port",
        {SOURCE: PORT, DEST: LISTEN},
        {SOURCE: NO_PORT, DEST: "systemctl stop own"},
    ),
    Obstacle(
        "host_files",
        f"labkvm2 has no directory {LOG}, where consoles of centos64a have their files",
        f"mkdir -p {LOG} on labkvm2",
        {SOURCE: f"mkdir {LOG}; {CONSOLE}"},
        {SOURCE: f"{NO_CONSOLE}; rm -r {LOG}"},
    ),
    Obstacle(
        "host_files",
        f"labkvm2 has no {ROM}, which centos64a starts from",
        "install or copy it there",
        {SOURCE: f"cp /usr/share/seabios/bios-256k.bin {ROM}; {LOADER}"},
        {SOURCE: f"{NO_LOADER}; rm {ROM}"},
    ),
    Obstacle(
        "ssh_helper",
        "labkvm2 has no virt-ssh-helper and no nc, which libvirt's ssh calls there",
        "install virt-ssh-helper",
        {DEST: "for one in virt-ssh-helper nc; do mv /usr/bin/$one /usr/bin/$one.away; done"},
        {DEST: "for one in virt-ssh-helper nc; do mv /usr/bin/$one.away /usr/bin/$one; done"},
        others=("dest_connection",),
    ),
    Obstacle(
        "settings",
        "lock_manager in qemu.conf is not set on labkvm1 and lockd on labkvm2",
        "let both hosts have the same",
        conf('lock_manager = "lockd"'),
        CONF_UNDO,
        only_warned=True,
    ),
    Obstacle(
        "place",
        "VM centos64a is active on labkvm1 and labkvm2 at once",
        "nothing is touched",
        {DEST: START_SAME},
        {DEST: f"virsh destroy {VM}"},
        planned=True,
    ),
    Obstacle(
        "job",
        "a job is going on with VM centos64a on labkvm1",
        "virsh domjobabort centos64a",
        {SOURCE: BACKUP},
        {SOURCE: END_BACKUP},
        others=("block_jobs",),
    ),
    Obstacle(
        "dest_definition",
        "labkvm2 has a saved state of VM centos64a",
        "virsh managedsave-remove centos64a",
        {DEST: f"{DEFINE_SAME}; virsh start {VM}; virsh managedsave {VM}"},
        {DEST: f"virsh undefine {VM} --managed-save"},
    ),
    Obstacle(
        "snapshots",
        "which snapshot kept needs, is not shared",
        "virsh snapshot-delete centos64a NAME --metadata",
        {SOURCE: f"virsh snapshot-create-as {VM} kept"},
        {SOURCE: f"virsh snapshot-delete {VM} kept"},
    ),
    Obstacle(
        "snapshots",
        "VM centos64a has checkpoint kept, and dest_name describes it otherwise",
        "virsh checkpoint-delete centos64a NAME --metadata",
        {SOURCE: f"virsh checkpoint-create-as {VM} kept --diskspec vda"},
        {SOURCE: f"virsh checkpoint-delete {VM} kept"},
        given=options(dest_name="other"),
    ),
    Obstacle(
        "base_images",
        f"copy_storage: inc needs {IMAGE}, the base image of disk vda, and labkvm2 has none",
        "copy it there, or say copy_storage: all",
        {SOURCE: f"virsh snapshot-create-as {VM} top --disk-only --no-metadata --diskspec vda,file=/vm/top.qcow2"},
        {SOURCE: f"virsh blockcommit {VM} vda --active --pivot --wait; rm -f /vm/top.qcow2; virsh pool-refresh vm"},
        given=options(copy_storage="inc"),
    ),
    Obstacle(
        "files",
        "bytes in /vm on 172.16.1.232, and 2097152 are free",
        "make room there",
        {SOURCE: f"virsh destroy {VM}", DEST: "mount -t tmpfs -o size=2m tmpfs /vm; virsh pool-refresh vm"},
        {SOURCE: f"virsh start {VM}", DEST: "umount /vm; virsh pool-refresh vm"},
    ),
    Obstacle(
        "postcopy",
        "postcopy: post-copy is not possible with VM centos64a: parallel needs QEMU 10.1.0 for it",
        "leave post-copy out",
        given=options(postcopy=True, parallel=True),
        others=("userfaultfd",),
    ),
    Obstacle(
        "emulator",
        f"labkvm2 cannot use {OWN_QEMU}, the emulator of centos64a",
        "install QEMU on labkvm2",
        {SOURCE: f"ln -s /usr/bin/qemu-system-x86_64 {OWN_QEMU}; {EMULATOR}"},
        {SOURCE: f"{NO_EMULATOR}; rm {OWN_QEMU}"},
    ),
    Obstacle(
        "memory",
        "GiB of memory, and labkvm2 can give",
        "free memory on labkvm2, or choose another host",
        {SOURCE: MEMORY},
        {SOURCE: NO_MEMORY},
    ),
    Obstacle(
        "swtpm",
        "centos64a has an emulated TPM, and labkvm2 has no swtpm",
        "install swtpm on labkvm2",
        {SOURCE: TPM, DEST: "mv /usr/bin/swtpm /usr/bin/swtpm.away"},
        {SOURCE: NO_TPM, DEST: "mv /usr/bin/swtpm.away /usr/bin/swtpm"},
    ),
    Obstacle(
        "firmware",
        f"{VARIABLES} exists on labkvm2",
        "force: true",
        {SOURCE: FIRMWARE, DEST: f"truncate -s 1M {VARIABLES}; virsh pool-refresh vm"},
        {SOURCE: f"{NO_FIRMWARE}; {NO_VARIABLES}", DEST: NO_VARIABLES},
    ),
    Obstacle(
        "asleep",
        "VM centos64a has not run since it came to labkvm1, where it is paused",
        "virsh resume centos64a, then virsh suspend centos64a",
        {SOURCE: FIRMWARE_ASLEEP},
        {SOURCE: f"{NO_FIRMWARE}; {NO_VARIABLES}"},
    ),
    Obstacle(
        "daemon_ssh",
        "the libvirt daemon of labkvm1 finds no ssh in its PATH",
        "let the PATH of the libvirt daemon find it",
        {SOURCE: NO_SSH},
        {SOURCE: SSH_AGAIN},
    ),
    Obstacle(
        "convergence",
        "and after 5 s it is given up",
        "let timeout",
        given=options(bandwidth=1, timeout=5),
        only_warned=True,
    ),
    Obstacle(
        "backing_files",
        f"disk vdz is shared, and {BASE} below it is not",
        f"put {BASE} on storage that both hosts share",
        {SOURCE: OVER_LOCAL},
        {SOURCE: f"{NO_SHARED}; rm -f {BASE}; virsh pool-refresh vm"},
    ),
    Obstacle(
        "mounts",
        f"/vmshared, where {TOP} lies, is mounted read-only on labkvm2",
        "mount it for writing on labkvm2",
        {SOURCE: SHARED, DEST: "mount -i -o remount,bind,ro /vmshared"},
        {SOURCE: NO_SHARED, DEST: "mount -i -o remount,bind,rw /vmshared"},
    ),
    # A copy would be made in the directory below, where the mount hides it.
    Obstacle(
        "dest_mounts",
        f"{TOP} is on fuse.glusterfs, mounted at /vmshared on labkvm1 and not on labkvm2",
        "mount /vmshared on labkvm2; where a copy is meant, say storage: copy",
        {SOURCE: SHARED, DEST: "umount /vmshared; virsh pool-refresh vmshared"},
        {DEST: "mountpoint -q /vmshared || mount /vmshared; virsh pool-refresh vmshared", SOURCE: NO_SHARED},
    ),
    Obstacle(
        "space",
        "disk vda, vdz of centos64a takes",
        "free space in /vm on labkvm2",
        {SOURCE: SPARSE, DEST: "mount -t tmpfs -o size=300m tmpfs /vm; virsh pool-refresh vm"},
        {SOURCE: NO_SPARSE, DEST: "umount /vm; virsh pool-refresh vm"},
    ),
    Obstacle(
        "directories",
        "libvirt-qemu, who runs QEMU on labkvm2, may not pass /vm, and centos64a has its disks in /vm",
        "chmod o+x /vm on labkvm2",
        {DEST: "stat -c '%U:%G %a' /vm > /root/vm.before; chown root:root /vm; chmod 700 /vm"},
        {DEST: "read owner mode < /root/vm.before; chown $owner /vm; chmod $mode /vm; rm /root/vm.before"},
    ),
    Obstacle(
        "dest_listens",
        "labkvm2 is to listen on 172.16.1.77 for what comes (migration_address in its qemu.conf)",
        "correct migration_address in /etc/libvirt/qemu.conf of labkvm2",
        {DEST: f"sed -i.before 's/^migration_address.*/migration_address = \"172.16.1.77\"/' {CONF}; {RESTART}"},
        {DEST: f"mv {CONF}.before {CONF}; {RESTART}"},
        role="libvirt_host",
    ),
    Obstacle(
        "taps",
        "an interface of centos64a is to be own0 on its host, and labkvm2 has a network device of that name",
        "remove own0 from labkvm2",
        {SOURCE: TAP, DEST: "ip tuntap add own0 mode tap"},
        {SOURCE: NO_TAP, DEST: "ip link delete own0"},
    ),
    Obstacle(
        "connects",
        "the serial of centos64a connects to 127.0.0.1:5998 of its own host, and nobody listens there on labkvm2",
        "start on labkvm2 what listens there on labkvm1",
        {SOURCE: f"{PEER}; {CONNECTED}"},
        {SOURCE: f"{NOT_CONNECTED}; systemctl stop own-peer"},
    ),
    Obstacle(
        "qemu_users",
        f"QEMU uses {TOP} as libvirt-qemu (",
        "give that user and its group the same numbers on all hosts",
        {SOURCE: SHARED, **conf('user = "nobody"')},
        {SOURCE: NO_SHARED, **CONF_UNDO},
        only_warned=True,
    ),
    Obstacle(
        "tpm",
        "it is not known whether both hosts share the state of its TPM",
        "say storage: shared if they do, or start the VM and move it live",
        {SOURCE: f"{TPM}; virsh destroy {VM}", DEST: f"mkdir -p {STATES}; mount -t tmpfs -o ro tmpfs {STATES}"},
        {SOURCE: NO_TPM, DEST: f"umount {STATES}"},
    ),
    Obstacle(
        "certificates",
        "labkvm1 and labkvm2 trust different authorities for TLS",
        "issue a new one, of the same authority on both hosts",
        dict.fromkeys((DEST, SOURCE), OWN_AUTHORITY),
        dict.fromkeys((DEST, SOURCE), NO_AUTHORITY),
        role="libvirt_tls",
        given={**options(tls="true"), "libvirt_tls_replace": True},
    ),
]


def preflight(*arguments: str, dest: str = DEST) -> Run:
    return ansible("ansible-playbook", "preflight.yml", "-e", f"vm={VM}", "-e", f"dest={dest}", *arguments)


def told(run: Run, status: str = "FAIL") -> list[str]:
    return re.findall(rf"  {status} (\w+): ", run.out)


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
    assert told(done) == []
    assert f"{VM}: can move live, {SOURCE} -> {DEST}, storage copy" in done.out
    assert done.changed == 0
    assert footprint() == before


def cases(obstacles: list[Obstacle]) -> Any:
    return pytest.mark.parametrize("obstacle", obstacles, ids=lambda obstacle: obstacle.check)


@cases(chosen(OBSTACLES, 5))
def test_c2_37_40_42_45_46_48_58_an_obstacle_is_found_and_cured(obstacle, footprint, home):
    found_and_cured(obstacle, footprint, home)


@full
@cases(MORE)
def test_c2_30_34_38_54_60_62_64_65_another_one_is_found_and_cured(obstacle, footprint, home):
    found_and_cured(obstacle, footprint, home)


def found_and_cured(obstacle: Obstacle, footprint: Any, home: Any) -> None:
    given = json.dumps(obstacle.given)
    with made(obstacle):
        before, lives = footprint(), home(VM)
        done = preflight("-e", given)
        if obstacle.only_warned:
            assert obstacle.check in told(done, "WARN"), done.out
        elif not obstacle.planned:
            assert set(told(done)) == {obstacle.check, *obstacle.others}, done.out
        assert (done.rc == 0) == obstacle.only_warned, done.out
        assert obstacle.evidence in done.out, done.out
        assert obstacle.cure in done.out, done.out
        assert done.changed == 0
        if not obstacle.only_warned:
            real = ansible("ansible-playbook", "migrate.yml", "-e", f"vm={VM}", "-e", f"dest={DEST}", "-e", given)
            assert real.rc != 0, "what fails in the check must fail in the run"
            assert obstacle.evidence in real.out, real.out
        assert home(VM) == lives
        assert footprint() == before
        if obstacle.role:
            cured = preflight("-e", "fix=true", "-e", given)
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
