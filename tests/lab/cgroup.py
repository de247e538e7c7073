# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A control group per host, in every hierarchy that systemd-nspawn uses (v1, hybrid and v2).

Two containers started from one control group would share their payload group, and each one's systemd would find the
other's processes in it. The group is also what `down` finds every process of a host by, whoever started it.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from .paths import NAME

ROOTS = (Path("/sys/fs/cgroup/systemd"), Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))


def _roots() -> list[Path]:
    return [root for root in ROOTS if (root / "cgroup.procs").is_file()]


def enter(host: str) -> None:
    """Move this process into the host's groups; called in the child between fork and exec."""
    for root in _roots():
        group = root / f"{NAME}-{host}"
        group.mkdir(exist_ok=True)
        (group / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")


def processes(host: str = "*") -> set[int]:
    """Every process of one lab host, or of all, as this machine numbers them."""
    found: set[int] = set()
    for root in _roots():
        for listing in root.glob(f"{NAME}-{host}/**/cgroup.procs"):
            try:
                found.update(int(pid) for pid in listing.read_text(encoding="ascii").split())
            except OSError as error:
                # The group went away while we looked, before or after the file was opened.
                if error.errno not in (errno.ENOENT, errno.ENODEV):
                    raise
    return found


def remove() -> None:
    for root in _roots():
        for group in root.glob(f"{NAME}-*"):
            folders = sorted((path for path in group.rglob("*") if path.is_dir()), key=lambda p: -len(p.parts))
            for folder in [*folders, group]:
                folder.rmdir()
