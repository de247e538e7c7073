# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""What the certificates of a host are worth: which are of our authorities, and which have to be made anew."""

from __future__ import annotations

import hashlib
import ipaddress
import itertools
import os
import re
import typing as t
from datetime import datetime, timedelta, timezone

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError as error:
    MISSING: ImportError | None = error
    USAGES: dict[str, t.Any] = {}
else:
    MISSING = None
    USAGES = {"serverAuth": ExtendedKeyUsageOID.SERVER_AUTH, "clientAuth": ExtendedKeyUsageOID.CLIENT_AUTH}
    _KEY_USAGE = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=True,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )

USERS = "/etc/passwd"
KEY_MODE = "400"
_HEADING = re.compile(r"^==> (.+) <==$", re.MULTILINE)
# What the role's ask.sh says of a key that it has made or found.
_ASKED = re.compile(r"(?P<sum>[0-9a-f]{64})\n(?P<request>-----BEGIN CERTIFICATE REQUEST-----.+)", re.DOTALL)
# What its look.sh says of a directory or a key, and the sum where there was no key.
_LOOKED = re.compile(r"(?P<owner>\S+) (?P<mode>\d+) (?P<kind>.+)\n?(?P<sum>[0-9a-f]{64})?")
_NO_KEY = hashlib.sha256(b"").hexdigest()
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def split(text: str) -> dict[str, str]:
    """The files by their path, in what the role's look.sh or ask.sh says of them."""
    parts = _HEADING.split(text)
    return dict(zip(parts[1::2], parts[2::2]))


def read(text: str) -> list[x509.Certificate]:
    """The certificates in a file; one that is broken counts as none."""
    found = []
    for pem in _PEM.findall(text or ""):
        try:
            found.append(x509.load_pem_x509_certificate(pem.encode()))
        except ValueError:
            continue
    return found


def fingerprint(certificate: x509.Certificate) -> str:
    """The SHA-256 of the public key."""
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(key).hexdigest()


