# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""Disk images: what qemu-img says of one, what lies below it, and the file system that it is on.

An image is opened as what somebody has declared it to be, never as what its content looks like: the content of a raw
image is the guest's, who could write the header of another format there, with any file of the host below it.
"""

from __future__ import annotations

import json
import posixpath
import re
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Dict, Iterable, List, Mapping, Sequence, Tuple

from .domain_xml import Disk, Layer

# What became of the look at an image. All but OK have their `problem` in words.
OK = "ok"
MISSING = "missing"
DENIED = "denied"
UNREADABLE = "unreadable"
# Its file system does not, which happens when the server of network storage is lost.
NO_ANSWER = "no_answer"
# Nobody says which format it has.
UNDECLARED = "undeclared"
# It is on no file system or device of the host that was asked.
REMOTE = "remote"
# Only its file was looked at, and not into it.
UNREAD = "unread"

NOT_LOCAL = "it is no file or device of this host"

# Where an image is.
FILE, BLOCK, DIRECTORY, NETWORK, OTHER = "file", "block", "dir", "network", "other"

# Who holds QEMU's locks on it.
UNLOCKED, READING, WRITING = "none", "read", "write"

# libvirt follows no more of them either.
DEEPEST = 200
SECTOR = 512

# As QEMU tells a protocol from a path.
_PROTOCOL = re.compile(r"([^/:]+):")
_OCTAL = re.compile(r"\\([0-7]{3})")
# The beginning of a network name without a user: host, perhaps a port, and the path.
_HOST_ONLY = re.compile(r"(?:[A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.%]+\])(?::[0-9]+)?(?:/|$)")
# Protocols of QEMU that open a file or device of this host by its path.
_LOCAL_DRIVERS = ("file", "host_device", "host_cdrom")


@dataclass(frozen=True)
class Image:
    """One image of a chain. None is what is not known; sizes are bytes; paths are absolute."""

    path: str
    # Declared by the domain, or by the image above it; empty where nobody has.
    format: str = ""
    kind: str = FILE
    state: str = OK
    # Why it is not ok, one line for a person.
    problem: str = ""
    # What the guest sees; what its file or device measures; what that takes up on the file system (all of a device).
    virtual_size: int | None = None
    size: int | None = None
    allocated: int | None = None
    # What is below it and its declared format, both empty where nothing is.
    backing: str | None = None
    backing_format: str | None = None
    # Where the guest's data is in another file than the image.
    data_file: str | None = None
    # Names of internal snapshots and persistent bitmaps.
    snapshots: Tuple[str, ...] | None = None
    bitmaps: Tuple[str, ...] | None = None
    encrypted: bool | None = None
    # The format of the encryption.
    encryption: str = ""
    # Whether it was not closed properly, which is so while a guest with lazy refcounts runs, too.
    dirty: bool | None = None
    corrupt: bool | None = None
    # What else the image was made with, such as compat, cluster_size and compression_type.
    options: Mapping[str, Any] = field(default_factory=dict)
    # none, read or write: what processes hold it for, by the locks that QEMU takes.
    lock: str | None = None

    @property
    def readable(self) -> bool:
        """Whether what is in it is known."""
        return self.state == OK

    def plain(self) -> Dict[str, Any]:
        return _plain(self)


@dataclass(frozen=True)
class Mount:
    """A line of mountinfo: `root` is the part of the file system `source` that is seen at `point`."""

    number: int
    parent: int
    root: str
    point: str
    fstype: str
    source: str
    # Those of the mount and those of the file system.
    options: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Filesystem:
    """The file system that a path is on, and its bytes; `free` is what root may not need to share with nobody."""

    mount_point: str
    fstype: str
    source: str
    free: int | None = None
    total: int | None = None

    def plain(self) -> Dict[str, Any]:
        return _plain(self)


@dataclass(frozen=True)
class DiskInfo:
    """A disk of a domain with all that is known of it, as the module returns it."""

    target: str
    device: str
    type: str
    bus: str | None
    source: str | None
    protocol: str | None
    format: str | None
    chain: Tuple[Image, ...]
    virtual_size: int | None
    allocated: int | None
    physical: int | None
    pool: str | None
    volume: str | None
    read_only: bool
    shareable: bool
    transient: bool
    empty: bool
    encrypted: bool | None
    cache: str | None
    discard: str | None
    detect_zeroes: str | None
    serial: str | None
    filesystem: Filesystem | None

    def plain(self) -> Dict[str, Any]:
        return {**_plain(self), "chain": [image.plain() for image in self.chain]}


def _plain(thing: Any) -> Dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(thing).items()}


# Images


def described(image: Image, output: str) -> Image:
    """The image with what C(qemu-img info --output=json) says of it; raises ValueError for what is no such answer."""
    said = json.loads(output)
    if not isinstance(said, dict) or "virtual-size" not in said:
        raise ValueError("qemu-img gave no description of the image")
    special = (said.get("format-specific") or {}).get("data") or {}
    directory = posixpath.dirname(image.path)
    # LUKS says all of it, qcow2 in a part of its own.
    encryption = str((special.get("encrypt") or {}).get("format", ""))
    return replace(
        image,
        virtual_size=int(said["virtual-size"]),
        backing=resolved(str(said.get("full-backing-filename") or said.get("backing-filename") or ""), directory),
        backing_format=str(said.get("backing-filename-format") or ""),
        data_file=resolved(str(special.get("data-file") or ""), directory),
        snapshots=tuple(str(one.get("name", "")) for one in said.get("snapshots") or ()),
        bitmaps=tuple(str(one.get("name", "")) for one in special.get("bitmaps") or ()),
        encrypted=bool(said.get("encrypted", False)),
        encryption=encryption or ("luks" if said.get("format") == "luks" else ""),
        dirty=bool(said.get("dirty-flag", False)),
        corrupt=bool(special.get("corrupt", False)),
        options=_options(said, special),
    )


def raw(image: Image) -> Image:
    """A raw image: what the guest sees is all of it, and nothing in it says anything about it."""
    size = None if image.size is None else -(-image.size // SECTOR) * SECTOR
    return replace(
        image,
        virtual_size=size,
        backing="",
        backing_format="",
        data_file="",
        snapshots=(),
        bitmaps=(),
        encrypted=False,
        dirty=False,
        corrupt=False,
    )


def _options(said: Mapping[str, Any], special: Mapping[str, Any]) -> Dict[str, Any]:
    found = {key.replace("-", "_"): value for key, value in special.items() if isinstance(value, (str, int, bool))}
    for known in ("data_file", "corrupt"):
        found.pop(known, None)
    if "cluster-size" in said:
        found["cluster_size"] = int(said["cluster-size"])
    return found


def resolved(name: str, directory: str) -> str:
    """What a file name, as QEMU understands them, leads to when an image in that directory has it.

    An absolute path where a file or device of the host is meant; else what a person may see of a name on a network.
    The name of a backing file counts from there for libvirt and QEMU, that of a data file for libvirt.
    """
    if not name:
        return ""
    if name.startswith("json:"):
        return _of_json(name[len("json:") :])
    match = None if name.startswith("/") else _PROTOCOL.match(name)
    if match is None:
        return _tidy(posixpath.join(directory, name))
    if match[1] in _LOCAL_DRIVERS:
        rest = name[match.end() :]
        return resolved(rest[2:] if rest.startswith("///") else rest, directory)
    return shown(name)


def _tidy(path: str) -> str:
    """An absolute path without what means nothing; C(..) means something where the directory before is a link."""
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))


def _of_json(text: str) -> str:
    try:
        said = json.loads(text)
    except ValueError:
        return "json:"
    if not isinstance(said, dict):
        return "json:"
    dotted = {key[len("file.") :]: value for key, value in said.items() if key.startswith("file.")}
    node = said["file"] if isinstance(said.get("file"), dict) else dotted or said
    driver, name = str(node.get("driver") or "file"), node.get("filename")
    if driver in _LOCAL_DRIVERS and isinstance(name, str) and name.startswith("/"):
        return _tidy(name)
    # Whatever else is in there may be a secret.
    return f"json:{driver}"


def shown(name: str) -> str:
    """A network name of QEMU without passwords, keys and queries, where tokens are."""
    scheme, separator, rest = name.partition("://")
    if not separator:
        # As in rbd:pool/image:id=name:key=secret
        return ":".join(name.split(":")[:2])
    if "@" in rest and not _HOST_ONLY.match(rest):
        rest = rest.rpartition("@")[2]
    return f"{scheme}://{rest.partition('?')[0]}"


def network_name(disk: Disk) -> str:
    """The name of a network disk in libvirt's XML, without what QEMU would take for options there."""
    return disk.source.partition(":" if disk.protocol == "rbd" else "?")[0]


