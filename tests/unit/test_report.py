# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The records that runs leave, and the report that is made of them."""

from __future__ import annotations

import json
import os
import stat
from html.parser import HTMLParser
from unittest import mock

import pytest
from ansible.errors import AnsibleActionFail
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.kvmops.migration.plugins.action import virt_migrate_report
from ansible_collections.kvmops.migration.plugins.module_utils._migrate import local
from ansible_collections.kvmops.migration.plugins.module_utils._pure import status as statuses
from ansible_collections.kvmops.migration.plugins.modules import virt_migrate_report as module
from ansible_collections.kvmops.migration.plugins.plugin_utils import pagefile, plots, report, runs
from fake.recorder import HOSTILE, KINDS, OUTAGE, Recorder

VOID = {"meta", "path", "br"}


@pytest.fixture
def recorder(lab, monkeypatch):
    return Recorder(lab, monkeypatch)


# What a run leaves


@pytest.mark.parametrize("kind", ["policy", "failed", "offline"])
def test_the_record_is_what_was_answered(recorder, kind):
    answer = recorder.make(kind)
    (record,) = recorder.records()
    # What Ansible itself adds, and what the fake lab does.
    added = ("failed", "warnings", "invocation")
    assert {key: record.get(key) for key in answer if key not in added} == {
        key: value for key, value in answer.items() if key not in added
    }
    assert record.get("failed", False) == answer["failed"]
    assert abs(int(record["run"].partition("-")[0]) - record["began"]) < 2
    assert ("cure" in record) == (kind == "failed")


@pytest.mark.parametrize(
    ("kind", "steps"),
    [
        ("policy", ["checking", "journalled", "prepared", "moving", "moved", "settled", "finishing"]),
        ("failed", ["checking", "journalled", "prepared", "moving", "moved", "settled", "finishing"]),
        ("offline", list(statuses.PHASES)),
    ],
)
def test_the_record_has_the_steps(recorder, kind, steps):
    recorder.make(kind)
    (record,) = recorder.records()
    assert [one["step"] for one in record["steps"]] == steps
    times = [one["t"] for one in record["steps"]]
    assert times == sorted(times)
    assert times[0] == 0
    # They are counted by two clocks that begin one after the other, on a busy machine seconds later.
    assert times[-1] <= record["duration_s"] + 10


def test_the_record_has_no_definition_and_the_answer_keeps_its_own(lab):
    lab.add()
    result = lab.move(diff=True)
    assert result.diff
    assert "diff" not in lab.record()[0]


def test_files_of_a_guest_that_is_shut_off_have_a_series(recorder):
    recorder.make("offline")
    (record,) = recorder.records()
    assert record["series"][-1]["disk_remaining"] == 0
    assert record["series"][-1]["disk_processed"] == record["copied"]["bytes_sent"]


def test_what_was_refused_leaves_no_record(recorder):
    assert recorder.make("refused")["failed"]
    assert recorder.records() == []


def test_the_newest_record_of_each_vm_is_told(recorder, lab):
    recorder.make("offline")
    recorder.make("failed")
    told = {one["name"]: one["outcome"] for one in recorder.records()}
    assert told == {"asleep": "migrated", "busy": "failed"}
    assert [one["name"] for one in lab.info(records=True, name=["busy"]).records] == ["busy"]
    assert not hasattr(lab.info(), "records")
    assert lab.info(records=True, uri="qemu+ssh://root@kvm2/system").records == []


def test_half_a_record_is_none(lab, tmp_path):
    folder = tmp_path / "kvm1" / "runs"
    folder.mkdir(parents=True)
    for number, text in enumerate(("", "{", "[]", "{}", '{"name": 3}')):
        (folder / f"{number}.json").write_text(text)
    assert lab.info(records=True).records == []


class Shell:
    """A host that does what a shell does, below a folder."""

    def __init__(self, tmp_path):
        self._folder = str(tmp_path)

    def shell(self, command):
        assert os.system(command.replace(statuses.STATE_DIRECTORY, self._folder)) == 0
        return ""


