# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a move will be like: the model, and the forecast that check mode makes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.kvmops.migration.plugins.module_utils._migrate import local as locals_
from ansible_collections.kvmops.migration.plugins.module_utils._migrate import outlook
from ansible_collections.kvmops.migration.plugins.module_utils._pure import forecast
from ansible_collections.kvmops.migration.plugins.module_utils._pure.forecast import FACTOR, MIB, Known
from fake import libvirt as fake
from fake.lab import UUID, domain_xml

GIB = 1 << 30
GIGABIT = 10**9 / 8
knowns = st.builds(
    Known,
    memory=st.integers(MIB, 1024 * GIB),
    disk=st.integers(0, 1024 * GIB) | st.none(),
    runs=st.booleans(),
    dirty_rate=st.integers(0, 4 * GIB) | st.none(),
    link_speed=st.floats(MIB, 50 * GIGABIT) | st.none(),
    limit=st.integers(1, 1 << 50) | st.none(),
    connections=st.integers(1, 16),
    tunnelled=st.booleans(),
    downtime=st.integers(1, 100000),
    helps=st.sets(st.sampled_from(sorted(forecast.HELPS))).map(lambda found: tuple(sorted(found))),
    patience=st.floats(1, 10**6) | st.none(),
)
running = knowns.map(lambda known: replace(known, runs=True))


def no_longer(one: float | None, other: float | None) -> bool:
    """Whether the one takes no more than the other; what has no end takes longest."""
    endless = float("inf")
    return (endless if one is None else one) <= (endless if other is None else other) * (1 + 1e-9)


@given(running)
def test_it_converges_where_it_writes_less_than_the_path_carries(known):
    one = forecast.of(known)
    if known.dirty_rate is None or one.speed is None:
        assert one.converges in (None, True)
        return
    at_once = known.memory <= one.speed * known.downtime / 1000
    assert one.converges == (known.dirty_rate * FACTOR < one.speed or at_once or known.dirty_rate == 0)


@given(running, st.integers(0, 4 * GIB))
def test_the_more_it_writes_the_longer_it_takes(known, more):
    known = replace(known, dirty_rate=known.dirty_rate or 0, link_speed=known.link_speed or GIGABIT)
    slow, fast = forecast.of(known), forecast.of(replace(known, dirty_rate=known.dirty_rate + more))
    assert no_longer(slow.memory_s, fast.memory_s)
    assert slow.converges >= fast.converges


@given(knowns, st.floats(1, 100))
def test_the_more_a_path_carries_the_less_it_takes(known, times):
    known = replace(known, dirty_rate=known.dirty_rate or 0, link_speed=known.link_speed or GIGABIT)
    slow, fast = forecast.of(known), forecast.of(replace(known, link_speed=known.link_speed * times))
    assert no_longer(fast.memory_s, slow.memory_s)
    assert no_longer(fast.disk_s, slow.disk_s)
    assert fast.converges >= slow.converges


@given(knowns)
def test_no_forecast_promises_what_cannot_be(known):
    one = forecast.of(known)
    assert "\n" not in one.text
    assert one.result()["text"] == one.text
    if one.converges is None:
        assert one.unknown in (one.text, one.unknown)
    if one.memory_s is not None:
        assert no_longer(one.pass_s, one.memory_s), "all memory travels once at least"
        assert no_longer(one.downtime_ms, 1000 * one.memory_s + 1)
        assert not known.runs or one.downtime_ms <= known.downtime + 1
    assert bool(one.recommended) <= (one.converges is False)


@given(running)
def test_what_is_recommended_of_the_path_lets_it_converge(known):
    one = forecast.of(known)
    found = {advice.option: advice.value for advice in one.recommended}
    link = known.link_speed or 1e15
    changes = {
        "bandwidth": lambda value: {"limit": value * MIB + 1, "link_speed": link},
        "parallel_connections": lambda value: {"connections": value},
        "max_downtime": lambda value: {"downtime": value},
        "tunnelled": lambda value: {"tunnelled": value},
    }
    for option, make in changes.items():
        if option in found:
            assert forecast.of(replace(known, **make(found[option]))).converges, option


