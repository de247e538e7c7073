# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The data path of virt_domblk_copy, with real files and a real receiver at the end of a pipe."""

from __future__ import annotations

import fcntl
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.kvmops.migration.plugins.module_utils._images import receiver, stream
from ansible_collections.kvmops.migration.plugins.module_utils._images.stream import Image, Peer, StreamError, send

MIB = 1 << 20
RUN = "1700000000-abcd1234"
FAST = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def peer():
    with Peer.local() as one:
        yield one


def sparse(path: Path, size: int, parts) -> Path:
    """A file of that size with random bytes at each (offset, length)."""
    chance = random.Random(7)
    with path.open("wb") as file:
        file.truncate(size)
        for offset, length in parts:
            file.seek(offset)
            file.write(chance.randbytes(length))
    return path


def copied(peer: Peer, source: Path, target: Path, **options) -> stream.Sent:
    with Image(str(source)) as image:
        sent = send(image, peer, str(target), RUN, **options)
        peer.ask("commit", image=sent.image, mode=0o600, owner="", group="")
    return sent


def same(one: Path, other: Path) -> bool:
    return one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


extent = st.tuples(st.integers(0, 6 * MIB), st.integers(1, 300_000))


@FAST
@given(
    size=st.integers(0, 6 * MIB),
    parts=st.lists(extent, max_size=6),
    verify=st.booleans(),
    clear=st.booleans(),
)
def test_c7_108_c7_109_a_copy_is_equal_and_as_sparse(peer, tmp_path, size, parts, verify, clear):
    parts = [(offset, min(length, size - offset)) for offset, length in parts if offset < size]
    source, target = sparse(tmp_path / "source", size, parts), tmp_path / "target"
    target.unlink(missing_ok=True)
    sent = copied(peer, source, target, verify=verify, clear_address="127.0.0.1" if clear else "")
    assert same(source, target)
    assert allocated(target) <= allocated(source)
    assert sent.bytes_sent <= 1.02 * allocated(source) + 4096
    assert names(tmp_path) == ["source", "target"]


@FAST
@given(
    old=st.tuples(st.integers(0, 4 * MIB), st.lists(extent, max_size=4)),
    new=st.tuples(st.integers(0, 4 * MIB), st.lists(extent, max_size=4)),
    verify=st.booleans(),
)
def test_c7_109_an_update_makes_any_file_equal(peer, tmp_path, old, new, verify):
    for name, (size, parts) in (("target", old), ("source", new)):
        sparse(tmp_path / name, size, [(at, min(length, size - at)) for at, length in parts if at < size])
    copied(peer, tmp_path / "source", tmp_path / "target", update=True, verify=verify)
    assert same(tmp_path / "source", tmp_path / "target")
    assert names(tmp_path) == ["source", "target"]


def test_an_update_sends_what_has_changed(peer, tmp_path):
    parts = [(at * 3 * MIB, MIB) for at in range(16)]
    source, target = sparse(tmp_path / "source", 64 * MIB, parts), tmp_path / "target"
    whole = copied(peer, source, target)
    with source.open("r+b") as file:
        for at in range(0, 16, 2):
            file.seek(at * 3 * MIB + 8192)
            file.write(os.urandom(20_480))
    sent = copied(peer, source, target, update=True)
    assert same(source, target)
    assert sent.bytes_sent < 0.03 * whole.bytes_sent


def test_the_same_content_is_known_whatever_its_holes_are(peer, tmp_path):
    source = sparse(tmp_path / "source", 6 * MIB, [(MIB, 5000)])
    (tmp_path / "whole").write_bytes(source.read_bytes())
    other = sparse(tmp_path / "other", 6 * MIB, [(MIB, 4999)])
    with Image(str(source)) as image:
        assert stream.same(image, peer, str(tmp_path / "whole"))
        assert not stream.same(image, peer, str(other))


