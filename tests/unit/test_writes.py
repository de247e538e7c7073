# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attempts to write as QEMU's user and as root, on real directories that are said to lie on NFS."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
import time
from pathlib import Path

import pytest

from ansible_collections.kvmops.migration.plugins.module_utils._migrate import trial, writes
from ansible_collections.kvmops.migration.plugins.module_utils._migrate.probe import VOLUME_PREFIX

UID = 47110
ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="only root becomes another user")


@pytest.fixture
def folder():
    """Where everybody may go; pytest's own is for its user alone."""
    made = Path(tempfile.mkdtemp(prefix="kvmops-writes-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def machine(folder, kind="nfs4", uid=UID):
    mounts = [{"path": "/", "type": "ext4"}, {"path": str(folder), "type": kind}]
    return {"qemu_user": {"name": "qemu", "uid": uid, "gid": uid}, "mounts": mounts}


@needs_root
@pytest.mark.parametrize(
    ("owner", "mode", "qemu"),
    [
        (UID, 0o700, {"look": "", "error": "", "owner": UID}),
        (0, 0o755, {"look": "", "error": "EACCES", "owner": None}),
        (0, 0o700, {"look": "EACCES", "error": "EACCES", "owner": None}),
    ],
)
def test_c2_55_both_users_try_and_leave_nothing(folder, owner, mode, qemu):
    os.chown(folder, owner, owner)
    folder.chmod(mode)
    found = writes.attempt([str(folder), f"{folder}/", "/etc", "relative"], machine(folder))
    assert found == {str(folder): {"qemu": qemu, "root": {"look": "", "error": "", "owner": 0}}}
    assert list(folder.iterdir()) == []


@needs_root
def test_a_directory_that_is_not_there_is_told(folder):
    found = writes.attempt([f"{folder}/gone"], machine(folder))[f"{folder}/gone"]
    assert {who: told["look"] for who, told in found.items()} == {"qemu": "ENOENT", "root": "ENOENT"}


@needs_root
def test_qemu_as_root_is_one_user(folder):
    found = writes.attempt([str(folder)], machine(folder, uid=0))[str(folder)]
    assert found["qemu"] == found["root"] == {"look": "", "error": "", "owner": 0}


@needs_root
def test_what_a_killed_attempt_has_left_is_removed_once_it_is_old(folder):
    old, young = (folder / f"{VOLUME_PREFIX}{int(time.time()) - age}-1-0" for age in (7200, 60))
    for one in (old, young, folder / "image"):
        one.touch()
    writes.attempt([str(folder)], machine(folder))
    assert sorted(folder.iterdir()) == sorted([young, folder / "image"])


@needs_root
def test_a_server_that_is_gone_costs_no_more_than_its_time(folder, monkeypatch):
    stuck = folder / "python"
    stuck.write_text("#!/bin/sh\nexec sleep 60\n")
    stuck.chmod(stat.S_IRWXU)
    monkeypatch.setattr(sys, "executable", str(stuck))
    monkeypatch.setattr(writes, "PATIENCE", 0.2)
    began = time.monotonic()
    assert writes.attempt([str(folder)], machine(folder)) == {str(folder): {"silent": True}}
    assert time.monotonic() - began < 5


@needs_root
def test_an_attempt_that_cannot_be_made_tells_nothing(folder, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert writes.attempt([str(folder)], machine(folder)) == {}


def test_nothing_is_tried_elsewhere_nor_by_others(folder, monkeypatch):
    assert writes.attempt([str(folder)], machine(folder, "ext4")) == {}
    assert writes.attempt([str(folder)], {**machine(folder), "qemu_user": {}}) == {}
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert writes.attempt([str(folder)], machine(folder)) == {}
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("call", ["open", "write"])
def test_what_the_server_says_is_told_by_its_name(tmp_path, monkeypatch, call):
    def fail(*_arguments):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(trial.os, call, fail)
    assert trial.write(str(tmp_path), "probe") == {"error": "EROFS", "owner": None}
    assert list(tmp_path.iterdir()) == []
