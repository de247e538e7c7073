# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The guest's initramfs: which kernel modules it needs, and the cpio archive itself."""

from __future__ import annotations

import gzip
import lzma
import re
from collections.abc import Sequence
from pathlib import Path

from ..paths import LabError, run

# Without the required ones there is no disk or no network. The others are a shutdown button and a checksum that ext4
# asks for by name at run time, which modules.dep does not tell; a kernel may do without them.
REQUIRED = ("virtio_pci", "virtio_blk", "virtio_net", "ext4")
WELCOME = ("crc32c_generic", "button", "evdev")
APPLETS = ("sh", "mount", "insmod", "hostname", "ip", "arping", "findfs", "sleep", "cat")


# What only a guest with an agent needs.
AGENT = Path("usr/sbin/qemu-ga")
AGENT_MODULES = ("virtio_console",)


def modules(folder: Path, required: Sequence[str] = REQUIRED, welcome: Sequence[str] = WELCOME) -> list[Path]:
    """The files to load, dependencies first; what the kernel has built in needs no file."""
    try:
        listing = (folder / "modules.dep").read_text(encoding="ascii")
        builtin = (folder / "modules.builtin").read_text(encoding="ascii")
    except FileNotFoundError as error:
        raise LabError(
            f"{error.filename} is missing: run depmod in the root file system that --rootfs names"
        ) from error
    depends = {left: right.split() for left, _colon, right in (line.partition(":") for line in listing.splitlines())}
    files = {_module_name(path): path for path in depends}
    present = {_module_name(path) for path in builtin.split()}
    ordered: list[str] = []

    def add(path: str) -> None:
        if path not in ordered:
            for needed in depends[path]:
                add(needed)
            ordered.append(path)

    for name in (*welcome[:1], *required, *welcome[1:]):
        if name in files:
            add(files[name])
        elif name in required and name not in present:
            raise LabError(f"kernel {folder.name} has no module {name}, which the guest needs")
    return [folder / path for path in ordered]


def _module_name(path: str) -> str:
    return Path(path).name.partition(".ko")[0].replace("-", "_")


class Archive:
    """A cpio archive (newc), written without a tool or the right to make device nodes."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._inode = 0

    def folder(self, name: str) -> None:
        self._entry(name, 0o040755)

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        self._entry(name, 0o100000 | mode, data)

    def link(self, name: str, target: str) -> None:
        self._entry(name, 0o120777, target.encode())

    def device(self, name: str, major: int, minor: int) -> None:
        self._entry(name, 0o020600, device=(major, minor))

    def compressed(self) -> bytes:
        self._entry("TRAILER!!!", 0)
        # No time stamp: the same recipe gives the same bytes.
        return gzip.compress(b"".join(self._parts), 6, mtime=0)

    def _entry(self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        self._inode += 1
        label = name.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(label), 0)
        head = b"070701" + b"".join(b"%08x" % field for field in fields) + label
        self._parts += [head, b"\0" * (-len(head) % 4), data, b"\0" * (-len(data) % 4)]


def build(busybox: Path, init: Path, witness: Path, files: list[Path]) -> bytes:
    archive = Archive()
    for folder in ("bin", "dev", "proc", "sys", "data", "modules"):
        archive.folder(folder)
    archive.device("dev/console", 5, 1)
    archive.file("init", init.read_bytes(), 0o755)
    archive.file("witness", witness.read_bytes(), 0o755)
    archive.file("bin/busybox", busybox.read_bytes(), 0o755)
    for applet in APPLETS:
        archive.link(f"bin/{applet}", "busybox")
    add_modules(archive, files, "order")
    return archive.compressed()


def add_modules(archive: Archive, files: list[Path], order: str) -> None:
    names = []
    for path in files:
        # busybox's insmod wants them plain.
        data = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
        names.append(path.name.removesuffix(".xz"))
        archive.file(f"modules/{names[-1]}", data)
    archive.file(f"modules/{order}", "".join(f"{name}\n" for name in names).encode())


def agent_files(rootfs: Path) -> list[Path]:
    """The guest agent and every library that it needs, by their paths in the root file system."""
    if not (rootfs / AGENT).is_file():
        raise LabError(f"--rootfs {rootfs}: no {AGENT} there; the package qemu-guest-agent brings it")
    said = run("chroot", rootfs, "ldd", f"/{AGENT}")
    return [AGENT, *(Path(path.lstrip("/")) for path in re.findall(r"(/\S+) \(0x", said))]


def build_agent(rootfs: Path, programs: list[Path], files: list[Path]) -> bytes:
    """An archive to be unpacked over the first one, for a guest that has an agent."""
    archive = Archive()
    for folder in dict.fromkeys(parent for path in programs for parent in reversed(path.parents) if parent.name):
        archive.folder(str(folder))
    for path in programs:
        archive.file(str(path), (rootfs / path).read_bytes(), 0o755)
    # By which the agent sets the clock.
    archive.folder("sbin")
    archive.link("sbin/hwclock", "/bin/busybox")
    archive.folder("run")
    add_modules(archive, files, "agent")
    return archive.compressed()
