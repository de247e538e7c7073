# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""The names of all hosts on all networks in the text of /etc/hosts, beside what others have written there.

Ours is one marked block at the end. A line that leads a host's own name to loopback is kept as a marked comment, above
what is left of it: so `without_ours` gives back the text of before to the byte.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

BEGIN = "# BEGIN kvmops.migration name_resolution"
END = "# END kvmops.migration name_resolution"
HAD = "# kvmops.migration name_resolution had: "
NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*")


class Network(NamedTuple):
    suffix: str
    variable: str


@dataclass
class Host:
    """What is known of a host: its name in the inventory, its values by host variable, and what it says of itself."""

    name: str
    values: dict[str, Any] = field(default_factory=dict)
    # None: the host was not asked, so that what an earlier run has written of it counts.
    nodename: str | None = None
    # The content of its own /etc/hosts, where its full name may be.
    text: str = ""
    # Addresses that stand in on the network of the host's own name where the inventory has none.
    found: Sequence[str] = ()

    @property
    def says_localhost(self) -> bool:
        return bool(self.nodename) and is_localhost(str(self.nodename))


class Entry(NamedTuple):
    """A line of ours: an address with its names, and the inventory name of the host that it is of."""

    address: str
    names: list[str]
    host: str


def is_localhost(name: str) -> bool:
    return name.lower().split(".")[0] in ("localhost", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback")


def address_of(value: Any) -> str | None:
    """The address as /etc/hosts has it, or None for what is no plain address."""
    try:
        address = ipaddress.ip_address(str(value).strip())
    except ValueError:
        return None
    return None if "%" in str(value) else str(address)


def is_loopback(address: str) -> bool:
    plain = address_of(address)
    return plain is not None and ipaddress.ip_address(plain).is_loopback


def is_own(server: str) -> bool:
    """Whether a server's name, address or socket file means every host another one: its own."""
    return is_loopback(server) or is_localhost(server) or server.startswith("/")


def family(address: str) -> int:
    return ipaddress.ip_address(address).version


def parse(line: str) -> tuple[str, list[str]]:
    """Address and names of a line; an empty address where it has none."""
    words = line.split("#", 1)[0].split()
    return (words[0], words[1:]) if words else ("", [])


def suffixed(name: str, suffix: str) -> str:
    """`kvm1.example.com` on the network `-private` is `kvm1-private.example.com`."""
    short, dot, domain = name.partition(".")
    return short + suffix + dot + domain


def split(text: str) -> list[str]:
    """The lines with their ends. Other bytes at which Python would end a line are a part of it."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def unique(names: Sequence[str]) -> list[str]:
    seen: dict[str, str] = {}
    for name in names:
        seen.setdefault(name.lower(), name)
    return list(seen.values())


def without_ours(text: str) -> tuple[str, list[str], list[str]]:
    """The text as it was before this role, the lines of our block, and what is wrong with our marks."""
    kept: list[str] = []
    block: list[str] | None = None
    lines: list[str] = []
    for number, line in enumerate(split(text), 1):
        bare = line.rstrip("\r\n")
        if bare == BEGIN:
            if block is not None:
                return text, [], ["line %d of /etc/hosts begins the block of this role a second time" % number]
            block = []
        elif bare == END:
            if block is None:
                return text, [], ["line %d of /etc/hosts ends a block that no line begins: %s" % (number, END)]
            lines += block
            block = None
        elif block is not None:
            block.append(bare)
        else:
            kept.append(line)
    if block is not None:
        return text, [], ["no line of /etc/hosts ends the block of this role: add '%s'" % END]
    restored: list[str] = []
    position = 0
    while position < len(kept):
        line = kept[position]
        position += 1
        if not line.startswith(HAD):
            restored.append(line)
            continue
        left, taken, before = _split_had(line)
        following = kept[position] if position < len(kept) else ""
        if not left:
            restored.append(before)
        elif following == left:
            restored.append(before)
            position += 1
        elif not taken:
            # Nobody knows any more what this was.
            restored.append(before)
        # Else somebody has changed what was left of the line, and that counts.
    return "".join(restored), lines, []


def _split_had(line: str) -> tuple[str, list[str], str]:
    """What is left of a line that we have taken names off, those names, and the line."""
    said, _separator, before = line[len(HAD) :].partition("|")
    taken = said.split()
    return _less(before, taken), taken, before


def _less(line: str, taken: Sequence[str]) -> str:
    """The line without these names; empty where no other is left and nobody has said anything about it."""
    gone = {name.lower() for name in taken}
    content, hash_mark, comment = line.partition("#")
    ending = line[len(line.rstrip("\r\n")) :]
    words = content.split()
    names = [name for name in words[1:] if name.lower() not in gone]
    if not names:
        return hash_mark + comment if hash_mark else ""
    rest = " " + hash_mark + comment if hash_mark else ending
    return words[0] + " " + " ".join(names) + rest


def plan(
    text: str, own: str, hosts: Sequence[Host], networks: Sequence[Network], domain: str = "", state: str = "present"
) -> dict[str, Any]:
    """The new text of /etc/hosts on the host `own`, or the errors for which it must stay as it is."""
    before, block, errors = without_ours(text)
    if errors or state == "absent":
        return {"text": before if not errors else text, "errors": errors}
    hosts = [replace(host, text=before) if host.name == own else host for host in hosts]
    entries, errors = _entries(hosts, networks, domain, block)
    mine = next((host for host in hosts if host.name == own), None)
    if mine is not None and mine.says_localhost:
        errors.append(
            "%s calls itself %s, and libvirt migrates to no host of that name: hostnamectl set-hostname %s"
            % (own, mine.nodename, own)
        )
    if errors:
        return {"text": text, "errors": errors}
    lines = _off_loopback(before, [entry for entry in entries if entry.host == own])
    home = [entry for entry in entries if entry.host == own and own in entry.names]
    if mine and not home and _on_loopback(before, _bases(mine, domain, {})[0]):
        errors.append(
            "no address of %s is known, and /etc/hosts leads its name to loopback: give it an address in %s"
            % (own, ", ".join(network.variable for network in networks))
        )
    errors += _conflicts(lines, entries)
    if errors:
        return {"text": text, "errors": errors}
    new = "".join(lines)
    if entries:
        ours = "\n".join([BEGIN, *("%s %s" % (entry.address, " ".join(entry.names)) for entry in entries), END])
        new += ("\n" if new and not new.endswith("\n") else "") + ours + "\n"
    return {"text": new, "errors": []}


def _entries(
    hosts: Sequence[Host], networks: Sequence[Network], domain: str, block: Sequence[str]
) -> tuple[list[Entry], list[str]]:
    errors = [
        "name_resolution_networks: '%s' is no end of a host name" % network.suffix
        for network in networks
        if network.suffix and not NAME.fullmatch("a%s" % network.suffix)
    ]
    if domain and not NAME.fullmatch(domain):
        errors.append("'%s' is no domain such as example.com: name_resolution_domain" % domain)
    shorts = _shorts(hosts)
    entries: list[Entry] = []
    for host in hosts:
        if is_localhost(host.name):
            # The controller itself, as inventories have it.
            continue
        if address_of(host.name) or not NAME.fullmatch(host.name):
            errors.append(
                "'%s' is no host name: give the host a name in the inventory, and its address as ansible_host"
                % host.name
            )
            continue
        bases = _bases(host, domain, shorts)
        for network in networks:
            names = [suffixed(name, network.suffix) for name in bases[0]] + ([] if network.suffix else bases[1])
            found, wrong = _addresses(host, network)
            errors += wrong
            names = _ordered(names, host)
            if host.nodename is None:
                # Nobody has asked it now: what it said to an earlier run is in our block.
                known = suffixed(host.name, network.suffix)
                earlier = [(address, said) for address, said in map(parse, block) if known in said]
                found = found or ([] if wrong else [address for address, _said in earlier])
                names = unique([name for address, said in earlier if address in found for name in said] + names)
            entries += [Entry(address, names, host.name) for address in found]
    return entries, errors + _twice(entries)


def _shorts(hosts: Sequence[Host]) -> dict[str, int]:
    """How many hosts each name without its domain would be of."""
    count: dict[str, int] = {}
    for host in hosts:
        for short in {name.split(".")[0].lower() for name in (host.name, host.nodename or host.name)}:
            count[short] = count.get(short, 0) + 1
    return count


def _bases(host: Host, domain: str, shorts: Mapping[str, int]) -> tuple[list[str], list[str]]:
    """The names of the host that go with every network, and those that it gives itself."""
    own = [name for name in (host.nodename or "", host.name) if NAME.fullmatch(name) and not address_of(name)]
    # The full name may be on loopback only, as Debian's installer writes it: `127.0.1.1 kvm1.example.com kvm1`.
    said = [name for name in _on_loopback(without_ours(host.text)[0], own) if "." in name]
    said += [name for name in own[:1] if host.nodename and not is_localhost(name)]
    return _with_and_without(host.name, domain, shorts), [
        name for given in said for name in _with_and_without(given, domain, shorts)
    ]


def _with_and_without(name: str, domain: str, shorts: Mapping[str, int]) -> list[str]:
    """The name with its domain and without, where no other host has that short name."""
    short, dot, _rest = name.partition(".")
    if dot:
        return [name, short] if shorts.get(short.lower(), 0) < 2 and not short.isdigit() else [name]
    return ["%s.%s" % (name, domain), name] if domain else [name]


def _ordered(names: Sequence[str], host: Host | None) -> list[str]:
    """The first name is what `hostname -f` says: what the host calls itself comes first, and of that the full name."""
    itself = ((host.nodename or host.name) if host else "").split(".")[0].lower()
    return unique(sorted(names, key=lambda name: (name.split(".")[0].lower() != itself, "." not in name)))


def _addresses(host: Host, network: Network) -> tuple[list[str], list[str]]:
    """The addresses of the host on a network, at most one of each family, or what is wrong with them."""
    value = host.values.get(network.variable)
    address = address_of(value)
    if value is not None and address is None and not _resolves_elsewhere(str(value)):
        return [], ["%s of %s is '%s': neither an address nor a host name" % (network.variable, host.name, value)]
    if address is not None:
        number = ipaddress.ip_address(address)
        if number.is_multicast or number.is_unspecified:
            return [], ["%s of %s is '%s': no address of a host" % (network.variable, host.name, value)]
        if not number.is_loopback:
            return [address], []
    if network.suffix:
        # A name is resolved by whoever has given it, and loopback is where a tunnel or a NAT begins.
        return [], []
    plain = [found for found in map(address_of, host.found) if found and not is_loopback(found)]
    return plain[:1], []


def _resolves_elsewhere(value: str) -> bool:
    """A name such as DNS may have it. The last part of one is no number, as it is in a mistyped address."""
    return bool(NAME.fullmatch(value)) and not value.rsplit(".", 1)[-1][:1].isdigit()


def _twice(entries: Sequence[Entry]) -> list[str]:
    errors = []
    owners: dict[str, str] = {}
    addresses: dict[tuple[str, int], Entry] = {}
    for entry in entries:
        other = owners.setdefault(entry.address, entry.host)
        if other != entry.host:
            errors.append("%s and %s have the same address %s" % (other, entry.host, entry.address))
        for name in entry.names:
            first = addresses.setdefault((name.lower(), family(entry.address)), entry)
            if first.address != entry.address:
                errors.append(
                    "%s would be both %s (%s) and %s (%s): each host needs names of its own"
                    % (name, first.address, first.host, entry.address, entry.host)
                )
    return errors


def _on_loopback(text: str, own: Sequence[str]) -> list[str]:
    """Those names of a host, full ones among them, that its /etc/hosts leads to loopback."""
    return unique([name for line in split(text) for name in _own_on(line, own)])


def _own_on(line: str, own: Sequence[str]) -> list[str]:
    address, said = parse(line)
    names = {name.lower() for name in own}
    shorts = {name.split(".")[0] for name in names}
    return [
        name
        for name in (said if is_loopback(address) else ())
        if NAME.fullmatch(name)
        and not is_localhost(name)
        and (name.lower() in names or ("." in name and name.split(".")[0].lower() in shorts))
    ]


def _off_loopback(text: str, own: Sequence[Entry]) -> list[str]:
    """The lines, with the host's own names taken off loopback."""
    names = [name for entry in own for name in entry.names]
    lines: list[str] = []
    for line in split(text):
        here = _own_on(line, names)
        if not here:
            lines.append(line)
            continue
        ended = line if line.endswith("\n") else line + "\n"
        left = _less(ended, here)
        lines += ["%s%s|%s" % (HAD, " ".join(here), ended), *([left] if left else [])]
    return lines


def _conflicts(lines: Sequence[str], entries: Sequence[Entry]) -> list[str]:
    ours = {(name.lower(), family(entry.address)): entry for entry in entries for name in entry.names}
    errors = []
    for line in lines:
        said, names = parse(line)
        address = address_of(said)
        for name in names if address else ():
            entry = ours.get((name.lower(), family(str(address))))
            if entry and entry.address != address:
                errors.append(
                    "/etc/hosts says that %s is %s, the inventory says %s: correct that line ('%s'), the inventory, or"
                    " name_resolution_networks" % (name, address, entry.address, line.strip())
                )
    return errors
