# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What virt_migrate makes of moves that do not go well: decided from both hosts, never from the error."""

from __future__ import annotations

import copy
import threading

import pytest

from ansible_collections.kvmops.migration.plugins.module_utils import _libvirt
from ansible_collections.kvmops.migration.plugins.module_utils._migrate import settle, worker
from ansible_collections.kvmops.migration.plugins.module_utils._migrate.ledger import Image, Ledger
from ansible_collections.kvmops.migration.plugins.module_utils._migrate.worker import Worker
from ansible_collections.kvmops.migration.plugins.module_utils._pure import status as statuses
from fake import libvirt as fake
from fake.lab import DEST_URI, IMAGE, OTHER, UUID, disk_xml, domain_xml, volume_xml

RUNNING, PAUSED, SHUTOFF = fake.VIR_DOMAIN_RUNNING, fake.VIR_DOMAIN_PAUSED, fake.VIR_DOMAIN_SHUTOFF
LOST = "operation failed: Lost connection to destination host"


def fail_in(lab, at, message=LOST, code=fake.VIR_ERR_OPERATION_FAILED, then=None):
    """Let libvirt fail in a phase of the migration, after `then` has changed the world."""

    def script(phase, source, dest, guest):
        if phase == at:
            if then is not None:
                then(source, dest, guest)
            raise fake.libvirtError(message, code)

    lab.world.script = script


@pytest.mark.parametrize("phase", ["begin", "prepare", "perform"])
def test_c3_67_a_move_that_fails_leaves_the_vm_where_it_was_and_nothing_behind(lab, phase):
    lab.add(autostart=True)
    fail_in(lab, phase)
    result = lab.move()
    assert result.failed
    assert result.outcome == "failed"
    assert result.failure_class == "connection_lost"
    assert result.cure
    assert "moving a from kvm1 to kvm2 failed: operation failed: Lost connection" in result.msg
    assert "a goes on running on kvm1" in result.msg
    assert not result.changed
    assert lab.where() == (RUNNING, None)
    assert lab.kvm1.guests[UUID].persistent
    assert lab.kvm1.guests[UUID].autostart
    assert lab.kvm1.file(IMAGE).content == "a v1"
    assert lab.kvm2.file(IMAGE) is None
    assert result.left_behind == []
    assert lab.journal_file() is None
    assert [record["outcome"] for record in lab.record()] == ["failed"]


def test_the_next_run_after_a_failure_succeeds(lab):
    lab.add()
    fail_in(lab, "perform")
    lab.move()
    lab.world.script = lambda *_: None
    assert lab.move().outcome == "migrated"


@pytest.mark.parametrize(
    ("message", "code", "failure_class", "role"),
    [
        ("operation aborted: migration out job: canceled by client", 78, "cancelled", None),
        ("Unsafe migration: Migration without shared storage is unsafe", 81, "unsafe_storage", None),
        (
            "internal error: unable to connect to server at 'kvm2:49152': No route to host",
            38,
            "port_closed",
            "firewall",
        ),
        ("something never seen", 1, "libvirt", None),
    ],
)
def test_the_message_gives_class_cure_and_role(lab, message, code, failure_class, role):
    lab.add()
    fail_in(lab, "prepare", message, code)
    result = lab.move()
    assert (result.failure_class, result.role) == (failure_class, role)
    assert result.cure
    assert message in result.msg


OVERWRITTEN = "End of file while reading data: : Input/output error"


@pytest.mark.parametrize(
    ("logged", "failure_class", "said"),
    [
        ("unable to connect to server at 'kvm2:49152': No route to host", "port_closed", "No route to host"),
        ("", "connection_lost", OVERWRITTEN),
    ],
)
def test_a_reason_that_libvirt_has_overwritten_comes_from_its_log(lab, logged, failure_class, said):
    """So it is with every failure of a peer-to-peer migration over ssh, by libvirt 9.0 at least."""
    lab.add()
    lab.daemon_errors = [(1.0, logged)] if logged else []
    lab.daemon_errors += [(2.0, "migration successfully aborted"), (2.1, OVERWRITTEN)]
    fail_in(lab, "perform", OVERWRITTEN, 38)
    result = lab.move()
    assert result.failure_class == failure_class
    assert said in result.msg


