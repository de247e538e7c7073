# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check what an execution environment gets to know of this collection, without building one.

ansible-builder finds both lists of meta/execution-environment.yml and understands them; what runs on the controller
imports nothing besides; and the example of a site makes a context to build from.

Usage: in_venv.sh python tests/gates/execution_environment.py
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml
from generated import TOP, finish

COLLECTION = "kvmops.migration"
NAME = re.compile(r"\w+")
EXAMPLE = TOP / "extensions" / "pipeline" / "execution-environment.yml"
ON_THE_CONTROLLER = ("action", "filter", "plugin_utils")
# What is there without being asked for.
GIVEN = {*sys.stdlib_module_names, "ansible", "ansible_collections"}


def builder(*arguments: object) -> str:
    command = ["ansible-builder", *map(str, arguments)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8").splitlines()
    return [line for line in text if line and not line.startswith("#")]


def not_found(folder: Path) -> Iterator[str]:
    """What of the lists does not reach ansible-builder."""
    tree = folder / "ansible_collections" / COLLECTION.partition(".")[0]
    tree.mkdir(parents=True)
    (tree / COLLECTION.partition(".")[2]).symlink_to(TOP)
    told = yaml.safe_load(builder("introspect", folder))
    said = yaml.safe_load((TOP / "meta" / "execution-environment.yml").read_text(encoding="utf-8"))
    for kind, name in said["dependencies"].items():
        found = [line.partition("#")[0].strip() for line in told[kind]]
        wished = lines(TOP / name)
        if sorted(found) != sorted(wished):
            yield f"{name}: ansible-builder finds {found}, there are {wished}"


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def missing() -> Iterator[str]:
    # Packages are called as their modules are.
    brought = {NAME.match(line)[0] for line in lines(TOP / "requirements.txt")}
    for folder in ON_THE_CONTROLLER:
        for path in sorted((TOP / "plugins" / folder).rglob("*.py")):
            for name in imported(path):
                if name.partition(".")[0] not in GIVEN | brought:
                    yield f"{path.relative_to(TOP)} imports {name}, which requirements.txt does not bring"


def without_context(folder: Path) -> Iterator[str]:
    builder("create", "-f", EXAMPLE, "-c", folder, "--output-filename", "Containerfile")
    if not (folder / "Containerfile").is_file():
        yield f"{EXAMPLE.relative_to(TOP)} makes no Containerfile"
    galaxy = yaml.safe_load((folder / "_build" / "requirements.yml").read_text(encoding="utf-8"))
    if COLLECTION not in [one["name"] for one in galaxy["collections"]]:
        yield f"{EXAMPLE.relative_to(TOP)} does not install {COLLECTION}"


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="kvmops-ee-") as name:
        os.chdir(name)
        wrong = [*not_found(Path(name) / "introspect"), *missing(), *without_context(Path(name) / "context")]
    return finish(wrong, "what an execution environment needs is known")


if __name__ == "__main__":
    sys.exit(main())