def test_zeros_are_not_sent_and_become_holes(peer, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(bytes(8 * MIB) + b"end")
    sent = copied(peer, source, target)
    assert same(source, target)
    assert sent.bytes_sent < 2 * MIB
    assert allocated(target) <= MIB


def test_what_the_source_no_longer_has_becomes_a_hole(peer, tmp_path):
    source = sparse(tmp_path / "source", 16 * MIB, [(0, 8192)])
    target = sparse(tmp_path / "target", 16 * MIB, [(0, 8192), (4 * MIB, 4 * MIB)])
    copied(peer, source, target, update=True)
    assert same(source, target)
    assert allocated(target) <= MIB


@pytest.mark.parametrize("name", ["with space", "Größe-Ж", "a'b\"c", "x" * 250])
def test_c7_110_any_name_will_do(peer, tmp_path, name):
    source = sparse(tmp_path / "source", MIB, [(0, 5000)])
    copied(peer, source, tmp_path / name)
    assert same(source, tmp_path / name)


def test_c7_110_a_link_leads_to_what_is_written(peer, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "image")
    source = sparse(tmp_path / "source", MIB, [(0, 5000)])
    copied(peer, source, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert same(source, tmp_path / "there" / "image")


@pytest.mark.parametrize("update", [False, True])
def test_c7_109_a_flipped_byte_in_the_temporary_file_is_found(peer, tmp_path, update):
    source, target = sparse(tmp_path / "source", 4 * MIB, [(0, 3 * MIB)]), tmp_path / "target"
    if update:
        sparse(target, 4 * MIB, [(0, 3 * MIB)])

    def flip() -> None:
        [part] = tmp_path.glob(".kvmops-*")
        with part.open("r+b") as file:
            file.seek(2 * MIB + 17)
            byte = file.read(1)[0]
            file.seek(2 * MIB + 17)
            file.write(bytes([byte ^ 1]))

    with Image(str(source)) as image, pytest.raises(StreamError, match="is not what was sent") as caught:
        send(image, peer, str(target), RUN, update=update, hold=flip)
    assert caught.value.kind == "differs"
    assert names(tmp_path) == ["source"]


@pytest.fixture
def expects_signals():
    before = signal.signal(signal.SIGIO, receiver.Lease.signalled)
    yield
    for lease in list(receiver.Lease.all):
        lease.let_go()
    signal.signal(signal.SIGIO, before)


@FAST
@given(old=st.integers(0, 3 * MIB), new=st.integers(1, 4 * MIB), seed=st.integers(0, 1 << 30), count=st.integers(0, 6))
def test_what_was_written_is_all_that_is_read_again(tmp_path, expects_signals, old, new, seed, count):
    chance = random.Random(seed)
    path = sparse(tmp_path / "image", old, [(at, min(70000, old - at)) for at in range(0, old, 700000)])
    with path.open("r+b", buffering=0) as file:
        tree = receiver.Tree(file.fileno(), min(old, new), receiver.SHA256)
        # From here to the end nobody else opens it: that would be seen.
        file.truncate(new)
        for _number in range(count):
            at = chance.randrange(new)
            data = chance.choice([chance.randbytes, bytes])(min(chance.choice([1, 4096, 200000]), new - at))
            tree.wrote(at, len(data))
            os.pwrite(file.fileno(), data, at)
        assert receiver.Lease.all
        found = tree.read_back(new, lambda _count: None)
        assert not receiver.Lease.all
        assert found == receiver.block_list(file.fileno(), new, receiver.SHA256, kept={})


@pytest.mark.parametrize("opened", [False, True])
def test_all_of_it_is_read_again_only_if_somebody_else_has_opened_it(tmp_path, expects_signals, opened):
    path = sparse(tmp_path / "image", 2 * MIB, [(0, 2 * MIB)])
    with path.open("r+b", buffering=0) as file:
        tree = receiver.Tree(file.fileno(), 2 * MIB, receiver.SHA256)
        if opened:
            path.read_bytes()
        os.pwrite(file.fileno(), b"not told", MIB)
        assert (tree.read_back(2 * MIB, lambda _count: None) != tree.blocks) == opened


def test_an_update_that_fails_before_it_writes_leaves_the_file_as_it_was(tmp_path):
    source = sparse(tmp_path / "source", 2 * MIB, [(0, MIB)])
    target = sparse(tmp_path / "target", 5 * MIB, [(MIB, MIB), (4 * MIB, MIB)])
    before = target.read_bytes()
    with Peer.local() as peer:
        peer.ask("prepare", path=str(target), run=RUN, size=2 * MIB, update=True)
        assert "target" not in names(tmp_path) or len(names(tmp_path)) == 3
    assert names(tmp_path) == ["source", "target"]
    assert target.read_bytes() == before
    assert source.exists()


@pytest.mark.parametrize("clear", [False, True])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_c7_111_a_killed_sender_leaves_nothing(tmp_path, number, clear):
    source = sparse(tmp_path / "source", 64 * MIB, [(0, 64 * MIB)])
    script = (
        "import sys; from ansible_collections.kvmops.migration.plugins.module_utils._images.stream import *\n"
        "peer = Peer.local(); image = Image(sys.argv[1])\n"
        f"send(image, peer, sys.argv[2], {RUN!r}, bandwidth=4 << 20, clear_address=sys.argv[3],"
        " progress=lambda count: print(count, flush=True))"
    )
    address = "127.0.0.1" if clear else ""
    command = [sys.executable, "-c", script, str(source), str(tmp_path / "target"), address]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ) as child:
        assert child.stdout.readline()
        assert len(names(tmp_path)) == 2
        child.send_signal(number)
        child.wait()
    wait_until(lambda: names(tmp_path) == ["source"])


def test_c7_111_a_killed_receiver_is_noticed_and_the_next_run_clears_up(tmp_path):
    source, target = sparse(tmp_path / "source", 16 * MIB, [(0, 16 * MIB)]), tmp_path / "target"
    with Peer.local() as peer, Image(str(source)) as image:

        def kill(_count: int) -> None:
            peer._process.kill()

        with pytest.raises(StreamError) as caught:
            send(image, peer, str(target), RUN, progress=kill)
    assert caught.value.kind == "gone"
    assert "target" not in names(tmp_path)
    assert len(names(tmp_path)) == 2
    with Peer.local() as peer:
        assert peer.ask("remove_part", path=str(target), run=RUN) == {"removed": True}
    assert names(tmp_path) == ["source"]


class Enough(Exception):
    pass


@pytest.mark.parametrize("clear", ["", "127.0.0.1"])
def test_a_copy_that_is_given_up_leaves_nothing_and_the_receiver_goes_on(peer, tmp_path, clear):
    source, target = sparse(tmp_path / "source", 16 * MIB, [(0, 16 * MIB)]), tmp_path / "target"

    def enough(count: int) -> None:
        if count > 4 * MIB:
            raise Enough

    with Image(str(source)) as image, pytest.raises(Enough):
        send(image, peer, str(target), RUN, progress=enough, clear_address=clear)
    assert names(tmp_path) == ["source"]
    copied(peer, source, target)
    assert same(source, target)


@pytest.mark.parametrize("clear", ["", "127.0.0.1"])
def test_c7_111_a_full_disk_is_said_and_leaves_nothing(peer, tmp_path, clear):
    source, small = sparse(tmp_path / "source", 32 * MIB, [(0, 32 * MIB)]), tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(small)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")
    try:
        with Image(str(source)) as image, pytest.raises(StreamError, match="No space left on device") as caught:
            send(image, peer, str(small / "target"), RUN, clear_address=clear)
        assert caught.value.kind == "ENOSPC"
        assert names(small) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize("clear", ["", "127.0.0.1"])
def test_a_size_that_no_file_may_have_is_said_and_leaves_nothing(tmp_path, clear):
    source, target = sparse(tmp_path / "source", 32 * MIB, [(0, 32 * MIB)]), tmp_path / "target"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8 * MIB, limit[1]))
    try:
        peer = Peer.local()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    with peer, Image(str(source)) as image, pytest.raises(StreamError, match="File too large") as caught:
        send(image, peer, str(target), RUN, clear_address=clear)
    assert caught.value.kind == "EFBIG"
    assert names(tmp_path) == ["source"]


