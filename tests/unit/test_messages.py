# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""libvirt's messages, as libvirt and QEMU print them, lead to their class and cure."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.kvmops.migration.plugins.module_utils._pure import messages

# The texts come from libvirt, QEMU and OpenSSH and from reports about them; the number is that of the list of messages.
TEXTS = [
    (1, "unsafe_storage", "Unsafe migration: Migration without shared storage is unsafe"),
    (
        2,
        "unsafe_cache",
        "Unsafe migration: Migration may lead to data corruption if disks use cache other than none or directsync",
    ),
    (
        3,
        "image_missing",
        "Cannot access storage file '/vm/a.qcow2' (as uid:64055, gid:64055): No such file or directory",
    ),
    (
        3,
        "image_missing",
        "internal error: Failed to open file '/vm/a.qcow2': No such file or directory",
    ),
    (
        4,
        "image_permission",
        "Cannot access storage file '/vmdata/centos64-32bit.qcow2' (as uid:64055, gid:64055): Permission denied",
    ),
    (4, "image_permission", "qemu-system-x86_64: Could not open '/vm/a.qcow2': Permission denied"),
    (
        5,
        "nbd_bind",
        "internal error: unable to execute QEMU command 'nbd-server-start': Failed to bind socket: Permission denied",
    ),
    (
        6,
        "listen_address",
        "unable to execute QEMU command 'nbd-server-start': Failed to bind socket: Cannot assign requested address",
    ),
    (
        7,
        "image_in_use",
        "internal error: unable to execute QEMU command 'block-export-add': Failed to get \"write\" lock",
    ),
    (
        8,
        "port_closed",
        "internal error: unable to execute QEMU command 'blockdev-add': Failed to connect to '172.16.1.232:49153': "
        "Connection timed out",
    ),
    (9, "image_size", "migration of disk vda failed: Source and target image have different sizes"),
    (
        9,
        "image_size",
        "The sum of offset (0) and size (1) has to be smaller or equal to the actual size of the containing file (0)",
    ),
    (11, "no_space", "cannot allocate 2147483648 bytes in file '/vm/a.qcow2': No space left on device"),
    (12, "disk_target", "Operation not supported: Cannot migrate empty or read-only disk sda"),
    (13, "disk_target", "invalid argument: disk target aaa not found"),
    (
        14,
        "destination_hostname",
        "internal error: hostname on destination resolved to localhost, but migration requires an FQDN",
    ),
    (15, "name_resolution", "Unable to resolve address 'labkvm2' service '49155': Name or service not known"),
    (
        16,
        "port_closed",
        "internal error: unable to connect to server at '172.16.1.232:49152': No route to host",
    ),
    (16, "unreachable", "unable to connect to server at 'labkvm2:16509': Connection timed out"),
    (17, "daemon_not_listening", "unable to connect to server at 'labkvm2:16509': Connection refused"),
    (
        17,
        "daemon_not_listening",
        "Failed to connect socket to '/var/run/libvirt/libvirt-sock': No such file or directory",
    ),
    (18, "port_busy", "internal error: Failed to reserve port 49152"),
    (19, "same_host", "internal error: Attempt to migrate guest to the same host 185d8df1-d814-5120-bf7e-62cfb33a2391"),
    (20, "host_key", "Cannot recv data: Host key verification failed.: Connection reset by peer"),
    (
        21,
        "ssh_login",
        "Cannot recv data: Permission denied (publickey,password).: Connection reset by peer",
    ),
    (
        25,
        "cpu",
        "operation failed: guest CPU doesn't match specification: missing features: avx2",
    ),
    (26, "network_missing", "Network not found: no network with matching name 'default'"),
    (27, "bridge_missing", "Cannot get interface MTU on 'br0': No such device"),
    (38, "cancelled", "operation aborted: job 'migration out' canceled by client"),
    (38, "cancelled", "operation aborted: migration out job: canceled by client"),
    (39, "connection_lost", "operation failed: Lost connection to destination host"),
    (39, "connection_lost", "internal error: client socket is closed"),
    (39, "connection_lost", "internal error: connection closed due to keepalive timeout"),
    (40, "guest_died", "operation failed: domain is not running"),
    (40, "guest_died", "internal error: qemu unexpectedly closed the monitor: 2026-01-01"),
    (41, "no_memory", "unable to map backing store for guest RAM: Cannot allocate memory"),
    (45, "nvram", "Requested operation is not valid: cannot undefine domain with nvram"),
    (0, "locked_memory", "cannot limit locked memory of process 11031 to 201326592: Operation not permitted"),
    (
        0,
        "pool_missing",
        "Storage pool not found: no storage pool with matching target path '/vm'",
    ),
    (0, "foreign_vm", "operation failed: domain 'a' already exists with uuid 5ba1ab1e-0000-4000-8000-000000000002"),
]


@pytest.mark.parametrize(("number", "failure_class", "text"), TEXTS)
def test_a_message_leads_to_its_class_and_cure(number, failure_class, text):
    known = messages.look_up(text)
    assert known.failure_class == failure_class, number
    assert known.cure


def test_an_unknown_message_has_a_class_of_its_own():
    assert messages.look_up("the moon is full").failure_class == "libvirt"


def test_the_reason_is_the_last_error_that_is_one():
    closed = ["migration successfully aborted", "End of file while reading data: : Input/output error"]
    assert messages.reason(["internal error: an older one", "No route to host", *closed, ""]) == "No route to host"
    assert messages.reason(closed) == ""


def test_every_row_is_reached_by_a_text():
    reached = {id(messages.look_up(text)) for _number, _class, text in TEXTS}
    unreached = {known.failure_class for known in messages.TABLE if id(known) not in reached}
    assert unreached == {"not_permitted"}
    assert messages.look_up("authentication unavailable: no polkit agent").failure_class == "not_permitted"


def test_roles_that_are_named_exist():
    roles = Path(__file__).parents[2] / "roles"
    for known in messages.TABLE:
        assert known.role is None or (roles / known.role).is_dir()
