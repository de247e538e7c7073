# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of a sparse image from one lab host to the other: by virt_domblk_copy, and by what people use instead.

Every copy is on the disk of the destination when its time ends, and begins with the source in the cache and nothing
left to write on either host.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.lab.faults import inside, must

from .moves import ADDRESSES, ansible
from .report import Report

SOURCE, DEST = "labkvm1", "labkvm2"
MODULE = "kvmops.migration.virt_domblk_copy"
VM = "bench-copy"
FOLDER = "/bench"
ADDRESS = ADDRESSES[DEST]
PIECES = 96
PORT = 49152
# Random data, so that nothing on the way can make it less.
SAMPLE = f"""
import os, sys
path, size, piece = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with open(path, "wb") as file:
    file.truncate(size)
    for number in range({PIECES}):
        file.seek(number * (size // {PIECES} >> 20 << 20))
        for _mib in range(piece >> 20):
            file.write(os.urandom(1 << 20))
"""
# Reads and hashes what a file holds data for; nobody has to read the holes.
READ = """
import hashlib, os, sys
handle, at, digest = os.open(sys.argv[1], os.O_RDONLY), 0, hashlib.sha256()
end = os.lseek(handle, 0, os.SEEK_END)
while at < end:
    try:
        at = os.lseek(handle, at, os.SEEK_DATA)
    except OSError:
        break
    hole = os.lseek(handle, at, os.SEEK_HOLE)
    while at < hole:
        data = os.pread(handle, min(1 << 20, hole - at), at)
        digest.update(data)
        at += len(data)
"""
# 4 KiB in every 400 KiB of each piece.
CHANGE = f"""
import os, sys
path, size, piece = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with open(path, "r+b") as file:
    for number in range({PIECES}):
        for within in range(0, piece, 409600):
            file.seek(number * (size // {PIECES} >> 20 << 20) + within)
            file.write(os.urandom(4096))
"""
DOMAIN = """<domain type='qemu'><name>{vm}</name><memory unit='MiB'>64</memory><os><type>hvm</type></os><devices>
<disk type='file' device='disk'><driver name='qemu' type='{image}'/><source file='{path}'/><target dev='vda'/></disk>
</devices></domain>"""


