# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""One export as somebody wants it: compared with the files, tried out, written, and made live."""

from __future__ import annotations

import os
from typing import Any, Dict, List, Mapping, Tuple

from .._pure import exports
from .._pure.exports import Client, Parsed
from .._pure.refusal import Refusal
from . import files
from .exportfs import Exportfs, first_words, live_table

_CURE = "correct that line, or remove it; until then the exports that are live stay as they are"


def ensure(module: Any) -> Dict[str, Any]:
    """The state that the options of C(nfs_export) describe."""
    params, check = module.params, module.check_mode
    files.check_name(params["file"])
    path, name, present = exports.normal_path(params["path"]), params["file"], params["state"] == "present"
    exports.check_path(params["path"])
    clients = exports.wanted(path, params["clients"]) if present else []
    warnings = exports.hazards(path, clients)
    before = files.read_all()
    after = _wished(before, name, path, clients)
    parsed = _parsed(after)
    missing = present and not os.path.exists(path)
    if missing and not check:
        raise Refusal(f"path: {path} does not exist", "not_found", "make the directory first", role="nfs_server")
    tool = _tool(module, present)
    changed, stale = before != after, False
    if tool is None:
        warnings += ["exportfs is not installed: it has not been asked about these exports"] if changed else []
    else:
        table = _judged(tool, parsed, after, path if missing else "")
        live = live_table()
        stale = not missing and _exported(table, path) != _exported(live, path)
        if changed or stale:
            warnings += _dropped(live, table, path)
    if changed and not check:
        files.replace(module, before, after)
    if (changed or stale) and not check and tool is not None:
        _apply(module, tool, before, after)
    result = {
        "changed": changed or stale,
        # Not beside each other: Ansible adds what it knows of a file to a result that has a path.
        "export": {"path": path, "file": name, "clients": [client.shown() for client in clients]},
        "active": live_table(),
        "warnings": warnings,
    }
    if module._diff:
        result["diff"] = {
            "before_header": name,
            "after_header": name,
            "before": _text(before.get(name, b"")),
            "after": _text(after.get(name, b"")),
        }
    return result


def gather() -> Dict[str, Any]:
    """All exports of all files, what is wrong with these, and what is live."""
    parsed = {name: exports.parse(data) for name, data in files.read_all().items()}
    return {
        "changed": False,
        "exports": [
            {
                "path": entry.path,
                "file": name,
                "line": entry.line,
                "clients": [client.shown() for client in entry.clients],
            }
            for name, each in parsed.items()
            for entry in each.entries
        ],
        "problems": [{"file": name, "line": line, "problem": text} for name, line, text in _problems(parsed)],
        "active": live_table(),
    }


def _wished(before: Mapping[str, bytes], name: str, path: str, clients: List[Client]) -> Dict[str, bytes]:
    data = before.get(name, b"")
    changed = exports.with_export(data, path, clients) if clients else exports.without_export(data, path)
    if changed == data:
        return dict(before)
    after = {**before, name: changed}
    if not changed and name != files.EXPORTS:
        del after[name]
    # Without this file exportfs reads the others, and says that it has failed.
    after.setdefault(files.EXPORTS, b"")
    return after


def _parsed(data: Mapping[str, bytes]) -> Dict[str, Parsed]:
    parsed = {name: exports.parse(content) for name, content in data.items()}
    _refuse(_problems(parsed))
    return parsed


def _problems(parsed: Mapping[str, Parsed]) -> List[Tuple[str, int, str]]:
    found = [(name, problem.line, problem.text) for name, each in parsed.items() for problem in each.problems]
    return found + [(name, problem.line, problem.text) for name, problem in exports.twice(parsed)]


def _refuse(problems: List[Tuple[str, int, str]]) -> None:
    if not problems:
        return
    name, line, text = problems[0]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    raise Refusal(
        f"{name} line {line}: {text}{more}",
        "exports_broken",
        _CURE,
        problems=[{"file": name, "line": line, "problem": text} for name, line, text in problems],
    )


def _tool(module: Any, needed: bool) -> Exportfs | None:
    program = module.get_bin_path("exportfs", opt_dirs=["/usr/sbin", "/sbin"])
    if program:
        # Its messages are looked into, and a path with $ in it is no variable.
        env = {"LC_ALL": "C", "LANGUAGE": "C"}
        return Exportfs(
            lambda command: module.run_command(command, expand_user_and_vars=False, environ_update=env), program
        )
    if needed and not module.check_mode:
        raise Refusal(
            "exportfs is not installed",
            "not_installed",
            "install nfs-kernel-server (Debian) or nfs-utils (RHEL family)",
            role="nfs_server",
        )
    return None


def _judged(tool: Exportfs, parsed: Dict[str, Parsed], data: Dict[str, bytes], missing: str) -> List[Dict[str, Any]]:
    verdict = tool.judge(data, missing)
    if not verdict.complaints:
        return verdict.table
    said = first_words(verdict.complaints)
    problems = [(name, line, first_words([text])) for name, line, text in tool.culprits(parsed)]
    # What stumbles over another one only, like the second name of a client, is known by its path.
    problems = problems or [
        (name, entry.line, said) for name, each in parsed.items() for entry in each.entries if f":{entry.path}" in said
    ]
    _refuse(problems)
    raise Refusal(f"exportfs does not take the exports: {said}", "exports_broken", _CURE)


def _exported(table: List[Dict[str, Any]], path: str) -> Dict[str, Any]:
    """By client, what a table says of a path. It has the place that links lead to."""
    real = os.path.realpath(path)
    return {row["client"]: exports.meaning(row["options"]) for row in table if row["path"] == real}


def _dropped(live: List[Dict[str, Any]], table: List[Dict[str, Any]], path: str) -> List[str]:
    kept = {(row["path"], row["client"]) for row in table}
    real = os.path.realpath(path)
    return [
        f"{row['path']} is exported to {row['client']} by no file: that ends when the files are read again"
        for row in live
        if row["path"] != real and (row["path"], row["client"]) not in kept
    ]


def _apply(module: Any, tool: Exportfs, before: Dict[str, bytes], after: Dict[str, bytes]) -> None:
    complaints = tool.apply()
    if not complaints:
        return
    files.replace(module, before=after, after=before)
    again = tool.apply()
    raise Refusal(
        f"exportfs has failed: {first_words(complaints)}; the files are as they were"
        + (f", and with them it fails as well: {first_words(again)}" if again else ", and so are the live exports"),
        "exports_failed",
        "look at what exportfs -ra and the journal of the host say",
    )


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
