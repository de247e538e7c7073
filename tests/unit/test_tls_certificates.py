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
SCRIPTS = Path(__file__).resolve().parents[2] / "roles" / "libvirt_tls" / "files"
WANTED = {
    "path": SERVER,
    "key": "/etc/pki/qemu/server-key.pem",
    "authority": "qemu",
    "usage": "serverAuth",
    "owner": "q",
}


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def alternatives(names) -> list[x509.GeneralName]:
    return [
        x509.IPAddress(ipaddress.ip_address(name)) if ":" in name or name[0].isdigit() else x509.DNSName(name)
        for name in names
        if "@" not in name
    ]


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
        key = key or ec.generate_private_key(ec.SECP256R1())
        usages = x509.ExtendedKeyUsage([certificates.USAGES[usage]])
        more = [x509.SubjectAlternativeName(alternatives(names))] if names else []
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
    assert {**due[0], "why": None} == {**WANTED, "why": None, "csr": ""}


def asked(key, names=NAMES, usage="serverAuth", name="kvm1", ca=False, **key_usage: bool) -> str:
    """What the role's ask.sh says of a key and the request for its certificate."""
    no = ("content_commitment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign")
    may = {**dict.fromkeys((*no, "encipher_only", "decipher_only"), False), **key_usage}
    builder = x509.CertificateSigningRequestBuilder().subject_name(named(name))
    for extension in (
        x509.BasicConstraints(ca=ca, path_length=None),
        x509.KeyUsage(digital_signature=True, key_encipherment=True, **may),
        x509.ExtendedKeyUsage([certificates.USAGES.get(each, each) for each in usage.split()]),
        x509.SubjectAlternativeName([*alternatives(names), *[x509.RFC822Name(each) for each in names if "@" in each]]),
    ):
        builder = builder.add_extension(extension, critical=False)
    request = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
    return f"\n==> {WANTED['key']} <==\n{key_sum(key)}\n{request}"


def key_sum(key) -> str:
    return certificates.fingerprint(certificates.read(OURS.certificate(key=key))[0])


def test_a_certificate_of_another_key_is_made_anew():
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _each in range(2))
    text = seen(server=OURS.certificate(key=key), authority=OURS.text)
    assert judge(text, asked=asked(key))["due"] == []
    said = asked(other)
    (due,) = judge(text, asked=said)["due"]
    assert due["why"] == f"{SERVER} is of another key"
    assert due["csr"] == said.partition(key_sum(other) + "\n")[2].strip()


OTHERS: dict[str, dict] = {
    "the name of another host": {"names": (*NAMES, "kvm2")},
    "the name of another host alone": {"names": NAMES[1:]},
    "a person": {"names": (*NAMES, "root@kvm2")},
    "another host by its subject": {"name": "kvm2"},
    "another use": {"usage": "clientAuth"},
    "more uses": {"usage": "serverAuth clientAuth"},
    "an authority": {"ca": True},
    "signing others": {"key_cert_sign": True},
}


@pytest.mark.parametrize("wish", OTHERS)
def test_a_host_gets_no_certificate_that_it_was_not_to_ask_for(wish):
    with pytest.raises(
        ValueError, match=f"the request for {SERVER} is not what the host was to ask for; it is for CN="
    ):
        judge(seen(), asked=asked(OURS.key, **OTHERS[wish]))


def test_a_host_that_does_not_ask_for_all_of_it_is_named_by_the_certificate():
    said = asked(OURS.key).replace("server-key", "client-key")
    with pytest.raises(ValueError, match=f"the host has given no request for {SERVER}"):
        judge(seen(), asked=said)


def looked(key, owner: str = "q", mode: str = "400") -> str:
    return f"{owner} {mode} regular file\n{key_sum(key)}  -\n"


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
    said = judge(seen(**files))
    (due,) = said["directories_due"]
    assert (due["path"], due["mode"]) == (FOLDER, "0755")
    assert due["why"].startswith(f"{FOLDER} is ")
    assert said["work"][:3] == ["directory", "0755", FOLDER]


def run(script: str, *arguments, check: bool = True) -> subprocess.CompletedProcess[str]:
    """As the role does it, which sends the script."""
    command = ["sh", "-s", "--", *map(str, arguments)]
    text = (SCRIPTS / script).read_text(encoding="utf-8")
    return subprocess.run(command, check=check, input=text, capture_output=True, text=True)


