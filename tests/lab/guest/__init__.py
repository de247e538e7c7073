# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's guest: a small real Linux that records on its own disk that it lives, and the witness that checks it."""
