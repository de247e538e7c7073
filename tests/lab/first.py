# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a machine of the lab does before its init, in its own root file system: set the clock, label its own files.

What the kernel takes from the clock chip is good to one second only: so the moment at which the chip's second ends is
waited for. The chip itself is behind by the part of a second that had gone by when its emulator began; whoever puts the
hosts' watchers together asks each host for its time.
"""

from __future__ import annotations

import calendar
import fcntl
import os
import struct
import sys
import time
from pathlib import Path

RTC_RD_TIME = 0x80247009
GOOD = 0.002
PATIENCE = 5


def chip(handle: int) -> int:
    fields = struct.unpack("9i", fcntl.ioctl(handle, RTC_RD_TIME, bytes(36)))
    return calendar.timegm((fields[5] + 1900, fields[4] + 1, *fields[3::-1]))


def set_clock() -> None:
    handle = os.open("/dev/rtc0", os.O_RDONLY)
    began = time.monotonic()
    best = float("inf")
    before, second = time.monotonic(), chip(handle)
    while best > GOOD and time.monotonic() - began < PATIENCE:
        now = time.monotonic()
        read = chip(handle)
        after = time.monotonic()
        if read != second:
            second = read
            # Read by reading, the second ended between the start of the one before and the end of this one.
            if after - before < best:
                best = after - before
                time.clock_settime(time.CLOCK_REALTIME, second + (time.monotonic() - (before + after) / 2))
        before = now
    print(f"kvmops: clock set, right to {best * 1000:.1f} ms", flush=True)


def label(listing: str) -> None:
    """Lines of an SELinux context, a tab and a path: while no policy is loaded, root may write what it likes."""
    with open(listing, encoding="utf-8") as lines:
        for line in lines:
            context, _tab, path = line.rstrip("\n").partition("\t")
            os.setxattr(path, "security.selinux", context.encode() + b"\0", follow_symlinks=False)


if len(sys.argv) > 1:
    label(sys.argv[1])
    Path(sys.argv[1]).unlink()
set_clock()
