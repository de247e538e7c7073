# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check what pages tell people to write and to type: YAML, commands and names in the README, in docs/ and of the roles.

YAML parses, and names only modules, roles, entry points, options and choices that are there, each with a value of its
type. Commands name playbooks, tags, variables and make targets that are there. A name with underscores, or a file
that is named in a sentence, is one of this repository.

Usage: python tests/gates/examples.py
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from generated import TOP, finish

PAGES = ("README.md", "docs/**/*.md", "roles/*/README.md")
COLLECTION = "kvmops.migration."
# Indented in a list as well.
BLOCK = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
PAIR = re.compile(r"([a-z]+(?:_[a-z]+)*): (\S.*)")
SNAKE = re.compile(r"[a-z]+(?:_[a-z0-9]+)+")
WORD = re.compile(r"\w+")
FILE = re.compile(r"(?:[\w.*-]+/)*[\w.*-]+\.(?:yml|py|sh|md|toml|j2)")
# Made by a release.
TO_COME = {"CHANGELOG.md"}
# Variables of the inventory, which no role has as its own.
INVENTORY = re.compile(r"\b(?:migration_(?:hosts_group|vms|address)|storage_address|prepare_libvirt_tls)\b")
PASSED = re.compile(r"\{\{ (\w+) \| default\(")
TYPES: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "dict": (dict,),
    "list": (list, str),
    "str": (str, int, float, bool),
    "path": (str,),
}
# Options of roles that are options of modules.
OPTIONS_OF = {"migrate_options": "virt_migrate", "migrate_copy_options": "virt_domblk_copy"}
PLACEMENT = {"host": {"type": "raw"}, "mode": {"type": "str"}, "storage": {"type": "str"}}
# Of ansible-playbook: those that take a value.
WITH_VALUE = {"-e", "--extra-vars", "-i", "--inventory", "-l", "--limit", "-t", "--tags", "--skip-tags"}
ALONE = {"--check", "--diff", "-C", "-D", "-v", "-K"}
CALLS = ("include_role", "import_role")

Options = dict[str, dict[str, Any]]


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def named(options: Options) -> Options:
    """The options that people may give, by all their names."""
    given = {name: option for name, option in options.items() if not name.startswith("_")}
    return {alias: option for name, option in given.items() for alias in (name, *option.get("aliases", []))}


def documentation(path: Path) -> dict[str, Any]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "DOCUMENTATION":
            assert isinstance(node.value, ast.Constant)
            return yaml.safe_load(node.value.value)
    raise ValueError(f"{path} has no DOCUMENTATION")


class Known:
    """What there is in this repository."""

    @cached_property
    def modules(self) -> dict[str, Options]:
        paths = sorted((TOP / "plugins" / "modules").glob("*.py"))
        return {path.stem: named(documentation(path).get("options") or {}) for path in paths}

    @cached_property
    def roles(self) -> dict[str, dict[str, Options]]:
        """Options by role and entry point."""
        found = {}
        for path in sorted((TOP / "roles").glob("*/meta/argument_specs.yml")):
            entries = load(path)["argument_specs"]
            found[path.parts[-3]] = {name: entry.get("options") or {} for name, entry in entries.items()}
        return found

    @cached_property
    def variables(self) -> Options:
        """Options of all roles, and what inventories and commands may say besides."""
        entries = [entry for role in self.roles.values() for entry in role.values()]
        own = {name: option for options in entries for name, option in options.items()}
        files = [*(TOP / "playbooks").glob("*.yml"), *(TOP / "roles").glob("*/defaults/main.yml")]
        text = "\n".join(path.read_text(encoding="utf-8") for path in files)
        passed = {name: {"type": "raw"} for name in (*PASSED.findall(text), *INVENTORY.findall(text))}
        return {**passed, **own, "migration_vms": {"type": "dict"}}

    @cached_property
    def tags(self) -> dict[str, set[str]]:
        """Tags by playbook."""
        return {path.stem: set(tags_in(load(path))) for path in (TOP / "playbooks").glob("*.yml")}

    @cached_property
    def makefile(self) -> tuple[set[str], set[str]]:
        """Targets and variables of make."""
        text = (TOP / "Makefile").read_text(encoding="utf-8")
        targets = {name for line in re.findall(r"^([a-z0-9 -]+):(?!=)", text, re.MULTILINE) for name in line.split()}
        return targets, set(re.findall(r"^([A-Z]+) \?=", text, re.MULTILINE)) | {"G"}

    @cached_property
    def files(self) -> list[str]:
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        return subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=True).stdout.splitlines()

    @cached_property
    def words(self) -> set[str]:
        """Every word of code and data."""
        found: set[str] = set()
        for name in self.files:
            if not name.endswith(".md"):
                found.update(WORD.findall((TOP / name).read_text(encoding="utf-8", errors="ignore")))
        return found

    def parts(self) -> set[str]:
        """Everything that has a full name."""
        filters = {path.stem for path in (TOP / "plugins" / "filter").glob("*.py")}
        return {*self.modules, *self.roles, *filters, *self.tags}


