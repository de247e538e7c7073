# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""The options of virt_migrate as data.

One row per option drives the argument spec, the check of values and combinations, flags, typed parameters and version
gates; a new option is a new row.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from . import schedule
from . import uri as uris
from .refusal import Refusal

Version = Tuple[int, int, int]
ANCIENT: Version = (0, 0, 0)

# Stands for whatever value an option was given, False and an empty list excepted.
GIVEN = ("given",)


@dataclass(frozen=True)
class Clash:
    """Refused together: this row's option at one of `when`, the other one at one of `values`.

    Text is matched as a regular expression, and one element of a list is enough.
    """

    when: Tuple[Any, ...]
    other: str
    values: Tuple[Any, ...]
    reason: str
    cure: str


@dataclass(frozen=True)
class Need:
    """Refused alone: this row's option at one of `when` needs the other one at one of `values`."""

    when: Tuple[Any, ...]
    other: str
    values: Tuple[Any, ...]
    reason: str
    cure: str


@dataclass(frozen=True)
class Gate:
    """Values that need more than their option does; `qemu_before` is the first QEMU that has them no longer."""

    when: Tuple[Any, ...]
    since: Version = ANCIENT
    qemu: Version = ANCIENT
    qemu_before: Version | None = None


# What the modes of a move are: with the guest running meanwhile, with it paused meanwhile, and without a guest.
ACTIVE = ("live", "nonlive")
OFFLINE = ("offline",)

# What an option decides, which is what a second call must agree about to join a run that goes on: what becomes of the
# VM, its disks and its data; only the way there; or nothing of the run, but of the one call.
RESULT = "result"
WAY = "way"
CALL = "call"


@dataclass(frozen=True)
class Option:
    """One option of the module."""

    name: str
    type: str = "str"
    default: Any = None
    required: bool = False
    choices: Tuple[str, ...] = ()
    elements: str | None = None
    aliases: Tuple[str, ...] = ()
    # What a dict may hold, as an argument spec has it.
    keys: Mapping[str, Mapping[str, Any]] | None = field(default=None, hash=False)
    # It may hold secrets, and is shown nowhere.
    secret: bool = False
    # Flags by value: VIR_MIGRATE_<name>, set while the option has that value.
    flags: Tuple[Tuple[Any, Tuple[str, ...]], ...] = ()
    # Key of the typed parameter that carries the value.
    param: str | None = None
    # The first libvirt, and the first QEMU, that know the flag or parameter; both ends must.
    since: Version = ANCIENT
    qemu: Version = ANCIENT
    gates: Tuple[Gate, ...] = ()
    # The moves that it means something for, and whether only with disks that are copied.
    modes: Tuple[str, ...] = (*ACTIVE, *OFFLINE)
    copies: bool = False
    minimum: int | None = None
    maximum: int | None = None
    power_of_two: bool = False
    pattern: str | None = None
    # What a value that is refused should have been.
    accepted: str = ""
    clashes: Tuple[Clash, ...] = ()
    needs: Tuple[Need, ...] = ()
    decides: str = WAY
    # Values with which a call is content whatever the run was told.
    content: Tuple[Any, ...] = ()


_HOST = r"(?:\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[A-Za-z0-9_][A-Za-z0-9_.-]*)"
_BARE_HOST = r"(?:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]+|[A-Za-z0-9_][A-Za-z0-9_.-]*)"
_PORT = r":(?:6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3})"
_SOCKET = r"unix:///[^\n?#]+"
_QUERY = r"\?[A-Za-z]+=[^&\s]*(?:&[A-Za-z]+=[^&\s]*)*"
_NAME = r"(?=.*\S)[^/\n]+"
_TARGET = r"[\w-]+"


def _no_copy(when: Tuple[Any, ...] = GIVEN) -> Clash:
    return Clash(when, "copy_storage", ("none",), "nothing would be copied", "leave one of them out")


_TUNNEL = "the data travels inside libvirt's own connection"
_TUNNEL_COPY = "libvirt copies no disk through its own connection"
_LEAVE_TUNNEL = "leave tunnelled out"
_LEAVE_ONE = "leave one of them out"
_ARMED = "post-copy must be permitted from the start"
_STOPPED_COPY = (
    "it says what QEMU copies while a VM runs, and one that is shut off takes along what the hosts do not share"
)

