# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""Which of many moves from this host could be made, each as check mode of virt_migrate judges it, none is begun.

They share their connections, and what was looked at through them: work grows with the moves only by what is the VM's.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Dict, Iterator, List, Mapping, Sequence

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from .._answer import kept
from .._images.look import Images
from .._libvirt import LibvirtFailure
from .._pure import checks, outcome
from .._pure import options as table
from .._pure import uri as uris
from .._pure.refusal import Refusal
from .begin import would_join
from .info import gather
from .links import Links
from .local import Local
from .run import run_through
from .start import request_of


def tell(module: Any) -> Dict[str, Any]:
    """The result of virt_migrate_info."""
    params, local = module.params, Local(module.run_command)
    found = gather(params["uri"], params["name"], params["connect_timeout"], local, params["facts"])
    if params["records"]:
        is_local = uris.parse(params["uri"], "uri").is_local
        found["records"] = local.last_records(params["name"]) if is_local else []
    if params["_moves"] is None:
        return found
    values = [value for move in params["_moves"] for value in move.values() if isinstance(value, str)]
    module.no_log_values |= uris.secrets(*values)
    moves = judge(module, params["_moves"], local)
    matrix: Dict[str, Dict[str, str]] = {}
    for move in moves:
        matrix.setdefault(move["name"], {})[str(move["dest_host"] or "")] = move.get("outcome", "")
    return {**found, "moves": moves, "matrix": matrix}


def judge(module: Any, moves: Sequence[Mapping[str, Any]], local: Local) -> List[Dict[str, Any]]:
    """What virt_migrate answers in check mode to each of the moves, which have its options; one without a name is that
    of every VM of the host."""
    images = Images.of(module)
    with Links() as links:
        every = [move for given in moves for move in _every(given, links)]
        _measure(every, links)
        return [_one(module, move, links, local, images) for move in every]


def _measure(moves: Sequence[Mapping[str, Any]], links: Links) -> None:
    """Begin to measure every guest that a forecast is made for: all of them pass one second together."""
    for move in moves:
        # What is wrong with it is the answer to this move.
        with suppress(Refusal, LibvirtFailure):
            options = _validated(move)
            host = links.connect(options["uri"], options["connect_timeout"], "uri")
            domain = host.find(options["name"])
            forecast = options["preflight"] != "skip" and options["mode"] in ("auto", "live")
            if forecast and domain is not None and domain.state == outcome.RUNNING:
                links.measure(host, domain.uuid)


def _every(given: Mapping[str, Any], links: Links) -> Iterator[Dict[str, Any]]:
    if given.get("name"):
        yield dict(given)
        return
    options = _validated({**given, "name": "-"})
    host = links.connect(options["uri"], options["connect_timeout"], "uri")
    for name in sorted(domain.name for domain in host.domains()):
        yield {**given, "name": name}


def _one(module: Any, move: Mapping[str, Any], links: Links, local: Local, images: Images) -> Dict[str, Any]:
    def act() -> Dict[str, Any]:
        options = _validated(move)
        checks.check(options)
        request = request_of(module, options, local, images, check_mode=True)
        return would_join(options, request.worker.told) or run_through(links, request)

    return {**kept(module, act), "name": move["name"], "dest_host": move.get("dest_host")}


def _validated(move: Mapping[str, Any]) -> Dict[str, Any]:
    """The options with their defaults."""
    said = ArgumentSpecValidator(table.argument_spec()).validate(dict(move))
    if said.error_messages:
        raise Refusal(said.error_messages[0], "bad_option")
    return dict(said.validated_parameters)
