# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""A page about runs, from their records: what of them is shown, and in which words.

The same records give the same page, to the byte: it says nothing of when it was made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ansible_collections.kvmops.migration.plugins.module_utils._pure import findings, outcome
from ansible_collections.kvmops.migration.plugins.module_utils._pure import status as statuses
from ansible_collections.kvmops.migration.plugins.module_utils._pure.status import size
from ansible_collections.kvmops.migration.plugins.plugin_utils import plots

TEMPLATE = "report.html.j2"
RECORDS = f"{statuses.STATE_DIRECTORY}/{statuses.RUNS}"
Record = Mapping[str, Any]

GOOD, CALM, BAD, DOUBTFUL = "good", "calm", "bad", "doubtful"
# What has become of the VM, and how that is meant.
OUTCOMES = {
    outcome.MIGRATED: ("Moved", GOOD),
    outcome.COPIED: ("Disks moved", GOOD),
    outcome.ALREADY_THERE: ("Nothing to move", CALM),
    outcome.NOTHING: ("Nothing to do", CALM),
    outcome.PLANNED: ("Planned", CALM),
    outcome.REFUSED: ("Refused, nothing was tried", BAD),
    outcome.FAILED: ("Not moved", BAD),
    outcome.UNDETERMINED: ("Not known where it is", DOUBTFUL),
    outcome.POSTCOPY: ("Post-copy has failed", DOUBTFUL),
    outcome.SPLIT_BRAIN: ("Runs on both hosts", BAD),
    outcome.CRASH: ("Crashed", BAD),
    outcome.LOST: ("Defined nowhere", BAD),
}
STEPS = {
    statuses.CHECKING: "Checks",
    statuses.JOURNALLED: "Preparing the destination",
    statuses.COPYING: "Copying files",
    statuses.VERIFYING: "Verifying the copies",
    statuses.COPIED: "Giving copies their names",
    statuses.PREPARED: "Beginning the job",
    statuses.MOVING: "Moving",
    statuses.MOVED: "Asking both hosts",
    statuses.SETTLED: "Putting things in order",
    statuses.FINISHING: "Recording the result",
}
UNITS = {"raise_downtime": "ms", "set_downtime": "ms", "set_bandwidth": "MiB/s"}
NOWHERE = ("none", None, "")


@dataclass(frozen=True)
class Figure:
    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Bar:
    """One row of a timeline; places are percentages."""

    label: str
    left: float
    width: float
    begins: str
    took: str
    kind: str = "step"


