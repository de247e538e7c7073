# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Declared placement against what the hosts say."""

from __future__ import annotations

import pytest

from ansible_collections.kvmops.migration.plugins.filter.placement import FilterModule
from ansible_collections.kvmops.migration.plugins.module_utils._pure import options
from ansible_collections.kvmops.migration.plugins.module_utils._pure.placement import (
    SAID_ELSEWHERE,
    plan,
    split_names,
)

PLACEMENT = FilterModule().filters()["placement"]
UUID = "11111111-1111-1111-1111-111111111111"
OTHER = "22222222-2222-2222-2222-222222222222"


def host(number: int, **domains: str) -> dict:
    """What virt_migrate_info returns; a domain is `name=state` or `name=(state, uuid)`."""
    listed = []
    for name, said in domains.items():
        state, uuid = said if isinstance(said, tuple) else (said, UUID)
        listed.append({"name": name, "uuid": uuid, "state": state})
    return {"host": {"uuid": f"host-{number}", "hostname": f"kvm{number}"}, "domains": listed}


AUTO = {"mode": "auto", "storage": "auto"}
SILENT = {"unreachable": True, "msg": "Task failed: Failed to connect to the host via ssh: no route\nmore text"}


def test_a_vm_that_is_elsewhere_moves_to_its_declared_host():
    result = plan({"kvm1": host(1, a="running"), "kvm2": host(2)}, vm="a", declared={"a": {"host": "kvm2"}})
    assert result["errors"] == []
    assert result["moves"] == [
        {
            "name": "a",
            "source": "kvm1",
            "dest": "kvm2",
            "state": "running",
            "mode": "auto",
            "storage": "auto",
            "cleanup": False,
            "note": "",
            "chosen": True,
            "move": {"name": "a", "source": "kvm1", "dest": "kvm2", **AUTO, "dest_host": "kvm2"},
        }
    ]
    assert result["waves"] == [result["moves"]]


def test_a_vm_that_is_where_it_shall_be_is_settled():
    result = plan({"kvm1": host(1), "kvm2": host(2, a="shut_off")}, declared={"a": {"host": "kvm2"}})
    assert (result["moves"], result["errors"]) == ([], [])
    assert result["settled"][0]["note"] == "already lives on kvm2"


def test_dest_overrides_the_declaration_and_takes_the_first_that_answers():
    facts = {"kvm1": host(1, a="running"), "kvm2": SILENT, "kvm3": host(3)}
    result = plan(facts, vm="a", dest="kvm2,kvm3", declared={"a": {"host": "kvm1"}})
    assert [(step["source"], step["dest"]) for step in result["moves"]] == [("kvm1", "kvm3")]


def test_any_of_the_listed_hosts_will_do():
    facts = {"kvm1": host(1), "kvm2": host(2, a="running")}
    assert plan(facts, vm="a", dest=["kvm1", "kvm2"])["settled"][0]["dest"] == "kvm2"


def test_c8_121_placement_options_travel_with_the_move():
    declared = {"a": {"host": "kvm2", "mode": "offline", "storage": "shared"}}
    step = plan({"kvm1": host(1, a="shut_off"), "kvm2": host(2)}, declared=declared)["moves"][0]
    assert (step["mode"], step["storage"]) == ("offline", "shared")


def test_a_stale_definition_at_the_destination_does_not_settle_a_running_vm():
    result = plan({"kvm1": host(1, a="running"), "kvm2": host(2, a="shut_off")}, vm="a", dest="kvm2")
    assert [(step["source"], step["dest"]) for step in result["moves"]] == [("kvm1", "kvm2")]


def test_a_stopped_vm_that_is_defined_twice_is_not_settled():
    result = plan({"kvm1": host(1, a="shut_off"), "kvm2": host(2, a="shut_off")}, vm="a", dest="kvm2")
    assert [(step["source"], step["dest"]) for step in result["moves"]] == [("kvm1", "kvm2")]


