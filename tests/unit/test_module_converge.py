# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""virt_migrate watching over a job: policies, limits in time, post-copy, statistics that fail."""

from __future__ import annotations

import threading
import time

import pytest

from ansible_collections.kvmops.migration.plugins.module_utils._libvirt import Host
from ansible_collections.kvmops.migration.plugins.module_utils._migrate import job
from fake import libvirt as fake
from fake.lab import IMAGE, UUID, disk_xml, domain_xml
from fake.precopy import MIB, PreCopy, Scripted

RUNNING, PAUSED = fake.VIR_DOMAIN_RUNNING, fake.VIR_DOMAIN_PAUSED
BUSY = fake.libvirtError("Timed out during operation: cannot acquire state change lock", 68)


@pytest.fixture
def copy(lab, monkeypatch):
    """Let the VM be copied by a model with its own clock; gives the function that starts it."""

    def start(**how):
        lab.kvm2.share("/vm", lab.kvm1)
        lab.add(xml=how.pop("xml", domain_xml().replace("256", "1024")))
        lab.world.model = PreCopy(**how)
        lab.world.hold_job()
        monkeypatch.setattr(job, "now", lab.world.model.now)
        monkeypatch.setattr(job, "FIRST_STEP", 0.001)
        monkeypatch.setattr(job, "LAST_STEP", 0.001)
        return lab.world.model

    return start


def done(result):
    return [(action["action"], action["value"]) for action in result.actions]


def limits(lab):
    return lab.kvm1.guests[UUID].limits


FAST = {"dirty": 200 * MIB}
BEFORE = {"MaxDowntime": 300, "MaxSpeed": 8796093022207, "CompressionCache": 1}


@pytest.mark.parametrize("policy", ["none", "minimal_downtime", "must_complete", "never_pause"])
def test_c4_84_a_guest_that_converges_moves_without_help(lab, copy, policy):
    copy(dirty=10 * MIB)
    result = lab.move(policy=policy)
    assert result.outcome == "migrated"
    assert result.actions == []
    assert result.downtime_limit_ms == 300
    assert result.progress == {"percent": 100, "memory": 100}
    assert lab.world.limits_set == []
    assert ("POSTCOPY" in lab.flags()) == (policy == "must_complete")
    assert ("AUTO_CONVERGE" in lab.flags()) == (policy in ("minimal_downtime", "never_pause"))


def test_c4_86_87_must_complete_ends_in_post_copy(lab, copy):
    copy(**FAST)
    result = lab.move(policy="must_complete", max_downtime=1000)
    assert result.outcome == "migrated"
    assert done(result) == [("raise_downtime", 500), ("raise_downtime", 1000), ("postcopy", None)]
    assert result.downtime_limit_ms == 1000
    assert [action["t"] for action in result.actions] == sorted(action["t"] for action in result.actions)
    assert "stalled: passes in a row" in result.actions[0]["reason"]
    assert lab.where() == (None, RUNNING)
    assert lab.record()[0]["actions"] == result.actions


def test_c4_86_minimal_downtime_slows_the_guest_down(lab, copy):
    model = copy(**FAST)
    result = lab.move(policy="minimal_downtime")
    assert result.outcome == "migrated"
    assert model.throttle > 0
    assert "postcopy" not in dict(done(result))


def test_never_pause_gives_up(lab, copy):
    copy(memory=1024 * MIB, working_set=1000 * MIB, dirty=100000 * MIB)
    result = lab.move(policy="never_pause")
    assert result.outcome == "failed"
    assert done(result) == [("abort", None)]
    assert result.failure_class == "not_converged"
    assert "it was given up" in result.msg
    assert result.actions[0]["reason"] in result.msg
    assert "must_complete" in result.cure
    assert lab.where() == (RUNNING, None)


def test_what_does_not_converge_is_left_alone_when_nothing_was_said(lab, copy):
    model = copy(**FAST)
    lab.world.script = lambda *_: None
    advance = model.advance

    def end_by_hand():
        if model.clock > 300:
            model.done = True
        return advance()

    model.advance = end_by_hand
    result = lab.move()
    assert result.outcome == "migrated"
    assert result.actions == []


