#!/usr/bin/python
# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: virt_migrate
short_description: Let a libvirt VM live on another host
version_added: 0.1.0
description:
  - The wish is that the VM lives at the destination, and nowhere else. A VM that already does is left alone.
  - A running VM moves live, one that is shut off moves as a definition. The source's libvirt drives the
    destination (peer to peer).
  - Whether both hosts share a disk is proven by a probe file, never guessed. A shared disk is never copied;
    a disk that is not shared is copied while the VM runs.
  - What happened is decided from the VM's state on both hosts and not from an error code. While one of them
    does not answer, nothing is started, resumed, undefined or deleted.
author:
  - The kvmops.migration authors (@kvmops)
extends_documentation_fragment:
  - kvmops.migration.attributes
  - kvmops.migration.attributes.libvirt
attributes:
  check_mode:
    support: full
    details:
      - Finds every obstacle that the real run would find, by probe files that exist for the time of the
        check.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  name:
    description: Name of the VM.
    type: str
    required: true
    aliases: [guest]
  uri:
    description: URI of the libvirt that has the VM now, as seen from the host that the module runs on.
    type: str
    default: qemu:///system
  dest_uri:
    description:
      - URI of the libvirt that shall have the VM, C(driver[+transport]://[user@][host][:port]/path[?extra]).
      - Opened by the module and by the source's libvirt, with root's own credentials there.
      - Overrides O(dest_host). One of the two is needed.
    type: str
  dest_host:
    description:
      - Inventory name of the destination. The URI is built from its C(migration_address), else its
        C(ansible_host), else its name.
      - The destination's journal is read through Ansible's own login, so that an image which an earlier
        move of the VM left there can be replaced.
    type: str
  mode:
    description:
      - V(auto) moves a running VM live and one that is shut off as a definition.
      - V(live) and V(offline) refuse a VM that is in the other state.
    type: str
    default: auto
    choices: [auto, live, offline]
  storage:
    description:
      - V(auto) decides for each disk by evidence from both hosts.
      - V(shared) refuses a disk that is proven not shared, and believes it of one for which there is no
        proof.
      - V(copy) refuses a disk that is proven shared.
    type: str
    default: auto
    choices: [auto, shared, copy]
  copy_storage:
    description:
      - V(all) copies the disks that are not shared, V(none) copies none and refuses a disk that is not
        shared.
      - Cannot be combined with O(storage) other than V(auto).
    type: str
    choices: [none, all]
  migrate_disks:
    description:
      - Targets of the disks to copy, for example V(vda). By default all writable disks that are not
        shared.
    type: list
    elements: str
  persistent:
    description: Define the VM persistently at the destination.
    type: bool
    default: true
  undefine_source:
    description:
      - Take the definition away from the source. With V(false) the VM's autostart flag is cleared there.
    type: bool
    default: true
  unsafe:
    description:
      - Skip libvirt's own check of disks and their cache modes.
      - With O(copy_storage=none) also accept disks that are not shared. They are lost unless something else
        carries them over.
    type: bool
    default: false
  force:
    description:
      - Replace an image that lies at the destination already and that neither evidence nor the journal
        accounts for.
      - An image that another VM or a process has is never replaced.
    type: bool
    default: false
  migrate_uri:
    description:
      - Where the destination takes the VM's memory and disks in, C(tcp://ADDRESS[:PORT]).
      - With O(dest_host) the default is the destination's C(migration_address) where it has one.
    type: str
  bandwidth:
    description: Limit in MiB per second; V(0) is libvirt's default.
    type: int
  connect_timeout:
    description: Seconds that each host gets to answer when the connection is opened.
    type: int
    default: 20
  _dest_facts:
    description: What the destination says about itself. Filled by the action plugin, and refused in a playbook.
    type: dict
seealso:
  - module: kvmops.migration.virt_migrate_info
  - module: community.libvirt.virt
"""

EXAMPLES = r"""
---
- name: Let a VM live on another host of the inventory
  kvmops.migration.virt_migrate:
    name: centos64a
    dest_host: labkvm2

- name: Move it by URI, with the data on the private network
  kvmops.migration.virt_migrate:
    name: centos64a
    dest_uri: qemu+ssh://root@labkvm2/system
    migrate_uri: tcp://172.16.1.232

- name: See what would happen
  kvmops.migration.virt_migrate:
    name: centos64a
    dest_host: labkvm2
  check_mode: true
  diff: true
"""

RETURN = r"""
name:
  description: Name of the VM.
  returned: always
  type: str
  sample: centos64a
uuid:
  description: UUID of the VM, by which it was matched on both hosts.
  returned: when the VM was found
  type: str
outcome:
  description:
    - V(migrated), V(already_there), or V(planned) in check mode.
    - After a failure V(refused) (nothing was tried), V(failed) (the VM is where it was), V(split_brain),
      V(undetermined), V(postcopy_failed), V(crashed) or V(lost).
  returned: always
  type: str
  sample: migrated
source:
  description: The host that the VM left, with C(uri), C(host) and the VM's C(state) there afterwards.
  returned: when the VM was found
  type: dict
dest:
  description: The host that the VM came to, with C(uri), C(host) and the VM's C(state) there afterwards.
  returned: when the VM was found
  type: dict
mode:
  description: V(live), V(offline), or V(none) when nothing had to move.
  returned: when the VM was found
  type: str
storage:
  description: V(copy), V(shared), V(mixed) or V(none), over all disks.
  returned: when the VM was found
  type: str
transport:
  description: How the data travels.
  returned: when the VM was found
  type: str
  sample: native
flags:
  description: Flags of libvirt's migration call, without C(VIR_MIGRATE_).
  returned: when the VM was found
  type: list
  elements: str
params:
  description: Typed parameters of libvirt's migration call.
  returned: when the VM was found
  type: dict
downtime_ms:
  description: Milliseconds that the VM stood still, by libvirt's count.
  returned: when the VM was found
  type: int
  sample: 94
duration_s:
  description: Seconds of the module's own work.
  returned: always
  type: float
memory:
  description:
    - Statistics of the memory transfer, with C(bytes), C(iterations), C(dirty_rate) and C(throughput)
      (bytes per second).
  returned: when the VM was found
  type: dict
disk:
  description: Statistics of the disk transfer.
  returned: after a live move
  type: dict
disks:
  description:
    - The disks, each with C(target), C(source), C(format), C(action) (copy, shared or skip), C(evidence)
      and C(reason).
  returned: when the VM was found
  type: list
  elements: dict
series:
  description: Samples taken while the VM moved, at most 120.
  returned: when the VM was found
  type: list
  elements: dict
left_behind:
  description: Images that stay on the source, each with C(host), C(target) and C(path).
  returned: when the VM was found
  type: list
  elements: dict
actions:
  description: What was done to clean up after a failed move.
  returned: after a failed move
  type: list
  elements: str
failure_class:
  description: One word for the kind of failure.
  returned: on failure
  type: str
  sample: pool_missing
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

from ansible_collections.kvmops.migration.plugins.module_utils._migrate.answer import answer
from ansible_collections.kvmops.migration.plugins.module_utils._migrate.local import Local
from ansible_collections.kvmops.migration.plugins.module_utils._migrate.report import Request
from ansible_collections.kvmops.migration.plugins.module_utils._migrate.run import run
from ansible_collections.kvmops.migration.plugins.module_utils._pure.options import argument_spec


def main() -> None:
    module = AnsibleModule(
        argument_spec=argument_spec(),
        required_one_of=[("dest_uri", "dest_host")],
        supports_check_mode=True,
    )
    answer(module, lambda: run(Request(module.params, Local(module.run_command), module.check_mode, module._diff)))


if __name__ == "__main__":
    main()
