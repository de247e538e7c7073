# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write docs/playbooks.md: every playbook, what it does and its variables, and the packages that roles install.

What it says are the comments at the top of each playbook, the roles that it calls and their argument specifications.

Usage: python tests/gates/playbooks.py           write the page
       python tests/gates/playbooks.py --check   fail where it is not up to date
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from generated import DOCS, TOP, finish, settle

PLAYBOOKS = TOP / "playbooks"
ROLES = TOP / "roles"
PAGE = DOCS / "playbooks.md"
COLLECTION = "kvmops.migration."
CALLS = ("import_role", "include_role")
FAMILIES = ("Debian", "RedHat")
HEAD = """<!-- Made by tests/gates/playbooks.py of playbooks/*.yml and roles/*/meta/argument_specs.yml: do not edit. -->
# Playbooks

Each is a thin call of roles, and runs by its full name too: `ansible-playbook kvmops.migration.migrate`. Variables of
the inventory that they all know are in [concepts](concepts.md#the-inventory). A short name in the second column is what
the variable is by default: `-e vm=web1` sets `migrate_vm`.
"""
PACKAGES = """## Packages

What roles install, by the family of the host. Debian 12 is tested on real hosts; the names for the RHEL family are in
the roles, and none of them has been run there yet. Role `firewall` installs `firewalld`, or `iptables` where
`firewall_backend` says so; the packages of sanlock come with `libvirt_host_lock_manager: sanlock` only.

| role | Debian | RHEL family |
|---|---|---|
"""
# Ansible's markup, as Markdown has it.
MARKUP = re.compile(r"\b[CVOMP]\(((?:\\.|[^)\\])*)\)")
SHORT = re.compile(r"\{\{ (\w+) \| default\(")
# What a role calls an entry point is a playbook for those who read the page.
MAIN = ("as for the entry point `main`", "as for [`migrate.yml`](#migrate)")


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def specification(role: str, entry: str) -> dict[str, Any]:
    return load(ROLES / role / "meta" / "argument_specs.yml")["argument_specs"][entry]


def markdown(text: str | list[str]) -> str:
    """A description in one line, fit for a cell."""
    line = " ".join(" ".join([text] if isinstance(text, str) else text).split())
    line = MARKUP.sub(lambda match: "`" + re.sub(r"\\(.)", r"\1", match[1]).replace("#role", "") + "`", line)
    return line.replace(*MAIN).replace("|", r"\|")


def comment(path: Path) -> tuple[list[str], list[str]]:
    """Commands and prose of the comment at the top of a playbook."""
    head = path.read_text(encoding="utf-8").partition("\n---\n")[0].splitlines()
    lines = [line[1:] for line in head if not re.match(r"# (Copyright|SPDX)", line)]
    commands = [line.strip() for line in lines if line.startswith("   ")]
    return commands, [line.strip() for line in lines if not line.startswith("   ")]


def called(plays: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Role and entry point of every call, in order."""
    for play in plays:
        for role in play.get("roles", []):
            yield role["role"].removeprefix(COLLECTION), "main"
        for task in play.get("tasks", []):
            for module, arguments in task.items():
                if module.rpartition(".")[2] in CALLS:
                    yield arguments["name"].removeprefix(COLLECTION), arguments.get("tasks_from", "main")


def variables(calls: list[tuple[str, str]]) -> Iterator[str]:
    yield "| variable | by `-e` | default | |"
    yield "|---|---|---|---|"
    for role, entry in calls:
        for name, option in (specification(role, entry).get("options") or {}).items():
            default = option.get("default")
            short = SHORT.match(str(default))
            known = short or default in (None, "")
            columns = (
                f"`{name}`",
                f"`{short[1]}`" if short and not short[1].startswith("migration_") else "",
                "" if known else f"`{default}`",
                markdown(option["description"]),
            )
            yield f"| {' | '.join(columns)} |"


def section(path: Path) -> Iterator[str]:
    plays = load(path)
    commands, prose = comment(path)
    yield f"## {path.stem}\n"
    yield f"`{path.name}`, `{COLLECTION}{path.stem}`: {'; '.join(play['name'] for play in plays)}.\n"
    if commands:
        yield "\n".join(["```console", *(f"$ {command}" for command in commands), "```", ""])
    text = "\n".join(prose).strip()
    if text:
        yield f"{text}\n"
    calls = list(dict.fromkeys(call for call in called(plays) if call[1] != "hypervisors"))
    if {role for role, _entry in calls} == {"migrate"}:
        yield from variables(calls)
    else:
        yield "Its variables are those of the roles that it calls:\n"
        for role, entry in calls:
            label = f"ansible_collections.{COLLECTION}{role}_role"
            yield f"- [`{role}`](#{label}): {markdown(specification(role, entry)['short_description'])}"
    yield ""


def listed(data: Any) -> list[str]:
    """Every name in the lists of some YAML."""
    if isinstance(data, dict):
        return [name for value in data.values() for name in listed(value)]
    return [str(name) for name in data] if isinstance(data, list) else []


def packages() -> Iterator[str]:
    for role in sorted(path.name for path in ROLES.iterdir() if path.is_dir()):
        columns = []
        for family in FAMILIES:
            file = ROLES / role / "vars" / f"{family}.yml"
            known = load(file) if file.exists() else {}
            columns.append(listed({name: value for name, value in known.items() if name.endswith("_packages")}))
        fixed = listed(load(ROLES / role / "defaults" / "main.yml").get(f"{role}_packages"))
        columns = [[*column, *fixed] for column in columns]
        if any(columns):
            yield f"| {role} | {' | '.join(', '.join(f'`{name}`' for name in column) for column in columns)} |"


def main(arguments: list[str]) -> int:
    paths = sorted(PLAYBOOKS.glob("*.yml"))
    lines = [HEAD, *(line for path in paths for line in section(path))]
    text = "\n".join(lines) + "\n" + PACKAGES + "\n".join(packages()) + "\n"
    wrong = settle(__file__, PAGE, text, arguments)
    return finish(wrong, f"{len(paths)} playbooks")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
