# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measurements on the lab, reported and never asserted."""
