# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scenario `nfs_client`: what the role mounts, refuses and leaves.

The kernel of a container knows no NFS. mount.nfs is here a program that mounts memory in its place, under the name that
an NFS mount has, or says what a server says no with; all else is real.
"""

from __future__ import annotations

import json
import re
import time
from contextlib import contextmanager

import pytest

from .conftest import REPOSITORY, ansible

CONVERGE = REPOSITORY / "extensions" / "molecule" / "nfs_client" / "converge.yml"
SERVER, PATH = "10.0.1.235", "/vmdata"
MOUNT = {"server": SERVER, "export": "/vm", "path": PATH}
SOURCE = f"{SERVER}:/vm"
FOREIGN = "# mine\n10.9.9.9:/other  /mnt/other\tnfs noauto 0 0\n"
LISTENER = "import socket; s = socket.create_server(('', 2049))\nwhile True: s.accept()[0].close()"
STAND_IN = """#!/bin/sh
echo "$*" >> /run/kvmops-mount.log
. /run/kvmops-mount.sh
"""
WORKS = 'exec mount -i -n -t tmpfs -o size=1M "$1" "$2"'
DENIED = 'echo "mount.nfs: access denied by server while mounting $1" >&2; exit 32'
GONE = 'echo "mount.nfs: mounting $1 failed, reason given by server: No such file or directory" >&2; exit 32'
READ_ONLY = 'exec mount -i -n -t tmpfs -o ro "$1" "$2"'
FULL = 'mount -i -n -t tmpfs -o size=1M "$1" "$2" && ! head -c 2M /dev/zero 2>/dev/null > "$2/fill"'


def play(*arguments, **variables):
    given = {"nfs_client_mounts": [MOUNT], "nfs_client_wait": 2, **variables}
    return ansible("ansible-playbook", str(CONVERGE), "--limit=labkvm2", *arguments, "-e", json.dumps(given))


def done(*arguments, **variables) -> int:
    """How many tasks of a run that went well have changed something."""
    run = play(*arguments, **variables)
    assert run.rc == 0, run.out
    return run.changed


def refused(*arguments, **variables) -> str:
    """What a run that went wrong says, in one error, with nothing changed."""
    run = play(*arguments, **variables)
    assert run.rc != 0, run.out
    assert run.changed == 0, run.out
    assert len(re.findall(r"^\[ERROR\]: ", run.out, re.MULTILINE)) == 1, run.out
    return run.message


@pytest.fixture(scope="module")
def client(hosts):
    return hosts["labkvm2"]


def state(host) -> str:
    return host.check_output(
        "cat /etc/fstab; grep -v ' /run/user/' /proc/self/mounts | sort; ls -ld /vmdata 2>/dev/null; ls -A /vmdata"
        " 2>/dev/null; ls /run | grep kvmops-migration || :"
    )


@pytest.fixture
def bare(client):
    """A host without the mount and with a line of somebody else, and afterwards as it was."""
    client.check_output("cp -a /etc/fstab /root/fstab.before && printf %s >> /etc/fstab", FOREIGN)
    try:
        yield client
    finally:
        client.check_output(
            "while umount -l /vmdata 2>/dev/null; do :; done; rm -rf /vmdata; cp -a /root/fstab.before /etc/fstab;"
            " rm /root/fstab.before; systemctl daemon-reload"
        )


@pytest.fixture
def server(hosts):
    """Somebody who listens where an NFS server does, and whom the firewall lets be asked, until the next reload."""
    host = hosts["labstor1"]
    host.check_output("systemd-run --quiet --unit=kvmops-test-nfs python3 -c %s", LISTENER)
    try:
        host.check_output("firewall-cmd --quiet --add-port=2049/tcp")
        deadline = time.monotonic() + 20
        while not host.check_output("ss -Hltn sport = :2049"):
            assert time.monotonic() < deadline, host.check_output("journalctl -u kvmops-test-nfs --no-pager")
            time.sleep(0.2)
        yield host
    finally:
        host.check_output("firewall-cmd --quiet --remove-port=2049/tcp; systemctl stop kvmops-test-nfs")


@pytest.fixture
def answers(bare, server):
    """What mount.nfs of the host does."""
    write = "printf '%%s' %s > %s && chmod 755 %s"
    bare.check_output(write, STAND_IN, "/run/kvmops-mount.nfs", "/run/kvmops-mount.nfs")
    bare.check_output("mount --bind /run/kvmops-mount.nfs /sbin/mount.nfs")

    def answer(how: str) -> None:
        bare.check_output(write, how + "\n", "/run/kvmops-mount.sh", "/run/kvmops-mount.sh")

    try:
        yield answer
    finally:
        bare.check_output("umount /sbin/mount.nfs; rm -f /run/kvmops-mount.*")


# --- what converge left


def test_every_hypervisor_can_mount_nfs(hypervisors):
    assert all(host.exists("mount.nfs") for host in hypervisors.values())


# --- good use


def test_a_mount_is_made_once_for_now_and_for_the_next_boot(bare, answers):
    answers(WORKS)
    before = state(bare)
    assert done("--check", "--diff") == 1
    assert state(bare) == before
    assert done() == 1
    assert bare.file("/etc/fstab").content_string.endswith(
        f"{FOREIGN}{SOURCE} {PATH} nfs rw,hard,proto=tcp,nfsvers=4,_netdev 0 0\n"
    )
    assert bare.check_output("findmnt -n -o SOURCE --mountpoint %s", PATH) == SOURCE
    assert bare.check_output("ls -A %s", PATH) == ""
    # Once where nobody has seen it, and once for good.
    tried, made = bare.file("/run/kvmops-mount.log").content_string.splitlines()
    assert tried.startswith(f"{SOURCE} /run/kvmops-migration-nfs.")
    assert made.startswith(f"{SOURCE} {PATH} ")
    bare.check_output("touch %s/image.qcow2", PATH)
    after = state(bare)
    assert done() == 0
    assert done("--check") == 0
    assert state(bare) == after
    assert done("--check", nfs_client_state="absent") == 2
    assert done(nfs_client_state="absent") == 2
    assert bare.file("/etc/fstab").content_string.endswith(FOREIGN)
    assert bare.run("mountpoint -q %s", PATH).rc != 0
    assert done(nfs_client_state="absent") == 0


def test_options_of_one_mount_and_one_that_is_only_read(bare, answers):
    answers(READ_ONLY)
    mount = {**MOUNT, "options": "ro,nfsvers=4.2", "writable": False}
    assert done(nfs_client_mounts=[mount]) == 1
    assert f"{SOURCE} {PATH} nfs ro,nfsvers=4.2 0 0" in bare.file("/etc/fstab").content_string
    assert done(nfs_client_mounts=[mount]) == 0
    assert "cannot be written to" in refused()


# --- what is refused, with the host as it was


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (DENIED, "cannot be mounted: mount.nfs: access denied by server while mounting 10.0.1.235:/vm; name this host"),
        (GONE, "No such file or directory; export /vm on 10.0.1.235"),
        (READ_ONLY, "Read-only file system; export it with rw"),
        (FULL, "No space left on device; make room in /vm on 10.0.1.235"),
    ],
)
def test_c2_55_an_export_that_cannot_be_used_is_told_and_nothing_is_changed(bare, answers, answer, words):
    answers(answer)
    before = state(bare)
    said = refused()
    assert f"nfs_client_mounts: {SOURCE} for {PATH} of labkvm2 cannot be " in said
    assert words in said
    assert state(bare) == before


@pytest.mark.usefixtures("server")
def test_a_kernel_without_nfs_is_told(bare):
    if "nfs4" in bare.file("/proc/filesystems").content_string:
        pytest.skip("this kernel has it")
    before = state(bare)
    assert "cannot be mounted: mount" in refused()
    assert state(bare) == before


def test_a_server_that_does_not_answer_is_told_with_its_export(bare):
    before = state(bare)
    for server in (SERVER, "nobody.invalid"):
        said = refused(nfs_client_mounts=[{**MOUNT, "server": server}])
        assert f"{server} does not answer labkvm2 on port 2049/tcp, so /vm cannot be mounted on {PATH}; start" in said
    assert state(bare) == before
    assert done("--check") == 1


def test_a_mount_point_with_files_is_told_with_some_of_them(bare, answers):
    answers(WORKS)
    bare.check_output("mkdir %s && touch %s/b %s/.a %s/c %s/d", *[PATH] * 5)
    before = state(bare)
    for arguments in ([], ["--check"]):
        said = refused(*arguments)
        assert f"{PATH} of labkvm2 has files in it (.a, b, c, ...), which the mount of {SOURCE} would hide" in said
        assert state(bare) == before


@contextmanager
def mounted(host, source):
    host.check_output("mkdir -p %s && mount -t tmpfs %s %s", PATH, source, PATH)
    try:
        yield
    finally:
        host.check_output("umount %s", PATH)


def test_what_is_there_from_elsewhere_is_told_and_stays(bare):
    with mounted(bare, "10.9.9.9:/vm"):
        before = state(bare)
        assert f"10.9.9.9:/vm is mounted on {PATH} of labkvm2 already, and not {SOURCE}" in refused()
        assert done(nfs_client_state="absent") == 0
        assert state(bare) == before
    bare.check_output("echo 10.9.9.9:/vm %s nfs rw 0 0 >> /etc/fstab", PATH)
    before = state(bare)
    assert f"/etc/fstab of labkvm2 has 10.9.9.9:/vm for {PATH}" in refused()
    assert done(nfs_client_state="absent") == 0
    assert state(bare) == before


@pytest.mark.parametrize(
    ("mounts", "words"),
    [
        ([{**MOUNT, "path": "vmdata"}], "the path 'vmdata' must be a directory of its own"),
        ([{**MOUNT, "path": "/"}], "the path '/' must be a directory of its own"),
        ([{**MOUNT, "export": "vm"}], f"the export 'vm' of {SERVER} must begin with /"),
        ([MOUNT, {**MOUNT, "path": f"{PATH}/"}], f"two mounts have the path {PATH}"),
        ([{**MOUNT, "path": "/etc/fstab"}], "/etc/fstab of labkvm2 is no directory"),
        ([{"server": SERVER, "path": PATH}], "missing required arguments: export"),
    ],
)
def test_what_makes_no_sense_is_refused(bare, mounts, words):
    before = state(bare)
    assert words in refused(nfs_client_mounts=mounts)
    assert state(bare) == before