@pytest.mark.parametrize(
    ("others", "logged", "failure_class", "said"),
    [
        (["a"], ["No space left on device", "No route to host"], "no_space", "failed: No space left on device; "),
        (["a", "b"], ["No space left on device"], "no_space", "failed: No space left on device; "),
        (
            ["a", "b"],
            ["No space left on device", "referenced filter 'x' is missing"],
            "connection_lost",
            "of this VM or of others that moved: No space left on device; referenced filter 'x' is missing",
        ),
        (["b"], ["no space left on device", "write: No space left on device"], "no_space", "or of others"),
    ],
)
def test_the_reason_of_one_vm_is_not_told_as_that_of_another(lab, monkeypatch, others, logged, failure_class, said):
    lab.add()
    monkeypatch.setattr(worker, "live", lambda: [{"name": name} for name in others])
    lab.daemon_errors = [(1.0, text) for text in logged] + [(2.1, OVERWRITTEN)]
    fail_in(lab, "perform", OVERWRITTEN, 38)
    result = lab.move()
    assert result.failure_class == failure_class
    assert said in result.msg


def test_a_reason_that_is_there_is_not_looked_for(lab):
    lab.add()
    lab.daemon_errors = [(1.0, "No space left on device")]
    fail_in(lab, "perform", "End of file while reading data: Host key verification failed.: Input/output error", 38)
    assert lab.move().failure_class == "host_key"


def test_the_text_of_a_clean_abort_is_believed_no_more_than_any_other(lab):
    """Error 93 says that a migration was aborted; the states say that the guest has moved."""
    lab.add()
    fail_in(lab, "confirm", "migration successfully aborted", fake.VIR_ERR_MIGRATE_FINISH_OK)
    result = lab.move()
    assert not result.failed
    assert result.outcome == "migrated"
    assert lab.where() == (None, RUNNING)
    assert "migration successfully aborted" in result.warnings[0]


def test_a_source_that_could_not_let_go_is_settled(lab):
    """The guest runs at the destination, and the source is shut off and still defined."""
    lab.add()

    def let_go_half(source, dest, guest):
        guest.state = SHUTOFF

    fail_in(lab, "finish", then=let_go_half)
    result = lab.move()
    assert result.outcome == "migrated"
    assert lab.where() == (None, RUNNING)


def test_c4_91_a_paused_source_is_resumed_when_the_guest_ran(lab):
    """Paused for the hand-over, and the destination is gone."""
    lab.add()

    def pause(source, dest, guest):
        guest.state, guest.reason = PAUSED, fake.VIR_DOMAIN_PAUSED_MIGRATION

    fail_in(lab, "perform", then=pause)
    result = lab.move()
    assert result.outcome == "failed"
    assert lab.where() == (RUNNING, None)
    assert result.actions[0]["action"] == "resume_source"
    assert lab.kvm2.file(IMAGE) is None


@pytest.mark.parametrize(
    "said",
    [
        "operation failed: job 'migration out' failed due to I/O error",
        # QEMU cuts the stream for it, and that may be what libvirt hears of first.
        "operation failed: job 'migration out' failed: Unable to write to socket: Bad file descriptor",
    ],
)
def test_c3_80_a_disk_that_fails_on_the_way_ends_the_move_where_that_was_said(lab, said):
    lab.add()

    def fail(source, dest, guest):
        guest.state, guest.reason = PAUSED, fake.VIR_DOMAIN_PAUSED_IOERROR

    fail_in(lab, "perform", said, then=fail)
    result = lab.move(abort_on_error=True)
    assert "ABORT_ON_ERROR" in lab.flags()
    assert (result.outcome, result.failure_class) == ("failed", "disk_error")
    assert UUID in lab.kvm1.guests
    assert UUID not in lab.kvm2.guests
    assert lab.kvm1.file(IMAGE).content == "a v1"
    assert lab.kvm2.file(IMAGE) is None


