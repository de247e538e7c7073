#!/usr/bin/python
# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: virt_migrate_report
short_description: A page about moves of libvirt VMs, made of the records that they leave
version_added: 1.0.0
description:
  - Writes one HTML file on the controller with the course of each run, plots of memory and disks that were still to be
    sent, of throughput, dirty rate and what the policy did about it, both downtimes, both hosts, the checks, and what
    has become of the VM, with what helps where it has not moved.
  - The file needs nothing else. It loads nothing, has no script, follows the reader's choice of light or dark, and can
    be printed.
  - The page follows from the records alone, so that the same records change nothing. It does not say when it was made.
  - No host is touched. Run it once (C(run_once)).
author:
  - The kvmops.migration authors (@kvmops)
extends_documentation_fragment:
  - kvmops.migration.attributes
attributes:
  check_mode:
    support: full
    details:
      - Whether a file can be written at O(path) is looked at in check mode too.
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  path:
    description:
      - The file, on the controller. A path that is not absolute begins where C(ansible-playbook) was called.
      - Its directory must be there. A file that is there is replaced.
    type: path
    required: true
  results:
    description:
      - What M(kvmops.migration.virt_migrate), M(kvmops.migration.virt_migrate_queue) (its RV(ignore:results)) or
        M(kvmops.migration.virt_domblk_copy) answered, also where they have failed.
      - Of a run that has left a record the record is shown. A VM that had nothing to move is shown by its last record.
    type: list
    elements: dict
    default: []
  records:
    description:
      - What M(kvmops.migration.virt_migrate_info) returned on all hypervisors as
        RV(kvmops.migration.virt_migrate_info#module:records). A record is on the host that the VM left.
      - Of a VM that is not in O(results) the newest one is shown.
    type: list
    elements: dict
    default: []
seealso:
  - module: kvmops.migration.virt_migrate
  - module: kvmops.migration.virt_migrate_info
"""

EXAMPLES = r"""
---
- name: Move a VM
  kvmops.migration.virt_migrate:
    name: centos64a
    dest_host: labkvm2
  register: moved
  failed_when: false

- name: Make a page of how it went
  kvmops.migration.virt_migrate_report:
    path: /srv/reports/centos64a.html
    results: ["{{ moved }}"]

- name: Ask this host for the last record of each VM that has left it
  kvmops.migration.virt_migrate_info:
    records: true
  register: info

- name: Make one page of all of them
  kvmops.migration.virt_migrate_report:
    path: /srv/reports/{{ inventory_hostname }}.html
    records: "{{ info.records }}"
"""

RETURN = r"""
path:
  description: The file, as an absolute path.
  returned: success
  type: str
  sample: /srv/reports/centos64a.html
runs:
  description: The runs that the page shows, each with C(name) of the VM, C(run) (empty for one that has begun nothing)
    and C(outcome).
  returned: success
  type: list
  elements: dict
  sample: [{"name": "centos64a", "run": "1795715649-5c32e813", "outcome": "migrated"}]
msg:
  description: One line for a person.
  returned: always
  type: str
  sample: the report of centos64a is at /srv/reports/centos64a.html
"""

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "results": {"type": "list", "elements": "dict", "default": []},
            "records": {"type": "list", "elements": "dict", "default": []},
        },
        supports_check_mode=True,
    )
    # The action plugin of this name does it all: the page is made on the controller.
    module.fail_json(msg="virt_migrate_report runs on the controller: call it by its full name in a task")


if __name__ == "__main__":
    main()
