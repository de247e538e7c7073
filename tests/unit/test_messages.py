# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""libvirt's messages, as libvirt and QEMU print them, lead to their class and cure."""

from __future__ import annotations

import pytest

from ansible_collections.kvmops.migration.plugins.module_utils._pure import messages
from fake.messages import load

MESSAGES = load()
# What the collection has, and what it will have.
ROLES = {
    "firewall",
    "libvirt_host",
    "libvirt_tls",
    "name_resolution",
    "nfs_client",
    "nfs_server",
    "selinux",
    "ssh_trust",
    "storage_pool",
}


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: str(message.id))
def test_a_message_leads_to_its_class_and_role(message):
    known = messages.look_up(message.text)
    if message.failure_class is not None:
        assert (known.failure_class, known.role) == (message.failure_class, message.role)
    assert known.cure


def test_every_message_of_the_list_is_tried():
    assert {message.id for message in MESSAGES} == set(range(51))


def test_an_unknown_message_has_a_class_of_its_own():
    known = messages.look_up("the moon is full", source="kvm1", dest="kvm2")
    assert known.failure_class == "libvirt"
    assert known.cure.endswith("on kvm1 and on kvm2")


def test_the_log_of_one_host_is_named_once():
    known = messages.look_up("the moon is full", source="this host", dest="this host")
    assert known.cure.endswith(" on this host")
    assert known.cure.count("this host") == 1


def test_the_reason_is_the_first_error_of_the_last_burst():
    closed = [
        (102.1, "migration successfully aborted"),
        (102.2, "End of file while reading data: : Input/output error"),
    ]
    found = [(100.0, "operation aborted: canceled by client"), (101.0, "qemu unexpectedly closed the monitor")]
    reasons = messages.reasons([(1.0, "an older one"), *found, *closed], alone=True)
    assert reasons == ["operation aborted: canceled by client"]
    assert messages.reasons(closed, alone=True) == messages.reasons([], alone=True) == []


def test_nothing_tells_apart_the_reasons_of_several_moves():
    closed = (102.0, "End of file while reading data: : Input/output error")
    found = [(100.0, "one"), (100.5, "other"), (101.0, "one")]
    assert messages.reasons([*found, closed], alone=False) == ["one", "other"]
    assert messages.reasons([*found, closed, closed], alone=True) == ["one", "other"]


def test_every_row_is_reached_by_a_text():
    reached = {messages.look_up(message.text).pattern for message in MESSAGES}
    assert [known.pattern.pattern for known in messages.TABLE if known.pattern not in reached] == []


def test_every_role_that_is_named_is_one_of_the_collection():
    assert {known.role for known in messages.TABLE} <= ROLES | {None}


def test_a_cure_is_one_line_that_names_who_is_meant():
    names = {"name": "a", "source": "kvm1", "dest": "kvm2"}
    for message in MESSAGES:
        cure = messages.look_up(message.text, **names).cure
        assert "\n" not in cure
        assert not {"NAME", "the source", "the destination"} & {cure, *cure.split()}
        assert "{" not in cure
        assert not cure.endswith(".")


@pytest.mark.parametrize(
    ("text", "names", "cure"),
    [
        (
            "internal error: qemu unexpectedly closed the monitor",
            {"name": "a", "source": "kvm1", "dest": "kvm2"},
            "look at the end of /var/log/libvirt/qemu/a.log on kvm1 and on kvm2",
        ),
        (
            "Network not found: no network with matching name 'lan'",
            {"dest": "kvm2"},
            "define and start the libvirt network lan on kvm2",
        ),
        (
            "Network not found: no network with matching name '{0}'",
            {"dest": "kvm2"},
            "define and start the libvirt network {0} on kvm2",
        ),
        (
            "unable to connect to server at 'fd00::2:16509': Connection refused",
            {},
            "start libvirtd (or virtproxyd, with its socket for that transport) and sshd on fd00::2",
        ),
        (
            "Timed out during operation: cannot acquire state change lock",
            {"name": "a"},
            "wait for the end of the job (virsh domjobinfo a); one that hangs ends with systemctl restart libvirtd",
        ),
        ("cannot allocate: No space left on device", {}, "free space on the storage of the destination"),
    ],
)
def test_a_cure_says_what_the_message_and_the_caller_know(text, names, cure):
    assert messages.look_up(text, **names).cure == cure


CHANGED = """Cannot recv data: @@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@\r
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\r
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@\r
IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!\r
Please contact your system administrator.\r
Offending ED25519 key in /root/.ssh/known_hosts:3\r
Host key verification failed.: Connection reset by peer"""


def test_the_banner_of_a_changed_host_key_is_left_out():
    said = messages.shortened(CHANGED)
    assert said == (
        "Cannot recv data: the host key has changed (/root/.ssh/known_hosts:3): Host key verification failed.:"
        " Connection reset by peer"
    )
    assert messages.look_up(said).failure_class == "host_key"
    for other in (
        "no @ here",
        CHANGED.replace("REMOTE HOST IDENTIFICATION HAS CHANGED", "UNPROTECTED PRIVATE KEY FILE"),
    ):
        assert messages.shortened(other) == other