def test_a_guest_that_was_paused_is_not_resumed(lab):
    lab.add(state=PAUSED)
    fail_in(lab, "perform")
    assert lab.move().outcome == "failed"
    assert lab.where() == (PAUSED, None)


def test_c3_73_a_guest_that_powers_itself_off(lab):
    lab.add()

    def power_off(source, dest, guest):
        guest.state, guest.reason = SHUTOFF, 1

    fail_in(lab, "perform", "operation failed: domain is not running", then=power_off)
    result = lab.move()
    assert result.outcome == "failed"
    assert "a is shut off on kvm1" in result.msg
    assert lab.where() == (SHUTOFF, None)
    assert lab.kvm2.file(IMAGE) is None


def test_a_definition_made_by_this_run_is_taken_away_again(lab):
    lab.add()

    def define(source, dest, guest):
        dest.guests[UUID].state, dest.guests[UUID].reason, dest.guests[UUID].persistent = SHUTOFF, 1, True

    fail_in(lab, "perform", then=define)
    result = lab.move()
    assert result.outcome == "failed"
    assert lab.where() == (RUNNING, None)
    assert [action["action"] for action in result.actions] == ["remove_dest_definition", "remove_dest_images"]
    assert lab.kvm2.file(IMAGE) is None


def test_a_definition_that_was_there_before_stays(lab):
    lab.add()
    lab.add("kvm2", state=SHUTOFF, image="", xml=domain_xml())
    fail_in(lab, "perform")
    assert lab.move().outcome == "failed"
    assert lab.where() == (RUNNING, SHUTOFF)


def test_c1_2_a_stale_definition_at_the_destination_is_replaced(lab):
    lab.add()
    lab.add("kvm2", state=SHUTOFF, image="", xml=domain_xml())
    assert lab.move().outcome == "migrated"
    assert lab.where() == (None, RUNNING)


@pytest.mark.parametrize("disk", [disk_xml(), volume_xml("a.qcow2")])
def test_an_image_that_another_vm_took_meanwhile_stays(lab, disk):
    lab.add()

    def take(source, dest, guest):
        dest.guests[OTHER] = fake.Guest("b", OTHER, domain_xml("b", OTHER, [disk]))

    fail_in(lab, "perform", then=take)
    result = lab.move()
    assert result.outcome == "failed"
    assert lab.kvm2.file(IMAGE) is not None
    assert "VM b has it as a disk" in result.warnings[0]


def test_a_shared_disk_survives_every_failure(lab):
    lab.kvm2.share("/vm", lab.kvm1)
    lab.add()
    fail_in(lab, "perform")
    result = lab.move()
    assert result.outcome == "failed"
    assert result.actions == []
    assert lab.kvm1.file(IMAGE).content == "a v1"


def test_a_guest_that_runs_on_both_is_not_touched(lab):
    lab.add()

    def both(source, dest, guest):
        guest.state, guest.reason = RUNNING, 5

    fail_in(lab, "finish", then=both)
    result = lab.move()
    assert result.outcome == "split_brain"
    assert result.failure_class == "split_brain"
    assert result.changed
    assert "a runs on kvm1 and on kvm2" in result.msg
    assert lab.where() == (RUNNING, RUNNING)
    assert lab.kvm2.file(IMAGE) is not None


def test_a_hand_over_that_stopped_half_way_is_not_touched(lab):
    """The guest runs at the destination; the source holds it paused and must never be resumed."""
    lab.add()
    fail_in(lab, "finish")
    result = lab.move()
    assert result.outcome == "split_brain"
    assert "never resume it on kvm1" in result.msg
    assert lab.where() == (PAUSED, RUNNING)


def test_c6_100_a_failed_post_copy_is_not_touched(lab):
    lab.add()

    def torn(source, dest, guest):
        guest.reason = fake.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED
        dest.guests[UUID].reason = fake.VIR_DOMAIN_RUNNING_POSTCOPY_FAILED

    fail_in(lab, "finish", then=torn)
    result = lab.move()
    assert result.outcome == "postcopy_failed"
    assert lab.where() == (PAUSED, RUNNING)
    assert lab.kvm2.file(IMAGE) is not None


