# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scenario `libvirt_host`: hypervisors that listen, and have locks; then other wishes, none, and bad ones."""

from __future__ import annotations

import re
import uuid
from contextlib import contextmanager

import pytest

from .conftest import on_hypervisors

DOMAIN = """<domain type='qemu'><name>{name}</name><memory>32768</memory><os><type arch='x86_64'>hvm</type></os>
<devices>{disk}</devices></domain>"""
DISK = "<disk type='file'><source file='{image}'/><target dev='vda'/></disk>"
CONVERGED = {"libvirt_host_listen": ["tcp"], "libvirt_host_tcp_auth": "none", "libvirt_host_lock_manager": "lockd"}
STATE = r"""
find /etc/libvirt /etc/sysctl.d -type f | sort | xargs sha256sum
systemctl is-enabled libvirtd.socket libvirtd-tcp.socket libvirtd-tls.socket
systemctl is-active libvirtd.socket libvirtd-ro.socket libvirtd-tcp.socket libvirtd-tls.socket
dpkg-query -W | sha256sum
"""


@pytest.fixture
def libvirt_host(tmp_path):
    return on_hypervisors(tmp_path / "site.yml", "libvirt_host")


@pytest.fixture
def state(hypervisors):
    return lambda: {name: host.run(STATE).stdout for name, host in hypervisors.items()}


@pytest.fixture
def as_before(libvirt_host, state):
    """Whatever a test does, the hosts are afterwards what converge has made of them."""
    before = state()
    yield
    run = libvirt_host(**CONVERGED)
    assert run.rc == 0, run.out
    assert state() == before


def host_uuid(host) -> str:
    return re.search(r"<uuid>(.*?)</uuid>", host.check_output("virsh capabilities")).group(1)


def machine_uuid(host) -> str:
    return str(uuid.UUID(host.check_output("cat /etc/machine-id")))


@contextmanager
def guest(host, name: str, image: str = ""):
    """A guest without a system, which runs until it is ended."""
    disk = DISK.format(image=image) if image else ""
    host.check_output("echo %s > /run/guest.xml && virsh create /run/guest.xml", DOMAIN.format(name=name, disk=disk))
    try:
        yield host.check_output("cat %s", f"/run/libvirt/qemu/{name}.pid")
    finally:
        host.run("virsh destroy %s; rm -f /run/guest.xml", name)


# --- what converge left


def test_the_hosts_are_hypervisors(hypervisors):
    for host in hypervisors.values():
        for package in ("libvirt-daemon-system", "qemu-system-x86", "python3-libvirt", "python3-lxml"):
            assert host.package(package).is_installed
        assert host.run("virsh version --daemon").rc == 0


def test_they_listen_as_asked_and_nowhere_else(hypervisors):
    for host in hypervisors.values():
        assert host.service("libvirtd-tcp.socket").is_running
        assert host.service("libvirtd-tcp.socket").is_enabled
        assert not host.service("libvirtd-tls.socket").is_running
        assert host.run("virsh -c qemu+tcp://127.0.0.1/system version").rc == 0
        assert "16514" not in host.check_output("ss -Hltn")


def test_each_takes_guests_in_on_its_own_migration_address(hypervisors, inventory):
    for name, host in hypervisors.items():
        address = inventory["_meta"]["hostvars"][name]["migration_address"]
        lines = host.file("/etc/libvirt/qemu.conf").content_string.splitlines()
        assert lines[:5] == [
            "# BEGIN kvmops.migration libvirt_host",
            f'migration_address = "{address}"',
            f'migration_host = "{address}"',
            'lock_manager = "lockd"',
            "# END kvmops.migration libvirt_host",
        ]


def test_the_disk_of_a_guest_is_held_by_virtlockd(hypervisors):
    host = hypervisors["labkvm2"]
    image = "/var/lib/libvirt/images/locked.img"
    host.check_output("truncate -s 1M %s", image)
    try:
        with guest(host, "idle", image):
            assert image in host.check_output("ls -l /proc/$(pgrep -x virtlockd)/fd")
    finally:
        host.run("rm -f %s", image)


# --- other wishes


def test_a_host_says_its_own_uuid_where_the_firmware_has_the_same_for_all(as_before, libvirt_host, hypervisors):
    """Containers on one machine have one firmware, or none: libvirt's own choice cannot tell them apart."""
    lines = r"/^# BEGIN kvmops.migration libvirt_host uuid/,/^# END/d; /^host_uuid_source/d"
    for host in hypervisors.values():
        assert host_uuid(host) == machine_uuid(host)
        host.check_output(
            "cp -p /etc/libvirt/libvirtd.conf /root/libvirtd.conf && sed -i -e %s /etc/libvirt/libvirtd.conf", lines
        )
        # What somebody else has set further down does not count.
        host.check_output(
            "echo 'host_uuid_source = \"smbios\"' >> /etc/libvirt/libvirtd.conf && systemctl restart libvirtd"
        )
        assert host_uuid(host) != machine_uuid(host)
    try:
        run = libvirt_host(**CONVERGED)
        assert run.rc == 0, run.out
        for host in hypervisors.values():
            assert host_uuid(host) == machine_uuid(host)
            assert host.file("/etc/libvirt/libvirtd.conf").content_string.endswith('host_uuid_source = "smbios"\n')
    finally:
        for host in hypervisors.values():
            host.check_output("cp -p /root/libvirtd.conf /etc/libvirt/libvirtd.conf && systemctl restart libvirtd")


