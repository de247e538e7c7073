# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""From what the engine found to what a module prints."""

from __future__ import annotations

import traceback
from typing import Any, Callable, Dict

from ansible.module_utils.common.parameters import remove_values

from ._pure import outcome
from ._pure import uri as uris
from ._pure.refusal import Refusal

# The ledger of the run is still there.
BROKE_DOWN = "run again, which settles what it has left, and report this as a fault of the collection"
Act = Callable[[], Dict[str, Any]]


def leave(module: Any, act: Act) -> None:
    """Leave the module with the result of `act`, or with the refusal that it raised."""
    module.no_log_values |= uris.secrets(*(value for value in module.params.values() if isinstance(value, str)))
    result = _result(act)
    for text in result.pop("warnings", []):
        module.warn(text)
    if result.pop("failed", False):
        module.fail_json(**result)
    module.exit_json(**result)


def kept(module: Any, act: Act) -> Dict[str, Any]:
    """The same answer for somebody who fetches it later: whole, and without what must not be shown."""
    try:
        result = _result(act)
    except Exception as error:  # noqa: BLE001 - whoever watches must hear of it
        result = {
            "failed": True,
            "changed": True,
            "outcome": outcome.UNDETERMINED,
            "failure_class": "broke_down",
            "cure": BROKE_DOWN,
            "msg": f"the run broke down: {error}; cure: {BROKE_DOWN}",
            "exception": traceback.format_exc(),
        }
    return dict(remove_values(result, module.no_log_values))


def _result(act: Act) -> Dict[str, Any]:
    try:
        return act()
    except Refusal as refusal:
        return {"failed": True, "msg": refusal.message, **refusal.result()}
