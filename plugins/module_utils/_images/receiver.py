# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""What writes images where they shall live: a process at the end of a pipe, on this host or on another one.

Its source is sent to a bare Python (3.8 or newer), so it stands alone: the standard library and nothing else.

It lives as long as its standard input. One JSON object a line comes in, one goes out as its answer. Images are written
under names that no one takes for images, and get their own names when all of them are on the disk and have been found
to be what they shall be. When the input ends, whatever is unfinished is removed.

The content of an image is described by its block list: the digests of its blocks of 1 MiB that are not all zeros, by
number. Two images of one size are equal where their lists are, whatever holes each of them has; and making the list
costs the time of reading what is allocated, not what is addressed.
"""

from __future__ import annotations

import base64
import ctypes
import errno
import fcntl
import grp
import hashlib
import hmac
import json
import os
import pwd
import queue
import secrets
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Set, Tuple

BLOCK = 1 << 20
# A changed block is compared in pieces, and a changed piece in slices, of the size of a page and of most file systems'
# blocks. Fewer levels would mean more digests, or more bytes sent than have changed.
PIECE = 32768
SLICE = 4096
SHORT = 16
# Blocks whose pieces are remembered, and pieces that are compared in slices: 1024 bytes of digests for each of the
# former, 128 for the latter.
PIECED = 65536
SLICED = 131072
ZERO = bytes(BLOCK)
# Cryptographic, since what a guest wrote must not be able to pass for something else. On a processor with instructions
# for SHA-256 that one is the fastest (measured on one core, MiB/s: sha256 1970, blake2b 1320, sha512 1150), else
# BLAKE2b is.
SHA256, BLAKE2B = "sha256", "blake2b"
DIGEST = 32
DATA, ZEROES, PULSE, END, ABORT = range(5)
# Offset, length, kind; the bytes of DATA follow.
FRAME = struct.Struct("<QQB")
TOKEN = 32
# Blocks that are on their way from the network to the disk.
IN_FLIGHT = 16
# The disk is told to begin after so many bytes, so that little is left to do for the fsync at the end.
WRITEBACK = 16 << 20
# Seconds between two signs of life, and without one until the other end counts as gone.
SIGN_OF_LIFE = 10.0
SILENCE = 60.0
ACCEPT = 30.0
# The range that libvirt's QEMU driver uses for migrations, `migration_port_min` and `_max` in qemu.conf.
PORTS = range(49152, 49216)
REPORT_EVERY = 64
F_OFD_SETLK = 37
F_SETPIPE_SZ = 1031
FICLONE = 0x40049409
BLKZEROOUT = 0x127F
# Bytes of a device after which what was read of it leaves the page cache.
FORGOTTEN = 64 << 20
PUNCH_HOLE = 0x02 | 0x01
SYNC_FILE_RANGE_WRITE = 2
PREFIX, SUFFIX = b".kvmops-", b".part"
# Where libvirt is told as whom emulated TPMs run, and as whom they do where it is not told.
QEMU_CONF = "/etc/libvirt/qemu.conf"
SWTPM_USERS = ("tss", "swtpm")
# What receivers are going to write here is noted, so that two of them do not count on the same free space.
SPACE = "/run/kvmops-migration/space"

Extent = Tuple[int, int]
BlockList = Dict[int, bytes]


class Failed(Exception):
    """A command was not carried out; `kind` is for programs."""

    def __init__(self, message: str, kind: str = "failed"):
        super().__init__(message)
        self.kind = kind


class Gone(Exception):
    """Whoever gave the commands is no longer there."""


# What an image holds; the sending side uses these too


def extents(handle: int, size: int) -> Iterator[Extent]:
    """The (offset, length) of what `size` bytes of a file hold data for; all of it where holes are not told."""
    offset = 0
    while offset < size:
        try:
            begin = os.lseek(handle, offset, os.SEEK_DATA)
            end = min(os.lseek(handle, begin, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            begin, end = offset, size
        if begin >= size:
            return
        yield begin, end - begin
        offset = end


def blocks(parts: Iterable[Extent]) -> Iterator[Tuple[int, List[Extent]]]:
    """The numbers of the blocks that extents touch, each with what of them lies in it."""
    number, inside = -1, []  # type: Tuple[int, List[Extent]]
    for offset, length in parts:
        while length:
            here = offset // BLOCK
            count = min(length, (here + 1) * BLOCK - offset)
            if here != number:
                if inside:
                    yield number, inside
                number, inside = here, []
            inside.append((offset, count))
            offset, length = offset + count, length - count
    if inside:
        yield number, inside


def fill(handle: int, view: memoryview, offset: int) -> None:
    """Read until the view is full."""
    while view:
        count = os.preadv(handle, [view], offset)
        if not count:
            raise Failed("the file became shorter while it was read", "changed")
        offset, view = offset + count, view[count:]


def hashes() -> List[str]:
    """The hashes that are fast here, the best one first."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith(("flags", "Features")):
                return [SHA256, BLAKE2B] if {"sha_ni", "sha2"} & set(line.split()) else [BLAKE2B]
    return [BLAKE2B]


def hasher(name: str) -> Callable[[Any], bytes]:
    """What makes a digest of DIGEST bytes."""
    if name == BLAKE2B:
        return lambda data: hashlib.blake2b(data, digest_size=DIGEST).digest()
    return lambda data: hashlib.sha256(data).digest()


def threads() -> int:
    """How many hash side by side: hashlib lets go of the interpreter meanwhile."""
    return max(2, min(8, len(os.sched_getaffinity(0))))


