# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images, journal and records on real files."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from ansible_collections.kvmops.migration.plugins.module_utils._migrate import local
from ansible_collections.kvmops.migration.plugins.module_utils._pure import certificates

UUID = "5ba1ab1e-0000-4000-8000-000000000001"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "STATE_DIRECTORY", str(tmp_path / "state"))

    def run_command(command):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    return local.Local(run_command)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a.qcow2"
    path.write_bytes(b"x" * 100)
    return str(path)


def left(here, path, **more):
    return {"path": path, "target": "vda", **(here.identity(path) or {}), **more}


def test_the_daemons_errors_are_asked_of_the_journal(monkeypatch):
    asked, answers = [], [0, 1]

    def run_command(command):
        asked.append(command)
        return answers.pop(0), journal, ""

    entries = [{"MESSAGE": "No route\nto host"}, {"MESSAGE": [255, 10]}, {"MESSAGE": "End of file"}]
    journal = "".join(json.dumps({"__REALTIME_TIMESTAMP": "1500000", **entry}) + "\n" for entry in entries)

    monkeypatch.setattr(local.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert local.Local(run_command).daemon_errors(1234.5) == [(1.5, "No route\nto host"), (1.5, "End of file")]
    assert local.Local(run_command).daemon_errors(1234.5) == []
    assert "--since=@1234.500" in asked[0]
    monkeypatch.setattr(local.shutil, "which", lambda name: None)
    assert local.Local(run_command).daemon_errors(1234.5) == []
    assert len(asked) == 2


def test_an_image_that_did_not_change_is_known_again(here, image):
    here.leave_behind(UUID, "a", [left(here, image)])
    (entry,) = here.journal()
    assert entry["state"] == "unchanged"
    assert (entry["uuid"], entry["name"], entry["path"], entry["locked"]) == (UUID, "a", image, False)


def test_an_image_is_known_again_after_a_reboot_has_numbered_the_devices_anew(here, image):
    entry = left(here, image)
    here.leave_behind(UUID, "a", [{**entry, "device": entry["device"] + 1}])
    assert here.journal()[0]["state"] == "unchanged"


def test_an_image_that_changed_is_seen_to_have(here, image):
    here.leave_behind(UUID, "a", [left(here, image)])
    with open(image, "ab") as stream:
        stream.write(b"y")
    assert here.journal()[0]["state"] == "changed"


def test_an_image_that_was_replaced_by_its_like_is_seen_to_have(here, image, tmp_path):
    here.leave_behind(UUID, "a", [left(here, image)])
    twin = tmp_path / "twin"
    twin.write_bytes(b"x" * 100)
    times = Path(image).stat()
    os.utime(twin, ns=(times.st_atime_ns, times.st_mtime_ns))
    twin.replace(image)
    assert here.journal()[0]["state"] == "changed"


def test_an_entry_without_an_identity_counts_as_changed(here, image):
    here.leave_behind(UUID, "a", [{"path": image, "target": "vda", "phase": "moving"}])
    assert here.journal()[0]["state"] == "changed"


def test_the_file_of_a_run_that_was_killed_is_unsettled_until_another_takes_its_place(here, image, tmp_path):
    known = {key: here.identity(image)[key] for key in ("inode", "device")}
    here.leave_behind(UUID, "a", [{"path": image, "target": "vda", "phase": "moving", **known}])
    Path(image).write_bytes(b"more")
    assert here.journal()[0]["state"] == "unsettled"
    twin = tmp_path / "twin"
    twin.write_bytes(b"more")
    twin.replace(image)
    assert here.journal()[0]["state"] == "changed"


def test_an_image_that_is_gone_is_said_to_be_and_dropped_at_the_next_entry(here, image, tmp_path):
    here.leave_behind(UUID, "a", [left(here, image)])
    Path(image).unlink()
    assert here.journal()[0]["state"] == "gone"
    other = tmp_path / "b.qcow2"
    other.write_bytes(b"")
    here.leave_behind(UUID, "a", [left(here, str(other))])
    assert [entry["path"] for entry in here.journal()] == [str(other)]


def test_an_image_that_is_left_again_has_one_entry(here, image):
    here.leave_behind(UUID, "a", [left(here, image, run="1")])
    here.leave_behind(UUID, "a", [left(here, image, run="2")])
    assert [entry["run"] for entry in here.journal()] == ["2"]


def test_what_was_not_left_after_all_is_forgotten(here, image, tmp_path):
    other = tmp_path / "b.qcow2"
    other.write_bytes(b"")
    here.leave_behind(UUID, "a", [left(here, image), left(here, str(other))])
    here.forget(UUID, [image])
    assert [entry["path"] for entry in here.journal()] == [str(other)]
    here.forget(UUID, [str(other)])
    here.forget(UUID, [str(other)])
    assert here.journal() == []
    assert list((tmp_path / "state" / "journal").iterdir()) == []


def test_a_lock_on_an_image_is_seen(here, image):
    assert not here.locked(image)
    # In a process of its own, as QEMU would be.
    script = (
        "import fcntl, sys; f = open(sys.argv[1], 'r+b'); fcntl.lockf(f, fcntl.LOCK_EX, 1, 100); "
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(["python3", "-c", script, image], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        assert here.locked(image)
        holder.communicate()
    assert not here.locked(image)
    assert not here.locked(image + ".gone")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"uuid": "../../etc", "name": "a", "images": []}',
        f'{{"uuid": "{UUID}", "name": "a", "images": [{{}}]}}',
        f'{{"uuid": "{UUID}", "name": "a", "images": [3]}}',
        f'{{"uuid": "{UUID}", "name": "a"}}',
    ],
)
def test_half_a_journal_stops_nobody(here, image, text, tmp_path):
    journal = tmp_path / "state" / "journal"
    journal.mkdir(parents=True)
    (journal / f"{UUID}.json").write_text(text)
    assert here.journal() == []
    here.leave_behind(UUID, "a", [left(here, image)])
    assert len(here.journal()) == 1


