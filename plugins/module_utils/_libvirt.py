# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""The one file that imports libvirt: a host as the engine sees it, in plain data.

Every question has a time limit: a call into libvirt cannot be cancelled, so it runs in a daemon thread that is left
behind when the host does not answer. A host that once did not answer is not asked again until it is opened anew.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Generic, List, Mapping, Sequence, Tuple, TypeVar

from ansible.module_utils.basic import missing_required_lib
from ansible.module_utils.common import respawn

from ._pure import domain_xml, needs
from ._pure import uri as uris
from ._pure.refusal import Refusal

try:
    import libvirt
except ImportError:
    HAS_LIBVIRT = False
else:
    HAS_LIBVIRT = True

T = TypeVar("T")

# Seconds that a host gets for an answer; libvirt's keepalive declares a dead peer after about the same time.
PATIENCE = 30.0
# Seconds for what works on whole images or directories.
LONG_PATIENCE = 600.0
KEEPALIVE = (5, 5)
SYSTEM_PYTHONS = ("/usr/bin/python3", "/usr/libexec/platform-python", "/usr/bin/python")

# libvirt's error code for a volume whose name is taken; a number, so that it is there without the bindings.
STORAGE_VOL_EXIST = 90
# And, among much else, for a pool whose path is taken.
OPERATION_FAILED = 9
# And for what a domain that does not run cannot do.
OPERATION_INVALID = 55
# libvirt's number of a migration that leaves a host, in the statistics of a job.
MIGRATION_OUT = 5
# And of a job that has come to its end.
JOB_COMPLETED = 3
# And for a CPU that lacks something.
CPU_INCOMPATIBLE = 91
# And for an agent in the guest that is not there.
AGENT_UNRESPONSIVE = 86
# Since then statistics of a completed job stay for others to read, where that is asked for.
KEEPS_COMPLETED = (6, 0, 0)

_STATES = {
    "VIR_DOMAIN_NOSTATE": "no_state",
    "VIR_DOMAIN_RUNNING": "running",
    "VIR_DOMAIN_BLOCKED": "blocked",
    "VIR_DOMAIN_PAUSED": "paused",
    "VIR_DOMAIN_SHUTDOWN": "shutting_down",
    "VIR_DOMAIN_SHUTOFF": "shut_off",
    "VIR_DOMAIN_CRASHED": "crashed",
    "VIR_DOMAIN_PMSUSPENDED": "pmsuspended",
}
# Only the reasons that change what a state means, or tell why a move has failed.
_REASONS = {
    ("running", "VIR_DOMAIN_RUNNING_POSTCOPY_FAILED"): "postcopy_failed",
    ("paused", "VIR_DOMAIN_PAUSED_POSTCOPY"): "postcopy",
    ("paused", "VIR_DOMAIN_PAUSED_MIGRATION"): "migration",
    ("paused", "VIR_DOMAIN_PAUSED_IOERROR"): "io_error",
    ("paused", "VIR_DOMAIN_PAUSED_STARTING_UP"): "starting_up",
    ("paused", "VIR_DOMAIN_PAUSED_POSTCOPY_FAILED"): "postcopy_failed",
    ("shut_off", "VIR_DOMAIN_SHUTOFF_MIGRATED"): "migrated",
}
# What secrets are for, by the name that XML has for it.
_USAGES = {
    "VIR_SECRET_USAGE_TYPE_VOLUME": "volume",
    "VIR_SECRET_USAGE_TYPE_CEPH": "ceph",
    "VIR_SECRET_USAGE_TYPE_ISCSI": "iscsi",
    "VIR_SECRET_USAGE_TYPE_TLS": "tls",
    "VIR_SECRET_USAGE_TYPE_VTPM": "vtpm",
}
# What of a domain limits its migrations, and how the bindings name it.
_LIMITS = {"downtime": "MaxDowntime", "bandwidth": "MaxSpeed", "compression_cache": "CompressionCache"}
LIMITS = tuple(_LIMITS)
# The first libvirt that can be told to keep the state of a TPM.
_KEEP_TPM_SINCE = (8, 9, 0)


@dataclass(frozen=True)
class _MomentCalls:
    """How the bindings name what is done with one kind of them; a constant is empty where there is none."""

    list: str
    look_up: str
    create: str
    topological: str
    secure: str
    redefine: str
    metadata_only: str
    validate: str = ""
    current: str = ""
    is_current: str = ""


