# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""The files of a guest that is shut off, on their way to where they shall be, all of them or none.

They are locked, copied under temporary names and verified; only when all of them are there do they get their names.
What must be known to take that back is in the ledger of the run before it is done.
"""

from __future__ import annotations

import ctypes
import errno
import grp
import os
import posixpath
import pwd
import signal
import stat
import subprocess
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

from .._libvirt import Later, NoAnswer
from .._pure import domblk, jobstats
from .._pure import status as statuses
from .._pure import uri as uris
from .._pure.domblk import TPM, File, Folder, Wish
from .._pure.refusal import Refusal
from . import receiver as far
from .stream import Image, Login, Peer, Sent, StreamError, same, send

# Seconds for a receiver whose sender was killed, or whose link was cut, to notice it and to let go.
LETS_GO = far.SILENCE + 15.0
# Seconds that a receiver which is not wanted gets to come about and to go.
LETS_GO_SOON = 2.0
STEP = 0.5
# Seconds between two words about how far it is.
TELL_EVERY = 0.5
# Where an image is converted that has no directory beside it for that.
STAGING = "/var/tmp"
LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1

CURES = {
    "ENOSPC": ("no_space", "make room there"),
    "EDQUOT": ("no_space", "make room there, or raise the quota"),
    "differs": ("copy_differs", "look for faults of memory, disk and network on both hosts, then run again"),
    "in_use": ("image_in_use", "end the process that has it open, or wait for the other run"),
    "foreign": ("dest_image_exists", "remove it there, or give another path"),
    "too_small": ("dest_too_small", "give a device that is as large as the image"),
    "changed": ("image_changed", "end whatever changes it, then run again"),
    "gone": ("copy_interrupted", "run again when both hosts and the link between them are well"),
    "unreachable": ("port_blocked", "open the ports 49152 to 49215 there, or leave encrypt at true"),
    "ENOENT": ("directory_missing", "make that directory there"),
    "not_installed": ("qemu_img_missing", "install qemu-utils or qemu-img there"),
    "no_user": ("owner_missing", "make that user or group there"),
    "EACCES": ("not_permitted", "run as root (become: true)"),
}
# Why a login that works is not enough, by what is said then.
NO_RECEIVER = {
    "there is no python3": ("python_missing", "install python3 there"),
    "sudo: ": ("not_permitted", "let that user run sudo without a password there, or log in as root"),
}
OTHERWISE = ("copy_failed", "remove the cause, then run again")


@dataclass
class Carried:
    """A file at the destination that is a run's own: `known` tells it from others, and is empty until it is whole.

    `before` is the file that was there. `begun` is what a device is known by once something is written to it: it has no
    temporary name that would go with the run.
    """

    target: str
    source: str
    dest: str
    known: Dict[str, int] = field(default_factory=dict)
    before: Dict[str, int] = field(default_factory=dict)
    begun: Dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Way:
    """How the files come to the destination; without a host they stay on this one."""

    host: str = ""
    user: str = ""
    port: int = 0
    key_file: str = ""
    known_as: str = ""

    @property
    def login(self) -> Login:
        return Login(self.host, self.user, self.port, self.key_file, self.known_as)

    def open(self, timeout: float) -> Peer:
        if not self.host:
            return Peer.local()
        try:
            return Peer.over_ssh(self.login, timeout)
        except StreamError as error:
            said = f"no image can be sent to {self.host}: {error}"
            for word, (failure_class, cure) in NO_RECEIVER.items():
                if word in said:
                    raise Refusal(said, failure_class, cure) from error
            raise Refusal(said, "ssh_login", "role ssh_trust", role="ssh_trust") from error


def way_to(dest_uri: str, migrate_uri: str | None = None) -> Way:
    """The way to the host behind a URI, by the address that data shall go to where one is given."""
    uri = uris.parse(dest_uri, "dest_uri")
    address = uris.parse_data(migrate_uri) if migrate_uri else ""
    if uri.is_local:
        return Way()
    is_ssh = uri.transport in ("ssh", "libssh", "libssh2")
    key_file = dict(uri.query).get("keyfile", "")
    return Way(
        address or uri.host,
        (uri.user if is_ssh else "") or "root",
        (uri.port or 0) if is_ssh else 0,
        key_file if is_ssh else "",
        uri.host if address and address != uri.host else "",
    )


class Ahead:
    """A receiver that is begun while other things are still looked at: a login takes its time."""

    def __init__(self) -> None:
        self._way = Way()
        self._begun: Later[Peer] | None = None

    def begin(self, way: Way, timeout: float) -> None:
        self.close()
        self._way, self._begun = way, Later(lambda: way.open(timeout))

    def open(self, way: Way, timeout: float) -> Peer:
        """The receiver that was begun, or one of another way."""
        begun, self._begun = (self._begun, None) if way == self._way else (None, self._begun)
        return begun.result() if begun is not None else way.open(timeout)

    def close(self) -> None:
        """Let it go where nobody has wanted it; one that has yet to come ends when this process does."""
        begun, self._begun = self._begun, None
        if begun is not None:
            with suppress(Refusal, NoAnswer):
                begun.result(LETS_GO_SOON).close()


def refusal(error: StreamError, what: str, **details: Any) -> Refusal:
    failure_class, cure = CURES.get(error.kind, OTHERWISE)
    return Refusal(f"{what}: {error}", failure_class, cure, **details)


class Carrying:
    """One copy of several files. Used as a context: at its end nothing is locked, and nothing unfinished is left."""

    def __init__(
        self,
        files: Sequence[File],
        way: Way,
        wish: Wish,
        run: str,
        timeout: float,
        replaceable: Callable[[File], bool],
        others: Callable[[], Mapping[str, Tuple[str, str]]] = dict,
        begun: Mapping[str, Dict[str, Any]] | None = None,
        opened: Callable[[Way, float], Peer] | None = None,
    ):
        """`replaceable` is true, or raises a Refusal for a file that must not replace what is at its destination.

        `others` tells by path the VM and the format of each image there that is a disk of another VM.
        `begun` are the devices there that an earlier run has left half written, which check mode settles as little as
        anything else.
        `opened` gives the receiver, where one was begun before.
        """
        self.files = tuple(files)
        self.way = way
        self._wish = wish
        self._run = run
        self._timeout = timeout
        self._replaceable = replaceable
        self._find_others = others
        self._begun = begun or {}
        self._opened = opened
        self._images: Dict[str, Image] = {}
        self._peer: Peer | None = None
        self._updates: Dict[str, bool] = {}
        self._skipped: Dict[str, str] = {}
        # By owner and group of the state of a TPM here, those that it gets there.
        self._owners: Dict[Tuple[str, str], Tuple[str, str]] = {}
        # By destination, what tells the file that is there from others.
        self._before: Dict[str, Dict[str, int]] = {}
        self._sent: List[Tuple[File, Sent]] = []
        self.bytes_sent = 0
        self.seconds = 0.0

    def __enter__(self) -> Carrying:
        return self

    def __exit__(self, *_exception: Any) -> None:
        self.close()

    def close(self) -> None:
        for image in self._images.values():
            image.close()
        self._images = {}
        if self._peer is not None:
            self._peer.close()
            self._peer = None

    @cached_property
    def _others(self) -> Mapping[str, Tuple[str, str]]:
        """What other VMs at the destination use, asked for once: there may be many of them."""
        return self._find_others()

    @property
    def _open_peer(self) -> Peer:
        if self._peer is None:
            raise StreamError("nothing is open", "usage")
        return self._peer

    @property
    def total(self) -> int:
        """Bytes that the files hold data for, without those that are there already."""
        return sum(image.data for path, image in self._images.items() if path not in self._skipped)

    # Before anything is changed

    def check(self) -> None:
        """Lock the sources, and refuse what could not be done."""
        peer = self._peer = (self._opened or Way.open)(self.way, self._timeout)
        self.files = tuple(self._owned(file) for file in self.files)
        self._check_directories()
        needs: Dict[str, int] = {}
        taken: Dict[str, str] = {}
        for file in self.files:
            if taken.setdefault(file.dest, file.source) != file.source:
                raise Refusal(
                    f"{taken[file.dest]} and {file.source} would both become {file.dest}",
                    "same_path",
                    "give each its own place with path_map",
                )
            self._lock(file)
            if file.dest == file.source and not self.way.host:
                raise Refusal(f"{file.source} is where it shall be already", "same_path", "give another place")
            there = self._ask("stat", path=file.dest, begun=self._begun.get(file.dest))
            if domblk.is_device(file.dest) != (there["type"] == "block") and self.way.host:
                # What its definition would call it.
                raise Refusal(
                    f"{file.dest} is {'no' if domblk.is_device(file.dest) else 'a'} block device at the destination",
                    "dest_image_exists" if there["type"] == "block" else "image_missing",
                    "make it there, or give the path of a file"
                    if domblk.is_device(file.dest)
                    else "give its path below /dev, or that of a file",
                )
            if there["type"] == "directory" or there["type"] == "other":
                raise Refusal(f"{file.dest} is no file at the destination", "dest_image_exists", "give another path")
            self._check_same(file, there)
            self._before[file.dest] = {key: there[key] for key in far.KNOWN if key in there}
            if there["type"] == "block":
                self._check_unused(file)
                self._check_device(file, there)
            elif there["type"] != "missing":
                if file.is_base and self._is_equal(file, there):
                    self._skipped[file.source] = "the same base image is there"
                    continue
                self._updates[file.source] = self._replaceable(file)
                self._check_unused(file)
            grows = self._bytes(file) - (there["allocated"] if self._updates.get(file.source) else 0)
            if there["type"] != "block":
                needs[file.dest] = max(0, grows)
            if file.convert:
                self._check_stage(file, needs)
        reserve(peer, needs, self._run)

    def _check_directories(self) -> None:
        """All of them at once, so that they can be made at once."""
        folders = dict.fromkeys(posixpath.dirname(file.dest) for file in self.files if not file.folders)
        missing = [folder for folder in folders if self._ask("stat", path=folder)["type"] != "directory"]
        if missing:
            raise domblk.no_directories(missing, "at the destination" if self.way.host else "on this host")

    def _owned(self, file: File) -> File:
        """The state of a TPM belongs to whom libvirt there lets TPMs run as; what is root's stays root's."""
        if file.target != TPM or not self.way.host:
            return file
        folders = []
        for one in file.folders:
            owner, group = self._owner(one, file)
            folders.append(replace(one, owner=owner, group=group))
        owner, group = self._owner(file, file)
        return replace(file, folders=tuple(folders), owner=owner, group=group)

    def _owner(self, one: File | Folder, file: File) -> Tuple[str, str]:
        key = (one.owner, one.group)
        if key == ("root", "root"):
            return key
        if key not in self._owners:
            known = self._ask("tpm_owner", owner=one.owner, group=one.group)
            self._owners[key] = (known["owner"], known["group"])
        owner, group = self._owners[key]
        if not owner:
            raise Refusal(
                f"{file.source} belongs to {one.owner or 'a user without a name'}, and {self._open_peer.where} has"
                " neither that user nor another one that TPMs run as",
                "tpm_owner",
                "install swtpm there, or name a user that is there as swtpm_user in its /etc/libvirt/qemu.conf",
            )
        return (one.owner if one.owner == "root" else owner), group

    def _check_stage(self, file: File, needs: Dict[str, int]) -> None:
        """What is converted is made on this host first."""
        stage, need = self._stage(file), self._bytes(file)
        if not self.way.host:
            needs[stage] = need
            return
        folder = posixpath.dirname(stage)
        found = os.statvfs(folder)
        free = found.f_bavail * found.f_frsize
        if free < need:
            raise Refusal(
                f"the conversion of {file.source} needs {need} bytes in {folder} on this host, and {free} are free",
                "no_space",
                "make room there, or leave format and backing out",
            )

    def _stage(self, file: File) -> str:
        return stage_of(file.source, file.dest, not self.way.host, self._run)

    def _bytes(self, file: File) -> int:
        """What a file holds data for; of one that is made anew it is what it may be at most."""
        return file.needs or self._images[file.source].data

    def _check_unused(self, file: File) -> None:
        """No other VM may have what is going to be written to, or lie on it, whatever is known or wished about it."""
        used = {path: form for path, (_name, form) in self._others.items()}
        image = self._ask("lies_on", path=file.dest, images=used)
        if image["image"]:
            raise Refusal(
                f"{file.dest} at the destination is used by VM {self._others[image['image']][0]} ({image['image']})",
                "image_in_use",
                "give another place with path_map, or move or rename one of the two images",
            )

    def _check_device(self, file: File, there: Mapping[str, Any]) -> None:
        size = self._images[file.source].size
        if not file.convert and there["size"] < size:
            raise Refusal(f"{file.dest} has {there['size']} bytes, and {file.source} has {size}", *CURES["too_small"])
        if not (there["blank"] or self._wish.force):
            raise Refusal(
                f"{file.dest} is a device that holds something",
                "dest_image_exists",
                f"see what it is with blkid -p {file.dest}, and say force: true to have it overwritten",
            )

    def _lock(self, file: File) -> None:
        if file.source in self._images:
            return
        try:
            self._images[file.source] = Image(file.source)
        except StreamError as error:
            raise refusal(error, f"{file.source} cannot be copied") from error
        except PermissionError as error:
            raise Refusal(f"{file.source} cannot be read: {error.strerror}", *CURES["EACCES"]) from error
        except OSError as error:
            raise Refusal(
                f"{file.source} cannot be read: {error.strerror}", "image_unreadable", "restore it from a backup"
            ) from error

    def _check_same(self, file: File, there: Mapping[str, Any]) -> None:
        """A link, or another mount, may lead to the very same file."""
        known = self._images[file.source].known
        if not self.way.host and all(there.get(key) == known[key] for key in ("inode", "device")):
            raise Refusal(f"{file.dest} is {file.source} itself", "same_path", "give another place")

    def _is_equal(self, file: File, there: Mapping[str, Any]) -> bool:
        image = self._images[file.source]
        if file.backing or there["type"] != "file" or there["size"] != image.size:
            return False
        try:
            return same(image, self._open_peer, file.dest)
        except StreamError as error:
            raise refusal(error, f"{file.dest} could not be compared with {file.source}") from error

    def _ask(self, do: str, **arguments: Any) -> Dict[str, Any]:
        try:
            return self._open_peer.ask(do, **arguments)
        except StreamError as error:
            raise refusal(error, f"{arguments.get('path', do)} at the destination") from error

    def plan(self) -> List[Dict[str, Any]]:
        """What is done with each file, why, and how many bytes that is at most."""
        rows = []
        for file in self.files:
            action, reason = "copy", "it is not there"
            if file.source in self._skipped:
                action, reason = "keep", self._skipped[file.source]
            elif file.convert:
                same = file.format == file.convert
                action = "convert"
                reason = "it becomes one whole image" if same else f"{file.format} becomes {file.convert}"
            elif self._updates.get(file.source):
                action, reason = "update", "an older copy of it is there"
            rows.append(
                {
                    "target": file.target,
                    "source": file.source,
                    "dest": file.dest,
                    "format": file.convert or file.format,
                    "action": action,
                    "reason": reason,
                    "bytes": 0 if action == "keep" else self._bytes(file),
                }
            )
        return rows

    def carried(self) -> List[Carried]:
        """What the ledger has to know before the first byte is written."""
        return [
            Carried(file.target, file.source, file.dest, before=self._before.get(file.dest, {}))
            for file in self.files
            if file.source not in self._skipped
        ]

    # The copy

    def copy(
        self,
        tell: Callable[[int, int], None],
        hold: Callable[[str], None],
        begins: Callable[[str, Dict[str, Any]], None],
    ) -> Dict[str, Dict[str, int]]:
        """Write all files under temporary names; by destination, what tells each of them from others.

        `tell` gets the bytes done and those in all, and may raise to end it; `hold` the name of each step; `begins` the
        destination of a device before it is written to, and what it is known by from then on.
        """
        total, done = self.total, 0
        said = 0.0
        known = {}

        for file in self.files:
            if file.source in self._skipped:
                continue

            def progress(count: int, before: int = done) -> None:
                nonlocal said
                if time.monotonic() - said > TELL_EVERY:
                    tell(min(total, before + count), total)
                    said = time.monotonic()

            sent = self._send(file, progress, hold, begins)
            known[file.dest] = sent.known
            self._sent.append((file, sent))
            self.bytes_sent += sent.bytes_sent
            self.seconds += sent.seconds
            done += self._images[file.source].data
        tell(total, total)
        return known

    def _send(
        self,
        file: File,
        progress: Callable[[int], None],
        hold: Callable[[str], None],
        begins: Callable[[str, Dict[str, Any]], None],
    ) -> Sent:
        peer, source = self._open_peer, self._images[file.source]
        opened = None
        try:
            if file.convert:
                opened = source = self._converted(file, lambda: progress(0))
            for folder in file.folders:
                peer.ask("make_directory", **asdict(folder))
            sent = send(
                source,
                peer,
                file.dest,
                self._run,
                update=self._updates.get(file.source, False) and not file.convert,
                verify=self._wish.verify,
                bandwidth=self._wish.bandwidth,
                clear_address="" if self._wish.encrypt or not self.way.host else self.way.host,
                progress=progress,
                hold=lambda: hold(statuses.VERIFYING),
                begins=lambda begun: begins(file.dest, begun),
            )
            if file.backing:
                told = peer.ask("rebase", image=sent.image, backing=file.backing, kind=file.backing_format)
                sent = replace(sent, known=told["known"])
            return sent
        except StreamError as error:
            raise refusal(error, f"{file.source} could not be copied to {file.dest}") from error
        except OSError as error:
            raise Refusal(
                f"{file.source} cannot be read: {error.strerror}", "image_unreadable", "restore it from a backup"
            ) from error
        finally:
            if opened is not None:
                opened.close()
            if file.convert:
                with suppress(FileNotFoundError):
                    os.unlink(self._stage(file))

    def _converted(self, file: File, alive: Callable[[], None]) -> Image:
        """The image in its new format, on this host."""
        stage = self._stage(file)
        # It is as secret as the image, and must not follow a link.
        try:
            os.close(os.open(stage, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise Refusal(f"{stage}, for the conversion, cannot be made: {error.strerror}", *OTHERWISE) from error
        command = ["qemu-img", "convert", "-f", file.format, "-O", file.convert]
        command += ["-r", str(self._wish.bandwidth)] if self._wish.bandwidth else []
        _qemu_img([*command, "--", file.source, stage], file, alive)
        if self._wish.verify:
            compare = ["qemu-img", "compare", "-f", file.format, "-F", file.convert]
            _qemu_img([*compare, "--", file.source, stage], file, alive)
        return Image(stage)

    def commit(self) -> None:
        """Give all files their names, if their sources are still what was copied."""
        for image in self._images.values():
            if not image.is_unchanged():
                raise Refusal(f"{image.path} was changed while it was copied", *CURES["changed"])
        for file, sent in self._sent:
            self._ask("commit", image=sent.image, mode=file.mode, owner=file.owner, group=file.group)
        self._sent = []

    def known_sources(self) -> Dict[str, Dict[str, int]]:
        """By path, what tells each source from another file."""
        return {file.source: self._images[file.source].known for file in self.files if not file.is_base}


def teller(worker: Any, what: str, keep: Callable[[List[Dict[str, Any]]], None]) -> Callable[[int, int], None]:
    """Tells how far a copy is, in bytes done and of all, and gives `what` up where that is wished.

    `keep` gets the points of the series so far.
    """
    began, series = time.monotonic(), jobstats.Series()

    def tell(done: int, total: int) -> None:
        wish = worker.wish()
        if wish is not None:
            raise Refusal(f"{what} was given up: {wish[1]}", wish[0], "run again when it is wanted")
        if not total:
            return
        elapsed = time.monotonic() - began
        worker.say(**statuses.copying(done, total, elapsed))
        series.add(jobstats.copied(done, total, elapsed))
        keep(series.points)

    return tell


def reserve(peer: Peer, needs: Mapping[str, int], run: str, named: bool = False) -> None:
    """Refuse what there is no room for; what there is belongs to these files until the peer is closed.

    `needs` is in bytes by path; `named` is for files that are written under their own names.
    """
    for one in peer.ask("reserve", needs=needs, run=run, named=named)["missing"]:
        raise Refusal(
            f"the copy needs {one['need']} bytes in {one['directory']} on {peer.where}, and {one['free']} are free"
            " and not promised to other copies",
            "no_space",
            "make room there, or give another place",
        )


def remove_sources(known: Mapping[str, Mapping[str, int]]) -> Tuple[List[str], List[str]]:
    """Remove files whose copies have taken their places, if they are still what was copied: the paths that are gone,
    and warnings about those that are not."""
    gone, warnings = [], []
    for path, own in known.items():
        try:
            found = os.stat(path)
            if not stat.S_ISREG(found.st_mode):
                # Nothing but a file is ours to remove: without its node a device could not be found again.
                continue
            now = far.identity(found)
            if not far.is_same(now, own):
                warnings.append(f"{path} was left in place: it is not the file that was copied")
                continue
            os.unlink(path)
            far.sync_directory(os.path.dirname(os.fsencode(path)))
            gone.append(path)
        except FileNotFoundError:
            gone.append(path)
        except OSError as error:
            warnings.append(f"{path} could not be removed: {error.strerror}")
    return gone, warnings


def stage_of(source: str, dest: str, is_local: bool, run: str) -> str:
    """Where an image lies on this host while it is converted: where it shall be, if that is here, else beside the
    source; beside a device there is nothing but the memory that /dev is."""
    places = [dest, source] if is_local else [source]
    beside = next((path for path in places if not path.startswith("/dev/")), "")
    beside = beside or posixpath.join(STAGING, posixpath.basename(source))
    return far.to_text(far.part_name(far.to_bytes(beside), f"{run}-convert"))


def _end_with_us() -> None:
    """Nobody else would end it when this process is killed."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _qemu_img(command: List[str], file: File, alive: Callable[[], None]) -> None:
    """Run it; `alive` is called all the time, and may raise to end it."""
    try:
        process = subprocess.Popen(  # pylint: disable=ansible-bad-function,subprocess-popen-preexec-fn
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=_end_with_us,
        )
    except FileNotFoundError:
        raise Refusal("qemu-img is not installed here", "qemu_img_missing", "install qemu-utils or qemu-img") from None
    with process:
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    output = process.communicate(timeout=STEP)[0]
                    break
                alive()
        finally:
            process.kill()
    if process.returncode:
        said = output.decode("utf-8", "replace").strip().splitlines()
        reason = said[-1] if said else f"status {process.returncode}"
        if reason.endswith(os.strerror(errno.ENOSPC)):
            raise Refusal(f"{file.source} could not be converted to {file.convert}: {reason}", *CURES["ENOSPC"])
        raise Refusal(f"{file.source} could not be converted to {file.convert}: {reason}", *OTHERWISE)


