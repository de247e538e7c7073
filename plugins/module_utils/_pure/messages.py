# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""libvirt's messages, what they mean, and what helps: one row per message."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Pattern, Sequence


@dataclass(frozen=True)
class Known:
    """A message: the class of the failure, its cure, and the role of this collection that applies it."""

    pattern: Pattern[str]
    failure_class: str
    cure: str
    role: str | None = None


def _known(pattern: str, failure_class: str, cure: str, role: str | None = None) -> Known:
    return Known(re.compile(pattern, re.IGNORECASE | re.DOTALL), failure_class, cure, role)


# The first row that fits counts, so the narrow ones stand before the wide ones.
TABLE = (
    _known(
        r"host key verification failed|remote host identification has changed",
        "host_key",
        "let root on the source know the destination's SSH host key",
        "ssh_trust",
    ),
    _known(
        r"permission denied \((?:[\w-]+,?)+\)|permission denied, please try again|too many authentication failures",
        "ssh_login",
        "give root on the source a key that root on the destination accepts",
        "ssh_trust",
    ),
    _known(
        r"unsafe migration: migration without shared storage is unsafe",
        "unsafe_storage",
        "let the disk be copied (storage: copy), or put it on storage that both hosts share",
    ),
    _known(
        r"unsafe migration: migration may lead to data corruption if disks use cache",
        "unsafe_cache",
        "set cache='none' on the guest's disks and restart the guest",
    ),
    _known(
        r"nbd-server-start.*(?:cannot assign requested address)|failed to bind socket: cannot assign requested address",
        "listen_address",
        "the address of migrate_uri does not belong to the destination: correct migration_address",
    ),
    _known(
        r"nbd-server-add|block-export-add|failed to get \"?(?:write|consistent read)\"? lock",
        "image_in_use",
        "another process has the image open: use storage: shared where both hosts share it, else end that process",
    ),
    _known(
        r"blockdev-add.*(?:connection timed out|no route to host|connection refused)",
        "port_closed",
        "open ports 49152-49215/tcp on the destination for the source",
        "firewall",
    ),
    _known(
        r"source and target image have different sizes|"
        r"has to be smaller or equal to the actual size of the containing file",
        "image_size",
        "an image of another size lies at the destination: remove it, or let it be replaced (force: true)",
    ),
    _known(r"no space left on device", "no_space", "free space on the destination's storage"),
    _known(
        r"cannot migrate empty or read-only disk|disk target \S+ not found",
        "disk_target",
        "name only writable disks of the guest in migrate_disks",
    ),
    _known(
        r"hostname on destination resolved to localhost",
        "destination_hostname",
        "let the destination's own name resolve to its address, or set migration_address",
        "name_resolution",
    ),
    _known(
        r"unable to resolve address|could not resolve hostname|name or service not known|failure in name resolution",
        "name_resolution",
        "let the source resolve the destination's name, or set migration_address",
        "name_resolution",
    ),
    _known(
        r"failed to reserve port|unable to find an unused port|failed to bind socket: address already in use",
        "port_busy",
        "wait until other migrations to this host have ended, or end what holds a port of 49152-49215",
    ),
    _known(
        r"connect to server at '\S*:(?:49\d{3})'.*(?:no route to host|timed out|refused)",
        "port_closed",
        "open ports 49152-49215/tcp on the destination for the source",
        "firewall",
    ),
    _known(
        r"connect to server at.*connection refused|connect to host .* connection refused|failed to connect socket to",
        "daemon_not_listening",
        "start libvirtd and sshd on that host",
    ),
    _known(
        r"no route to host|connect to (?:server|host).*timed out|connection timed out|network is unreachable",
        "unreachable",
        "let the source reach that host: its address, its network and its firewall",
        "firewall",
    ),
    _known(
        r"attempt to migrate guest to the same host",
        "same_host",
        'name another destination, or give each libvirtd its own host_uuid (host_uuid_source = "machine-id")',
    ),
    _known(
        r"no storage pool with matching (?:target )?path",
        "pool_missing",
        "define and start a pool at the same path on the destination",
        "storage_pool",
    ),
    _known(
        r"(?:cannot access storage file|failed to open file|could not open) '[^']*'.*permission denied",
        "image_permission",
        "let the user that runs QEMU on that host read and write the image",
    ),
    _known(
        r"(?:cannot access storage file|failed to open file|could not open) '[^']*'.*no such file",
        "image_missing",
        "make the image reachable at the same path on the destination, let it be copied, or eject the medium",
    ),
    _known(
        r"failed to bind socket: permission denied",
        "nbd_bind",
        "let QEMU on the destination open sockets on the migration ports",
    ),
    _known(
        r"guest cpu doesn't match specification|guest and host cpu are not compatible|unacceptable cpu",
        "cpu",
        "give the guest a CPU model that both hosts have (virsh hypervisor-cpu-baseline)",
    ),
    _known(
        r"network not found: no network with matching name '([^']*)'|network '[^']*' is not active",
        "network_missing",
        "define and start the guest's libvirt network on the destination",
    ),
    _known(
        r"cannot get interface mtu on|cannot find bridge|bridge .* does not exist",
        "bridge_missing",
        "make the guest's bridge on the destination",
    ),
    _known(
        r"already exists with uuid",
        "foreign_vm",
        "another VM of that name is on the destination: rename or undefine one of them",
    ),
    _known(
        r"operation aborted|canceled by client|cancelled by client",
        "cancelled",
        "somebody cancelled the migration; start it again when wanted",
    ),
    _known(
        r"domain is not running|qemu unexpectedly closed the monitor|guest unexpectedly quit",
        "guest_died",
        "look at the end of /var/log/libvirt/qemu/NAME.log on both hosts",
    ),
    _known(
        r"unable to map backing store for guest ram|cannot set up guest memory|cannot allocate memory",
        "no_memory",
        "free memory (or huge pages) on the destination",
    ),
    _known(
        r"cannot limit locked memory",
        "locked_memory",
        "let libvirt's daemon raise the limit of locked memory (LimitMEMLOCK, CAP_SYS_RESOURCE), or leave zerocopy and"
        " rdma_pin_all out",
    ),
    _known(
        r"cannot undefine domain with nvram|domain is not transient",
        "nvram",
        "undefine it with --keep-nvram on the host that it has left",
    ),
    _known(
        r"lost connection to destination host|client socket is closed|keepalive timeout|end of file while reading data|"
        r"cannot recv data|connection reset by peer|broken pipe",
        "connection_lost",
        "check the network between the two hosts and libvirtd on both, then run again",
    ),
    _known(
        r"authentication (?:failed|unavailable|cancelled)|access denied by polkit|polkit",
        "not_permitted",
        "run as root (become: true)",
    ),
)
UNKNOWN = _known(r"", "libvirt", "")

# What comes back from a peer-to-peer migration over ssh whatever went wrong: libvirt closes its connection to the
# destination then, and the end of that overwrites the reason. Only the source daemon's own log has it.
_OVERWRITTEN = re.compile(r"end of file while reading data: : ", re.IGNORECASE)
_NO_REASON = re.compile(r"end of file while reading data|migration successfully aborted", re.IGNORECASE)


def look_up(text: str) -> Known:
    """What is known of a message; for one that is in no row, the class `libvirt` without a cure."""
    return next((known for known in TABLE if known.pattern.search(text)), UNKNOWN)


def is_overwritten(text: str) -> bool:
    """Whether a message says only that another one is lost."""
    return _OVERWRITTEN.search(text) is not None


def reason(logged: Sequence[str]) -> str:
    """The last error in a daemon's log that is the reason for others, or nothing."""
    return next((line for line in reversed(logged) if line and not _NO_REASON.search(line)), "")