@pytest.mark.parametrize(
    ("facts", "arguments", "error"),
    [
        ({}, {}, "hypervisor group is empty"),
        ({"kvm1": SILENT, "kvm2": SILENT}, {"vm": "a"}, "no hypervisor answers (kvm1, kvm2): no route"),
        ({"kvm1": host(1, b="running")}, {"vm": "x"}, "unknown VM 'x'; known: b (kvm1)"),
        ({"kvm1": host(1)}, {}, "no vm is given and no placement is declared"),
        ({"kvm1": host(1)}, {"vm": " , "}, "vm is given and empty; accepted: a name"),
        ({"kvm1": host(1, a="running")}, {"vm": "", "declared": {"a": {"host": "kvm1"}}}, "vm is given and empty"),
        ({"kvm1": host(1, a="running")}, {"vm": "a", "dest": ""}, "dest is given and empty"),
        ({"kvm1": host(1, a="running")}, {"vm": "a", "dest": {"kvm1": 1}}, "dest is {'kvm1': 1}; accepted: a name"),
        ({"kvm1": host(1)}, {"declared": {"a": {"host": []}}}, "migration_vms.a.host is given and empty"),
        (
            {"kvm1": host(1, a="running"), "kvm2": host(2, a="incoming"), "kvm3": host(3)},
            {"vm": "a", "dest": "kvm3"},
            "VM a is being moved to kvm2 right now",
        ),
        (
            {"kvm1": host(1, a="running"), "kvm2": host(2)},
            {"vm": "a", "dest": "kvm9"},
            "unknown destination 'kvm9'; hosts: kvm1, kvm2",
        ),
        (
            {"kvm1": host(1, a="running")},
            {"vm": "a", "dest": "stor1", "inventory": ["kvm1", "stor1"]},
            "unknown destination 'stor1' (in the inventory, but not in the hypervisor group); hosts: kvm1",
        ),
        (
            {"kvm1": host(1, a="running"), "kvm2": host(2), "kvm3": SILENT},
            {"vm": "a"},
            "no declared host and no dest is given; it is on kvm1 and could go to: kvm2",
        ),
        (
            {"kvm1": host(1, a="running"), "alias": host(1, a="running")},
            {"vm": "a", "dest": "alias"},
            "source kvm1 and destination alias are one host under two names (UUID host-1)",
        ),
        (
            {"kvm1": host(1, a="running"), "kvm2": host(2, a="paused")},
            {"vm": "a", "dest": "kvm2"},
            "active on kvm1 and kvm2 at once",
        ),
        (
            {"kvm1": host(1, a="running"), "kvm2": host(2, a=("shut_off", OTHER))},
            {"vm": "a", "dest": "kvm2"},
            "is the name of different VMs",
        ),
        ({"kvm1": host(1), "kvm2": SILENT}, {"vm": "a", "dest": "kvm1"}, "it may be there, so nothing is moved"),
        (
            {"kvm1": host(1, a="shut_off"), "kvm2": host(2), "kvm3": SILENT},
            {"vm": "a", "dest": "kvm2"},
            "shut off on kvm1, but kvm3 does not answer (no route): it may run there",
        ),
        (
            {"kvm1": host(1, a="running"), "kvm2": SILENT},
            {"vm": "a", "dest": "kvm2"},
            "kvm2 does not answer (no route)",
        ),
        (
            {"kvm1": host(1), "kvm2": {**host(2), "host": {"uuid": "host-1", "hostname": "kvm2"}}},
            {"vm": "a"},
            "have the same libvirt host UUID host-1",
        ),
        (
            {"kvm1": host(1)},
            {"declared": {"a": {"where": "x"}}},
            "migration_vms.a.where is unknown; accepted keys: host",
        ),
        (
            {"kvm1": host(1)},
            {"declared": {"a": {"mode": "warp"}}},
            "migration_vms.a.mode is 'warp'; accepted: auto, live",
        ),
        ({"kvm1": host(1)}, {"declared": ["a"]}, "migration_vms is ['a']; accepted: a mapping"),
        ({"kvm1": host(1)}, {"declared": {"a": "kvm1"}}, "migration_vms.a is not a mapping"),
        (
            {"kvm1": host(1, a="running")},
            {"vm": "a", "dest": "kvm1", "options": {"bandwith": 5}},
            "migrate_options.bandwith is unknown, perhaps bandwidth is meant; accepted: options of virt_migrate",
        ),
        ({"kvm1": SILENT}, {"options": {"_dest_facts": {}}}, "migrate_options._dest_facts is unknown"),
        ({"kvm1": host(1)}, {"options": {5: 5}}, "migrate_options.5 is unknown; accepted"),
        ({"kvm1": host(1)}, {"options": ["tls"]}, "migrate_options is ['tls']; accepted: a mapping"),
        (
            {"kvm1": host(1, a="running")},
            {"vm": "a", "dest": "kvm1", "options": {"mode": "live"}},
            "migrate_options.mode is not the same for every VM: say migration_vms.NAME.mode instead",
        ),
    ],
)
def test_what_is_wrong_gets_one_line_and_moves_nothing(facts, arguments, error):
    result = plan(facts, **arguments)
    assert len(result["errors"]) == 1
    assert error in result["errors"][0]
    assert "\n" not in result["errors"][0]
    assert result["moves"] == []


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"bandwidth": -1}, "migrate_options: bandwidth: -1 is not accepted; cure: accepted: MiB per second from 0"),
        ({"bandwidth": "fast"}, "migrate_options: argument 'bandwidth' is of type"),
        ({"copy_storage": "some"}, "migrate_options: value of copy_storage must be one of: none, all, inc"),
        ({"parallel_connections": 3}, "migrate_options: parallel_connections: 3 needs parallel"),
        ({"policy_steps": [{"do": "abort"}]}, "migrate_options: missing required arguments: when"),
        ({"dest_xml": "<domain"}, "migrate_options: dest_xml"),
        ({"uri": "qemu:///nowhere"}, "migrate_options: uri: 'qemu:///nowhere' has the path"),
    ],
)
@pytest.mark.parametrize("where", ["running", "absent"])
def test_a_value_that_the_module_would_refuse_is_found_before_anything_is_done(given, error, where):
    """Also where nothing has to move, and in every case before the hooks."""
    facts = {"kvm1": host(1, a="running"), "kvm2": host(2)} if where == "running" else {"kvm2": host(2, a="running")}
    result = PLACEMENT(facts, vm="a", dest="kvm2", options=given)
    (line,) = result["errors"]
    assert error in line
    assert "\n" not in line
    assert result["moves"] == []


