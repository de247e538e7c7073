# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""Where the images of a guest shall be, and which files have to be copied for that."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field, replace
from typing import Any, List, Mapping, Sequence, Tuple

from .domain_xml import Definition, Disk, Place
from .images import Image
from .refusal import Refusal

KEEP, FLATTEN = "keep", "flatten"
BACKING = (KEEP, FLATTEN)
FORMATS = ("raw", "qcow2")
# Stand where a file is no disk's.
NVRAM, TPM = "nvram", "tpm"
# A new image belongs to root; libvirt gives it to QEMU while the guest runs (`dynamic_ownership` in qemu.conf).
IMAGE_MODE = 0o600


@dataclass(frozen=True)
class Wish:
    """What the options say about a copy. `bandwidth` is in bytes per second, 0 for no limit."""

    disks: Tuple[str, ...] = ()
    dest_dir: str = ""
    path_map: Mapping[str, str] = field(default_factory=dict)
    format: str = ""
    backing: str = KEEP
    verify: bool = True
    encrypt: bool = True
    bandwidth: int = 0
    remove_source: bool = False
    force: bool = False
    # Whether a guest that is active is refused.
    only_stopped: bool = False

    @property
    def relocates(self) -> bool:
        return bool(self.dest_dir or self.path_map or self.format or self.backing == FLATTEN)


@dataclass(frozen=True)
class Folder:
    """A directory with the names of its owner and group."""

    path: str
    mode: int
    owner: str
    group: str


@dataclass(frozen=True)
class File:
    """One file to be copied.

    `convert` is the format that it gets, empty where it stays what it is. `backing` is where what lies below it will
    be, empty where its own word for that stays right. `is_base` is one that other images may lie on as well.
    """

    target: str
    source: str
    dest: str
    format: str = "raw"
    convert: str = ""
    backing: str = ""
    backing_format: str = ""
    is_base: bool = False
    # Bytes that an image which is made anew may need, 0 where the file itself says that.
    needs: int = 0
    mode: int = IMAGE_MODE
    owner: str = ""
    group: str = ""
    # Directories that are made for it where they are missing, the outermost first.
    folders: Tuple[Folder, ...] = ()


def told(wish: Wish) -> List[Any]:
    """What decides where the images are in the end, and which ones, in plain data."""
    return [sorted(wish.disks), wish.dest_dir, dict(wish.path_map), wish.format, wish.backing, wish.remove_source]


def check(wish: Wish, definition: Definition) -> None:
    """Refuse what the options say about disks that the guest does not have, and about paths that are none."""
    for target in wish.disks:
        if definition.disk(target) is None:
            has = ", ".join(disk.target for disk in definition.disks) or "none"
            raise Refusal(f"disks: {definition.name} has no disk {target!r}", "disk_target", f"its disks: {has}")
    if wish.dest_dir and not wish.dest_dir.startswith("/"):
        raise Refusal(
            f"dest_dir: {wish.dest_dir!r} is no absolute path", "bad_option", "give a path that begins with /"
        )
    for here, there in wish.path_map.items():
        if not (here.startswith("/") and there.startswith("/")):
            raise Refusal(
                f"path_map: {here!r}: {there!r} are not two absolute paths",
                "bad_option",
                "give paths of files or directories that begin with /",
            )


def fits(path: str, key: str) -> bool:
    """Whether a key of the map names that file or a directory above it."""
    return path == key or path.startswith(key.rstrip("/") + "/")


def is_device(path: str) -> bool:
    """Whether a path is one of a device, as far as it tells that itself."""
    return path.startswith("/dev/") and not path.startswith(("/dev/shm/", "/dev/hugepages"))


def no_directories(missing: Sequence[str], where: str) -> Refusal:
    """The refusal where directories that images shall be in are not there; all of them in one line."""
    known = sorted(set(missing))
    several = len(known) > 1
    return Refusal(
        f"there {'are no directories' if several else 'is no directory'} {' and '.join(known)} {where}",
        "directory_missing",
        f"make {'them' if several else 'it'} there, or give another place",
    )


def check_map(wish: Wish, paths: Sequence[str], name: str) -> None:
    """Refuse an entry of the map that has nothing to do with any of these images: it is a mistake."""
    for here, there in wish.path_map.items():
        if not any(fits(path, key) for path in paths for key in (here, there)):
            raise Refusal(
                f"path_map: no image of {name} is {here}, or in it",
                "bad_option",
                f"its images: {', '.join(paths) or 'none'}",
            )


