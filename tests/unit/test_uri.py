# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""libvirt URIs: what is taken apart goes together again, and what is no URI is refused in one line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.kvmops.migration.plugins.module_utils._images import carry
from ansible_collections.kvmops.migration.plugins.module_utils._pure import uri
from ansible_collections.kvmops.migration.plugins.module_utils._pure.refusal import Refusal

LABEL = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
HOST = st.one_of(
    st.lists(LABEL, min_size=1, max_size=3).map(".".join),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
    st.from_regex(r"fe80::[1-9a-f]%[A-Za-z0-9_.-]{1,15}", fullmatch=True),
)
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)


@st.composite
def uris(draw):
    transport = draw(st.sampled_from(sorted(uri.TRANSPORTS)))
    driver = draw(st.sampled_from(sorted(uri.PATHS)))
    needs, may = uri.TRANSPORTS[transport]
    host = draw(HOST) if needs or (may and draw(st.booleans())) else ""
    user = draw(st.none() | TEXT) if host else None
    return uri.Uri(
        driver=driver,
        transport=transport,
        user=user or "",
        password=draw(st.just("") | TEXT) if user else "",
        host=host,
        port=draw(st.none() | st.integers(1, 65535)) if host else None,
        path=draw(st.from_regex(uri.PATHS[driver][0], fullmatch=True, alphabet=st.characters(codec="utf-8"))),
        query=draw(extras(transport or ("tls" if host else "unix"))),
    )


@st.composite
def extras(draw, transport):
    names = draw(st.lists(st.sampled_from(("name", *uri.EXTRAS_OF[transport])), unique=True, max_size=3))
    names = ["command", *names] if transport == "ext" and "command" not in names else names
    alphabet = st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"])
    made = {name: draw(st.from_regex(uri.EXTRAS[name][0], fullmatch=True, alphabet=alphabet)) for name in names}
    if made.get("proxy") == "native":
        made.pop("netcat", None)
    return tuple(made.items())


@given(uris())
def test_what_goes_together_comes_apart_again(made):
    assert uri.parse(str(made)) == made


@given(uris())
def test_c8_124_a_password_is_hidden_wherever_it_stands(made):
    text = f"failed: {made} said no"
    hidden = uri.redact(text)
    if made.password:
        assert f":{str(made).partition('@')[0].rpartition(':')[2]}@" not in hidden
        assert ":***@" in hidden
    else:
        assert hidden == text


# What a person may make of a password who does not know what stands for something else in a URI.
PASSWORD = st.text(st.sampled_from("XY0/?#@: %[]&='"), min_size=1, max_size=8).map("Xx{}xX".format)
_WORDS = "qemu test + ssh ext :// : / // @ [ ] ::1 % %2 ? = & # h system command 65536 root"
PIECES = st.sampled_from([*_WORDS.split(), "\n", " ", "\u2028", "\ud800"])


@given(st.sampled_from(sorted(uri.TRANSPORTS)), st.sampled_from(["root", ""]), PASSWORD, st.sampled_from(["", ":22"]))
def test_c8_124_no_password_is_told_however_it_is_written(transport, user, password, port):
    text = f"qemu+{transport}://{user}:{password}@h{port}/sistem"
    with pytest.raises(Refusal) as refused:
        uri.parse(text, "dest_uri")
    assert "Xx" not in refused.value.message
    assert "xX" not in refused.value.message
    assert password in uri.secrets(text)


@given(uris())
def test_what_is_hidden_in_a_value_is_hidden_in_a_text(made):
    if made.password:
        assert uri.hidden(str(made)) == uri.redact(str(made))
        assert made.password in uri.secrets(str(made))


@given(st.text(max_size=40) | st.lists(PIECES, max_size=14).map("".join))
def test_any_text_is_a_uri_or_a_refusal_of_one_line(text):
    try:
        parsed = uri.parse(text, "dest_uri")
    except Refusal as refusal:
        assert refusal.message.startswith("dest_uri: ")
        assert "\n" not in refusal.message
        assert refusal.cure
    else:
        assert uri.parse(str(parsed)) == parsed


