# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guest has besides memory and disks, on real hosts: it arrives, or it is refused before anything moves."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lab import faults
from tests.lab.paths import STATE

from .conftest import PLAYBOOKS, REPOSITORY, plain_environment
from .engine import HYPERVISORS, Answer, Call, Guest, other, virt_migrate, wait_for, without_records
from .extent import chosen, full
from .test_engine_killed import comes_to, held, kill_worker, recover

pytestmark = pytest.mark.usefixtures("mended", "guests")

# With UEFI variables, a TPM and a local disk; with an agent and a shared disk. They live as long as these tests.
FIRM = Guest("firm", "/vm/firm.qcow2", shared=False)
SPOKEN = Guest("spoken", "/vmshared/spoken.qcow2", shared=True)
RECIPES = [
    {"name": "firm", "host": "labkvm1", "image": FIRM.image, "memory": 192, "uefi": True, "tpm": True},
    {"name": "spoken", "host": "labkvm1", "image": SPOKEN.image, "memory": 128, "agent": True},
]
VARIABLES = "/var/lib/libvirt/qemu/nvram/firm_VARS.fd"
TEMPLATE = "/usr/share/OVMF/OVMF_VARS_4M.fd"
TPM = "/var/lib/libvirt/swtpm"


@pytest.fixture(scope="module")
def guests() -> Iterator[None]:
    arguments = ["-e", json.dumps({"lab_guests": RECIPES})]
    playbook = "../extensions/molecule/lab/guests.yml"
    done = subprocess.run(
        ["ansible-playbook", playbook, *arguments],
        cwd=PLAYBOOKS,
        env=plain_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    try:
        yield
    finally:
        for guest in (FIRM, SPOKEN):
            remove(guest.name, guest.image, VARIABLES, guest.console(HYPERVISORS[0]))


def remove(name: str, *files: str) -> None:
    for host in HYPERVISORS:
        faults.inside(host, "virsh", "destroy", name)
        options = ("--nvram", "--managed-save", "--snapshots-metadata", "--checkpoints-metadata")
        faults.inside(host, "virsh", "undefine", name, *options)
        faults.inside(host, "rm", "-f", *files)
        faults.inside(host, "virsh", "pool-refresh", "vm")


def digest(host: str, path: str) -> str:
    """Of a file, empty where there is none."""
    return faults.inside(host, "sha256sum", path).stdout.partition(" ")[0]


def move(name: str, source: str, **options: object) -> Answer:
    return virt_migrate(source, name=name, dest_host=other(source), tls="false", **options)


def refused(name: str, source: str, failure_class: str, footprint, *texts: str) -> None:
    """It is refused with its cure, in check mode as without, and nothing has changed."""
    before = footprint()
    # The unit tests run each of them both ways, and a real run would begin with the same checks.
    answer = move(name, source, arguments=("--check",)).failed(failure_class, outcome="refused")
    for text in texts:
        assert text in answer["msg"]
    assert without_records(footprint()) == without_records(before)


# --- guests of a moment


@contextmanager
def small(name: str = "small", devices: str = "", outside: str = "", host: str = "labkvm1", start: bool = True):
    """A guest without disks (unless `devices` has some), and without anything to boot from."""
    kind = json.loads((STATE / "lab.json").read_text(encoding="ascii"))["domain_type"]
    xml = f"""
        <domain type='{kind}'><name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>{outside}
        <os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>
        <devices>{devices}<controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"""
    try:
        define(host, xml)
        if start:
            faults.must(host, "virsh", "start", name)
        yield host
    finally:
        remove(name)


def define(host: str, xml: str) -> None:
    faults.must(host, "sh", "-c", f"cat > /root/small.xml <<'END'\n{xml}\nEND\nvirsh define /root/small.xml")


def shapes(name: str) -> dict[str, str]:
    return Guest(name, "", shared=True).shapes()


@contextmanager
def files(host: str, *paths: str, size: str = "1M") -> Iterator[None]:
    try:
        for path in paths:
            faults.must(host, "sh", "-c", f"mkdir -p $(dirname {path}); truncate -s {size} {path}")
        yield
    finally:
        for path in paths:
            faults.inside(host, "rm", "-f", path)


def drive(path: str, device: str = "cdrom", policy: str = "", target: str = "hda") -> str:
    source = f"<source file='{path}' {f'startupPolicy={policy!r}' if policy else ''}/>" if path else ""
    bus = "fdc" if device == "floppy" else "ide"
    return f"<disk type='file' device='{device}'>{source}<target dev='{target}' bus='{bus}'/><readonly/></disk>"


# --- C1: firmware and TPM


def test_c1_26_firmware_variables_and_tpm_arrive_and_come_home():
    source = FIRM.home()
    uuid = FIRM.virsh(source, "domuuid").strip()
    state = f"{TPM}/{uuid}/tpm2/tpm2-00.permall"
    variables, tpm = digest(source, VARIABLES), digest(source, state)
    # The firmware has written to them since they were made.
    assert variables not in ("", digest(source, TEMPLATE))
    assert tpm
    for _turn in range(2):
        dest = other(source)
        answer = move("firm", source).ok()
        FIRM.lives(dest)
        assert digest(dest, VARIABLES) == variables
        assert (digest(dest, state), digest(source, state)) == (tpm, "")
        assert {"host": source, "target": "nvram", "path": VARIABLES} in answer["left_behind"]
        source = dest


@full
def test_c1_26_firmware_variables_that_nothing_accounts_for_are_refused(footprint):
    source = FIRM.home()
    dest = other(source)
    faults.inside(dest, "rm", "-f", VARIABLES, FIRM.image)
    faults.must(dest, "virsh", "pool-refresh", "vm")
    with files(dest, VARIABLES):
        refused("firm", source, "dest_image_exists", footprint, VARIABLES, "force: true")


def test_c1_26_a_failed_move_leaves_no_firmware_variables():
    source = FIRM.home()
    dest = other(source)
    faults.inside(dest, "rm", "-f", VARIABLES, FIRM.image)
    faults.must(dest, "virsh", "pool-refresh", "vm")
    call = Call(source, {"name": "firm", "dest_host": dest, "tls": "false", "bandwidth": 2})
    wait_for(lambda: digest(dest, VARIABLES), what="the file that libvirt makes")
    wait_for(lambda: FIRM.job(source).get("Job type") == "Unbounded", what="the job")
    FIRM.virsh(source, "domjobabort")
    call.answer().failed()
    FIRM.lives(source)
    assert digest(dest, VARIABLES) == digest(dest, FIRM.image) == ""
    assert digest(source, VARIABLES)


FIRMWARE = (
    f"<os><type machine='pc'>hvm</type><loader readonly='yes' type='pflash'>{TEMPLATE.replace('VARS', 'CODE')}</loader>"
)


def test_c1_26_an_offline_move_brings_the_state_of_a_tpm():
    tpm = "<tpm model='tpm-tis'><backend type='emulator' version='2.0'/></tpm>"
    with small(devices=tpm, start=False) as source:
        # It has never run: there is no state yet that could stay behind.
        move("small", source).ok()
        assert shapes("small") == {other(source): "shut off, persistent"}
        source = other(source)
        faults.must(source, "virsh", "start", "small")
        faults.must(source, "virsh", "destroy", "small")
        uuid = faults.must(source, "virsh", "domuuid", "small").strip()
        state = digest(source, f"{TPM}/{uuid}/tpm2/tpm2-00.permall")
        move("small", source).ok()
        assert digest(other(source), f"{TPM}/{uuid}/tpm2/tpm2-00.permall") == state != ""
        faults.must(other(source), "virsh", "start", "small")


# --- C1: definitions


def test_c1_10_the_definition_arrives_as_it_was_and_not_as_it_runs():
    with small(outside="<title>a title</title><description>what it is for</description>") as source:
        owner = ("--uri", "http://example.org/kvmops", "--key", "own", "--set", "<owner>ops</owner>")
        faults.must(source, "virsh", "metadata", "small", *owner, "--config", "--live")
        # From the next start on.
        faults.must(source, "virsh", "setmaxmem", "small", "48M", "--config")
        faults.must(source, "virsh", "autostart", "small")
        pending = faults.must(source, "virsh", "dumpxml", "--inactive", "small")
        running = faults.must(source, "virsh", "dumpxml", "small").partition("<resource>")[0]
        dest = other(source)
        assert move("small", source).ok()["guest_time"] == "no_agent"
        assert faults.must(dest, "virsh", "dumpxml", "--inactive", "small") == pending
        there = faults.must(dest, "virsh", "dumpxml", "small").partition("<resource>")[0]
        assert there.split("\n")[1:] == running.split("\n")[1:]
        assert "<own:owner" in there
        assert Guest("small", "", shared=True).look()[dest].autostart


@full
def test_c1_27_a_saved_state_at_the_destination_is_refused(footprint):
    with small(host="labkvm2") as dest:
        source = other(dest)
        xml = faults.must(dest, "virsh", "dumpxml", "--inactive", "small")
        faults.must(dest, "virsh", "managedsave", "small")
        define(source, xml)
        faults.must(source, "virsh", "start", "small")
        refused("small", source, "managed_save", footprint, f"{dest} has a saved state", "virsh managedsave-remove")


# --- C1: jobs


@contextmanager
def blank(host: str = "labkvm1", image: str = "/vm/blank.qcow2") -> Iterator[str]:
    """A guest that has a disk and never reads it."""
    disk = f"<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/><source file='{image}'/>"
    faults.must(host, "qemu-img", "create", "-q", "-f", "qcow2", image, "64M")
    try:
        with small("blank", disk + "<target dev='vda' bus='virtio'/></disk>", host=host):
            yield host
    finally:
        remove("blank", image)


def begin_backup(host: str, mode: str, inside: str) -> None:
    xml = f"<domainbackup mode='{mode}'>{inside}</domainbackup>"
    script = f"cat > /root/backup.xml <<'END'\n{xml}\nEND\nvirsh backup-begin blank /root/backup.xml"
    faults.must(host, "sh", "-c", script)


@full
def test_c1_29_a_block_job_or_a_backup_is_refused(footprint):
    with blank() as source:
        copy = ("--dest", "/vm/blank.copy", "--transient-job", "--format", "qcow2")
        faults.must(source, "virsh", "blockcopy", "blank", "vda", *copy)
        try:
            refused("blank", source, "busy", footprint, "a block job is going on with disk vda")
            faults.must(source, "virsh", "blockjob", "blank", "vda", "--abort")
            begin_backup(source, "pull", "<server transport='unix' socket='/var/lib/libvirt/qemu/blank.sock'/>")
            refused("blank", source, "busy", footprint, "a job is going on with VM blank", "virsh domjobabort blank")
            faults.must(source, "virsh", "domjobabort", "blank")
            move("blank", source).ok()
            assert shapes("blank") == {other(source): "running, persistent"}
        finally:
            faults.inside(source, "rm", "-f", "/vm/blank.copy")


# --- C1: snapshots and checkpoints


def moments(host: str, name: str, kind: str = "snapshot") -> dict[str, str]:
    """All that a host knows of that guest, by name."""
    names = faults.inside(host, "virsh", f"{kind}-list", name, "--name", "--topological").stdout.split()
    return {each: faults.must(host, "virsh", f"{kind}-dumpxml", name, each, "--security-info") for each in names}


def test_c1_29_snapshots_come_along():
    with blank(image="/vmshared/blank.qcow2") as source:
        for name in ("first", "second"):
            faults.must(source, "virsh", "snapshot-create-as", "blank", name)
        before = moments(source, "blank")
        answer = move("blank", source).ok()
        assert (answer["snapshots"], answer.get("warnings")) == (["first", "second"], None)
        dest = other(source)
        assert (moments(source, "blank"), moments(dest, "blank")) == ({}, before)
        assert current("blank", dest) == "second"
        # They are good for what they are for, and move offline too.
        faults.must(dest, "virsh", "snapshot-revert", "blank", "first")
        faults.must(dest, "virsh", "destroy", "blank")
        move("blank", dest).ok()
        assert shapes("blank") == {source: "shut off, persistent"}
        assert sorted(moments(source, "blank")) == ["first", "second"]
        faults.must(source, "virsh", "snapshot-revert", "blank", "second")


def current(name: str, host: str) -> str:
    return faults.must(host, "virsh", "snapshot-current", name, "--name").strip()


@pytest.fixture
def history() -> str:
    """The host on which SPOKEN is, with two snapshots."""
    host = SPOKEN.home()
    for name in {"first", "second"} - set(moments(host, "spoken")):
        SPOKEN.virsh(host, "snapshot-create-as", name)
    return host


def test_c1_29_a_failed_move_gives_the_snapshots_back(history):
    source, dest = history, other(history)
    before = moments(source, "spoken"), current("spoken", source)
    call = Call(source, {"name": "spoken", "dest_host": dest, "tls": "false", "bandwidth": 1})
    SPOKEN.moves_from(source)
    assert (moments(source, "spoken"), moments(dest, "spoken")) == ({}, before[0])
    SPOKEN.virsh(source, "domjobabort")
    call.answer().failed()
    SPOKEN.lives(source)
    assert (moments(source, "spoken"), current("spoken", source)) == before


@full
def test_c1_29_a_killed_run_gives_the_snapshots_back(history):
    source, dest = history, other(history)
    before = moments(source, "spoken"), current("spoken", source)
    with held(source, "moving"):
        call = Call(source, {"name": "spoken", "dest_host": dest, "tls": "false"})
        status = comes_to(SPOKEN, source, "moving")
        assert (moments(source, "spoken"), moments(dest, "spoken")) == ({}, before[0])
        kill_worker(source, dest, status, call)
        assert call.answer().rc != 0
    recover()
    SPOKEN.lives(source)
    assert (moments(source, "spoken"), current("spoken", source)) == before


@full
def test_c1_29_snapshots_of_a_local_disk_are_refused(footprint):
    with blank() as source:
        faults.must(source, "virsh", "snapshot-create-as", "blank", "first")
        refused(
            "blank", source, "snapshots", footprint, "snapshot first", "virsh snapshot-delete blank NAME --metadata"
        )


@pytest.mark.parametrize("image", chosen(["/vm/blank.qcow2", "/vmshared/blank.qcow2"], 1))
def test_c1_29_checkpoints_come_along(image):
    """With the bitmaps, in the image or copied beside it: a backup since the checkpoint still works."""
    with blank(image=image) as source:
        for name in ("first", "second"):
            faults.must(source, "virsh", "checkpoint-create-as", "blank", name)
        before = moments(source, "blank", "checkpoint")
        answer = move("blank", source).ok()
        assert (answer["checkpoints"], answer.get("warnings")) == (["first", "second"], None)
        dest = other(source)
        assert moments(dest, "blank", "checkpoint") == before
        disk = "<disk name='vda' type='file'><target file='/vm/blank.backup'/><driver type='qcow2'/></disk>"
        try:
            begin_backup(dest, "push", f"<incremental>second</incremental><disks>{disk}</disks>")
        finally:
            faults.inside(dest, "rm", "-f", "/vm/blank.backup")


# --- C1: the clock


def behind(host: str) -> float:
    """Seconds that the guest's clock is behind its host's; its agent tells whole ones."""
    said = SPOKEN.virsh(host, "domtime").split()[-1]
    return float(faults.must(host, "date", "+%s")) - float(said)


def test_c1_25_the_clock_is_right_after_the_move():
    source = SPOKEN.home()
    # It may still boot, which takes an emulated guest minutes where others work.
    wait_for(lambda: "state='connected'" in SPOKEN.virsh(source, "dumpxml"), 240, "the agent")
    SPOKEN.virsh(source, "suspend")
    time.sleep(6)
    SPOKEN.virsh(source, "resume")
    assert behind(source) > 4
    assert move("spoken", source).ok()["guest_time"] == "set"
    assert behind(other(source)) < 4
    SPOKEN.lives(other(source))


# --- C2: devices


@full
def test_c2_57_memory_that_others_share_is_refused(footprint):
    shmem = "<shmem name='kvmops' role='peer'><model type='ivshmem-plain'/><size unit='M'>4</size></shmem>"
    with small(devices=shmem) as source:
        refused("small", source, "device", footprint, "memory that it shares with others")
        # Who insists is answered by libvirt itself, and nothing has moved.
        answer = move("small", source, unsafe=True).failed()
        assert "cannot migrate domain" in answer["msg"]
        assert shapes("small") == {source: "running, persistent"}


def test_c2_57_user_mode_networking_and_a_shared_directory_move_with_a_warning():
    devices = (
        "<interface type='user'><model type='virtio'/><rom enabled='no'/></interface>"
        "<filesystem type='mount'><source dir='/srv'/><target dir='srv'/></filesystem>"
    )
    with small(devices=devices) as source:
        answer = move("small", source).ok()
        assert "user-mode networking" in answer.out
        assert "a directory of the host (9p)" in answer.out
        assert shapes("small") == {other(source): "running, persistent"}


# --- C2: drives, and no disks at all


@pytest.mark.parametrize(
    ("devices", "start"), chosen([("", True), (drive(""), False), (drive("", "floppy", target="fda"), True)], 1)
)
def test_c7_105_a_guest_without_disks_moves(devices, start):
    with small(devices=devices, start=start) as source:
        answer = move("small", source).ok()
        assert (answer["storage"], answer["left_behind"]) == ("none", [])
        assert shapes("small") == {other(source): f"{'running' if start else 'shut off'}, persistent"}


ISO = "/srv/media/small.iso"


@full
def test_c2_58_a_medium_that_the_destination_has_not_is_refused(footprint):
    with files("labkvm1", ISO), small(devices=drive(ISO)) as source:
        refused("small", source, "image_missing", footprint, f"{other(source)} has no {ISO}", "--eject")
        with files(other(source), ISO):
            move("small", source).ok()
            assert ISO in faults.must(other(source), "virsh", "domblklist", "small")


def test_c2_58_a_floppy_that_can_be_written_is_copied():
    image = "/vm/small.img"
    floppy = drive(image, "floppy", target="fda").replace("<readonly/>", "")
    with files("labkvm1", image, size="1440K"), small(devices=floppy) as source:
        faults.must(source, "sh", "-c", f"echo from {source} | dd of={image} conv=notrunc status=none")
        try:
            answer = move("small", source).ok()
            assert [disk["action"] for disk in answer["disks"]] == ["copy"]
            assert digest(other(source), image) == digest(source, image)
        finally:
            remove("small", image)


@full
def test_c2_58_a_medium_that_may_be_missing_is_left_out():
    with files("labkvm1", ISO), small(devices=drive(ISO, policy="requisite")) as source:
        answer = move("small", source).ok()
        assert "the drive will be empty there" in answer.out
        assert ISO not in faults.must(other(source), "virsh", "domblklist", "small")


# --- C3: what a guest stands on fails while it moves


@pytest.mark.parametrize("side", [pytest.param("source", marks=full), "destination"])
def test_c3_81_a_tpm_that_dies_leaves_the_guest_in_one_place(side):
    """QEMU ends when it loses the guest's TPM, with a move or without: the source's ends the guest."""
    source = FIRM.bring()
    dest = other(source)
    with faults.shaped(24, *HYPERVISORS):
        call = Call(source, {"name": FIRM.name, "dest_host": dest, "tls": "false"})
        FIRM.moves_from(source)
        faults.kill(source if side == "source" else dest, f"swtpm.*{FIRM.name}")
        answer = call.answer().failed()
    if side == "source":
        assert FIRM.shapes() == {source: "shut off, persistent"}
        assert answer["failure_class"] == "guest_died"
        FIRM.boot(source)
    else:
        FIRM.lives(source)
    move(FIRM.name, source).ok()
    FIRM.lives(dest)


PORT = 10809
SERVED = "/run/served.pid"


@contextmanager
def served(image: str) -> Iterator[None]:
    """The storage host serves an image of the shared volume as a network disk."""
    options = ("--fork", f"--pid-file={SERVED}", "--persistent", "--shared=4", f"--port={PORT}", "--format=qcow2")
    try:
        faults.must("labstor1", "qemu-nbd", *options, f"/srv{image}")
        yield
    finally:
        serve_no_more()


def serve_no_more() -> None:
    faults.inside("labstor1", "sh", "-c", f"kill -KILL $(cat {SERVED}); rm -f {SERVED}")


def test_c3_80_a_disk_that_fails_on_the_way_ends_the_move_where_that_was_said():
    source = SPOKEN.bring()
    SPOKEN.virsh(source, "destroy")
    plain = f"<source file='{SPOKEN.image}'/>"
    far = f"<source protocol='nbd'><host name='10.0.1.235' port='{PORT}'/></source>"
    disk = SPOKEN.definition.replace("<disk type='file'", "<disk type='network'").replace(plain, far)
    disk = disk.replace("type='qcow2' cache='none'", "type='raw' cache='none' error_policy='stop'")
    assert far in disk and "error_policy" in disk
    try:
        with served(SPOKEN.image):
            define(source, disk)
            SPOKEN.boot(source)
            options = {"abort_on_error": True, "tls": "false", "bandwidth": 4}
            call = Call(source, {"name": SPOKEN.name, "dest_host": other(source), **options})
            SPOKEN.moves_from(source)
            serve_no_more()
            answer = call.answer().failed("disk_error")
        # It was stopped by its own disk, and its memory may hold what the disk never got: it waits there.
        assert "I/O error" in answer["msg"]
        seen = SPOKEN.look()
        assert {host: (one.state, one.reason) for host, one in seen.items()} == {source: ("paused", "I/O error")}
    finally:
        for host in HYPERVISORS:
            faults.inside(host, "virsh", "destroy", SPOKEN.name)
        define(source, SPOKEN.definition)
        SPOKEN.boot(source)


# --- last: the witnesses of everything above


@pytest.mark.parametrize("guest", [FIRM, SPOKEN])
def test_no_record_was_lost_torn_or_written_twice(guest):
    command = [sys.executable, "-m", "tests.lab", "witness", guest.name, f"--boots={guest.boots}"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
