# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""Connections, and what was looked at through them: of one run, or of several moves that are only judged."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Sequence, Tuple

from .._images.carry import Ahead
from .._libvirt import Host
from .._pure.refusal import Refusal
from . import place as places
from . import writes
from .outlook import Measuring
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
        self._measured: Dict[Tuple[str, str], Measuring] = {}
        self._tried: Dict[str, Any] = {}

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

    def measure(self, host: Host, uuid: str) -> Measuring:
        """The measurement of a guest's dirty rate, which is begun now unless it was before."""
        if (host.uri, uuid) not in self._measured:
            self._measured[host.uri, uuid] = Measuring(host, uuid)
        return self._measured[host.uri, uuid]

    def attempt(self, directories: Sequence[str], machine: Mapping[str, Any]) -> Dict[str, Any]:
        """What attempts to write in directories of this machine come to, each of which is made once."""
        wanted = list(dict.fromkeys(directories))
        self._tried.update(writes.attempt([one for one in wanted if one not in self._tried], machine))
        return {one: self._tried[one] for one in wanted if one in self._tried}