def test_c4_85_a_timeout_aborts_and_the_limits_of_before_are_back(lab, copy):
    copy(**FAST)
    result = lab.move(timeout=60, max_downtime=900)
    assert result.outcome == "failed"
    assert result.failure_class == "not_converged"
    assert done(result) == [("set_downtime", 900), ("abort", None)]
    assert 60 <= result.actions[1]["t"] <= 61
    assert lab.where() == (RUNNING, None)
    assert limits(lab) == BEFORE
    assert result.downtime_limit_ms == 900
    assert result.progress["percent"] <= 99


def test_c4_85_every_limit_that_was_changed_is_restored(lab, copy):
    copy(**FAST)
    limits(lab)["CompressionCache"] = 64 * MIB

    def retune(phase, source, dest, guest):
        if phase == "prepare":
            guest.limits["CompressionCache"] = 128 * MIB

    lab.world.script = retune
    steps = [
        {"when": "start", "do": "set_bandwidth", "bandwidth": 50},
        {"when": "elapsed", "at": 30, "do": "raise_downtime", "downtime": 400},
        {"when": "elapsed", "at": 60, "do": "abort"},
    ]
    result = lab.move(policy="mine", policy_steps=steps)
    assert done(result) == [("set_bandwidth", 50), ("raise_downtime", 400), ("abort", None)]
    assert limits(lab) == {**BEFORE, "CompressionCache": 64 * MIB}


def test_a_limit_holds_for_a_job_that_is_over_at_once(lab):
    lab.kvm2.share("/vm", lab.kvm1)
    lab.add()
    result = lab.move(max_downtime=50)
    assert done(result) == [("set_downtime", 50)]
    assert lab.world.limits_set == [("MaxDowntime", 50)]
    assert result.downtime_limit_ms == 50


def test_a_limit_that_libvirt_takes_only_while_the_job_runs_is_set_then(lab, copy):
    copy(dirty=10 * MIB)
    lab.world.faults["kvm1", "migrateSetMaxDowntime"] = BUSY

    def permit(phase, source, dest, guest):
        lab.world.faults.clear()

    lab.world.script = permit
    result = lab.move(max_downtime=50)
    assert done(result) == [("set_downtime", 50), ("set_downtime", 50)]
    assert "error" in result.actions[0]
    assert result.actions[1]["t"] >= 5
    assert result.downtime_limit_ms == 50


def test_a_limit_that_cannot_be_restored_is_said(lab, copy):
    copy(**FAST)
    original = fake.virDomain.migrateSetMaxDowntime
    calls = []

    def once(self, value, flags=0):
        calls.append(value)
        if len(calls) > 1:
            raise BUSY
        original(self, value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fake.virDomain, "migrateSetMaxDowntime", once)
        result = lab.move(timeout=20, max_downtime=900)
    assert calls == [900, 300]
    assert "the downtime limit of before, 300, was not restored" in result.warnings[-1]


def test_a_source_that_does_not_tell_its_limits_can_be_left(lab, copy):
    copy(dirty=10 * MIB)
    for name in BEFORE:
        lab.world.faults["kvm1", f"migrateGet{name}"] = fake.libvirtError("not supported by QEMU binary", 67)
    result = lab.move()
    assert result.outcome == "migrated"
    assert result.downtime_limit_ms is None


def test_c4_86_a_timeout_suspends_and_the_guest_runs_at_the_destination(lab, copy):
    copy(**FAST)
    result = lab.move(timeout=60, timeout_action="suspend")
    assert result.outcome == "migrated"
    assert done(result) == [("suspend", None)]
    assert lab.where() == (None, RUNNING)


def test_a_guest_that_arrives_suspended_is_resumed(lab, copy):
    copy(**FAST)

    def leave_paused(phase, source, dest, guest):
        if phase == "finish":
            dest.guests[UUID].state, dest.guests[UUID].reason = PAUSED, fake.VIR_DOMAIN_PAUSED_USER

    lab.world.script = leave_paused
    result = lab.move(timeout=60, timeout_action="suspend")
    assert lab.where() == (None, RUNNING)
    assert result.dest["state"] == "running"
    assert result.warnings == []