def concerns(wish: Wish, disk: Disk, path: str) -> bool:
    """Whether a disk, whose image has that path, is one of those that were meant: those that were named, or all that
    have an image of their own; a device is only meant where the map says so of it."""
    if wish.disks:
        return disk.target in wish.disks
    own = bool(disk.source) and disk.type in ("file", "block", "volume") and disk.device in ("disk", "lun")
    if not own or disk.readonly:
        return False
    by_map = any(fits(path, key) for pair in wish.path_map.items() for key in pair)
    return by_map or not (disk.type == "block" or is_device(path))


def mapped(path: str, wish: Wish) -> str:
    """Where a file shall be: by the longest entry of the map that names it or a directory above it, or else in the
    directory that was given, or else where it is."""
    known = [key for key in wish.path_map if fits(path, key)]
    if known:
        key = max(known, key=len)
        rest = path[len(key.rstrip("/")) :].lstrip("/")
        there = wish.path_map[key]
        return posixpath.normpath(posixpath.join(there, rest) if rest else there)
    if wish.dest_dir:
        return posixpath.join(posixpath.normpath(wish.dest_dir), posixpath.basename(path))
    return path


def place(disk: Disk, wish: Wish) -> Place:
    """Where a disk, whose image is a file, shall be on another host, and what it shall be there."""
    flat, path = wish.backing == FLATTEN, mapped(disk.source, wish)
    return Place(path, is_device(path), wish.format or disk.format, flat or wish.format == "raw")


def files(disk: Disk, chain: Sequence[Image], wish: Wish, dest: str = "", bases_stay: bool = False) -> List[File]:
    """The files of one disk, those that others lie on first; raises Refusal for what a copy would lose.

    `bases_stay` where what lies below an image is seen from its new place as well.
    """
    top = chain[0]
    for image in chain:
        _check_image(disk, image)
    dest = dest or mapped(disk.source, wish)
    wanted = wish.format or top.format
    flat = len(chain) > 1 and (wish.backing == FLATTEN or wanted != top.format)
    if flat or wanted != top.format:
        check_losses(disk, chain if flat else chain[:1], wish)
        needs = sum(image.allocated or 0 for image in (chain if flat else chain[:1]))
        return [File(disk.target, top.path, dest, top.format, convert=wanted, needs=needs)]
    if bases_stay:
        below = chain[1] if len(chain) > 1 else None
        # Its own word for that may count from where it was.
        return [
            File(disk.target, top.path, dest, top.format, backing=below.path, backing_format=below.format)
            if below
            else File(disk.target, top.path, dest, top.format)
        ]
    found = []
    for number, image in enumerate(chain):
        there = dest if number == 0 else mapped(image.path, wish)
        file = File(disk.target, image.path, there, image.format, is_base=number > 0)
        if number + 1 < len(chain):
            below = chain[number + 1]
            below_there = mapped(below.path, wish)
            if (below_there, there) != (below.path, image.path):
                file = replace(file, backing=below_there, backing_format=below.format)
        found.append(file)
    return found[::-1]


def _check_image(disk: Disk, image: Image) -> None:
    if not image.readable:
        raise Refusal(
            f"disk {disk.target}: {image.path} cannot be copied: {image.problem or image.state}",
            "image_missing" if image.state == "missing" else "image_unreadable",
            "restore it, or correct the VM's definition",
        )
    if image.lock == "write":
        raise Refusal(
            f"disk {disk.target}: a process has {image.path} open and may write to it",
            "image_in_use",
            "end that process, or shut down the VM that uses it",
        )
    if image.data_file:
        raise Refusal(
            f"disk {disk.target}: {image.path} has its data in another file, {image.data_file}",
            "external_data_file",
            "make a whole image of it first: qemu-img convert",
        )


def check_losses(disk: Disk, chain: Sequence[Image], wish: Wish, running: bool = False) -> None:
    """Refuse what makes a new image out of what a guest sees, where the old one has more than that."""
    lost = []
    for image in chain:
        lost += [f"internal snapshot {name}" for name in image.snapshots or ()]
        lost += [f"bitmap {name}" for name in image.bitmaps or ()]
        lost += ["its encryption"] if image.encrypted else []
    if lost and not wish.force:
        option = f"format: {wish.format}: " if wish.format else f"backing: {wish.backing}: "
        option = "" if running else option
        raise Refusal(
            f"{option}disk {disk.target} would lose {', '.join(lost)}",
            "conversion_loses",
            f"{'shut the VM down' if running else 'leave the option out'}, or say force: true to give that up",
        )
