# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The wrapper round libvirt: answers within a time limit, errors in plain data, bindings where they are."""

from __future__ import annotations

import threading
import time

import pytest

from ansible_collections.kvmops.migration.plugins.module_utils import _libvirt
from ansible_collections.kvmops.migration.plugins.module_utils._pure.refusal import Refusal
from fake import libvirt as fake
from fake.lab import DEST_URI, OTHER, UUID, domain_xml


@pytest.fixture
def host(lab):
    lab.add()
    return _libvirt.Host.open("qemu:///system", 5, patience=0.2)


def test_a_host_says_who_it_is(lab, host):
    assert host.uuid == lab.kvm1.uuid
    assert str(host) == host.hostname == "kvm1"
    assert host.libvirt_version == (9, 0, 0)
    assert host.hypervisor_version == (7, 2, 0)


def test_a_domain_is_told_in_plain_data(lab, host):
    domain = host.find("a")
    assert (domain.uuid, domain.state, domain.active, domain.persistent) == (UUID, "running", True, True)
    assert host.find_uuid(UUID) == domain
    assert host.find("b") is None
    assert host.find_uuid(OTHER) is None
    assert host.domains() == [domain]


def test_a_transient_domain_is_not_asked_for_its_autostart_flag(lab, host):
    lab.kvm1.guests[UUID].persistent = False
    assert host.find("a").autostart is False


def test_a_domain_that_goes_away_while_it_is_looked_at_is_left_out(lab, host):
    lab.world.faults["kvm1", "state"] = fake.libvirtError("Domain not found", fake.VIR_ERR_NO_DOMAIN)
    assert host.domains() == []


@pytest.mark.parametrize(("version", "stays"), [(6000000, True), (5010000, False)])
def test_statistics_of_a_completed_job_stay_for_others_where_libvirt_can_keep_them(lab, version, stays):
    lab.add()
    lab.kvm1.version = version
    lab.kvm1.guests[UUID].completed = {"type": fake.VIR_DOMAIN_JOB_COMPLETED, "downtime": 94}
    host = _libvirt.Host.open("qemu:///system", 5, patience=0.2)
    assert host.job_stats(UUID, completed=True)["downtime"] == 94
    assert ("downtime" in lab.kvm1.guests[UUID].completed) is stays


def test_a_host_that_does_not_answer_is_named_without_its_password(lab):
    host = _libvirt.Host.open("qemu+ssh://root:s3cret@kvm2/system", 5, patience=0.2)
    lab.kvm2.answers.clear()
    for _turn in range(2):
        with pytest.raises(_libvirt.NoAnswer) as silent:
            host.find("a")
        assert "root:***@kvm2" in str(silent.value)


def test_a_domain_that_is_shut_off_has_no_job(lab, host):
    lab.kvm1.guests[UUID].job = {"type": fake.VIR_DOMAIN_JOB_UNBOUNDED}
    assert host.job_active(UUID)
    lab.kvm1.guests[UUID].state = fake.VIR_DOMAIN_SHUTOFF
    assert not host.job_active(UUID)
    lab.world.faults["kvm1", "jobInfo"] = fake.libvirtError("Timed out during operation", 68)
    with pytest.raises(_libvirt.LibvirtFailure):
        host.job_active(UUID)


def test_an_answer_that_does_not_come_is_not_waited_for(lab, host):
    lab.kvm1.answers.clear()
    began = time.monotonic()
    with pytest.raises(_libvirt.NoAnswer):
        host.find("a")
    assert time.monotonic() - began < 2
    assert host.lost


def test_a_lost_host_is_not_asked_again(lab, host):
    lab.kvm1.answers.clear()
    with pytest.raises(_libvirt.NoAnswer):
        host.find("a")
    lab.kvm1.answers.set()
    asked = len(lab.kvm1.calls)
    with pytest.raises(_libvirt.NoAnswer):
        host.find("a")
    assert len(lab.kvm1.calls) == asked


def test_a_lost_connection_is_forgotten_and_not_closed(lab, host, monkeypatch):
    closed = []
    monkeypatch.setattr(fake.virConnect, "close", closed.append)
    host.lost = True
    host.close()
    assert closed == []
    assert host._connection._o is None


def test_opening_has_its_own_limit(lab):
    lab.kvm2.answers.clear()
    with pytest.raises(_libvirt.NoAnswer, match=r"did not answer within 0\.2 s"):
        _libvirt.Host.open(DEST_URI, 0.2)


def test_ssh_is_told_that_nobody_types(lab, monkeypatch):
    opened = []
    original = fake.open
    monkeypatch.setattr(fake, "open", lambda uri: opened.append(uri) or original(uri))
    host = _libvirt.Host.open(DEST_URI, 5)
    assert opened == [f"{DEST_URI}?no_tty=1"]
    assert host.uri == DEST_URI


