# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""What is done about a migration that does not converge: policies as lists of steps, and the machine that follows one.

Nothing here calls libvirt or looks at a clock. The machine is fed with samples of the job's statistics and answers with
what is to be done now, and why.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Mapping, Sequence, Set, Tuple

from .refusal import Refusal

# When: what `at` counts.
START = "start"
ITERATION = "iteration"
STALLED_ITERATIONS = "stalled_iterations"
SECONDS_PER_GIB = "seconds_per_gib"
NO_PROGRESS = "no_progress"
ELAPSED = "elapsed"
WHENS = (START, ITERATION, STALLED_ITERATIONS, SECONDS_PER_GIB, NO_PROGRESS, ELAPSED)

# What is done.
AUTO_CONVERGE = "auto_converge"
RAISE_DOWNTIME = "raise_downtime"
SET_BANDWIDTH = "set_bandwidth"
POSTCOPY = "postcopy"
SUSPEND = "suspend"
ABORT = "abort"
DOS = (AUTO_CONVERGE, RAISE_DOWNTIME, SET_BANDWIDTH, POSTCOPY, SUSPEND, ABORT)
# What max_downtime does by itself.
SET_DOWNTIME = "set_downtime"

GIB = 2**30
# QEMU's own downtime limit, and the one that a policy may go to where nothing was said, in milliseconds.
QEMU_DOWNTIME = 300
POLICY_DOWNTIME = 500
MAX_DOWNTIME = 2000 * 1000
MAX_BANDWIDTH = (2**63 - 1) // 2**20
MAX_SECONDS = 365 * 24 * 3600

# Weight of the newest sample in what is smoothed: libvirt's and our own rates jump from second to second.
ALPHA = 0.4
# A rate below this part of the smoothed one is a drop: the network may be about to fail. Post-copy then waits for so
# many seconds, because a network that fails in post-copy takes the guest with it.
DROP = 0.5
# Seconds between two samples from which a rate is told: QEMU counts, and with a limit sends, in bursts.
SPAN = 0.4
COOLDOWN = 30.0
# What must be sent again in a pass has shrunk, or the lowest mark has moved, when it did by more than this part.
SHRUNK = 0.1
MOVED = 0.001
# The guest is stopped, or handed over, when little is left: at the lowest that the last seconds have seen. It is
# waited for only so long.
WINDOW = 30.0
PATIENCE = 10.0
MARGIN = 0.04
# A step that libvirt refused is tried so many times in all, with so many seconds between.
TRIES = 3
AGAIN = 5.0


@dataclass(frozen=True)
class Step:
    """One step of a policy. `downtime` is in milliseconds, `percent` of the highest permitted one."""

    when: str
    at: float
    do: str
    downtime: int | None = None
    percent: int | None = None
    bandwidth: int | None = None

    @property
    def reason(self) -> str:
        at = f"{self.at:g}"
        return {
            START: "asked for from the start",
            ITERATION: f"pass {at} has begun",
            STALLED_ITERATIONS: f"stalled: passes in a row that have left no less to send: {at}",
            SECONDS_PER_GIB: f"it has taken more than {at} s for each GiB",
            NO_PROGRESS: f"nothing has been gained for {at} s",
            ELAPSED: f"it has taken {at} s",
        }[self.when]

    @property
    def patient(self) -> bool:
        """Whether it may wait for a good moment: a limit in seconds that a person gave is kept to the second."""
        return self.do in (POSTCOPY, SUSPEND) and self.when in (STALLED_ITERATIONS, SECONDS_PER_GIB, NO_PROGRESS)


def _ramp(*points: Tuple[int, int]) -> Tuple[Step, ...]:
    return tuple(Step(STALLED_ITERATIONS, at, RAISE_DOWNTIME, percent=percent) for at, percent in points)