def take_back(carried: Sequence[Carried], way: Way, run: str, timeout: float) -> List[str]:
    """Remove what a run has made at the destination; returns what could not be removed."""
    if not carried:
        return []
    warnings: List[str] = []
    deadline = time.monotonic() + LETS_GO
    with way.open(timeout) as peer:
        for one in carried:
            while True:
                try:
                    _remove_stage(one, way, run)
                    peer.ask("remove_part", path=one.dest, run=run)
                    if one.known or one.begun:
                        said = peer.ask("remove", path=one.dest, known=one.known, begun=one.begun)
                        warnings += _stays(one, said.get("other"), peer.where)
                    if one.target == TPM:
                        # Ours alone, and only where it is empty.
                        peer.ask("remove_directory", path=posixpath.dirname(one.dest))
                        peer.ask("remove_directory", path=posixpath.dirname(posixpath.dirname(one.dest)))
                    break
                except StreamError as error:
                    # Whoever wrote it may not have noticed yet that it is alone.
                    if error.kind == "in_use" and time.monotonic() < deadline:
                        time.sleep(STEP)
                        continue
                    warnings.append(f"{one.dest} on {peer.where} could not be removed: {error}")
                    break
    return warnings


def _stays(one: Carried, other: Mapping[str, int] | None, where: str) -> List[str]:
    """What is said of a file that is not the one which the run has made."""
    if not other or (not one.begun and one.before and far.is_same(dict(other), one.before)):
        # It is not there, or the run had not replaced it yet.
        return []
    return [f"{one.dest} on {where} was left in place: it is not what the run has made of {one.source}"]


