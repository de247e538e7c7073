# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""libvirt URIs: `driver[+transport]://[user@][host][:port]/path[?extra]`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Dict, Set, Tuple
from urllib.parse import quote, unquote, urlencode

from .refusal import Refusal

# What each driver accepts as path, as a pattern and in words; a row here is all a new driver needs.
PATHS = {
    "qemu": (r"/system|/session", "/system and /session"),
    "xen": (r"/system|/|", "/system"),
    "test": (r"/.+", "/default and the absolute path of a file"),
}
# Per transport: must a host be named, may one be named. Without a word, a host means TLS and none means local.
TRANSPORTS = {
    "": (False, True),
    "ssh": (True, True),
    "tls": (True, True),
    "tcp": (True, True),
    "unix": (False, False),
    "libssh2": (True, True),
    "libssh": (True, True),
    "ext": (False, True),
}
# What libvirt's own page of URIs (docs/uri.rst) knows as extras, as a pattern of values and in words. libvirt itself
# lets pass, and forgets, what it does not know.
_ANY, _PATH, _NUMBER = (r".+", "a value"), (r"/.+", "an absolute path"), (r"[0-9]+", "0 or 1")
EXTRAS = {
    "name": _ANY,
    "mode": (r"auto|direct|legacy", "auto, direct or legacy"),
    "proxy": (r"auto|netcat|native", "auto, netcat or native"),
    # A program that libvirt runs, and one that it runs on the other host.
    "command": _ANY,
    "netcat": _ANY,
    "socket": _PATH,
    "keyfile": _ANY,
    "no_verify": _NUMBER,
    "no_tty": _NUMBER,
    "known_hosts": _PATH,
    "known_hosts_verify": (r"normal|auto|ignore", "normal, auto or ignore"),
    "sshauth": _ANY,
    "tls_priority": _ANY,
    "pkipath": _ANY,
}
_LIBSSH = ("mode", "proxy", "socket", "netcat", "keyfile", "known_hosts", "known_hosts_verify", "sshauth")
# The extras of each transport; `name` is one of all.
EXTRAS_OF = {
    "ssh": ("mode", "proxy", "command", "socket", "netcat", "keyfile", "no_verify", "no_tty"),
    "libssh": _LIBSSH,
    "libssh2": _LIBSSH,
    "tls": ("tls_priority", "no_verify", "pkipath"),
    "unix": ("mode", "socket"),
    "ext": ("command",),
    "tcp": (),
}
FORM = "driver[+transport]://[user@][host][:port]/path[?extra]"

_URI = re.compile(
    r"(?P<scheme>[^:/?#]+)://"
    r"(?:(?P<user>[^@/?#:]*)(?::(?P<password>[^@/?#]*))?@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+(?:%[^\]/?#@]+)?\]|[^:/?#@\[\]]*)"
    r"(?::(?P<port>[^/?#]*))?"
    r"(?P<path>/[^?#]*)?"
    r"(?:\?(?P<query>[^#]*))?"
)
_SECRET = re.compile(r"://[^@/?#:\s]*:([^@/?#\s]+)@")
_PASSWORD = re.compile(r"(?<=://)([^@/?#:\s]*):[^@/?#\s]*@")
# The same in what was given as a URI and perhaps is none: to the last @, whatever stands before it.
_WHOLE_SECRET = re.compile(r"[^:/?#]+://[^@/?#:\s]*:(.+)@", re.DOTALL)
_WHOLE_PASSWORD = re.compile(r"(?<=://)([^@/?#:\s]*):.*@", re.DOTALL)
# What libvirt would take for an escape, where a zone is written as in a command.
_ESCAPE = re.compile(r"%(?!25)[0-9A-Fa-f]{2}")
_ZONE = re.compile(r"[A-Za-z0-9_.-]+")
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?")


