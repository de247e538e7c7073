# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""What of a domain's XML, besides memory and disks, decides whether and how it can leave its host."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import Dict, Iterator, List, Tuple

Version = Tuple[int, int, int]
NEVER: Version = (999, 0, 0)
# Since these two a question to QEMU settles what libvirt refused by itself before.
ASKS_QEMU: Version = (8, 5, 0)
TELLS_REASONS: Version = (6, 0, 0)

AGENT = "org.qemu.guest_agent.0"
# Where libvirt keeps the state of emulated TPMs, each in a directory named by the guest's UUID.
TPM_STATE = "/var/lib/libvirt/swtpm"


@dataclass(frozen=True)
class Part:
    """A part of the XML that a running guest cannot take along, or not always.

    `path` finds it; it is none where it has the attribute `harmless`, where `but` is found in it or `unless` in the
    whole domain. From `libvirt` together with `qemu` on it may move: they know then whether this one does.
    """

    path: str
    what: str
    cure: str = ""
    harmless: Tuple[str, str] | None = None
    but: str = ""
    unless: str = ""
    libvirt: Version = NEVER
    qemu: Version = NEVER
    # It moves, with this to be known about it.
    warning: str = ""
    failure_class: str = "device"


_DETACH = "detach it for the move: virsh detach-device"
_TEAMING = "detach it for the move (virsh detach-device), or let a virtio interface stand in for it: <teaming type=...>"
_FAILOVER = "teaming[@type='transient']"
# The first QEMU in which migration of VFIO devices is no experiment.
_VFIO: Version = (8, 1, 0)

# What qemuMigrationSrcIsAllowed of libvirt refuses, and what QEMU declares unmigratable.
PARTS = (
    Part(
        "devices/hostdev[@type='pci']",
        "a PCI device of the host",
        _TEAMING,
        but=_FAILOVER,
        libvirt=ASKS_QEMU,
        qemu=_VFIO,
    ),
    Part(
        "devices/interface[@type='hostdev']",
        "a network device of the host",
        _TEAMING,
        but=_FAILOVER,
        libvirt=ASKS_QEMU,
        qemu=_VFIO,
    ),
    Part(
        "devices/hostdev[@type='mdev']",
        "a mediated device of the host",
        _DETACH,
        libvirt=ASKS_QEMU,
        qemu=_VFIO,
    ),
    # libvirt lets these two move, and gives the guest whatever device of that description the destination has.
    Part("devices/hostdev[@type='usb']", "a USB device of the host", _DETACH),
    Part("devices/hostdev[@type='scsi']", "a SCSI device of the host", _DETACH),
    Part("devices/hostdev[@type='scsi_host']", "a SCSI controller of the host (vhost-scsi)", _DETACH),
    Part("devices/disk[@type='nvme']", "an NVMe disk of the host", _DETACH),
    Part(
        "devices/interface[@type='vdpa']",
        "a vDPA interface",
        _DETACH,
        libvirt=ASKS_QEMU,
        qemu=(8, 0, 0),
    ),
    Part("devices/input[@type='passthrough']", "an input device of the host", _DETACH),
    Part(
        "devices/tpm/backend[@type='passthrough']",
        "the TPM of its host",
        "shut the VM down and give it an emulated TPM",
    ),
    Part(
        "devices/filesystem/driver[@type='virtiofs']",
        "a virtiofs file system",
        "unmount it in the guest and detach it, or shut the VM down and move it so",
        libvirt=(10, 8, 0),
        qemu=TELLS_REASONS,
    ),
    Part(
        "devices/filesystem[@type='mount']",
        "a directory of the host (9p)",
        but="driver[@type='virtiofs']",
        warning="QEMU refuses to move it while the guest has that mounted",
    ),
    Part(
        "devices/shmem",
        "memory that it shares with others (shmem)",
        "detach it for the move: only role='master' takes such memory along",
        harmless=("role", "master"),
    ),
    Part(
        "devices/memory[@model='sgx-epc']",
        "memory of an SGX enclave",
        "shut the VM down and move it so",
    ),
    Part("launchSecurity", "encrypted memory (launchSecurity)", "shut the VM down and move it so"),
    Part(
        "devices/disk/transient",
        "a transient disk",
        "shut the VM down and move it so: what it wrote to that disk is gone then, as it is at every shutdown",
    ),
    Part(
        "devices/video/model/acceleration[@accel3d='yes']",
        "a video device with 3D acceleration",
        "shut the VM down and move it so, or set accel3d='no'",
    ),
    *(
        Part(
            f"cpu/feature[@name='invtsc'][@policy='{policy}']",
            "the CPU feature invtsc, and no TSC frequency",
            "set one (<timer name='tsc' frequency=...> in <clock>) and restart the VM, or shut it down and move it so",
            unless="clock/timer[@name='tsc'][@frequency]",
            failure_class="tsc",
        )
        for policy in ("require", "force")
    ),
    Part(
        "devices/interface[@type='user']",
        "an interface of user-mode networking",
        warning="its connections break, because they end in the host that it leaves",
    ),
)


def parts(text: str, libvirt: Version, qemu: Version) -> Iterator[Part]:
    """Every row that fits this domain, for a host with these versions."""
    root = ET.fromstring(text)
    for part in PARTS:
        if libvirt >= part.libvirt and qemu >= part.qemu:
            continue
        if part.unless and root.find(part.unless) is not None:
            continue
        if any(_fits(node, part) for node in root.findall(part.path)):
            yield part


def _fits(node: ET.Element, part: Part) -> bool:
    if part.but and node.find(part.but) is not None:
        return False
    return part.harmless is None or node.get(part.harmless[0]) != part.harmless[1]


def has_emulated_tpm(text: str) -> bool:
    """Whether it has a TPM whose state is on the host's disks."""
    return ET.fromstring(text).find(_EMULATED_TPM) is not None


_EMULATED_TPM = "devices/tpm/backend[@type='emulator']"


def tpm_state(text: str, default: str) -> str:
    """Where the host keeps the state of its emulated TPM; empty where it has none."""
    backend = ET.fromstring(text).find(_EMULATED_TPM)
    if backend is None:
        return ""
    source = backend.find("source")
    return default if source is None else source.get("path", default)


def agent_connected(text: str) -> bool:
    """Whether its agent has opened the channel to libvirt."""
    targets = ET.fromstring(text).findall("devices/channel/target")
    return any(target.get("name") == AGENT and target.get("state") == "connected" for target in targets)


def moment_files(text: str) -> List[str]:
    """The files that a snapshot or a checkpoint needs: images of its domain, and where it keeps memory and disks."""
    root = ET.fromstring(text)
    files: Dict[str, None] = {}
    for path in _MOMENT_FILES:
        files.update(dict.fromkeys(node.get("file", "") for node in root.findall(path)))
    # In this format they have snapshots of their own, and QEMU brings the present ones only.
    files.update(dict.fromkeys((node.text or "").strip() for node in root.findall(_QCOW2_VARIABLES)))
    return [path for path in files if path]


_DISK = "devices/disk[@device='disk']//source"
_MOMENT_FILES = (
    "memory",
    "disks/disk/source",
    f"domain/{_DISK}",
    f"inactiveDomain/{_DISK}",
    "domain/os/nvram[@format='qcow2']/source",
)
_QCOW2_VARIABLES = "domain/os/nvram[@format='qcow2']"