# Passes after which slowing the guest down has had its chance: QEMU does it in steps of two passes, and a guest that
# has idle time feels only the last ones.
THROTTLED = 40
NONE = "none"
POLICIES: Dict[str, Tuple[Step, ...]] = {
    NONE: (),
    # The guest is slowed down before it is stopped for longer, and the move given up rather than forced.
    "minimal_downtime": (
        Step(START, 0, AUTO_CONVERGE),
        *_ramp((4, 50), (6, 75), (8, 100)),
        Step(STALLED_ITERATIONS, THROTTLED, ABORT),
        Step(SECONDS_PER_GIB, 150, ABORT),
        Step(NO_PROGRESS, 150, ABORT),
    ),
    # It ends: by a longer stop, else by post-copy, else with the guest stopped.
    "must_complete": (
        *_ramp((1, 50), (2, 100)),
        Step(STALLED_ITERATIONS, 3, POSTCOPY),
        Step(STALLED_ITERATIONS, 6, SUSPEND),
        Step(SECONDS_PER_GIB, 100, POSTCOPY),
        Step(SECONDS_PER_GIB, 120, SUSPEND),
    ),
    # Neither stopped for longer than QEMU's own limit, nor handed over half.
    "never_pause": (
        Step(START, 0, AUTO_CONVERGE),
        Step(STALLED_ITERATIONS, THROTTLED, ABORT),
        Step(SECONDS_PER_GIB, 150, ABORT),
        Step(NO_PROGRESS, 150, ABORT),
    ),
}
# By name of the key of a step, whose keys an Ansible user writes.
STEP_OPTIONS: Dict[str, Dict[str, Any]] = {
    "when": {"type": "str", "required": True, "choices": list(WHENS)},
    "at": {"type": "float"},
    "do": {"type": "str", "required": True, "choices": list(DOS)},
    "downtime": {"type": "int"},
    "percent": {"type": "int"},
    "bandwidth": {"type": "int"},
}
_LIMITS = {"downtime": (1, MAX_DOWNTIME), "percent": (1, 100), "bandwidth": (1, MAX_BANDWIDTH)}
# The keys of which an action takes exactly one.
_PARAMETERS = {RAISE_DOWNTIME: ("downtime", "percent"), SET_BANDWIDTH: ("bandwidth",)}


def build(values: Mapping[str, Any]) -> Tuple[Step, ...]:
    """The steps that the options ask for; raises Refusal for what cannot be followed."""
    name, own = values["policy"], values.get("policy_steps")
    if own is None:
        if name not in POLICIES:
            raise Refusal(
                f"policy: {name!r} is not known",
                "bad_option",
                f"accepted: {', '.join(POLICIES)}, or a name of your own with policy_steps",
            )
        steps = POLICIES[name]
    else:
        if name in POLICIES and name != NONE:
            raise Refusal(
                f"policy: {name} and policy_steps exclude each other: the policy has steps of its own",
                "bad_combination",
                "leave one of them out, or give your steps a name of their own",
            )
        steps = tuple(_own_step(number, row) for number, row in enumerate(own, 1))
    return (*_arming(values), *_timeouts(values), *steps)


def _arming(values: Mapping[str, Any]) -> List[Step]:
    return [Step(ITERATION, 2, POSTCOPY)] if values.get("postcopy_after_precopy") else []


def _timeouts(values: Mapping[str, Any]) -> List[Step]:
    limits = [(ELAPSED, values.get("timeout")), (SECONDS_PER_GIB, values.get("timeout_per_gib"))]
    steps = [Step(when, at, values["timeout_action"]) for when, at in limits if at]
    if not steps and values["timeout_action"] != ABORT:
        raise Refusal(
            f"timeout_action: {values['timeout_action']} needs timeout: nothing says when",
            "bad_combination",
            "add timeout or timeout_per_gib, in seconds",
        )
    return steps


def _own_step(number: int, row: Mapping[str, Any]) -> Step:
    def wrong(said: str, cure: str) -> Refusal:
        return Refusal(f"policy_steps: step {number}: {said}", "bad_option", cure)

    given = {key: value for key, value in row.items() if value is not None}
    for key in given:
        if key not in STEP_OPTIONS:
            raise wrong(f"{key!r} is not known", f"accepted: {', '.join(STEP_OPTIONS)}")
    for key, known in (("when", WHENS), ("do", DOS)):
        if given.get(key) not in known:
            raise wrong(f"{key}: {given.get(key)!r} is not accepted", f"accepted: {', '.join(known)}")
    when, do = given["when"], given["do"]
    at = given.get("at", 0 if when == START else None)
    if not isinstance(at, (int, float)) or not (at == 0 if when == START else 1 <= at <= MAX_SECONDS):
        accepted = "nothing: it is the start" if when == START else f"a number from 1 to {MAX_SECONDS}"
        raise wrong(f"at: {given.get('at')!r} is not accepted with when: {when}", f"accepted: {accepted}")
    if (do == AUTO_CONVERGE) != (when == START and do not in _PARAMETERS):
        raise wrong(
            f"do: {do} and when: {when} do not go together",
            "libvirt takes auto_converge at the start only; stop, hand over and give up later than that",
        )
    return Step(when, at, do, **_parameters(do, given, wrong))


