# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write docs/behaviours.md: every behaviour case, and by which tests it is covered or why by none.

The cases are in tests/behaviours.yml; a test names its cases in its own name: test_c1_16_..., test_c2_63_c6_104_...
Tests are read and not run. Fails on a case that nobody covers or explains, and on a name that names no case.

Usage: python tests/gates/behaviours.py           write the page
       python tests/gates/behaviours.py --check   fail where it is not up to date
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from generated import DOCS, TOP, finish, settle

DATA = TOP / "tests" / "behaviours.yml"
PAGE = DOCS / "behaviours.md"
# By the folder of a test, the column in which it is named.
TIERS = {"unit": "On fakes", "integration": "In the lab"}
NAME = re.compile(r"test((?:_c\d+(?:_\d+)+)+)(?:_|$)")
SECTION = re.compile(r"_c(\d+)((?:_\d+)+)")
HEAD = """<!-- Made by tests/gates/behaviours.py of tests/behaviours.yml and of the names of the tests: do not edit. -->
# Behaviour cases

What the collection must do, case by case, and which tests see to it. *On fakes* are the unit tests (`tests/unit`), with
a libvirt that is made for them; *in the lab* are those on real hosts (`tests/integration`). The whole name of a test
begins with `test_c<section>_<number>_`. What is open, and why, is said in the last column.
"""


@dataclass
class Case:
    section: int
    number: str
    holds: str
    open: str = ""
    # Names of tests by tier and file.
    tests: dict[str, dict[str, list[str]]] = field(default_factory=lambda: {tier: {} for tier in TIERS})

    @property
    def numbers(self) -> range:
        first, _dash, last = self.number.partition("-")
        return range(int(first), int(last or first) + 1)

    @property
    def covered(self) -> bool:
        return any(self.tests.values())


def load(path: Path) -> list[tuple[str, list[Case]]]:
    """Sections by title, with their cases."""
    sections = []
    for section in yaml.safe_load(path.read_text(encoding="utf-8")):
        title = f"C{section['section']}. {section['title']}"
        rows = [{**row, "number": str(row["number"])} for row in section["cases"]]
        sections.append((title, [Case(section["section"], **row) for row in rows]))
    return sections


def tests(folder: Path) -> Iterator[tuple[str, str]]:
    """File and name of every test, without importing it."""
    for path in sorted(folder.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_"):
                yield path.name, node.name


def named(name: str) -> Iterator[tuple[int, int]]:
    """Section and number of every case that the name of a test names."""
    match = NAME.match(name)
    for section, numbers in SECTION.findall(match[1]) if match else ():
        for number in numbers.split("_")[1:]:
            yield int(section), int(number)


def assign(cases: list[Case], found: Iterator[tuple[str, str, str]]) -> list[str]:
    """Give every test, as tier, file and name, to its cases; returns what is wrong."""
    known = {(case.section, number): case for case in cases for number in case.numbers}
    numbers = Counter(number for case in cases for number in case.numbers)
    wrong = [f"case {number} is there {times} times" for number, times in numbers.items() if times > 1]
    for tier, file, name in found:
        for key in dict.fromkeys(named(name)):
            if key not in known:
                wrong.append(f"{file}: {name}: there is no case {key[1]} in section {key[0]}")
                continue
            names = known[key].tests[tier].setdefault(file, [])
            if name not in names:
                names.append(name)
    left = [case.number for case in cases if not (case.covered or case.open)]
    return wrong + [f"case {number}: no test names it, and nothing says why" for number in left]


def page(sections: list[tuple[str, list[Case]]]) -> str:
    lines = [HEAD]
    for title, cases in sections:
        lines += [f"## {title}\n", f"| | what must hold | {' | '.join(TIERS.values())} | open |", f"|{'---|' * 5}"]
        for case in cases:
            columns = [case.number, case.holds, *(listed(case.tests[tier]) for tier in TIERS), case.open]
            lines.append(f"| {' | '.join(column.strip() for column in columns)} |")
        lines.append("")
    return "\n".join(lines)


def listed(files: dict[str, list[str]]) -> str:
    """The tests without what every one of them has in its name."""
    short = {file: ", ".join(f"`{NAME.sub('', name)}`" for name in names) for file, names in files.items()}
    return "<br>".join(f"{file}: {names}" for file, names in short.items())


def main(arguments: list[str]) -> int:
    sections = load(DATA)
    cases = [case for _title, of_section in sections for case in of_section]
    found = ((tier, file, name) for tier in TIERS for file, name in tests(TOP / "tests" / tier))
    wrong = assign(cases, found)
    wrong += settle(__file__, PAGE, page(sections), arguments)
    covered = sum(case.covered for case in cases)
    return finish(wrong, f"{len(cases)} cases, {covered} with tests")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
