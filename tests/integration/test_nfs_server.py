# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scenario `nfs_server`: what exportfs, mountd and the files of the storage host say, and that others' exports stay."""

from __future__ import annotations

import json
import re
import time
from contextlib import contextmanager

import pytest

from ansible_collections.kvmops.migration.plugins.module_utils._pure import exports

from .conftest import REPOSITORY, ansible

CONVERGE = REPOSITORY / "extensions" / "molecule" / "nfs_server" / "converge.yml"
CLIENT = "10.0.1.0/24(rw,no_root_squash,sync,no_subtree_check)"
FOREIGN = b"""# caf\xe9 \\
/srv/one \\
   10.9.9.1(ro,sync,no_subtree_check) \\
   10.9.9.2(rw,no_subtree_check)  # why
"/srv/t w\\040o"\t-ro,no_subtree_check\t@hosts  *.example.com(rw)
"""
# What exportfs makes of each line is compared with what the module reads.
LINES = r"""
/srv/one *(rw,no_root_squash,sync,no_subtree_check)
/srv/one 10.0.0.1 (rw,no_subtree_check) # x
/srv/one -rw,sync,no_subtree_check 10.0.0.1 10.0.0.2(ro) 10.0.0.3(async,anonuid=-2)
/srv/one 10.0.0.2(ro) -rw,no_subtree_check 10.0.0.1 10.0.0.3(sync)
"/srv/t w o" 10.0.0.0/24(rw,subtree_check)
/srv/t\040w\040o "10.0.0.0/24(rw, async)" *.x(ro\054sync)
/srv/"t w o" fd00::/64(rw,fsid=root,crossmnt) 2001:db8::1(all_squash,anongid=5) @hosts(insecure,no_wdelay,nohide)
/srv/one 10.0.0.1(sec=krb5:sys,rw,sec=sys,ro,no_root_squash) 10.0.0.2(rw,sec=krb5p)
/srv/one gss/krb5(rw,mp,insecure_locks,no_acl,pnfs) 10.0.0.0/255.255.255.0(rw,fsid=7,)
/srv/one
/srv/one -rw,no_subtree_check
"""


def play(*arguments, **variables):
    return ansible("ansible-playbook", str(CONVERGE), *arguments, *(["-e", json.dumps(variables)] if variables else []))


def done(*arguments, **variables) -> int:
    """How many tasks of a run that went well have changed something."""
    run = play(*arguments, **variables)
    assert run.rc == 0, run.out
    return run.changed


@pytest.fixture(scope="module")
def storage(hosts):
    return hosts["labstor1"]


def state(host) -> str:
    """Files and live table to the byte."""
    return host.check_output(
        "for file in /etc/exports /etc/exports.d/* /var/lib/nfs/etab; do"
        ' [ ! -f "$file" ] || { stat -c "%n %a %U" "$file"; od -An -v -tx1 "$file"; }; done; ls -A /etc/exports.d'
        " 2>/dev/null || :; ls -d /vm"
    )


def write(host, name: str, data: bytes) -> None:
    octal = "".join(f"\\{byte:03o}" for byte in data)
    host.check_output("mkdir -p %s && printf %s > %s", name.rpartition("/")[0], octal, name)


@pytest.fixture
def shared(storage):
    """The storage host with exports of somebody else, and afterwards as the scenario has made it."""
    storage.check_output("mkdir -p '/srv/one' '/srv/t w o' && cp -a /etc/exports /root/exports.before")
    write(storage, "/etc/exports", FOREIGN)
    storage.check_output("exportfs -ra")
    try:
        yield storage
    finally:
        storage.check_output(
            "rm -rf /etc/exports.d && cp -a /root/exports.before /etc/exports && rm /root/exports.before"
            " && exportfs -ra && rm -rf /srv/one '/srv/t w o'"
        )


# --- what converge left


def test_c8_116_the_directory_is_exported_as_asked(storage):
    assert re.search(r"^/vm\s+10\.0\.1\.0/24\(.*\brw\b.*\bno_root_squash\b", storage.check_output("exportfs -v"), re.M)
    assert storage.file("/etc/exports").content_string.splitlines()[-1] == f"/vm {CLIENT}"
    directory = storage.file("/vm")
    assert (directory.is_directory, directory.user, directory.mode) == (True, "root", 0o711)


def test_clients_find_it_by_showmount(storage):
    """mountd asks the same table, with or without an NFS server in the kernel."""
    with mountd(storage) as port:
        assert storage.check_output("showmount --no-headers -e localhost").split() == ["/vm", "10.0.1.0/24"]
        assert port == 20048


@contextmanager
def mountd(host):
    host.check_output("systemd-run --quiet --unit=kvmops-test-mountd rpc.mountd --foreground")
    try:
        deadline = time.monotonic() + 20
        while not (found := re.findall(r"100005\s+3\s+tcp\s+(\d+)", host.run("rpcinfo -p").stdout)):
            assert time.monotonic() < deadline, host.check_output("journalctl -u kvmops-test-mountd --no-pager")
            time.sleep(0.2)
        yield int(found[0])
    finally:
        host.check_output("systemctl stop kvmops-test-mountd")


def test_the_services_are_there_and_have_their_ports(storage):
    service = storage.service("rpcbind")
    assert service.is_running
    assert service.is_enabled
    assert storage.check_output("ss -Hltn sport = :111")
    asked = {"mountd port": "20048", "statd port": "32765", "lockd port": "32803", "lockd udp-port": "32803"}
    assert {name: storage.check_output(f"nfsconf --get {name}") for name in asked} == asked
    assert "nlm_tcpport=32803 nlm_udpport=32803" in storage.check_output("modprobe --showconfig")


