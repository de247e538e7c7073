# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run that is killed between any two of its steps: the next one, or `cleanup`, ends it right."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest

from ansible_collections.kvmops.migration.plugins.module_utils._migrate import job, worker
from ansible_collections.kvmops.migration.plugins.module_utils._pure import status as statuses
from fake import libvirt as fake
from fake.lab import IMAGE, UUID, disk_xml, domain_xml

RUNNING, PAUSED = fake.VIR_DOMAIN_RUNNING, fake.VIR_DOMAIN_PAUSED
LOST = fake.libvirtError("operation failed: Lost connection to destination host", 9)


class Killed(BaseException):
    """What no `except Exception` sees, as nothing sees SIGKILL."""


@contextmanager
def killed_at(phase, monkeypatch):
    """Whatever is run in this context is killed when it comes to that phase."""

    def reach(self, name):
        self.say(phase=name)
        if name == phase:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(worker.Worker, "phase", reach)
        yield


@pytest.fixture
def kill(lab, monkeypatch):
    """Run virt_migrate and kill it when it comes to that phase."""

    def kill(phase, **options):
        with killed_at(phase, monkeypatch):
            lab.move(**options)

    return kill


def clean(lab):
    """Nothing is left of any run, on either host."""
    files = [name for host in lab.world.hosts.values() for folder in host.directories.values() for name in folder]
    return lab.unfinished() == [] and not [name for name in files if "kvmops" in name]


# Of a guest that runs: libvirt copies its disks.
LIVE = [phase for phase in statuses.PHASES[1:] if phase not in (statuses.COPYING, statuses.VERIFYING, statuses.COPIED)]


@pytest.mark.parametrize("phase", LIVE)
@pytest.mark.parametrize("settle", ["the next run", "cleanup"])
def test_c3_75_a_run_that_was_killed_is_ended_by_the_next(lab, kill, phase, settle):
    lab.add(autostart=True)
    kill(phase)
    assert len(lab.unfinished()) == 1
    result = lab.move(cleanup=True) if settle == "cleanup" else lab.move()
    assert not result.failed, result
    assert clean(lab)
    moved = phase in (statuses.MOVED, statuses.SETTLED, statuses.FINISHING)
    if settle == "cleanup" and not moved:
        assert result.outcome == "failed"
        assert lab.where() == (RUNNING, None)
        assert lab.kvm1.guests[UUID].autostart
        assert lab.kvm2.file(IMAGE) is None
        assert lab.journal_file() is None
    else:
        assert result.outcome == "migrated"
        assert lab.where() == (None, RUNNING)
        assert lab.kvm2.guests[UUID].autostart
        assert lab.journal_file()["images"][0]["phase"] == "left_behind"
        assert lab.kvm2.file(IMAGE).content == "a v1"
    assert result.settled[0]["outcome"] == ("migrated" if moved else "failed")
    again = lab.move() if settle == "the next run" else lab.move(cleanup=True)
    assert not again.changed
    assert again.outcome == ("already_there" if settle == "the next run" else "nothing_to_do")


@pytest.mark.parametrize("phase", [statuses.MOVED, statuses.SETTLED])
def test_a_job_that_failed_before_the_run_was_killed_leaves_nothing(lab, kill, phase):
    lab.add()

    def script(at, source, dest, guest):
        if at == "perform":
            raise LOST

    lab.world.script = script
    kill(phase)
    lab.world.script = lambda *_: None
    result = lab.move(cleanup=True)
    assert result.outcome == "failed"
    assert lab.where() == (RUNNING, None)
    assert lab.kvm2.file(IMAGE) is None
    assert clean(lab)


def test_c3_75_a_job_that_goes_on_is_watched_to_its_end(lab, monkeypatch):
    lab.add()
    lab.world.hold_job()
    began = threading.Event()

    def begin(self, *arguments):
        threading.Thread(target=self._migrate, args=arguments, daemon=True).start()
        lab.world.held_at.wait(5)
        began.set()
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(job.Job, "run", begin)
        lab.move()
    assert lab.kvm1.guests[UUID].job
    lab.world.complete_soon()
    result = lab.move()
    assert result.outcome == "migrated"
    assert len(lab.world.migrations) == 1
    assert lab.where() == (None, RUNNING)
    assert clean(lab)


@pytest.mark.parametrize(
    ("reason", "state"), [(fake.VIR_DOMAIN_PAUSED_USER, PAUSED), (fake.VIR_DOMAIN_PAUSED_MIGRATION, RUNNING)]
)
def test_a_guest_that_stands_still_runs_again_unless_somebody_has_paused_it_since_then(lab, kill, reason, state):
    lab.add()
    kill(statuses.PREPARED)
    lab.kvm1.guests[UUID].state, lab.kvm1.guests[UUID].reason = PAUSED, reason
    assert lab.move(cleanup=True).outcome == "failed"
    assert lab.where() == (state, None)


def test_limits_of_before_come_back(lab, kill):
    lab.add()
    kill(statuses.MOVING, max_downtime=900)
    lab.kvm1.guests[UUID].limits["MaxDowntime"] = 900
    lab.move(cleanup=True)
    assert lab.kvm1.guests[UUID].limits["MaxDowntime"] == 300


