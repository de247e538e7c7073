# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""The process that owns a run: one per VM and host, which others can watch, ask to end, and find dead.

A run lives in a folder of its own on volatile storage: `told.json` is what it was asked for, `status.json` how far it
is, `lease` is touched by a controller that watches, `cancel` asks it to end, `result.json` is its answer, whoever holds
a lock on `lock` is alive, and who shares one on `waiting` wants the answer too. A process that is killed loses its
locks; what it was about is in the journal, see `local.py`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import time
import traceback
from contextlib import suppress
from typing import Any, Callable, Dict, List, Mapping, Tuple
from urllib.parse import quote

from .._pure import status as statuses
from .._pure.status import RUN_DIRECTORY
from . import jsonfile

# Seconds after which a controller that renews no lease counts as gone.
LEASE = 30.0
# Seconds that the folder of a run which has ended waits for a controller that fetches its answer.
KEPT = 600.0
HOLD_STEP = 0.05
# Steps that are kept of a run: there are ten of them, and some come again for each file.
KEPT_STEPS = 40
# What a person and a lost controller want of a run.
CANCELLED = "cancelled"
CONTROLLER_LOST = "controller_lost"
CANCEL = "cancel"
TOLD = "told.json"
WAITING = "waiting"
# Seconds between taking hold of a VM and saying what for.
JUST_BEGUN = 2.0


class Held(Exception):
    """Another run has this VM; `status` is how far that one is."""

    def __init__(self, status: Mapping[str, Any]):
        super().__init__(f"run {status.get('run')} has it")
        self.status = status


