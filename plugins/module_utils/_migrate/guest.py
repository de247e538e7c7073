# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""What a guest has besides memory and disks: each thing is carried over, or refused with its cure."""

from __future__ import annotations

import posixpath
import threading
import time
from typing import Any, Dict, List, Mapping, Sequence, Set

from .._images.carry import tpm_files
from .._libvirt import AGENT_UNRESPONSIVE, CHECKPOINT, Host, LibvirtFailure, Moment
from .._pure import domain_xml, guest, storage
from .._pure import options as table
from .._pure import uri as uris
from .._pure.domain_xml import Definition, Disk
from .._pure.domblk import NVRAM, TPM, File
from .._pure.refusal import Refusal
from . import moments
from .disks import Disks, Layout, remove_images
from .ledger import Ledger
from .place import Place
from .probe import Storage
from .report import Report

# The first libvirt and the first QEMU that take the bitmaps of a copied disk along.
BITMAPS = ((7, 1, 0), (6, 0, 0))
# Seconds that an agent gets to be there again after the move, between two tries, and for its answer.
AGENT_LIMIT = 5.0
AGENT_STEP = 0.2
AGENT_PATIENCE = 10.0


class Guest:
    """One guest between two hosts, before it moves."""

    def __init__(self, options: Mapping[str, Any], report: Report, source: Storage, dest: Storage, place: Place):
        self._options = options
        self._report = report
        self._source = source
        self._dest = dest
        self._place = place
        self._name = place.name
        self._uuid = place.uuid
        # What the ledger of the run says of it.
        self.noted: Dict[str, Any] = {}
        # What has to be copied besides the images of its disks.
        self.files: List[File] = []

    def check(
        self,
        mode: str,
        text: str,
        definition: Definition,
        arriving: Definition,
        disks: Disks,
        layout: Layout,
        facts: Mapping[str, Any] | None,
        stays: str = "",
    ) -> None:
        """Find what would not survive the move; nothing is changed.

        `text` is its XML as it is now; `stays` is why files of a guest that is shut off cannot be copied, empty where
        they can.
        """
        offline = mode not in table.ACTIVE
        findings = self._report.findings
        if not offline:
            with findings.of("devices"):
                self._check_parts(text)
            with findings.of("block_jobs"):
                self._check_block_jobs(definition)
            self.noted["agent"] = guest.agent_connected(text)
        with findings.of("dest_definition"):
            self._check_stale()
        with findings.of("firmware"):
            if not offline:
                self._check_nvram(definition.nvram, arriving.nvram or definition.nvram, disks, facts)
            elif self._goes_along("its firmware variables", definition.nvram, disks, stays):
                self.noted["nvram"] = definition.nvram
                nvram = arriving.nvram or definition.nvram
                self.files.append(File(NVRAM, definition.nvram, nvram))
        if offline:
            with findings.of("tpm"):
                state = self._tpm_state(text)
                if self._goes_along("the state of its TPM", state, disks, stays):
                    self.files += tpm_files(state)
        self._check_media(arriving, offline)
        with findings.of("snapshots"):
            self._check_moments(disks, {plan.source for plan in layout.copied}, offline)

    def _check_parts(self, text: str) -> None:
        host = self._source.host
        if uris.parse(host.uri).driver != "qemu":
            return
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
        if not domain_xml.equal(domain_xml.renamed(here, name), there):
            fate = "is replaced" if self._options["persistent"] else "stays, and counts when the VM starts next"
            self._report.warn(f"{dest} has another definition of {name} than {self._source.host}: it {fate}")

    def _goes_along(self, what: str, path: str, disks: Disks, stays: str) -> bool:
        """Whether a file or directory has to be copied: an offline move takes nothing but the definition along."""
        if not path or self._source.has(*posixpath.split(path)) is False:
            return False
        evidence = disks.of_directory(domain_xml.directory(path))
        if evidence.verdict == storage.SHARED:
            return False
        if evidence.verdict == storage.UNKNOWN:
            if self._options["storage"] == "shared":
                return False
            raise Refusal(
                f"it is not known whether both hosts share {what} ({path}): {evidence.reason}",
                "sharedness_unknown",
                "say storage: shared if they do, or start the VM and move it live",
            )
        if stays:
            raise Refusal(
                f"an offline move must copy {what} ({path}), which is not shared ({evidence.reason}), and {stays}",
                "offline_local_disk",
                "run virt_migrate on the source, or start the VM and move it live",
            )
        return True

    def may_replace(self, file: File, disks: Disks, facts: Mapping[str, Any] | None) -> bool:
        """Refuse to replace a file at the destination that nothing accounts for."""
        # Nobody else has a directory of that name.
        if file.target != TPM and not (file.target == NVRAM and self._is_its_own(file.dest)):
            disks.check_replaceable([Disk(file.target, source=file.dest)], facts, self._options["force"])
        return True

    def _tpm_state(self, text: str) -> str:
        state = guest.tpm_state(text, posixpath.join(guest.TPM_STATE, self._uuid))
        if state and uris.parse(self._source.host.uri).path != "/system":
            raise Refusal(
                f"an offline move must copy the state of its TPM, and where {self._source.host} keeps it for a user is"
                " not known",
                "offline_local_disk",
                "start the VM and move it live",
            )
        return state

    def _check_nvram(self, here: str, there: str, disks: Disks, facts: Mapping[str, Any] | None) -> None:
        """QEMU brings the firmware's variables, and writes them into the file that is there or into a new one."""
        if not here:
            return
        if disks.of_directory(domain_xml.directory(here), domain_xml.directory(there)).verdict == storage.SHARED:
            return
        self.noted["nvram"] = here
        exists = self._dest.has(*posixpath.split(there))
        if exists is False:
            self.noted["new_nvram"] = there
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
            if disk.readonly and disk.type == "file" and disk.source:
                with self._report.findings.of("media"):
                    self._check_medium(disk, offline)

    def _check_medium(self, disk: Disk, offline: bool) -> None:
        if self._dest.has(*posixpath.split(disk.source)) is not False:
            return
        removable = disk.device in ("cdrom", "floppy")
        what = "the medium in drive" if removable else "the image of read-only disk"
        problem = f"{self._dest.host} has no {disk.source}, {what} {disk.target}"
        # For `requisite` a guest can arrive without it, and not start.
        if disk.startup == "optional" or (disk.startup == "requisite" and not offline):
            self._report.warn(f"{problem}: the drive will be empty there")
            return
        raise Refusal(
            problem,
            "image_missing",
            f"copy it there, or eject it: virsh change-media {self._name} {disk.target} --eject"
            if removable
            else "copy it there",
        )

    # Snapshots and checkpoints

    def _check_moments(self, disks: Disks, copied: Set[str], offline: bool) -> None:
        here = moments.of(self._source.host, self._uuid)
        there = moments.of(self._dest.host, self._uuid) if self._place.at_dest is not None else []
        keys, known = tuple(map(moments.key, here)), tuple(map(moments.key, there))
        self.noted.update(moments=keys, moments_at_dest_before=known)
        for kind in moments.KINDS:
            self._report.add(**{f"{kind}s": [moment.name for moment in here if moment.kind == kind]})
        others = [one for one in known if one not in keys]
        if others:
            self._report.warn(
                f"{self._dest.host} knows {moments.named(others)} of {self._name} already, and keeps them"
            )
        if here:
            self._check_options(keys)
        for moment in here:
            self._check_files(moment, disks, copied, offline)

    def _check_options(self, keys: Sequence[moments.Key]) -> None:
        for option in ("dest_name", "dest_xml", "persistent_xml"):
            if self._options[option]:
                raise self._stay(keys, f"{option} describes it otherwise than they do", f"leave {option} out")
        domain = self._place.at_source
        lasting = self._options["persistent"] and self._options["undefine_source"]
        if domain is None or not (domain.persistent and lasting):
            raise self._stay(
                keys,
                "they belong to one persistent definition",
                "leave persistent and undefine_source out, and let the VM be persistent",
            )

    def _check_files(self, moment: Moment, disks: Disks, copied: Set[str], offline: bool) -> None:
        for path in guest.moment_files(moment.xml):
            # An image that is copied as it is has everything in it; else QEMU can take the bitmaps along.
            if path in copied and (offline or (moment.kind == CHECKPOINT and self._carries_bitmaps())):
                continue
            evidence = disks.of_directory(domain_xml.directory(path))
            if evidence.verdict != storage.SHARED:
                raise self._stay(
                    self.noted["moments"],
                    f"{path}, which {moment.kind} {moment.name} needs, is not shared: {evidence.reason}",
                    "put it on storage that both hosts share",
                )

    def _carries_bitmaps(self) -> bool:
        return all(
            host.libvirt_version >= BITMAPS[0] and host.hypervisor_version >= BITMAPS[1]
            for host in (self._source.host, self._dest.host)
        )

    def _stay(self, keys: Sequence[moments.Key], reason: str, cure: str) -> Refusal:
        kinds = dict.fromkeys(kind for kind, _name in keys)
        forget = " and ".join(f"virsh {kind}-delete {self._name} NAME --metadata" for kind in kinds)
        return Refusal(
            f"VM {self._name} has {moments.named(keys)}, and {reason}",
            "snapshots",
            f"{cure}, or let libvirt forget them: {forget}",
        )


