# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What happened to a lab guest, seen from outside: its serial consoles on all hosts against the records on its disk.

The guest prints the number of a record only after that record's fsync. So a reboot, a second running copy, a lost
write and a torn write each leave a trace that needs no trust in the guest: see `judge`.

`records` reads a disk image and belongs on the host that has it (with the guest shut off or paused: a copy taken while
it writes is no single moment); `judge` is pure and runs anywhere. One file, standard library only.
"""

from __future__ import annotations

import argparse
import json
import re
import struct
import subprocess
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

RECORD = 64
CHECKED = 54  # bytes of a record that its checksum covers
FILE = "/records"
LINE = re.compile(r"kvmops: record ([0-9a-f]{8}) ([0-9]{10}) ([0-9a-f]{8})(?=[\r\n]|\Z)")
LINE_LENGTH = len("kvmops: record 00000000 0000000000 00000000")
BOOT = re.compile(r"kvmops: boot ([0-9a-f]{8})[0-9a-f-]{28} (\S+)")
TROUBLE = re.compile(
    r"kvmops: error .*|kvmops: verify bad .*|kvmops: found .* [1-9][0-9]* bad"
    r"|Kernel panic.*|.*EXT4-fs error.*|.*I/O error.*|.*Remounting filesystem read-only.*"
)
LISTED = 5  # numbers that a message names before it only counts them


class WitnessError(Exception):
    """The evidence itself cannot be had."""


@dataclass(frozen=True)
class Record:
    """One good record of the disk."""

    number: int
    boot: str
    uptime_ms: int
    crc: str


@dataclass(frozen=True)
class Printed:
    """One record line of a console, with where it stands in that console's text."""

    number: int
    boot: str
    crc: str
    host: str
    start: int
    end: int


@dataclass
class Disk:
    """The record file of an image: good records by number, the slots that hold none, and what fsck had to repair."""

    records: dict[int, Record] = field(default_factory=dict)
    bad: list[int] = field(default_factory=list)
    repairs: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Fault:
    kind: str
    text: str


@dataclass
class Verdict:
    faults: list[Fault]
    printed: int
    first: int | None
    last: int | None
    on_disk: int | None
    boots: list[str]
    hosts: dict[str, dict[str, int]]
    split: list[int]

    @property
    def ok(self) -> bool:
        return not self.faults

    @property
    def summary(self) -> str:
        where = ", ".join(f"{host} {facts['count']}" for host, facts in self.hosts.items() if facts["count"])
        disk = "disk not checked" if self.on_disk is None else f"{self.on_disk} on the disk"
        text = f"records {self.first} to {self.last}, {self.printed} printed ({where or 'none'}), {disk}, "
        text += f"{len(self.boots)} boot{'' if len(self.boots) == 1 else 's'}: "
        if self.ok:
            return text + "the guest lived on without a fault"
        return text + "; ".join(f"{fault.kind}: {fault.text}" for fault in self.faults)


def parse_records(data: bytes, repairs: Iterable[str] = ()) -> Disk:
    """The record file as the guest writes it: record n is slot n, 64 bytes, checked by its own CRC-32."""
    disk = Disk(repairs=list(repairs))
    for slot, at in enumerate(range(0, len(data), RECORD), 1):
        record = _parse_record(data[at : at + RECORD], slot)
        if record is None:
            disk.bad.append(slot)
        else:
            disk.records[slot] = record
    return disk


def _parse_record(raw: bytes, slot: int) -> Record | None:
    if len(raw) != RECORD or raw[CHECKED:] != b" %08x\n" % zlib.crc32(raw[:CHECKED]):
        return None
    number, boot, uptime, crc = raw.decode("ascii", "replace").split()
    return Record(slot, boot, int(uptime), crc) if int(number) == slot else None


