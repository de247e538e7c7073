# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""Everything about the options of virt_migrate that can be judged before a connection is used."""

from __future__ import annotations

from typing import Any, Dict, Mapping

from . import domain_xml, schedule
from . import options as table
from . import uri as uris
from .domain_xml import Definition
from .refusal import Refusal
from .uri import Uri


def check(values: Mapping[str, Any]) -> None:
    """Refuse values, combinations, URIs and XML that cannot work."""
    table.validate(values)
    schedule.build(values)
    _check_name_of_certificate(values)
    source = uris.parse(values["uri"], "uri")
    definitions(values)
    if values.get("dest_uri"):
        _check_drivers(values, source, uris.parse(values["dest_uri"], "dest_uri"))
    elif not (values["cleanup"] or values["cancel"]):
        host = values.get("dest_host")
        raise Refusal(
            f"dest_host: {host!r} is an inventory name, and the bare module knows no inventory"
            if host
            else "no destination was given",
            "bad_option",
            "give dest_uri, for example qemu+ssh://root@kvm2/system",
        )


def _check_name_of_certificate(values: Mapping[str, Any]) -> None:
    """libvirt says so when the memory is about to travel (qemu_migration.c, qemuMigrationSrcPerformNative)."""
    migrate_uri = values["migrate_uri"] or ""
    if values["tls"] == "true" and migrate_uri.startswith("unix:") and not values["tls_destination"]:
        raise Refusal(
            f"tls: true with migrate_uri: {migrate_uri} needs tls_destination: a socket file has no name that the"
            " destination's certificate could be compared with",
            "bad_combination",
            "add tls_destination: HOST, or leave tls out",
        )


def definitions(values: Mapping[str, Any]) -> Dict[str, Definition]:
    """By option, what the XML that was given describes."""
    return {
        option.name: domain_xml.given(values[option.name], option.name)
        for option in table.SECRET
        if values.get(option.name) is not None
    }


def _check_drivers(values: Mapping[str, Any], source: Uri, dest: Uri) -> None:
    if source.driver != dest.driver:
        raise Refusal(
            f"dest_uri: {uris.redact(values['dest_uri'])!r} has the driver {dest.driver}, and uri has {source.driver}",
            "bad_option",
            "a VM moves between hosts of one hypervisor: give both URIs the same driver",
        )
    if values["control"] == "unmanaged" and source.driver != "xen":
        raise Refusal(
            f"control: unmanaged is for xen URIs only, and uri has the driver {source.driver}: there both ends are"
            " prepared and settled by libvirt",
            "bad_combination",
            "leave control at p2p, or say control: direct",
        )
