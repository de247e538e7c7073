# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A call to a host that never comes back: it ends, and so do the processes that it has begun."""

from __future__ import annotations

import signal
import subprocess
import time

import pytest
from ansible.errors import AnsibleConnectionFailure

from ansible_collections.kvmops.migration.plugins.plugin_utils.patience import limited


def test_a_call_in_time_is_left_alone():
    with limited(5, "kvm1"):
        child = subprocess.Popen(["sleep", "60"])
    assert child.poll() is None
    child.kill()
    child.wait()
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_one_that_hangs_is_ended_with_its_processes():
    children = []

    def hang() -> None:
        while True:
            try:
                children.append(subprocess.Popen(["sleep", "60"]))
                children[-1].wait()
            except Exception:  # noqa: BLE001 - as connection plugins do, which try again whatever happens
                continue

    began = time.monotonic()
    with pytest.raises(AnsibleConnectionFailure, match=r"kvm1 has not answered within 0\.3 s"), limited(0.3, "kvm1"):
        hang()
    assert time.monotonic() - began < 10
    assert [child.wait(timeout=10) for child in children] == [-signal.SIGTERM]


def test_a_limit_for_the_whole_task_goes_on_counting():
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(True))
    try:
        signal.setitimer(signal.ITIMER_REAL, 30)
        with limited(5, "kvm1"):
            time.sleep(0.05)
        assert 29 < signal.getitimer(signal.ITIMER_REAL)[0] < 29.96
        assert not rung
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
