# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scenario `libvirt_tls`: the hypervisors talk to each other over TLS, and take guests over it; others do not."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from .conftest import REPOSITORY, ansible, on_hypervisors

VM = "centos64a"
LIBVIRT = {
    "/etc/pki/CA/cacert.pem": ("root", 0o644),
    "/etc/pki/libvirt/servercert.pem": ("root", 0o644),
    "/etc/pki/libvirt/private/serverkey.pem": ("root", 0o400),
    "/etc/pki/libvirt/clientcert.pem": ("root", 0o644),
    "/etc/pki/libvirt/private/clientkey.pem": ("root", 0o400),
}
QEMU = {
    "/etc/pki/qemu/ca-cert.pem": ("root", 0o644),
    "/etc/pki/qemu/server-cert.pem": ("root", 0o644),
    "/etc/pki/qemu/server-key.pem": ("libvirt-qemu", 0o400),
    "/etc/pki/qemu/client-cert.pem": ("root", 0o644),
    "/etc/pki/qemu/client-key.pem": ("libvirt-qemu", 0o400),
}
STATE = r"""
find /etc/pki -type f -exec ls -l --time-style=+ {} + -exec sha256sum {} + | sort
sha256sum /etc/libvirt/*.conf
systemctl is-enabled libvirtd-tls.socket
systemctl is-active libvirtd.socket libvirtd-tls.socket
"""
# What the daemon shows to whoever connects.
SERIAL = (
    "import hashlib, ssl; pem = ssl.get_server_certificate(('127.0.0.1', 16514), timeout=10);"
    " print(hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest())"
)


@pytest.fixture
def libvirt_tls(tmp_path):
    return on_hypervisors(tmp_path / "site.yml", "libvirt_host", "libvirt_tls", libvirt_host_listen=["tls"])


@pytest.fixture
def state(hypervisors):
    return lambda: {name: host.run(STATE).stdout for name, host in hypervisors.items()}


@pytest.fixture
def authority(hypervisors, tmp_path) -> Path:
    """Where the controller has its authorities."""
    said = ansible("ansible", "labkvm1", "-m", "ansible.builtin.debug", "-a", "var=libvirt_tls_ca_directory")
    return Path(re.search(r'"libvirt_tls_ca_directory": "(.*)"', said.out).group(1))


@pytest.fixture
def mended_afterwards(libvirt_tls, reaches):
    yield
    run = libvirt_tls(libvirt_tls_replace=True)
    assert run.rc == 0, run.out
    assert reaches("labkvm1", "labkvm2") and reaches("labkvm2", "labkvm1")


@pytest.fixture
def reaches(hypervisors):
    """Whether libvirt of one host lets the other in over TLS."""

    def look(source: str, name: str, more: str = "") -> bool:
        return hypervisors[source].run("virsh -c %s list", f"qemu+tls://{name}/system{more}").rc == 0

    return look


def stranger(name: str, usage=x509.ExtendedKeyUsageOID.CLIENT_AUTH) -> tuple[str, str, str]:
    """A client of an authority that has the same name as ours, and that authority."""
    now = datetime.now(timezone.utc)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _each in range(2)]
    subjects = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in (name, "client")]
    made = []
    for subject, key, is_authority in zip(subjects, keys, (True, False), strict=True):
        builder = x509.CertificateBuilder(subjects[0], subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=9))
        builder = builder.add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        if not is_authority:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        made.append(builder.sign(keys[0], hashes.SHA256()).public_bytes(Encoding.PEM).decode())
    secret = keys[1].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return made[0], made[1], secret


def put(host, **files: str) -> None:
    for path, text in files.items():
        host.check_output("mkdir -p /root/pki && printf %%s %s > %s", text, f"/root/pki/{path}.pem")


# --- what converge left


@pytest.mark.parametrize(
    "name", ["labkvm2", "labkvm2-private", "labkvm2-storage", "192.168.1.232", "172.16.1.232", "10.0.1.232"]
)
def test_one_hypervisor_reaches_the_other_by_each_of_its_names(reaches, name):
    assert reaches("labkvm1", name)


def test_and_the_way_back(reaches):
    assert reaches("labkvm2", "labkvm1")


def test_keys_are_read_by_those_who_need_them_alone(hypervisors, authority):
    for host in hypervisors.values():
        for path, (user, mode) in {**LIBVIRT, **QEMU}.items():
            file = host.file(path)
            assert (file.user, file.mode) == (user, mode), path
    for name in ("libvirt", "qemu"):
        assert (authority / f"{name}-ca-key.pem").stat().st_mode & 0o777 == 0o600
        for host in hypervisors.values():
            assert (
                host.run("grep -rq %s /etc/pki", (authority / f"{name}-ca-key.pem").read_text().split("\n")[1]).rc == 1
            )
    assert authority.stat().st_mode & 0o777 == 0o700


