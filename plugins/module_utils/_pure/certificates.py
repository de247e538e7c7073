# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""Whether two hosts have what QEMU needs for a migration over TLS."""

from __future__ import annotations

import calendar
import re
import time
from contextlib import suppress
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


# What tells all that is judged of a certificate.
DESCRIBE = (
    *("openssl", "x509", "-noout", "-dates", "-subject", "-nameopt", "RFC2253", "-ext", "subjectAltName"),
    *("-fingerprint", "-sha256", "-in"),
)
# Seconds before its end at which a certificate is warned about.
SOON = 14 * 24 * 3600


def described(text: str) -> Dict[str, Any]:
    """What openssl has printed of a certificate: dates as seconds since 1970, names, and what tells it from others."""
    found: Dict[str, Any] = {"names": re.findall(r"(?:DNS|IP Address):([^,\s]+)", text)}
    for key, word in (("not_before", "notBefore"), ("not_after", "notAfter")):
        match = re.search(rf"^{word}=(.+?)(?: GMT)?$", text, re.MULTILINE)
        with suppress(ValueError):
            found[key] = calendar.timegm(time.strptime(match[1], "%b %d %H:%M:%S %Y")) if match else None
    if not found["names"]:
        # Names beside a subjectAltName do not count.
        found["names"] = re.findall(r"^subject=.*?CN ?= ?([^,\n]+)", text, re.MULTILINE)
    fingerprint = re.search(r"Fingerprint=([0-9A-F:]+)", text)
    found["fingerprint"] = fingerprint[1] if fingerprint else ""
    return found


def trouble(certificate: Mapping[str, Any], now: float) -> str:
    """Why a certificate is of no use today, or nothing."""
    if certificate.get("not_after") is not None and certificate["not_after"] < now:
        return f"it has expired on {_day(certificate['not_after'])}"
    if certificate.get("not_before") is not None and certificate["not_before"] > now:
        return f"it is not valid before {_day(certificate['not_before'])}"
    return str(certificate.get("trouble") or "")


def ends_soon(certificate: Mapping[str, Any], now: float) -> str:
    """When it expires, where that is soon."""
    end = certificate.get("not_after")
    return _day(end) if end is not None and now <= end < now + SOON else ""


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def is_for(certificate: Mapping[str, Any], name: str) -> bool:
    """Whether it is a certificate of the host of that name or address."""
    return any(_fits(pattern.lower().rstrip("."), name.lower().rstrip(".")) for pattern in certificate["names"])


def _fits(pattern: str, name: str) -> bool:
    if pattern.startswith("*."):
        return name.partition(".")[2] == pattern[2:]
    return name == pattern


def missing(source: Mapping[str, Any], dest: Mapping[str, Any]) -> List[str]:
    """What is not there for a migration from the one to the other, by what each says of itself."""
    wanted = [("source", source, AUTHORITY), ("destination", dest, AUTHORITY)]
    wanted += [("destination", dest, name) for name in SERVER]
    if dest["verify"]:
        wanted += [("source", source, name) for name in CLIENT]
    return [f"{side['directory']}/{name} on the {which}" for which, side, name in wanted if name not in side["files"]]
