# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""What hosts have told of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PREFIX = "ansible_"


def told(variables: Mapping[str, Any], registered: str) -> dict[str, Any]:
    """The facts in a registered answer of M(ansible.builtin.setup), by their names without prefix.

    Not those in C(ansible_facts): hosts share one set of them after a C(set_fact) with C(run_once) in ansible-core
    2.21, and the last one to be asked speaks for all then.
    """
    facts = (variables.get(registered) or {}).get("ansible_facts") or {}
    return {name[len(PREFIX) :] if name.startswith(PREFIX) else name: value for name, value in facts.items()}