def judge(consoles: Mapping[str, str], disk: Disk | None = None, boots: int = 1) -> Verdict:
    """Compare what was printed on which host with what the disk holds; `boots` is how often the guest may boot.

    A line that a migration has cut in two (its head on one host, its tail on the other) is put together again.
    """
    printed = [found for host, text in consoles.items() for found in _lines(host, text, disk)]
    split = _rejoin(printed, consoles, disk)
    printed += split
    faults = [
        *_printed_twice(printed),
        *_out_of_order(printed),
        *_reboots(printed, consoles, boots),
        *_gaps(printed, disk, boots),
        *_troubles(consoles),
    ]
    if not printed:
        faults.append(Fault("silent", "no console has a record line"))
    if disk is not None:
        faults += [*_lost(printed, disk), *_damaged(disk)]
    numbers = [line.number for line in printed]
    return Verdict(
        faults=faults,
        printed=len(numbers),
        first=min(numbers, default=None),
        last=max(numbers, default=None),
        on_disk=None if disk is None else len(disk.records),
        boots=_boot_ids(printed, consoles),
        hosts={host: _of_host(host, printed) for host in consoles},
        split=[line.number for line in split],
    )


def _lines(host: str, text: str, disk: Disk | None) -> list[Printed]:
    # Anywhere in a line: noise, or the head of a line cut by a migration, may stand before it.
    found = [Printed(int(part[2]), part[1], part[3], host, part.start(), part.end()) for part in LINE.finditer(text)]
    if disk is None:
        return found
    return [
        line
        for index, line in enumerate(found)
        if index in (0, len(found) - 1)
        or not _glued(text[line.start : line.end], found[index - 1].number + 1, found[index + 1].number - 1, disk)
    ]


def _glued(text: str, left: int, right: int, disk: Disk) -> bool:
    """Is this the head of one line and the tail of a later one, cut at the same place when the guest left and came?"""
    halves = [disk.records.get(number) for number in (left, right)]
    if left >= right or None in halves:
        return False
    head, tail = (f"kvmops: record {half.boot[:8]} {half.number:010d} {half.crc}" for half in halves if half)
    return text not in (head, tail) and any(text == head[:cut] + tail[cut:] for cut in range(LINE_LENGTH))


def _rejoin(printed: list[Printed], consoles: Mapping[str, str], disk: Disk | None) -> list[Printed]:
    """Lines whose head ends one host's output and whose tail begins another's."""
    by_number: dict[int, list[Printed]] = {}
    for line in printed:
        by_number.setdefault(line.number, []).append(line)
    joined = []
    for number in range(min(by_number, default=0) + 1, max(by_number, default=0)):
        if number in by_number:
            continue
        pairs = ((a, b) for a in by_number.get(number - 1, ()) for b in by_number.get(number + 1, ()))
        found = [line for a, b in pairs if a.host != b.host for line in _joins(number, a, b, consoles)]
        if found:
            # Where a host's log has two cuts in one place, more than one pair of halves fits: the disk tells which.
            known = disk.records.get(number) if disk else None
            joined.append(next((line for line in found if known and line.crc == known.crc), found[0]))
    return joined


def _joins(number: int, before: Printed, after: Printed, consoles: Mapping[str, str]) -> Iterator[Printed]:
    head = consoles[before.host][before.end :].lstrip("\r\n")[:LINE_LENGTH]
    tail = consoles[after.host][: after.start].rstrip("\r\n")[-LINE_LENGTH:]
    for cut in range(LINE_LENGTH + 1):
        if cut > len(head) or LINE_LENGTH - cut > len(tail):
            continue
        found = LINE.fullmatch(head[:cut] + tail[len(tail) - (LINE_LENGTH - cut) :])
        if found and int(found[2]) == number and found[1] in (before.boot, after.boot):
            yield Printed(number, found[1], found[3], before.host, before.end, before.end)


def _printed_twice(printed: list[Printed]) -> list[Fault]:
    hosts: dict[int, list[str]] = {}
    for line in printed:
        hosts.setdefault(line.number, []).append(line.host)
    apart = [number for number, where in sorted(hosts.items()) if len(set(where)) > 1]
    again = [number for number, where in sorted(hosts.items()) if max(Counter(where).values()) > 1]
    faults = []
    if apart:
        where = ", ".join(sorted({host for number in apart for host in hosts[number]}))
        faults.append(Fault("ran twice", f"records {_list(apart)} were printed on more than one of {where}"))
    if again:
        where = ", ".join(sorted({host for number in again for host in hosts[number]}))
        faults.append(Fault("ran again", f"records {_list(again)} were printed more than once on {where}"))
    return faults


def _out_of_order(printed: list[Printed]) -> list[Fault]:
    faults = []
    for host in dict.fromkeys(line.host for line in printed):
        own = sorted((line for line in printed if line.host == host), key=lambda line: line.start)
        back = [b.number for a, b in zip(own, own[1:]) if b.number < a.number]
        if back:
            faults.append(Fault("order", f"on {host} records {_list(back)} follow higher numbers"))
    return faults