def test_a_guest_as_numbers():
    """A GiB on gigabit Ethernet: 117 MB/s, as measured by others."""
    one = forecast.of(Known(memory=GIB, dirty_rate=10 * MIB, link="eth1", link_speed=GIGABIT, disk=2 * GIB))
    assert one.converges
    assert 9.0 < one.pass_s < 9.2
    assert 12.0 < one.memory_s < 12.6
    assert one.downtime_ms == 300
    assert 18.2 < one.disk_s < 18.4
    assert one.text == (
        "it writes 10.0 MiB/s, reckoned 3 times that while it moves; eth1 lets 112.1 MiB/s through;"
        " memory in about 12 s; disks in about 18 s; a standstill of 300 ms at most"
    )


@pytest.mark.parametrize(
    ("known", "options"),
    [
        ({"limit": 20 * MIB}, {"bandwidth": 121, "policy": "minimal_downtime"}),
        ({"limit": 20 * MIB, "link_speed": 10 * GIGABIT}, {"bandwidth": 121, "policy": "minimal_downtime"}),
        ({"limit": 20 * MIB, "link_speed": GIGABIT}, {"policy": "minimal_downtime"}),
        ({"limit": 20 * MIB, "helps": ("postcopy",)}, {"bandwidth": 121}),
        ({"dirty_rate": 5000 * MIB, "limit": MIB}, {"policy": "must_complete"}),
        (
            {"dirty_rate": 1000 * MIB, "link_speed": 100 * GIGABIT},
            {"parallel": True, "parallel_connections": 3, "policy": "minimal_downtime"},
        ),
        (
            {"dirty_rate": 200 * MIB, "link_speed": 10 * GIGABIT, "tunnelled": True},
            {"tunnelled": False, "policy": "minimal_downtime"},
        ),
        (
            {"memory": 128 * MIB, "link_speed": GIGABIT / 2},
            {"max_downtime": 2285, "policy": "minimal_downtime"},
        ),
    ],
)
def test_what_is_recommended(known, options):
    one = forecast.of(Known(**{"memory": 64 * GIB, "dirty_rate": 40 * MIB, **known}))
    assert one.converges is False
    assert {advice.option: advice.value for advice in one.recommended} == options


def test_what_is_recommended_is_said_in_one_line():
    known = Known(memory=64 * GIB, dirty_rate=1000 * MIB, link="eth1", link_speed=100 * GIGABIT)
    assert forecast.of(known).cure == (
        "parallel: true and parallel_connections: 3 (eth1 carries as many) or policy: must_complete (post-copy, or a"
        " stop, ends it) or policy: minimal_downtime (it is slowed down until it ends)"
    )
    nothing = replace(known, link_speed=MIB, helps=("auto_converge",), memory=GIB)
    assert forecast.of(nothing).cure == "give it a faster path"


def go(lab, **options):
    """Over gigabit Ethernet, unless there are other links."""
    lab.links.setdefault("172.16.1.9", ("eth1", 1000))
    return lab.move(**{"check": True, "migrate_uri": "tcp://172.16.1.9", "parallel": False, **options})


def row(result):
    (found,) = [one for one in result.checks if one["id"] == "convergence"]
    return found


def test_check_mode_tells_what_the_move_will_be_like(lab):
    guest = lab.add()
    guest.dirty_rate = 10
    result = go(lab)
    assert result.forecast["converges"] is True
    assert result.forecast["dirty_rate"] == 10 * MIB
    assert (result.forecast["link"], result.forecast["speed"]) == ("eth1", 117500000)
    assert result.forecast["disk_s"] == pytest.approx((64 << 20) / 117500000, abs=0.001)
    assert result.forecast["downtime_ms"] == 300
    assert result.forecast["recommended"] == []
    assert row(result)["status"] == "pass"
    assert row(result)["evidence"] == f"estimate: {result.forecast['text']}"


