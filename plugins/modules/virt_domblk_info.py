#!/usr/bin/python
# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: virt_domblk_info
short_description: The disks of VMs, their images, and where those are
version_added: 1.0.0
description:
  - Tells what C(virsh domblklist --details) and C(virsh domblkinfo) know of the disks of running and stopped VMs, and
    beyond that what is in their images, what those are based on, which pool and file system they are on, and which
    other files the VM has (UEFI variables, state of a TPM).
  - Images are opened as what the VM's definition, or the image above, declares them to be. What they are is never
    guessed from their content, which is the guest's.
  - What is missing, locked or not readable is a part of the answer, and no failure.
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
    description:
      - URI of the libvirt to ask.
      - Where it leads to another host than the module runs on, only what that libvirt tells is known. The images in a
        chain are then those in the VM's XML, and neither they nor file systems are looked at.
    type: str
    default: qemu:///system
  connect_timeout:
    description: Seconds that the host gets to answer when the connection is opened.
    type: int
    default: 20
notes:
  - Without C(qemu-img) on the host (Debian C(qemu-utils), the RHEL family C(qemu-img)) only the file of an image that
    is not raw is known, and not what is in it. The module warns of that.
  - As root it sees every image. What another user may not read has the state V(denied).
seealso:
  - module: kvmops.migration.virt_migrate_info
"""

EXAMPLES = r"""
---
- name: See what disks all VMs have
  kvmops.migration.virt_domblk_info:
  register: info

- name: Name the images that a VM needs
  ansible.builtin.debug:
    msg: "{{ item.target }}: {{ item.chain | map(attribute='path') | join(' <- ') }}"
  loop: "{{ (info.domains | selectattr('name', 'eq', 'centos64a') | first).disks }}"
  loop_control:
    label: "{{ item.target }}"