KNOWN = Known()


def tags_in(data: Any) -> Iterator[str]:
    if isinstance(data, dict):
        tags = data.get("tags", [])
        yield from [tags] if isinstance(tags, str) else tags
    for value in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        yield from tags_in(value)


def judge(name: str, option: dict[str, Any], value: Any) -> Iterator[str]:
    """What is wrong with one value of an option."""
    if value is None or (isinstance(value, str) and "{{" in value):
        return
    kind = option.get("type", "str")
    if isinstance(value, bool) and kind not in ("bool", "str", "raw"):
        yield f"{name}: {value!r} is no {kind}"
    elif kind in TYPES and not isinstance(value, TYPES[kind]):
        yield f"{name}: {value!r} is no {kind}"
        return
    items = value if isinstance(value, list) else [value]
    choices = [str(choice).lower() for choice in option.get("choices", [])]
    for item in items if choices else ():
        if str(item).lower() not in choices:
            yield f"{name}: {item!r} is none of {', '.join(choices)}"
    inner = option.get("suboptions") or option.get("options")
    if name in OPTIONS_OF and isinstance(value, dict):
        yield from judge_all(name, KNOWN.modules[OPTIONS_OF[name]], value, required=False)
    elif name == "migration_vms" and isinstance(value, dict):
        for vm, wish in value.items():
            yield from judge_all(f"{name}.{vm}", PLACEMENT, wish)
    elif inner:
        for item in items:
            if isinstance(item, dict):
                yield from judge_all(name, named(inner), item)


def judge_all(where: str, options: Options, given: dict[str, Any], required: bool = True) -> Iterator[str]:
    for name, value in given.items():
        if name in options:
            yield from judge(name, options[name], value)
        else:
            yield f"{where}: there is no {name}"
    for name, option in options.items() if required else ():
        is_alias = any(name in other.get("aliases", []) for other in options.values())
        if option.get("required") and not is_alias and not {name, *option.get("aliases", [])} & given.keys():
            yield f"{where}: {name} is missing"


def judge_variable(name: str, value: Any) -> Iterator[str]:
    if name in KNOWN.variables:
        yield from judge(name, KNOWN.variables[name], value)
    elif name.partition("_")[0] in ("migration", "migrate", "prepare") or any(
        name.startswith(f"{role}_") for role in KNOWN.roles
    ):
        yield f"there is no variable {name}"


def judge_role(called: str, entry: str) -> Iterator[str]:
    if called.startswith(COLLECTION):
        role = called[len(COLLECTION) :]
        if role not in KNOWN.roles:
            yield f"there is no role {called}"
        elif entry not in KNOWN.roles[role]:
            yield f"role {called} has no tasks {entry}"


def judge_yaml(data: Any) -> Iterator[str]:
    """What is wrong with YAML of playbooks, tasks, variables and inventories."""
    if isinstance(data, list):
        for item in data:
            yield from judge_yaml(item)
    if not isinstance(data, dict):
        return
    for key, value in data.items():
        name = str(key)
        short = name[len(COLLECTION) :] if name.startswith(COLLECTION) else ""
        if short in KNOWN.modules:
            yield from judge_all(name, KNOWN.modules[short], value or {})
            continue
        if short:
            yield f"there is no module {name}"
        if name.rpartition(".")[2] in CALLS and isinstance(value, dict):
            yield from judge_role(value.get("name", ""), value.get("tasks_from", "main"))
        elif name == "roles" and isinstance(value, list):
            for role in value:
                yield from judge_role(role if isinstance(role, str) else role.get("role", ""), "main")
        yield from judge_variable(name, value)
        if name not in KNOWN.variables:
            yield from judge_yaml(value)


def judge_given(text: str) -> Iterator[str]:
    """What -e says."""
    try:
        said = json.loads(text) if text.startswith("{") else dict(pair.split("=", 1) for pair in shlex.split(text))
    except ValueError as error:
        yield f"-e {text}: {error}"
        return
    for name, value in said.items():
        if name not in KNOWN.variables:
            yield f"-e {text}: there is no variable {name}"
        elif text.startswith("{"):
            yield from judge_variable(name, value)