def test_a_guest_that_will_not_converge_is_a_warning_with_what_helps(lab):
    guest = lab.add()
    guest.dirty_rate = 200
    result = go(lab)
    assert not result.failed
    assert row(result)["status"] == "warn"
    assert "it writes 200.0 MiB/s" in row(result)["evidence"]
    assert "by itself it does not come to an end" in row(result)["evidence"]
    assert "policy: must_complete" in row(result)["cure"]
    assert [one["option"] for one in result.forecast["recommended"]] == ["max_downtime", "policy", "policy"]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"policy": "must_complete"}, "post-copy ends it, it is stopped in the end"),
        ({"policy": "minimal_downtime"}, "auto-converge slows it down"),
        ({"auto_converge": True}, "auto-converge slows it down"),
        ({"timeout": 60, "timeout_action": "suspend"}, "it is stopped in the end"),
    ],
)
def test_what_the_move_has_for_it_is_enough(lab, options, what):
    lab.add().dirty_rate = 200
    result = go(lab, **options)
    assert row(result)["status"] == "pass", row(result)
    assert row(result)["evidence"].endswith(what)


@pytest.mark.parametrize("options", [{"timeout": 2}, {"timeout_per_gib": 2}])
def test_a_timeout_that_is_too_short_is_a_warning(lab, options):
    lab.add().dirty_rate = 10
    result = go(lab, **options)
    assert row(result)["status"] == "warn"
    assert "and after 2 s it is given up" in row(result)["evidence"]
    assert "more than 4 s" in row(result)["cure"]


def test_a_policy_without_effect_on_the_link_is_no_help(lab):
    """A hundredth of it is still more than that."""
    lab.add().dirty_rate = 4000
    lab.links["172.16.1.9"] = ("eth1", 10)
    assert row(go(lab, policy="never_pause"))["status"] == "warn"


def test_an_old_qemu_cannot_measure(lab):
    lab.add()
    lab.kvm1.hypervisor = 5001000
    result = go(lab)
    assert row(result)["status"] == "skipped"
    assert "QEMU does not support calculating dirty page rate" in row(result)["evidence"]
    assert (result.forecast["converges"], result.forecast["dirty_rate"]) == (None, None)
    assert result.forecast["pass_s"] > 2


def test_old_bindings_cannot_measure(lab, monkeypatch):
    lab.add()
    monkeypatch.delattr(fake.virDomain, "startDirtyRateCalc")
    assert "the bindings of libvirt before 7.2.0" in row(go(lab))["evidence"]


def test_a_measurement_that_does_not_end_is_not_waited_for(lab, monkeypatch):
    lab.add()
    monkeypatch.setattr(outlook, "SECONDS", 1)
    monkeypatch.setattr(outlook, "PATIENCE", -0.99)
    monkeypatch.setattr(fake.virDomain, "dirty_rate", lambda _self: {"dirtyrate.calc_status": 1})
    assert "QEMU did not tell within" in row(go(lab))["evidence"]


def test_a_measurement_that_goes_on_is_used(lab):
    lab.add()
    lab.kvm1.measured[UUID] = 1
    assert go(lab).forecast["dirty_rate"] == 8 * MIB


def test_a_path_whose_speed_nobody_tells(lab):
    lab.add()
    lab.links["172.16.1.9"] = ("eth1", None)
    result = go(lab)
    assert (row(result)["status"], result.forecast["speed"]) == ("skipped", None)
    assert "the speed of the path is not known" in row(result)["evidence"]
    limited = go(lab, bandwidth=50)
    assert limited.forecast["speed"] == 50 * MIB
    assert "the bandwidth limit lets 50.0 MiB/s through" in row(limited)["evidence"]