@pytest.mark.parametrize(
    ("text", "local", "host", "transport"),
    [
        ("qemu:///system", True, "", ""),
        ("qemu+unix:///session", True, "", "unix"),
        ("qemu+unix:///system?socket=/run/x", True, "", "unix"),
        ("qemu://host2/system", False, "host2", ""),
        ("qemu+tls://host2/system", False, "host2", "tls"),
        ("qemu+tcp://10.0.0.1:16509/system", False, "10.0.0.1", "tcp"),
        ("qemu+ssh://root@[fe80::1%eth0]:22/system", False, "fe80::1%eth0", "ssh"),
        ("qemu+ssh://root@[fe80::1%25eth0]/system", False, "fe80::1%eth0", "ssh"),
        ("qemu+ssh://root@[fe80::1%25be0]/system", False, "fe80::1%be0", "ssh"),
        ("qemu+ssh://root@[fe80::1%2525]/system", False, "fe80::1%25", "ssh"),
        ("qemu+ssh://ann@host2/system", False, "host2", "ssh"),
        ("qemu+libssh2://ann@host2/system?known_hosts=/x", False, "host2", "libssh2"),
        ("qemu+libssh://host2/system", False, "host2", "libssh"),
        ("qemu+ext:///system?command=/usr/bin/x", False, "", "ext"),
        ("xen+ssh://root@host2/system", False, "host2", "ssh"),
        ("xen://host2", False, "host2", ""),
        ("xen:///", True, "", ""),
        ("test:///default", True, "", ""),
        ("test:///tmp/hosts.xml", True, "", ""),
    ],
)
def test_the_forms_of_the_deck(text, local, host, transport):
    parsed = uri.parse(text)
    assert (parsed.is_local, parsed.host, parsed.transport) == (local, host, transport)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not a libvirt URI"),
        ("host2", "is not a libvirt URI"),
        ("qemu:/system", "is not a libvirt URI"),
        ("vbox:///session", "accepted drivers: qemu, xen, test"),
        ("qemu+smoke://h/system", "has the transport 'smoke'"),
        ("qemu+://h/system", "has the transport ''"),
        ("qemu+ssh:///system", "names no host"),
        ("qemu+unix://h/system", "leave the host out"),
        ("qemu://:16514/system", "a port without a host"),
        ("qemu+ssh://root@/system", "names no host"),
        ("qemu+ssh://-oProxyCommand=x/system", "has the host"),
        ("qemu+ssh://root@[fe80::1%25]/system", "has the zone ''"),
        ("qemu+ssh://root@[fe80::1%25-oProxyCommand=x]/system", "has the zone '-oProxyCommand=x'"),
        ("qemu+ssh://root@[fe80::1%be0]/system", "write it as %25"),
        ("qemu+ssh://h:0/system", "1 to 65535"),
        ("qemu+ssh://h:x/system", "1 to 65535"),
        ("qemu+ssh://h:65536/system", "1 to 65535"),
        ("qemu+ssh://h/sistem", "accepts /system and /session"),
        ("qemu+ssh://h", "has the path ''"),
        ("test:///\ud800", "is not a libvirt URI"),
        ("qemu+ssh://h/system?x=\udcff", "is not a libvirt URI"),
        ("qemu+ssh://root:p@ss@h/system", "'qemu+ssh://root:***@h/system' is not a libvirt URI"),
        ("qemu+ssh://root:p/w@h/system", "'qemu+ssh://root:***@h/system' is not a libvirt URI"),
        ("xen+ssh://h/session", "the xen driver accepts /system"),
        ("test:///", "the test driver accepts /default and"),
        ("qemu+libssh:///system", "names no host"),
        ("qemu+ext://h/system", "add ?command="),
        (
            "qemu+ssh://h/system?comand=/x",
            "has the extra 'comand', which is not known; cure: transport ssh knows name, mode",
        ),
        ("qemu+ssh://h/system?no_tty=1;x=2", "has the extra 'x', which is not known"),
        ("qemu+tls://h/system?keyfile=/k", "transport tls knows name, tls_priority, no_verify, pkipath"),
        ("qemu://h/system?command=/bin/sh", "'command', which is not known; cure: transport tls knows"),
        ("qemu:///system?command=/bin/sh", "'command', which is not known; cure: transport unix knows name, mode"),
        ("qemu+libssh2://h/system?no_tty=1", "transport libssh2 knows"),
        ("qemu+tcp://h/system?socket=/x", "transport tcp knows name"),
        ("qemu+ssh://h/system?command=", "has the extra command=''"),
        ("qemu+ssh://h/system?command=/a&command=/b", "has the extra command='/b'; cure: accepted once"),
        ("qemu+ssh://h/system?no_verify=yes", "accepted once: 0 or 1"),
        ("qemu+ssh://h/system?socket=run/x", "accepted once: an absolute path"),
        ("qemu+ssh://h/system?proxy=socat", "accepted once: auto, netcat or native"),
        ("qemu+ssh://h/system?proxy=native&netcat=nc", "names netcat with proxy=native"),
        ("qemu+ssh://root:p?w@h/system?x=1", "'qemu+ssh://root:***@h/system?x=1' is not a libvirt URI"),
    ],
)
def test_c2_31_what_is_wrong_is_named(text, says):
    with pytest.raises(Refusal, match="uri: ") as refused:
        uri.parse(text)
    assert says in refused.value.message


