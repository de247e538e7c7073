# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""What a run is about and what it changes: enough to settle it, also for another process after this one was killed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Dict, List, Mapping, Tuple

from .._images.carry import Carried, Way
from .._pure.domblk import NVRAM

AROUND = ("agent", "nvram", "new_nvram", "moments", "moments_at_dest_before")


@dataclass(frozen=True)
class Image:
    """An image that is copied; `marker` is the file beside it at the destination that says by which run."""

    target: str
    source: str
    dest: str
    marker: str = ""


@dataclass
class Ledger:
    """One run of virt_migrate, in plain data: it is kept as JSON from before the first change until it is settled."""

    run: str = ""
    name: str = ""
    uuid: str = ""
    dest_name: str = ""
    source_uri: str = ""
    dest_uri: str = ""
    # What the journal and a person call the destination.
    dest_host: str = ""
    dest_uuid: str = ""
    mode: str = "live"
    # Of the guest and its definitions as they were.
    ran: bool = False
    autostart: bool = False
    defined_at_dest_before: bool = False
    agent: bool = False
    limits: Dict[str, int | None] = field(default_factory=dict)
    # Of what was asked for.
    persistent: bool = True
    undefine_source: bool = True
    suspend: bool = False
    sync_time: bool = True
    # Of what was done.
    images: Tuple[Image, ...] = ()
    # The firmware's variables: a file that stays on the source, and one that the destination did not have.
    nvram: str = ""
    new_nvram: str = ""
    # Its snapshots and checkpoints by kind and name, and those that the destination knew before.
    moments: Tuple[Tuple[str, str], ...] = ()
    moments_at_dest_before: Tuple[Tuple[str, str], ...] = ()
    suspended: bool = False
    # Files that were sent while the guest was shut off, and the way that they went.
    carried: List[Carried] = field(default_factory=list)
    way: Way = field(default_factory=Way)
    # By path, the sources that go away once the guest is at the destination, and what tells them from others.
    remove: Dict[str, Dict[str, int]] = field(default_factory=dict)

    def plain(self) -> Dict[str, Any]:
        return asdict(self)

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> Ledger:
        """The ledger that was kept; what a later version of this collection has added is left out."""
        known = {own.name: plain[own.name] for own in fields(cls) if own.name in plain}
        known["images"] = tuple(Image(**image) for image in plain.get("images", ()))
        known["carried"] = [Carried(**one) for one in plain.get("carried", ())]
        known["way"] = Way(**plain.get("way", {}))
        for moments in ("moments", "moments_at_dest_before"):
            known[moments] = tuple((kind, name) for kind, name in plain.get(moments, ()))
        return cls(**known)

    @property
    def around(self) -> Dict[str, Any]:
        """What it says of the guest besides its memory and disks."""
        return {name: getattr(self, name) for name in AROUND}

    @property
    def left(self) -> Tuple[Image, ...]:
        """What stays on the source when the guest has left it."""
        own = self.images + ((Image(NVRAM, self.nvram, self.nvram),) if self.nvram else ())
        known = {image.source for image in own}
        # What images are based on, and the state of a TPM.
        return own + tuple(Image(one.target, one.source, one.dest) for one in self.carried if one.source not in known)

    @property
    def made(self) -> Tuple[str, ...]:
        """The images that this run makes at the destination: what has no mark there is not known to be its own."""
        return tuple(image.dest for image in self.images if image.marker)
