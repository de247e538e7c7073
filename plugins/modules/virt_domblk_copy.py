#!/usr/bin/python
# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: virt_domblk_copy
short_description: Move the disks of a VM to another place, or with a shut-off VM to another host
version_added: 1.0.0
description:
  - The wish is that the disks of the VM are where O(dest_dir) or O(path_map) say, and that its definition names them
    there. Disks that already are, are left alone.
  - Of a VM that is shut off the images are copied under temporary names, read back and compared; then they get their
    names, and then the definition is changed. Of a running VM QEMU copies the images (C(virsh blockcopy)), and the VM
    goes over to the copies without a pause.
  - With O(dest_host) or O(dest_uri) the VM, which must be shut off, moves to that host with its images, what those are
    based on, its UEFI variables and the state of its TPM. It is there afterwards and nowhere else, or untouched.
    M(kvmops.migration.virt_migrate) does the same for a VM that is shut off; this module has more to say about the
    copies.
  - An image is copied as the file that it is, and only what it holds data for is read, sent and written. So internal
    snapshots, bitmaps, compression, encryption and holes survive. Where a copy of an earlier move is still at the
    destination, only what has changed is sent.
  - The images are locked while they are copied, as QEMU locks them, so that nobody can start the VM meanwhile.
  - Whatever is interrupted is settled by the next run with the VM, or by C(recover.yml). Nothing of it is left then.
author:
  - The kvmops.migration authors (@kvmops)
extends_documentation_fragment:
  - kvmops.migration.attributes.libvirt
  - kvmops.migration.attributes
