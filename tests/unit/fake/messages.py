# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The messages of fixtures/messages.yml, and a fake libvirt that raises one of them where libvirt does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from fake import libvirt as fake
from fake.lab import IMAGE, UUID, disk_xml, domain_xml

_BASE = "/base/b.qcow2"
_BACKING = f"<backingStore type='file'><format type='qcow2'/><source file='{_BASE}'/></backingStore>"


@dataclass(frozen=True)
class Message:
    """One message, and what it must lead to."""

    id: int
    text: str
    code: int
    at: str
    outcome: str
    errno: int = 0
    failure_class: str | None = None
    role: str | None = None
    source: str = "running"
    dest: str = "absent"

    def error(self) -> fake.libvirtError:
        return fake.libvirtError(self.text, self.code, self.errno)


def load() -> list[Message]:
    rows = yaml.safe_load((Path(__file__).parents[1] / "fixtures" / "messages.yml").read_text(encoding="utf-8"))
    return [Message(failure_class=row.pop("class", None), **row) for row in rows]


def arrange(lab, message: Message, monkeypatch) -> dict:
    """A VM `a` on kvm1, and a libvirt that raises the message; gives the options that lead there."""
    lab.add()
    return _PLACES.get(message.at, _in_phase)(lab, message, monkeypatch)


def _at_open(host):
    def place(lab, message, monkeypatch):
        lab.world.faults[host, "open"] = message.error()
        return {}

    return place


def _in_phase(lab, message, monkeypatch):
    def script(phase, source, dest, guest):
        if phase == message.at:
            raise message.error()

    lab.world.script = script
    return {}


def _after_hand_over(lab, message, monkeypatch):
    def script(phase, source, dest, guest):
        if phase == "perform":
            lab.world.migration.hand_over()
            raise message.error()

    lab.world.script = script
    return {"postcopy": True}


def _at_storage(lab, message, monkeypatch):
    for host in (lab.kvm1, lab.kvm2):
        host.directories["/base"] = {}
        host.write(_BASE, fake.File())
        host.add_pool("base", "/base")
    lab.kvm1.guests[UUID].xml = domain_xml(disks=[disk_xml(path=IMAGE, extra=_BACKING)])
    original = fake.virStoragePool.createXML

    def create(pool, xml, flags):
        if _BASE in xml:
            raise message.error()
        return original(pool, xml, flags)

    monkeypatch.setattr(fake.virStoragePool, "createXML", create)
    return {"copy_storage": "inc"}


def _afterwards(host, call):
    """The guest has moved, and the source has not let its definition go."""

    def place(lab, message, monkeypatch):
        lab.world.faults[host, call] = message.error()

        def script(phase, source, dest, guest):
            if phase == "finish":
                guest.state, guest.reason = fake.VIR_DOMAIN_SHUTOFF, fake.VIR_DOMAIN_SHUTOFF_MIGRATED
                dest.guests[UUID].persistent = call != "defineXML"
                raise fake.libvirtError("internal error: client socket is closed")

        lab.world.script = script
        return {}

    return place


def _at_cancel(lab, message, monkeypatch):
    guest = lab.kvm1.guests[UUID]
    guest.job = {"type": fake.VIR_DOMAIN_JOB_UNBOUNDED, "operation": 5}
    lab.world.faults["kvm1", "abortJob"] = message.error()
    return {"cancel": True, "dest_uri": None}


_PLACES = {
    "open source": _at_open("kvm1"),
    "open dest": _at_open("kvm2"),
    "post-copy": _after_hand_over,
    "storage": _at_storage,
    "define": _afterwards("kvm2", "defineXML"),
    "undefine": _afterwards("kvm1", "undefine"),
    "cancel": _at_cancel,
}
