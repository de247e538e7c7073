# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""The options of virt_migrate as data.

One row per option drives the argument spec, the check of values and combinations, flags, typed parameters and version
gates; a new option is a new row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from .refusal import Refusal

Version = Tuple[int, int, int]


@dataclass(frozen=True)
class Clash:
    """Refused together: this row's option at one of `when`, the other one at one of `values`."""

    when: Tuple[Any, ...]
    other: str
    values: Tuple[Any, ...]
    reason: str
    cure: str


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
    # Flags by value: VIR_MIGRATE_<name>, set while the option has that value.
    flags: Tuple[Tuple[Any, Tuple[str, ...]], ...] = ()
    # Key of the typed parameter that carries the value.
    param: str | None = None
    # The first libvirt that knows the flag or parameter; both ends must.
    since: Version = (0, 0, 0)
    # The moves that it means something for.
    modes: Tuple[str, ...] = ("live", "offline")
    minimum: int | None = None
    maximum: int | None = None
    pattern: str | None = None
    # What a value that is refused should have been.
    accepted: str = ""
    clashes: Tuple[Clash, ...] = ()


# Bandwidth travels as MiB/s and is multiplied in libvirt.
_MAX_BANDWIDTH = (2**63 - 1) // 2**20

OPTIONS = (
    Option("name", required=True, aliases=("guest",), pattern=r"[^/\n]+", accepted="the name of a VM"),
    Option("uri", default="qemu:///system"),
    Option("dest_uri"),
    Option("dest_host"),
    Option(
        "mode",
        default="auto",
        choices=("auto", "live", "offline"),
        flags=(("live", ("LIVE",)), ("offline", ("OFFLINE",))),
        since=(1, 0, 1),
        clashes=(
            Clash(
                ("offline",),
                "copy_storage",
                ("all",),
                "an offline move takes only the definition along",
                "move the VM live, or put its disks on shared storage",
            ),
            Clash(
                ("offline",),
                "storage",
                ("copy",),
                "an offline move takes only the definition along",
                "move the VM live, or put its disks on shared storage",
            ),
        ),
    ),
    Option("storage", default="auto", choices=("auto", "shared", "copy")),
    Option(
        "copy_storage",
        choices=("none", "all"),
        flags=(("all", ("NON_SHARED_DISK",)),),
        since=(0, 8, 2),
        modes=("live",),
        clashes=(
            Clash(
                ("none", "all"),
                "storage",
                ("shared", "copy"),
                "both say what happens to the disks",
                "leave one of them out",
            ),
        ),
    ),
    Option(
        "migrate_disks",
        type="list",
        elements="str",
        param="migrate_disks",
        since=(1, 2, 17),
        modes=("live",),
        pattern=r"[\w-]+",
        accepted="targets such as vda, and at least one",
        clashes=(
            Clash((), "copy_storage", ("none",), "nothing would be copied", "leave one of them out"),
            Clash((), "storage", ("shared",), "nothing would be copied", "leave one of them out"),
            Clash((), "mode", ("offline",), "an offline move copies no disk", "leave migrate_disks out"),
        ),
    ),
    Option(
        "persistent",
        type="bool",
        default=True,
        flags=((True, ("PERSIST_DEST",)),),
        since=(0, 7, 3),
        clashes=(
            Clash(
                (False,),
                "mode",
                ("offline",),
                "a VM that does not run cannot be without a definition",
                "leave persistent at true",
            ),
        ),
    ),
    Option("undefine_source", type="bool", default=True, flags=((True, ("UNDEFINE_SOURCE",)),), since=(0, 7, 3)),
    Option("unsafe", type="bool", default=False, flags=((True, ("UNSAFE",)),), since=(0, 9, 11), modes=("live",)),
    Option("force", type="bool", default=False),
    Option(
        "migrate_uri",
        param="migrate_uri",
        since=(1, 1, 0),
        modes=("live",),
        pattern=r"tcp://(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::[1-9]\d{0,4})?",
        accepted="tcp://ADDRESS[:PORT]",
    ),
    Option(
        "bandwidth",
        type="int",
        param="bandwidth",
        since=(1, 1, 0),
        modes=("live",),
        minimum=0,
        maximum=_MAX_BANDWIDTH,
        accepted=f"MiB per second from 0 (libvirt's default) to {_MAX_BANDWIDTH}",
    ),
    Option("connect_timeout", type="int", default=20, minimum=1, maximum=600, accepted="seconds from 1 to 600"),
)
# Filled by the action plugin, which is logged in on the destination and lets nobody write it in a playbook.
HIDDEN = {"_dest_facts": {"type": "dict"}}
BY_NAME = {option.name: option for option in OPTIONS}
# The source's daemon drives the destination, so that the move survives whoever asked for it.
CONTROL_FLAGS = ("PEER2PEER",)


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
    if option.aliases:
        spec["aliases"] = list(option.aliases)
    return spec


def validate(values: Mapping[str, Any]) -> None:
    """Refuse bad values and combinations; no connection is needed for it."""
    for option in OPTIONS:
        value = values.get(option.name)
        if value is not None:
            _check_value(option, value)
            for clash in option.clashes:
                _check_clash(option, value, clash, values)


def _check_value(option: Option, value: Any) -> None:
    items: Sequence[Any] = value if isinstance(value, (list, tuple)) else [value]
    good = bool(items)
    for item in items:
        good = good and (option.minimum is None or item >= option.minimum)
        good = good and (option.maximum is None or item <= option.maximum)
        good = good and (option.pattern is None or re.fullmatch(option.pattern, str(item)) is not None)
    if not good:
        raise Refusal(f"{option.name}: {value!r} is not accepted", "bad_option", f"accepted: {option.accepted}")


def _check_clash(option: Option, value: Any, clash: Clash, values: Mapping[str, Any]) -> None:
    # A clash without values of its own holds for whatever the option was given.
    if (not clash.when or value in clash.when) and values.get(clash.other) in clash.values:
        raise Refusal(
            f"{option.name}: {_say(value)} and {clash.other}: {_say(values[clash.other])} exclude each other:"
            f" {clash.reason}",
            "bad_combination",
            clash.cure,
        )


def _say(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def flags(values: Mapping[str, Any]) -> List[str]:
    """Names of the flags for resolved values, without VIR_MIGRATE_."""
    names = list(CONTROL_FLAGS)
    for option in _in_force(values):
        for value, flag_names in option.flags:
            if values.get(option.name) == value:
                names.extend(flag_names)
    return names


def params(values: Mapping[str, Any]) -> Dict[str, Any]:
    """Typed parameters for resolved values."""
    return {
        option.param: values[option.name]
        for option in _in_force(values)
        if option.param and values.get(option.name) is not None
    }


def _in_force(values: Mapping[str, Any]) -> List[Option]:
    return [option for option in OPTIONS if values["mode"] in option.modes]


def check_versions(values: Mapping[str, Any], ends: Mapping[str, Version]) -> None:
    """Refuse an option that one of the ends (name to libvirt version) is too old for."""
    for option in _in_force(values):
        value = values.get(option.name)
        used = (option.param and value is not None) or any(value == flagged for flagged, _names in option.flags)
        for end, version in ends.items():
            if used and version < option.since:
                raise Refusal(
                    f"{option.name}: {_say(value)} needs libvirt {dotted(option.since)}; {end} has {dotted(version)}",
                    "too_old",
                    f"leave {option.name} out, or upgrade libvirt on {end}",
                )


def dotted(version: Version) -> str:
    return ".".join(map(str, version))
