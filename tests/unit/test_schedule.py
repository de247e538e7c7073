# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Convergence policies against a model of a guest that is being copied, and what holds for every one of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.kvmops.migration.plugins.module_utils._pure import options, schedule
from ansible_collections.kvmops.migration.plugins.module_utils._pure.progress import Progress
from ansible_collections.kvmops.migration.plugins.module_utils._pure.refusal import Refusal
from ansible_collections.kvmops.migration.plugins.module_utils._pure.schedule import (
    GIB,
    Action,
    Convergence,
    Sample,
    Size,
    Step,
)
from fake.precopy import MIB, PreCopy

DEFAULTS = {option.name: option.default for option in options.OPTIONS}
SLOW = {"dirty": 10 * MIB}
# Twice what the link carries.
FAST = {"dirty": 200 * MIB}


def build(**values):
    return schedule.build({**DEFAULTS, **values})


def follow(steps, model, ceiling=None, seconds=4000, size=None):
    """Let the schedule drive the model until it ends; gives the actions with their times."""
    machine = Convergence(steps, size or Size(model.memory, model.disk), schedule.QEMU_DOWNTIME, ceiling)
    model.auto_converge = schedule.asks(steps, schedule.AUTO_CONVERGE)
    model.downtime = schedule.QEMU_DOWNTIME
    done = []
    while not model.done and model.clock < seconds:
        for action in machine.decide(Sample.of(model.advance(), model.clock)):
            done.append((model.clock, action))
            if action.do in (schedule.SET_DOWNTIME, schedule.RAISE_DOWNTIME):
                model.downtime = action.value
            elif action.do == schedule.SUSPEND:
                model.suspended = True
            elif action.do == schedule.POSTCOPY:
                model.postcopy = True
            elif action.do == schedule.SET_BANDWIDTH:
                model.link = action.value * MIB
            else:
                return done, machine
    return done, machine


def dos(done):
    return [action.do for _at, action in done]


@pytest.mark.parametrize("policy", schedule.POLICIES)
def test_a_guest_that_converges_is_left_alone(policy):
    model = PreCopy(**SLOW)
    done, _machine = follow(build(policy=policy), model)
    assert model.done
    assert done == []


def test_without_a_policy_nothing_is_done_about_a_guest_that_does_not_converge():
    model = PreCopy(**FAST)
    assert follow(build(), model, seconds=600)[0] == []
    assert not model.done


def test_c4_86_87_must_complete_permits_more_and_then_goes_over():
    model = PreCopy(**FAST)
    done, _machine = follow(build(policy="must_complete"), model, ceiling=1000)
    assert dos(done) == ["raise_downtime", "raise_downtime", "postcopy"]
    assert [action.value for _at, action in done] == [500, 1000, None]
    assert model.done
    # A quarter of the time that a limit of 150 s for each GiB would take.
    assert done[-1][0] <= 150 / 4
    assert done[-1][1].reason == "stalled: passes in a row that have left no less to send: 3"


def test_must_complete_stops_the_guest_where_post_copy_is_not_possible():
    model = PreCopy(**FAST)
    done, _machine = follow(schedule.without(build(policy="must_complete"), "postcopy"), model)
    assert dos(done)[-1] == "suspend"
    assert model.done


def test_minimal_downtime_slows_the_guest_down_until_it_converges():
    model = PreCopy(**FAST)
    done, _machine = follow(build(policy="minimal_downtime"), model)
    assert model.done
    assert set(dos(done)) <= {"raise_downtime"}
    assert model.throttle > 0


@pytest.mark.parametrize("policy", ["minimal_downtime", "never_pause"])
def test_what_never_converges_is_given_up(policy, monkeypatch):
    model = PreCopy(memory=4096 * MIB, working_set=4000 * MIB, link=10 * MIB, dirty=4000 * MIB)
    done, _machine = follow(build(policy=policy), model)
    assert dos(done)[-1] == "abort"
    assert not model.done
    assert dos(done).count("abort") == 1
    if policy == "never_pause":
        assert dos(done) == ["abort"]


def test_a_ramp_lets_a_guest_through_that_needs_a_little_more():
    model = PreCopy(dirty=80 * MIB, working_set=45 * MIB)
    done, _machine = follow(build(policy="must_complete"), model)
    assert model.done
    assert set(dos(done)) == {"raise_downtime"}


def test_a_link_that_breaks_is_seen_as_no_progress():
    model = PreCopy(memory=4 * GIB, links={5: 0})
    done, _machine = follow(build(policy="never_pause"), model)
    assert dos(done) == ["abort"]
    assert 150 <= done[0][0] - 4.5 <= 152
    assert done[0][1].reason == "nothing has been gained for 150 s"


