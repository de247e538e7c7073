# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""An exportfs with files and a table of its own, and the modules nfs_export and nfs_export_info run against it.

It reads files in the plainest way and takes them as nfs-utils 2.6.2 does: a broken line ends the file, other complaints
cost one client.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args

from ansible_collections.kvmops.migration.plugins.module_utils._exports import exportfs, files
from ansible_collections.kvmops.migration.plugins.modules import nfs_export, nfs_export_info

DEFAULTS = (
    "ro,sync,wdelay,hide,nocrossmnt,secure,root_squash,no_all_squash,no_subtree_check,anonuid=65534,anongid=65534"
)
KNOWN = re.compile(r"(no_)?(root|all)_squash|rw|ro|a?sync|(no_)?subtree_check|fsid=.*|anon[ug]id=\d+|crossmnt|sec=sys|")


class Server:
    """A directory in place of /etc and /var/lib/nfs, and the fake exportfs."""

    def __init__(self, tmp_path: Path, monkeypatch, capsys):
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.etc = tmp_path / "etc"
        self.state = tmp_path / "state"
        self.exports = self.etc / "exports"
        self.drop_ins = self.etc / "exports.d"
        for folder in (self.etc, self.state):
            folder.mkdir()
        self.vm = tmp_path / "vm"
        self.vm.mkdir()
        self.calls: list[str] = []
        self.warnings: list[str] = []
        self.installed = True
        self.can_mount = True
        # What the live exportfs says against everything, and whether it says so once only.
        self.fails = ""
        self.fails_once = False
        monkeypatch.setattr(files, "EXPORTS", str(self.exports))
        monkeypatch.setattr(files, "DROP_INS", str(self.drop_ins))
        monkeypatch.setattr(exportfs, "STATE", str(self.state))
        monkeypatch.setattr(AnsibleModule, "warn", lambda module, text: self.warnings.append(text))
        monkeypatch.setattr(AnsibleModule, "run_command", lambda module, command, **more: self._run(command))
        monkeypatch.setattr(
            AnsibleModule, "get_bin_path", lambda module, name, **more: f"/usr/sbin/{name}" if self.installed else None
        )

    # The programs

    def _run(self, command):
        if command == ["/usr/sbin/exportfs", "-ra"]:
            self.calls.append("live")
            if self.fails:
                said, self.fails = self.fails, "" if self.fails_once else self.fails
                return 1, "", f"exportfs: {said}\n"
            status, table, errors = self._read(self.exports, self.drop_ins)
            (self.state / "etab").write_bytes(table)
            return status, "", errors
        assert command[:6] == ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
        assert command[9:] == [str(self.etc), str(self.state), "/usr/sbin/exportfs"]
        self.calls.append("private")
        staging = Path(command[8])
        if not self.can_mount:
            return 1, "", "unshare: unshare failed: Operation not permitted\n"
        (staging / "ready").touch()
        if (staging / "each").is_dir():
            for each in sorted((staging / "each").iterdir()):
                status, _table, errors = self._read(each, staging / "none")
                each.with_name(f"{each.name}.errors").write_text(errors)
                if status:
                    each.with_name(f"{each.name}.failed").touch()
            return 0, "", ""
        status, table, errors = self._read(staging / "exports", staging / "exports.d")
        (staging / "etab").write_bytes(table)
        return status, "", errors

    def _read(self, exports, drop_ins):
        if not exports.exists():
            return 1, b"", f"exportfs: can't open {exports} for reading\n"
        status, rows, errors = 0, [], []
        for file in (exports, *(sorted(drop_ins.glob("*.exports")) if drop_ins.is_dir() else [])):
            text = file.read_bytes().decode("utf-8", "surrogateescape").replace("\\\n", " ")
            for line in text.splitlines():
                words = re.sub(r"(^|\s)#.*", "", line).split()
                path = re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), words[0]) if words else ""
                if words and not Path(path).exists():
                    errors.append(f"Failed to stat {path}: No such file or directory")
                    status = 1
                for word in words[1:]:
                    client, _bracket, options = word.rstrip(")").partition("(")
                    bad = [option for option in options.split(",") if not KNOWN.fullmatch(option)]
                    if bad:
                        # The wrong line, as it often is.
                        errors += [f'/etc/exports:99: unknown keyword "{bad[0]}"', ""]
                        status = 1
                        break
                    if client.endswith(".invalid"):
                        errors.append(f"Failed to resolve {client}")
                        continue
                    if "subtree_check" not in options:
                        said = "Neither 'subtree_check' or 'no_subtree_check' specified for export"
                        errors.append(f'/etc/exports [99]: {said} "{client}:{path}".')
                        errors.append("  Assuming default behaviour ('no_subtree_check').")
                    written = words[0].encode("utf-8", "surrogateescape")
                    rows.append(written + f"\t{client}({DEFAULTS},{options})\n".encode())
        return status, b"".join(rows), "".join(f"exportfs: {line}\n" if line else "\n" for line in errors)

    # The modules

    def export(self, check=False, diff=False, **options):
        given = {"path": str(self.vm), "file": str(self.exports), **options}
        return self._main(nfs_export, {**given, "_ansible_check_mode": check, "_ansible_diff": diff})

    def info(self):
        return self._main(nfs_export_info, {})

    def _main(self, module, arguments):
        self._capsys.readouterr()
        self.warnings = []
        with patch_module_args(arguments), pytest.raises(SystemExit) as end:
            module.main()
        result = json.loads(self._capsys.readouterr().out)
        result.setdefault("failed", False)
        assert (end.value.code != 0) == result["failed"]
        return SimpleNamespace(**result, warnings=self.warnings)
