# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""Whether QEMU's user and root may write where images lie on NFS: only the server knows, and only an attempt tells."""

from __future__ import annotations

import inspect
import json
import os
import posixpath
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any, Dict, Mapping, Sequence

from .._pure import preflight
from . import trial
from .probe import VOLUME_PREFIX

SOURCE = inspect.getsource(trial)
# Seconds that all attempts get together; a server that is gone would never answer.
PATIENCE = 5.0
# And one that was killed, to be gone.
GRACE = 0.2
# So many directories are looked at; who has more of them learns of the first ones.
MOST = 16


def on_nfs(directories: Sequence[str], mounts: Sequence[Mapping[str, Any]]) -> Sequence[str]:
    """Those of the directories that lie on NFS, each once."""
    known = [posixpath.normpath(one) for one in directories if one.startswith("/")]
    kinds = {one: preflight.mount_fact(posixpath.join(one, "image"), mounts).get("type", "") for one in known}
    return [one for one, kind in kinds.items() if kind in preflight.NFS_TYPES][:MOST]


def attempt(directories: Sequence[str], machine: Mapping[str, Any]) -> Dict[str, Any]:
    """By directory on NFS, what came of it for `qemu` and for `root`; nothing where this is not root's process."""
    user = machine.get("qemu_user")
    chosen = on_nfs(directories, machine.get("mounts") or ()) if user and os.geteuid() == 0 else ()
    names = {"qemu": f"{user['uid']}:{user['gid']}", "root": "0:0"} if user else {}
    begun = {one: _begin(one, sorted(set(names.values()))) for one in chosen}
    deadline = time.monotonic() + PATIENCE
    found = {}
    for directory, child in begun.items():
        answer = _end(child, max(0.0, deadline - time.monotonic()))
        if answer is None:
            found[directory] = {"silent": True}
        elif answer:
            found[directory] = {who: answer[ids] for who, ids in names.items()}
    return found


def _begin(directory: str, users: Sequence[str]) -> Any:
    command = [sys.executable, "-I", "-S", "-c", SOURCE, directory, VOLUME_PREFIX, *users]
    return subprocess.Popen(  # pylint: disable=ansible-bad-function
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )


def _end(child: Any, seconds: float) -> Dict[str, Any] | None:
    """The answer of an attempt, nothing where it made none, or None where it does not come."""
    try:
        output = child.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        # One that waits for its server does not die of it before the server is back.
        child.kill()
        child.stdout.close()
        with suppress(subprocess.TimeoutExpired):
            child.wait(GRACE)
        return None
    with suppress(ValueError):
        return dict(json.loads(output))
    return {}
