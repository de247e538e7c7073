# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""What the engine needs to know of a domain's XML, by many small functions."""

from __future__ import annotations

import posixpath
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import Collection, Iterator, Mapping, Tuple

from .refusal import Refusal

# The attribute of <source> that says where a disk of that type lies.
_SOURCE_ATTRIBUTES = {
    "file": "file",
    "block": "dev",
    "dir": "dir",
    "network": "name",
    "volume": "volume",
    "nvme": "namespace",
    "vhostuser": "path",
}
_MEMORY_UNITS = {
    "b": 1,
    "bytes": 1,
    "KB": 10**3,
    "k": 2**10,
    "KiB": 2**10,
    "M": 2**20,
    "MiB": 2**20,
    "G": 2**30,
    "GiB": 2**30,
}
_NOT_ON_DEMAND = {
    "memoryBacking/hugepages": "it has its memory in huge pages",
    "memoryBacking/source[@type='file']": "it has its memory in a file",
    "devices/hostdev": "it has a device of the host",
    "devices/interface[@type='hostdev']": "it has a network device of the host",
}


# Else it would be written under another name.
ET.register_namespace("qemu", "http://libvirt.org/schemas/domain/qemu/1.0")


def directory(path: str) -> str:
    """The directory of a file."""
    return posixpath.dirname(posixpath.normpath(path))


@dataclass(frozen=True)
class Layer:
    """What libvirt knows to lie below the image of a disk; `type` and `source` are as those of a disk."""

    type: str = "file"
    source: str = ""
    format: str = ""


@dataclass(frozen=True)
class Disk:
    """One disk of a domain; `source` is empty for an empty drive, `backing` are the files below it, nearest first."""

    target: str
    device: str = "disk"
    type: str = "file"
    source: str = ""
    pool: str = ""
    format: str = "raw"
    cache: str = ""
    readonly: bool = False
    shareable: bool = False
    # What happens without its source: mandatory, requisite or optional.
    startup: str = "mandatory"
    backing: Tuple[str, ...] = ()
    # Format of the nearest of them.
    backing_format: str = ""
    # All below its image, nearest first, and whether libvirt knows that nothing is below the last of them.
    layers: Tuple[Layer, ...] = ()
    ends: bool = False
    bus: str = ""
    # Of a network disk, and its servers: addresses, names or socket files.
    protocol: str = ""
    servers: Tuple[str, ...] = ()
    transient: bool = False
    discard: str = ""
    detect_zeroes: str = ""
    serial: str = ""
    # Format of its encryption.
    encryption: str = ""

    @property
    def directory(self) -> str:
        """The directory of an image file."""
        return directory(self.source) if self.type == "file" and self.source else ""

    @property
    def files(self) -> Tuple[str, ...]:
        """Every path that QEMU opens for this disk."""
        own = (self.source,) if self.source and self.type in ("file", "block") else ()
        return own + self.backing


@dataclass(frozen=True)
class Definition:
    """A domain as its XML describes it."""

    name: str
    uuid: str
    memory: int = 0
    disks: Tuple[Disk, ...] = ()
    nvram: str = ""
    # Whether memory that QEMU may pin is bounded.
    hard_limit: bool = False
    # What it has that post-copy cannot serve page by page, in words.
    not_on_demand: str = ""

    def __getitem__(self, target: str) -> Disk:
        """A disk that it is known to have."""
        return next(disk for disk in self.disks if disk.target == target)

    def disk(self, target: str) -> Disk | None:
        return next((disk for disk in self.disks if disk.target == target), None)


def parse(text: str) -> Definition:
    """The definition in a domain's XML."""
    root = _root(text)
    return Definition(
        name=root.findtext("name", ""),
        uuid=root.findtext("uuid", "").strip().lower(),
        memory=size(root.find("memory")),
        disks=tuple(_disk(node) for node in root.findall("devices/disk")),
        nvram=_nvram(root),
        hard_limit=root.find("memtune/hard_limit") is not None,
        not_on_demand=next((what for path, what in _NOT_ON_DEMAND.items() if root.find(path) is not None), ""),
    )


def given(text: str, option: str) -> Definition:
    """The definition in XML that a person gave; what is wrong with it is said of the option."""
    root = _root(text, option, "bad_option", "give what virsh dumpxml --migratable prints, with your changes")
    if not root.findtext("uuid", "").strip():
        raise Refusal(
            f"{option}: the XML has no <uuid>, and libvirt would make one up", "bad_option", "give the VM's own UUID"
        )
    return parse(text)


def check_same(wanted: Definition, option: str, current: Definition, name: bool) -> None:
    """Refuse XML of an option that describes another VM; `name` where it must have the same name, too."""
    if wanted.uuid != current.uuid:
        raise Refusal(
            f"{option}: the XML has UUID {wanted.uuid}, and VM {current.name} has {current.uuid}",
            "bad_option",
            "give XML of this VM",
        )
    if name and wanted.name != current.name:
        raise Refusal(
            f"{option}: the XML has the name {wanted.name!r}, and the VM is {current.name}",
            "bad_option",
            "leave the name as it is, and say dest_name to rename the VM",
        )


