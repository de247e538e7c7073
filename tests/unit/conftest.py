# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the fake libvirt importable as libvirt. The checkout is kvmops.migration by the link that `make venv` makes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A machine that does other things meanwhile is no error.
settings.register_profile("unit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unit")

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from fake import libvirt as fake  # noqa: E402 - it must be there before anything asks for libvirt

sys.modules["libvirt"] = fake

# These ask for it, and are late for that.
from ansible_collections.kvmops.migration.plugins.module_utils._migrate import job, outlook, settle  # noqa: E402
from fake.lab import Lab  # noqa: E402


@pytest.fixture
def lab(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(settle, "LIMIT", 0.3)
    monkeypatch.setattr(settle, "STEP", 0.01)
    monkeypatch.setattr(settle, "PATIENCE", 0.3)
    monkeypatch.setattr(job, "FIRST_STEP", 0.005)
    monkeypatch.setattr(outlook, "STEP", 0.001)
    monkeypatch.setattr(job, "ABORT_PATIENCE", 1.0)
    made = Lab(tmp_path, monkeypatch, capsys)
    made.world.hang_limit = 5.0
    yield made
    for host in made.world.hosts.values():
        host.answers.set()
    made.world.complete_job()
    assert made.strays() == []
    assert made.world.overwritten == []