def test_what_was_measured_from_outside_lies_beside_the_record_and_goes_with_it(recorder, lab, tmp_path, monkeypatch):
    run = recorder.make("policy")["run"]
    found = {**OUTAGE, "address": "it's $(touch x) `touch y`"}
    runs.keep_outage(Shell(tmp_path / "kvm1"), run, found)
    assert recorder.records()[0]["outage"] == found
    assert "outage" not in lab.record()[0]
    kept = tmp_path / "kvm1" / "runs"
    assert stat.S_IMODE((kept / f"{run}.outage").stat().st_mode) == 0o600
    runs.keep_outage(Shell(tmp_path / "kvm1"), "1-of-another", found)
    assert sorted(path.suffix for path in kept.iterdir()) == [".json", ".outage"]
    monkeypatch.setattr(local, "KEPT_RUNS", 1)
    local.Local(None).record_run("9999999999-x", {"name": "z"})
    assert [path.name for path in kept.iterdir()] == ["9999999999-x.json"]


# What of it is shown


def test_of_a_run_the_record_is_shown_with_what_only_the_controller_knows():
    record = {"name": "a", "run": "5-x", "outcome": "migrated"}
    answer = {**record, "changed": True, "duration_s": 3, "outage": OUTAGE, "logs": {}}
    assert report.chosen([answer], [record]) == [{**record, "outage": OUTAGE}]
    measured = {**record, "outage": {"longest_ms": 5}}
    assert report.chosen([answer], [measured]) == [measured]


def test_without_a_record_the_answer_is_shown():
    refused = {"name": "a", "failed": True, "outcome": "refused"}
    silent = {"name": "a", "changed": True, "run": "7-x", "outcome": "migrated"}
    earlier = {"name": "a", "run": "5-x"}
    assert report.chosen([refused], [earlier]) == [refused]
    assert report.chosen([silent], [earlier]) == [silent]


def test_where_nothing_had_to_move_the_last_run_is_shown():
    records = [{"name": "a", "run": run} for run in ("99-x", "1000-y", "998-z")]
    nothing = {"name": "a", "changed": False, "outcome": "already_there"}
    assert report.chosen([nothing], records) == [records[1]]
    assert report.chosen([], [*records, {"name": "B", "run": "1-x"}]) == [{"name": "B", "run": "1-x"}, records[1]]
    assert report.chosen([nothing], []) == [nothing]
    assert report.chosen([], []) == []


class Outline(HTMLParser):
    """Whether every element is closed where it shall be, and what the page says."""

    def __init__(self, text):
        super().__init__()
        self.text, self._open, self.names = [], [], []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in VOID

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.text.append(data)


def said(text):
    return " ".join(" ".join(Outline(text).text).split())


def test_a_run_with_a_policy_is_told_whole(recorder):
    recorder.make("policy")
    (record,) = recorder.records()
    text = report.page([{**record, "outage": {**OUTAGE, "began_at": record["began"] + 30}}])
    told = said(text)
    for part in (
        "web1 Moved kvm1 to kvm2",
        "live, storage shared",
        "94 ms at most 1000 ms were permitted",
        "131 ms longest time without an answer from 192.0.2.50, asked from labstor1 every 20 ms",
        "raise downtime 500 ms stalled: passes in a row that have left no less to send: 1",
        "postcopy stalled",
        "Memory still to be sent",
        "How fast it went",
        "No answer, from outside",
        "the VM afterwards: running",
        f"kvm1:/var/lib/kvmops-migration/runs/{record['run']}.json",
    ):
        assert part in told, part
    assert "Disks still to be sent" not in told
    assert "What helps" not in told


