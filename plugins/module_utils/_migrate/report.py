# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""What was asked for, and what is answered."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Mapping, Sequence

from .._images.look import Images
from .._libvirt import Host
from .._pure import preflight
from .._pure import uri as uris
from .._pure.domblk import Wish
from .._pure.findings import Findings
from .local import Local
from .place import Place
from .settle import End
from .worker import Worker


@dataclass
class Request:
    """One call of the module."""

    options: Mapping[str, Any]
    local: Local
    worker: Worker
    check_mode: bool = False
    diff: bool = False
    now: float = field(default_factory=time.time)
    # How the files of a guest that is shut off are copied.
    copy: Wish = field(default_factory=Wish)
    # The images of this machine.
    images: Images | None = None
    # A result without what must not be shown.
    cleaned: Callable[[Dict[str, Any]], Dict[str, Any]] = dict

    @property
    def run_id(self) -> str:
        return self.worker.run_id

    @property
    def facts(self) -> Dict[str, Any] | None:
        """What the destination said of itself through Ansible's own login; None when nobody asked it."""
        return self.options.get("_dest_facts")

    @property
    def facts_uuid(self) -> str:
        return str((self.facts or {}).get("host", {}).get("uuid", ""))


class Report:
    """The result while it comes together; it has the same keys whatever happens."""

    def __init__(self, name: str, began: float) -> None:
        self._began = time.monotonic()
        # Seconds since 1970.
        self.began = int(began)
        self._at = round(began, 3)
        # The run whose record is kept, once there is one.
        self.recorded = ""
        self.result: Dict[str, Any] = {"changed": False, "name": name, "warnings": []}
        self.findings = Findings(self.result["warnings"])

    def add(self, **values: Any) -> None:
        self.result.update(values)

    def warn(self, *texts: str) -> None:
        self.result["warnings"].extend(texts)

    def note_place(self, place: Place, source: Host, dest: Host) -> None:
        """Where the guest was when the run began."""
        self.add(
            name=place.name,
            uuid=place.uuid,
            source=_side(source, place.source_state),
            dest=_side(dest, place.dest_state),
            mode="none",
            storage="none",
            transport="none",
            flags=[],
            params={},
            downtime_ms=None,
            downtime_limit_ms=None,
            actions=[],
            memory={},
            disks=[],
            networks=[],
            left_behind=[],
            snapshots=[],
            checkpoints=[],
            guest_time=None,
            series=[],
        )

    def note_run(self, run: str, steps: Sequence[Mapping[str, Any]], recorded: bool) -> None:
        """By which run all this is, and how that went."""
        self.add(run=run, began=self._at, steps=list(steps))
        self.recorded = run if recorded else ""

    def note_end(self, end: End) -> None:
        """Where the guest ended up."""
        self.result["source"]["state"] = end.source_state
        self.result["dest"]["state"] = end.dest_state
        self.warn(*end.warnings)

    def finished(self, **values: Any) -> Dict[str, Any]:
        checks = self.findings.results(preflight.ORDER)
        self.add(**{"checks": checks, **values}, duration_s=round(time.monotonic() - self._began, 3))
        return self.result


def _side(host: Host, state: str) -> Dict[str, str]:
    return {"uri": uris.redact(host.uri), "host": host.hostname, "state": state}