def test_what_placement_and_options_exclude_is_found_before_anything_is_done():
    facts = {"kvm1": host(1, a="shut_off", b=("running", OTHER)), "kvm2": host(2)}
    declared = {"a": {"host": "kvm2", "mode": "offline"}, "b": {"host": "kvm2"}}
    result = PLACEMENT(facts, declared=declared, options={"copy_storage": "all"})
    (line,) = result["errors"]
    assert line.startswith("a: mode: offline and copy_storage: all exclude each other")


def test_values_are_read_as_a_module_reads_them():
    facts = {"kvm1": host(1, a="running"), "kvm2": host(2)}
    given = {"bandwidth": "100", "postcopy": "yes", "compression": "xbzrle", "max_downtime": 500, "tls": True}
    assert PLACEMENT(facts, vm="a", dest="kvm2", options=given)["errors"] == []


def test_every_option_of_the_module_is_known():
    facts = {"kvm1": host(1), "kvm2": host(2, a="shut_off")}
    known = dict.fromkeys(set(options.PUBLIC) - set(SAID_ELSEWHERE))
    assert plan(facts, declared={"a": {"host": "kvm2"}}, options=known)["errors"] == []
    assert set(SAID_ELSEWHERE) < set(options.PUBLIC)


def test_a_running_vm_moves_while_a_third_host_is_silent():
    facts = {"kvm1": host(1, a="running"), "kvm2": host(2), "kvm3": SILENT}
    assert plan(facts, vm="a", dest="kvm2")["moves"]


def test_every_vm_with_an_error_is_named():
    facts = {"kvm1": host(1, a="running"), "kvm2": host(2)}
    result = plan(facts, vm="a,x,y", dest="kvm2")
    assert [line.split(";", maxsplit=1)[0] for line in result["errors"]] == ["unknown VM 'x'", "unknown VM 'y'"]


@pytest.mark.parametrize(
    ("given", "names"),
    [(None, []), ("", []), (5, ["5"]), ([5], ["5"]), ("a", ["a"]), ("a, b,a,", ["a", "b"]), (["b", " a "], ["b", "a"])],
)
def test_names_come_as_comma_list_or_list(given, names):
    assert split_names(given) == names


def test_a_move_to_the_same_host_that_goes_on_is_joined():
    facts = {"kvm1": host(1, a="running"), "kvm2": host(2, a="incoming"), "kvm3": host(3)}
    result = plan(facts, vm="a", dest="kvm3,kvm2")
    assert [(step["source"], step["dest"]) for step in result["moves"]] == [("kvm1", "kvm2")]


def test_one_to_another_host_is_said_with_how_far_it_is():
    going = {**host(1, a="running"), "runs": [{"name": "a", "line": "a: kvm1 -> kvm2: 40 %"}]}
    result = plan({"kvm1": going, "kvm2": host(2, a="incoming"), "kvm3": host(3)}, vm="a", dest="kvm3")
    assert "right now: a: kvm1 -> kvm2: 40 %" in result["errors"][0]