def test_a_guest_that_arrives_suspended_and_cannot_be_resumed_is_said(lab, copy):
    copy(**FAST)

    def leave_paused(phase, source, dest, guest):
        if phase == "finish":
            dest.guests[UUID].state, dest.guests[UUID].reason = PAUSED, fake.VIR_DOMAIN_PAUSED_USER
            lab.world.faults["kvm2", "resume"] = BUSY

    lab.world.script = leave_paused
    result = lab.move(timeout=60, timeout_action="suspend")
    assert result.outcome == "migrated"
    assert "could not be resumed on kvm2" in result.warnings[0]


def test_a_guest_that_shall_stay_paused_is_not_resumed(lab, copy):
    copy(**FAST)
    result = lab.move(timeout=60, timeout_action="suspend", suspend=True)
    assert result.outcome == "migrated"
    assert lab.where() == (None, PAUSED)


def test_c4_91_a_guest_that_was_suspended_runs_again_when_the_move_fails(lab, copy):
    copy(**FAST)

    def lose(phase, source, dest, guest):
        if phase == "perform":
            raise fake.libvirtError("operation failed: migration failed", 9)

    lab.world.script = lose
    result = lab.move(timeout=60, timeout_action="suspend")
    assert result.outcome == "failed"
    assert done(result) == [("suspend", None), ("resume_source", None)]
    assert lab.where() == (RUNNING, None)


def test_c5_98_a_guest_that_was_suspended_runs_again_when_the_module_is_stopped(lab, copy, monkeypatch):
    copy(**FAST, links={62: 0})
    take = job.Job._take

    def interrupt(self, stats, seconds):
        if self.suspended:
            raise KeyboardInterrupt
        take(self, stats, seconds)

    monkeypatch.setattr(job.Job, "_take", interrupt)

    with pytest.raises(KeyboardInterrupt):
        lab.move(timeout=60, timeout_action="suspend")
    assert "abortJob" in lab.kvm1.calls
    assert lab.where() == (RUNNING, None)


def test_whoever_stops_the_module_finds_the_limits_of_before(lab, copy, monkeypatch):
    copy(**FAST)

    def interrupt(self, stats, seconds):
        assert limits(lab)["MaxDowntime"] == 900
        raise KeyboardInterrupt

    monkeypatch.setattr(job.Job, "_take", interrupt)
    with pytest.raises(KeyboardInterrupt):
        lab.move(max_downtime=900)
    assert limits(lab) == BEFORE
    assert lab.where() == (RUNNING, None)


def test_c4_86_a_timeout_hands_over(lab, copy):
    copy(**FAST)
    result = lab.move(timeout=60, timeout_action="postcopy", postcopy=True, postcopy_bandwidth=50)
    assert result.outcome == "migrated"
    assert done(result) == [("postcopy", None)]
    assert lab.params() == {"bandwidth.postcopy": 50}
    assert "POSTCOPY" in lab.flags()


def test_c6_99_post_copy_follows_the_first_pass(lab, copy):
    copy(**FAST)
    result = lab.move(postcopy=True, postcopy_after_precopy=True)
    assert done(result) == [("postcopy", None)]
    assert result.actions[0]["reason"] == "pass 2 has begun"
    assert result.actions[0]["t"] <= 12


def test_post_copy_that_is_permitted_is_not_begun_by_itself(lab, copy):
    copy(dirty=10 * MIB)
    result = lab.move(postcopy=True)
    assert "POSTCOPY" in lab.flags()
    assert result.actions == []


def test_auto_converge_and_its_tuning_reach_libvirt(lab, copy):
    copy(dirty=10 * MIB)
    lab.move(auto_converge=True, auto_converge_initial=30, auto_converge_increment=15)
    assert "AUTO_CONVERGE" in lab.flags()
    assert lab.params() == {"auto_converge.initial": 30, "auto_converge.increment": 15}


def test_c4_89_a_limit_for_each_gib_counts_memory_and_what_is_allocated_of_copied_disks(lab, copy):
    """The image has 2 GiB, of which 1 GiB is allocated."""
    copy(dirty=10 * MIB, link=MIB)
    lab.kvm1.directories["/local"] = {"b.qcow2": fake.File(capacity=2 << 30, allocation=1 << 30)}
    lab.kvm2.directories["/local"] = {}
    for host in (lab.kvm1, lab.kvm2):
        host.add_pool("local", "/local")
    disks = [disk_xml(), disk_xml("vdb", "/local/b.qcow2")]
    lab.kvm1.guests[UUID].xml = domain_xml(disks=disks).replace("256", "1024")
    result = lab.move(timeout_per_gib=20)
    assert done(result)[0] == ("abort", None)
    assert 40 <= result.actions[0]["t"] <= 41