def test_the_guests_own_limits_count(lab):
    guest = lab.add()
    guest.limits.update(MaxSpeed=40, MaxDowntime=1000)
    result = go(lab)
    assert result.forecast["speed"] == 40 * MIB
    assert result.forecast["downtime_ms"] == 1000
    assert go(lab, max_downtime=50).forecast["downtime_ms"] == 50
    assert go(lab, max_downtime=2000).forecast["downtime_ms"] == 2000
    assert go(lab, max_downtime=2000, policy="must_complete").forecast["downtime_ms"] == 1000


@pytest.mark.parametrize(
    ("state", "options"), [(fake.VIR_DOMAIN_PAUSED, {}), (fake.VIR_DOMAIN_RUNNING, {"mode": "nonlive"})]
)
def test_a_guest_that_stands_still_always_converges(lab, state, options):
    lab.add(state=state).dirty_rate = 4000
    result = go(lab, **options)
    assert row(result)["status"] == "pass"
    assert "it stands still meanwhile" in row(result)["evidence"]
    assert "startDirtyRateCalc" not in lab.kvm1.calls
    assert result.forecast["downtime_ms"] == 2285


@pytest.mark.parametrize(
    ("options", "link"),
    [
        ({"migrate_uri": None}, "lan"),
        ({"migrate_uri": None, "tunnelled": True, "storage": "shared"}, "lan"),
        ({"migrate_uri": "tcp://192.0.2.7:50000", "disks_port": 50001}, "eth1"),
    ],
)
def test_the_link_is_that_of_the_way_that_the_data_takes(lab, options, link):
    lab.add(xml=domain_xml(disks=[]), image="")
    lab.names = {"kvm2": ["10.0.0.2"], **{one: [one] for one in ("10.0.0.2", "192.0.2.7")}}
    lab.links = {"10.0.0.2": ("lan", 1000), "192.0.2.7": ("eth1", 10000)}
    assert go(lab, **options).forecast["link"] == link


def test_a_real_run_measures_nothing(lab):
    lab.add()
    result = go(lab, check=False)
    assert not hasattr(result, "forecast")
    assert (row(result)["status"], row(result)["evidence"][:26]) == ("skipped", "a forecast is made in chec")
    assert "startDirtyRateCalc" not in lab.kvm1.calls
    lab.add(state=fake.VIR_DOMAIN_SHUTOFF, name="b", uuid=UUID[:-1] + "2", image="")
    assert not hasattr(go(lab, name="b", migrate_uri=None), "forecast")
    skipped = go(lab, name="b", preflight="skip", migrate_uri=None)
    assert not hasattr(skipped, "forecast")


@pytest.fixture
def net(tmp_path, monkeypatch):
    """Network interfaces of a machine, as `{file: text}`."""

    def make(route, **files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.setattr(locals_, "NETWORKS", str(tmp_path))
        monkeypatch.setattr(locals_.shutil, "which", lambda *_, **__: "/usr/sbin/ip")
        return locals_.Local(lambda command: (0, route, ""))

    return make


TAP = {"eth1__brif__t": "", "t__tun_flags": "", "t__speed": "10000"}
ROUTE = "172.16.1.9 dev {} src 172.16.1.1 uid 0 \\    cache "


@pytest.mark.parametrize(
    ("files", "speed"),
    [
        ({"eth1__speed": "25000\n"}, 25000),
        ({"eth1__speed": "-1\n"}, None),
        ({"eth1__mtu": "1500"}, None),
        ({"eth1__speed": "10000", "eth1__brif__p1": "", "p1__speed": "1000", **TAP}, 1000),
        ({"eth1__speed": "10", **TAP}, 10),
    ],
)
def test_the_speed_of_a_link(net, files, speed):
    assert net(ROUTE.format("eth1"), **files).link("172.16.1.9") == ("eth1", speed)


def test_no_link_leads_there(net, monkeypatch):
    found = net("RTNETLINK answers: Network is unreachable")
    assert found.link("172.16.1.9") == ("", None)
    monkeypatch.setattr(locals_.shutil, "which", lambda *_, **__: None)
    assert found.link("172.16.1.9") == ("", None)
