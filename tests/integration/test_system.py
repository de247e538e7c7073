# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scenario `system`: shared storage on hosts with kernels of their own, where NFS and SELinux are real.

The tests follow each other as a story does: what prepare.yml has made of bare hosts, centos64a's disk moves to NFS, the
guest moves live to the other hypervisor and comes home over TLS, everything again. With KVMOPS_FULL=1 also what can be
in the way of that, and what goes wrong.
"""

from __future__ import annotations

import json
import subprocess
import sys

from tests.lab import console, tiers

from .conftest import REPOSITORY, Run, ansible
from .extent import full
from .ports import listening, reached
from .test_preflight import Obstacle, told

GUEST = "centos64a"
SHARED = "/vmdata/centos64-32bit.qcow2"
STATE = "/var/lib/kvmops-migration"
OTHER = {"labkvm1": "labkvm2", "labkvm2": "labkvm1"}
PRIVATE = {"labkvm1": "172.16.1.231", "labkvm2": "172.16.1.232"}
# On which libvirt listens.
TLS_PORT, TCP_PORT = 16514, 16509
DENIED = r"avc: +denied .*(svirt|virtd).*:nfs_t:"

# --- the hosts


def test_each_host_has_a_kernel_of_its_own(hosts):
    boots = {host.check_output("cat /proc/sys/kernel/random/boot_id") for host in hosts.values()}
    assert len(boots) == 3
    assert {host.check_output("systemd-detect-virt") for host in hosts.values()} <= {"qemu", "kvm"}


def test_one_host_is_logged_in_as_an_ordinary_user(inventory, hosts):
    users = {name: facts["ansible_user"] for name, facts in inventory["_meta"]["hostvars"].items()}
    assert users["labkvm2"] == "deploy"
    assert hosts["labkvm2"].check_output("id -un") == "root"


def test_selinux_knows_everything_by_its_label(hypervisors):
    for host in hypervisors.values():
        assert host.check_output("getenforce") == "Permissive"
        assert ":virtd_exec_t:" in host.check_output("stat -c %C /usr/sbin/libvirtd")
        # It ends where nobody needs it, and its socket starts it.
        assert ":virtd_t:" in host.check_output("virsh version >/dev/null && ps -o label= -C libvirtd")
        # What a host has of its own is labelled as well.
        assert ":sshd_key_t:" in host.check_output("stat -c %C /etc/ssh/ssh_host_ed25519_key")
        assert "unlabeled_t" not in host.check_output("ls -Z / /etc /etc/ssh /usr/lib/systemd/system")


def test_their_clocks_go_as_this_machines_does(hosts):
    """The watchers are put together by them: each is behind by a part of a second, and stays so."""
    asked = [{name: tiers.host(name).ahead() / 1e9 for name in hosts} for _turn in range(2)]
    for name in hosts:
        assert -1.1 < asked[0][name] < 0.1, asked
        assert abs(asked[0][name] - asked[1][name]) < 0.05, asked


# --- what prepare.yml has made of them


def test_storage_is_exported_and_mounted(hosts, hypervisors):
    assert "10.0.1.0/24(" in hosts["labstor1"].check_output("exportfs -v | tr -d '\\n\\t'")
    for host in hypervisors.values():
        assert host.check_output("showmount -e 10.0.1.235").splitlines()[1:] == ["/vm 10.0.1.0/24"]
        assert host.check_output("findmnt -no FSTYPE,SOURCE /vmdata").split() == ["nfs4", "10.0.1.235:/vm"]
        assert host.check_output("virsh pool-list --name").split() == ["vm", "vmdata"]
        assert host.check_output("getsebool virt_use_nfs").endswith("on")


def test_the_hypervisors_reach_each_other_by_every_way(hypervisors):
    for name, host in hypervisors.items():
        there = OTHER[name]
        assert host.check_output("getent hosts %s-private", there).split()[0] == PRIVATE[there]
        assert host.check_output("ssh -o BatchMode=yes root@%s-private hostname", there) == there
        for uri in (f"qemu+tls://{there}/system", f"qemu+ssh://root@{there}-private/system"):
            assert host.check_output("virsh -c %s hostname", uri).strip() == there


def test_the_firewall_lets_peers_in_and_nobody_else(hosts):
    for host in hosts.values():
        assert host.check_output("firewall-cmd --state") == "running"
    assert "49152-49215" in hosts["labkvm2"].check_output("firewall-cmd --list-all")
    ports = [*range(49152, 49216, 9), TLS_PORT, TCP_PORT]
    # libvirt listens for TLS by itself.
    with listening(hosts["labkvm2"], *(port for port in ports if port != TLS_PORT)):
        assert reached(hosts["labkvm1"], ["192.168.1.232", PRIVATE["labkvm2"]], *ports) == {*ports} - {TCP_PORT}
        assert reached(hosts["labstor1"], ["192.168.1.232", "10.0.1.232"], *ports) == set()


# --- the story


def playbook(name: str, *arguments: str) -> Run:
    """A playbook as a person calls it, which does well and warns of nothing."""
    run = ansible("ansible-playbook", f"{name}.yml", *arguments)
    assert run.rc == 0, run.out
    assert "[WARNING]" not in run.out, run.out
    return run


def denials(host) -> int:
    """How often SELinux has said that a guest or libvirt may not use NFS."""
    return int(host.check_output("grep -Ec %s /var/log/audit/audit.log || true", DENIED))


def received(host) -> dict[str, int]:
    """Bytes that have come in by each network."""
    networks = ("lan", "private", "storage")
    said = host.check_output("cat " + " ".join(f"/sys/class/net/{name}0/statistics/rx_bytes" for name in networks))
    return dict(zip(networks, map(int, said.split())))


def record(host) -> dict:
    """What the last run from that host has written down."""
    return json.loads(host.check_output(f"cat $(ls -t {STATE}/runs/*.json | head -1)"))


def lives(hypervisors, name: str) -> None:
    """The guest runs there and nowhere else, and its records go on."""
    known = {host: it.check_output("virsh list --all --name").split() for host, it in hypervisors.items()}
    assert known == {name: [GUEST], OTHER[name]: []}
    # Where it has only just come to, none has been written yet, and grep fails.
    count = f"grep -ac 'kvmops: record' {console.log(GUEST)} || :"
    before = int(hypervisors[name].check_output(count))
    hypervisors[name].check_output(
        f"for turn in $(seq 120); do [ $({count}) -gt {before} ] && exit 0; sleep 0.5; done; exit 1"
    )


def test_the_guest_is_up(hypervisors):
    """It boots while all of the above is looked at: an emulator in an emulator takes minutes."""
    log = console.log(GUEST)
    hypervisors["labkvm1"].check_output(
        f"for turn in $(seq 300); do grep -aq 'kvmops: record' {log} && exit 0; sleep 3; done; exit 1"
    )


def test_selinux_denies_nfs_to_guests_until_it_is_told(hosts, hypervisors):
    """The disk of the guest moves to NFS, and what the policy says of that is in the log."""
    for host in hypervisors.values():
        host.check_output("setsebool virt_use_nfs off")
    before = denials(hosts["labkvm1"])
    playbook("relocate", "-e", f"vm={GUEST}", "-e", "dest_dir=/vmdata")
    assert hosts["labkvm1"].check_output(f"virsh domblklist {GUEST} | awk '$1 == \"vda\" {{print $2}}'") == SHARED
    assert "qcow2" in hosts["labstor1"].check_output("ls /vm")
    assert denials(hosts["labkvm1"]) > before
    lives(hypervisors, "labkvm1")


# What containers, which share one kernel, cannot have. SELinux's switch is off since the test before.
OBSTACLES = [
    Obstacle(
        "exports",
        "/vmdata is exported read-only to labkvm2",
        "export it with rw to labkvm2",
        {"labstor1": "exportfs -o ro,no_root_squash,sync 10.0.1.232:/vm"},
        {"labstor1": "exportfs -u 10.0.1.232:/vm"},
    ),
    Obstacle(
        "locks",
        "/vmdata is mounted on labkvm2 so that no other host sees its locks",
        "mount /vmdata on labkvm2 anew without nolock",
        {"labkvm2": "umount /vmdata && mount -t nfs -o vers=3,nolock 10.0.1.235:/vm /vmdata"},
        {"labkvm2": "umount /vmdata; mount /vmdata"},
        only_warned=True,
    ),
    Obstacle(
        "selinux",
        f"SELinux on labkvm2 keeps QEMU from {SHARED} on nfs: virt_use_nfs is off",
        "setsebool -P virt_use_nfs 1 on labkvm2",
        {"labkvm2": "setenforce 1"},
        {"labkvm2": "setenforce 0"},
    ),
]


def found(hosts, obstacles: list[Obstacle]) -> Run:
    """What preflight.yml says with all of them in the way at once, each with its evidence and its cure."""
    try:
        for obstacle in obstacles:
            for host, script in obstacle.do.items():
                hosts[host].check_output(script)
        run = ansible("ansible-playbook", "preflight.yml", "-e", f"vm={GUEST}", "-e", "dest=labkvm2")
    finally:
        for obstacle in reversed(obstacles):
            for host, script in obstacle.undo.items():
                hosts[host].run(script)
    assert run.changed == 0, run.out
    for obstacle in obstacles:
        assert obstacle.evidence in run.out, run.out
        assert obstacle.cure in run.out, run.out
    return run


@full
def test_c2_55_56_what_a_kernel_of_their_own_can_have_in_the_way_is_found(hosts, hypervisors):
    """The moves below are what is green after."""
    run = found(hosts, OBSTACLES)
    assert run.rc != 0, run.out
    # SELinux keeps libvirt as well from what would prove that the disk is shared.
    assert set(told(run)) == {"storage", *(one.check for one in OBSTACLES if not one.only_warned)}, run.out
    assert set(told(run, "WARN")) >= {one.check for one in OBSTACLES if one.only_warned}, run.out
    lives(hypervisors, "labkvm1")


def test_the_role_tells_it(hypervisors):
    assert playbook("prepare", "--tags", "selinux").changed == len(hypervisors)
    assert all(host.check_output("getsebool virt_use_nfs").endswith("on") for host in hypervisors.values())


def test_the_guest_moves_live_over_the_private_network(hypervisors):
    """Its disk stays where it is, and nobody has said `unsafe`."""
    before = {name: denials(host) for name, host in hypervisors.items()}
    arrived = received(hypervisors["labkvm2"])
    playbook("migrate", "-e", f"vm={GUEST}")
    more = {network: count - arrived[network] for network, count in received(hypervisors["labkvm2"]).items()}
    assert more["private"] > 8 << 20, more
    assert more["private"] > 4 * more["lan"], more
    lives(hypervisors, "labkvm2")
    told = record(hypervisors["labkvm1"])
    assert (told["mode"], told["storage"], told["outcome"]) == ("live", "shared", "migrated"), told
    assert "UNSAFE" not in str(told["flags"]).upper(), told
    assert {name: denials(host) for name, host in hypervisors.items()} == before


def test_it_comes_home_over_tls(hypervisors):
    options = {"migrate_options": {"dest_uri": "qemu+tls://labkvm1/system"}}
    playbook("migrate", "-e", f"vm={GUEST}", "-e", "dest=labkvm1", "-e", json.dumps(options))
    lives(hypervisors, "labkvm1")
    assert "qemu+tls://labkvm1/system" in json.dumps(record(hypervisors["labkvm2"]))


def test_everything_again_changes_nothing(hypervisors):
    assert playbook("prepare").changed == 0
    assert playbook("migrate", "-e", f"vm={GUEST}", "-e", "dest=labkvm1").changed == 0
    lives(hypervisors, "labkvm1")


# --- what goes wrong


@full
def test_c8_116_a_broken_line_leaves_the_live_table_as_it_is(hosts):
    server = hosts["labstor1"]
    before = server.check_output("exportfs -v; cat /etc/exports")
    server.check_output("mkdir -p /etc/exports.d; echo '/srv *(rw, sync)' > /etc/exports.d/broken.exports")
    try:
        run = ansible("ansible-playbook", "prepare.yml", "--tags", "nfs_server")
        assert run.rc != 0, run.out
        assert "/etc/exports.d/broken.exports line 1: the options of * are no list" in run.message, run.out
        assert "; cure: correct that line" in run.message
    finally:
        server.check_output("rm /etc/exports.d/broken.exports")
    assert server.check_output("exportfs -v; cat /etc/exports") == before


@full
def test_what_cannot_be_mounted_is_told_with_its_cure_and_nothing_is_left(hosts):
    """An export that is read-only, one that is full, a server that is not there, and a directory with files in it."""
    server, client = hosts["labstor1"], hosts["labkvm1"]
    server.check_output("mkdir -p /srv/ro /srv/full && mount -t tmpfs -o size=64k none /srv/full")
    server.run("cat /dev/zero > /srv/full/filled")
    server.check_output(
        "exportfs -o ro,no_root_squash,sync 10.0.1.0/24:/srv/ro"
        " && exportfs -o rw,no_root_squash,sync,fsid=77 10.0.1.0/24:/srv/full"
    )
    client.check_output("mkdir -p /mnt/files && touch /mnt/files/a")
    state = "findmnt -rno TARGET,SOURCE | sort; cat /etc/fstab; ls /mnt"
    before = client.check_output(state)

    def refused(*mounts: tuple[str, str, str]) -> str:
        wished = [{"server": address, "export": export, "path": path} for address, export, path in mounts]
        variables = json.dumps({"nfs_client_mounts": wished, "nfs_client_wait": 5})
        run = ansible("ansible-playbook", "prepare.yml", "--tags", "nfs_client", "--limit", "labkvm1", "-e", variables)
        assert run.rc != 0, run.out
        assert client.check_output(state) == before
        return run.message

    try:
        said = refused(
            ("10.0.1.235", "/srv/ro", "/mnt/ro"),
            ("10.0.1.235", "/srv/full", "/mnt/full"),
            ("10.0.1.99", "/vm", "/mnt/gone"),
        )
        assert "Read-only file system; export it with rw" in said
        assert "No space left on device; make room in /srv/full on 10.0.1.235" in said
        assert "10.0.1.99 does not answer labkvm1 on port 2049/tcp" in said
        assert "/mnt/files of labkvm1 has files in it (a)" in refused(("10.0.1.235", "/vm", "/mnt/files"))
    finally:
        client.check_output("rm -r /mnt/files")
        server.check_output("exportfs -u 10.0.1.0/24:/srv/ro; exportfs -u 10.0.1.0/24:/srv/full; umount /srv/full")


# --- the witnesses of everything above


def test_no_vm_ever_ran_in_two_places():
    done = subprocess.run(
        [sys.executable, "-m", "tests.lab", "watch"], cwd=REPOSITORY, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


# --- last: what the watchers would take for a fault

CLOCK = 'python3 -c "import time; time.clock_settime(time.CLOCK_REALTIME, time.time() {} 600)"'
AHEAD = Obstacle(
    "clocks",
    "the clocks of labkvm1 and labkvm2 differ by about",
    "timedatectl set-ntp true",
    {"labkvm2": CLOCK.format("+")},
    {"labkvm2": CLOCK.format("-")},
    only_warned=True,
)


@full
def test_c2_61_a_clock_that_is_ahead_is_found(hosts):
    run = found(hosts, [AHEAD])
    assert run.rc == 0, run.out
    assert "clocks" in told(run, "WARN"), run.out
