# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Knowledge runs one way between the packages of module_utils."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

UTILS = Path(__file__).parents[2] / "plugins" / "module_utils"
# By package, whom nothing in it may import.
STRANGERS = {
    "_pure": {"_answer", "_libvirt", "_exports", "_images", "_migrate", "_domblk"},
    "_exports": {"_answer", "_libvirt", "_images", "_migrate", "_domblk"},
    "_images": {"_answer", "_exports", "_migrate", "_domblk"},
    "_migrate": {"_exports", "_domblk"},
    "_domblk": {"_exports"},
}


@pytest.mark.parametrize("package", STRANGERS)
def test_a_package_knows_only_those_below_it(package):
    for path in (UTILS / package).glob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        imports = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 2]
        known = {(node.module or alias.name).split(".")[0] for node in imports for alias in node.names}
        assert not known & STRANGERS[package], path
