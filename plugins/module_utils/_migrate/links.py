# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""Connections, and what was looked at through them: of one run, or of several moves that are only judged."""

from __future__ import annotations

from typing import Dict, List

from .._domblk.carry import Ahead
from .._libvirt import Host
from .._pure.refusal import Refusal
from . import place as places
from .probe import Storage


class Links:
    """Used as a context: at its end all is closed."""

    def __init__(self) -> None:
        # All that are open; who opens one by itself adds it.
        self.hosts: List[Host] = []
        self.ahead = Ahead()
        self._known: Dict[str, Host] = {}
        self._refused: Dict[str, Refusal] = {}
        self._storages: Dict[str, Storage] = {}

    def __enter__(self) -> Links:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.ahead.close()
        for host in self.hosts:
            host.close()

    def connect(self, uri: str, timeout: float, option: str) -> Host:
        """The host behind the URI, which is asked once; `option` is the one that named it."""
        said = self._refused.get(uri)
        if said is not None:
            # A host that is silent would take its time for every move that is judged.
            raise Refusal(said.problem, said.failure_class, said.cure, said.role)
        if uri not in self._known:
            try:
                self._known[uri] = places.connect(uri, timeout, option)
            except Refusal as refusal:
                self._refused[uri] = refusal
                raise
            self.hosts.append(self._known[uri])
        return self._known[uri]

    def storage(self, host: Host, run_id: str, now: float) -> Storage:
        """The storage pools of a host; `run_id` is in the names of what probes make."""
        if host.uri not in self._storages:
            self._storages[host.uri] = Storage(host, run_id, now)
        return self._storages[host.uri]
