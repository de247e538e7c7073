# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: hosts_file
short_description: Give the text of /etc/hosts the names of all hosts on all networks
version_added: 1.0.0
author: The kvmops.migration authors (@kvmops)
description:
  - Takes the content of C(/etc/hosts) and answers what it shall be, as role C(name_resolution) writes it.
  - One marked block has the names; the host's own names are taken off loopback. All other lines stay to the byte.
options:
  _input:
    description: The content as M(ansible.builtin.slurp) returns it, in base64.
    type: str
    required: true
  own:
    description: Inventory name of the host whose file it is.
    type: str
    required: true
  hosts:
    description: Inventory names of the hosts that get names.
    type: list
    elements: str
    required: true
  hostvars:
    description:
      - The variables of the hosts, C(hostvars). Of their facts C(nodename), C(default_ipv4), C(default_ipv6) are used,
        and the content of their own files where the role has read it.
    type: dict
    required: true
  networks:
    description: The networks, each with C(suffix) and C(variable), as C(name_resolution_networks).
    type: list
    elements: dict
    required: true
  domain:
    description: The domain of the hosts whose names have none.
    type: str
    default: ""
  state:
    description: Whether the names are there, or the content is as it was before them.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
---
- name: Show what would be in the file
  ansible.builtin.debug:
    msg: "{{ (slurped.content | kvmops.migration.hosts_file(inventory_hostname, hosts, hostvars, networks)).text }}"
  vars:
    hosts: "{{ groups['all'] }}"
    networks:
      - suffix: ""
        variable: ansible_host
"""

RETURN = r"""
_value:
  description: >-
    A mapping with C(text), the content, C(differs), whether that is another one than it was, and C(errors), a list of
    lines; with any error the text is as it was.
  type: dict
"""

import base64

from ansible_collections.kvmops.migration.plugins.module_utils._pure.names import Host, Network, plan
from ansible_collections.kvmops.migration.plugins.plugin_utils.told import told as told_by


def decoded(content):
    # Whatever bytes others have written come back as they were.
    return base64.b64decode(content).decode("utf-8", "surrogateescape")


def host_of(name, facts, variables):
    told = told_by(facts, "__name_resolution_facts")
    return Host(
        name,
        {variable: facts.get(variable) for variable in variables},
        told.get("nodename"),
        decoded((facts.get("__name_resolution_file") or {}).get("content", "")),
        [(told.get(key) or {}).get("address", "") for key in ("default_ipv4", "default_ipv6")],
    )


def hosts_file(content, own, hosts, hostvars, networks, domain="", state="present"):
    text = decoded(content)
    strangers = [name for name in hosts if name not in hostvars]
    if strangers:
        error = "name_resolution_hosts: not in the inventory: %s" % ", ".join(strangers)
        return {"text": text, "differs": False, "errors": [error]}
    known = [Network(network["suffix"], network["variable"]) for network in networks]
    variables = [network.variable for network in known]
    everybody = [host_of(name, hostvars[name], variables) for name in hosts]
    planned = plan(text, own, everybody, known, domain, state)
    return {**planned, "differs": planned["text"] != text}


class FilterModule:
    """The filter P(kvmops.migration.hosts_file#filter)."""

    def filters(self):
        return {"hosts_file": hosts_file}