def test_c3_82_no_post_copy_right_after_the_throughput_has_fallen():
    """From 10 Gbit/s to 100 Mbit/s."""
    steps = [Step("elapsed", 20, "postcopy")]
    model = PreCopy(memory=64 * 1024 * MIB, link=1200 * MIB, links={19: 12 * MIB}, **FAST)
    done, machine = follow(steps, model, seconds=120)
    assert dos(done) == ["postcopy"]
    assert done[0][0] - machine.throughput.dropped_at >= schedule.COOLDOWN
    assert done[0][0] < 60


def test_the_smoothed_throughput_follows_what_was_sent_and_not_what_qemu_says():
    model = PreCopy(memory=64 * 1024 * MIB, links={30: 0})
    _done, machine = follow((), model, seconds=29)
    assert machine.throughput.smoothed == pytest.approx(100 * MIB)
    _done, machine = follow((), replace(model, memory=8 * GIB, clock=0.0), seconds=50)
    assert machine.throughput.smoothed < MIB
    assert machine.throughput.dropped_at is not None


def throughput(*points):
    """What is made of samples, each with its time, the MiB that were sent and the MiB that are left."""
    found = schedule.Throughput()
    for seconds, sent, left in points:
        found.take(Sample(seconds, 1, GIB, sent * MIB, left * MIB))
    return found


def test_a_look_right_after_another_is_no_drop():
    """Each pass that begins is looked at, and QEMU counts ten times a second."""
    steady = throughput(*[(at + more, 100 * at, 1000 - 100 * at) for at in range(8) for more in (0, 0.005)])
    assert steady.dropped_at is None
    assert steady.smoothed == pytest.approx(100 * MIB)


def test_pages_that_are_empty_are_no_drop():
    points = [(at, 100 * at, 9000 - 100 * at) for at in range(8)]
    assert throughput(*points, (8, 701, 6000)).dropped_at is None
    assert throughput(*points, (8, 701, 8290)).dropped_at == 8


def test_c4_88_stopping_waits_for_a_moment_when_little_is_left():
    model = PreCopy(**FAST)
    done, _machine = follow([Step("stalled_iterations", 2, "suspend")], model)
    assert dos(done) == ["suspend"]
    waiting = PreCopy(**FAST)
    machine = Convergence([Step("stalled_iterations", 2, "suspend")], Size(GIB))
    waited = []
    while not waiting.suspended:
        actions = machine.decide(Sample.of(waiting.advance(), waiting.clock))
        waited.append(machine.waiting)
        waiting.suspended = bool(actions)
    assert waiting.remaining < 200 * MIB
    assert any(waited)
    assert not waited[-1]


def test_a_limit_in_seconds_is_kept_to_the_second():
    model = PreCopy(**FAST)
    done, _machine = follow(build(timeout=30, timeout_action="suspend"), model)
    assert [(at, action.do) for at, action in done] == [(30.0, "suspend")]


@pytest.mark.parametrize(("memory", "disk", "at"), [(1, 0, 10), (2, 2, 40), (0.25, 0, 10)])
def test_c4_89_a_limit_grows_with_memory_and_allocated_disk(memory, disk, at):
    model = PreCopy(memory=int(memory * GIB), link=4 * MIB)
    done, _machine = follow(build(timeout_per_gib=10), model, size=Size(int(memory * GIB), disk * GIB))
    assert done[0][0] == pytest.approx(at, abs=0.5)


def test_disks_of_unknown_allocation_count_by_what_the_job_says():
    model = PreCopy(memory=GIB, disk=3 * GIB, link=MIB)
    done, _machine = follow(build(timeout_per_gib=10), model, size=Size(GIB, None))
    assert done[0][0] == pytest.approx(40, abs=0.5)


def test_post_copy_does_not_begin_while_disks_are_copied():
    model = PreCopy(disk=4096 * MIB, **FAST)
    done, _machine = follow([Step("elapsed", 5, "postcopy")], model)
    assert dos(done) == ["postcopy"]
    assert done[0][0] > 40


def test_post_copy_after_the_first_pass():
    model = PreCopy(**FAST)
    done, _machine = follow(build(postcopy=True, postcopy_after_precopy=True), model)
    assert dos(done) == ["postcopy"]
    assert model.iteration == 2
    assert done[0][0] <= 11


def test_passes_that_an_earlier_job_has_counted_are_not_this_jobs():
    fresh, carried = PreCopy(**FAST), PreCopy(carried_over=17, **FAST)
    steps = build(postcopy=True, postcopy_after_precopy=True)
    assert follow(steps, fresh)[0] == follow(steps, carried)[0]