OPTIONS = (
    Option("name", required=True, aliases=("guest",), pattern=_NAME, accepted="the name of a VM", decides=CALL),
    Option("uri", default="qemu:///system", decides=RESULT),
    Option("dest_uri", decides=RESULT),
    Option("dest_host", decides=CALL),
    Option(
        "dest_name",
        param="destination_name",
        since=(1, 1, 0),
        pattern=_NAME,
        accepted="the name that the VM shall have",
        decides=RESULT,
    ),
    Option(
        "dest_xml",
        secret=True,
        param="destination_xml",
        since=(1, 1, 0),
        accepted="the <domain> XML of the VM, with its own UUID",
        decides=RESULT,
    ),
    Option(
        "persistent_xml",
        secret=True,
        param="persistent_xml",
        since=(1, 3, 4),
        modes=ACTIVE,
        accepted="the <domain> XML of the VM, with its own UUID",
        clashes=(
            Clash(GIVEN, "persistent", (False,), "nothing would be defined", _LEAVE_ONE),
            Clash(
                GIVEN,
                "mode",
                OFFLINE,
                "libvirt takes the definition of a VM that is shut off from dest_xml",
                "give dest_xml instead",
            ),
        ),
        decides=RESULT,
    ),
    Option(
        "mode",
        default="auto",
        choices=("auto", *ACTIVE, *OFFLINE),
        flags=(("live", ("LIVE",)), ("offline", ("OFFLINE",))),
        since=(1, 0, 1),
        clashes=(
            Clash(
                OFFLINE, "copy_storage", ("all", "inc"), _STOPPED_COPY, "leave copy_storage out, or say storage: copy"
            ),
        ),
        decides=RESULT,
    ),
    Option(
        "control",
        default="p2p",
        choices=("p2p", "direct", "unmanaged"),
        flags=(("p2p", ("PEER2PEER",)),),
        since=(0, 7, 2),
        gates=(Gate(("direct", "unmanaged"), (1, 1, 0)),),
    ),
    Option(
        "tunnelled",
        type="bool",
        default=False,
        flags=((True, ("TUNNELLED",)),),
        since=(0, 7, 2),
        modes=ACTIVE,
        clashes=(
            Clash(
                (True,),
                "control",
                ("direct", "unmanaged"),
                "libvirt tunnels only between two daemons",
                "leave control at p2p",
            ),
            Clash((True,), "storage", ("copy",), _TUNNEL_COPY, _LEAVE_TUNNEL),
            Clash((True,), "copy_storage", ("all", "inc"), _TUNNEL_COPY, _LEAVE_TUNNEL),
            Clash((True,), "migrate_disks", GIVEN, _TUNNEL_COPY, _LEAVE_TUNNEL),
            Clash((True,), "disks_port", GIVEN, _TUNNEL_COPY, _LEAVE_TUNNEL),
            Clash((True,), "disks_uri", GIVEN, _TUNNEL_COPY, _LEAVE_TUNNEL),
            Clash((True,), "synchronous_writes", (True,), _TUNNEL_COPY, _LEAVE_TUNNEL),
            Clash((True,), "detect_zeroes", GIVEN, _TUNNEL_COPY, _LEAVE_TUNNEL),
            Clash((True,), "target_zero", GIVEN, _TUNNEL_COPY, _LEAVE_TUNNEL),
            Clash((True,), "parallel", (True,), "one libvirt connection is one stream", _LEAVE_ONE),
            Clash((True,), "migrate_uri", GIVEN, _TUNNEL, _LEAVE_ONE),
            Clash((True,), "listen_address", GIVEN, _TUNNEL, _LEAVE_ONE),
            Clash((True,), "tls", ("true",), _TUNNEL, "give dest_uri a transport that encrypts: ssh or tls"),
        ),
        decides=RESULT,
    ),
    Option("storage", default="auto", choices=("auto", "shared", "copy"), decides=RESULT),
    Option(
        "copy_storage",
        choices=("none", "all", "inc"),
        flags=(("all", ("NON_SHARED_DISK",)), ("inc", ("NON_SHARED_INC",))),
        since=(0, 8, 2),
        modes=ACTIVE,
        clashes=(
            Clash(GIVEN, "storage", ("shared", "copy"), "both say what happens to the disks", "leave one of them out"),
        ),
        decides=RESULT,
    ),
    Option(
        "migrate_disks",
        type="list",
        elements="str",
        param="migrate_disks",
        since=(1, 2, 17),
        modes=ACTIVE,
        copies=True,
        pattern=_TARGET,
        accepted="targets such as vda, and at least one",
        clashes=(
            _no_copy(),
            Clash(GIVEN, "storage", ("shared",), "nothing would be copied", _LEAVE_ONE),
            Clash(GIVEN, "mode", OFFLINE, _STOPPED_COPY, "leave migrate_disks out"),
        ),
        decides=RESULT,
    ),
    Option(
        "disks_port",
        type="int",
        param="disks_port",
        since=(1, 3, 3),
        modes=ACTIVE,
        copies=True,
        minimum=1,
        maximum=65535,
        accepted="a port from 1 to 65535",
        clashes=(
            Clash(GIVEN, "disks_uri", GIVEN, "both say where the disks are taken in", _LEAVE_ONE),
            _no_copy(),
        ),
    ),
    Option(
        "disks_uri",
        param="disks_uri",
        since=(6, 8, 0),
        modes=ACTIVE,
        copies=True,
        pattern=rf"tcp://{_HOST}{_PORT}|{_SOCKET}",
        accepted="tcp://ADDRESS:PORT or unix:///PATH",
        clashes=(
            _no_copy(),
            # libvirt says so when it begins to copy (qemu_migration.c, qemuMigrationSrcNBDStorageCopy).
            Clash(
                ("unix://.*",),
                "tls",
                ("true",),
                "libvirt does not encrypt disks that travel through a socket file",
                _LEAVE_ONE,
            ),
        ),
    ),
    Option(
        "synchronous_writes",
        type="bool",
        default=False,
        flags=((True, ("NON_SHARED_SYNCHRONOUS_WRITES",)),),
        since=(8, 0, 0),
        modes=ACTIVE,
        copies=True,
        clashes=(_no_copy((True,)),),
    ),
    Option(
        "detect_zeroes",
        type="list",
        elements="str",
        param="migrate_disks_detect_zeroes",
        since=(10, 9, 0),
        modes=ACTIVE,
        copies=True,
        pattern=_TARGET,
        accepted="targets such as vda, and at least one",
        clashes=(_no_copy(),),
    ),
    Option(
        "target_zero",
        type="list",
        elements="str",
        param="migrate_disks_target_zero",
        since=(12, 2, 0),
        modes=ACTIVE,
        copies=True,
        pattern=_TARGET,
        accepted="targets such as vda, and at least one",
        clashes=(_no_copy(),),
    ),
    Option(
        "persistent",
        type="bool",
        flags=((True, ("PERSIST_DEST",)),),
        since=(0, 7, 3),
        clashes=(
            Clash(
                (False,),
                "mode",
                OFFLINE,
                "a VM that does not run cannot be without a definition",
                "leave persistent at true",
            ),
        ),
        decides=RESULT,
    ),
    Option(
        "undefine_source",
        type="bool",
        default=True,
        flags=((True, ("UNDEFINE_SOURCE",)),),
        since=(0, 7, 3),
        decides=RESULT,
    ),
    Option(
        "suspend",
        type="bool",
        default=False,
        flags=((True, ("PAUSED",)),),
        since=(0, 7, 5),
        modes=ACTIVE,
        decides=RESULT,
    ),
    Option(
        "change_protection",
        type="bool",
        default=False,
        flags=((True, ("CHANGE_PROTECTION",)),),
        since=(0, 9, 4),
        modes=ACTIVE,
    ),
    Option(
        "abort_on_error",
        type="bool",
        default=False,
        flags=((True, ("ABORT_ON_ERROR",)),),
        since=(1, 1, 0),
        modes=ACTIVE,
    ),
    Option(
        "unsafe",
        type="bool",
        default=False,
        flags=((True, ("UNSAFE",)),),
        since=(0, 9, 11),
        modes=ACTIVE,
        decides=RESULT,
    ),
    Option("force", type="bool", default=False, decides=RESULT),
    Option(
        "migrate_uri",
        param="migrate_uri",
        since=(1, 1, 0),
        gates=(Gate(("rdma://.*",), (1, 2, 9)), Gate(("unix://.*",), (6, 8, 0))),
        modes=ACTIVE,
        pattern=rf"(?:tcp|rdma)://{_HOST}(?:{_PORT})?|{_SOCKET}",
        accepted="tcp://ADDRESS[:PORT], rdma://ADDRESS[:PORT] or unix:///PATH",
    ),
    Option(
        "listen_address",
        param="listen_address",
        since=(1, 1, 4),
        modes=ACTIVE,
        pattern=_BARE_HOST,
        accepted="an address or a host name of the destination",
        clashes=(Clash(GIVEN, "migrate_uri", ("unix://.*",), "a socket file has no address to listen on", _LEAVE_ONE),),
    ),
    Option(
        "graphics_uri",
        param="graphics_uri",
        since=(1, 1, 0),
        modes=ACTIVE,
        pattern=rf"(?:spice|vnc)://{_HOST}(?:{_PORT})?/?(?:{_QUERY})?",
        accepted="spice://ADDRESS[:PORT][?tlsPort=PORT] or vnc://ADDRESS[:PORT]",
    ),
    Option(
        "rdma_pin_all",
        type="bool",
        default=False,
        flags=((True, ("RDMA_PIN_ALL",)),),
        since=(1, 2, 9),
        modes=ACTIVE,
        needs=(
            Need(
                (True,),
                "migrate_uri",
                ("rdma://.*",),
                "only memory that travels by RDMA is pinned",
                "give migrate_uri: rdma://ADDRESS",
            ),
        ),
    ),
    Option(
        "tls",
        default="auto",
        choices=("auto", "true", "false"),
        flags=(("true", ("TLS",)),),
        since=(3, 2, 0),
        qemu=(2, 9, 0),
        modes=ACTIVE,
        clashes=(
            Clash(("true",), "migrate_uri", ("rdma://.*",), "QEMU does not encrypt what travels by RDMA", _LEAVE_ONE),
        ),
        decides=RESULT,
        content=("auto",),
    ),
    Option(
        "tls_destination",
        param="tls.destination",
        since=(6, 0, 0),
        modes=ACTIVE,
        pattern=_BARE_HOST,
        accepted="the host name or address in the destination's certificate",
        clashes=(Clash(GIVEN, "tls", ("false",), "without TLS no certificate is looked at", _LEAVE_ONE),),
    ),
    Option(
        "bandwidth",
        type="int",
        param="bandwidth",
        since=(1, 1, 0),
        modes=ACTIVE,
        minimum=0,
        maximum=schedule.MAX_BANDWIDTH,
        accepted=f"MiB per second from 0 (the default) to {schedule.MAX_BANDWIDTH}",
    ),
    Option(
        "switchover_bandwidth",
        type="int",
        param="bandwidth.avail.switchover",
        since=(11, 1, 0),
        qemu=(8, 2, 0),
        modes=ACTIVE,
        minimum=0,
        maximum=schedule.MAX_BANDWIDTH,
        accepted=f"MiB per second from 0 (measured by QEMU) to {schedule.MAX_BANDWIDTH}",
    ),
    Option(
        "parallel",
        type="bool",
        default=False,
        flags=((True, ("PARALLEL",)),),
        since=(5, 2, 0),
        qemu=(4, 0, 0),
        modes=ACTIVE,
        clashes=(
            Clash(
                (True,),
                "compression",
                ("xbzrle", "mt"),
                "QEMU has these methods for one connection only",
                "use zlib or zstd",
            ),
            Clash((True,), "migrate_uri", ("rdma://.*",), "QEMU uses one connection for RDMA", _LEAVE_ONE),
        ),
    ),
    Option(
        "parallel_connections",
        type="int",
        param="parallel.connections",
        since=(5, 2, 0),
        modes=ACTIVE,
        minimum=1,
        maximum=255,
        accepted="a number from 1 to 255",
        needs=(Need(GIVEN, "parallel", (True,), "there is one connection without it", "add parallel: true"),),
    ),
    Option(
        "zerocopy",
        type="bool",
        default=False,
        flags=((True, ("ZEROCOPY",)),),
        since=(8, 5, 0),
        qemu=(7, 1, 0),
        modes=ACTIVE,
        clashes=(
            Clash((True,), "tls", ("true",), "what is encrypted is a copy", _LEAVE_ONE),
            Clash((True,), "compression", GIVEN, "what is compressed is a copy", _LEAVE_ONE),
        ),
        needs=(Need((True,), "parallel", (True,), "QEMU has it for parallel connections only", "add parallel: true"),),
    ),
    Option(
        "compression",
        type="list",
        elements="str",
        choices=("xbzrle", "mt", "zlib", "zstd"),
        flags=((GIVEN, ("COMPRESSED",)),),
        param="compression",
        since=(1, 3, 4),
        gates=(
            Gate(("zlib", "zstd"), (9, 4, 0), (5, 0, 0)),
            Gate(("mt",), qemu_before=(9, 1, 0)),
        ),
        modes=ACTIVE,
        accepted="xbzrle, mt, zlib or zstd, and at least one",
        clashes=(Clash(("zlib",), "compression", ("zstd",), "parallel connections have one method", _LEAVE_ONE),),
        needs=(
            Need(
                ("zlib", "zstd"),
                "parallel",
                (True,),
                "these methods are for parallel connections only",
                "add parallel: true",
            ),
        ),
    ),
    *(
        Option(
            f"compression_{name}",
            type="int",
            param=f"compression.{name.replace('_', '.')}",
            since=since,
            modes=ACTIVE,
            minimum=minimum,
            maximum=maximum,
            power_of_two=power_of_two,
            accepted=accepted,
            needs=(
                Need(
                    GIVEN,
                    "compression",
                    (name.partition("_")[0],),
                    f"it tunes the method {name.partition('_')[0]}",
                    f"add {name.partition('_')[0]} to compression",
                ),
            ),
        )
        for name, since, minimum, maximum, power_of_two, accepted in (
            ("mt_level", (1, 3, 4), 0, 9, False, "a level from 0 (none) to 9"),
            ("mt_threads", (1, 3, 4), 1, 255, False, "a number from 1 to 255"),
            ("mt_dthreads", (1, 3, 4), 1, 255, False, "a number from 1 to 255"),
            ("xbzrle_cache", (1, 3, 4), 4096, 2**62, True, f"bytes, a power of two from 4096 to {2**62}"),
            ("zlib_level", (9, 4, 0), 0, 9, False, "a level from 0 (none) to 9"),
            ("zstd_level", (9, 4, 0), 0, 20, False, "a level from 0 (the default) to 20"),
        )
    ),
    Option(
        "timeout",
        type="int",
        modes=ACTIVE,
        minimum=1,
        maximum=schedule.MAX_SECONDS,
        accepted=f"seconds from 1 to {schedule.MAX_SECONDS}",
    ),
    Option(
        "timeout_per_gib",
        type="int",
        modes=ACTIVE,
        minimum=1,
        maximum=schedule.MAX_SECONDS,
        accepted=f"seconds from 1 to {schedule.MAX_SECONDS}",
    ),
    Option(
        "timeout_action",
        default=schedule.ABORT,
        choices=(schedule.ABORT, schedule.SUSPEND, schedule.POSTCOPY),
        modes=ACTIVE,
        needs=(Need((schedule.POSTCOPY,), "postcopy", (True,), _ARMED, "add postcopy: true"),),
    ),
    Option(
        "policy",
        default=schedule.NONE,
        modes=ACTIVE,
        pattern=r"[A-Za-z][\w.-]*",
        accepted=f"{', '.join(schedule.POLICIES)}, or with policy_steps a name of your own",
    ),
    Option(
        "policy_steps",
        type="list",
        elements="dict",
        keys=schedule.STEP_OPTIONS,
        modes=ACTIVE,
        accepted="steps, each with when, at and do, and at least one",
    ),
    Option(
        "max_downtime",
        type="int",
        modes=ACTIVE,
        minimum=1,
        maximum=schedule.MAX_DOWNTIME,
        accepted=f"milliseconds from 1 to {schedule.MAX_DOWNTIME}",
    ),
    Option(
        "auto_converge",
        type="bool",
        default=False,
        flags=((True, ("AUTO_CONVERGE",)),),
        since=(1, 2, 3),
        modes=ACTIVE,
    ),
    *(
        Option(
            f"auto_converge_{name}",
            type="int",
            param=f"auto_converge.{name}",
            since=(2, 0, 0),
            modes=ACTIVE,
            minimum=1,
            maximum=99,
            accepted="percent from 1 to 99",
            needs=(Need(GIVEN, "auto_converge", (True,), "it tunes auto_converge", "add auto_converge: true"),),
        )
        for name in ("initial", "increment")
    ),
    Option(
        "postcopy",
        type="bool",
        default=False,
        flags=((True, ("POSTCOPY",)),),
        since=(1, 3, 3),
        qemu=(2, 6, 0),
        modes=ACTIVE,
        clashes=(
            Clash((True,), "mode", ("nonlive",), "libvirt has post-copy for a guest that runs meanwhile", _LEAVE_ONE),
            Clash((True,), "mode", OFFLINE, "a VM that is shut off has no memory", _LEAVE_ONE),
            Clash(
                (True,), "suspend", (True,), "the guest must run at the destination to ask for its pages", _LEAVE_ONE
            ),
            Clash((True,), "tunnelled", (True,), "libvirt's own connection goes one way only", _LEAVE_ONE),
            Clash((True,), "compression", ("mt",), "QEMU has this method for pre-copy only", "use another method"),
        ),
        decides=RESULT,
    ),
    Option(
        "postcopy_after_precopy",
        type="bool",
        default=False,
        modes=ACTIVE,
        needs=(Need((True,), "postcopy", (True,), _ARMED, "add postcopy: true"),),
    ),
    Option(
        "postcopy_bandwidth",
        type="int",
        param="bandwidth.postcopy",
        since=(5, 1, 0),
        modes=ACTIVE,
        minimum=0,
        maximum=schedule.MAX_BANDWIDTH,
        accepted=f"MiB per second from 0 (no limit) to {schedule.MAX_BANDWIDTH}",
        needs=(Need(GIVEN, "postcopy", (True,), "it limits post-copy", "add postcopy: true"),),
    ),
    Option(
        "postcopy_resume",
        type="bool",
        default=False,
        flags=((True, ("POSTCOPY_RESUME",)),),
        since=(8, 5, 0),
        modes=ACTIVE,
        clashes=(
            Clash((True,), "mode", ("nonlive",), "libvirt has post-copy for a guest that runs meanwhile", _LEAVE_ONE),
            Clash((True,), "tunnelled", (True,), "libvirt's own connection goes one way only", _LEAVE_ONE),
        ),
        decides=RESULT,
    ),
    Option("preflight", default="enforce", choices=("enforce", "warn", "skip"), decides=CALL),
    Option("sync_time", type="bool", default=True, modes=ACTIVE, decides=RESULT),
    Option("wait_for_job", type="bool", default=False, decides=CALL),
    Option("on_controller_loss", default="continue", choices=("continue", "cancel")),
    Option("progress", type="bool", default=True, decides=CALL),
    Option("outage_address", pattern=_BARE_HOST, accepted="an address or a host name of the VM", decides=CALL),
    Option(
        "outage_from",
        needs=(Need(GIVEN, "outage_address", GIVEN, "it says from where the VM is probed", "add outage_address"),),
        decides=CALL,
    ),
    Option(
        "cleanup",
        type="bool",
        default=False,
        clashes=(Clash((True,), "cancel", (True,), "the end of a run settles it, too", "leave cleanup out"),),
        decides=RESULT,
    ),
    Option("cancel", type="bool", default=False, decides=RESULT),
    Option(
        "connect_timeout",
        type="int",
        default=20,
        minimum=1,
        maximum=600,
        accepted="seconds from 1 to 600",
        decides=CALL,
    ),
)
# Filled by the action plugin, which is logged in on the destination and watches the run, and by nobody else.
HIDDEN: Dict[str, Dict[str, Any]] = {"_dest_facts": {"type": "dict"}, "_watch": {"type": "bool", "default": False}}
BY_NAME = {option.name: option for option in OPTIONS}
# What a playbook may say.
PUBLIC = tuple(name for option in OPTIONS for name in (option.name, *option.aliases))
SECRET = tuple(option for option in OPTIONS if option.secret)