def in_order(work: Callable[[Any], Any], items: Iterable[Any], workers: int) -> Iterator[Any]:
    """`work` of each item, done by several threads, in the order of the items, some ahead of who asks for them."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: List[Any] = []
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > 2 * workers:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for one in waiting:
                one.cancel()


def block_list(
    handle: int,
    size: int,
    name: str,
    seen: Callable[[int], None] = lambda _count: None,
    kept: Dict[int, bytes] | None = None,
) -> BlockList:
    """The block list of `size` bytes of an open file; `seen` gets the number of blocks read so far.

    With `kept`, digests are those of a tree: that of a block is made of those of its pieces, which are kept, as many as
    are worth their memory. So one pass serves two comparisons.
    """
    digest, own = hasher(name), threading.local()

    def one(block: Tuple[int, List[Extent]]) -> Tuple[int, bytes | None]:
        number = block[0]
        if not hasattr(own, "buffer"):
            own.buffer = bytearray(BLOCK)
        length = min(BLOCK, size - number * BLOCK)
        view = memoryview(own.buffer)[:length]
        fill(handle, view, number * BLOCK)
        if is_zero(own.buffer, length):
            return number, None
        if kept is None:
            return number, digest(view)
        parts = b"".join([digest(view[at : at + PIECE]) for at in range(0, length, PIECE)])
        if len(kept) < PIECED:
            kept[number] = parts
        return number, digest(parts)

    found = {}
    for count, (number, value) in enumerate(in_order(one, blocks(extents(handle, size)), threads()), 1):
        if value is not None:
            found[number] = value
        if not count % REPORT_EVERY:
            seen(count)
    return found


def shortened(parts: bytes) -> bytes:
    """As many bytes of each digest as tell two of them apart; what nobody would be told by that fails when all of them
    are verified."""
    return b"".join([parts[at : at + SHORT] for at in range(0, len(parts), DIGEST)])


class Lease:
    """Tells whether another process has opened a file since this was taken (fcntl(2), "Leases").

    Locks are only for those who ask for them; this is for everybody. Who opens the file waits a moment, until the
    signal has come here and the lease is let go. Not every file system has leases.
    """

    all: List[Any] = []

    def __init__(self, handle: int):
        self._handle = handle
        self.is_held = False
        # The signal would end a process that does not expect it.
        if signal.getsignal(signal.SIGIO) is Lease.signalled:
            with suppress(OSError):
                fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_WRLCK)
                self.is_held = True
                Lease.all.append(self)

    def let_go(self) -> None:
        if self.is_held:
            self.is_held = False
            Lease.all.remove(self)
            with suppress(OSError):
                fcntl.fcntl(self._handle, fcntl.F_SETLEASE, fcntl.F_UNLCK)

    @staticmethod
    def signalled(_number: int, _frame: Any) -> None:
        """Which file it is about is not told."""
        for lease in list(Lease.all):
            lease.let_go()


class Tree:
    """The block list of a file, by a tree of digests, which follows what is written to it.

    As long as nobody else has opened the file, what was not written to need not be read again.
    """

    def __init__(self, handle: int, size: int, name: str):
        self.size = size
        self._handle, self._name = handle, name
        self._lease = Lease(handle)
        self._parts: Dict[int, bytes] = {}
        self.blocks = block_list(handle, size, name, kept=self._parts)
        # By block, the pieces that were written to.
        self._written: Dict[int, Set[int]] = {}

    def pieces(self, number: int) -> bytes:
        """The shortened digests of the pieces of a block when it was read; empty where they are not remembered."""
        return shortened(self._parts.get(number, b""))

    def wrote(self, offset: int, length: int) -> None:
        """Something was written there."""
        for piece in range(offset // PIECE, -(-(offset + length) // PIECE)):
            number, inside = divmod(piece, BLOCK // PIECE)
            self._written.setdefault(number, set()).add(inside)

    def read_back(self, size: int, seen: Callable[[int], None]) -> BlockList:
        """The block list of what is there now, `size` bytes."""
        found = self._read_written(size, seen) if self._lease.is_held else {}
        if not self._lease.is_held:
            return block_list(self._handle, size, self._name, seen, kept={})
        self._lease.let_go()
        return found

    def _read_written(self, size: int, seen: Callable[[int], None]) -> BlockList:
        if size != self.size:
            # What was the last block can have got longer.
            self._parts.pop(self.size // BLOCK, None)
            self._written.setdefault(self.size // BLOCK, set())
        digest = hasher(self._name)
        found = {number: known for number, known in self.blocks.items() if number * BLOCK < size}

        def one(number: int) -> Tuple[int, bytes]:
            first, parts = number * BLOCK, bytearray(self._parts.get(number, b""))
            length = max(0, min(BLOCK, size - first))
            for place in sorted(self._written[number]) if parts else range(-(-length // PIECE)):
                at = place * PIECE
                data = os.pread(self._handle, min(PIECE, length - at), first + at)
                parts[place * DIGEST : (place + 1) * DIGEST] = digest(data)
            return number, bytes(parts)

        for count, (number, parts) in enumerate(in_order(one, sorted(self._written), threads()), 1):
            found.pop(number, None)
            if parts != nothing(digest, min(BLOCK, size - number * BLOCK)):
                found[number] = digest(parts)
            if not count % REPORT_EVERY:
                seen(count)
        return found


def nothing(digest: Callable[[Any], bytes], length: int) -> bytes:
    """The digests of the pieces of a block of zeros."""
    whole, rest = divmod(max(0, length), PIECE)
    return digest(ZERO[:PIECE]) * whole + (digest(ZERO[:rest]) if rest else b"")


def is_zero(buffer: bytearray, length: int) -> bool:
    """Whether the first `length` bytes of a buffer of one block are zeros."""
    if buffer[0] or buffer[length - 1] or buffer[length // 2]:
        return False
    return buffer == ZERO if length == BLOCK else buffer.startswith(ZERO[:length])


def is_blank(handle: int) -> bool:
    """Whether a device holds nothing but zeros.

    Its ends come first: that is where partition tables, file systems and most images begin or end.
    """
    size = os.lseek(handle, 0, os.SEEK_END)
    for offset in (max(0, size - BLOCK), *range(0, size, BLOCK)):
        if not ZERO.startswith(os.pread(handle, BLOCK, offset)):
            return False
        if offset % FORGOTTEN == 0:
            # What was read once is not read again.
            os.posix_fadvise(handle, 0, offset, os.POSIX_FADV_DONTNEED)
    return True


def ends(size: int) -> List[int]:
    """Where on a device of that size the slices are by which it is known what was begun to be written to it."""
    both = (range(0, min(BLOCK, size), SLICE), range(max(0, size - BLOCK), size, SLICE))
    return sorted({offset for part in both for offset in part})


def marks(handle: int, size: int, device: int) -> Dict[str, Any]:
    """What tells later whether the ends of a device of `device` bytes hold nothing but `size` bytes of an image."""
    digest = hasher(BLAKE2B)
    found = [digest(os.pread(handle, min(SLICE, size - at), at))[:SHORT] for at in ends(device) if at < size]
    return {"size": size, "slices": base64.b64encode(b"".join(found)).decode("ascii")}


def is_begun(handle: int, begun: Dict[str, Any]) -> bool:
    """Whether a device seems to hold nothing but what was begun to be written to it, as far as that has come."""
    digest, size, told = hasher(BLAKE2B), begun["size"], base64.b64decode(begun["slices"])
    for number, at in enumerate(offset for offset in ends(os.lseek(handle, 0, os.SEEK_END)) if offset < size):
        data = os.pread(handle, min(SLICE, size - at), at)
        if not ZERO.startswith(data) and digest(data)[:SHORT] != told[number * SHORT : (number + 1) * SHORT]:
            return False
    return True


def zero_out(handle: int, offset: int, length: int) -> None:
    """Make a range of a device zeros, by the device itself where it can."""
    if not (offset | length) % 512:
        with suppress(OSError):
            fcntl.ioctl(handle, BLKZEROOUT, struct.pack("QQ", offset, length))
            return
    for at in range(offset, offset + length, BLOCK):
        write(handle, at, memoryview(ZERO)[: min(BLOCK, offset + length - at)])


def write(handle: int, offset: int, data: memoryview) -> None:
    while data:
        count = os.pwrite(handle, data, offset)
        offset, data = offset + count, data[count:]


def wipe(handle: int, limit: int) -> None:
    """Let a device hold nothing, as far as something was written to it."""
    zero_out(handle, 0, min(limit, os.lseek(handle, 0, os.SEEK_END)))
    os.fsync(handle)
    # What the device itself has made zeros has left no time; it is no longer what somebody may know.
    os.utime(handle)


def summary(size: int, blocks: BlockList, name: str) -> str:
    """One digest, in hex, for a size in bytes and a block list."""
    packed = [struct.pack("<Q", size), *(struct.pack("<Q", number) + blocks[number] for number in sorted(blocks))]
    return hasher(name)(b"".join(packed)).hex()


def all_slices(handle: int, offsets: Iterable[int], size: int, name: str) -> bytes:
    """The shortened digests of the slices of the pieces at those offsets, one after the other.

    By one thread: with so little to hash at a time, several would only hand the interpreter to and fro.
    """
    digest, found = hasher(name), []
    for offset in offsets:
        data = memoryview(os.pread(handle, min(PIECE, size - offset), offset))
        found += [digest(data[at : at + SLICE])[:SHORT] for at in range(0, len(data), SLICE)]
    return b"".join(found)


def pack(blocks: BlockList) -> Dict[str, str]:
    """A block list as JSON can carry it."""
    numbers = sorted(blocks)
    return {
        "numbers": base64.b64encode(struct.pack("<%dQ" % len(numbers), *numbers)).decode("ascii"),
        "digests": base64.b64encode(b"".join(blocks[number] for number in numbers)).decode("ascii"),
    }


def unpack(packed: Dict[str, str]) -> BlockList:
    """A block list from what `pack` made."""
    raw, digests = base64.b64decode(packed["numbers"]), base64.b64decode(packed["digests"])
    numbers = struct.unpack("<%dQ" % (len(raw) // 8), raw)
    return {number: digests[at * DIGEST : (at + 1) * DIGEST] for at, number in enumerate(numbers)}


class Lines:
    """What comes out of a pipe, line by line. One can be as long as a block list is, in many small parts: none of them
    is looked at, or moved, twice."""

    def __init__(self) -> None:
        self._pending = bytearray()
        # Before this there is no end of a line.
        self._seen = 0

    def put(self, data: bytes) -> None:
        self._pending += data

    def take(self) -> bytes | None:
        """The next line without its end; None where it has not all come yet."""
        end = self._pending.find(b"\n", self._seen)
        if end < 0:
            self._seen = len(self._pending)
            return None
        line = bytes(self._pending[:end])
        del self._pending[: end + 1]
        self._seen = 0
        return line

    def has(self, word: bytes) -> bool:
        """Whether a word is among what was not taken yet."""
        return word in self._pending


def widen(pipe: int) -> None:
    """Let a pipe hold as much as a process may ask for."""
    with suppress(OSError):
        fcntl.fcntl(pipe, F_SETPIPE_SZ, BLOCK)


def lock(handle: int, kind: int, start: int = 0, length: int = 0) -> bool:
    """Take a lock of the open file description, as QEMU does; false where somebody else has one that forbids it.

    A file system without locks is none that could tell about others.
    """
    try:
        fcntl.fcntl(handle, F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0))
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True


KNOWN = ("size", "mtime_ns", "inode", "device")


def identity(found: os.stat_result) -> Dict[str, int]:
    """What tells whether a file is still the one that it was, by KNOWN."""
    return {"size": found.st_size, "mtime_ns": found.st_mtime_ns, "inode": found.st_ino, "device": found.st_dev}


def is_same(now: Dict[str, int], known: Mapping[str, int]) -> bool:
    """Whether a file is the one that was known.

    The number of a device can be another one after a reboot: it counts only where the time of the last change, to the
    nanosecond, was not known.
    """
    return all(now[key] == value for key, value in known.items() if key != "device" or "mtime_ns" not in known)


def part_name(target: bytes, run: str) -> bytes:
    """The temporary name beside a target; one that would be too long for a file system is cut and told apart."""
    folder, name = os.path.split(target)
    full = b"%s%s-%s%s" % (PREFIX, run.encode("ascii"), name, SUFFIX)
    if len(full) > 255:
        known = hashlib.sha256(name).hexdigest()[:16].encode("ascii")
        full = b"%s%s-%s-%s%s" % (PREFIX, run.encode("ascii"), name[:100], known, SUFFIX)
    return os.path.join(folder, full)


def own_zone(address: str, table: str = "/proc/net/if_inet6") -> str:
    """An address of this host with the zone that it has here: that of the sender is the name of its own interface."""
    bare = address.partition("%")[0]
    with suppress(OSError):
        known = socket.inet_pton(socket.AF_INET6, bare).hex()
        if known.startswith(("fe8", "fe9", "fea", "feb")):
            with open(table, encoding="ascii") as file:
                for line in file:
                    if line.startswith(known):
                        return "%s%%%s" % (bare, line.split()[-1])
    return bare


def to_bytes(path: str) -> bytes:
    """Not os.fsencode: the locale of a login is not that of the other host."""
    return path.encode("utf-8", "surrogateescape")


def to_text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


# The image that is being written


class Libc:
    """What Python has no name for. ctypes lets go of the interpreter while a call runs."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)

    def begin_writeback(self, handle: int, offset: int, length: int) -> None:
        call = getattr(self._libc, "sync_file_range", None)
        if call is not None:
            call(handle, ctypes.c_int64(offset), ctypes.c_int64(length), SYNC_FILE_RANGE_WRITE)

    def punch(self, handle: int, offset: int, length: int) -> bool:
        call = getattr(self._libc, "fallocate64", None) or getattr(self._libc, "fallocate", None)
        return call is not None and not call(handle, PUNCH_HOLE, ctypes.c_int64(offset), ctypes.c_int64(length))


