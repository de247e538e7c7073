# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scenario `installed`: what users install, alone in a virtual environment, and what the README tells them to type.

The tests follow each other. The hosts are those of the lab, which is what differs from the README's: `kvm1` is labkvm1,
and `web1` is centos64a.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from ansible.release import __version__

from .conftest import PLAYBOOKS, REPOSITORY, Run, ansible

sys.path.insert(0, str(REPOSITORY / "tests" / "gates"))

# A script: its folder is not on the path otherwise.
import artifact

VM = "centos64a"
DECLARED, OTHER = "labkvm2", "labkvm1"
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```console\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
# Without what is said about them.
COMMANDS = [line[2:].split("  #")[0].strip() for block in BLOCKS for line in block.splitlines() if line[:2] == "$ "]
PLAYED = [command for command in COMMANDS if command.startswith("ansible-playbook ")]
# A shell does these, continuous integration does the others by itself, and one needs Galaxy.
ELSEWHERE = ("make ", "cd ", ". ", "ansible-galaxy collection ")
NAMES = {"web1": VM, "kvm1": OTHER, "kvm2": DECLARED}
# What the collection itself has to say of a lab without TLS.
OURS = "travels unencrypted"
# Playbooks, with what each must be told; import.yml is for a VM that is shut off. site.yml is an example.
CHECKED = {
    "prepare": (),
    "migrate": ("-e", f"vm={VM}"),
    "preflight": ("-e", f"vm={VM}", "-e", f"dest={DECLARED}"),
    "relocate": ("-e", f"vm={VM}", "-e", "dest_dir=/vmdata"),
    "status": (),
    "recover": (),
    "cancel": ("-e", f"vm={VM}"),
    "site": (),
}


@dataclass
class Site:
    """A folder with the collection and its dependencies, used by the Ansible of some virtual environment."""

    home: Path
    venv: Path

    def run(self, *command: str) -> Run:
        environment = {
            **artifact.alone(self.home),
            "ANSIBLE_INVENTORY": str(PLAYBOOKS / "inventory"),
            "PATH": f"{self.venv / 'bin'}:{os.environ['PATH']}",
        }
        done = subprocess.run(
            command, cwd=self.home, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=300, check=False,
        )  # fmt: skip
        return Run(done.returncode, done.stdout)

    def play(self, playbook: str, *arguments: str) -> Run:
        return quiet(self.run("ansible-playbook", f"kvmops.migration.{playbook}", *arguments))


def quiet(run: Run) -> Run:
    """It went well, and Ansible had nothing to warn of."""
    assert run.rc == 0, run.out
    warned = [line for line in run.out.splitlines() if re.match(r"\[(DEPRECATION )?WARNING\]", line)]
    assert [line for line in warned if OURS not in line] == [], run.out
    return run


@pytest.fixture(scope="module")
def collections(tmp_path_factory) -> Path:
    """The artifact and the collections that galaxy.yml names."""
    home = tmp_path_factory.mktemp("installed")
    artifact.install(home, artifact.alone(home))
    return home


@pytest.fixture(scope="module")
def site(collections, tmp_path_factory) -> Site:
    """With nothing but ansible-core, as newly installed."""
    venv = tmp_path_factory.mktemp("empty") / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    core = f"ansible-core=={__version__}"
    pip = [venv / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", core]
    subprocess.run(pip, check=True)
    return Site(collections, venv)


# --- every supported ansible-core


@pytest.mark.parametrize("release", ["2.19", "2.20"])
def test_every_playbook_runs_with_it_without_a_warning(release, collections, home):
    venv = Path(os.environ["CACHE"]) / f"venv-core{release.replace('.', '')}"
    if not venv.exists():
        pytest.skip(f"no Python here runs ansible-core {release}")
    installed = Site(collections, venv)
    assert f"core {release}." in installed.run("ansible", "--version").out
    for playbook, arguments in CHECKED.items():
        installed.play(playbook, *arguments, "--check", "--diff")
    for dest in (DECLARED, OTHER):
        assert installed.play("migrate", "-e", f"vm={VM}", "-e", f"dest={dest}").changed == 1
        assert home(VM) == {dest: "running"}


# --- the README


def test_nothing_of_it_is_left_out():
    others = [command for command in COMMANDS if command not in PLAYED]
    assert [command for command in others if not command.startswith(ELSEWHERE)] == []
    assert {re.findall(r"kvmops\.migration\.(\w+)", command)[0] for command in PLAYED if "kvmops." in command} >= {
        *("prepare", "preflight", "migrate", "status", "cancel", "recover", "import", "relocate")
    }


@pytest.fixture
def as_told(site, hypervisors, home):
    """What a command takes for granted: the VM runs at the other host, or is off there, with its image elsewhere."""

    def see_to(command: str) -> None:
        if "postcopy_resume" in command:
            return
        for host, state in home(VM).items():
            if state == "shut off":
                hypervisors[host].check_output("virsh start %s", VM)
        site.play("migrate", "-e", f"vm={VM}", "-e", f"dest={DECLARED if f'dest={OTHER}' in command else OTHER}")
        if ".relocate" in command:
            moved = '{"migrate_copy_options": {"remove_source": true}}'
            site.play("relocate", "-e", f"vm={VM}", "-e", "dest_dir=/vmaside", "-e", moved)
        if ".import" in command:
            hypervisors[OTHER].check_output("virsh destroy %s", VM)

    return see_to


@pytest.mark.parametrize("command", PLAYED)
def test_what_it_tells_to_type_does_what_it_says(command, site, as_told, home):
    as_told(command)
    words = shlex.split(re.sub(r"\b(web1|kvm1|kvm2)\b", lambda found: NAMES[found.group()], command))
    # The others are typed in a clone of the repository.
    typed = site.run if "kvmops.migration." in command else ansible
    run = quiet(typed(*words))
    moves = re.search(r"\bmigrate(\.yml)? |\.import ", command) and "--check" not in command
    off = ".import" in command
    place = DECLARED if moves and f"dest={OTHER}" not in command else OTHER
    assert home(VM) == {place: "shut off" if off else "running"}, run.out
    if moves:
        assert quiet(typed(*words)).changed == 0
