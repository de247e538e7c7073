# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that move: to another directory under a running guest and under one that is shut off, and to another host."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lab import faults

from .conftest import Run, ansible
from .engine import HYPERVISORS, LOCAL, Call, Guest, other, virt_domblk_copy, virt_migrate, wait_for, without_records
from .extent import chosen
from .test_engine_guest import TPM, VARIABLES, digest, small
from .test_engine_killed import comes_to, held, nothing_is_left

pytestmark = pytest.mark.usefixtures("mended", "elsewhere")

FIRM = Guest("firm", "/vm/firm.qcow2", shared=False)
ELSEWHERE = "/vmdata"
STOPPED = "shut off, persistent"


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[None]:
    """A second directory for images on both hosts."""
    for host in HYPERVISORS:
        faults.must(host, "sh", "-c", f"mkdir -p {ELSEWHERE}; rm -rf {ELSEWHERE}/*")
    yield
    for host in HYPERVISORS:
        faults.inside(host, "rm", "-rf", ELSEWHERE)


def images(host: str, guest: str = LOCAL.name) -> dict[str, list[str]]:
    """The sources of a guest's disks: what it uses, and what its definition says."""
    found = {}
    for name, options in (("live", ()), ("defined", ("--inactive",))):
        rows = faults.must(host, "virsh", "domblklist", guest, *options).splitlines()[2:]
        found[name] = [row.split(maxsplit=1)[1].strip() for row in rows if row.strip()]
    return found


def listing(host: str, *folders: str) -> list[str]:
    return faults.inside(host, "find", *folders, "-type", "f").stdout.split("\n")[:-1]


def allocated(host: str, path: str) -> int:
    return int(faults.must(host, "stat", "-c", "%b", path)) * 512


def at_home(shape: str = "running, persistent") -> str:
    """LOCAL in that shape, with its image where it was in the beginning and nowhere else."""
    host = LOCAL.bring(shape=shape)
    for name in HYPERVISORS:
        faults.inside(name, "sh", "-c", f"rm -rf {ELSEWHERE}/* {ELSEWHERE}/.kvmops*")
    assert images(host)["defined"] == [LOCAL.image]
    return host


def quiet(host: str) -> None:
    """No process, port or note of a copy is left."""
    said = faults.inside(host, "sh", "-c", "pgrep -af 'os[.]read.0,n-len|[q]emu-nbd'; ss -Hltn | grep -E ':491[5-9]'")
    assert said.stdout == "", said.stdout
    assert listing(host, "/run/kvmops-migration/space") == []


# --- on the same host


def test_c7_110_a_guest_that_is_shut_off_finds_its_disk_at_the_new_place():
    host = at_home(STOPPED)
    answer = virt_domblk_copy(host, name=LOCAL.name, dest_dir=ELSEWHERE).ok()
    image = f"{ELSEWHERE}/centos64-32bit.qcow2"
    assert answer["outcome"] == "copied"
    assert answer["left_behind"] == [{"host": host, "target": "vda", "path": LOCAL.image}]
    assert images(host)["defined"] == [image]
    assert digest(host, image) == digest(host, LOCAL.image)
    again = virt_domblk_copy(host, name=LOCAL.name, dest_dir=ELSEWHERE).ok()
    assert (again["changed"], again["outcome"]) == (False, "already_there")
    LOCAL.boot(host)
    LOCAL.virsh(host, "destroy")
    # Back home, where an old copy is in the way; and by the playbook.
    said = virt_domblk_copy(host, name=LOCAL.name, dest_dir="/vm").failed("dest_image_exists", outcome="refused")
    assert "force: true" in said["cure"]
    options = '{"migrate_copy_options": {"force": true, "remove_source": true}}'
    arguments = ("relocate.yml", "-e", f"vm={LOCAL.name}", "-e", "dest_dir=/vm", "-e", options)
    run = ansible("ansible-playbook", *arguments)
    assert (run.rc, run.changed) == (0, 1), run.out
    assert f"vda: {ELSEWHERE}/centos64-32bit.qcow2 -> {LOCAL.image}" in run.out
    assert "WARNING" not in run.out
    assert listing(host, ELSEWHERE) == []
    run = ansible("ansible-playbook", *arguments)
    assert (run.rc, run.changed) == (0, 0), run.out
    LOCAL.boot(host)
    quiet(host)


