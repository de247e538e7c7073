# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the lab keeps its things, and the few helpers that every part of it uses."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

# Another name makes a second lab beside the first, as a second checkout needs it: addresses do not collide, because
# each lab has namespaces of its own.
NAME = os.environ.get("KVMOPS_LAB_NAME") or "kvmops-lab"
# Folders of this name are removed whole, and groups and namespaces by the name and a dash: nobody else's may match.
if not re.fullmatch(r"kvmops-[a-z0-9]{1,20}", NAME):
    raise SystemExit(f"KVMOPS_LAB_NAME={NAME}: kvmops- and up to 20 small letters and digits, as in kvmops-lab2")
STATE = Path("/var/lib") / NAME
CACHE = Path(os.environ.get("KVMOPS_LAB_CACHE", "/var/cache/kvmops-lab"))
LOCK = Path("/run/lock") / f"{NAME}.lock"
CONTROL_NETNS = NAME
# In front of a command that mounts: its mounts are its own, and however it or this process ends, all that it started
# ends too, and the mounts with it. Left in a tree that the next run removes, they would lead it out of the tree.
SHUT_IN = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc"),
)

_START = time.monotonic()


class LabError(Exception):
    """Something a person can act on: the text is the whole message."""


def say(text: str) -> None:
    """One progress line with the seconds since the command began."""
    print(f"[lab {time.monotonic() - _START:5.1f}s] {text}", file=sys.stderr, flush=True)


def run(*command: str | Path, stdin: str | None = None, timeout: float | None = 120) -> str:
    """Run a command; its output comes back, its failure becomes a LabError with what it said."""
    try:
        done = subprocess.run(
            [str(part) for part in command], input=stdin, text=True, capture_output=True, timeout=timeout, check=False
        )
    except FileNotFoundError as error:
        raise LabError(f"{command[0]} is not installed; `make setup` installs what the lab needs") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(map(str, command))} did not end within {timeout} s") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise LabError(f"{' '.join(map(str, command))} failed ({done.returncode}): {said}")
    return done.stdout


def netns_of(host: str) -> str:
    return f"{NAME}-{host}"


def require_root() -> None:
    if os.geteuid() != 0:
        raise LabError("the lab boots containers and makes network namespaces: run it as root (or with sudo)")


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Serialise `up` and `down` of this machine; the lock dies with its holder."""
    with LOCK.open("w", encoding="ascii") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another lab command is at work; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
