# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""Tries as QEMU's user, and as root, to make a file in a directory, and removes it at once.

It runs in a Python of its own (see writes.py), because a file system whose server is gone keeps a process for ever, and
so it imports nothing of ours. Of a server it is seen what users and exports are worth there: only by an attempt.
"""

from __future__ import annotations

import errno
import json
import os
import pwd
import re
import sys
import time
from contextlib import suppress

STALE_AFTER = 3600


def as_user(uid: int, gid: int) -> None:
    """Become that user to file systems; only root may go from one to another."""
    os.seteuid(0)
    groups = [gid]
    with suppress(KeyError):
        groups = os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    os.setgroups(groups)
    os.setegid(gid)
    os.seteuid(uid)


def trouble(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "EIO")


def look(directory: str) -> str:
    """Why the directory cannot be seen, nothing where it can."""
    try:
        os.stat(directory)
        with os.scandir(directory) as entries:
            next(iter(entries), None)
    except OSError as error:
        return trouble(error)
    return ""


def write(directory: str, name: str) -> dict[str, object]:
    """Why no file can be written there, and to whom it belonged where one could."""
    path = os.path.join(directory, name)
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        return {"error": trouble(error), "owner": None}
    try:
        owner = os.fstat(number).st_uid
        os.write(number, b"probe")
        os.fsync(number)
    except OSError as error:
        return {"error": trouble(error), "owner": None}
    finally:
        with suppress(OSError):
            os.close(number)
        with suppress(OSError):
            os.unlink(path)
    return {"error": "", "owner": owner}


def clean(directory: str, prefix: str) -> None:
    """Remove what a killed attempt has left; whose probe is young may still be at work."""
    made = re.compile(re.escape(prefix) + r"(\d+)-")
    with suppress(OSError):
        for name in os.listdir(directory):
            match = made.match(name)
            if match and time.time() - int(match[1]) > STALE_AFTER:
                with suppress(OSError):
                    os.unlink(os.path.join(directory, name))


def main(directory: str, prefix: str, *users: str) -> None:
    """`users` are UID:GID; the answer has one entry for each."""
    answer = {}
    for user in users:
        uid, gid = map(int, user.split(":"))
        as_user(uid, gid)
        clean(directory, prefix)
        seen = look(directory)
        name = f"{prefix}{int(time.time())}-{os.getpid()}-{uid}"
        answer[user] = {"look": seen, **({"error": seen, "owner": None} if seen else write(directory, name))}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
