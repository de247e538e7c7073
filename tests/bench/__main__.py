# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Benchmarks on the lab, which must be up: all of the table, or those that are named.

Reported, never asserted: machines are noisy, and the median over the runs is the figure.
"""

from __future__ import annotations

import argparse
import sys

from tests.lab.paths import LabError, require_root

from . import report
from .copies import AgainstLimit, AgainstRsync, BySize, Sample, Transports, Update
from .judging import Judging
from .pairs import Load, Pairs
from .steps import Steps

SPARSE = "20 GiB with 1.5 GiB allocated in 96 pieces"
TINY = ("centos64a", "/vm/centos64-32bit.qcow2")
BENCHES = {
    bench.name: bench
    for bench in (
        Pairs("tiny", "a guest of 256 MiB that does next to nothing", 10, *TINY),
        Pairs(
            "memory",
            "a guest of 1 GiB that rewrites its memory at 30 % of the speed of the link, a Gigabit Ethernet",
            10,
            *("bench", "/vm/bench.qcow2"),
            Load(memory_mib=1024, link_mib_per_s=112, dirty_mib_per_s=34, over_mib=832),
        ),
        Steps("steps", "the steps of moving the tiny guest", 10, *TINY),
        Judging("preflight", "VMs of one host that are judged for others", 5, 20),
        AgainstRsync("copy-raw", f"a raw image of {SPARSE}, from host to host", 5, Sample("raw")),
        AgainstRsync("copy-qcow2", f"a qcow2 image of {SPARSE}, from host to host", 10, Sample("qcow2")),
        AgainstLimit("copy-limit", "the same raw image against one connection of nc", 10, Sample("raw")),
        Transports("copy-transports", f"ways to send a raw image of {SPARSE}", 5, Sample("raw")),
        BySize("copy-size", "1.5 GiB in an image of 20 and of 200 GiB", 10, Sample("raw"), Sample("raw", gib=200)),
        Update("copy-update", "bringing a copy up to date after one percent has changed", 10, Sample("raw")),
    )
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("bench", nargs="*", metavar="BENCH", help=f"{', '.join(BENCHES)}; all unless named")
    parser.add_argument("--runs", type=int, help="how many of each; unless given, as the table has it")
    parser.add_argument("--write", action="store_true", help="put the report into docs/performance.md")
    chosen = parser.parse_args()
    for name in chosen.bench:
        if name not in BENCHES:
            parser.error(f"{name}: there are {', '.join(BENCHES)}")
    try:
        require_root()
        if chosen.write and report.commit().endswith("-dirty"):
            raise LabError("--write: the page names the commit that was measured; commit what is changed first")
        print(report.machine())
        wanted = chosen.bench or list(BENCHES)
        for name in wanted if chosen.write else ():
            report.around(name)
        for name in wanted:
            part = BENCHES[name].measure(chosen.runs or BENCHES[name].runs)
            if chosen.write:
                report.write(name, part)
    except LabError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
