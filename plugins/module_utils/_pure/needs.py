# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""What a guest needs of the host that it runs on, by its XML."""

from __future__ import annotations

import posixpath
import xml.etree.ElementTree as ET
from dataclasses import dataclass, fields
from typing import Any, Dict, Iterator, List, Mapping, Tuple

from . import names
from .domain_xml import size

# How a secret is named that is given by what it is for.
_USAGES = {"ceph": "ceph", "iscsi": "iscsi", "volume": "volume", "tls": "tls", "vtpm": "vtpm"}


@dataclass(frozen=True)
class Needs:
    """Everything that is looked for at the destination."""

    # kvm, qemu, xen ...
    type: str = ""
    arch: str = ""
    machine: str = ""
    emulator: str = ""
    # Its <cpu> where that names a model, and how it is chosen.
    cpu: str = ""
    cpu_mode: str = ""
    # Bytes that it has now, and the size of its huge pages, 0 for none.
    memory: int = 0
    huge_page: int = 0
    networks: Tuple[str, ...] = ()
    # Each a network and the name of one of its port groups.
    portgroups: Tuple[Tuple[str, str], ...] = ()
    bridges: Tuple[str, ...] = ()
    # Those of them that are bridges of Open vSwitch.
    switches: Tuple[str, ...] = ()
    # Network devices of the host that it uses directly.
    devices: Tuple[str, ...] = ()
    # Network devices that its host makes for it, under a name that somebody has given.
    taps: Tuple[str, ...] = ()
    # Those that somebody else has made on its host before.
    ready_taps: Tuple[str, ...] = ()
    # Network filters of its interfaces.
    filters: Tuple[str, ...] = ()
    # Where somebody can connect to it: what listens, at which address of its host, and the port, 0 for any.
    listens: Tuple[Tuple[str, str, int], ...] = ()
    # What it connects to itself, by what, on its own host: an address and a port.
    connects: Tuple[Tuple[str, str, int], ...] = ()
    # Files of the host that it starts from, and directories in which its consoles make files.
    files: Tuple[str, ...] = ()
    folders: Tuple[str, ...] = ()
    # Each by its UUID, or as TYPE:NAME.
    secrets: Tuple[str, ...] = ()
    emulated_tpm: bool = False
    # What it would have after its next start, in words that can be compared.
    parts: Tuple[str, ...] = ()


def read(plain: Mapping[str, Any]) -> Needs:
    """Needs that were told as plain data."""
    known: Dict[str, Any] = {field.name: plain[field.name] for field in fields(Needs) if field.name in plain}
    lists = {name: tuple(map(_hashable, value)) for name, value in known.items() if isinstance(value, list)}
    return Needs(**{**known, **lists})


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def of(text: str) -> Needs:
    """The needs of a domain."""
    root = ET.fromstring(text)
    kind = root.find("os/type")
    cpu = root.find("cpu")
    interfaces = root.findall("devices/interface")
    return Needs(
        type=root.get("type", ""),
        arch="" if kind is None else kind.get("arch", ""),
        machine="" if kind is None else kind.get("machine", ""),
        emulator=root.findtext("devices/emulator", "").strip(),
        cpu=_named_cpu(cpu),
        cpu_mode="" if cpu is None else cpu.get("mode", "custom"),
        memory=size(root.find("currentMemory")) or size(root.find("memory")),
        huge_page=_huge_page(root),
        networks=tuple(dict.fromkeys((*_sources(interfaces, "network", "network"), *_listen_networks(root)))),
        portgroups=_portgroups(interfaces),
        bridges=_sources(interfaces, "bridge", "bridge"),
        switches=_sources([one for one in interfaces if _is_switched(one)], "bridge", "bridge"),
        devices=_sources(interfaces, "direct", "dev"),
        taps=_taps(interfaces, managed=True),
        ready_taps=_taps(interfaces, managed=False),
        filters=_filters(interfaces),
        listens=tuple(dict.fromkeys((*_graphics(root), *_consoles(root)))),
        connects=tuple(dict.fromkeys(_connects(root))),
        files=tuple(dict.fromkeys(_files(root))),
        folders=tuple(dict.fromkeys(_folders(root))),
        secrets=tuple(dict.fromkeys(_secrets(root))),
        emulated_tpm=root.find("devices/tpm/backend[@type='emulator']") is not None,
        parts=tuple(_parts(root)),
    )


def _named_cpu(cpu: ET.Element | None) -> str:
    return "" if cpu is None or cpu.find("model") is None else ET.tostring(cpu, encoding="unicode").strip()


def _sources(interfaces: List[ET.Element], kind: str, attribute: str) -> Tuple[str, ...]:
    """What interfaces of that kind are attached to.

    One of a network that is a bridge of the host is of that kind in a guest that runs, and names the network still: at
    the destination the network counts, and may have another bridge.
    """
    found = []
    for node in interfaces:
        source = node.find("source")
        if source is None:
            continue
        is_kind = "network" if source.get("network") is not None else node.get("type")
        if is_kind == kind:
            found.append(source.get(attribute, ""))
    return tuple(dict.fromkeys(filter(None, found)))


