# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""What is known to end a guest for good when it is moved: faults of QEMU that nothing else would show before."""

from __future__ import annotations

from typing import Sequence

from .._libvirt import Host
from .._pure import options as table
from .._pure import outcome, storage
from .._pure.refusal import Refusal
from .disks import Layout
from .place import Place

# Since this version a QEMU knows which of its disks it has never taken over.
KNOWS_INACTIVE_DISKS = (10, 0, 0)
# CPU time in nanoseconds below which a guest that has used no disk is taken for one that has not run: some of it is the
# making of a vCPU.
AT_REST = 50 * 1000 * 1000


def check_asleep(source: Host, place: Place, layout: Layout, nvram: str) -> None:
    """Refuse a guest that came here paused and has stood still since: QEMU dies of handing its disks on, on both hosts.

    A QEMU takes over the disks that a guest has brought along when the guest goes on. Those that were copied it has
    taken over already, to write into them. The firmware's variables are such a disk to QEMU.
    """
    if place.source_state != outcome.PAUSED or source.hypervisor_version >= KNOWS_INACTIVE_DISKS:
        return
    in_place = [plan.target for plan in layout.plans if plan.source and plan.action != storage.COPY]
    if (in_place or nvram) and not _has_run(source, place.uuid, in_place):
        what = f"disk {in_place[0]}" if in_place else f"its firmware variables, {nvram}"
        raise Refusal(
            f"VM {place.name} has not run since it came to {source}, where it is paused: QEMU before"
            f" {table.dotted(KNOWS_INACTIVE_DISKS)} dies of moving it, on both hosts, because it has not taken over"
            f" {what}",
            "asleep",
            f"let it run for a moment: virsh resume {place.name}, then virsh suspend {place.name}",
        )


def _has_run(source: Host, uuid: str, targets: Sequence[str]) -> bool:
    requests = (source.disk_requests(uuid, target) for target in targets)
    return source.cpu_time(uuid) >= AT_REST or any(requests)
