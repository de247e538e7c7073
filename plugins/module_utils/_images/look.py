# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""What images say, where the disks of VMs are, and who uses which file. Nothing is changed."""

from __future__ import annotations

import errno
import fcntl
import os
import posixpath
import shutil
import stat
import struct
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple, TypeVar

from .._libvirt import BlockInfo, Host, LibvirtFailure, NoAnswer, NotFound, bounded
from .._pure import domain_xml, images
from .._pure import uri as uris
from .._pure.domain_xml import Definition, Disk, Layer
from .._pure.images import DiskInfo, Filesystem, Image, Mount
from .._pure.refusal import Refusal

T = TypeVar("T")
# Status, output and errors of a command, as of AnsibleModule.run_command.
RunCommand = Callable[[List[str]], Tuple[int, str, str]]

TOOL = "qemu-img"
MOUNTINFO = "/proc/self/mountinfo"
# Seconds that a file system gets for each answer: a lost server of network storage never gives one.
PATIENCE = 10.0
# So many answers may qemu-img need: on busy storage it reads tables from here and there.
READS = 6
# Seconds for which a directory that did not answer is not asked again: many VMs may have their images there.
SILENT = 60.0
# fcntl's number of a question for locks of an open file, as QEMU takes them; Python knows its name since 3.9.
_F_OFD_GETLK = 36
# What lies below an image is not known then, though something may.
_UNTOLD = (images.NO_ANSWER, images.DENIED)
# The byte that QEMU locks in an image that it may write to.
_WRITE_BYTE = 101


class Images:
    """The images on this machine. They are only read, and never waited for without an end."""

    def __init__(self, run_command: RunCommand, patience: float = PATIENCE):
        """`run_command` returns status, output and errors of a command whose arguments it takes as they are."""
        self._run_command = run_command
        self._patience = patience
        # By directory, until when it is not asked again.
        self._silent: Dict[str, float] = {}

    @classmethod
    def of(cls, module: Any) -> Images:
        """Those that a module looks at."""
        # Messages are looked into, and a path with $ in it is no variable.
        env = {"LC_ALL": "C.UTF-8", "LANGUAGE": "C"}
        return cls(lambda command: module.run_command(command, expand_user_and_vars=False, environ_update=env))

    @property
    def has_tool(self) -> bool:
        """Whether there is a qemu-img: without it only raw images are known from within."""
        return shutil.which(TOOL) is not None

    def chain(self, path: str, declared_format: str, layers: Sequence[Layer] = (), ends: bool = False) -> List[Image]:
        """The image and all below it, from the top down; never empty, and raises nothing.

        `declared_format` is that of the domain's C(<driver type>), or C(luks) for a raw image that is encrypted so.
        `layers` is what libvirt knows to be below, `ends` whether it knows that nothing is below the last of them
        (Disk.layers and Disk.ends); beyond that counts what the images name. An image that cannot be looked at is the
        last, with its state and problem, unless libvirt knows what is below.
        """
        found = [self.image(path, declared_format)]
        known = list(layers)
        while len(found) <= images.DEEPEST:
            below = self._below(found[-1], known, ends)
            if below is None:
                return found
            if below.state == images.REMOTE:
                found.append(below)
            elif any(below.path == image.path for image in found):
                problem = f"the chain leads back to {below.path}"
                return [*found, replace(below, state=images.UNREADABLE, problem=problem)]
            else:
                found.append(self.image(below.path, below.format))
        *found, last = found[: images.DEEPEST]
        return [*found, replace(last, state=images.UNREADABLE, problem="the chain does not end")]

    @staticmethod
    def _below(image: Image, known: List[Layer], ends: bool) -> Image | None:
        """What comes next in the chain, before anybody has looked at it."""
        if known:
            return images.from_layer(known.pop(0))
        return images.below(image) if image.backing and not ends else None

    def image(self, path: str, declared_format: str) -> Image:
        """One image, opened as what it was declared to be; empty for one of which nobody says what it is."""
        image = self._file(Image(path, declared_format))
        if image.state != images.OK:
            return image
        if image.kind not in (images.FILE, images.BLOCK):
            return replace(image, state=images.UNREADABLE, problem="it is neither a file nor a block device")
        image = replace(image, lock=self._lock(image))
        if declared_format == "raw":
            return images.raw(image)
        if not declared_format:
            problem = "its format is not declared, and is not guessed from its content"
            return replace(image, state=images.UNDECLARED, problem=problem)
        if not self.has_tool:
            return replace(image, state=images.UNREAD, problem=f"{TOOL} is not installed")
        return self._described(image)

    def _described(self, image: Image) -> Image:
        command = [TOOL, "info", "-U", "--output=json", "-f", image.format, "--", image.path]
        try:
            # One that waits for a lost server cannot always be killed: it is left to itself.
            status, output, errors = self._bounded(lambda: self._run_command(command), image.path, READS)
        except NoAnswer as error:
            return replace(image, state=images.NO_ANSWER, problem=str(error))
        if status == 0:
            with suppress(ValueError):
                return images.described(image, output)
        said = uris.redact(errors).strip().splitlines()
        problem = said[-1].partition(f"{TOOL}: ")[2] or said[-1] if said else f"{TOOL} failed with status {status}"
        denied = problem.endswith(os.strerror(errno.EACCES))
        return replace(image, state=images.DENIED if denied else images.UNREADABLE, problem=problem)

    def _file(self, image: Image) -> Image:
        """The image with what its file or device says from outside."""
        try:
            found = self._bounded(lambda: os.stat(image.path), image.path)
            kind = _kind(found.st_mode)
            if kind == images.BLOCK:
                size = self._bounded(lambda: _device_size(image.path), image.path)
                return replace(image, kind=kind, size=size, allocated=size)
        except NoAnswer as error:
            return replace(image, state=images.NO_ANSWER, problem=str(error))
        except (OSError, ValueError) as error:
            return replace(image, state=_state(error), problem=_words(error))
        return replace(image, kind=kind, size=found.st_size, allocated=found.st_blocks * 512)

    def lock(self, path: str) -> str | None:
        """What processes hold an image for by QEMU's locks: none, read or write. None where that cannot be known.

        On network file systems that keep locks this shows those of other hosts, too. Locks of this process count as
        well, and POSIX ones (fcntl.lockf) are lost by the mere look, as they are whenever the file is closed: who holds
        an image itself must lock it by open file (F_OFD_SETLK), as QEMU does.
        """
        return self._lock(self._file(Image(path)))

    def _lock(self, image: Image) -> str | None:
        if image.kind not in (images.FILE, images.BLOCK):
            return None
        try:
            found = self._bounded(lambda: _held(image.path), image.path)
        except (OSError, ValueError, NoAnswer):
            return None
        # QEMU has device nodes of its own, whose locks are not seen on the one that the host has.
        return None if found == images.UNLOCKED and image.kind == images.BLOCK else found

    def filesystem(self, path: str) -> Filesystem | None:
        """The file system that the path is on, or would be on; None where that cannot be known."""
        real, silent = posixpath.normpath(path), False
        try:
            real = self._bounded(lambda: os.path.realpath(path), path)
        except NoAnswer:
            silent = True
        except (OSError, ValueError):
            return None
        mount = images.mount_of(real, _mounts())
        if mount is None:
            return None
        space = (None, None) if silent else self._space(real, mount.point)
        return Filesystem(mount.point, mount.fstype, mount.source, *space)

    def _space(self, path: str, point: str) -> Tuple[int | None, int | None]:
        with suppress(OSError, NoAnswer):
            space = self._bounded(lambda: os.statvfs(_existing(path, point)), path)
            return space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize
        return None, None

    def usage(self, path: str) -> int | None:
        """Bytes that a file, or all files in a directory, take up; None where that cannot be known."""
        try:
            return self._bounded(lambda: _usage(path), path)
        except (OSError, ValueError, NoAnswer):
            return None

    def _bounded(self, call: Callable[[], T], path: str, answers: int = 1) -> T:
        folder = posixpath.dirname(path)
        if time.monotonic() < self._silent.get(folder, 0.0):
            raise NoAnswer(f"{folder} did not answer a moment ago")
        try:
            return bounded(call, answers * self._patience, path)
        except NoAnswer:
            self._silent[folder] = time.monotonic() + SILENT
            raise


