# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""From what the engine found to what a module prints."""

from __future__ import annotations

from typing import Any, Callable, Dict

from .. import _libvirt
from .._pure import uri as uris
from .._pure.refusal import Refusal


def answer(module: Any, act: Callable[[], Dict[str, Any]]) -> None:
    """Leave the module with the result of `act`, or with the refusal that it raised."""
    module.no_log_values |= uris.secrets(*(value for value in module.params.values() if isinstance(value, str)))
    try:
        _libvirt.require()
        result = act()
    except Refusal as refusal:
        failure = refusal.result()
        _warn(module, failure)
        module.fail_json(msg=refusal.message, **failure)
    _warn(module, result)
    module.exit_json(**result)


def _warn(module: Any, result: Dict[str, Any]) -> None:
    for text in result.pop("warnings", []):
        module.warn(text)
