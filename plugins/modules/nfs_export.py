#!/usr/bin/python
# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nfs_export
short_description: One directory exported over NFS
version_added: 1.0.0
description:
  - The wish is that the directory is exported to the named clients with their options, and to nobody else in that file;
    or that the file does not export it.
  - All other lines of the file stay as they are to the byte, with comments, continued lines, quotes and escapes.
  - Before anything is written or made live, all files that C(exportfs) reads are tried out as they would be then, first
    by the module itself, then by C(exportfs) with a table of its own in a mount namespace of its own. C(exportfs -ra)
    on a file with a broken line would drop exports that are in use. One broken line, whoever wrote it, is an error that
    names file and line, and nothing has happened then.
  - The file is replaced at once, with its owner, mode and SELinux label. C(exportfs -ra) runs only when the file has
    changed, or when the live table does not have what the files say of this directory. Should it fail, the file is put
    back.
author:
  - The kvmops.migration authors (@kvmops)
extends_documentation_fragment:
  - kvmops.migration.attributes
attributes:
  check_mode:
    support: full
    details:
      - The exports are tried out as in a real run. Where C(exportfs) is not installed yet, the module warns that it has
        not been asked; that the directory is missing is not held against it.
  diff_mode:
    support: full
  idempotent:
    support: full
requirements:
  - C(exportfs) on the host (Debian C(nfs-kernel-server), the RHEL family C(nfs-utils))
options:
  path:
    description: The directory, which must be there.
    type: str
    required: true
  clients:
    description:
      - Everybody who may mount it, each a text like C(10.0.1.0/24(rw,sync\)) as in exports(5), or a dictionary of
        C(host) and C(options), which are a list or a text with commas.
      - A host is a name, an address, an IPv4 or IPv6 network, a C(@netgroup), a pattern like C(*.example.com), or C(*)
        for everybody.
      - Options are compared by what they come to. Their order does not matter, nor whether defaults are written.
        Options that exclude each other, as V(rw) and V(ro), are refused. A client without options may only read.
      - Needed for O(state=present), and not looked at for O(state=absent).
    type: list
    elements: raw
    default: []
  state:
    description: Whether the file exports the directory.
    type: str
    choices: [present, absent]
    default: present
  file:
    description:
      - The file that has the export, V(/etc/exports) or one like V(/etc/exports.d/vm.exports). One in
        C(/etc/exports.d) is made when it is needed, and removed when nothing is left in it.
    type: str
    default: /etc/exports
notes:
  - It needs root, and in a container the right to mount (C(CAP_SYS_ADMIN)) for the try in a namespace.
  - Without the NFS server running it does all the same; the table is read when the server starts.
  - V(rw) with V(no_root_squash) for everybody is done, and warned about.
seealso:
  - module: kvmops.migration.nfs_export_info
"""

EXAMPLES = r"""
---
- name: Export the images to the two hypervisors
  kvmops.migration.nfs_export:
    path: /vm
    clients:
      - host: 10.0.1.231
        options: [rw, no_root_squash, sync]
      - host: 10.0.1.232
        options: [rw, no_root_squash, sync]

- name: The same for a network, in a file of its own
  kvmops.migration.nfs_export:
    path: /vm
    file: /etc/exports.d/vm.exports
    clients: ["10.0.1.0/24(rw,no_root_squash,sync)", "fd00:1::/64(rw,no_root_squash,sync)"]

- name: Export it no longer
  kvmops.migration.nfs_export:
    path: /vm
    state: absent
"""

RETURN = r"""
export:
  description: The export as it was asked for.
  returned: success
  type: dict
  contains:
    path:
      description: The directory.
      returned: always
      type: str
      sample: /vm
    file:
      description: The file that has the export, or has it no longer.
      returned: always
      type: str
      sample: /etc/exports
    clients:
      description: Its clients, each with C(host) and the list C(options). Empty for O(state=absent).
      returned: always
      type: list
      elements: dict
active:
  description: The live table of the host after the run, in check mode as it is now.
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
      sample: 10.0.1.0/24
    options:
      description: All of its options, defaults too.
      returned: always
      type: list
      elements: str
problems:
  description: Every line that is broken, each with C(file), C(line) and C(problem).
  returned: when the exports are broken
  type: list
  elements: dict
failure_class:
  description: One word for the kind of failure.
  returned: on failure
  type: str
cure:
  description: What helps.
  returned: on failure
  type: str
role:
  description: The role of this collection that does it.
  returned: on failure, where there is one
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.kvmops.migration.plugins.module_utils._answer import leave
from ansible_collections.kvmops.migration.plugins.module_utils._exports.manage import ensure


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "str", "required": True},
            "clients": {"type": "list", "elements": "raw", "default": []},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "file": {"type": "str", "default": "/etc/exports"},
        },
        supports_check_mode=True,
    )
    leave(module, lambda: ensure(module))


if __name__ == "__main__":
    main()
