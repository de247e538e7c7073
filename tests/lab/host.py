# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One lab host: a systemd-nspawn container with an overlay on the shared root file system."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from . import cgroup, network
from .paths import CONTROL_NETNS, NAME, STATE, LabError, netns_of, run
from .watch.watch import LOADING_MS

BOOT_TIMEOUT = 120
SSH_KEY = STATE / "id_ed25519"
KNOWN_HOSTS = STATE / "known_hosts"
WATCHER = Path(__file__).with_name("watch") / "watch.py"
WATCH_LOG = "/var/log/kvmops-watch.jsonl"
WATCH_UNIT = """[Unit]
Description=Watch which VMs run on this host
DefaultDependencies=no

[Service]
ExecStart=/usr/bin/python3 /usr/local/lib/kvmops-watch.py sample --output {log} {options}
Restart=always

[Install]
WantedBy=sysinit.target
"""
# The host's own devices; /dev/kvm joins them where a probe has booted a kernel on it.
DEVICES = ("/dev/net/tun", "/dev/fuse")

# Units that need a kernel, hardware or network service of their own and can only fail in a container.
MASKED = [
    "nfs-server.service",
    "nfs-blkmap.service",
    "nfs-idmapd.service",
    "nfs-mountd.service",
    "nfsdcld.service",
    "rpc-statd.service",
    "rpc-statd-notify.service",
    "rpc-gssd.service",
    "rpc-svcgssd.service",
    "proc-fs-nfsd.mount",
    "run-rpc_pipefs.mount",
    "nfs-client.target",
    "systemd-networkd.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "dpkg-db-backup.timer",
    "systemd-timesyncd.service",
    "libvirt-guests.service",
    # SELinux comes with it; a container has no audit of its own.
    "auditd.service",
]

# They outlive this process, which must not be warned that it forgot them.
started: list[subprocess.Popen[bytes]] = []