def test_only_root_reads_what_is_kept(here, image, tmp_path):
    here.leave_behind(UUID, "a", [left(here, image)])
    here.record_run("1-a", {"name": "a"})
    for path in (tmp_path / "state").rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_only_the_newest_records_are_kept(here, monkeypatch, tmp_path):
    monkeypatch.setattr(local, "KEPT_RUNS", 3)
    for number in range(5):
        here.record_run(f"{1000 + number}-x", {"number": number})
    runs = sorted((tmp_path / "state" / "runs").glob("*.json"))
    assert [json.loads(path.read_text())["number"] for path in runs] == [2, 3, 4]


def test_a_record_is_whole_or_not_there(here, monkeypatch, tmp_path):
    here.record_run("1-x", {"number": 1})
    with pytest.raises(TypeError):
        here.record_run("1-x", {"number": object()})
    assert json.loads((tmp_path / "state" / "runs" / "1-x.json").read_text()) == {"number": 1}
    assert len(list((tmp_path / "state" / "runs").iterdir())) == 1


class TestCertificates:
    @pytest.fixture
    def tree(self, tmp_path, monkeypatch):
        monkeypatch.setattr(certificates, "QEMU_CONF", str(tmp_path / "qemu.conf"))
        monkeypatch.setattr(certificates, "MIGRATION_DIRECTORY", str(tmp_path / "libvirt-migrate"))
        monkeypatch.setattr(certificates, "DEFAULT_DIRECTORY", str(tmp_path / "qemu"))
        (tmp_path / "qemu").mkdir()
        (tmp_path / "qemu" / "ca-cert.pem").touch()
        return tmp_path

    def test_the_default_directory_counts_where_nothing_else_is_said(self, here, tree):
        assert here.certificates() == {"directory": str(tree / "qemu"), "files": ["ca-cert.pem"], "verify": True}

    def test_the_directory_for_migration_comes_first(self, here, tree):
        (tree / "libvirt-migrate").mkdir()
        (tree / "libvirt-migrate" / "server-key.pem").touch()
        assert here.certificates()["files"] == ["server-key.pem"]

    def test_what_qemu_conf_names_counts(self, here, tree):
        (tree / "own").mkdir()
        (tree / "own" / "client-cert.pem").touch()
        (tree / "qemu.conf").write_text(f'migrate_tls_x509_cert_dir = "{tree}/own"\nmigrate_tls_x509_verify = 0\n')
        assert here.certificates() == {
            "directory": str(tree / "own"),
            "files": ["client-cert.pem"],
            "verify": False,
        }


def test_traffic_is_what_the_interfaces_count(tmp_path, monkeypatch):
    for name, counters in {"lan0": ("12\n", "34\n"), "lo": ("5\n", "5\n"), "odd0": ("", "1\n")}.items():
        folder = tmp_path / name / "statistics"
        folder.mkdir(parents=True)
        (folder / "tx_bytes").write_text(counters[0])
        (folder / "rx_bytes").write_text(counters[1])
    monkeypatch.setattr(local, "NETWORKS", str(tmp_path))
    assert local.Local(None).traffic() == {"lan0": (12, 34)}
    monkeypatch.setattr(local, "NETWORKS", str(tmp_path / "none"))
    assert local.Local(None).traffic() == {}
