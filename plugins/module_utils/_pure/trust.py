# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""The lines of known_hosts and authorized_keys by which root of each host reaches the others, and nobody else does.

What a host says of itself is checked before it becomes a line: one that lies must not add lines of its own.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .names import NAME, address_of, is_localhost, is_loopback, suffixed, unique

BEGIN = "# BEGIN kvmops.migration ssh_trust"
END = "# END kvmops.migration ssh_trust"
OPTIONS = "no-agent-forwarding,no-X11-forwarding"
KEY = re.compile(r"(ssh|ecdsa|sk)-[a-zA-Z0-9@.-]+ [A-Za-z0-9+/]+={0,3}")


@dataclass
class Peer:
    """What the inventory and a host itself say of it; without a `key` it was not asked."""

    name: str
    # Host variables that hold its addresses or names.
    values: Mapping[str, Any] = field(default_factory=dict)
    port: Any = None
    nodename: str = ""
    # The addresses that it says it has.
    own_addresses: Sequence[str] = ()
    # Public host keys as `type key`.
    host_keys: Sequence[str] = ()
    asked: bool = False
    # Root's public key; empty where check mode has made none.
    key: str = ""

    @property
    def literal(self) -> list[str]:
        """Its addresses by inventory. Loopback is where a tunnel or a NAT begins."""
        known = [address_of(value) for value in self.values.values() if value is not None]
        return unique([address for address in known if address and not is_loopback(address)])

    @property
    def named(self) -> list[str]:
        """The names that stand in the inventory where an address could."""
        return [str(value) for value in self.values.values() if value is not None and not address_of(value)]

    def sources(self, reached_by: str) -> list[str]:
        """Where it comes from: what the inventory says, or any address of its own where that has a name or nothing."""
        if self.literal and not self.named and self.values.get(reached_by) is not None:
            return self.literal
        found = [address_of(address) for address in self.own_addresses]
        usable = [
            address
            for address in found
            if address and not is_loopback(address) and not ipaddress.ip_address(address).is_link_local
        ]
        return unique([*self.literal, *usable])


def block(text: str) -> list[str]:
    """The lines that an earlier run has written."""
    lines = text.splitlines()
    if BEGIN not in lines or END not in lines:
        return []
    return lines[lines.index(BEGIN) + 1 : lines.index(END)]


def plan(
    own: str, peers: Sequence[Peer], suffixes: Sequence[str], known: str = "", authorized: str = ""
) -> dict[str, Any]:
    """Lines for both files of the host `own`, who was not asked, and the errors for which nothing may be written."""
    errors = [] if own in [peer.name for peer in peers] else ["%s is none of ssh_trust_hosts" % own]
    lines: dict[str, list[str]] = {"known_hosts": [], "authorized_keys": []}
    unasked = []
    for peer in peers:
        if peer.name == own:
            continue
        wrong = _wrong(peer)
        errors += wrong
        if wrong:
            continue
        if not peer.asked:
            unasked.append(peer.name)
            # Nobody trusts a host less because it is down for the moment.
            lines["known_hosts"] += [line for line in block(known) if line.split(",")[0].split(" ")[0] == peer.name]
            lines["authorized_keys"] += [line for line in block(authorized) if line.split(" ")[-1] == peer.name]
            continue
        names = _known_as(peer, suffixes)
        lines["known_hosts"] += ["%s %s" % (",".join(names), key) for key in peer.host_keys]
        if peer.key:
            source = ",".join(peer.sources("ansible_host"))
            lines["authorized_keys"].append('from="%s",%s %s %s' % (source, OPTIONS, peer.key, peer.name))
    return {**{name: "\n".join(said) for name, said in lines.items()}, "unasked": unasked, "errors": errors}


def _wrong(peer: Peer) -> list[str]:
    if not NAME.fullmatch(peer.name):
        return ["'%s' in ssh_trust_hosts is no host name" % peer.name]
    bad = [(variable, value) for variable, value in peer.values.items() if value is not None and not _good(value)]
    if bad:
        return [
            "%s of %s is '%s': neither an address nor a host name" % (name, peer.name, value) for name, value in bad
        ]
    if not peer.asked:
        return []
    if not peer.host_keys:
        return ["%s has no host key of sshd in /etc/ssh: ssh-keygen -A makes them" % peer.name]
    odd = [key for key in (*peer.host_keys, *([peer.key] if peer.key else [])) if not KEY.fullmatch(key)]
    if odd:
        return ["%s says that '%s' is a public key" % (peer.name, odd[0][:60])]
    if not peer.sources("ansible_host"):
        return ["no address of %s is known: set ansible_host or migration_address" % peer.name]
    return []


def _good(value: Any) -> bool:
    return address_of(value) is not None or (
        bool(NAME.fullmatch(str(value))) and not str(value).rsplit(".", 1)[-1][:1].isdigit()
    )


def _known_as(peer: Peer, suffixes: Sequence[str]) -> list[str]:
    """Every name and address that a URI may have for the host, the name of the inventory first."""
    names = [suffixed(peer.name, suffix) for suffix in ("", *suffixes)]
    if NAME.fullmatch(peer.nodename) and not is_localhost(peer.nodename):
        names.append(peer.nodename)
    names += [name.partition(".")[0] for name in (peer.name, peer.nodename) if "." in name and not address_of(name)]
    names += [name for name in peer.named if not is_localhost(name)] + peer.sources("ansible_host")
    names = [name for name in unique(names) if NAME.fullmatch(name) or address_of(name)]
    port = str(peer.port or 22)
    return names + ([] if port == "22" else ["[%s]:%s" % (name, port) for name in names])
