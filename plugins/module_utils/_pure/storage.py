# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""What happens to each disk, decided from evidence: copied, used where it is, or refused.

A disk that both hosts share is never copied (the copy would overwrite the disk that it reads), and the list of disks
that libvirt gets is always explicit: an empty list means all of them.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Callable, ContextManager, Dict, List, Mapping, Sequence, Tuple

from . import names
from .domain_xml import Definition, Disk
from .refusal import Refusal

SHARED = "shared"
NOT_SHARED = "not_shared"
UNKNOWN = "unknown"

COPY = "copy"
USE = "shared"
SKIP = "skip"


@dataclass(frozen=True)
class Evidence:
    """Whether both hosts see one and the same disk, and how that is known."""

    verdict: str
    reason: str
    # What helps, where that is known.
    cure: str = ""


@dataclass(frozen=True)
class DiskPlan:
    """One disk and what happens to it, with the reason."""

    target: str
    action: str
    reason: str
    source: str = ""
    format: str = "raw"
    evidence: str = UNKNOWN
    # Its path at the destination.
    dest: str = ""

    def result(self) -> Dict[str, Any]:
        return {
            "target": self.target,
            "source": self.source,
            "dest": self.dest,
            "format": self.format,
            "action": self.action,
            "evidence": self.evidence,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Wish:
    """What the options say about storage."""

    storage: str = "auto"
    copy_storage: str | None = None
    migrate_disks: Tuple[str, ...] = ()
    unsafe: bool = False
    # Why the disks of a guest that is shut off cannot be copied, empty where they can.
    stays: str = ""
    # Of virt_domblk_copy: the disks that it shall copy, where some were named, and whether that is it.
    disks: Tuple[str, ...] = ()
    copies: bool = False


# Whose servers have one storage, so that every host may ask its own.
CLUSTERS = ("rbd", "gluster", "sheepdog", "vxhs")


def by_kind(disk: Disk) -> Evidence | None:
    """What the kind of a disk alone proves; None for files and devices, for which the hosts must be looked at."""
    if not disk.source:
        return Evidence(SHARED, "the drive is empty")
    own = disk.protocol not in CLUSTERS and disk.servers and all(map(names.is_own, disk.servers))
    if disk.type == "network" and own:
        return Evidence(UNKNOWN, f"its server is {disk.servers[0]}, which is another one on each host")
    if disk.type == "network":
        return Evidence(SHARED, "a network disk is the same from every host")
    if disk.type not in ("file", "block"):
        return Evidence(UNKNOWN, f"for a disk of type {disk.type} there is no proof that both hosts see the same one")
    return None


def same_device(here: Mapping[str, Any] | None, there: Mapping[str, Any] | None, source: str, dest: str) -> Evidence:
    """Whether two block devices are one, by what each host says of its own; `source` and `dest` name them."""
    if not here or not there:
        lacks = dest if here else source
        return Evidence(UNKNOWN, f"nothing is known of {lacks}")
    if here["id"] and there["id"]:
        if here["id"] != there["id"]:
            return Evidence(NOT_SHARED, f"{source} is {here['id']}, and {dest} is {there['id']}")
        if here["size"] != there["size"]:
            return Evidence(
                UNKNOWN, f"both are {here['id']}, and {source} has {here['size']} bytes, {dest} {there['size']}"
            )
        return Evidence(SHARED, f"{source} and {dest} are {here['id']}")
    if here["size"] != there["size"]:
        return Evidence(NOT_SHARED, f"{source} has {here['size']} bytes, and {dest} {there['size']}")
    lacks = dest if here["id"] else source
    return Evidence(UNKNOWN, f"{lacks} has no name that is its own in all the world (WWN, or a volume on such devices)")


def writable(disk: Disk) -> bool:
    return not disk.readonly and bool(disk.source)


def plan(
    definition: Definition,
    evidence: Mapping[str, Evidence],
    wish: Wish,
    offline: bool = False,
    attempt: Callable[[], ContextManager[None]] = nullcontext,
) -> Tuple[DiskPlan, ...]:
    """What happens to every disk of the guest for which there is evidence.

    Raises Refusal at the first that must not move like this, unless `attempt` is a context that keeps the refusal: then
    that disk is left out.
    """
    # What virt_domblk_copy can be told to copy.
    files = tuple(disk.target for disk in definition.disks if writable(disk) and disk.type == "file")
    plans: List[DiskPlan] = []
    for disk in definition.disks:
        if disk.target in evidence:
            with attempt():
                plans.append(_plan_disk(disk, evidence[disk.target], wish, offline, files))
    if len(plans) == len(definition.disks):
        with attempt():
            _check_any_copied(definition, plans, wish)
    return tuple(plans)


def _check_any_copied(definition: Definition, plans: Sequence[DiskPlan], wish: Wish) -> None:
    if wish.copy_storage in ("all", "inc") and any(map(writable, definition.disks)) and not copied(plans):
        raise Refusal(
            f"copy_storage: {wish.copy_storage} asks to copy the disks of {definition.name}, and all of them are"
            " proven shared",
            "copy_of_shared",
            "leave copy_storage out: a shared disk needs no copy",
        )


def copied(plans: Sequence[DiskPlan]) -> Tuple[str, ...]:
    """The explicit list of disks for libvirt."""
    return tuple(disk.target for disk in plans if disk.action == COPY)


def summary(plans: Sequence[DiskPlan]) -> str:
    """One word for all disks: copy, shared, mixed or none."""
    actions = {disk.action for disk in plans} - {SKIP}
    return "none" if not actions else "mixed" if len(actions) > 1 else actions.pop()


def check_listed(definition: Definition, listed: Sequence[str]) -> None:
    """Refuse a list of disks in which one is no disk that could be copied; what else it says means nothing then."""
    for target in listed:
        disk = definition.disk(target)
        if disk is None:
            has = ", ".join(disk.target for disk in definition.disks) or "none"
            raise Refusal(
                f"migrate_disks: {definition.name} has no disk {target!r}", "disk_target", f"its disks: {has}"
            )
        if not writable(disk):
            raise Refusal(
                f"migrate_disks: disk {target} of {definition.name} is {'read-only' if disk.source else 'empty'}",
                "disk_target",
                "name only writable disks",
            )


def _plan_disk(disk: Disk, evidence: Evidence, wish: Wish, offline: bool, others: Sequence[str]) -> DiskPlan:
    if not writable(disk):
        return _planned(disk, SKIP, "read-only" if disk.source else "empty", evidence)
    if evidence.verdict == SHARED:
        _refuse_copy_of_shared(disk, evidence, wish)
        return _planned(disk, USE, evidence.reason, evidence)
    if evidence.verdict == UNKNOWN:
        return _plan_unknown(disk, evidence, wish, others)
    return _plan_local(disk, evidence, wish, offline)


def _planned(disk: Disk, action: str, reason: str, evidence: Evidence) -> DiskPlan:
    return DiskPlan(disk.target, action, reason, disk.source, disk.format, evidence.verdict, disk.source)


def _refuse_copy_of_shared(disk: Disk, evidence: Evidence, wish: Wish) -> None:
    said = ""
    if disk.target in wish.migrate_disks:
        said = f"migrate_disks names {disk.target}"
    elif wish.storage == "copy":
        said = f"storage: copy asks to copy disk {disk.target}"
    if said:
        raise Refusal(
            f"{said}, and {disk.source} is proven shared ({evidence.reason}): the copy would overwrite its own source",
            "copy_of_shared",
            "use storage: auto or storage: shared",
        )


def _plan_unknown(disk: Disk, evidence: Evidence, wish: Wish, others: Sequence[str]) -> DiskPlan:
    is_file = disk.type == "file"
    if not is_file and wish.disks and disk.target not in wish.disks:
        return _planned(disk, USE, f"disks leaves it out, so it is said to be shared; {evidence.reason}", evidence)
    if wish.storage == "shared" or (wish.unsafe and wish.copy_storage == "none"):
        return _planned(disk, USE, f"said to be shared; {evidence.reason}", evidence)
    # A copy onto what may be the very same disk would destroy it, so `copy` does not do without evidence.
    raise Refusal(
        f"it is not known whether both hosts share disk {disk.target} ({disk.source}): {evidence.reason}"
        + ("" if is_file else ", and it is no file that could be copied"),
        "sharedness_unknown",
        evidence.cure or ("say storage: shared if they do" if is_file else _cure_unknown(disk, wish, others)),
    )


def _cure_unknown(disk: Disk, wish: Wish, others: Sequence[str]) -> str:
    """What helps a disk that is no file, which nobody copies to another host."""
    if not wish.copies:
        shared = "say storage: shared if they do"
    elif others:
        shared = f"say disks: [{', '.join(others)}] if they do, which leaves it out"
    else:
        shared = "move the VM with virt_migrate and storage: shared if they do"
    return f"{shared}; if not, {_make_a_file(disk)}"


def _make_a_file(disk: Disk) -> str:
    return (
        "make a file of it first: virt_domblk_copy on this host, without dest_host, with"
        f" disks: [{disk.target}] and dest_dir: /DIRECTORY"
    )


def _plan_local(disk: Disk, evidence: Evidence, wish: Wish, offline: bool) -> DiskPlan:
    what = f"disk {disk.target} ({disk.source}) is not shared by the two hosts: {evidence.reason}"
    if wish.copy_storage == "none" and wish.unsafe and not offline:
        return _planned(disk, USE, f"unsafe was asked for; {evidence.reason}", evidence)
    if wish.storage == "shared" or wish.copy_storage == "none":
        said = "storage: shared" if wish.storage == "shared" else "copy_storage: none"
        raise Refusal(
            f"{said} was said, but {what}", "not_shared", "use storage: copy, or put the disk on shared storage"
        )
    if disk.type != "file":
        raise Refusal(f"{what}, and it is no file that could be copied", "not_shared", _make_a_file(disk))
    if offline and wish.stays:
        raise Refusal(
            f"{what}, and {wish.stays}",
            "offline_local_disk",
            "run virt_migrate on the source, or start the VM and move it live, or put the disk on storage that both"
            " hosts share",
        )
    if disk.shareable:
        raise Refusal(f"a shareable disk cannot be copied, and {what}", "not_shared", "put it on shared storage")
    if wish.migrate_disks and disk.target not in wish.migrate_disks:
        raise Refusal(
            f"migrate_disks leaves out {disk.target}, and {what}", "not_shared", f"add {disk.target} to migrate_disks"
        )
    if wish.copy_storage == "inc" and not disk.backing and not offline:
        raise Refusal(
            "copy_storage: inc copies what lies on top of a base image, and disk"
            f" {disk.target} ({disk.source}) has none",
            "no_base_image",
            "say copy_storage: all",
        )
    return _planned(disk, COPY, evidence.reason, evidence)
