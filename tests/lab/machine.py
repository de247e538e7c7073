# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One lab host as a QEMU virtual machine with a kernel of its own: a layer over the disk that all start from."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from . import cgroup, image, network
from .host import KNOWN_HOSTS, SSH_KEY, Host, started
from .paths import CONTROL_NETNS, NAME, STATE, LabError, run

# Under emulation, beside two others and whatever else this machine does.
PATIENCE = 900
# QEMU's own part of a vCPU, in an emulator within an emulator.
LOADING_MS = 40
# The watcher took a sixth of an emulated processor, and nothing comes or goes there within a tenth of a second.
SLOWNESS = 5
MEMORY_MIB = {True: 1536, False: 1024}
# The widest page tables cost the emulator a step more at each look, and where a processor says that it moves strings of
# bytes fast, the kernel copies and clears memory by the byte: three times slower than by the word here.
EMULATOR = ("tcg,thread=multi,tb-size=512", "-cpu", "max,la57=off,erms=off")
# Timers that would only cost time, terminals that nobody sees, what has no network to work with, and the manager that
# each login would start for its user, which takes an emulated host longer than the login.
MASKED = [
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@tty1.service",
    "libvirt-guests.service",
    "logrotate.timer",
    "serial-getty@ttyS0.service",
    "systemd-networkd.service",
    "systemd-timesyncd.service",
    "user@.service",
]
# A clock source that QEMU derives from this machine's clock: the processor's own counter is measured at boot, and on a
# busy machine badly, so that the hosts' clocks would part.
KERNEL_ARGUMENTS = (
    "root=/dev/vda rw console=ttyS0 quiet panic=0 mitigations=off security=selinux selinux=1 enforcing=0 "
    "audit_backlog_limit=8192 systemd.show_status=error"
)
CLOCK_ARGUMENTS = "tsc=unstable clocksource=hpet"
# What a busy machine makes of a minute must not pass for a device or a service that does not come.
MANAGER = """[Manager]
DefaultDeviceTimeoutSec=900
DefaultTimeoutStartSec=900
"""
CLOCK_QUESTIONS = 20
SITE = "usr/lib/python3/dist-packages"
MODULE = "kvmops_bytecode"
BYTECODE = Path(__file__).with_name("bytecode.py")
ADDRESSES = "etc/kvmops-addresses"
ADDRESS_UNIT = """[Unit]
Description=Addresses of this host
DefaultDependencies=no
Requires={devices}
After={devices} systemd-sysctl.service
Before=network.target network-online.target
Wants=network.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/ip -batch /{addresses}

[Install]
WantedBy=multi-user.target
"""


