# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""VMs that each fit on a host for themselves, and that the host has no room for together.

A check looks at one VM, and tells what that takes of its destination (`takes` of a finding); here it is added up.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from . import outcome
from .findings import FAIL, WARN
from .refusal import Refusal
from .status import size

FAILURE_CLASSES = {"memory": "no_memory", "space": "no_space"}

# By destination and by what is taken there: who takes how much of it.
Taken = Dict[Tuple[str, str], Dict[str, int]]


def judge(moves: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]]) -> List[Dict[str, Any]]:
    """The results of check mode, where those that come too late for what is left are refused (warned of with preflight:
    warn).

    `moves` are in the order in which they begin. Of several hosts that a VM is judged for it goes to the one that is
    `chosen`. Where none is, or several are, nobody knows to which, and it is left out, as is one that cannot move.
    """
    counted = [
        bool(move.get("chosen", True) and result.get("changed") and not result.get("failed"))
        for move, result in zip(moves, results)
    ]
    names = Counter(move["name"] for move, counts in zip(moves, counted) if counts)
    taken: Taken = {}
    judged: List[Dict[str, Any]] = []
    for move, result, counts in zip(moves, results, counted):
        late = _take(move, result, taken) if counts and names[move["name"]] == 1 else {}
        warns = move.get("preflight") == "warn"
        judged.append(_refused(result, late, warns) if late else dict(result))
        if late and not warns:
            for one in taken.values():
                one.pop(move["name"], None)
    return judged


def _take(move: Mapping[str, Any], result: Mapping[str, Any], taken: Taken) -> Dict[int, Dict[str, str]]:
    """What the checks say, by the number of the row, where others have taken too much of it before."""
    late: Dict[int, Dict[str, str]] = {}
    # A host's own name is not always its own.
    name, dest = move["name"], move.get("dest_host") or move.get("dest") or result["dest"]["host"]
    for number, row in enumerate(result.get("checks") or ()):
        takes = row.get("takes")
        if not takes or not takes["need"]:
            continue
        what, free = takes["what"], takes["free"]
        all_of_them = taken.setdefault((dest, what), {})
        others = ", ".join(all_of_them)
        all_of_them[name] = takes["need"]
        need = sum(all_of_them.values())
        if others and need > free:
            late[number] = {
                "evidence": f"{others} and {name} take {size(need)} of {what} together, and {dest} has {size(free)}",
                "cure": f"free {what} on {dest}, or let some of them go to another host",
            }
    return late


def _refused(result: Mapping[str, Any], late: Mapping[int, Mapping[str, str]], warns: bool) -> Dict[str, Any]:
    """The result with what comes too late; `warns` is whether it would be made all the same."""
    status = WARN if warns else FAIL
    rows = list(result["checks"])
    refusals: List[Refusal] = []
    for number, said in late.items():
        rows[number] = {**rows[number], "status": status, **said}
        refusals.append(Refusal(said["evidence"], FAILURE_CLASSES[rows[number]["id"]], said["cure"]))
    judged = {**result, "checks": rows}
    if warns:
        return {**judged, "warnings": [*result.get("warnings", ()), *(one.message for one in refusals)]}
    refused = {"failed": True, "changed": False, "outcome": outcome.REFUSED, "diff": []}
    return {**judged, **refused, "msg": refusals[0].message, **refusals[0].result()}