@dataclass(frozen=True)
class Uri:
    """A libvirt URI in its parts; `host` is without the brackets of an IPv6 address, and as commands take its zone."""

    driver: str
    transport: str = ""
    user: str = ""
    host: str = ""
    port: int | None = None
    path: str = "/system"
    query: Tuple[Tuple[str, str], ...] = ()
    password: str = ""

    @property
    def is_local(self) -> bool:
        """Whether it leads to the daemon of the machine that opens it."""
        return not self.host and self.transport in ("", "unix")

    def with_query(self, key: str, value: str) -> Uri:
        """The same with one extra more; one that is there already stays as it was said."""
        if any(name == key for name, _value in self.query):
            return self
        return Uri(**{**self.__dict__, "query": (*self.query, (key, value))})

    def __str__(self) -> str:
        scheme = f"{self.driver}+{self.transport}" if self.transport else self.driver
        secret = f":{quote(self.password, safe='')}" if self.password else ""
        login = f"{quote(self.user, safe='')}{secret}@" if self.user else ""
        host = _bracketed(self.host)
        port = f":{self.port}" if self.port is not None else ""
        query = f"?{urlencode(self.query, quote_via=quote)}" if self.query else ""
        return f"{scheme}://{login}{host}{port}{quote(self.path)}{query}"


def _bracketed(host: str) -> str:
    """A host as it stands in a URI, where the % before a zone is %25 (RFC 6874)."""
    return "[{}]".format(host.replace("%", "%25")) if ":" in host else host


def _bare(host: str) -> str:
    """The other way round; a zone that was written as in a command stays as it is."""
    address, percent, zone = host.strip("[]").partition("%")
    return address + percent + (zone[2:] if zone.startswith("25") else zone)


def _refuse(option: str, text: str, why: str, cure: str) -> Refusal:
    if hidden(text) != redact(text):
        # A part of it, as it would be named otherwise, may be a part of the password.
        why = "is not a libvirt URI"
        cure = f"give {FORM}, and what is no letter or digit in a password as %XX"
    return Refusal(f"{option}: {hidden(text)!r} {why}", "bad_option", cure)


def parse(text: str, option: str = "uri") -> Uri:
    """Take a URI apart; `option` is named in what is refused."""
    match = _URI.fullmatch(text)
    # Half a surrogate pair, as bytes that are no UTF-8 come from a command line, cannot be written back.
    if not match or re.search("[\ud800-\udfff]", text):
        raise _refuse(option, text, "is not a libvirt URI", f"give {FORM}, for example qemu+ssh://root@kvm2/system")
    driver, _plus, transport = match["scheme"].partition("+")
    host = _bare(match["host"] or "")
    _check_scheme(option, text, driver, transport, match["scheme"])
    _check_host(option, text, transport, host, match["user"], match["port"])
    path = unquote(match["path"] or "")
    pattern, accepted = PATHS[driver]
    if not re.fullmatch(pattern, path, re.DOTALL):
        raise _refuse(option, text, f"has the path {path!r}", f"the {driver} driver accepts {accepted}")
    query = _extras(option, text, transport or ("tls" if host else "unix"), match["query"] or "")
    if transport == "ext" and not dict(query).get("command"):
        raise _refuse(option, text, "names no program, which transport ext needs", "add ?command=/path/of/the/program")
    return Uri(
        driver=driver,
        transport=transport,
        user=unquote(match["user"] or ""),
        password=unquote(match["password"] or ""),
        host=host,
        port=_port(option, text, match["port"]),
        path=path,
        query=query,
    )


def _check_scheme(option: str, text: str, driver: str, transport: str, scheme: str) -> None:
    if driver not in PATHS:
        raise _refuse(option, text, f"has the driver {driver!r}", f"accepted drivers: {', '.join(PATHS)}")
    if transport not in TRANSPORTS or (scheme.endswith("+")):
        accepted = ", ".join(name for name in TRANSPORTS if name)
        raise _refuse(option, text, f"has the transport {transport!r}", f"accepted transports: {accepted}")