SNAPSHOT, CHECKPOINT = "snapshot", "checkpoint"
_MOMENTS = {
    SNAPSHOT: _MomentCalls(
        "listAllSnapshots",
        "snapshotLookupByName",
        "snapshotCreateXML",
        "VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL",
        "VIR_DOMAIN_SNAPSHOT_XML_SECURE",
        "VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE",
        "VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY",
        current="VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT",
        is_current="isCurrent",
    ),
    CHECKPOINT: _MomentCalls(
        "listAllCheckpoints",
        "checkpointLookupByName",
        "checkpointCreateXML",
        "VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL",
        "VIR_DOMAIN_CHECKPOINT_XML_SECURE",
        "VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE",
        "VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY",
        validate="VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE_VALIDATE",
    ),
}
_DIRECTORY_POOLS = ("dir", "fs", "netfs")


class LibvirtFailure(Exception):
    """libvirt said no; `code` is its error code, `errno` the system's where the system said no to libvirt."""

    def __init__(self, message: str, code: int = 0, errno: int = 0):
        super().__init__(" ".join(message.split()))
        self.code = code
        self.errno = errno


class NotFound(LibvirtFailure):
    """There is no such domain, pool or volume."""


class NoAnswer(LibvirtFailure):
    """The host did not answer in time."""


@dataclass(frozen=True)
class Domain:
    """A domain on one host at one moment."""

    name: str
    uuid: str
    state: str
    reason: str = ""
    active: bool = False
    persistent: bool = False
    autostart: bool = False


@dataclass(frozen=True)
class Moment:
    """A snapshot or a checkpoint, as libvirt describes it."""

    kind: str
    name: str
    xml: str = field(repr=False)
    current: bool = False


@dataclass(frozen=True)
class Pool:
    """A storage pool; `path` is empty where it has none."""

    name: str
    type: str
    path: str
    active: bool

    @property
    def is_directory(self) -> bool:
        return self.type in _DIRECTORY_POOLS and bool(self.path)


@dataclass(frozen=True)
class Volume:
    """A volume of a storage pool, as of the pool's last refresh."""

    path: str
    capacity: int
    allocation: int
    format: str


@dataclass(frozen=True)
class BlockInfo:
    """Bytes that a guest sees of a disk, that its image takes up, and the size of the file or device."""

    capacity: int
    allocation: int
    physical: int


class Later(Generic[T]):
    """A call that goes on in a thread of its own while this one does something else."""

    def __init__(self, call: Callable[[], T]):
        self._results: List[T] = []
        self._errors: List[BaseException] = []
        self._call = call
        # One that does not come to its end must not keep the process.
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            self._results.append(self._call())
        except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that asks
            self._errors.append(error)

    def result(self, seconds: float | None = None, what: str = "it") -> T:
        """What came of it, or NoAnswer when that takes longer than this from now on."""
        self._thread.join(seconds)
        if self._errors:
            raise self._errors[0]
        if not self._results:
            raise NoAnswer(f"{what} did not answer within {seconds:g} s")
        return self._results[0]


def bounded(call: Callable[[], T], seconds: float, what: str) -> T:
    """The result of the call, or NoAnswer when it takes longer than that."""
    return Later(call).result(seconds, what)


def _translated(call: Callable[..., T], *args: Any) -> T:
    try:
        return call(*args)
    except libvirt.libvirtError as error:
        message = error.get_error_message() or str(error)
        code = error.get_error_code() or 0
        missing = (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_NO_STORAGE_POOL, libvirt.VIR_ERR_NO_STORAGE_VOL)
        errno = (error.get_int1() or 0) if code == libvirt.VIR_ERR_SYSTEM_ERROR else 0
        raise (NotFound if code in missing else LibvirtFailure)(message, code, errno) from None


_prepared = threading.Lock()
_state: Dict[str, bool] = {}


def _prepare() -> None:
    """Once per process: keepalive needs an event loop, and libvirt must not print its errors into our answer."""
    with _prepared:
        if _state.get("ready"):
            return
        libvirt.registerErrorHandler(lambda context, error: None, None)
        _translated(libvirt.virEventRegisterDefaultImpl)
        threading.Thread(target=_run_events, daemon=True).start()
        _state["ready"] = True


