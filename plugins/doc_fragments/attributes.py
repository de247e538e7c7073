# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attributes that all modules of the collection have."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying the target.
  diff_mode:
    description: Returns details on what has changed, or would change in C(check_mode), when in diff mode.
  idempotent:
    description: A second run with the same arguments outside check mode indicates no change.
  action_group:
    description: Use C(group/kvmops.migration.migration) in C(module_defaults) to set defaults for this module.
    support: full
    membership:
      - kvmops.migration.migration
"""

    INFO_MODULE = r"""
options: {}
attributes:
  check_mode:
    support: full
    details:
      - This module does not modify state.
  diff_mode:
    support: N/A
    details:
      - This module does not modify state.
  idempotent:
    support: full
    details:
      - This module does not modify state.
"""

    # To be named before the first of these: of an attribute that two fragments have, the first one's words count.
    LIBVIRT = r"""
options: {}
attributes:
  action_group:
    description:
      - Use C(group/kvmops.migration.libvirt) in C(module_defaults) to set defaults for the modules that connect to a
        libvirt, and C(group/kvmops.migration.migration) for all modules of the collection.
    support: full
    membership:
      - kvmops.migration.libvirt
      - kvmops.migration.migration
requirements:
  - libvirt and its Python bindings (Debian and others C(python3-libvirt)) on the host that the module runs on
notes:
  - Where the Python that Ansible uses has no bindings, the module runs itself under the system's Python that has them.
"""
