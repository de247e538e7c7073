# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers that somebody fetches later: nothing is lost of them, and nothing shown that must not be."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ansible_collections.kvmops.migration.plugins.module_utils._answer import kept
from ansible_collections.kvmops.migration.plugins.module_utils._pure.refusal import Refusal

MODULE = SimpleNamespace(no_log_values={"s3cret"})


def test_an_answer_is_kept_without_what_must_not_be_shown():
    said = kept(MODULE, lambda: {"changed": True, "list": ["a s3cret b"]})
    assert said["changed"]
    assert "s3cret" not in str(said)


def test_a_refusal_is_an_answer():
    def refuse():
        raise Refusal("no", "busy", "wait", outcome="refused")

    said = kept(MODULE, refuse)
    assert (said["failed"], said["msg"], said["failure_class"]) == (True, "no; cure: wait", "busy")


def test_what_broke_down_may_have_changed_something():
    def break_down():
        raise KeyError("x")

    said = kept(MODULE, break_down)
    assert said["failed"] and said["changed"]
    assert said["outcome"] == "undetermined"
    # Runs of virt_domblk_copy end here, too.
    assert said["msg"].startswith("the run broke down: 'x'")
    assert "run again" in said["cure"]
    assert "KeyError" in said["exception"]


@pytest.mark.parametrize("name", ["", "   ", "a/b", "a\nb"])
def test_what_is_no_name_is_refused_before_a_run_begins(lab, name):
    result = lab.move(name=name)
    assert result.failed
    assert "accepted: the name of a VM" in result.msg
    assert lab.kvm1.calls == []
    assert not (lab._tmp_path / "run").exists()
