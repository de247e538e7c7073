# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every scenario's tests share: the lab's hosts to look at, and the playbooks as a user runs them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import testinfra

REPOSITORY = Path(__file__).resolve().parents[2]
PLAYBOOKS = REPOSITORY / "playbooks"
# A scenario may have an inventory of its own.
OWN_INVENTORY = REPOSITORY / "extensions/molecule" / os.environ.get("MOLECULE_SCENARIO_NAME", "-") / "inventory"
# Seconds until a playbook that has not ended is held to be stuck; on emulated hosts everything takes its time.
PATIENCE = 1200 if OWN_INVENTORY.is_dir() else 300
sys.path.insert(0, str(REPOSITORY))

from tests.lab import faults  # noqa: E402 - the repository must be on the path first

# Helpers of the tests that are no tests themselves say what differs as well.
pytest.register_assert_rewrite("tests.integration.engine")

# One run of everything that a move could leave behind on a hypervisor, in an order that two runs share.
FOOTPRINT = r"""
echo "# domains"
for name in $(virsh list --all --name | sort); do
    echo "$name $(virsh domstate "$name") $(virsh dominfo "$name" | grep -E 'Persistent|Autostart' | tr -s ' \n' ' ')"
    virsh dumpxml --inactive --security-info "$name" | sha256sum
done
echo "# pools"; virsh pool-list --all --name | sort
echo "# files"
find /vm /vmshared /etc/libvirt /var/lib/libvirt -xdev \
    \( -name '*.pid' -o -name 'domain-*' -o -path '*/channel/*' \) -prune -o -printf '%p\n' 2>/dev/null | sort
echo "# journal"; find /var/lib/kvmops-migration -type f 2>/dev/null | sort
echo "# qemu"; ps -eo args | grep -o '^[^ ]*qemu-[a-z0-9_-]* .*guest=[^,]*' | sed 's/ .*guest=/ /' | sort
echo "# listeners"; ss -Hltn | awk '{print $4}' | grep -E ':(49[12][0-9]{2}|10809)$' | sort
echo "# mounts"; findmnt -rno TARGET,FSTYPE | grep -v '^/run/user/' | sort
echo "# firewall"; firewall-cmd --list-all
"""


BROKEN = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Remember for what follows a test that it has failed."""
    report = yield
    if report.failed:
        item.stash[BROKEN] = True
    return report


def pytest_collection_modifyitems(config, items) -> None:
    """Each scenario has the tests of its own name: molecule hands the whole directory to all of them."""
    scenario = os.environ.get("MOLECULE_SCENARIO_NAME")
    others = [item for item in items if scenario and not item.path.stem.startswith(f"test_{scenario}")]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]


@dataclass
class Run:
    """A finished ansible-playbook run."""

    rc: int
    out: str

    @property
    def changed(self) -> int:
        return sum(int(count) for count in re.findall(r"\bchanged=(\d+)", self.out))

    @property
    def message(self) -> str:
        """The text of the first failure, as a person reads it."""
        found = re.search(r'(?:fatal: .*?"msg": |\[ERROR\]: )"?(.*)', self.out)
        if found and found.group(1).endswith("Validation of arguments failed:"):
            # Which one is on the lines below.
            return self.out[found.start(1) :].split("\nOrigin: ")[0].replace("\n", " ")
        return found.group(1) if found else ""


def ansible(command: str, *arguments: str, **environment: str) -> Run:
    logs = os.environ.get("KVMOPS_LOGS")
    profile = {"ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.profile_tasks"} if logs else {}
    done = subprocess.run(
        [command, *arguments],
        cwd=PLAYBOOKS,
        env={**plain_environment(), **profile, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    if logs:
        with Path(logs, "playbooks.log").open("a", encoding="utf-8") as log:
            log.write(f"$ {command} {' '.join(arguments)}\n{done.stdout}\n")
    return Run(done.returncode, done.stdout)


def on_hypervisors(book: Path, *roles: str, **its: object) -> Callable[..., Run]:
    """These roles on all hypervisors, as a user's playbook has them: to be called with options and extra variables."""
    names = [f"kvmops.migration.{role}" for role in roles]
    play = {"hosts": "hypervisors", "gather_facts": False, "vars": its, "roles": names}
    book.write_text(json.dumps([play]), encoding="ascii")

    def run(*arguments: str, **variables: object) -> Run:
        return ansible("ansible-playbook", str(book), "-e", json.dumps(variables), *arguments)

    return run