def test_c7_110_c7_115_a_guest_that_writes_goes_on_with_its_disk_at_the_new_place():
    host = at_home()
    image = f"{ELSEWHERE}/centos64-32bit.qcow2"
    checked = virt_domblk_copy(host, name=LOCAL.name, dest_dir=ELSEWHERE, arguments=("--check", "--diff")).ok()
    assert (checked["outcome"], checked["files"][0]["action"]) == ("planned", "block_copy")
    assert listing(host, ELSEWHERE) == []
    LOCAL.tell("write 8")
    try:
        answer = virt_domblk_copy(host, name=LOCAL.name, dest_dir=ELSEWHERE, remove_source=True).ok()
        assert answer["removed"] == [LOCAL.image]
        assert images(host) == {"live": [image], "defined": [image]}
        LOCAL.goes_on(host)
        virt_domblk_copy(host, name=LOCAL.name, dest_dir="/vm", remove_source=True, bandwidth=500).ok()
        assert images(host) == {"live": [LOCAL.image], "defined": [LOCAL.image]}
        LOCAL.goes_on(host)
    finally:
        LOCAL.tell("write 0")
    assert listing(host, ELSEWHERE) == []
    LOCAL.virsh(host, "destroy")
    LOCAL.boot(host)
    quiet(host)


@pytest.mark.parametrize("running", chosen([True, False], 1))
def test_c7_110_formats_change_by_the_way(running):
    host = at_home("running, persistent" if running else STOPPED)
    there = f"{ELSEWHERE}/a disk für alle.raw"
    answer = virt_domblk_copy(host, name=LOCAL.name, path_map={LOCAL.image: there}, format="raw").ok()
    assert answer["outcome"] == "copied"
    assert images(host)["defined"] == [there]
    assert int(faults.must(host, "stat", "-c", "%s", there)) == 2 << 30
    # As sparse as it was.
    assert allocated(host, there) < 200 << 20
    if not running:
        LOCAL.boot(host)
    LOCAL.goes_on(host)
    faults.inside(host, "rm", "-f", LOCAL.image)
    LOCAL.virsh(host, "destroy")
    back = {"path_map": {there: LOCAL.image}, "format": "qcow2", "remove_source": True}
    virt_domblk_copy(host, name=LOCAL.name, **back).ok()
    LOCAL.boot(host)


def test_c7_110_an_image_on_a_base_leaves_it_where_it_is_or_becomes_whole():
    host = at_home(STOPPED)
    base, top = "/vm/base.qcow2", "/vm/top.qcow2"
    disk = f"<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{top}'/>"
    try:
        faults.must(host, "qemu-img", "create", "-q", "-f", "qcow2", base, "64M")
        faults.must(host, "qemu-io", "-c", "write -P 7 0 8M", base)
        faults.must(host, "sh", "-c", f"cd /vm && qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 {top}")
        faults.must(host, "qemu-io", "-c", "write -P 9 4M 1M", top)
        with small("layered", disk + "<target dev='vda' bus='virtio'/></disk>", host=host, start=False):
            virt_domblk_copy(host, name="layered", dest_dir=ELSEWHERE, remove_source=True).ok()
            assert faults.must(host, "qemu-io", "-r", "-c", "read -P 7 0 4M", f"{ELSEWHERE}/top.qcow2")
            assert '"/vm/base.qcow2"' in faults.must(
                host, "qemu-img", "info", "--output=json", f"{ELSEWHERE}/top.qcow2"
            )
            # To another host both go.
            answer = virt_domblk_copy(host, name="layered", dest_host=other(host)).ok()
            assert [row["action"] for row in answer["files"]] == ["copy", "copy"]
            there = f"{ELSEWHERE}/top.qcow2"
            faults.must(other(host), "qemu-io", "-r", "-c", "read -P 9 4M 1M", "-c", "read -P 7 5M 3M", there)
            whole = {"backing": "flatten", "path_map": {there: f"{ELSEWHERE}/whole.qcow2"}}
            virt_domblk_copy(other(host), name="layered", **whole).ok()
            said = faults.must(other(host), "qemu-img", "info", "--output=json", f"{ELSEWHERE}/whole.qcow2")
            assert "backing" not in said
            faults.must(other(host), "qemu-io", "-r", "-c", "read -P 9 4M 1M", f"{ELSEWHERE}/whole.qcow2")
    finally:
        for name in HYPERVISORS:
            faults.inside(name, "sh", "-c", f"rm -f {base} {top} {ELSEWHERE}/*")
    LOCAL.boot(host)


# --- to another host


