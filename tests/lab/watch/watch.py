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

US = 1000
MS = 1_000_000
PERIOD_NS = 20 * MS
SCAN_NS = 200 * MS
BEAT_NS = 1000 * MS
# Seconds for which a process is young.
YOUNG_BEATS = 5
# A thread that used less in one sample was merely woken. A guest that writes one record uses far more, even under KVM.
WOKEN_NS = 50_000
# What a vCPU thread uses that is not the guest's: its own set-up when it is made (measured under TCG: up to 1.6 ms),
# which ends with a wait for the command to start, and the loading of migrated state (measured: up to 0.7 ms). A host
# that is emulated itself takes longer (measured: 6 ms before any state came), and says what is to be left out.
QUIET_SAMPLES = 2
LOADING_MS = 2
# A thread that had used this much when it was first seen has long been running.
RUNNING_NS = 50 * MS
# The kernel books a running thread's time at its ticks (at least 100 per second): growth may be this much older.
TICK_NS = 10 * MS
# What a stopped vCPU thread may yet use, in all: it is woken when its process is told to end.
ENDING_NS = 1 * MS
BEAT_GAP_NS = 5000 * MS
CLOCK_STEP_NS = 20 * MS

QEMU = re.compile(r"qemu-(system|kvm)|kvm$")
PF_EXITING = 4  # a flag of every Linux task, in its stat file
VCPU = re.compile(r"(CPU \d+|ALL CPUs)/")


