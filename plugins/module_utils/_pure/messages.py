# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""The messages of libvirt, QEMU and OpenSSH, what they mean, and what helps: one row per meaning."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import List, Pattern, Sequence, Tuple


@dataclass(frozen=True)
class Known:
    """A message: the class of the failure, its cure, and the role of this collection that applies it.

    The cure may name what the pattern has caught, and what UNNAMED has a word for.
    """

    pattern: Pattern[str]
    failure_class: str
    cure: str
    role: str | None = None


def _known(pattern: str, failure_class: str, cure: str, role: str | None = None) -> Known:
    return Known(re.compile(pattern, re.IGNORECASE | re.DOTALL), failure_class, cure, role)


# What a cure says where neither the message nor the caller has a name.
UNNAMED = {
    "name": "NAME",
    "source": "the source",
    "dest": "the destination",
    "host": "that host",
    "path": "the image",
    "who": "the user that runs QEMU",
    "holder": "the job",
}

# What helps hosts that libvirt takes for one.
SAME_UUID = (
    'name two hosts, or let each libvirtd have a UUID of its own: host_uuid_source = "machine-id" and no host_uuid in'
    " libvirtd.conf, and a /etc/machine-id that no other host has"
)
_PORTS = "open ports 49152-49215/tcp on {dest} for {source}"
# What libvirt says of a guest that is stopped for an error of a disk.
DISK_ERROR = "failed due to I/O error"
_LINK = "check the network between {source} and {dest} and libvirtd on both, then run again"
_LOGS = "look at the end of /var/log/libvirt/qemu/{name}.log on {source} and on {dest}"
# A storage file, as libvirt or QEMU names the one that they could not open.
_IMAGE = (
    r"(?:cannot access (?:storage|backing) file|failed to open file|could not open) '(?P<path>[^']*)'"
    r"(?: of storage file '[^']*')?(?: \(as (?P<who>uid:\d+, gid:\d+)\))?"
)
_NO_WAY = r"(?:no route to host|connection timed out|network is unreachable|did not answer within|does not answer)"
_SERVER = r"connect to (?:server at|host) '?(?P<host>[^\s']+?)(?::[\w-]+'| port \d+)"

