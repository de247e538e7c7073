# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""nfs_export and nfs_export_info from their arguments to their answer, on files of their own and a fake exportfs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from ansible_collections.kvmops.migration.plugins.modules import nfs_export, nfs_export_info
from fake.exports import Server

CLIENTS = ["10.0.1.0/24(rw,no_root_squash,sync,no_subtree_check)"]


@pytest.fixture
def server(tmp_path, monkeypatch, capsys):
    return Server(tmp_path, monkeypatch, capsys)


def everything(server):
    """What is in the place of /etc, the live table, and nothing half written."""
    found = {str(path.relative_to(server.etc)): path.read_bytes() for path in server.etc.rglob("*") if path.is_file()}
    etab = server.state / "etab"
    return found, etab.read_bytes() if etab.exists() else b""


def test_c8_116_an_export_is_added_once_and_live(server):
    server.exports.write_text("# mine\n")
    result = server.export(clients=CLIENTS, diff=True)
    assert not result.failed, result
    assert result.changed
    assert server.exports.read_text() == f"# mine\n{server.vm} {CLIENTS[0]}\n"
    assert server.calls == ["private", "live"]
    options = ["rw", "no_root_squash", "sync", "no_subtree_check"]
    assert result.export == {
        "path": str(server.vm),
        "file": str(server.exports),
        "clients": [{"host": "10.0.1.0/24", "options": options}],
    }
    ((row),) = result.active
    assert (row["path"], row["client"]) == (str(server.vm), "10.0.1.0/24")
    assert set(options) <= set(row["options"])
    assert result.diff == {
        "before_header": str(server.exports),
        "after_header": str(server.exports),
        "before": "# mine\n",
        "after": f"# mine\n{server.vm} {CLIENTS[0]}\n",
    }
    before = everything(server)
    again = server.export(clients=["10.0.1.0/24(sync,rw,no_subtree_check,no_root_squash,wdelay)"], diff=True)
    assert not again.changed
    assert again.diff["before"] == again.diff["after"]
    assert everything(server) == before
    assert server.calls == ["private", "live", "private"]
    assert server.export(clients=["10.0.1.0/24(ro)"]).changed
    assert server.exports.read_text() == f"# mine\n{server.vm} 10.0.1.0/24(ro)\n"
    removed = server.export(state="absent")
    assert removed.changed
    assert (removed.active, removed.export["clients"]) == ([], [])
    assert everything(server) == ({"exports": b"# mine\n"}, b"")
    assert not server.export(state="absent").changed


def test_c8_116_check_mode_tells_the_same_and_changes_nothing(server):
    server.exports.write_text("# mine\n")
    before = everything(server)
    result = server.export(clients=CLIENTS, check=True, diff=True)
    assert result.changed
    assert result.diff["after"] == f"# mine\n{server.vm} {CLIENTS[0]}\n"
    assert everything(server) == before
    assert server.calls == ["private"]
    server.export(clients=CLIENTS)
    assert server.export(clients=CLIENTS, check=True).changed is False
    assert server.export(state="absent", check=True).changed is True


def test_c8_116_a_file_keeps_its_owner_and_mode_and_is_never_half_written(server, monkeypatch):
    server.exports.write_text("# mine\n")
    server.exports.chmod(0o640)
    seen = []
    rename = os.rename
    monkeypatch.setattr(
        os, "rename", lambda old, new: (seen.append(Path(os.fsdecode(old)).read_text()), rename(old, new))
    )
    server.export(clients=CLIENTS)
    assert seen == [f"# mine\n{server.vm} {CLIENTS[0]}\n"]
    assert server.exports.stat().st_mode & 0o7777 == 0o640
    assert sorted(path.name for path in server.etc.iterdir()) == ["exports"]


def test_c8_116_a_link_to_the_file_stays_a_link(server):
    real = server.etc / "real"
    real.write_text("")
    server.exports.symlink_to(real)
    server.export(clients=CLIENTS)
    assert server.exports.is_symlink()
    assert real.read_text()


def test_c8_116_a_file_of_its_own_is_made_and_removed(server):
    own = str(server.drop_ins / "vm.exports")
    umask = os.umask(0o022)
    assert server.export(clients=CLIENTS, file=own).changed
    os.umask(umask)
    # exportfs fails without the first file, which therefore is there, and empty.
    files, table = everything(server)
    assert files == {"exports": b"", "exports.d/vm.exports": f"{server.vm} {CLIENTS[0]}\n".encode()}
    assert str(server.vm).encode() in table
    assert (server.drop_ins / "vm.exports").stat().st_mode & 0o777 == 0o644
    assert not server.export(clients=CLIENTS, file=own).changed
    assert server.export(state="absent", file=own).changed
    assert everything(server) == ({"exports": b""}, b"")
    assert not server.export(state="absent", file=own).changed


@pytest.mark.parametrize("name", ["exports2", "exports.d/vm", "exports.d/.vm.exports", "exports.d/x/vm.exports"])
def test_a_file_that_exportfs_does_not_read_is_refused(server, name):
    result = server.export(clients=CLIENTS, file=str(server.etc / name))
    assert result.failed
    assert "is none of the files that exportfs reads; cure: give " in result.msg
    assert result.failure_class == "bad_option"


