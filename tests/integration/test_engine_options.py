# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every transport, control and option that Debian 12 can do, on real hosts.

By default each value of each axis goes once, in company that is drawn; KVMOPS_FULL=1 runs every pair of values.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lab import faults

from . import engine_options
from .engine import HYPERVISORS, LOCAL, PRIVATE, SHARED, Guest, other, virt_migrate
from .engine_options import label
from .extent import FULL, SEED

pytestmark = pytest.mark.usefixtures("mended")

CASES = engine_options.cases(FULL, SEED)
SOCKETS = "/run/kvmops-test"
LISTEN = 'auth_tcp = "none"'


@contextmanager
def tcp_daemons() -> Iterator[None]:
    """Daemons that listen on TCP for their peers, as sites in a network of their own have it."""
    rules = {
        host: f"rule family=ipv4 source address={PRIVATE[other(host)]} port port=16509 protocol=tcp accept"
        for host in HYPERVISORS
    }
    try:
        for host, rule in rules.items():
            faults.must(host, "sh", "-c", f"echo '{LISTEN}' >> /etc/libvirt/libvirtd.conf")
            faults.must(host, "firewall-cmd", "-q", f"--add-rich-rule={rule}")
            faults.must(host, "systemctl", "stop", "libvirtd.service")
            faults.must(host, "systemctl", "start", "libvirtd-tcp.socket", "libvirtd.service")
        yield
    finally:
        for host, rule in rules.items():
            faults.must(host, "sed", "-i", f"/^{LISTEN}$/d", "/etc/libvirt/libvirtd.conf")
            faults.must(host, "firewall-cmd", "-q", f"--remove-rich-rule={rule}")
            faults.must(host, "systemctl", "stop", "libvirtd.service", "libvirtd-tcp.socket")
            faults.must(host, "systemctl", "start", "libvirtd.service")


@contextmanager
def socket_files(source: str) -> Iterator[None]:
    """Socket files on the source that lead to files of the same names, and to the daemon, on the destination."""
    dest = other(source)
    try:
        for host in HYPERVISORS:
            faults.must(host, "install", "-d", "-o", "libvirt-qemu", SOCKETS)
        ways = {"libvirt": "/run/libvirt/libvirt-sock", **{name: f"{SOCKETS}/{name}" for name in ("memory", "disks")}}
        forwards = " ".join(f"-L {SOCKETS}/{name}:{there}" for name, there in ways.items())
        options = "-o StreamLocalBindMask=0000 -o ExitOnForwardFailure=yes"
        faults.must(source, "sh", "-c", f"ssh -f -N {options} {forwards} root@{PRIVATE[dest]} >/dev/null 2>&1")
        yield
    finally:
        for host in HYPERVISORS:
            faults.inside(host, "pkill", "-f", f"ssh -f -N .*{SOCKETS}")
            faults.inside(host, "rm", "-rf", SOCKETS)


@pytest.fixture(scope="module")
def over_tcp():
    with tcp_daemons():
        yield


def with_title(xml: str, title: str) -> str:
    return xml.replace("<memory", f"<title>{title}</title>\n<memory", 1)


def filled(item, words: dict[str, str]):
    """Text with its names filled in, in options and parameters alike."""
    if isinstance(item, dict):
        return {key: filled(value, words) for key, value in item.items()}
    return item.format(**words) if isinstance(item, str) else item


def call(guest: Guest, source: str, case: engine_options.Case):
    dest = other(source)
    words = {"dest": dest, "address": PRIVATE[dest], "socket": SOCKETS}
    options = filled(engine_options.merged(case, "options"), words)
    for option, flag in (("dest_xml", "--migratable"), ("persistent_xml", "--inactive")):
        if option in options:
            options[option] = with_title(guest.virsh(source, "dumpxml", flag), case["keep"])
    params = filled(engine_options.merged(case, "params"), words)
    if case["way"] == "tunnelled":
        params.pop("migrate_uri", None)
    if case["disk"] in OWN:
        params["migrate_disks"] = ["vda"]
    return virt_migrate(source, name=guest.name, dest_host=dest, **options), params


RUNNING = "running, persistent"
OWN = (*engine_options.LOCAL, "disk-socket")


@pytest.mark.parametrize("case", CASES, ids=label)
def test_every_option_does_on_real_hosts_what_it_says(case, request):
    guest = LOCAL if case["disk"] in OWN else SHARED
    source = guest.bring()
    dest = other(source)
    if case["way"] == "tcp":
        request.getfixturevalue("over_tcp")
    if "unix" in case.values() or "disk-socket" in case.values():
        with socket_files(source):
            answer, params = call(guest, source, case)
    else:
        answer, params = call(guest, source, case)
    answer.ok()
    assert answer["outcome"] == "migrated"
    assert set(answer["flags"]) == engine_options.flags(case)
    assert answer["params"] == params
    arrives(guest, source, case)
    if case["keep"] == "titled":
        assert guest.virsh(dest, "desc", "--title").strip() == "titled"
    if case["keep"] == "defined":
        assert guest.virsh(dest, "desc", "--config", "--title").strip() == "defined"
    if case["pace"] == "downtime":
        assert answer["downtime_limit_ms"] == 700
    if guest is LOCAL:
        assert [image["path"] for image in answer["left_behind"]] == [guest.image]


@pytest.mark.skipif(engine_options.MAY_LOCK_MEMORY, reason="libvirt may permit it here, and the table has it")
def test_zerocopy_where_no_memory_may_be_locked_fails_and_says_so():
    source = SHARED.bring()
    answer = virt_migrate(source, name="shared", dest_host=other(source), parallel=True, zerocopy=True).failed()
    assert answer["failure_class"] == "locked_memory"
    SHARED.lives(source)


def arrives(guest: Guest, source: str, case: engine_options.Case) -> None:
    keep, dest = case["keep"], other(source)
    wanted = {dest: {"suspended": "paused, persistent", "transient": "running, transient"}.get(keep, RUNNING)}
    if keep == "both":
        wanted[source] = "shut off, persistent"
    assert guest.shapes() == wanted
    if keep == "suspended":
        guest.stands_still(dest)
        guest.virsh(dest, "resume")
    guest.goes_on(dest)