def test_a_count_that_begins_anew_is_believed():
    machine = Convergence((), Size(GIB))
    for reading in (9, 9, 1, 2, 3):
        machine.decide(Sample(0.0 + reading, reading, memory_total=GIB, memory_remaining=GIB // 2))
    assert machine.passes.number == 3


def test_a_step_that_libvirt_refuses_comes_again_a_few_times():
    machine = Convergence([Step("elapsed", 5, "abort")], Size(GIB))
    at = []
    for second in range(60):
        for action in machine.decide(Sample(float(second), 1, GIB, 0, GIB)):
            at.append(second)
            machine.refused(action)
    assert at == [5, 10, 15]


def test_a_limit_that_libvirt_refuses_is_not_in_force():
    machine = Convergence([Step("elapsed", 5, "raise_downtime", downtime=800)], Size(GIB), 300)
    (action,) = machine.decide(Sample(5.0, 1, GIB, 0, GIB))
    assert machine.limit == 800
    machine.refused(action)
    assert machine.limit == 300


def test_somebody_else_who_starts_post_copy_ends_the_say_of_the_policy():
    machine = Convergence([Step("elapsed", 5, "abort")], Size(GIB))
    assert machine.decide(Sample(9.0, 1, GIB, 0, GIB, postcopy=True)) == []
    assert machine.handed_over


@pytest.mark.parametrize(
    ("limit", "ceiling", "steps", "wanted"),
    [
        (300, None, (), []),
        (300, 300, (), []),
        (300, 1000, (), [1000]),
        (300, 50, (), [50]),
        (300, 100, schedule.POLICIES["must_complete"], [100]),
        (300, 1000, schedule.POLICIES["must_complete"], []),
        (None, 1000, (), [1000]),
    ],
)
def test_the_limit_that_was_asked_for_is_set_once_at_the_start(limit, ceiling, steps, wanted):
    machine = Convergence(steps, Size(GIB), limit, ceiling)
    actions = machine.decide(Sample(0.5, 1, GIB, 0, GIB))
    assert [(action.do, action.value) for action in actions] == [("set_downtime", value) for value in wanted]
    assert machine.decide(Sample(1.0, 1, GIB, 0, GIB)) == []


def test_a_bandwidth_can_be_set_on_the_way():
    model = PreCopy(link=10 * MIB)
    done, _machine = follow([Step("elapsed", 10, "set_bandwidth", bandwidth=500)], model)
    assert [(action.do, action.value) for _at, action in done] == [("set_bandwidth", 500)]
    assert model.done


def test_steps_of_a_person_are_the_steps_of_a_policy():
    rows = [
        {"when": "start", "do": "auto_converge"},
        {"when": "start", "do": "set_bandwidth", "bandwidth": 50},
        {"when": "stalled_iterations", "at": 2.0, "do": "raise_downtime", "downtime": 400, "percent": None},
        {"when": "no_progress", "at": 60, "do": "abort"},
    ]
    assert build(policy="mine", policy_steps=rows) == (
        Step("start", 0, "auto_converge"),
        Step("start", 0, "set_bandwidth", bandwidth=50),
        Step("stalled_iterations", 2, "raise_downtime", downtime=400),
        Step("no_progress", 60, "abort"),
    )


def test_a_downtime_that_a_person_has_named_is_permitted():
    model = PreCopy(**FAST)
    rows = [{"when": "elapsed", "at": 5, "do": "raise_downtime", "downtime": 6000}]
    done, _machine = follow(build(policy_steps=rows), model)
    assert [action.value for _at, action in done] == [6000]


GOOD = {"when": "elapsed", "at": 5, "do": "abort"}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({**GOOD, "when": "never"}, "when: 'never' is not accepted"),
        ({**GOOD, "do": "pray"}, "do: 'pray' is not accepted"),
        ({"at": 5, "do": "abort"}, "when: None is not accepted"),
        ({**GOOD, "at": None}, "at: None is not accepted with when: elapsed"),
        ({**GOOD, "at": 0}, "at: 0 is not accepted"),
        ({**GOOD, "at": 10**9}, "at: 1000000000 is not accepted"),
        ({**GOOD, "at": float("nan")}, "at: nan is not accepted"),
        ({"when": "start", "at": 3, "do": "auto_converge"}, "at: 3 is not accepted with when: start"),
        ({"when": "start", "do": "abort"}, "do: abort and when: start do not go together"),
        ({"when": "elapsed", "at": 3, "do": "auto_converge"}, "do: auto_converge and when: elapsed do not"),
        ({**GOOD, "downtime": 5}, "downtime means nothing for do: abort"),
        ({**GOOD, "do": "raise_downtime"}, "needs one of downtime and percent"),
        ({**GOOD, "do": "raise_downtime", "downtime": 5, "percent": 5}, "needs one of downtime and percent"),
        ({**GOOD, "do": "raise_downtime", "percent": 101}, "percent: 101 is not accepted"),
        ({**GOOD, "do": "raise_downtime", "downtime": 0}, "downtime: 0 is not accepted"),
        ({**GOOD, "do": "set_bandwidth"}, "needs one of bandwidth"),
        ({**GOOD, "do": "set_bandwidth", "bandwidth": 2**43}, "bandwidth: 8796093022208 is not accepted"),
        ({**GOOD, "then": 5}, "'then' is not known"),
    ],
)
def test_a_bad_step_is_refused_in_one_line_with_its_number(row, said):
    with pytest.raises(Refusal) as refused:
        build(policy_steps=[GOOD, row])
    assert refused.value.message.startswith("policy_steps: step 2: ")
    assert said in refused.value.message
    assert refused.value.cure
    assert "\n" not in refused.value.message


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"policy": "mine"}, "policy: 'mine' is not known"),
        ({"policy": "must_complete", "policy_steps": [GOOD]}, "policy: must_complete and policy_steps exclude"),
        ({"timeout_action": "suspend"}, "timeout_action: suspend needs timeout"),
    ],
)
def test_what_cannot_be_followed_is_refused(values, said):
    with pytest.raises(Refusal) as refused:
        build(**values)
    assert said in refused.value.message
    assert refused.value.cure