@dataclass(frozen=True)
class Sample:
    """An image on the source: its virtual size and what is allocated of it."""

    image: str
    gib: int = 20
    mib: int = 1536

    @property
    def path(self) -> str:
        return f"{FOLDER}/sample-{self.gib}.{self.image}"

    def make(self) -> None:
        must(SOURCE, "mkdir", "-p", FOLDER)
        must(DEST, "mkdir", "-p", FOLDER)
        if inside(SOURCE, "test", "-e", self.path).returncode:
            raw = f"{FOLDER}/sample-{self.gib}.raw"
            must(SOURCE, "python3", "-c", SAMPLE, raw, str(self.gib << 30), str(self.mib // PIECES << 20))
            if self.image != "raw":
                must(SOURCE, "qemu-img", "convert", "-O", self.image, raw, self.path)
            must(SOURCE, "python3", "-c", READ, self.path)


def settled() -> None:
    """Nothing is left to write, and nothing of an earlier copy is there."""
    for host in (SOURCE, DEST):
        inside(host, "virsh", "undefine", VM)
    must(DEST, "sh", "-c", f"rm -rf {FOLDER}/* {FOLDER}/.kvmops*")
    os.sync()
    time.sleep(1)


def timed(act: Callable[[], Any]) -> float:
    began = time.monotonic()
    act()
    return time.monotonic() - began


def rsync(sample: Sample) -> float:
    """What people type to copy an image, and the flush that it leaves out."""
    settled()
    command = f"rsync -aSHP {sample.path} root@{ADDRESS}:{FOLDER}/ >/dev/null && ssh root@{ADDRESS} sync -f {FOLDER}"
    return timed(lambda: must(SOURCE, "sh", "-c", command))


def define(sample: Sample) -> None:
    for host in (SOURCE, DEST):
        inside(host, "virsh", "undefine", VM)
    xml = DOMAIN.format(vm=VM, image=sample.image, path=sample.path)
    must(SOURCE, "sh", "-c", f"cat > {FOLDER}/vm.xml <<'END'\n{xml}\nEND\nvirsh define {FOLDER}/vm.xml")


@dataclass(frozen=True)
class Copied:
    """`seconds` of the whole run, and of its copies alone; bytes that were sent."""

    seconds: float
    copying: float
    bytes_sent: int


def copy(sample: Sample, again: bool = False, **options: Any) -> Copied:
    """What this collection does, as a user calls it."""
    if not again:
        settled()
    define(sample)
    result = ansible(SOURCE, MODULE, {"name": VM, "dest_host": DEST, "force": again, "progress": False, **options})
    return Copied(result["duration_s"], result["copied"]["seconds"], result["copied"]["bytes_sent"])


def make_whole(sample: Sample) -> str:
    """As many bytes as are allocated, in one file without holes; its path on the source."""
    whole = f"{FOLDER}/whole"
    if inside(SOURCE, "test", "-e", whole).returncode:
        must(SOURCE, "sh", "-c", f"head -c {sample.mib}M /dev/urandom > {whole}; sync")
    must(SOURCE, "sh", "-c", f"cat {whole} > /dev/null")
    return whole


def one_connection(sample: Sample) -> float:
    """The limit: the allocated bytes as one file, through one connection, flushed at the end."""
    settled()
    whole = make_whole(sample)
    listen = f"nc -l {ADDRESS} {PORT} | dd of={FOLDER}/whole bs=1M iflag=fullblock conv=fsync 2>/dev/null"
    must(DEST, "sh", "-c", f"({listen}; touch {FOLDER}/done) >/dev/null 2>&1 & sleep 0.3")

    def send() -> None:
        must(SOURCE, "sh", "-c", f"dd if={whole} bs=1M 2>/dev/null | nc -N {ADDRESS} {PORT}")
        while inside(DEST, "test", "-e", f"{FOLDER}/done").returncode:
            time.sleep(0.02)

    return timed(send)


@contextmanager
def samples(*wanted: Sample) -> Iterator[None]:
    for sample in wanted:
        sample.make()
    try:
        yield
    finally:
        settled()
        for host in (SOURCE, DEST):
            inside(host, "rm", "-rf", FOLDER)


@dataclass(frozen=True)
class AgainstRsync:
    """One line of the table: the safe copy and the fast one, against rsync."""

    name: str
    about: str
    runs: int
    sample: Sample

    def measure(self, runs: int) -> str:
        report = Report(self.name, self.about, ["rsync s", "copy s", "times", "clear s", "times in clear"])
        with samples(self.sample):
            for _number in range(runs):
                old = rsync(self.sample)
                safe = copy(self.sample).seconds
                fast = copy(self.sample, encrypt=False, verify=False).seconds
                report.add([old, safe, old / safe, fast, old / fast])
        return report.finished(
            "`rsync -aSHP` over ssh, virt_domblk_copy, and virt_domblk_copy with `encrypt: false, verify: false`"
        )


@dataclass(frozen=True)
class AgainstLimit:
    """How near the copy comes to what one connection and one disk can do."""

    name: str
    about: str
    runs: int
    sample: Sample

    def measure(self, runs: int) -> str:
        report = Report(self.name, self.about, ["dd | nc s", "clear s", "share", "encrypted s", "verified s"])
        with samples(self.sample):
            for _number in range(runs):
                limit = one_connection(self.sample)
                clear = copy(self.sample, encrypt=False, verify=False).copying
                encrypted = copy(self.sample, verify=False).copying
                verified = copy(self.sample).copying
                report.add([limit, clear, limit / clear, encrypted, verified])
        return report.finished(
            "`dd | nc` into `dd conv=fsync` of the same number of bytes as one file, against the copies alone of"
            " virt_domblk_copy"
        )


def over_nbd(sample: Sample, encrypted: bool) -> float:
    """qemu-img, which reads what a guest would see, to qemu-nbd at the destination; in clear, or by TLS with a key."""
    settled()
    keys, target = "/run/bench-psk", f"{FOLDER}/{sample.path.rpartition('/')[2]}"
    if encrypted:
        secret = os.urandom(32).hex()
        for host in (SOURCE, DEST):
            must(host, "sh", "-c", f"umask 077; mkdir -p {keys}; echo bench:{secret} > {keys}/keys.psk")
    creds = f"--object tls-creds-psk,id=tls0,dir={keys},endpoint={{}}" if encrypted else ""
    serving = f"{creds.format('server')} --tls-creds tls0" if encrypted else ""
    must(DEST, "qemu-img", "create", "-q", "-f", sample.image, target, f"{sample.gib}G")
    serve = f"qemu-nbd --fork --pid-file=/run/bench-nbd.pid {serving} -b {ADDRESS} -p {PORT} -f {sample.image} {target}"
    to = f"driver=nbd,host={ADDRESS},port={PORT}" + (",tls-creds=tls0" if encrypted else "")
    using = f"{creds.format('client')},username=bench" if encrypted else ""
    convert = f"qemu-img convert -n -W -m 8 -f {sample.image} {using} --target-image-opts {sample.path} {to}"

    def send() -> None:
        must(DEST, "sh", "-c", serve)
        must(SOURCE, "sh", "-c", convert)
        must(DEST, "sh", "-c", f"kill $(cat /run/bench-nbd.pid); sync -f {FOLDER}")

    try:
        return timed(send)
    finally:
        for host in (SOURCE, DEST):
            inside(host, "rm", "-rf", keys)


def dd_over_ssh(sample: Sample) -> float:
    """The allocated bytes as one file: what ssh itself can do."""
    settled()
    whole = make_whole(sample)
    command = f"dd if={whole} bs=1M 2>/dev/null | ssh root@{ADDRESS} 'cat > {FOLDER}/whole; sync -f {FOLDER}'"
    return timed(lambda: must(SOURCE, "sh", "-c", command))


@dataclass(frozen=True)
class Transports:
    """The ways that were considered, all to the disk of the destination."""

    name: str
    about: str
    runs: int
    sample: Sample

    def measure(self, runs: int) -> str:
        columns = ["dd | ssh s", "nbd s", "nbd TLS s", "ours ssh s", "ours verified s", "ours clear s"]
        report = Report(self.name, self.about, columns)
        with samples(self.sample):
            for _number in range(runs):
                report.add(
                    [
                        dd_over_ssh(self.sample),
                        over_nbd(self.sample, encrypted=False),
                        over_nbd(self.sample, encrypted=True),
                        copy(self.sample, verify=False).copying,
                        copy(self.sample).copying,
                        copy(self.sample, encrypt=False, verify=False).copying,
                    ]
                )
        return report.finished(
            "`dd | ssh` of the allocated bytes as one file, `qemu-img convert -n -W -m 8` to `qemu-nbd` (in clear and"
            " with `tls-creds-psk`), and the copies alone of virt_domblk_copy"
        )


@dataclass(frozen=True)
class BySize:
    """What the virtual size costs."""

    name: str
    about: str
    runs: int
    small: Sample
    large: Sample

    def measure(self, runs: int) -> str:
        columns = [f"{self.small.gib} GiB s", f"{self.large.gib} GiB s", "ratio"]
        report = Report(self.name, self.about, columns)
        with samples(self.small, self.large):
            for _number in range(runs):
                small, large = copy(self.small).seconds, copy(self.large).seconds
                report.add([small, large, large / small])
        return report.finished("virt_domblk_copy of two images with the same allocated bytes")


@dataclass(frozen=True)
class Update:
    """Bringing a copy up to date after one percent of it has changed."""

    name: str
    about: str
    runs: int
    sample: Sample

    def measure(self, runs: int) -> str:
        columns = ["copy s", "update s", "read and hash s", "more s", "sent %"]
        report = Report(self.name, self.about, columns)
        with samples(self.sample):
            for _number in range(runs):
                whole = copy(self.sample)
                change(self.sample)
                hashing = timed(lambda: read_and_hash(self.sample))
                update = copy(self.sample, again=True)
                sent = 100 * update.bytes_sent / whole.bytes_sent
                report.add([whole.copying, update.copying, hashing, update.copying - hashing, sent])
        return report.finished(
            "virt_domblk_copy onto its own earlier copy after 4 KiB in every 400 KiB were written, against"
            " `sha256sum` of the allocated bytes on both hosts at a time"
        )


def change(sample: Sample) -> None:
    must(SOURCE, "python3", "-c", CHANGE, sample.path, str(sample.gib << 30), str(sample.mib // PIECES << 20))
    os.sync()


def read_and_hash(sample: Sample) -> None:
    """Of both sides at a time; without the holes, which nobody has to read."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda host: must(host, "python3", "-c", READ, sample.path), (SOURCE, DEST)))