def argument_spec() -> Dict[str, Dict[str, Any]]:
    """The argument spec of the module."""
    return {**{option.name: _spec(option) for option in OPTIONS}, **{name: dict(row) for name, row in HIDDEN.items()}}


def _spec(option: Option) -> Dict[str, Any]:
    spec: Dict[str, Any] = {"type": option.type}
    if option.required:
        spec["required"] = True
    if option.default is not None:
        spec["default"] = option.default
    if option.choices:
        spec["choices"] = list(option.choices)
    if option.elements:
        spec["elements"] = option.elements
    if option.keys:
        spec["options"] = {name: dict(row) for name, row in option.keys.items()}
    if option.aliases:
        spec["aliases"] = list(option.aliases)
    if option.secret:
        spec["no_log"] = True
    return spec


def validate(values: Mapping[str, Any]) -> None:
    """Refuse bad values and combinations; no connection is needed for it."""
    for option in OPTIONS:
        value = values.get(option.name)
        if value is not None:
            _check_value(option, value)
            for clash in option.clashes:
                _check_clash(option, clash, values)
            for need in option.needs:
                _check_need(option, need, values)


def check_values(values: Mapping[str, Any], names: Sequence[str]) -> None:
    """Refuse bad values of these options, for a module that has them as well."""
    for name in names:
        if values.get(name) is not None:
            _check_value(BY_NAME[name], values[name])


