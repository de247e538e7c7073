# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Talk to a lab guest on its serial console."""

from __future__ import annotations

from .faults import must


def log(vm: str) -> str:
    """What it has printed there since it was first started on that host."""
    return f"/var/log/libvirt/qemu/{vm}.serial.log"


def tell(host: str, vm: str, command: str) -> None:
    """Say something to it, and wait until it has understood."""
    # QEMU reads what is there while somebody has the terminal open, and not at once.
    script = (
        f'size=$(stat -c %s {log(vm)}); exec 3<>"$(virsh ttyconsole {vm})"; '
        f"echo '{command}' >&3; "
        "for turn in $(seq 100); do "
        f"tail -c +$size {log(vm)} | grep -aq 'kvmops: ok {command}' && exit 0; sleep 0.1; done; "
        f"tail -c +$size {log(vm)} | grep -a 'kvmops: refused {command}' >&2 || echo '{vm} does not answer' >&2; exit 1"
    )
    must(host, "bash", "-c", script)
