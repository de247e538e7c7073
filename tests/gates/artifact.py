# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the artifact that users install, install it where nothing else is, and use it from there.

There are only ansible-core, the artifact and the collections that galaxy.yml names, with what those name: a dependency
that is not declared is missed. They come out of the `ansible` package of the environment, so that nothing is fetched.

Usage: in_venv.sh python tests/gates/artifact.py   (the artifact stays in build/artifact)
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ansible
import yaml

TOP = Path(__file__).resolve().parents[2]
ARTIFACTS = TOP / "build" / "artifact"
COLLECTION = "kvmops.migration"
# By the type that ansible-doc knows: files of the installed collection, each with documentation.
DOCUMENTED = {
    "module": "plugins/modules/*.py",
    "filter": "plugins/filter/*.py",
    "role": "roles/*",
}
# A module that a task calls: its collection.
MODULE = re.compile(r"^ *(?:- )?([a-z_]+\.[a-z_]+)\.[a-z_]+:", re.MULTILINE)
GIVEN = {"ansible.builtin", COLLECTION}
# What an artifact has of its own.
OWN = {"FILES.json", "MANIFEST.json"}
# Not of any type but the last, and refused as each of the first.
WRONG = {"dict": 5, "list": {}, "bool": "perhaps", "int": "few"}
# The variable by which the example of a site finds the collection.
PLACE = "KVMOPS_MIGRATION"
NOISE = ("[WARNING]", "[DEPRECATION WARNING]")
# ansible-core's own collection, which has no version, where it looks for roles.
KNOWN_NOISE = ("/_protomatter' does not have a MANIFEST.json",)


class Failed(Exception):
    pass


def run(*command: object, cwd: Path, environment: dict[str, str], may_fail: bool = False) -> str:
    """What the command says on its standard output; any warning, and any other status than 0, is a failure."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    noise = [
        line
        for line in done.stderr.splitlines()
        if any(mark in line for mark in NOISE) and not any(known in line for known in KNOWN_NOISE)
    ]
    if noise or (done.returncode and not may_fail):
        raise Failed(f"{' '.join(map(str, command))}\nstatus {done.returncode}\n{done.stderr}")
    return done.stdout


def build(environment: dict[str, str]) -> Path:
    shutil.rmtree(ARTIFACTS, ignore_errors=True)
    run("ansible-galaxy", "collection", "build", TOP, "--output-path", ARTIFACTS, cwd=TOP, environment=environment)
    (artifact,) = ARTIFACTS.glob("*.tar.gz")
    return artifact


def strangers(installed: Path) -> Iterator[str]:
    """What happened to lie in the checkout: git leaves it out, and build_ignore of galaxy.yml does not."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=True)
    known = {*done.stdout.splitlines(), *OWN}
    for path in sorted(installed.rglob("*")):
        name = str(path.relative_to(installed))
        if path.is_file() and name not in known:
            yield f"the artifact has {name}, which is not of this repository"


def misdeclared(installed: Path, dependencies: dict[str, str]) -> Iterator[str]:
    """Files of tasks that are included while a play runs are parsed by nobody before."""
    files = [path for part in ("roles", "playbooks") for path in (installed / part).rglob("*.yml")]
    used = {name for path in files for name in MODULE.findall(path.read_text(encoding="utf-8"))} - GIVEN
    yield from (f"galaxy.yml does not name {name}, of which a role has a module" for name in used - dependencies.keys())
    yield from (f"galaxy.yml names {name}, of which no role has a module" for name in dependencies.keys() - used)


def bring(dependencies: dict[str, str], tree: Path) -> None:
    """Links to these collections, and to what they depend on."""
    bundled = Path(ansible.__file__).parents[1] / "ansible_collections"
    for name in dependencies:
        source = bundled.joinpath(*name.split("."))
        target = tree.joinpath(*name.split("."))
        if target.is_symlink():
            continue
        target.parent.mkdir(exist_ok=True)
        target.symlink_to(source)
        manifest = json.loads((source / "MANIFEST.json").read_text(encoding="utf-8"))
        bring(manifest["collection_info"]["dependencies"] or {}, tree)


def alone(home: Path) -> dict[str, str]:
    """An environment in which nothing of this checkout and of this person is found."""
    settings = home / "ansible.cfg"
    settings.touch()
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "MOLECULE_"))},
        "ANSIBLE_COLLECTIONS_PATH": str(home),
        "ANSIBLE_COLLECTIONS_SCAN_SYS_PATH": "false",
        "ANSIBLE_CONFIG": str(settings),
        "ANSIBLE_DEPRECATION_WARNINGS": "true",
        "ANSIBLE_HOME": str(home / "home"),
        "ANSIBLE_NOCOLOR": "true",
        "HOME": str(home),
    }


def install(home: Path, environment: dict[str, str]) -> Path:
    """Build the artifact, and install it with its dependencies and nothing else; gives back where it is."""
    tree = home / "ansible_collections"
    tree.mkdir()
    artifact = build(environment)
    bring(yaml.safe_load((TOP / "galaxy.yml").read_text(encoding="utf-8"))["dependencies"], tree)
    run(
        "ansible-galaxy", "collection", "install", "--offline", "-p", home, artifact,
        cwd=home, environment=environment,
    )  # fmt: skip
    return tree.joinpath(*COLLECTION.split("."))