def test_a_run_that_has_failed_says_why_and_what_helps(recorder):
    recorder.make("failed")
    (record,) = recorder.records()
    told = said(report.page([record]))
    assert "busy Not moved kvm1 to kvm2" in told
    assert record["msg"].partition("; cure: ")[0] in told
    assert told.count(record["cure"]) == 1
    assert "abort" in told


def test_what_was_refused_shows_every_obstacle_with_its_cure(recorder):
    answer = recorder.make("refused")
    told = said(report.page([answer]))
    obstacles = [row for row in answer["checks"] if row["status"] == "fail"]
    assert obstacles
    for row in obstacles:
        assert row["evidence"] in told
        assert row["cure"] in told
    assert "in the way" in told
    # Nothing was tried that could have stopped the VM.
    assert "Downtime" not in told


def test_a_vm_that_was_suspended_stood_still_from_then_on():
    """libvirt counts from its own stop of a guest that runs, and this one stood still before."""
    steps = [{"t": 1.0, "step": "moving"}, {"t": 13.5, "step": "moved"}]
    suspended = {"t": 4.5, "action": "suspend", "reason": "it does not converge"}
    record = {**RECORD, "mode": "live", "duration_s": 14.0, "steps": steps, "downtime_ms": 20}
    told = said(report.page([{**record, "actions": [suspended]}]))
    assert "Downtime about 8.0 s from the moment when it was suspended" in told
    assert "by libvirt" not in told
    # It was refused: the VM ran on.
    assert "Downtime, by libvirt 20 ms" in said(report.page([{**record, "actions": [{**suspended, "error": "no"}]}]))


def test_several_runs_are_on_one_page(recorder):
    answers = [recorder.make(kind) for kind in ("disks", "policy", "failed", "refused")]
    text = report.page(report.chosen(answers, recorder.records()))
    assert "4 VMs: 2 moved, 1 not moved, 1 refused" in said(text)
    for number in range(1, 5):
        assert f'id="run-{number}"' in text
        assert f'href="#run-{number}"' in text
    assert "One beside the other" in text


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_follows_from_the_records_and_needs_nothing_else(recorder, kind):
    recorder.make(kind)
    records = recorder.records() or [recorder.make(kind)]
    text = report.page(records)
    assert text == report.page(json.loads(json.dumps(records)))
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    assert "url(" not in text
    assert "<script" not in text
    assert len(text) < 100_000


def test_nothing_in_a_record_becomes_markup(recorder):
    recorder.make("disks")
    (record,) = recorder.records()

    def spoilt(value):
        if isinstance(value, dict):
            return {key: spoilt(one) for key, one in value.items()}
        if isinstance(value, list):
            return [spoilt(one) for one in value]
        return HOSTILE if isinstance(value, str) else value

    spoilt = {**spoilt(record), "steps": record["steps"], "failed": True, "msg": HOSTILE, "cure": HOSTILE}
    text = report.page([spoilt, {**spoilt, "mode": "live", "run": "5-<b>"}])
    assert HOSTILE not in text
    assert HOSTILE in said(text)
    assert "<b>" not in text


KEYS = (
    "steps",
    "series",
    "actions",
    "checks",
    "source",
    "dest",
    "memory",
    "disks",
    "run",
    "began",
    "duration_s",
    "name",
)


@given(st.sets(st.sampled_from(KEYS)), st.booleans())
def test_a_record_that_lacks_something_is_shown_all_the_same(missing, failed):
    whole = {
        "name": "a",
        "run": "5-x",
        "began": 5,
        "duration_s": 2.5,
        "mode": "live",
        "outcome": "migrated",
        "steps": [{"step": "checking", "t": 0}, {"step": "moving", "t": 1}],
        "series": [{"t": 0.2, "memory_remaining": 5, "memory_processed": 1}, {"t": 1, "throughput": 3}],
        "actions": [{"t": 0.5, "action": "abort"}],
        "checks": [{"id": "x", "status": "fail", "evidence": "y", "cure": "", "role": "firewall"}],
        "source": {"host": "kvm1", "uri": "qemu:///system", "state": "absent"},
        "dest": {"host": "kvm2"},
        "memory": {"bytes": 3},
        "disks": [{"target": "vda"}],
        "failed": failed,
    }
    Outline(report.page([{key: value for key, value in whole.items() if key not in missing}] * 2))


