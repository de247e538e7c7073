# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""What virt_migrate would refuse of its arguments, on the controller: before hooks, and before a VM moves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.kvmops.migration.plugins.module_utils._pure import checks
from ansible_collections.kvmops.migration.plugins.module_utils._pure import options as table
from ansible_collections.kvmops.migration.plugins.module_utils._pure.refusal import Refusal

# Stands for the way to an inventory host, which is not known yet.
SOME_HOST = "qemu+ssh://root@host/system"


def problem(args: Mapping[str, Any]) -> str:
    """One line on what is wrong with the arguments of one call, or nothing."""
    validator = ArgumentSpecValidator(table.argument_spec())
    judged = validator.validate(plain(args))
    if judged.error_messages:
        return " ".join(judged.error_messages[0].split())
    values = judged.validated_parameters
    if values.get("dest_host") and not values.get("dest_uri"):
        values["dest_uri"] = SOME_HOST
    try:
        checks.check(values)
    except Refusal as refusal:
        return refusal.message
    return ""


def check_known(given: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Refuse a key that nobody knows, before anything is done."""
    for key in given:
        if key not in known:
            raise Refusal(f"{where}: {key!r} is not known", "bad_option", f"accepted: {', '.join(known)}")


def listed(value: Any) -> list[str]:
    """Names in a list, or in one text with commas, as Ansible's lists can be written."""
    names = value.split(",") if isinstance(value, str) else value or []
    return [str(name).strip() for name in names]


def plain(value: Any) -> Any:
    """Mappings and lists of Ansible's own kinds as those of Python, which the validator changes as it goes."""
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, (list, tuple)) else value