# Such a device is unplugged for the move.
STAND_IN = "<teaming type='transient' persistent='ua-net0'/>"


@pytest.mark.parametrize(
    ("xml", "reason"),
    [
        (
            domain_xml().replace("<devices>", "<memoryBacking><hugepages/></memoryBacking><devices>"),
            "it has its memory in huge pages",
        ),
        (
            domain_xml().replace("<devices>", "<memoryBacking><source type='file'/></memoryBacking><devices>"),
            "it has its memory in a file",
        ),
        (
            domain_xml(disks=[disk_xml(), f"<hostdev mode='subsystem' type='pci'>{STAND_IN}</hostdev>"]),
            "it has a device of the host",
        ),
        (
            domain_xml(disks=[disk_xml(), f"<interface type='hostdev'>{STAND_IN}</interface>"]),
            "it has a network device of the host",
        ),
    ],
)
def test_c2_63_c6_104_post_copy_that_is_not_possible_is_refused_or_left_out(lab, copy, xml, reason):
    copy(xml=xml, **FAST)
    own = [{"when": "elapsed", "at": 5, "do": "postcopy"}]
    for asked in ({"postcopy": True}, {"policy_steps": own}):
        refused = lab.move(**asked)
        assert refused.outcome == "refused"
        assert refused.failure_class == "no_postcopy"
        assert refused.msg.startswith(f"{next(iter(asked))}: post-copy is not possible with VM a: {reason}")
    result = lab.move(policy="must_complete")
    assert result.outcome == "migrated"
    assert "POSTCOPY" not in lab.flags()
    assert done(result)[-1] == ("suspend", None)
    assert reason in result.warnings[0]


def test_c2_63_post_copy_over_parallel_connections_needs_a_newer_qemu(lab, copy):
    copy(**FAST)
    refused = lab.move(postcopy=True, parallel=True)
    assert "parallel needs QEMU 10.1.0 for it; kvm1 has 7.2.0" in refused.msg


def test_a_policy_whose_post_copy_excludes_another_option_goes_without(lab, copy):
    copy(**FAST)
    result = lab.move(policy="must_complete", suspend=True)
    assert result.outcome == "migrated"
    assert "the guest must run at the destination" in result.warnings[0]
    assert lab.where() == (None, PAUSED)


@pytest.mark.parametrize("how", ["paused", "nonlive"])
def test_c6_104_a_guest_that_stands_still_needs_no_help(lab, copy, how):
    """Post-copy is not armed."""
    copy(dirty=0, link=10 * MIB)
    if how == "paused":
        lab.kvm1.guests[UUID].state = PAUSED
    options = {"mode": "nonlive"} if how == "nonlive" else {"postcopy": True, "postcopy_bandwidth": 5}
    result = lab.move(policy="must_complete", **options)
    assert result.outcome == "migrated"
    assert result.actions == []
    assert result.warnings == []
    assert not lab.flags() & {"POSTCOPY", "AUTO_CONVERGE"}
    assert lab.params() == {}


def test_a_guest_that_stands_still_is_still_given_up_in_time(lab, copy):
    copy(dirty=0, link=MIB)
    lab.kvm1.guests[UUID].state = PAUSED
    result = lab.move(timeout=30)
    assert done(result) == [("abort", None)]
    assert lab.where() == (PAUSED, None)


def test_a_definition_has_no_statistics_and_is_not_watched(lab):
    lab.kvm2.share("/vm", lab.kvm1)
    lab.add(state=fake.VIR_DOMAIN_SHUTOFF)
    result = lab.move(policy="must_complete", timeout=5)
    assert result.outcome == "migrated"
    assert "jobStats" not in lab.kvm1.calls
    assert result.downtime_limit_ms is None
    assert lab.flags() & {"POSTCOPY", "AUTO_CONVERGE"} == set()


def test_c3_83_five_failing_calls_for_statistics_are_tolerated(lab, copy):
    copy(dirty=10 * MIB)
    lab.world.stats_faults = [None, *[BUSY] * 5, None, *[BUSY] * 5]
    result = lab.move()
    assert result.outcome == "migrated"
    assert result.actions == []