# The first row that fits counts, so the narrow ones stand before the wide ones.
TABLE = (
    # The way to a daemon, which is SSH's more often than not.
    _known(
        r"host key verification failed|remote host identification has changed",
        "host_key",
        "let root on {source} know the SSH host key of {dest}",
        "ssh_trust",
    ),
    _known(
        r"permission denied \((?:[\w-]+,?)+\)|permission denied, please try again|too many authentication failures",
        "ssh_login",
        "give root on {source} a key that the user of the URI on {dest} accepts, and let sshd there take that user in"
        " (PermitRootLogin, AllowUsers)",
        "ssh_trust",
    ),
    _known(
        r"packet \d+ bytes received from server too large",
        "ssh_output",
        "let the shell of the user of the URI on {dest} print nothing where nobody types: see its .bashrc",
    ),
    _known(
        r"cannot find 'ssh' in path",
        "ssh_missing",
        "install openssh-client on {source} and let the PATH of the libvirt daemon find it",
        "libvirt_host",
    ),
    _known(
        r"\b(?:nc|ncat|netcat|virt-ssh-helper): (?:(?:command )?not found|invalid option)",
        "ssh_helper",
        "install virt-ssh-helper (package libvirt-daemon) or netcat-openbsd on {dest}",
        "libvirt_host",
    ),
    _known(
        r"hostname on destination resolved to localhost",
        "destination_hostname",
        "let {dest} resolve its own name to its address, or set migration_address",
        "name_resolution",
    ),
    _known(
        r"(?:unable to resolve address '|could not resolve hostname )(?P<host>[^\s':]+)|"
        r"name or service not known|failure in name resolution",
        "name_resolution",
        "let {source} resolve the name of {host}, or set migration_address",
        "name_resolution",
    ),
    # Storage.
    _known(
        r"unsafe migration: migration without shared storage is unsafe",
        "unsafe_storage",
        "let the disk be copied (storage: copy), or put it on storage that both hosts share (one that libvirt does not"
        " know as shared: name it in shared_filesystems of qemu.conf)",
    ),
    _known(
        r"unsafe migration: migration may lead to data corruption if disks use cache",
        "unsafe_cache",
        "set cache='none' on the disks of {name} and start it anew, or upgrade QEMU on both hosts",
    ),
    _known(
        r"nbd-server-start.*cannot assign requested address|failed to bind socket: cannot assign requested address",
        "listen_address",
        "correct migration_address, listen_address or disks_uri: {dest} has no such address",
    ),
    _known(
        r"failed to bind socket: permission denied",
        "nbd_bind",
        "give disks_uri a TCP port above 1023, or a socket in a directory that QEMU on {dest} may write to",
    ),
    _known(
        r"unable to find an unused port in range '?display",
        "port_busy",
        "free a port of screens on {dest}, or widen remote_display_port_max in its qemu.conf",
    ),
    _known(
        r"failed to reserve port|unable to find an unused port|failed to bind socket: address already in use",
        "port_busy",
        "wait until other moves to {dest} have ended, name a free port, or widen migration_port_max in its qemu.conf",
    ),
    _known(
        r"blockdev-add.*(?:connection timed out|no route to host|connection refused)",
        "port_closed",
        _PORTS,
        "firewall",
    ),
    _known(
        r"nbd-server-add|block-export-add|failed to get \"?(?:write|consistent read)\"? lock",
        "image_in_use",
        "say storage: shared where both hosts have the same image, else end the process that has it open",
    ),
    _known(
        r"source and target image have different sizes|"
        r"has to be smaller or equal to the\s+actual size of the containing file",
        "image_size",
        "remove the image of another size on {dest}, or let it be replaced (force: true)",
    ),
    _known(
        r"pre-creation of storage targets for incremental storage migration is not supported",
        "target_missing",
        "create the image and what lies below it on {dest} first, or say copy_storage: all",
    ),
    _known(r"no space left on device", "no_space", "free space on the storage of {dest}"),
    _known(
        r"cannot migrate empty or read-only disk|disk target \S+ not found",
        "disk_target",
        "name only writable disks of {name} in migrate_disks (virsh domblklist {name})",
    ),
    _known(
        r"no storage pool with matching (?:target )?path '?(?P<path>[^\s']*)",
        "pool_missing",
        "define and start a pool with the path {path} on {dest}",
        "storage_pool",
    ),
    _known(
        r"could not open logfile for writing: permission denied",
        "tpm_log",
        "remove /var/log/swtpm/libvirt/qemu/{name}-swtpm.log on {dest}, which an earlier stay has left",
    ),
    _known(
        _IMAGE + r".*permission denied",
        "image_permission",
        "let {who} read and write {path}: by its owner (the same numbers on all hosts), without root_squash,"
        " and with virt_use_nfs on where SELinux enforces",
        "selinux",
    ),
    _known(
        _IMAGE + r".*no such file",
        "image_missing",
        "make {path} reachable under that path on {dest}, let it be copied, or eject the medium",
    ),
    # TLS: what QEMU's channel says comes before what QEMU says of the stream that then ends.
    _known(
        r"allows migration only with VIR_MIGRATE_TLS flag",
        "tls_required",
        "say tls: true: migrate_tls_force is set in qemu.conf",
        "libvirt_tls",
    ),
    _known(
        r"certificate (?:\S+ owner )?does not match the hostname",
        "tls_name",
        "say tls_destination: the name in the certificate of {dest}, or issue one for the name that is used",
        "libvirt_tls",
    ),
    _known(
        r"certificate hasn't got a known issuer|certificate is not trusted|failed to verify peer's certificate|"
        r"certificate \S+ (?:has expired|is not yet active)|unable to access credentials|"
        r"cannot read (?:CA )?certificate",
        "tls_certificate",
        "give {source} and {dest} certificates of one authority in /etc/pki/qemu, valid today and readable for QEMU",
        "libvirt_tls",
    ),
    _known(
        r"cannot (?:read from|write to) TLS channel",
        "tls_channel",
        "check the certificates of both hosts; if it broke after tens of GiB, set migrate_tls_priority in qemu.conf"
        " (libvirt 11.6.0) to ciphers that need no new keys, or upgrade GnuTLS",
        "libvirt_tls",
    ),
    # The guest and its devices.
    _known(
        r"guest cpu doesn't match specification: extra features: ht\b(?!.*missing)",
        "cpu",
        "upgrade libvirt on {dest} to 11.10.0: older ones take ht, as QEMU 10.0 shows it, for a feature too many",
    ),
    _known(
        r"guest cpu doesn't match specification|guest and host cpu are not compatible|unacceptable cpu",
        "cpu",
        "give {name} a CPU model that both hosts have (virsh hypervisor-cpu-baseline)",
    ),
    _known(
        r"cannot find suitable emulator for \S+|unable to find any emulator to serve '",
        "emulator",
        "install QEMU on {dest} (package qemu-system-x86 of Debian, qemu-kvm of RHEL) and restart libvirtd there",
        "libvirt_host",
    ),
    _known(
        r"network not found: no network with matching name '(?P<network>[^']*)'",
        "network_missing",
        "define and start the libvirt network {network} on {dest}",
    ),
    _known(
        r"referenced filter '(?P<filter>[^']*)' is missing",
        "filter_missing",
        "define it there: virsh nwfilter-dumpxml {filter} on {source}, virsh nwfilter-define on {dest}",
    ),
    _known(
        r"network '(?P<network>[^']*)' is not active",
        "network_missing",
        "start it: virsh net-start {network} on {dest}",
    ),
    _known(
        r"(?:cannot get interface mtu on '|unable to add bridge )(?P<bridge>[^'\s]+)",
        "bridge_missing",
        "make the bridge {bridge} on {dest}, or name another one in dest_xml",
    ),
    _known(
        r"target network card mtu \d+ does not match source (?P<mtu>\d+)",
        "mtu",
        "give the network card of {name} the MTU {mtu} in dest_xml",
    ),
    _known(
        r"cannot migrate domain with \d+ snapshots",
        "snapshots",
        "take the snapshots' metadata away (virsh snapshot-delete {name} SNAPSHOT --metadata) and back after the move",
    ),
    _known(
        r"domain has active block job",
        "busy",
        "wait for the end of the block job, or end it: virsh blockjob {name} DISK --abort",
    ),
    _known(
        r"domain is marked for auto destroy",
        "auto_destroy",
        "start {name} anew without --autodestroy: it would end with the connection that has started it",
    ),
    _known(
        r"another migration job is already running for domain",
        "busy",
        "wait for its end (virsh domjobinfo {name}), or end it: virsh domjobabort {name}",
    ),
    _known(
        r"cannot acquire state change lock(?: \(held by (?:monitor|agent)=(?P<holder>[^\s)]+))?",
        "busy",
        "wait for the end of {holder} (virsh domjobinfo {name}); one that hangs ends with systemctl restart libvirtd",
    ),
    _known(
        r"cannot migrate a domain with <",
        "device",
        "take the device out of {name} before the move (virsh detach-device), or move {name} shut off",
    ),
    _known(
        r"cannot migrate domain: ",
        "device",
        "take out of {name} what QEMU names, or move {name} shut off",
    ),
    _known(
        r"migration with virtiofs device is not supported|shmem device '[^']*' cannot be migrated|"
        r"legacy shmem device is not supported|vdpa devices cannot be migrated|slirp-helper cannot be migrated|"
        r"migration with transient disk is not supported",
        "device",
        "take that device out of {name} before the move, upgrade libvirt on both hosts, or move {name} shut off",
    ),
    _known(
        r"'invtsc' cpu feature but tsc frequency is not specified",
        "tsc",
        "give the clock of {name} a <timer name='tsc' frequency='HERTZ'/> and start it anew",
    ),
    _known(
        r"running swtpm does not support migration with shared storage|"
        r"does not support the --migration option needed for migration with shared storage",
        "tpm",
        "upgrade swtpm on both hosts to 0.8.0 and start {name} anew; where it is that new, upgrade libvirt to 12.0.0",
    ),
    _known(
        r"bitmap '[^']*' doesn't satisfy the constraints",
        "stale_image",
        "let {dest} not cache what it knows of files of that file system (GlusterFS: performance.stat-prefetch off)",
    ),
    _known(
        r"already (?:exists|defined) with uuid",
        "foreign_vm",
        "rename or undefine one of the two VMs: {dest} has another one of that name",
    ),
    _known(
        r"bandwidth must be less than",
        "bad_option",
        "give a bandwidth in MiB per second, and a lower one",
    ),
    # The job.
    _known(
        r"cannot abort migration in post-copy mode",
        "postcopy_running",
        "wait for its end: in post-copy the memory of {name} is on both hosts",
    ),
    _known(
        r"failed in post-copy phase|post-copy phase failed",
        "postcopy_failed",
        "destroy neither of the two, and run again with postcopy_resume: true",
    ),
    _known(
        r"operation aborted|canceled by client|cancelled by client",
        "cancelled",
        "run again when it is wanted: somebody has cancelled it",
    ),
    _known(
        r"unable to map backing store for guest ram|cannot set up guest memory|cannot allocate memory",
        "no_memory",
        "free memory (or huge pages) on {dest}",
    ),
    _known(
        r"cannot limit locked memory",
        "locked_memory",
        "let libvirt's daemon raise the limit of locked memory (LimitMEMLOCK, CAP_SYS_RESOURCE), or leave zerocopy and"
        " rdma_pin_all out",
    ),
    # An end in the middle of a section (EIO) is a stream that was cut, and no other version of QEMU.
    _known(r"section footer failed: -5\b", "connection_lost", _LINK),
    _known(
        r"load of migration failed",
        "stream",
        "give both hosts the same QEMU, or {name} a machine type that both have; /var/log/libvirt/qemu/{name}.log on"
        " {dest} says more",
    ),
    _known(
        r"failed due to i/o error|cannot migrate domain with i/o error",
        "disk_error",
        "mend the storage of {name} on {source}, where its disks cannot be read or written, and run again",
    ),
    _known(
        r"domain is not running|qemu unexpectedly closed the monitor|guest unexpectedly quit",
        "guest_died",
        _LOGS,
    ),
    # What is left of a VM.
    _known(
        r"cannot undefine domain with nvram",
        "nvram",
        "undefine it on the host that it has left: virsh undefine {name} --keep-nvram",
    ),
    _known(
        r"domain is not transient",
        "not_transient",
        "let the copy of the disk be a transient job (virsh blockcopy --transient-job)",
    ),
    # The network, and who listens.
    _known(
        r"attempt to migrate guest to the same host",
        "same_host",
        SAME_UUID,
        "libvirt_host",
    ),
    _known(
        r"connect to (?:server at )?'\S*:49\d{3}'.*(?:no route to host|timed out|refused)",
        "port_closed",
        _PORTS,
        "firewall",
    ),
    _known(
        _SERVER + r".*connection refused",
        "daemon_not_listening",
        "start libvirtd (or virtproxyd, with its socket for that transport) and sshd on {host}",
        "libvirt_host",
    ),
    _known(
        r"failed to connect socket to '[^']*(?P<daemon>virt(?:log|lock)d)",
        "daemon_not_listening",
        "start it: systemctl start {daemon}.socket on {dest}",
        "libvirt_host",
    ),
    _known(
        r"failed to connect socket to",
        "daemon_not_listening",
        "start it: systemctl start libvirtd (or virtqemud) on {host}",
        "libvirt_host",
    ),
    _known(
        f"{_SERVER}.*{_NO_WAY}|{_NO_WAY}",
        "unreachable",
        "let {host} be reached: check its address, its network and its firewall; where it answers ping and no ssh,"
        " whether large packets pass (MTU), and what root's ssh_config on {source} says of it",
        "firewall",
    ),
    _known(
        r"cannot recv data.*connection reset by peer",
        "connection_reset",
        "check the network to {dest}; where many VMs move at once, move fewer, or raise MaxStartups in its sshd_config",
    ),
    _known(
        r"lost connection to destination host|client socket is closed|keepalive timeout|end of file while reading data|"
        r"cannot recv data|connection reset by peer|broken pipe|unable to (?:write to|read from) socket",
        "connection_lost",
        _LINK,
    ),
    _known(
        r"authentication (?:failed|unavailable|cancelled)|access denied|operation forbidden|polkit",
        "not_permitted",
        "run as root (become: true)",
    ),
    _known(
        r"hook script execution failed.*?(?P<path>/etc/libvirt/hooks/[\w./-]+)",
        "hook",
        "see why {path} refuses {name}: libvirt calls it on {dest} with what it is told of the VM",
    ),
    _known(r"job: unexpectedly failed|job '[^']*' (?:unexpectedly )?failed", "job_failed", _LOGS),
)
UNKNOWN = _known(
    r"",
    "libvirt",
    "look for more in the log of the libvirt daemon (journalctl -u libvirtd -u virtqemud) on {source} and on {dest}",
)

