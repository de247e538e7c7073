# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""A limit for calls to hosts that may never come back: an established connection to a dead host waits for TCP alone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure


class _Expired(BaseException):
    """No Exception: connection plugins try again on those."""


@contextmanager
def limited(seconds: float, what: str) -> Iterator[None]:
    """Let what is inside take so long at most; raises AnsibleConnectionFailure, and ends the processes it began."""

    def expire(_signal: int, _frame: Any) -> None:
        raise _Expired

    children = _children()
    began = time.monotonic()
    previous = signal.signal(signal.SIGALRM, expire)
    # A limit for the whole task goes on counting.
    outer = signal.setitimer(signal.ITIMER_REAL, seconds)[0]
    try:
        try:
            yield
        finally:
            # It may still expire up to here, and is caught then.
            signal.setitimer(signal.ITIMER_REAL, 0)
    except _Expired:
        for child in _children() - children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)
        raise AnsibleConnectionFailure(f"{what} has not answered within {seconds:g} s") from None
    finally:
        rest = max(outer - (time.monotonic() - began), 0.001) if outer else 0.0
        signal.signal(signal.SIGALRM, previous)
        signal.setitimer(signal.ITIMER_REAL, rest)


def _children() -> set[int]:
    """The processes that this one has begun, where the kernel tells."""
    found: set[int] = set()
    for listing in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            found.update(int(pid) for pid in listing.read_text(encoding="ascii").split())
    return found
