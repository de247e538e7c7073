# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a table of checks: a line and its seconds for each that passes, the whole output of each that fails.

Usage: in_venv.sh python tests/gates/run.py lint|test|full [NAME...]   (all checks of the table unless named)

With KVMOPS_LOGS=DIRECTORY the output of every check stays there, as NAME.log.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
SCRIPTS = r"git grep --cached -lIE '^#!(/usr)?/bin/(env )?(ba)?sh' -- ':!*.j2' ':!*.py' ':!*.md'"
NOTE_EVERY = 20  # seconds between two signs of life of a long check
# What failed inside a check, as pytest says it in its summary. The last lines of a run name it, far below the output.
CULPRIT = re.compile(r"^(?:FAILED|ERROR) \S*tests/\S.*$", re.MULTILINE)
CULPRITS_SHOWN = 20


@dataclass(frozen=True)
class Check:
    name: str
    command: str  # run by bash at the top of the checkout
    needs: str = ""  # a program that is no part of the virtual environment
    slow: bool = False  # not begun once a quick one has failed


@dataclass(frozen=True)
class Table:
    checks: tuple[Check, ...]
    at_once: int = 1
    afterwards: str = ""  # run however the checks ended, once a slow one was begun


LINT = (
    # The longest first: the short ones fit beside them.
    Check(
        "antsibull-docs",
        # References may lead to this collection and its dependencies only, and those are all looked up. What it keeps a
        # log in is the home directory.
        'HOME="$CACHE" antsibull-docs lint-collection-docs --plugin-docs --validate-collection-refs dependent'
        " --disallow-unknown-collection-refs --skip-rstcheck .",
    ),
    # It would look for collections in the home directory first, and an installed release would be judged by.
    Check("ansible-lint", 'ANSIBLE_HOME="$CACHE/ansible-lint" ansible-lint --nocolor'),
    # By the name under which the parts import each other.
    Check("mypy", "mypy -p ansible_collections.kvmops.migration.plugins.module_utils"),
    Check("reuse", "reuse lint"),
    Check("changelog", "antsibull-changelog lint"),
    Check("yamllint", "yamllint --strict ."),
    Check(
        "shellcheck",
        f"scripts=$({SCRIPTS}) && shellcheck --external-sources --source-path=SCRIPTDIR $scripts",
        needs="shellcheck",
    ),
    Check("argument-specs", "python tests/gates/argument_specs.py"),
    Check("execution-environment", "python tests/gates/execution_environment.py"),
    Check("antsibull-nox", 'nox --envdir "$CACHE/nox/${COLLECTIONS##*/}" -e extra-checks'),
    Check(
        "workflows",
        "flows=$(git ls-files '*.github/workflows/*.yml') bot=.github/dependabot.yml"
        " && check-jsonschema --builtin-schema vendor.github-workflows $flows"
        " && check-jsonschema --builtin-schema vendor.dependabot $bot && zizmor --offline --quiet $flows $bot",
    ),
    Check("behaviours", "python tests/gates/behaviours.py --check"),
    Check("preflight", "python tests/gates/preflight.py --check"),
    Check("troubleshooting", "python tests/gates/troubleshooting.py --check"),
    Check("playbooks", "python tests/gates/playbooks.py --check"),
    Check("examples", "python tests/gates/examples.py"),
    # Of what runs on hosts; the documented minimum is in tests/config.yml too.
    Check("python-3.8", "vermin --target=3.8- --no-tips --violations plugins/modules plugins/module_utils"),
    Check("ruff-check", "ruff check ."),
    Check("ruff-format", "ruff format --check --diff ."),
)
TEST = (
    Check("lint", "make --no-print-directory lint"),
    Check("unit", "make --no-print-directory unit"),
    Check("unit-core219", "make --no-print-directory unit-core219"),
    Check("pythons", "make --no-print-directory pythons"),
    Check("docs", "make --no-print-directory docs"),
    Check("artifact", "make --no-print-directory artifact"),
    Check("sanity", "make --no-print-directory sanity", slow=True),
    # prepare.yml runs all roles, also on a bare host. Scenarios of each of them come with `full`: they take too long.
    Check("prepare", "make --no-print-directory molecule S='prepare bare'", slow=True),
    Check("molecule", "make --no-print-directory molecule S=default", slow=True),
    Check("preflight-lab", "make --no-print-directory molecule S=preflight", slow=True),
    Check("domblk", "make --no-print-directory molecule S=domblk", slow=True),
    Check("engine", "make --no-print-directory molecule S=engine", slow=True),
)
FULL = (
    # What that one runs is in `roles` and `bare` below.
    *(check for check in TEST if check.name != "prepare"),
    Check(
        "unit-core220",
        "tests/gates/find_python.sh 3.14 3.13 3.12 >/dev/null 2>&1 || { echo 'skipped: it needs Python 3.12'; exit; };"
        " make --no-print-directory unit-core220",
    ),
    Check("importer", "make --no-print-directory importer"),
    Check("release", "make --no-print-directory release"),
    # What users install, by every supported ansible-core, and what the README tells them to type.
    Check(
        "installed",
        "tests/gates/find_python.sh 3.14 3.13 3.12 >/dev/null 2>&1 && make --no-print-directory venv-core220;"
        " make --no-print-directory venv-core219 molecule S=installed",
        slow=True,
    ),
    # Under emulation half an hour.
    Check("system", "make --no-print-directory molecule S=system", slow=True),
    Check("bare", "make --no-print-directory molecule S=bare", slow=True),
    Check("roles", "make --no-print-directory molecule S=roles", slow=True),
    Check("demo", "make --no-print-directory demo", slow=True),
)
TABLES = {
    "lint": Table(LINT, at_once=2),
    "test": Table(TEST, at_once=2, afterwards="make --no-print-directory lab-down"),
    "full": Table(FULL, at_once=2, afterwards="make --no-print-directory lab-down"),
}