def _boot_ids(printed: list[Printed], consoles: Mapping[str, str]) -> list[str]:
    """Every boot id in the order of the records that carry it; boots without records last."""
    ordered = [line.boot for line in sorted(printed, key=lambda line: line.number)]
    announced = [found[1] for text in consoles.values() for found in BOOT.finditer(text)]
    return list(dict.fromkeys(ordered + announced))


def _reboots(printed: list[Printed], consoles: Mapping[str, str], allowed: int) -> list[Fault]:
    ids = _boot_ids(printed, consoles)
    if len(ids) <= allowed:
        return []
    return [Fault("reboot", f"the guest booted {len(ids)} times, {allowed} expected: {', '.join(ids)}")]


def _gaps(printed: list[Printed], disk: Disk | None, boots: int) -> list[Fault]:
    boot_of = {line.number: line.boot for line in printed}
    numbers = sorted(boot_of)
    missing = []
    for a, b in zip(numbers, numbers[1:]):
        # A guest that is switched off may have written a record and not yet have printed its number.
        between = boots > 1 and boot_of[a] != boot_of[b]
        missing += [n for n in range(a + 1, b) if not (between and disk is not None and n in disk.records)]
    return [Fault("gap", f"records {_list(missing)} were printed nowhere")] if missing else []


def _troubles(consoles: Mapping[str, str]) -> list[Fault]:
    faults = []
    for host, text in consoles.items():
        said = [found.group().strip() for found in TROUBLE.finditer(text.replace("\r", ""))]
        if said:
            more = f" (and {len(said) - 1} more)" if len(said) > 1 else ""
            faults.append(Fault("guest", f"on {host} it says: {said[0]}{more}"))
    return faults


def _lost(printed: list[Printed], disk: Disk) -> list[Fault]:
    absent = sorted({line.number for line in printed if line.number not in disk.records})
    other = sorted(
        {
            line.number
            for line in printed
            if (record := disk.records.get(line.number))
            and (record.crc != line.crc or not record.boot.startswith(line.boot))
        }
    )
    faults = []
    if absent:
        faults.append(Fault("lost write", f"records {_list(absent)} were printed after fsync and are not on the disk"))
    if other:
        faults.append(Fault("overwritten", f"the disk holds other records {_list(other)} than were printed"))
    return faults


def _damaged(disk: Disk) -> list[Fault]:
    faults = []
    if disk.bad:
        faults.append(Fault("torn write", f"slots {_list(disk.bad)} of the record file hold no whole record"))
    if disk.repairs:
        faults.append(Fault("file system", f"fsck found damage: {'; '.join(disk.repairs[:LISTED])}"))
    backwards = [
        b.number
        for a, b in zip(disk.records.values(), list(disk.records.values())[1:])
        if a.boot == b.boot and b.uptime_ms < a.uptime_ms
    ]
    if backwards:
        faults.append(Fault("clock", f"the guest's uptime went back at records {_list(backwards)}"))
    return faults


def _of_host(host: str, printed: list[Printed]) -> dict[str, int]:
    own = [line.number for line in printed if line.host == host]
    return {"count": len(own), **({"first": min(own), "last": max(own)} if own else {})}


def _list(numbers: list[int]) -> str:
    listed = ", ".join(map(str, numbers[:LISTED]))
    return listed if len(numbers) <= LISTED else f"{listed} and {len(numbers) - LISTED} more"


def records(image: str | Path) -> tuple[bytes, list[str]]:
    """The record file in an image, raw, and the repairs its file system needed after the replay of its journal."""
    with tempfile.TemporaryDirectory(prefix="kvmops-witness-") as folder:
        form = json.loads(_run("qemu-img", "info", "-U", "--output=json", str(image)).stdout)["format"]
        table = Path(folder) / "table"
        _cut(image, form, 0, 512, table)
        start, size = _linux_partition(table.read_bytes())
        partition = Path(folder) / "partition"
        _cut(image, form, start, size, partition)
        # Replays the journal and sums up the free counters, which the kernel does only at unmount.
        _run("e2fsck", "-p", str(partition), accept=tuple(range(16)))
        # What is wrong after that is damage: a mere crash leaves nothing for this run.
        checked = _run("e2fsck", "-fy", str(partition), accept=tuple(range(16)))
        repairs = _repairs(checked.stdout) if checked.returncode else []
        data = Path(folder) / "records"
        said = _run("debugfs", "-R", f"dump {FILE} {data}", str(partition)).stderr
        if not data.is_file():
            raise WitnessError(f"{image}: no file {FILE} in its data partition: {said.strip()}")
        return data.read_bytes(), repairs


