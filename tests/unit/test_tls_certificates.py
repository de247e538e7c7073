# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which certificates role libvirt_tls makes anew, and why."""

from __future__ import annotations

import getpass
import ipaddress
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from ansible_collections.kvmops.migration.plugins.plugin_utils import certificates

NOW = datetime.now(timezone.utc)
NAMES = ("kvm1", "kvm1-private", "192.0.2.1", "2001:db8::0001")
SERVER, CA = "/etc/pki/qemu/server-cert.pem", "/etc/pki/qemu/ca-cert.pem"
FOLDER = "/etc/pki/qemu"
LOOK = Path(__file__).resolve().parents[2] / "roles" / "libvirt_tls" / "files" / "look.sh"
WANTED = {
    "path": SERVER,
    "key": "/etc/pki/qemu/server-key.pem",
    "authority": "qemu",
    "usage": "serverAuth",
    "owner": "q",
}


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


class Authority:
    def __init__(self, name="ours", key=None, days=3650):
        self.name, self.key = named(name), key or ec.generate_private_key(ec.SECP256R1())
        self.text = self.issue(self.name, self.key.public_key(), days)

    def issue(self, subject, public_key, days, *extensions) -> str:
        builder = x509.CertificateBuilder(self.name, subject, public_key, x509.random_serial_number())
        builder = builder.not_valid_before(NOW - timedelta(days=400)).not_valid_after(NOW + timedelta(days=days))
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()

    def certificate(self, names=NAMES, days=365, usage="serverAuth", key=None) -> str:
        alternatives = [
            x509.IPAddress(ipaddress.ip_address(name)) if ":" in name or name[0].isdigit() else x509.DNSName(name)
            for name in names
        ]
        key = key or ec.generate_private_key(ec.SECP256R1())
        usages = x509.ExtendedKeyUsage([certificates.USAGES[usage]])
        more = [x509.SubjectAlternativeName(alternatives)] if names else []
        return self.issue(named("kvm1"), key.public_key(), days, usages, *more)


OURS = Authority()


def seen(**files) -> str:
    """What the role's look.sh says, of files by the names that the tests give them."""
    paths = {"server": SERVER, "authority": CA, "users": certificates.USERS, "key": WANTED["key"], "folder": FOLDER}
    return "\n".join(f"==> {paths[name]} <==\n{text}" for name, text in files.items())


def judge(text: str, authority=OURS, names=NAMES, **more):
    authorities = [{"name": "qemu", "path": CA, "content": authority.text if authority else ""}]
    return certificates.judge(text, [WANTED], authorities, names, 30, **more)


def test_a_good_certificate_stays():
    said = judge(seen(users="root:x:0:0\nqemu:x:107:107\n", server=OURS.certificate(), authority=OURS.text))
    assert (said["due"], said["authorities"], said["authorities_due"], said["foreign"]) == ([], [], [], [])
    assert said["ours"] == [WANTED]
    assert said["users"] == ["root", "qemu"]
    assert said["names"] == ["DNS:kvm1", "DNS:kvm1-private", "IP:192.0.2.1", "IP:2001:db8::1"]


def test_an_authority_of_an_rsa_key_is_one_too():
    brought = Authority(key=rsa.generate_private_key(65537, 2048))
    assert judge(seen(server=brought.certificate(), authority=brought.text), brought)["due"] == []


END = f"{NOW + timedelta(days=20):%Y-%m-%d}"
OTHER = Authority("ours")
DUE = {
    "it is not there": (None, "is not there"),
    "it is a broken file": ("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n", "is no certificate"),
    "it is something else": ("# put it here\n", "is no certificate"),
    "it ends soon": (OURS.certificate(days=20), f"ends on {END}"),
    "it has ended": (OURS.certificate(days=-1), f"ends on {NOW - timedelta(days=1):%Y-%m-%d}"),
    "its authority has the name of ours": (OTHER.certificate(), "is of another authority"),
    "its authority has another name": (Authority("theirs").certificate(), "is of another authority"),
    "it lacks an address": (OURS.certificate(NAMES[:-1]), "has other names, by IP:2001:db8::1"),
    "it has a name that the host has no longer": (OURS.certificate([*NAMES, "kvm9"]), "has other names, by DNS:kvm9"),
    "it has no names": (OURS.certificate([]), "has other names, by DNS:kvm1, DNS:kvm1-private, IP:192.0.2.1"),
    "it is one of a client": (OURS.certificate(usage="clientAuth"), "is not made for serverAuth"),
}


@pytest.mark.parametrize("case", DUE)
def test_a_certificate_is_made_anew_when(case):
    text, why = DUE[case]
    files = {} if text is None else {"server": text}
    due = judge(seen(authority=OURS.text, **files))["due"]
    assert len(due) == 1
    assert due[0]["why"].startswith(f"{SERVER} {why}")
    assert {**due[0], "why": None} == {**WANTED, "why": None}