def test_c3_83_the_sixth_failing_call_ends_the_job(lab, copy):
    copy(dirty=10 * MIB)
    lab.world.stats_faults = [None, *[BUSY] * 6]
    result = lab.move(policy="must_complete")
    assert result.outcome == "failed"
    assert result.failure_class == "no_statistics"
    assert done(result) == [("abort", None)]
    assert "6 calls for statistics in a row have failed" in result.msg
    assert lab.where() == (RUNNING, None)


def test_a_second_connection_that_is_lost_is_opened_anew(lab, copy, monkeypatch):
    copy(**FAST)
    original, opened = fake.open, []

    def not_the_second(uri):
        if uri == "qemu:///system":
            opened.append(uri)
            if 2 <= len(opened) <= 4:
                raise fake.libvirtError("too many active clients", 1)
        return original(uri)

    monkeypatch.setattr(fake, "open", not_the_second)
    result = lab.move(timeout=30)
    assert len(opened) == 5
    assert done(result) == [("abort", None)]


def test_a_guest_that_has_left_is_not_missed(lab, copy):
    model = copy(dirty=0)
    gone = fake.libvirtError("Domain not found: no domain with matching uuid", fake.VIR_ERR_NO_DOMAIN)
    off = fake.libvirtError("Requested operation is not valid: domain is not running", 55)
    lab.world.stats_faults = [*[gone] * 10, *[off] * 10]
    result = lab.move()
    assert result.outcome == "migrated"
    assert result.actions == []
    assert model.done


def test_c6_103_a_job_in_post_copy_is_not_aborted(lab, copy):
    model = copy(**FAST)
    advance = model.advance

    def fail_once():
        if model.postcopy and not hasattr(model, "failed"):
            model.failed = True
            lab.world.stats_faults = [BUSY] * 8
        return advance()

    model.advance = fail_once
    result = lab.move(timeout=30, timeout_action="postcopy", postcopy=True)
    assert result.outcome == "migrated"
    assert done(result) == [("postcopy", None)]
    assert "abortJob" not in lab.kvm1.calls


def test_a_step_that_libvirt_refuses_is_told_and_the_policy_goes_on(lab, copy):
    copy(**FAST)
    lab.world.faults["kvm1", "migrateStartPostCopy"] = fake.libvirtError("internal error: Postcopy is not supported", 1)
    result = lab.move(policy="must_complete")
    assert result.outcome == "migrated"
    assert "suspend" in dict(done(result))
    errors = [action["error"] for action in result.actions if "error" in action]
    assert errors
    assert set(errors) == {"internal error: Postcopy is not supported"}


def test_c4_92_progress_goes_on_whatever_libvirt_tells(lab):
    lab.kvm2.share("/vm", lab.kvm1)
    lab.add()
    lab.world.hold_job()
    lab.world.model = Scripted(
        {"memory_total": 0, "memory_remaining": 0, "memory_processed": 0},
        {"memory_total": 1024 * MIB, "memory_remaining": 2048 * MIB},
        {"memory_remaining": 10 * MIB, "memory_iteration": 2, "memory_processed": 1014 * MIB},
        {"memory_remaining": 1000 * MIB, "memory_iteration": 3},
        {"memory_total": 0, "memory_remaining": 5},
        {"memory_total": 1, "memory_remaining": 0, "memory_iteration": 0, "memory_processed": 0},
        {"memory_total": 2**63, "memory_remaining": 2**63 - 1, "disk_total": 5, "disk_remaining": 9},
    )
    result = lab.move()
    assert lab.world.model.told == []
    percents = [point["percent"] for point in result.series]
    assert percents == sorted(percents)
    assert 90 < percents[-1] <= 99
    assert result.progress["percent"] == 100


def test_c4_92_a_series_tells_how_far_it_was(lab, copy):
    copy(dirty=10 * MIB)
    result = lab.move()
    percents = [point["percent"] for point in result.series]
    assert percents == sorted(percents)
    assert percents[-1] <= 99
    assert result.series[3]["throughput"] == pytest.approx(100 * MIB, rel=0.01)
    assert result.series[3]["dirty_rate"] == 10 * MIB
    assert result.memory["dirty_rate"]


