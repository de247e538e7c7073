# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images on real files, looked at with the machine's qemu-img."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.kvmops.migration.plugins.module_utils._images import look
from ansible_collections.kvmops.migration.plugins.module_utils._pure import images
from ansible_collections.kvmops.migration.plugins.module_utils._pure.domain_xml import Layer

MIB = 1 << 20
# What a qcow2 image has before the format of the one below it.
BACKING_FORMAT = b"\xe2\x79\x2a\xca"
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

    return look.Images(run_command)


def qemu_img(*arguments):
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True)


@contextmanager
def using(path, *options):
    """While QEMU has an image open."""
    command = ["qemu-io", *options, "-f", "qcow2", path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as user:
        user.stdin.write("length\n")
        user.stdin.flush()
        assert "MiB" in user.stdout.readline()
        yield
        user.communicate("quit\n")


def told(chain):
    return [(image.path, image.format, image.state) for image in chain]


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
    used = base.stat().st_blocks * 512
    assert (two.virtual_size, two.size, two.allocated) == (10 * MIB, base.stat().st_size, used)
    assert (two.encrypted, two.dirty, two.corrupt, two.lock) == (False, False, False, "none")
    assert two.options["compression_type"] == "zstd"
    assert two.options["cluster_size"] == 65536


@needs_qemu_img
def test_a_guest_cannot_put_a_file_of_the_host_below_its_raw_disk(here, commands, tmp_path):
    """CVE-2008-2004: what a guest writes into its raw disk is content, also where it looks like another format."""
    secret, disk = tmp_path / "secret", tmp_path / "disk.img"
    secret.write_bytes(b"x" * MIB)
    qemu_img("create", "-f", "qcow2", "-b", secret, "-F", "raw", disk)
    assert told(here.chain(str(disk), "raw")) == [(str(disk), "raw", "ok")]
    assert commands == []
    size = disk.stat().st_size
    assert here.image(str(disk), "raw").virtual_size == -(-size // 512) * 512


@needs_qemu_img
def test_nor_below_one_of_undeclared_format(here, commands, tmp_path):
    base, top = tmp_path / "base", tmp_path / "top.qcow2"
    qemu_img("create", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", base)
    qemu_img("create", "-u", "-f", "qcow2", "-b", "base", "-F", "raw", top, "1M")
    assert told(here.chain(str(top), "qcow2"))[1:] == [(str(base), "raw", "ok")]
    # As older tools wrote it: without a word about what the base is.
    content = top.read_bytes()
    assert content.count(BACKING_FORMAT) == 1
    top.write_bytes(content.replace(BACKING_FORMAT, b"none"))
    one, two = here.chain(str(top), "qcow2")
    assert (one.backing_format, two.path, two.format, two.state) == ("", str(base), "", "undeclared")
    assert two.backing is None
    assert two.size == base.stat().st_size
    assert all("backing-chain" not in " ".join(command) for command in commands)


@needs_qemu_img
@pytest.mark.parametrize("size", [0, 1, 512, 1000, 65537])
def test_a_raw_image_has_the_size_that_qemu_sees(here, tmp_path, size):
    disk = tmp_path / "disk"
    disk.write_bytes(b"x" * size)
    command = ["qemu-img", "info", "-f", "raw", "--output=json", str(disk)]
    said = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    assert here.image(str(disk), "raw").virtual_size == images.described(images.Image(str(disk)), said).virtual_size


def test_a_sparse_image_takes_up_what_is_written(here, tmp_path):
    disk = tmp_path / "disk"
    disk.touch()
    os.truncate(disk, 1 << 30)
    image = here.image(str(disk), "raw")
    assert (image.virtual_size, image.size) == (1 << 30, 1 << 30)
    assert image.allocated < MIB


@needs_qemu_img
def test_what_libvirt_knows_to_be_below_counts_before_what_the_image_says(here, tmp_path):
    paths = {}
    for name in ("a", "b", "c"):
        paths[name] = tmp_path / name
        qemu_img("create", "-f", "qcow2", paths[name], "1M")
    qemu_img("rebase", "-u", "-b", "b", "-F", "qcow2", paths["a"])
    qemu_img("rebase", "-u", "-b", "a", "-F", "qcow2", paths["c"])
    top, layers = str(paths["a"]), [Layer("file", str(paths["c"]), "qcow2")]
    assert [image.path for image in here.chain(top, "qcow2", layers, ends=True)] == [top, str(paths["c"])]
    assert [image.path for image in here.chain(top, "qcow2", ends=True)] == [top]
    # It says only the first: then it is for that image to say, and this one leads back to the top.
    last = here.chain(top, "qcow2", layers)[-1]
    assert (last.path, last.state) == (top, "unreadable")
    assert "leads back" in last.problem


@needs_qemu_img
def test_a_name_leads_through_links_as_the_kernel_follows_it(here, tmp_path):
    real = tmp_path / "real" / "deep"
    real.mkdir(parents=True)
    (tmp_path / "link").symlink_to(real)
    qemu_img("create", "-f", "qcow2", tmp_path / "real" / "base", "1M")
    qemu_img("create", "-f", "qcow2", "-b", "../base", "-F", "qcow2", real / "top")
    _one, two = here.chain(str(tmp_path / "link" / "top"), "qcow2")
    assert (two.path, two.state) == (f"{tmp_path}/link/../base", "ok")


def test_a_chain_has_an_end_as_libvirts_have(tmp_path, monkeypatch):
    monkeypatch.setattr(look.shutil, "which", lambda name: f"/usr/bin/{name}")
    for number in range(images.DEEPEST + 2):
        (tmp_path / str(number)).touch()

    def run_command(command):
        below = int(command[-1].rpartition("/")[2]) + 1
        said = {"virtual-size": 1, "backing-filename": str(below), "backing-filename-format": "qcow2"}
        return 0, json.dumps(said), ""

    chain = look.Images(run_command).chain(str(tmp_path / "0"), "qcow2")
    assert len(chain) == images.DEEPEST
    assert (chain[-1].state, chain[-1].problem) == ("unreadable", "the chain does not end")
    assert chain[-2].state == "ok"


@needs_qemu_img
def test_an_image_that_is_not_there_ends_the_chain(here, tmp_path):
    top = tmp_path / "top"
    qemu_img("create", "-u", "-f", "qcow2", "-b", "gone.qcow2", "-F", "qcow2", top, "1M")
    gone = str(tmp_path / "gone.qcow2")
    assert told(here.chain(str(top), "qcow2")) == [(str(top), "qcow2", "ok"), (gone, "qcow2", "missing")]
    assert here.chain(gone, "qcow2")[0].problem == "No such file or directory"
    assert here.chain(str(top / "x"), "raw")[0].state == "missing"


@needs_qemu_img
def test_an_image_that_is_something_else_is_said_to_be(here, tmp_path):
    other = tmp_path / "other"
    other.write_bytes(b"no image" * 1000)
    (image,) = here.chain(str(other), "qcow2")
    assert (image.state, image.virtual_size, image.size) == ("unreadable", None, 8000)
    assert image.problem == f"Could not open '{other}': Image is not in qcow2 format"
    assert here.image(str(other), "nonsense").state == "unreadable"
    assert here.image(str(tmp_path), "raw").state == "unreadable"
    assert here.image("", "raw").state == "missing"
    assert here.image("/a\0b", "raw").state == "unreadable"


@needs_qemu_img
def test_an_image_that_may_not_be_read_is_denied(here, tmp_path):
    closed, image = tmp_path / "closed", tmp_path / "closed" / "image"
    closed.mkdir()
    qemu_img("create", "-f", "qcow2", image, "1M")
    closed.chmod(0)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
        (found,) = here.chain(str(image), "qcow2")
        assert (found.state, found.problem, found.lock) == ("denied", "Permission denied", None)
        assert here.usage(str(image)) is None
    finally:
        if root:
            os.seteuid(0)
        closed.chmod(stat.S_IRWXU)


def test_an_image_that_qemu_img_may_not_open_is_denied(tmp_path, monkeypatch):
    (tmp_path / "a").touch()
    monkeypatch.setattr(look.shutil, "which", lambda name: f"/usr/bin/{name}")
    problem = f"Could not open '{tmp_path}/a': Permission denied"
    here = look.Images(lambda command: (1, "", f"qemu-img: {problem}\n"))
    image = here.image(str(tmp_path / "a"), "qcow2")
    assert (image.state, image.problem) == ("denied", problem)


@pytest.mark.parametrize("output", ["", "{", "[]", "[1]", "{}", '{"virtual-size": "x"}'])
def test_half_an_answer_is_none(tmp_path, monkeypatch, output):
    (tmp_path / "a").touch()
    monkeypatch.setattr(look.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert look.Images(lambda command: (0, output, "")).image(str(tmp_path / "a"), "qcow2").state == "unreadable"


def create_encrypted(*arguments):
    """qemu-img measures how fast it is, by a clock that is too coarse for that on some machines: then it gives up."""
    for _turn in range(50):
        done = subprocess.run(["qemu-img", "create", *map(str, arguments)], capture_output=True, text=True, check=False)
        if "accurate CPU usage" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr


@needs_qemu_img
def test_encryption_is_seen_without_its_key(here, tmp_path):
    key = tmp_path / "key"
    key.write_text("secret")
    secret = ("--object", f"secret,id=k,file={key}")
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    options = "encrypt.format=luks,encrypt.key-secret=k,encrypt.iter-time=10"
    create_encrypted("-f", "qcow2", *secret, "-o", options, inner, "1M")
    create_encrypted("-f", "luks", *secret, "-o", "key-secret=k,iter-time=10", outer, "1M")
    one, two = here.image(str(inner), "qcow2"), here.image(str(outer), "luks")
    assert (one.state, one.encrypted, one.encryption, one.virtual_size) == ("ok", True, "luks", MIB)
    assert (two.state, two.encrypted, two.encryption, two.virtual_size) == ("ok", True, "luks", MIB)
    assert two.size > MIB


@needs_qemu_img
def test_a_data_file_is_found_beside_its_image(here, tmp_path):
    (tmp_path / "sub").mkdir()
    top = tmp_path / "sub" / "top"
    subprocess.run(
        ["qemu-img", "create", "-f", "qcow2", "-o", "data_file=data,data_file_raw=on", "top", "1M"],
        cwd=top.parent,
        check=True,
        capture_output=True,
    )
    image = here.image(str(top), "qcow2")
    assert (image.data_file, image.options["data_file_raw"]) == (str(top.parent / "data"), True)


@needs_qemu_img
def test_an_image_that_was_not_closed_is_dirty(here, tmp_path):
    top = tmp_path / "top"
    qemu_img("create", "-f", "qcow2", "-o", "lazy_refcounts=on", top, "1M")
    assert here.image(str(top), "qcow2").dirty is False
    with top.open("r+b") as stream:
        # The lowest of its incompatible features.
        stream.seek(79)
        stream.write(b"\1")
    assert here.image(str(top), "qcow2").dirty is True


@needs_qemu_img
def test_an_image_on_the_network_is_named_and_not_opened(here, commands, tmp_path):
    top = tmp_path / "top"
    qemu_img("create", "-u", "-f", "qcow2", "-b", "nbd://user:s3cret@host:10809/disk?token=1", "-F", "raw", top, "1M")
    one, two = here.chain(str(top), "qcow2")
    assert (two.path, two.kind, two.state) == ("nbd://host:10809/disk", "network", "remote")
    assert "s3cret" not in repr((one, two))
    assert len(commands) == 1


@pytest.fixture
def device(tmp_path):
    """A block device of 3 MiB."""
    store = tmp_path / "store"
    store.touch()
    os.truncate(store, 3 * MIB)
    made = subprocess.run(["losetup", "--find", "--show", str(store)], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no loop device here: {made.stderr.strip()}")
    yield made.stdout.strip()
    subprocess.run(["losetup", "--detach", made.stdout.strip()], check=True)


@needs_qemu_io
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("losetup"), reason="only root can make a block device")
def test_a_block_device_has_its_own_size(here, device):
    (raw,) = here.chain(device, "raw")
    assert (raw.kind, raw.state, raw.virtual_size, raw.size, raw.allocated) == ("block", "ok", *[3 * MIB] * 3)
    qemu_img("create", "-f", "qcow2", device, "9M")
    (image,) = here.chain(device, "qcow2")
    assert (image.kind, image.state, image.virtual_size, image.size, image.allocated) == (
        "block",
        "ok",
        9 * MIB,
        3 * MIB,
        3 * MIB,
    )
    # A guest has a node of its own, whose locks are not seen here.
    assert image.lock is None
    with using(device):
        assert here.lock(device) == "write"


@needs_qemu_img
@pytest.mark.parametrize("name", ["a b", "ü€", "a:b", "$HOME", "-f", "'\"", "a\nb", "json:{}", "%41", "*"])
def test_odd_names_are_names(here, tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    qemu_img("create", "-f", "qcow2", folder / "base", "1M")
    qemu_img("create", "-f", "qcow2", "-b", "base", "-F", "qcow2", folder / name)
    found = [(str(folder / name), "qcow2", "ok"), (str(folder / "base"), "qcow2", "ok")]
    assert told(here.chain(str(folder / name), "qcow2")) == found


def test_without_qemu_img_the_files_are_known_and_what_libvirt_says(tmp_path, monkeypatch):
    top, base = tmp_path / "top", tmp_path / "base"
    top.write_bytes(b"x" * 100)
    base.write_bytes(b"x" * 1000)
    monkeypatch.setenv("PATH", str(tmp_path))
    here = look.Images(lambda command: pytest.fail("there is nothing to run"))
    assert not here.has_tool
    one, two = here.chain(str(top), "qcow2", [Layer("file", str(base), "raw")], ends=True)
    assert (one.state, one.size, one.virtual_size, one.backing, one.lock) == ("unread", 100, None, None, "none")
    assert (two.state, two.size, two.virtual_size, two.backing) == ("ok", 1000, 1024, "")


def test_a_file_system_that_does_not_answer_is_not_waited_for(tmp_path, monkeypatch):
    never = threading.Event()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(look.os, "stat", lambda path: never.wait(30))
            patch.setattr(look.os.path, "realpath", lambda path: never.wait(30))
            here = look.Images(lambda command: pytest.fail("nothing is to be run"), patience=0.05)
            image = here.image("/vm/a", "qcow2")
            assert (image.state, image.size) == ("no_answer", None)
            assert image.problem == "/vm/a did not answer within 0.05 s"
            assert here.filesystem(str(tmp_path)).free is None
    finally:
        never.set()


def test_a_server_that_is_lost_before_an_image_was_read_is_not_waited_for(tmp_path, monkeypatch):
    top = tmp_path / "top"
    top.write_bytes(b"x" * 100)
    never = threading.Event()
    monkeypatch.setattr(look.Images, "has_tool", True)
    here = look.Images(lambda command: never.wait(30), patience=0.5)
    try:
        (image,) = here.chain(str(top), "qcow2")
        assert (image.state, image.size, image.virtual_size) == ("no_answer", 100, None)
        assert image.problem == f"{top} did not answer within 3 s"
    finally:
        never.set()


class TestLocks:
    @pytest.fixture
    def image(self, tmp_path):
        path = tmp_path / "image"
        subprocess.run(["qemu-img", "create", "-f", "qcow2", str(path), "1M"], check=True, capture_output=True)
        return str(path)

    @needs_qemu_io
    @pytest.mark.parametrize(("options", "lock"), [([], "write"), (["-r"], "read")])
    def test_what_qemu_does_with_an_image_is_seen(self, here, image, options, lock):
        assert here.lock(image) == "none"
        with using(image, *options):
            assert here.lock(image) == lock
            # And it can be looked at nevertheless.
            found = here.image(image, "qcow2")
            assert (found.state, found.lock, found.virtual_size) == ("ok", lock, MIB)
        assert here.lock(image) == "none"

    @needs_qemu_img
    def test_a_lock_of_another_kind_counts_as_reading(self, here, image):
        script = (
            "import fcntl, sys; f = open(sys.argv[1], 'r+b'); fcntl.lockf(f, fcntl.LOCK_EX, 1, 0); "
            "print('held', flush=True); sys.stdin.read()"
        )
        command = [sys.executable, "-c", script, image]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
            assert holder.stdout.readline() == b"held\n"
            assert here.lock(image) == "read"
            holder.communicate()

    def test_where_nothing_can_be_locked_nothing_is_known(self, here, tmp_path):
        assert here.lock(str(tmp_path)) is None
        assert here.lock(str(tmp_path / "gone")) is None


class TestFileSystems:
    @pytest.mark.parametrize("path", ["/", "/proc/self", "/dev/null", "/sys", "/dev/shm", "/usr/bin"])
    def test_it_is_the_one_that_the_kernel_says(self, here, path):
        assert kernels_mount(path) == here.filesystem(path).mount_point

    def test_a_path_that_is_not_there_would_be_on_that_of_its_directory(self, here, tmp_path):
        found = here.filesystem(str(tmp_path / "a" / "b"))
        # Others write to that disk meanwhile.
        assert replace(found, free=0) == replace(here.filesystem(str(tmp_path)), free=0)
        space = os.statvfs(tmp_path)
        assert found.total == space.f_blocks * space.f_frsize
        assert 0 <= found.free <= found.total

    def test_links_are_followed(self, here, tmp_path):
        (tmp_path / "link").symlink_to("/proc/self")
        assert here.filesystem(str(tmp_path / "link" / "maps")).fstype == "proc"

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
    def test_mounts_in_mounts_are_found(self, tmp_path):
        command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", MOUNTS, str(tmp_path)]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "five\n"


# In a mount namespace of its own: bind mounts, odd names, a file as mount point, mounts that are covered.
MOUNTS = r"""
import subprocess, sys
from pathlib import Path
import conftest
from ansible_collections.kvmops.migration.plugins.module_utils._images import look
from test_domblk_images import kernels_mount

def mount(*arguments):
    subprocess.run(["mount", *map(str, arguments)], check=True)

top = Path(sys.argv[1])
odd, bound, covered = top / "a b\\c\td é", top / "bound", top / "covered"
inner, deep = covered / "inner", odd / "in" / "deep"
for folder in (odd, bound, inner):
    folder.mkdir(parents=True)
mount("-t", "tmpfs", "one", odd)
deep.mkdir(parents=True)
(odd / "file").touch()
mount("--bind", odd / "in", bound)
mount("-t", "tmpfs", "two", deep)
(deep / "x").touch()
mount("--bind", odd / "file", deep / "x")
mount("-t", "tmpfs", "three", inner)
mount("-t", "tmpfs", "four", covered)
mount("-t", "tmpfs", "five", covered)
inner.mkdir()
here = look.Images(None)
there = [top, odd, odd / "in", deep, deep / "x", bound, bound / "deep", covered, inner]
for path in [*there, inner / "gone"]:
    found = here.filesystem(str(path))
    known = kernels_mount(str(path if path in there else path.parent), source=True)
    assert (found.mount_point, found.source) == known, (path, found, known)
print(found.source)
"""


def kernels_mount(path, source=False):
    """Mount point of an open file, by the number that the kernel gives it."""
    descriptor = os.open(path, os.O_PATH)
    try:
        told = Path(f"/proc/self/fdinfo/{descriptor}").read_text(encoding="ascii")
    finally:
        os.close(descriptor)
    number = int(told.partition("mnt_id:")[2].split()[0])
    mounts = images.mounts(Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape"))
    mount = next(mount for mount in mounts if mount.number == number)
    return (mount.point, mount.source) if source else mount.point
