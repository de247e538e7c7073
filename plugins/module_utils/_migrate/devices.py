# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""The block devices of this machine, and what tells the same one on two hosts.

All of it is in sysfs, so that no device is opened and none can keep us waiting. A device is told by the name that its
storage gives it for the whole world (https://www.kernel.org/doc/html/latest/admin-guide/device-mapper/, and sysfs-block
`wwid`); a logical volume by its own UUID and by what it lies on, because a host that was made from the image of another
one has the UUIDs of its volumes, too.
"""

from __future__ import annotations

import os
import re
from typing import Any, Dict, List

from .facts import names_in, path_of, text_of

# NAA, EUI-64 and the UUID of an NVMe namespace are unique; T10 names and serial numbers are what a vendor likes.
_WORLD_WIDE = re.compile(r"(naa|eui|uuid)\.[0-9a-f-]+")
# How multipath begins the same names (scsi_id(8): the type of the identifier in page 0x83).
_MULTIPATH = {"3": "naa.", "2": "eui."}
_SECTOR = 512
_BLOCK = "sys/class/block"
# Below /dev, where no link leads to a device that a VM would have.
_ELSEWHERE = ("fd", "pts", "shm", "mqueue", "hugepages", "char", "input", "block")


def known() -> Dict[str, Dict[str, Any]]:
    """By every path below /dev that leads to a block device of some size, its `id`, empty where none is unique."""
    described = {}
    for name in names_in(_BLOCK):
        size = int(_line(f"{_BLOCK}/{name}/size") or 0) * _SECTOR
        if size and not _is_path(name):
            described[name.replace("!", "/")] = {"id": identity(name), "size": size}
    found = {f"/dev/{path}": one for path, one in described.items()}
    # What a link says comes from udev, and is resolved by its text, for a device that hangs as well.
    top = path_of("dev")
    for directory, below, files in os.walk(top):
        if directory == top:
            below[:] = [one for one in below if one not in _ELSEWHERE]
        for file in files:
            link = os.path.join(directory, file)
            if os.path.islink(link):
                one = described.get(os.path.relpath(os.path.realpath(link), os.path.realpath(top)))
                if one is not None:
                    found[f"/dev/{os.path.relpath(link, top)}"] = one
    return found


def _is_path(name: str) -> bool:
    """Whether it is one of the ways to a device of multipath, which is the one that VMs have."""
    holders = names_in(f"{_BLOCK}/{name}/holders")
    return any(_line(f"{_BLOCK}/{one}/dm/uuid").startswith("mpath-") for one in holders)


def identity(name: str) -> str:
    """What no other device in the world is called, or nothing."""
    place = f"{_BLOCK}/{name}"
    if _line(f"{place}/partition"):
        whole = os.path.basename(os.path.dirname(os.path.realpath(path_of(place))))
        return _joined([identity(whole)], f"partition at {_line(f'{place}/start')}")
    uuid = _line(f"{place}/dm/uuid")
    if uuid.startswith("mpath-"):
        told = uuid[len("mpath-") :]
        return _unique(_MULTIPATH.get(told[:1], "") + told[1:])
    if uuid:
        return _joined([identity(one) for one in names_in(f"{place}/slaves")], uuid)
    return _unique(_line(f"{place}/wwid") or _line(f"{place}/device/wwid"))


def _joined(lower: List[str], own: str) -> str:
    """A device by its own name and all that it lies on, of which each must be known."""
    return f"{own} on {', '.join(sorted(lower))}" if lower and all(lower) else ""


def _unique(name: str) -> str:
    name = name.strip().lower()
    # Storage that has none says so with zeros.
    return name if _WORLD_WIDE.fullmatch(name) and name.partition(".")[2].strip("0-") else ""


def _line(name: str) -> str:
    return text_of(name).strip()
