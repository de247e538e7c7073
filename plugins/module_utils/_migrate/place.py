# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""Both hosts, where the guest is on them, and whether that is already as wished."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Mapping

from .._libvirt import Domain, Host, LibvirtFailure, NoAnswer
from .._pure import domain_xml, messages, outcome
from .._pure import options as table
from .._pure import uri as uris
from .._pure.refusal import Refusal

# Seconds that a call of the one that watches over a job may take.
WATCH_PATIENCE = 10.0


def names(name: str, source: Host, dest: Host) -> Dict[str, str]:
    """What a cure calls the guest and its hosts."""
    return {"name": name, "source": str(source), "dest": str(dest)}


def refusal(
    error: LibvirtFailure, what: str, known_as: Mapping[str, str] | None = None, local: bool = False, **details: Any
) -> Refusal:
    """A failure of libvirt as a refusal, with what is known about its message; `known_as` are names for its cure.

    `local` is whether it is about the way to a daemon of this host.
    """
    message = messages.shortened(uris.redact(str(error)))
    look_up = messages.look_up_here if local else messages.look_up
    known = look_up(message, **(known_as or {}))
    failure_class = "unreachable" if isinstance(error, NoAnswer) else known.failure_class
    return Refusal(f"{what}: {message}", failure_class, known.cure, known.role, **details)


def connect(uri: str, timeout: float, option: str, read_only: bool = False) -> Host:
    """The host behind the URI; `option` is the one that named it."""
    try:
        return Host.open(uri, timeout, read_only)
    except LibvirtFailure as error:
        there = uris.parse(uri).host
        host = there or "this host"
        # Whoever opens a connection is the source of that one.
        known_as = {"source": "this host", "dest": host, "host": host}
        what = f"{option}: {uris.redact(uri)} cannot be used"
        raise refusal(error, what, known_as, local=not there) from error


def watcher(options: Mapping[str, Any]) -> Host:
    """One more connection to the source, for who watches over a job; a call there may not take long."""
    return Host.open(options["uri"], options["connect_timeout"], patience=WATCH_PATIENCE)


def label(host: Host) -> str:
    return f"{host.hostname} ({uris.redact(host.uri)})"


@dataclass(frozen=True)
class Place:
    """One guest on both hosts before the move."""

    name: str
    uuid: str
    at_source: Domain | None
    at_dest: Domain | None

    @property
    def source_state(self) -> str:
        return state_of(self.at_source)

    @property
    def dest_state(self) -> str:
        return state_of(self.at_dest, arriving=True)

    @property
    def settled(self) -> bool:
        """It lives at the destination, and nowhere else."""
        return self.at_source is None and self.dest_state in (outcome.RUNNING, outcome.PAUSED, outcome.SHUT_OFF)

    @property
    def movable(self) -> bool:
        """It is on the source, and nothing at the destination is in the way."""
        row = outcome.look_up(self.source_state, self.dest_state)
        return row.outcome == outcome.FAILED and self.dest_state != outcome.CRASHED

    @property
    def half_moved(self) -> bool:
        """A post-copy has failed: its memory is on both hosts."""
        return outcome.look_up(self.source_state, self.dest_state).outcome == outcome.POSTCOPY


def state_of(domain: Domain | None, arriving: bool = False) -> str:
    return outcome.ABSENT if domain is None else outcome.classify(domain.state, domain.reason, arriving)


def same_host(source_uuid: str, source: str, dest: str, at_source: Domain | None, name: str) -> Place:
    """The guest where both URIs lead to one host; refused unless it lives there."""
    if at_source is None:
        raise Refusal(
            f"{uris.redact(source)} and {uris.redact(dest)} are the same host (UUID {source_uuid}),"
            f" and VM {name} is not on it",
            "same_host",
            messages.SAME_UUID,
        )
    return Place(at_source.name, at_source.uuid, None, at_source)


def locate(source: Host, dest: Host, name: str, dest_name: str = "") -> Place:
    """Find the guest by its name, and from then on by its UUID; `dest_name` is its name at the destination."""
    dest_name = dest_name or name
    at_source = source.find(name)
    namesake = dest.find(dest_name)
    if at_source is None:
        if namesake is None:
            raise _not_found(source, dest, name, dest_name)
        return Place(namesake.name, namesake.uuid, None, namesake)
    if namesake is not None and namesake.uuid != at_source.uuid:
        raise Refusal(
            f"{dest.hostname} has another VM named {dest_name}: UUID {namesake.uuid}, not {at_source.uuid}",
            "foreign_vm",
            "rename or undefine one of them",
        )
    at_dest = namesake or dest.find_uuid(at_source.uuid)
    if at_dest is not None and at_dest.name != dest_name:
        raise Refusal(
            f"{dest.hostname} has VM {name} (UUID {at_source.uuid}) under the name {at_dest.name}",
            "foreign_vm",
            "rename or undefine one of them",
        )
    return Place(at_source.name, at_source.uuid, at_source, at_dest)


def _not_found(source: Host, dest: Host, name: str, dest_name: str) -> Refusal:
    known = "; ".join(
        f"{host.hostname}: {', '.join(domain.name for domain in host.domains()) or 'none'}" for host in (source, dest)
    )
    there = f" under the name {dest_name}" if dest_name != name else ""
    return Refusal(
        f"VM {name} was not found on either host, neither on {label(source)} nor on {label(dest)}{there}",
        "not_found",
        f"give the name of a VM that is there ({known})",
    )


def stays_persistent(place: Place, options: Mapping[str, Any]) -> bool:
    """Whether the guest has a definition at the destination: as it is said, else as it is on the source."""
    if options["persistent"] is not None:
        return bool(options["persistent"])
    return place.at_source is None or place.at_source.persistent or options["persistent_xml"] is not None


def defined_twice(source: Host, dest: Host, place: Place) -> bool:
    """Whether a guest that is shut off has the same definition on both hosts, as a move that keeps it leaves it."""
    if (place.source_state, place.dest_state) != (outcome.SHUT_OFF, outcome.SHUT_OFF):
        return False
    here, there = (host.xml(place.uuid, inactive=True, secure=True) for host in (source, dest))
    return domain_xml.equal(here, domain_xml.renamed(there, place.name))


def choose_mode(place: Place, options: Mapping[str, Any]) -> str:
    """live, nonlive or offline, by the option and the guest's state."""
    active = place.source_state in outcome.ACTIVE
    wanted = options["mode"]
    if wanted in table.ACTIVE and not active:
        raise Refusal(
            f"mode: {wanted} was said, and VM {place.name} is shut off", "wrong_state", "start it, or use mode: auto"
        )
    if wanted == "offline" and active:
        raise Refusal(
            f"mode: offline was said, and VM {place.name} is {place.source_state}",
            "wrong_state",
            "shut it down, or use mode: auto",
        )
    if not active and options["persistent"] is False:
        raise Refusal(
            f"persistent: false was said, and VM {place.name} is shut off: it cannot be without a definition",
            "wrong_state",
            "leave persistent at true, or start the VM",
        )
    if not active:
        return "offline"
    return "live" if wanted == "auto" else str(wanted)