@pytest.mark.parametrize("said", ["Welcome!", "42", "null", "[[1, 2]]"])
def test_what_a_login_says_first_is_passed_over(said):
    script = f"echo '{said}'; echo; exec {sys.executable} -c \"$1\""
    with Peer(["sh", "-c", script, "sh", stream.BOOT], "there") as peer:
        assert peer.ask("stat", path="/")["type"] == "directory"


@pytest.mark.parametrize("script", ["echo 'there is no python3' >&2; exit 127", "exit 1", "cat >/dev/null", "exec yes"])
def test_a_host_that_cannot_receive_is_said(monkeypatch, script):
    monkeypatch.setattr(stream, "GREETING", 0.5)
    monkeypatch.setattr(stream, "GOODBYE", 0.5)
    with pytest.raises(StreamError) as caught:
        Peer(["sh", "-c", script], "there")
    assert caught.value.kind == "gone"
    said = str(caught.value)
    assert "no python3" in said or "status 1" in said or "silent" in said or "other things" in said, said


def test_the_way_to_a_host():
    command = stream.Login("10.0.0.2", "admin", 2222, "/root/key", "kvm2").command(10)
    assert command[-2] == "10.0.0.2"
    for option in (
        "-oPort=2222",
        "-oIdentityFile=/root/key",
        "-oUser=admin",
        "-oHostKeyAlias=[kvm2]:2222",
        "-oBatchMode=yes",
    ):
        assert option in command
    assert "exec sudo -n $p" in command[-1]
    # It runs what it is given, and nothing else.
    plain = stream.Login("kvm2").command(10)[-1].replace("exec $p", f"exec {sys.executable}")
    with Peer(["sh", "-c", plain], "kvm2") as peer:
        assert peer.ask("stat", path="/")["type"] == "directory"


