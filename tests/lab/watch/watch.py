#!/usr/bin/env python3
# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Did a virtual machine ever run in two places? Every host samples its own QEMU processes, `judge` puts them together.

A virtual machine ran when the CPU time of its vCPU threads grew: a paused one, or one that waits for incoming state,
uses none, whatever libvirt says about it. So nothing under test is asked, and nothing under test can be wrong about it.

`sample` writes JSON lines; `judge` merges the files of all hosts. One file, standard library only, Python 3.9: it is
copied to the hosts as it is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import sys
import time
from typing import Any, Iterable, NamedTuple

MS = 1_000_000
PERIOD_NS = 20 * MS
SCAN_NS = 200 * MS
BEAT_NS = 1000 * MS
# Below this growth in one sample a thread was merely woken. Measured: a waiting or stopped vCPU thread uses nothing at
# all between samples and is woken for some 10 us at most; a guest that does no more than one record uses over 500 us.
WOKEN_NS = 100_000
# A new vCPU thread first sets itself up (measured: 1 ms) and then waits to be started, always for longer than this many
# samples. Only after that wait is its CPU time the guest's; a start that was missed is believed after this much.
QUIET_SAMPLES = 2
SETUP_NS = 50 * MS
# A virtual machine that did nothing for this long begins a new line in the file. It says nothing to the judge.
PAUSE_NS = 250 * MS
# The kernel books a running thread's time at its ticks (at least 100 per second): growth may be this much older.
TICK_NS = 10 * MS
BEAT_GAP_NS = 5000 * MS
CLOCK_STEP_NS = 20 * MS

QEMU = re.compile(r"qemu-(system|kvm)|kvm$")
VCPU = re.compile(r"(CPU \d+|ALL CPUs)/")


class Thread:
    """One vCPU thread: what its CPU time was, and whether it has been set up."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.spent: int | None = None
        self.quiet = 0
        self.ready = False

    def ran(self) -> int:
        """Nanoseconds that the guest ran on this vCPU since the last call, as far as they can be the guest's."""
        before = self.spent
        self.spent = int(os.pread(self.handle, 64, 0).split()[0])
        if before is None:
            # What it used before this watcher saw it may be long ago.
            grown = 0
        else:
            grown = self.spent - before if self.spent - before >= WOKEN_NS else 0
        if not self.ready:
            self.quiet = 0 if grown else self.quiet + 1
            self.ready = self.quiet > QUIET_SAMPLES or self.spent > SETUP_NS
            return grown if self.spent > SETUP_NS else 0
        return grown


