# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fake of libvirt's Python bindings: the part that the collection uses, with the numbers of libvirt 9.0.

Behind it stands one `World` of named hosts. A migration really moves the domain from one fake host to the other and
honours its flags; `World.script` lets a test interfere at every phase, `complete_job` and `fail_job` end a held one.
"""

from __future__ import annotations

import posixpath
import threading
import time
import uuid as uuids
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from typing import Callable

from fake import around, blockcopy
from fake.around import Around, AroundDomain
from fake.blockcopy import BlockCopies

# Its constants are libvirt's, too.
for part in (around, blockcopy):
    globals().update({name: value for name, value in vars(part).items() if name.startswith("VIR_")})

VIR_ERR_INTERNAL_ERROR = 1
VIR_ERR_NO_SUPPORT = 3
VIR_ERR_NO_CONNECT = 5
VIR_ERR_INVALID_ARG = 8
VIR_ERR_OPERATION_FAILED = 9
VIR_ERR_OPERATION_DENIED = 29
VIR_ERR_SYSTEM_ERROR = 38
VIR_ERR_RPC = 39
VIR_ERR_NO_DOMAIN = 42
VIR_ERR_AUTH_FAILED = 45
VIR_ERR_NO_STORAGE_POOL = 49
VIR_ERR_NO_STORAGE_VOL = 50
VIR_ERR_OPERATION_INVALID = 55
VIR_ERR_CONFIG_UNSUPPORTED = 67
VIR_ERR_ARGUMENT_UNSUPPORTED = 74
VIR_ERR_OPERATION_ABORTED = 78
VIR_ERR_MIGRATE_UNSAFE = 81
VIR_ERR_OPERATION_UNSUPPORTED = 84
VIR_ERR_STORAGE_VOL_EXIST = 90
VIR_ERR_CPU_INCOMPATIBLE = 91
VIR_ERR_MIGRATE_FINISH_OK = 93

VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE = 1
VIR_SECRET_USAGE_TYPE_VOLUME = 1
VIR_SECRET_USAGE_TYPE_CEPH = 2

VIR_DOMAIN_NOSTATE = 0
VIR_DOMAIN_RUNNING = 1
VIR_DOMAIN_BLOCKED = 2
VIR_DOMAIN_PAUSED = 3
VIR_DOMAIN_SHUTDOWN = 4
VIR_DOMAIN_SHUTOFF = 5
VIR_DOMAIN_CRASHED = 6
VIR_DOMAIN_PMSUSPENDED = 7
VIR_DOMAIN_RUNNING_BOOTED = 1
VIR_DOMAIN_RUNNING_MIGRATED = 2
VIR_DOMAIN_RUNNING_POSTCOPY = 10
VIR_DOMAIN_RUNNING_POSTCOPY_FAILED = 11
VIR_DOMAIN_PAUSED_USER = 1
VIR_DOMAIN_PAUSED_MIGRATION = 2
VIR_DOMAIN_PAUSED_IOERROR = 5
VIR_DOMAIN_PAUSED_POSTCOPY = 12
VIR_DOMAIN_PAUSED_STARTING_UP = 11
VIR_DOMAIN_PAUSED_POSTCOPY_FAILED = 13
VIR_DOMAIN_SHUTOFF_MIGRATED = 4

VIR_DOMAIN_XML_SECURE = 1
VIR_DOMAIN_XML_INACTIVE = 2
VIR_DOMAIN_XML_MIGRATABLE = 8
VIR_DOMAIN_UNDEFINE_MANAGED_SAVE = 1
VIR_DOMAIN_UNDEFINE_NVRAM = 4
VIR_DOMAIN_UNDEFINE_KEEP_NVRAM = 8

VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION = 20
VIR_DOMAIN_JOB_NONE = 0
VIR_DOMAIN_JOB_UNBOUNDED = 2
VIR_DOMAIN_JOB_COMPLETED = 3
VIR_DOMAIN_JOB_STATS_COMPLETED = 1
VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED = 2

VIR_DOMAIN_STATS_DIRTYRATE = 512
VIR_DOMAIN_DIRTYRATE_UNSTARTED = 0
VIR_DOMAIN_DIRTYRATE_MEASURING = 1
VIR_DOMAIN_DIRTYRATE_MEASURED = 2
# The first QEMU that measures how fast a guest writes its memory.
MEASURES = 5002000

VIR_MIGRATE_LIVE = 1
VIR_MIGRATE_PEER2PEER = 2
VIR_MIGRATE_TUNNELLED = 4
VIR_MIGRATE_PERSIST_DEST = 8
VIR_MIGRATE_UNDEFINE_SOURCE = 16
VIR_MIGRATE_PAUSED = 32
VIR_MIGRATE_NON_SHARED_DISK = 64
VIR_MIGRATE_NON_SHARED_INC = 128
VIR_MIGRATE_CHANGE_PROTECTION = 256
VIR_MIGRATE_UNSAFE = 512
VIR_MIGRATE_OFFLINE = 1024
VIR_MIGRATE_COMPRESSED = 2048
VIR_MIGRATE_ABORT_ON_ERROR = 4096
VIR_MIGRATE_AUTO_CONVERGE = 8192
VIR_MIGRATE_RDMA_PIN_ALL = 16384
VIR_MIGRATE_POSTCOPY = 32768
VIR_MIGRATE_TLS = 65536
VIR_MIGRATE_PARALLEL = 131072
VIR_MIGRATE_NON_SHARED_SYNCHRONOUS_WRITES = 262144
VIR_MIGRATE_POSTCOPY_RESUME = 524288
VIR_MIGRATE_ZEROCOPY = 1048576

COPYING = VIR_MIGRATE_NON_SHARED_DISK | VIR_MIGRATE_NON_SHARED_INC

VIR_MIGRATE_PARAM_AUTO_CONVERGE_INCREMENT = "auto_converge.increment"
VIR_MIGRATE_PARAM_AUTO_CONVERGE_INITIAL = "auto_converge.initial"
VIR_MIGRATE_PARAM_BANDWIDTH = "bandwidth"
VIR_MIGRATE_PARAM_BANDWIDTH_POSTCOPY = "bandwidth.postcopy"
VIR_MIGRATE_PARAM_COMPRESSION = "compression"
VIR_MIGRATE_PARAM_COMPRESSION_MT_DTHREADS = "compression.mt.dthreads"
VIR_MIGRATE_PARAM_COMPRESSION_MT_LEVEL = "compression.mt.level"
VIR_MIGRATE_PARAM_COMPRESSION_MT_THREADS = "compression.mt.threads"
VIR_MIGRATE_PARAM_COMPRESSION_XBZRLE_CACHE = "compression.xbzrle.cache"
VIR_MIGRATE_PARAM_DEST_NAME = "destination_name"
VIR_MIGRATE_PARAM_DEST_XML = "destination_xml"
VIR_MIGRATE_PARAM_DISKS_PORT = "disks_port"
VIR_MIGRATE_PARAM_DISKS_URI = "disks_uri"
VIR_MIGRATE_PARAM_GRAPHICS_URI = "graphics_uri"
VIR_MIGRATE_PARAM_LISTEN_ADDRESS = "listen_address"
VIR_MIGRATE_PARAM_MIGRATE_DISKS = "migrate_disks"
VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS = "parallel.connections"
VIR_MIGRATE_PARAM_PERSIST_XML = "persistent_xml"
VIR_MIGRATE_PARAM_TLS_DESTINATION = "tls.destination"
VIR_MIGRATE_PARAM_URI = "migrate_uri"

ENOENT = 2
EACCES = 13
EEXIST = 17


class libvirtError(Exception):
    def __init__(self, message: str, code: int = VIR_ERR_INTERNAL_ERROR, int1: int = 0):
        super().__init__(message)
        self.err = (code, 10, message, 2, None, None, None, int1, 0)

    def get_error_code(self) -> int:
        return self.err[0]

    def get_error_message(self) -> str:
        return self.err[2]

    def get_int1(self) -> int:
        return self.err[7]


class Unattended(libvirtError):
    """The daemons have lost each other, which the two QEMUs in post-copy do not need."""


@dataclass
class File:
    """An image: `content` tells two copies of one from two that have grown apart."""

    format: str = "qcow2"
    capacity: int = 2 << 30
    allocation: int = 64 << 20
    content: str = ""
    # The image below it.
    backing: str = ""


Directory = dict  # name -> File; hosts that share storage have the same object


@dataclass
class Guest:
    """One domain on one host."""

    name: str
    uuid: str
    xml: str
    state: int = VIR_DOMAIN_SHUTOFF
    reason: int = 1
    persistent: bool = True
    # The definition where it is another one than that of the running guest.
    inactive_xml: str = ""
    autostart: bool = False
    managed_save: bool = False
    # Whether it is being received.
    arriving: bool = False
    around: Around = field(default_factory=Around)
    # Nanoseconds that it has run on this host, and its reads and writes of every disk.
    cpu_time: int = 10**10
    requests: int = 0
    # What limits its migrations: milliseconds, MiB per second, bytes.
    limits: dict = field(default_factory=lambda: {"MaxDowntime": 300, "MaxSpeed": 8796093022207, "CompressionCache": 1})
    job: dict = field(default_factory=dict)
    completed: dict = field(default_factory=dict)
    # MiB per second that it writes to its memory.
    dirty_rate: int = 8

    @property
    def active(self) -> bool:
        return self.state != VIR_DOMAIN_SHUTOFF

    @property
    def nvram(self) -> str:
        return ET.fromstring(self.xml).findtext("os/nvram", "")

    def disks(self) -> list[tuple[str, str, bool]]:
        found = []
        for node in ET.fromstring(self.xml).findall("devices/disk"):
            source = node.find("source")
            path = "" if source is None else source.get("file", "")
            readonly = node.find("readonly") is not None or node.get("device") == "cdrom"
            found.append((node.find("target").get("dev"), path, readonly))
        return found


@dataclass
class FakePool:
    name: str
    path: str
    active: bool = True
    transient: bool = False
    listed: dict = field(default_factory=dict)

    @property
    def place(self) -> str:
        """The directory, however its path is written."""
        return posixpath.normpath(self.path)


class FakeHost:
    """A host with its own libvirtd."""

    def __init__(self, world: World, name: str):
        self.world = world
        self.name = name
        self.uuid = str(uuids.uuid5(uuids.NAMESPACE_DNS, name))
        self.version = 9000000
        self.hypervisor = 7002000
        self.directories: dict[str, Directory] = {"/vm": {}}
        self.pools: dict[str, FakePool] = {}
        # Directories into which libvirt may not look.
        self.denied: set[str] = set()
        self.guests: dict[str, Guest] = {}
        # Directories whose listing is as stale as the cache of a network file system.
        self.stale_listings: set[str] = set()
        self.shared_types: set[str] = set()
        # What guests can have here: networks, with whether they are active, and secrets, with what each is for.
        self.machines = ["pc-i440fx-7.2", "pc-q35-7.2", "q35"]
        self.types = ["qemu", "kvm"]
        self.emulator = "/usr/bin/qemu-system-x86_64"
        self.cpu = "EPYC"
        self.lacks_features: dict[str, str] = {}
        self.networks: dict[str, bool] = {"default": True}
        # By network, the names of its port groups.
        self.portgroups: dict[str, list[str]] = {}
        # By network filter, those that it refers to.
        self.filters: dict[str, list[str]] = {"clean-traffic": ["no-spoofing"], "no-spoofing": []}
        self.secrets: dict[str, str] = {}
        self.memory_free = 8 << 30
        # By directory, what is free there.
        self.pool_free: dict[str, int] = {}
        # Set while the host does not answer: calls wait until it does.
        self.answers = threading.Event()
        self.answers.set()
        self.broken = ""
        # What a URI that leads here from elsewhere must have.
        self.password = ""
        # By UUID of a guest whose dirty rate is measured, how often somebody has looked.
        self.measured: dict[str, int] = {}
        self.calls: list[str] = []
        self.add_pool("vm", "/vm")

    def add_pool(self, name: str, path: str, active: bool = True) -> FakePool:
        pool = FakePool(name, path, active)
        pool.listed = dict(self.directories.get(pool.place, {}))
        self.pools[name] = pool
        return pool

    def check_access(self, path: str) -> None:
        """Refuse where libvirt may not look into the directory."""
        if posixpath.normpath(path) in self.denied:
            raise libvirtError(f"cannot open directory '{path}': Permission denied", 38, EACCES)

    def share(self, path: str, other: FakeHost) -> None:
        """Both hosts see one directory under that path, and libvirt knows it."""
        self.directories[path] = other.directories.setdefault(path, {})
        for host in (self, other):
            host.shared_types.add(path)
            for pool in host.pools.values():
                pool.listed = dict(host.directories.get(pool.path, {}))

    def file(self, path: str) -> File | None:
        return self.directories.get(posixpath.dirname(path), {}).get(posixpath.basename(path))

    def write(self, path: str, file: File) -> None:
        self.directories.setdefault(posixpath.dirname(path), {})[posixpath.basename(path)] = file

    def remove(self, path: str) -> None:
        del self.directories[posixpath.dirname(path)][posixpath.basename(path)]

    def check_name(self, name: str, uuid: str) -> None:
        """Refuse a domain whose name or UUID belongs to another one here."""
        for other in self.guests.values():
            if other.uuid == uuid and other.name != name:
                message = f"operation failed: domain '{other.name}' is already defined with uuid {uuid}"
                raise libvirtError(message, VIR_ERR_OPERATION_FAILED)
            if other.name == name and other.uuid != uuid:
                message = f"operation failed: domain '{name}' already exists with uuid {other.uuid}"
                raise libvirtError(message, VIR_ERR_OPERATION_FAILED)

    def called(self, what: str) -> None:
        self.calls.append(what)
        fault = self.world.faults.get((self.name, what))
        if fault is not None:
            raise fault
        if not self.answers.wait(self.world.hang_limit):
            raise libvirtError("end of a test", VIR_ERR_RPC)
        if self.broken:
            raise libvirtError(self.broken, VIR_ERR_INTERNAL_ERROR)


class World:
    """All hosts of a test, seen from one of them."""

    def __init__(self, *names: str):
        self.hosts = {name: FakeHost(self, name) for name in names}
        self.local = names[0]
        self.aliases: dict[str, str] = {}
        self.faults: dict[tuple[str, str], Exception] = {}
        self.hang_limit = 30.0
        self.script: Callable[[str, FakeHost, FakeHost, Guest], None] = lambda phase, source, dest, guest: None
        self.migrations: list[dict] = []
        # The last one.
        self.migration: _Migration | None = None
        self.limits_set: list[tuple[str, int]] = []
        # Who wants to hear that another pass over a guest's memory has begun.
        self.iteration_callbacks: list = []
        self.overwritten: list[str] = []
        self.stats: dict = {
            "type": VIR_DOMAIN_JOB_UNBOUNDED,
            "time_elapsed": 1500,
            "memory_total": 268435456,
            "memory_processed": 201326592,
            "memory_remaining": 1048576,
            "memory_bps": 134217728,
            "memory_iteration": 3,
            "memory_dirty_rate": 10,
            "memory_page_size": 4096,
            "disk_total": 2147483648,
            "disk_processed": 67108864,
            "disk_remaining": 0,
        }
        self._held = threading.Event()
        self._held.set()
        self._verdict: libvirtError | None = None
        self.held_at = threading.Event()
        # A model of a guest that is being copied, where a test has one: statistics come from it, and it ends the job.
        self.model = None
        # Errors of the next calls for statistics, None for one that goes well.
        self.stats_faults: list[Exception | None] = []

    def __getitem__(self, name: str) -> FakeHost:
        return self.hosts[name]

    def hold_job(self) -> None:
        """Let the next migration wait in its perform phase."""
        self._held.clear()

    def complete_job(self) -> None:
        self._verdict = None
        self._held.set()

    def complete_soon(self) -> None:
        """Complete the job that is held, a moment after it has begun: however slow the machine is, it is seen."""

        def complete() -> None:
            if self.held_at.wait(self.hang_limit):
                time.sleep(0.2)
            self.complete_job()

        threading.Thread(target=complete, daemon=True).start()

    def fail_job(self, error: libvirtError) -> None:
        self._verdict = error
        self._held.set()

    def wait_for_verdict(self) -> None:
        self.held_at.set()
        if not self._held.wait(self.hang_limit):
            raise libvirtError("end of a test", VIR_ERR_RPC)
        verdict, self._verdict = self._verdict, None
        if verdict is not None:
            raise verdict

    def resolve(self, uri: str, seen_from: str) -> FakeHost:
        rest = uri.partition("://")[2]
        address = rest.partition("/")[0].rpartition("@")[2].partition(":")[0]
        name = self.aliases.get(address, address) or seen_from
        if name not in self.hosts:
            raise libvirtError(
                f"unable to connect to server at '{address}:22': Name or service not known", VIR_ERR_SYSTEM_ERROR
            )
        password = rest.partition("/")[0].rpartition("@")[0].partition(":")[2]
        if address and self.hosts[name].password not in ("", password):
            raise libvirtError("authentication failed: Failed to authenticate: Access denied", VIR_ERR_AUTH_FAILED)
        return self.hosts[name]


world: World


def use(new: World) -> World:
    """Make this the world that the bindings lead to."""
    global world
    world = new
    return new


_never = threading.Event()


def registerErrorHandler(function, context):
    return 1


def virEventRegisterDefaultImpl():
    return 0


def virEventRunDefaultImpl():
    _never.wait()


def open(uri):
    host = world.resolve(uri, world.local)
    host.called("open")
    return virConnect(host)


def openReadOnly(uri):
    connection = open(uri)
    connection._read_only = True
    return connection


def _not_valid(why: str) -> libvirtError:
    return libvirtError(f"Requested operation is not valid: {why}", VIR_ERR_OPERATION_INVALID)


def _public(xml: str) -> str:
    """A definition without its secrets, as it is told to whoever does not ask for them."""
    if "passwd" not in xml:
        return xml
    root = ET.fromstring(xml)
    for graphics in root.findall("devices/graphics"):
        graphics.attrib.pop("passwd", None)
    return ET.tostring(root, encoding="unicode")


class _Object:
    def __init__(self, host: FakeHost, read_only: bool = False):
        self._host = host
        self._read_only = read_only
        self._o: object | None = object()

    def _changes(self, what: str) -> None:
        if self._read_only:
            raise libvirtError(f"operation forbidden: read only access prevents {what}", VIR_ERR_OPERATION_DENIED)
        self._host.called(what)


class virConnect(_Object):
    def domainEventRegisterAny(self, domain, event, callback, opaque):
        self._host.called("domainEventRegisterAny")
        if event == VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION:
            self._host.world.iteration_callbacks.append(lambda number: callback(self, domain, number, opaque))
        return 0

    def setKeepAlive(self, interval, count):
        return 0

    def close(self):
        return 0

    def getCapabilities(self):
        self._host.called("getCapabilities")
        host = self._host
        machines = "".join(f"<machine>{name}</machine>" for name in host.machines)
        domains = "".join(f"<domain type='{name}'/>" for name in host.types)
        return (
            f"<capabilities><host><uuid>{host.uuid}</uuid><cpu><vendor>AMD</vendor><model>{host.cpu}</model></cpu></host>"
            f"<guest><arch name='x86_64'><emulator>{host.emulator}</emulator>{machines}{domains}</arch></guest>"
            "</capabilities>"
        )

    def listAllNetworks(self, flags):
        self._host.called("listAllNetworks")
        return [virNetwork(self._host, name) for name in self._host.networks]

    def listAllNWFilters(self, flags):
        self._host.called("listAllNWFilters")
        return [virNWFilter(self._host, name) for name in self._host.filters]

    def listAllSecrets(self, flags):
        self._host.called("listAllSecrets")
        return [virSecret(self._host, uuid) for uuid in self._host.secrets]

    def getMemoryStats(self, cell, flags):
        self._host.called("getMemoryStats")
        assert cell == -1, "all of its memory"
        free = self._host.memory_free >> 10
        return {"total": 64 << 20, "free": free - 30, "buffers": 10, "cached": 20}

    def compareHypervisorCPU(self, emulator, arch, machine, virttype, xml, flags):
        self._changes("compareHypervisorCPU")
        assert emulator in (None, self._host.emulator)
        assert (arch, virttype) == ("x86_64", "qemu")
        assert flags == VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE, "else it does not name what is missing"
        model = ET.fromstring(xml).findtext("model")
        lacks = self._host.lacks_features.get(model)
        if lacks == "model":
            raise libvirtError(f"internal error: Unknown CPU model {model}", VIR_ERR_INTERNAL_ERROR)
        if lacks:
            message = f"the CPU is incompatible with host CPU: Host CPU does not provide required features: {lacks}"
            raise libvirtError(message, VIR_ERR_CPU_INCOMPATIBLE)
        return 2

    def getDomainCapabilities(self, emulator, arch, machine, virttype, flags):
        self._host.called("getDomainCapabilities")
        if emulator not in (None, self._host.emulator):
            message = f"Cannot check QEMU binary {emulator}: No such file or directory"
            raise libvirtError(message, VIR_ERR_SYSTEM_ERROR, ENOENT)
        return "<domainCapabilities/>"

    def getHostname(self):
        return self._host.name

    def getLibVersion(self):
        return self._host.version

    def getVersion(self):
        return self._host.hypervisor

    def _wrap(self, guest):
        return virDomain(self._host, guest.uuid, self._read_only)

    def lookupByName(self, name):
        self._host.called("lookupByName")
        for guest in self._host.guests.values():
            if guest.name == name:
                return self._wrap(guest)
        raise libvirtError(f"Domain not found: no domain with matching name '{name}'", VIR_ERR_NO_DOMAIN)

    def lookupByUUIDString(self, uuid):
        self._host.called("lookupByUUIDString")
        if uuid in self._host.guests:
            return self._wrap(self._host.guests[uuid])
        raise libvirtError(f"Domain not found: no domain with matching uuid '{uuid}'", VIR_ERR_NO_DOMAIN)

    def listAllDomains(self, flags):
        self._host.called("listAllDomains")
        return [self._wrap(guest) for guest in self._host.guests.values()]

    def domainListGetStats(self, doms, stats=0, flags=0):
        self._host.called("domainListGetStats")
        assert stats == VIR_DOMAIN_STATS_DIRTYRATE, "no other is known here"
        return [(domain, domain.dirty_rate()) for domain in doms]

    def defineXML(self, xml):
        self._changes("defineXML")
        root = ET.fromstring(xml)
        name, uuid = root.findtext("name"), root.findtext("uuid")
        self._host.check_name(name, uuid)
        guest = self._host.guests.setdefault(uuid, Guest(name, uuid, xml))
        guest.persistent = True
        if guest.active:
            guest.inactive_xml = xml
        else:
            guest.xml = xml
        return self._wrap(guest)

    def listAllStoragePools(self, flags):
        self._host.called("listAllStoragePools")
        return [virStoragePool(self._host, name, self._read_only) for name in self._host.pools]

    def storagePoolLookupByName(self, name):
        self._host.called("storagePoolLookupByName")
        if name not in self._host.pools:
            raise libvirtError(f"Storage pool not found: no storage pool with matching name '{name}'", 49)
        return virStoragePool(self._host, name, self._read_only)

    def storagePoolCreateXML(self, xml, flags):
        self._changes("storagePoolCreateXML")
        root = ET.fromstring(xml)
        name, path = root.findtext("name"), root.findtext("target/path")
        if any(pool.path == path for pool in self._host.pools.values()):
            raise libvirtError("operation failed: Storage source conflict with pool", VIR_ERR_OPERATION_FAILED)
        # Compared as they are written: another path to the same place is another one.
        place = posixpath.normpath(path)
        if place not in self._host.directories:
            raise libvirtError(f"cannot open directory '{path}': No such file or directory", 38, ENOENT)
        self._host.check_access(path)
        self._host.add_pool(name, path).transient = True
        return virStoragePool(self._host, name)

    def storageVolLookupByPath(self, path):
        self._host.called("storageVolLookupByPath")
        for pool in self._host.pools.values():
            name = posixpath.basename(path)
            if pool.active and pool.path == posixpath.dirname(path) and name in pool.listed:
                return virStorageVol(self._host, pool.name, name, self._read_only)
        raise libvirtError(f"Storage volume not found: no storage vol with matching path '{path}'", 50)


class virNetwork(_Object):
    def __init__(self, host, name):
        super().__init__(host)
        self._name = name

    def name(self):
        return self._name

    def isActive(self):
        return int(self._host.networks[self._name])

    def XMLDesc(self, flags):
        groups = "".join(f"<portgroup name='{name}'/>" for name in self._host.portgroups.get(self._name, ()))
        return f"<network><name>{self._name}</name><bridge name='br-{self._name}'/>{groups}</network>"


class virNWFilter(_Object):
    def __init__(self, host, name):
        super().__init__(host)
        self._name = name

    def name(self):
        return self._name

    def XMLDesc(self, flags):
        references = "".join(f"<filterref filter='{name}'/>" for name in self._host.filters[self._name])
        return f"<filter name='{self._name}'>{references}</filter>"


class virSecret(_Object):
    def __init__(self, host, uuid):
        super().__init__(host)
        self._uuid = uuid

    def UUIDString(self):
        return self._uuid

    def usageType(self):
        return VIR_SECRET_USAGE_TYPE_CEPH

    def usageID(self):
        return self._host.secrets[self._uuid]


class virStoragePool(_Object):
    def __init__(self, host, name, read_only=False):
        super().__init__(host, read_only)
        self._name = name

    @property
    def _pool(self) -> FakePool:
        return self._host.pools[self._name]

    def name(self):
        return self._name

    def isActive(self):
        return int(self._pool.active)

    def info(self):
        self._host.called("pool info")
        return [2, 1 << 42, 0, self._host.pool_free.get(self._pool.path, 1 << 40)]

    def XMLDesc(self, flags):
        return f"<pool type='dir'><name>{self._name}</name><target><path>{self._pool.path}</path></target></pool>"

    def _directory(self):
        if not self._pool.active:
            raise libvirtError(f"storage pool '{self._name}' is not active", VIR_ERR_OPERATION_INVALID)
        return self._host.directories[self._pool.place]

    def storageVolLookupByName(self, name):
        if not self._pool.active:
            raise _not_valid(f"storage pool '{self._name}' is not active")
        if name not in self._pool.listed:
            raise libvirtError(f"Storage volume not found: no storage vol with matching name '{name}'", 50)
        return virStorageVol(self._host, self._name, name, self._read_only)

    def refresh(self, flags):
        try:
            self._changes("refresh")
            self._host.check_access(self._pool.path)
        except libvirtError:
            # storagePoolRefresh in storage_driver.c
            self._stop()
            raise
        directory = self._directory()
        if self._pool.path not in self._host.stale_listings:
            self._pool.listed = dict(directory)

    def listVolumes(self):
        return list(self._pool.listed)

    def createXML(self, xml, flags):
        self._changes("createXML")
        root = ET.fromstring(xml)
        name = root.findtext("name")
        if name in self._pool.listed:
            raise libvirtError(f"storage volume '{name}' exists already", VIR_ERR_STORAGE_VOL_EXIST)
        directory = self._directory()
        if self._pool.place in self._host.denied:
            raise libvirtError(f"Failed to create file '{self._pool.path}/{name}': Permission denied", 38, EACCES)
        if name in directory:
            raise libvirtError(f"Failed to create file '{self._pool.path}/{name}': File exists", 38, EEXIST)
        backing = root.findtext("backingStore/path", "")
        file = File(root.find("target/format").get("type"), int(root.findtext("capacity")), 0, backing=backing)
        self._directory()[name] = self._pool.listed[name] = file
        return virStorageVol(self._host, self._name, name)

    def destroy(self):
        self._changes("destroy pool")
        self._stop()

    def _stop(self):
        if self._pool.transient:
            del self._host.pools[self._name]
        else:
            self._pool.active = False


class virStorageVol(_Object):
    def __init__(self, host, pool, name, read_only=False):
        super().__init__(host, read_only)
        self._pool = host.pools[pool]
        self._name = name

    @property
    def _file(self) -> File:
        return self._pool.listed[self._name]

    def name(self):
        return self._name

    def path(self):
        return posixpath.join(self._pool.path, self._name)

    def storagePoolLookupByVolume(self):
        return virStoragePool(self._host, self._pool.name, self._read_only)

    def info(self):
        return [0, self._file.capacity, self._file.allocation]

    def XMLDesc(self, flags):
        return f"<volume><target><format type='{self._file.format}'/></target></volume>"

    def delete(self, flags):
        self._changes("delete volume")
        directory = self._host.directories[self._pool.place]
        if self._name not in directory:
            raise libvirtError(f"cannot unlink file '{self._name}': No such file or directory", 38, ENOENT)
        del directory[self._name]
        self._pool.listed.pop(self._name, None)


class virDomain(_Object, AroundDomain, BlockCopies):
    def __init__(self, host, uuid, read_only=False):
        super().__init__(host, read_only)
        self._uuid = self.uuid = uuid

    @property
    def around(self) -> Around:
        return self._guest.around

    def called(self, what: str) -> None:
        self._host.called(what)

    @staticmethod
    def fail(message: str, code: int) -> None:
        raise libvirtError(message, code)

    @property
    def _guest(self) -> Guest:
        if self._uuid not in self._host.guests:
            raise libvirtError(f"Domain not found: no domain with matching uuid '{self._uuid}'", VIR_ERR_NO_DOMAIN)
        return self._host.guests[self._uuid]

    def name(self):
        return self._guest.name

    def UUIDString(self):
        return self._uuid

    def state(self, flags):
        self._host.called("state")
        return [self._guest.state, self._guest.reason]

    def isPersistent(self):
        return int(self._guest.persistent)

    def isActive(self):
        return int(self._guest.active)

    def autostart(self):
        return int(self._guest.autostart)

    def vcpus(self):
        self._host.called("vcpus")
        return ([(0, 1, self._guest.cpu_time, 0)], [(True,)])

    def blockStats(self, target):
        self._host.called("blockStats")
        if target not in [known for known, _path, _readonly in self._guest.disks()]:
            raise libvirtError(f"invalid argument: invalid path: {target}", VIR_ERR_INVALID_ARG)
        return (self._guest.requests, 512, self._guest.requests, 512, -1)

    def blockInfo(self, target, flags):
        self._host.called("blockInfo")
        path = next((path for known, path, _readonly in self._guest.disks() if known == target), "")
        if not path:
            message = f"invalid argument: disk '{target}' does not currently have a source assigned"
            raise libvirtError(message, VIR_ERR_INVALID_ARG)
        file = self._host.file(path)
        if file is None:
            raise libvirtError(f"cannot stat file '{path}': No such file or directory", VIR_ERR_SYSTEM_ERROR, ENOENT)
        return [file.capacity, file.allocation, file.allocation]

    def setAutostart(self, wanted):
        self._changes("setAutostart")
        if not self._guest.persistent:
            raise _not_valid("cannot set autostart for transient domain")
        self._guest.autostart = bool(wanted)

    def hasManagedSaveImage(self, flags):
        return int(self._guest.managed_save)

    def XMLDesc(self, flags):
        self._host.called("XMLDesc")
        if flags & VIR_DOMAIN_XML_SECURE and self._read_only:
            message = "operation forbidden: virDomainGetXMLDesc with secure flag"
            raise libvirtError(message, VIR_ERR_OPERATION_DENIED)
        inactive = self._guest.inactive_xml if flags & VIR_DOMAIN_XML_INACTIVE else ""
        xml = inactive or self._guest.xml
        if not flags & VIR_DOMAIN_XML_INACTIVE:
            xml = self.with_mirrors(xml)
        return xml if flags & VIR_DOMAIN_XML_SECURE else _public(xml)

    def undefineFlags(self, flags):
        self._changes("undefine")
        self.check_undefine(flags)
        guest = self._guest
        if not guest.persistent:
            raise _not_valid("cannot undefine transient domain")
        if guest.managed_save and not flags & VIR_DOMAIN_UNDEFINE_MANAGED_SAVE:
            raise _not_valid("Refusing to undefine while domain managed save image exists")
        if guest.nvram and not flags & (VIR_DOMAIN_UNDEFINE_NVRAM | VIR_DOMAIN_UNDEFINE_KEEP_NVRAM):
            raise _not_valid("cannot undefine domain with nvram")
        if guest.active:
            guest.persistent = False
        else:
            del self._host.guests[self._uuid]

    def _check_active(self):
        if not self._guest.active:
            raise _not_valid("domain is not running")

    def startDirtyRateCalc(self, seconds, flags=0):
        self._changes("startDirtyRateCalc")
        self._check_active()
        if self._host.hypervisor < MEASURES:
            message = "Operation not supported: QEMU does not support calculating dirty page rate"
            raise libvirtError(message, VIR_ERR_OPERATION_UNSUPPORTED)
        if not 1 <= seconds <= 60:
            raise libvirtError("internal error: calculation time is out of range", VIR_ERR_INTERNAL_ERROR)
        if self._host.measured.get(self._uuid) == 1:
            raise libvirtError(
                "internal error: unable to execute QEMU command 'calc-dirty-rate': the dirty rate is already being"
                " measured.",
                VIR_ERR_INTERNAL_ERROR,
            )
        self._host.measured[self._uuid] = 0

    def dirty_rate(self):
        """The group of its statistics; a guest that is shut off has none. It is measured when one has looked twice."""
        guest = self._guest
        if not guest.active or self._host.hypervisor < MEASURES:
            return {}
        looks = self._host.measured.get(self._uuid)
        if looks is not None and looks < VIR_DOMAIN_DIRTYRATE_MEASURED:
            self._host.measured[self._uuid] = looks + 1
        told = {
            "dirtyrate.calc_status": VIR_DOMAIN_DIRTYRATE_UNSTARTED if looks is None else looks,
            "dirtyrate.calc_start_time": 0 if looks is None else 1700000000,
            "dirtyrate.calc_period": 0 if looks is None else 1,
            "dirtyrate.calc_mode": "page-sampling",
        }
        if looks == VIR_DOMAIN_DIRTYRATE_MEASURED:
            told["dirtyrate.megabytes_per_second"] = guest.dirty_rate
        return told

    def resume(self):
        self._changes("resume")
        self._check_active()
        if self._guest.state == VIR_DOMAIN_RUNNING:
            raise _not_valid("domain is already running")
        self._guest.state, self._guest.reason = VIR_DOMAIN_RUNNING, 5

    def suspend(self):
        self._changes("suspend")
        self._check_active()
        if self._guest.state != VIR_DOMAIN_PAUSED:
            reason = VIR_DOMAIN_PAUSED_MIGRATION if self._guest.job else VIR_DOMAIN_PAUSED_USER
            self._guest.state, self._guest.reason = VIR_DOMAIN_PAUSED, reason

    def _limit(self, name, value=None):
        (self._host.called if value is None else self._changes)(f"migrate{'Get' if value is None else 'Set'}{name}")
        self._check_active()
        if value is not None:
            self._guest.limits[name] = value
            self._host.world.limits_set.append((name, value))
        return self._guest.limits[name]

    def migrateGetMaxDowntime(self, flags=0):
        return self._limit("MaxDowntime")

    def migrateSetMaxDowntime(self, value, flags=0):
        self._limit("MaxDowntime", value)

    def migrateGetMaxSpeed(self, flags=0):
        return self._limit("MaxSpeed")

    def migrateSetMaxSpeed(self, value, flags=0):
        self._limit("MaxSpeed", value)

    def migrateGetCompressionCache(self, flags=0):
        return self._limit("CompressionCache")

    def migrateSetCompressionCache(self, value, flags=0):
        self._limit("CompressionCache", value)

    def migrateStartPostCopy(self, flags=0):
        self._changes("migrateStartPostCopy")
        if not self._guest.job:
            raise _not_valid("post-copy can only be started while outgoing migration is in progress")
        if not self._host.world.migrations[-1]["flags"] & VIR_MIGRATE_POSTCOPY:
            raise _not_valid("switching to post-copy requires migration to be started with VIR_MIGRATE_POSTCOPY flag")
        self._host.world.migration.hand_over()

    def jobInfo(self):
        self._host.called("jobInfo")
        self._check_job()
        return [self._guest.job.get("type", VIR_DOMAIN_JOB_NONE), *([0] * 11)]

    def _check_job(self):
        if self._guest.arriving:
            message = "Operation not supported: migration statistics are available only on the source host"
            raise libvirtError(message, VIR_ERR_OPERATION_UNSUPPORTED)
        self._check_active()

    def jobStats(self, flags):
        self._host.called("jobStats")
        guest, world = self._guest, self._host.world
        if flags & VIR_DOMAIN_JOB_STATS_COMPLETED:
            # Not while another job runs.
            told = {} if guest.job else guest.completed
            if not guest.job and not flags & VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED:
                guest.completed = {}
            return dict(told) or {"type": VIR_DOMAIN_JOB_NONE}
        fault = world.stats_faults.pop(0) if world.stats_faults else None
        if fault is not None:
            raise fault
        self._check_job()
        if guest.job and world.model is not None:
            guest.job.update(world.model.tick(world, guest))
        return dict(guest.job) or {"type": VIR_DOMAIN_JOB_NONE}

    def abortJob(self):
        self._changes("abortJob")
        self._check_active()
        if not self._guest.job:
            raise _not_valid("no job is active on the domain")
        if self._guest.reason == VIR_DOMAIN_PAUSED_POSTCOPY and self._guest.state == VIR_DOMAIN_PAUSED:
            raise _not_valid("cannot abort migration in post-copy mode")
        self._host.world.fail_job(libvirtError("operation aborted: job 'migration out' canceled by client", 78))

    def migrateToURI3(self, dconnuri, params, flags):
        self._changes("migrate")
        if dconnuri is None:
            raise libvirtError("direct migration is not supported by the connection driver", VIR_ERR_OPERATION_INVALID)
        if not flags & VIR_MIGRATE_PEER2PEER:
            raise libvirtError("only peer to peer here", VIR_ERR_OPERATION_INVALID)
        _Migration(self._host, self._guest, dconnuri, params, flags).run()

    def migrate3(self, dconn, params, flags):
        self._changes("migrate3")
        if flags & VIR_MIGRATE_PEER2PEER:
            raise libvirtError("use virDomainMigrateToURI3 for peer-to-peer migration", VIR_ERR_INVALID_ARG)
        _Migration(self._host, self._guest, None, params, flags, dconn._host).run()


class _Migration:
    """libvirt's peer-to-peer protocol in as many steps as a test may want to break."""

    def __init__(self, source: FakeHost, guest: Guest, dconnuri: str | None, params: dict, flags: int, dest=None):
        self.world = source.world
        self.source, self.guest, self.params, self.flags = source, guest, params, flags
        self.dconnuri = dconnuri
        self.dest = dest

    def run(self) -> None:
        guest, flags = self.guest, self.flags
        self.params = dict(self.params)
        self.xml = self.params.pop("destination_xml", guest.xml)
        self.name = self.params.get("destination_name", guest.name)
        self.world.migration = self
        self.world.migrations.append(
            {"uuid": guest.uuid, "uri": self.dconnuri, "params": self.params, "flags": flags, "xml": self.xml}
        )
        if self.dest is None:
            self.dest = self.world.resolve(self.dconnuri, self.source.name)
        if self.dest.uuid == self.source.uuid:
            raise libvirtError(f"Attempt to migrate guest to the same host {self.dest.uuid}", VIR_ERR_INTERNAL_ERROR)
        self.before = (guest.state, guest.reason)
        if flags & VIR_MIGRATE_POSTCOPY_RESUME:
            self._resume()
            return
        if flags & VIR_MIGRATE_POSTCOPY and not (flags & VIR_MIGRATE_LIVE and guest.state == VIR_DOMAIN_RUNNING):
            message = "argument unsupported: post-copy migration is not supported with non-live or paused migration"
            raise libvirtError(message, VIR_ERR_ARGUMENT_UNSUPPORTED)
        try:
            guest.job = dict(self.world.stats)
            self._phase("begin")
            self._check()
            self._prepare()
            self._phase("prepare")
            if not flags & VIR_MIGRATE_OFFLINE:
                self._perform()
            self._phase("perform")
            self._finish()
            self._phase("finish")
            self._confirm()
            self._phase("confirm")
        except Unattended:
            raise
        except libvirtError:
            guest.job = {}
            raise

    def arrive(self) -> None:
        """The last page has come, and nobody needed to be asked."""
        self._finish()
        self._confirm()

    def hand_over(self) -> None:
        """From now on the guest runs at the destination, whose missing pages come from the source."""
        self.guest.state, self.guest.reason = VIR_DOMAIN_PAUSED, VIR_DOMAIN_PAUSED_POSTCOPY
        arriving = self.dest.guests[self.guest.uuid]
        arriving.state, arriving.reason = VIR_DOMAIN_RUNNING, VIR_DOMAIN_RUNNING_POSTCOPY
        arriving.persistent = arriving.persistent or bool(self.flags & VIR_MIGRATE_PERSIST_DEST)

    def _resume(self) -> None:
        """Go on with a post-copy that has failed; it can fail again."""
        arriving = self.dest.guests[self.guest.uuid]
        there = (arriving.state, arriving.reason)
        if self.before != (VIR_DOMAIN_PAUSED, VIR_DOMAIN_PAUSED_POSTCOPY_FAILED):
            raise libvirtError("Requested operation is not valid: post-copy migration has not failed", 55)
        if not self.flags & VIR_MIGRATE_POSTCOPY:
            raise libvirtError("resuming failed post-copy migration requires post-copy to be enabled", 84)
        if self.flags & COPYING:
            raise libvirtError("the disks are there", VIR_ERR_INTERNAL_ERROR)
        self.guest.job = dict(self.world.stats)
        self.guest.reason, arriving.reason = VIR_DOMAIN_PAUSED_POSTCOPY, VIR_DOMAIN_RUNNING_POSTCOPY
        try:
            self._phase("resume")
            self.world.wait_for_verdict()
        except Unattended:
            raise
        except libvirtError:
            self.guest.reason = VIR_DOMAIN_PAUSED_POSTCOPY_FAILED
            arriving.state, arriving.reason = there
            raise
        self._finish()
        self._confirm()

    def _perform(self) -> None:
        try:
            self.world.wait_for_verdict()
        except libvirtError:
            self._roll_back()
            raise

    def _phase(self, name: str) -> None:
        try:
            self.world.script(name, self.source, self.dest, self.guest)
        except Unattended:
            raise
        except libvirtError:
            if name in ("begin", "prepare", "perform"):
                self._roll_back()
            raise

    def _roll_back(self) -> None:
        arriving = self.dest.guests.get(self.guest.uuid)
        if (self.guest.state, self.guest.reason) == (VIR_DOMAIN_PAUSED, VIR_DOMAIN_PAUSED_POSTCOPY):
            # There is no way back.
            self.guest.reason = VIR_DOMAIN_PAUSED_POSTCOPY_FAILED
            if arriving is not None:
                arriving.reason = VIR_DOMAIN_RUNNING_POSTCOPY_FAILED
            return
        if arriving is not None:
            arriving.arriving = False
        if arriving is not None and arriving.reason == VIR_DOMAIN_PAUSED_MIGRATION:
            if arriving.persistent:
                arriving.state, arriving.reason = VIR_DOMAIN_SHUTOFF, 1
                arriving.xml, arriving.inactive_xml = arriving.inactive_xml, ""
            else:
                del self.dest.guests[self.guest.uuid]

    def _check(self) -> None:
        guest, flags = self.guest, self.flags
        if guest.around.snapshots:
            raise _not_valid(f"cannot migrate domain with {len(guest.around.snapshots)} snapshots")
        self.dest.check_name(self.name, guest.uuid)
        if flags & VIR_MIGRATE_OFFLINE:
            if flags & COPYING:
                raise libvirtError("offline migration cannot handle non-shared storage", VIR_ERR_OPERATION_INVALID)
            if not flags & VIR_MIGRATE_PERSIST_DEST:
                raise libvirtError("offline migration must be specified with the persistent flag set", 55)
        elif not guest.active:
            raise libvirtError("Requested operation is not valid: domain is not running", VIR_ERR_OPERATION_INVALID)

    def _prepare(self) -> None:
        if self.flags & VIR_MIGRATE_OFFLINE:
            return
        listed = self.params.get("migrate_disks")
        there = {target: path for target, path, _readonly in Guest(self.name, self.guest.uuid, self.xml).disks()}
        for target, original, readonly in self.guest.disks():
            path = there[target]
            if self.flags & COPYING and (target in listed if listed else not readonly):
                self._copy(original, path)
            elif path and self.dest.file(path) is None:
                raise libvirtError(f"Cannot access storage file '{path}': No such file or directory", 38, ENOENT)
            elif path and not readonly and not self._safe(path):
                message = "Unsafe migration: Migration without shared storage is unsafe"
                raise libvirtError(message, VIR_ERR_MIGRATE_UNSAFE)
        if self.guest.nvram and self.dest.file(self.guest.nvram) is None:
            # Made of the firmware's template, and left there by a migration that fails.
            self.dest.write(self.guest.nvram, File("raw", 540672, 540672, "template"))
        if self.guest.uuid not in self.dest.guests:
            self.dest.guests[self.guest.uuid] = Guest(
                self.name,
                self.guest.uuid,
                self.xml,
                VIR_DOMAIN_PAUSED,
                VIR_DOMAIN_PAUSED_MIGRATION,
                persistent=False,
                inactive_xml=self.params.get("persistent_xml") or self.guest.inactive_xml or self.guest.xml,
            )
        else:
            arriving = self.dest.guests[self.guest.uuid]
            arriving.state, arriving.reason = VIR_DOMAIN_PAUSED, VIR_DOMAIN_PAUSED_MIGRATION
            arriving.inactive_xml, arriving.xml = arriving.inactive_xml or arriving.xml, self.xml
        self.dest.guests[self.guest.uuid].arriving = True

    def _safe(self, path: str) -> bool:
        return bool(self.flags & VIR_MIGRATE_UNSAFE) or posixpath.dirname(path) in self.source.shared_types

    def _copy(self, original_path: str, path: str) -> None:
        directory, name = posixpath.split(path)
        pool = next((pool for pool in self.dest.pools.values() if pool.active and pool.path == directory), None)
        original, there = self.source.file(original_path), self.dest.file(path)
        if self.flags & VIR_MIGRATE_NON_SHARED_INC:
            if there is None:
                message = "pre-creation of storage targets for incremental storage migration is not supported"
                raise libvirtError(message, VIR_ERR_OPERATION_INVALID)
            if there.content or not there.backing:
                self.world.overwritten.append(path)
        elif there is None:
            if pool is None:
                raise libvirtError(
                    f"Storage pool not found: no storage pool with matching target path '{directory}'", 49
                )
            there = File(original.format, original.capacity, original.allocation)
            self.dest.write(path, there)
            pool.listed[name] = there
        else:
            self.world.overwritten.append(path)
        there.content = original.content

    def _finish(self) -> None:
        """The guest begins to run at the destination."""
        arriving = self.dest.guests.get(self.guest.uuid)
        if arriving is None:
            arriving = Guest(self.name, self.guest.uuid, self.xml, persistent=False)
            self.dest.guests[self.guest.uuid] = arriving
        arriving.arriving = False
        if self.flags & VIR_MIGRATE_PERSIST_DEST:
            arriving.persistent = True
            arriving.inactive_xml = self.params.get("persistent_xml") or self.guest.inactive_xml or self.guest.xml
        if self.flags & VIR_MIGRATE_OFFLINE:
            # Nothing runs, so there is only one definition.
            arriving.xml, arriving.inactive_xml = self.xml, ""
        else:
            self.guest.state, self.guest.reason = VIR_DOMAIN_PAUSED, VIR_DOMAIN_PAUSED_MIGRATION
            resumed = self.flags & VIR_MIGRATE_POSTCOPY_RESUME
            paused = (self.before[0] == VIR_DOMAIN_PAUSED and not resumed) or self.flags & VIR_MIGRATE_PAUSED
            arriving.state = VIR_DOMAIN_PAUSED if paused else VIR_DOMAIN_RUNNING
            arriving.reason = VIR_DOMAIN_PAUSED_USER if paused else VIR_DOMAIN_RUNNING_MIGRATED
            if self.guest.nvram and self.source.file(self.guest.nvram) is not None:
                self.dest.file(self.guest.nvram).content = self.source.file(self.guest.nvram).content
            # The destination knows nothing of the disks: the source drives their copy.
            memory = {key: value for key, value in self.world.stats.items() if not key.startswith("disk_")}
            arriving.completed = {**memory, "type": VIR_DOMAIN_JOB_COMPLETED, "downtime": 94, "setup_time": 3}

    def _confirm(self) -> None:
        """The source lets go."""
        self.guest.job = {}
        if not self.flags & VIR_MIGRATE_OFFLINE:
            self.guest.state, self.guest.reason = VIR_DOMAIN_SHUTOFF, VIR_DOMAIN_SHUTOFF_MIGRATED
        if self.flags & VIR_MIGRATE_UNDEFINE_SOURCE or not self.guest.persistent:
            del self.source.guests[self.guest.uuid]
