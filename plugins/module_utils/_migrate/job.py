# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""The migration job: one thread waits for libvirt, this one watches through a second connection."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

from .._libvirt import OPERATION_INVALID, Host, LibvirtFailure, NotFound
from .._pure import jobstats, schedule
from .._pure import status as statuses
from .._pure.progress import Progress
from .._pure.schedule import Action, Convergence, Sample, Size, Step
from .limits import Limits
from .worker import Worker

FIRST_STEP = 0.2
LAST_STEP = 1.0
GROWTH = 1.2
# Seconds that a cancelled job gets to come back.
ABORT_PATIENCE = 30.0
# Seconds that libvirt gets to return from a post-copy that has failed.
TORN_PATIENCE = 30.0
# Seconds that a resumed post-copy gets to begin.
RESUME_PATIENCE = 120.0
# Failing calls for statistics in a row after which nobody watches over the job any more.
TOLERATED = 5
# Seconds without statistics after which a person hears of that.
QUIET = 5.0
now = time.monotonic


@dataclass(frozen=True)
class Watch:
    """How a job is watched over; without `statistics`, as a move of a definition has none, nothing is done at all."""

    statistics: bool = True
    steps: Tuple[Step, ...] = ()
    size: Size = field(default_factory=lambda: Size(0))
    # The highest downtime limit that is permitted, in milliseconds.
    max_downtime: int | None = None
    # Whether it can be taken back: a post-copy that is resumed cannot.
    can_abort: bool = True