attributes:
  check_mode:
    support: full
    details:
      - Finds every obstacle that the real run would find, and tells of each file what would be done, why, and how many
        bytes that is.
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
    description: URI of the libvirt that has the VM. It must be that of the host that the module runs on.
    type: str
    default: qemu:///system
  dest_uri:
    description:
      - URI of the libvirt that shall have the VM. The images travel to the host in it by ssh, with root's own login
        there; see role P(kvmops.migration.ssh_trust#role).
      - Overrides O(dest_host).
    type: str
  dest_host:
    description:
      - Inventory name of the host that shall have the VM. The URI is built from its C(migration_address), else its
        C(ansible_host), else its name.
    type: str
  connect_timeout:
    description: Seconds for each connection to be opened.
    type: int
    default: 20
  disks:
    description:
      - Targets of the disks that are meant by the other options, such as V(vda). By default all that can be written to
        and have an image, but for devices that O(path_map) does not name.
      - To another host all files go that the two hosts do not share. A disk of another kind (a block device or a
        volume) cannot be copied there; one that is left out here is taken to be on storage that both hosts share, and
        stays as it is.
    type: list
    elements: str
  dest_dir:
    description:
      - Directory in which the images shall be, under their own names. It must exist.
      - A disk that is a device becomes a file there only where O(disks) names it.
    type: str
  path_map:
    description:
      - Where images shall be, by where they are. Keys and values are absolute paths of images, or of directories with
        everything in them. The longest key that fits counts; one that fits no image is refused.
      - A value can be a block device that is as large as the image at least; on another host by its path below C(/dev).
        One that holds something is overwritten only with O(force).
    type: dict
  format:
    description:
      - Format that the images shall have. By default each keeps its own.
      - Another format keeps only what the VM sees of the disk. Refused where that loses internal snapshots, bitmaps or
        encryption, unless O(force) is said.
      - The name of an image stays, whatever its suffix says. C(web1.img) that becomes qcow2 is C(web1.img) still,
        and the definition of the VM says what it is; only O(path_map) gives it another name.
    type: str
    choices: [raw, qcow2]
  backing:
    description:
      - V(keep) leaves an image on top of what it is based on. On this host that stays where it is; to another host it
        goes along, once for all disks that are based on it and not at all where the very same is there.
      - V(flatten) makes one whole image of it.
    type: str
    default: keep
    choices: [keep, flatten]
  bandwidth:
    description: Limit in MiB per second, up to 8796093022207; V(0) is no limit.
    type: int
  verify:
    description:
      - Read every copy back and compare it with its source before it gets its name.
      - Of a copy that is brought up to date, what was not written to is not read a second time, unless another process
        has opened the file meanwhile.
      - Means nothing for a running VM, whose disk QEMU copies.
    type: bool
    default: true
  encrypt:
    description:
      - Send the images through ssh. With V(false) their data, and nothing else, goes in clear to a port of 49152 to
        49215 of the destination, which listens for this one copy and lets nobody in who does not know its key.
    type: bool
    default: true
  remove_source:
    description:
      - Remove the images where they were, once the VM has them at the new place. Not where they are no longer the files
        that were copied, where another VM uses them, or where they are block devices.
    type: bool
    default: false
  undefine_source:
    description: Whether the VM that goes to another host is no longer defined on this one.
    type: bool
    default: true
  force:
    description:
      - Replace files that are in the way, and give up what O(format) loses.
      - Files in the way of a VM that runs stay where they are, and it is refused - QEMU makes new ones for it.
    type: bool
    default: false
  progress:
    description: Whether lines about the progress are printed while it goes on.
    type: bool
    default: true
  on_controller_loss:
    description: What becomes of a copy whose controller is gone.
    type: str
    default: continue
    choices: [continue, cancel]
  _watch:
    description: Set by the collection's own action plugin, which watches the run.
    type: bool
    default: false
  _dest_facts:
    description: What the destination says about itself. Filled by the action plugin, and refused in a playbook.
    type: dict
notes:
  - Runs on the host that has the VM, as root.
  - To another host the images keep their paths unless O(dest_dir) or O(path_map) is given.
  - A new image belongs to root with mode 0600; libvirt gives it to QEMU while the VM runs.
seealso:
  - module: kvmops.migration.virt_domblk_info
  - module: kvmops.migration.virt_migrate
  - name: Snapshots, checkpoints and block jobs
    description: What libvirt says of copies of disks of running VMs.
    link: https://libvirt.org/kbase/live_full_disk_backup.html
"""

EXAMPLES = r"""
---
- name: Move the disks of a VM to another directory, whether it runs or not
  kvmops.migration.virt_domblk_copy:
    name: centos64a
    dest_dir: /vmdata
    remove_source: true

- name: Move one disk to a logical volume
  kvmops.migration.virt_domblk_copy:
    name: centos64a
    disks: [vdb]
    path_map:
      /vm/centos64a-data.img: /dev/vg0/centos64a-data

- name: Move a VM that is shut off to another host, with its disks in another directory there
  kvmops.migration.virt_domblk_copy:
    name: centos64a
    dest_host: labkvm2
    dest_dir: /vmdata
"""

RETURN = r"""
outcome:
  description:
    - V(copied) or V(already_there) on this host; to another one it is as of M(kvmops.migration.virt_migrate).
    - V(planned) in check mode; V(refused), V(failed) or V(undetermined) on failure.
  returned: always
  type: str
  sample: copied
name:
  description: Name of the VM.
  returned: always
  type: str
uuid:
  description: UUID of the VM.
  returned: when it was found
  type: str
state:
  description: State of the VM when it was looked at.
  returned: on this host, when it was found
  type: str
  sample: running
host:
  description: Name of the host.
  returned: on this host, when the VM was found
  type: str
disks:
  description:
    - The disks that move, each with C(target), C(source), C(dest) and C(format); on this host also whether the new
      place is a device (C(block)) and whether what lies below becomes a part of the image (C(flat)).
    - To another host they, and all else in the result, are as of M(kvmops.migration.virt_migrate).
  returned: always
  type: list
  elements: dict
files:
  description:
    - The files that are copied, each with C(target) (that of a disk, C(nvram) or C(tpm)), C(source), C(dest),
      C(format), C(action) (copy, update, convert, keep or block_copy), C(reason), and C(bytes), which is what it holds
      data for; of an image that is made anew it is what that may need at most.
  returned: when something is to be copied
  type: list
  elements: dict
bytes_sent:
  description: Bytes that were written to the other end, on this host.
  returned: after a copy of images of a VM that is shut off
  type: int
copied:
  description: C(bytes_sent), and C(seconds) of the copies, to another host.
  returned: after a copy to another host
  type: dict
removed:
  description: Paths of the images that were removed.
  returned: with O(remove_source)
  type: list
  elements: str
left_behind:
  description: Images that stay where they were, each with C(host), C(target) and C(path).
  returned: after a copy
  type: list
  elements: dict
adopted:
  description: The run that was going on already, and that this call has joined, or would join in check mode.
  returned: when there was one
  type: str
run:
  description:
    - Name of the run. What it has answered is kept as its record on the host that it ran on, in
      C(/var/lib/kvmops-migration/runs). The newest 100 are kept.
  returned: when something was begun
  type: str
  sample: 1795715649-5c32e813
began:
  description: When the run began, in seconds since 1970.
  returned: when something was begun
  type: float
  sample: 1795715649.312
steps:
  description: The steps of the run, each with C(step) and C(t), in seconds since the run began.
  returned: when something was begun
  type: list
  elements: dict
  sample: [{"t": 0.0, "step": "checking"}, {"t": 0.025, "step": "journalled"}, {"t": 0.031, "step": "copying"}]
series:
  description:
    - Samples taken while images were copied, at most 120, each with C(t) (seconds since the beginning of that),
      C(disk_processed) and C(disk_remaining) in bytes, and C(throughput) in bytes per second, but for the first moment.
  returned: when something was copied
  type: list
  elements: dict
settled:
  description: What was settled of earlier runs that had been killed, each with C(run) and C(outcome).
  returned: when there was something
  type: list
  elements: dict
duration_s:
  description: Seconds.
  returned: always
  type: float
failure_class:
  description: One word for the kind of failure.
  returned: on failure
  type: str
  sample: no_space
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
from ansible_collections.kvmops.migration.plugins.module_utils._domblk.start import argument_spec, start
from ansible_collections.kvmops.migration.plugins.module_utils._libvirt import needing


def main() -> None:
    module = AnsibleModule(
        argument_spec=argument_spec(), supports_check_mode=True, mutually_exclusive=[("dest_dir", "path_map")]
    )
    leave(module, needing(lambda: start(module)))


if __name__ == "__main__":
    main()
