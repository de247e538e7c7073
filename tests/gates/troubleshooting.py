# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write docs/troubleshooting.md: what libvirt says when a move fails, by failure class, and what helps.

Meanings and cures are those of the table of messages; the messages are those that the unit tests try it with.

Usage: python tests/gates/troubleshooting.py           write the page
       python tests/gates/troubleshooting.py --check   fail where it is not up to date
"""

from __future__ import annotations

import importlib.util
import re
import sys
from types import ModuleType

import yaml
from generated import DOCS, TOP, finish, settle

TABLE = TOP / "plugins" / "module_utils" / "_pure" / "messages.py"
MESSAGES = TOP / "tests" / "unit" / "fixtures" / "messages.yml"
PAGE = DOCS / "troubleshooting.md"
# In place of names, which the module fills in.
NAMES = {"name": "VM", "source": "SOURCE", "dest": "DESTINATION", "host": "HOST", "path": "IMAGE"}
HEAD = """<!-- Made by tests/gates/troubleshooting.py of plugins/module_utils/_pure/messages.py and of the messages that
     tests/unit/fixtures/messages.yml tries it with: do not edit. -->
# Troubleshooting

A move that fails says why in one line, `msg`, and again as data: `failure_class` is one word for the kind of failure,
`cure` what helps, and `role` the role of this collection that does it, where there is one. What has become of the VM is
in `outcome` ([what each means](concepts.md#how-a-run-ends)). What was found before anything was tried is in `checks`
([what is checked](preflight.md)).

While a move goes on, `status.yml` says what it waits for; `cancel.yml` ends it, and `recover.yml` settles what a killed
run has left ([playbooks](playbooks.md)).

Below are the classes of failures that come from messages of libvirt, QEMU and OpenSSH: under each what helps, and the
messages that mean it. Names in capitals are those of your VM and hosts. A message that is in none has the class
[`libvirt`](#libvirt). Each is tried on a libvirt made for tests (`tests/unit/test_module_messages.py`).
"""


class Names(dict[str, str]):
    """Words for the names in a cure; one that only a message has is its own name in capitals."""

    def __missing__(self, name: str) -> str:
        return name.upper()


def load() -> ModuleType:
    """The table, which needs nothing of the collection."""
    spec = importlib.util.spec_from_file_location(TABLE.stem, TABLE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def plain(text: str) -> str:
    """Text that Markdown leaves as it is."""
    return re.sub(r"([<*\[\]])", r"\\\1", text)


def code(text: str) -> str:
    line = " ".join(text.split())
    return f"`` {line} ``" if "`" in line else f"`{line}`"


def entry(known: object, messages: list[str], names: Names) -> list[str]:
    cure = plain(known.cure.format_map(names))
    role = f" (role [`{known.role}`](../roles/{known.role}/README.md))" if known.role else ""
    return [f"**What helps:** {cure}{role}.\n", *(f"- {code(message)}" for message in messages), ""]


def page() -> tuple[str, list[str]]:
    """The page, and the rows of the table that no message is known of."""
    table = load()
    names = Names({**table.UNNAMED, **NAMES})
    said: dict[str, list[str]] = {known.pattern.pattern: [] for known in (*table.TABLE, table.UNKNOWN)}
    for row in yaml.safe_load(MESSAGES.read_text(encoding="utf-8")):
        found = said[table.look_up(row["text"]).pattern.pattern]
        found += [row["text"]] if row["text"] not in found else []
    lines = [HEAD]
    for name in sorted({known.failure_class for known in table.TABLE}):
        lines.append(f"## {name}\n")
        for known in table.TABLE:
            if known.failure_class == name:
                lines += entry(known, said[known.pattern.pattern], names)
    lines += [f"## {table.UNKNOWN.failure_class}\n", "Any message that is in none of the above.\n"]
    lines += entry(table.UNKNOWN, [], names)
    silent = [f"{TABLE.relative_to(TOP)}: no message is known of {known.pattern.pattern}" for known in table.TABLE
              if not said[known.pattern.pattern]]  # fmt: skip
    return "\n".join(lines).rstrip() + "\n", silent


def main(arguments: list[str]) -> int:
    text, wrong = page()
    wrong += settle(__file__, PAGE, text, arguments)
    return finish(wrong, f"{text.count(chr(10) + '## ')} classes, {text.count(chr(10) + '- ')} messages")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
