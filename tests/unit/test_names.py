# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The text of /etc/hosts: our names come and go, and nobody else's line changes by a byte."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.kvmops.migration.plugins.filter.hosts_file import FilterModule
from ansible_collections.kvmops.migration.plugins.module_utils._pure.names import (
    BEGIN,
    END,
    HAD,
    Host,
    Network,
    is_own,
    parse,
    plan,
    without_ours,
)

NETWORKS = [Network("", "ansible_host"), Network("-private", "migration_address")]
LOCALHOST = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"


def kvm(number: int, **more) -> Host:
    values = {
        "ansible_host": f"192.168.1.{number}",
        "migration_address": f"172.16.1.{number}",
        **more.pop("values", {}),
    }
    return Host(f"kvm{number}", values, more.pop("nodename", f"kvm{number}"), **more)


def made(text: str, *hosts: Host, own: str = "kvm1", **more) -> str:
    answer = plan(text, own, hosts or (kvm(1), kvm(2)), more.pop("networks", NETWORKS), **more)
    assert answer["errors"] == []
    return answer["text"]


def refused(text: str, *hosts: Host, own: str = "kvm1", **more) -> str:
    answer = plan(text, own, hosts or (kvm(1), kvm(2)), more.pop("networks", NETWORKS), **more)
    assert answer["errors"]
    assert answer["text"] == text
    return "\n".join(answer["errors"])


def block(text: str) -> list[str]:
    lines = text.split("\n")
    return lines[lines.index(BEGIN) + 1 : lines.index(END)]


def looked_up(text: str, name: str) -> list[str]:
    return [address for address, names in map(parse, text.split("\n")) if name in names]


def canonical(text: str, name: str) -> str:
    """What `hostname -f` says: the first name of the first line that has this one."""
    return next(names[0] for _address, names in map(parse, text.split("\n")) if name in names)


def test_c8_119_all_hosts_have_names_on_all_networks():
    storage = Host("stor1", {"ansible_host": "192.168.1.9"}, "stor1")
    text = made(LOCALHOST, kvm(1), kvm(2), storage)
    assert text.startswith(LOCALHOST)
    assert block(text) == [
        "192.168.1.1 kvm1",
        "172.16.1.1 kvm1-private",
        "192.168.1.2 kvm2",
        "172.16.1.2 kvm2-private",
        "192.168.1.9 stor1",
    ]


def test_c8_119_the_own_name_leaves_loopback_and_other_names_of_the_line_stay():
    text = made(LOCALHOST + "127.0.1.1\tkvm1.example.com kvm1 printer # mine\n")
    assert looked_up(text, "kvm1") == looked_up(text, "kvm1.example.com") == ["192.168.1.1"]
    assert looked_up(text, "printer") == ["127.0.1.1"]
    assert "127.0.1.1 printer # mine\n" in text


@pytest.mark.parametrize(
    "line", ["127.0.1.1 kvm1.example.com kvm1", "127.0.1.1 kvm1 kvm1.example.com", "::1 kvm1.example.com"]
)
def test_c8_119_a_full_name_of_loopback_is_what_hostname_f_says_and_the_others_know_it(line):
    hosts = (kvm(1, text=line + "\n"), kvm(2))
    assert canonical(made(line + "\n", *hosts), "kvm1") == "kvm1.example.com"
    assert looked_up(made(LOCALHOST, *hosts, own="kvm2"), "kvm1.example.com") == ["192.168.1.1"]
    # And nobody forgets it: the line is not lost.
    again = made(line + "\n", *hosts)
    assert made(again, kvm(1, text=again), kvm(2)) == again


def test_a_full_name_that_somebody_has_given_with_the_right_address_stays_the_first():
    text = made("192.168.1.1 kvm1.example.com kvm1\n")
    assert canonical(text, "kvm1") == "kvm1.example.com"


def test_what_a_host_calls_itself_is_known_to_all():
    text = made(LOCALHOST, kvm(1), kvm(2, nodename="node-17"))
    assert block(text)[2] == "192.168.1.2 node-17 kvm2"
    # As it is the first, `hostname -f` gives it there.
    assert canonical(made("", kvm(1), kvm(2, nodename="node-17"), own="kvm2"), "node-17") == "node-17"