def test_a_certificate_of_another_key_is_made_anew():
    key = ec.generate_private_key(ec.SECP256R1())
    text = seen(server=OURS.certificate(key=key), authority=OURS.text)
    own = certificates.fingerprint(certificates.read(OURS.certificate(key=key))[0])
    # As community.crypto writes it.
    own = ":".join(own[at : at + 2] for at in range(0, len(own), 2))
    assert judge(text, keys={WANTED["key"]: own})["due"] == []
    other = ("1" if own[0] == "0" else "0") + own[1:]
    assert judge(text, keys={WANTED["key"]: other})["due"][0]["why"] == f"{SERVER} is of another key"


def looked(key, owner: str = "q", mode: str = "400") -> str:
    own = certificates.fingerprint(certificates.read(OURS.certificate(key=key))[0])
    return f"{owner} {mode} regular file\n{own}  -\n"


def test_a_key_that_is_as_it_shall_be_is_not_touched_and_has_to_fit_its_certificate():
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _each in range(2))
    files = {"server": OURS.certificate(key=key), "authority": OURS.text, "folder": "root 755 directory\n"}
    said = judge(seen(**files, key=looked(key)))
    assert (said["due"], said["keys_due"], said["directories_due"]) == ([], [], [])
    said = judge(seen(**files, key=looked(other)))
    assert said["due"][0]["why"] == f"{SERVER} is of another key"
    assert said["keys_due"] == []


KEYS = {
    None: "is not there",
    looked(OURS.key, owner="root"): "is of root with mode 400, not of q with mode 400",
    looked(OURS.key, mode="644"): "is of q with mode 644, not of q with mode 400",
    f"q 400 regular file\n{certificates._NO_KEY}  -\n": "is no key",
    "q 400 regular file\n": "is no key",
    "q 400 directory\n": "is no key",
}


@pytest.mark.parametrize("text", KEYS)
def test_a_key_is_made_or_given_to_its_owner_when_it(text):
    files = {} if text is None else {"key": text}
    said = judge(seen(server=OURS.certificate(), authority=OURS.text, **files))
    assert [each["why"] for each in said["keys_due"]] == [f"{WANTED['key']} {KEYS[text]}"]
    # The one that is made then decides whether the certificate stays.
    assert said["due"] == []


@pytest.mark.parametrize("text", [None, "root 700 directory\n", "q 755 directory\n", "some text\n"])
def test_a_directory_is_made_or_given_to_root_when(text):
    files = {} if text is None else {"folder": text}
    assert judge(seen(**files))["directories_due"] == [{"path": FOLDER, "mode": "0755"}]


def test_what_the_role_looks_at_is_understood(tmp_path):
    key, folder = ec.generate_private_key(ec.SECP256R1()), tmp_path / "private"
    folder.mkdir(mode=0o700)
    paths = {name: folder / f"{name}key.pem" for name in ("good", "locked", "broken", "absent")}
    for name, encryption in (("good", NoEncryption()), ("locked", BestAvailableEncryption(b"x"))):
        paths[name].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    paths["broken"].write_text("broken\n", encoding="ascii")
    certificate = tmp_path / "cert.pem"
    certificate.write_text(OURS.certificate(key=key), encoding="ascii")
    wanted = [
        {**WANTED, "owner": getpass.getuser(), "path": str(certificate), "key": str(path)} for path in paths.values()
    ]
    for path in folder.iterdir():
        path.chmod(0o400)
    arguments = [folder, certificate, *paths.values()]
    said = subprocess.run(["sh", LOOK, *arguments], check=True, capture_output=True, text=True).stdout
    judged = certificates.judge(said, wanted, [{"name": "qemu", "path": CA, "content": OURS.text}], [*NAMES], 30)
    assert judged["due"] == []
    assert {each["key"]: each["why"].rpartition("pem ")[2] for each in judged["keys_due"]} == {
        str(paths["locked"]): "is no key",
        str(paths["broken"]): "is no key",
        str(paths["absent"]): "is not there",
    }


def test_another_authority_on_the_host_is_named_even_if_ours_does_not_exist_yet():
    for authority in (OURS, None):
        said = judge(seen(server=OTHER.certificate(), authority=OTHER.text), authority)
        assert said["foreign"] == [f"{CA} (CN=ours)"]
        assert said["authorities"] == ["qemu"]
        assert said["ours"] == []
    assert judge(seen(authority="nothing\n"))["foreign"] == [f"{CA} (what is no certificate)"]
    assert judge(seen())["foreign"] == []


def test_a_host_that_trusts_others_besides_ours_keeps_them():
    said = judge(seen(server=OURS.certificate(), authority=OTHER.text + OURS.text))
    assert (said["foreign"], said["authorities"], said["due"]) == ([], [], [])


def test_an_authority_that_has_been_prolonged_is_told_and_its_certificates_stay():
    prolonged = Authority(key=OURS.key, days=5000)
    said = judge(seen(server=OURS.certificate(), authority=OURS.text), prolonged)
    assert (said["foreign"], said["authorities"], said["due"]) == ([], ["qemu"], [])


@pytest.mark.parametrize(("days", "due"), [(3650, []), (29, ["qemu"]), (-1, ["qemu"])])
def test_an_authority_is_prolonged_before_it_ends(days, due):
    assert judge(seen(), Authority(days=days))["authorities_due"] == due