def seconds(count: float) -> str:
    """A time that has passed, for a person."""
    if count < 1:
        return f"{1000 * count:.0f} ms"
    if count < 60:
        return f"{count:.1f} s"
    minutes, rest = divmod(round(count), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def when(epoch: float) -> str:
    """A moment of the world, in words that everybody reads alike."""
    return datetime.fromtimestamp(epoch, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


class Run:
    """One run as the page shows it. A record of an older version, or of a run that has hardly begun, lacks keys."""

    def __init__(self, number: int, record: Record):
        self._record = record
        self.id = f"run-{number}"
        self.name = str(record.get("name") or "A VM")
        self.run = str(record.get("run") or "")
        self.outcome = str(record.get("outcome") or (outcome.REFUSED if record.get("failed") else ""))
        self.headline, self.tone = OUTCOMES.get(self.outcome, (self.outcome.replace("_", " "), CALM))
        self.failed = bool(record.get("failed"))
        self.steps = [one for one in _rows(record, "steps") if "t" in one and "step" in one]
        self.actions = [one for one in _rows(record, "actions") if "t" in one]
        self.series = [one for one in _rows(record, "series") if "t" in one]
        self.began = float(record.get("began") or _second(self.run))
        self.took = float(record.get("duration_s") or 0)
        # Samples and actions count from the beginning of what travels.
        self._offset = self._begin_of(statuses.COPYING) or self._begin_of(statuses.MOVING)
        self._job = self._begin_of(statuses.MOVING)
        ends = [
            self.took,
            *(float(one["t"]) for one in self.steps),
            *(self._offset + float(one["t"]) for one in self.series),
            *(self._job + float(one["t"]) for one in self.actions),
        ]
        self.end = max(ends)

    def _begin_of(self, step: str) -> float:
        return next((float(one["t"]) for one in self.steps if one["step"] == step), 0.0)

    # Words

    @property
    def route(self) -> tuple[str, str]:
        """Where it came from and where to; the second is empty where it stays on its host."""
        sides = self.sides
        return (sides[0]["host"] if sides else "", sides[1]["host"] if len(sides) > 1 else "")

    @property
    def manner(self) -> str:
        record = self._record
        parts = [
            str(record["mode"]) if record.get("mode") not in NOWHERE else "",
            f"storage {record['storage']}" if record.get("storage") not in NOWHERE else "",
            f"{record['transport']} transport" if record.get("transport") not in NOWHERE else "",
            "encrypted" if "TLS" in (record.get("flags") or ()) else "",
        ]
        return ", ".join(part for part in parts if part)

    @property
    def duration(self) -> str:
        return seconds(self.took) if self.took else ""

    @property
    def downtime(self) -> str:
        downtime = self._record.get("downtime_ms")
        return "" if downtime is None else f"{downtime} ms"

    @property
    def outage(self) -> str:
        longest = (self._record.get("outage") or {}).get("longest_ms")
        return "" if longest is None else f"{longest} ms"

    @property
    def beginning(self) -> str:
        return when(self.began) if self.began else ""

    @property
    def message(self) -> str:
        """What went wrong, without the cure, which is shown beside it."""
        said, cure = str(self._record.get("msg") or "") if self.failed else "", self.cure
        return said.removesuffix(f"; cure: {cure}") if cure else said

    @property
    def cure(self) -> str:
        return str(self._record.get("cure") or "")

    @property
    def role(self) -> str:
        return str(self._record.get("role") or "")

    @property
    def failure_class(self) -> str:
        return str(self._record.get("failure_class") or "")

    @property
    def warnings(self) -> list[str]:
        return [str(text) for text in self._record.get("warnings") or ()]

    @property
    def uuid(self) -> str:
        return str(self._record.get("uuid") or "")

    @property
    def sides(self) -> list[dict[str, str]]:
        """The hosts, each with what the VM is there since."""
        record = self._record
        ends = (("From", record.get("source")), ("To", record.get("dest")))
        known = [(part, {"host": one} if isinstance(one, str) else one) for part, one in ends if one]
        found = [{"part": part, **_texts(one, "host", "uri"), "state": _state(one.get("state"))} for part, one in known]
        if not found and record.get("host"):
            found = [{"part": "On", "host": str(record["host"]), "uri": "", "state": _state(record.get("state"))}]
        return found

    @property
    def kept_at(self) -> str:
        """Where the record itself is."""
        host = self.route[0]
        return f"{host}:{RECORDS}/{self.run}.json" if self.run and host else ""

    # Numbers

    @property
    def figures(self) -> list[Figure]:
        record = self._record
        memory, disk = record.get("memory") or {}, record.get("disk") or {}
        found = []
        if self.run and record.get("mode") in ("live", "nonlive"):
            found += [self._standstill(), self._outage()]
        if self.took:
            found.append(Figure("The whole run", seconds(self.took)))
        if memory.get("bytes"):
            total = f"the VM has {size(memory['total'])}" if memory.get("total") else ""
            passes = f"{memory['iterations']} passes" if memory.get("iterations") else ""
            found.append(Figure("Memory sent", size(memory["bytes"]), ", ".join(filter(None, (total, passes)))))
        if memory.get("throughput"):
            dirty = memory.get("dirty_rate")
            note = f"the VM wrote {size(dirty)}/s" if dirty else ""
            found.append(Figure("Throughput", f"{size(memory['throughput'])}/s", note))
        copies = any(one.get("action") == "copy" for one in _rows(record, "disks"))
        if disk.get("bytes") and copies:
            found.append(Figure("Disks sent", size(disk["bytes"])))
        sent = (record.get("copied") or {}).get("bytes_sent", record.get("bytes_sent"))
        if sent is not None:
            found.append(Figure("Files sent", size(sent)))
        if memory.get("throttle"):
            found.append(Figure("Slowed down", f"{memory['throttle']} %", "by auto-converge, at the end"))
        return found

    def _standstill(self) -> Figure:
        downtime, limit = self._record.get("downtime_ms"), self._record.get("downtime_limit_ms")
        suspended = [float(one["t"]) for one in self.actions if one.get("action") == "suspend" and not one.get("error")]
        ended = self._begin_of(statuses.MOVED)
        if suspended and ended and self._job:
            # libvirt counts from its own stop of a guest that runs.
            stood = seconds(max(0.0, ended - self._job - suspended[0]))
            return Figure("Downtime", f"about {stood}", "from the moment when it was suspended to the end of the job")
        value = "not known" if downtime is None else f"{downtime} ms"
        return Figure("Downtime, by libvirt", value, f"at most {limit} ms were permitted" if limit is not None else "")

    def _outage(self) -> Figure:
        outage, label = self._record.get("outage") or {}, "Downtime, measured outside"
        if not outage:
            return Figure(label, "not measured", "outage_address asks for it")
        if outage.get("longest_ms") is None:
            return Figure(label, "not measured", str(outage.get("msg") or ""))
        note = f"longest time without an answer from {outage.get('address')}, asked from {outage.get('from')}"
        if outage.get("interval_ms"):
            note += f" every {outage['interval_ms']} ms"
        return Figure(label, f"{outage['longest_ms']} ms", note)

    # The course of it

    @property
    def timeline(self) -> list[Bar]:
        ends = [float(one["t"]) for one in self.steps[1:]] + [max(self.took, self.end)]
        bars = [
            self._bar(STEPS.get(one["step"], str(one["step"])), float(one["t"]), end)
            for one, end in zip(self.steps, ends)
        ]
        outage = self._record.get("outage") or {}
        if outage.get("longest_ms") and outage.get("began_at") and self.began:
            begins, lasts = float(outage["began_at"]) - self.began, outage["longest_ms"] / 1000
            # Another host has measured it, by its own clock.
            if 0 <= begins <= self.end:
                bars.append(self._bar("No answer, from outside", begins, begins + lasts, "outage"))
        return bars

    def _bar(self, label: str, begins: float, ends: float, kind: str = "step") -> Bar:
        left, right = plots.percent(begins, self.end), plots.percent(ends, self.end)
        return Bar(label, left, round(right - left, 3), seconds(begins), seconds(max(0.0, ends - begins)), kind)

    @property
    def marks(self) -> list[plots.Mark]:
        return plots.marks(self._moments, self.end)

    @property
    def ticks(self) -> list[plots.Tick]:
        return plots.time_ticks(self.end) if self.end > 0 else []

    @property
    def _moments(self) -> list[float]:
        return [self._job + float(one["t"]) for one in self.actions]

    @property
    def done(self) -> list[dict[str, str]]:
        """What was done about it, in words."""
        rows = []
        for one, moment in zip(self.actions, self._moments):
            value = one.get("value")
            unit = UNITS.get(str(one.get("action")), "")
            rows.append(
                {
                    "at": seconds(moment),
                    "what": str(one.get("action", "")).replace("_", " "),
                    "value": "" if value is None else f"{value} {unit}".strip(),
                    "reason": str(one.get("reason") or ""),
                    "error": str(one.get("error") or ""),
                }
            )
        return rows

    @property
    def plots(self) -> list[plots.Plot]:
        def points(key: str, known: str = "") -> list[tuple[float, float | None]]:
            """`known` has a value other than nothing once libvirt tells of that at all."""
            return [
                (self._offset + float(one["t"]), float(one[key]) if _told(one, key, known) else None)
                for one in self.series
            ]

        wanted = (
            ("Memory still to be sent", "", [("memory", "memory", points("memory_remaining", "memory_processed"))]),
            ("Disks still to be sent", "", [("disks", "disk", points("disk_remaining", "disk_processed"))]),
            (
                "How fast it went",
                "/s",
                [("sent", "memory", points("throughput")), ("dirtied by the VM", "dirty", points("dirty_rate"))],
            ),
        )
        made = (plots.plot(title, series, self.end, self._moments, suffix) for title, suffix, series in wanted)
        return [plot for plot in made if plot is not None]

    # What was found, and what went along

    @property
    def checks(self) -> list[dict[str, str]]:
        return [_texts(one, "id", "status", "evidence", "cure", "role") for one in _rows(self._record, "checks")]

    @property
    def obstacles(self) -> list[dict[str, str]]:
        """What has failed, and then what is only worth a warning."""
        return [one for status in (findings.FAIL, findings.WARN) for one in self._found(status)]

    @property
    def passed(self) -> list[dict[str, str]]:
        found = {one["id"] for one in self.obstacles}
        return [one for one in self._found(findings.PASS) if one["id"] not in found]

    @property
    def skipped(self) -> dict[str, list[str]]:
        """Names of checks by the reason for which they were not made."""
        reasons: dict[str, list[str]] = {}
        for one in self._found(findings.SKIPPED):
            reasons.setdefault(one["evidence"], []).append(one["id"])
        return reasons

    def _found(self, status: str) -> list[dict[str, str]]:
        return [one for one in self.checks if one["status"] == status]

    @property
    def disks(self) -> list[dict[str, str]]:
        """Each with where it is and what was done about it; files say more of that."""
        return [
            {
                **_texts(one, "target", "source", "dest", "reason"),
                "action": str(one.get("action") or "moved").replace("_", " "),
                "size": size(one["bytes"]) if isinstance(one.get("bytes"), int) else "",
            }
            for one in _rows(self._record, "files") or _rows(self._record, "disks")
        ]

    @property
    def networks(self) -> list[dict[str, str]]:
        return [
            {
                "interface": str(one.get("interface")),
                "sent": size(one.get("tx_bytes") or 0),
                "received": size(one.get("rx_bytes") or 0),
            }
            for one in _rows(self._record, "networks")
        ]

    @property
    def left_behind(self) -> list[str]:
        return [f"{one.get('host')}: {one.get('path')}" for one in _rows(self._record, "left_behind")]

    @property
    def removed(self) -> list[str]:
        return [str(path) for path in self._record.get("removed") or ()]

    @property
    def settled(self) -> list[str]:
        return [
            f"run {one.get('run')}: {str(one.get('outcome')).replace('_', ' ')}"
            for one in _rows(self._record, "settled")
        ]

    @property
    def flags(self) -> str:
        return " ".join(str(flag) for flag in self._record.get("flags") or ())

    @property
    def logs(self) -> list[tuple[str, str]]:
        logs = self._record.get("logs") or {}
        return [(str(side), "\n".join(str(one) for one in lines)) for side, lines in logs.items() if lines]


def _rows(record: Record, key: str) -> list[Record]:
    return [one for one in record.get(key) or () if isinstance(one, Mapping)]


def _texts(row: Record, *keys: str) -> dict[str, str]:
    return {key: str(row.get(key) or "") for key in keys}


def _told(sample: Record, key: str, known: str) -> bool:
    return key in sample and (not known or bool(sample[key]) or bool(sample.get(known)))


def _state(state: Any) -> str:
    words = {"absent": "not there", "unknown": "not known", "None": ""}
    return words.get(str(state), str(state).replace("_", " "))


def chosen(results: Sequence[Record], records: Sequence[Record]) -> list[Record]:
    """What the page is about: the record of each run, or the answer where no record of it was found.

    A VM that had nothing to move is shown by the last run that it had.
    """
    by_run = {one["run"]: one for one in records if one.get("run")}
    last: dict[str, Record] = {}
    for one in sorted(by_run.values(), key=_age):
        last[str(one.get("name"))] = one
    shown = [_shown(one, by_run, last) for one in results]
    names = {str(one.get("name")) for one in results}
    shown += [one for name, one in sorted(last.items()) if name not in names]
    return shown


def listed(records: Sequence[Record]) -> list[dict[str, str]]:
    """Which runs those are, in a few words."""
    return [{key: str(one.get(key) or "") for key in ("name", "run", "outcome")} for one in records]


def _shown(result: Record, by_run: Mapping[str, Record], last: Mapping[str, Record]) -> Record:
    record = by_run.get(result.get("run") or "")
    if record is not None:
        # These two the host itself does not know.
        more = {key: result[key] for key in ("outage", "logs") if result.get(key) and key not in record}
        return {**record, **more}
    if result.get("failed") or result.get("changed"):
        return result
    return last.get(str(result.get("name")), result)


def _second(run: str) -> int:
    """When a run began, which its name says."""
    began = run.partition("-")[0]
    return int(began) if began.isdigit() else 0


def _age(record: Record) -> tuple[int, str]:
    return (_second(str(record["run"])), str(record["run"]))


def overview(runs: Sequence[Run]) -> tuple[list[Bar], list[plots.Tick]]:
    """When each of them went on; empty where that is not known of two of them."""
    known = [run for run in runs if run.began]
    if len(known) < 2:
        return [], []
    first = min(run.began for run in known)
    whole = max(run.began + run.took for run in known) - first
    bars = [
        Bar(
            run.name,
            plots.percent(run.began - first, whole),
            plots.percent(run.took, whole),
            seconds(run.began - first),
            seconds(run.took),
            run.tone,
        )
        for run in known
    ]
    return bars, plots.time_ticks(whole) if whole > 0 else []


def summary(runs: Sequence[Run]) -> str:
    """How it went, in one line."""
    if len(runs) == 1:
        run = runs[0]
        source, dest = run.route
        way = f", {source} to {dest}" if dest else f", {source}" if source else ""
        return f"{run.name}: {run.headline[:1].lower()}{run.headline[1:]}{way}"
    counts: dict[str, int] = {}
    for run in runs:
        words = run.headline.partition(",")[0]
        counts[words] = counts.get(words, 0) + 1
    return f"{len(runs)} VMs: " + ", ".join(
        f"{count} {words[:1].lower()}{words[1:]}" for words, count in counts.items()
    )


def page(records: Sequence[Record]) -> str:
    """The page about these runs, whole and by itself."""
    runs = [Run(number, record) for number, record in enumerate(records, 1)]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(height=plots.HEIGHT, width=plots.WIDTH)
    bars, ticks = overview(runs)
    shown = {"runs": runs, "summary": summary(runs), "overview": bars, "overview_ticks": ticks}
    return environment.get_template(TEMPLATE).render(shown).strip() + "\n"