def test_an_error_keeps_its_code_and_the_systems_number(lab, host):
    lab.world.faults["kvm1", "refresh"] = fake.libvirtError("cannot open directory\n'/vm'", 38, 2)
    with pytest.raises(_libvirt.LibvirtFailure) as failure:
        host.refresh_pool("vm")
    assert str(failure.value) == "cannot open directory '/vm'"
    assert (failure.value.code, failure.value.errno) == (38, 2)


def test_the_number_of_another_kind_of_error_is_no_errno(lab, host):
    lab.world.faults["kvm1", "refresh"] = fake.libvirtError("x", fake.VIR_ERR_OPERATION_FAILED, 2)
    with pytest.raises(_libvirt.LibvirtFailure) as failure:
        host.refresh_pool("vm")
    assert failure.value.errno == 0


@pytest.mark.parametrize(("version", "keep_tpm"), [(9000000, 64), (8000000, 0)])
def test_undefining_keeps_state_of_the_firmware_and_works_where_there_are_no_flags(lab, monkeypatch, version, keep_tpm):
    flags = []
    lab.add()
    lab.kvm1.version = version
    host = _libvirt.Host.open("qemu:///system", 5)

    def undefine_flags(self, given):
        flags.append(given)
        raise fake.libvirtError("this function is not supported", fake.VIR_ERR_NO_SUPPORT)

    monkeypatch.setattr(fake.virDomain, "undefineFlags", undefine_flags)
    monkeypatch.setattr(fake.virDomain, "undefine", lambda self: lab.kvm1.guests.clear(), raising=False)
    host.undefine(UUID)
    assert flags == [fake.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM | keep_tpm]
    assert lab.kvm1.guests == {}


def test_undefining_what_fails_otherwise_is_not_tried_with_less_care(lab, host):
    lab.world.faults["kvm1", "undefine"] = fake.libvirtError("no", fake.VIR_ERR_OPERATION_INVALID)
    with pytest.raises(_libvirt.LibvirtFailure):
        host.undefine(UUID)
    assert UUID in lab.kvm1.guests


def test_a_definition_with_the_same_uuid_is_replaced(lab, host):
    host.define(domain_xml(nvram="/x"))
    assert "<nvram>" in host.xml(UUID, inactive=True)


def test_bindings_that_do_not_know_a_flag_are_found():
    assert _libvirt.unknown_flags(["LIVE", "TELEPORT"]) == ["TELEPORT"]
    assert _libvirt.flag_bits(["LIVE", "PEER2PEER"]) == 3


def test_what_a_call_raises_comes_out_of_its_thread():
    with pytest.raises(KeyError):
        _libvirt.bounded(lambda: {}["x"], 1, "it")
    assert _libvirt.bounded(lambda: None, 1, "it") is None


def test_a_call_that_is_left_behind_keeps_nobody():
    forever = threading.Event()
    with pytest.raises(_libvirt.NoAnswer):
        _libvirt.bounded(forever.wait, 0.05, "it")
    assert all(thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread())
    forever.set()


class TestBindings:
    def test_nothing_is_done_where_they_are_there(self):
        _libvirt.require()

    @pytest.fixture
    def missing(self, monkeypatch):
        monkeypatch.setattr(_libvirt, "HAS_LIBVIRT", False)
        respawned = []
        monkeypatch.setattr(_libvirt.respawn, "respawn_module", respawned.append)
        return respawned

    def test_c8_126_the_systems_python_is_used_where_it_has_them(self, missing, monkeypatch):
        monkeypatch.setattr(_libvirt.respawn, "has_respawned", lambda: False)
        monkeypatch.setattr(_libvirt.respawn, "probe_interpreters_for_module", lambda paths, name: paths[0])
        with pytest.raises(Refusal):
            # The real respawn_module does not come back.
            _libvirt.require()
        assert missing == ["/usr/bin/python3"]

    @pytest.mark.parametrize("again", [True, False])
    def test_c8_126_the_package_is_named_where_no_python_has_them(self, missing, monkeypatch, again):
        monkeypatch.setattr(_libvirt.respawn, "has_respawned", lambda: again)
        monkeypatch.setattr(_libvirt.respawn, "probe_interpreters_for_module", lambda paths, name: None)
        with pytest.raises(Refusal, match="cure: install the package python3-libvirt") as refused:
            _libvirt.require()
        assert refused.value.failure_class == "bindings_missing"
        assert "\n" not in refused.value.message
        assert missing == []