def judge_playbook(words: list[str]) -> Iterator[str]:
    books, tags = [], []
    rest = iter(words)
    for word in rest:
        if word in WITH_VALUE:
            value = next(rest, "")
            if word in ("-e", "--extra-vars"):
                yield from judge_given(value)
            elif word in ("-t", "--tags", "--skip-tags"):
                tags += value.split(",")
        elif word.startswith("-"):
            if word not in ALONE:
                yield f"ansible-playbook has no option {word} here"
        else:
            books.append(word)
    for book in books:
        name = book[len(COLLECTION) :] if book.startswith(COLLECTION) else book.removesuffix(".yml")
        if name not in KNOWN.tags or not (book.startswith(COLLECTION) or book.endswith(".yml")):
            yield f"there is no playbook {book}"
        else:
            yield from (f"{book} has no tag {tag}" for tag in tags if tag not in KNOWN.tags[name])
    if not books:
        yield "ansible-playbook without a playbook"


def judge_command(line: str) -> Iterator[str]:
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        yield f"{line}: {error}"
        return
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if words[:1] == ["ansible-playbook"]:
        yield from judge_playbook(words[1:])
    elif words[:1] == ["make"]:
        targets, variables = KNOWN.makefile
        for word in words[1:]:
            name, given, _value = word.rstrip(",").partition("=")
            if name not in (variables if given else targets) and name != "make":
                yield f"make has no {name}"
    elif words[:1] == ["ansible-doc"] and words[-1].removeprefix(COLLECTION) not in KNOWN.parts():
        yield f"there is no {words[-1]}"


def judge_span(text: str) -> Iterator[str]:
    """What is wrong with a piece of code in a sentence."""
    if re.match(r"(?:ansible-playbook|make|ansible-doc) [^X]", text):
        yield from judge_command(text)
    elif text.startswith("-e ") and "=" in text and "NAME" not in text:
        yield from judge_given(shlex.split(text)[1])
    elif text.startswith(COLLECTION):
        if text[len(COLLECTION) :] not in KNOWN.parts():
            yield f"there is no {text}"
    elif FILE.fullmatch(text) and text not in TO_COME:
        pattern = re.compile(
            r"(?:.*/)?" + re.escape(text.replace("../", "")).replace(r"\*\*", ".*").replace(r"\*", "[^/]*")
        )
        if not any(pattern.fullmatch(name) for name in KNOWN.files):
            yield f"there is no file {text}"
    elif SNAKE.fullmatch(text):
        if text not in KNOWN.words:
            yield f"{text} is nowhere in the code"
    elif PAIR.fullmatch(text):
        for pair in filter(None, map(PAIR.fullmatch, re.split(r", (?=[a-z_]+: )", text))):
            yield from judge_pair(*pair.groups())


def judge_pair(name: str, text: str) -> Iterator[str]:
    """An option with a value: right where one of those who have the option would take it."""
    owners = [options for options in (*KNOWN.modules.values(), KNOWN.variables) if name in options]
    if not owners:
        if name not in KNOWN.words:
            yield f"{name} is nowhere in the code"
        return
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return
    wrong = [list(judge(name, options[name], value)) for options in owners]
    if all(wrong):
        yield wrong[0][0]


@dataclass(frozen=True)
class Page:
    path: Path
    text: str

    def findings(self) -> Iterator[tuple[int, str]]:
        for block in BLOCK.finditer(self.text):
            line = self.text.count("\n", 0, block.start()) + 1
            # A block in a list has the indentation of the list.
            content = re.sub(rf"^{block[1]}", "", block[3], flags=re.MULTILINE)
            for finding in judge_block(block[2].strip(), content):
                yield line, finding
        # Generated pages quote messages and names of tests, which are no advice.
        if self.text.startswith("<!-- Made by"):
            return
        blank = BLOCK.sub(lambda block: "\n" * block[0].count("\n"), self.text)
        for span in SPAN.finditer(blank):
            line = blank.count("\n", 0, span.start()) + 1
            for finding in judge_span(span[1]):
                yield line, finding


def judge_block(language: str, content: str) -> Iterator[str]:
    if language == "yaml":
        try:
            for data in yaml.safe_load_all(content):
                yield from judge_yaml(data)
        except yaml.YAMLError as error:
            yield f"no YAML: {' '.join(str(error).split())}"
    elif language in ("console", ""):
        for line in content.splitlines():
            command = line[2:] if line.startswith("$ ") else line if not language else ""
            for part in re.split(r" && ", command):
                yield from judge_command(part)
    elif language not in ("{toctree}",):
        yield f"a block of {language}, which nobody checks"


def main() -> int:
    paths = sorted({path for pattern in PAGES for path in TOP.glob(pattern)})
    pages = [Page(path, path.read_text(encoding="utf-8")) for path in paths]
    wrong = [f"{page.path.relative_to(TOP)}:{line}: {finding}" for page in pages for line, finding in page.findings()]
    blocks = sum(1 for page in pages for _block in BLOCK.finditer(page.text))
    return finish(wrong, f"{len(pages)} pages with {blocks} blocks")


if __name__ == "__main__":
    sys.exit(main())
