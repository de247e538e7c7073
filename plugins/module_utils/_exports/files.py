# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""The files that exportfs reads, on this machine."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from typing import Any, Dict, Mapping

from .._pure.refusal import Refusal

EXPORTS = "/etc/exports"
DROP_INS = "/etc/exports.d"
_ENDING = ".exports"


def check_name(name: str) -> None:
    """Refuse a file that exportfs would not read."""
    folder, base = os.path.split(name)
    drop_in = folder == DROP_INS and base.endswith(_ENDING) and not base.startswith(".")
    if name != EXPORTS and not drop_in:
        raise Refusal(
            f"file: {name!r} is none of the files that exportfs reads",
            "bad_option",
            f"give {EXPORTS}, or {DROP_INS}/NAME{_ENDING}",
        )


def read_all() -> Dict[str, bytes]:
    """By name, what is in each file that there is. Nothing of what they say is judged."""
    names = [EXPORTS]
    with suppress(FileNotFoundError):
        drop_ins = sorted(os.listdir(DROP_INS))
        names += [f"{DROP_INS}/{name}" for name in drop_ins if name.endswith(_ENDING) and not name.startswith(".")]
    found = {}
    for name in names:
        try:
            with open(name, "rb") as stream:
                found[name] = stream.read()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise Refusal(
                f"{name} cannot be read: {error.strerror}", "not_permitted", "run as root, and repair that file"
            ) from error
    return found


def replace(module: Any, before: Mapping[str, bytes], after: Mapping[str, bytes]) -> None:
    """Make of one set of files the other. Each is there whole at every moment, with its owner, mode and label.

    Raises Refusal, with nothing written, where somebody else has changed a file since it was read.
    """
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    now = read_all()
    for name in names:
        if now.get(name) != before.get(name):
            raise Refusal(f"{name} was changed by somebody else meanwhile", "changed_meanwhile", "run again")
    for name in names:
        if name in after:
            _write(module, os.path.realpath(name), after[name])
        else:
            os.unlink(name)


def _write(module: Any, name: str, data: bytes) -> None:
    os.makedirs(os.path.dirname(name), mode=0o755, exist_ok=True)
    # Not with the ending that exportfs looks for, should this run be killed.
    number, temporary = tempfile.mkstemp(prefix=".kvmops-", dir=os.path.dirname(name))
    try:
        with os.fdopen(number, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        module.atomic_move(temporary, name)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
