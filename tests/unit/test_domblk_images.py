# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images on real files, looked at with the machine's qemu-img."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from ansible_collections.kvmops.migration.plugins.module_utils._domblk import info

MIB = 1 << 20
needs_qemu_img = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
needs_qemu_io = pytest.mark.skipif(shutil.which("qemu-io") is None, reason="qemu-io is not installed")


@pytest.fixture
def commands():
    return []


@pytest.fixture
def here(commands):
    def run_command(command):
        commands.append(command)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    return info.Images(run_command)


def qemu_img(*arguments):
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True)


@needs_qemu_img
def test_a_chain_is_told_from_the_top_down(here, tmp_path):
    base, top = tmp_path / "base.qcow2", tmp_path / "top image ü.qcow2"
    qemu_img("create", "-f", "qcow2", "-o", "compression_type=zstd", base, "10M")
    qemu_img("snapshot", "-c", "before", base)
    qemu_img("create", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", top)
    qemu_img("bitmap", "--add", top, "backup")
    one, two = here.chain(str(top), "qcow2")
    assert (one.path, one.format, one.kind, one.state, one.problem) == (str(top), "qcow2", "file", "ok", "")
    assert (one.backing, one.backing_format) == (str(base), "qcow2")
    assert (one.bitmaps, one.snapshots) == (("backup",), ())
    assert (two.path, two.format, two.state) == (str(base), "qcow2", "ok")
    assert (two.backing, two.backing_format, two.data_file) == ("", "", "")
    assert (two.snapshots, two.bitmaps) == (("before",), ())
    assert (two.virtual_size, two.size, two.allocated) == (
        10 * MIB,
        base.stat().st_size,
        base.stat().st_blocks * 512,
    )
    assert (two.encrypted, two.dirty, two.corrupt, two.lock) == (False, False, False, "none")
    assert two.options["compression_type"] == "zstd"
    assert two.options["cluster_size"] == 65536