BROKEN = {
    "/a *(rw, sync)\n": "the options of * are no list",
    "a *(rw)\n": "'a' is no path that begins with /",
    "{vm}/x *(rw,nonsense)\n": 'unknown keyword "nonsense"',
    "/not/there *(rw)\n": "Failed to stat /not/there: No such file or directory",
    "{vm}/x nobody.invalid(rw)\n": "Failed to resolve nobody.invalid",
    "{vm}/x a(rw) a(ro)\n": "has the client a in",
}


@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize("place", ["exports", "exports.d/other.exports"])
@pytest.mark.parametrize(("line", "words"), BROKEN.items())
def test_c8_116_a_broken_line_of_somebody_else_stops_everything_and_is_named(server, line, words, place, check):
    (server.vm / "x").mkdir()
    server.drop_ins.mkdir()
    server.exports.write_text("# mine\n")
    file = server.etc / place
    file.write_text(f"# one\n{server.vm}/x \\\n  host(ro)\n{line.format(vm=server.vm)}")
    (server.state / "etab").write_text(f"{server.vm}/x\thost(ro)\n")
    before = everything(server)
    for options in ({"clients": CLIENTS}, {"state": "absent"}):
        result = server.export(check=check, **options)
        assert result.failed
        assert f"{file} line 4: " in result.msg
        assert words in result.msg
        assert "; cure: correct that line" in result.msg
        # What exportfs says of its own reading, `/etc/exports:99:` and `[99]`, is not what the administrator has.
        assert ":99:" not in result.msg
        assert "[99]" not in result.msg
        assert "\n" not in result.msg
        assert (result.problems[0]["file"], result.problems[0]["line"]) == (str(file), 4)
        assert everything(server) == before
    assert "live" not in server.calls


def test_several_broken_lines_are_all_told(server):
    server.exports.write_text("/a *(rw\nb *(rw)\n/c *(rw\n")
    result = server.export(clients=CLIENTS)
    assert "line 1: " in result.msg
    assert "(and 2 more)" in result.msg
    assert [problem["line"] for problem in result.problems] == [1, 2, 3]


def test_what_is_broken_in_its_own_line_is_mended(server):
    server.exports.write_text(f"{server.vm} nobody.invalid(rw) a(rw) a(ro)\n")
    assert server.export(clients=CLIENTS).changed
    server.exports.write_text(f"{server.vm}/gone *(rw)\n")
    assert server.export(path=f"{server.vm}/gone", state="absent").changed
    assert server.exports.read_text() == ""


def test_c8_116_a_client_that_does_not_resolve_is_refused(server):
    result = server.export(clients=["nobody.invalid(rw)"])
    assert f"{server.exports} line 1: Failed to resolve nobody.invalid" in result.msg
    assert everything(server) == ({}, b"")


def test_c8_116_where_exportfs_fails_the_file_is_put_back(server):
    server.exports.write_text(f"{server.vm} host(ro)\n")
    server.export(clients=["host(ro)"])
    before = everything(server)
    server.fails, server.fails_once = "the disk is full", True
    result = server.export(clients=CLIENTS)
    assert result.failed
    assert "exportfs has failed: the disk is full; the files are as they were, and so are the live" in result.msg
    assert everything(server) == before
    server.fails_once = False
    server.fails = "the disk is full"
    own = str(server.drop_ins / "vm.exports")
    result = server.export(path=str(server.etc), clients=CLIENTS, file=own)
    assert "and with them it fails as well: the disk is full" in result.msg
    assert everything(server) == before


def test_c8_116_an_export_that_is_written_but_not_live_is_made_live(server):
    server.exports.write_text(f"{server.vm} {CLIENTS[0]}\n")
    assert server.export(clients=CLIENTS, check=True).changed
    assert server.calls == ["private"]
    result = server.export(clients=CLIENTS)
    assert result.changed
    assert [row["path"] for row in result.active] == [str(server.vm)]
    assert not server.export(clients=CLIENTS).changed
    (server.state / "etab").write_text(f"{server.vm}\t10.0.1.0/24(ro)\n")
    assert server.export(clients=CLIENTS).changed
    # One that is live and in no file, too.
    server.exports.write_text("")
    assert server.export(state="absent").changed
    assert server.info().active == []


def test_what_is_live_by_hand_is_named_before_it_is_lost(server):
    (server.state / "etab").write_text("/by/hand\t10.9.9.9(rw)\n")
    result = server.export(clients=CLIENTS)
    assert result.changed
    ((warning),) = result.warnings
    assert warning.startswith("/by/hand is exported to 10.9.9.9 by no file")
    assert server.export(clients=CLIENTS).warnings == []


def test_c8_116_the_decks_own_line_is_done_and_warned_about(server):
    result = server.export(clients=["*(rw,no_root_squash,sync)"])
    assert server.exports.read_text() == f"{server.vm} *(rw,no_root_squash,sync)\n"
    ((warning),) = result.warnings
    assert "to everybody (*) with rw and no_root_squash" in warning


