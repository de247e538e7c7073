# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the documentation site in build/docs/html. Any warning is an error, and so is a part without a page.

The sources lie in build/docs/source as they do in the checkout, so that the links between them lead to the same place
here and there; what antsibull-docs writes of modules, filters and roles is in its folder `reference`.

Usage: in_venv.sh -e venv-docs python tests/gates/docs.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
BUILD = TOP / "build" / "docs"
SOURCE, HTML = BUILD / "source", BUILD / "html"
# Pages, and files that they link to.
PARTS = (
    *("docs/**/*.md", "docs/conf.py", "docs/site.css", "README.md", "LICENSE", "playbooks/*.yml", "roles/*/README.md"),
    "extensions/pipeline/**/*.yml",
)
COLLECTION = "kvmops.migration"
REPOSITORY = "https://github.com/kvmops/migration/blob/main/"
# By the folder of the parts that each need a page: how it is named, and the page.
PAGES = {
    "plugins/modules/*.py": "reference/{}_module.html",
    # What acts on the controller for a module is told by the module's page.
    "plugins/action/*.py": "reference/{}_module.html",
    "plugins/filter/*.py": "reference/{}_filter.html",
    "roles/*/": "reference/{}_role.html",
    "roles/*/README.md": "roles/{}/README.html",
    "docs/**/*.md": "{}.html",
}
# The start page has the links of the checkout's layout; people open the folder.
START = """<!DOCTYPE html>
<meta charset="utf-8"><title>kvmops.migration</title>
<meta http-equiv="refresh" content="0; url=docs/index.html">
"""


def gather() -> None:
    shutil.rmtree(BUILD, ignore_errors=True)
    for part in PARTS:
        for path in sorted(TOP.glob(part)):
            target = SOURCE / path.relative_to(TOP)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    # Its links are whole, for those who read it on Galaxy; here they lead to the site's own pages, and are looked up.
    readme = SOURCE / "README.md"
    readme.write_text(readme.read_text(encoding="utf-8").replace(REPOSITORY, ""), encoding="utf-8")
    (SOURCE / "reference").mkdir(mode=0o755)


def run(*command: object) -> bool:
    # antsibull-docs and Ansible keep what they note in the home directory.
    home = os.environ.get("CACHE", str(BUILD))
    return not subprocess.run(
        [str(word) for word in command], cwd=TOP, env={**os.environ, "HOME": home}, check=False
    ).returncode


def without_page() -> Iterator[str]:
    for parts, page in PAGES.items():
        for path in sorted(TOP.glob(parts)):
            name = path.stem
            if name == "README":
                name = path.parent.name
            elif parts.startswith("docs"):
                name = str(path.relative_to(TOP).with_suffix(""))
            if not (HTML / page.format(name)).is_file():
                yield f"{path.relative_to(TOP)} has no page {page.format(name)}"
    listed = (TOP / "docs" / "playbooks.md").read_text(encoding="utf-8")
    for path in sorted((TOP / "playbooks").glob("*.yml")):
        if f"`{path.name}`" not in listed:
            yield f"playbooks/{path.name} is not in docs/playbooks.md"


def main() -> int:
    gather()
    made = run(
        "antsibull-docs", "collection", "--use-current", "--squash-hierarchy", "--fail-on-error",
        "--dest-dir", SOURCE / "reference", COLLECTION,
    ) and run(
        "sphinx-build", "-b", "html", "-c", SOURCE / "docs", "-W", "--keep-going", "-n", "-q", "-E",
        "-d", BUILD / "doctrees", SOURCE, HTML,
    )  # fmt: skip
    if not made:
        return 1
    (HTML / "index.html").write_text(START, encoding="utf-8")
    missing = list(without_page())
    print("\n".join(missing) if missing else f"{HTML / 'index.html'}: {len(list(HTML.rglob('*.html')))} pages")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
