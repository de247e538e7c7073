# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A call for a VM that a run is moving already: joined where both want the same end, else refused."""

from __future__ import annotations

import shutil
import threading
from types import SimpleNamespace

import pytest

from ansible_collections.kvmops.migration.plugins.module_utils._domblk import start as relocation
from ansible_collections.kvmops.migration.plugins.module_utils._migrate import begin, start, worker
from ansible_collections.kvmops.migration.plugins.module_utils._pure import options as table
from ansible_collections.kvmops.migration.plugins.module_utils._pure.domblk import Wish
from ansible_collections.kvmops.migration.plugins.module_utils._pure.refusal import Refusal
from fake.lab import DEST_URI, OTHER, domain_xml

DEFAULTS = {**{option.name: option.default for option in table.OPTIONS}, "_watch": False, "_dest_facts": None}
PASSWORD = "s3cret"


def params(**options):
    return {**DEFAULTS, "name": "a", "dest_uri": DEST_URI, "tls": "false", **options}


def call(copy=None, check=False, **options):
    module = SimpleNamespace(
        params=params(**options), run_command=None, check_mode=check, _diff=False, no_log_values=set()
    )
    return start.start(module, copy=copy)


@pytest.fixture
def join(lab):
    """Move VM `a` with the first options, and call once more with the second ones while that goes on."""
    lab.add()

    def join(first, second):
        said = []

        def script(phase, source, dest, guest):
            if phase == "begin":
                try:
                    said.append(call(**{"_watch": True, **second}))
                except Refusal as refusal:
                    said.append(refusal)

        lab.world.script = script
        assert lab.move(**first).outcome == "migrated"
        assert len(lab.world.migrations) == 1
        return said[0]

    return join


def test_c3_75_the_same_wish_is_joined(join):
    joined = join({"policy": "never_pause"}, {"policy": "never_pause"})
    assert joined["adopted"]
    assert joined["watching"]
    assert joined["warnings"] == []


def test_check_mode_says_that_the_run_would_be_joined(join):
    said = join({"policy": "never_pause"}, {"policy": "never_pause", "check": True})
    assert (said["changed"], said["outcome"]) == (True, "planned")
    assert said["adopted"]
    assert said["warnings"] == []
    assert "failed" not in said


def test_check_mode_says_what_the_run_does_otherwise(join):
    [warning] = join({"bandwidth": 100}, {"check": True})["warnings"]
    assert "bandwidth (100 there, not given here)" in warning


@pytest.mark.parametrize("second", [{"mode": "nonlive"}, {"cleanup": True}])
def test_check_mode_refuses_what_would_not_be_joined(join, second):
    refused = join({}, {"check": True, **second})
    assert isinstance(refused, Refusal), refused
    assert refused.failure_class == "busy"


def test_a_move_that_is_only_judged_says_so_too(lab):
    lab.add()
    lab.add(name="b", uuid=OTHER, image="/vm/b.qcow2")
    run = worker.Worker("r1", "a", "", start.told(params(), Wish())).take()
    moves = [{"name": name, "dest_host": "kvm2", "dest_uri": DEST_URI, "tls": "false"} for name in ("a", "b")]
    joins, moves_itself = lab.info(_moves=moves).moves
    run.leave()
    assert (joins["name"], joins["outcome"], joins["adopted"]) == ("a", "planned", "r1")
    assert moves_itself["outcome"] == "planned"
    assert "adopted" not in moves_itself


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ({}, {"mode": "nonlive"}, "mode (auto there, nonlive here)"),
        ({"dest_name": "b"}, {}, "dest_name (b there, not given here)"),
        ({"undefine_source": False}, {}, "undefine_source (false there, true here)"),
        ({}, {"copy_storage": "inc"}, "copy_storage (not given there, inc here)"),
        ({}, {"copy_storage": "all", "migrate_disks": ["vda"]}, "migrate_disks (not given there, vda here)"),
        ({}, {"persistent": False}, "persistent (not given there, false here)"),
        ({}, {"suspend": True}, "suspend (false there, true here)"),
        ({}, {"postcopy": True}, "postcopy (false there, true here)"),
        ({}, {"tls": "true"}, "tls (false there, true here)"),
        (
            {},
            {"dest_uri": "qemu+ssh://root@kvm3/system"},
            f"dest_uri ({DEST_URI} there, qemu+ssh://root@kvm3/system here)",
        ),
    ],
)
def test_a_wish_for_another_end_is_refused_by_name(join, first, second, said):
    refused = join(first, second)
    assert isinstance(refused, Refusal), refused
    assert refused.failure_class == "busy"
    assert refused.details["outcome"] == "refused"
    assert "VM a is being moved to kvm2 by run " in refused.message
    assert said in refused.message
    assert "give the same options" in refused.cure


