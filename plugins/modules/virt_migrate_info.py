#!/usr/bin/python
# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: virt_migrate_info
short_description: What one libvirt host says about itself and its VMs
version_added: 1.0.0
description:
  - Tells who the host is, which VMs it knows and in which state, its storage pools, and which images
    earlier moves left behind on it.
author:
  - The kvmops.migration authors (@kvmops)
extends_documentation_fragment:
  - kvmops.migration.attributes.libvirt
  - kvmops.migration.attributes
  - kvmops.migration.attributes.info_module
options:
  name:
    description: Names of the VMs to tell about. By default all.
    type: list
    elements: str
    default: []
    aliases: [guest]
  uri:
    description: URI of the libvirt to ask.
    type: str
    default: qemu:///system
  connect_timeout:
    description: Seconds that the host gets to answer when the connection is opened.
    type: int
    default: 20
  facts:
    description:
      - Tell also what VMs need of a host, which M(kvmops.migration.virt_migrate) judges before a move. It is
        returned in RV(ignore:host.facts).
      - What only the host's own files tell is there only where the module runs on that host.
      - Where a storage pool or an image lies on NFS, a small file is made there as QEMU's user and as root, and removed
        at once; it is removed by the next call where this one was killed.
    type: bool
    default: false
    version_added: 1.0.0
  records:
    description:
      - Tell also the newest record of each VM that a run of this collection has left on this host, whether the VM is
        still there or not. It is returned in RV(records).
    type: bool
    default: false
    version_added: 1.0.0
  dest_hosts:
    description:
      - Inventory names of hosts to which the VMs could move, or not. The host itself is left out.
      - It is found out as in check mode of M(kvmops.migration.virt_migrate), by connections that all VMs share, and
        returned in RV(moves) and RV(matrix).
    type: list
    elements: str
    default: []
    version_added: 1.0.0
  options:
    description: Options of M(kvmops.migration.virt_migrate) with which they would move.
    type: dict
    default: {}
    version_added: 1.0.0
  _moves:
    description: The moves that are judged. Filled by the action plugin, and refused in a playbook.
    type: list
    elements: dict
seealso:
  - module: kvmops.migration.virt_migrate
"""

EXAMPLES = r"""
---
- name: See where the VMs are
  kvmops.migration.virt_migrate_info:
  register: info

- name: See which VMs of this host could move to which of the others, and what is in the way of those that could not
  kvmops.migration.virt_migrate_info:
    dest_hosts: "{{ groups['hypervisors'] }}"
  register: info
"""

RETURN = r"""
host:
  description:
    - Who the host is, with C(uri), C(uuid), C(hostname), C(libvirt_version) and C(hypervisor_version).
    - C(certificates) for migration over TLS, with C(directory), C(files) (those of them that are there) and
      C(verify) (whether a client needs its own). Null where the module does not run on that host.
    - With O(facts), C(facts) of what VMs can have there, such as C(machines), C(networks), C(memory), C(secrets),
      C(interfaces), C(mounts), C(writes) (on NFS), C(qemu_user), C(selinux) and C(listening) (ports).
  returned: success
  type: dict
domains:
  description:
    - The VMs, each with C(name), C(uuid), C(state), C(persistent), C(autostart) and C(disks), and with O(facts)
      with what it C(needs) of its host.
    - States are V(running), V(paused), V(postcopy_failed), V(incoming), V(shut_off), V(crashed) and
      V(unknown).
  returned: success
  type: list
  elements: dict
pools:
  description: The storage pools, each with C(name), C(path) and C(active).
  returned: success
  type: list
  elements: dict
journal:
  description:
    - Images that moves left behind on this host, each with C(uuid) and C(name) of the VM, C(path),
      C(target), C(run), C(left_at), C(locked) and C(state), which is V(unchanged), V(changed), V(gone), or V(unsettled)
      for the same file of a run that was killed before it could tell in which state it left that.
    - Empty where the module does not run on the host that O(uri) leads to.
  returned: success
  type: list
  elements: dict
runs:
  description:
    - The runs of M(kvmops.migration.virt_migrate) that go on here, each with C(run), C(name) of the VM, C(source),
      C(dest), C(phase), C(line) for a person, C(ending) (whether its end was asked for), and while data travels
      C(percent), C(memory), C(disk), C(throughput), C(dirty_rate), C(iteration), C(elapsed), C(next) and C(actions).
    - Empty where the module does not run on the host that O(uri) leads to.
  returned: success
  type: list
  elements: dict
unfinished:
  description:
    - Runs that have left from here and were killed, or could not tell where the VM is, each with C(run), C(name) and
      C(uuid) of the VM and C(dest). The next run with the VM settles them.
    - Empty where the module does not run on the host that O(uri) leads to.
  returned: success
  type: list
  elements: dict
records:
  description:
    - The records, each of which is what M(kvmops.migration.virt_migrate) or M(kvmops.migration.virt_domblk_copy)
      answered, without C(diff). M(kvmops.migration.virt_migrate_report) makes a page of them.
    - Empty where the module does not run on the host that O(uri) leads to.
  returned: with O(records)
  type: list
  elements: dict
moves:
  description:
    - What M(kvmops.migration.virt_migrate) answers in check mode, for each VM and each of O(dest_hosts); C(name) and
      C(dest_host) tell which, C(failed) whether something is in the way, C(checks) all that was looked at.
  returned: with O(dest_hosts)
  type: list
  elements: dict
matrix:
  description: By name of the VM and of the host, C(outcome) of the same; it could move where that is V(planned).
  returned: with O(dest_hosts)
  type: dict
  sample:
    centos64a:
      labkvm2: planned
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
from ansible_collections.kvmops.migration.plugins.module_utils._libvirt import needing
from ansible_collections.kvmops.migration.plugins.module_utils._migrate.judged import tell


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "list", "elements": "str", "default": [], "aliases": ["guest"]},
            "uri": {"type": "str", "default": "qemu:///system"},
            "connect_timeout": {"type": "int", "default": 20},
            "facts": {"type": "bool", "default": False},
            "records": {"type": "bool", "default": False},
            # The action plugin makes moves of these two.
            "dest_hosts": {"type": "list", "elements": "str", "default": []},
            "options": {"type": "dict", "default": {}},
            "_moves": {"type": "list", "elements": "dict"},
        },
        supports_check_mode=True,
    )
    leave(module, needing(lambda: tell(module)))


if __name__ == "__main__":
    main()