def test_a_guest_that_is_nowhere_afterwards(lab):
    lab.add()

    def vanish(source, dest, guest):
        del source.guests[UUID]
        del dest.guests[UUID]

    fail_in(lab, "perform", then=vanish)
    result = lab.move()
    assert result.outcome == "lost"
    assert lab.kvm2.file(IMAGE) is not None
    assert not marks(lab.kvm2)


def marks(host) -> list[str]:
    """What says by which run an image was made."""
    return [name for names in host.directories.values() for name in names if name.startswith(".kvmops")]


@pytest.mark.parametrize("keep", [False, True])
def test_a_definition_that_was_there_before_is_no_guest_that_has_moved(lab, keep):
    """The guest ends on the way, and all that is left of it is what lay at the destination."""
    lab.add(persistent=keep)
    lab.add("kvm2", state=SHUTOFF, image="", xml=domain_xml())

    def end(source, dest, guest):
        if keep:
            guest.state, guest.reason = SHUTOFF, 1
        else:
            del source.guests[UUID]
        dest.guests[UUID].state, dest.guests[UUID].reason = SHUTOFF, 1

    fail_in(lab, "perform", then=end)
    result = lab.move(undefine_source=not keep)
    assert result.failed
    assert result.outcome == "crashed"
    assert "a has ended" in result.msg
    assert lab.where() == (SHUTOFF if keep else None, SHUTOFF)
    assert lab.kvm2.file(IMAGE) is not None
    assert not marks(lab.kvm2)


def test_images_of_a_guest_that_has_moved_and_gone_stay(lab):
    """libvirt has moved it, and the guest switches itself off before anybody looks."""
    lab.add()

    def script(phase, source, dest, guest):
        if phase == "confirm":
            guest.state, guest.reason = SHUTOFF, fake.VIR_DOMAIN_SHUTOFF_MIGRATED
            dest.guests.pop(UUID)

    lab.world.script = script
    result = lab.move(persistent=False, undefine_source=False)
    assert result.outcome == "failed"
    assert lab.kvm2.file(IMAGE) is not None


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(_libvirt, "PATIENCE", 0.2)
    monkeypatch.setattr(_libvirt.Host.open.__func__, "__defaults__", (False, 0.2))


@pytest.mark.parametrize("phase", ["begin", "prepare", "perform", "finish"])
def test_c3_76_a_destination_that_falls_silent_counts_as_running(lab, impatient, phase):
    lab.add()

    def silence(source, dest, guest):
        dest.answers.clear()
        if phase == "finish":
            guest.state = SHUTOFF

    fail_in(lab, phase, then=silence)
    result = lab.move()
    assert result.outcome == "undetermined"
    assert result.failure_class == "undetermined"
    assert result.changed
    assert result.dest["state"] == "unknown"
    assert "kvm2 does not say whether a runs there" in result.msg
    assert UUID in lab.kvm1.guests
    assert lab.kvm1.file(IMAGE) is not None
    for call in ("undefine", "resume", "delete volume"):
        assert call not in lab.kvm1.calls[lab.kvm1.calls.index("migrate") :]
    assert lab.record()[-1]["outcome"] == "undetermined"


def test_c3_77_a_source_that_falls_silent_counts_as_running(lab, impatient):
    lab.add()

    def silence(source, dest, guest):
        source.answers.clear()

    fail_in(lab, "perform", then=silence)
    result = lab.move()
    lab.kvm1.answers.set()
    assert result.outcome == "undetermined"
    assert result.source["state"] == "unknown"
    assert lab.kvm2.file(IMAGE) is not None
    assert "undefine" not in lab.kvm2.calls


def test_a_host_that_comes_back_is_believed(lab, impatient):
    lab.add()

    def silence(source, dest, guest):
        dest.answers.clear()
        threading.Timer(0.4, dest.answers.set).start()

    fail_in(lab, "perform", then=silence)
    result = lab.move()
    assert result.outcome == "failed"
    assert lab.where() == (RUNNING, None)
    assert lab.kvm2.file(IMAGE) is None