class Thread:
    """One vCPU thread: its CPU time so far, and how much of that was not the guest's."""

    def __init__(self, folder: str, loading: int) -> None:
        self.handle = os.open(f"{folder}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        self.folder = folder
        # What it used before this watcher first saw it may be long ago.
        self.spent = self._spent()
        self.quiet = QUIET_SAMPLES if self.spent > RUNNING_NS else 0
        self.loading = 0 if self.spent > RUNNING_NS else loading

    def _spent(self) -> int:
        return int(os.pread(self.handle, 64, 0).split()[0])

    def ran(self) -> int:
        """Nanoseconds that the guest ran on this vCPU since the last call, as far as they are surely the guest's."""
        spent = self._spent()
        grown, self.spent = spent - self.spent, spent
        if grown < WOKEN_NS:
            self.quiet += 1
            return 0
        if self.quiet < QUIET_SAMPLES and spent < RUNNING_NS:
            self.quiet = 0
            return 0
        self.quiet = QUIET_SAMPLES
        self.loading -= grown
        # Asked after the time was read: the last thread of a process to go also pays for giving its memory back.
        return grown if self.loading < 0 and not self._exiting() else 0

    def _exiting(self) -> bool:
        return bool(int(_fields(self.folder)[6]) & PF_EXITING)


class Process:
    """One QEMU process with a virtual machine, and the stretch of time in which that ran."""

    def __init__(self, pid: int, birth: int, uuid: str, name: str) -> None:
        self.identity = {"uuid": uuid, "name": name, "pid": pid, "birth": birth}
        self.folder = f"/proc/{pid}/task"
        self.threads: dict[str, Thread] = {}
        self.began = 0
        self.samples: list[tuple[int, int, int]] = []

    def find_threads(self, loading: int) -> None:
        for number in os.listdir(self.folder):  # noqa: PTH208 - names are enough, ten thousand a minute
            if number not in self.threads and VCPU.match(_read(f"{self.folder}/{number}/comm")):
                self.threads[number] = Thread(f"{self.folder}/{number}", loading)

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

    A sample is a stretch of time and the CPU time that the guest used within it. However late a sample was taken on a
    busy machine, what the judge concludes from it holds: it only proves less.
    """

    def __init__(self, host: str, output: Any, loading: int, slowness: int = 1) -> None:
        self.host = host
        self.output = output
        self.loading = loading
        self.period = PERIOD_NS * slowness
        self.scan_period = min(SCAN_NS * slowness, BEAT_NS)
        self.scans_per_beat = BEAT_NS // self.scan_period
        self.processes: dict[str, Process] = {}
        self.before = time.time_ns()
        self.scans = 0
        self.ages: dict[str, int] = {}

    def scan(self) -> None:
        """Find QEMU processes that are new, and forget those that ended."""
        self.scans += 1
        entries = [entry for entry in os.listdir("/proc") if entry.isdigit()]  # noqa: PTH208 - names are enough
        self.ages = {entry: self.ages.get(entry, 0) + 1 for entry in entries}
        for entry in set(self.processes) - set(entries):
            self._forget(entry)
        for entry, age in self.ages.items():
            # libvirt's child becomes QEMU under the same process id: a young process is looked at every time.
            if age <= YOUNG_BEATS * self.scans_per_beat or self.scans % self.scans_per_beat == 0:
                with contextlib.suppress(OSError):  # it ended just now
                    self._look(entry)

    def _look(self, entry: str) -> None:
        known = self.processes.get(entry)
        if not QEMU.match(_read(f"/proc/{entry}/comm")):
            return
        state, birth = _state_and_birth(entry)
        if state in "ZX":  # it has ended, and its parent does not know yet
            if known:
                self._forget(entry)
            return
        if known and known.identity["birth"] != birth:
            self._forget(entry)
            known = None
        if not known:
            known = _process(int(entry), birth)
            if known is None:
                return
            self.processes[entry] = known
        known.find_threads(self.loading)

    def _forget(self, entry: str) -> None:
        process = self.processes.pop(entry)
        self._end_run(process)
        process.close()

    def sample(self) -> None:
        before = time.time_ns()
        ran = [(process, grown) for process in self.processes.values() if (grown := process.sample())]
        after = time.time_ns()
        for process, grown in ran:
            if not process.samples:
                process.began = self.before
            moments = (self.before - process.began, after - process.began, grown)
            process.samples.append((moments[0] // US, -(-moments[1] // US), moments[2] // US))
        self.before = before

    def _end_run(self, process: Process) -> None:
        if process.samples:
            vcpus = max(1, len(process.threads))
            self.write("run", **process.identity, vcpus=vcpus, at=process.began, samples=process.samples)
            process.samples = []

    def beat(self, samples: int, latest: int) -> None:
        """Say that the watcher lives; what is under way is written now, so that a killed watcher loses a second."""
        for process in self.processes.values():
            self._end_run(process)
        blind = [p.identity["name"] for p in self.processes.values() if not p.threads]
        self.write(
            "beat",
            **_moment(),
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
        self.write("start", at=time.time_ns(), boot=_boot(), period=self.period)
        scanned = samples = latest = 0
        beaten = due = time.monotonic_ns()
        while not stop:
            now = time.monotonic_ns()
            if not self.processes or now - scanned >= self.scan_period:
                scanned = now
                self.scan()
            self.sample()
            samples += 1
            if now - beaten >= BEAT_NS:
                self.beat(samples, latest)
                beaten, samples, latest = now, 0, 0
            now = time.monotonic_ns()
            # Without a process there is nothing to sample until the next look finds one.
            due += self.period if self.processes else self.scan_period
            if due < now:
                latest = max(latest, now - due)
                due = now
            time.sleep((due - now) / 1e9)
        self.beat(samples, latest)


def _moment() -> dict[str, int]:
    """Both clocks at one moment: a busy host may put this process aside between two looks, so the closest count."""
    best: tuple[int, int, int] | None = None
    for _turn in range(5):
        before, at, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        if best is None or after - before < best[0]:
            best = (after - before, at, (before + after) // 2)
        if best[0] < MS:
            break
    assert best is not None
    return {"at": best[1], "monotonic": best[2]}


def _read(path: str) -> str:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(handle, 65536).decode("utf-8", "replace")
    finally:
        os.close(handle)


def _fields(folder: str) -> list[str]:
    """The fields of a stat file that follow the name of the process or thread."""
    return _read(f"{folder}/stat").rpartition(")")[2].split()


def _state_and_birth(pid: str) -> tuple[str, int]:
    """The process' state, and when it began in ticks since the kernel's boot: with the id, that names it for good."""
    fields = _fields(f"/proc/{pid}")
    return fields[0], int(fields[19])


def _boot() -> str:
    """This boot of this host; in a container the kernel's boot id is not enough, its init began later."""
    return f"{_read('/proc/sys/kernel/random/boot_id').strip()}/{_state_and_birth('1')[1]}"


def _process(pid: int, birth: int) -> Process | None:
    """A QEMU with a virtual machine of its own; libvirt's probes have neither name nor UUID."""
    words = _read(f"/proc/{pid}/cmdline").split("\0")
    options = dict(zip(words, words[1:]))
    uuid = options.get("-uuid", "")
    name = next((part for part in options.get("-name", "").split(",") if part), "").partition("guest=")
    name = name[2] or name[0]
    return Process(pid, birth, uuid or name, name or uuid) if uuid or name else None


class Sample(NamedTuple):
    """The guest used `cpu` nanoseconds at some moments between `start` and `end`."""

    start: int
    end: int
    cpu: int


class Stay:
    """All that one QEMU process ran of its virtual machine."""

    def __init__(self, line: dict[str, Any]) -> None:
        self.uuid: str = line["uuid"]
        self.name: str = line["name"]
        self.host: str = line["host"]
        self.pid: int = line["pid"]
        self.vcpus = 1
        self.samples: list[Sample] = []

    def add(self, line: dict[str, Any]) -> None:
        self.vcpus = max(self.vcpus, line["vcpus"])
        self.samples += [Sample(*(line["at"] + us * US for us in (a, b)), cpu * US) for a, b, cpu in line["samples"]]

    def began(self) -> int:
        """The moment by which it surely ran: its CPU time takes its share of the first sample, up to the end."""
        return min(sample.end - sample.cpu // self.vcpus for sample in self.samples)

    def since(self, moment: int) -> int:
        """The least CPU time that it used after the moment: no vCPU can have used more than the time before it."""
        room = ((sample.cpu, max(0, moment - sample.start) * self.vcpus) for sample in self.samples)
        return sum(max(0, cpu - before) for cpu, before in room)

    def facts(self) -> dict[str, Any]:
        return {
            "uuid": self.uuid,
            "name": self.name,
            "host": self.host,
            "pid": self.pid,
            "first": self.began(),
            "last": max(sample.end for sample in self.samples),
            "cpu_ms": sum(sample.cpu for sample in self.samples) // MS,
        }


def judge(lines: Iterable[dict[str, Any]], *, vms: Iterable[str] = (), idle: bool = False) -> dict[str, Any]:
    """Merge the lines of all hosts' watchers and name every fault.

    A QEMU process that ran after another one of the same virtual machine had begun to run is a fault even where the
    two took turns: it resumed over a memory and a disk that had gone on without it.
    """
    watchers: dict[str, list[dict[str, Any]]] = {}
    stays: dict[tuple[str, int, int], Stay] = {}
    for line in lines:
        if line["kind"] == "run":
            stays.setdefault((line["host"], line["pid"], line["birth"]), Stay(line)).add(line)
        else:
            watchers.setdefault(line["host"], []).append(line)
    ordered = sorted(stays.values(), key=Stay.began)
    faults = [*_overlaps(ordered), *_holes(watchers)]
    missing = [name for name in vms if name not in {part for stay in ordered for part in (stay.name, stay.uuid)}]
    faults += [f"{name}: no watcher ever saw it run" for name in missing]
    if not ordered and not idle:
        faults.append("no watcher saw any virtual machine run")
    return {
        "ok": not faults,
        "faults": faults,
        "hosts": sorted(watchers),
        "stays": [stay.facts() for stay in ordered],
        "worst_sample_ms": max((b.get("latest", 0) for w in watchers.values() for b in w), default=0) // MS,
    }


def _overlaps(stays: list[Stay]) -> list[str]:
    faults = []
    for index, one in enumerate(stays):
        for other in stays[index + 1 :]:
            if one.uuid != other.uuid:
                continue
            began = other.began()
            used = one.since(began + TICK_NS)
            if used > ENDING_NS:
                lasted = max(sample.end for sample in one.samples) - began
                faults.append(
                    f"{one.name} ({one.uuid}) ran in two places: it ran on {other.host} (process {other.pid}) from "
                    f"{_clock(began)} on, and on {one.host} (process {one.pid}) until {lasted // MS} ms later, "
                    f"where it used {used / MS:.1f} ms of CPU time after that moment"
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
    sampling.add_argument(
        "--loading", type=int, default=LOADING_MS, help="milliseconds of each vCPU that are QEMU's own"
    )
    sampling.add_argument(
        "--slowness", type=int, default=1, help="how many times as long to wait between two looks, on a slow host"
    )
    judging = commands.add_parser("judge", help="merge the files of all hosts: verdict as JSON, summary on stderr")
    judging.add_argument("files", nargs="+", metavar="FILE")
    judging.add_argument("--vm", action="append", default=[], help="a name or UUID that must have been seen running")
    judging.add_argument("--idle", action="store_true", help="that no virtual machine ran at all is no fault")
    options = parser.parse_args()
    if options.command == "sample":
        with contextlib.suppress(PermissionError):
            os.nice(-10)  # a watcher that waits for a busy guest sees less of it
        with open(options.output, "a", encoding="utf-8") as output:
            Watcher(options.host, output, options.loading * MS, options.slowness).watch()
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
