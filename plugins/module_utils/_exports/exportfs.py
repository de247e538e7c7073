# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""exportfs of nfs-utils: it judges files against a table of its own, and makes them the live table."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

from .._pure import exports
from .._pure.exports import Parsed
from .._pure.refusal import Refusal
from . import files

# Where nfs-utils keeps its tables.
STATE = "/var/lib/nfs"
# Status, output and errors of a command.
RunCommand = Callable[[List[str]], Tuple[int, str, str]]

# exportfs has no dry run: it reads one place and writes one place. Here both are of its own. /etc is rebuilt from
# links, because it may have neither of the files yet that something could be mounted on.
_PRIVATE = """
set -eu
staging=$1 etc=$2 state=$3 exportfs=$4
mount -n -t tmpfs -o mode=0755 kvmops "$state"
mkdir "$state/.old" "$state/.new"
mount -n --rbind "$etc" "$state/.old"
ln -s "$state/.old"/* "$state/.new/"
set --
for each in "$etc"/*; do
    if [ -L "$each" ]; then set -- "$@" "$each"; fi
done
# A link that leads to ../run or the like would lead elsewhere from the new place of its folder.
if [ $# -gt 0 ]; then cp -P --remove-destination "$@" "$state/.new/"; fi
rm -rf "$state/.new/exports" "$state/.new/exports.d"
cp -R "$staging/exports" "$staging/exports.d" "$state/.new/"
mount -n --bind "$state/.new" "$etc"
: > "$staging/ready"
if [ -d "$staging/each" ]; then
    for each in "$staging/each"/*; do
        cp "$each" "$etc/exports"
        "$exportfs" -ra > /dev/null 2> "$each.errors" || : > "$each.failed"
    done
    exit 0
fi
status=0
"$exportfs" -ra || status=$?
cat "$state/etab" > "$staging/etab" 2> /dev/null || :
exit "$status"
"""

# What exportfs says about exports that it takes nevertheless, without an end of its own.
_HARMLESS = re.compile(
    r".*Neither 'subtree_check' or 'no_subtree_check' specified for export .*"
    r"|  Assuming default behaviour .*|  NOTE: this default has changed since .*"
    r"|.*No options for .*|.*No host name given with .*"
)
# What it drops in spite of a status of 0.
_DROPPED = re.compile(r"Failed to resolve|Invalid (prefix|netmask|IP address)|does not support NFS|requires fsid=")


@dataclass(frozen=True)
class Verdict:
    """The table that the files would make, and what exportfs has against them."""

    table: List[Dict[str, Any]]
    complaints: List[str]


class Exportfs:
    def __init__(self, run_command: RunCommand, program: str):
        self._run_command = run_command
        self._program = program

    def judge(self, data: Mapping[str, bytes], missing: str = "") -> Verdict:
        """What exportfs would make of these files. Neither they nor the live table are touched.

        `missing` is a directory that is not held against them.
        """
        with _Staging(data) as staging:
            status, errors = self._privately(staging)
            complaints = _complaints(status, errors, missing)
            return Verdict(exports.active(_content(os.path.join(staging, "etab"))), complaints)

    def culprits(self, parsed: Mapping[str, Parsed]) -> List[Tuple[str, int, str]]:
        """File, line and complaint of each export that exportfs does not take even alone."""
        places = [(name, each, entry) for name, each in parsed.items() for entry in each.entries]
        alone = {f"{number:06d}": each.bytes_of(entry) for number, (_name, each, entry) in enumerate(places)}
        with _Staging({}, alone) as staging:
            self._privately(staging)
            found = []
            for number, (name, _each, entry) in zip(alone, places):
                base = os.path.join(staging, "each", number)
                said = _content(f"{base}.errors").decode("utf-8", "replace")
                complaints = _complaints(int(os.path.exists(f"{base}.failed")), said, "")
                found += [(name, entry.line, complaint) for complaint in complaints[:1]]
            return found

    def apply(self) -> List[str]:
        """Make the files the live table. Empty, or what exportfs says against it."""
        status, _output, errors = self._run_command([self._program, "-ra"])
        return _complaints(status, errors, "") or ([f"status {status}"] if status else [])

    def _privately(self, staging: str) -> Tuple[int, str]:
        etc = os.path.dirname(files.EXPORTS)
        inside = ["sh", "-c", _PRIVATE, "sh", staging, etc, STATE, self._program]
        status, _output, errors = self._run_command(["unshare", "--mount", "--propagation", "private", *inside])
        if not os.path.exists(os.path.join(staging, "ready")):
            said = errors.strip().splitlines()
            raise Refusal(
                "the exports cannot be tried out, because no mount namespace can be made for it:"
                f" {said[-1] if said else f'status {status}'}",
                "not_permitted",
                "run as root (become), in a container with CAP_SYS_ADMIN",
            )
        return status, errors


def live_table() -> List[Dict[str, Any]]:
    """What is exported now."""
    return exports.active(_content(os.path.join(STATE, "etab")))


class _Staging:
    """A directory with files for a private run, gone afterwards."""

    def __init__(self, data: Mapping[str, bytes], each: Mapping[str, bytes] | None = None):
        self._data = {files.EXPORTS: b"", **data}
        self._each = each

    def __enter__(self) -> str:
        self._folder = tempfile.mkdtemp(prefix="kvmops-exports-")
        os.mkdir(os.path.join(self._folder, "exports.d"))
        for name, content in self._data.items():
            in_drop_ins = "exports.d" if os.path.dirname(name) == files.DROP_INS else ""
            self._write(os.path.join(in_drop_ins, os.path.basename(name)), content)
        if self._each is not None:
            os.mkdir(os.path.join(self._folder, "each"))
            for name, content in self._each.items():
                self._write(os.path.join("each", name), content)
        return self._folder

    def _write(self, name: str, content: bytes) -> None:
        with open(os.path.join(self._folder, name), "wb") as stream:
            stream.write(content)

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _content(name: str) -> bytes:
    try:
        with open(name, "rb") as stream:
            return stream.read()
    except FileNotFoundError:
        return b""


def _complaints(status: int, errors: str, missing: str) -> List[str]:
    lines = [re.sub("^exportfs: +", "", line).strip() for line in errors.splitlines() if not _HARMLESS.fullmatch(line)]
    lines = [line for number, line in enumerate(lines) if line and line not in lines[:number]]
    if status == 0:
        return [line for line in lines if _DROPPED.search(line)]
    return [line for line in lines if not (missing and line.startswith(f"Failed to stat {missing}:"))]


def first_words(complaints: Sequence[str]) -> str:
    """In one line, without the place that exportfs names, which is one of its own copy and often the wrong line."""
    return " ".join(re.sub(r"^\S*exports(?:\.d/\S+)?: ?\[?\d+\]?: *", "", complaint) for complaint in complaints)
