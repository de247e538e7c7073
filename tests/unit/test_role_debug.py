# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the roles tell people is the message alone, with every ansible-core."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

TOP = Path(__file__).resolve().parents[2]
DEBUG = "ansible.builtin.debug"


def tasks(found: Any) -> Iterator[dict[str, Any]]:
    """All tasks of a file, those in blocks too."""
    for task in found or []:
        yield task
        for part in ("block", "rescue", "always"):
            yield from tasks(task.get(part))


def test_no_loop_of_debug_has_a_variable_with_an_underscore_at_its_beginning():
    """ansible-core 2.19 prints the whole variable beside the message then."""
    seen, found = 0, []
    for path in sorted([*TOP.glob("roles/*/tasks/*.yml"), *TOP.glob("roles/*/handlers/*.yml")]):
        for task in tasks(yaml.safe_load(path.read_text(encoding="utf-8"))):
            if DEBUG in task:
                seen += 1
                variable = task.get("loop_control", {}).get("loop_var", "")
                found += [f"{path.relative_to(TOP)}: {task['name']}: {variable}"] * variable.startswith("_")
    assert seen > 10
    assert found == []
