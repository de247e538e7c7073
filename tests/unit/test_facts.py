# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host tells of itself, read from files as Linux has them, and ports that are really tried."""

from __future__ import annotations

import errno
import os
import pwd
import socket

import pytest

from ansible_collections.kvmops.migration.plugins.module_utils._migrate import facts
from ansible_collections.kvmops.migration.plugins.module_utils._pure.preflight import mount_fact

MOUNTS = r"""22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
23 22 0:21 / /sys rw,nosuid - sysfs sysfs rw
24 22 0:30 / /vm\040data ro,relatime - nfs4 10.0.1.235:/vm rw
25 22 254:16 / /vm rw - ext4 /dev/vdb rw
26 25 0:31 / /vm rw - nfs 10.0.1.235:/vm rw,vers=3,local_lock=posix
27 22 0:32 / /labelled rw - nfs4 10.0.1.235:/l rw,seclabel,vers=4.2
28 22 0:33 / /one\040label rw - nfs4 10.0.1.235:/o ro,context=system_u:object_r:virt_image_t:s0
29 22 0:34 / /srv/pool rw - nfs4 10.0.1.235:/p rw
30 22 254:32 / /srv rw - ext4 /dev/vdc rw
31 22 0:35 / /net rw - autofs auto.net rw
32 31 0:36 / /net/vm rw - nfs4 10.0.1.235:/n rw
"""
SOCKETS = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid
   0: 00000000:C000 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0
   1: 0100007F:C001 0100007F:0016 01 00000000:00000000 00:00000000 00000000     0
"""
SOCKETS6 = """  sl  local_address                         remote_address                        st
   0: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 00000000:00000000
   1: B80D0120000000000000000001000000:170D 00000000000000000000000000000000:0000 0A 00000000:00000000
"""
ROUTES = """Main:
  +-- 0.0.0.0/0 3 0 5
     +-- 172.16.1.0/24 2 0 2
        |-- 172.16.1.0
           /24 link UNICAST
        |-- 172.16.1.2
           /32 host LOCAL
        |-- 172.16.1.255
           /32 link BROADCAST
Local:
        |-- 172.16.1.2
           /32 host LOCAL