def test_an_image_without_the_mark_of_the_run_is_not_its_own(lab, kill):
    lab.add()
    kill(statuses.JOURNALLED)
    lab.kvm2.write(IMAGE, fake.File(content="precious"))
    lab.kvm2.pools["vm"].listed = dict(lab.kvm2.directories["/vm"])
    lab.move(cleanup=True)
    assert lab.kvm2.file(IMAGE).content == "precious"


def test_a_destination_that_is_silent_leaves_it_undetermined(lab, kill):
    lab.add()
    kill(statuses.MOVED)
    lab.world.faults["kvm2", "open"] = fake.libvirtError(
        "unable to connect to server at 'kvm2:22': No route to host", 38
    )
    result = lab.move(cleanup=True)
    assert result.failed
    assert result.outcome == "undetermined"
    assert len(lab.unfinished()) == 1
    del lab.world.faults["kvm2", "open"]
    assert lab.move(cleanup=True).outcome == "migrated"
    assert clean(lab)


GUARDED = "qemu+ssh://root:{}@kvm2/system"


@pytest.mark.parametrize("how", ["cleanup", "the next run"])
def test_a_destination_with_a_password_is_settled_when_it_is_said_again(lab, kill, how):
    lab.add()
    lab.kvm2.password = "s3cret"
    uri = GUARDED.format("s3cret")
    kill(statuses.MOVED, dest_uri=uri)
    result = lab.move(cleanup=True, dest_uri=None)
    assert (result.outcome, result.failure_class) == ("undetermined", "password_needed")
    assert "had a password, which is kept nowhere; cure: run virt_migrate on kvm1 with cleanup: true and" in result.msg
    assert GUARDED.format("***") in result.msg
    assert "s3cret" not in str(lab.unfinished())
    result = lab.move(dest_uri=uri, cleanup=how == "cleanup")
    assert result.outcome == "migrated"
    assert lab.where() == (None, RUNNING)
    assert clean(lab)


def test_another_move_says_that_the_password_is_needed_first(lab, kill):
    lab.add()
    lab.world.hosts["kvm3"] = fake.FakeHost(lab.world, "kvm3")
    lab.kvm2.password = "s3cret"
    kill(statuses.PREPARED, dest_uri=GUARDED.format("s3cret"))
    result = lab.move(dest_uri="qemu+ssh://root@kvm3/system")
    assert result.failure_class == "password_needed"
    assert lab.where() == (RUNNING, None)
    assert not lab.world.migrations


def test_check_mode_settles_nothing(lab, kill):
    lab.add()
    kill(statuses.PREPARED)
    result = lab.move(check=True)
    assert result.outcome == "planned"
    assert "is not settled" in result.warnings[0]
    assert lab.move(check=True, cleanup=True).outcome == "planned"
    assert len(lab.unfinished()) == 1


def test_a_vm_that_was_on_its_way_elsewhere_is_said_to_be_there(lab, kill):
    lab.add()
    lab.world.hosts["kvm3"] = fake.FakeHost(lab.world, "kvm3")
    kill(statuses.MOVED)
    result = lab.move(dest_uri="qemu+ssh://root@kvm3/system")
    assert result.failed
    assert result.failure_class == "moved_elsewhere"
    assert "to kvm2 and is there now" in result.msg
    assert lab.where() == (None, RUNNING)
    assert clean(lab)


def test_c6_100_a_postcopy_that_has_failed_is_not_touched(lab):
    lab.add()
    lab.lose_postcopy()
    assert lab.move(postcopy=True).outcome == "postcopy_failed"
    assert len(lab.unfinished()) == 1
    before = lab.where()
    assert lab.move(cleanup=True).outcome == "postcopy_failed"
    assert lab.where() == before
    lab.world.script = lambda *_: None
    assert lab.move(postcopy_resume=True).outcome == "migrated"
    assert clean(lab)


# --- ending what goes on


def test_c5_95_a_job_without_a_run_is_ended_and_settled(lab):
    guest = lab.add()
    guest.job = {"type": 2, "operation": 5}
    lab.world.fail_job = lambda error: guest.job.clear()
    result = lab.move(cancel=True, check=True)
    assert (result.outcome, result.changed) == ("failed", True)
    assert "abortJob" not in lab.kvm1.calls
    result = lab.move(cancel=True)
    assert (result.outcome, result.changed) == ("failed", True)
    assert "abortJob" in lab.kvm1.calls
    assert lab.where() == (RUNNING, None)


def test_a_job_that_is_no_migration_is_left_alone(lab):
    lab.add().job = {"type": 2, "operation": 9}
    result = lab.move(cancel=True)
    assert result.failure_class == "busy"
    assert "abortJob" not in lab.kvm1.calls


def test_nothing_to_end_is_no_failure(lab):
    lab.add()
    result = lab.move(cancel=True)
    assert (result.outcome, result.changed) == ("nothing_to_do", False)


def test_c2_64_a_job_of_somebody_else_is_waited_for_when_asked(lab):
    guest = lab.add(xml=domain_xml(disks=[disk_xml()]))
    guest.job = {"type": 2, "operation": 9}
    assert lab.move().failure_class == "busy"
    threading.Timer(0.2, guest.job.clear).start()
    assert lab.move(wait_for_job=True).outcome == "migrated"
    assert lab.where() == (None, RUNNING)
