# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The process that owns a run: taken by one only, watched by its lease, asked to end, found dead."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time

import pytest

from ansible_collections.kvmops.migration.plugins.module_utils._migrate import worker as workers
from ansible_collections.kvmops.migration.plugins.module_utils._migrate.worker import Held, Worker
from ansible_collections.kvmops.migration.plugins.plugin_utils import runs


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "RUN_DIRECTORY", str(tmp_path / "run"))
    monkeypatch.setattr(runs, "RUN_DIRECTORY", str(tmp_path / "run"))
    return tmp_path / "run"


def detached(work):
    worker = Worker("r1", "a", "continue").take()
    assert worker.detach(work)
    return worker


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def look():
    """What the controller's script prints of the run."""
    script = runs.LOOK.format(folder=f"{workers.RUN_DIRECTORY}/r1", lines=20)
    said = subprocess.run(["sh", "-c", script], text=True, capture_output=True, check=False).stdout
    word, _line, rest = said.partition("\n")
    return word, rest


def block(directory):
    def work():
        # Nobody ends it where a test has failed.
        deadline = time.monotonic() + 30
        while not (directory / "go").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return {"outcome": "migrated"}

    return work


def test_a_vm_has_one_run_at_a_time():
    first = Worker("r1", "a b/c").take()
    with pytest.raises(Held) as held:
        Worker("r2", "a b/c").take()
    assert held.value.status["run"] == "r1"
    Worker("r3", "other").take().leave()
    first.leave()
    Worker("r2", "a b/c").take().leave()


def test_c3_75_a_run_in_a_process_of_its_own_outlives_this_one_and_is_fetched(directory):
    detached(block(directory))
    wait_until(lambda: look()[0] == "alive")
    _word, rest = look()
    assert json.loads(rest)["name"] == "a"
    assert [run["run"] for run in workers.live()] == ["r1"]
    with pytest.raises(Held):
        Worker("r2", "a").take()
    (directory / "go").touch()
    wait_until(lambda: look()[0] == "done")
    assert json.loads(look()[1]) == {"outcome": "migrated"}
    wait_until(lambda: not workers.live())
    shutil.rmtree(directory / "r1")
    assert look() == ("gone", "")


def test_c5_95_who_asked_a_run_to_end_hears_its_answer_before_its_controller_removes_it(directory):
    detached(block(directory))
    wait_until(lambda: look()[0] == "alive")
    heard = []

    def wait():
        heard.append(workers.wait_for("r1", 10, end=True))

    waiter = threading.Thread(target=wait)
    waiter.start()
    wait_until((directory / "r1" / "cancel").exists)
    (directory / "go").touch()
    wait_until(lambda: look()[0] == "done")
    # What the controller does in the moment it has the answer, while the waiter sleeps between two looks.
    subprocess.run(["sh", "-c", runs.REMOVE.format(folder=directory / "r1")], check=True)
    waiter.join()
    assert heard == [{"outcome": "migrated"}]
    assert not (directory / "r1").exists()
    assert workers.wait_for("r1", 1) is None


def test_a_process_that_was_killed_is_found_dead_and_frees_the_vm(directory):
    detached(block(directory))
    wait_until(lambda: look()[0] == "alive")
    os.kill(json.loads(look()[1])["pid"], signal.SIGKILL)
    wait_until(lambda: look()[0] == "dead")
    assert workers.wait_for("r1", 1) is None
    Worker("r2", "a").take().leave()


def test_work_that_breaks_down_is_in_the_log():
    def work():
        raise ZeroDivisionError("half")

    detached(work)
    wait_until(lambda: look()[0] == "dead")
    assert "ZeroDivisionError: half" in look()[1]


def test_it_can_be_asked_to_end(directory):
    worker = Worker("r1", "a").take()
    assert worker.wish() is None
    assert workers.ask_to_end("r1")
    assert worker.wish()[0] == workers.CANCELLED
    worker.leave()
    assert not workers.ask_to_end("r1")


@pytest.mark.parametrize(("loss", "wish"), [("cancel", workers.CONTROLLER_LOST), ("continue", None), ("", None)])
def test_c5_98_a_controller_that_renews_no_lease_is_lost(monkeypatch, loss, wish):
    clock = [100.0]
    monkeypatch.setattr(workers.time, "monotonic", lambda: clock[0])
    worker = Worker("r1", "a", loss).take()
    clock[0] += 29
    assert worker.wish() is None
    look()
    worker.say()
    clock[0] += 29
    assert worker.wish() is None
    clock[0] += 2
    assert (worker.wish() or (None,))[0] == wish
    worker.say()
    controller = json.loads(look()[1])["controller"]
    assert controller == ("lost" if loss else "none")
    worker.leave()


def test_who_may_not_write_there_goes_on_unseen(monkeypatch, directory):
    directory.write_text("in the way")
    worker = Worker("r1", "a", "cancel").take()
    assert not worker.seen
    assert not worker.detach(dict)
    worker.say(percent=3)
    worker.leave()


def test_folders_of_runs_that_ended_long_ago_go_away(directory):
    detached(lambda: {"outcome": "migrated"})
    # The answer is there a moment before its process has ended.
    wait_until(lambda: look()[0] == "done" and not workers.live())
    Worker("r2", "b").take().leave()
    assert (directory / "r1").exists()
    old = time.time() - workers.KEPT - 1
    os.utime(directory / "r1", (old, old))
    Worker("r3", "b").take().leave()
    assert not (directory / "r1").exists()


def test_a_phase_waits_while_somebody_holds_it(directory):
    (directory / "hold").mkdir(parents=True)
    (directory / "hold" / "moved").touch()

    def work():
        worker.phase("moved")
        return {}

    worker = Worker("r1", "a", "continue").take()
    worker.detach(work)
    wait_until(lambda: json.loads(look()[1] or "{}").get("phase") == "moved")
    (directory / "hold" / "moved").unlink()
    wait_until(lambda: look()[0] == "done")


def test_the_lock_of_a_vm_goes_away_with_its_run(directory):
    Worker("r1", "a").take().leave()
    assert list((directory / "vm").iterdir()) == []
    detached(lambda: {"outcome": "migrated"})
    wait_until(lambda: look()[0] == "done" and not workers.live())
    assert list((directory / "vm").iterdir()) == []


def test_what_holds_a_run_is_said_and_that_its_end_was_asked_for(directory):
    hold = directory / "hold" / "moving"
    hold.parent.mkdir(parents=True)
    hold.touch()
    worker = Worker("r1", "a").take()
    waiting = threading.Thread(target=worker.phase, args=("moving",))
    waiting.start()
    try:
        wait_until(lambda: workers.status_of("r1").get("held"))
        assert workers.status_of("r1")["line"] == f"a: moving; held by {hold}"
        assert workers.ask_to_end("r1")
        assert workers.status_of("r1")["line"] == f"a: moving; its end was asked for; held by {hold}"
    finally:
        hold.unlink()
        waiting.join()
    assert workers.status_of("r1")["line"] == "a: moving; its end was asked for"
    worker.leave()
    assert workers.status_of("r1") == {}