def test_a_run_for_one_host_alone_keeps_what_is_set(libvirt_host, state):
    before = state()
    run = libvirt_host("--limit", "labkvm2", **CONVERGED)
    assert (run.rc, run.changed) == (0, 0), run.out
    assert state() == before


def test_guests_run_on_when_the_daemons_restart(as_before, libvirt_host, hypervisors):
    with guest(hypervisors["labkvm2"], "idle") as pid:
        before = hypervisors["labkvm2"].check_output("systemctl show -P MainPID libvirtd")
        run = libvirt_host(**{**CONVERGED, "libvirt_host_listen": []})
        assert run.rc == 0, run.out
        host = hypervisors["labkvm2"]
        assert host.check_output("systemctl show -P MainPID libvirtd") != before
        assert host.check_output("cat /run/libvirt/qemu/idle.pid") == pid
        assert host.check_output("virsh domstate idle").strip() == "running"
        assert not host.service("libvirtd-tcp.socket").is_running
        assert not host.service("libvirtd-tcp.socket").is_enabled


def test_absent_takes_back_what_was_set_and_nothing_else(as_before, libvirt_host, hypervisors, state):
    run = libvirt_host(libvirt_host_state="absent")
    assert run.rc == 0, run.out
    for host in hypervisors.values():
        assert "kvmops" not in host.check_output("cat /etc/libvirt/*.conf")
        assert "16509" not in host.check_output("ss -Hltn")
        assert host.run("virsh version --daemon").rc == 0
        # Lines of somebody else, for what the role sets, too, and no end of the last line.
        host.check_output("cp -p /etc/libvirt/qemu.conf /root/qemu.conf")
        host.check_output("printf '\\n  lock_manager = \"nop\"\\n# the end' >> /etc/libvirt/qemu.conf")
    before = state()
    for variables in (CONVERGED, {"libvirt_host_state": "absent"}):
        run = libvirt_host(**variables)
        assert run.rc == 0, run.out
        assert (state() == before) == ("libvirt_host_state" in variables)
    again = libvirt_host(libvirt_host_state="absent")
    assert (again.rc, again.changed) == (0, 0), again.out
    for host in hypervisors.values():
        host.check_output("mv /root/qemu.conf /etc/libvirt/qemu.conf")


def test_check_mode_says_what_is_missing_and_changes_nothing(libvirt_host, state):
    before = state()
    run = libvirt_host(
        "--check", "--diff", **{**CONVERGED, "libvirt_host_listen": [], "libvirt_host_uuid_source": "smbios"}
    )
    assert run.rc == 0, run.out
    assert '+host_uuid_source = "smbios"' in run.out
    assert run.changed >= 4
    assert state() == before


def test_check_mode_has_no_error_where_libvirt_is_not_installed(libvirt_host, hypervisors, state):
    host = hypervisors["labkvm2"]
    host.check_output("mv /etc/libvirt /etc/libvirt.away")
    try:
        before = state()
        run = libvirt_host("--check", libvirt_host_packages=["libvirt-of-tomorrow"], libvirt_host_listen=["tls"])
        assert run.rc == 0, run.out
        assert state() == before
    finally:
        host.check_output("mv /etc/libvirt.away /etc/libvirt")


def test_the_tls_socket_waits_for_certificates(as_before, libvirt_host, hypervisors):
    run = libvirt_host(libvirt_host_listen=["tls"])
    assert run.rc == 0, run.out
    assert "labkvm2 has no /etc/pki/CA/cacert.pem" in run.out
    assert "stays closed until role libvirt_tls has brought certificates" in run.out
    for host in hypervisors.values():
        assert not host.service("libvirtd-tls.socket").is_enabled
        assert host.run("virsh version --daemon").rc == 0


def test_c8_125_a_socket_for_everybody_is_warned_about(libvirt_host):
    run = libvirt_host(**CONVERGED)
    assert (run.rc, run.changed) == (0, 0), run.out
    assert "whoever reaches port 16509 of labkvm2 rules it" in run.out


# --- bad use: one clear line, nothing changed

BAD = {
    "a package that no source has": (
        {"libvirt_host_packages": ["libvirt-of-tomorrow"]},
        r"labkvm\d cannot install libvirt: No package matching 'libvirt-of-tomorrow'.*Give the host a source",
    ),
    "an unknown socket": (
        {"libvirt_host_listen": ["ssh"]},
        r"libvirt_host_listen.*tcp, tls.*ssh",
    ),
    "an address that is a name": (
        {"libvirt_host_migration_address": "labkvm1-private"},
        r"libvirt_host_migration_address: labkvm1-private is no IPv4 or IPv6 address",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_c8_126_bad_input_gets_one_line_and_changes_nothing(case, libvirt_host, state):
    variables, expected = BAD[case]
    before = state()
    run = libvirt_host(**{**CONVERGED, **variables})
    assert run.rc != 0, run.out
    assert re.search(expected, run.message), run.out
    assert "Traceback" not in run.out
    assert state() == before


def test_packages_are_not_removed_under_a_guest(as_before, libvirt_host, hypervisors):
    with guest(hypervisors["labkvm2"], "idle"):
        run = libvirt_host("--limit", "labkvm2", libvirt_host_state="absent", libvirt_host_remove_packages=True)
        assert run.rc != 0, run.out
        assert "labkvm2 runs idle; move these guests away or shut them down first" in run.message
        assert hypervisors["labkvm2"].package("qemu-system-x86").is_installed
