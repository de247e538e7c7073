#!/usr/bin/python
# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: virt_migrate_queue
short_description: Let several libvirt VMs live on other hosts, so many moving at a time
version_added: 1.0.0
description:
  - Runs M(kvmops.migration.virt_migrate) on the source host of each move, through that host's own login, and shows how
    far they are.
  - A move begins as soon as the limits permit it. One that fails keeps no other one from going on.
  - Run it once, on any host (C(run_once)); it uses only the connections that the moves need.
  - In check mode it looks at the moves together, too. Where each VM fits on a host for itself, and the host has not the
    memory, huge pages or room for all of them, the first ones can move and the others are refused. A VM that could go
    to several hosts is left out there. What lies in two directories is taken for two file systems. Disks of VMs that
    are shut off are not counted.
author:
  - The kvmops.migration authors (@kvmops)
extends_documentation_fragment:
  - kvmops.migration.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  moves:
    description:
      - The moves, each with C(name) of the VM, C(source) (inventory name of the host that has it) and options of
        M(kvmops.migration.virt_migrate), such as C(dest_host).
    type: list
    elements: dict
    required: true
  options:
    description: Options of M(kvmops.migration.virt_migrate) for all moves; what a move says itself comes first.
    type: dict
    default: {}
  limits:
    description: How many moves may go on at a time.
    type: dict
    default: {}
    suboptions:
      source:
        description: From one host.
        type: int
        default: 2
      dest:
        description: To one host.
        type: int
        default: 2
      total:
        description: In all.
        type: int
        default: 5
seealso:
  - module: kvmops.migration.virt_migrate
"""

EXAMPLES = r"""
---
- name: Move two VMs at a time
  kvmops.migration.virt_migrate_queue:
    moves:
      - {name: centos64a, source: labkvm1, dest_host: labkvm2}
      - {name: centos64b, source: labkvm1, dest_host: labkvm2}
    options:
      policy: minimal_downtime
    limits:
      total: 2
  run_once: true
"""

RETURN = r"""
results:
  description:
    - What M(kvmops.migration.virt_migrate) returned, in the order of O(moves).
    - Where a run has not come so far that it knows both hosts, C(source) and C(dest) have the C(host) of the inventory.
  returned: always
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.kvmops.migration.plugins.module_utils._pure.queue import DEFAULTS


def main() -> None:
    limits = {name: {"type": "int", "default": number} for name, number in DEFAULTS.items()}
    module = AnsibleModule(
        argument_spec={
            "moves": {"type": "list", "elements": "dict", "required": True},
            "options": {"type": "dict", "default": {}},
            "limits": {"type": "dict", "default": {}, "options": limits},
        },
        supports_check_mode=True,
    )
    # The action plugin of this name does it all: only the controller reaches every host.
    module.fail_json(msg="virt_migrate_queue runs on the controller: call it by its full name in a task")


if __name__ == "__main__":
    main()