# What the same words mean of a daemon of this host, which systemd starts for its socket: it ends at once.
_ENDED = _known(
    r"",
    "daemon_not_listening",
    "see why the libvirt daemon of {host} does not start: systemctl status libvirtd (or virtqemud) there",
    "libvirt_host",
)
_LINKS = ("connection_reset", "connection_lost")

_BANNER = re.compile(
    r"@{9,}[\s@]*WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED.*?(?:Offending \S+ key in (\S+?)\s.*?)?"
    r"(Host key verification failed)",
    re.IGNORECASE | re.DOTALL,
)
# What comes back from a peer-to-peer migration over ssh whatever went wrong: libvirt closes its connection to the
# destination then, and the end of that overwrites the reason. Only the source daemon's own log has it.
_OVERWRITTEN = re.compile(r"end of file while reading data: : ", re.IGNORECASE)
# Seconds within which one failure is logged by all that it concerns.
_BURST = 5.0
_NO_REASON = re.compile(r"end of file while reading data|migration successfully aborted", re.IGNORECASE)


def shortened(text: str) -> str:
    """A message without the banner of OpenSSH about a host key that has changed, but for where the old one is."""
    return _BANNER.sub(lambda match: f"the host key has changed ({match[1] or 'known_hosts'}): {match[2]}", text)