def _parameters(do: str, given: Mapping[str, Any], wrong: Callable[[str, str], Refusal]) -> Dict[str, int]:
    wanted = _PARAMETERS.get(do, ())
    found = {key: given[key] for key in _LIMITS if key in given}
    surplus = sorted(found.keys() - set(wanted))
    if surplus:
        raise wrong(f"{surplus[0]} means nothing for do: {do}", f"leave {surplus[0]} out")
    if wanted and len(found) != 1:
        raise wrong(f"do: {do} needs one of {' and '.join(wanted)}", f"add {' or '.join(wanted)}")
    for key, value in found.items():
        low, high = _LIMITS[key]
        if not isinstance(value, int) or not low <= value <= high:
            raise wrong(f"{key}: {value!r} is not accepted", f"accepted: a number from {low} to {high}")
    return found


def asks(steps: Sequence[Step], do: str) -> bool:
    return any(step.do == do for step in steps)


def without(steps: Sequence[Step], *dos: str) -> Tuple[Step, ...]:
    return tuple(step for step in steps if step.do not in dos)


@dataclass(frozen=True)
class Size:
    """Bytes that have to travel. Disks whose allocation is not known count by what the job says of them."""

    memory: int
    disk: int | None = 0

    def gib(self, sample: Sample) -> float:
        """Never less than one: what a move takes anyway must not make a tiny guest time out."""
        return max(1.0, (self.memory + (sample.disk_total if self.disk is None else self.disk)) / GIB)


@dataclass(frozen=True)
class Sample:
    """The job at one moment; rates are in bytes per second."""

    seconds: float
    iteration: int = 0
    memory_total: int = 0
    memory_processed: int = 0
    memory_remaining: int = 0
    disk_total: int = 0
    disk_processed: int = 0
    disk_remaining: int = 0
    rate: int = 0
    # The destination already asks for pages.
    postcopy: bool = False

    @classmethod
    def of(cls, stats: Mapping[str, Any], seconds: float) -> Sample:
        """A sample from libvirt's statistics of the running job."""
        return cls(
            seconds,
            int(stats.get("memory_iteration", 0)),
            int(stats.get("memory_total", 0)),
            int(stats.get("memory_processed", 0)),
            int(stats.get("memory_remaining", 0)),
            int(stats.get("disk_total", 0)),
            int(stats.get("disk_processed", 0)),
            int(stats.get("disk_remaining", 0)),
            int(stats.get("memory_bps", 0)),
            bool(stats.get("memory_postcopy_requests", 0)),
        )

    @property
    def processed(self) -> int:
        return self.memory_processed + self.disk_processed

    @property
    def left(self) -> int:
        return self.memory_remaining + self.disk_remaining


class Throughput:
    """Bytes per second, from what was really sent, smoothed; and when it last fell suddenly.

    QEMU's own rate stays where it was while the network hangs, so it counts only until there are two samples.
    """

    def __init__(self) -> None:
        self.smoothed = 0.0
        self.dropped_at: float | None = None
        self._last: Sample | None = None

    def take(self, sample: Sample) -> None:
        last = self._last
        if last is None:
            self._last = sample
            self.smoothed = float(sample.rate)
            return
        seconds = sample.seconds - last.seconds
        if seconds < SPAN:
            return
        self._last = sample
        # The counters begin anew when memory follows disks, or with another job.
        sent = max(0, sample.processed - last.processed)
        rate = sent / seconds
        # What is empty needs hardly any bytes.
        if last.left > 0 and max(sent, last.left - sample.left) < DROP * self.smoothed * seconds:
            self.dropped_at = sample.seconds
        self.smoothed = rate if not self.smoothed else ALPHA * rate + (1 - ALPHA) * self.smoothed

    def steady(self, seconds: float) -> bool:
        """Whether it has not fallen suddenly for a while."""
        return self.dropped_at is None or seconds - self.dropped_at >= COOLDOWN


