# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""The disks of VMs: what libvirt says of them, what their images say, and where those are. Nothing is changed."""

from __future__ import annotations

import posixpath
from typing import Any, Dict, Mapping, Sequence

from .._images.look import TOOL, Images, disk_of
from .._libvirt import Domain, Host, LibvirtFailure, NotFound
from .._migrate.info import state_at
from .._migrate.place import connect, refusal
from .._pure import domain_xml, guest, images
from .._pure import uri as uris


def gather(uri: str, names: Sequence[str], timeout: float, here: Images) -> Dict[str, Any]:
    """The disks of the VMs behind the URI; `names` narrows the VMs down."""
    local = uris.parse(uri, "uri").is_local
    host = connect(uri, timeout, "uri", read_only=True)
    try:
        found = [domain for domain in host.domains() if not names or domain.name in names]
        domains = [answer for answer in (_domain(host, domain, here if local else None) for domain in found) if answer]
    except LibvirtFailure as error:
        raise refusal(error, f"{uris.redact(uri)} cannot be read") from error
    finally:
        host.close()
    blind = local and not here.has_tool and any(_unread(disk) for domain in domains for disk in domain["disks"])
    warnings = [f"{TOOL} is not installed here: what is in images other than raw ones is not known"] if blind else []
    return {"changed": False, "domains": domains, "warnings": warnings}


def _unread(disk: Mapping[str, Any]) -> bool:
    return any(image["state"] == images.UNREAD for image in disk["chain"])


def _domain(host: Host, domain: Domain, here: Images | None) -> Dict[str, Any] | None:
    """One VM, or None for one that went away while it was looked at."""
    try:
        text = host.xml(domain.uuid)
        definition = domain_xml.parse(text)
        return {
            "name": domain.name,
            "uuid": domain.uuid,
            "state": state_at(host, domain),
            "disks": [disk_of(host, domain.uuid, disk, here).plain() for disk in definition.disks],
            "nvram": _nvram(definition.nvram, domain_xml.nvram_template(text), here),
            "tpm": _tpm(host, domain, text, here),
        }
    except NotFound:
        return None


def _nvram(path: str, template: str, here: Images | None) -> Dict[str, Any] | None:
    if not path:
        return None
    return {"path": path, "template": template or None, "allocated": here.usage(path) if here is not None else None}


def _tpm(host: Host, domain: Domain, text: str, here: Images | None) -> Dict[str, Any] | None:
    # Where libvirt keeps it for the sessions of users depends on the user.
    default = posixpath.join(guest.TPM_STATE, domain.uuid) if uris.parse(host.uri).path == "/system" else ""
    if not guest.has_emulated_tpm(text):
        return None
    path = guest.tpm_state(text, default)
    return {"path": path or None, "allocated": here.usage(path) if here is not None and path else None}