def test_what_is_hardly_an_answer_is_shown(recorder):
    out_of_sight = {"failed": True, "changed": True, "name": "a", "run": "r1", "outcome": "undetermined", "msg": "gone"}
    assert "a Not known where it is" in said(report.page([out_of_sight]))
    Outline(report.page([{}]))


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 ms"), (0.0944, "94 ms"), (1, "1.0 s"), (59.94, "59.9 s"), (61, "1 min 1 s"), (7260, "2 h 1 min")],
)
def test_times_are_for_people(count, words):
    assert report.seconds(count) == words


# Plots


@given(st.floats(min_value=0.001, max_value=10**7))
def test_moments_on_an_axis_are_few_and_in_order(end):
    ticks = plots.time_ticks(end)
    assert 1 <= len(ticks) <= plots.TIME_TICKS + 1
    assert len({tick.label for tick in ticks}) == len(ticks)
    places = [tick.at for tick in ticks]
    assert places == sorted(set(places))
    assert 0 <= places[0] <= places[-1] <= 100


@given(st.floats(min_value=0.01, max_value=2**60))
def test_values_on_an_axis_are_few_and_in_order(top):
    ticks = plots.value_ticks(top, "/s")
    assert 2 <= len(ticks) <= 6
    assert len({tick.label for tick in ticks}) == len(ticks) or top < 4
    places = [tick.at for tick in ticks]
    assert places == sorted(set(places))


@pytest.mark.parametrize(
    ("top", "labels"),
    [
        (1.06 * 2**30, ["0", "512 MiB", "1 GiB"]),
        (100 * 2**20, ["0", "25 MiB", "50 MiB", "75 MiB", "100 MiB"]),
        (9.5 * 2**40, ["0", "2.5 TiB", "5 TiB", "7.5 TiB"]),
    ],
)
def test_values_are_round_in_their_own_unit(top, labels):
    assert [tick.label for tick in plots.value_ticks(top, "")] == labels


def test_a_line_is_interrupted_where_nothing_is_known():
    line = plots.line("memory", "memory", [(0, 10), (1, 5), (2, None), (3, 2.5), (4, None)], 4, 10)
    assert line.line == "M0,0 2500,500 M7500,750"
    assert line.dots == "M0,0h0 M2500,500h0 M7500,750h0"
    assert line.area == "M0,1000 L0,0 2500,500 L2500,1000Z M7500,1000 L7500,750 L7500,1000Z"
    assert line.said == "memory: 3 values from 10 B to 2 B, at most 10 B"


def test_what_has_nothing_to_show_is_no_plot():
    assert plots.plot("x", [("memory", "memory", [(0, 0.0), (1, None)])], 10) is None
    assert plots.plot("x", [("memory", "memory", [])], 10) is None
    assert plots.plot("x", [("memory", "memory", [(0, 1.0)])], 0) is None


def test_moments_close_to_each_other_have_one_label():
    marks = plots.marks([1, 2, 50, 100], 100)
    assert [(mark.label, mark.at, mark.lines) for mark in marks] == [
        ("1-2", 1.0, (1.0, 2.0)),
        ("3", 50.0, (50.0,)),
        ("4", 100.0, (100.0,)),
    ]


# The file


def test_a_file_is_written_whole_and_keeps_its_mode(tmp_path):
    path = tmp_path / "a.html"
    assert pagefile.differs(str(path), "x")
    mask = os.umask(0o027)
    try:
        pagefile.write(str(path), "é\n")
    finally:
        os.umask(mask)
    assert path.read_bytes() == "é\n".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert not pagefile.differs(str(path), "é\n")
    path.chmod(0o604)
    link = tmp_path / "link.html"
    link.symlink_to(path)
    pagefile.write(str(link), "new")
    assert link.is_symlink()
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    assert sorted(tmp_path.iterdir()) == [path, link]