class Process:
    """One QEMU process with a virtual machine, and the stretch of time in which that ran."""

    def __init__(self, pid: int, birth: int, uuid: str, name: str) -> None:
        self.identity = {"uuid": uuid, "name": name, "pid": pid, "birth": birth}
        self.folder = f"/proc/{pid}/task"
        self.threads: dict[str, Thread] = {}
        self.run: dict[str, int] | None = None

    def find_threads(self) -> None:
        for number in os.listdir(self.folder):  # noqa: PTH208 - names are enough, ten thousand a minute
            if number not in self.threads and VCPU.match(_read(f"{self.folder}/{number}/comm")):
                handle = os.open(f"{self.folder}/{number}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
                self.threads[number] = Thread(handle)

    def sample(self) -> int:
        ran = 0
        for number, thread in list(self.threads.items()):
            try:
                ran += thread.ran()
            except OSError:  # the thread has ended
                os.close(self.threads.pop(number).handle)
        return ran

    def close(self) -> None:
        while self.threads:
            os.close(self.threads.popitem()[1].handle)


class Watcher:
    """Samples the QEMU processes of this host and writes when they ran.

    A run has outer bounds (`start`, `end`: it ran at some moments within) and inner bounds (`first`, `last`: it ran at
    or before the one and at or after the other). Only the inner ones prove an overlap: however late a sample was
    taken on a busy machine, it can blur them but not make two machines overlap that did not.
    """

    def __init__(self, host: str, output: Any) -> None:
        self.host = host
        self.output = output
        self.processes: dict[str, Process] = {}
        self.before = time.time_ns()

    def scan(self) -> None:
        """Find QEMU processes that are new, and forget those that ended."""
        present = set()
        for entry in os.listdir("/proc"):  # noqa: PTH208
            # Every name every time: libvirt's child becomes QEMU under the same process id.
            if not entry.isdigit():
                continue
            with contextlib.suppress(OSError):
                if not QEMU.match(_read(f"/proc/{entry}/comm")):
                    continue
                present.add(entry)
                known = self.processes.get(entry)
                birth = _birth(entry)
                if known and known.identity["birth"] != birth:
                    self._forget(entry)
                    known = None
                if not known:
                    known = _process(int(entry), birth)
                    if known is None:
                        continue
                    self.processes[entry] = known
                known.find_threads()
        for entry in set(self.processes) - present:
            self._forget(entry)

    def _forget(self, entry: str) -> None:
        process = self.processes.pop(entry)
        self._end_run(process)
        process.close()

    def sample(self) -> None:
        before = time.time_ns()
        ran = [(process, grown) for process in self.processes.values() if (grown := process.sample())]
        after = time.time_ns()
        for process, grown in ran:
            if process.run and self.before - process.run["end"] > PAUSE_NS:
                self._end_run(process)
            if process.run is None:
                process.run = {"start": self.before, "first": after, "cpu": 0}
            process.run.update(last=self.before, end=after, cpu=process.run["cpu"] + grown)
        self.before = before

    def _end_run(self, process: Process) -> None:
        if process.run:
            self.write("run", **process.identity, **process.run)
            process.run = None

    def beat(self, samples: int, latest: int) -> None:
        """Say that the watcher lives; what is under way is written now, so that a killed watcher loses a second."""
        for process in self.processes.values():
            self._end_run(process)
        blind = [p.identity["name"] for p in self.processes.values() if not p.threads]
        self.write(
            "beat",
            at=time.time_ns(),
            monotonic=time.monotonic_ns(),
            samples=samples,
            latest=latest,
            **({"blind": blind} if blind else {}),
        )

    def write(self, kind: str, **facts: Any) -> None:
        self.output.write(json.dumps({"kind": kind, "host": self.host, **facts}, separators=(",", ":")) + "\n")
        self.output.flush()

    def watch(self) -> None:
        stop: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, _frame: stop.append(received))
        self.write("start", at=time.time_ns(), boot=_boot(), period=PERIOD_NS)
        scanned = samples = latest = 0
        beaten = due = time.monotonic_ns()
        while not stop:
            now = time.monotonic_ns()
            if now - scanned >= SCAN_NS:
                scanned = now
                self.scan()
            self.sample()
            samples += 1
            if now - beaten >= BEAT_NS:
                self.beat(samples, latest)
                beaten, samples, latest = now, 0, 0
            now = time.monotonic_ns()
            due += PERIOD_NS
            if due < now:
                latest = max(latest, now - due)
                due = now
            time.sleep((due - now) / 1e9)
        self.beat(samples, latest)


def _read(path: str) -> str:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(handle, 65536).decode("utf-8", "replace")
    finally:
        os.close(handle)


def _birth(pid: str) -> int:
    """When the process began, in ticks since the kernel's boot: with the id, it names a process for good."""
    return int(_read(f"/proc/{pid}/stat").rpartition(")")[2].split()[19])


def _boot() -> str:
    """This boot of this host; in a container the kernel's boot id is not enough, its init began later."""
    return f"{_read('/proc/sys/kernel/random/boot_id').strip()}/{_birth('1')}"


def _process(pid: int, birth: int) -> Process | None:
    """A QEMU with a virtual machine of its own; libvirt's probes have neither name nor UUID."""
    words = _read(f"/proc/{pid}/cmdline").split("\0")
    options = dict(zip(words, words[1:]))
    uuid = options.get("-uuid", "")
    name = next((part for part in options.get("-name", "").split(",") if part), "").partition("guest=")
    name = name[2] or name[0]
    return Process(pid, birth, uuid or name, name or uuid) if uuid or name else None


class Stay(NamedTuple):
    """The whole time over which one QEMU process ran its virtual machine."""

    uuid: str
    name: str
    host: str
    pid: int
    first: int
    last: int
    cpu: int


def judge(lines: Iterable[dict[str, Any]], *, vms: Iterable[str] = (), idle: bool = False) -> dict[str, Any]:
    """Merge the lines of all hosts' watchers and name every fault.

    A QEMU process that ran after another one of the same virtual machine had begun to run is a fault even where it
    did nothing in between: it resumed over a memory and a disk that had gone on without it.
    """
    watchers: dict[str, list[dict[str, Any]]] = {}
    stays: dict[tuple[str, int, int], Stay] = {}
    for line in lines:
        if line["kind"] != "run":
            watchers.setdefault(line["host"], []).append(line)
            continue
        key = (line["host"], line["pid"], line["birth"])
        old = stays.get(key)
        first, last = line["first"], line["last"]
        stays[key] = Stay(
            line["uuid"],
            line["name"],
            line["host"],
            line["pid"],
            min(first, old.first) if old else first,
            max(last, old.last) if old else last,
            line["cpu"] + (old.cpu if old else 0),
        )
    ordered = sorted(stays.values(), key=lambda stay: stay.first)
    faults = [*_overlaps(ordered), *_holes(watchers)]
    missing = [name for name in vms if name not in {part for stay in ordered for part in (stay.name, stay.uuid)}]
    faults += [f"{name}: no watcher ever saw it run" for name in missing]
    if not ordered and not idle:
        faults.append("no watcher saw any virtual machine run")
    return {
        "ok": not faults,
        "faults": faults,
        "hosts": sorted(watchers),
        "stays": [stay._asdict() for stay in ordered],
        "worst_sample_ms": max((b.get("latest", 0) for w in watchers.values() for b in w), default=0) // MS,
    }


