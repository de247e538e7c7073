# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the disk of a lab guest: a Linux that boots from it and keeps its records on it.

All guests share one base disk, cached by a hash of everything it is made of; a guest of its own is that base with its
own boot entry. Nothing is mounted and no loop device is used, so this works in any container.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import ipaddress
import os
import re
import struct
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from ..paths import CACHE, LabError, run, say
from . import initramfs

HERE = Path(__file__).resolve().parent
SOURCES = (HERE / "build.py", HERE / "initramfs.py", HERE / "init", HERE / "witness.c")
# UEFI runs no program without this ending.
KERNEL = "linux.efi"
BOOT_CODE = Path("/usr/lib/syslinux/mbr/mbr.bin")

MIB = 1 << 20
SECTOR = 512
DISK_MIB = 2048
BOOT_START = MIB
LABEL = "kvmops-data"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,30}")
# Kernel messages of errors only: the console belongs to the witness. A panicked guest stays silent on purpose; a
# restarted one would hide when it stopped.
KERNEL_ARGUMENTS = "console=ttyS0 quiet panic=0 ipv6.disable=1 mitigations=off nokaslr random.trust_bootloader=on"


def main() -> int:
    options = parse()
    began = time.monotonic()
    try:
        build(options)
    except LabError as error:
        print(f"guest {options.name}: {error}", file=sys.stderr)
        return 1
    say(f"guest {options.name}: {options.output} built in {time.monotonic() - began:.1f} s")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m tests.lab.guest.build", description=__doc__)
    parser.add_argument("--rootfs", type=Path, required=True, help="root file system with a kernel and busybox-static")
    parser.add_argument("--name", required=True)
    parser.add_argument("--address", help="IPv4 address on the LAN with its prefix, as in 192.168.1.101/24")
    parser.add_argument("--gateway")
    parser.add_argument("--output", type=Path, required=True, help="the qcow2 file to write")
    parser.add_argument("--dirty", type=_rate, default=0, help="MiB of memory to dirty per second from boot on")
    parser.add_argument("--write", type=_rate, default=0, help="MiB to write to the disk per second from boot on")
    parser.add_argument("--interval", type=_rate, default=100, help="milliseconds between two records")
    parser.add_argument("--agent", action="store_true", help="let QEMU's guest agent run in it")
    parser.add_argument("--cache", type=Path, default=CACHE)
    options = parser.parse_args()
    if not NAME.fullmatch(options.name):
        parser.error(f"--name {options.name!r}: letters, digits, dots, dashes and underscores, at most 31")
    if options.interval < 1:
        parser.error("--interval 0: at least 1 millisecond")
    try:
        interface = ipaddress.IPv4Interface(options.address) if options.address else None
        gateway = ipaddress.IPv4Address(options.gateway) if options.gateway else None
    except ValueError as error:
        parser.error(f"--address or --gateway: {error}")
    if gateway and (not interface or gateway not in interface.network):
        parser.error(f"--gateway {gateway} is not in the network of --address {options.address}")
    return options


def _rate(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65536:
        raise argparse.ArgumentTypeError(f"{text}: 0 to 65536")
    return value


def build(options: argparse.Namespace) -> None:
    """Write the guest's disk, whole or not at all."""
    if not options.output.parent.is_dir():
        raise LabError(f"--output {options.output}: there is no folder {options.output.parent}")
    with _cache(options.cache):
        base = _base(options.rootfs, options.cache)
        with _scratch(options.cache) as scratch:
            disk = scratch / "disk.raw"
            run("cp", "--sparse=always", "--reflink=auto", base, disk)
            # One for each firmware: which one boots it is the domain's to say.
            for name, text in (("syslinux.cfg", bios_entry(options)), ("startup.nsh", uefi_entry(options))):
                entry = scratch / name
                entry.write_text(text, encoding="ascii", newline="")
                _to_boot_partition(disk, entry)
            partial = options.output.with_name(f".{options.output.name}.{os.getpid()}.tmp")
            try:
                run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk, partial)
                partial.replace(options.output)
            finally:
                partial.unlink(missing_ok=True)


def bios_entry(options: argparse.Namespace) -> str:
    """What SYSLINUX reads."""
    return (
        "DEFAULT linux\nPROMPT 0\nNOESCAPE 1\nLABEL linux\n"
        f"KERNEL {KERNEL}\nINITRD {','.join(initrds(options))}\nAPPEND {kernel_arguments(options)}\n"
    )


def uefi_entry(options: argparse.Namespace) -> str:
    """What the shell of UEFI firmware runs when it finds nothing else to boot; the kernel is a program to it."""
    loaded = " ".join(f"initrd=\\{name}" for name in initrds(options))
    return f"@echo -off\r\nfs0:\r\n{KERNEL} {loaded} {kernel_arguments(options)}\r\n"


def initrds(options: argparse.Namespace) -> list[str]:
    return ["initrd", "agent"] if options.agent else ["initrd"]


def kernel_arguments(options: argparse.Namespace) -> str:
    words = {
        "name": options.name,
        "address": options.address,
        "gateway": options.gateway,
        "interval": options.interval,
        "dirty": options.dirty,
        "write": options.write,
    }
    return " ".join([KERNEL_ARGUMENTS, *(f"kvmops.{key}={value}" for key, value in words.items() if value)])


