# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: placement
short_description: Compare the declared placement of VMs with where they are
version_added: 1.0.0
author: The kvmops.migration authors (@kvmops)
description:
  - Takes what every hypervisor said about its domains and answers which VM has to move from where to where.
  - A host that did not answer counts as running whatever is not seen elsewhere.
options:
  _input:
    description: The results of M(kvmops.migration.virt_migrate_info) by inventory name of the host.
    type: dict
    required: true
  vm:
    description: The VMs to look at, as a list or a comma list; without it all declared ones.
    type: raw
  dest:
    description: Where they shall live, as a list or a comma list (any of these, first fit); overrides the declaration.
    type: raw
  declared:
    description: The declared placement, C(migration_vms).
    type: dict
    default: {}
  inventory:
    description: All names of the inventory, to tell a host that is no hypervisor from one that does not exist.
    type: list
    elements: str
    default: []
  limits:
    description: How many moves may go on at a time, as O(kvmops.migration.virt_migrate_queue#module:limits).
    type: dict
  options:
    description: >-
      Options of M(kvmops.migration.virt_migrate) that every VM gets; an unknown name and a bad value are errors.
    type: dict
    default: {}
  every:
    description: >-
      Whether to plan a step to every host that is wished for, or that a VM without a wish could go to, and not only to
      the first that fits. It is there to judge all of them, as C(preflight.yml) does.
    type: bool
    default: false
  at_once:
    description: Whether whoever moves them keeps the limits, so that one group has them all.
    type: bool
    default: true
"""

EXAMPLES = r"""
---
- name: Show what would move
  ansible.builtin.debug:
    msg: "{{ facts | kvmops.migration.placement(vm='centos64a', dest='labkvm2') }}"
  vars:
    facts:
      labkvm1: "{{ hostvars['labkvm1'].migrate_info }}"
      labkvm2: "{{ hostvars['labkvm2'].migrate_info }}"
"""

RETURN = r"""
_value:
  description:
    - A mapping with C(moves) and C(settled), lists of steps with C(name), C(source), C(dest), C(state), C(mode),
      C(storage), C(cleanup) (only settle what a killed run has left), C(note), C(chosen) (of C(every), whether
      C(migrate.yml) would do it, null where it would do nothing without a host) and C(move) (as
      M(kvmops.migration.virt_migrate_queue) takes it), C(waves), the moves in groups, C(errors), a list of lines, and
      C(unfit), lines about hosts that a VM cannot go to while it can to others.
    - With any error nothing may be moved.
  type: dict
"""

from functools import partial

from ansible_collections.kvmops.migration.plugins.module_utils._pure.placement import plan
from ansible_collections.kvmops.migration.plugins.plugin_utils.values import problem


class FilterModule:
    """The filter M(kvmops.migration.placement)."""

    def filters(self):
        return {"placement": partial(plan, judge=problem)}