def fail_postcopy(lab, copy):
    """A post-copy whose network breaks."""
    copy(**FAST)

    def lose(phase, source, dest, guest):
        if phase == "perform":
            guest.state, guest.reason = PAUSED, fake.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED
            there = dest.guests[UUID]
            there.state, there.reason = RUNNING, fake.VIR_DOMAIN_RUNNING_POSTCOPY_FAILED
            there.persistent = True
            raise fake.libvirtError("operation failed: job 'migration out' failed in post-copy phase", 9)

    lab.world.script = lose
    result = lab.move(policy="must_complete")
    lab.world.script = lambda *_: None
    lab.world.model = None
    return result


def test_c6_100_102_a_failed_post_copy_is_left_as_it_is_and_can_be_resumed(lab, copy):
    failed = fail_postcopy(lab, copy)
    assert failed.outcome == "postcopy_failed"
    assert "postcopy_resume: true" in failed.cure
    assert limits(lab)["MaxDowntime"] == 500, "nothing is touched"
    before = lab.where()
    assert lab.move().outcome == "postcopy_failed"
    planned = lab.move(check=True, postcopy_resume=True)
    assert (planned.outcome, planned.changed) == ("planned", True)
    assert lab.where() == before
    result = lab.move(postcopy_resume=True, policy="must_complete", auto_converge=True)
    assert result.outcome == "migrated"
    assert lab.flags() == {
        "LIVE",
        "PEER2PEER",
        "PERSIST_DEST",
        "UNDEFINE_SOURCE",
        "POSTCOPY",
        "POSTCOPY_RESUME",
    }
    assert lab.where() == (None, RUNNING)
    assert not lab.move(postcopy_resume=True).changed


def test_c6_100_a_destination_that_does_not_know_of_the_failure_is_not_waited_for(lab, copy):
    """libvirt's call does not return: the source has lost the connection, and the destination has seen nothing."""
    model = copy(**FAST)
    tick = model.tick

    def torn(world, guest):
        if guest.reason in (fake.VIR_DOMAIN_PAUSED_POSTCOPY, fake.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED):
            guest.state, guest.reason = PAUSED, fake.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED
            model.clock += model.step
            return model.stats()
        return tick(world, guest)

    model.tick = torn
    result = lab.move(policy="must_complete")
    assert result.outcome == "postcopy_failed"
    assert "the destination does not come back from it" in result.msg
    assert lab.where()[0] == PAUSED
    assert "abortJob" not in lab.kvm1.calls


def test_a_job_of_which_libvirt_tells_nothing_is_said_to_be_silent(lab, copy, monkeypatch):
    model = copy(dirty=10 * MIB)
    said = []
    monkeypatch.setattr(job.Worker, "say", lambda self, **facts: said.append(facts))
    tick = model.tick

    def silent(world, guest):
        if not said or 3 < model.clock < 12:
            model.clock += 1
            return {"type": fake.VIR_DOMAIN_JOB_NONE}
        return {"type": fake.VIR_DOMAIN_JOB_UNBOUNDED, **tick(world, guest)}

    model.tick = silent
    assert lab.move().outcome == "migrated"
    waits = [facts["waits"] for facts in said if facts.get("waits")]
    assert waits[0] == "libvirt has told nothing of the job for 5 s"
    assert [facts["waits"] for facts in said if "percent" in facts][-1] == "", "it goes on"


def test_c3_68_an_ended_job_that_does_not_come_back_is_not_waited_for(lab, copy, monkeypatch):
    """libvirt's call waits for the other daemon for good, where the link is dead and keepalive is off."""
    copy(**FAST)

    def abort(error):
        lab.kvm1.guests[UUID].job.clear()
        lab.kvm2.answers.clear()

    monkeypatch.setattr(lab.world, "fail_job", abort)
    lab.world.hang_limit = 0.2
    result = lab.move(timeout=5, connect_timeout=1)
    assert result.outcome == "undetermined"
    assert done(result) == [("abort", None)]
    assert lab.where()[0] == RUNNING
    assert lab.kvm1.guests[UUID].limits == BEFORE