@dataclass
class Passes:
    """Passes over the guest's memory. A pass begins with what has become dirty in the one before."""

    # Passes of this job. libvirt's number may include those of an earlier job that was cancelled.
    number: int = 0
    stalled: int = 0
    _reading: int | None = None
    _before: int = 0
    _highest: int = 0
    _smallest: int | None = None

    def take(self, sample: Sample) -> None:
        reading = sample.iteration
        if not sample.memory_total:
            # The disks come first.
            return
        if self._reading is None:
            self._before = max(0, reading - 1)
        elif reading < self._reading:
            # A count that falls has begun anew, and with it everything that was learned from it.
            self._before = self.stalled = self._highest = 0
            self._smallest = None
        elif reading > self._reading:
            self._judge(reading - self._reading)
            self._highest = 0
        self._reading = reading
        self.number = reading - self._before
        self._highest = max(self._highest, sample.memory_remaining)

    def _judge(self, passes: int) -> None:
        if self._smallest is None or self._highest < self._smallest * (1 - SHRUNK):
            self._smallest = self._highest
            self.stalled = 0
        else:
            self.stalled += passes


@dataclass
class Marks:
    """The lowest marks of what remains, of memory and of disks, and when one of them last moved."""

    moved_at: float | None = None
    _lowest: Dict[str, int] = field(default_factory=dict)
    _totals: Tuple[bool, bool] = (False, False)

    def take(self, sample: Sample) -> None:
        totals = (sample.memory_total > 0, sample.disk_total > 0)
        if totals != self._totals:
            # Memory follows when the disks are there.
            self._lowest.clear()
        self._totals = totals
        for name, left in (("memory", sample.memory_remaining), ("disk", sample.disk_remaining)):
            lowest = self._lowest.get(name)
            if lowest is None or left < lowest * (1 - MOVED):
                self._lowest[name] = left
                self.moved_at = sample.seconds

    def idle(self, seconds: float) -> float:
        return seconds - (seconds if self.moved_at is None else self.moved_at)


class Minimum:
    """The lowest that remained in the last seconds, as a moment to switch over."""

    def __init__(self) -> None:
        self._recent: List[Tuple[float, int]] = []

    def take(self, sample: Sample) -> None:
        self._recent = [(at, left) for at, left in self._recent if sample.seconds - at <= WINDOW]
        self._recent.append((sample.seconds, sample.left))

    def forget(self) -> None:
        del self._recent[:-1]

    def is_now(self, waited: float) -> bool:
        """Whether the last sample is about as low as the others; the longer it was waited for, the less it must be."""
        if waited >= PATIENCE:
            return True
        lefts = [left for _at, left in self._recent]
        low, high = min(lefts), max(lefts)
        return lefts[-1] <= low + (high - low) * (MARGIN + (1 - MARGIN) * (waited / PATIENCE) ** 2)


@dataclass(frozen=True)
class Action:
    """What is to be done now. `value` is in milliseconds for a downtime, in MiB per second for a bandwidth."""

    do: str
    value: int | None = None
    reason: str = ""
    # Its place in the schedule, None for one that comes from no step.
    step: int | None = None
    # The value that it replaces.
    before: int | None = None


# What ends the say of a policy, and the steps that count even then.
_LAST: Dict[str, Tuple[str, ...]] = {ABORT: (), POSTCOPY: (), SUSPEND: (ABORT,)}


