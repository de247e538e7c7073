# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Let galaxy-importer judge the artifact in build/artifact as strictly as it can. A warning fails, too.

Usage: in_venv.sh -e venv-importer python tests/gates/importer.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
COMPLAINTS = ("CRITICAL:", "ERROR:", "WARNING:")
NOT_OURS = (
    # flake8's own defaults leave these two out, and the importer's settings do not: ruff's format contradicts them.
    ": E203 ",
    ": W503 ",
    # The importer gives ansible-lint a path on which no playbook is found by its full name; `make artifact` finds all.
    "ERROR    Failed to find kvmops.migration.",
)


def main() -> int:
    artifacts = sorted((TOP / "build" / "artifact").glob("*.tar.gz"))
    if len(artifacts) != 1:
        print("there is no artifact in build/artifact: make artifact")
        return 1
    with tempfile.TemporaryDirectory(prefix="kvmops-importer-") as home:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        environment |= {"GALAXY_IMPORTER_CONFIG": str(TOP / "tests" / "galaxy-importer.cfg"), "HOME": home}
        done = subprocess.run(
            # It writes what it has found where it is.
            [sys.executable, "-m", "galaxy_importer.main", str(artifacts[0])],
            cwd=home,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        imported = (Path(home) / "importer_result.json").is_file()
    lines = done.stdout.splitlines()
    complaints = [
        line for line in lines if line.startswith(COMPLAINTS) and not any(known in line for known in NOT_OURS)
    ]
    if complaints or done.returncode or not imported:
        print(done.stdout)
        print("\n".join(complaints[-20:]))
        return 1
    print(f"galaxy-importer takes {artifacts[0].name}: {len(lines)} lines, no complaint")
    return 0


if __name__ == "__main__":
    sys.exit(main())
