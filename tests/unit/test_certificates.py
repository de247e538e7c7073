# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates for migration over TLS: where libvirt looks for them, and what two hosts lack."""

from __future__ import annotations

import pytest

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