def test_uris_are_built_from_addresses():
    assert uri.for_host("172.16.1.232") == "qemu+ssh://root@172.16.1.232/system"
    assert uri.for_host("fd00::2") == uri.for_host("[fd00::2]") == "qemu+ssh://root@[fd00::2]/system"
    assert uri.for_data("172.16.1.232") == "tcp://172.16.1.232"
    assert uri.for_data("fd00::2") == "tcp://[fd00::2]"


def test_a_zone_is_written_as_uris_and_as_commands_have_it():
    built = "qemu+ssh://root@[fe80::1%25eth0]/system"
    assert uri.for_host("fe80::1%eth0") == uri.for_host("[fe80::1%eth0]") == uri.for_host("[fe80::1%25eth0]") == built
    assert str(uri.parse("qemu+ssh://root@[fe80::1%eth0]/system")) == built
    assert uri.for_data("fe80::1%eth0") == "tcp://[fe80::1%25eth0]"
    assert uri.parse_data("tcp://[fe80::1%25eth0]:49152") == uri.parse_data("tcp://[fe80::1%eth0]") == "fe80::1%eth0"
    command = carry.way_to(built).login.command(10)
    assert command[-2] == "fe80::1%eth0"
    assert not any(option.startswith("-oHostKeyAlias") for option in command)
    other = carry.way_to(built, "tcp://[fe80::2%25eth1]").login.command(10)
    assert other[-2] == "fe80::2%eth1"
    assert "-oHostKeyAlias=fe80::1%eth0" in other


@pytest.mark.parametrize(
    ("text", "extras"),
    [
        # The examples of libvirt's page.
        ("xen://towada/system?no_verify=1", {"no_verify": "1"}),
        ("qemu+unix:///system?socket=/opt/libvirt/libvirt-sock", {"socket": "/opt/libvirt/libvirt-sock"}),
        ("qemu+libssh2://user@host/system?known_hosts=/home/k", {"known_hosts": "/home/k"}),
        (
            "qemu+ssh://h/system?command=/opt/openssh/bin/ssh&netcat=/opt/nc",
            {"command": "/opt/openssh/bin/ssh", "netcat": "/opt/nc"},
        ),
        ("qemu+tls://h/system?tls_priority=NORMAL:-VERS-SSL3.0", {"tls_priority": "NORMAL:-VERS-SSL3.0"}),
        ("qemu+ssh://h/system?name=qemu:///system", {"name": "qemu:///system"}),
        ("qemu:///system?mode=direct", {"mode": "direct"}),
        # A plus is no blank to libvirt, which also takes a semicolon.
        ("qemu+ssh://h/system?keyfile=/root/a+b%20c;no_tty=1", {"keyfile": "/root/a+b c", "no_tty": "1"}),
    ],
)
def test_extras_that_libvirt_knows_pass_as_they_are(text, extras):
    parsed = uri.parse(text)
    assert dict(parsed.query) == extras
    assert uri.parse(str(parsed)) == parsed


def test_an_extra_is_added_where_it_is_not_there_already():
    assert str(uri.parse("qemu+ssh://h/system").with_query("no_tty", "1")) == "qemu+ssh://h/system?no_tty=1"
    assert str(uri.parse("qemu+ssh://h/system?no_tty=0").with_query("no_tty", "1")).endswith("?no_tty=0")