@st.composite
def steps(draw):
    when = draw(st.sampled_from(schedule.WHENS[1:]))
    do = draw(st.sampled_from([do for do in schedule.DOS if do != "auto_converge"]))
    at = draw(st.integers(1, 100))
    if do == "raise_downtime":
        if draw(st.booleans()):
            return Step(when, at, do, downtime=draw(st.integers(1, 5000)))
        return Step(when, at, do, percent=draw(st.integers(1, 100)))
    return Step(when, at, do, bandwidth=draw(st.integers(1, 900)) if do == "set_bandwidth" else None)


@st.composite
def series(draw):
    """What a job may look like, and what no job has ever looked like."""
    samples, seconds, iteration, sent = [], 0.0, draw(st.integers(0, 20)), 0
    for _turn in range(draw(st.integers(1, 60))):
        seconds += draw(st.sampled_from([0.0, 0.2, 1.0, 5.0, 40.0]))
        iteration += draw(st.sampled_from([-3, 0, 0, 0, 1, 1, 2]))
        sent += draw(st.sampled_from([0, 1, 100, 1000, 1000])) * MIB
        total = draw(st.sampled_from([0, GIB, GIB, GIB]))
        samples.append(
            Sample(
                seconds,
                max(0, iteration),
                total,
                sent,
                draw(st.integers(0, 2 * GIB)),
                draw(st.sampled_from([0, 2 * GIB])),
                draw(st.integers(0, 2 * GIB)),
                draw(st.integers(0, 2 * GIB)),
                draw(st.integers(0, GIB)),
                draw(st.integers(0, 30)) == 0,
            )
        )
    return samples


@settings(max_examples=300)
@given(
    st.lists(steps(), max_size=8),
    series(),
    st.none() | st.integers(1, 3000),
    st.none() | st.integers(1, 3000),
    st.randoms(use_true_random=False),
)
def test_c4_87_c3_82_what_holds_for_every_schedule_and_every_job(schedule_of, samples, limit, ceiling, chance):
    machine = Convergence(schedule_of, Size(GIB, None), limit, ceiling)
    known, last, afterwards, ended = machine.limit, None, [], []
    for sample in samples:
        decided = machine.decide(sample)
        for action in decided:
            afterwards += [action.do] if last else []
            if action.do == "set_downtime":
                assert action.value == ceiling
                known = action.value
            elif action.do == "raise_downtime":
                assert action.value > known, "it only goes up"
                assert ceiling is None or action.value <= ceiling
                known = action.value
            elif action.do == "postcopy":
                dropped = machine.throughput.dropped_at
                assert dropped is None or sample.seconds - dropped >= schedule.COOLDOWN
                assert sample.memory_total
            if action.do in ("abort", "postcopy"):
                last = action.do
            if action.do in ("abort", "postcopy", "suspend"):
                ended.append(action.do)
        if sample.postcopy:
            last = last or "postcopy"
    assert afterwards == []
    assert machine.limit == known
    # What ends the say of a schedule comes once; a guest that was stopped for the end may still be given up.
    assert ended in ([], ["abort"], ["postcopy"], ["suspend"], ["suspend", "abort"])


