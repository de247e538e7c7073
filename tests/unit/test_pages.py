# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the README and the documentation tell people to type and to write down is accepted."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import yaml

from ansible_collections.kvmops.migration.plugins.module_utils._pure import schedule
from ansible_collections.kvmops.migration.plugins.plugin_utils.values import problem

TOP = Path(__file__).resolve().parents[2]
README = TOP / "README.md"
PAGES = [README, *sorted((TOP / "docs").rglob("*.md"))]
MODULE = "kvmops.migration.virt_migrate"


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def options(page: Path) -> list[dict]:
    """The options of virt_migrate that a page names, in commands, variables and tasks."""
    typed = [yaml.safe_load(found) for found in re.findall(r"-e '(\{\"migrate_options\".*?\})'", text(page))]
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text(page), re.DOTALL)]
    variables = [block["migrate_options"] for block in [*typed, *blocks] if "migrate_options" in block]
    tasks = [task[MODULE] for block in blocks if isinstance(block, list) for task in block if MODULE in task]
    return [*({"name": "vm", "dest_host": "host", **given} for given in variables), *tasks]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_option_in_it_is_accepted(page):
    for given in options(page):
        assert problem(given) == "", given


def test_options_are_found():
    assert len(options(README)) >= 4
    assert sum(len(options(page)) for page in PAGES) >= 15


def test_every_policy_is_in_the_readme():
    assert set(re.findall(r"^\| `(\w+)`", text(README), re.MULTILINE)) >= set(schedule.POLICIES)


@pytest.fixture
def gate(monkeypatch):
    """The gate that judges all pages, tests/gates/examples.py."""
    monkeypatch.syspath_prepend(str(TOP / "tests" / "gates"))
    return importlib.import_module("examples")


@pytest.mark.parametrize(
    ("language", "content", "said"),
    [
        ("yaml", "- kvmops.migration.virt_migrat: {name: a}", "there is no module kvmops.migration.virt_migrat"),
        ("yaml", "- kvmops.migration.virt_migrate: {name: a, nam: b}", "there is no nam"),
        ("yaml", "- kvmops.migration.virt_migrate: {dest_host: a}", "name is missing"),
        ("yaml", "- kvmops.migration.virt_migrate: {name: a, control: p2pp}", "control: 'p2pp' is none of p2p,"),
        ("yaml", "- kvmops.migration.virt_migrate: {name: a, suspend: perhaps}", "suspend: 'perhaps' is no bool"),
        ("yaml", "- kvmops.migration.virt_migrate: {name: a, policy_steps: [{when: start, do: x}]}", "do: 'x' is none"),
        ("yaml", "roles: [kvmops.migration.fire]", "there is no role kvmops.migration.fire"),
        ("yaml", "- ansible.builtin.import_role: {name: kvmops.migration.migrate, tasks_from: x}", "has no tasks x"),
        ("yaml", "firewall_backends: iptables", "there is no variable firewall_backends"),
        ("yaml", "nfs_server_exports: [{path: /vm}]", "clients is missing"),
        ("yaml", "migration_vms: {a: {hosts: b}}", "there is no hosts"),
        ("yaml", "a: [", "no YAML"),
        ("console", "$ ansible-playbook move.yml", "there is no playbook move.yml"),
        ("console", "$ ansible-playbook migrate.yml -e guest=a", "there is no variable guest"),
        ("console", """$ ansible-playbook migrate.yml -e '{"migrate_options": {"x": 1}}'""", "there is no x"),
        ("console", "$ ansible-playbook prepare.yml --tags fire", "has no tag fire"),
        ("console", "$ make lab && make dox", "make has no dox"),
        ("python", "x", "which nobody checks"),
    ],
)
def test_the_gate_finds_what_is_wrong_in_a_block(gate, language, content, said):
    (finding,) = gate.judge_block(language, content)
    assert said in finding


@pytest.mark.parametrize(
    ("span", "said"),
    [
        ("kvmops.migration.virt_move", "there is no kvmops.migration.virt_move"),
        # In two parts, because this file is code as well.
        ("no_such_" + "word_at_all", "is nowhere in the code"),
        ("no-such-file.yml", "there is no file"),
        ("timeout: soon", "timeout: 'soon' is no int"),
        ("-e guest=a", "there is no variable guest"),
    ],
)
def test_the_gate_finds_what_is_wrong_in_a_sentence(gate, span, said):
    (finding,) = gate.judge_span(span)
    assert said in finding