def _root(
    text: str,
    what: str = "the domain",
    failure_class: str = "bad_xml",
    cure: str = "look at it with virsh dumpxml",
) -> ET.Element:
    # libvirt writes no document type, and expanding one from elsewhere is how XML attacks begin.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise Refusal(f"{what}: the XML has a document type", failure_class, "leave it out")
    try:
        root = ET.fromstring(text)
    except ET.ParseError as error:
        raise Refusal(f"{what}: the XML cannot be read: {error}", failure_class, cure) from error
    if root.tag != "domain":
        raise Refusal(f"{what}: the XML is a <{root.tag}>, not a <domain>", failure_class, cure)
    return root


def _nvram(root: ET.Element) -> str:
    """The file of the firmware's variables; empty where there is none, or where they are not in a file."""
    store = root.find("os/varstore")
    if store is not None:
        return store.get("path", "")
    node = root.find("os/nvram")
    source = root.find("os/nvram/source")
    if node is None or node.get("type", "file") != "file":
        return ""
    return source.get("file", "") if source is not None else (node.text or "").strip()


def nvram_template(text: str) -> str:
    """The file that the firmware's variables begin as; empty where the domain names none."""
    root = _root(text)
    found = (root.find("os/varstore"), root.find("os/nvram"))
    return next((node.get("template", "") for node in found if node is not None), "")


def size(node: ET.Element | None) -> int:
    """Bytes of an element with a number and a unit; 0 where it has none."""
    if node is None or not (node.text or "").strip().isdigit():
        return 0
    return int((node.text or "").strip()) * _MEMORY_UNITS.get(node.get("unit", "KiB"), 2**10)


def _disk(node: ET.Element) -> Disk:
    kind = node.get("type", "file")
    source = node.find("source")
    driver = node.find("driver")
    target = node.find("target")
    device = node.get("device", "disk")
    return Disk(
        target="" if target is None else target.get("dev", ""),
        device=device,
        type=kind,
        source=_source(source, kind),
        pool="" if source is None else source.get("pool", ""),
        format="raw" if driver is None else driver.get("type", "raw"),
        cache="" if driver is None else driver.get("cache", ""),
        readonly=node.find("readonly") is not None or device == "cdrom",
        shareable=node.find("shareable") is not None,
        startup="mandatory" if source is None else source.get("startupPolicy", "mandatory"),
        backing=_backing(node),
        backing_format=_backing_format(node),
        layers=tuple(_layers(node)),
        ends=_ends(node),
        bus="" if target is None else target.get("bus", ""),
        protocol="" if source is None else source.get("protocol", ""),
        servers=tuple(_servers(source)),
        transient=node.find("transient") is not None,
        discard="" if driver is None else driver.get("discard", ""),
        detect_zeroes="" if driver is None else driver.get("detect_zeroes", ""),
        serial=node.findtext("serial", ""),
        encryption=_encryption(node),
    )


def _servers(source: ET.Element | None) -> Iterator[str]:
    for host in source.findall("host") if source is not None else ():
        yield host.get("name", "") or host.get("socket", "")


def _encryption(node: ET.Element) -> str:
    """libvirt writes it beside the source or in it."""
    found = node.find("source/encryption")
    found = node.find("encryption") if found is None else found
    return "" if found is None else found.get("format", "")


def _layers(node: ET.Element) -> Iterator[Layer]:
    store = node.find("backingStore")
    # An empty one says that there is nothing.
    while store is not None and len(store):
        kind, form = store.get("type", "file"), store.find("format")
        yield Layer(kind, _source(store.find("source"), kind), "" if form is None else form.get("type", ""))
        store = store.find("backingStore")


def _ends(node: ET.Element) -> bool:
    stores = list(node.iter("backingStore"))
    return bool(stores) and len(stores[-1]) == 0


def _source(source: ET.Element | None, kind: str) -> str:
    return "" if source is None else source.get(_SOURCE_ATTRIBUTES.get(kind, "file"), "")


def _backing(node: ET.Element) -> Tuple[str, ...]:
    files = []
    store = node.find("backingStore")
    while store is not None:
        path = _source(store.find("source"), store.get("type", "file"))
        if path and store.get("type", "file") in ("file", "block"):
            files.append(path)
        store = store.find("backingStore")
    return tuple(files)


def _backing_format(node: ET.Element) -> str:
    form = node.find("backingStore/format")
    return "" if form is None else form.get("type", "")


def keep_sparse(text: str, targets: Collection[str]) -> str:
    """The domain's XML with C(discard='unmap') on these disks, unless their driver says something of its own.

    Without it QEMU writes the zeroes of a sparse image out at the destination, and the copy takes its virtual size.
    `discard` is no part of the guest ABI: the guest sees the same disk either way.
    """
    root = _root(text)
    for node in root.findall("devices/disk"):
        driver = node.find("driver")
        if _disk(node).target in targets and driver is not None and "discard" not in driver.attrib:
            driver.set("discard", "unmap")
    return ET.tostring(root, encoding="unicode")