class Image:
    """A file under its temporary name, or a block device; locked against QEMU and against a second receiver.

    `update` makes it of the file that is there: of a clone of that one where the file system can, else of itself.
    """

    def __init__(self, target: bytes, run: str, size: int, update: bool):
        # A link stays one: what it leads to is what gets written.
        self.target = os.path.realpath(target)
        self.size = size
        self._libc = Libc()
        self._before = self._now()
        # Whether the file that was there has the temporary name now, and whether it is no longer what it was.
        self._taken = False
        self._written = False
        # A new file is all hole. What was there before has to be told what is zero.
        self.is_fresh = False
        # Of what was there, where that was read.
        self.tree: Tree | None = None
        kind = None if self._before is None else self._before.st_mode
        self.is_device = kind is not None and stat.S_ISBLK(kind)
        if kind is not None and not self.is_device and not stat.S_ISREG(kind):
            raise Failed("%s is neither a file nor a block device" % to_text(self.target), "foreign")
        update = update and kind is not None and not self.is_device
        self.path = self.target if self.is_device else part_name(self.target, run)
        self.handle = self._open_device() if self.is_device else self._open_old() if update else self._open_new()

    def _now(self) -> os.stat_result | None:
        try:
            return os.stat(self.target)
        except FileNotFoundError:
            return None

    def _open_device(self) -> int:
        handle = open_alone(self.path)
        has = os.lseek(handle, 0, os.SEEK_END)
        if has < self.size:
            os.close(handle)
            raise Failed("%s has %d bytes, the image has %d" % (to_text(self.path), has, self.size), "too_small")
        return self._locked(handle)

    def _open_new(self) -> int:
        if self._before is not None:
            # Nobody may go on using what is about to be replaced.
            os.close(self._locked(os.open(self.target, os.O_RDWR | os.O_CLOEXEC)))
        remove_part(self.path)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        handle = os.open(self.path, flags, 0o600)
        self.is_fresh = True
        return self._locked(handle)

    def _open_old(self) -> int:
        old = self._locked(os.open(self.target, os.O_RDWR | os.O_CLOEXEC))
        try:
            new = self._open_new_clone(old)
            # Whoever gave it another name wants to keep what it is.
            if new is None and os.fstat(old).st_nlink == 1:
                os.rename(self.target, self.path)
                self._taken = True
                return old
        except BaseException:
            os.close(old)
            raise
        os.close(old)
        return self._open_new() if new is None else new

    def _open_new_clone(self, old: int) -> int | None:
        remove_part(self.path)
        new = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.ioctl(new, FICLONE, old)
            return self._locked(new)
        except OSError:
            os.close(new)
            os.unlink(self.path)
            return None

    def _locked(self, handle: int) -> int:
        if not lock(handle, fcntl.F_WRLCK):
            os.close(handle)
            raise Failed("%s is in use by another process" % to_text(self.target), "in_use")
        return handle

    @property
    def filled(self) -> int:
        """Bytes that can be read now, of those that it shall have."""
        return self.size if self.is_device else min(self.size, os.fstat(self.handle).st_size)

    def begin(self) -> None:
        """From now on it is no longer what was there before."""
        self._written = True
        if not self.is_device:
            os.ftruncate(self.handle, self.size)

    def write(self, offset: int, data: memoryview) -> None:
        if self.tree is not None:
            self.tree.wrote(offset, len(data))
        write(self.handle, offset, data)

    def begin_writeback(self, offset: int, length: int) -> None:
        self._libc.begin_writeback(self.handle, offset, length)

    def zero(self, offset: int, length: int) -> None:
        """Make a range zeros: a hole where there can be one."""
        length = min(length, self.size - offset)
        if length <= 0:
            return
        if self.tree is not None:
            self.tree.wrote(offset, length)
        if not self.is_device and self._libc.punch(self.handle, offset, length):
            return
        zero_out(self.handle, offset, length)

    def flush(self) -> None:
        os.fsync(self.handle)

    def commit(self, mode: int, owner: str, group: str) -> None:
        """Give it owner, mode and name, on the disk when this returns."""
        if not self.is_device:
            os.fchown(self.handle, _user(owner), _group(group))
            os.fchmod(self.handle, mode)
            os.fsync(self.handle)
            now = self._now()
            expected = None if self._taken else self._before
            if (now is None) != (expected is None) or (now and expected and not os.path.samestat(now, expected)):
                raise Failed("%s appeared or changed meanwhile" % to_text(self.target), "foreign")
            self._rename(now is None)
            _relabel(self.target)
            sync_directory(os.path.dirname(self.target))
        os.close(self.handle)

    def _rename(self, is_new: bool) -> None:
        if is_new:
            try:
                # Unlike a rename, this fails if somebody else was faster.
                os.link(self.path, self.target)
            except FileExistsError:
                raise Failed("%s appeared meanwhile" % to_text(self.target), "foreign") from None
            except OSError:
                os.rename(self.path, self.target)
            else:
                os.unlink(self.path)
        else:
            os.rename(self.path, self.target)

    def discard(self) -> None:
        """Leave nothing that looks like an image."""
        try:
            if self.is_device:
                if self._written:
                    wipe(self.handle, self.size)
            elif self._taken and not self._written and not os.path.lexists(self.target):
                os.rename(self.path, self.target)
            else:
                os.unlink(self.path)
        finally:
            os.close(self.handle)


