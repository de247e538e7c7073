# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: certificates
short_description: Say which certificates of a host have to be made anew
version_added: 1.0.0
author: The kvmops.migration authors (@kvmops)
description:
  - Judges the certificates that a host has by the authorities that the controller has, for role
    P(kvmops.migration.libvirt_tls#role). Runs on the controller and changes nothing.
options:
  _input:
    description: >-
      What C(roles/libvirt_tls/files/look.sh) says of the host's files, each below a heading as C(head --verbose) writes
      it.
    type: str
    required: true
  certificates:
    description: >-
      The certificates that the host shall have, each with C(path), C(key) (path of its private key), C(authority) and
      C(usage) (C(serverAuth) or C(clientAuth)), and C(owner) (of the key). What else an entry has is handed back.
    type: list
    elements: dict
    required: true
  authorities:
    description: The authorities, each with C(name), C(path) (on the host) and C(content) (on the controller, or empty).
    type: list
    elements: dict
    required: true
  names:
    description: The names and addresses that each certificate is for.
    type: list
    elements: str
    required: true
  days:
    description: How many days before its end a certificate has to be made anew.
    type: int
    required: true
  asked:
    description: >-
      What C(roles/libvirt_tls/files/ask.sh) says of keys that the host has made since then, and of the requests for
      certificates of these and of others. An error where a host asks for other names than its own, or for more.
    type: str
    default: ""
requirements:
  - cryptography
"""

EXAMPLES = r"""
---
- name: Show what is wrong with a certificate
  ansible.builtin.debug:
    msg: "{{ (seen | kvmops.migration.certificates(certificates, authorities, ['kvm1', '192.0.2.1'], 30)).due }}"
  vars:
    certificates:
      - path: /etc/pki/qemu/server-cert.pem
        key: /etc/pki/qemu/server-key.pem
        authority: qemu
        usage: serverAuth
        owner: libvirt-qemu
    authorities:
      - name: qemu
        path: /etc/pki/qemu/ca-cert.pem
        content: "{{ lookup('ansible.builtin.file', 'qemu-ca.pem') }}"
"""

RETURN = r"""
_value:
  description:
    - A mapping with C(due), the certificates to be made, each with the reason in C(why) and what the host asks for in
      C(csr) (empty before it was asked to), C(keys_due), the certificates whose keys have to be made or given to their
      owner, likewise, C(directories_due), the directories that have to be made or given to root, each with C(path),
      C(mode) and C(why), C(work), all of that as arguments of C(ask.sh), C(ours), the certificates that the host has
      from the authorities, C(authorities), the names of authorities that the host does not have yet,
      C(authorities_due), the names of those to be made, C(foreign), lines on files that hold another authority,
      C(names), the names as an option C(subject_alt_name) takes them, and C(users), the users of the host as far as
      C(/etc/passwd) is in the input.
  type: dict
"""

from ansible.errors import AnsibleFilterError

from ansible_collections.kvmops.migration.plugins.plugin_utils import certificates


def judge(*arguments, **options):
    """What the certificates of a host are worth."""
    if certificates.MISSING is not None:
        raise AnsibleFilterError(
            f"the controller has no Python package cryptography; cure: install it there ({certificates.MISSING})"
        )
    try:
        return certificates.judge(*arguments, **options)
    except ValueError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """The filter M(kvmops.migration.certificates)."""

    def filters(self):
        return {"certificates": judge}