children: set[subprocess.Popen[bytes]] = set()
failures: list[str] = []
lock = threading.Lock()


def say(text: str) -> None:
    with lock:
        print(text, flush=True)


def last_line(path: Path) -> str:
    lines = [line for line in path.read_text(errors="replace")[-4000:].splitlines() if line.strip()]
    return lines[-1].strip()[:100] if lines else ""


def run(check: Check) -> bool:
    if check.needs and not shutil.which(check.needs):
        say(f"FAILED  {check.name}: {check.needs} is not installed: run make setup")
        return False
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        output = Path(os.environ.get("KVMOPS_LOGS") or directory) / f"{check.name}.log"
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("wb") as stream:
            child = subprocess.Popen(
                ["bash", "-c", check.command],
                cwd=TOP,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                # Inner runs take no job slots of an outer make, and pass nothing of its options on.
                env={name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS")},
            )
            children.add(child)
            try:
                while True:
                    try:
                        status = child.wait(NOTE_EVERY)
                        break
                    except subprocess.TimeoutExpired:
                        say(f"  ...   {check.name} {time.monotonic() - began:.0f} s: {last_line(output)}")
            finally:
                children.discard(child)
        seconds = time.monotonic() - began
        if status:
            failure = f"FAILED  {check.name} (status {status}, {seconds:.1f} s)"
            printed = output.read_text(errors="replace").rstrip()
            say(f"----- {check.name}: {check.command}\n{printed}\n----- {failure}")
            with lock:
                failures.append(failure)
                failures.extend(f"        {line[:300]}" for line in CULPRIT.findall(printed)[:CULPRITS_SHOWN])
        else:
            note = last_line(output)
            say(f"  ok    {check.name} {seconds:.1f} s" + (f": {note}" if note.startswith("skipped") else ""))
    return not status


def interrupted(number: int, _frame: object) -> None:
    for child in list(children):
        child.terminate()
    raise KeyboardInterrupt(signal.Signals(number).name)


def main(arguments: list[str]) -> int:
    table = TABLES[arguments[0]] if arguments else None
    names = {check.name for check in table.checks} if table else set()
    if table is None or set(arguments[1:]) - names:
        print(f"usage: run.py {'|'.join(TABLES)} [{'|'.join(sorted(names)) or 'NAME'}]...", file=sys.stderr)
        return 2
    checks = [check for check in table.checks if check.name in arguments[1:] or not arguments[1:]]
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    began, passed, failed = time.monotonic(), 0, 0
    touched_lab = False
    try:
        for slow in (False, True):
            chosen = [check for check in checks if check.slow == slow]
            if slow and failed and chosen:
                say(f"not begun, because a quick check failed: {', '.join(check.name for check in chosen)}")
                break
            touched_lab = touched_lab or (slow and bool(chosen))
            # Slow ones share one lab.
            with ThreadPoolExecutor(1 if slow else table.at_once) as pool:
                for good in pool.map(run, chosen):
                    passed, failed = passed + good, failed + (not good)
    except KeyboardInterrupt as signalled:
        failed += 1
        say(f"interrupted {signalled}")
    finally:
        if touched_lab and table.afterwards:
            down = subprocess.run(
                ["bash", "-c", table.afterwards], cwd=TOP, stdin=subprocess.DEVNULL, capture_output=True, check=False
            )
            if down.returncode:
                failed += 1
                say(f"FAILED  {table.afterwards}\n{(down.stdout + down.stderr).decode(errors='replace')}")
    for line in failures:
        say(line)
    say(f"{arguments[0]}: {time.monotonic() - began:.0f} s\n{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
