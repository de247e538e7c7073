# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several VMs go to one host, which has room for each of them and not for all."""

from __future__ import annotations

import pytest

from ansible_collections.kvmops.migration.plugins.module_utils._pure import together

GIB = 1 << 30


def move(name, dest="kvm2", **options):
    return {"name": name, "source": "kvm1", "dest_host": dest, **options}


def result(need, free=3 * GIB, check="memory", what="memory", **more):
    row = {"id": check, "status": "pass", "evidence": "it fits", "cure": "", "role": None}
    row["takes"] = {"what": what, "need": need, "free": free}
    other = {"id": "guest", "status": "pass", "evidence": "", "cure": "", "role": None}
    more["dest"] = {"host": "localhost.localdomain"}
    return {"changed": True, "outcome": "planned", "checks": [other, row], "diff": [{"after": "x"}], **more}


def failed(judged):
    return [one.get("failed", False) for one in judged]


def test_the_one_that_comes_too_late_is_refused():
    moves = [move("a"), move("b"), move("c")]
    judged = together.judge(moves, [result(GIB), result(GIB), result(2 * GIB)])
    assert failed(judged) == [False, False, True]
    last = judged[2]
    said = "a, b and c take 4.0 GiB of memory together, and kvm2 has 3.0 GiB"
    cure = "free memory on kvm2, or let some of them go to another host"
    assert last["msg"] == f"{said}; cure: {cure}"
    assert (last["failure_class"], last["outcome"], last["changed"]) == ("no_memory", "refused", False)
    assert last["diff"] == []
    assert [(row["id"], row["status"], row["evidence"]) for row in last["checks"]] == [
        ("guest", "pass", ""),
        ("memory", "fail", said),
    ]
    assert judged[:2] == [result(GIB), result(GIB)]


@pytest.mark.parametrize(
    ("moves", "results"),
    [
        ([move("a"), move("b", "kvm3")], [result(2 * GIB), result(2 * GIB)]),
        # It will go to one of the two, and nobody knows to which.
        ([move("a"), move("a", "kvm3"), move("b")], [result(2 * GIB)] * 3),
        ([move("a"), move("b")], [result(2 * GIB, failed=True, changed=False), result(2 * GIB)]),
        # It is there already.
        ([move("a"), move("b")], [result(2 * GIB, changed=False), result(2 * GIB)]),
        ([move("a"), move("b")], [result(2 * GIB), result(GIB)]),
        ([move("a"), move("b")], [result(2 * GIB), {"changed": True}]),
        # Only looked at, because it goes to the first of the two.
        ([move("a", "kvm3"), move("a", chosen=False), move("b")], [result(2 * GIB)] * 3),
        # It takes nothing, whatever the other one does.
        ([move("a", preflight="warn"), move("b")], [result(4 * GIB), result(0)]),
        # Two directories.
        (
            [move("a"), move("b")],
            [result(2 * GIB, what="room in /vm", check="space"), result(2 * GIB, what="room in /vm2", check="space")],
        ),
    ],
)
def test_what_takes_nothing_from_another_one_is_as_it_was(moves, results):
    assert together.judge(moves, results) == results


def test_one_that_fits_comes_after_one_that_does_not():
    """What is refused takes nothing."""
    judged = together.judge([move("a"), move("b"), move("c")], [result(2 * GIB), result(2 * GIB), result(GIB)])
    assert failed(judged) == [False, True, False]


def test_of_the_hosts_of_a_list_the_one_that_is_chosen_counts():
    moves = [move("a"), move("a", "kvm3", chosen=False), move("b", "kvm3", chosen=False), move("b")]
    assert failed(together.judge(moves, [result(2 * GIB)] * 4)) == [False, False, False, True]


def test_one_that_could_go_elsewhere_and_cannot_move_there_counts_where_it_can():
    moves = [move("a"), move("a", "kvm3"), move("b")]
    judged = together.judge(moves, [result(2 * GIB), result(GIB, failed=True), result(2 * GIB)])
    assert failed(judged) == [False, True, True]


def test_room_in_a_directory():
    small = [result(2 * GIB, what="room in /vm", check="space")] * 2
    judged = together.judge([move("a"), move("b")], small)
    assert failed(judged) == [False, True]
    assert judged[1]["failure_class"] == "no_space"
    assert judged[1]["msg"].startswith("a and b take 4.0 GiB of room in /vm together, and kvm2 has 3.0 GiB; cure: ")


def test_where_preflight_only_warns_it_is_a_warning():
    moves = [move("a"), move("b", preflight="warn")]
    judged = together.judge(moves, [result(2 * GIB), result(2 * GIB, warnings=["before"])])
    assert failed(judged) == [False, False]
    assert judged[1]["checks"][1]["status"] == "warn"
    assert [text.partition(";")[0] for text in judged[1]["warnings"]] == [
        "before",
        "a and b take 4.0 GiB of memory together, and kvm2 has 3.0 GiB",
    ]
