# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pages that are made of data: the script of each writes its page, and with --check tells that it is out of date."""

from __future__ import annotations

import difflib
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
DOCS = TOP / "docs"


def settle(script: str, page: Path, text: str, arguments: list[str]) -> list[str]:
    """Write the page; or, where --check is the argument, say what is out of date in it."""
    if arguments != ["--check"]:
        page.write_text(text, encoding="utf-8")
        return []
    written = page.read_text(encoding="utf-8") if page.exists() else ""
    stale = list(difflib.unified_diff(written.splitlines(), text.splitlines(), "written", "as it should be", n=0))
    if not stale:
        return []
    return [
        f"{page.relative_to(TOP)} is not up to date: run python {Path(script).resolve().relative_to(TOP)}",
        *stale[:20],
    ]


def finish(wrong: list[str], summary: str) -> int:
    """Say what is wrong, or what there is; returns the status of the script."""
    print("\n".join(wrong) if wrong else summary)
    return 1 if wrong else 0