"""
INET6 = "fd000000000000000000000000000002 02 40 00 80     eth0\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Files of a machine of our own, as `{path: text}`."""

    def make(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return facts.of_machine()

    monkeypatch.setattr(facts, "ROOT", str(tmp_path))
    return make


def test_a_machine_without_any_of_it(machine):
    said = machine({})
    assert (said["interfaces"], said["mounts"], said["selinux"], said["listening"]) == ({}, [], {}, [])
    assert (said["qemu_conf"], said["huge_pages"], said["swap_free"], said["userfaultfd"]) == ({}, {}, 0, "")


def test_mounts_are_those_of_storage_that_no_other_one_hides(machine):
    mounts = machine({"proc/self/mountinfo": MOUNTS})["mounts"]
    assert {mount["path"]: (mount["type"], mount["read_only"]) for mount in mounts} == {
        "/": ("ext4", False),
        "/vm data": ("nfs4", True),
        "/vm": ("nfs", False),
        "/labelled": ("nfs4", False),
        "/one label": ("nfs4", True),
        "/srv": ("ext4", False),
        "/net/vm": ("nfs4", False),
    }
    assert [mount["path"] for mount in mounts if mount["labelled"]] == ["/labelled", "/one label"]
    assert [mount["path"] for mount in mounts if mount["own_locks"]] == ["/vm"]
    assert mount_fact("/vm/a.qcow2", mounts)["type"] == "nfs"
    # It was there before /srv was mounted.
    assert mount_fact("/srv/pool/a.qcow2", mounts)["type"] == "ext4"
    assert mount_fact("/vm data/a.qcow2", mounts)["type"] == "nfs4"
    assert mount_fact("/vmx/a.qcow2", mounts)["path"] == "/"
    assert mount_fact("/vm/a.qcow2", []) == {}


def test_networks_memory_and_listeners(machine):
    said = machine(
        {
            "sys/class/net/br0/mtu": "9000\n",
            "sys/class/net/bonding_masters": "",
            "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages": "12\n",
            "proc/meminfo": "MemTotal:  8000 kB\nSwapFree:   2048 kB\n",
            "proc/net/tcp": SOCKETS,
            "proc/net/tcp6": SOCKETS6,
            "proc/net/fib_trie": ROUTES,
            "proc/net/if_inet6": INET6,
            "proc/sys/vm/unprivileged_userfaultfd": "0\n",
        }
    )
    assert said["interfaces"] == {"br0": 9000}
    assert said["huge_pages"] == {"2097152": 12}
    assert said["swap_free"] == 2048 << 10
    assert said["listening"] == [22, 5901, 49152]
    assert said["listeners"] == [("0.0.0.0", 49152), ("2001:db8::1", 5901), ("::", 22)]
    assert said["local_addresses"] == ["172.16.1.2", "fd00::2"]
    assert said["userfaultfd"] == "0"
    assert not said["userfaultfd_device"]


@pytest.mark.parametrize(("mode", "free"), [(0o600, False), (0o660, True), (0o666, True)])
def test_a_device_for_userfaultfd(machine, tmp_path, mode, free):
    machine({"dev/userfaultfd": ""})
    (tmp_path / "dev" / "userfaultfd").chmod(mode)
    assert machine({})["userfaultfd_device"] == free


def test_bridges_of_linux_are_told_from_others(machine):
    files = {"sys/class/net/br0/bridge/stp_state": "0", "sys/class/net/ovs0/mtu": "1500"}
    assert machine(files)["linux_bridges"] == ["br0"]


@pytest.mark.parametrize("daemon", ["virtqemud", "libvirtd"])
@pytest.mark.parametrize(
    ("environ", "finds"),
    [("A=1\0PATH={0}\0", True), ("PATH=/nowhere:{0}", True), ("PATH=/nowhere", False), ("A=1\0", False), ("", None)],
)
def test_whether_the_daemon_finds_ssh(machine, tmp_path, daemon, environ, finds):
    program = tmp_path / "programs" / "ssh"
    program.parent.mkdir()
    program.touch(0o755)
    files = {
        f"run/{daemon}.pid": "42",
        "proc/42/comm": daemon + "\n",
        "proc/42/environ": environ.format(program.parent),
    }
    assert machine(files)["daemon_ssh"] is finds
    assert machine({"proc/42/comm": "other\n"})["daemon_ssh"] is None


@pytest.mark.parametrize("enforce", ["0", "1"])
def test_selinux_and_its_switches(machine, enforce):
    booleans = "sys/fs/selinux/booleans/"
    said = machine(
        {
            "sys/fs/selinux/enforce": enforce,
            f"{booleans}virt_use_nfs": "1 1",
            f"{booleans}virt_use_samba": "0 1",
        }
    )
    assert said["selinux"] == {"enforcing": enforce == "1", "on": ["virt_use_nfs"]}


def test_who_runs_qemu_by_name_or_number(machine):
    me = pwd.getpwuid(os.getuid())
    conf = "etc/libvirt/qemu.conf"
    assert machine({conf: f'user = "{me.pw_name}"\ngroup = "+4711"\nmigration_port_max = 49160\n'})["qemu_user"] == {
        "name": me.pw_name,
        "uid": me.pw_uid,
        "gid": 4711,
    }
    said = machine({conf: f'user = "+{me.pw_uid}"\nmigration_port_max = 49160\nvnc_tls = 1\n'})
    assert said["qemu_user"]["uid"] == me.pw_uid
    assert said["qemu_conf"] == {"migration_port_max": "49160"}
    assert machine({conf: 'user = "nobody-here"\n'})["qemu_user"] == {}


def test_a_port_is_open_where_somebody_says_so_or_refuses():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        assert facts.ports("127.0.0.1", [port]) == {port: ""}
        holder.listen()
        assert facts.ports("127.0.0.1", [port]) == {port: ""}


def test_what_a_firewall_rejects_is_told_from_a_port_where_nobody_listens():
    """A socket of UDP gets by ICMP what only a firewall says so of TCP."""
    with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        one.setsockopt(*facts._RECVERR[socket.AF_INET], 1)
        one.connect(free.getsockname())
        assert not facts.told_by_icmp(one)
        free.close()
        one.send(b"x")
        assert facts._answer(errno.ECONNREFUSED, one) == "a firewall rejects it"


def test_a_port_that_nothing_leads_to(monkeypatch):
    monkeypatch.setattr(facts.socket.socket, "connect_ex", lambda *_: errno.ENETUNREACH, raising=False)
    assert facts.ports("127.0.0.1", [1, 2]) == {1: "Network is unreachable", 2: "Network is unreachable"}


def test_a_port_that_does_not_answer_costs_no_more_than_its_time(monkeypatch):
    class Silent(socket.socket):
        def connect_ex(self, _place):
            super().connect_ex(("127.0.0.1", 1))
            return errno.EINPROGRESS

        def getsockopt(self, *_which):
            return errno.EHOSTUNREACH

    monkeypatch.setattr(facts.socket, "socket", Silent)
    assert facts.ports("127.0.0.1", [1]) == {1: "No route to host"}
    monkeypatch.setattr(facts, "PORT_PATIENCE", 0.0)
    assert facts.ports("127.0.0.1", [1]) == {1: "no answer"}


def test_names(monkeypatch):
    assert "127.0.0.1" in facts.addresses("localhost")
    assert facts.addresses("nobody.invalid") == []
    assert facts.addresses("x" * 300) == []


@pytest.mark.parametrize(
    ("modes", "uid", "closed"),
    [
        ({}, 1, {}),
        ({"images": 0o700}, 1, {"/vm/images": "/vm/images", "/vm/images/a": "/vm/images"}),
        ({"images": 0o710}, 1, {"/vm/images": "/vm/images", "/vm/images/a": "/vm/images"}),
        ({"images/a": 0o754}, 1, {"/vm/images/a": "/vm/images/a"}),
        ({"": 0o750}, 1, {"/vm/images": "/vm", "/vm/images/a": "/vm"}),
        # Its owner, its group, and root.
        ({"images": 0o100}, "own", {}),
        ({"images": 0o010}, "group", {}),
        ({"images": 0o700}, 0, {}),
    ],
)
def test_directories_that_the_user_of_qemu_may_not_pass(tmp_path, monkeypatch, modes, uid, closed):
    monkeypatch.setattr(facts, "ROOT", str(tmp_path))
    folder = tmp_path / "vm/images/a"
    folder.mkdir(parents=True)
    for each in (tmp_path, folder, *folder.parents[:2]):
        each.chmod(0o755)
    for name, mode in modes.items():
        (tmp_path / "vm" / name).chmod(mode)
    gid = os.getegid() if uid == "group" else 1
    monkeypatch.setattr(os, "getgrouplist", lambda _name, gid: [gid], raising=True)
    user = {"name": "q", "uid": {"own": os.geteuid(), "group": 1}.get(uid, uid), "gid": gid}
    if uid == "own" and not user["uid"]:
        pytest.skip("who owns everything here is root, who passes everywhere")
    mounts = [{"path": "/", "type": "ext4"}, {"path": "/nfs", "type": "nfs4"}]
    machine = {"qemu_user": user, "mounts": mounts}
    found = facts.closed_to(machine, ["/vm/images", "/vm/images/a", "/vm/none", "/nfs/images"])
    # Where its own way is closed, so is the one to what is not there.
    found.pop("/vm/none", None)
    assert found == closed


def test_hooks_that_libvirt_calls_for_each_vm(machine):
    assert machine({})["hooks"] == []
    files = {"etc/libvirt/hooks/qemu": "", "etc/libvirt/hooks/daemon": "", "etc/libvirt/hooks/qemu.d/own": ""}
    assert machine(files)["hooks"] == ["/etc/libvirt/hooks/qemu", "/etc/libvirt/hooks/qemu.d/own"]