def take_back_unfinished(carried: Sequence[Carried], way: Way, run: str, timeout: float) -> List[str]:
    """The same of a guest that is nowhere any more: what is whole stays, and is named."""
    half = [replace(one, known={}, begun={} if one.known else one.begun) for one in carried]
    warnings = take_back(half, way, run, timeout)
    where = way.host or "this host"
    return warnings + [
        f"{one.dest} on {where} stays, where it has come that far: it may be the last copy of {one.source}"
        for one in carried
        if one.known
    ]


def _remove_stage(one: Carried, way: Way, run: str) -> None:
    stage = stage_of(one.source, one.dest, not way.host, run)
    try:
        far.remove_part(far.to_bytes(stage))
    except far.Failed as error:
        raise StreamError(str(error), error.kind) from error
    except OSError as error:
        raise StreamError(f"{stage}: {error.strerror}") from error


# The state of an emulated TPM


def tpm_files(directory: str) -> List[File]:
    """The files of a TPM's state, with owners and modes as they are."""
    found = []
    for folder, _folders, names in os.walk(directory):
        above = (posixpath.dirname(directory), directory, folder)
        folders = tuple(_folder(one) for one in dict.fromkeys(above))
        for name in sorted(names):
            path = posixpath.join(folder, name)
            # What swtpm locks, and makes anew.
            if name == ".lock" or not os.path.isfile(path):
                continue
            own = _folder(path)
            found.append(File(TPM, path, path, mode=own.mode, owner=own.owner, group=own.group, folders=folders))
    return found


def _folder(path: str) -> Folder:
    status = os.stat(path)
    return Folder(path, status.st_mode & 0o7777, *_names(status.st_uid, status.st_gid))


def _names(uid: int, gid: int) -> Tuple[str, str]:
    owner = group = ""
    with suppress(KeyError):
        owner = pwd.getpwuid(uid).pw_name
    with suppress(KeyError):
        group = grp.getgrgid(gid).gr_name
    return owner, group