class Worker:
    """The run of this process as others see it. Where this user may not write there, nobody sees it."""

    def __init__(
        self, run_id: str, name: str, on_controller_loss: str = "", told: Mapping[str, Any] | None = None
    ) -> None:
        self._folder = os.path.join(RUN_DIRECTORY, run_id)
        self._name = name
        # Empty where no controller watches.
        self._on_controller_loss = on_controller_loss
        # What the run was told, for whoever wants to join it.
        self.told = told or {}
        self._locks: List[int] = []
        self._began = self._renewed = time.monotonic()
        self._lease = 0
        # When each step began, in seconds since the run did.
        self.steps: List[Dict[str, Any]] = [{"t": 0.0, "step": statuses.CHECKING}]
        self._status: Dict[str, Any] = {
            "run": run_id,
            "pid": os.getpid(),
            "name": name,
            "phase": statuses.CHECKING,
            "began": int(time.time()),
            "actions": [],
        }

    def take(self) -> Worker:
        """Take hold of the VM; raises Held where another run has it."""
        try:
            _make(RUN_DIRECTORY)
        except OSError:
            return self
        prune()
        handle = self._hold()
        os.ftruncate(handle, 0)
        os.write(handle, self._status["run"].encode())
        _make(self._folder)
        own = os.open(os.path.join(self._folder, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
        _lock(own)
        self._locks = [handle, own]
        jsonfile.store(os.path.join(self._folder, TOLD), self.told, lasting=False)
        if self._on_controller_loss:
            with open(os.path.join(self._folder, "lease"), "w", encoding="ascii"):
                pass
        self.say()
        return self

    def _hold(self) -> int:
        """The lock of the VM, which names its run. Who lets go of it removes the file: then another one counts."""
        while True:
            handle = os.open(self._vm, os.O_RDWR | os.O_CREAT, 0o600)
            if not _lock(handle):
                run = os.read(handle, 200).decode()
                os.close(handle)
                status = jsonfile.load(os.path.join(RUN_DIRECTORY, run, "status.json"))
                raise Held(status or {"run": run, "name": self._name})
            with suppress(OSError):
                if os.path.samestat(os.fstat(handle), os.stat(self._vm)):
                    return handle
            os.close(handle)

    @property
    def _vm(self) -> str:
        return os.path.join(_make(os.path.join(RUN_DIRECTORY, "vm")), quote(self._name, safe="")[:200])

    @property
    def seen(self) -> bool:
        return bool(self._locks)

    @property
    def run_id(self) -> str:
        return str(self._status["run"])

    def detach(self, work: Callable[[], Dict[str, Any]]) -> bool:
        """Let a process of its own do the work, which outlives this one; false where nobody could fetch its answer.

        All that the work needs is loaded before: the archive that a module runs from goes away with this process.
        """
        if not self.seen:
            return False
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            self._forget_locks()
            return True
        try:
            os.setsid()
            if os.fork() == 0:
                self._become_daemon()
                self.answer(work())
                os.unlink(self._vm)
        except BaseException:  # noqa: BLE001 - there is nobody but the log to tell it to
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(0)

    def _become_daemon(self) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with open(os.devnull, "r+b", buffering=0) as null:
            for stream in (0, 1):
                os.dup2(null.fileno(), stream)
        log = os.open(os.path.join(self._folder, "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 2)
        self._status["pid"] = os.getpid()
        self.say()

    def answer(self, result: Mapping[str, Any]) -> None:
        """Leave the answer for the controller that watches."""
        jsonfile.store(os.path.join(self._folder, "result.json"), result, lasting=False)

    def leave(self) -> None:
        """Nobody needs the folder any more."""
        if self.seen:
            shutil.rmtree(self._folder, ignore_errors=True)
            with suppress(OSError):
                os.unlink(self._vm)
            self._forget_locks()

    def _forget_locks(self) -> None:
        while self._locks:
            os.close(self._locks.pop())

    # What others see

    def say(self, **facts: Any) -> None:
        """Make facts of the run known."""
        self._status.update(facts)
        if self.seen:
            with suppress(OSError):
                told = _as_told(self._folder, {**self._status, "controller": self._controller()})
                jsonfile.store(os.path.join(self._folder, "status.json"), told, lasting=False)

    def phase(self, name: str) -> None:
        """A step of the run begins. A file hold/PHASE keeps it waiting there, so that tests can kill what they like."""
        if name != self.steps[-1]["step"] and len(self.steps) < KEPT_STEPS:
            self.steps.append({"t": round(time.monotonic() - self._began, 3), "step": name})
        self.say(phase=name, waits="")
        hold = os.path.join(RUN_DIRECTORY, "hold", name)
        if not (self.seen and os.path.exists(hold)):
            return
        self.say(held=hold)
        while os.path.exists(hold):
            time.sleep(HOLD_STEP)
        self.say(held="")

    def acted(self, action: Mapping[str, Any]) -> None:
        self.say(actions=[*self._status["actions"], dict(action)])

    # What others want

    def wish(self) -> Tuple[str, str] | None:
        """Why the run should end, as failure class and reason; None where nobody wants that."""
        if self.seen and os.path.exists(os.path.join(self._folder, CANCEL)):
            return CANCELLED, "its end was asked for"
        if self._on_controller_loss == CANCEL and self._controller() == "lost":
            return CONTROLLER_LOST, f"no controller has watched it for {LEASE:g} s"
        return None

    def _controller(self) -> str:
        """watching, lost, or none where no controller was to watch."""
        if not self._on_controller_loss:
            return "none"
        with suppress(OSError):
            lease = os.stat(os.path.join(self._folder, "lease")).st_mtime_ns
            if lease != self._lease:
                self._lease, self._renewed = lease, time.monotonic()
        return "lost" if time.monotonic() - self._renewed > LEASE else "watching"


# Of all runs on this host


def live() -> List[Dict[str, Any]]:
    """The statuses of the runs that go on here."""
    return [_as_told(folder, status) for folder, status in _folders() if status and _alive(folder)]


def _as_told(folder: str, status: Mapping[str, Any]) -> Dict[str, Any]:
    """With what was asked of it meanwhile, and the line for a person."""
    status = {**status, "ending": os.path.exists(os.path.join(folder, CANCEL))}
    return {**status, "line": statuses.line(status)}


def status_of(run_id: str) -> Dict[str, Any]:
    """How far a run is that goes on here; empty where none does."""
    return next((status for status in live() if status["run"] == run_id), {})


def goes_on(run_id: str) -> bool:
    """Whether a process is at that run."""
    return _alive(os.path.join(RUN_DIRECTORY, run_id))


def ask_to_end(run_id: str) -> bool:
    """Ask a run that goes on here to end; false where it is not there."""
    if not goes_on(run_id):
        return False
    with open(os.path.join(RUN_DIRECTORY, run_id, CANCEL), "w", encoding="ascii"):
        pass
    return True


def forget(run_id: str) -> None:
    """Remove the folder of a run that was killed and has been settled since."""
    folder = os.path.join(RUN_DIRECTORY, run_id)
    if run_id and not _alive(folder):
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(run_id: str, seconds: float, end: bool = False) -> Dict[str, Any] | None:
    """The answer of a run, asked to `end` or not; None where it gave none in that time."""
    folder = os.path.join(RUN_DIRECTORY, run_id)
    try:
        waiting = os.open(os.path.join(folder, WAITING), os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:
        return None
    try:
        # Whoever has begun the run removes its folder as soon as it has the answer, but not before this lock is free.
        fcntl.flock(waiting, fcntl.LOCK_SH)
        if end:
            ask_to_end(run_id)
        deadline = time.monotonic() + seconds
        while _alive(folder) and time.monotonic() < deadline:
            time.sleep(0.2)
        return jsonfile.load(os.path.join(folder, "result.json"))
    finally:
        os.close(waiting)


def told(run_id: str) -> Dict[str, Any] | None:
    """What a run was told, None where it does not say so even a moment after its beginning."""
    deadline = time.monotonic() + JUST_BEGUN
    while True:
        found = jsonfile.load(os.path.join(RUN_DIRECTORY, run_id, TOLD))
        if found is not None or time.monotonic() >= deadline:
            return found
        time.sleep(HOLD_STEP)


def prune() -> None:
    """Remove the folders of runs that ended a while ago: whoever wanted their answers has them."""
    for folder, _status in _folders():
        with suppress(OSError):
            if time.time() - os.stat(folder).st_mtime > KEPT and not _alive(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _folders() -> List[Tuple[str, Dict[str, Any] | None]]:
    try:
        names = sorted(os.listdir(RUN_DIRECTORY))
    except OSError:
        return []
    folders = [os.path.join(RUN_DIRECTORY, name) for name in names]
    return [
        (folder, jsonfile.load(os.path.join(folder, "status.json")))
        for folder in folders
        if os.path.exists(os.path.join(folder, "lock"))
    ]


def _alive(folder: str) -> bool:
    """Whether a process holds the run's lock."""
    try:
        handle = os.open(os.path.join(folder, "lock"), os.O_RDWR)
    except OSError:
        return False
    try:
        return not _lock(handle)
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _make(directory: str) -> str:
    os.makedirs(directory, mode=0o700, exist_ok=True)
    return directory
