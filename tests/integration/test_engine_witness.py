# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Last of the scenario: what the guests' own records and the watchers of all hosts say of everything before."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .conftest import REPOSITORY
from .engine import GUESTS

pytestmark = pytest.mark.usefixtures("mended")


def lab(*arguments: str) -> None:
    command = [sys.executable, "-m", "tests.lab", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("guest", GUESTS, ids=lambda guest: guest.name)
def test_no_record_of_a_guest_was_lost_torn_or_written_twice(guest):
    guest.bring()
    lab("witness", guest.name, f"--boots={guest.boots}")


def test_no_guest_ever_ran_in_two_places():
    lab("watch")
