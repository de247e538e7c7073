# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rehearse the next release on a copy of the checkout; or, with a version, see that this checkout is that release.

A checkout whose version is released already has to be that release: what is new since then is for a version of its own.

Usage: in_venv.sh python tests/gates/release.py [VERSION]
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from generated import TOP, finish

# Of a release: no part of it is left out, and nothing is added.
VERSION = re.compile(r"(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*)){2}")
ADDED = re.compile(r"^\s*version_added: (\S+)$", re.MULTILINE)
DOCUMENTED = ("plugins/modules/*.py", "plugins/filter/*.py")


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def not_released(top: Path, version: str) -> Iterator[str]:
    """What a released checkout has, and this one has not."""
    if load(top / "galaxy.yml")["version"] != version:
        yield f"galaxy.yml has version {load(top / 'galaxy.yml')['version']}, not {version}"
    releases = load(top / "changelogs" / "changelog.yaml")["releases"]
    if version not in releases:
        yield f"changelogs/changelog.yaml has no release {version}"
    changelog = top / "CHANGELOG.md"
    if not changelog.is_file() or f"## v{version}" not in changelog.read_text(encoding="utf-8").replace("\\", ""):
        yield f"CHANGELOG.md has no release {version}"
    yield from (f"changelogs/fragments/{path.name} is in no release" for path in fragments(top))


def fragments(top: Path) -> list[Path]:
    return sorted((top / "changelogs" / "fragments").glob("*.yml"))


def from_the_future(version: str) -> Iterator[str]:
    for pattern in DOCUMENTED:
        for path in sorted(TOP.glob(pattern)):
            for added in ADDED.findall(path.read_text(encoding="utf-8")):
                if number(added) > number(version):
                    yield f"{path.relative_to(TOP)}: added in {added}, and the next release is {version}"


def changelog(top: Path, home: str, *arguments: str) -> Iterator[str]:
    """What it says where it does not end well."""
    command = ["antsibull-changelog", *arguments]
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": home, "HOME": home}
    done = subprocess.run(command, cwd=top, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        yield f"{' '.join(command)}\n{done.stdout}{done.stderr}"


def rehearse(version: str) -> Iterator[str]:
    released = load(TOP / "changelogs" / "changelog.yaml")["releases"]
    if released and number(version) <= max(map(number, released)):
        yield f"galaxy.yml has version {version}, and {max(released, key=number)} is released: raise it"
        return
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=TOP, capture_output=True, text=True, check=True,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="kvmops-release-") as home:
        top = Path(home) / "ansible_collections" / "kvmops" / "migration"
        for name in filter(lambda name: (TOP / name).is_file(), listed.stdout.splitlines()):
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(TOP / name, top / name)
        wrong = list(changelog(top, home, "release", "--version", version))
        yield from wrong or (*changelog(top, home, "lint"), *not_released(top, version))


def main(arguments: list[str]) -> int:
    if arguments:
        return finish(list(not_released(TOP, arguments[0])), f"this is the release {arguments[0]}")
    version = load(TOP / "galaxy.yml")["version"]
    if not VERSION.fullmatch(version):
        return finish([f"galaxy.yml: {version} is no version of a release"], "")
    wrong = list(from_the_future(version))
    if not wrong and not list(not_released(TOP, version)):
        return finish([], f"this is the release {version}, and nothing is new since then")
    count = len(fragments(TOP))
    made = "one fragment makes" if count == 1 else f"{count} fragments make"
    return finish([*wrong, *rehearse(version)], f"{version} could be released: {made} its changelog")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