def test_c7_108_c7_109_c7_112_a_guest_goes_there_and_back_and_only_what_has_changed_comes_back():
    source = at_home(STOPPED)
    dest = other(source)
    arguments = ("migrate.yml", "-e", f"vm={LOCAL.name}", "-e")
    there = ansible("ansible-playbook", *arguments, f"dest={dest}")
    assert (there.rc, there.changed) == (0, 1), there.out
    assert LOCAL.shapes() == {dest: STOPPED}
    assert digest(dest, LOCAL.image) == digest(source, LOCAL.image) != ""
    assert allocated(dest, LOCAL.image) <= 1.02 * allocated(source, LOCAL.image)
    assert faults.must(dest, "stat", "-c", "%U %G %a", LOCAL.image) == "root root 600\n"
    again = ansible("ansible-playbook", *arguments, f"dest={dest}")
    assert (again.rc, again.changed) == (0, 0), again.out
    LOCAL.boot(dest)
    LOCAL.virsh(dest, "destroy")
    back = virt_migrate(dest, name=LOCAL.name, dest_host=source).ok()
    assert [row["action"] for row in back["files"]] == ["update"]
    assert back["copied"]["bytes_sent"] < allocated(dest, LOCAL.image) / 4
    assert digest(dest, LOCAL.image) == digest(source, LOCAL.image)
    assert LOCAL.shapes() == {source: STOPPED}
    LOCAL.boot(source)
    for host in HYPERVISORS:
        quiet(host)


def test_c1_26_firmware_and_tpm_go_along():
    source = FIRM.bring(shape=STOPPED)
    dest = other(source)
    uuid = FIRM.virsh(source, "domuuid").strip()
    state = f"{TPM}/{uuid}/tpm2/tpm2-00.permall"
    owner = faults.must(source, "stat", "-c", "%U %G %a", state)
    before = [digest(source, path) for path in (FIRM.image, VARIABLES, state)]
    assert "" not in before
    virt_migrate(source, name=FIRM.name, dest_host=dest).ok()
    assert [digest(dest, path) for path in (FIRM.image, VARIABLES, state)] == before
    assert faults.must(dest, "stat", "-c", "%U %G %a", state) == owner
    FIRM.boot(dest)
    FIRM.virsh(dest, "destroy")
    run = ansible("ansible-playbook", "import.yml", "-e", f"vm={FIRM.name}", "-e", f"dest={source}")
    assert (run.rc, run.changed) == (0, 1), run.out
    FIRM.boot(source)


def test_c7_110_the_disk_goes_to_another_directory_there():
    source = at_home(STOPPED)
    dest = other(source)
    image = f"{ELSEWHERE}/centos64-32bit.qcow2"
    options = {"dest_dir": ELSEWHERE, "remove_source": True, "encrypt": False}
    answer = virt_domblk_copy(source, name=LOCAL.name, dest_host=dest, **options).ok()
    assert answer["removed"] == [LOCAL.image]
    assert images(dest)["defined"] == [image]
    assert listing(source, "/vm/centos64-32bit.qcow2") == []
    LOCAL.boot(dest)
    LOCAL.virsh(dest, "destroy")
    virt_domblk_copy(dest, name=LOCAL.name, dest_host=source, dest_dir="/vm", remove_source=True).ok()
    LOCAL.boot(source)


# --- what must not happen


class Ended(threading.Thread):
    """A playbook that waits for something, meanwhile."""

    def __init__(self, *arguments: str):
        super().__init__()
        self._arguments = arguments
        self.run_of_it: Run | None = None

    def run(self) -> None:
        self.run_of_it = ansible("ansible-playbook", *self._arguments)


@contextmanager
def copying(source: str, step: str, **options: object) -> Iterator[Call]:
    with held(source, step):
        call = Call(source, {"name": LOCAL.name, **options}, module="virt_domblk_copy")
        comes_to(LOCAL, source, step)
        yield call


def part(host: str, folder: str = "/vm") -> str:
    [found] = [path for path in listing(host, folder) if path.endswith(".part")]
    return found


@pytest.mark.parametrize("far", [True, False])
def test_c7_109_one_flipped_byte_makes_the_copy_fail(far):
    source = at_home(STOPPED)
    where = other(source) if far else source
    with copying(source, "verifying", dest_dir=ELSEWHERE, **({"dest_host": where} if far else {})) as call:
        flip = (
            "import sys; f = open(sys.argv[1], 'r+b'); f.seek(300000); b = f.read(1);"
            " f.seek(300000); f.write(bytes([b[0] ^ 1]))"
        )
        faults.must(where, "python3", "-c", flip, part(where, ELSEWHERE))
        # And nobody can start it meanwhile.
        started = faults.inside(source, "virsh", "start", LOCAL.name)
        assert started.returncode and "lock" in started.stderr
    answer = call.answer()
    assert answer.rc and answer["failure_class"] == "copy_differs", answer.out
    assert LOCAL.shapes() == {source: STOPPED}
    assert listing(where, ELSEWHERE) == []
    nothing_is_left(LOCAL)
    LOCAL.boot(source)