@pytest.mark.parametrize("port", [0, 22])
def test_the_key_of_a_host_at_the_usual_port_has_its_plain_name(port):
    assert "-oHostKeyAlias=kvm2" in stream.Login("10.0.0.2", port=port, known_as="kvm2").command(10)


def test_two_copies_do_not_count_on_the_same_space(tmp_path):
    small, notes = tmp_path / "small", str(tmp_path / "notes")
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(small)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")
    try:
        with Peer.local() as second:
            with Peer.local() as first:
                assert first.ask("reserve", needs={f"{small}/a": 5 * MIB}, run=RUN, folder=notes) == {"missing": []}
                [missing] = second.ask("reserve", needs={f"{small}/b": 5 * MIB}, run=RUN, folder=notes)["missing"]
                assert missing == {"directory": str(small), "free": 3 * MIB, "need": 5 * MIB}
            # What was promised to one that has gone is free again.
            assert second.ask("reserve", needs={f"{small}/b": 5 * MIB}, run=RUN, folder=notes) == {"missing": []}
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_second_receiver_does_not_touch_what_the_first_one_writes(peer, tmp_path):
    target = tmp_path / "target"
    first = peer.ask("prepare", path=str(target), run=RUN, size=MIB, update=False)
    with Peer.local() as second, pytest.raises(StreamError, match="in use"):
        second.ask("prepare", path=str(target), run=RUN, size=MIB, update=False)
    peer.ask("discard", image=first["image"])
    assert names(tmp_path) == []


