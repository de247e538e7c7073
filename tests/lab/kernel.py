# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one switch of this machine's kernel that a lab changes: post-copy needs it.

Labs that stand side by side share it. Who needs it leaves a note under the lab's name, the first one with what it was;
the last one to go puts that back. A restart of the machine forgets both.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from .paths import NAME, LabError

SWITCH = Path("/proc/sys/vm/unprivileged_userfaultfd")
NOTES = Path("/run/kvmops-userfaultfd")
BEFORE = NOTES / ".before"


def permit_postcopy() -> bool:
    """Let a QEMU that does not run as root catch page faults; whether that was new for this lab."""
    if not SWITCH.exists():
        raise LabError(f"{SWITCH} is missing: this kernel has no userfaultfd, and post-copy cannot be had")
    with _notes():
        if not BEFORE.exists():
            BEFORE.write_text(SWITCH.read_text(encoding="ascii"), encoding="ascii")
        note = NOTES / NAME
        new = not note.exists()
        note.touch()
        SWITCH.write_text("1", encoding="ascii")
        return new


def restore() -> None:
    """This lab needs it no longer."""
    if not NOTES.exists():
        return
    with _notes():
        (NOTES / NAME).unlink(missing_ok=True)
        if BEFORE.exists() and [entry.name for entry in NOTES.iterdir()] == [BEFORE.name]:
            SWITCH.write_text(BEFORE.read_text(encoding="ascii"), encoding="ascii")
            BEFORE.unlink()


@contextlib.contextmanager
def _notes() -> Iterator[None]:
    """One lab at a time."""
    NOTES.mkdir(exist_ok=True)
    with NOTES.with_suffix(".lock").open("w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