def test_what_the_role_asks_of_a_host_is_done_and_understood(tmp_path):
    folder, user = tmp_path / "pki" / "qemu", getpass.getuser()
    wanted = [
        {
            **WANTED,
            "owner": user,
            "path": str(folder / f"{name}.pem"),
            "key": str(folder / "private" / f"{name}key.pem"),
        }
        for name in ("made", "given")
    ]
    authorities = [{"name": "qemu", "path": str(folder / "ca.pem"), "content": OURS.text}]
    (folder / "private").mkdir(parents=True)
    given = Path(wanted[1]["key"])
    given.write_bytes(OURS.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    paths = [folder, folder / "private", *(Path(each[name]) for each in wanted for name in ("path", "key"))]
    before = run("look.sh", *paths).stdout
    judged = certificates.judge(before, wanted, authorities, NAMES, 30)
    assert [each["path"] for each in judged["directories_due"]] == [str(folder / "private")]
    said = run("ask.sh", "kvm1", ",".join(judged["names"]), *judged["work"]).stdout
    due = certificates.judge(before, wanted, authorities, NAMES, 30, asked=said)["due"]
    requests = [x509.load_pem_x509_csr(each["csr"].encode()) for each in due]
    assert all(each.is_signature_valid for each in requests)
    for each in requests:
        assert {one.oid.dotted_string for one in each.extensions if one.critical} == {"2.5.29.15", "2.5.29.19"}
    # The one that was there is the host's still.
    assert requests[1].public_key() == OURS.key.public_key()
    assert isinstance(requests[0].public_key().curve, ec.SECP256R1)
    after = run("look.sh", *paths).stdout
    judged = certificates.judge(after, wanted, authorities, NAMES, 30)
    assert (judged["directories_due"], judged["keys_due"]) == ([], [])
    assert sorted(path.name for path in folder.rglob("*.pem*")) == ["givenkey.pem", "madekey.pem"]


def test_a_name_is_a_name_whatever_openssl_would_read_in_it(tmp_path):
    key = tmp_path / "key.pem"
    name = 'k$HOME"1\\#`x'
    said = run("ask.sh", name, "DNS:kvm1", "key", getpass.getuser(), key, "ask", "serverAuth", key).stdout
    request = x509.load_pem_x509_csr(said[said.index("-----BEGIN") :].encode())
    assert request.subject == named(name)


def test_a_link_is_no_key_and_what_it_leads_to_stays_whose_it_is(tmp_path):
    secret, key = tmp_path / "secret.pem", tmp_path / "key.pem"
    text = OURS.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    secret.write_bytes(text)
    secret.chmod(0o640)
    key.symlink_to(secret)
    wanted = {**WANTED, "key": str(key), "owner": getpass.getuser()}
    authorities = [{"name": "qemu", "path": CA, "content": OURS.text}]
    said = certificates.judge(run("look.sh", key).stdout, [wanted], authorities, NAMES, 30)
    assert [each["why"] for each in said["keys_due"]] == [f"{key} is no key"]
    run("ask.sh", "kvm1", "DNS:kvm1", "key", getpass.getuser(), key)
    assert (secret.read_bytes(), secret.stat().st_mode & 0o777) == (text, 0o640)
    assert not key.is_symlink()
    assert key.stat().st_mode & 0o777 == 0o400


def test_a_directory_loses_what_it_has_from_the_one_above(tmp_path):
    tmp_path.chmod(0o2755)
    run("ask.sh", "kvm1", "DNS:kvm1", "directory", "0700", tmp_path / "private")
    assert (tmp_path / "private").stat().st_mode & 0o7777 == 0o700


def test_a_host_that_cannot_make_a_key_says_why_and_has_no_part_of_it(tmp_path):
    (tmp_path / "key.pem").mkdir()
    done = run("ask.sh", "kvm1", "DNS:kvm1", "key", getpass.getuser(), tmp_path / "key.pem", check=False)
    assert done.returncode != 0
    assert "key.pem" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["key.pem"]


def test_certificates_are_put_where_they_belong(tmp_path):
    """A link that stands there is no way to another file."""
    other, first, second = (tmp_path / name for name in ("other.pem", "first.pem", "second.pem"))
    other.write_text("other\n", encoding="ascii")
    first.symlink_to(other)
    run("put.sh", first, "one\n2 $HOME\n", second, "two\n")
    assert (first.read_text(encoding="ascii"), second.read_text(encoding="ascii")) == ("one\n2 $HOME\n", "two\n")
    assert other.read_text(encoding="ascii") == "other\n"
    assert [path.stat().st_mode & 0o777 for path in (first, second)] == [0o644] * 2
    assert len(list(tmp_path.iterdir())) == 3


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
    said = run("look.sh", *arguments).stdout
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
