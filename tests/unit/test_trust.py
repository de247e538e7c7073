# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is known and accepted on a host, of what the inventory and the hosts say."""

from __future__ import annotations

import base64

import pytest

from ansible_collections.kvmops.migration.plugins.filter.ssh_trust import FilterModule
from ansible_collections.kvmops.migration.plugins.module_utils._pure.trust import BEGIN, END, Peer, plan

HOST_KEYS = ["ssh-ed25519 AAAAed", "ecdsa-sha2-nistp256 AAAAec=="]


def peer(number: int = 2, **more) -> Peer:
    values = {"ansible_host": f"192.0.2.{number}", "migration_address": f"172.16.1.{number}", **more.pop("values", {})}
    more = {
        "nodename": f"kvm{number}",
        "host_keys": HOST_KEYS,
        "asked": True,
        "key": f"ssh-ed25519 AAAAroot{number}",
        **more,
    }
    return Peer(more.pop("name", f"kvm{number}"), values, **more)


def trusted(*peers: Peer, **more) -> dict:
    answer = plan("kvm1", [peer(1), *peers], more.pop("suffixes", []), **more)
    assert answer["errors"] == []
    return answer


def written(lines: str) -> str:
    return f"foreign line\n{BEGIN}\n{lines}\n{END}\n"


def test_a_peer_is_known_by_all_its_names_and_keys_and_accepted_from_its_addresses():
    answer = trusted(peer(nodename="node-2.example.com"), suffixes=["-private"])
    names = "kvm2,kvm2-private,node-2.example.com,node-2,192.0.2.2,172.16.1.2"
    assert answer["known_hosts"].split("\n") == [f"{names} {key}" for key in HOST_KEYS]
    options = "no-agent-forwarding,no-X11-forwarding"
    assert answer["authorized_keys"] == f'from="192.0.2.2,172.16.1.2",{options} ssh-ed25519 AAAAroot2 kvm2'


def test_another_port_has_names_of_its_own():
    line = trusted(peer(port=2222, host_keys=HOST_KEYS[:1]))["known_hosts"]
    assert line == "kvm2,192.0.2.2,172.16.1.2,[kvm2]:2222,[192.0.2.2]:2222,[172.16.1.2]:2222 ssh-ed25519 AAAAed"


@pytest.mark.parametrize("value", ["kvm2.example.com", None, "127.0.0.1"])
def test_a_peer_that_the_inventory_has_no_address_of_may_come_from_any_of_its_own(value):
    found = ["127.0.0.1", "198.51.100.2", "fe80::2", "2001:db8::2"]
    answer = trusted(peer(values={"ansible_host": value, "migration_address": None}, own_addresses=found))
    assert 'from="198.51.100.2,2001:db8::2"' in answer["authorized_keys"]
    assert ("kvm2.example.com" in answer["known_hosts"]) == (value == "kvm2.example.com")
    assert "127.0.0.1" not in answer["known_hosts"]


def test_a_peer_that_was_not_asked_keeps_its_lines_and_no_other_one_does():
    known = written("kvm2,192.0.2.2 ssh-ed25519 OLD\nkvm3 ssh-ed25519 OLD")
    authorized = written('from="192.0.2.2" ssh-ed25519 OLD kvm2\nfrom="192.0.2.3" ssh-ed25519 OLD kvm3')
    answer = trusted(peer(asked=False), known=known, authorized=authorized)
    assert answer["unasked"] == ["kvm2"]
    assert answer["known_hosts"] == "kvm2,192.0.2.2 ssh-ed25519 OLD"
    assert answer["authorized_keys"] == 'from="192.0.2.2" ssh-ed25519 OLD kvm2'
    # One that was asked has nothing of before.
    assert "OLD" not in str(trusted(peer(), known=known, authorized=authorized))


def test_in_check_mode_a_key_may_be_missing_yet():
    answer = trusted(peer(key=""))
    assert answer["authorized_keys"] == ""
    assert answer["known_hosts"]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (peer(values={"migration_address": "172.16.1.2/24"}), "migration_address of kvm2 is '172.16.1.2/24'"),
        (peer(values={"ansible_host": '192.0.2.2",command="x'}), "neither an address nor a host name"),
        (peer(values={"ansible_host": "192.0.2"}), "neither an address nor a host name"),
        (peer(host_keys=[]), "ssh-keygen -A"),
        (peer(host_keys=["ssh-ed25519 AAAA\n* ssh-rsa evil"]), "says that"),
        (peer(key="ssh-ed25519 AAAA\nssh-ed25519 evil"), "says that"),
        (peer(key='command="x" ssh-ed25519'), "says that"),
        (peer(values={"ansible_host": None, "migration_address": None}), "no address of kvm2 is known"),
        (peer(name="kvm 2"), "no host name"),
    ],
)
def test_what_would_become_another_line_is_refused(bad, said):
    answer = plan("kvm1", [peer(1), bad], [])
    assert [said in error for error in answer["errors"]] == [True]


def test_a_host_that_is_none_of_them_is_refused():
    assert plan("stor1", [peer(1)], [])["errors"] == ["stor1 is none of ssh_trust_hosts"]


def test_the_filter_reads_facts_and_what_the_role_has_registered():
    facts = {
        "ansible_host": "192.0.2.2",
        "ansible_port": 22,
        # Those of another host: nobody looks at them.
        "ansible_facts": {"nodename": "kvm1", "ssh_host_key_rsa_public": "AAAAwrong"},
        "__ssh_trust_facts": {
            "ansible_facts": {
                "ansible_nodename": "kvm2",
                "ansible_all_ipv4_addresses": ["192.0.2.2"],
                "ansible_ssh_host_key_ecdsa_public": "AAAAec",
                "ansible_ssh_host_key_ecdsa_public_keytype": "ecdsa-sha2-nistp384",
                "ansible_ssh_host_key_rsa_public": "AAAArsa",
            },
        },
        "__ssh_trust_key": {"stdout": "ssh-ed25519 AAAAroot with a comment"},
    }
    lines = base64.b64encode(written("kvm3 ssh-ed25519 OLD").encode()).decode()
    read = {"results": [{"content": lines}, {"msg": "file not found"}]}
    mine = {**facts, "ansible_host": "192.0.2.1", "__ssh_trust_files": read}
    hosts = {
        "kvm1": mine,
        "kvm2": facts,
        "kvm3": {"ansible_host": "192.0.2.3"},
        "kvm4": {"__ssh_trust_key": {"unreachable": True}},
    }
    trust = FilterModule().filters()["ssh_trust"]
    answer = trust(hosts, "kvm1", list(hosts), ["ansible_host"])
    assert answer["errors"] == []
    assert answer["unasked"] == ["kvm3", "kvm4"]
    assert answer["known_hosts"].split("\n") == [
        "kvm2,192.0.2.2 ecdsa-sha2-nistp384 AAAAec",
        "kvm2,192.0.2.2 ssh-rsa AAAArsa",
        "kvm3 ssh-ed25519 OLD",
    ]
    assert answer["authorized_keys"].endswith("ssh-ed25519 AAAAroot kvm2")
    assert trust(hosts, "kvm1", ["kvm9"], [])["errors"] == ["ssh_trust_hosts: not in the inventory: kvm9"]
