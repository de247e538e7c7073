#!/usr/bin/python
# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nfs_export_info
short_description: What a host exports over NFS
version_added: 1.0.0
description:
  - Tells the exports in C(/etc/exports) and C(/etc/exports.d), what is wrong with these files, and which exports are
    live.
  - A broken file is a part of the answer, and no failure.
author:
  - The kvmops.migration authors (@kvmops)
extends_documentation_fragment:
  - kvmops.migration.attributes
  - kvmops.migration.attributes.info_module
options: {}
seealso:
  - module: kvmops.migration.nfs_export
"""

EXAMPLES = r"""
---
- name: See what is exported
  kvmops.migration.nfs_export_info:
  register: nfs

- name: Fail where the files are broken, or the images are not exported
  ansible.builtin.assert:
    that:
      - nfs.problems | length == 0
      - "'/vm' in nfs.active | map(attribute='path')"
"""

RETURN = r"""
exports:
  description: The exports in the files.
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: The directory.
      returned: always
      type: str
      sample: /vm
    file:
      description: The file that it is in.
      returned: always
      type: str
      sample: /etc/exports
    line:
      description: The line there.
      returned: always
      type: int
    clients:
      description: Its clients.
      returned: always
      type: list
      elements: dict
      contains:
        host:
          description: The client, V(*) for everybody.
          returned: always
          type: str
          sample: 10.0.1.0/24
        options:
          description: Its options, with the default options of its line.
          returned: always
          type: list
          elements: str
problems:
  description: Every line that C(exportfs) would stumble over, as far as the text alone tells.
  returned: success
  type: list
  elements: dict
  contains:
    file:
      description: The file.
      returned: always
      type: str
    line:
      description: The line there.
      returned: always
      type: int
    problem:
      description: What is wrong with it.
      returned: always
      type: str
active:
  description: The live table.
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: The directory, where links lead to.
      returned: always
      type: str
      sample: /vm
    client:
      description: The client, V(*) for everybody.
      returned: always
      type: str
    options:
      description: All of its options, defaults too.
      returned: always
      type: list
      elements: str
failure_class:
  description: One word for the kind of failure.
  returned: on failure
  type: str
cure:
  description: What helps.
  returned: on failure
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.kvmops.migration.plugins.module_utils._answer import leave
from ansible_collections.kvmops.migration.plugins.module_utils._exports.manage import gather


def main() -> None:
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    leave(module, gather)


if __name__ == "__main__":
    main()
