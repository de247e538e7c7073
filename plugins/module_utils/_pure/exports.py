# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""Files as of exports(5): read as exportfs of nfs-utils reads them, and changed without touching anybody else's lines.

A file is bytes. Inside, one character stands for one byte, so that whatever is in it can be put back as it was.
"""

from __future__ import annotations

import difflib
import ipaddress
import posixpath
import re
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Sequence, Set, Tuple

from .refusal import Refusal

EVERYBODY = "*"

# A flag that is set by default, and the one that takes it back.
_PAIRS = (
    ("ro", "rw"),
    ("sync", "async"),
    ("wdelay", "no_wdelay"),
    ("hide", "nohide"),
    ("nocrossmnt", "crossmnt"),
    ("secure", "insecure"),
    ("root_squash", "no_root_squash"),
    ("no_all_squash", "all_squash"),
    ("no_subtree_check", "subtree_check"),
    ("secure_locks", "insecure_locks"),
    ("acl", "no_acl"),
    ("no_pnfs", "pnfs"),
    ("", "nordirplus"),
    ("", "security_label"),
)
_ALIASES = {"auth_nlm": "secure_locks", "no_auth_nlm": "insecure_locks", "mp": "mountpoint"}
_FLAGS: Dict[str, Tuple[str, bool]] = {
    name: (pair[1], number == 1) for pair in _PAIRS for number, name in enumerate(pair) if name
}
# Flags that each security flavor of an export can have for itself.
_BY_FLAVOR = ("rw", "insecure", "no_root_squash", "all_squash")
_VALUES = ("anonuid", "anongid", "fsid", "mountpoint", "refer", "replicas", "sec", "xprtsec", "reexport")
_LISTS = ("squash_uids", "squash_gids")
_NOBODY = "65534"
_FLAVORS = {"unix": "sys", "null": "none"}

_SPACE = " \t\n\v\f\r"
_BLANK = " \t"
_ESCAPED = re.compile(r"\\[0-3][0-7]{2}")
_HOST = re.compile(r"[A-Za-z0-9_*?\[\]!^.-]+")
_GSS = re.compile(r"gss/[a-z0-9]+")
_NETGROUP = re.compile(r"@[^\s()\"#\\@]+")
_OPTION = re.compile(r"[^\s()\"#\\,]+")


@dataclass(frozen=True)
class Client:
    """Somebody who may mount an export: as it is written, and with the options that it has in the end."""

    host: str  # empty: everybody
    options: Tuple[str, ...]
    text: str = field(default="", compare=False)

    @property
    def key(self) -> str:
        return client_key(self.host)

    @property
    def meaning(self) -> Meaning:
        return meaning(self.options)

    def shown(self) -> Dict[str, Any]:
        return {"host": self.host or EVERYBODY, "options": list(self.options)}


@dataclass(frozen=True)
class Entry:
    """One export of a file. `start`, `path_stop`, `stop` and `end` are places in its text."""

    path: str
    clients: Tuple[Client, ...]
    line: int
    start: int
    path_stop: int
    stop: int  # after its last word
    end: int  # after the newline, which belongs to it as a comment before it does
    has_defaults: bool

    @property
    def normal(self) -> str:
        return normal_path(self.path)


@dataclass(frozen=True)
class Problem:
    """What is wrong, and in which line."""

    line: int
    text: str


@dataclass(frozen=True)
class Parsed:
    data: bytes
    entries: Tuple[Entry, ...]
    problems: Tuple[Problem, ...]

    @property
    def text(self) -> str:
        return self.data.decode("latin-1")

    def of(self, path: str) -> List[Entry]:
        wanted = normal_path(path)
        return [entry for entry in self.entries if entry.normal == wanted]

    def bytes_of(self, entry: Entry) -> bytes:
        """The export alone, as it is written."""
        alone = self.data[entry.start : entry.stop]
        # Before a newline the last byte of such a path would let the line go on.
        return alone + (b" \n" if alone.endswith(b"\\") else b"\n")


class _Broken(Exception):
    """The words of a Problem."""


# Reading


def parse(data: bytes) -> Parsed:
    """Every export of a file, and everything in it that exportfs would stumble over."""
    text = data.decode("latin-1")
    entries: List[Entry] = []
    problems: List[Problem] = []
    if "\0" in text:
        problems.append(Problem(_line(text, text.index("\0")), "a byte of zero"))
    at = 0
    while True:
        start = _skip(text, at, " \t\n")
        if start >= len(text):
            return Parsed(data, tuple(entries), tuple(problems))
        try:
            entry = _entry(text, start)
            entries.append(entry)
            at = entry.end
        except _Broken as broken:
            problems.append(Problem(_line(text, start), str(broken)))
            at = _end_of_line(text, start)


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _end_of_line(text: str, at: int) -> int:
    """After the newline that ends what begins there, however many lines that has."""
    while at < len(text):
        char, following = _char(text, at)
        if char == "#" and text[at - 1 : at] in (" ", "\t"):
            return min(_comment(text, at) + 1, len(text))
        if char == "\n":
            return following
        at = following
    return at


def _comment(text: str, at: int) -> int:
    """Where the newline after a comment is: a comment does not go on in the next line."""
    found = text.find("\n", at)
    return len(text) if found < 0 else found


def _char(text: str, at: int) -> Tuple[str, int]:
    """A character and where the next is. A line that goes on in the next one has a blank there."""
    if text.startswith("\\\n", at):
        at += 2
        while at < len(text) and text[at] in _BLANK:
            at += 1
        return " ", at
    return text[at : at + 1], at + 1


def _skip(text: str, at: int, chars: str) -> int:
    while at < len(text):
        char, following = _char(text, at)
        if char == "#":
            at = _comment(text, at)
            if "\n" not in chars:
                return at
        elif char not in chars:
            return at
        else:
            at = following
    return at


def _word(text: str, at: int) -> Tuple[str, int, int]:
    """A word without its quotes and escapes, where it ends and where to go on. Empty where there is none."""
    chars: List[str] = []
    quoted = False
    while at < len(text):
        char, following = _char(text, at)
        if not quoted and char in _SPACE:
            return "".join(chars), at, (at if char == "\n" else following)
        at = following
        if char == '"':
            quoted = not quoted
            continue
        chars.append(char)
        last = "".join(chars[-4:])
        if _ESCAPED.fullmatch(last):
            chars[-4:] = [chr(int(last[1:], 8))]
    if quoted:
        raise _Broken("a quote that is not closed")
    if chars and chars[-1] == "\\":
        raise _Broken("a backslash at the end of the file")
    return "".join(chars), at, at


def _entry(text: str, start: int) -> Entry:
    path, path_stop, at = _word(text, start)
    if not path:
        raise _Broken(f"begins with {text[start]!r}, and exportfs reads nothing below that")
    if not path.startswith("/"):
        raise _Broken(f"{_decoded(path)!r} is no path that begins with /")
    stop, defaults, clients = path_stop, None, []
    while True:
        start_of_word = _skip(text, at, _BLANK)
        word, word_stop, at = _word(text, start_of_word)
        if word.startswith("-"):
            defaults = (defaults or ()) + _split(word[1:])
            stop = word_stop
            start_of_word = _skip(text, at, _BLANK)
            word, word_stop, at = _word(text, start_of_word)
            if not word:
                clients.append(Client("", defaults))
        if not word:
            break
        stop = word_stop
        clients.append(_client(word, defaults or (), text[start_of_word:word_stop]))
    rest = text[at : _end_of_line(text, at)]
    if rest.strip(_SPACE):
        raise _Broken("a control character or an empty word in the middle of the line")
    end = at + len(rest)
    if not clients:
        clients = [Client("", ())]
    has_defaults = defaults is not None
    return Entry(_decoded(path), tuple(clients), _line(text, start), start, path_stop, stop, end, has_defaults)


def _client(word: str, defaults: Tuple[str, ...], text: str) -> Client:
    host, bracket, options = word.partition("(")
    if bracket and not _closed(options):
        raise _Broken(f"the options of {_decoded(host) or EVERYBODY} are no list in brackets without blanks")
    found = _split(options[:-1]) if bracket else ()
    for option in found:
        name, equals, value = option.partition("=")
        if name in ("anonuid", "anongid") and equals and not re.fullmatch(r"\s*[+-]?[0-9]+", value):
            raise _Broken(f"{_decoded(option)} is no number")
    if host.startswith("-"):
        raise _Broken(f"a second list of default options, {_decoded(host)}, in place of a client")
    return Client(_decoded(host), tuple(_decoded(option) for option in (*defaults, *found)), text)


def _closed(options: str) -> bool:
    return options.endswith(")") and options.count(")") == 1


def _split(text: str) -> Tuple[str, ...]:
    parts: List[str] = []
    for part in text.split(",") if text.strip(_BLANK) else []:
        part = part.lstrip(_BLANK)
        if parts and parts[-1].partition("=")[0] in _LISTS and part[:1].isdigit():
            parts[-1] += f",{part}"
        else:
            parts.append(part)
    # One comma may end the list.
    return tuple(parts[:-1] if len(parts) > 1 and not parts[-1] else parts)


def _decoded(text: str) -> str:
    return text.encode("latin-1").decode("utf-8", "surrogateescape")


def _encoded(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


# Comparing


def normal_path(path: str) -> str:
    return "/" + posixpath.normpath(path).lstrip("/")


def client_key(host: str) -> str:
    """The same for two spellings of one client."""
    if host in ("", EVERYBODY):
        return EVERYBODY
    for kind in (ipaddress.ip_address, _network):
        try:
            return str(kind(host))
        except ValueError:
            continue
    return host.lower()


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    if "/" not in text:
        raise ValueError(text)
    return ipaddress.ip_network(text, strict=False)


@dataclass(frozen=True)
class Meaning:
    """What a list of options comes to, whatever its order and whether defaults are said."""

    flags: frozenset[str]
    values: frozenset[Tuple[str, str]]
    flavors: Tuple[Tuple[str, frozenset[str]], ...]

    @property
    def writable_as_root(self) -> bool:
        return any({"rw", "no_root_squash"} <= flags and "all_squash" not in flags for name, flags in self.flavors)


def meaning(options: Sequence[str]) -> Meaning:
    """As exportfs does it: the last word counts, and after sec= it counts for those flavors and what follows."""
    flags: Set[str] = set()
    values: Dict[str, str] = {"anonuid": _NOBODY, "anongid": _NOBODY}
    flavors: Dict[str, Set[str]] = {}
    active: List[str] = []
    for option in options:
        name, equals, value = option.partition("=")
        name = _ALIASES.get(name, name)
        if name in _FLAGS and not equals:
            flag, on = _FLAGS[name]
            for each in (flags, *(flavors[flavor] for flavor in active)):
                (each.add if on else each.discard)(flag)
        elif name == "sec":
            active = [_FLAVORS.get(flavor, flavor) for flavor in value.split(":")]
            for flavor in active:
                flavors.setdefault(flavor, set(flags))
        else:
            values[name] = _value(name, value)
    by_flavor = {flavor: frozenset(each & set(_BY_FLAVOR)) for flavor, each in (flavors or {"sys": flags}).items()}
    return Meaning(frozenset(flags - set(_BY_FLAVOR)), frozenset(values.items()), tuple(by_flavor.items()))


def _value(name: str, value: str) -> str:
    if name in ("anonuid", "anongid") and re.fullmatch(r"[+-]?[0-9]+", value):
        return str(int(value) % (1 << 32))
    if name == "fsid":
        if value == "root":
            return "0"
        digits = re.sub("[^0-9a-f]", "", value.lower())
        return digits if len(digits) == 32 else value
    return value


# What somebody wants


def wanted(path: str, clients: Sequence[Any]) -> List[Client]:
    """The clients of an option C(clients), each a text like C(host(rw,sync)) or a dictionary, if they make sense."""
    check_path(path)
    found: Dict[str, Client] = {}
    for number, given in enumerate(clients, 1):
        client = _wanted(given, f"clients: number {number}")
        if client.key in found:
            raise Refusal(
                f"clients: {client.host} is there twice, the first time as {found[client.key].host}",
                "bad_option",
                "name each client once, with all of its options",
            )
        found[client.key] = client
    if not found:
        raise Refusal(
            "clients: an export without clients would be open to everybody",
            "bad_option",
            'name the hosts, networks or netgroups that may mount it, or "*" for everybody',
        )
    return list(found.values())


def check_path(path: str) -> None:
    if not path.startswith("/"):
        raise Refusal(f"path: {path!r} does not begin with /", "bad_option", "give the whole path of the directory")
    if not _is_found_again(path):
        raise Refusal(f"path: {path!r} cannot be written in a file of exports(5)", "bad_option", "rename the directory")


def _is_found_again(path: str) -> bool:
    try:
        line = f"{_quoted(path)} *(ro)\n".encode("latin-1")
    except UnicodeEncodeError:
        # Half of a pair of surrogates, which no name of a file is.
        return False
    return "\0" not in path and parse(line).entries[0].path == path


def _wanted(given: Any, where: str) -> Client:
    if isinstance(given, str):
        host, bracket, rest = given.strip().partition("(")
        if bracket and not _closed(rest):
            raise Refusal(f"{where}, {given!r}, is not of the form host(option,option)", "bad_option", "write it so")
        options: Any = rest[:-1]
    elif isinstance(given, Mapping) and set(given) <= {"host", "options"} and isinstance(given.get("host"), str):
        host, options = given["host"], given.get("options") or []
    else:
        raise Refusal(
            f"{where}, {given!r}, is neither a text like host(rw,sync) nor a dictionary of host and options",
            "bad_option",
            "give it the keys host and options, and nothing else",
        )
    if isinstance(options, str):
        options = _split(options)
    if not isinstance(options, (list, tuple)):
        raise Refusal(f"{where}: options: {options!r} is no list", "bad_option", "write [rw, sync] or rw,sync")
    host = host.strip()
    _check_host(host, where)
    names = tuple(str(option).strip() for option in options)
    _check_options(names, f"{where}, {host}")
    return Client(host, names)


def _check_host(host: str, where: str) -> None:
    cure = "give a host name, an address, a network like 10.0.1.0/24 or fd00::/64, a @netgroup, or * for everybody"
    if "[" in host and ":" in host:
        raise Refusal(f"{where}: {host!r}: exports(5) takes brackets for a pattern", "bad_option", "leave [ and ] out")
    if host == EVERYBODY or _GSS.fullmatch(host) or _NETGROUP.fullmatch(host):
        return
    try:
        if "/" in host:
            _network(host)
        elif ":" in host or re.fullmatch(r"[0-9.]+", host):
            ipaddress.ip_address(host)
        elif host.startswith("-") or not _HOST.fullmatch(host):
            raise ValueError(host)
    except ValueError as error:
        raise Refusal(f"{where}: {host!r} is no client of exports(5)", "bad_option", cure) from error


def _check_options(options: Sequence[str], where: str) -> None:
    known = sorted({*_FLAGS, *_ALIASES, *_VALUES})
    for option in options:
        name, equals, value = option.partition("=")
        if name in known and _OPTION.fullmatch(option):
            if (name in _FLAGS or name in ("auth_nlm", "no_auth_nlm")) == bool(equals):
                said = "has no value" if equals else "needs a value"
                if _ALIASES.get(name, name) != "mountpoint":
                    raise Refusal(f"{where}: option {option} {said}", "bad_option", f"write {name}, as exports(5) does")
            if name in ("anonuid", "anongid") and not re.fullmatch(r"-?[0-9]+", value):
                raise Refusal(f"{where}: option {option} is no number", "bad_option", "give a user's or group's number")
            continue
        close = difflib.get_close_matches(name, known, 1)
        meant = f"did you mean {close[0]}? " if close and close[0] != name else ""
        raise Refusal(
            f"{where}: unknown option {option!r}", "bad_option", f"{meant}exports(5) knows {', '.join(known)}"
        )
    for segment in _segments(options):
        first: Dict[str, str] = {}
        for option in segment:
            name, equals, value = option.partition("=")
            name = _ALIASES.get(name, name)
            key = "refer or replicas" if name in ("refer", "replicas") else _FLAGS.get(name, (name, True))[0]
            before = first.setdefault(key, option)
            if meaning([before]) != meaning([option]):
                raise Refusal(
                    f"{where}: options {before} and {option} exclude each other",
                    "bad_combination",
                    "leave one out",
                )


def _segments(options: Sequence[str]) -> List[List[str]]:
    """Options that count at once: where several sec= come one after the other, each begins anew."""
    segments: List[List[str]] = [[]]
    several = sum(option.startswith("sec=") for option in options) > 1
    for option in options:
        if several and option.startswith("sec="):
            segments.append([])
        segments[-1].append(option)
    return segments


def hazards(path: str, clients: Sequence[Client]) -> List[str]:
    """What is done because it was asked for, and should be known."""
    found = []
    for client in clients:
        if client.key in (EVERYBODY, "0.0.0.0/0", "::/0") and client.meaning.writable_as_root:
            found.append(
                f"{path} is exported to everybody ({client.host}) with rw and no_root_squash: root of every machine"
                " that reaches this server can write to it as root; name the hosts or networks that need it instead"
            )
        if re.fullmatch(r"[0-9.]*[*?][0-9.*?]*", client.host) and client.host != EVERYBODY:
            found.append(
                f"{path}: {client.host} is a pattern for names, which addresses match by accident only; give a network"
            )
    return found


# Writing


def is_as_wanted(parsed: Parsed, path: str, clients: Sequence[Client]) -> bool:
    there = [client for entry in parsed.of(path) for client in entry.clients]
    return len(there) == len(clients) and (
        {client.key: client.meaning for client in there} == {client.key: client.meaning for client in clients}
    )


def with_export(data: bytes, path: str, clients: Sequence[Client]) -> bytes:
    """The file with that path exported to those clients and no others. Exports of other paths stay as they are."""
    parsed = parse(data)
    if is_as_wanted(parsed, path, clients):
        return data
    entries, text = parsed.of(path), parsed.text
    if not entries:
        line = f"{_quoted(path)} {' '.join(_shown(client) for client in clients)}\n"
        if text and (not text.endswith("\n") or text.endswith("\\\n")):
            line = f"\n{line}"
        return (text + line).encode("latin-1")
    # A client that stays as it is keeps its spelling, but where default options of the line would work on it.
    kept = {
        client.key: client for entry in entries for client in entry.clients if client.text and not entry.has_defaults
    }
    words = [
        kept[client.key].text if client.key in kept and kept[client.key].meaning == client.meaning else _shown(client)
        for client in clients
    ]
    first = entries[0]
    for entry in reversed(entries[1:]):
        text = _without(text, entry)
    start = text[first.start : first.path_stop]
    return f"{text[: first.start]}{start} {' '.join(words)}{text[first.stop :]}".encode("latin-1")


def without_export(data: bytes, path: str) -> bytes:
    """The file without that path."""
    parsed = parse(data)
    text = parsed.text
    for entry in reversed(parsed.of(path)):
        text = _without(text, entry)
    return text.encode("latin-1")


def _without(text: str, entry: Entry) -> str:
    start = entry.start
    while text[start - 1 : start] in (" ", "\t"):
        start -= 1
    return text[:start] + text[entry.end :]


def _shown(client: Client) -> str:
    return _encoded(f"{client.host}({','.join(client.options) or 'ro'})")


def _quoted(path: str) -> str:
    special = '"\\#\x7f'
    return "".join(f"\\{ord(char):03o}" if char <= " " or char in special else char for char in _encoded(path))


# The set of all files


def twice(files: Mapping[str, Parsed]) -> List[Tuple[str, Problem]]:
    """Clients that one path has more than once: exportfs takes the first and drops the others."""
    seen: Dict[Tuple[str, str], str] = {}
    found: List[Tuple[str, Problem]] = []
    for name, parsed in files.items():
        for entry in parsed.entries:
            for client in entry.clients:
                key = (entry.normal, client.host.lower())
                if key in seen:
                    text = f"{entry.path} has the client {client.host or EVERYBODY} in {seen[key]} already"
                    found.append((name, Problem(entry.line, text)))
                seen.setdefault(key, f"{name} line {entry.line}")
    return found


def active(data: bytes) -> List[Dict[str, Any]]:
    """The live table, as exportfs keeps it in its own file."""
    return [
        {"path": entry.path, "client": client.host or EVERYBODY, "options": list(client.options)}
        for entry in parse(data).entries
        for client in entry.clients
    ]