class Convergence:
    """Follows one schedule through one job.

    `limit` is the downtime limit that the guest has, `ceiling` the highest that was permitted, if anything was said.
    """

    def __init__(
        self, schedule: Sequence[Step], size: Size, limit: int | None = None, ceiling: int | None = None
    ) -> None:
        self._steps = tuple(schedule)
        self._size = size
        self.limit = QEMU_DOWNTIME if limit is None else limit
        self._wanted = ceiling
        named = [step.downtime for step in self._steps if step.downtime is not None]
        self._ceiling = max(POLICY_DOWNTIME, self.limit, *named) if ceiling is None else ceiling
        self.throughput = Throughput()
        self.passes = Passes()
        self._marks = Marks()
        self._minimum = Minimum()
        self._seconds = 0.0
        # The action after which only few others are possible.
        self._last: str | None = None
        # By place in the schedule, as Action has it.
        self._done: Set[int | None] = set()
        self._due_since: Dict[int, float] = {}
        self._tries: Dict[int | None, int] = {}
        self._not_before: Dict[int | None, float] = {}

    @property
    def given_up(self) -> bool:
        return self._last == ABORT

    @property
    def handed_over(self) -> bool:
        """Whether the guest runs at the destination already: then nothing can be taken back."""
        return self._last == POSTCOPY

    @property
    def waiting(self) -> bool:
        """Whether a step only waits for its moment, so that one should look more often."""
        return bool(self._due_since)

    def begin(self) -> List[Action]:
        """The limit that was asked for, once; a policy that raises it begins where QEMU does, or lower."""
        wanted = self._wanted
        if wanted is None or wanted == self.limit or not self._may(None, SET_DOWNTIME):
            return []
        self._done.add(None)
        if wanted > self.limit and asks(self._steps, RAISE_DOWNTIME):
            return []
        return [self._limit_to(wanted, SET_DOWNTIME, "max_downtime", None)]

    def decide(self, sample: Sample) -> List[Action]:
        """What is to be done after this sample, in order."""
        self._seconds = sample.seconds
        self.throughput.take(sample)
        self.passes.take(sample)
        self._marks.take(sample)
        self._minimum.take(sample)
        if sample.postcopy:
            # The guest runs at the destination, whoever has sent it there.
            self._last = POSTCOPY
        actions = self.begin()
        for number, step in enumerate(self._steps):
            # One limit at a time, so that it is known which one is in force when libvirt refuses it.
            limited = step.do == RAISE_DOWNTIME and any(action.before is not None for action in actions)
            if not limited and self._is_ready(number, step, sample):
                actions.extend(self._act(number, step))
        return actions

    def refused(self, action: Action) -> None:
        """libvirt did not do it: the schedule goes on, and the step comes again a few times."""
        if action.do == self._last:
            self._last = None
        if action.do in (SET_DOWNTIME, RAISE_DOWNTIME) and action.before is not None:
            self.limit = action.before
        self._tries[action.step] = self._tries.get(action.step, 0) + 1
        if self._tries[action.step] < TRIES:
            self._done.discard(action.step)
            self._not_before[action.step] = self._seconds + AGAIN

    def _limit_to(self, value: int, do: str, reason: str, step: int | None) -> Action:
        before, self.limit = self.limit, value
        # A pass ends elsewhere from now on.
        self._minimum.forget()
        return Action(do, value, reason, step, before)

    def _is_ready(self, number: int, step: Step, sample: Sample) -> bool:
        if not self._may(number, step.do) or not self._is_due(step, sample):
            self._due_since.pop(number, None)
            return False
        waited = sample.seconds - self._due_since.setdefault(number, sample.seconds)
        if step.do == POSTCOPY and not (sample.memory_total and self.throughput.steady(sample.seconds)):
            return False
        if step.patient and not self._minimum.is_now(waited):
            return False
        del self._due_since[number]
        return True

    def _may(self, number: int | None, do: str) -> bool:
        over = self._last is not None and do not in _LAST[self._last]
        early = self._seconds < self._not_before.get(number, 0.0)
        return not (over or early or number in self._done)

    def _is_due(self, step: Step, sample: Sample) -> bool:
        if step.when == START:
            # Auto-converge is a flag of the job, and not to be done here.
            return step.do != AUTO_CONVERGE
        return self._reached(step.when, sample) >= step.at

    def _reached(self, when: str, sample: Sample) -> float:
        return {
            ITERATION: float(self.passes.number),
            STALLED_ITERATIONS: float(self.passes.stalled),
            SECONDS_PER_GIB: sample.seconds / self._size.gib(sample),
            NO_PROGRESS: self._marks.idle(sample.seconds),
            ELAPSED: sample.seconds,
        }[when]

    def upcoming(self, sample: Sample) -> str:
        """The step that is nearest, for a person; nothing where none is left."""
        left = [
            (self._reached(step.when, sample) / step.at, step)
            for number, step in enumerate(self._steps)
            if step.when != START and self._may(number, step.do)
        ]
        if not left:
            return ""
        near, step = max(left, key=lambda pair: pair[0])
        what = step.do.replace("_", " ")
        if near >= 1:
            return f"{what} at the next good moment"
        when = {
            ITERATION: f"with pass {step.at:g}",
            STALLED_ITERATIONS: f"when {step.at:g} passes in a row have stalled (now {self.passes.stalled})",
            SECONDS_PER_GIB: f"after {step.at * self._size.gib(sample):.0f} s",
            NO_PROGRESS: f"when nothing is gained for {step.at:g} s",
            ELAPSED: f"after {step.at:g} s",
        }[step.when]
        return f"{what} {when}"

    def _act(self, number: int, step: Step) -> List[Action]:
        self._done.add(number)
        if step.do != RAISE_DOWNTIME:
            if step.do in _LAST:
                self._last = step.do
            return [Action(step.do, step.bandwidth, step.reason, number)]
        share = self._ceiling * (step.percent or 100) // 100
        target = min(self._ceiling, share if step.downtime is None else step.downtime)
        return [self._limit_to(target, RAISE_DOWNTIME, step.reason, number)] if target > self.limit else []