def _overlaps(stays: list[Stay]) -> list[str]:
    faults = []
    for index, one in enumerate(stays):
        for other in stays[index + 1 :]:
            shared = min(one.last, other.last) - other.first
            if one.uuid == other.uuid and shared > TICK_NS:
                # What is proven, and up to one sampling period that the samples blur at either end.
                faults.append(
                    f"{one.name} ({one.uuid}) ran twice for at least {shared // MS} ms from {_clock(other.first)} on: "
                    f"on {one.host} (process {one.pid}) and on {other.host} (process {other.pid})"
                )
    return faults


def _holes(watchers: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Where a watcher did not look, a second copy would have gone unseen."""
    faults = []
    beats = [line["at"] for lines in watchers.values() for line in lines]
    end = max(beats, default=0)
    for host, lines in sorted(watchers.items()):
        lines = sorted(lines, key=lambda line: line["at"])
        if not any(line["kind"] == "beat" and line["samples"] for line in lines):
            faults.append(f"{host}: its watcher took no sample")
            continue
        boot = None
        for one, other in zip(lines, [*lines[1:], {"kind": "end", "at": end}]):
            boot = one.get("boot", boot)
            rebooted = other["kind"] == "start" and other["boot"] != boot
            if other["at"] - one["at"] > BEAT_GAP_NS and not rebooted:
                blind = (other["at"] - one["at"]) / 1e9
                faults.append(f"{host}: its watcher was silent for {blind:.1f} s from {_clock(one['at'])} on")
            if one["kind"] == other["kind"] == "beat":
                step = (other["at"] - one["at"]) - (other["monotonic"] - one["monotonic"])
                if abs(step) > CLOCK_STEP_NS:
                    faults.append(f"{host}: its clock was set by {step // MS} ms at {_clock(other['at'])}")
        unseen = sorted(
            {name for a, b in zip(lines, lines[1:]) for name in {*a.get("blind", ())} & {*b.get("blind", ())}}
        )
        faults += [f"{host}: the vCPU threads of {name} cannot be told from its others" for name in unseen]
    return faults


def _clock(nanoseconds: int) -> str:
    return f"{time.strftime('%H:%M:%S', time.localtime(nanoseconds // 1_000_000_000))}.{nanoseconds // MS % 1000:03d}"


def load(path: str) -> list[dict[str, Any]]:
    """The lines of one watcher's file; one that was cut by its end or by a restart is no line."""
    lines = []
    with open(path, encoding="utf-8") as handle:
        for text in handle:
            with contextlib.suppress(ValueError):
                line = json.loads(text)
                if isinstance(line, dict) and line.get("kind") in ("start", "beat", "run"):
                    lines.append(line)
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    sampling = commands.add_parser("sample", help="watch this host until it is told to stop")
    sampling.add_argument("--output", required=True, help="file to append to")
    sampling.add_argument("--host", default=socket.gethostname())
    judging = commands.add_parser("judge", help="merge the files of all hosts: verdict as JSON, summary on stderr")
    judging.add_argument("files", nargs="+", metavar="FILE")
    judging.add_argument("--vm", action="append", default=[], help="a name or UUID that must have been seen running")
    judging.add_argument("--idle", action="store_true", help="that no virtual machine ran at all is no fault")
    options = parser.parse_args()
    if options.command == "sample":
        with contextlib.suppress(PermissionError):
            os.nice(-10)  # a watcher that waits for a busy guest sees less of it
        with open(options.output, "a", encoding="utf-8") as output:
            Watcher(options.host, output).watch()
        return 0
    try:
        files = {path: load(path) for path in options.files}
    except OSError as error:
        print(f"watch: {error}", file=sys.stderr)
        return 2
    verdict = judge([line for lines in files.values() for line in lines], vms=options.vm, idle=options.idle)
    empty = [f"{path} has no line of a watcher" for path, lines in files.items() if not lines]
    verdict.update(ok=verdict["ok"] and not empty, faults=empty + verdict["faults"])
    print(json.dumps(verdict))
    where = ", ".join(f"{stay['name']} on {stay['host']}" for stay in verdict["stays"])
    said = "; ".join(verdict["faults"]) or f"nothing ever ran twice ({where or 'nothing ran'})"
    print(f"watch: {len(verdict['hosts'])} hosts: {said}", file=sys.stderr)
    return 0 if verdict["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