def _portgroups(interfaces: List[ET.Element]) -> Tuple[Tuple[str, str], ...]:
    sources = [node for node in (one.find("source") for one in interfaces) if node is not None]
    found = [(node.get("network", ""), node.get("portgroup", "")) for node in sources]
    return tuple(dict.fromkeys(one for one in found if all(one)))


def _is_switched(interface: ET.Element) -> bool:
    return interface.find("virtualport[@type='openvswitch']") is not None


def _filters(interfaces: List[ET.Element]) -> Tuple[str, ...]:
    named = (one.get("filter", "") for interface in interfaces for one in interface.findall("filterref"))
    return tuple(dict.fromkeys(filter(None, named)))


# How libvirt begins the names that it chooses.
_CHOSEN = ("vnet", "vif", "macvtap", "macvlan")


def _taps(interfaces: List[ET.Element], managed: bool) -> Tuple[str, ...]:
    targets = (interface.find("target") for interface in interfaces)
    # One that is not managed is made by somebody else before the guest comes.
    those = [target for target in targets if target is not None and (target.get("managed") != "no") == managed]
    named = (target.get("dev", "") for target in those)
    return tuple(dict.fromkeys(name for name in named if name and not (managed and name.startswith(_CHOSEN))))


def _listen_networks(root: ET.Element) -> Iterator[str]:
    """Networks whose address at its host its screen listens on."""
    listens = root.findall("devices/graphics/listen[@type='network']")
    return filter(None, (listen.get("network", "") for listen in listens))


def _graphics(root: ET.Element) -> Iterator[Tuple[str, str, int]]:
    """Of a port that libvirt has chosen another one is chosen at the destination, as is an address of a network."""
    for node in root.findall("devices/graphics"):
        kind = node.get("type", "")
        listen = node.find("listen")
        if listen is not None and listen.get("type") != "address":
            continue
        address = node.get("listen", "") if listen is None else listen.get("address", "")
        # libvirt chooses no other one for a websocket, although it has chosen that.
        named = ("websocket",) if node.get("autoport") == "yes" else ("port", "tlsPort", "websocket")
        fixed = [int(node.get(one) or 0) for one in named]
        ports = [port for port in fixed if port > 0]
        if kind in ("vnc", "spice", "rdp"):
            yield from ((kind, address or "127.0.0.1", port) for port in ports or [0])


# Devices that are a character device to the guest (https://libvirt.org/formatdomain.html#consoles-serial-...).
_CHARACTER = ("serial", "parallel", "console", "channel", "redirdev", "smartcard")
# Where libvirt makes the directories itself.
_OWN = ("/var/lib/libvirt/qemu/", "/var/log/libvirt/qemu/", "/run/libvirt/qemu/", "/var/run/libvirt/qemu/")


def _characters(root: ET.Element) -> Iterator[ET.Element]:
    for name in _CHARACTER:
        yield from root.findall(f"devices/{name}")


def _consoles(root: ET.Element) -> Iterator[Tuple[str, str, int]]:
    for node in _characters(root):
        source = node.find("source[@mode='bind']")
        service = "" if source is None else source.get("service", "")
        if source is not None and node.get("type") == "tcp" and service.isdigit():
            # The first console is the first serial port.
            name = "serial" if node.tag == "console" else node.tag
            yield name, source.get("host", ""), int(service)


def _reconnects(source: ET.Element) -> bool:
    """Whether QEMU starts without whoever is at the other end, and tries again."""
    return source.find("reconnect[@enabled='yes']") is not None


# By protocol, the port of servers of network disks for which none is named.
_SERVICES = {"nbd": 10809, "iscsi": 3260, "http": 80, "https": 443, "ssh": 22}


def _disk_servers(root: ET.Element) -> Iterator[Tuple[str, str, int]]:
    """Of disks that are read-only: for the others it is judged whether both hosts share them."""
    for disk in root.findall("devices/disk[@type='network']"):
        source, target = disk.find("source"), disk.find("target")
        if disk.find("readonly") is None and disk.get("device") != "cdrom":
            continue
        protocol = "" if source is None else source.get("protocol", "")
        for server in disk.findall("source/host"):
            port = server.get("port", "")
            number = int(port) if port.isdigit() else _SERVICES.get(protocol, 0)
            if server.get("name") and names.is_own(server.get("name", "")) and protocol in _SERVICES and number:
                yield f"disk {'' if target is None else target.get('dev', '')}", server.get("name", ""), number


def _connects(root: ET.Element) -> Iterator[Tuple[str, str, int]]:
    yield from _disk_servers(root)
    for node in (*_characters(root), *root.findall("devices/rng/backend")):
        source = node.find("source[@mode='connect']")
        if source is not None and node.get("type") == "tcp" and not _reconnects(source):
            host, service = source.get("host", ""), source.get("service", "")
            if names.is_own(host) and service.isdigit():
                yield {"console": "serial", "backend": "rng"}.get(node.tag, node.tag), host, int(service)


