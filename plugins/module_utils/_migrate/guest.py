# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""What a guest has besides memory and disks: each thing is carried over, or refused with its cure."""

from __future__ import annotations

import errno
import posixpath
import threading
import time
from typing import Any, Dict, List, Mapping, Sequence

from .._libvirt import AGENT_UNRESPONSIVE, Host, LibvirtFailure
from .._pure import domain_xml, guest, outcome, storage
from .._pure import options as table
from .._pure.domain_xml import Definition, Disk
from .._pure.refusal import Refusal
from .disks import Disks, Layout, remove_images
from .moments import Moments
from .place import Place
from .probe import Storage
from .report import Report
from .settle import End

# Where libvirt keeps the state of emulated TPMs, each in a directory named by the guest's UUID.
TPM_STATE = "/var/lib/libvirt/swtpm"
# Stands where a disk has its target.
NVRAM = "nvram"
# Seconds that an agent gets to be there again after the move, between two tries, and for its answer.
AGENT_LIMIT = 5.0
AGENT_STEP = 0.2
AGENT_PATIENCE = 10.0


class Guest:
    """One guest between two hosts: before, around and after the job."""

    def __init__(self, options: Mapping[str, Any], report: Report, source: Storage, dest: Storage, place: Place):
        self._options = options
        self._report = report
        self._source = source
        self._dest = dest
        self._place = place
        self._name = place.name
        self._uuid = place.uuid
        self._moments = Moments(options, report, source, dest, place)
        # Whether it has an agent that answers; None until somebody has looked.
        self._agent: bool | None = None
        # The file of the firmware's variables that stays on the source, and the one that the destination had not.
        self._nvram = ""
        self._new_nvram = ""

    @property
    def defined(self) -> bool:
        """Whether the destination knows the guest by what was done before the job."""
        return self._moments.defined

    @property
    def parked(self) -> bool:
        """Whether only the destination knows its snapshots."""
        return self._moments.parked

    # Before the move

    def check(
        self,
        mode: str,
        definition: Definition,
        arriving: Definition,
        disks: Disks,
        layout: Layout,
        facts: Mapping[str, Any] | None,
    ) -> None:
        """Refuse what would not survive the move; nothing is changed."""
        text = self._source.host.xml(self._uuid)
        offline = mode not in table.ACTIVE
        if not offline:
            self._check_parts(text)
            self._check_block_jobs(definition)
            self._agent = guest.agent_connected(text)
        self._check_stale()
        if offline:
            self._check_stays("firmware variables", definition.nvram, disks)
            self._check_stays("state of its TPM", guest.tpm_state(text, posixpath.join(TPM_STATE, self._uuid)), disks)
        elif definition.nvram:
            self._check_nvram(definition.nvram, arriving.nvram or definition.nvram, disks, facts)
        self._check_media(arriving, offline)
        self._moments.check(disks, layout)

    def _check_parts(self, text: str) -> None:
        host = self._source.host
        found = list(guest.parts(text, host.libvirt_version, host.hypervisor_version))
        for part in found:
            if part.warning:
                self._report.warn(f"{self._name} has {part.what}: {part.warning}")
        stuck = [part for part in found if not part.warning]
        if not stuck:
            return
        has = f"{self._name} has {' and '.join(part.what for part in stuck)}"
        if self._options["unsafe"]:
            self._report.warn(f"{has}: unsafe leaves it to libvirt and QEMU whether that can move")
            return
        raise Refusal(
            f"VM {has}, which a running guest cannot take along",
            stuck[0].failure_class,
            "; ".join(dict.fromkeys(part.cure for part in stuck)),
        )

    def _check_block_jobs(self, definition: Definition) -> None:
        for disk in definition.disks:
            if storage.writable(disk) and self._source.host.block_job(self._uuid, disk.target):
                raise Refusal(
                    f"a block job is going on with disk {disk.target} of VM {self._name} on {self._source.host}",
                    "busy",
                    f"wait for its end, or end it: virsh blockjob {self._name} {disk.target} --abort",
                )

    def _check_stale(self) -> None:
        """The destination may have a definition of this very VM from earlier."""
        if self._place.at_dest is None:
            return
        dest, name = self._dest.host, self._place.at_dest.name
        if dest.has_managed_save(self._uuid):
            raise Refusal(
                f"{dest} has a saved state of VM {name}, and its next start there would go back to it",
                "managed_save",
                f"give that state up on {dest}: virsh managedsave-remove {name}",
            )
        here, there = (host.xml(self._uuid, inactive=True) for host in (self._source.host, dest))
        if not guest.same(domain_xml.renamed(here, name), there):
            fate = "is replaced" if self._options["persistent"] else "stays, and counts when the VM starts next"
            self._report.warn(f"{dest} has another definition of {name} than {self._source.host}: it {fate}")

    def _check_stays(self, what: str, path: str, disks: Disks) -> None:
        """An offline move takes the definition along, and libvirt begins all else anew at the destination."""
        if not path or self._exists(self._source, path) is False:
            return
        evidence = disks.of_directory(domain_xml.directory(path))
        said = evidence.verdict == storage.UNKNOWN and self._options["storage"] == "shared"
        if evidence.verdict != storage.SHARED and not said:
            raise Refusal(
                f"an offline move takes no {what} along, and {path} is not shared: {evidence.reason}",
                "offline_local_disk",
                "start the VM and move it live",
            )

    def _check_nvram(self, here: str, there: str, disks: Disks, facts: Mapping[str, Any] | None) -> None:
        """QEMU brings the firmware's variables, and writes them into the file that is there or into a new one."""
        if disks.of_directory(domain_xml.directory(here), domain_xml.directory(there)).verdict == storage.SHARED:
            return
        self._nvram = here
        exists = self._exists(self._dest, there)
        if exists is False:
            self._new_nvram = there
        elif exists and not self._is_its_own(there):
            disks.check_replaceable([Disk(NVRAM, source=there)], facts, self._options["force"])

    def _is_its_own(self, nvram: str) -> bool:
        """Whether that is the file of a definition of this very VM at the destination."""
        if self._place.at_dest is None:
            return False
        return domain_xml.parse(self._dest.host.xml(self._uuid, inactive=True)).nvram == nvram

    def _check_media(self, arriving: Definition, offline: bool) -> None:
        """What lies in a read-only drive must be there already: nobody copies it."""
        for disk in arriving.disks:
            if not (disk.readonly and disk.type == "file" and disk.source):
                continue
            if self._exists(self._dest, disk.source) is not False:
                continue
            problem = f"{self._dest.host} has no {disk.source}, the medium in drive {disk.target}"
            # For `requisite` a guest can arrive without it, and not start.
            if disk.startup == "optional" or (disk.startup == "requisite" and not offline):
                self._report.warn(f"{problem}: the drive will be empty there")
                continue
            raise Refusal(
                problem,
                "image_missing",
                f"copy it there, or eject it: virsh change-media {self._name} {disk.target} --eject",
            )

    @staticmethod
    def _exists(side: Storage, path: str) -> bool | None:
        """Whether a host has that file, None where it does not tell."""
        try:
            with side.opened(domain_xml.directory(path)) as pool:
                side.refresh(pool)
                return side.host.volume(path) is not None
        except LibvirtFailure as error:
            return False if error.errno in (errno.ENOENT, errno.ENOTDIR) else None

    # Around the job

    def prepare(self) -> None:
        """What must be done before libvirt can move it; all of it is undone when that fails."""
        self._moments.park()

    def left_behind(self) -> List[Dict[str, Any]]:
        """What stays on the source when it has moved, in the words of the images."""
        host = self._source.host.hostname
        return [{"host": host, "target": NVRAM, "path": self._nvram}] if self._nvram else []

    def undo(self, images: Sequence[str]) -> None:
        """The move has failed and the guest is where it was: the destination keeps nothing that was made for it."""
        self._moments.give_back()
        if self.defined:
            # As long as the destination knew the guest, they were the guest's.
            self._report.warn(*remove_images(self._dest.host, self._uuid, images))
        if self._new_nvram:
            self._remove_nvram()

    def _remove_nvram(self) -> None:
        path, dest = self._new_nvram, self._dest.host
        try:
            there = dest.find_uuid(self._uuid)
            if (there is None or not there.active) and self._exists(self._dest, path):
                with self._dest.opened(domain_xml.directory(path)):
                    dest.delete_volume(path)
        except LibvirtFailure as error:
            self._report.warn(f"{path} on {dest} could not be removed: {error}")

    # After the move

    def finish(self, end: End, active: bool) -> None:
        """It has moved, and the rest of it follows; `active` unless it was shut off."""
        self._carry_autostart()
        self._moments.confirm()
        if active and self._options["sync_time"] and end.dest_state == outcome.RUNNING:
            self._set_clock()

    def _carry_autostart(self) -> None:
        domain, before = self._place.at_source, self._place.at_dest
        if domain is None:
            return
        try:
            if self._options["persistent"] and domain.autostart != (before is not None and before.autostart):
                self._dest.host.set_autostart(self._uuid, domain.autostart)
            if domain.autostart and not self._options["undefine_source"]:
                # Both hosts know the VM: only one of them may start it by itself.
                self._source.host.set_autostart(self._uuid, False)
        except LibvirtFailure as error:
            self._report.warn(f"the autostart flag could not be carried over: {error}")

    def _set_clock(self) -> None:
        """A guest's clock stands still while it does, and only its agent can set it."""
        try:
            if self._agent is None:
                self._agent = guest.agent_connected(self._dest.host.xml(self._uuid))
            if self._agent:
                self._sync_time()
            self._report.add(guest_time="set" if self._agent else "no_agent")
        except LibvirtFailure as error:
            self._report.add(guest_time="failed")
            self._report.warn(f"the clock of {self._name} was not set after the move: {error}")

    def _sync_time(self) -> None:
        # On a connection of its own: an agent that does not answer must cost nothing but that.
        host = Host.open(self._dest.host.uri, self._options["connect_timeout"], patience=AGENT_PATIENCE)
        deadline = time.monotonic() + AGENT_LIMIT
        try:
            while True:
                try:
                    host.sync_time(self._uuid)
                    return
                except LibvirtFailure as error:
                    # Its channel is a moment later there than the guest.
                    if error.code != AGENT_UNRESPONSIVE or time.monotonic() >= deadline:
                        raise
                threading.Event().wait(AGENT_STEP)
        finally:
            host.close()
