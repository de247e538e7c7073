# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""A file on the controller that is written whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress

# Where nothing else is said, whoever may come to the directory may read the page.
MODE = 0o666


def obstacle(path: str, said: str) -> str:
    """One line on why no file can be written there, with what helps, or nothing; `said` is how a person called it."""
    where = f"report: {said}" if said == path else f"report: {said} ({path})"
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    if not said:
        return "report: no file is named; cure: say -e report=FILE.html"
    if os.path.isdir(target):
        return f"{where} is a directory; cure: name a file, such as {os.path.join(said, 'migration.html')}"
    if not os.path.isdir(folder):
        return f"{where} cannot be written: there is no directory {folder}; cure: make it, or name another place"
    if os.path.lexists(target) and not stat.S_ISREG(os.lstat(target).st_mode):
        return f"{where} is no ordinary file; cure: name another one"
    for needed in (folder, target):
        mode = os.W_OK | os.X_OK if needed == folder else os.W_OK
        if os.path.lexists(needed) and not os.access(needed, mode):
            return f"{where} cannot be written: {needed} is not writable here; cure: name another place"
    return ""


def differs(path: str, text: str) -> bool:
    """Whether the file is not there, or says something else."""
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            return stream.read() != text
    except (OSError, ValueError):
        return True


def write(path: str, text: str) -> None:
    """Write the file; one that was there keeps its mode. A link stays one."""
    target = os.path.realpath(path)
    try:
        mode = stat.S_IMODE(os.stat(target).st_mode)
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        mode = MODE & ~mask
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(target), prefix=".kvmops-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as stream:
            os.fchmod(descriptor, mode)
            stream.write(text)
        os.replace(temporary, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