def test_c3_69_a_daemon_that_was_restarted_is_asked_again(lab):
    """The source's daemon dies in the perform phase, and its guest goes on."""
    lab.add()

    def restart(source, dest, guest):
        source.broken = "client socket is closed"
        reopen = source.called

        def called(what):
            if what == "open":
                source.broken = ""
            reopen(what)

        source.called = called

    fail_in(lab, "perform", "client socket is closed", then=restart)
    result = lab.move()
    assert result.outcome == "failed"
    assert lab.where() == (RUNNING, None)


@pytest.mark.parametrize("at", ["begin", "prepare"])
def test_a_job_that_goes_on_without_us_is_left_alone(lab, at):
    """The module's connection broke, and libvirt is still at it."""
    lab.add()

    def script(phase, source, dest, guest):
        if phase == at:
            lab.world.script = lambda *_: None
            raise KeyError("a thread that dies while the job lives")

    lab.world.script = script
    result = lab.move()
    assert result.outcome == "undetermined"
    assert "a job still goes on" in result.msg or "still arriving" in result.msg
    assert lab.where()[0] == RUNNING
    assert (lab.kvm2.file(IMAGE) is not None) == (at == "prepare")


@pytest.mark.parametrize(
    ("looked", "found", "forbidden"),
    [
        (("running", "shut_off"), ("running", "running"), "undefine"),
        (("paused", "absent"), ("paused", "running"), "resume"),
        (("shut_off", "running"), ("shut_off", "unknown"), "undefine"),
        (("running", "absent"), ("unknown", "absent"), "delete volume"),
    ],
)
def test_what_changed_since_the_look_is_not_acted_upon(lab, monkeypatch, looked, found, forbidden):
    lab.add()
    lab.kvm2.write(IMAGE, fake.File())
    lab.kvm2.pools["vm"].listed = dict(lab.kvm2.directories["/vm"])
    hosts = [_libvirt.Host.open(uri, 5) for uri in ("qemu:///system", DEST_URI)]
    ledger = Ledger(name="a", uuid=UUID, ran=True, images=(Image("vda", IMAGE, IMAGE, "/vm/.marker"),))
    settlement = settle.Settlement(*hosts, ledger)
    for side, states in ((settlement.source, (looked[0], found[0])), (settlement.dest, (looked[1], found[1]))):
        told = iter([states[0]])
        monkeypatch.setattr(side, "state", lambda told=told, later=states[1]: next(told, later))
    monkeypatch.setattr(settlement.source, "busy", lambda: False)
    end = settlement.settle()
    assert "was not done" in end.warnings[0]
    assert forbidden not in lab.kvm1.calls + lab.kvm2.calls


def test_a_guest_that_is_still_arriving_is_waited_for(lab):
    lab.add()

    def slow(source, dest, guest):
        guest.state, guest.reason = RUNNING, 5
        dest.guests[UUID] = fake.Guest("a", UUID, domain_xml(), PAUSED, fake.VIR_DOMAIN_PAUSED_MIGRATION)
        threading.Timer(0.1, dest.guests.pop, (UUID, None)).start()

    fail_in(lab, "finish", then=slow)
    result = lab.move()
    assert result.outcome == "failed"
    assert lab.where() == (RUNNING, None)


def test_c5_98_somebody_who_stops_the_module_stops_the_job(lab, monkeypatch):
    lab.add()
    lab.world.hold_job()

    def interrupt(self, stats, seconds):
        raise KeyboardInterrupt

    from ansible_collections.kvmops.migration.plugins.module_utils._migrate import job

    monkeypatch.setattr(job.Job, "_take", interrupt)
    with pytest.raises(KeyboardInterrupt):
        lab.move()
    assert "abortJob" in lab.kvm1.calls
    assert lab.where()[0] == RUNNING
    lab.kvm2.guests.clear()
    lab.kvm2.directories["/vm"].clear()