def issued(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether the one is signed by the other."""
    key, algorithm = authority.public_key(), certificate.signature_hash_algorithm
    signed = (certificate.signature, certificate.tbs_certificate_bytes)
    if certificate.issuer != authority.subject:
        return False
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(*signed, ec.ECDSA(algorithm))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(*signed, padding.PKCS1v15(), algorithm)
        else:
            key.verify(*signed)
    except InvalidSignature:
        return False
    return True


def ends(certificate: x509.Certificate) -> datetime:
    """When it is no longer valid."""
    if hasattr(certificate, "not_valid_after_utc"):
        return certificate.not_valid_after_utc
    return certificate.not_valid_after.replace(tzinfo=timezone.utc)


def alternatives(names: t.Iterable[str]) -> list[str]:
    """Names and addresses as subjectAltName has them, each once."""
    found = []
    for name in names:
        try:
            found.append(f"IP:{ipaddress.ip_address(name)}")
        except ValueError:
            found.append(f"DNS:{name}")
    return list(dict.fromkeys(found))


def _alternatives_of(certificate: x509.Certificate | x509.CertificateSigningRequest) -> set[str]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    names = {f"DNS:{name}" for name in extension.get_values_for_type(x509.DNSName)}
    return names | {f"IP:{address}" for address in extension.get_values_for_type(x509.IPAddress)}


def _serves(certificate: x509.Certificate, usage: str) -> bool:
    try:
        return USAGES[usage] in certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False


def _checked(request: str, path: str, usage: str, names: t.Sequence[str]) -> str:
    """The request of a host for itself: whatever else it asked for, such as the name of another one, would be signed.

    The first of the names is the common one. Raises ValueError where it is another request than that of ask.sh.
    """
    asked = x509.load_pem_x509_csr(request.encode())
    try:
        extensions = list(asked.extensions)
    except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise ValueError(f"the request for {path} cannot be read: {error}") from error
    present = [str(name.value) for each in extensions for name in _names_of(each.value)]
    wanted = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    others = [each.value for each in extensions if not isinstance(each.value, x509.SubjectAlternativeName)]
    rules = [x509.BasicConstraints(ca=False, path_length=None), _KEY_USAGE, x509.ExtendedKeyUsage([USAGES[usage]])]
    if (
        asked.subject != wanted
        or len(others) != len(rules)
        or not all(rule in others for rule in rules)
        or len(extensions) != len(rules) + 1
        or sorted(_alternatives_of(asked)) != sorted(alternatives(names))
        or len(present) != len(alternatives(names))
    ):
        whom = ", ".join([asked.subject.rfc4514_string(), *present])
        raise ValueError(f"the request for {path} is not what the host was to ask for; it is for {whom}")
    return request


def _names_of(value: x509.ExtensionType) -> t.Iterable[x509.GeneralName]:
    return value if isinstance(value, x509.SubjectAlternativeName) else ()


def authority_due(text: str, days: int) -> bool:
    """Whether an authority has to be made, or made valid for longer."""
    found = read(text)
    return not found or ends(found[0]) - timedelta(days=days) < datetime.now(timezone.utc)


def reason(
    text: str | None,
    authority: str,
    usage: str,
    names: t.Sequence[str],
    days: int,
    key: str = "",
) -> str:
    """Why this certificate has to be made anew; empty if it is good."""
    found, ours = read(text or ""), read(authority)
    if not found:
        return "is no certificate" if text else "is not there"
    certificate = found[0]
    if not ours or not issued(certificate, ours[0]):
        return "is of another authority"
    end = ends(certificate)
    if end - timedelta(days=days) < datetime.now(timezone.utc):
        return f"ends on {end:%Y-%m-%d}"
    wanted, present = set(names), _alternatives_of(certificate)
    if wanted != present:
        return f"has other names, by {', '.join(sorted(wanted ^ present))}"
    if not _serves(certificate, usage):
        return f"is not made for {usage}"
    if key and key != fingerprint(certificate):
        return "is of another key"
    return ""


def _unlike(text: str | None, kind: str, owner: str, mode: str) -> str:
    """Why this directory or key has to be made, or given to its owner; empty if it is as it shall be."""
    looked = _LOOKED.match((text or "").strip())
    if not looked:
        return "is not there" if text is None else f"is no {kind}"
    if looked["kind"] != {"key": "regular file"}.get(kind, kind):
        return f"is no {kind}"
    if (looked["owner"], looked["mode"]) != (owner, mode):
        return f"is of {looked['owner']} with mode {looked['mode']}, not of {owner} with mode {mode}"
    if kind == "key" and looked["sum"] in (None, _NO_KEY):
        return "is no key"
    return ""


def _directories(*lists: t.Sequence[dict[str, t.Any]]) -> t.Iterator[tuple[str, str]]:
    """What all these files lie in, each with its mode."""
    paths = (each[name] for each in itertools.chain(*lists) for name in ("path", "key") if name in each)
    for path in dict.fromkeys(map(os.path.dirname, paths)):
        yield path, "700" if os.path.basename(path) == "private" else "755"


def _work(*dues: t.Sequence[dict[str, t.Any]]) -> list[str]:
    """All of that as words of the role's ask.sh; a new key makes a certificate due that was good."""
    directories, keys, certificates = dues
    asking = {each["key"]: each["usage"] for each in (*keys, *certificates)}
    words = [("directory", each["mode"], each["path"]) for each in directories]
    words += [("key", each["owner"], each["key"]) for each in keys]
    words += [("ask", usage, key) for key, usage in asking.items()]
    return list(itertools.chain(*words))


def _sum(text: str | None) -> str:
    looked = _LOOKED.match((text or "").strip())
    return looked["sum"] or "" if looked else ""


def judge(
    seen: str,
    certificates: t.Sequence[dict[str, t.Any]],
    authorities: t.Sequence[dict[str, str]],
    names: t.Sequence[str],
    days: int,
    asked: str = "",
) -> dict[str, t.Any]:
    """See the documentation of the filter; ValueError where a request is for something else."""
    files = split(seen)
    requests = {path: _ASKED.match(text.strip()) for path, text in split(asked).items()}
    wanted_names = alternatives(names)
    own = {authority["name"]: authority["content"] for authority in authorities}
    foreign, absent = [], []
    for authority in authorities:
        there, ours = read(files.get(authority["path"], "")), read(authority["content"])
        if not (ours and fingerprint(ours[0]) in map(fingerprint, there)):
            absent.append(authority["name"])
            if files.get(authority["path"]):
                named = there[0].subject.rfc4514_string() if there else "what is no certificate"
                foreign.append(f"{authority['path']} ({named})")
        elif ours[0] not in there:
            # The same authority, valid for another time.
            absent.append(authority["name"])
    directories_due = [
        {"path": path, "mode": f"0{mode}", "why": f"{path} {unlike}"}
        for path, mode in _directories(certificates, authorities)
        for unlike in [_unlike(files.get(path), "directory", "root", mode)]
        if unlike
    ]
    due, keys_due = [], []
    for wanted in certificates:
        text, looked = files.get(wanted["path"]), files.get(wanted["key"])
        unlike = _unlike(looked, "key", wanted["owner"], KEY_MODE)
        if unlike:
            keys_due.append({**wanted, "why": f"{wanted['key']} {unlike}"})
        # What was seen of one that is no key says nothing of the one that is made in its place.
        request = requests.get(wanted["key"])
        key = request["sum"] if request else "" if unlike else _sum(looked)
        why = reason(text, own[wanted["authority"]], wanted["usage"], wanted_names, days, key)
        if why:
            if asked and not request:
                raise ValueError(f"the host has given no request for {wanted['path']}")
            csr = _checked(request["request"], wanted["path"], wanted["usage"], names) if request else ""
            due.append({**wanted, "why": f"{wanted['path']} {why}", "csr": csr})
    ours = [
        wanted
        for wanted in certificates
        for authority in read(own[wanted["authority"]])[:1]
        if any(issued(each, authority) for each in read(files.get(wanted["path"], "")))
    ]
    users = [line.split(":")[0] for line in files.get(USERS, "").strip().splitlines()]
    return {
        "foreign": foreign,
        "authorities": absent,
        "authorities_due": [name for name, content in own.items() if authority_due(content, days)],
        "due": due,
        "keys_due": keys_due,
        "directories_due": directories_due,
        "work": _work(directories_due, keys_due, due),
        "ours": ours,
        "names": wanted_names,
        "users": users,
    }