@pytest.mark.parametrize(("clients", "words"), [([], "clients: "), (["*(rw,ro)"], "rw and ro exclude each other")])
def test_c8_116_bad_clients_are_refused_before_anything_is_read(server, clients, words):
    server.exports.mkdir()
    result = server.export(clients=clients)
    assert words in result.msg
    assert server.calls == []


def test_a_directory_that_is_missing_is_refused_and_in_check_mode_expected(server):
    path = str(server.vm / "later")
    result = server.export(path=path, clients=CLIENTS)
    assert result.msg.startswith(f"path: {path} does not exist; cure: make the directory first")
    assert result.role == "nfs_server"
    result = server.export(path=path, clients=CLIENTS, check=True)
    assert not result.failed, result
    assert result.changed
    # It excuses nothing else.
    assert server.export(path=path, clients=["nobody.invalid(rw)"], check=True).failed


def test_without_exportfs_it_says_what_to_install_and_check_mode_goes_on(server):
    server.installed = False
    result = server.export(clients=CLIENTS)
    assert result.msg.startswith("exportfs is not installed; cure: install nfs-kernel-server")
    assert everything(server) == ({}, b"")
    result = server.export(clients=CLIENTS, check=True)
    assert (result.failed, result.changed) == (False, True)
    assert "exportfs is not installed" in result.warnings[0]
    result = server.export(state="absent")
    assert (result.failed, result.changed, result.warnings) == (False, False, [])
    server.exports.write_text(f"{server.vm} *(ro)\n# mine\n")
    assert server.export(state="absent").changed
    assert server.exports.read_text() == "# mine\n"


def test_without_the_right_to_mount_nothing_is_done(server):
    server.can_mount = False
    result = server.export(clients=CLIENTS)
    assert "no mount namespace can be made for it: unshare: unshare failed: Operation not permitted" in result.msg
    assert "; cure: run as root (become)" in result.msg
    assert everything(server) == ({}, b"")


def test_c8_116_a_change_of_somebody_else_meanwhile_is_not_overwritten(server, monkeypatch):
    server.exports.write_text("# mine\n")
    run = server._run

    def meddled(command):
        server.exports.write_text("# theirs\n")
        return run(command)

    monkeypatch.setattr(server, "_run", meddled)
    result = server.export(clients=CLIENTS)
    assert result.msg == f"{server.exports} was changed by somebody else meanwhile; cure: run again"
    assert server.exports.read_text() == "# theirs\n"


def test_c8_116_a_directory_with_a_blank_in_its_name(server):
    path = server.vm / "two words"
    path.mkdir()
    result = server.export(path=f"{path}/", clients=CLIENTS)
    assert result.export["path"] == str(path)
    assert [row["path"] for row in result.active] == [str(path)]
    assert "two\\040words " in server.exports.read_text()
    assert not server.export(path=str(path), clients=CLIENTS).changed


def test_what_a_link_leads_to_is_what_is_live(server):
    link = server.vm.with_name("link")
    link.symlink_to(server.vm)
    (server.state / "etab").write_text(f"{server.vm}\thost(ro)\n")
    server.exports.write_text(f"{link} host(ro)\n")
    # The fake writes the link into its table, exportfs what it leads to: what differs is made live again.
    assert server.export(path=str(link), clients=["host(ro)"]).changed


def test_the_info_tells_the_files_their_faults_and_the_live_table(server):
    server.exports.write_text(f"# x\n{server.vm} -ro a b(rw)\n/broken *(rw\n")
    server.drop_ins.mkdir()
    (server.drop_ins / "o.exports").write_text(f"{server.vm} a(ro)\n")
    (server.drop_ins / "no").write_text("/no *(rw)\n")
    (server.state / "etab").write_text("/live\t(rw)\n")
    result = server.info()
    assert (result.failed, result.changed) == (False, False)
    file = str(server.exports)
    clients = [{"host": "a", "options": ["ro"]}, {"host": "b", "options": ["ro", "rw"]}]
    other = str(server.drop_ins / "o.exports")
    assert result.exports == [
        {"path": str(server.vm), "file": file, "line": 2, "clients": clients},
        {"path": str(server.vm), "file": other, "line": 1, "clients": [clients[0]]},
    ]
    assert [(problem["file"], problem["line"]) for problem in result.problems] == [(file, 3), (other, 1)]
    assert result.active == [{"path": "/live", "client": "*", "options": ["rw"]}]
    assert server.calls == []
    server.installed = False
    assert not server.info().failed


def test_what_is_returned_is_documented(server):
    told = set(yaml.safe_load(nfs_export.RETURN))
    result = server.export(clients=CLIENTS, check=True)
    returned = set(vars(result)) - {"changed", "failed", "warnings", "invocation"}
    assert returned <= told
    assert told - returned <= {"problems", "failure_class", "cure", "role"}
    told = set(yaml.safe_load(nfs_export_info.RETURN))
    assert set(vars(server.info())) - {"changed", "failed", "warnings", "invocation"} == told - {
        "failure_class",
        "cure",
    }