def test_what_a_killed_run_has_left_is_settled_where_it_was_killed():
    left = {**host(1), "unfinished": [{"run": "r", "name": "a", "uuid": UUID, "dest": "kvm2"}]}
    result = plan({"kvm1": left, "kvm2": host(2, a="running")}, vm="a", dest="kvm2")
    (step,) = result["moves"]
    assert step["move"] == {"name": "a", "source": "kvm1", "dest": "kvm2", "cleanup": True}
    assert result["settled"] == []


def test_moves_are_in_groups_that_keep_the_limits():
    facts = {"kvm1": host(1, a="running", b=("running", OTHER)), "kvm2": host(2)}
    result = plan(facts, vm="a,b", dest="kvm2", limits={"source": 1}, at_once=False)
    assert [[step["name"] for step in wave] for wave in result["waves"]] == [["a"], ["b"]]
    assert plan(facts, vm="a,b", dest="kvm2", limits={"source": 1})["waves"] == [result["moves"]]


@pytest.mark.parametrize("limits", [{"sources": 1}, {"source": 0}, {"total": "many"}, [1]])
def test_limits_that_are_none_get_one_line(limits):
    result = plan({"kvm1": host(1, a="running"), "kvm2": host(2)}, vm="a", dest="kvm2", limits=limits)
    (error,) = result["errors"]
    assert error.startswith("limits: ")


@pytest.mark.parametrize("knows", [("postcopy_failed", "postcopy_failed"), ("postcopy_failed", "running")])
def test_a_postcopy_that_has_failed_can_be_gone_on_with(knows):
    """Whether it may, and how, is the module's to say; the destination may not know of the failure."""
    facts = {"kvm3": host(3, a="shut_off"), "kvm1": host(1, a=knows[0]), "kvm2": host(2, a=knows[1])}
    (step,) = plan(facts, vm="a", dest="kvm2")["moves"]
    assert (step["source"], step["dest"]) == ("kvm1", "kvm2")


def test_one_error_for_all_vms_is_said_once():
    facts = {"kvm1": host(1, a="running", b=("running", OTHER)), "kvm2": host(2)}
    assert len(plan(facts, vm="a,b", dest="kvm9")["errors"]) == 1


def ways(result) -> list[tuple[str, str, str]]:
    return [(step["name"], step["source"], step["dest"]) for step in result["moves"]]


FLEET = {
    "kvm1": host(1, a="running", b=("shut_off", OTHER)),
    "kvm2": host(2, a="shut_off"),
    "kvm3": host(3),
}


def test_every_host_that_is_wished_for_is_planned_where_all_are_to_be_judged():
    result = plan(FLEET, vm="a", dest="kvm2,kvm3,kvm1", every=True)
    assert ways(result) == [("a", "kvm1", "kvm2"), ("a", "kvm1", "kvm3")]
    assert [step["note"] for step in result["settled"]] == ["already lives on kvm1"]
    assert ways(plan(FLEET, vm="a", declared={"a": {"host": ["kvm3", "kvm2"]}}, every=True)) == [
        ("a", "kvm1", "kvm3"),
        ("a", "kvm1", "kvm2"),
    ]


def test_without_a_wish_every_vm_is_planned_to_every_other_host():
    result = plan(FLEET, every=True)
    assert result["errors"] == []
    assert ways(result) == [(name, "kvm1", dest) for name in ("a", "b") for dest in ("kvm2", "kvm3")]


def test_a_silent_host_keeps_no_other_one_from_being_judged():
    result = plan({**FLEET, "kvm3": SILENT}, vm="a", every=True)
    assert ways(result) == [("a", "kvm1", "kvm2")]
    assert "kvm3 does not answer" in result["unfit"][0]


def test_an_unknown_vm_is_an_error_where_all_are_to_be_judged():
    assert "unknown VM 'c'" in plan(FLEET, vm="c", every=True)["errors"][0]


NEEDS = {"memory": 2 << 30, "networks": ["blue"]}


def told(number: int, networks: tuple[str, ...] = ("blue",), available: int = 8 << 30, **domains: str) -> dict:
    """The same with facts, and VMs that need a network and memory."""
    said = host(number, **domains)
    said["host"]["facts"] = {
        "networks": [{"name": name, "active": True} for name in networks],
        "memory": {"total": 16 << 30, "available": available},
    }
    said["domains"] = [{**domain, "needs": NEEDS} for domain in said["domains"]]
    return said