def open_alone(path: bytes, flags: int = 0) -> int:
    """Open what is there to write to it; a device that is mounted, or part of a volume group, is in use."""
    try:
        # Linux takes O_EXCL for that, and passes it over for files.
        return os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC | flags)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise Failed("%s is in use" % to_text(path), "in_use") from None
        raise


def remove_part(path: bytes) -> bool:
    """Remove a temporary file that a killed receiver left; one that is alive holds its lock."""
    name = os.path.basename(path)
    if not (name.startswith(PREFIX) and name.endswith(SUFFIX)):
        raise Failed("%s is not the name of a temporary file of a copy" % to_text(path), "usage")
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        if not lock(handle, fcntl.F_WRLCK):
            raise Failed("%s is in use by another process" % to_text(path), "in_use")
        os.unlink(path)
    finally:
        os.close(handle)
    return True


def sync_directory(path: bytes) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _user(name: str) -> int:
    """The number of a user; root's where there is no name."""
    try:
        return pwd.getpwnam(name).pw_uid if name else 0
    except KeyError:
        raise Failed("there is no user %s" % name, "no_user") from None


def _group(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid if name else 0
    except KeyError:
        raise Failed("there is no group %s" % name, "no_user") from None


def _has_user(name: str) -> bool:
    with suppress(Failed):
        return bool(name) and _user(name) >= 0
    return False


def _has_group(name: str) -> bool:
    with suppress(Failed):
        return bool(name) and _group(name) >= 0
    return False


def _configured(path: str) -> Dict[str, str]:
    """What a configuration file of libvirt sets to names."""
    found = {}
    with suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            name, equals, value = line.partition("=")
            if equals and not name.lstrip().startswith("#"):
                found[name.strip()] = value.partition("#")[0].strip().strip("\"'")
    return found


def _relabel(path: bytes) -> None:
    """As the policy of this host wants a new file there, where it has one."""
    program = shutil.which("restorecon")
    if program and os.path.exists("/sys/fs/selinux/enforce"):
        # There is no Ansible where this runs.
        subprocess.call(  # pylint: disable=ansible-bad-function
            [program, path], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )


# Where the data comes from


class Input:
    """Reads from a pipe or a socket, and waits no longer than a sender can be silent.

    `control` is the pipe of the commands where the data comes another way: when that ends, so does this.
    """

    def __init__(self, handle: int, control: int | None = None):
        self._handle = handle
        self._control = control

    def fill(self, view: memoryview) -> None:
        handles = [self._handle] if self._control is None else [self._handle, self._control]
        while view:
            ready = select.select(handles, [], [], SILENCE)[0]
            if not ready:
                raise Gone
            if self._control is not None and self._control in ready and not os.read(self._control, 4096):
                raise Gone
            if self._handle in ready:
                count = os.readv(self._handle, [view])
                if not count:
                    raise Gone
                view = view[count:]

    def frame(self) -> Tuple[int, int, int]:
        header = bytearray(FRAME.size)
        self.fill(memoryview(header))
        return FRAME.unpack(header)


class Writer(threading.Thread):
    """Writes while the next blocks are on their way; another thread keeps the disk busy meanwhile."""

    def __init__(self, image: Image):
        super().__init__(daemon=True)
        self._image = image
        self._work: queue.Queue[Any] = queue.Queue(IN_FLIGHT)
        self._writeback: queue.Queue[Any] = queue.Queue()
        self._free: queue.Queue[bytearray] = queue.Queue()
        for _number in range(IN_FLIGHT):
            self._free.put(bytearray(BLOCK))
        self.failure: BaseException | None = None
        self._flusher = threading.Thread(target=self._flush, daemon=True)

    def buffer(self) -> bytearray:
        return self._free.get()

    def put(self, kind: int, offset: int, length: int, buffer: bytearray | None = None) -> None:
        self._work.put((kind, offset, length, buffer))

    def end(self) -> None:
        """Wait until all is written; raises what went wrong."""
        self._work.put(None)
        self.join()
        if self.failure is not None:
            raise self.failure

    def run(self) -> None:
        self._flusher.start()
        begin = end = 0
        for kind, offset, length, buffer in iter(self._work.get, None):
            try:
                if self.failure is None:
                    if kind == ZEROES:
                        self._image.zero(offset, length)
                    elif not (self._image.is_fresh and is_zero(buffer, length)):
                        self._image.write(offset, memoryview(buffer)[:length])
                        if end - begin > WRITEBACK or offset < begin:
                            self._writeback.put((begin, end - begin))
                            begin = offset
                        end = offset + length
            except BaseException as error:  # noqa: BLE001 - told to who waits for the end
                self.failure = error
            if buffer is not None:
                self._free.put(buffer)
        self._writeback.put(None)
        self._flusher.join()

    def _flush(self) -> None:
        for offset, length in iter(self._writeback.get, None):
            if length > 0:
                self._image.begin_writeback(offset, length)


# The commands


class Receiver:
    """Carries out commands until its input ends."""

    def __init__(self, commands: int, answers: int):
        self._commands = commands
        self._answers = answers
        self._lines = Lines()
        self._say_lock = threading.Lock()
        self._images: Dict[int, Image] = {}
        self._count = 0
        self._listening: socket.socket | None = None
        self._token = b""
        self._note: str | None = None

    def serve(self) -> None:
        widen(self._commands)
        self._say({"hashes": hashes(), "uid": os.getuid(), "pid": os.getpid()})
        threading.Thread(target=self._live, daemon=True).start()
        try:
            while True:
                line = self._line()
                if not line.strip():
                    continue
                command = json.loads(line)
                try:
                    answer = getattr(self, "do_" + command.pop("do"))(**command)
                except Failed as error:
                    answer = {"error": str(error), "kind": error.kind}
                except OSError as error:
                    name = to_text(error.filename) if isinstance(error.filename, bytes) else error.filename
                    text = "%s: %s" % (name, error.strerror) if name else str(error.strerror or error)
                    answer = {"error": text, "kind": errno.errorcode.get(error.errno or 0, "failed")}
                self._say(answer or {})
        except Gone:
            pass
        finally:
            self._stop_listening()
            for image in list(self._images):
                with suppress(OSError):
                    self.do_discard(image)
            if self._note:
                with suppress(OSError):
                    os.unlink(self._note)

    def _line(self) -> bytes:
        while (line := self._lines.take()) is None:
            ready = select.select([self._commands], [], [], SILENCE)[0]
            more = os.read(self._commands, 65536) if ready else b""
            if not more:
                raise Gone
            self._lines.put(more)
        return line

    def _say(self, answer: Any) -> None:
        data = memoryview(b"\n" if answer is None else json.dumps(answer).encode("ascii") + b"\n")
        with self._say_lock:
            while data:
                data = data[os.write(self._answers, data) :]

    def _live(self) -> None:
        with suppress(OSError):
            while True:
                time.sleep(SIGN_OF_LIFE)
                self._say(None)

    def do_stat(self, path: str, begun: Dict[str, Any] | None = None) -> Dict[str, Any]:
        """What is there. A device with nothing but what was `begun` to be written to it counts as blank."""
        real = os.path.realpath(to_bytes(path))
        try:
            found = os.stat(real)
        except (FileNotFoundError, NotADirectoryError):
            return {"type": "missing", "path": to_text(real)}
        kinds = (("file", stat.S_ISREG), ("block", stat.S_ISBLK), ("directory", stat.S_ISDIR))
        kind = next((name for name, matches in kinds if matches(found.st_mode)), "other")
        answer = {"type": kind, "path": to_text(real), "allocated": found.st_blocks * 512, **identity(found)}
        if kind == "block":
            handle = os.open(real, os.O_RDONLY | os.O_CLOEXEC)
            answer["size"] = os.lseek(handle, 0, os.SEEK_END)
            answer["blank"] = is_blank(handle) or bool(begun and is_begun(handle, begun))
            os.close(handle)
        return answer

    def do_lies_on(self, path: str, images: Dict[str, str]) -> Dict[str, Any]:
        """Which of these images, with their formats, is that file or lies on it; empty for none."""
        real = os.path.realpath(to_bytes(path))
        # What was come to from another image has been compared, with all below it.
        seen = set()
        for image, form in images.items():
            here = image
            while here and (here, form) not in seen:
                if os.path.realpath(to_bytes(here)) == real:
                    return {"image": image}
                seen.add((here, form))
                # The format is never guessed: that would be for the guest to say.
                here, form = _below(here, form) if form not in ("", "raw") else ("", "")
        return {"image": ""}

    def do_reserve(self, needs: Dict[str, int], run: str, named: bool = False, folder: str = SPACE) -> Dict[str, Any]:
        """Note how many bytes each file will need; what is missing, by directory, counting what others have noted.

        `named` is for files that are written under their own names.
        """
        free: Dict[int, List[Any]] = {}
        notes = []
        for path, need in needs.items():
            target = os.path.realpath(to_bytes(path))
            directory = target
            while not os.path.isdir(directory):
                directory = os.path.dirname(directory)
            device = os.stat(directory).st_dev
            found = os.statvfs(directory)
            row = free.setdefault(device, [to_text(directory), found.f_bavail * found.f_frsize, 0])
            row[2] += need
            notes.append(
                {"device": device, "bytes": need, "part": to_text(target if named else part_name(target, run))}
            )
        for note in _noted(folder, os.getpid()):
            if note["device"] in free:
                free[note["device"]][1] -= note["bytes"]
        missing = [row for row in free.values() if row[2] > row[1]]
        if not missing:
            self._note = _note(folder, notes)
        return {"missing": [{"directory": row[0], "free": max(0, row[1]), "need": row[2]} for row in missing]}

    def do_tpm_owner(self, owner: str, group: str, conf: str = QEMU_CONF) -> Dict[str, Any]:
        """The user and group that libvirt here lets TPMs run as, where that is `owner` and `group` on another host;
        empty where this host has nobody for that."""
        said = _configured(conf)
        user = next(filter(_has_user, (said.get("swtpm_user", ""), owner, *SWTPM_USERS)), "")
        if not user:
            return {"owner": "", "group": ""}
        wanted = (said.get("swtpm_group", ""), group, user, "root")
        return {"owner": user, "group": next(filter(_has_group, wanted), "")}

    def do_make_directory(self, path: str, mode: int, owner: str, group: str) -> Dict[str, Any]:
        """Make a directory where there is none."""
        one = to_bytes(path)
        if os.path.isdir(one):
            return {"made": False}
        os.mkdir(one, mode)
        os.chmod(one, mode)
        os.chown(one, _user(owner), _group(group))
        _relabel(one)
        sync_directory(os.path.dirname(one))
        return {"made": True}

    def do_remove_directory(self, path: str) -> Dict[str, Any]:
        """Remove a directory that is empty."""
        with suppress(OSError):
            os.rmdir(to_bytes(path))
        return {}

    def do_remove_part(self, path: str, run: str) -> Dict[str, Any]:
        """Remove what a killed receiver of that run left of an image."""
        return {"removed": remove_part(part_name(os.path.realpath(to_bytes(path)), run))}

    def do_remove(self, path: str, known: Dict[str, int], begun: Dict[str, Any] | None = None) -> Dict[str, Any]:
        """Remove a file, if it is the one that is known; it is gone afterwards, also after a power cut.

        A device stays, and seems to hold nothing; it is also known by what was `begun` to be written to it. What is
        another one than that is told.
        """
        # As when it was written: a link stays one.
        real = os.path.realpath(to_bytes(path))
        try:
            handle = open_alone(real, os.O_NOFOLLOW)
        except FileNotFoundError:
            return {"removed": False}
        try:
            found = os.fstat(handle)
            is_device = stat.S_ISBLK(found.st_mode)
            is_ours = bool(known) and is_same(identity(found), known)
            if not is_ours and not (is_device and begun and is_begun(handle, begun)):
                return {"removed": False, "other": identity(found)}
            if not lock(handle, fcntl.F_WRLCK):
                raise Failed("%s is in use by another process" % path, "in_use")
            if is_device:
                wipe(handle, begun["size"] if begun else os.lseek(handle, 0, os.SEEK_END))
                return {"removed": True}
            os.unlink(real)
        finally:
            os.close(handle)
        sync_directory(os.path.dirname(real))
        return {"removed": True}

    def do_prepare(self, path: str, run: str, size: int, update: bool) -> Dict[str, Any]:
        self._count += 1
        self._images[self._count] = image = Image(to_bytes(path), run, size, update)
        device = os.lseek(image.handle, 0, os.SEEK_END) if image.is_device else 0
        return {"image": self._count, "temporary": to_text(image.path), "fresh": image.is_fresh, "device": device}

    def do_digest(self, path: str, name: str) -> Dict[str, Any]:
        """One digest for the size and content of a file that is there."""
        with open(to_bytes(path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            return {"digest": summary(size, block_list(file.fileno(), size, name), name)}

    def do_hash(self, image: int, name: str) -> Dict[str, Any]:
        """The block list of what is there, by a tree of digests, and how many bytes that is."""
        own = self._images[image]
        tree = own.tree = Tree(own.handle, own.filled, name)
        return {"size": tree.size, **pack(tree.blocks)}

    def do_pieces(self, image: int, numbers: List[int]) -> Dict[str, Any]:
        """The digests of the pieces of blocks of an image that was hashed; empty for one that is not remembered."""
        tree = self._images[image].tree
        return {"digests": [base64.b64encode(tree.pieces(at) if tree else b"").decode("ascii") for at in numbers]}

    def do_slices(self, image: int, name: str, offsets: List[int]) -> Dict[str, Any]:
        """The digests of the slices of whole pieces."""
        own = self._images[image]
        return {"digests": base64.b64encode(all_slices(own.handle, offsets, own.filled, name)).decode("ascii")}

    def do_begin(self, image: int) -> Dict[str, Any]:
        """From now on what was there before counts as lost."""
        self._images[image].begin()
        return {}

    def do_listen(self, address: str) -> Dict[str, Any]:
        self._stop_listening()
        family, kind, protocol, _name, where = socket.getaddrinfo(own_zone(address), PORTS[0], type=socket.SOCK_STREAM)[
            0
        ]
        failure: OSError | None = None
        for port in PORTS:
            listening = socket.socket(family, kind, protocol)
            try:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listening.bind((where[0], port, *where[2:]))
                listening.listen(4)
            except OSError as error:
                listening.close()
                failure = error
                if error.errno != errno.EADDRINUSE:
                    break
            else:
                self._listening, self._token = listening, secrets.token_bytes(TOKEN)
                return {"port": port, "token": self._token.hex()}
        raise Failed("no port of %d to %d on %s: %s" % (PORTS[0], PORTS[-1], address, failure), "no_port")

    def _stop_listening(self) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening = None

    def _accepted(self) -> socket.socket:
        """The connection that knows the token; others are none of ours."""
        listening = self._listening
        if listening is None:
            raise Failed("nothing listens", "usage")
        until = time.monotonic() + ACCEPT
        try:
            while True:
                left = max(0.0, until - time.monotonic())
                ready = select.select([listening.fileno(), self._commands], [], [], left)[0]
                if self._commands in ready and not os.read(self._commands, 4096):
                    raise Gone
                if listening.fileno() in ready:
                    connection = listening.accept()[0]
                    if self._knows(connection):
                        return connection
                    connection.close()
                elif not left:
                    raise Failed("nobody connected within %d s" % ACCEPT, "no_connection")
        finally:
            self._stop_listening()
            self._token = b""

    def _knows(self, connection: socket.socket) -> bool:
        connection.settimeout(5.0)
        said = b""
        with suppress(OSError):
            while len(said) < TOKEN:
                more = connection.recv(TOKEN - len(said))
                if not more:
                    break
                said += more
        connection.settimeout(None)
        return hmac.compare_digest(said, self._token)

    def do_receive(self, image: int, clear: bool) -> Dict[str, Any]:
        """Take frames until the last one; they begin after the word that this is ready for them."""
        own = self._images[image]
        try:
            if not clear:
                self._say({"ready": True})
                return self._receive(own, Input(self._commands))
            with self._accepted() as connection:
                self._say({"ready": True})
                return self._receive(own, Input(connection.fileno(), self._commands))
        finally:
            self._stop_listening()

    def _receive(self, image: Image, source: Input) -> Dict[str, Any]:
        writer = Writer(image)
        writer.start()
        told = False
        count = 0
        try:
            while True:
                offset, length, kind = source.frame()
                if kind in (END, ABORT):
                    break
                if kind == ZEROES:
                    writer.put(kind, offset, length)
                elif kind == DATA and length <= BLOCK and offset + length <= image.size:
                    buffer = writer.buffer()
                    source.fill(memoryview(buffer)[:length])
                    writer.put(kind, offset, length, buffer)
                    count += length
                elif kind != PULSE:
                    raise Gone  # not the language that we speak; there is no way to find the next word
                if writer.failure is not None and not told:
                    # The sender ends what it sends when it reads this.
                    self._say({"early": _said(writer.failure)})
                    told = True
        except BaseException:
            with suppress(Exception):
                writer.end()
            raise
        writer.end()
        if kind == ABORT:
            raise Failed("given up by the sender", "aborted")
        return {"bytes": count}

    def do_seal(self, image: int, name: str, verify: str | None) -> Dict[str, Any]:
        """Flush an image to the disk, and read it back: fails where it is not what it shall be.

        `verify` is the digest that it shall have, by a tree of digests where it was hashed before.
        """
        own = self._images[image]
        # The disk works while the processor does.
        failures: List[BaseException] = []

        def flush() -> None:
            try:
                own.flush()
            except BaseException as error:  # noqa: BLE001 - raised below, where there is somebody to hear it
                failures.append(error)

        flusher = threading.Thread(target=flush, daemon=True)
        flusher.start()
        found = ""
        if verify is not None:

            def seen(count: int) -> None:
                self._say({"verified": count * BLOCK})

            tree = own.tree
            read = tree.read_back(own.size, seen) if tree else block_list(own.handle, own.size, name, seen)
            found = summary(own.size, read, name)
        flusher.join()
        if failures:
            raise failures[0]
        if verify is not None and not hmac.compare_digest(found, verify):
            raise Failed("what was read back from %s is not what was sent" % to_text(own.path), "differs")
        # Owner, mode and name will change, and none of these.
        return {"digest": found, "known": identity(os.fstat(own.handle))}

    def do_rebase(self, image: int, backing: str, kind: str) -> Dict[str, Any]:
        """Let an image that lies on another one look for it at another place."""
        own = self._images[image]
        # QEMU wants the locks that keep others away.
        lock(own.handle, fcntl.F_UNLCK)
        try:
            _run(["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", kind, "-b", to_bytes(backing), "--", own.path])
        finally:
            lock(own.handle, fcntl.F_WRLCK)
        own.flush()
        return {"known": identity(os.fstat(own.handle))}

    def do_commit(self, image: int, mode: int, owner: str, group: str) -> Dict[str, Any]:
        own = self._images[image]
        own.commit(mode, owner, group)
        del self._images[image]
        return {"path": to_text(own.target)}

    def do_discard(self, image: int) -> Dict[str, Any]:
        own = self._images.pop(image, None)
        if own is not None:
            with suppress(FileNotFoundError):
                own.discard()
        return {}


def _note(folder: str, notes: List[Dict[str, Any]]) -> str | None:
    """Let other receivers know what this one is going to write; the lock says that it lives."""
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        path = os.path.join(folder, str(os.getpid()))
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX)
        os.write(handle, json.dumps(notes).encode("ascii"))
    except OSError:
        return None
    return path


def _noted(folder: str, but: int) -> Iterator[Dict[str, Any]]:
    """What other receivers are still going to write."""
    with suppress(OSError):
        for name in os.listdir(folder):
            with suppress(OSError, ValueError), open(os.path.join(folder, name), "r+b") as file:
                if name == str(but):
                    continue
                with suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    # Its process was killed.
                    os.unlink(file.name)
                    continue
                for note in json.load(file):
                    done = 0
                    with suppress(OSError):
                        done = os.stat(to_bytes(note["part"])).st_blocks * 512
                    yield {**note, "bytes": max(0, note["bytes"] - done)}


def _below(image: str, form: str) -> Tuple[str, str]:
    """What an image lies on, and the format of that; empty for nothing, and for an image that cannot be read."""
    done = _done(["qemu-img", "info", "-U", "--output=json", "-f", form, "--", to_bytes(image)], subprocess.DEVNULL)
    told = json.loads(done.stdout) if not done.returncode else {}
    return told.get("full-backing-filename", ""), told.get("backing-filename-format", "")


def _done(command: List[Any], errors: int) -> Any:
    try:
        return subprocess.run(  # pylint: disable=ansible-bad-function
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, check=False
        )
    except FileNotFoundError:
        raise Failed("%s is not installed" % command[0], "not_installed") from None


def _run(command: List[Any]) -> None:
    done = _done(command, subprocess.STDOUT)
    if done.returncode:
        said = done.stdout.decode("utf-8", "replace").strip().splitlines()
        raise Failed("%s failed: %s" % (command[0], said[-1] if said else "status %d" % done.returncode))


def _said(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error)


def main() -> None:
    """Serve on the standard streams; a signal that ends it lets it clean up."""

    def stop(_number: int, _frame: Any) -> None:
        raise Gone

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGIO, Lease.signalled)
    # What a file limit stops is an error of that write, and no reason to die with the file left behind.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    answers = os.dup(1)
    # Nothing but answers may go there.
    os.dup2(2, 1)
    with suppress(BrokenPipeError):
        Receiver(0, answers).serve()
    # A thread that waits for the disk must not keep it.
    os._exit(0)


if __name__ == "__main__":
    main()