def _files(root: ET.Element) -> Iterator[str]:
    """What the host's administrator has put there: firmware, kernels, tables."""
    named = [root.findtext(f"os/{name}", "").strip() for name in ("loader", "kernel", "initrd", "dtb")]
    named += [(node.text or "").strip() for node in root.findall("os/acpi/table")]
    named += [node.get("file", "") for node in (*root.findall("devices/*/rom"), *root.findall("sysinfo/entry"))]
    yield from (path for path in named if path.startswith("/"))


def _folders(root: ET.Element) -> Iterator[str]:
    """Where its consoles and disks have files, pipes and sockets."""
    paths = [node.get("socket", "") for node in root.findall("devices/disk[@type='network']/source/host")]
    paths += [node.get("socket", "") for node in root.findall("devices/graphics/listen")]
    paths += [node.get("path", "") for node in root.findall("devices/interface[@type='vhostuser']/source")]
    for node in _characters(root):
        source, log = node.find("source"), node.find("log")
        paths.append("" if log is None else log.get("file", ""))
        if source is not None and node.get("type") in ("file", "pipe", "unix") and not _reconnects(source):
            paths.append(source.get("path", ""))
    yield from (posixpath.dirname(path) for path in paths if path.startswith("/") and not path.startswith(_OWN))


def _huge_page(root: ET.Element) -> int:
    pages = root.find("memoryBacking/hugepages")
    if pages is None:
        return 0
    page = pages.find("page")
    # The host's own size where none is named.
    return -1 if page is None else int(page.get("size", "0")) * size_of(page.get("unit", "KiB"))


def size_of(unit: str) -> int:
    """Bytes in a unit of memory, as libvirt names it."""
    return size(ET.fromstring(f"<memory unit='{unit}'>1</memory>"))


def _secrets(root: ET.Element) -> Iterator[str]:
    for node in root.iter("secret"):
        uuid, usage = node.get("uuid", "").lower(), node.get("usage", "")
        if uuid:
            yield uuid
        elif usage:
            yield f"{_USAGES.get(node.get('type', ''), 'volume')}:{usage}"
    for node in root.findall("devices/tpm/backend/encryption"):
        if node.get("secret"):
            yield node.get("secret", "").lower()


def _parts(root: ET.Element) -> Iterator[str]:
    """What a person changes in a definition, in the order in which it is there."""
    yield f"memory {size(root.find('memory')) >> 20} MiB"
    yield f"{(root.findtext('vcpu') or '1').strip()} vCPUs"
    for node in root.findall("devices/disk"):
        source, target = node.find("source"), node.find("target")
        where = _first(source, "file", "dev", "name", "volume")
        if node.get("device", "disk") == "disk":
            yield f"disk {'' if target is None else target.get('dev', '')} {where}".strip()
    for node in root.findall("devices/interface"):
        mac, source = node.find("mac"), node.find("source")
        # A network is named on both, and its bridge only while the guest runs.
        where = _first(source, "network", "bridge", "dev")
        yield f"interface {'' if mac is None else mac.get('address', '')} {where}".strip()
    yield from (f"hostdev {node.get('type', '')}" for node in root.findall("devices/hostdev"))


def _first(node: ET.Element | None, *attributes: str) -> str:
    return "" if node is None else next(filter(None, (node.get(key) for key in attributes)), "")


@dataclass(frozen=True)
class Offers:
    """What a host's capabilities say that guests can have there."""

    # By architecture, the machine types, with their short names, and the types of domains.
    machines: Mapping[str, Tuple[str, ...]]
    types: Mapping[str, Tuple[str, ...]]
    emulators: Tuple[str, ...]
    cpu: str


def offers(text: str) -> Offers:
    """Read the capabilities of a host."""
    root = ET.fromstring(text)
    machines: Dict[str, Tuple[str, ...]] = {}
    types: Dict[str, Tuple[str, ...]] = {}
    emulators: List[str] = []
    for arch in root.findall("guest/arch"):
        name = arch.get("name", "")
        found = [one for node in arch.iter("machine") for one in (node.text or "", node.get("canonical", "")) if one]
        machines[name] = tuple(dict.fromkeys((*machines.get(name, ()), *found)))
        types[name] = tuple(dict.fromkeys((*types.get(name, ()), *(n.get("type", "") for n in arch.findall("domain")))))
        emulators += [node.text or "" for node in arch.iter("emulator")]
    cpu = root.find("host/cpu")
    words = [] if cpu is None else [cpu.findtext("vendor", ""), cpu.findtext("model", "")]
    return Offers(machines, types, tuple(dict.fromkeys(filter(None, emulators))), " ".join(filter(None, words)))


def references(text: str) -> List[str]:
    """The network filters that one refers to."""
    return [one.get("filter", "") for one in ET.fromstring(text).findall("filterref")]


def network(text: str) -> Tuple[str, List[str]]:
    """A network's bridge, empty where it has none, and the names of its port groups."""
    root = ET.fromstring(text)
    bridge = root.find("bridge")
    groups = [name for name in (node.get("name", "") for node in root.findall("portgroup")) if name]
    return "" if bridge is None else bridge.get("name", ""), groups
