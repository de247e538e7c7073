# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every known message, raised by libvirt where libvirt raises it: class, cure, role, and where the VM is afterwards."""

from __future__ import annotations

import json

import pytest

from fake import libvirt as fake
from fake.lab import IMAGE, UUID
from fake.messages import arrange, load

STATES = {
    "running": fake.VIR_DOMAIN_RUNNING,
    "shut_off": fake.VIR_DOMAIN_SHUTOFF,
    "absent": None,
}
MESSAGES = load()


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: f"{message.id}-{message.at}-{message.failure_class}")
def test_c8_128_a_message_leads_to_its_class_cure_and_final_state(lab, monkeypatch, message):
    options = arrange(lab, message, monkeypatch)
    result = lab.move(**options)
    said = " ".join(message.text.split())
    assert result.outcome == message.outcome
    assert result.failed == (message.failure_class is not None)
    if result.failed:
        assert (result.failure_class, result.role) == (message.failure_class, message.role)
        assert said in result.msg
        assert result.cure
        assert "\n" not in result.msg
    else:
        assert any(said in warning for warning in result.warnings)
        assert result.changed
    assert "NAME" not in json.dumps(vars(result))
    if message.outcome == "refused":
        assert lab.world.migrations == []
    else:
        assert (result.source["state"], result.dest["state"]) == (message.source, message.dest)
    if message.outcome == "postcopy_failed":
        assert lab.where() == (fake.VIR_DOMAIN_PAUSED, fake.VIR_DOMAIN_RUNNING)
        assert lab.kvm2.file(IMAGE) is not None, "nothing is touched"
    else:
        assert lab.where() == (STATES[message.source], STATES[message.dest])
    assert lab.kvm1.file(IMAGE).content == "a v1"
    if message.dest == "absent":
        assert lab.kvm1.guests[UUID].persistent
        assert lab.kvm2.file(IMAGE) is None, "nothing of the run is left there"
        assert lab.journal_file() is None


def test_a_definition_that_cannot_be_carried_over_is_kept_where_it_is(lab, monkeypatch):
    (message,) = (message for message in MESSAGES if message.at == "define")
    arrange(lab, message, monkeypatch)
    lab.move()
    assert lab.kvm1.guests[UUID].persistent
    assert not lab.kvm2.guests[UUID].persistent
    lab.world.faults.clear()
    lab.world.script = lambda *_: None
    assert lab.move().changed
    assert lab.where() == (None, fake.VIR_DOMAIN_RUNNING)
    assert lab.kvm2.guests[UUID].persistent


def test_the_log_of_a_guest_that_died_is_named_in_full(lab, monkeypatch):
    message = next(message for message in MESSAGES if message.failure_class == "guest_died")
    arrange(lab, message, monkeypatch)
    assert lab.move().cure == "look at the end of /var/log/libvirt/qemu/a.log on kvm1 and on kvm2"


def test_whoever_is_not_reached_is_named(lab):
    lab.world.faults["kvm2", "open"] = fake.libvirtError("Cannot recv data: Host key verification failed.", 38, 104)
    assert lab.move().cure == "let root on this host know the SSH host key of kvm2"
    assert lab.info(uri="qemu+ssh://root@kvm2/system").role == "ssh_trust"


def test_a_daemon_of_this_host_that_ends_at_once_is_not_a_matter_of_the_network(lab):
    lab.world.faults["kvm1", "open"] = fake.libvirtError("Cannot recv data: Connection reset by peer", 38, 104)
    result = lab.move()
    assert (result.failure_class, result.role) == ("daemon_not_listening", "libvirt_host")
    assert result.cure.startswith("see why the libvirt daemon of this host does not start")


def test_whoever_does_not_answer_is_named(lab):
    lab.kvm2.answers.clear()
    result = lab.move(connect_timeout=1)
    assert (result.failure_class, result.role) == ("unreachable", "firewall")
    assert result.cure.startswith("let kvm2 be reached: check its address, its network and its firewall")


def test_a_warning_about_what_could_not_be_done_afterwards_has_its_cure(lab, monkeypatch):
    (message,) = (message for message in MESSAGES if message.at == "undefine")
    arrange(lab, message, monkeypatch)
    result = lab.move()
    assert "cure: undefine it on the host that it has left: virsh undefine a --keep-nvram" in result.warnings[0]