@dataclass
class Host:
    name: str
    addresses: dict[str, str] = field(default_factory=dict)
    hypervisor: bool = True
    # Seconds until a boot or a command has failed.
    patience: int = BOOT_TIMEOUT
    # Milliseconds of each vCPU that the watcher takes for QEMU's own.
    loading: int = LOADING_MS
    # How many times as long the watcher waits between two looks.
    slowness: int = 1

    @property
    def folder(self) -> Path:
        return STATE / "hosts" / self.name

    @property
    def log(self) -> Path:
        return self.folder / "console.log"

    def prepare(self) -> None:
        """Write what makes this host itself: name, identity, SSH host key, the controller's key."""
        upper = self.folder / "upper"
        for part in ("upper", "work", "root"):
            (self.folder / part).mkdir(parents=True)
        self._write("etc/hostname", f"{self.name}\n")
        # The line that Debian's installer writes, trap included: the host's own name leads to loopback.
        self._write("etc/hosts", f"127.0.0.1\tlocalhost\n127.0.1.1\t{self.name}\n")
        for unit in self.masked():
            link = upper / "etc/systemd/system" / unit
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to("/dev/null")
        # The watcher is the lab's, not the host's: it runs from boot to the end, whatever a scenario does.
        self._write("usr/local/lib/kvmops-watch.py", WATCHER.read_text(encoding="utf-8"))
        options = f"--loading {self.loading} --slowness {self.slowness}"
        watching = WATCH_UNIT.format(log=WATCH_LOG, options=options)
        self._write("etc/systemd/system/kvmops-watch.service", watching)
        wanted = upper / "etc/systemd/system/sysinit.target.wants/kvmops-watch.service"
        wanted.parent.mkdir(parents=True)
        wanted.symlink_to("../kvmops-watch.service")
        key = upper / "etc/ssh/ssh_host_ed25519_key"
        key.parent.mkdir(parents=True, exist_ok=True)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", key)
        public = key.with_suffix(".pub").read_text(encoding="ascii").split()
        with KNOWN_HOSTS.open("a", encoding="ascii") as handle:
            handle.writelines(f"{address} {public[0]} {public[1]}\n" for address in self.addresses.values())
        for home, owner in (("root", 0), ("home/deploy", 1000)):
            self._write(f"{home}/.ssh/authorized_keys", SSH_KEY.with_suffix(".pub").read_text(encoding="ascii"), 0o600)
            for path in (upper / home / ".ssh", upper / home / ".ssh/authorized_keys"):
                os.chown(path, owner, owner)
            (upper / home / ".ssh").chmod(0o700)
            os.chown(upper / home, owner, owner)
            (upper / home).chmod(0o700)

    def masked(self) -> list[str]:
        """Units that must not start here."""
        return MASKED

    def _write(self, name: str, text: str, mode: int = 0o644) -> None:
        target = self.folder / "upper" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        target.chmod(mode)

    def boot(self, root: Path, *, kvm: bool) -> None:
        """Start the container in the background; it ends with its processes, and its mounts end with it."""
        devices = [device for device in (*DEVICES, *(["/dev/kvm"] if kvm else [])) if Path(device).exists()]
        nspawn = [
            # Not `ip netns exec`: that remounts /sys, and nspawn then fails to find out the cgroup hierarchy in use.
            "nsenter",
            f"--net=/run/netns/{netns_of(self.name)}",
            "systemd-nspawn",
            f"--directory={self.folder / 'root'}",
            "--boot",
            "--register=no",
            "--keep-unit",
            # nspawn keeps a folder by this name, which two labs must not share.
            f"--machine={netns_of(self.name)}",
            f"--hostname={self.name}",
            # The container's machine-id, from which libvirt takes the host UUID: the same for a name at every boot.
            f"--uuid={uuid.uuid5(uuid.NAMESPACE_DNS, f'{self.name}.{NAME}')}",
            "--capability=all",
            "--resolv-conf=off",
            "--timezone=off",
            "--link-journal=no",
            "--console=pipe",
            *(f"--bind={device}" for device in devices),
        ]
        overlay = ",".join((f"lowerdir={root}", f"upperdir={self.folder / 'upper'}", f"workdir={self.folder / 'work'}"))
        # The overlay is mounted in a mount namespace of the container's own, so no path out leaves a mount behind.
        script = f"mount -t overlay {NAME} -o {overlay} {self.folder / 'root'} && exec {shlex.join(nspawn)}"
        with self.log.open("wb") as log:
            container = subprocess.Popen(
                ["unshare", "--mount", "--propagation=private", "sh", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: cgroup.enter(self.name),
            )
        started.append(container)

    def leader(self) -> int | None:
        """Process id, on this machine, of the container's init."""
        inner = {pid: _namespaced_pid(pid) for pid in cgroup.processes(self.name)}
        return next((pid for pid, inside in inner.items() if inside == 1), None)

    def wait(self) -> None:
        """Return when the host has booted and lets the controller in; else say what its journal says."""
        deadline = time.monotonic() + self.patience
        state = "no init process"
        while time.monotonic() < deadline:
            if self.reachable():
                asked = self.execute("systemctl", "is-system-running", "--wait")
                state = asked.stdout.strip() or asked.stderr.strip()
                if state == "running" and self._answers_ssh():
                    return
                if state == "degraded":
                    break
            elif not cgroup.processes(self.name):
                state = "its processes have ended"
                break
            elif self._failed_early():
                state = "its kernel's first process gave up"
                break
            time.sleep(0.1)
        raise LabError(f"host {self.name} did not come up ({state})\n{self._story()}")

    def reachable(self) -> bool:
        """Whether commands can be run on it."""
        return self.leader() is not None

    def _failed_early(self) -> bool:
        return "kvmops: error" in self.log.read_text(encoding="utf-8", errors="replace")

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command there as its root."""
        leader = self.leader()
        if leader is None:
            raise self._absent()
        return subprocess.run(
            ["nsenter", f"--target={leader}", "--all", *command],
            text=True,
            capture_output=True,
            timeout=self.patience,
            check=False,
        )

    def ahead(self) -> int:
        """Nanoseconds by which its clock is ahead of this machine's: a container has no other one."""
        return 0

    def look(self, path: str) -> Path:
        """A file of the host, to be read on this machine."""
        leader = self.leader()
        if leader is None:
            raise self._absent()
        return Path(f"/proc/{leader}/root{path}")

    @contextlib.contextmanager
    def writing(self, path: str) -> Iterator[Path]:
        """Where to write, on this machine, what shall be a file of the host."""
        yield self.look(path)

    def _absent(self) -> LabError:
        return LabError(f"host {self.name} is not up; `make lab` boots the lab")

    def _answers_ssh(self) -> bool:
        banner = f"exec 3<>/dev/tcp/{self.addresses['lan']}/22 && head -c 4 <&3"
        done = subprocess.run(
            ["nsenter", f"--net=/run/netns/{CONTROL_NETNS}", "timeout", "2", "bash", "-c", banner],
            capture_output=True,
            check=False,
        )
        return done.stdout.startswith(b"SSH-")

    def _story(self) -> str:
        """The journal where the host has one, and what its console printed."""
        parts = [f"--- console of {self.name} ---", self.log.read_text(encoding="utf-8", errors="replace")[-3000:]]
        if self.reachable():
            for title, command in (
                ("failed units", ["systemctl", "--failed", "--no-legend", "--plain"]),
                ("journal", ["journalctl", "--no-pager", "-b", "-p", "warning", "-n", "60"]),
            ):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    parts += [f"--- {title} of {self.name} ---", self.execute(*command).stdout]
        return "\n".join(parts)


def _namespaced_pid(pid: int) -> int | None:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return None
    ids = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
    return int(ids[-1]) if len(ids) > 1 else None


def end_processes(found: Callable[[], set[int]]) -> None:
    """End every process that is found, and wait until the kernel has let go of them."""
    deadline = time.monotonic() + 20
    while pids := found():
        if time.monotonic() > deadline:
            raise LabError(f"processes of the lab do not end: {sorted(pids)}")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def kill_all() -> None:
    """What the hosts run and, in the control namespace, the carriers of connections from this machine."""
    end_processes(lambda: cgroup.processes() | network.processes())


def make_controller_key() -> None:
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"controller of {NAME}", "-f", SSH_KEY)
    KNOWN_HOSTS.touch()