def _check_host(option: str, text: str, transport: str, host: str, user: str | None, port: str | None) -> None:
    needs_host, may_have_host = TRANSPORTS[transport]
    if needs_host and not host:
        raise _refuse(option, text, f"names no host, which transport {transport} needs", f"give {FORM}")
    if host and not may_have_host:
        raise _refuse(option, text, f"names a host, and transport {transport} has none", "leave the host out")
    if not host and (user or port):
        raise _refuse(option, text, "has a user or a port without a host", f"give {FORM}")
    if host and ":" not in host and not _HOST.fullmatch(host):
        raise _refuse(option, text, f"has the host {host!r}", "give a host name, an IPv4 address or an IPv6 one in []")
    _address, percent, zone = host.partition("%")
    if percent and not _ZONE.fullmatch(zone):
        raise _refuse(option, text, f"has the zone {zone!r}", "give the name of a network interface after %25")
    if percent and _ESCAPE.search(text.partition("[")[2].partition("]")[0]):
        raise _refuse(option, text, f"has the zone {zone!r} after a %, which means something else", "write it as %25")


def _extras(option: str, text: str, transport: str, query: str) -> Tuple[Tuple[str, str], ...]:
    """The extras of a transport. A plus is a plus to libvirt, which takes both separators."""
    found: Dict[str, str] = {}
    known = ("name", *EXTRAS_OF[transport])
    for part in filter(None, re.split("[&;]", query)):
        name, _equals, value = part.partition("=")
        name, value = unquote(name), unquote(value)
        if name not in known:
            accepted = f"transport {transport} knows {', '.join(known)}"
            raise _refuse(option, text, f"has the extra {name!r}, which is not known", accepted)
        pattern, words = EXTRAS[name]
        if name in found or not re.fullmatch(pattern, value, re.DOTALL):
            raise _refuse(option, text, f"has the extra {name}={value!r}", f"accepted once: {words}")
        found[name] = value
    if "netcat" in found and found.get("proxy") == "native":
        raise _refuse(option, text, "names netcat with proxy=native, which uses none", "leave one of them out")
    return tuple(found.items())


def _port(option: str, text: str, port: str | None) -> int | None:
    if port is None:
        return None
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise _refuse(option, text, f"has the port {port!r}", "accepted ports: 1 to 65535")
    return int(port)


def for_host(address: str) -> str:
    """The URI of the system daemon of the host with that name or address."""
    return str(Uri("qemu", "ssh", user="root", host=_bare(address)))


def for_data(address: str) -> str:
    """The URI that tells QEMU on which address of the destination the guest's memory is taken in."""
    return f"tcp://{_bracketed(_bare(address))}"


def parse_data(text: str) -> str:
    """The host that a URI for the guest's data names, empty where it names none."""
    match = re.match(r"[a-z]+:(?://)?(\[[^\]]+\]|[^:/?]+)", text)
    return _bare(match[1]) if match and not text.startswith("unix:") else ""


def port_of_data(text: str) -> int | None:
    """The port that a URI for the guest's data names."""
    match = re.match(r"[a-z]+://(?:\[[^\]]+\]|[^:/?]+):([0-9]+)", text)
    return int(match[1]) if match else None


def secrets(*texts: str | None) -> Set[str]:
    """The passwords in URIs, as they stand there and as they are meant."""
    found = {match[1] for text in texts if text for match in _SECRET.finditer(text)}
    found |= {match[1] for match in (_WHOLE_SECRET.match(text) for text in texts if text) if match}
    return found | {unquote(secret) for secret in found}


def redact(text: str) -> str:
    """The text with the passwords of all URIs in it hidden."""
    return _PASSWORD.sub(r"\1:***@", text)


def lost_password(text: str) -> bool:
    """Whether the URI had a password, which is hidden in it and so can no longer be used."""
    return ":***@" in text and redact(text) == text


def hidden(text: str) -> str:
    """What was given as a URI, with everything in it hidden that may have been meant as a password."""
    return _WHOLE_PASSWORD.sub(r"\1:***@", text)