def test_nobody_joins_to_settle_what_goes_on(join):
    refused = join({}, {"cleanup": True})
    assert refused.failure_class == "busy"
    assert "options" not in refused.message


def test_who_only_settles_is_joined_by_nobody_who_wants_a_move(lab):
    run = worker.Worker("r1", "a", "", table.told(params(cleanup=True))).take()
    with pytest.raises(Refusal, match="cleanup"):
        call()
    run.leave()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Wish(), Wish(path_map={"/vm": "/data"})),
        (Wish(dest_dir="/data"), None),
        (Wish(), Wish(remove_source=True)),
        (Wish(), Wish(format="raw")),
    ],
)
def test_a_copy_to_another_place_or_of_another_kind_is_not_joined(lab, first, second):
    run = worker.Worker("r1", "a", "", start.told(params(), first)).take()
    with pytest.raises(Refusal, match="r1 with other options: copies of the disks"):
        call(second)
    run.leave()


def test_c3_75_the_same_copy_is_joined(lab):
    wish = Wish(path_map={"/vm": "/data"}, bandwidth=5)
    run = worker.Worker("r1", "a", "", start.told(params(), wish)).take()
    assert call(Wish(path_map={"/vm": "/data"}), _watch=True)["adopted"]
    run.leave()


def test_a_relocation_is_not_joined_by_who_wants_another_host(lab):
    run = worker.Worker("r1", "a", "", relocation.told(Wish(dest_dir="/data"))).take()
    with pytest.raises(Refusal, match="is being moved to another place on this host by run r1"):
        call(_watch=True)
    run.leave()


def relocate(check=False, **options):
    defaults = {name: row.get("default") for name, row in relocation.argument_spec().items()}
    module = SimpleNamespace(
        params={**defaults, "name": "a", "_watch": True, **options}, run_command=None, check_mode=check, _diff=False
    )
    return relocation.start(module)


def test_a_relocation_does_not_join_a_move_to_another_host(lab):
    run = worker.Worker("r1", "a", "", start.told(params(), Wish(dest_dir="/data"))).take()
    with pytest.raises(Refusal, match=r"is being moved to .*kvm2.* by run r1 with other options: dest_uri"):
        relocate(dest_dir="/data")
    run.leave()


def test_c3_75_the_same_relocation_is_joined(lab):
    wish = Wish(path_map={"/vm": "/data", "/iso": "/data/iso"}, format="raw")
    run = worker.Worker("r1", "a", "", relocation.told(wish)).take()
    joined = relocate(path_map={"/iso": "/data/iso", "/vm": "/data"}, format="raw", verify=False)
    assert joined == {"changed": False, "run": "r1", "watching": True, "adopted": True, "warnings": []}
    assert relocate(check=True, path_map={"/vm": "/data", "/iso": "/data/iso"}, format="raw")["adopted"] == "r1"
    run.leave()


