# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Records of runs of all kinds, which the collection's own code leaves on the fake hosts."""

from __future__ import annotations

import time
from types import SimpleNamespace
from xml.sax.saxutils import escape

from ansible_collections.kvmops.migration.plugins.module_utils._migrate import job, report, worker
from fake import libvirt as fake
from fake.lab import disk_xml, domain_xml
from fake.precopy import MIB, PreCopy

# What a name may be made of, as far as libvirt is concerned.
HOSTILE = "b<&>\"'é<b>x"
OUTAGE = {"address": "192.0.2.50", "from": "labstor1", "interval_ms": 20, "longest_ms": 131, "replies": 900}
KINDS = ("policy", "disks", "failed", "refused", "offline")


class Recorder:
    """Moves VMs of the fake lab, each with a clock of its own that all parts of a run agree on."""

    def __init__(self, lab, monkeypatch):
        self._lab = lab
        self._monkeypatch = monkeypatch
        self._uuids = (f"5ba1ab1e-0000-4000-8000-{number:012}" for number in range(100, 200))

    def make(self, kind):
        """The answer of a run of that kind."""
        return vars(getattr(self, f"_{kind}")())

    def records(self):
        """What the hosts have kept, as the controller asks for it."""
        return self._lab.info(records=True).records

    def _policy(self):
        return self._live(
            "web1", shared=True, model=PreCopy(dirty=200 * MIB), policy="must_complete", max_downtime=1000
        )

    def _disks(self):
        return self._live(HOSTILE, shared=False, model=PreCopy(dirty=10 * MIB, disk=2000 * MIB))

    def _failed(self):
        model = PreCopy(working_set=1000 * MIB, dirty=100000 * MIB)
        return self._live("busy", shared=True, model=model, policy="never_pause")

    def _refused(self):
        self._add("lost", disks=[disk_xml(path="/vm/lost.qcow2"), disk_xml("vdb", "/nowhere/lost.qcow2")])
        return self._lab.move(name="lost", tls="true")

    def _offline(self):
        self._add("asleep", state=fake.VIR_DOMAIN_SHUTOFF)
        return self._lab.move(name="asleep")

    def _add(self, name, disks=None, **more):
        image = f"/vm/{'hostile' if name == HOSTILE else name}.qcow2"
        uuid = next(self._uuids)
        xml = domain_xml(escape(name), uuid, disks or [disk_xml(path=image)]).replace("256", "1024")
        self._lab.add(name=name, uuid=uuid, image=image, xml=xml, **more)

    def _live(self, name, shared, model, **options):
        if shared:
            self._lab.kvm2.share("/vm", self._lab.kvm1)
        self._add(name)
        self._lab.world.model = model
        self._lab.world.hold_job()
        began = time.monotonic()
        clock = SimpleNamespace(
            time=time.time, sleep=time.sleep, monotonic=lambda: time.monotonic() - began + model.now()
        )
        with self._monkeypatch.context() as patched:
            patched.setattr(job, "now", model.now)
            patched.setattr(job, "FIRST_STEP", 0.001)
            patched.setattr(job, "LAST_STEP", 0.001)
            patched.setattr(worker, "time", clock)
            patched.setattr(report, "time", clock)
            return self._lab.move(name=name, **options)