def look_up(text: str, **names: str) -> Known:
    """What is known of a message; for one that is in no row, the class `libvirt` and where to look.

    `names` are those of UNNAMED that the caller knows: the VM, its two hosts, and the host that the message is about.
    """
    tried = ((known, known.pattern.search(text)) for known in (*TABLE, UNKNOWN))
    known, match = next((known, match) for known, match in tried if match)
    caught = {group: value for group, value in match.groupdict().items() if value}
    return replace(known, cure=filled(known.cure, **{**names, **caught}))


def look_up_here(text: str, **names: str) -> Known:
    """Likewise, of a message about the way to a daemon of this host."""
    known = look_up(text, **names)
    return replace(_ENDED, cure=filled(_ENDED.cure, **names)) if known.failure_class in _LINKS else known


def filled(cure: str, **names: str) -> str:
    """A cure with the names that are known."""
    said = {**UNNAMED, **names}
    if said["source"] == said["dest"]:
        # The connection of a host to itself.
        cure = cure.replace("{source} and on {dest}", "{source}")
    return cure.format_map(said)


def is_overwritten(text: str) -> bool:
    """Whether a message says only that another one is lost."""
    return _OVERWRITTEN.search(text) is not None


def reasons(logged: Sequence[Tuple[float, str]], alone: bool) -> List[str]:
    """The errors in a daemon's log, with times in seconds, one of which is the reason of the failure that ends it.

    The first one is where only one VM moves, and the others are its consequences. The log does not tell which VM an
    error is about, so that all of them may be where others have failed as well, or still may.
    """
    end = max((seconds for seconds, _text in logged), default=0.0)
    burst = [text for seconds, text in logged if end - seconds <= _BURST]
    found = list(dict.fromkeys(text for text in burst if not _NO_REASON.search(text)))
    return found[:1] if alone and sum(map(is_overwritten, burst)) <= 1 else found
