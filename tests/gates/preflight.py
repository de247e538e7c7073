# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write docs/preflight.md: every check before a move, by the table of checks and the obstacles of the tests.

The table is read and not imported, so that this runs without the collection's dependencies.

Usage: python tests/gates/preflight.py           write the page
       python tests/gates/preflight.py --check   fail where it is not up to date
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from generated import DOCS, TOP, finish, settle

TABLE = TOP / "plugins" / "module_utils" / "_pure" / "preflight.py"
# Obstacles of containers, which share one kernel, and those that need kernels of their own.
LAB = [TOP / "tests" / "integration" / name for name in ("test_preflight.py", "test_system.py")]
PAGE = DOCS / "preflight.md"
TAIL = """
## The forecast

In check mode, and so in `preflight.yml`, a live move is forecast before anything moves: whether pre-copy comes to an
end, how long memory and disks take, how long the VM stands still at most, and which options help. It is an estimate:

- QEMU measures for a second, by samples, how fast the VM writes its memory (libvirt 7.2.0, QEMU 5.2.0). That goes on
  while the other checks are made. A real run measures nothing, and waits for nothing.
- While it moves a VM is reckoned to write 3 times as fast. KubeVirt (enhancement proposal 246) calls such forecasts
  unreliable, because rates are 2 to 3 times higher during a migration; the worst of that is taken.
- The path carries what `bandwidth` or the VM's own limit lets through, or 94 % of what the network interface that leads
  to the destination says of itself, but no more than 10 Gb/s for each connection and 2 Gb/s where it is tunnelled.
  Several VMs that move at a time share it.
- With memory M, rate D (times 3), path B and permitted standstill L, memory takes (M - B L) / (B - D) + L seconds. It
  converges where D is less than B, or where all memory fits in L. Compression and zero pages only make it faster.

`convergence` passes where the move converges or has what ends it (`auto_converge`, post-copy, a stop by its policy or
timeout), else it warns, as where it would be given up before it ends. It never stands in the way of a move.
"""
FIELDS = ("id", "title", "judge", "failure_class", "role")
HEAD = """<!-- Made by tests/gates/preflight.py of plugins/module_utils/_pure/preflight.py: do not edit. -->
# What is checked before a move

`virt_migrate` makes all of these checks before it changes anything, in check mode as before a real run, and
`preflight.yml` shows what they find. *Judged* ones compare what both hosts say of themselves and the way between them;
`preflight: warn` makes warnings of them. The others are refusals of the engine, which nothing turns off.
Every check has an obstacle on the fake (`tests/unit/test_module_preflight.py`); those of the last column were made on
real hosts, too, found and cured (`tests/integration/test_preflight.py`, and where it takes kernels of their own,
`tests/integration/test_system.py`).

| check | what must hold | judged | cured by role | in the lab |
|---|---|---|---|---|
"""


def calls(path: Path, name: str) -> Iterator[dict[str, ast.expr]]:
    """The arguments of every call of that name in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
            yield {**dict(zip(FIELDS, node.args)), **{word.arg: word.value for word in node.keywords if word.arg}}


def text(node: ast.expr | None) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def page() -> str:
    seen = {text(call["id"]) for path in LAB for call in calls(path, "Obstacle")}
    rows = []
    for check in calls(TABLE, "Check"):
        name = text(check["id"])
        columns = (
            f"`{name}`",
            text(check["title"]),
            "yes" if "judge" in check else "",
            text(check.get("role")),
            "yes" if name in seen else "",
        )
        rows.append(f"| {' | '.join(columns)} |\n")
    return HEAD + "".join(rows) + TAIL


def main(arguments: list[str]) -> int:
    wanted = page()
    wrong = settle(__file__, PAGE, wanted, arguments)
    return finish(wrong, f"{wanted.count(chr(10) + '| `')} checks")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
