# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""A run as the controller sees it: begun on the source host, watched there, fetched when it is over.

The run belongs to a process on that host. Each look renews its lease, so that the process knows of a controller that is
gone; a controller that is interrupted runs no clean-up of its own.
"""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure, AnsibleError

from ansible_collections.kvmops.migration.plugins.module_utils._pure import outcome
from ansible_collections.kvmops.migration.plugins.module_utils._pure.status import (
    RUN_DIRECTORY,
    RUNS,
    STATE_DIRECTORY,
    Teller,
)

MODULE = "kvmops.migration.virt_migrate"
# Seconds between two lines of progress, and between two looks: soon at first, because most moves are short.
TELL_EVERY = 8.0
FIRST_LOOK = 0.25
LAST_LOOK = 1.0
GROWTH = 1.2
# A host that answers slowly has work to do: a look is worth so many times what it takes, and no more seconds than that.
WORTH = 4.0
LONGEST = 5.0
# Seconds between two thoughts of whether it is time to look.
TICK = 0.05
# Seconds that a host may be out of sight before the run is left to itself.
SIGHT = 60.0
LOG_LINES = 20
# What ends a run, by whether the loss of its controller does: said once, when the first line tells that it takes long.
ENDS = {
    False: "Ctrl-C stops only the watching of it; cancel.yml ends it",
    True: "Ctrl-C ends it, and so does cancel.yml",
}

# `alive` and the status, `done` and the answer, `dead` and what it said last, or `gone`. Only who gets hold of the lock
# knows that its process has ended, and the answer may have come just before.
LOOK = """d={folder}; touch -c "$d/lease" 2>/dev/null
answer() {{ [ -s "$d/result.json" ] && echo done && cat "$d/result.json" && exit; }}
answer; [ -e "$d/lock" ] || {{ echo gone; exit; }}
flock -n "$d/lock" true; [ $? = 0 ] || {{ echo alive; cat "$d/status.json"; exit; }}
answer; echo dead; tail -n {lines} "$d/log"
"""
# Beside the record of a run: what was measured from outside, which only the controller knows.
KEEP = """d={folder}; umask 077
[ ! -e "$d"/{run}.json ] || {{ printf %s {found} >"$d"/{run}.new && mv "$d"/{run}.new "$d"/{run}.outage; }}
"""
# Others may wait for the answer too, cancel.yml for one: they see within a moment that it is there.
REMOVE = """d={folder}; [ ! -d "$d" ] || flock -w 10 "$d/waiting" rm -rf "$d"
"""


class Vigil:
    """Waits between two looks, for as long as Ansible itself is there.

    Ansible's forks are sessions of their own: when its main process is killed, they go on, and would renew the lease of
    a run that nobody sees.
    """

    def __init__(self) -> None:
        self._parent = os.getppid()

    def wait(self) -> None:
        time.sleep(TICK)
        if os.getppid() != self._parent:
            raise AnsibleActionFail("Ansible's main process is gone: the run goes on without a controller")


class Run:
    """One run, from its beginning to its answer in `result`."""

    def __init__(self, site: Any, args: Mapping[str, Any], tell: Callable[[str], None] | None, module: str = MODULE):
        self._site = site
        self._module = module
        self._args = dict(args)
        self._tell = tell
        self._teller = Teller(TELL_EVERY)
        self._run = ""
        self._adopted = False
        self._warned = False
        self._warnings: list[Any] = []
        self._step = FIRST_LOOK
        self._next = 0.0
        self._seen = time.monotonic()
        self._out_of_sight = False
        self.name = str(args.get("name"))
        self.result: dict[str, Any] | None = None

    def start(self) -> None:
        """Begin it, or join the one that goes on."""
        said = self._site.execute(self._module, {**self._args, "_watch": True})
        if not said.get("watching"):
            self.result = said
            return
        self._run, self._adopted = said["run"], bool(said.get("adopted"))
        self._warnings = list(said.get("warnings") or [])
        self._seen = time.monotonic()
        self._next = self._seen + self._step
        if self._adopted and self._tell:
            self._tell(f"{self.name}: run {self._run} is at it already; watching that one")

    def look(self) -> None:
        """See how far it is, if it is time for that."""
        if self.result is not None or time.monotonic() < self._next:
            return
        began = time.monotonic()
        try:
            word, _line, rest = self._site.shell(self._script()).lstrip().partition("\n")
        except AnsibleConnectionFailure as error:
            self._lose_sight(str(error))
            return
        self._step = min(LAST_LOOK, self._step * GROWTH)
        now = time.monotonic()
        self._next = now + max(self._step, min(WORTH * (now - began), LONGEST))
        if word.strip() == "done":
            self._take(_parsed(rest))
        elif word.strip() == "alive":
            self._see(_parsed(rest))
        elif word.strip() == "gone" and self._adopted:
            # Whoever began it has fetched its answer.
            self.start()
        elif word.strip() in ("dead", "gone"):
            self.result = self._failure(f"its process on {self._site.host} was killed", rest)
        else:
            self._lose_sight(word)

    @property
    def _folder(self) -> str:
        return shlex.quote(f"{RUN_DIRECTORY}/{self._run}")

    def _script(self) -> str:
        return LOOK.format(folder=self._folder, lines=LOG_LINES)

    def _take(self, answer: dict[str, Any]) -> None:
        """Keep the answer; only when it is here, and by whoever has begun the run, its folder goes away."""
        if not answer:
            self._lose_sight("half an answer")
            return
        if self._adopted:
            answer = {**answer, "adopted": self._run}
        if self._warnings:
            answer["warnings"] = [*self._warnings, *answer.get("warnings", [])]
        self.result = answer
        if not self._adopted:
            with suppress(AnsibleError):
                self._site.shell(REMOVE.format(folder=self._folder))

    def _see(self, status: dict[str, Any]) -> None:
        self._seen, self._out_of_sight = time.monotonic(), False
        if self._tell and status:
            for line in self._teller.lines(status, self._seen):
                self._tell(line)
                if not self._warned:
                    self._warned = True
                    self._tell(f"{self.name}: {ENDS[self._args.get('on_controller_loss') == 'cancel']}")

    def _lose_sight(self, reason: str) -> None:
        now = time.monotonic()
        if now - self._seen > SIGHT:
            self.result = self._failure(f"{self._site.host} cannot be reached", reason)
            return
        if not self._out_of_sight and self._tell:
            self._tell(f"{self.name}: {self._site.host} is out of sight, the run goes on there")
        self._out_of_sight = True
        self._next = now + LAST_LOOK
        try:
            self._site.reset()
        except AnsibleError:
            return

    def _failure(self, said: str, more: str) -> dict[str, Any]:
        reason = " ".join(more.split()[-40:])
        cure = "run again, which joins it or settles what it has left"
        return {
            "failed": True,
            "changed": True,
            "name": self.name,
            "run": self._run,
            "outcome": outcome.UNDETERMINED,
            "failure_class": "out_of_sight",
            "cure": cure,
            "msg": f"run {self._run} of {self.name}: {said}{': ' + reason if reason else ''}; cure: {cure}",
        }


def _parsed(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def keep_outage(site: Any, run_id: str, found: Mapping[str, Any]) -> None:
    """Let the record of a run have what a probe has found, where that run has left a record."""
    folder = shlex.quote(f"{STATE_DIRECTORY}/{RUNS}")
    with suppress(AnsibleError):
        site.shell(KEEP.format(folder=folder, run=shlex.quote(run_id), found=shlex.quote(json.dumps(found))))


def log_tail(site: Any, name: str) -> list[str]:
    """The end of the log that QEMU keeps of a VM on that host."""
    path = shlex.quote(f"/var/log/libvirt/qemu/{name}.log")
    try:
        return str(site.shell(f"tail -n {LOG_LINES} {path} 2>/dev/null")).splitlines()
    except AnsibleError:
        return []