def test_a_source_that_takes_no_second_connection_can_still_be_left(lab, monkeypatch):
    lab.add()
    opened = []
    original = fake.open

    def one_only(uri):
        if uri == "qemu:///system":
            opened.append(uri)
            if len(opened) == 2:
                raise fake.libvirtError("too many active clients", 1)
        return original(uri)

    monkeypatch.setattr(fake, "open", one_only)
    assert lab.move().outcome == "migrated"
    assert len(opened) >= 2


def test_an_offline_move_that_fails_half_way_is_undone(lab):
    lab.kvm2.share("/vm", lab.kvm1)
    lab.add(state=SHUTOFF)
    fail_in(lab, "finish")
    result = lab.move()
    assert result.outcome == "failed"
    assert lab.where() == (SHUTOFF, None)
    assert lab.kvm1.file(IMAGE).content == "a v1"


def test_two_disks_are_both_cleaned_up(lab):
    lab.add(xml=domain_xml(disks=[disk_xml(), disk_xml("vdb", "/vm/b.qcow2")]))
    lab.kvm1.write("/vm/b.qcow2", fake.File())
    fail_in(lab, "perform")
    assert lab.move().outcome == "failed"
    assert lab.kvm2.directories["/vm"] == {}


def test_a_journal_that_cannot_be_written_stops_the_run_before_it_changes_anything(lab):
    lab.add()
    lab.kvm2.write(IMAGE, fake.File(content="old"))
    (lab._tmp_path / "kvm1").write_text("in the way")
    result = lab.move(force=True)
    assert result.failure_class == "not_permitted"
    assert lab.world.migrations == []
    assert lab.kvm2.file(IMAGE).content == "old"


def test_an_answer_is_given_even_when_the_record_cannot_be_kept(lab):
    lab.add()

    def full(phase, source, dest, guest):
        if phase == "confirm":
            import shutil

            shutil.rmtree(lab._tmp_path / "kvm1")
            (lab._tmp_path / "kvm1").write_text("in the way")

    lab.world.script = full
    result = lab.move()
    assert result.outcome == "migrated"
    assert any("journal" in warning for warning in result.warnings)


@pytest.mark.parametrize(("sent", "outcome", "state"), [(True, "undetermined", PAUSED), (False, "failed", RUNNING)])
def test_old_memory_is_never_resumed(lab, sent, outcome, state):
    """The guest ran at the destination and ended there, while the source, which had sent all of it, heard nothing."""
    lab.add()

    def ended_there(source, dest, guest):
        guest.state, guest.reason = PAUSED, fake.VIR_DOMAIN_PAUSED_MIGRATION
        guest.completed = {"type": fake.VIR_DOMAIN_JOB_COMPLETED, "operation": 5} if sent else {}
        dest.guests.pop(UUID, None)

    fail_in(lab, "finish", then=ended_there)
    result = lab.move()
    assert result.outcome == outcome
    assert lab.where() == (state, None)
    assert bool(lab.unfinished()) == sent


def restart(lab, host):
    """Its daemon begins anew: connections that it had are closed for good, and statistics of jobs forgotten."""
    lab.world.hosts[host.name] = copy.copy(host)
    host.broken = "client socket is closed"


