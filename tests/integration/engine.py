# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of scenario `engine` share: virt_migrate as a user calls it, and a guest as its hosts see it.

Nothing here uses the product but `Call`: guests are put where a test wants them by virsh, and looked at by virsh, by
files and by their own records.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tests.lab import console, faults
from tests.lab.paths import STATE

from .conftest import PLAYBOOKS, plain_environment

HYPERVISORS = ("labkvm1", "labkvm2")
PRIVATE = {"labkvm1": "172.16.1.231", "labkvm2": "172.16.1.232"}
# Seconds until a call that has not answered is held to be stuck.
PATIENCE = 240
RECORD = re.compile(r"kvmops: record (\S+) (\d+)")


def other(host: str) -> str:
    return next(name for name in HYPERVISORS if name != host)


def uri(host: str) -> str:
    return f"qemu+ssh://root@{PRIVATE[host]}/system"


def wait_for(condition: Callable[[], Any], seconds: float = 60, what: str = "it") -> Any:
    """What the condition returns once it holds."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what} did not come about within {seconds} s"
        time.sleep(0.2)


# --- the product


@dataclass
class Answer:
    """What one call of a module has answered."""

    rc: int
    out: str
    result: dict[str, Any]

    def __getitem__(self, key: str) -> Any:
        return self.result[key]

    def get(self, key: str) -> Any:
        return self.result.get(key)

    @property
    def did(self) -> list[str]:
        """What was done about the job, in order."""
        return [action["action"] for action in self.result.get("actions", [])]

    def ok(self) -> Answer:
        assert self.rc == 0, self.out
        return self

    def failed(self, *failure_classes: str, outcome: str = "failed") -> Answer:
        """It was said what went wrong (in one of these classes, if any are named) and what helps."""
        assert self.rc != 0, self.out
        assert self.result.get("outcome") == outcome, self.out
        assert "Traceback" not in self.out
        assert self.result["failure_class"] in (failure_classes or (self.result["failure_class"],)), self.out
        assert self.result["cure"], self.out
        return self


class Call:
    """One call under way."""

    def __init__(self, host: str, options: dict[str, Any], *arguments: str, module: str = "virt_migrate"):
        self.process = subprocess.Popen(
            ["ansible", host, "-m", f"kvmops.migration.{module}", "-a", json.dumps(options), *arguments],
            cwd=PLAYBOOKS,
            env=plain_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A group of its own, to which a test sends what a terminal would.
            start_new_session=True,
        )
        self._host = host

    def answer(self) -> Answer:
        try:
            out, _errors = self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, _errors = self.process.communicate()
            raise AssertionError(f"no answer within {PATIENCE} s: {out}") from None
        found = re.search(rf"^{self._host} \| \S+ (?:=>|>>) (?=\{{)", out, re.MULTILINE)
        result = json.JSONDecoder().raw_decode(out, found.end())[0] if found else {}
        return Answer(self.process.returncode, out, result)


def virt_migrate(host: str, **options: Any) -> Answer:
    """`ansible HOST -m kvmops.migration.virt_migrate`."""
    arguments = options.pop("arguments", ())
    return Call(host, options, *arguments).answer()


def virt_domblk_copy(host: str, **options: Any) -> Answer:
    """`ansible HOST -m kvmops.migration.virt_domblk_copy`."""
    arguments = options.pop("arguments", ())
    return Call(host, options, *arguments, module="virt_domblk_copy").answer()


# --- guests


@dataclass(frozen=True)
class Seen:
    """A domain on one host."""

    state: str
    reason: str = ""
    persistent: bool = True
    autostart: bool = False

    @property
    def shape(self) -> str:
        return f"{self.state}, {'persistent' if self.persistent else 'transient'}"


# Reasons for which a domain runs or is paused that are no trouble.
HEALTHY = ("booted", "migrated", "unpaused", "user", "migration canceled", "save canceled", "restored")

LOOK = r"""
virsh domstate --reason %s 2>/dev/null || exit 0
virsh dominfo %s | sed -n 's/^Persistent: *//p; s/^Autostart: *//p'
"""


@dataclass
class Guest:
    """A guest of the scenario."""

    name: str
    image: str
    shared: bool

    @property
    def boots(self) -> int:
        """How often it may have booted in this lab, which its witness is told at the end."""
        kept = STATE / f"{self.name}.boots"
        return int(kept.read_text(encoding="ascii")) if kept.exists() else 1

    def boot(self, host: str) -> None:
        (STATE / f"{self.name}.boots").write_text(str(self.boots + 1), encoding="ascii")
        self.virsh(host, "start")
        self.goes_on(host)

    @cached_property
    def definition(self) -> str:
        """As it was when the first test of this lab looked."""
        kept = STATE / f"{self.name}.xml"
        if not kept.exists():
            asked = (faults.inside(host, "virsh", "dumpxml", "--inactive", self.name) for host in HYPERVISORS)
            kept.write_text(next(said.stdout for said in asked if said.returncode == 0), encoding="utf-8")
        return kept.read_text(encoding="utf-8")

    # What is

    def look(self, hosts: Sequence[str] = HYPERVISORS) -> dict[str, Seen]:
        """Which of the hosts know it, and how."""
        found = {}
        for host in hosts:
            said = faults.must(host, "sh", "-c", LOOK % (self.name, self.name)).split("\n")
            if said[0]:
                state, _space, reason = said[0].partition(" (")
                info = [line for line in said if line in ("yes", "no", "enable", "disable")]
                found[host] = Seen(state, reason.rstrip(")"), info[:1] == ["yes"], info[1:] == ["enable"])
        return found

    def shapes(self, hosts: Sequence[str] = HYPERVISORS) -> dict[str, str]:
        return {host: seen.shape for host, seen in self.look(hosts).items()}

    def home(self) -> str:
        """The one host on which it runs, or else is paused; while it moves there is a paused one on the other."""
        seen = self.look()
        states = {state: [host for host, one in seen.items() if one.state == state] for state in ("running", "paused")}
        active = states["running"] or states["paused"]
        assert len(active) == 1, f"{self.name}: {self.shapes()}"
        return active[0]

    def console(self, host: str) -> str:
        return console.log(self.name)

    def last_record(self, host: str) -> int:
        said = faults.inside(host, "tail", "-c", "4000", self.console(host)).stdout
        found = RECORD.findall(said)
        return int(found[-1][1]) if found else 0

    def goes_on(self, host: str) -> None:
        """It runs there, by its own records."""
        before = self.last_record(host)
        wait_for(lambda: self.last_record(host) > before, 60, f"a new record of {self.name} on {host}")

    def stands_still(self, host: str) -> None:
        before = self.last_record(host)
        time.sleep(0.5)
        assert self.last_record(host) == before, f"{self.name} runs on {host}"

    def lives(self, host: str, shape: str = "running, persistent") -> None:
        """It is there, in that shape, and nowhere else."""
        assert self.shapes() == {host: shape}
        if shape.startswith("running"):
            self.goes_on(host)
        else:
            self.stands_still(host)
        assert qemus(self.name) == {host: int(not shape.startswith("shut off"))} | {other(host): 0}

    def limits(self, host: str) -> dict[str, str]:
        """What would limit its next migration."""
        commands = ("migrate-getmaxdowntime", "migrate-getspeed", "migrate-compcache")
        return {name: faults.inside(host, "virsh", name, self.name).stdout.strip() for name in commands}

    def job(self, host: str) -> dict[str, str]:
        said = faults.inside(host, "virsh", "domjobinfo", self.name).stdout
        return {key.strip(): value.strip() for key, _colon, value in (row.partition(":") for row in said.splitlines())}

    def moves_from(self, host: str) -> None:
        """Wait until its memory travels."""
        wait_for(lambda: "Memory remaining" in self.job(host), what=f"a migration of {self.name}")

    def copies_from(self, host: str) -> None:
        """Wait until its disk travels."""
        wait_for(lambda: "File processed" in self.job(host), what=f"a copy of the disk of {self.name}")

    def becomes(self, host: str, state: str) -> None:
        look = ("virsh", "domstate", self.name)
        wait_for(lambda: faults.inside(host, *look).stdout.strip() == state, what=f"{self.name} {state} on {host}")

    def is_said_to_be(self, host: str, state: str, reason: str) -> None:
        """Wait until libvirt says so, reason included."""

        def said() -> bool:
            seen = self.look().get(host)
            return seen is not None and (seen.state, seen.reason) == (state, reason)

        wait_for(said, what=f"{self.name} {state} ({reason}) on {host}")

    # What a test wants

    def virsh(self, host: str, command: str, *arguments: str) -> str:
        return faults.must(host, "virsh", command, self.name, *arguments)

    def tell(self, command: str) -> None:
        """Say something to it through its console, and wait until it has understood."""
        console.tell(self.home(), self.name, command)

    @contextmanager
    def busy(self, mib: int, over: int = 64, hard: bool = False) -> Iterator[None]:
        """It dirties that much memory per second, in a working set of `over` MiB.

        Where that is hard, it takes most of its CPU, and a guest that is slowed down dirties less.
        """
        self.tell(f"dirty {mib} over {over}{' hard' if hard else ''}")
        try:
            yield
        finally:
            # Unless the test has taken the guest's life.
            if [seen.state for seen in self.look().values()].count("running") == 1:
                self.tell("dirty 0")

    def bring(self, host: str = "", shape: str = "running, persistent", elsewhere: str = "") -> str:
        """Put it on that host (or leave it where it is) in that shape, whatever an earlier test has left.

        `elsewhere` is the shape of a definition that the other host shall have of it.
        """
        self._end_jobs()
        wanted = {host or self._anywhere(): shape}
        host = next(iter(wanted))
        if elsewhere:
            wanted[other(host)] = elsewhere
        now = self.look()
        fine = {name: seen.shape for name, seen in now.items()} == wanted
        if not fine or any(seen.autostart for seen in now.values()):
            self._arrange(host, shape, bool(elsewhere))
            assert self.shapes() == wanted
        if not self.shared:
            # What no journal accounts for would be in the way.
            faults.must(other(host), "rm", "-f", self.image)
            faults.must(other(host), "virsh", "pool-refresh", "vm")
        if shape.startswith("paused"):
            # It has run here: a guest that came paused is a case of its own.
            self.virsh(host, "resume")
            self.goes_on(host)
            self.virsh(host, "suspend")
        return host

    def _end_jobs(self) -> None:
        """What a test that has failed has left under way; a daemon that cannot let go of it is started anew."""
        for host in HYPERVISORS:
            for _turn in range(20):
                if self.job(host).get("Operation") != "Outgoing migration":
                    break
                faults.inside(host, "virsh", "domjobabort", self.name)
                time.sleep(1)
            else:
                faults.kill_daemon(host)

    def _anywhere(self) -> str:
        known = self.look()
        active = (name for name, seen in known.items() if seen.state != "shut off")
        return next(active, next(iter(known), HYPERVISORS[0]))

    def _arrange(self, host: str, shape: str, elsewhere: bool) -> None:
        """By force where nothing else helps: then it boots once more."""
        state, _comma, keeping = shape.partition(", ")
        now = self.look()
        active = [name for name, seen in now.items() if seen.state != "shut off"]
        healthy = active in ([host], [other(host)]) and now[active[0]].reason in HEALTHY
        path = f"/root/{self.name}.xml"
        for name in HYPERVISORS:
            faults.must(name, "sh", "-c", f"cat > {path} <<'END'\n{self.definition}\nEND")
            faults.inside(name, "virsh", "autostart", "--disable", self.name)
        if not healthy or state == "shut off":
            for name in active:
                self._destroy(name)
            active = []
        if active == [other(host)]:
            self._carry(host)
        for name in HYPERVISORS:
            wanted = elsewhere if name != host else keeping == "persistent" or not active
            if wanted or name == host:
                faults.must(name, "virsh", "define", path)
            if not wanted:
                # A running guest without a definition remembers its last one: that is this one now.
                faults.inside(name, "virsh", "undefine", self.name)
        if not active and state != "shut off":
            self.boot(host)
            if keeping == "transient":
                self.virsh(host, "undefine")
        faults.inside(host, "virsh", {"running": "resume", "paused": "suspend"}.get(state, "domstate"), self.name)

    def _destroy(self, host: str) -> None:
        """By force: a job may hold it for a while."""
        wait_for(
            lambda: not faults.inside(host, "virsh", "destroy", self.name).returncode, 60, f"{self.name} destroyed"
        )

    def _carry(self, host: str) -> None:
        """Bring it over from the other host."""
        options = ["--live", "--p2p", "--migrateuri", f"tcp://{PRIVATE[host]}"]
        faults.inside(host, "virsh", "undefine", self.name)
        if not self.shared:
            faults.must(host, "rm", "-f", self.image)
            faults.must(host, "virsh", "pool-refresh", "vm")
            options += ["--copy-storage-all", "--migrate-disks", "vda"]
        self.virsh(other(host), "migrate", *options, uri(host))


LOCAL = Guest("centos64a", "/vm/centos64-32bit.qcow2", shared=False)
SHARED = Guest("shared", "/vmshared/shared.qcow2", shared=True)
BUSY = Guest("busy", "/vmshared/busy.qcow2", shared=True)
GUESTS = (LOCAL, SHARED, BUSY)


def qemus(name: str) -> dict[str, int]:
    """How many QEMU processes each host has of that guest."""
    counts = {}
    for host in HYPERVISORS:
        counts[host] = int(faults.inside(host, "pgrep", "-cf", f"qemu-system.*guest={name},").stdout or 0)
    return counts


def without_records(footprint: dict[str, list[str]]) -> dict[str, list[str]]:
    """A footprint without what each run writes about itself."""
    return {host: [line for line in lines if "/kvmops-migration/" not in line] for host, lines in footprint.items()}
