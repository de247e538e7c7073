# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The witness must see every fault it exists for, and none where there is none."""

from __future__ import annotations

import importlib.util
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

_PATH = Path(__file__).parents[2] / "lab" / "guest" / "witness.py"
_SPEC = importlib.util.spec_from_file_location("kvmops_lab_witness", _PATH)
assert _SPEC and _SPEC.loader
witness = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = witness
_SPEC.loader.exec_module(witness)

BOOT = "3900c67b43dd4692b51cb49d2507d551"
OTHER = "77777777000000000000000000000000"


def raw(number: int, boot: str = BOOT, uptime: int | None = None) -> bytes:
    text = b"%010d %s %010d" % (number, boot.encode(), number * 100 if uptime is None else uptime)
    return text + b" %08x\n" % zlib.crc32(text)


def line(number: int, boot: str = BOOT, uptime: int | None = None) -> str:
    crc = raw(number, boot, uptime)[55:63].decode()
    return f"kvmops: record {boot[:8]} {number:010d} {crc}\r\n"


def booted(boot: str = BOOT) -> str:
    dashed = "-".join((boot[:8], boot[8:12], boot[12:16], boot[16:20], boot[20:]))
    return f"kvmops: boot {dashed} centos64a\r\nkvmops: found 0 records, last 0, 0 bad\r\n"


def lines(first: int, last: int, boot: str = BOOT) -> str:
    return "".join(line(number, boot) for number in range(first, last + 1))


def disk(last: int) -> witness.Disk:
    return witness.parse_records(b"".join(raw(number) for number in range(1, last + 1)))


def kinds(verdict: witness.Verdict) -> set[str]:
    return {fault.kind for fault in verdict.faults}


def test_a_move_leaves_no_fault():
    verdict = witness.judge({"kvm1": booted() + lines(1, 40), "kvm2": lines(41, 90)}, disk(93))
    assert verdict.ok, verdict.summary
    assert (verdict.printed, verdict.first, verdict.last, verdict.on_disk) == (90, 1, 90, 93)
    assert verdict.hosts == {
        "kvm1": {"count": 40, "first": 1, "last": 40},
        "kvm2": {"count": 50, "first": 41, "last": 90},
    }
    assert verdict.boots == [BOOT[:8]]


@given(
    # Cut at the same place each time, the halves of two lines look like one line.
    stays=st.lists(st.sampled_from([450, 495]), min_size=1, max_size=5).flatmap(
        lambda rest: st.integers(90, 140).map(lambda first: [first, *rest])
    )
    | st.lists(st.integers(100, 800), min_size=1, max_size=7),
    noise=st.sampled_from(["", "\x00\xff", "[   12.3] random: crng init done\r\n", "kvmops: ok dirty 50\r\n"]),
)
def test_any_cut_of_the_stream_over_two_hosts_is_put_together_again(stays, noise):
    # Characters printed between two moves, over two lines' length: a migration takes longer than a record.
    stream = booted() + lines(1, 150)
    consoles = {"kvm1": noise + booted() + lines(1, 2), "kvm2": noise}
    at = len(booted() + lines(1, 2))
    for turn, stay in enumerate(stays):
        consoles[("kvm1", "kvm2")[turn % 2]] += stream[at : at + stay]
        at += stay
    consoles[("kvm1", "kvm2")[len(stays) % 2]] += stream[at:]
    verdict = witness.judge(consoles, disk(150))
    assert verdict.ok, verdict.summary
    assert verdict.printed == 150
    assert not (set(verdict.split) & {1, 2})


def test_a_partial_line_at_the_end_is_no_fault():
    assert witness.judge({"kvm1": lines(1, 9) + line(10)[:30]}, disk(10)).ok
    # Its first digits must not pass for a smaller number, nor its checksum for a shorter one.
    assert witness.judge({"kvm1": lines(1, 9) + line(10)[:-4]}, disk(10)).last == 9


def test_a_reboot_is_found_by_its_boot_id():
    verdict = witness.judge({"kvm1": lines(1, 9), "kvm2": booted(OTHER) + lines(10, 20, OTHER)})
    assert kinds(verdict) == {"reboot"}
    assert "booted 2 times" in verdict.summary


def test_a_reboot_without_a_record_yet_is_found():
    assert kinds(witness.judge({"kvm1": booted() + lines(1, 9), "kvm2": booted(OTHER)})) == {"reboot"}


def test_an_expected_reboot_is_allowed_and_numbering_goes_on():
    data = b"".join(raw(n) for n in range(1, 11)) + b"".join(raw(n, OTHER) for n in range(11, 21))
    # Record 10 was on the disk before the guest went down, and its number not yet on the console.
    consoles = {"kvm1": booted() + lines(1, 9), "kvm2": booted(OTHER) + lines(11, 20, OTHER)}
    assert witness.judge(consoles, witness.parse_records(data), boots=2).ok
    consoles["kvm2"] = lines(13, 20, OTHER)
    short = witness.parse_records(b"".join(raw(n) for n in range(1, 11)))
    assert "gap" in kinds(witness.judge(consoles, short, boots=2))


def test_two_running_copies_are_found():
    verdict = witness.judge({"kvm1": lines(1, 12), "kvm2": lines(10, 20)}, disk(20))
    assert kinds(verdict) == {"ran twice"}
    assert "10, 11, 12" in verdict.summary
    assert "kvm1, kvm2" in verdict.summary


def test_a_guest_set_back_to_an_earlier_state_is_found():
    verdict = witness.judge({"kvm1": lines(1, 12) + lines(10, 20)}, disk(20))
    assert kinds(verdict) == {"ran again", "order"}