def test_what_appears_meanwhile_is_not_overwritten(peer, tmp_path):
    source, target = sparse(tmp_path / "source", MIB, [(0, 5000)]), tmp_path / "target"
    with Image(str(source)) as image:
        sent = send(image, peer, str(target), RUN)
        target.write_text("mine")
        with pytest.raises(StreamError, match="appeared") as caught:
            peer.ask("commit", image=sent.image, mode=0o600, owner="", group="")
    assert caught.value.kind == "foreign"
    peer.ask("discard", image=sent.image)
    assert target.read_text() == "mine"
    assert names(tmp_path) == ["source", "target"]


def test_only_the_file_that_is_known_is_removed(peer, tmp_path):
    source, target = sparse(tmp_path / "source", MIB, [(0, 5000)]), tmp_path / "target"
    with Image(str(source)) as image:
        sent = send(image, peer, str(target), RUN)
        peer.ask("commit", image=sent.image, mode=0o640, owner="", group="")
    assert target.stat().st_mode & 0o777 == 0o640
    assert not peer.ask("remove", path=str(target), known={**sent.known, "size": 1})["removed"]
    assert peer.ask("remove", path=str(target), known=sent.known)["removed"]
    assert names(tmp_path) == ["source"]


def test_no_sign_of_life_gets_between_the_frames_and_the_commands(tmp_path, monkeypatch):
    monkeypatch.setattr(receiver, "SIGN_OF_LIFE", 0.0001)
    source = sparse(tmp_path / "source", MIB, [(0, 5000)])
    with Peer.local() as busy:
        for _number in range(100):
            copied(busy, source, tmp_path / "target")
            assert same(source, tmp_path / "target")


def test_a_file_with_another_name_is_not_written_into(peer, tmp_path):
    source, target = (sparse(tmp_path / name, MIB, [(0, length)]) for name, length in (("source", 9), ("target", 5)))
    kept = target.read_bytes()
    os.link(target, tmp_path / "snapshot")
    copied(peer, source, target, update=True)
    assert same(source, target)
    assert (tmp_path / "snapshot").read_bytes() == kept
    assert names(tmp_path) == ["snapshot", "source", "target"]


def test_what_a_link_led_to_is_removed_again(peer, tmp_path):
    source, link = sparse(tmp_path / "source", MIB, [(0, 9)]), tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    sent = copied(peer, source, link)
    assert peer.ask("remove", path=str(link), known=sent.known)["removed"]
    assert names(tmp_path) == ["link", "source"]


