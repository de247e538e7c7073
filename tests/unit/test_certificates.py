# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates for migration over TLS: where libvirt looks for them, and what two hosts lack."""

from __future__ import annotations

import subprocess
import time
from types import SimpleNamespace

import pytest

from ansible_collections.kvmops.migration.plugins.module_utils._migrate.local import Local
from ansible_collections.kvmops.migration.plugins.module_utils._pure import certificates

CONF = """
# default_tls_x509_cert_dir = "/commented/out"
default_tls_x509_cert_dir = "/etc/pki/ours"
migrate_tls_x509_verify = 0
security_driver = [ "selinux", "apparmor" ]
"""


def test_settings_are_read_and_comments_are_not():
    assert certificates.settings(CONF) == {"default_tls_x509_cert_dir": "/etc/pki/ours", "migrate_tls_x509_verify": "0"}


@pytest.mark.parametrize(
    ("conf", "directories", "verifies"),
    [
        ({}, ["/etc/pki/libvirt-migrate", "/etc/pki/qemu"], True),
        ({"default_tls_x509_cert_dir": "/a"}, ["/etc/pki/libvirt-migrate", "/a"], True),
        ({"default_tls_x509_cert_dir": "/a", "migrate_tls_x509_cert_dir": "/b"}, ["/b"], True),
        ({"default_tls_x509_verify": "0"}, ["/etc/pki/libvirt-migrate", "/etc/pki/qemu"], False),
        (
            {"default_tls_x509_verify": "0", "migrate_tls_x509_verify": "1"},
            ["/etc/pki/libvirt-migrate", "/etc/pki/qemu"],
            True,
        ),
    ],
)
def test_the_narrower_setting_counts(conf, directories, verifies):
    assert certificates.directories(conf) == directories
    assert certificates.verifies(conf) == verifies


def test_everything_that_lacks_is_named_with_its_host():
    nothing = {"directory": "/etc/pki/qemu", "files": [], "verify": False}
    assert certificates.missing(nothing, nothing) == [
        "/etc/pki/qemu/ca-cert.pem on the source",
        "/etc/pki/qemu/ca-cert.pem on the destination",
        "/etc/pki/qemu/server-cert.pem on the destination",
        "/etc/pki/qemu/server-key.pem on the destination",
    ]
    assert len(certificates.missing(nothing, {**nothing, "verify": True})) == 6
    everything = {**nothing, "files": [certificates.AUTHORITY, *certificates.SERVER, *certificates.CLIENT]}
    assert certificates.missing(everything, {**everything, "verify": True}) == []


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "20")


@pytest.fixture
def pki(tmp_path, monkeypatch):
    """An authority and a server's certificate of it, where QEMU looks for them, as a function that tells of them."""
    directory = tmp_path / "pki"
    directory.mkdir()
    monkeypatch.setattr(certificates, "QEMU_CONF", str(tmp_path / "none"))
    monkeypatch.setattr(certificates, "MIGRATION_DIRECTORY", str(directory))
    authority, key = directory / "ca-cert.pem", tmp_path / "ca-key.pem"
    openssl("req", "-x509", *KEY, "-subj", "/CN=lab authority", "-keyout", key, "-out", authority)

    def issue(*more):
        server = directory / "server-cert.pem"
        own = ("-subj", "/O=lab/CN=kvm2.example", "-keyout", directory / "server-key.pem", "-out", server)
        openssl("req", "-x509", *KEY, *own, *more)

    def tell():
        def run_command(command):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            return done.returncode, done.stdout, done.stderr

        return Local(run_command).certificate_facts()

    issue("-CA", authority, "-CAkey", key, "-addext", "subjectAltName=DNS:kvm2.example,DNS:*.lab,IP:172.16.1.2")
    return SimpleNamespace(directory=directory, issue=issue, tell=tell)


def test_what_openssl_tells_of_certificates(pki):
    told = pki.tell()
    assert set(told) == {"ca-cert.pem", "server-cert.pem"}
    server, now = told["server-cert.pem"], time.time()
    assert server["names"] == ["kvm2.example", "*.lab", "172.16.1.2"]
    assert abs(server["not_after"] - now - 20 * 86400) < 3600
    assert certificates.trouble(server, now) == ""
    assert "it has expired on" in certificates.trouble(server, now + 21 * 86400)
    assert "it is not valid before" in certificates.trouble(server, now - 86400)
    assert certificates.ends_soon(server, now) == ""
    assert certificates.ends_soon(server, now + 10 * 86400)
    assert len(told["ca-cert.pem"]["fingerprint"]) == 95
    assert told["ca-cert.pem"]["fingerprint"] != server["fingerprint"]


def test_c2_60_a_certificate_of_nobody_that_is_trusted(pki):
    pki.issue()
    told = pki.tell()["server-cert.pem"]
    assert "it is not of" in certificates.trouble(told, time.time())
    assert told["names"] == ["kvm2.example"]
    (pki.directory / "server-cert.pem").write_text("no certificate")
    assert "openssl cannot read it" in certificates.trouble(pki.tell()["server-cert.pem"], time.time())


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("kvm2.example", True),
        ("KVM2.example.", True),
        ("a.lab", True),
        ("a.b.lab", False),
        ("172.16.1.2", True),
        ("x", False),
    ],
)
def test_c2_60_a_certificate_is_for_its_names(name, fits):
    assert certificates.is_for({"names": ["kvm2.example", "*.lab", "172.16.1.2"]}, name) == fits
