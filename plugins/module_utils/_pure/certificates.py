# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""Whether two hosts have what QEMU needs for a migration over TLS."""

from __future__ import annotations

import re
from typing import Any, Dict, List, Mapping

QEMU_CONF = "/etc/libvirt/qemu.conf"
# Where libvirt looks when qemu.conf names no directory: the first if it exists, else the second.
MIGRATION_DIRECTORY = "/etc/pki/libvirt-migrate"
DEFAULT_DIRECTORY = "/etc/pki/qemu"
AUTHORITY = "ca-cert.pem"
SERVER = ("server-cert.pem", "server-key.pem")
CLIENT = ("client-cert.pem", "client-key.pem")

_SETTING = re.compile(r"""^[ \t]*(\w+)[ \t]*=[ \t]*(?:"([^"\n]*)"|'([^'\n]*)'|([0-9]+))""", re.MULTILINE)


def settings(text: str) -> Dict[str, str]:
    """The settings in the text of qemu.conf that are one word or number."""
    return {match[1]: match[2] or match[3] or match[4] or "" for match in _SETTING.finditer(text)}


def directories(conf: Mapping[str, str]) -> List[str]:
    """Where the certificates of a host may be, the first directory that exists counts."""
    default = conf.get("default_tls_x509_cert_dir") or DEFAULT_DIRECTORY
    named = conf.get("migrate_tls_x509_cert_dir")
    return [named] if named else [MIGRATION_DIRECTORY, default]


def verifies(conf: Mapping[str, str]) -> bool:
    """Whether the host lets only a client in that has a certificate of its own."""
    return conf.get("migrate_tls_x509_verify", conf.get("default_tls_x509_verify", "1")) != "0"


def missing(source: Mapping[str, Any], dest: Mapping[str, Any]) -> List[str]:
    """What is not there for a migration from the one to the other, by what each says of itself."""
    wanted = [("source", source, AUTHORITY), ("destination", dest, AUTHORITY)]
    wanted += [("destination", dest, name) for name in SERVER]
    if dest["verify"]:
        wanted += [("source", source, name) for name in CLIENT]
    return [f"{side['directory']}/{name} on the {which}" for which, side, name in wanted if name not in side["files"]]