# --- others' exports


@pytest.mark.parametrize("name", ["/etc/exports", "/etc/exports.d/vm.exports"])
def test_c8_116_the_exports_of_others_stay_and_are_live_to_the_end(shared, name):
    before, table = state(shared), sorted(shared.check_output("exportfs -s").splitlines())
    assert done("--check", "--diff", nfs_server_file=name) == 1
    assert state(shared) == before
    assert done(nfs_server_file=name) == 1
    now = shared.check_output("exportfs -v")
    assert "/vm" in now
    for client in ("10.9.9.1", "10.9.9.2", "@hosts", "*.example.com"):
        assert client in now
    assert shared.file("/etc/exports").content.startswith(FOREIGN)
    assert done(nfs_server_file=name) == 0
    assert done("--check", nfs_server_file=name, nfs_server_state="absent") == 1
    assert done(nfs_server_file=name, nfs_server_state="absent") == 1
    assert shared.file("/etc/exports").content == FOREIGN
    assert not shared.file("/etc/exports.d/vm.exports").exists
    assert sorted(shared.check_output("exportfs -s").splitlines()) == table
    assert done(nfs_server_file=name, nfs_server_state="absent") == 0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/srv/one 10.9.9.9(rw, sync)", "/etc/exports line 6: the options of 10.9.9.9 are no list"),
        ("/srv/one 10.9.9.9(rw,nosuch)", '/etc/exports line 6: unknown keyword "nosuch"'),
        ("/srv/gone 10.9.9.9(ro)", "/etc/exports line 6: Failed to stat /srv/gone"),
        ("/srv/one nobody.invalid(ro)", "/etc/exports line 6: Failed to resolve nobody.invalid"),
        ("/srv/one 10.9.9.0/99(ro)", "/etc/exports line 6: Invalid prefix `99' for 10.9.9.0/99"),
        ("/srv/one 10.9.9.9(sec=nosuch)", "/etc/exports line 6: unknown flavor nosuch"),
        ("\r\n/srv/one 10.9.9.9(ro)", "/etc/exports line 6: begins with"),
    ],
)
def test_c8_116_a_broken_line_of_somebody_else_stops_the_role_before_anything_changes(shared, line, words):
    write(shared, "/etc/exports", FOREIGN + line.encode() + b"\n")
    before = state(shared)
    for arguments in ([], ["--check"]):
        run = play(*arguments)
        assert run.rc != 0
        assert words in run.out.replace('\\"', '"'), run.out
        assert "cure: correct that line" in run.out
        assert state(shared) == before


@pytest.mark.parametrize(
    ("exported", "words"),
    [
        ({"path": "/vm2", "clients": ["*(rw,ro)"]}, "clients: number 1, *: options rw and ro exclude each other"),
        ({"path": "/vm2", "clients": ["*(rw,no_root_sqash)"]}, "did you mean no_root_squash?"),
        ({"path": "vm2", "clients": ["*"]}, "path: 'vm2' does not begin with /"),
        ({"path": "/vm2", "clients": []}, "clients: an export without clients"),
        ({"path": "/vm2"}, "missing required arguments: clients found in nfs_server_exports"),
    ],
)
def test_c8_116_what_makes_no_sense_is_refused_before_anything_changes(storage, exported, words):
    before = state(storage)
    run = play(nfs_server_exports=[exported])
    assert run.rc != 0
    assert words in run.out
    assert state(storage) == before
    assert not storage.file("/vm2").exists


def test_c8_116_where_exportfs_fails_the_file_is_put_back(shared):
    """Its own table is in a directory that has become read-only: the try does well, the real run does not."""
    before = state(shared)
    shared.check_output("mount --bind /var/lib/nfs /var/lib/nfs && mount -o remount,bind,ro /var/lib/nfs")
    try:
        run = play()
        assert run.rc != 0
        assert "exportfs has failed" in run.out, run.out
        assert "the files are as they were, and with them it fails as well: could not open" in run.out
        assert state(shared) == before
    finally:
        shared.check_output("umount /var/lib/nfs")


def test_c8_116_an_export_that_was_taken_back_by_hand_is_live_again(storage):
    storage.check_output("exportfs -u 10.0.1.0/24:/vm")
    assert "/vm" not in storage.check_output("exportfs -v")
    assert done("--check") == 1
    assert done() == 1
    assert "/vm" in storage.check_output("exportfs -v")
    assert done() == 0


def test_c8_116_a_directory_with_a_blank_and_the_decks_own_line(storage):
    exported = [{"path": "/srv/v m", "clients": ["*(rw,no_root_squash,sync)"], "mode": "0750"}]
    run = play(nfs_server_exports=exported)
    assert run.rc == 0, run.out
    assert "to everybody (*) with rw and no_root_squash" in run.out
    try:
        assert storage.file("/srv/v m").mode == 0o750
        assert "/srv/v m" in storage.check_output("exportfs -v")
        assert done(nfs_server_exports=exported) == 0
    finally:
        assert done(nfs_server_exports=exported, nfs_server_state="absent") == 1
        storage.check_output("rmdir '/srv/v m'")


def test_c8_116_the_module_reads_what_exportfs_reads(shared):
    """Every line by both: paths, clients, and what their options come to."""
    for line in LINES.strip().splitlines():
        write(shared, "/etc/exports", f"{line}\n".encode())
        shared.check_output("exportfs -ra")
        table = exports.parse(shared.file("/var/lib/nfs/etab").content).entries
        read = exports.parse(f"{line}\n".encode())
        assert read.problems == ()

        def meaning(entries):
            return {(entry.path, client.key): client.meaning for entry in entries for client in entry.clients}

        assert meaning(read.entries) == meaning(table), line