def test_inventory_names_with_a_domain_have_short_ones_where_those_are_their_own():
    one, two = (
        Host("kvm1.example.com", {"ansible_host": "192.0.2.1"}, "kvm1"),
        Host("kvm2.example.com", {"ansible_host": "192.0.2.2"}),
    )
    assert block(made("", one, two, own=one.name)) == [
        "192.0.2.1 kvm1.example.com kvm1",
        "192.0.2.2 kvm2.example.com kvm2",
    ]
    one, two = (Host(f"kvm.{site}.example.com", {"ansible_host": f"192.0.2.{site}"}) for site in (1, 2))
    assert block(made("", one, two, own=one.name)) == ["192.0.2.1 kvm.1.example.com", "192.0.2.2 kvm.2.example.com"]
    private = Host("kvm1.example.com", {"migration_address": "172.16.1.1"})
    assert block(made("", private, own=private.name)) == ["172.16.1.1 kvm1-private.example.com kvm1-private"]


def test_a_domain_is_added_to_names_without_one():
    assert block(made("", domain="example.com"))[:2] == [
        "192.168.1.1 kvm1.example.com kvm1",
        "172.16.1.1 kvm1-private.example.com kvm1-private",
    ]


def test_ipv6_alone_and_beside_ipv4():
    networks = [Network("", "ansible_host"), Network("", "six")]
    both = Host("kvm1", {"ansible_host": "192.0.2.1", "six": "2001:DB8::1"}, "kvm1")
    six = Host("kvm2", {"six": "2001:db8::2"}, "kvm2")
    text = made("::1 localhost kvm1\n", both, six, networks=networks)
    assert block(text) == ["192.0.2.1 kvm1", "2001:db8::1 kvm1", "2001:db8::2 kvm2"]
    assert looked_up(text, "localhost") == ["::1"]


def test_a_host_that_is_reached_by_a_name_has_the_address_that_it_says():
    named = Host("kvm1", {"ansible_host": "kvm1.example.com"}, "kvm1", found=["", "fe80::1%eth0", "192.0.2.7"])
    tunnelled = Host("kvm2", {"ansible_host": "127.0.0.1"}, "kvm2", found=["127.0.0.1", "192.0.2.8"])
    silent = Host("kvm3", {}, "kvm3")
    assert block(made("127.0.1.1 kvm1\n", named, tunnelled, silent)) == ["192.0.2.7 kvm1", "192.0.2.8 kvm2"]


def test_the_controller_in_the_inventory_gets_no_name():
    assert "localhost" not in made("", kvm(1), Host("localhost", {"ansible_host": "192.0.2.1"})).lower()


def test_a_host_that_was_not_asked_keeps_what_it_had():
    before = made("", kvm(1), Host("kvm2", {}, "node-17", found=["192.0.2.2"]))
    assert "192.0.2.2 node-17 kvm2" in block(before)
    assert made(before, kvm(1), Host("kvm2", {})) == before
    before = made("", kvm(1), kvm(2, nodename="node-17"))
    assert made(before, kvm(1), kvm(2, nodename=None)) == before
    # But not an address that the inventory has no more.
    moved = made(before, kvm(1), kvm(2, nodename=None, values={"ansible_host": "192.168.1.22"}))
    assert looked_up(moved, "kvm2") == ["192.168.1.22"]


def test_a_host_that_left_the_inventory_leaves_the_file():
    assert made(made(LOCALHOST, kvm(1), kvm(2), kvm(3))) == made(LOCALHOST)


def test_a_line_that_somebody_changes_afterwards_counts():
    text = made("127.0.1.1 kvm1 printer\n")
    changed = text.replace("127.0.1.1 printer\n", "127.0.1.1 scanner\n")
    assert plan(changed, "kvm1", [], [], state="absent")["text"] == "127.0.1.1 scanner\n"


@pytest.mark.parametrize(
    ("host", "said"),
    [
        (kvm(1, values={"migration_address": "172.16.1.231/24"}), "migration_address of kvm1 is '172.16.1.231/24'"),
        (kvm(1, values={"migration_address": "172.16.1.2x1"}), "neither an address nor a host name"),
        (kvm(1, values={"migration_address": "172.16.1"}), "neither an address nor a host name"),
        (kvm(1, values={"ansible_host": "fe80::1%eth0"}), "neither an address nor a host name"),
        (kvm(1, values={"ansible_host": "0.0.0.0"}), "no address of a host"),
        (kvm(1, values={"ansible_host": "ff02::1"}), "no address of a host"),
        (kvm(1, values={"migration_address": "172.16.1.2"}), "kvm1 and kvm2 have the same address 172.16.1.2"),
        (kvm(1, nodename="kvm2"), "kvm2 would be both"),
        (kvm(1, nodename="localhost.localdomain"), "hostnamectl set-hostname kvm1"),
        (Host("192.0.2.1", {}), "'192.0.2.1' is no host name"),
        (Host("web server", {}), "'web server' is no host name"),
    ],
)
def test_c8_119_bad_input_is_refused_and_nothing_changes(host, said):
    assert said in refused(LOCALHOST, host, kvm(2))