class Job:
    """One job of libvirt's migration, watched over until it is over.

    `note_suspended` is called before the guest is stopped for the end of the job: whoever finds it stopped must know.
    """

    def __init__(
        self,
        host: Host,
        uuid: str,
        open_watcher: Callable[[], Host],
        watch: Watch,
        limits: Limits,
        worker: Worker,
        note_suspended: Callable[[], None],
    ):
        self._host = host
        self._uuid = uuid
        self._open_watcher = open_watcher
        self._watch_over = watch
        self._limits = limits
        self._worker = worker
        self._note_suspended = note_suspended
        self._watcher: Host | None = None
        self._done = threading.Event()
        # The job is over, or another pass has begun: time to look.
        self._wake = threading.Event()
        self._series = jobstats.Series()
        # And when the last statistics have come.
        self._began = self._taken_at = now()
        self._missed = 0
        self._obeyed: float | None = None
        # Since when the source has known that post-copy has failed; one that is resumed begins with that.
        self._torn_at: float | None = None
        self._has_begun = watch.can_abort
        # Since when the job should be over, because it was ended from here.
        self._ended_at: float | None = None
        self._convergence = Convergence(watch.steps, watch.size, limits.downtime, watch.max_downtime)
        self._progress = Progress(watch.size)
        self.error: LibvirtFailure | None = None
        self.last: Dict[str, Any] = {}
        self.actions: List[Dict[str, Any]] = []
        # Whether this process has begun it.
        self.begun_here = False
        # Whether the guest was stopped so that the job can end.
        self.suspended = False
        # Failure class and reason, where the job was ended from here.
        self.given_up: Tuple[str, str] | None = None

    @property
    def series(self) -> List[Dict[str, Any]]:
        return self._series.points

    @property
    def downtime_limit(self) -> int | None:
        """Milliseconds, as of the end of the job."""
        return None if self._limits.downtime is None else self._convergence.limit

    def progress(self, finished: bool) -> Dict[str, int]:
        """Percentages at the end of the job."""
        if finished:
            self._progress.finish()
        return self._progress.now()

    def elapsed(self) -> float:
        return now() - self._began

    def run(self, dest_uri: str, params: Mapping[str, Any], flags: Sequence[str]) -> None:
        """Migrate; what libvirt said about it is in `error`, and proves nothing about where the guest is."""
        self.begun_here = True
        self._began = self._taken_at = now()
        # Before the first byte: a job can be over before anybody has looked.
        for action in self._convergence.begin() if self._watch_over.statistics else ():
            self._do(action, "not_converged")
        threading.Thread(target=self._migrate, args=(dest_uri, params, flags), daemon=True).start()
        try:
            self._watch(self._is_done)
        except BaseException:
            # Nobody would see how it ends: do not let the guest go on behind the back of whoever stopped us.
            with suppress(LibvirtFailure):
                self._host.abort_job(self._uuid)
            if self._done.wait(ABORT_PATIENCE):
                self.restore(self._host)
            raise

    def attach(self) -> None:
        """Watch over a job that another process has begun, which was killed since."""
        self._began = self._taken_at = now()
        self._watch(self._is_over)

    def _is_over(self, seconds: float) -> bool:
        if self._is_done(seconds):
            return True
        try:
            if not self._open().job_active(self._uuid):
                self._done.set()
        except NotFound:
            self._done.set()
        except LibvirtFailure as error:
            self._miss(error)
            # Whoever cannot be asked is looked at once more when both sides are settled.
            if self._missed > TOLERATED:
                self._done.set()
        return self._done.is_set()

    def _is_done(self, seconds: float) -> bool:
        self._wake.wait(seconds)
        self._wake.clear()
        return self._done.is_set()

    def _open(self) -> Host:
        """The connection that watches; it hears of each pass over the guest's memory."""
        if self._watcher is None:
            self._watcher = self._open_watcher()
            self._watcher.on_iteration(self._uuid, self._wake.set)
        return self._watcher

    def restore(self, host: Host) -> List[str]:
        """Give a guest that stays on the source its limits of before back; returns what went wrong."""
        return self._limits.restore(host)

    def _migrate(self, dest_uri: str, params: Mapping[str, Any], flags: Sequence[str]) -> None:
        try:
            self._host.migrate(self._uuid, dest_uri, params, flags)
        except LibvirtFailure as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 - the states on both hosts must be looked at all the same
            self.error = LibvirtFailure(f"the bindings failed: {error}")
        finally:
            self._done.set()
            self._wake.set()

    def _watch(self, is_over: Callable[[float], bool]) -> None:
        step = FIRST_STEP
        try:
            if self._watch_over.statistics:
                with suppress(LibvirtFailure):
                    self._open()
            while not is_over(step):
                if self._watch_over.statistics:
                    self._look()
                    self._look_at_postcopy()
                self._obey()
                self._look_at_abort()
                self._say_waiting()
                step = FIRST_STEP if self._convergence.waiting else min(step * GROWTH, LAST_STEP)
        finally:
            self._leave()

    def _leave(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.close()

    def _look(self) -> None:
        try:
            stats = self._open().job_stats(self._uuid)
        except LibvirtFailure as error:
            self._miss(error)
            return
        self._missed = 0
        self._take(stats, self.elapsed())

    def _look_at_postcopy(self) -> None:
        """When it has failed, libvirt still waits for the destination: for good, where that does not know of it."""
        if self._may_abort():
            return
        with suppress(LibvirtFailure):
            domain = self._open().find_uuid(self._uuid)
            if domain is None or domain.reason != "postcopy_failed":
                self._torn_at, self._has_begun = None, True
            elif self._torn_at is None:
                self._torn_at = now()
            elif now() - self._torn_at >= (TORN_PATIENCE if self._has_begun else RESUME_PATIENCE):
                self._wait_no_longer("post-copy has failed, and the destination does not come back from it")

    def _look_at_abort(self) -> None:
        """libvirt waits for the destination's daemon even then: for good, where keepalive is off and the link dead."""
        if self._ended_at is not None and now() - self._ended_at >= ABORT_PATIENCE:
            self._wait_no_longer("the job was ended, and the destination's libvirtd has not answered since")

    def _say_waiting(self) -> None:
        """Tell of what is waited for where no statistics do."""
        silent = now() - self._taken_at
        if self._torn_at is not None:
            waits = "post-copy has failed, libvirt is to come back from it"
        elif self._ended_at is not None:
            waits = "the job was ended, libvirt is to come back from it"
        elif silent >= QUIET and self._watch_over.statistics:
            waits = f"libvirt has told nothing of the job for {silent:.0f} s"
        else:
            return
        self._worker.say(waits=waits, elapsed=self.elapsed())

    def _wait_no_longer(self, reason: str) -> None:
        if not self._done.is_set():
            self.error = LibvirtFailure(reason)
            self._done.set()
            self._wake.set()

    def _miss(self, error: LibvirtFailure) -> None:
        if isinstance(error, NotFound) or error.code == OPERATION_INVALID:
            # The guest has left, and the job is about to return.
            return
        self._missed += 1
        # Perhaps it is only the connection.
        self._leave()
        if self._missed % (TOLERATED + 1) == 0 and self.given_up is None and self._may_abort():
            reason = f"{self._missed} calls for statistics in a row have failed: {error}"
            self._do(Action(schedule.ABORT, reason=reason), "no_statistics")

    def _obey(self) -> None:
        """Somebody wants the job to end: it does, where it can be taken back, and its actions say so where not."""
        wish = self._worker.wish()
        if wish is None or self.given_up is not None:
            return
        if self._obeyed is not None and now() - self._obeyed < schedule.AGAIN:
            return
        first, self._obeyed = self._obeyed is None, now()
        failure_class, reason = wish
        if self._may_abort():
            self._do(Action(schedule.ABORT, reason=reason), failure_class)
        elif first:
            self._note(Action(schedule.ABORT, reason=reason), "the guest runs at the destination already")

    def _may_abort(self) -> bool:
        return self._watch_over.can_abort and not self._convergence.handed_over

    def _take(self, stats: Dict[str, Any], seconds: float) -> None:
        if not stats.get("type"):
            return
        self.last = stats
        sample = Sample.of(stats, seconds)
        actions = self._convergence.decide(sample)
        point = jobstats.sample(stats, seconds)
        point.update(throughput=int(self._convergence.throughput.smoothed), **_percentages(self._progress.take(sample)))
        self._series.add(point)
        self._taken_at = now()
        self._worker.say(**statuses.progress(point, stats, self._progress.disk, self._convergence.upcoming(sample)))
        for action in actions if self.given_up is None else ():
            self._do(action, "not_converged")

    def _do(self, action: Action, failure_class: str) -> None:
        try:
            self._apply(action)
        except LibvirtFailure as error:
            self._convergence.refused(action)
            self._note(action, str(error))
        else:
            if action.do == schedule.ABORT:
                self.given_up = (failure_class, action.reason)
                self._ended_at = now()
            self._note(action)

    def _note(self, action: Action, error: str = "") -> None:
        entry = {
            "t": round(self.elapsed(), 3),
            "action": action.do,
            "value": action.value,
            "reason": action.reason,
            **({"error": error} if error else {}),
        }
        self.actions.append(entry)
        self._worker.acted(entry)

    def _apply(self, action: Action) -> None:
        # Only ending the job is worth a try on the connection that waits for its end.
        host = self._watcher or self._host
        value = action.value or 0
        if action.do == schedule.ABORT:
            host.abort_job(self._uuid)
        elif action.do == schedule.POSTCOPY:
            host.start_postcopy(self._uuid)
        elif action.do == schedule.SUSPEND:
            self._note_suspended()
            host.suspend(self._uuid)
            self.suspended = True
        elif action.do == schedule.SET_BANDWIDTH:
            host.set_limit(self._uuid, "bandwidth", value)
        else:
            host.set_limit(self._uuid, "downtime", value)


def _percentages(progress: Mapping[str, int]) -> Dict[str, int]:
    return {name if name == "percent" else f"{name}_percent": value for name, value in progress.items()}