@pytest.mark.parametrize(
    "options", [{"dest_dir": "/elsewhere"}, {"dest_dir": "/data", "disks": ["vda"]}, {"path_map": {"/vm": "/data"}}]
)
def test_a_relocation_to_another_place_or_of_other_disks_is_refused(lab, options):
    run = worker.Worker("r1", "a", "", relocation.told(Wish(dest_dir="/data"))).take()
    with pytest.raises(Refusal, match="r1 with other options: copies of the disks") as refused:
        relocate(**options)
    assert refused.value.failure_class == "busy"
    run.leave()


def test_another_way_to_the_same_end_is_joined_and_said(join):
    joined = join({"bandwidth": 100}, {"policy": "must_complete", "timeout": 60, "progress": False})
    (warning,) = joined["warnings"]
    assert (
        "keeps them: bandwidth (100 there, not given here), timeout (not given there, 60 here), policy (none" in warning
    )
    assert "progress" not in warning


def test_who_leaves_tls_to_the_run_is_content_with_what_it_does(join):
    assert join({"tls": "false"}, {"tls": "auto"})["warnings"] == []


def test_the_order_of_disks_is_no_difference():
    one, other = (table.told(params(migrate_disks=disks)) for disks in (["vda", "vdb"], ["vdb", "vda"]))
    assert table.differing(one, other) == {table.RESULT: [], table.WAY: []}


def test_definitions_and_passwords_are_compared_and_not_shown(join):
    secret = domain_xml().replace("</devices>", f"<graphics type='vnc' passwd='{PASSWORD}'/></devices>")
    uri = DEST_URI.replace("root", f"root:{PASSWORD}")
    refused = join({"dest_xml": secret, "dest_uri": uri}, {"dest_xml": domain_xml(), "dest_uri": uri})
    assert "dest_xml" in refused.message
    assert PASSWORD not in refused.message
    assert "<domain" not in refused.message
    assert PASSWORD not in str(table.told(params(dest_xml=secret, dest_uri=uri)))


def test_the_answer_of_the_run_that_was_waited_for_says_what_it_did_otherwise(lab):
    told = start.told(params(bandwidth=100), Wish())
    first = worker.Worker("r1", "a", "", told).take()

    def end():
        first.answer({"changed": True, "outcome": "migrated", "warnings": ["of the run"]})
        first._forget_locks()

    threading.Timer(0.2, end).start()
    joined = call()
    assert joined["adopted"] == "r1"
    assert joined["warnings"][0].startswith("run r1 of a was begun with other options")
    assert joined["warnings"][1:] == ["of the run"]


def test_a_run_that_has_gone_before_it_could_be_asked_is_not_joined(lab, monkeypatch):
    """Its folder is gone, and the call moves the VM itself."""
    lab.add()
    monkeypatch.setattr(worker, "JUST_BEGUN", 0.1)
    first = worker.Worker("r1", "a", "", {}).take()
    shutil.rmtree(first._folder)
    threading.Timer(0.3, first.leave).start()
    assert call()["outcome"] == "migrated"


def test_every_option_says_what_it_decides():
    assert {option.decides for option in table.OPTIONS} == {table.RESULT, table.WAY, table.CALL}
    assert all(option.decides == table.RESULT for option in table.SECRET)


def test_c5_95_a_run_that_does_not_end_is_not_waited_for_without_an_end(lab, monkeypatch):
    lab.add()
    monkeypatch.setattr(begin, "END_PATIENCE", 0.1)
    said = []

    def script(phase, source, dest, guest):
        if phase == "begin":
            with pytest.raises(Refusal) as refused:
                call(cancel=True)
            said.append(refused.value)
            [status] = worker.live()
            said.append(status)

    lab.world.script = script
    lab.move()
    refusal, status = said
    assert refusal.failure_class == "busy"
    assert refusal.details["outcome"] == "undetermined"
    assert "was asked to end, and still goes on 0.1 s later: a: " in refusal.problem
    assert f"kill its process {status['pid']}" in refusal.cure
    assert status["ending"] is True
    assert status["line"].endswith("; its end was asked for")