def plain_environment() -> dict[str, str]:
    """The environment of a user's shell: what molecule sets for its own Ansible is not part of it."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "MOLECULE_"))}
    own = {"ANSIBLE_INVENTORY": str(OWN_INVENTORY)} if OWN_INVENTORY.is_dir() else {}
    return {**plain, **own, "ANSIBLE_NOCOLOR": "1"}


@pytest.fixture(scope="session")
def migrate():
    """`ansible-playbook migrate.yml` with these arguments."""
    return lambda *arguments, **environment: ansible("ansible-playbook", "migrate.yml", *arguments, **environment)


@pytest.fixture(scope="session")
def role():
    """The playbook with which a role's scenario converges, with these arguments."""

    def run(name: str, *arguments: str, **environment: str) -> Run:
        playbook = REPOSITORY / "extensions" / "molecule" / name / "converge.yml"
        return ansible("ansible-playbook", str(playbook), *arguments, **environment)

    return run


@pytest.fixture(scope="session")
def inventory() -> dict:
    done = subprocess.run(
        ["ansible-inventory", "--list"],
        cwd=PLAYBOOKS,
        env=plain_environment(),
        text=True,
        capture_output=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="session")
def hosts(inventory) -> dict[str, testinfra.host.Host]:
    """Every host of the lab by name, over its own login and as root there."""
    config = PLAYBOOKS / "inventory" / "ssh.cfg"
    connected = {}
    for name, facts in inventory["_meta"]["hostvars"].items():
        spec = f"ssh://{facts['ansible_user']}@{facts['ansible_host']}?ssh_config={config}&controlpersist=60&timeout=60"
        connected[name] = testinfra.get_host(spec + ("&sudo=true" if facts.get("ansible_become") else ""))
    return connected


@pytest.fixture(scope="session")
def hypervisors(inventory, hosts) -> dict[str, testinfra.host.Host]:
    return {name: hosts[name] for name in hypervisor_names(inventory)}


def hypervisor_names(inventory: dict) -> list[str]:
    groups = {facts.get("migration_hosts_group", "hypervisors") for facts in inventory["_meta"]["hostvars"].values()}
    return [name for group in groups if group in inventory for name in inventory[group]["hosts"]]


@pytest.fixture
def mended(inventory, request) -> Iterator[None]:
    """Hosts and links without the faults that a test which was killed may have left.

    A test that has failed leaves no unsettled run to the next one either, which would fail for it.
    """
    for host in hypervisor_names(inventory):
        faults.mend(host)
    yield
    if request.node.stash.get(BROKEN, False):
        for host in hypervisor_names(inventory):
            faults.inside(host, "sh", "-c", "rm -rf /var/lib/kvmops-migration/unfinished/*")


@pytest.fixture
def footprint(hypervisors):
    """Everything on the hypervisors that a move or a mere check could leave changed."""
    return lambda: {name: host.check_output(FOOTPRINT).splitlines() for name, host in hypervisors.items()}


@pytest.fixture
def home(hypervisors):
    """Where libvirt runs or knows a VM: `{host: state}`."""

    def look(vm: str) -> dict[str, str]:
        states = {}
        for name, host in hypervisors.items():
            said = host.run("virsh domstate %s", vm)
            if said.rc == 0:
                states[name] = said.stdout.strip()
        return states

    return look