@pytest.mark.parametrize(
    ("restarted", "persistent", "stale", "outcome", "state"),
    [
        # libvirt defines a guest that shall stay before it lets it run.
        (True, True, False, "failed", RUNNING),
        # Nothing is left there of a transient guest that has run and ended, nor of what came over an older definition.
        (True, False, False, "undetermined", PAUSED),
        (True, True, True, "undetermined", PAUSED),
        # The daemon that has seen all of the job would know of one that came to its end.
        (False, False, False, "failed", RUNNING),
        (False, True, True, "failed", RUNNING),
    ],
)
def test_c3_69_a_paused_source_is_resumed_only_when_the_guest_cannot_have_run_elsewhere(
    lab, restarted, persistent, stale, outcome, state
):
    """libvirt that begins anew leaves a guest paused of which it has not heard whether the other side runs it."""
    lab.add(persistent=persistent)
    if stale:
        lab.add("kvm2", state=SHUTOFF, image="", xml=domain_xml())

    def lose(source, dest, guest):
        guest.state, guest.reason = PAUSED, fake.VIR_DOMAIN_PAUSED_MIGRATION
        if stale:
            dest.guests[UUID].state, dest.guests[UUID].reason = SHUTOFF, 1
        else:
            dest.guests.pop(UUID)
        if restarted:
            restart(lab, source)

    fail_in(lab, "finish", "client socket is closed", then=lose)
    result = lab.move()
    assert result.outcome == outcome
    assert lab.where() == (state, SHUTOFF if stale else None)
    if outcome == "undetermined":
        assert "nothing proves that it has not run on kvm2" in result.msg
        assert "virsh destroy a on kvm1, else virsh resume a there" in result.cure
        assert lab.kvm2.file(IMAGE) is not None
        assert len(lab.unfinished()) == 1
        # Not by the next run either, which has seen nothing of the job.
        assert lab.move(cleanup=True).outcome == "undetermined"
        assert lab.where()[0] == PAUSED


def test_a_guest_that_has_got_a_definition_at_the_destination_has_arrived_there(lab):
    """And ended there since: the source's memory is as old as that."""
    lab.add()

    def ended_there(source, dest, guest):
        guest.state, guest.reason = PAUSED, fake.VIR_DOMAIN_PAUSED_MIGRATION
        dest.guests[UUID] = fake.Guest("a", UUID, domain_xml())

    fail_in(lab, "finish", then=ended_there)
    result = lab.move()
    assert result.outcome == "undetermined"
    assert lab.where() == (PAUSED, SHUTOFF)


class Fetching:
    """Post-copy in which one page comes with each look until the last one ends it, or until it is `stuck` there."""

    def __init__(self, pages, stuck=0):
        self.left, self.stuck = pages, stuck

    def tick(self, world, guest):
        if self.left == 1:
            world.migration.arrive()
            return {}
        self.left = max(self.left - 1, self.stuck)
        return {"memory_remaining": self.left, "memory_postcopy_requests": 1}


def in_postcopy(lab, how, pages, stuck=0):
    """A post-copy whose daemons lose each other, in the move or in its resume: libvirt's call fails, and it goes on."""

    def script(phase, source, dest, guest):
        if phase == ("resume" if how == "resumed" else "prepare"):
            if how != "resumed":
                lab.world.migration.hand_over()
            lab.world.model = Fetching(pages, stuck)
            raise fake.Unattended("Unable to read from socket: Connection reset by peer", 38)

    lab.add()
    options = {"postcopy": True, "postcopy_resume": how == "resumed"}
    if how == "resumed":
        lab.lose_postcopy()
        assert lab.move(**options).outcome == "postcopy_failed"
    lab.world.script = script
    return lab.move(**options)


@pytest.mark.parametrize("how", ["begun", "resumed"])
def test_c6_101_a_postcopy_that_comes_through_without_the_daemons_has_moved(lab, how):
    """It takes longer than two sides get to come to rest, and more of it comes all the time."""
    result = in_postcopy(lab, how, pages=60)
    assert result.outcome == "migrated", result.msg
    assert lab.where() == (None, RUNNING)
    assert "both hosts show that the VM has moved" in " ".join(result.warnings)
    assert lab.unfinished() == []


@pytest.mark.parametrize("how", ["begun", "resumed"])
def test_c6_101_a_postcopy_of_which_nothing_comes_any_more_is_no_split_brain(lab, how):
    result = in_postcopy(lab, how, pages=60, stuck=50)
    assert result.outcome == "undetermined"
    assert "a job still goes on" in result.msg
    assert lab.where() == (PAUSED, RUNNING)
    assert "resume" not in lab.kvm1.calls
    assert len(lab.unfinished()) == (2 if how == "resumed" else 1)