def _check_value(option: Option, value: Any) -> None:
    items: Sequence[Any] = value if isinstance(value, (list, tuple)) else [value]
    good = bool(items)
    for item in items:
        good = good and (option.minimum is None or item >= option.minimum)
        good = good and (option.maximum is None or item <= option.maximum)
        good = good and not (option.power_of_two and item & (item - 1))
        good = good and (option.pattern is None or re.fullmatch(option.pattern, str(item)) is not None)
    # Only steps may be the same.
    good = good and (option.elements == "dict" or len(set(items)) == len(items))
    if not good:
        raise Refusal(
            f"{option.name}: {uris.hidden(repr(value))} is not accepted", "bad_option", f"accepted: {option.accepted}"
        )


def _holds(value: Any, wanted: Tuple[Any, ...]) -> bool:
    """Whether a value is one of the wanted ones, as Clash describes it."""
    if value is None or wanted == GIVEN:
        return value is not None and value is not False and value != []
    if isinstance(value, (list, tuple)):
        return any(_holds(item, wanted) for item in value)
    return any(re.fullmatch(want, value) if isinstance(value, str) else want == value for want in wanted)


def _check_clash(option: Option, clash: Clash, values: Mapping[str, Any]) -> None:
    value, other = values.get(option.name), values.get(clash.other)
    if _holds(value, clash.when) and _holds(other, clash.values):
        raise Refusal(
            f"{_shown(option, value)} and {_shown(BY_NAME[clash.other], other)} exclude each other: {clash.reason}",
            "bad_combination",
            clash.cure,
        )