def from_layer(layer: Layer) -> Image:
    """An image that libvirt names, before anybody has looked at it."""
    if layer.type in (FILE, BLOCK) and layer.source.startswith("/"):
        return Image(layer.source, layer.format, layer.type, UNREAD, "it was not looked at")
    kind = NETWORK if layer.type == "network" else OTHER
    return Image(layer.source, layer.format, kind, REMOTE, NOT_LOCAL)


def below(image: Image) -> Image:
    """The image that an image names as the one below it, before anybody has looked at it."""
    name, form = image.backing or "", image.backing_format or ""
    if name.startswith("/"):
        return Image(name, form, FILE, UNREAD, "it was not looked at")
    return Image(name, form, NETWORK, REMOTE, NOT_LOCAL)


# Mounts


def mounts(text: str) -> List[Mount]:
    """The lines of C(/proc/self/mountinfo)."""
    found = []
    # Only line ends are written in octal there, and not what else Python takes for the end of a line.
    for line in text.split("\n"):
        left, separator, right = line.partition(" - ")
        before, after = left.split(" "), right.split(" ")
        if not separator or len(before) < 5 or len(after) < 2 or not (before[0] + before[1]).isdigit():
            continue
        found.append(
            Mount(
                int(before[0]),
                int(before[1]),
                _unescaped(before[3]),
                _unescaped(before[4]),
                after[0],
                _unescaped(after[1]),
                tuple(option for words in (before[5:6], after[2:3]) for word in words for option in word.split(",")),
            )
        )
    return found


