# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What virt_migrate costs over a bare `virsh migrate` of the same guest with the same options, in interleaved pairs.

`make bench` with the lab up; `make bench B='memory --pairs 4'` for one of the table. Reported, never asserted: machines
are noisy, and the median over the pairs is the figure. `--write` puts the report into docs/performance.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.lab import console
from tests.lab.faults import inside, must, shaped
from tests.lab.paths import STATE, LabError, require_root

from .moves import ADDRESSES, PLAYBOOKS, Moved, by_module, by_virsh, home, options

REPOSITORY = PLAYBOOKS.parent
PAGE = REPOSITORY / "docs" / "performance.md"
SETTLE = 2.0  # seconds between two moves: the host that was left tidies up behind the guest


@dataclass(frozen=True)
class Bench:
    """Which guest moves, and over what: the fields of a guest are those of `lab_guests` in the inventory."""

    name: str
    about: str
    pairs: int
    vm: str
    image: str
    memory: int = 0  # MiB; 0: a guest of the lab, which is there already
    link: int = 0  # MiB/s that each host may send on the Private network; 0: what it can
    dirty: int = 0  # MiB/s that the guest rewrites
    over: int = 0  # MiB of its memory that it goes over


BENCHES = {
    bench.name: bench
    for bench in (
        Bench("tiny", "a guest of 256 MiB that does next to nothing", 10, "centos64a", "/vm/centos64-32bit.qcow2"),
        Bench(
            "memory",
            "a guest of 1 GiB that rewrites memory at 30 % of the speed of the link, a shaped Gigabit Ethernet",
            *(10, "bench", "/vm/bench.qcow2", 1024, 112, 34, 768),
        ),
    )
}

COLUMNS = (
    "virsh s",
    "duration_s",
    "ratio",
    "more s",
    "virsh downtime ms",
    "downtime ms",
    "more ms",
    "command s",
)


def row(bare: Moved, ours: Moved) -> tuple[float, ...]:
    return (
        bare.seconds,
        ours.seconds,
        ours.seconds / bare.seconds,
        ours.seconds - bare.seconds,
        bare.downtime,
        ours.downtime,
        ours.downtime - bare.downtime,
        ours.wall,
    )


def show(cells: tuple[float, ...]) -> list[str]:
    return [f"{cell:.0f}" if name.endswith("ms") else f"{cell:.2f}" for name, cell in zip(COLUMNS, cells)]


# --- the guest and the link


@contextlib.contextmanager
def prepared(bench: Bench) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if bench.memory:
            stack.enter_context(guest(bench))
        if bench.link:
            stack.enter_context(shaped(bench.link, *ADDRESSES))
        yield


@contextlib.contextmanager
def guest(bench: Bench) -> Iterator[None]:
    """A guest beside those of the lab, from the same recipe, at work when this returns."""
    spec = {"name": bench.vm, "host": "labkvm1", "image": bench.image, "memory": bench.memory}
    remove(bench)
    try:
        playbook = REPOSITORY / "extensions/molecule/lab/guests.yml"
        started = subprocess.run(
            ["ansible-playbook", playbook, "-e", json.dumps({"lab_guests": [spec]})],
            cwd=PLAYBOOKS,
            text=True,
            capture_output=True,
            check=False,
        )
        if started.returncode:
            raise LabError(f"the guest {bench.vm} did not start:\n{started.stdout}{started.stderr}")
        if bench.dirty:
            console.tell(home(bench.vm), bench.vm, f"dirty {bench.dirty} over {bench.over}")
            # Until it has been over all of it once, there is less to move.
            time.sleep(1.5 * bench.over / bench.dirty)
        yield
    finally:
        remove(bench)


def remove(bench: Bench) -> None:
    for host in ADDRESSES:
        inside(host, "virsh", "destroy", bench.vm)
        inside(host, "virsh", "undefine", bench.vm)
        must(host, "rm", "-f", bench.image, console.log(bench.vm))


# --- the runs and their report