def test_each_host_has_keys_of_its_own(hypervisors):
    keys = [path for path in (*LIBVIRT, *QEMU) if path.endswith("key.pem")]
    sums = [host.check_output("sha256sum %s", path).split()[0] for host in hypervisors.values() for path in keys]
    assert len(set(sums)) == 8


# --- who is let in


def test_c2_60_a_client_of_another_authority_is_refused(hypervisors, reaches):
    host = hypervisors["labkvm1"]
    _other, certificate, key = stranger("kvmops.migration libvirt")
    ours = host.file("/etc/pki/CA/cacert.pem").content_string
    put(host, cacert=ours, clientcert=certificate, clientkey=key)
    try:
        assert not reaches("labkvm1", "labkvm2", "?pkipath=/root/pki")
        for name in ("cert", "key"):
            path = f"/etc/pki/libvirt/{'private/' if name == 'key' else ''}client{name}.pem"
            host.check_output("cp %s %s", path, f"/root/pki/client{name}.pem")
        assert reaches("labkvm1", "labkvm2", "?pkipath=/root/pki")
    finally:
        host.check_output("rm -r /root/pki")


def test_a_server_of_another_authority_is_refused(hypervisors, reaches):
    host = hypervisors["labkvm1"]
    other, _certificate, _key = stranger("kvmops.migration libvirt")
    put(host, cacert=other)
    host.check_output("cp /etc/pki/libvirt/clientcert.pem /etc/pki/libvirt/private/clientkey.pem /root/pki")
    try:
        assert not reaches("labkvm1", "labkvm2", "?pkipath=/root/pki")
    finally:
        host.check_output("rm -r /root/pki")


def test_what_qemu_can_read_opens_no_door_to_libvirt(hypervisors, reaches):
    host = hypervisors["labkvm1"]
    host.check_output("mkdir /root/pki && cp /etc/pki/CA/cacert.pem /root/pki")
    for name in ("cert", "key"):
        host.check_output("cp %s %s", f"/etc/pki/qemu/client-{name}.pem", f"/root/pki/client{name}.pem")
    try:
        assert not reaches("labkvm1", "labkvm2", "?pkipath=/root/pki")
    finally:
        host.check_output("rm -r /root/pki")


# --- a guest moves over it


@pytest.fixture(scope="module")
def vm(hypervisors):
    """The lab's guest on labkvm1, and none when the tests are over."""
    run = ansible("ansible-playbook", str(REPOSITORY / "extensions/molecule/lab/guests.yml"))
    assert run.rc == 0, run.out
    yield VM
    for host in hypervisors.values():
        host.run("virsh destroy %s; virsh undefine %s; rm -f /vm/*", VM, VM)


def test_c8_125_a_guest_moves_there_and_back_over_tls(vm, hypervisors, home):
    for source, dest, tls in (("labkvm1", "labkvm2", "true"), ("labkvm2", "labkvm1", "auto")):
        # The other host's image of the move before stays there; the journal knows it.
        options = {"name": vm, "dest_host": dest, "dest_uri": f"qemu+tls://{dest}/system", "tls": tls}
        run = ansible("ansible", source, "-m", "kvmops.migration.virt_migrate", "-a", json.dumps(options))
        assert run.rc == 0, run.out
        assert '"TLS"' in run.out, run.out
        assert "unencrypted" not in run.out
        assert home(vm) == {dest: "running"}


# --- other wishes


def test_a_second_run_changes_nothing(libvirt_tls, state):
    before = state()
    run = libvirt_tls()
    assert (run.rc, run.changed) == (0, 0), run.out
    assert state() == before


def test_certificates_are_renewed_before_they_end_and_the_daemon_reads_them(libvirt_tls, hypervisors, state, reaches):
    host = hypervisors["labkvm2"]
    assert reaches("labkvm1", "labkvm2")
    before, process = state()["labkvm2"], host.check_output("systemctl show -P MainPID libvirtd")
    shown = host.check_output("python3 -c %s", SERIAL)
    run = libvirt_tls(libvirt_tls_renew_days=370, libvirt_tls_days=400)
    assert run.rc == 0, run.out
    after = state()["labkvm2"]
    assert before != after
    for path in (*LIBVIRT, *QEMU):
        line = next(line for line in before.splitlines() if line.endswith(path) and not line.startswith("-"))
        is_certificate = path.endswith("cert.pem") and "ca" not in path.rsplit("/", 1)[1]
        assert (line not in after) == is_certificate, path
    assert host.check_output("systemctl show -P MainPID libvirtd") == process
    assert host.check_output("python3 -c %s", SERIAL) != shown
    assert reaches("labkvm1", "labkvm2")
    assert reaches("labkvm2", "labkvm1")