@pytest.fixture
def device(tmp_path):
    """A block device of 8 MiB that holds something at both ends."""
    backing = sparse(tmp_path / "backing", 8 * MIB, [])
    made = subprocess.run(["losetup", "--find", "--show", str(backing)], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no loop device here: {made.stderr.strip()}")
    yield Path(made.stdout.strip())
    subprocess.run(["losetup", "--detach", made.stdout.strip()], check=True)


@pytest.mark.parametrize("offset", [0, 4 * MIB, 8 * MIB - 512])
def test_a_device_with_a_byte_anywhere_is_not_blank(peer, device, offset):
    assert peer.ask("stat", path=str(device))["blank"]
    with device.open("r+b") as file:
        file.seek(offset)
        file.write(b"x")
    assert not peer.ask("stat", path=str(device))["blank"]


def test_what_was_written_to_a_device_is_wiped_and_the_device_stays(peer, tmp_path, device):
    source = sparse(tmp_path / "source", 8 * MIB, [(0, MIB), (3 * MIB, MIB), (7 * MIB, MIB)])
    with Image(str(source)) as image:
        sent = send(image, peer, str(device), RUN)
        peer.ask("discard", image=sent.image)
        assert peer.ask("stat", path=str(device))["blank"]
        sent = send(image, peer, str(device), RUN)
        peer.ask("commit", image=sent.image, mode=0o600, owner="", group="")
    assert peer.ask("remove", path=str(device), known=sent.known)["removed"]
    assert device.is_block_device()
    assert peer.ask("stat", path=str(device))["blank"]
    assert not peer.ask("remove", path=str(device), known=sent.known)["removed"]


@pytest.mark.parametrize("far", [4096, MIB, 8 * MIB])
def test_c7_111_what_a_killed_receiver_began_to_write_to_a_device_is_known(peer, tmp_path, device, far):
    source = sparse(tmp_path / "source", 8 * MIB, [(0, 8 * MIB)])
    noted = []
    with Peer.local() as dying, Image(str(source)) as image:

        def kill(_count: int) -> None:
            dying._process.kill()

        with pytest.raises(StreamError):
            send(image, dying, str(device), RUN, progress=kill, begins=noted.append)
    [begun] = noted
    with device.open("r+b") as file:
        # However far it has come.
        file.write(source.read_bytes()[:far])
    assert not peer.ask("stat", path=str(device))["blank"]
    other = {**begun, "slices": "A" * len(begun["slices"])}
    assert "other" in peer.ask("remove", path=str(device), known={}, begun=other)
    assert not peer.ask("stat", path=str(device))["blank"]
    assert peer.ask("remove", path=str(device), known={}, begun=begun) == {"removed": True}
    assert peer.ask("stat", path=str(device))["blank"]


def test_what_somebody_else_has_written_to_a_device_since_then_stays(peer, tmp_path, device):
    source = sparse(tmp_path / "source", 8 * MIB, [(0, 8 * MIB)])
    noted = []
    with Image(str(source)) as image:
        sent = send(image, peer, str(device), RUN, begins=noted.append)
        peer.ask("commit", image=sent.image, mode=0o600, owner="", group="")
    with device.open("r+b") as file:
        file.seek(8 * MIB - 512)
        file.write(b"mine")
    assert "other" in peer.ask("remove", path=str(device), known={}, begun=noted[0])
    with device.open("rb") as file:
        assert file.read(MIB) == source.read_bytes()[:MIB]


def test_a_file_is_known_after_a_reboot_has_numbered_the_devices_anew(peer, tmp_path):
    source, target = sparse(tmp_path / "source", MIB, [(0, 5000)]), tmp_path / "target"
    known = copied(peer, source, target).known
    known["device"] += 1
    assert peer.ask("remove", path=str(target), known=known) == {"removed": True}
    # Of what a running VM writes to, nothing but its number is known.
    known = {key: value for key, value in copied(peer, source, target).known.items() if key in ("inode", "device")}
    assert receiver.is_same(receiver.identity(target.stat()), known)
    assert not receiver.is_same(receiver.identity(target.stat()), {**known, "device": known["device"] + 1})


def test_the_receiver_listens_where_the_sender_will_connect(peer, tmp_path, monkeypatch):
    known = socket.getaddrinfo

    def look_up(host, *more, **options):
        # The receiver is another process: for that one its own name is often an address of its loopback.
        return known("127.0.0.1" if host == "kvm2.invalid" else host, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    source = sparse(tmp_path / "source", MIB, [(0, 9)])
    copied(peer, source, tmp_path / "target", clear_address="kvm2.invalid")
    assert same(source, tmp_path / "target")


def test_each_end_has_a_zone_of_its_own_for_an_address(tmp_path, monkeypatch):
    table = tmp_path / "if_inet6"
    table.write_text(
        "00000000000000000000000000000001 01 80 10 80       lo\nfe8000000000000000000000000000a1 02 40 20 80     br0\n"
    )
    assert receiver.own_zone("fe80::a1%eth0", str(table)) == "fe80::a1%br0"
    assert receiver.own_zone("fe80::a2%eth0", str(table)) == "fe80::a2"
    assert receiver.own_zone("fd00::2", str(table)) == "fd00::2"
    assert receiver.own_zone("kvm2.invalid", str(table)) == "kvm2.invalid"
    found = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::a1", 49152, 0, 1))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_more, **_options: found)
    assert stream._Sending._resolved(None, "fe80::a1%lo") == "fe80::a1%lo"


def test_an_address_that_nobody_knows_is_said(peer, tmp_path):
    source = sparse(tmp_path / "source", MIB, [(0, 9)])
    with Image(str(source)) as image, pytest.raises(StreamError) as caught:
        send(image, peer, str(tmp_path / "target"), RUN, clear_address="nowhere.invalid")
    assert caught.value.kind == "unreachable"
    assert names(tmp_path) == ["source"]


def test_a_host_without_qemu_img_is_said(tmp_path, monkeypatch):
    source = sparse(tmp_path / "source", MIB, [(0, 9)])
    monkeypatch.setenv("PATH", str(tmp_path))
    with Peer.local() as bare, Image(str(source)) as image:
        sent = send(image, bare, str(tmp_path / "target"), RUN)
        with pytest.raises(StreamError) as caught:
            bare.ask("rebase", image=sent.image, backing="/vm/base", kind="raw")
        assert caught.value.kind == "not_installed"
    assert names(tmp_path) == ["source"]


@pytest.mark.parametrize("clear", [False, True])
def test_a_receiver_that_stands_still_is_noticed(tmp_path, monkeypatch, clear):
    source = sparse(tmp_path / "source", 64 * MIB, [(0, 64 * MIB)])
    monkeypatch.setattr(receiver, "SIGN_OF_LIFE", 0.2)
    peer = Peer.local()
    process = peer._process

    def stop(count):
        if count >= 8 * MIB:
            os.kill(process.pid, signal.SIGSTOP)
            peer.silence = 1.0

    killer = threading.Timer(30.0, process.kill)
    killer.start()
    monkeypatch.setattr(stream, "GOODBYE", 0.5)
    try:
        with Image(str(source)) as image, pytest.raises(StreamError) as caught:
            address = "127.0.0.1" if clear else ""
            send(image, peer, str(tmp_path / "target"), RUN, clear_address=address, progress=stop)
        assert caught.value.kind == "gone"
        assert "silent" in str(caught.value)
        assert killer.is_alive()
    finally:
        killer.cancel()
        peer.close()


def test_the_bandwidth_is_kept(peer, tmp_path):
    source = sparse(tmp_path / "source", 8 * MIB, [(0, 8 * MIB)])
    began = time.monotonic()
    copied(peer, source, tmp_path / "target", bandwidth=8 * MIB)
    assert time.monotonic() - began >= 0.9


@pytest.mark.parametrize(("byte", "kind"), [(101, fcntl.F_WRLCK), (200, fcntl.F_WRLCK), (201, fcntl.F_WRLCK)])
def test_an_image_that_somebody_writes_to_is_refused(tmp_path, byte, kind):
    path = sparse(tmp_path / "source", MIB, [(0, 5000)])
    with path.open("r+b") as file:
        assert receiver.lock(file.fileno(), kind, byte, 1)
        with pytest.raises(StreamError, match="in use"):
            Image(str(path))
    Image(str(path)).close()


def test_two_may_read_an_image_and_nobody_may_write(tmp_path):
    path = sparse(tmp_path / "source", MIB, [(0, 5000)])
    with Image(str(path)), Image(str(path)), path.open("r+b") as file:
        # What QEMU does to get the permission to write: it looks whether somebody denies it.
        assert not receiver.lock(file.fileno(), fcntl.F_WRLCK, 201, 1)


def test_whoever_does_not_know_the_token_is_turned_away(peer, tmp_path):
    source, target = sparse(tmp_path / "source", 4 * MIB, [(0, 4 * MIB)]), tmp_path / "target"
    listened = threading.Event()
    real = peer.ask

    def ask(do, **arguments):
        told = real(do, **arguments)
        if do == "listen":
            stranger = socket.create_connection(("127.0.0.1", told["port"]))
            stranger.sendall(b"0" * 32)
            listened.stranger = stranger
            listened.set()
        return told

    peer.ask = ask
    try:
        with Image(str(source)) as image:
            sent = send(image, peer, str(target), RUN, clear_address="127.0.0.1")
            peer.ask("commit", image=sent.image, mode=0o600, owner="", group="")
    finally:
        del peer.ask
    assert listened.is_set()
    assert listened.stranger.recv(1) == b""
    listened.stranger.close()
    assert same(source, target)


def test_c7_107_c7_110_a_device_gets_the_content_and_nothing_of_before(peer, tmp_path):
    backing = tmp_path / "backing"
    sparse(backing, 8 * MIB, [(0, 8 * MIB)])
    made = subprocess.run(["losetup", "--find", "--show", str(backing)], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no loop device here: {made.stderr.strip()}")
    device = made.stdout.strip()
    try:
        source = sparse(tmp_path / "source", 6 * MIB, [(MIB, 100_000), (4 * MIB, MIB)])
        copied(peer, source, Path(device))
        with open(device, "rb") as file:
            assert file.read(6 * MIB) == source.read_bytes()
        with Image(device) as image:
            sent = send(image, peer, str(tmp_path / "back"), RUN)
            peer.ask("commit", image=sent.image, mode=0o600, owner="", group="")
        assert (tmp_path / "back").stat().st_size == 8 * MIB
        with Image(str(tmp_path / "back")) as large, pytest.raises(StreamError) as caught:
            os.truncate(backing, 4 * MIB)
            subprocess.run(["losetup", "--set-capacity", device], check=True)
            send(large, peer, device, RUN)
        assert caught.value.kind == "too_small"
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def wait_until(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_long_line_is_read_in_time_that_grows_with_its_length():
    """A block list of an image of 16 TiB is such a line, and a pipe gives it in parts of 64 KiB."""
    part, count = b"x" * 65536, 4096
    lines = receiver.Lines()
    began = time.process_time()
    for _number in range(count):
        lines.put(part)
        assert lines.take() is None
    lines.put(b"\nnext\nre")
    assert len(lines.take()) == count * len(part)
    assert time.process_time() - began < 5.0
    assert lines.take() == b"next"
    assert lines.take() is None
    lines.put(b"st\n")
    assert lines.take() == b"rest"


@pytest.mark.parametrize(
    ("conf", "known", "here", "said"),
    [
        ("", "tss", "", ("", "")),
        ("", "daemon", "", ("daemon", "daemon")),
        ("", "tss", "bin", ("bin", "bin")),
        ('swtpm_user = "bin"\nswtpm_group = "daemon"  # as here', "daemon", "", ("bin", "daemon")),
        ('#swtpm_user = "bin"', "daemon", "", ("daemon", "daemon")),
        ('swtpm_user = "nobody-of-here"', "", "bin", ("bin", "bin")),
    ],
)
def test_the_state_of_a_tpm_belongs_to_whom_libvirt_lets_it_run_as(tmp_path, monkeypatch, conf, known, here, said):
    monkeypatch.setattr(receiver, "SWTPM_USERS", (here,))
    # Whoever is on this machine.
    monkeypatch.setattr(receiver.pwd, "getpwnam", pick(receiver.pwd.getpwnam))
    monkeypatch.setattr(receiver.grp, "getgrnam", pick(receiver.grp.getgrnam))
    (tmp_path / "qemu.conf").write_text(conf)
    told = receiver.Receiver(0, 1).do_tpm_owner(known, known, str(tmp_path / "qemu.conf"))
    assert (told["owner"], told["group"]) == said


def pick(look_up):
    def known(name):
        if name not in ("root", "daemon", "bin"):
            raise KeyError(name)
        return look_up(name)

    return known


def test_no_file_becomes_roots_because_its_owner_is_not_there(peer, tmp_path):
    source = sparse(tmp_path / "source", MIB, [(0, 9)])
    with Image(str(source)) as image:
        sent = send(image, peer, str(tmp_path / "target"), RUN)
        with pytest.raises(StreamError, match="there is no user nobody-of-here") as caught:
            peer.ask("commit", image=sent.image, mode=0o600, owner="nobody-of-here", group="")
    assert caught.value.kind == "no_user"
    peer.ask("discard", image=sent.image)
    assert names(tmp_path) == ["source"]
