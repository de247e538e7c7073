# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""Whether both hosts share a directory: proven by a file that one makes and the other one looks for.

Only libvirt is used, so that two URIs are enough. The second host makes a file of the same name, which a shared file
system refuses whatever its caches say: either answer is a proof.

libvirt stops a pool that it fails to refresh. A check changes nothing, so a pool of the check's own fails first.
"""

from __future__ import annotations

import errno
import hashlib
import posixpath
import re
from contextlib import contextmanager, suppress
from typing import Dict, Iterator, List, Sequence, Set, Tuple

from .._libvirt import OPERATION_FAILED, STORAGE_VOL_EXIST, Host, LibvirtFailure, Pool
from .._pure.refusal import Refusal
from .._pure.storage import NOT_SHARED, SHARED, UNKNOWN, Evidence

VOLUME_PREFIX = ".kvmops-probe-"
POOL_PREFIX = "kvmops-probe-"
# Seconds after which nobody makes this check any more.
STALE_AFTER = 600
SIZE = 512
# Beside an image that a run makes: the run's half of the journal at the destination.
MARKER_PREFIX = ".kvmops-run-"
_LONGEST_NAME = 255
_ABSENT = (errno.ENOENT, errno.ENOTDIR)
# To look into a directory libvirt opens what lies there, and some devices do something then: a watchdog begins to run.
_UNTOUCHED = ("/dev/", "/proc/", "/sys/")
# By why a probe cannot be made, what helps.
_CURES = {
    errno.ENOSPC: "free space in {directory} on {host}",
    errno.EDQUOT: "raise the quota of {directory} on {host}",
    errno.EROFS: "mount {directory} for writing on {host}",
}
_MADE_AT = re.compile(r"\.?kvmops-probe-(\d+)-")


class Storage:
    """The storage pools of one host, by the directories that they cover."""

    def __init__(self, host: Host, run_id: str, now: float):
        self.host = host
        self._run_id = run_id
        self._now = now
        pools = host.pools()
        self._pools: List[Pool] = [pool for pool in pools if not pool.name.startswith(POOL_PREFIX)]
        # What killed runs have left behind.
        self._left = [pool.name for pool in pools if pool.name.startswith(POOL_PREFIX) and self._is_stale(pool.name)]
        self._refreshed: Set[str] = set()
        self._tidied: Set[str] = set()
        # By directory, what lies there.
        self._names: Dict[str, List[str]] = {}
        # By the other host and the directories here and there, what was found out of whether they are the same.
        self._compared: Dict[Tuple[str, str, str], Evidence] = {}

    def same(self, dest: Storage, directory: str, dest_directory: str) -> Evidence:
        """Whether the one directory here and the other on the destination are the same, found out once."""
        key = (dest.host.uuid, directory, dest_directory)
        if key not in self._compared:
            self._compared[key] = _compare(self, dest, directory, dest_directory, self._run_id)
        return self._compared[key]

    def pool(self, directory: str) -> Pool | None:
        """The active pool whose target path is that directory."""
        return next((pool for pool in self._at(directory) if pool.active), None)

    def inactive_pool(self, directory: str) -> Pool | None:
        return next((pool for pool in self._at(directory) if not pool.active), None)

    def missing(self, *directories: str) -> Refusal:
        """The refusal where pools of these directories are needed and none of them is active."""
        said = []
        for directory in directories:
            inactive = self.inactive_pool(directory)
            said.append(f"{directory} (its pool {inactive.name} is not started)" if inactive else directory)
        return missing_pools(str(self.host), *said)

    def _at(self, directory: str) -> List[Pool]:
        return [pool for pool in self._pools if pool.is_directory and pool.path == posixpath.normpath(directory)]

    def refresh(self, pool: Pool) -> None:
        """Let libvirt look at what is in the pool, once, and clear what a killed run left in it."""
        if pool.name not in self._refreshed:
            self.names(pool.path)
            self.host.refresh_pool(pool.name)
            self._refreshed.add(pool.name)
            self._tidied.discard(pool.name)
        self.tidy(pool.name, pool.path)

    def names(self, directory: str) -> List[str]:
        """What lies in a directory, looked at once."""
        if directory not in self._names:
            self._names[directory] = self.look(directory)
        return self._names[directory]

    def has(self, directory: str, name: str = "") -> bool | None:
        """Whether the host has that directory, and that file in it; None where it does not tell."""
        if posixpath.join(directory, "").startswith(_UNTOUCHED):
            return None
        try:
            found = self.names(directory)
        except LibvirtFailure as error:
            return False if error.errno in _ABSENT else None
        return not name or name in found

    def look(self, directory: str) -> List[str]:
        """What lies in a directory now, by a pool of the check's own at another path to the same place.

        libvirt has no two pools of one path, and other checks may look there just now: each writes it another way.
        """
        for path in self._detours(directory):
            try:
                with self._made(path) as pool:
                    return self.host.pool_volumes(pool)
            except LibvirtFailure as error:
                if error.code != OPERATION_FAILED:
                    raise type(error)(str(error).replace(path, directory), error.code, error.errno) from error
        raise LibvirtFailure(f"other checks look into {directory} all the time")

    def _detours(self, directory: str) -> Iterator[str]:
        digest = hashlib.sha256(self._run_id.encode()).digest()
        for before, after in zip(digest[::2], digest[1::2]):
            yield "/." * (before % 8) + directory + "/." * (1 + after % 8)

    def refresh_those_of(self, paths: Sequence[str]) -> List[str]:
        """Refresh the pools of these images once more; returns what could not be refreshed."""
        trouble = []
        for directory in dict.fromkeys(map(posixpath.dirname, paths)):
            pool = self.pool(directory)
            if pool is None:
                continue
            try:
                self.host.refresh_pool(pool.name)
            except LibvirtFailure as error:
                trouble.append(f"pool {pool.name} on {self.host} could not be refreshed: {error}")
        return trouble

    @contextmanager
    def opened(self, directory: str) -> Iterator[str]:
        """Name of a pool that covers the directory, made for the time of the check where there is none."""
        pool = self.pool(directory)
        if pool is not None:
            yield pool.name
            return
        with self._made(directory) as made:
            yield made

    @contextmanager
    def _made(self, path: str) -> Iterator[str]:
        self._close_left()
        name = f"{POOL_PREFIX}{self._run_id}"
        self.host.create_pool(name, path)
        try:
            yield name
        finally:
            with suppress(LibvirtFailure):
                self.host.close_pool(name)

    def _close_left(self) -> None:
        while self._left:
            with suppress(LibvirtFailure):
                self.host.close_pool(self._left.pop())

    def tidy(self, pool: str, directory: str) -> None:
        """Clear what a killed run left in the pool of that directory, as far as libvirt knows it."""
        self._close_left()
        if pool in self._tidied:
            return
        self._tidied.add(pool)
        for name in self.host.pool_volumes(pool):
            if name.startswith(VOLUME_PREFIX) and self._is_stale(name):
                with suppress(LibvirtFailure):
                    self.host.delete_volume(posixpath.join(directory, name))

    def _is_stale(self, name: str) -> bool:
        match = _MADE_AT.match(name)
        return match is not None and self._now - int(match[1]) > STALE_AFTER


def missing_pools(host: str, *directories: str) -> Refusal:
    return Refusal(
        f"{host} has no active storage pool with target path {' nor with '.join(directories)}",
        "pool_missing",
        f"start it, or define it: virsh pool-list --all --details on {host}",
        role="storage_pool",
    )


def _compare(source: Storage, dest: Storage, directory: str, dest_directory: str, run_id: str) -> Evidence:
    name = f"{VOLUME_PREFIX}{run_id}"
    try:
        with source.opened(directory) as source_pool:
            source.tidy(source_pool, directory)
            with _probe(source.host, source_pool, name, posixpath.join(directory, name)):
                return _seen_from(source, dest, directory, dest_directory, name)
    except LibvirtFailure as error:
        return _unmade(source.host, directory, error)


def _seen_from(source: Storage, dest: Storage, made_in: str, directory: str, name: str) -> Evidence:
    if dest.pool(directory) is None and dest.inactive_pool(directory) is not None:
        # It keeps its directory from a pool made for the check, and a copied disk would need it anyway.
        raise dest.missing(directory)
    try:
        with dest.opened(directory) as pool:
            return _counter_probe(source, dest, pool, name, made_in, directory)
    except LibvirtFailure as error:
        if error.errno in _ABSENT:
            return Evidence(NOT_SHARED, f"{dest.host} has no directory {directory}")
        return Evidence(
            UNKNOWN,
            f"{dest.host} could not look into {directory}: {error}",
            f"see that {directory} can be read on {dest.host} (findmnt -T {directory}); mount it anew where its"
            " server was lost",
        )


def _counter_probe(source: Storage, dest: Storage, pool: str, name: str, made_in: str, directory: str) -> Evidence:
    where = f"in {directory}" if directory == made_in else f"in {made_in} and in {directory}"
    dest.tidy(pool, directory)
    try:
        with _probe(dest.host, pool, name, posixpath.join(directory, name)):
            return Evidence(NOT_SHARED, f"{source.host} and {dest.host} each made a file of one name {where}")
    except LibvirtFailure as error:
        if error.errno == errno.EEXIST or error.code == STORAGE_VOL_EXIST:
            return Evidence(SHARED, f"a probe file made in {made_in} on {source.host} was in the way on {dest.host}")
        # Where nothing can be written something can be read; a pool that was made for the check has just looked.
        if name in (dest.look(directory) if dest.pool(directory) is not None else dest.host.pool_volumes(pool)):
            return Evidence(SHARED, f"a probe file made in {made_in} on {source.host} was seen on {dest.host}")
        return _unmade(dest.host, directory, error)


def _unmade(host: Host, directory: str, error: LibvirtFailure) -> Evidence:
    cure = _CURES[error.errno].format(directory=directory, host=host) if error.errno in _CURES else ""
    return Evidence(UNKNOWN, f"{host} could not make a probe file in {directory}: {error}", cure)


@contextmanager
def _probe(host: Host, pool: str, name: str, path: str) -> Iterator[None]:
    host.create_volume(pool, name, SIZE)
    try:
        yield
    finally:
        with suppress(LibvirtFailure):
            host.delete_volume(path)


def marker(path: str, run_id: str) -> str:
    """The file beside an image that says by which run it is made; names of files are bounded."""
    directory, name = posixpath.split(path)
    marked = f"{MARKER_PREFIX}{run_id}-{name}"
    if len(marked.encode()) > _LONGEST_NAME:
        marked = f"{MARKER_PREFIX}{run_id}-{hashlib.sha256(name.encode()).hexdigest()}"
    return posixpath.join(directory, marked)