def _cut(image: str | Path, form: str, start: int, size: int, output: Path) -> None:
    name = str(image).replace(",", ",,")
    options = (
        f"driver=raw,offset={start},size={size},file.driver={form},file.file.driver=file,file.file.filename={name}"
    )
    _run("qemu-img", "convert", "-U", "--image-opts", options, "-O", "raw", str(output))


def _linux_partition(sector: bytes) -> tuple[int, int]:
    for entry in range(446, 510, 16):
        kind, start, count = sector[entry + 4], *struct.unpack("<II", sector[entry + 8 : entry + 16])
        if sector[510:] == b"\x55\xaa" and kind == 0x83:
            return start * 512, count * 512
    raise WitnessError("the image has no Linux partition in an MBR: it is no disk of a lab guest")


def _repairs(said: str) -> list[str]:
    noise = re.compile(r"Pass [0-9].*|Fix\? yes|.*\*\*\*\*\*.*|.*: [0-9]+/[0-9]+ files .*")
    lines = [line.strip() for line in said.splitlines()]
    return [line for line in lines if line and not noise.fullmatch(line)][:20]


def _run(*command: str, accept: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except FileNotFoundError as error:
        raise WitnessError(f"{command[0]} is not installed; packages qemu-utils and e2fsprogs are needed") from error
    if done.returncode not in accept:
        raise WitnessError(f"{' '.join(command)} failed ({done.returncode}): {(done.stderr or done.stdout).strip()}")
    return done


def read_console(path: str | Path) -> str:
    """A console log with the older parts that virtlogd has rotated away (FILE.0 is the newest of them)."""
    path = Path(path)
    parts = [part for part in path.parent.glob(f"{path.name}.*") if part.suffix[1:].isdigit()]
    parts.sort(key=lambda part: -int(part.suffix[1:]))
    return b"".join(part.read_bytes() for part in [*parts, path]).decode("latin-1")


def _disk_of(options: argparse.Namespace) -> Disk | None:
    if options.image:
        return parse_records(*records(options.image))
    if options.disk:
        kept = json.loads(Path(options.disk).read_text(encoding="ascii"))
        return parse_records(kept["records"].encode("latin-1"), kept["repairs"])
    return None


def _host_and_file(text: str) -> tuple[str, str]:
    host, separator, name = text.partition("=")
    if not (host and separator and name):
        raise argparse.ArgumentTypeError(f"{text!r}: HOST=FILE is accepted")
    return host, name


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    reader = commands.add_parser("records", help="print the record file of IMAGE as JSON, for judge --disk")
    reader.add_argument("image")
    judging = commands.add_parser("judge", help="compare consoles and disk: verdict as JSON, summary on stderr")
    judging.add_argument("--console", type=_host_and_file, action="append", required=True, metavar="HOST=FILE")
    source = judging.add_mutually_exclusive_group()
    source.add_argument("--disk", metavar="FILE", help="output of the command records")
    source.add_argument("--image", help="the guest's disk image, where it is on this machine")
    judging.add_argument("--boots", type=int, default=1, help="how often the guest may have booted (default 1)")
    options = parser.parse_args()
    try:
        if options.command == "records":
            data, repairs = records(options.image)
            print(json.dumps({"records": data.decode("latin-1"), "repairs": repairs}))
            return 0
        consoles: dict[str, str] = {}
        for host, name in options.console:
            consoles[host] = consoles.get(host, "") + read_console(name)
        verdict = judge(consoles, _disk_of(options), options.boots)
    except (WitnessError, OSError, ValueError, KeyError) as error:
        print(f"witness: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"ok": verdict.ok, "summary": verdict.summary, **asdict(verdict)}))
    print(f"witness: {verdict.summary}", file=sys.stderr)
    return 0 if verdict.ok else 1


if __name__ == "__main__":
    sys.exit(main())
