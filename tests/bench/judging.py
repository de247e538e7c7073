# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What it costs to know who could move where: one VM and one other host, and many of both."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.lab.faults import inside, must
from tests.lab.paths import LabError

from .moves import PLAYBOOKS
from .report import Report

SOURCE, OTHERS = "labkvm1", ("labkvm2", "labstor1")
GROUP = "bench_judged"
NAMES = "judged-"
# Guests that stand still: none of them takes a processor from what is measured.
MAKE = """
for number in $(seq {count}); do
    name={names}$number
    qemu-img create -q -f qcow2 /vm/$name.qcow2 64M
    virsh define /dev/stdin <<END
<domain type='qemu'><name>$name</name><memory unit='MiB'>48</memory><os><type>hvm</type></os><devices>
<disk type='file' device='disk'>
<driver name='qemu' type='qcow2'/><source file='/vm/$name.qcow2'/><target dev='vda'/>
</disk>
</devices></domain>
END
    virsh start --paused $name
done
virsh pool-refresh vm
"""
REMOVE = """
for name in $(virsh list --all --name | grep '^{names}'); do virsh destroy $name; virsh undefine $name; done
rm -f /vm/{names}*.qcow2; virsh pool-refresh vm
"""


def ansible(*command: str) -> float:
    """Seconds that it took; it must do well."""
    began = time.monotonic()
    done = subprocess.run(
        command,
        cwd=PLAYBOOKS,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
        text=True,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise LabError(f"{' '.join(command)} failed: {done.stdout}{done.stderr}")
    return time.monotonic() - began


@dataclass(frozen=True)
class Judging:
    """`count` VMs of one host, judged for one and for two others; and one VM for one other."""

    name: str
    about: str
    runs: int
    count: int

    def measure(self, runs: int) -> str:
        columns = [
            "ping s",
            "1 x 1 s",
            f"{self.count} x 1 s",
            f"{self.count} x 2 s",
            f"preflight.yml {self.count} x 1 s",
        ]
        report = Report(self.name, self.about, columns)
        names = [f"{NAMES}{number + 1}" for number in range(self.count)]
        with self._guests(names) as inventory:
            for _number in range(runs):
                report.add(
                    [
                        ansible("ansible", *inventory, SOURCE, "-m", "ansible.builtin.ping"),
                        self._judge(inventory, names[:1], OTHERS[:1]),
                        self._judge(inventory, names, OTHERS[:1]),
                        self._judge(inventory, names, OTHERS),
                        ansible(
                            *("ansible-playbook", *inventory, "preflight.yml"),
                            *("-e", f"vm={','.join(names)}", "-e", f"dest={OTHERS[0]}"),
                        ),
                    ]
                )
        return report.finished(
            "the whole `ansible` command, with ping, which is what Ansible itself takes, and with virt_migrate_info,"
            " `dest_hosts` said, and preflight.yml"
        )

    @staticmethod
    def _judge(inventory: Sequence[str], names: Sequence[str], others: Sequence[str]) -> float:
        arguments = json.dumps({"name": list(names), "dest_hosts": list(others), "options": {"tls": "false"}})
        return ansible("ansible", *inventory, SOURCE, "-m", "kvmops.migration.virt_migrate_info", "-a", arguments)

    @contextmanager
    def _guests(self, names: Sequence[str]) -> Iterator[list[str]]:
        """The guests, on hosts that are all prepared as hypervisors; options of Ansible for such an inventory."""
        group = {"all": {"children": {GROUP: {"hosts": {host: {} for host in (SOURCE, *OTHERS)}}}}}
        with tempfile.TemporaryDirectory() as folder:
            more = Path(folder) / "more.json"
            more.write_text(json.dumps(group), encoding="ascii")
            inventory = ["-i", "inventory", "-i", str(more), "-e", f"migration_hosts_group={GROUP}"]
            try:
                ansible("ansible-playbook", *inventory, "prepare.yml")
                must(SOURCE, "bash", "-ec", MAKE.format(count=len(names), names=NAMES))
                yield inventory
            finally:
                inside(SOURCE, "bash", "-c", REMOVE.format(names=NAMES))
