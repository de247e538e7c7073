# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run molecule scenarios, those of roles on one lab that is made once: converge, idempotence and verify of each.

A scenario says that it can do with a lab of others by `converge_sequence: [converge]`; all others run `molecule test`.
One that fails keeps none of the others from running, and the lab is taken down however it went. What Ansible says is
deprecated is said again at the end.

Usage: in_venv.sh python tests/gates/scenarios.py [NAME|roles]...   (all unless named; `roles`: those of roles)
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

TOP = Path(__file__).resolve().parents[2]
SCENARIOS = TOP / "extensions" / "molecule"
# What a scenario does on a lab that is there.
STEPS = ("converge", "idempotence", "verify")
DEPRECATION = "[DEPRECATION WARNING]"
# What Ansible said of it, once each and in order.
deprecations: dict[str, None] = {}


def scenarios() -> dict[str, bool]:
    """All scenarios by name, and whether each runs on a lab of others."""
    found = {}
    for path in sorted(SCENARIOS.glob("*/molecule.yml")):
        scenario = yaml.safe_load(path.read_text(encoding="utf-8")).get("scenario", {})
        found[path.parent.name] = scenario.get("converge_sequence") == ["converge"]
    return found


def watched(command: list[str]) -> bool:
    """Run it, and pass on what it says; what Ansible says of things that will go is kept for the end."""
    # Colours as without a pipe in between.
    colours = {"ANSIBLE_FORCE_COLOR": "1", "PY_COLORS": "1"} if sys.stdout.isatty() else {}
    with subprocess.Popen(
        command,
        cwd=TOP,
        env={**os.environ, **colours},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as running:
        assert running.stdout is not None
        try:
            for line in running.stdout:
                print(line, end="", flush=True)
                if DEPRECATION in line:
                    deprecations[line[line.index(DEPRECATION) :].strip()] = None
        except KeyboardInterrupt:
            running.kill()
            raise
    return running.returncode == 0


def molecule(command: str, scenario: str) -> bool:
    began = time.monotonic()
    print(f"----- molecule {command} -s {scenario}", flush=True)
    good = watched(["molecule", command, "--no-command-borders", "-s", scenario])
    seconds = time.monotonic() - began
    print(f"----- {'ok' if good else 'FAILED'}: molecule {command} -s {scenario} ({seconds:.0f} s)", flush=True)
    return good


def on_one_lab(names: list[str]) -> list[str]:
    """Run the scenarios one after the other; those that have failed come back, each with its step."""
    failed = []
    # All of them have the same create.yml and destroy.yml, and none of these prepares the hosts.
    lab = names[0]
    try:
        if not molecule("create", lab):
            return [f"{name} (no lab)" for name in names]
        for name in names:
            step = next((step for step in STEPS if not molecule(step, name)), None)
            failed += [f"{name} ({step})"] if step else []
    finally:
        if not molecule("destroy", lab):
            failed.append("the lab could not be taken down")
    return failed


def interrupted(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def main(arguments: list[str]) -> int:
    known = scenarios()
    sharing = [name for name, shares in known.items() if shares]
    unknown = sorted(set(arguments) - {*known, "roles"})
    if unknown:
        print(
            f"unknown: {', '.join(unknown)}; scenarios: {', '.join(known)}, or roles for those of roles",
            file=sys.stderr,
        )
        return 2
    chosen = [
        name for name in known if name in arguments or not arguments or ("roles" in arguments and name in sharing)
    ]
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    began = time.monotonic()
    together = [name for name in chosen if name in sharing]
    failed = on_one_lab(together) if together else []
    failed += [name for name in chosen if name not in sharing and not molecule("test", name)]
    for line in deprecations:
        print(line)
    print(f"{len(chosen)} scenarios, {time.monotonic() - began:.0f} s: {', '.join(chosen)}")
    if failed:
        print(f"FAILED: {', '.join(failed)}")
    return 1 if failed or not chosen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