@dataclass
class Machine(Host):
    patience: int = PATIENCE
    loading: int = LOADING_MS
    slowness: int = SLOWNESS
    # What gives it its addresses, as commands of ip(8), and the hardware addresses of its interfaces.
    commands: list[str] = field(default_factory=list)
    macs: dict[str, str] = field(default_factory=dict)

    def masked(self) -> list[str]:
        return MASKED

    def prepare(self) -> None:
        super().prepare()
        upper = self.folder / "upper"
        for name, mac in self.macs.items():
            text = f"[Match]\nMACAddress={mac}\n\n[Link]\nName={name}0\n"
            self._write(f"etc/systemd/network/10-{name}0.link", text)
        self._write(ADDRESSES, "\n".join(self.commands) + "\n")
        devices = " ".join(f"sys-subsystem-net-devices-{name}0.device" for name in self.macs)
        unit = "etc/systemd/system/kvmops-addresses.service"
        self._write(unit, ADDRESS_UNIT.format(devices=devices, addresses=ADDRESSES))
        wanted = upper / "etc/systemd/system/multi-user.target.wants/kvmops-addresses.service"
        wanted.parent.mkdir(parents=True)
        wanted.symlink_to("../kvmops-addresses.service")
        self._write("etc/systemd/system.conf.d/kvmops-lab.conf", MANAGER)
        self._write("etc/sysctl.d/kvmops-lab.conf", "net.ipv6.conf.all.disable_ipv6 = 1\n")
        # Read by every Python that starts (site.py).
        self._write(f"{SITE}/{MODULE}.py", BYTECODE.read_text(encoding="ascii"))
        self._write(f"{SITE}/{MODULE}.pth", f"import {MODULE}\n")
        self._write("etc/machine-id", uuid.uuid5(uuid.NAMESPACE_DNS, f"{self.name}.{NAME}").hex + "\n")

    def boot(self, root: Path, *, kvm: bool) -> None:
        """Start the machine in the background, with the QEMU of the root file system."""
        base = image.build(root)
        overlay, seed = self.folder / "disk.qcow2", self.folder / "seed.raw"
        if not overlay.exists():
            self._write_seed(root, seed)
            size = (base / "disk.raw").stat().st_size
            run(
                "qemu-img",
                "create",
                "-q",
                "-u",
                "-f",
                "qcow2",
                "-F",
                "raw",
                "-b",
                "../base/disk.raw",
                overlay,
                str(size),
            )
        kernel = image.kernel(root)
        arguments = KERNEL_ARGUMENTS if kvm else f"{KERNEL_ARGUMENTS} {CLOCK_ARGUMENTS}"
        qemu = [
            *("qemu-system-x86_64", "-name", self.name, "-nodefaults", "-display", "none", "-no-user-config"),
            *("-accel", *(("kvm", "-cpu", "host") if kvm else EMULATOR)),
            *("-machine", "q35", "-smp", "1", "-m", str(MEMORY_MIB[self.hypervisor])),
            *("-rtc", "base=utc", "-serial", "file:/mnt/host/console.log"),
            *("-kernel", f"/boot/{kernel.name}", "-initrd", "/mnt/base/initrd", "-append", arguments),
            *("-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"),
            *("-drive", "file=/mnt/host/disk.qcow2,if=virtio,format=qcow2,cache=unsafe,discard=unmap"),
            *("-drive", "file=/mnt/host/seed.raw,if=virtio,format=raw,readonly=on"),
        ]
        for name, mac in self.macs.items():
            tap = network.tap(name, self.name)
            qemu += ["-netdev", f"tap,id={name},ifname={tap},script=no,downscript=no"]
            qemu += ["-device", f"virtio-net-pci,netdev={name},mac={mac},romfile="]
        # What it needs of this machine appears in the root file system for this process alone.
        mounts = [f"mount --rbind /dev {root}/dev", f"mount -t tmpfs {NAME} {root}/mnt"]
        for source, name in ((self.folder, "host"), (base, "base")):
            mounts += [f"mkdir {root}/mnt/{name}", f"mount --bind {source} {root}/mnt/{name}"]
        script = " && ".join((*mounts, f"exec chroot {root} {shlex.join(qemu)}"))
        inside = ["nsenter", f"--net=/run/netns/{CONTROL_NETNS}", "unshare", "--mount", "--propagation=private"]
        with (self.folder / "qemu.log").open("ab") as log:
            process = subprocess.Popen(
                [*inside, "sh", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: cgroup.enter(self.name),
            )
        started.append(process)

    def _write_seed(self, root: Path, seed: Path) -> None:
        """What makes this machine itself, with the labels that the policy has for it, as a small disk."""
        upper = self.folder / "upper"
        paths = [
            path for path in upper.rglob("*") if not (root / path.relative_to(upper)).is_dir() or path.is_symlink()
        ]
        files = [(f"/{path.relative_to(upper)}", os.lstat(path).st_mode) for path in paths]
        known = zip(image.labels(root, files), files)
        self._write("kvmops-labels", "".join(f"{label}\t{path}\n" for label, (path, _mode) in known if label[0] != "<"))
        run("mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", "-d", upper, seed, "16M")

    def reachable(self) -> bool:
        return bool(cgroup.processes(self.name)) and self._answers_ssh()

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        if not cgroup.processes(self.name):
            raise self._absent()
        return subprocess.run(
            [*self._ssh(), f"root@{self.addresses['lan']}", shlex.join(command)],
            text=True,
            capture_output=True,
            timeout=self.patience,
            check=False,
        )

    def _ssh(self) -> list[str]:
        options = {
            "ProxyCommand": f"nsenter --net=/run/netns/{CONTROL_NETNS} nc %h %p",
            "IdentityFile": SSH_KEY,
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": KNOWN_HOSTS,
            "GlobalKnownHostsFile": "none",
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
            "LogLevel": "ERROR",
            "ConnectTimeout": 60,
            "ControlMaster": "auto",
            "ControlPersist": 60,
            "ControlPath": STATE / "cp" / "lab-%C",
        }
        return ["ssh", "-F", "none", *(f"-o{key}={value}" for key, value in options.items())]

    def look(self, path: str) -> Path:
        """A copy of the file as it is now."""
        copy = self.folder / "looked-at" / path.lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        with copy.open("wb") as target:
            self._carry(f"cat {shlex.quote(path)}", stdout=target)
        return copy

    @contextlib.contextmanager
    def writing(self, path: str) -> Iterator[Path]:
        written = self.folder / "to-write"
        yield written
        with written.open("rb") as source:
            self._carry(f"cat > {shlex.quote(path)}", stdin=source)
        written.unlink()

    def _carry(self, command: str, **streams: object) -> None:
        login = [*self._ssh(), f"root@{self.addresses['lan']}", command]
        done = subprocess.run(login, stderr=subprocess.PIPE, timeout=self.patience, check=False, **streams)
        if done.returncode:
            raise LabError(f"{self.name}: {command} failed: {done.stderr.decode(errors='replace').strip()}")

    def ahead(self) -> int:
        """Its answers to the question for the time, over one connection: the quickest one tells most."""
        answer = "import sys, time; [print(time.time_ns(), flush=True) for _line in sys.stdin]"
        login = [*self._ssh(), f"root@{self.addresses['lan']}", shlex.join(["python3", "-u", "-c", answer])]
        best: tuple[int, int] | None = None
        with subprocess.Popen(login, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            for _turn in range(CLOCK_QUESTIONS):
                before = time.time_ns()
                process.stdin.write("?\n")
                process.stdin.flush()
                said = process.stdout.readline()
                after = time.time_ns()
                if not said.strip():
                    raise LabError(f"{self.name} does not tell its time")
                if best is None or after - before < best[0]:
                    best = (after - before, int(said) - (before + after) // 2)
            process.stdin.close()
        assert best is not None
        return best[1]