def _mounts() -> List[Mount]:
    try:
        with open(MOUNTINFO, encoding="utf-8", errors="surrogateescape") as table:
            return images.mounts(table.read())
    except OSError:
        return []


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISREG, images.FILE), (stat.S_ISBLK, images.BLOCK), (stat.S_ISDIR, images.DIRECTORY))
    return next((kind for test, kind in kinds if test(mode)), images.OTHER)


def _state(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number in (errno.ENOENT, errno.ENOTDIR):
        return images.MISSING
    return images.DENIED if number in (errno.EACCES, errno.EPERM) else images.UNREADABLE


def _words(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _device_size(path: str) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)


def _held(path: str) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if _locked(descriptor, _WRITE_BYTE, 1):
            return images.WRITING
        return images.READING if _locked(descriptor, 0, 0) else images.UNLOCKED
    finally:
        os.close(descriptor)


def _locked(descriptor: int, start: int, length: int) -> bool:
    """Whether anybody has a lock on these bytes; a length of 0 is up to the end."""
    question = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    answer = struct.unpack("hhqqi4x", fcntl.fcntl(descriptor, _F_OFD_GETLK, question))
    return bool(answer[0] != fcntl.F_UNLCK)


def _existing(path: str, point: str) -> str:
    """The path or the nearest directory above it that is there, down to the mount point."""
    while path not in (point, "/") and not os.path.exists(path):
        path = posixpath.dirname(path)
    return path


def _usage(path: str) -> int:
    total = os.lstat(path).st_blocks * 512
    if stat.S_ISDIR(os.lstat(path).st_mode):
        total += sum(_usage(entry.path) for entry in os.scandir(path))
    return total


# Of VMs


def disk_of(host: Host, uuid: str, disk: Disk, here: Images | None) -> DiskInfo:
    """One disk of a VM; `here` where the host's images are those of this machine, else None.

    Raises LibvirtFailure only where the host does not answer.
    """
    path = path_of(host, disk)
    chain = chain_of(disk, path, here)
    # libvirt waits for such a file without an end.
    silent = any(image.state == images.NO_ANSWER for image in chain)
    return images.disk_info(
        disk,
        path,
        chain,
        None if silent else _sizes(host, uuid, disk),
        _volume(host, path),
        here.filesystem(path) if here is not None and path.startswith("/") else None,
    )


def users_of(host: Host, uuid: str = "", here: Images | None = None) -> Dict[str, Tuple[str, str]]:
    """By path, a VM other than that one on the host that has it for a disk or its firmware, and the file's format.

    With `here` also what the images themselves say to be below them; refused where one of them does not tell.
    """
    found: Dict[str, Tuple[str, str]] = {}
    # Of many VMs with volumes each is asked for once, and not for both of its definitions.
    places: Dict[Tuple[str, str], str] = {}
    for domain in host.domains():
        # A running guest may have other disks now than its definition will give it.
        for inactive in (False, True) if domain.uuid != uuid else ():
            with suppress(NotFound):
                definition = domain_xml.parse(host.xml(domain.uuid, inactive=inactive))
                for path, form in _files(host, domain.name, definition, here, places):
                    if path.startswith("/"):
                        found.setdefault(path, (domain.name, form))
    return found


def _files(
    host: Host, name: str, definition: Definition, here: Images | None, places: Dict[Tuple[str, str], str]
) -> Iterator[Tuple[str, str]]:
    for disk in definition.disks:
        path = path_of(host, disk) if disk.type != "volume" else _place(host, disk, places)
        yield path, disk.format
        for image in whole_chain(name, disk, path, here):
            if image.kind != images.NETWORK:
                yield image.path, image.format
        # Also where nobody tells what the disk itself is: what libvirt names below it is open all the same.
        for layer in disk.layers:
            if layer.type in (images.FILE, images.BLOCK):
                yield layer.source, layer.format
    yield definition.nvram, "raw"


def _place(host: Host, disk: Disk, places: Dict[Tuple[str, str], str]) -> str:
    """Where a volume is, or, where its pool is not started or has not looked since, where it would be."""
    key = (disk.pool, disk.source)
    if key not in places:
        places[key] = path_of(host, disk)
        pool = host.pool_place(disk.pool) if disk.source and not places[key] else ""
        if pool:
            places[key] = posixpath.join(pool, disk.source)
    return places[key]


def path_of(host: Host, disk: Disk) -> str:
    """The file, device or directory that a disk is; of a volume what its pool tells. Empty where there is none."""
    if not disk.source:
        return ""
    if disk.type == "volume":
        try:
            return host.volume_path(disk.pool, disk.source)
        except NoAnswer:
            raise
        except LibvirtFailure:
            return ""
    return disk.source if disk.type in ("file", "block", "dir", "vhostuser") else ""


def chain_of(disk: Disk, path: str, here: Images | None) -> List[Image]:
    """The images of a disk whose path is known; without looking at them only what libvirt has in its XML."""
    if not disk.source or disk.type not in ("file", "block", "volume", "network"):
        return []
    declared = disk.encryption if disk.format == "raw" and disk.encryption == "luks" else disk.format
    if here is not None and path.startswith("/"):
        return here.chain(path, declared, disk.layers, disk.ends)
    if disk.type == "volume" and not path:
        problem = f"the pool {disk.pool} does not tell where {disk.source} is"
        return [Image("", declared, images.OTHER, images.MISSING, problem)]
    kind = disk.type if disk.type != "volume" else "file" if path.startswith("/") else "network"
    top = Layer(kind, path or images.network_name(disk), declared)
    return [images.from_layer(layer) for layer in (top, *disk.layers)]


def whole_chain(name: str, disk: Disk, path: str, here: Images | None) -> List[Image]:
    """The images of a disk of that VM; refused where they are looked at and one does not tell what it lies on."""
    found = chain_of(disk, path, here)
    last = found[-1] if found else None
    if here is not None and last is not None and last.state in _UNTOLD and last.format != "raw" and not disk.ends:
        raise Refusal(
            f"{last.path}, which VM {name} uses, does not tell what it lies on: {last.problem}",
            "image_unreadable",
            "bring back the storage that it is on, or leave remove_source out",
        )
    return found


def _sizes(host: Host, uuid: str, disk: Disk) -> Tuple[int, int, int] | None:
    found: BlockInfo | None = host.block_info(uuid, disk.target) if disk.source else None
    return (found.capacity, found.allocation, found.physical) if found else None


def _volume(host: Host, path: str) -> Tuple[str, str] | None:
    if not path:
        return None
    try:
        return host.volume_name(path)
    except NoAnswer:
        raise
    except LibvirtFailure:
        return None