def undocumented(installed: Path, home: Path, environment: dict[str, str]) -> Iterator[str]:
    for kind, pattern in DOCUMENTED.items():
        names = sorted(f"{COLLECTION}.{path.stem}" for path in installed.glob(pattern))
        told = run("ansible-doc", "-t", kind, "--json", *names, cwd=home, environment=environment)
        known = json.loads(told)
        yield from (f"ansible-doc has nothing of the {kind} {name}" for name in names if not known.get(name))


def check_playbooks(installed: Path, home: Path, environment: dict[str, str]) -> None:
    names = sorted(f"{COLLECTION}.{path.stem}" for path in (installed / "playbooks").glob("*.yml"))
    inventory = installed / "playbooks" / "inventory"
    run("ansible-playbook", "--syntax-check", "-i", inventory, *names, cwd=home, environment=environment)


def check_example(installed: Path, home: Path, environment: dict[str, str]) -> Iterator[str]:
    """The example of a site: a repository of its own, whose scenario takes the lab out of the installed collection."""
    site = home / "site"
    shutil.copytree(installed / "extensions" / "pipeline", site)
    environment = {**environment, PLACE: str(installed)}
    run("molecule", "syntax", "-s", "lab", cwd=site, environment=environment)
    scenario = site / "molecule" / "lab"
    said = yaml.safe_load((scenario / "molecule.yml").read_text(encoding="utf-8"))
    for name in said["ansible"]["playbooks"].values():
        if not (scenario / name.replace(f"${{{PLACE}}}", str(installed))).is_file():
            yield f"extensions/pipeline: there is no {name}"


def wrong_arguments(installed: Path) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """The entry points of all roles, and for each of them an argument that its specification must refuse."""
    entries, arguments = [], {}
    for path in sorted(installed.glob("roles/*/meta/argument_specs.yml")):
        for entry, said in yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"].items():
            for name, option in (said.get("options") or {}).items():
                if option.get("type") in WRONG:
                    entries.append((path.parents[1].name, entry))
                    arguments[name] = WRONG[option["type"]]
                    break
    return entries, arguments


def not_refused(installed: Path, home: Path, environment: dict[str, str]) -> Iterator[str]:
    entries, arguments = wrong_arguments(installed)
    judged = {role for role, _entry in entries}
    roles = sorted(path.name for path in installed.glob("roles/*"))
    yield from (f"role {role}: no specification refuses anything" for role in roles if role not in judged)
    tasks = [
        {
            "block": [{"ansible.builtin.include_role": {"name": f"{COLLECTION}.{role}", "tasks_from": entry}}],
            "rescue": [
                {
                    "ansible.builtin.debug": {"msg": f"refused {role} {entry}"},
                    "when": "ansible_failed_result.argument_errors is defined",
                }
            ],
        }
        for role, entry in entries
    ]
    # Arguments are checked before a host is used; this one would run nothing.
    host = {"ansible_connection": "local", "ansible_python_interpreter": "/bin/false"}
    inventory, playbook = home / "hosts.json", home / "wrong.json"
    inventory.write_text(json.dumps({"all": {"hosts": {"nowhere": host}}}), encoding="utf-8")
    playbook.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks}]), encoding="utf-8")
    said = run(
        "ansible-playbook", "-i", inventory, "-e", json.dumps(arguments), playbook,
        cwd=home, environment=environment, may_fail=True,
    )  # fmt: skip
    for role, entry in entries:
        if f'"refused {role} {entry}"' not in said:
            yield f"role {role}, entry point {entry}: takes arguments that its specification forbids\n{said}"


def main() -> int:
    began = time.monotonic()

    def step(text: str) -> None:
        print(f"{time.monotonic() - began:5.1f} s  {text}", flush=True)

    with tempfile.TemporaryDirectory(prefix="kvmops-artifact-") as name:
        home = Path(name)
        environment = alone(home)
        try:
            installed = install(home, environment)
            (artifact,) = ARTIFACTS.glob("*.tar.gz")
            step(
                f"installed {artifact.relative_to(TOP)}, {artifact.stat().st_size / 1000:.0f} kB, with its dependencies"
            )
            dependencies = yaml.safe_load((TOP / "galaxy.yml").read_text(encoding="utf-8"))["dependencies"]
            faults = [*strangers(installed), *misdeclared(installed, dependencies)]
            faults += undocumented(installed, home, environment)
            step("ansible-doc tells of all modules, filters and roles")
            check_playbooks(installed, home, environment)
            step("all playbooks are found by their full names")
            faults += check_example(installed, home, environment)
            step("a site's own scenario finds the lab")
            faults += not_refused(installed, home, environment)
            step("roles refuse wrong arguments")
        except Failed as failure:
            print(failure)
            return 1
    print("\n".join(faults) if faults else f"{artifact.name} works where it is alone")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
