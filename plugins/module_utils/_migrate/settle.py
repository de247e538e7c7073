# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""After the job: where the guest is, and what the table of outcomes wants done about it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Callable, List, Tuple

from .._libvirt import JOB_COMPLETED, MIGRATION_OUT, Domain, Host, LibvirtFailure
from .._pure import domain_xml, outcome
from .._pure import status as statuses
from . import disks, moments
from .ledger import Ledger
from .place import names, refusal, state_of

# Seconds within which both sides must come to rest, or in post-copy more memory come over, and between two looks.
LIMIT = 30.0
STEP = 0.5
PATIENCE = 10.0


@dataclass
class End:
    """Where the guest ended up."""

    row: outcome.Row
    source_state: str
    dest_state: str
    done: List[str] = field(default_factory=list)
    warnings: List[str] = field(default_factory=list)
    # Whether a disk that could not be read or written had stopped it at the source.
    disk_error: bool = False


class Side:
    """One host after the job; a connection that broke is opened anew."""

    def __init__(self, host: Host, uuid: str, arriving: bool):
        self.host = host
        self._uuid = uuid
        self._arriving = arriving
        self.domain: Domain | None = None
        # Whether the connection is one that was there all the time.
        self.kept = True

    def state(self) -> str:
        """The guest's state there, `unknown` when the host does not tell."""
        for again in (False, True):
            if self.host.lost and not again:
                continue
            try:
                if again:
                    self._open_again()
                self.domain = self.host.find_uuid(self._uuid)
                return state_of(self.domain, self._arriving)
            except LibvirtFailure:
                continue
        return outcome.UNKNOWN

    def _open_again(self) -> None:
        self.kept = False
        self.host.close()
        self.host = Host.open(self.host.uri, PATIENCE, patience=PATIENCE)

    @property
    def in_postcopy(self) -> bool:
        """Whether the guest has gone from there, and its memory is still being fetched, at the last look."""
        return self.domain is not None and self.domain.reason == "postcopy"

    @property
    def has_disk_error(self) -> bool:
        """Whether the guest stands still there because a disk of it cannot be read or written, at the last look."""
        return self.domain is not None and self.domain.reason == "io_error"

    def left(self) -> int | None:
        """Bytes of memory that have still to come, where it is told."""
        try:
            return self.host.job_stats(self._uuid).get("memory_remaining")
        except LibvirtFailure:
            return None

    def busy(self) -> bool:
        """Whether a job goes on there; who does not tell may be busy."""
        try:
            return self.host.job_active(self._uuid)
        except LibvirtFailure:
            return True