"""

RETURN = r"""
domains:
  description: The VMs, each with these. What is not known is null everywhere.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      returned: always
      type: str
      sample: centos64a
    uuid:
      description: Its UUID.
      returned: always
      type: str
    state:
      description: A state as of M(kvmops.migration.virt_migrate_info).
      returned: always
      type: str
      sample: running
    disks:
      description: Its disks; those of the running VM where it runs, else those of its definition.
      returned: always
      type: list
      elements: dict
      contains:
        target:
          description: Its name in the VM.
          returned: always
          type: str
          sample: vda
        device:
          description: V(disk), V(cdrom), V(floppy) or V(lun).
          returned: always
          type: str
        type:
          description: What the source is, for example V(file), V(block), V(network), V(volume) or V(dir).
          returned: always
          type: str
        bus:
          description: How it is attached, for example V(virtio).
          returned: always
          type: str
        source:
          description:
            - The path of its image or device, of a volume the one that its pool tells.
            - Of a network disk the name on its server, without passwords.
          returned: always
          type: str
          sample: /vm/centos64-32bit.qcow2
        protocol:
          description: The protocol of a network disk.
          returned: always
          type: str
        format:
          description: The format that the VM's definition declares.
          returned: always
          type: str
          sample: qcow2
        chain:
          description: Its image and all below it, from the top down. Empty where it has none.
          returned: always
          type: list
          elements: dict
          contains:
            path:
              description: Its path. What is not on this host has its name without passwords.
              returned: always
              type: str
            format:
              description: The declared format, empty where nobody declares it. V(luks) for raw images encrypted so.
              returned: always
              type: str
            kind:
              description: V(file), V(block), V(dir), V(network) or V(other).
              returned: always
              type: str
            state:
              description:
                - V(ok).
                - V(missing) or V(denied), where its file cannot be had.
                - V(unreadable), where it is not what it was declared to be, or is broken.
                - V(no_answer), where its file system does not answer.
                - V(undeclared), where the image above does not say which format it has; what is below is not known.
                - V(remote), where it is on no file system of this host.
                - V(unread), where only libvirt or its file tells of it.
              returned: always
              type: str
            problem:
              description: Why it is not V(ok), in one line. Empty where it is.
              returned: always
              type: str
            virtual_size:
              description: Bytes that a guest sees.
              returned: always
              type: int
            size:
              description: Bytes of its file or device.
              returned: always
              type: int
            allocated:
              description: Bytes that its file takes up, or those of its device.
              returned: always
              type: int
            backing:
              description: The image below as it is named in this one, without passwords. Empty where there is none.
              returned: always
              type: str
            backing_format:
              description: The format that this image declares the one below to have.
              returned: always
              type: str
            data_file:
              description: The file that has the guest's data, where that is another one. Empty where it is not.
              returned: always
              type: str
            snapshots:
              description: Names of its internal snapshots.
              returned: always
              type: list
              elements: str
            bitmaps:
              description: Names of its persistent bitmaps.
              returned: always
              type: list
              elements: str
            encrypted:
              description: Whether the image itself says that it is encrypted.
              returned: always
              type: bool
            encryption:
              description: The format of that encryption, or empty.
              returned: always
              type: str
            dirty:
              description: Whether it was not closed properly, which is so while a VM with lazy refcounts runs, too.
              returned: always
              type: bool
            corrupt:
              description: Whether it is marked as corrupt.
              returned: always
              type: bool
            options:
              description: What else it was made with, for example C(cluster_size), C(compat) and C(compression_type).
              returned: always
              type: dict
            lock:
              description:
                - Whether processes hold it with the locks that QEMU takes, V(none), V(read) or V(write).
                - Null for a device without locks, because those of a VM are not seen from outside.
              returned: always
              type: str
        virtual_size:
          description: Bytes that the guest sees, as of libvirt.
          returned: always
          type: int
        allocated:
          description: Bytes that are in use, as of libvirt; of a running VM that may be as far as it has written.
          returned: always
          type: int
        physical:
          description: Bytes of the file or device, as of libvirt.
          returned: always
          type: int
        pool:
          description: The storage pool that it is in, where an active one knows it.
          returned: always
          type: str
        volume:
          description: Its name in that pool.
          returned: always
          type: str
        read_only:
          description: Whether the VM may only read it.
          returned: always
          type: bool
        shareable:
          description: Whether several VMs may have it at a time.
          returned: always
          type: bool
        transient:
          description: Whether what is written to it is dropped when the VM ends.
          returned: always
          type: bool
        empty:
          description: Whether no medium is in the drive.
          returned: always
          type: bool
        encrypted:
          description: Whether it is encrypted, by the VM's definition or the image.
          returned: always
          type: bool
        cache:
          description: The cache mode, where one is set.
          returned: always
          type: str
        discard:
          description: What becomes of ranges that the guest discards, where that is set.
          returned: always
          type: str
        detect_zeroes:
          description: What becomes of zeroes that the guest writes, where that is set.
          returned: always
          type: str
        serial:
          description: The serial number that the guest sees, where one is set.
          returned: always
          type: str
        filesystem:
          description:
            - The file system that the source is on, or would be on, with C(mount_point), C(fstype), C(source), and in
              bytes C(free) and C(total).
          returned: always
          type: dict
    nvram:
      description: The file of UEFI variables, with C(path), C(template) and C(allocated) bytes.
      returned: always
      type: dict
    tpm:
      description: The state of an emulated TPM, with C(path) and C(allocated) bytes.
      returned: always
      type: dict
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
from ansible_collections.kvmops.migration.plugins.module_utils._domblk.info import gather
from ansible_collections.kvmops.migration.plugins.module_utils._images.look import Images
from ansible_collections.kvmops.migration.plugins.module_utils._libvirt import needing


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "list", "elements": "str", "default": [], "aliases": ["guest"]},
            "uri": {"type": "str", "default": "qemu:///system"},
            "connect_timeout": {"type": "int", "default": 20},
        },
        supports_check_mode=True,
    )
    params = module.params
    leave(module, needing(lambda: gather(params["uri"], params["name"], params["connect_timeout"], Images.of(module))))


if __name__ == "__main__":
    main()
