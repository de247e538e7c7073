# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""What virt_migrate_info tells of one host: itself, its VMs, its pools and its journal. Nothing is changed."""

from __future__ import annotations

import posixpath
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Dict, List, Sequence

from .._libvirt import MIGRATION_OUT, Domain, Host, LibvirtFailure, NotFound
from .._pure import domain_xml, needs
from .._pure import uri as uris
from .._pure.refusal import Refusal
from . import devices, facts, writes
from . import worker as workers
from .local import Local
from .place import connect, refusal, state_of


def gather(uri: str, names: Sequence[str], timeout: float, local: Local, detailed: bool = False) -> Dict[str, Any]:
    """What the host behind the URI says of itself; `names` narrows its VMs down, and `detailed` adds what VMs need."""
    parsed = uris.parse(uri, "uri")
    host = connect(uri, timeout, "uri", read_only=True)
    try:
        pools = host.pools()
        domains = [_domain(host, domain, detailed) for domain in host.domains() if not names or domain.name in names]
        used = [pool.path for pool in pools if pool.is_directory]
        used += [posixpath.dirname(disk["path"]) for domain in domains for disk in domain["disks"]]
        return {
            "changed": False,
            "host": {
                **_host(host),
                "certificates": local.certificates() if parsed.is_local else None,
                **({"facts": _facts(host, local if parsed.is_local else None, used)} if detailed else {}),
            },
            "domains": domains,
            "pools": [{"name": pool.name, "path": pool.path, "active": pool.active} for pool in pools],
            "journal": local.journal() if parsed.is_local else [],
            **(_runs(local, names) if parsed.is_local else {"runs": [], "unfinished": []}),
        }
    except LibvirtFailure as error:
        raise refusal(error, f"{uris.redact(uri)} cannot be read") from error
    finally:
        host.close()


def _facts(host: Host, local: Local | None, used: Sequence[str]) -> Dict[str, Any]:
    """`used` are the directories where images may lie."""
    found = facts.of_host(host)
    if local is None:
        return found
    own = {"addresses": facts.own_addresses(), "certificates": local.certificate_facts()}
    machine = facts.of_machine()
    return {
        **found,
        **machine,
        **own,
        "devices": devices.known(),
        "writes": writes.attempt(used, machine),
        "closed": facts.closed_to(machine, used),
    }


def _runs(local: Local, names: Sequence[str]) -> Dict[str, Any]:
    """The runs that go on here, and those that were killed and wait for somebody to settle them."""
    live = [run for run in workers.live() if not names or run["name"] in names]
    going = {run["run"] for run in live}
    left = [
        {"run": ledger.run, "name": ledger.name, "uuid": ledger.uuid, "dest": ledger.dest_host}
        for ledger in local.unfinished()
        if ledger.run not in going and (not names or ledger.name in names)
    ]
    left += [
        {"run": copy["run"], "name": copy["name"], "uuid": copy["uuid"], "dest": copy["dest_host"]}
        for copy in local.copies()
        if copy["run"] not in going and (not names or copy["name"] in names)
    ]
    return {"runs": live, "unfinished": left}


def _host(host: Host) -> Dict[str, str]:
    return {
        "uri": uris.redact(host.uri),
        "uuid": host.uuid,
        "hostname": host.hostname,
        "libvirt_version": ".".join(map(str, host.libvirt_version)),
        "hypervisor_version": ".".join(map(str, host.hypervisor_version)),
    }


def _leaving(host: Host, domain: Domain) -> bool:
    """Whether a migration away goes on: then a guest that is paused for migration is not one that has yet to run here.

    Where it arrives, libvirt tells nothing of the job.
    """
    if domain.reason != "migration":
        return False
    try:
        return host.job_stats(domain.uuid).get("operation") == MIGRATION_OUT
    except LibvirtFailure:
        return False


def state_at(host: Host, domain: Domain) -> str:
    """The domain's state on that host; one that is paused for a migration away is not one that arrives."""
    return state_of(domain, arriving=not _leaving(host, domain))


def _domain(host: Host, domain: Domain, detailed: bool) -> Dict[str, Any]:
    disks: List[Dict[str, Any]] = []
    more: Dict[str, Any] = {}
    # A domain can go away while the host is being looked at.
    with suppress(NotFound, Refusal):
        text = host.xml(domain.uuid)
        disks = [
            {
                "target": disk.target,
                "type": disk.type,
                "device": disk.device,
                "path": disk.source,
                "format": disk.format,
            }
            for disk in domain_xml.parse(text).disks
        ]
        more = {"needs": asdict(needs.of(text))} if detailed else {}
    return {
        "name": domain.name,
        "uuid": domain.uuid,
        "state": state_at(host, domain),
        "persistent": domain.persistent,
        "autostart": domain.autostart,
        "disks": disks,
        **more,
    }
