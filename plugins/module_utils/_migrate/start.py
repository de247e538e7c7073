# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""Begins a run of virt_migrate, or of another module that moves a VM to another host."""

from __future__ import annotations

import time
from typing import Any, Dict, Mapping

from ansible.module_utils.common.parameters import remove_values

from .._images.look import Images
from .._pure import checks, domblk, outcome
from .._pure import options as table
from .._pure.domblk import Wish
from .._pure.refusal import Refusal
from .begin import COPIES, begin, new_worker
from .local import Local
from .report import Report, Request
from .run import run


def start(module: Any, options: Mapping[str, Any] | None = None, copy: Wish | None = None) -> Dict[str, Any]:
    """The result of the run, or `run` and `watching` for a controller that watches it.

    `options` are those of virt_migrate where the module has others, `copy` what it wants of the copies of files.
    """
    options = module.params if options is None else options
    try:
        checks.check(options)
    except Refusal as error:
        error.details = {**Report(options["name"], time.time()).finished(), "outcome": outcome.REFUSED, **error.details}
        raise
    request = request_of(module, options, Local(module.run_command), Images.of(module), copy, module.check_mode)
    return begin(module, options, request.worker, lambda: run(request))


def request_of(
    module: Any,
    options: Mapping[str, Any],
    local: Local,
    images: Images,
    copy: Wish | None = None,
    check_mode: bool = False,
) -> Request:
    """One call, which nobody has begun yet."""
    copy = copy or Wish(bandwidth=(options["bandwidth"] or 0) << 20)
    return Request(
        options,
        local,
        new_worker(options, told(options, copy)),
        check_mode,
        module._diff,
        copy=copy,
        images=images,
        cleaned=lambda result: dict(remove_values(result, module.no_log_values)),
    )


def told(options: Mapping[str, Any], copy: Wish) -> Dict[str, Any]:
    """What a run was told, for whoever wants to join it."""
    return {**table.told(options), COPIES: domblk.told(copy)}
