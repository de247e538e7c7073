# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""The sending side of a copy: an image file of this host goes to a receiver, here or on another host.

What travels is the file itself and not what a guest sees in it, so that everything in it survives, and only what it
holds data for, so that the cost is that of the allocated bytes. It travels through the channel of the receiver, which
ssh encrypts, or in clear through a connection of its own.
"""

from __future__ import annotations

import base64
import fcntl
import inspect
import json
import os
import queue
import select
import socket
import stat
import struct
import subprocess
import sys
import termios
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

from . import receiver as far
from .receiver import BLOCK, FRAME, PIECE, SHORT, SLICE, BlockList, Extent

# Read when this is loaded: the archive that a module runs from may be gone later.
SOURCE = inspect.getsource(far).encode("utf-8")
# Reads its program from its input, so that nothing has to be installed, and runs it.
BOOT = (
    "import os\n"
    "def r(n):\n"
    " b=b''\n"
    " while len(b)<n:\n"
    "  c=os.read(0,n-len(b))\n"
    "  if not c: raise SystemExit\n"
    "  b+=c\n"
    " return b\n"
    "exec(compile(r(int(r(8))),'receiver','exec'))"
)
PYTHONS = ("python3", "/usr/libexec/platform-python")
# The first of them that both ends have; AES-GCM is what processors have instructions for.
CIPHERS = "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes128-ctr"
SSH = (
    "ssh",
    "-T",
    f"-oCiphers={CIPHERS}",
    "-oBatchMode=yes",
    "-oCompression=no",
    "-oControlMaster=no",
    "-oControlPath=none",
    "-oForwardAgent=no",
    "-oForwardX11=no",
    "-oClearAllForwardings=yes",
    "-oEscapeChar=none",
    "-oServerAliveInterval=10",
    "-oServerAliveCountMax=3",
)
# Seconds for the first word of a receiver, and for its end.
GREETING = 60.0
GOODBYE = 10.0
# More bytes than the signs of life of a receiver are until it counts as gone.
MANY_SIGNS = 1024
# Milliseconds that data in clear may stay unacknowledged until the connection counts as cut (tcp(7)).
USER_TIMEOUT = 60000
# Of QEMU's block/file-posix.c: byte 100 + N is locked by who needs permission N, byte 200 + N by who does not grant it.
NEEDS, DENIES = 100, 200
CONSISTENT_READ, WRITE, RESIZE = 0, 1, 3
F_OFD_GETLK = 36
# Of a block that cannot be compared.
UNLIKE = b""


class StreamError(Exception):
    """A copy failed; `kind` is for programs: gone, in_use, differs, too_small, foreign, ENOSPC and other errnos."""

    def __init__(self, message: str, kind: str = "failed"):
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Login:
    """How ssh comes to a host."""

    host: str
    user: str = ""
    port: int = 0
    key_file: str = ""
    # By which name its key is known, where that is not the address that is used.
    known_as: str = ""

    def command(self, timeout: float) -> List[str]:
        """What runs a receiver there, as root."""
        options = [f"-oConnectTimeout={max(1, int(timeout))}"]
        options += [f"-oPort={self.port}"] if self.port else []
        options += [f"-oIdentityFile={self.key_file}"] if self.key_file else []
        options += [f"-oUser={self.user}"] if self.user else []
        # As ssh writes the name of a host at another port, which it does not do with this one by itself.
        known_as = self.known_as if self.port in (0, 22) else f"[{self.known_as}]:{self.port}"
        options += [f"-oHostKeyAlias={known_as}"] if self.known_as else []
        root = "" if self.user in ("", "root") else "sudo -n "
        quoted = BOOT.replace("'", '"')
        look = f"for p in {' '.join(PYTHONS)}; do command -v $p >/dev/null && exec {root}$p -c '{quoted}'; done"
        script = f"{look}; echo 'there is no {PYTHONS[0]}' >&2; exit 127"
        return [*SSH, *options, "--", self.host, script]


class Peer:
    """A receiver, which lives as long as this. Its errors are StreamErrors."""

    def __init__(self, command: Sequence[str], where: str):
        self.where = where
        # A process that is talked to, and not a command that is run.
        self._process = subprocess.Popen(  # pylint: disable=ansible-bad-function
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
        self._in, self._out = (pipe.fileno() for pipe in (self._process.stdin, self._process.stdout) if pipe)
        far.widen(self._in)
        self._lines = far.Lines()
        self._lock = threading.Lock()
        # What tells the receiver that this is alive; nothing while it goes from commands to frames, or back.
        self._sign = b"\n"
        self._closed = threading.Event()
        # Seconds without a sign of life until it counts as gone.
        self.silence = far.SILENCE
        # Bytes that the receiver has said and that were read.
        self._heard = 0
        self._is_silent = False
        # A connection of its own that data goes through.
        self.aside: socket.socket | None = None
        self.bytes_sent = 0
        self.hash = ""
        # Whether it may wait for something else than a command.
        self.is_lost = False
        try:
            self._write(b"%8d" % len(SOURCE), SOURCE)
            told = self._greeting()["hashes"]
            self.hash = next(name for name in told if name in (*far.hashes(), far.BLAKE2B))
        except BaseException:
            self.close()
            raise
        threading.Thread(target=self._live, daemon=True).start()

    @classmethod
    def local(cls) -> Peer:
        return cls([sys.executable, "-c", BOOT], "this host")

    @classmethod
    def over_ssh(cls, login: Login, timeout: float = 10.0) -> Peer:
        return cls(login.command(timeout), login.host)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_exception: Any) -> None:
        self.close()

    def close(self) -> None:
        """Let it go: it removes what is not finished. Returns when it has, or when it takes too long."""
        self._closed.set()
        with self._lock, suppress(OSError):
            if self._process.stdin:
                self._process.stdin.close()
        try:
            self._process.wait(GOODBYE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            if stream:
                stream.close()

    def ask(self, do: str, **arguments: Any) -> Dict[str, Any]:
        """The answer to a command."""
        self.order(do, **arguments)
        return self.answer()

    def order(self, do: str, **arguments: Any) -> None:
        """Give a command; its answer is to be fetched."""
        self._write(json.dumps({"do": do, **arguments}).encode("ascii") + b"\n")

    def answer(self, seen: Callable[[Dict[str, Any]], None] = lambda _word: None) -> Dict[str, Any]:
        """The answer to the command that was given; `seen` gets what is said before that."""
        while True:
            word = self._answer(self.silence)
            if "error" in word:
                raise StreamError(f"{self.where}: {word['error']}", word["kind"])
            if not {"early", "verified"} & set(word):
                return word
            seen(word)

    def _greeting(self) -> Dict[str, Any]:
        """The first word of a receiver; what a login may say before that is no part of it."""
        until = time.monotonic() + GREETING
        while True:
            word = self._answer(GREETING, greeting=True)
            if "hashes" in word:
                return word
            if time.monotonic() > until:
                raise StreamError(f"{self.where} has said other things for {GREETING:g} s", "gone")

    def _answer(self, patience: float, greeting: bool = False) -> Dict[str, Any]:
        while True:
            while (line := self._lines.take()) is None:
                if not select.select([self._out], [], [], patience)[0]:
                    self.is_lost = True
                    raise StreamError(f"{self.where} has been silent for {patience:g} s", "gone")
                more = os.read(self._out, 1 << 20)
                if not more:
                    raise self._gone()
                self._heard += len(more)
                self._lines.put(more)
            if line.strip():
                try:
                    return dict(json.loads(line))
                except (TypeError, ValueError):
                    if not greeting:
                        raise StreamError(f"{self.where} said {line[:200]!r}", "gone") from None
                    return {}

    def check(self) -> None:
        """Fail if the receiver has said that there is no use in going on."""
        if self._is_silent:
            raise self._gone()
        while select.select([self._out], [], [], 0)[0]:
            more = os.read(self._out, 65536)
            if not more:
                raise self._gone()
            self._heard += len(more)
            self._lines.put(more)
        if self._lines.has(b'"early"'):
            raise StopSending

    def _gone(self) -> StreamError:
        self.is_lost = True
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GOODBYE)
        said = b""
        while self._process.stderr and select.select([self._process.stderr], [], [], 0)[0]:
            more = os.read(self._process.stderr.fileno(), 65536)
            if not more:
                break
            said += more
        lines = said.decode("utf-8", "replace").strip().splitlines()
        lines += [f"it was silent for {self.silence:g} s"] if self._is_silent else []
        reason = lines[-1] if lines else f"its process ended with status {self._process.returncode}"
        return StreamError(f"{self.where}: the copy's other end is gone: {reason}", "gone")

    def _write(self, *parts: Any) -> None:
        with self._lock:
            try:
                write_all(self._in, parts)
            except OSError:
                raise self._gone() from None
            self.bytes_sent += sum(len(part) for part in parts)

    def sign(self, sign: bytes) -> None:
        with self._lock:
            self._sign = sign

    def frame(self, offset: int, length: int, kind: int, data: Any = b"") -> None:
        self._write(FRAME.pack(offset, length, kind), data)

    def _live(self) -> None:
        heard, since = -1, 0.0
        while not self._closed.wait(far.SIGN_OF_LIFE):
            now = time.monotonic()
            with suppress(OSError, ValueError):
                waiting = struct.unpack("i", fcntl.ioctl(self._out, termios.FIONREAD, bytes(4)))[0]
                # Whoever says more than signs of life waits for us.
                if self._heard + waiting != heard or waiting > MANY_SIGNS:
                    heard, since = self._heard + waiting, now
                elif now - since > self.silence:
                    self._give_up()
                    return
            # Whoever writes just now is sign enough.
            if self._lock.acquire(blocking=False):
                try:
                    write_all(self._in, [self._sign])
                except (OSError, ValueError):
                    return
                finally:
                    self._lock.release()

    def _give_up(self) -> None:
        """End a receiver that stands still: whoever writes to it would wait for ever."""
        self._is_silent = True
        self._process.kill()
        # The thread that sends may let it go at any moment.
        aside = self.aside
        if aside is not None:
            with suppress(OSError):
                aside.shutdown(socket.SHUT_RDWR)


class StopSending(Exception):
    """The receiver has reported an error, which its answer will tell."""


def write_all(handle: int, parts: Sequence[Any]) -> None:
    views = [memoryview(part) for part in parts if len(part)]
    while views:
        count = os.writev(handle, views)
        while views and count >= len(views[0]):
            count -= len(views.pop(0))
        if count:
            views[0] = views[0][count:]


class Image:
    """An image of this host, which nobody can write to while this is open; that includes starting a VM with it."""

    def __init__(self, path: str):
        self.path = path
        self.handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = os.fstat(self.handle)
            self.size = os.lseek(self.handle, 0, os.SEEK_END)
            self.known = far.identity(found)
            self.mode, self.uid, self.gid = found.st_mode & 0o7777, found.st_uid, found.st_gid
            self._lock()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Image:
        return self

    def __exit__(self, *_exception: Any) -> None:
        self.close()

    def close(self) -> None:
        os.close(self.handle)

    def _lock(self) -> None:
        ours = (NEEDS + CONSISTENT_READ, DENIES + WRITE, DENIES + RESIZE)
        theirs = (DENIES + CONSISTENT_READ, NEEDS + WRITE, NEEDS + RESIZE)
        good = all(far.lock(self.handle, fcntl.F_RDLCK, byte, 1) for byte in ours)
        if not good or any(self._is_locked(byte) for byte in theirs):
            raise StreamError(f"{self.path} is in use by another process", "in_use")

    def _is_locked(self, byte: int) -> bool:
        asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
        try:
            told = fcntl.fcntl(self.handle, F_OFD_GETLK, asked)
        except OSError:
            # A file system that has no locks knows of nobody.
            return False
        return bool(struct.unpack_from("h", told)[0] != fcntl.F_UNLCK)

    def is_unchanged(self) -> bool:
        """Whether it is still the file that was opened, and nobody has written to it: not everywhere are there locks,
        nor does everybody ask for them."""
        try:
            found = os.stat(self.path)
        except OSError:
            return False
        return not stat.S_ISREG(found.st_mode) or far.is_same(far.identity(found), self.known)

    @property
    def data(self) -> int:
        """Bytes that it holds data for."""
        return sum(length for _offset, length in far.extents(self.handle, self.size))


@dataclass(frozen=True)
class Sent:
    """An image that has been written under its temporary name; `image` is the receiver's number of it.

    `known` tells it from another file, also when it has its own name. `bytes_sent` is what went over the wire,
    `digest` that of the content where it was verified, else empty.
    """

    image: int
    temporary: str
    known: Dict[str, int]
    bytes_sent: int
    seconds: float
    digest: str


def send(
    source: Image,
    peer: Peer,
    target: str,
    run: str,
    *,
    update: bool = False,
    verify: bool = True,
    bandwidth: int = 0,
    clear_address: str = "",
    progress: Callable[[int], None] = lambda _bytes: None,
    hold: Callable[[], None] = lambda: None,
    begins: Callable[[Dict[str, Any]], None] = lambda _marks: None,
) -> Sent:
    """Copy an image to `target` under a temporary name; the receiver's `commit` gives it its own.

    `update` sends only what differs from the file that is there. `bandwidth` is in bytes per second, 0 for no limit.
    `clear_address` is the receiver's address for a connection of its own, without encryption; empty: none. `progress`
    gets the number of bytes done, and may raise to end the copy. `hold` is called before the content is verified,
    `begins` before the first byte is written to a device, with what tells later that it was this image.
    """
    began, sent_before = time.monotonic(), peer.bytes_sent
    prepared = peer.ask("prepare", path=target, run=run, size=source.size, update=update)
    sending = _Sending(source, peer, prepared["image"], prepared["fresh"], verify, bandwidth, progress, update)
    try:
        if prepared["device"]:
            begins(far.marks(source.handle, source.size, prepared["device"]))
        digest = sending.run(clear_address)
        hold()
        peer.order("seal", image=prepared["image"], name=peer.hash, verify=digest or None)
        sealed = peer.answer()
    except Exception:
        if not peer.is_lost:
            peer.ask("discard", image=prepared["image"])
        raise
    bytes_sent = peer.bytes_sent - sent_before + sending.aside
    took = time.monotonic() - began
    return Sent(prepared["image"], prepared["temporary"], sealed["known"], bytes_sent, took, digest)


def same(source: Image, peer: Peer, path: str) -> bool:
    """Whether a file of the receiver has the content of this image; both are read at a time."""
    peer.order("digest", path=path, name=peer.hash)
    blocks = far.block_list(source.handle, source.size, peer.hash)
    return bool(peer.answer()["digest"] == far.summary(source.size, blocks, peer.hash))


class _Sending:
    """One image on its way."""

    def __init__(
        self,
        source: Image,
        peer: Peer,
        image: int,
        fresh: bool,
        verify: bool,
        bandwidth: int,
        progress: Callable[[int], None],
        update: bool,
    ):
        self._source = source
        self._peer = peer
        self._image = image
        self._fresh = fresh
        self._verify = verify
        self._bandwidth = bandwidth
        self._progress = progress
        self._socket: socket.socket | None = None
        self._blocks: BlockList = {}
        # The digests of the pieces of blocks, on both sides.
        self._ours: Dict[int, bytes] = {}
        self._theirs: Dict[int, bytes] = {}
        # By offset of a piece, those of its slices on both sides.
        self._slices: Dict[int, Tuple[bytes, bytes]] = {}
        self._done = 0
        self._began = time.monotonic()
        # Whether the digests are those of a tree, of which each side remembers the pieces.
        self.by_tree = update and not fresh
        # Bytes that did not go through the receiver's own channel.
        self.aside = 0

    def run(self, clear_address: str) -> str:
        """The digest of the content, empty where none was asked for."""
        peer = self._peer
        address = self._resolved(clear_address) if clear_address else ""
        there = self._compared() if self.by_tree else None
        try:
            self._open(address)
            try:
                if there is not None:
                    self._send_changes(there)
                elif self._verify or not self._fresh or self._socket is None:
                    self._send_blocks()
                else:
                    self._send_extents()
            except StopSending:
                pass
            except StreamError:
                # It may wait for the rest of a frame.
                peer.is_lost = True
                raise
            except Exception as error:
                self._end(far.ABORT)
                with suppress(StreamError):
                    peer.answer()
                if isinstance(error, far.Failed):
                    raise StreamError(f"{self._source.path}: {error}", error.kind) from error
                raise
            self._end(far.END)
            peer.answer()
        finally:
            peer.sign(b"\n")
            peer.aside = None
            if self._socket is not None:
                self._socket.close()
        return far.summary(self._source.size, self._blocks, peer.hash) if self._verify else ""

    # The way

    def _resolved(self, name: str) -> str:
        """The address that a name has here: what the receiver's host takes it for is often one of its loopback."""
        try:
            address, _port, *more = socket.getaddrinfo(name, far.PORTS[0], type=socket.SOCK_STREAM)[0][4]
            # The zone of an IPv6 address, which is no part of it here.
            return f"{address}%{socket.if_indextoname(int(more[1]))}" if more and more[1] else str(address)
        except OSError as error:
            raise StreamError(f"{name} has no address here: {error.strerror}", "unreachable") from error

    def _open(self, clear_address: str) -> None:
        self._peer.ask("begin", image=self._image)
        if not clear_address:
            self._peer.sign(b"")
            self._peer.order("receive", image=self._image, clear=False)
            self._peer.answer()
            self._peer.sign(FRAME.pack(0, 0, far.PULSE))
            return
        told = self._peer.ask("listen", address=clear_address)
        self._peer.order("receive", image=self._image, clear=True)
        try:
            self._socket = socket.create_connection((clear_address, told["port"]), 10.0)
            self._socket.settimeout(None)
            self._peer.aside = self._socket
            self._socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, "TCP_USER_TIMEOUT", 18), USER_TIMEOUT)
            self._socket.sendall(bytes.fromhex(told["token"]))
        except OSError as error:
            self._peer.is_lost = True
            raise StreamError(
                f"{self._peer.where} cannot be reached at {clear_address} port {told['port']}: {error}", "unreachable"
            ) from error
        self._peer.answer()

    def _frame(self, offset: int, length: int, kind: int, data: Any = b"") -> None:
        if self._socket is None:
            self._peer.frame(offset, length, kind, data)
        else:
            try:
                write_all(self._socket.fileno(), [FRAME.pack(offset, length, kind), data])
            except OSError:
                raise self._cut() from None
            self.aside += FRAME.size + len(data)

    def _cut(self) -> Exception:
        """What the receiver says of it, which knows more than the connection that it has closed."""
        self._peer.check()
        return StreamError(f"{self._peer.where}: the connection for the data was cut", "gone")

    def _end(self, kind: int) -> None:
        if self._socket is None:
            self._peer.sign(b"")
        self._frame(0, 0, kind)
        self._peer.sign(b"\n")

    def _went(self, count: int) -> None:
        self._done += count
        self._peer.check()
        self._progress(self._done)
        if self._bandwidth:
            ahead = self._done / self._bandwidth - (time.monotonic() - self._began)
            if ahead > 0:
                time.sleep(ahead)

    # What is sent

    def _read(self, items: Any) -> Iterator[Tuple[int, List[Extent], memoryview, bytes | None]]:
        """Blocks with their data and, unless they are all zeros, their digests; each must be used before the next."""
        source, digest = self._source, far.hasher(self._peer.hash)
        free: queue.Queue[bytearray] = queue.Queue()
        workers = far.threads()
        for _number in range(3 * workers + 2):
            free.put(bytearray(BLOCK))

        def one(block: Tuple[int, List[Extent]]) -> Tuple[int, List[Extent], bytearray, int, bytes | None]:
            number, inside = block
            buffer = free.get()
            length = min(BLOCK, source.size - number * BLOCK)
            view = memoryview(buffer)[:length]
            far.fill(source.handle, view, number * BLOCK)
            found = None if far.is_zero(buffer, length) else digest(view) if self._verify else b"\1"
            return number, inside, buffer, length, found

        for number, inside, buffer, length, found in far.in_order(one, items, workers):
            yield number, inside, memoryview(buffer)[:length], found
            free.put(buffer)

    def _send_blocks(self) -> None:
        """Everything, and what is not there too where the target has old content."""
        source, after = self._source, 0
        for number, inside, view, digest in self._read(far.blocks(far.extents(source.handle, source.size))):
            if digest is not None:
                if self._verify:
                    self._blocks[number] = digest
                for offset, length in inside:
                    if not self._fresh and offset > after:
                        self._frame(after, offset - after, far.ZEROES)
                    at = offset - number * BLOCK
                    self._frame(offset, length, far.DATA, view[at : at + length])
                    after = offset + length
            self._went(sum(length for _offset, length in inside))
        if not self._fresh and source.size > after:
            self._frame(after, source.size - after, far.ZEROES)

    def _send_extents(self) -> None:
        """Everything, as fast as it goes: nobody looks at it here."""
        source, handle = self._source, self._socket.fileno() if self._socket else -1
        for offset, length in far.extents(source.handle, source.size):
            while length:
                count = min(BLOCK, length)
                self._frame(offset, count, far.DATA)
                end = offset + count
                while offset < end:
                    try:
                        done = os.sendfile(handle, source.handle, offset, end - offset)
                    except OSError:
                        raise self._cut() from None
                    if not done:
                        raise StreamError(f"{source.path} became shorter while it was read", "changed")
                    offset += done
                length -= count
                self.aside += count
                self._went(count)

    # Only what differs

    def _compared(self) -> BlockList:
        """The receiver's block list, made there while ours is made here."""
        peer, source = self._peer, self._source
        peer.order("hash", image=self._image, name=peer.hash)
        self._blocks = far.block_list(source.handle, source.size, peer.hash, kept=self._ours)
        told = peer.answer()
        there = far.unpack(told)
        if told["size"] != source.size:
            # A digest there is that of as much as there is.
            there[min(told["size"], source.size) // BLOCK] = UNLIKE
        both = [number for number, digest in there.items() if self._blocks.get(number, digest) != digest]
        both = [number for number in both if number in self._ours and there[number] != UNLIKE]
        told = peer.ask("pieces", image=self._image, numbers=both) if both else {"digests": []}
        self._theirs = {number: base64.b64decode(digests) for number, digests in zip(both, told["digests"])}
        pieces = [piece for number in both for piece in self._pieces(number, there)]
        self._compare_slices([begin for begin, end in pieces if end - begin == PIECE][: far.SLICED])
        return there

    def _compare_slices(self, offsets: Sequence[int]) -> None:
        """The digests of both sides, made at a time."""
        if not offsets:
            return
        peer, source = self._peer, self._source
        peer.order("slices", image=self._image, name=peer.hash, offsets=list(offsets))

        ours = far.all_slices(source.handle, offsets, source.size, peer.hash)
        theirs, length = base64.b64decode(peer.answer()["digests"]), PIECE // SLICE * SHORT
        for number, offset in enumerate(offsets):
            where = slice(number * length, (number + 1) * length)
            self._slices[offset] = (ours[where], theirs[where])

    def _send_changes(self, there: BlockList) -> None:
        source, here = self._source, self._blocks
        for number in sorted(set(there) - set(here)):
            self._frame(number * BLOCK, BLOCK, far.ZEROES)
        for number in sorted(number for number in here if here[number] != there.get(number)):
            went = 0
            for begin, end in self._changes(number, there):
                data = os.pread(source.handle, end - begin, begin)
                is_zero = far.ZERO.startswith(data)
                self._frame(begin, len(data), far.ZEROES if is_zero else far.DATA, b"" if is_zero else data)
                went += len(data)
            self._went(went)

    def _changes(self, number: int, there: BlockList) -> Iterator[Extent]:
        """The begin and end of each part of a block that differs, as small as it is known."""
        for begin, end in self._pieces(number, there):
            if begin in self._slices:
                yield from differing(*self._slices[begin], begin, end, SLICE)
            else:
                yield begin, end

    def _pieces(self, number: int, there: BlockList) -> Iterator[Extent]:
        first = number * BLOCK
        last = min(first + BLOCK, self._source.size)
        ours = self._ours.get(number)
        theirs = self._theirs.get(number) if number in there else self._zeros(last - first)
        if ours and theirs:
            yield from differing(far.shortened(ours), theirs, first, last, PIECE)
        else:
            yield first, last

    def _zeros(self, length: int) -> bytes:
        """The digests of the pieces of a block that is not there."""
        return far.shortened(far.nothing(far.hasher(self._peer.hash), length))


def differing(ours: bytes, theirs: bytes, first: int, last: int, step: int) -> Iterator[Extent]:
    """The begin and end of each part between `first` and `last` whose digests differ, each `step` long but the last."""
    for count, begin in enumerate(range(first, last, step)):
        where = slice(count * SHORT, (count + 1) * SHORT)
        if ours[where] != theirs[where]:
            yield begin, min(begin + step, last)
