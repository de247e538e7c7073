# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Block copies of the fake libvirt, which makes real files: of a running guest, from the beginning to the pivot."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

VIR_DOMAIN_BLOCK_COPY_SHALLOW = 1
VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB = 4
VIR_DOMAIN_BLOCK_COPY_SYNCHRONOUS_WRITES = 8
VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT = 2
VIR_DOMAIN_BLOCK_COPY_BANDWIDTH = "bandwidth"

INVALID = 55


def disk_of(root: ET.Element, target: str) -> ET.Element | None:
    return next((node for node in root.findall("devices/disk") if node.find("target").get("dev") == target), None)


class BlockCopies:
    """What a domain has of them; `self._guest.around.copies` are those that go on, by target."""

    def blockCopy(self, disk, destxml, params=None, flags=0):
        self.called("blockCopy")
        copies = self._guest.around.copies
        if not self._guest.active:
            self.fail("Requested operation is not valid: domain is not running", INVALID)
        if self._guest.persistent and not flags & VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB:
            self.fail("Requested operation is not valid: domain is not transient", INVALID)
        if disk in copies:
            self.fail(f"block copy still active: disk '{disk}' already in active block job", 83)
        wanted = ET.fromstring(destxml)
        path = wanted.find("source").get("file")
        if Path(path).exists() and Path(path).stat().st_size:
            self.fail(f"invalid argument: external destination file for disk {disk} already exists", 8)
        node = disk_of(ET.fromstring(self._guest.xml), disk)
        shutil.copyfile(node.find("source").get("file"), path)
        copies[disk] = {"path": path, "format": wanted.find("driver").get("type"), "looks": 0}
        self._guest.around.copy_flags.append(flags)

    def blockJobInfo(self, disk, flags=0):
        self.called("blockJobInfo")
        if disk in self._guest.around.copies:
            return {"type": 2, "bandwidth": 0, "cur": 64 << 20, "end": 64 << 20}
        return {"type": 2, "bandwidth": 0, "cur": 1, "end": 2} if disk in self._guest.around.block_jobs else {}

    def blockJobAbort(self, disk, flags=0):
        self.called("blockJobAbort")
        around = self._guest.around
        if disk not in around.copies:
            self.fail(f"invalid argument: disk {disk} does not have an active block job", 8)
        if around.pivot_errors and flags & VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT:
            raise around.pivot_errors.pop(0)
        copy = around.copies.pop(disk)
        if not flags & VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT:
            return
        # libvirt writes the definition anew where it names the image that was left.
        old = disk_of(ET.fromstring(self._guest.xml), disk).find("source").get("file")
        for attribute in ("xml", "inactive_xml"):
            text = getattr(self._guest, attribute)
            if not text:
                continue
            root = ET.fromstring(text)
            node = disk_of(root, disk)
            if attribute == "inactive_xml" and node.find("source").get("file") != old:
                continue
            node.find("source").set("file", copy["path"])
            node.find("driver").set("type", copy["format"])
            setattr(self._guest, attribute, ET.tostring(root, encoding="unicode"))

    def with_mirrors(self, xml):
        """The XML of the running domain with the copies that go on; each is ready after some looks."""
        copies = self._guest.around.copies
        if not copies:
            return xml
        root = ET.fromstring(xml)
        for target, copy in copies.items():
            copy["looks"] += 1
            mirror = ET.SubElement(disk_of(root, target), "mirror", type="file", file=copy["path"], job="copy")
            ET.SubElement(mirror, "source", file=copy["path"])
            if copy["looks"] > 2 and not self._guest.around.never_ready:
                mirror.set("ready", "yes")
        return ET.tostring(root, encoding="unicode")
