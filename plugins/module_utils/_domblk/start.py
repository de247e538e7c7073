# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""Begins a run of virt_domblk_copy: on this host, or to another one as a move of a guest that is shut off."""

from __future__ import annotations

from typing import Any, Dict, Mapping

from .._images.look import Images
from .._migrate import start as migrate
from .._migrate.begin import COPIES, begin, new_worker
from .._migrate.local import Local
from .._pure import domblk, outcome
from .._pure import options as table
from .._pure.domblk import Wish
from .._pure.refusal import Refusal
from . import relocate

# What this module has in common with virt_migrate.
COMMON = (
    "name",
    "uri",
    "dest_uri",
    "dest_host",
    "connect_timeout",
    "force",
    "progress",
    "on_controller_loss",
    "undefine_source",
)
OWN: Dict[str, Dict[str, Any]] = {
    "disks": {"type": "list", "elements": "str"},
    "dest_dir": {"type": "str"},
    "path_map": {"type": "dict"},
    "format": {"type": "str", "choices": list(domblk.FORMATS)},
    "backing": {"type": "str", "choices": list(domblk.BACKING), "default": domblk.KEEP},
    "bandwidth": {"type": "int"},
    "verify": {"type": "bool", "default": True},
    "encrypt": {"type": "bool", "default": True},
    "remove_source": {"type": "bool", "default": False},
}
# For whoever finds the run at the VM: where a move to another host has its destination.
HERE = "another place on this host"


def argument_spec() -> Dict[str, Dict[str, Any]]:
    """The argument spec of the module."""
    shared = table.argument_spec()
    spec = {name: shared[name] for name in (*COMMON, *table.HIDDEN)}
    spec["dest_uri"] = {key: value for key, value in spec["dest_uri"].items() if key != "required"}
    return {**spec, **{name: dict(row) for name, row in OWN.items()}}


def wish_of(options: Mapping[str, Any]) -> Wish:
    """What the options say; raises Refusal for a value that cannot be meant."""
    if options["disks"] is not None and not options["disks"]:
        raise Refusal("disks: the list is empty", "bad_option", "name some, or leave the option out for all of them")
    path_map = {str(here): str(there) for here, there in (options["path_map"] or {}).items()}
    return Wish(
        disks=tuple(options["disks"] or ()),
        dest_dir=options["dest_dir"] or "",
        path_map=path_map,
        format=options["format"] or "",
        backing=options["backing"],
        verify=options["verify"],
        encrypt=options["encrypt"],
        bandwidth=(options["bandwidth"] or 0) << 20,
        remove_source=options["remove_source"],
        force=options["force"],
        only_stopped=bool(options["dest_uri"]),
    )


def start(module: Any) -> Dict[str, Any]:
    """The result of the run, or `run` and `watching` for a controller that watches it."""
    options = module.params
    try:
        table.check_values(options, (*COMMON, "bandwidth"))
        wish = wish_of(options)
        if not options["dest_uri"] and not (wish.dest_dir or wish.path_map):
            raise Refusal(
                "neither another place nor another host was given",
                "bad_option",
                "give dest_dir or path_map, or dest_host for another host",
            )
    except Refusal as error:
        nothing = {"changed": False, "name": options["name"], "disks": [], "duration_s": 0.0}
        error.details = {**nothing, "outcome": outcome.REFUSED, **error.details}
        raise
    if options["dest_uri"]:
        return migrate.start(module, _as_migration(options), wish)
    return _relocate(module, options, wish)


def _as_migration(options: Mapping[str, Any]) -> Dict[str, Any]:
    """The options of virt_migrate that mean the same."""
    spec = table.argument_spec()
    values = {name: row.get("default") for name, row in spec.items()}
    values.update({name: options[name] for name in (*COMMON, *table.HIDDEN)})
    # A guest that runs is not for this module.
    return {**values, "mode": "offline", "tls": "false"}


def _relocate(module: Any, options: Mapping[str, Any], wish: Wish) -> Dict[str, Any]:
    request = relocate.Request(
        options,
        wish,
        Local(module.run_command),
        Images.of(module),
        new_worker(options, told(wish)),
        module.check_mode,
        module._diff,
    )
    return begin(module, options, request.worker, lambda: relocate.run(request))


def told(wish: Wish) -> Dict[str, Any]:
    """What a run on this host was told, for whoever wants to join it."""
    return {"dest_uri": HERE, COPIES: domblk.told(wish)}
