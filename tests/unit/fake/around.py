# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What libvirt's bindings have around a guest: snapshots, checkpoints, block jobs, the agent's clock."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass, field

VIR_ERR_CHECKPOINT_INCONSISTENT = 109
VIR_ERR_AGENT_UNRESPONSIVE = 86

VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA = 2
VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA = 16
VIR_DOMAIN_UNDEFINE_KEEP_TPM = 64

VIR_DOMAIN_TIME_SYNC = 1

VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL = 1024
VIR_DOMAIN_SNAPSHOT_XML_SECURE = 1
VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE = 1
VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT = 2
VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY = 2

VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL = 2
VIR_DOMAIN_CHECKPOINT_XML_SECURE = 1
VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE = 1
VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE_VALIDATE = 4
VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY = 2


@dataclass
class Around:
    """What a domain has of it on one host; moments are XML by name, parents first."""

    snapshots: dict[str, str] = field(default_factory=dict)
    current: str = ""
    checkpoints: dict[str, str] = field(default_factory=dict)
    # Bitmaps that its images do not have.
    lost_bitmaps: set[str] = field(default_factory=set)
    # Targets of disks with a job.
    block_jobs: set[str] = field(default_factory=set)
    # Errors of the next calls of the agent, and how often it has set the clock.
    agent_errors: list[Exception] = field(default_factory=list)
    clock_set: int = 0
    # Block copies that go on, by target, the flags of all that were begun, and errors of the next pivots.
    copies: dict[str, dict] = field(default_factory=dict)
    copy_flags: list[int] = field(default_factory=list)
    pivot_errors: list[Exception] = field(default_factory=list)
    never_ready: bool = False


class _Moment:
    def __init__(self, domain, kept: dict[str, str], name: str):
        self._domain, self._kept, self._name = domain, kept, name

    def getName(self):
        return self._name

    def getXMLDesc(self, flags=0):
        assert flags == 1, "without its secrets a moment is not the same afterwards"
        return self._kept[self._name]

    def isCurrent(self, flags=0):
        return int(self._domain.around.current == self._name)

    def delete(self, flags=0):
        self._domain.called("delete moment")
        assert flags == 2, "the images must keep it"
        del self._kept[self._name]
        if self.isCurrent():
            self._domain.around.current = ""


class AroundDomain:
    """Mixed into the fake's virDomain, which gives `around`, `called` and `fail`."""

    def _moments(self, what, kept):
        self.called(f"listAll{what}")
        return [_Moment(self, kept, name) for name in kept]

    def _redefine(self, what, kept, xml):
        self.called(f"create {what}")
        root = ET.fromstring(xml)
        if root.findtext("domain/uuid", self.uuid) != self.uuid:
            self.fail(f"definition for {what} must use uuid {self.uuid}", 8)
        kept[root.findtext("name")] = xml
        return root.findtext("name")

    def listAllSnapshots(self, flags=0):
        return self._moments("Snapshots", self.around.snapshots)

    def listAllCheckpoints(self, flags=0):
        return self._moments("Checkpoints", self.around.checkpoints)

    def snapshotLookupByName(self, name, flags=0):
        return _Moment(self, self.around.snapshots, name)

    def checkpointLookupByName(self, name, flags=0):
        return _Moment(self, self.around.checkpoints, name)

    def snapshotCreateXML(self, xml, flags=0):
        assert flags & VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE, "a new snapshot was not wanted"
        name = self._redefine("snapshot", self.around.snapshots, xml)
        if flags & VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT:
            self.around.current = name

    def checkpointCreateXML(self, xml, flags=0):
        assert flags & VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE, "a new checkpoint was not wanted"
        name = ET.fromstring(xml).findtext("name")
        if flags & VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE_VALIDATE and name in self.around.lost_bitmaps:
            message = f"checkpoint inconsistent: missing or broken bitmap '{name}' for disk 'vda'"
            self.fail(message, VIR_ERR_CHECKPOINT_INCONSISTENT)
        self._redefine("checkpoint", self.around.checkpoints, xml)

    def setTime(self, time=None, flags=0):
        self.called("setTime")
        if "seconds" not in time:
            raise LookupError("Dictionary must contains 'seconds'")
        assert flags == VIR_DOMAIN_TIME_SYNC
        if self.around.agent_errors:
            raise self.around.agent_errors.pop(0)
        self.around.clock_set += 1

    def check_undefine(self, flags):
        """What libvirt does not throw away with a definition unless it is told so."""
        if self.around.snapshots and not flags & VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA:
            self.fail(
                "Requested operation is not valid: cannot delete inactive domain with"
                f" {len(self.around.snapshots)} snapshots",
                55,
            )
        if self.around.checkpoints and not flags & VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA:
            self.fail(
                "Requested operation is not valid: cannot delete inactive domain with"
                f" {len(self.around.checkpoints)} checkpoints",
                55,
            )
        assert flags & VIR_DOMAIN_UNDEFINE_KEEP_TPM, "the other host may have it on the same storage"
