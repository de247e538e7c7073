# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check that every role's defaults/main.yml and its argument specification say the same.

A default that is a template is compared as text. Where the option's type cannot hold that text, the specification must
leave the default out, because the documentation tools refuse it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

TOP = Path(__file__).resolve().parents[2]
TEXT = ("str", "raw", "path")


def load(path: Path) -> dict:
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.exists() else {}


def findings(role: Path) -> list[str]:
    spec_file = role / "meta" / "argument_specs.yml"
    specs = load(spec_file).get("argument_specs", {})
    if "main" not in specs:
        return [f"{spec_file} has no entry point 'main'"]
    options = {name: option for entry in specs.values() for name, option in (entry.get("options") or {}).items()}
    defaults = load(role / "defaults" / "main.yml")
    found = [f"{name} is in defaults/main.yml, not in the specification" for name in sorted(defaults.keys() - options)]
    for name, option in options.items():
        where = f"{name} ({option.get('type', 'str')})"
        templated = isinstance(defaults.get(name), str) and "{{" in defaults[name]
        if name not in defaults:
            if "default" in option:
                found.append(f"{where} has a default in the specification, none in defaults/main.yml")
        elif templated and option.get("type", "str") not in TEXT:
            if "default" in option:
                found.append(f"{where}: the default is a template: describe it, and leave it out of the specification")
        elif "default" not in option:
            found.append(f"{where} has the default {defaults[name]!r} in defaults/main.yml, none in the specification")
        elif (type(option["default"]), option["default"]) != (type(defaults[name]), defaults[name]):
            found.append(
                f"{where}: default {option['default']!r} in the specification, {defaults[name]!r} in defaults/main.yml"
            )
    return [f"roles/{role.name}: {finding}" for finding in found]


def main() -> int:
    roles = sorted(path for path in (TOP / "roles").iterdir() if path.is_dir())
    found = [finding for role in roles for finding in findings(role)]
    print("\n".join(found) if found else f"{len(roles)} roles agree with their specifications")
    return 1 if found or not roles else 0


if __name__ == "__main__":
    sys.exit(main())
