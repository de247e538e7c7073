# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the README tells people to type and to write down is accepted."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from ansible_collections.kvmops.migration.plugins.module_utils._pure import schedule
from ansible_collections.kvmops.migration.plugins.plugin_utils.values import problem

TEXT = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


def test_every_option_in_it_is_accepted():
    typed = [
        yaml.safe_load(found)["migrate_options"] for found in re.findall(r"-e '(\{\"migrate_options\".*?\})'", TEXT)
    ]
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)]
    written = [block["migrate_options"] for block in blocks if "migrate_options" in block]
    assert len(typed) >= 3
    assert written
    for options in [*typed, *written]:
        assert problem({"name": "vm", "dest_host": "host", **options}) == "", options


def test_every_policy_is_in_it():
    assert set(re.findall(r"^\| `(\w+)`", TEXT, re.MULTILINE)) >= set(schedule.POLICIES)