def _run_events() -> None:
    with suppress(libvirt.libvirtError):
        while True:
            libvirt.virEventRunDefaultImpl()


def _version(number: int) -> Tuple[int, int, int]:
    return number // 1000000, number // 1000 % 1000, number % 1000


class Host:
    """A connection to one libvirt, and what the engine asks and does there. Domains are named by their UUID."""

    def __init__(self, connection: Any, uri: str, patience: float = PATIENCE):
        self._connection = connection
        self._patience = patience
        self.uri = uri
        self.lost = False
        self._partner: Any = None
        self.capabilities: str = self._ask(connection.getCapabilities)
        self.uuid = domain_xml.host_uuid(self.capabilities)
        self.hostname: str = self._ask(connection.getHostname)
        self.libvirt_version = _version(self._ask(connection.getLibVersion))
        self.hypervisor_version = _version(self._ask(connection.getVersion))

    @classmethod
    def open(cls, uri: str, timeout: float, read_only: bool = False, patience: float = PATIENCE) -> Host:
        """Connect within that many seconds."""
        _prepare()
        parsed = uris.parse(uri)
        # Nobody is there to type a password: without this, ssh may ask for one and wait.
        address = str(parsed.with_query("no_tty", "1")) if parsed.transport == "ssh" else uri
        function = libvirt.openReadOnly if read_only else libvirt.open

        def connect() -> Host:
            connection = _translated(function, address)
            # Not every local driver has a keepalive, and a local daemon needs none.
            with suppress(libvirt.libvirtError):
                connection.setKeepAlive(*KEEPALIVE)
            return cls(connection, uri, patience)

        return bounded(connect, timeout, uris.redact(uri))

    def __str__(self) -> str:
        return self.hostname

    def close(self) -> None:
        """Give the connection up. A lost one is only forgotten: to close it properly would wait for its answer."""
        if self.lost:
            self._connection._o = None
        else:
            with suppress(LibvirtFailure):
                self._ask(self._connection.close)

    def _ask(self, call: Callable[..., T], *args: Any, patience: float | None = None) -> T:
        if self.lost:
            raise NoAnswer(f"{uris.redact(self.uri)} does not answer")
        try:
            return bounded(lambda: _translated(call, *args), patience or self._patience, uris.redact(self.uri))
        except NoAnswer:
            self.lost = True
            raise

    # What guests can have there

    def networks(self) -> List[Dict[str, Any]]:
        """libvirt's networks, each with its name, whether it is active, its bridge and the names of its port groups."""
        found = []
        for network in self._ask(self._connection.listAllNetworks, 0):
            with suppress(LibvirtFailure):
                active = bool(self._ask(network.isActive))
                bridge, groups = needs.network(self._ask(network.XMLDesc, 0))
                name = self._ask(network.name)
                found.append({"name": name, "active": active, "bridge": bridge, "portgroups": groups})
        return found

    def filters(self) -> Dict[str, List[str]]:
        """By the name of each of libvirt's network filters, those that it refers to."""
        found = {}
        for one in self._ask(self._connection.listAllNWFilters, 0):
            with suppress(LibvirtFailure):
                found[self._ask(one.name)] = needs.references(self._ask(one.XMLDesc, 0))
        return found

    def memory(self) -> Dict[str, int]:
        """Bytes of memory in all, and those that guests can get."""
        told = self._ask(self._connection.getMemoryStats, -1, 0)
        free = sum(told.get(name, 0) for name in ("free", "buffers", "cached"))
        return {"total": int(told["total"]) << 10, "available": int(free) << 10}

    def secrets(self) -> List[str]:
        """What libvirt can give secrets for: UUIDs, and TYPE:NAME."""
        found = []
        for secret in self._ask(self._connection.listAllSecrets, 0):
            kind, usage = self._ask(secret.usageType), self._ask(secret.usageID)
            found.append(self._ask(secret.UUIDString).lower())
            found += [f"{word}:{usage}" for name, word in _USAGES.items() if getattr(libvirt, name, None) == kind]
        return found

    def cpu_trouble(self, cpu: str, emulator: str, arch: str, machine: str, kind: str) -> str:
        """Why a guest of that kind cannot have that CPU here, or nothing. It needs more than to read."""
        flags = libvirt.VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE
        arguments = (emulator or None, arch or None, machine or None, kind or None, cpu, flags)
        try:
            self._ask(self._connection.compareHypervisorCPU, *arguments)
        except LibvirtFailure as error:
            if error.code != CPU_INCOMPATIBLE and "Unknown CPU model" not in str(error):
                raise
            return str(error)
        return ""

    def check_emulator(self, emulator: str, arch: str, machine: str, kind: str) -> None:
        """Raises LibvirtFailure where libvirt cannot run guests with that emulator."""
        self._ask(
            self._connection.getDomainCapabilities, emulator or None, arch or None, machine or None, kind or None, 0
        )

    # Domains

    def _domain(self, uuid: str) -> Any:
        return self._ask(self._connection.lookupByUUIDString, uuid)

    def find(self, name: str) -> Domain | None:
        """The domain of that name."""
        try:
            return self._describe(self._ask(self._connection.lookupByName, name))
        except NotFound:
            return None

    def find_uuid(self, uuid: str) -> Domain | None:
        """The domain with that UUID."""
        try:
            return self._describe(self._domain(uuid))
        except NotFound:
            return None

    def domains(self) -> List[Domain]:
        """All domains; one that goes away while it is looked at is left out."""
        found = []
        for domain in self._ask(self._connection.listAllDomains, 0):
            with suppress(NotFound):
                found.append(self._describe(domain))
        return sorted(found, key=lambda domain: domain.name)

    def _describe(self, domain: Any) -> Domain:
        number, detail = self._ask(domain.state, 0)[:2]
        state = next((word for name, word in _STATES.items() if getattr(libvirt, name, None) == number), "unknown")
        reason = next(
            (
                word
                for (of_state, name), word in _REASONS.items()
                if of_state == state and getattr(libvirt, name, None) == detail
            ),
            "",
        )
        persistent = bool(self._ask(domain.isPersistent))
        return Domain(
            name=self._ask(domain.name),
            uuid=self._ask(domain.UUIDString).lower(),
            state=state,
            reason=reason,
            active=bool(self._ask(domain.isActive)),
            persistent=persistent,
            # libvirt refuses to answer this for a domain without a definition.
            autostart=persistent and bool(self._ask(domain.autostart)),
        )

    def xml(self, uuid: str, inactive: bool = False, migratable: bool = False, secure: bool = False) -> str:
        """The domain's XML; `secure` adds its secrets, which then must not leave the definition."""
        flags = 0
        flags |= libvirt.VIR_DOMAIN_XML_INACTIVE if inactive else 0
        flags |= libvirt.VIR_DOMAIN_XML_MIGRATABLE if migratable else 0
        flags |= libvirt.VIR_DOMAIN_XML_SECURE if secure else 0
        return str(self._ask(self._domain(uuid).XMLDesc, flags))

    def define(self, xml: str) -> None:
        self._ask(self._connection.defineXML, xml)

    def undefine(self, uuid: str) -> None:
        """Take the definition away; what the other host may have on the same storage stays."""
        domain = self._domain(uuid)
        flags = libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM
        flags |= libvirt.VIR_DOMAIN_UNDEFINE_KEEP_TPM if self.libvirt_version >= _KEEP_TPM_SINCE else 0
        try:
            self._ask(domain.undefineFlags, flags)
        except NotFound:
            raise
        except LibvirtFailure as error:
            if error.code != libvirt.VIR_ERR_NO_SUPPORT:
                raise
            self._ask(domain.undefine)

    def resume(self, uuid: str) -> None:
        self._ask(self._domain(uuid).resume)

    def suspend(self, uuid: str) -> None:
        self._ask(self._domain(uuid).suspend)

    def cpu_time(self, uuid: str) -> int:
        """Nanoseconds that the busiest vCPU of the guest has run on this host."""
        return max((int(vcpu[2]) for vcpu in self._ask(self._domain(uuid).vcpus)[0]), default=0)

    def disk_requests(self, uuid: str, target: str) -> int:
        """How often the guest has read or written that disk on this host."""
        reads, _bytes, writes = self._ask(self._domain(uuid).blockStats, target)[:3]
        return max(0, int(reads)) + max(0, int(writes))

    def measure_dirty_rate(self, uuid: str, seconds: int) -> None:
        """Let QEMU begin to measure how fast the guest writes its memory: libvirt 7.2.0 and QEMU 5.2.0 can."""
        domain = self._domain(uuid)
        if not hasattr(domain, "startDirtyRateCalc"):
            raise LibvirtFailure("the bindings of libvirt before 7.2.0 cannot ask for it")
        self._ask(domain.startDirtyRateCalc, seconds, 0)

    def dirty_rate(self, uuid: str) -> int | None:
        """Bytes per second that were measured, None while that goes on."""
        group = libvirt.VIR_DOMAIN_STATS_DIRTYRATE
        found = self._ask(self._connection.domainListGetStats, [self._domain(uuid)], group, 0)
        told = found[0][1] if found else {}
        if told.get("dirtyrate.calc_status") != libvirt.VIR_DOMAIN_DIRTYRATE_MEASURED:
            return None
        # They are of 2 ** 20 bytes, whatever they are called.
        return int(told.get("dirtyrate.megabytes_per_second", 0)) << 20

    def set_autostart(self, uuid: str, wanted: bool) -> None:
        self._ask(self._domain(uuid).setAutostart, int(wanted))

    def has_managed_save(self, uuid: str) -> bool:
        return bool(self._ask(self._domain(uuid).hasManagedSaveImage, 0))

    def block_job(self, uuid: str, target: str) -> bool:
        """Whether a job such as a copy or a commit runs on that disk; not every hypervisor has such jobs."""
        try:
            return bool(self._ask(self._domain(uuid).blockJobInfo, target, 0))
        except LibvirtFailure as error:
            if error.code != libvirt.VIR_ERR_NO_SUPPORT:
                raise
            return False

    def block_info(self, uuid: str, target: str) -> BlockInfo | None:
        """The sizes of a disk's image, None for an empty drive or an image that libvirt cannot look at."""
        try:
            capacity, allocation, physical = self._ask(self._domain(uuid).blockInfo, target, 0)
        except NoAnswer:
            raise
        except LibvirtFailure:
            return None
        return BlockInfo(int(capacity), int(allocation), int(physical))

    def block_job_progress(self, uuid: str, target: str) -> Tuple[int, int] | None:
        """Bytes done and bytes in all of the job on that disk, None where there is none."""
        found = self._ask(self._domain(uuid).blockJobInfo, target, 0)
        return (int(found["cur"]), int(found["end"])) if found else None

    def block_copy(self, uuid: str, target: str, xml: str, bandwidth: int, shallow: bool) -> None:
        """Begin to copy a disk of a running domain; `bandwidth` in bytes per second, 0 for no limit.

        `shallow` leaves what lies below the image where it is. Once the copy has all of it, every write goes to both
        before the guest hears that it is done: since libvirt 8.0.0.
        """
        flags = libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB | _constant("VIR_DOMAIN_BLOCK_COPY_SYNCHRONOUS_WRITES")
        flags |= libvirt.VIR_DOMAIN_BLOCK_COPY_SHALLOW if shallow else 0
        params = {libvirt.VIR_DOMAIN_BLOCK_COPY_BANDWIDTH: bandwidth} if bandwidth else {}
        self._ask(self._domain(uuid).blockCopy, target, xml, params, flags, patience=LONG_PATIENCE)

    def end_block_copy(self, uuid: str, target: str, pivot: bool) -> None:
        """End the copy of a disk: the domain goes on with the copy, or with the original. Waits until it does."""
        flag = libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT if pivot else 0
        self._ask(self._domain(uuid).blockJobAbort, target, flag, patience=LONG_PATIENCE)

    def sync_time(self, uuid: str) -> None:
        """Let the guest's agent set its clock by its virtual hardware clock."""
        # The bindings want a time all the same.
        self._ask(self._domain(uuid).setTime, {"seconds": 0}, libvirt.VIR_DOMAIN_TIME_SYNC)

    # Snapshots and checkpoints, which libvirt calls moments: what it knows of them, and not what the images have

    def moments(self, uuid: str, kind: str) -> List[Moment]:
        """All of the domain, each after the one that it builds upon; the XML has its secrets."""
        calls = _MOMENTS[kind]
        domain = self._domain(uuid)
        try:
            found = self._ask(getattr(domain, calls.list), _constant(calls.topological))
        except LibvirtFailure as error:
            if error.code != libvirt.VIR_ERR_NO_SUPPORT:
                raise
            return []
        secure = _constant(calls.secure)
        return [
            Moment(
                kind,
                self._ask(moment.getName),
                self._ask(moment.getXMLDesc, secure),
                calls.is_current != "" and bool(self._ask(getattr(moment, calls.is_current))),
            )
            for moment in found
        ]

    def add_moment(self, uuid: str, moment: Moment, validate: bool = False) -> None:
        """Let libvirt know of a snapshot or checkpoint that the images have; one of that name is described anew.

        `validate` looks whether they do, which libvirt can for the checkpoints of a running domain.
        """
        calls = _MOMENTS[moment.kind]
        flags = _constant(calls.redefine) | (_constant(calls.current) if moment.current else 0)
        flags |= _constant(calls.validate) if validate else 0
        self._ask(getattr(self._domain(uuid), calls.create), moment.xml, flags)

    def drop_moment(self, uuid: str, kind: str, name: str) -> None:
        """Let libvirt forget a snapshot or checkpoint; the images keep it."""
        calls = _MOMENTS[kind]
        moment = self._ask(getattr(self._domain(uuid), calls.look_up), name, 0)
        self._ask(moment.delete, _constant(calls.metadata_only))

    # Storage

    def pools(self) -> List[Pool]:
        found = []
        for pool in self._ask(self._connection.listAllStoragePools, 0):
            with suppress(NotFound):
                kind, path = domain_xml.pool_path(self._ask(pool.XMLDesc, 0))
                found.append(Pool(self._ask(pool.name), kind, path, bool(self._ask(pool.isActive))))
        return sorted(found, key=lambda pool: pool.name)

    def _pool(self, name: str) -> Any:
        return self._ask(self._connection.storagePoolLookupByName, name)

    def pool_free(self, name: str) -> int:
        """Bytes that are free in an active pool, as of its last refresh."""
        return int(self._ask(self._pool(name).info)[3])

    def refresh_pool(self, name: str) -> None:
        self._ask(self._pool(name).refresh, 0, patience=LONG_PATIENCE)

    def create_pool(self, name: str, path: str) -> None:
        """A transient directory pool: it exists until it is closed, and nothing is written for it."""
        self._ask(self._connection.storagePoolCreateXML, domain_xml.dir_pool(name, path), 0)

    def close_pool(self, name: str) -> None:
        """Deactivate a pool; a transient one is gone then, its files stay."""
        self._ask(self._pool(name).destroy)

    def pool_volumes(self, name: str) -> List[str]:
        return list(self._ask(self._pool(name).listVolumes))

    def volume(self, path: str) -> Volume | None:
        """The volume with that path, where an active pool knows it."""
        try:
            volume = self._ask(self._connection.storageVolLookupByPath, path)
            info = self._ask(volume.info)
            return Volume(path, int(info[1]), int(info[2]), domain_xml.volume_format(self._ask(volume.XMLDesc, 0)))
        except NotFound:
            return None

    def volume_name(self, path: str) -> Tuple[str, str] | None:
        """Pool and name of the volume with that path, where an active pool knows it."""
        try:
            volume = self._ask(self._connection.storageVolLookupByPath, path)
            return self._ask(self._ask(volume.storagePoolLookupByVolume).name), self._ask(volume.name)
        except NotFound:
            return None

    def volume_path(self, pool: str, name: str) -> str:
        """The path of a volume; raises NotFound where the pool has none of that name."""
        return str(self._ask(self._ask(self._pool(pool).storageVolLookupByName, name).path))

    def pool_place(self, name: str) -> str:
        """Where the volumes of a pool are, started or not; empty where it has no such place, or is not there."""
        try:
            return domain_xml.pool_path(self._ask(self._pool(name).XMLDesc, 0))[1]
        except NotFound:
            return ""

    def create_volume(
        self, pool: str, name: str, capacity: int, image: str = "raw", backing: str = "", backing_format: str = ""
    ) -> None:
        """A new volume, on a base image where one is named; libvirt refuses when a file of that name is there."""
        xml = domain_xml.volume(name, capacity, image, backing, backing_format)
        self._ask(self._pool(pool).createXML, xml, 0, patience=LONG_PATIENCE)

    def delete_volume(self, path: str) -> None:
        volume = self._ask(self._connection.storageVolLookupByPath, path)
        self._ask(volume.delete, 0, patience=LONG_PATIENCE)

    # The job

    def job_stats(self, uuid: str, completed: bool = False) -> Dict[str, Any]:
        """Statistics of the running job, or of the last one that was completed."""
        flags = libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED if completed else 0
        if completed and self.libvirt_version >= KEEPS_COMPLETED:
            # Else nobody could ask for them afterwards.
            flags |= getattr(libvirt, "VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED", 0)
        return dict(self._ask(self._domain(uuid).jobStats, flags))

    def job_active(self, uuid: str) -> bool:
        """Whether a job such as a migration runs on the domain."""
        try:
            return bool(self._ask(self._domain(uuid).jobInfo)[0] != libvirt.VIR_DOMAIN_JOB_NONE)
        except LibvirtFailure as error:
            if error.code != OPERATION_INVALID:
                raise
            # It is shut off, where libvirt does not say that there is none.
            return False

    def abort_job(self, uuid: str) -> None:
        self._ask(self._domain(uuid).abortJob)

    def on_iteration(self, uuid: str, call: Callable[[], None]) -> None:
        """Call that whenever a migration of the domain begins another pass; it must not ask libvirt anything."""
        with suppress(LibvirtFailure, AttributeError):
            event = libvirt.VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION
            self._ask(self._connection.domainEventRegisterAny, self._domain(uuid), event, lambda *_: call(), None)

    def start_postcopy(self, uuid: str) -> None:
        self._ask(self._domain(uuid).migrateStartPostCopy)

    def limit(self, uuid: str, name: str) -> int | None:
        """One of the limits of migrations (milliseconds, MiB per second, bytes), None where it is not told."""
        with suppress(LibvirtFailure, AttributeError):
            return int(self._ask(getattr(self._domain(uuid), f"migrateGet{_LIMITS[name]}")))
        return None

    def set_limit(self, uuid: str, name: str, value: int) -> None:
        self._ask(getattr(self._domain(uuid), f"migrateSet{_LIMITS[name]}"), value)

    def pair_with(self, dest: Host) -> None:
        """From now on this process drives both ends of a migration, instead of this host's daemon."""
        self._partner = dest._connection

    def migrate(self, uuid: str, dest_uri: str, params: Mapping[str, Any], flags: Sequence[str]) -> None:
        """Move the domain; takes as long as it takes. Without a URI nobody prepares the destination."""
        domain = self._domain(uuid)
        bits = flag_bits(flags)
        if self._partner is not None:
            _translated(domain.migrate3, self._partner, dict(params), bits)
        else:
            _translated(domain.migrateToURI3, dest_uri or None, dict(params), bits)


