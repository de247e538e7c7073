# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""The migration job: one thread waits for libvirt, this one watches through a second connection."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any, Callable, Dict, List, Mapping, Sequence

from .._libvirt import Host, LibvirtFailure
from .._pure import jobstats

FIRST_STEP = 0.2
LAST_STEP = 1.0
GROWTH = 1.2
# Seconds that a cancelled job gets to come back.
ABORT_PATIENCE = 30.0


class Job:
    """One call of libvirt's migration, watched until it returns."""

    def __init__(self, host: Host, uuid: str, open_watcher: Callable[[], Host]):
        self._host = host
        self._uuid = uuid
        self._open_watcher = open_watcher
        self._done = threading.Event()
        self._series = jobstats.Series()
        self.error: LibvirtFailure | None = None
        self.last: Dict[str, Any] = {}

    @property
    def series(self) -> List[Dict[str, Any]]:
        return self._series.points

    def run(self, dest_uri: str, params: Mapping[str, Any], flags: Sequence[str]) -> None:
        """Migrate; what libvirt said about it is in `error`, and proves nothing about where the guest is."""
        worker = threading.Thread(target=self._migrate, args=(dest_uri, params, flags), daemon=True)
        worker.start()
        try:
            self._watch()
        except BaseException:
            # Nobody would see how it ends: do not let the guest go on behind the back of whoever stopped us.
            with suppress(LibvirtFailure):
                self._host.abort_job(self._uuid)
            self._done.wait(ABORT_PATIENCE)
            raise

    def _migrate(self, dest_uri: str, params: Mapping[str, Any], flags: Sequence[str]) -> None:
        try:
            self._host.migrate(self._uuid, dest_uri, params, flags)
        except LibvirtFailure as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 - the states on both hosts must be looked at all the same
            self.error = LibvirtFailure(f"the bindings failed: {error}")
        finally:
            self._done.set()

    def _watch(self) -> None:
        began = time.monotonic()
        watcher: Host | None = None
        with suppress(LibvirtFailure):
            watcher = self._open_watcher()
        step = FIRST_STEP
        while not self._done.wait(step):
            if watcher is not None:
                # Statistics are for the eye: without them the job goes on all the same.
                with suppress(LibvirtFailure):
                    self._take(watcher.job_stats(self._uuid), time.monotonic() - began)
            step = min(step * GROWTH, LAST_STEP)
        if watcher is not None:
            watcher.close()

    def _take(self, stats: Dict[str, Any], seconds: float) -> None:
        if stats.get("type"):
            self.last = stats
            self._series.add(jobstats.sample(stats, seconds))