@settings(max_examples=300)
@given(
    st.sampled_from(sorted(schedule.POLICIES)),
    series(),
    st.none() | st.integers(1, schedule.MAX_DOWNTIME),
    st.none() | st.integers(1, 3000),
    st.none() | st.integers(1, 100),
    st.sampled_from(["abort", "suspend", "postcopy"]),
    st.booleans(),
)
def test_c4_87_no_policy_goes_back_or_beyond_the_highest_downtime(
    policy, samples, limit, highest, timeout, timeout_action, after_precopy
):
    followed = build(
        policy=policy,
        max_downtime=highest,
        timeout=timeout,
        timeout_action=timeout_action if timeout else "abort",
        postcopy_after_precopy=after_precopy,
    )
    machine = Convergence(followed, Size(GIB, None), limit, highest)
    actions = [*machine.begin(), *(action for sample in samples for action in machine.decide(sample))]
    downtimes = [action.value for action in actions if action.do in ("set_downtime", "raise_downtime")]
    assert downtimes == sorted(set(downtimes)), "each is higher than the one before"
    beyond = highest if highest is not None else max(schedule.POLICY_DOWNTIME, limit or schedule.QEMU_DOWNTIME)
    assert all(1 <= value <= beyond for value in downtimes)
    assert all(action.reason for action in actions)


@settings(max_examples=200)
@given(st.lists(steps(), max_size=6), series(), st.integers(1, 3000))
def test_nothing_is_repeated_without_end_when_libvirt_refuses_everything(schedule_of, samples, ceiling):
    machine = Convergence(schedule_of, Size(GIB), 300, ceiling)
    count = 0
    for sample in samples:
        for action in machine.decide(sample):
            count += 1
            machine.refused(action)
        assert machine.limit == 300
    assert count <= (len(schedule_of) + 1) * schedule.TRIES


@settings(max_examples=200)
@given(series(), st.sampled_from([Size(GIB), Size(GIB, 2 * GIB), Size(GIB, None), Size(0)]))
def test_c4_92_progress_never_goes_back_and_is_done_only_when_it_is(samples, size):
    progress = Progress(size)
    before = progress.now()
    for sample in samples:
        now = progress.take(sample)
        assert all(0 <= value <= 99 for value in now.values())
        assert all(now[name] >= value for name, value in before.items())
        before = now
    progress.finish()
    assert set(progress.now().values()) == {100}


def test_c4_92_memory_and_disk_are_told_apart():
    progress = Progress(Size(GIB, 3 * GIB))
    sample = Sample(1.0, 1, GIB, 0, GIB // 2, 3 * GIB, 0, 0)
    assert progress.take(sample) == {"percent": 87, "memory": 50, "disk": 99}
    assert Progress(Size(GIB)).take(replace(sample, disk_total=0)) == {"percent": 50, "memory": 50}


@pytest.mark.parametrize(
    ("allocated", "told", "percent", "bytes_there"),
    [
        # Twenty of virtual size, one of which is allocated: the memory is the larger part.
        (GIB, 20 * GIB, 20, GIB),
        # What is not known counts by what the job tells, and what it counts less is less.
        (None, 20 * GIB, 83, 20 * GIB),
        (4 * GIB, GIB, 20, GIB),
    ],
)
def test_a_sparse_disk_counts_by_what_is_allocated(allocated, told, percent, bytes_there):
    progress = Progress(Size(4 * GIB, allocated))
    assert progress.take(Sample(1.0, disk_total=told, disk_remaining=told))["percent"] == 0
    assert progress.take(Sample(2.0, disk_total=told, disk_remaining=0)) == {
        "percent": percent,
        "memory": 0,
        "disk": 99,
    }
    assert progress.disk == {"total": bytes_there, "done": bytes_there}
    half = Sample(3.0, 1, 4 * GIB, 0, 2 * GIB, told, told, 0)
    assert progress.take(half)["percent"] == percent + (100 - percent) // 2


def test_a_job_whose_memory_was_not_known_before_counts_by_what_it_tells():
    assert Progress(Size(0, None)).take(Sample(1.0, 1, GIB, 0, GIB // 2, GIB, 0, 0))["percent"] == 75


def test_every_policy_says_why():
    for rows in schedule.POLICIES.values():
        for step in rows:
            assert step.reason
            assert Action(step.do, reason=step.reason).value is None