def test_c6_102_a_resume_that_fails_can_be_tried_again(lab, copy):
    fail_postcopy(lab, copy)

    def lose(phase, source, dest, guest):
        raise fake.libvirtError("operation failed: job 'migration out' failed in post-copy phase", 9)

    lab.world.script = lose
    before = lab.where()
    again = lab.move(postcopy_resume=True)
    assert again.outcome == "postcopy_failed"
    assert lab.where() == before
    assert lab.kvm1.file(IMAGE) is not None
    lab.world.script = lambda *_: None
    assert lab.move(postcopy_resume=True).outcome == "migrated"


@pytest.mark.parametrize(("seconds", "outcome"), [(100, "migrated"), (300, "postcopy_failed")])
def test_c6_102_a_resume_may_take_a_while_to_begin(lab, copy, monkeypatch, seconds, outcome):
    """The source goes on to say that it has failed until the two have connected anew."""
    fail_postcopy(lab, copy)
    clock = [0.0]
    began = threading.Event()
    monkeypatch.setattr(job, "now", lambda: clock[0])
    find = Host.find_uuid

    def look(self, uuid):
        if began.is_set():
            clock[0] += 10
            if clock[0] >= seconds:
                began.clear()
                lab.world.complete_job()
        return find(self, uuid)

    def script(phase, source, dest, guest):
        guest.reason = fake.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED
        lab.world.hold_job()
        began.set()

    monkeypatch.setattr(Host, "find_uuid", look)
    lab.world.script = script
    result = lab.move(postcopy_resume=True)
    assert result.outcome == outcome


def test_resuming_needs_a_libvirt_that_knows_it(lab, copy):
    fail_postcopy(lab, copy)
    lab.kvm2.version = 8004000
    refused = lab.move(postcopy_resume=True)
    assert refused.outcome == "refused"
    assert "postcopy_resume: true needs libvirt 8.5.0; kvm2 has 8.4.0" in refused.msg


def test_images_that_a_resumed_move_leaves_behind_are_in_the_journal(lab):
    lab.add()
    lab.lose_postcopy()
    assert lab.move(postcopy=True).outcome == "postcopy_failed"
    assert lab.journal_file()["images"][0]["phase"] == "moving"
    lab.world.script = lambda *_: None
    result = lab.move(postcopy_resume=True)
    assert result.outcome == "migrated", result
    assert "NON_SHARED_DISK" not in lab.flags()
    assert result.left_behind == [{"host": "kvm1", "target": "vda", "path": IMAGE}]
    assert lab.journal_file()["images"][0]["phase"] == "left_behind"
    assert lab.kvm2.file(IMAGE) is not None


def test_resuming_means_nothing_for_a_vm_that_can_simply_move(lab, copy):
    copy(dirty=10 * MIB)
    result = lab.move(postcopy_resume=True)
    assert result.outcome == "migrated"
    assert "POSTCOPY_RESUME" not in lab.flags()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"policy": "hopeful"}, "policy: 'hopeful' is not known"),
        ({"policy_steps": [{"when": "elapsed", "do": "abort"}]}, "policy_steps: step 1: at: None is not accepted"),
        ({"policy_steps": []}, "policy_steps: [] is not accepted"),
        ({"timeout": 0}, "timeout: 0 is not accepted"),
        ({"timeout_action": "suspend"}, "timeout_action: suspend needs timeout"),
        ({"timeout": 5, "timeout_action": "postcopy"}, "timeout_action: postcopy needs postcopy"),
        ({"max_downtime": 0}, "max_downtime: 0 is not accepted"),
        ({"auto_converge_initial": 20}, "auto_converge_initial: 20 needs auto_converge"),
    ],
)
def test_bad_options_are_refused_before_a_connection_is_used(lab, options, said):
    lab.add()
    result = lab.move(**options)
    assert said in result.msg
    assert "\n" not in result.msg
    assert lab.kvm1.calls == []


def test_the_job_is_looked_at_when_another_pass_begins(lab, monkeypatch):
    lab.add()
    monkeypatch.setattr(job, "FIRST_STEP", 60)
    lab.world.hold_job()
    heard = []

    def another_pass():
        lab.world.held_at.wait(5)
        while not lab.world.iteration_callbacks:
            time.sleep(0.01)
        lab.world.iteration_callbacks[0](2)
        while "jobStats" not in lab.kvm1.calls:
            time.sleep(0.01)
        heard.append(True)
        lab.world.complete_job()

    threading.Thread(target=another_pass, daemon=True).start()
    result = lab.move()
    assert heard
    assert len(result.series) == 1