class Settlement:
    """Looks at both sides until they are at rest, and does what the table says.

    `witnessed` says that the connection to the source is older than the job: its daemon still knows of it then. `tell`
    is told what is waited for.
    """

    def __init__(
        self,
        source: Host,
        dest: Host,
        ledger: Ledger,
        witnessed: bool = False,
        tell: Callable[[str], None] = lambda text: None,
    ):
        self.source = Side(source, ledger.uuid, arriving=False)
        self.dest = Side(dest, ledger.uuid, arriving=True)
        self._name = ledger.name
        self._uuid = ledger.uuid
        self._ledger = ledger
        self._witnessed = witnessed
        self._tell = tell
        # What was waited for at the last look, for a person.
        self._waits = ""
        self._done: List[str] = []
        self._warnings: List[str] = []
        self._given_back = True

    def settle(self) -> End:
        """Where the guest is, after everything that may safely be done about it."""
        source, dest, row = self._at_rest()
        # To let it run again is to try the disk again, and what stopped it is no longer told then.
        disk_error = self.source.has_disk_error
        if outcome.RESUME_SOURCE in row.actions and self._ledger.ran:
            if self._has_sent_all(dest):
                row = outcome.SENT
            elif not self._has_never_run_there(dest):
                row = outcome.UNPROVEN
        if row.outcome == outcome.FAILED:
            what = f"giving {moments.named(self._ledger.moments)} back to {self.source.host}"
            self._given_back = self._try(self._give_back, what)
        # One action can make the next one possible, and each is done once at most.
        for _turn in outcome.GUARDS:
            action = next((action for action in row.actions if self._wanted(action)), None)
            if action is None:
                break
            self._act(action)
            source, dest, row = self._look()
        return End(row, source, dest, self._done, self._warnings, disk_error or self.source.has_disk_error)

    def _look(self) -> Tuple[str, str, outcome.Row]:
        states = []
        for side in (self.source, self.dest):
            # A host that is silent takes its time for that.
            self._tell(self._waits or f"{side.host} has yet to answer")
            states.append(side.state())
        source, dest = states
        active = self._ledger.mode != "offline"
        return source, dest, outcome.judge(source, dest, not self._ledger.undefine_source, active)

    def _at_rest(self) -> Tuple[str, str, outcome.Row]:
        deadline = time.monotonic() + LIMIT
        left = None
        while True:
            source, dest, row = self._look()
            # In post-copy the two QEMUs need no daemon: they go on, and may come through, after the call has failed.
            fetching = source == outcome.PAUSED and self.source.in_postcopy
            moving = fetching or (row.outcome == outcome.FAILED and source in outcome.ACTIVE and self.source.busy())
            if fetching:
                before, left = left, self.source.left()
                deadline = deadline if left in (None, before) else time.monotonic() + LIMIT
            if not (row.wait or moving):
                return source, dest, row
            if time.monotonic() >= deadline:
                return source, dest, outcome.UNFINISHED if moving else row
            self._waits = self._waits_for(source, dest, moving, left)
            self._tell(self._waits)
            threading.Event().wait(STEP)

    def _waits_for(self, source: str, dest: str, moving: bool, left: int | None) -> str:
        silent = [
            str(side.host) for side, state in ((self.source, source), (self.dest, dest)) if state == outcome.UNKNOWN
        ]
        if silent:
            return f"{' and '.join(silent)} {'do' if len(silent) > 1 else 'does'} not answer"
        if moving:
            more = f", {statuses.size(left)} of memory left" if left else ""
            return f"the job on {self.source.host} goes on{more}"
        here, there = source.replace("_", " "), dest.replace("_", " ")
        return f"it is {here} on {self.source.host} and {there} on {self.dest.host}"

    def _wanted(self, action: str) -> bool:
        ledger = self._ledger
        wanted = {
            outcome.UNDEFINE_SOURCE: ledger.undefine_source,
            outcome.RESUME_SOURCE: ledger.ran,
            # Not while only that one knows the snapshots.
            outcome.REMOVE_DEST_DEFINITION: self._given_back
            and not ledger.defined_at_dest_before
            and not self._has_left(),
            outcome.REMOVE_DEST_IMAGES: bool(ledger.made) and not self._has_left(),
        }
        return wanted[action] and action not in self._done

    def _has_sent_all(self, dest: str) -> bool:
        """Whether the source's job has come to its end: its memory is old then, if the guest ran at the destination."""
        ledger = self._ledger
        if dest == outcome.SHUT_OFF and not (ledger.defined_at_dest_before or ledger.moments):
            # libvirt defines a guest there when it has arrived.
            return True
        try:
            stats = self.source.host.job_stats(self._uuid, completed=True)
        except LibvirtFailure:
            return False
        return (stats.get("type"), stats.get("operation")) == (JOB_COMPLETED, MIGRATION_OUT)

    def _has_never_run_there(self, dest: str) -> bool:
        """Whether that is proven, of a guest that the source does not know to have sent all of.

        libvirt defines a guest that shall stay before it lets it run. And a daemon that has seen all of the job knows
        when everything was sent; one that began anew meanwhile leaves a guest paused whose job was that far, without
        saying so.
        """
        defined_first = self._ledger.persistent and dest == outcome.ABSENT
        return defined_first or (self._witnessed and self.source.kept)

    def _has_left(self) -> bool:
        """Whether the source has let the guest go: it has run at the destination, and its last writes are there."""
        return self.source.domain is not None and self.source.domain.reason == "migrated"

    def _act(self, action: str) -> None:
        self._done.append(action)
        source, dest = self.source.state(), self.dest.state()
        if not outcome.permitted(action, source, dest):
            self._warnings.append(
                f"{action} was not done: {self._name} is now {source} on the source, {dest} on the destination"
            )
            return
        acts = {
            outcome.UNDEFINE_SOURCE: self._undefine_source,
            outcome.RESUME_SOURCE: lambda: self.source.host.resume(self._uuid),
            outcome.REMOVE_DEST_DEFINITION: lambda: self.dest.host.undefine(self._uuid),
            outcome.REMOVE_DEST_IMAGES: self._remove_images,
        }
        self._try(acts[action], action)

    def _try(self, act: Callable[[], None], what: str) -> bool:
        try:
            act()
        except LibvirtFailure as error:
            known_as = names(self._name, self.source.host, self.dest.host)
            self._warnings.append(refusal(error, f"{what} failed", known_as).message)
            return False
        return True

    def _give_back(self) -> None:
        moments.give_back(self._ledger, self.source.host, self.dest.host)

    def _undefine_source(self) -> None:
        # The definition must not be lost with the last host that has it.
        if self._ledger.persistent and self.dest.domain is not None and not self.dest.domain.persistent:
            definition = self.source.host.xml(self._uuid, inactive=True, secure=True)
            self.dest.host.define(domain_xml.renamed(definition, self.dest.domain.name))
        self.source.host.undefine(self._uuid)

    def _remove_images(self) -> None:
        self._warnings.extend(disks.remove_images(self.dest.host, self._uuid, self._ledger.made))
