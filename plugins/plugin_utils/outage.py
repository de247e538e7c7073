# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""How long a guest really did not answer while it moved, seen from a third host."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleError

# Seconds between two probes: root may send that often, others only five times a second (ping(8), iputils).
INTERVALS = ("0.02", "0.2")
# A probe that nobody stops ends by itself.
LIMIT = 24 * 3600

# ping -D stamps every answer with the time of its arrival. It must outlive the session that has begun it.
START = """command -v ping >/dev/null || {{ echo "there is no ping (Debian: iputils-ping, RHEL: iputils)"; exit; }}
f=$(mktemp) && a={address} || exit
for i in {intervals}; do
  setsid ping -n -D -i $i -w {limit} "$a" >"$f" 2>&1 </dev/null &
  p=$!; sleep 0.1
  kill -0 $p 2>/dev/null && echo "$f $p $i" && exit
done
cat "$f"; rm -f "$f"
"""
STOP = """kill -INT {pid} 2>/dev/null; sleep 0.3
awk '/bytes from/ {{ t = substr($1, 2, length($1) - 2) + 0
  if (n++ && t - last > gap) {{ gap = t - last; at = last }} last = t }}
  END {{ printf "%d %.3f %.3f\\n", n, gap, at }}' {file}; rm -f {file}
"""


class Outage:
    """A probe of an address that runs on a host while the guest moves."""

    def __init__(self, site: Any, address: str):
        self._site = site
        self._address = address
        self._file = ""
        self._pid = ""
        self._interval = 0.0
        self._failed = ""

    @property
    def runs(self) -> bool:
        """Whether probes are being sent."""
        return bool(self._pid)

    def start(self) -> None:
        said = self._site.shell(
            START.format(address=shlex.quote(self._address), intervals=" ".join(INTERVALS), limit=LIMIT)
        ).split()
        if len(said) == 3 and said[1].isdigit():
            self._file, self._pid, self._interval = said[0], said[1], float(said[2])
        else:
            self._failed = " ".join(said) or "ping did not start"

    def trouble(self, found: Mapping[str, Any]) -> str:
        """What a person must know where nothing was measured, given what `stop` has found; or nothing."""
        if found["longest_ms"] is not None:
            return ""
        return f"outage_address: the outage of {self._address} was not measured from {found['from']}: {found['msg']}"

    def stop(self) -> dict[str, Any]:
        """The longest time without an answer beyond the probe's own interval, in milliseconds."""
        found = {"address": self._address, "from": self._site.host, "interval_ms": int(1000 * self._interval)}
        if not self._pid:
            return {**found, "replies": 0, "longest_ms": None, "msg": self._failed}
        try:
            said = self._site.shell(STOP.format(pid=self._pid, file=shlex.quote(self._file))).split()
        except AnsibleError as error:
            said, self._failed = [], str(error)
        self._pid = ""
        if len(said) != 3 or int(said[0]) < 2:
            return {**found, "replies": 0, "longest_ms": None, "msg": self._failed or "no answer from that address"}
        longest = max(0, round(1000 * (float(said[1]) - self._interval)))
        return {**found, "replies": int(said[0]), "longest_ms": longest, "began_at": float(said[2])}