def _constant(name: str) -> int:
    return int(getattr(libvirt, name)) if name else 0


def unknown_flags(names: Sequence[str]) -> List[str]:
    """Those of the flags that the bindings of this Python do not know."""
    return [name for name in names if not hasattr(libvirt, f"VIR_MIGRATE_{name}")]


def flag_bits(names: Sequence[str]) -> int:
    """The flags as libvirt wants them."""
    bits = 0
    for name in names:
        bits |= getattr(libvirt, f"VIR_MIGRATE_{name}")
    return bits


def require() -> None:
    """Go on only with libvirt's bindings: under the system's Python where that one has them, else refuse."""
    if HAS_LIBVIRT:
        return
    if not respawn.has_respawned():
        interpreter = respawn.probe_interpreters_for_module(list(SYSTEM_PYTHONS), "libvirt")
        if interpreter:
            respawn.respawn_module(interpreter)
    # The first sentence names library, host and Python; the others send people to read documentation.
    problem = missing_required_lib("libvirt").partition(". ")[0]
    raise Refusal(problem, "bindings_missing", "install the package python3-libvirt")


def needing(act: Callable[[], T]) -> Callable[[], T]:
    """`act`, which goes on only with libvirt's bindings."""

    def work() -> T:
        require()
        return act()

    return work
