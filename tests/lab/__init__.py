# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab: three real hosts on three networks in network namespaces of this machine (container tier)."""