def test_half_a_file_does_not_stay(tmp_path, monkeypatch):
    path = tmp_path / "a.html"
    path.write_text("before")

    def full(*_paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pagefile.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        pagefile.write(str(path), "after")
    assert [one.read_text() for one in tmp_path.iterdir()] == ["before"]


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("missing/a.html", "there is no directory"),
        ("file/a.html", "there is no directory"),
        (".", "is a directory; cure: name a file"),
        ("pipe", "is no ordinary file"),
    ],
)
def test_a_place_that_cannot_be_written_is_told_in_one_line(tmp_path, path, problem):
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    found = pagefile.obstacle(str(tmp_path / path).removesuffix("/."), path)
    assert problem in found
    assert "cure: " in found
    assert "\n" not in found
    assert found.startswith(f"report: {path} (")


def test_a_directory_or_file_of_others_is_told(tmp_path, monkeypatch):
    path = tmp_path / "a.html"
    path.write_text("x")
    assert pagefile.obstacle(str(path), str(path)) == ""
    for closed in (tmp_path, path):
        with monkeypatch.context() as patched:
            patched.setattr(pagefile.os, "access", lambda one, _mode, closed=closed: one != str(closed))
            assert f"{closed} is not writable here" in pagefile.obstacle(str(path), str(path))
    assert "no file is named" in pagefile.obstacle(str(tmp_path), "")


# The action


@pytest.fixture
def act(tmp_path):
    """Run the action; gives back its result."""

    def act(check=False, **args):
        task = mock.MagicMock(
            args={"path": str(tmp_path / "a.html"), **args}, check_mode=check, async_val=0, diff=False
        )
        plugin = virt_migrate_report.ActionModule(
            task=task, connection=mock.MagicMock(), play_context=None, loader=None, templar=None, shared_loader_obj=None
        )
        return plugin.run(task_vars={})

    return act


RECORD = {"name": "a", "run": "5-x", "outcome": "migrated"}


def test_the_action_writes_a_page_once(act, tmp_path):
    done = act(records=[RECORD])
    assert (done["changed"], done["runs"]) == (True, [RECORD])
    assert done["msg"] == f"the report of a is at {tmp_path}/a.html"
    before = (tmp_path / "a.html").stat()
    assert not act(records=[RECORD])["changed"]
    assert os.path.samestat(before, (tmp_path / "a.html").stat())
    assert act(records=[{**RECORD, "outcome": "failed"}])["changed"]


def test_check_mode_writes_nothing_and_says_so(act, tmp_path):
    done = act(check=True, records=[RECORD])
    assert done["changed"]
    assert done["msg"] == f"the report of a would be written to {tmp_path}/a.html"
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_report_writes_nothing(act, tmp_path):
    done = act()
    assert not done["changed"]
    assert "there is no run to report" in done["msg"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        ({"path": "/nowhere/a.html"}, "there is no directory /nowhere"),
        ({"path": ""}, "no file is named"),
        ({"results": "x"}, "results"),
        ({"other": 1}, "other"),
    ],
)
@pytest.mark.parametrize("check", [True, False])
def test_what_is_wrong_is_refused(act, args, problem, check):
    with pytest.raises(AnsibleActionFail, match=problem):
        act(check=check, **args)


def test_a_full_disk_is_one_line(act, monkeypatch):
    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pagefile, "write", full)
    with pytest.raises(AnsibleActionFail, match=r"cannot be written: No space left on device"):
        act(records=[RECORD])


def test_module_and_action_take_the_same():
    with mock.patch.object(module, "AnsibleModule") as made:
        module.main()
    assert made.call_args[1]["argument_spec"] == virt_migrate_report.SPEC
