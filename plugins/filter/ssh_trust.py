# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: ssh_trust
short_description: The lines of known_hosts and authorized_keys by which hosts trust each other
version_added: 1.0.0
author: The kvmops.migration authors (@kvmops)
description:
  - Takes the variables of the hosts and answers what role C(ssh_trust) writes on one of them.
options:
  _input:
    description:
      - The variables of the hosts, C(hostvars), with the answers that the role has registered. Of facts the public host
        keys, C(nodename) and the addresses are used.
    type: dict
    required: true
  own:
    description: Inventory name of the host whose files they are.
    type: str
    required: true
  hosts:
    description: Inventory names of the hosts that trust each other.
    type: list
    elements: str
    required: true
  variables:
    description: Host variables that hold the addresses a host is reached at and comes from.
    type: list
    elements: str
    required: true
  suffixes:
    description: What is appended to a host's name for its names on other networks.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
---
- name: Show what the host would know of the others
  ansible.builtin.debug:
    msg: "{{ (hostvars | kvmops.migration.ssh_trust(inventory_hostname, hosts, ['ansible_host'])).known_hosts }}"
  vars:
    hosts: "{{ groups['hypervisors'] }}"
"""

RETURN = r"""
_value:
  description:
    - A mapping with C(known_hosts) and C(authorized_keys), the lines, C(unasked), the hosts whose lines are those of an
      earlier run because nobody has asked them now, and C(errors), a list of lines.
  type: dict
"""

import base64

from ansible_collections.kvmops.migration.plugins.module_utils._pure.trust import Peer, plan
from ansible_collections.kvmops.migration.plugins.plugin_utils.told import told as told_by

ALGORITHMS = ("ed25519", "ecdsa", "rsa", "dsa")
KEYTYPES = {"ed25519": "ssh-ed25519", "rsa": "ssh-rsa", "dsa": "ssh-dss"}


def host_keys(told):
    for algorithm in ALGORITHMS:
        key = told.get(f"ssh_host_key_{algorithm}_public")
        if key:
            keytype = told.get(f"ssh_host_key_{algorithm}_public_keytype") or KEYTYPES.get(algorithm, "")
            yield f"{keytype} {key}"


def peer_of(name, facts, variables):
    told = told_by(facts, "__ssh_trust_facts")
    read, made = facts.get("__ssh_trust_key"), facts.get("__ssh_trust_made") or {}
    # `type key`, whatever comment comes after them.
    key = (read or {}).get("stdout") or made.get("ssh_public_key") or ""
    return Peer(
        name,
        {variable: facts.get(variable) for variable in variables},
        facts.get("ansible_port"),
        told.get("nodename") or "",
        [*(told.get("all_ipv4_addresses") or []), *(told.get("all_ipv6_addresses") or [])],
        list(host_keys(told)),
        read is not None and read.get("unreachable") is not True,
        " ".join(key.split(" ")[:2]),
    )


def earlier(facts):
    """What is in both files now, as far as somebody has looked."""
    for read in (facts.get("__ssh_trust_files") or {}).get("results") or [{}, {}]:
        yield base64.b64decode(read.get("content") or "").decode("utf-8", "surrogateescape")


def ssh_trust(hostvars, own, hosts, variables, suffixes=()):
    strangers = [name for name in hosts if name not in hostvars]
    if strangers:
        return {"unasked": [], "errors": ["ssh_trust_hosts: not in the inventory: %s" % ", ".join(strangers)]}
    known, authorized = earlier(hostvars[own])
    return plan(own, [peer_of(name, hostvars[name], variables) for name in hosts], suffixes, known, authorized)


class FilterModule:
    """The filter P(kvmops.migration.ssh_trust#filter)."""

    def filters(self):
        return {"ssh_trust": ssh_trust}