@contextlib.contextmanager
def _cache(folder: Path) -> Iterator[None]:
    """One builder at a time; what a killed one left half made is removed by the next."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "guest.lock").open("w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in folder.glob("guest-*.tmp"):
            run("rm", "-rf", leftover)
        yield


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="guest-", suffix=".tmp", dir=folder) as name:
        yield Path(name)


def _base(rootfs: Path, cache: Path) -> Path:
    """The disk that all guests of this recipe begin with, from the cache where it has it."""
    kernel, release = _kernel(rootfs)
    busybox = next((path for path in (rootfs / "bin/busybox", rootfs / "usr/bin/busybox") if path.is_file()), None)
    if busybox is None:
        raise LabError(f"--rootfs {rootfs}: no bin/busybox there; the package busybox-static brings it")
    if not BOOT_CODE.is_file():
        raise LabError(f"{BOOT_CODE} is missing: install the packages syslinux and syslinux-common")
    folder = _modules_folder(rootfs, release)
    modules = initramfs.modules(folder)
    agent = initramfs.agent_files(rootfs)
    agent_modules = initramfs.modules(folder, initramfs.AGENT_MODULES, ())
    recipe = hashlib.sha256()
    for path in (*SOURCES, BOOT_CODE, kernel, busybox, *modules, *(rootfs / path for path in agent), *agent_modules):
        recipe.update(hashlib.sha256(path.read_bytes()).digest())
    base = cache / f"guest-{recipe.hexdigest()[:16]}.raw"
    if base.is_file():
        return base
    say(f"building the guests' base disk with kernel {release}")
    with _scratch(cache) as scratch:
        witness = scratch / "witness"
        run("gcc", "-static", "-O2", "-s", "-std=gnu17", "-pthread", "-o", witness, HERE / "witness.c")
        initrd = scratch / "initrd"
        initrd.write_bytes(initramfs.build(busybox, HERE / "init", witness, modules))
        agent_initrd = scratch / "agent"
        agent_initrd.write_bytes(initramfs.build_agent(rootfs, agent, agent_modules))
        disk = scratch / "disk.raw"
        _assemble(disk, {KERNEL: kernel, "initrd": initrd, "agent": agent_initrd})
        for outdated in cache.glob("guest-*.raw"):
            outdated.unlink()
        disk.replace(base)
    return base


def _kernel(rootfs: Path) -> tuple[Path, str]:
    kernels = sorted((rootfs / "boot").glob("vmlinuz-*"))
    if not kernels:
        raise LabError(f"--rootfs {rootfs}: no boot/vmlinuz-* there; the package linux-image-cloud-amd64 brings it")
    return kernels[-1], kernels[-1].name.removeprefix("vmlinuz-")


def _modules_folder(rootfs: Path, release: str) -> Path:
    for parent in ("usr/lib/modules", "lib/modules"):
        if (rootfs / parent / release).is_dir():
            return rootfs / parent / release
    raise LabError(f"--rootfs {rootfs}: kernel {release} has no folder of modules")


def _assemble(disk: Path, files: dict[str, Path]) -> None:
    """MBR, a FAT partition for the boot loader and these files, an ext4 partition for the records."""
    # Room for the boot loader's own files and the file system's tables.
    boot_mib = -(-sum(path.stat().st_size for path in files.values()) // MIB) + 3
    data_start = BOOT_START + boot_mib * MIB
    data_size = DISK_MIB * MIB - data_start
    with disk.open("wb") as handle:
        handle.write(BOOT_CODE.read_bytes()[:440].ljust(440, b"\0"))
        handle.write(b"kvmo\0\0")
        handle.write(_partition(0x0E, BOOT_START, boot_mib * MIB, active=True))
        handle.write(_partition(0x83, data_start, data_size))
        handle.write(bytes(32) + b"\x55\xaa")
        handle.truncate(DISK_MIB * MIB)
    start = BOOT_START // SECTOR
    run(
        *("mkfs.vfat", "-F", "16", "-s", "4", "-n", "KVMOPS", "-i", "6b766d6f", "-h", str(start)),
        *("--offset", str(start), disk, str(boot_mib * 1024)),
    )
    run("syslinux", "--offset", str(BOOT_START), "--install", disk)
    for name, path in files.items():
        _to_boot_partition(disk, path, name)
    # Few inodes and a small journal: both would be written in full in time, and the image would grow by them.
    run(
        *("mkfs.ext4", "-q", "-L", LABEL, "-U", str(uuid.uuid5(uuid.NAMESPACE_DNS, LABEL)), "-m", "0", "-N", "128"),
        *("-J", "size=4", "-E", f"offset={data_start},lazy_itable_init=1,lazy_journal_init=1,nodiscard"),
        *(disk, f"{data_size // 1024}k"),
    )


def _partition(kind: int, start: int, size: int, *, active: bool = False) -> bytes:
    """One entry of the partition table; the cylinder fields say "use the sector numbers"."""
    chs = b"\xfe\xff\xff"
    return struct.pack("<B3sB3sII", 0x80 if active else 0, chs, kind, chs, start // SECTOR, size // SECTOR)


def _to_boot_partition(disk: Path, file: Path, name: str = "") -> None:
    run("mcopy", "-o", "-i", f"{disk}@@{BOOT_START}", file, f"::{name or file.name}")


if __name__ == "__main__":
    sys.exit(main())