def test_c8_119_bad_options_and_contradictions_are_refused():
    assert "no end of a host name" in refused("", networks=[Network(" private", "ansible_host")])
    assert "no domain" in refused("", domain="ex ample")
    assert "kvm2 is 10.9.9.9, the inventory says 192.168.1.2" in refused("10.9.9.9 kvm2 # old\n")
    # On loopback only the host's own names are ours to repair.
    assert "kvm2 is 127.0.1.1" in refused("127.0.1.1 kvm2\n")
    assert "no address of kvm1 is known" in refused("127.0.1.1 kvm1\n", Host("kvm1", {}, "kvm1"), kvm(2))
    assert "no line of /etc/hosts ends" in refused(BEGIN + "\n")
    assert "a second time" in refused(BEGIN + "\n" + BEGIN + "\n")
    assert "ends a block that no line begins" in refused(END + "\n")
    answer = FilterModule().filters()["hosts_file"]("", "kvm1", ["kvm9"], {}, [])
    assert answer["errors"] == ["name_resolution_hosts: not in the inventory: kvm9"]


# --- whatever others have written

WORDS = st.sampled_from(
    [
        "localhost",
        "kvm1",
        "kvm1.example.com",
        "kvm1.lan",
        "KVM1",
        "kvm10",
        "xkvm1",
        "kvm1-private",
        "printer",
        "kvm1|x",
        "é",
    ]
)
ADDRESSES = st.sampled_from(["127.0.0.1", "127.0.1.1", "::1", "10.0.0.1", "fe80::1", "300.1.1.1", "#127.0.1.1", ""])
SPACES = st.sampled_from([" ", "\t", "  ", "\t \t"])
NAMED = st.builds(
    lambda address, space, words, comment, end: address + "".join(space + word for word in words) + comment + end,
    ADDRESSES,
    SPACES,
    st.lists(WORDS, max_size=4),
    st.sampled_from(["", "", " # a comment", "#kvm1", "\t#"]),
    st.sampled_from(["\n", "\n", "\r\n", " \n"]),
)
ODD = st.text("ab #\t\x0b\x0c\x1c\x85\u2028|:.\r", max_size=12).map(lambda text: text + "\n")
FILES = st.lists(st.one_of(NAMED, ODD), max_size=8).map("".join)


def plain(text: str) -> bool:
    """Whether the file contradicts nothing: those that do are refused."""
    return not plan(text, "kvm1", HOSTS, NETWORKS)["errors"]


HOSTS = (kvm(1), kvm(2))


@given(FILES.filter(plain))
def test_c8_119_absent_gives_back_the_file_to_the_byte(text):
    assert plan(made(text), "kvm1", HOSTS, NETWORKS, state="absent") == {"text": text, "errors": []}
    assert without_ours(text) == (text, [], [])


@given(FILES.filter(plain))
def test_c8_119_a_second_run_changes_nothing(text):
    hosts = (kvm(1, text=text), kvm(2))
    once = made(text, *hosts)
    assert made(once, kvm(1, text=once), kvm(2)) == once


@given(FILES.filter(plain))
def test_c8_119_no_foreign_line_is_lost_and_no_own_name_is_on_loopback(text):
    new = made(text)
    ours = {"kvm1", "kvm1-private"}
    for address, names in map(parse, new.split("\n")):
        if address.startswith(("127.", "::1")):
            assert not {name.lower() for name in names} & ours
    kept = iter(line.partition("|")[2] if line.startswith(HAD) else line for line in new.split("\n"))
    for line in text.split("\n")[:-1]:
        assert line in kept
    foreign = [names for address, names in map(parse, text.split("\n")) if address]
    for name in {name for names in foreign for name in names if not name.lower().startswith("kvm1")}:
        assert looked_up(new, name) == looked_up(text, name)


@given(st.binary(max_size=60))
def test_bytes_of_any_encoding_come_back(noise):
    content = base64.b64encode(noise)
    answer = FilterModule().filters()["hosts_file"](content, "kvm1", [], {}, [])
    assert answer["errors"] or answer["text"].encode("utf-8", "surrogateescape") == noise


@pytest.mark.parametrize(
    ("server", "own"),
    [("127.0.0.1", True), ("::1", True), ("localhost.localdomain", True), ("/run/nbd.sock", True), ("nbd1", False)],
)
def test_a_server_that_every_host_has_for_itself(server, own):
    assert is_own(server) == own