def test_c8_123_the_first_host_that_fits_is_taken():
    facts = {"kvm1": told(1, a="running"), "kvm2": told(2, ()), "kvm3": told(3, available=1 << 30), "kvm4": told(4)}
    for dest, chosen in (("kvm2,kvm3,kvm4", "kvm4"), ("kvm4,kvm2", "kvm4"), ("kvm3,kvm2", "kvm3")):
        assert ways(plan(facts, vm="a", dest=dest)) == [("a", "kvm1", chosen)]


def test_c8_123_what_goes_to_a_host_leaves_less_of_it_for_the_next():
    facts = {
        "kvm1": told(1, a="running", b="running", c="shut_off"),
        "kvm2": told(2, available=3 << 30),
        "kvm3": told(3, available=3 << 30),
    }
    assert ways(plan(facts, vm="a,b,c", dest="kvm2,kvm3")) == [
        ("a", "kvm1", "kvm2"),
        ("b", "kvm1", "kvm3"),
        ("c", "kvm1", "kvm2"),
    ]
    # Another name of kvm2, which has no more memory than that.
    facts["kvm4"] = facts["kvm2"]
    assert ways(plan(facts, vm="a,b", dest="kvm2,kvm4,kvm3"))[1] == ("b", "kvm1", "kvm3")
    del facts["kvm4"]
    judged = plan(facts, vm="a,b", dest="kvm2,kvm3", every=True)["moves"]
    assert [(move["name"], move["dest"]) for move in judged if move["chosen"]] == [("a", "kvm2"), ("b", "kvm3")]


def test_c8_123_what_will_not_go_there_takes_nothing():
    """One that fits nowhere is told of at the first host, and one that arrives has its memory already."""
    facts = {"kvm1": told(1, a="running", b="running"), "kvm2": told(2, available=3 << 30), "kvm3": told(3)}
    facts["kvm1"]["domains"][0]["needs"] = {**NEEDS, "memory": 1 << 50}
    assert ways(plan(facts, vm="a,b", dest="kvm2,kvm3"))[1] == ("b", "kvm1", "kvm2")


def test_a_host_is_no_worse_for_a_vm_that_is_shut_off():
    facts = {"kvm1": told(1, a="shut_off"), "kvm2": told(2, (), 0), "kvm3": told(3)}
    assert ways(plan(facts, vm="a", dest="kvm2,kvm3")) == [("a", "kvm1", "kvm2")]


def test_without_a_wish_it_is_told_where_a_vm_could_go_and_why_not_elsewhere():
    facts = {"kvm1": told(1, a="running"), "kvm2": told(2, ()), "kvm3": told(3)}
    (error,) = plan(facts, vm="a")["errors"]
    assert error.endswith("could go to: kvm3; not to kvm2: kvm2 has no libvirt network blue, which a is in")


@pytest.mark.parametrize(
    ("wish", "chosen"),
    [
        ({"dest": "kvm3"}, {"kvm3": True}),
        ({"dest": "kvm3,kvm2"}, {"kvm3": True, "kvm2": False}),
        ({"declared": {"a": {"host": ["kvm2", "kvm3"]}}}, {"kvm2": True, "kvm3": False}),
        # It lives there already.
        ({"dest": "kvm2,kvm1"}, {"kvm2": False}),
        ({}, {"kvm2": None, "kvm3": None}),
    ],
)
def test_of_all_that_is_judged_it_is_known_what_would_be_done(wish, chosen):
    result = plan(FLEET, vm="a", every=True, **wish)
    assert {move["dest"]: move["chosen"] for move in result["moves"]} == chosen


@pytest.mark.parametrize(
    ("wish", "unfit", "errors"),
    [
        ({"dest": "kvm3,kvm2"}, 1, 0),
        ({"dest": "kvm2,kvm3"}, 1, 0),
        ({}, 1, 0),
        ({"dest": "kvm3"}, 0, 1),
        # Nothing is moved where a host of the list is unknown.
        ({"dest": "kvm2,kvm9"}, 0, 1),
    ],
)
def test_a_host_that_is_silent_keeps_nobody_from_another_one(wish, unfit, errors):
    result = plan({**FLEET, "kvm3": SILENT}, vm="a", every=True, **wish)
    assert (len(result["unfit"]), len(result["errors"])) == (unfit, errors)
    assert bool(plan({**FLEET, "kvm3": SILENT}, vm="a", **wish)["errors"]) == bool(errors) or not wish