def test_a_key_that_somebody_has_replaced_is_made_anew(mended_afterwards, libvirt_tls, hypervisors, reaches):
    hypervisors["labkvm2"].check_output("cp %s %s", *[f"/etc/pki/qemu/{name}-key.pem" for name in ("client", "server")])
    hypervisors["labkvm2"].check_output("echo broken > /etc/pki/libvirt/private/clientkey.pem")
    assert not reaches("labkvm2", "labkvm1")
    run = libvirt_tls()
    assert run.rc == 0, run.out
    assert reaches("labkvm2", "labkvm1")
    again = libvirt_tls()
    assert (again.rc, again.changed) == (0, 0), again.out


def test_c2_60_another_authority_on_a_host_is_one_line_and_replaced_when_asked(
    mended_afterwards, libvirt_tls, hypervisors, state, reaches
):
    other, certificate, _key = stranger("of the site")
    put(hypervisors["labkvm2"], cacert=other, servercert=certificate)
    hypervisors["labkvm2"].check_output("cp /root/pki/cacert.pem /etc/pki/CA/cacert.pem && rm -r /root/pki")
    before = state()
    run = libvirt_tls()
    assert run.rc != 0, run.out
    expected = (
        r"labkvm2 trusts another authority than /\S+ holds: /etc/pki/CA/cacert.pem \(CN=of the site\).*replace: true"
    )
    assert re.search(expected, run.message), run.out
    assert state() == before
    assert libvirt_tls(libvirt_tls_replace=True).rc == 0
    assert reaches("labkvm1", "labkvm2")
    assert reaches("labkvm2", "labkvm1")


def test_absent_takes_away_what_is_ours_and_libvirt_lives_on(mended_afterwards, libvirt_tls, hypervisors, reaches):
    for host in hypervisors.values():
        host.check_output("echo other > /etc/pki/libvirt/other.pem")
    run = libvirt_tls(libvirt_tls_state="absent")
    assert run.rc == 0, run.out
    for host in hypervisors.values():
        assert host.check_output("find /etc/pki -type f") == "/etc/pki/libvirt/other.pem"
        assert not host.service("libvirtd-tls.socket").is_enabled
        assert "16514" not in host.check_output("ss -Hltn")
        assert host.run("virsh version --daemon").rc == 0
        host.check_output("rm /etc/pki/libvirt/other.pem")
    assert not reaches("labkvm1", "labkvm2")
    again = libvirt_tls(libvirt_tls_state="absent")
    assert (again.rc, again.changed) == (0, 0), again.out
    check = libvirt_tls("--check", "--diff")
    assert check.rc == 0, check.out
    assert "/etc/pki/qemu/server-cert.pem is not there" in check.out
    assert not hypervisors["labkvm2"].file("/etc/pki/qemu/server-cert.pem").exists


def test_c8_124_no_key_is_in_what_is_printed(mended_afterwards, libvirt_tls, hypervisors, authority, tmp_path):
    assert libvirt_tls(libvirt_tls_state="absent").rc == 0
    made = tmp_path / "authority"
    run = libvirt_tls("-vvvv", "--diff", libvirt_tls_ca_directory=str(made))
    assert run.rc == 0, run.out
    assert "BEGIN CERTIFICATE" in run.out
    secrets = [file.read_text(encoding="ascii") for file in made.glob("*-key.pem")]
    for host in hypervisors.values():
        secrets += [host.file(path).content_string for path in (*LIBVIRT, *QEMU) if path.endswith("key.pem")]
    assert len(secrets) == 10
    for secret in secrets:
        assert secret.splitlines()[1] not in run.out
    assert "PRIVATE KEY" not in run.out


def test_c8_126_a_renewal_that_never_ends_is_refused(libvirt_tls, state):
    before = state()
    run = libvirt_tls(libvirt_tls_days=20)
    assert run.rc != 0, run.out
    assert "libvirt_tls_days: 20 must be more than libvirt_tls_renew_days (30)" in run.message
    assert state() == before
