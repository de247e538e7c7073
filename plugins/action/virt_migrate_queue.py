# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Moves several VMs from any hosts of the inventory to any others, so many at a time, and shows how far they are."""

from __future__ import annotations

import os
import pickle
import select
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase

from ansible_collections.kvmops.migration.plugins.module_utils._pure import options as table
from ansible_collections.kvmops.migration.plugins.module_utils._pure import outcome, together
from ansible_collections.kvmops.migration.plugins.module_utils._pure.queue import Limits, Queue
from ansible_collections.kvmops.migration.plugins.module_utils._pure.refusal import Refusal
from ansible_collections.kvmops.migration.plugins.plugin_utils.errand import INFO_MODULE, Errand
from ansible_collections.kvmops.migration.plugins.plugin_utils.runs import Vigil
from ansible_collections.kvmops.migration.plugins.plugin_utils.sites import Elsewhere
from ansible_collections.kvmops.migration.plugins.plugin_utils.values import check_known, problem

# What a move says besides options of virt_migrate, and what a plan has for a person only.
OWN = ("source", "dest", "state", "note", "chosen")
KNOWN = ("moves", "options", "limits")


class ActionModule(ActionBase):
    """Runs virt_migrate on the source of each move; a move that fails keeps no other one from going on."""

    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        self._variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, self._variables)
        self._sites: dict[tuple[str, int], Elsewhere] = {}
        try:
            moves, limits = self._read()
        except Refusal as refusal:
            raise AnsibleActionFail(refusal.message) from refusal
        results = self._judge(moves) if self._task.check_mode else self._move(moves, limits)
        failures = [one for one in results if one.get("failed")]
        result.update(
            changed=any(one.get("changed") for one in results),
            results=results,
            diff=[diff for one in results for diff in one.get("diff", [])],
        )
        result["warnings"] = [text for one in results for text in one.pop("warnings", [])]
        if failures:
            result.update(failed=True, msg="\n".join(f"{one['name']}: {one.get('msg')}" for one in failures))
        return result

    def _read(self) -> tuple[list[dict[str, Any]], Limits]:
        args = self._task.args
        check_known(args, KNOWN, "virt_migrate_queue")
        common = args.get("options") or {}
        if not isinstance(common, Mapping):
            raise Refusal(f"options: {common!r} is not accepted", "bad_option", "accepted: options of virt_migrate")
        check_known(common, table.PUBLIC, "options")
        given = args.get("moves")
        if not isinstance(given, list) or not all(isinstance(move, Mapping) for move in given):
            raise Refusal(f"moves: {given!r} is not accepted", "bad_option", "accepted: a list of mappings")
        moves = []
        for move in given:
            check_known(move, (*table.PUBLIC, *OWN), "moves")
            for key in ("name", "source"):
                if not move.get(key):
                    raise Refusal(f"moves: {dict(move)!r} has no {key}", "bad_option", f"add {key}")
            if move["source"] not in self._variables["hostvars"]:
                raise Refusal(
                    f"moves: source {move['source']!r} of {move['name']} is not in the inventory",
                    "bad_option",
                    f"known hosts: {', '.join(self._variables['groups']['all'])}",
                )
            moves.append({**common, **move})
            wrong = problem(_arguments(moves[-1]))
            if wrong:
                raise Refusal(f"moves: {move['name']}: {wrong}", "bad_option")
        return moves, Limits.read(args.get("limits"))

    def _move(self, moves: list[dict[str, Any]], limits: Limits) -> list[dict[str, Any]]:
        queue = Queue([{**move, "dest": move.get("dest_host") or move.get("dest")} for move in moves], limits)
        results: dict[int, dict[str, Any]] = {}
        going: dict[int, int] = {}
        vigil = Vigil()
        while not queue.is_over:
            for number in queue.begin():
                going[self._apart(partial(self._work, self._errand(number, moves[number])))] = number
            for pipe in select.select(list(going), [], [], 0)[0]:
                number = going.pop(pipe)
                results[number] = _answer(pipe)
                queue.end(number)
            vigil.wait()
        return [_told(move, results[number]) for number, move in enumerate(moves)]

    def _judge(self, moves: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What check mode says to each of the moves: every destination is asked once, every source judges all of its
        own."""
        results: dict[int, dict[str, Any]] = {}
        asked: dict[str, dict[int, dict[str, Any]]] = {}
        facts: dict[str, dict[str, Any] | None] = {}
        for number, move in enumerate(moves):
            try:
                asked.setdefault(move["source"], {})[number] = self._errand(0, move, facts).arguments()
            except AnsibleError as error:
                results[number] = _failure(error)
        pipes = {self._apart(partial(self._judge_those_of, host, those)): those for host, those in asked.items()}
        for pipe, those in pipes.items():
            said = _answer(pipe)
            results.update(said.get("results") or dict.fromkeys(those, said))
        told = [_told(move, results[number]) for number, move in enumerate(moves)]
        return together.judge(moves, told)

    def _judge_those_of(self, source: str, moves: dict[int, dict[str, Any]]) -> dict[str, Any]:
        try:
            said = self._site(source, 0).execute(INFO_MODULE, {"name": [], "_moves": list(moves.values())})
        except AnsibleError as error:
            said = _failure(error)
        finally:
            self._close_sites()
        if "moves" not in said:
            return {"changed": False, **said}
        return {"results": dict(zip(moves, said["moves"]))}

    def _errand(
        self, number: int, move: dict[str, Any], facts: dict[str, dict[str, Any] | None] | None = None
    ) -> Errand:
        return Errand(
            self._site(move["source"], number),
            _arguments(move),
            self._variables,
            lambda host: self._site(host, number),
            facts=facts,
        )

    def _apart(self, work: Callable[[], dict[str, Any]]) -> int:
        """Do it in a process of its own, whose answer comes through the pipe that is returned.

        A host that is silent keeps nobody from looking at the others then; Ansible's own state allows no threads.
        """
        answers, answer = os.pipe()
        if os.fork():
            os.close(answer)
            return answers
        try:
            with os.fdopen(answer, "wb") as stream:
                pickle.dump(work(), stream)
        finally:
            os._exit(0)

    def _work(self, errand: Errand) -> dict[str, Any]:
        try:
            return errand.run()
        except AnsibleError as error:
            return _failure(error)
        finally:
            errand.close()
            self._close_sites()

    def _close_sites(self) -> None:
        for site in self._sites.values():
            site.close()

    def _site(self, host: str, number: int) -> Elsewhere:
        """A host by its own login; every move has connections of its own."""
        if (host, number) not in self._sites:
            self._sites[host, number] = Elsewhere(self, host, self._variables["hostvars"][host])
        return self._sites[host, number]


def _arguments(move: Mapping[str, Any]) -> dict[str, Any]:
    """What of a move is for virt_migrate."""
    return {key: value for key, value in move.items() if key not in OWN}


def _told(move: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """An answer with what it is about, also where the run has not come so far that it knows both hosts."""
    ends = {"source": move["source"], "dest": move.get("dest_host") or move.get("dest")}
    known = {side: {"host": host} for side, host in ends.items() if host}
    return {**known, **result, "name": move["name"]}


def _failure(error: AnsibleError) -> dict[str, Any]:
    said = getattr(error, "result", {})
    return {"failed": True, "changed": False, "failure_class": "unreachable", **said, "msg": str(error)}


def _answer(pipe: int) -> dict[str, Any]:
    """The answer of a process that has ended; one that was killed gave none."""
    with os.fdopen(pipe, "rb") as stream:
        said = stream.read()
    with suppress(ChildProcessError):
        os.wait()
    if said:
        return dict(pickle.loads(said))
    problem = "the process that watched it was killed"
    return {
        "failed": True,
        "changed": True,
        "outcome": outcome.UNDETERMINED,
        "failure_class": "out_of_sight",
        "msg": f"{problem}; cure: run again, which joins the run or settles what it has left",
    }