def test_a_gap_is_found():
    verdict = witness.judge({"kvm1": lines(1, 9), "kvm2": lines(12, 20)}, disk(20))
    assert kinds(verdict) == {"gap"}
    assert "10, 11" in verdict.summary


def test_a_cut_line_with_a_wrong_tail_stays_a_gap():
    consoles = {"kvm1": lines(1, 9) + line(10)[:20], "kvm2": line(10)[25:] + lines(11, 20)}
    assert kinds(witness.judge(consoles, disk(20))) == {"gap"}


def test_a_lost_write_is_found():
    verdict = witness.judge({"kvm1": lines(1, 20)}, disk(17))
    assert kinds(verdict) == {"lost write"}
    assert "18, 19, 20" in verdict.summary


def test_a_lost_write_in_the_middle_is_found():
    data = bytearray(b"".join(raw(n) for n in range(1, 21)))
    data[64 * 7 : 64 * 8] = bytes(64)
    verdict = witness.judge({"kvm1": lines(1, 20)}, witness.parse_records(bytes(data)))
    assert kinds(verdict) == {"lost write", "torn write"}
    assert "slots 8 " in verdict.summary


def test_a_record_of_another_copy_on_the_disk_is_found():
    data = b"".join(raw(n) for n in range(1, 20)) + raw(20, uptime=7_000)
    assert kinds(witness.judge({"kvm1": lines(1, 20)}, witness.parse_records(data))) == {"overwritten"}
    # The same content under another boot id, whose first digits only the disk knows.
    data = b"".join(raw(n) for n in range(1, 20)) + raw(20, OTHER)
    assert kinds(witness.judge({"kvm1": lines(1, 20)}, witness.parse_records(data))) == {"overwritten"}


@given(slot=st.integers(1, 10), at=st.integers(0, 63), bit=st.integers(0, 7))
def test_any_flipped_bit_is_a_torn_record(slot, at, bit):
    data = bytearray(b"".join(raw(n) for n in range(1, 11)))
    data[(slot - 1) * 64 + at] ^= 1 << bit
    assert witness.parse_records(bytes(data)).bad == [slot]


@given(st.binary(max_size=400))
def test_garbage_is_never_a_record_and_never_an_exception(data):
    found = witness.parse_records(data)
    assert not found.records
    assert len(found.bad) == -(-len(data) // 64)


def test_a_record_in_the_wrong_place_is_bad():
    assert witness.parse_records(raw(1) + raw(3)).bad == [2]


def test_a_short_last_record_is_bad():
    assert kinds(witness.judge({"kvm1": lines(1, 2)}, witness.parse_records(raw(1) + raw(2) + raw(3)[:40]))) == {
        "torn write"
    }


def test_damage_of_the_file_system_is_found():
    found = witness.parse_records(raw(1), ["Inode 12 has an invalid extent"])
    assert kinds(witness.judge({"kvm1": lines(1, 1)}, found)) == {"file system"}


def test_an_uptime_that_goes_back_is_found():
    data = raw(1, uptime=500) + raw(2, uptime=400)
    consoles = {"kvm1": line(1, uptime=500) + line(2, uptime=400)}
    assert kinds(witness.judge(consoles, witness.parse_records(data))) == {"clock"}


@pytest.mark.parametrize(
    "said",
    [
        "kvmops: error fsync of record at 5: Input/output error",
        "kvmops: verify bad 2 of 50, first 7",
        "kvmops: found 12 records, last 14, 2 bad",
        "Kernel panic - not syncing: Attempted to kill init!",
        "[    8.1] EXT4-fs error (device vda2): ext4_lookup:1850: inode #2",
        "[    8.1] I/O error, dev vda, sector 4096 op 0x1:(WRITE)",
    ],
)
def test_what_the_guest_complains_of_is_a_fault(said):
    verdict = witness.judge({"kvm1": lines(1, 5) + said + "\r\n" + lines(6, 9)}, disk(9))
    assert kinds(verdict) == {"guest"}
    assert said in verdict.summary


def test_good_answers_of_the_guest_are_no_fault():
    said = "kvmops: verify ok 5\r\nkvmops: ok verify\r\nkvmops: found 10 records, last 10, 0 bad\r\n"
    assert witness.judge({"kvm1": lines(1, 5) + said}, disk(5)).ok


@pytest.mark.parametrize("consoles", [{}, {"kvm1": ""}, {"kvm1": booted()}])
def test_silence_is_a_fault(consoles):
    assert kinds(witness.judge(consoles)) == {"silent"}


def test_rotated_logs_are_read_oldest_first(tmp_path):
    log = tmp_path / "centos64a.serial.log"
    log.write_text(lines(21, 30), encoding="ascii")
    (tmp_path / "centos64a.serial.log.0").write_text(lines(11, 20), encoding="ascii")
    (tmp_path / "centos64a.serial.log.1").write_text(lines(1, 10), encoding="ascii")
    assert witness.judge({"kvm1": witness.read_console(log)}, disk(30)).printed == 30


def test_the_command_says_one_line_and_its_verdict(tmp_path, capsys, monkeypatch):
    log = tmp_path / "log"
    log.write_text(lines(1, 3), encoding="ascii")
    monkeypatch.setattr(sys, "argv", ["witness.py", "judge", "--console", f"kvm1={log}"])
    assert witness.main() == 0
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert '"ok": true' in said.out
    log.write_text(lines(1, 3) + lines(5, 6), encoding="ascii")
    assert witness.main() == 1
    monkeypatch.setattr(sys, "argv", ["witness.py", "judge", "--console", f"kvm1={tmp_path}/none"])
    assert witness.main() == 2
    assert capsys.readouterr().err.count("\n") == 2
