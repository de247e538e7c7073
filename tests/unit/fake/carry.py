# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images on their way between the fake hosts: what _images.stream does with files, done with the files of fake hosts.

Its temporary files lie in the directories of the hosts, so that a test sees what a killed run leaves. The bytes
themselves are tested with real files in test_domblk_stream.py.
"""

from __future__ import annotations

import dataclasses
import posixpath

from ansible_collections.kvmops.migration.plugins.module_utils._images import carry, receiver
from ansible_collections.kvmops.migration.plugins.module_utils._images.stream import Sent, StreamError
from ansible_collections.kvmops.migration.plugins.module_utils._migrate import guest, move
from ansible_collections.kvmops.migration.plugins.module_utils._pure.domblk import File, Folder
from ansible_collections.kvmops.migration.plugins.module_utils._pure.images import Image as Described


def known(file) -> dict:
    """A file keeps it when it is renamed."""
    return {"size": file.capacity, "mtime_ns": 0, "inode": id(file), "device": 1}


def part_name(path: str, run: str) -> str:
    folder, name = posixpath.split(path)
    return posixpath.join(folder, f".kvmops-{run}-{name}.part")


class Image:
    """An image of the host that modules run on."""

    world = None

    def __init__(self, path: str):
        self.host = self.world[self.world.local]
        self.path = path
        self.file = self.host.file(path)
        if self.file is None:
            raise FileNotFoundError(2, "No such file or directory", path)
        self.data = self.file.allocation
        self.known = known(self.file)
        self.size = self.file.capacity
        for other in self.host.guests.values():
            if other.state in (1, 3) and f"'{path}'" in other.xml:
                raise StreamError(f"{path} is in use by another process", "in_use")
        self.world.source_locks.add(path)

    def is_unchanged(self) -> bool:
        return self.host.file(self.path) is self.file

    def close(self) -> None:
        self.world.source_locks.discard(self.path)


class Peer:
    """A receiver on a fake host."""

    def __init__(self, host):
        self.host = host
        self.where = host.name
        self.is_open = True
        self._parts = {}
        self.scripts = host.world.peer_scripts

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        self.close()

    def close(self) -> None:
        """As a receiver does at the end of its input."""
        for part, _target in self._parts.values():
            self._remove(part)
        self._parts = {}
        self.is_open = False

    def ask(self, do, **arguments):
        script = self.scripts.get(do)
        if script is not None:
            script(self.host)
        return getattr(self, f"do_{do}")(**arguments)

    def _remove(self, path):
        if self.host.file(path) is None:
            return False
        self.host.remove(path)
        return True

    def do_stat(self, path, begun=None):
        file = self.host.file(path)
        if path in self.host.directories:
            return {"type": "directory", "path": path}
        if (self.host.name, path) in self.host.world.devices:
            return {"type": "block", "path": path, "allocated": 0, "size": 1 << 40, "blank": True}
        if file is None:
            return {"type": "missing", "path": path}
        return {"type": "file", "path": path, "allocated": file.allocation, **known(file)}

    def do_lies_on(self, path, images):
        for image in images:
            here = image
            while here:
                if here == path:
                    return {"image": image}
                here = self.host.file(here).backing if self.host.file(here) is not None else ""
        return {"image": ""}

    def do_reserve(self, needs, run, named):
        need = sum(needs.values())
        free = self.host.world.free_bytes.get(self.host.name, 1 << 40)
        directory = posixpath.dirname(next(iter(needs), "/"))
        return {"missing": [{"directory": directory, "need": need, "free": free}] if need > free else []}

    def do_tpm_owner(self, owner, group):
        return self.host.world.tpm_owner

    def do_make_directory(self, path, mode, owner, group):
        made = path not in self.host.directories
        self.host.directories.setdefault(path, {})
        return {"made": made}

    def do_remove_directory(self, path):
        if self.host.directories.get(path) == {}:
            del self.host.directories[path]
        return {}

    def do_remove_part(self, path, run):
        part = part_name(path, run)
        return {"removed": self._remove(part)}

    def do_remove(self, path, known, begun):
        file = self.host.file(path)
        if file is None:
            return {"removed": False}
        now = globals()["known"](file)
        if not receiver.is_same(now, known):
            return {"removed": False, "other": now}
        return {"removed": self._remove(path)}

    def do_rebase(self, image, backing, kind):
        part, _target = self._parts[image]
        self.host.file(part).backing = backing
        return {"known": known(self.host.file(part))}

    def do_commit(self, image, mode, owner, group):
        self.host.world.owners.append((owner, group))
        part, target = self._parts.pop(image)
        file = self.host.file(part)
        self.host.remove(part)
        self.host.write(target, file)
        return {"path": target}

    def take(self, source, target, run):
        part = part_name(target, run)
        self.host.write(part, dataclasses.replace(source.file))
        number = len(self._parts) + 1
        self._parts[number] = (part, target)
        return number, part


def send(source, peer, target, run, *, progress, hold, **options) -> Sent:
    image, part = peer.take(source, target, run)
    script = peer.scripts.get("send")
    if script is not None:
        script(peer.host)
    progress(source.data)
    hold()
    peer.host.world.sent.append({"source": source.path, "dest": target, **options})
    return Sent(image, part, known(peer.host.file(part)), source.data, 0.1, "digest")


def same(source, peer, path) -> bool:
    return source.file.content == peer.host.file(path).content


def chain_of(world):
    def chain(disk, path, _here):
        file = world[world.local].file(path)
        if file is None:
            return [Described(path, disk.format, state="missing", problem="No such file or directory")]
        images = [Described(path, disk.format, allocated=file.allocation, lock="none", backing=file.backing)]
        while file is not None and file.backing:
            below = world[world.local].file(file.backing)
            images.append(Described(file.backing, below.format, allocated=below.allocation, lock="none"))
            file = below
        return images

    return chain


def tpm_files(world):
    def files(directory):
        own = Folder(directory, 0o711, "root", "root")
        return [
            File("tpm", path, path, owner="root", group="root", folders=(own,))
            for folder, names in world[world.local].directories.items()
            if folder.startswith(directory)
            for path in (posixpath.join(folder, name) for name in names)
        ]

    return files


def remove_sources(world):
    def remove(sources):
        host, gone = world[world.local], []
        for path, was in sources.items():
            file = host.file(path)
            if file is not None and known(file) == was:
                host.remove(path)
                gone.append(path)
        return gone, []

    return remove


def use(world, monkeypatch) -> None:
    """Let everything that would be sent go between these hosts."""
    world.sent, world.peer_scripts, world.free_bytes, world.source_locks = [], {}, {}, set()
    world.unreachable_by_ssh = set()
    world.peers = []
    # Whom the state of a TPM gets at the destination, and whom everything that came there got.
    world.tpm_owner, world.owners = {"owner": "", "group": ""}, []
    # By host and path.
    world.devices = set()

    def opened(way, _timeout):
        host = way.host or world.local
        if host in world.unreachable_by_ssh:
            raise carry.Refusal(f"no image can be sent to {host}: no route", "ssh_login", "role ssh_trust", "ssh_trust")
        world.peers.append(Peer(world[host]))
        return world.peers[-1]

    monkeypatch.setattr(Image, "world", world)
    monkeypatch.setattr(carry, "Image", Image)
    monkeypatch.setattr(carry, "send", send)
    monkeypatch.setattr(carry, "same", same)
    monkeypatch.setattr(carry.Way, "open", opened)
    monkeypatch.setattr(carry, "remove_sources", remove_sources(world))
    monkeypatch.setattr(move, "chain_of", chain_of(world))
    monkeypatch.setattr(guest, "tpm_files", tpm_files(world))