def test_c6_101_nothing_is_resumed_from_which_the_guest_has_gone_in_postcopy(lab):
    """It has ended at the destination, and the source has not noticed."""

    def script(phase, source, dest, guest):
        if phase == "prepare":
            lab.world.migration.hand_over()
            dest.guests.pop(UUID)
            raise fake.Unattended("Unable to read from socket: Connection reset by peer", 38)

    lab.add(persistent=False)
    lab.world.script = script
    assert lab.move(postcopy=True).outcome == "undetermined"
    assert lab.where() == (PAUSED, None)


def test_c6_101_a_torn_postcopy_with_a_silent_destination_says_what_helps(lab, impatient):
    lab.add()
    lab.lose_postcopy()
    lose = lab.world.script

    def script(phase, source, dest, guest):
        if phase == "perform":
            dest.answers.clear()
        lose(phase, source, dest, guest)

    lab.world.script = script
    result = lab.move(postcopy=True)
    assert result.outcome == "undetermined"
    assert "post-copy failed by what kvm1 says, and kvm2 does not say whether a runs; nothing" in result.msg
    assert "postcopy_resume: true" in result.cure


@pytest.fixture
def lines(lab, monkeypatch):
    """The lines that whoever watches could read of the run, each once."""
    found = []
    say = Worker.say

    def listen(self, **facts):
        say(self, **facts)
        line = statuses.line(self._status)
        if line not in found:
            found.append(line)

    monkeypatch.setattr(Worker, "say", listen)
    return found


def test_what_is_waited_for_after_the_job_is_said(lab, impatient, lines):
    lab.add()

    def silence(source, dest, guest):
        dest.answers.clear()

    fail_in(lab, "perform", then=silence)
    assert lab.move().outcome == "undetermined"
    told = [line for line in lines if "kvm2 has yet to answer" in line]
    assert told
    assert all(" kvm1 -> kvm2: the job is over, both hosts are asked where the VM is: " in line for line in told)


def test_a_host_that_does_not_answer_is_named_while_it_is_waited_for(lab, impatient, lines, monkeypatch):
    lab.add()
    monkeypatch.setattr(settle, "LIMIT", 2.0)

    def silence(source, dest, guest):
        dest.answers.clear()
        threading.Timer(1.0, dest.answers.set).start()

    fail_in(lab, "perform", then=silence)
    assert lab.move().outcome == "failed"
    assert [line for line in lines if "kvm2 does not answer" in line], lines


def test_a_postcopy_that_goes_on_alone_says_what_is_left_of_it(lab, lines):
    assert in_postcopy(lab, "begun", pages=60).outcome == "migrated"
    left = [line for line in lines if "the job on kvm1 goes on, " in line and "B of memory left" in line]
    assert len(left) > 5, lines


@pytest.mark.parametrize("phase", [statuses.MOVED, statuses.SETTLED])
def test_c3_69_a_destination_whose_daemon_begins_anew_keeps_no_mark_of_the_run(lab, monkeypatch, phase):
    lab.add(autostart=True)
    there = lab.kvm2

    def reach(self, name):
        self.say(phase=name)
        if name == phase:
            restart(lab, there)

    monkeypatch.setattr(Worker, "phase", reach)
    result = lab.move()
    assert (result.outcome, result.warnings) == ("migrated", []), result
    there = lab.world["kvm2"]
    assert there.guests[UUID].autostart
    assert not [name for name in there.directories["/vm"] if "kvmops" in name]
    assert not lab.unfinished()


def test_a_mark_that_cannot_be_removed_keeps_the_run_open(lab):
    lab.add()
    lab.world.faults[("kvm2", "delete volume")] = None
    real = Worker.phase

    def reach(self, name):
        if name == statuses.SETTLED:
            lab.world.faults[("kvm2", "delete volume")] = fake.libvirtError("cannot unlink file: I/O error", 38)
        real(self, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Worker, "phase", reach)
        result = lab.move()
    assert result.outcome == "migrated"
    assert "or recover.yml, does it" in " ".join(result.warnings)
    assert len(lab.unfinished()) == 1
    lab.world.faults.clear()
    settled = lab.move(cleanup=True)
    assert settled.outcome == "migrated", settled
    assert not lab.unfinished()
    assert not [name for name in lab.kvm2.directories["/vm"] if "kvmops" in name]
