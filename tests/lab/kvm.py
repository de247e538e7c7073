# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Is hardware virtualization of use here? Only a kernel that boots on it says so.

`/dev/kvm` may open and still boot no ordinary kernel (paravirtual KVM, nested virtualization half switched on).
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path

from .paths import CACHE, SHUT_IN, say

PROBE_SECONDS = 10
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def usable(root: Path) -> bool:
    """Boot the lab's kernel on /dev/kvm once per boot of this machine; the answer is kept for later calls."""
    if not Path("/dev/kvm").exists():
        return False
    record = CACHE / "kvm-probe.json"
    boot = BOOT_ID.read_text(encoding="ascii").strip()
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
        known = json.loads(record.read_text(encoding="ascii"))
        if known["boot_id"] == boot:
            return known["usable"]
    answer = _boots(root)
    say("guests use KVM: a kernel booted on /dev/kvm" if answer else "guests use TCG: no kernel boots on /dev/kvm")
    record.write_text(json.dumps({"boot_id": boot, "usable": answer}), encoding="ascii")
    return answer


def _boots(root: Path) -> bool:
    kernel = next((path for path in sorted((root / "boot").glob("vmlinuz-*"))), None)
    if kernel is None:
        return False
    qemu = (
        f"qemu-system-x86_64 -accel kvm -cpu host -m 256 -nodefaults -no-reboot -display none -serial stdio "
        f"-kernel /boot/{kernel.name} -append 'console=ttyS0 panic=-1'"
    )
    script = f'mount --rbind /dev {root}/dev && exec chroot {root} sh -c "exec {qemu}"'
    process = subprocess.Popen(
        [*SHUT_IN, "sh", "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        said, _rest = process.communicate(timeout=PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        said, _rest = process.communicate()
    return b"Linux version" in said