def measure(bench: Bench, pairs: int) -> str:
    """All pairs of one bench; returns its part of the page."""
    began, load = time.strftime("%Y-%m-%d %H:%M"), os.getloadavg()
    print(f"\n{bench.name}: {bench.about}\n{'pair':>6} " + " ".join(f"{name:>17}" for name in COLUMNS), flush=True)
    rows = []
    with prepared(bench):
        words = options(bench.vm, bench.image)
        for number in range(1, pairs + 1):
            # The first one goes there and the second one back, in turns: each pays for both directions.
            moved = {}
            for mover in (by_virsh, by_module) if number % 2 else (by_module, by_virsh):
                time.sleep(SETTLE)
                moved[mover] = mover(bench.vm, bench.image, words)
            rows.append(row(moved[by_virsh], moved[by_module]))
            print(f"{number:>6} " + " ".join(f"{cell:>17}" for cell in show(rows[-1])), flush=True)
    table = [("", *COLUMNS), *summary(rows)]
    for line in table[1:]:
        print(f"{line[0]:>6} " + " ".join(f"{cell:>17}" for cell in line[1:]), flush=True)
    loads = " to ".join(f"{one:.1f}" for one in (load[0], os.getloadavg()[0]))
    arguments = f"{bench.name} --pairs {pairs}"
    return "\n".join(
        (
            f"**{bench.name}**: {bench.about}; {pairs} pairs, begun {began}, load {loads}.",
            f"`make bench B='{arguments}'` against `virsh migrate {' '.join(words)}`:",
            "",
            *markdown(table),
        )
    )


def summary(rows: list[tuple[float, ...]]) -> list[tuple[str, ...]]:
    columns = list(zip(*rows))
    quartiles = [
        statistics.quantiles(column, n=4, method="inclusive") if len(rows) > 1 else column * 3 for column in columns
    ]
    return [
        (name, *show(tuple(column[index] for column in quartiles)))
        for name, index in (("median", 1), ("lower quartile", 0), ("upper quartile", 2))
    ]


def markdown(table: list[tuple[str, ...]]) -> list[str]:
    head, *body = ("| " + " | ".join(line) + " |" for line in table)
    return [head, "|---" * len(table[0]) + "|", *body]


def machine() -> str:
    """Where the figures come from: without it they mean nothing."""
    cpus = Path("/proc/cpuinfo").read_text(encoding="ascii")
    model = next(iter(re.findall(r"^model name\s*: (.*)", cpus, re.MULTILINE)), platform.machine())
    kind = json.loads((STATE / "lab.json").read_text(encoding="ascii"))["domain_type"]
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=REPOSITORY, text=True, capture_output=True, check=False
    ).stdout.strip()
    guests = "KVM" if kind == "kvm" else "TCG"
    return f"{os.cpu_count()} cores ({model}), {gib:.0f} GiB, guests on {guests}; commit {commit}."


def write(parts: dict[str, str]) -> None:
    """Each part replaces the one between its marks on the page."""
    text = PAGE.read_text(encoding="utf-8")
    for name, part in parts.items():
        begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
        before, _begin, rest = text.partition(begin)
        _old, found, after = rest.partition(end)
        if not found:
            raise LabError(f"{PAGE} has no marks for {name}")
        text = f"{before}{begin}{part}{end}{after}"
    PAGE.write_text(text, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "bench", nargs="*", choices=[[], *BENCHES], metavar="BENCH", help=f"{' or '.join(BENCHES)}; all unless named"
    )
    parser.add_argument("--pairs", type=int, help="how many pairs; unless given, as the table has it")
    parser.add_argument("--write", action="store_true", help="put the report into docs/performance.md")
    chosen = parser.parse_args()
    try:
        require_root()
        parts = {"machine": machine()}
        print(parts["machine"])
        for bench in (BENCHES[name] for name in chosen.bench or BENCHES):
            parts[bench.name] = measure(bench, chosen.pairs or bench.pairs)
        if chosen.write:
            write(parts)
    except LabError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