# After the move


def set_clock(ledger: Ledger, report: Report, dest: Host) -> None:
    """A guest's clock stands still while the guest does, and only its agent can set it."""
    if not ledger.agent:
        report.add(guest_time="no_agent")
        return
    try:
        _sync_time(ledger.uuid, dest.uri)
        report.add(guest_time="set")
    except LibvirtFailure as error:
        report.add(guest_time="failed")
        report.warn(f"the clock of {ledger.name} was not set after the move: {error}")


def _sync_time(uuid: str, uri: str) -> None:
    # On a connection of its own: an agent that does not answer must cost nothing but that.
    host = Host.open(uri, AGENT_PATIENCE, patience=AGENT_PATIENCE)
    deadline = time.monotonic() + AGENT_LIMIT
    try:
        while True:
            try:
                host.sync_time(uuid)
                return
            except LibvirtFailure as error:
                # Its channel is there a moment later than the guest.
                if error.code != AGENT_UNRESPONSIVE or time.monotonic() >= deadline:
                    raise
            threading.Event().wait(AGENT_STEP)
    finally:
        host.close()


def remove_nvram(ledger: Ledger, side: Storage) -> List[str]:
    """After a failure: libvirt leaves a file of firmware variables that it made, though the guest has not come."""
    path, dest = ledger.new_nvram, side.host
    if not path:
        return []
    try:
        there = dest.find_uuid(ledger.uuid)
        if there is not None and there.active:
            return []
        with side.opened(domain_xml.directory(path)):
            return remove_images(dest, ledger.uuid, [path])
    except LibvirtFailure as error:
        return [f"{path} on {dest} could not be removed: {error}"]
