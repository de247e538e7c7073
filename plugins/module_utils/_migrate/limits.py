# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""The limits that a guest's migrations have, as they were before this one."""

from __future__ import annotations

from typing import Dict, List

from .._libvirt import LIMITS, Host, LibvirtFailure


class Limits:
    """Downtime, bandwidth and compression cache of a guest that stays where it is are what they were."""

    def __init__(self, uuid: str, before: Dict[str, int | None] | None = None):
        self._uuid = uuid
        self.before = before or {}

    @classmethod
    def of(cls, host: Host, uuid: str) -> Limits:
        return cls(uuid, {name: host.limit(uuid, name) for name in LIMITS})

    @property
    def downtime(self) -> int | None:
        return self.before.get("downtime")

    def restore(self, host: Host) -> List[str]:
        """Set back what differs; returns what went wrong."""
        trouble = []
        for name, before in self.before.items():
            if before is None or host.limit(self._uuid, name) == before:
                continue
            try:
                host.set_limit(self._uuid, name, before)
            except LibvirtFailure as error:
                trouble.append(f"the {name.replace('_', ' ')} limit of before, {before}, was not restored: {error}")
        return trouble