def renamed(text: str, name: str) -> str:
    """The domain's XML under another name."""
    root = _root(text)
    node = root.find("name")
    if node is None or node.text == name:
        return text
    node.text = name
    return ET.tostring(root, encoding="unicode")


def equal(one: str, other: str) -> bool:
    """Whether two XML texts say the same, however they are written."""
    return ET.canonicalize(one, strip_text=True) == ET.canonicalize(other, strip_text=True)


def repointed(text: str, images: Mapping[str, str]) -> str:
    """The domain's XML with other image files for disks, by target."""
    root = _root(text)
    for node in root.findall("devices/disk"):
        path = images.get(_disk(node).target)
        source = node.find("source")
        if path and source is not None and node.get("type", "file") == "file":
            source.set("file", path)
    return ET.tostring(root, encoding="unicode")


@dataclass(frozen=True)
class Place:
    """Where a disk of a definition lies from now on, and in which format.

    `flat` where the image has nothing below it any more.
    """

    path: str
    block: bool = False
    format: str = ""
    flat: bool = False


def relocated(text: str, places: Mapping[str, Place]) -> str:
    """The domain's XML with disks at other places, by target; everything else stays, secrets included."""
    root = _root(text)
    for node in root.findall("devices/disk"):
        place = places.get(_disk(node).target)
        if place is not None:
            _relocate(node, place)
    return ET.tostring(root, encoding="unicode")


def _relocate(node: ET.Element, place: Place) -> None:
    source = node.find("source")
    if source is None:
        source = ET.SubElement(node, "source")
    for attribute in ("file", "dev", "pool", "volume", "mode", "index"):
        source.attrib.pop(attribute, None)
    node.set("type", "block" if place.block else "file")
    source.set("dev" if place.block else "file", place.path)
    driver = node.find("driver")
    if place.format:
        if driver is None:
            driver = ET.SubElement(node, "driver", name="qemu")
        driver.set("type", place.format)
    # Images name what is below them, and libvirt looks there again; an empty element says that nothing is.
    for store in node.findall("backingStore"):
        if len(store) or place.flat:
            node.remove(store)


def copy_target(place: Place) -> str:
    """The disk element that libvirt's block copy takes for where the copy goes."""
    node = ET.Element("disk", type="block" if place.block else "file")
    ET.SubElement(node, "driver", type=place.format or "raw")
    ET.SubElement(node, "source", {"dev" if place.block else "file": place.path})
    return ET.tostring(node, encoding="unicode")


@dataclass(frozen=True)
class Mirror:
    """A block copy of a running domain's disk: where it goes, and whether that has all of it."""

    path: str
    ready: bool = False


def mirrors(text: str) -> Mapping[str, Mirror]:
    """By target, the block copies that go on with the disks of a running domain."""
    found = {}
    for node in _root(text).findall("devices/disk"):
        mirror = node.find("mirror[@job='copy']")
        if mirror is not None:
            kind = mirror.get("type", "file")
            found[_disk(node).target] = Mirror(_source(mirror.find("source"), kind), mirror.get("ready") == "yes")
    return found


def pool_path(text: str) -> Tuple[str, str]:
    """Type and target path of a storage pool's XML; the path is empty for pools without one."""
    root = ET.fromstring(text)
    path = (root.findtext("target/path") or "").strip()
    return root.get("type", ""), posixpath.normpath(path) if path else ""


def volume_format(text: str) -> str:
    """The image format of a storage volume's XML."""
    node = ET.fromstring(text).find("target/format")
    return "raw" if node is None else node.get("type", "raw")


def host_uuid(text: str) -> str:
    """The host's UUID in the capabilities XML."""
    return (ET.fromstring(text).findtext("host/uuid") or "").strip().lower()


def dir_pool(name: str, path: str) -> str:
    """XML of a directory pool."""
    pool = ET.Element("pool", type="dir")
    ET.SubElement(pool, "name").text = name
    ET.SubElement(ET.SubElement(pool, "target"), "path").text = path
    return ET.tostring(pool, encoding="unicode")


def volume(name: str, capacity: int, image: str = "raw", backing: str = "", backing_format: str = "") -> str:
    """XML of a volume, on top of the image `backing` where there is one."""
    node = ET.Element("volume")
    ET.SubElement(node, "name").text = name
    ET.SubElement(node, "capacity", unit="bytes").text = str(capacity)
    ET.SubElement(ET.SubElement(node, "target"), "format", type=image)
    if backing:
        store = ET.SubElement(node, "backingStore")
        ET.SubElement(store, "path").text = backing
        ET.SubElement(store, "format", type=backing_format)
    return ET.tostring(node, encoding="unicode")