def _check_need(option: Option, need: Need, values: Mapping[str, Any]) -> None:
    value = values.get(option.name)
    if _holds(value, need.when) and not _holds(values.get(need.other), need.values):
        raise Refusal(
            f"{_shown(option, value)} needs {need.other}: {need.reason}",
            "bad_combination",
            need.cure,
        )


def _shown(option: Option, value: Any) -> str:
    return option.name if option.secret else f"{option.name}: {_say(value)}"


def _say(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else uris.hidden(str(value))


def _flagged(value: Any, at: Any) -> bool:
    return _holds(value, GIVEN) if at == GIVEN else bool(value == at)


def flags(values: Mapping[str, Any]) -> List[str]:
    """Names of the flags for resolved values, without VIR_MIGRATE_."""
    return [
        name
        for option in _in_force(values)
        for value, names in option.flags
        if _flagged(values.get(option.name), value)
        for name in names
    ]


def params(values: Mapping[str, Any]) -> Dict[str, Any]:
    """Typed parameters for resolved values."""
    return {
        option.param: values[option.name]
        for option in _in_force(values)
        if option.param and values.get(option.name) is not None
    }


def public(parameters: Mapping[str, Any]) -> Dict[str, Any]:
    """Typed parameters as they may be shown: without passwords, and definitions only by the option that gave them."""
    secret = {option.param: f"(as given in {option.name})" for option in SECRET}
    return {
        key: secret.get(key) or (uris.redact(value) if isinstance(value, str) else value)
        for key, value in parameters.items()
    }


def told(values: Mapping[str, Any]) -> Dict[str, Any]:
    """What a run was told, for whoever wants to join it: plain data without anything secret."""
    return {option.name: _told(option, values.get(option.name)) for option in OPTIONS if option.decides != CALL}


def _told(option: Option, value: Any) -> Any:
    if option.secret and value is not None:
        return hashlib.sha256(str(value).encode("utf-8", "surrogateescape")).hexdigest()
    if isinstance(value, str):
        return uris.hidden(value)
    return sorted(value) if option.elements == "str" and value is not None else value


def differing(run: Mapping[str, Any], wanted: Mapping[str, Any]) -> Dict[str, List[str]]:
    """Where a call wants something else than a run was told, both as `told` has it: in words, by what it decides."""
    found: Dict[str, List[str]] = {RESULT: [], WAY: []}
    for option in OPTIONS:
        before, now = run.get(option.name), wanted.get(option.name)
        if option.name in run and option.name in wanted and before != now and now not in option.content:
            words = option.name if option.secret else f"{option.name} ({_or_not(before)} there, {_or_not(now)} here)"
            found[option.decides].append(words)
    return found


def _or_not(value: Any) -> str:
    return "not given" if value is None else _say(value)


def owner(flag: str) -> str:
    """The option that sets a flag."""
    return next(option.name for option in OPTIONS for _value, names in option.flags if flag in names)


def without_copies(values: Mapping[str, Any]) -> Dict[str, Any]:
    """The values for a move that copies no disk."""
    return {**values, **{option.name: option.default for option in OPTIONS if option.copies}}


def _in_force(values: Mapping[str, Any]) -> List[Option]:
    return [option for option in OPTIONS if values["mode"] in option.modes]


def check_versions(
    values: Mapping[str, Any], ends: Mapping[str, Version], hypervisors: Mapping[str, Version] | None = None
) -> None:
    """Refuse an option that one of the ends is too old for, by the versions of libvirt and of QEMU there."""
    for option in _in_force(values):
        value = values.get(option.name)
        used = [Gate((), option.since, option.qemu)] if _reaches_libvirt(option, value) else []
        used += [gate for gate in option.gates if _holds(value, gate.when)]
        for gate in used:
            for end, version in ends.items():
                _check_version(option, value, "libvirt", end, version, gate.since)
            for end, version in (hypervisors or {}).items():
                _check_version(option, value, "QEMU", end, version, gate.qemu)
                if gate.qemu_before is not None and version >= gate.qemu_before:
                    raise Refusal(
                        f"{_shown(option, value)} needs a QEMU before {dotted(gate.qemu_before)};"
                        f" {end} has {dotted(version)}",
                        "too_new",
                        f"choose another value of {option.name}, or leave it out",
                    )


def _reaches_libvirt(option: Option, value: Any) -> bool:
    return bool(option.param and value is not None) or any(_flagged(value, flagged) for flagged, _names in option.flags)


def _check_version(option: Option, value: Any, what: str, end: str, version: Version, needed: Version) -> None:
    if version < needed:
        raise Refusal(
            f"{_shown(option, value)} needs {what} {dotted(needed)}; {end} has {dotted(version)}",
            "too_old",
            f"leave {option.name} out, or upgrade {what} on {end}",
        )


def dotted(version: Version) -> str:
    return ".".join(map(str, version))