def mount_of(path: str, known: Sequence[Mount]) -> Mount | None:
    """The mount that a path without symbolic links is on, found as the kernel finds it: from the root down.

    Of the mounts on the one that was reached, the nearest on the way counts: it hides those below its point that were
    there before, as one that was made on the very same point does.
    """
    numbers = {mount.number for mount in known}
    covering = [mount for mount in known if _covers(mount.point, path)]
    here = _first(mount for mount in covering if mount.parent not in numbers or mount.parent == mount.number)
    found, seen = here, {0}
    while here is not None:
        found, number = here, here.number
        seen.add(number)
        here = _first(mount for mount in covering if mount.parent == number and mount.number not in seen)
    return found


def _first(candidates: Iterable[Mount]) -> Mount | None:
    return min(candidates, key=lambda mount: len(mount.point), default=None)


def _covers(point: str, path: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")


def _unescaped(text: str) -> str:
    """A field of mountinfo as it is meant: spaces, tabs, line ends and backslashes are written in octal."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


# The answer


def disk_info(
    disk: Disk,
    path: str,
    chain: Sequence[Image],
    sizes: Tuple[int, int, int] | None,
    volume: Tuple[str, str] | None,
    filesystem: Filesystem | None,
) -> DiskInfo:
    """All that is known of a disk: `path` where its source is known to be one, `sizes` what libvirt says of it."""
    top = chain[0] if chain else None
    sizes_known: Tuple[int | None, ...] = sizes or (
        (top.virtual_size, top.allocated, top.size) if top is not None else (None, None, None)
    )
    network = disk.type == "network"
    return DiskInfo(
        target=disk.target,
        device=disk.device,
        type=disk.type,
        bus=disk.bus or None,
        source=path or (network_name(disk) if network else disk.source if disk.type != "volume" else "") or None,
        protocol=disk.protocol or None,
        format=disk.format if disk.source else None,
        chain=tuple(chain),
        virtual_size=sizes_known[0],
        allocated=sizes_known[1],
        physical=sizes_known[2],
        pool=volume[0] if volume else disk.pool or None,
        volume=volume[1] if volume else (disk.source or None) if disk.type == "volume" else None,
        read_only=disk.readonly,
        shareable=disk.shareable,
        transient=disk.transient,
        empty=not disk.source,
        encrypted=True if disk.encryption else top.encrypted if top is not None else None,
        cache=disk.cache or None,
        discard=disk.discard or None,
        detect_zeroes=disk.detect_zeroes or None,
        serial=disk.serial or None,
        filesystem=filesystem,
    )
