# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Import everything that runs on hosts with every Python that hosts may have, as far as this machine has them.

With the oldest supported ansible-core, because newer ones have left the oldest Pythons behind. Nothing of libvirt needs
to be there.

Usage: in_venv.sh -e venv-core219 python tests/gates/pythons.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ansible

TOP = Path(__file__).resolve().parents[2]
VERSIONS = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14")
IMPORT = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def names() -> list[str]:
    paths = [path for part in ("modules", "module_utils") for path in (TOP / "plugins" / part).rglob("*.py")]
    return [
        "ansible_collections.kvmops.migration." + ".".join(path.relative_to(TOP).with_suffix("").parts)
        for path in sorted(paths)
        if path.stem != "__init__"
    ]


def python(version: str) -> str:
    found = subprocess.run(
        [TOP / "tests" / "gates" / "find_python.sh", version], capture_output=True, text=True, check=False
    )
    return found.stdout.strip()


def main() -> int:
    failed, tried, absent = [], [], []
    modules = names()
    with tempfile.TemporaryDirectory(prefix="kvmops-pythons-") as folder:
        # This ansible, and nothing else of the environment that it is in.
        (Path(folder) / "ansible").symlink_to(Path(ansible.__file__).parent)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((folder, os.environ["ANSIBLE_COLLECTIONS_PATH"])),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        for version in VERSIONS:
            interpreter = python(version)
            if not interpreter:
                absent.append(version)
                continue
            began = time.monotonic()
            done = subprocess.run(
                [interpreter, "-W", "error", "-c", IMPORT, *modules],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            tried.append(version)
            if done.returncode:
                failed.append(version)
                print(done.stderr)
            print(f"Python {version}: {time.monotonic() - began:.1f} s", flush=True)
    if absent:
        print(f"not on this machine: Python {', '.join(absent)}")
    print(f"{len(modules)} files, Python {', '.join(tried)}" + (f": FAILED on {', '.join(failed)}" if failed else ""))
    return 1 if failed or not tried else 0


if __name__ == "__main__":
    sys.exit(main())