def test_c7_111_a_disk_that_is_full_is_said_before_anything(footprint):
    source = at_home(STOPPED)
    dest = other(source)
    faults.must(dest, "mount", "-t", "tmpfs", "-o", "size=8m", "none", ELSEWHERE)
    try:
        before = footprint()
        answer = virt_domblk_copy(source, name=LOCAL.name, dest_host=dest, dest_dir=ELSEWHERE)
        answer.failed("no_space", outcome="refused")
        assert without_records(footprint()) == without_records(before)
    finally:
        faults.must(dest, "umount", ELSEWHERE)
    LOCAL.boot(source)


def test_c7_111_a_disk_that_becomes_full_leaves_nothing():
    source = at_home(STOPPED)
    dest = other(source)
    needs = allocated(source, LOCAL.image) >> 20
    faults.must(dest, "mount", "-t", "tmpfs", "-o", f"size={needs + 20}m", "none", ELSEWHERE)
    try:
        with copying(source, "copying", dest_host=dest, dest_dir=ELSEWHERE) as call:
            faults.must(dest, "sh", "-c", f"head -c {needs}M /dev/zero > {ELSEWHERE}/other")
        answer = call.answer()
        assert answer.rc and answer["failure_class"] == "no_space", answer.out
        assert listing(dest, ELSEWHERE) == [f"{ELSEWHERE}/other"]
    finally:
        faults.must(dest, "umount", ELSEWHERE)
    assert LOCAL.shapes() == {source: STOPPED}
    nothing_is_left(LOCAL)
    LOCAL.boot(source)


def test_an_image_that_somebody_writes_to_is_refused():
    source = at_home(STOPPED)
    script = f"qemu-nbd --fork --pid-file=/run/holds.pid -x holds -k /run/holds.sock {shlex.quote(LOCAL.image)}"
    faults.must(source, "sh", "-c", script)
    try:
        for options in ({"dest_dir": ELSEWHERE}, {"dest_host": other(source)}):
            answer = virt_domblk_copy(source, name=LOCAL.name, **options)
            answer.failed("image_in_use", outcome="refused")
    finally:
        faults.must(source, "sh", "-c", "kill $(cat /run/holds.pid); rm -f /run/holds.pid")
    wait_for(lambda: faults.inside(source, "pgrep", "qemu-nbd").returncode, what="its end")
    LOCAL.boot(source)


def test_a_running_guest_goes_to_no_other_host_like_this():
    source = at_home()
    answer = virt_domblk_copy(source, name=LOCAL.name, dest_host=other(source))
    answer.failed("wrong_state", outcome="refused")
    assert "shut it down" in answer["cure"]
    assert "mode" not in answer["msg"]


def test_c5_95_cancel_yml_ends_a_copy_that_status_yml_shows():
    source = at_home(STOPPED)
    with copying(source, "copied", dest_host=other(source), dest_dir=ELSEWHERE) as call:
        assert f"{LOCAL.name}: {source} -> " in ansible("ansible-playbook", "status.yml").out
        asked = Ended("cancel.yml", "-e", f"vm={LOCAL.name}")
        asked.start()
        wait_for(
            lambda: any(path.endswith("/cancel") for path in listing(source, "/run/kvmops-migration")),
            60,
            "the wish to end it",
        )
    answer = call.answer()
    assert answer.rc and answer["failure_class"] == "cancelled", answer.out
    asked.join()
    assert asked.run_of_it.rc == 0
    assert f"{LOCAL.name}: ended, it is where it was" in asked.run_of_it.out
    assert LOCAL.shapes() == {source: STOPPED}
    assert listing(other(source), ELSEWHERE) == []
    nothing_is_left(LOCAL)
    LOCAL.boot(source)


def test_c7_107_a_file_there_that_is_something_else_stays(footprint):
    source = at_home(STOPPED)
    dest = other(source)
    faults.must(dest, "sh", "-c", f"echo mine > {LOCAL.image}")
    before = footprint()
    virt_migrate(source, name=LOCAL.name, dest_host=dest).failed("dest_image_exists", outcome="refused")
    assert without_records(footprint()) == without_records(before)
    assert faults.must(dest, "cat", LOCAL.image) == "mine\n"
    faults.must(dest, "rm", LOCAL.image)
    LOCAL.boot(source)
