# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The root file system that lab hosts start from, built by mmdebstrap and cached by its recipe's hash."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from .paths import CACHE, SHUT_IN, LabError, run, say

SUITE = "bookworm"
# Days after its last use until a root file system of another recipe is removed.
KEPT_DAYS = 3
# An ordinary minimal Debian server that Ansible can log in to.
SERVER = [
    "systemd-sysv",
    "udev",
    "dbus",
    "kmod",
    "iproute2",
    "iputils-ping",
    "openssh-server",
    "python3",
    "sudo",
    "e2fsprogs",
]
# What roles install, which most hosts have from the beginning so that a scenario need not wait for it.
BY_ROLES = [
    "libvirt-daemon-system",
    "libvirt-clients",
    "python3-libvirt",
    "python3-lxml",
    "qemu-system-x86",
    "qemu-utils",
    # what guests with UEFI firmware and with a TPM need
    "ovmf",
    "swtpm",
    "swtpm-tools",
    "nfs-kernel-server",
    "nfs-common",
    "rpcbind",
    "firewalld",
    "python3-firewall",
    "nftables",
    "iptables",
    # what Ansible's own module for packages needs, and what makes keys
    "python3-apt",
    "openssl",
]
PACKAGES = [
    *SERVER,
    *BY_ROLES,
    "netcat-openbsd",
    "rsync",
    # stands in for NFS, which needs a kernel of its own
    "glusterfs-server",
    "glusterfs-client",
    # SELinux, which the hosts that have a kernel of their own switch on
    "selinux-policy-default",
    "policycoreutils",
    "policycoreutils-python-utils",
    "selinux-utils",
    "python3-selinux",
    "python3-semanage",
    "auditd",
    # the guest's kernel and userland come from here too
    "linux-image-cloud-amd64",
    "busybox-static",
    "qemu-guest-agent",
]
# Where a bare host has them all, as its only source of packages.
SOURCE = "srv/packages"

# What every host of this lab must have because it is a container or because Ansible must get in. Nothing that a role
# of the collection configures (names, firewall, trust between hosts, pools, exports) belongs here.
FILES = {
    "etc/sudoers.d/deploy": "deploy ALL=(ALL) NOPASSWD: ALL\n",
    "etc/ssh/sshd_config.d/lab.conf": "UseDNS no\n",
    # No cgroup controller is delegated to a container: "Failed to create v1 controller cpu for group".
    "etc/libvirt/qemu.conf.append": "cgroup_controllers = []\n",
}


def recipe_hash(*, bare: bool) -> str:
    packages = [sorted(SERVER), "and as files", sorted(BY_ROLES)] if bare else sorted(PACKAGES)
    text = repr((SUITE, packages, sorted(FILES.items()), mirror()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def mirror() -> str:
    """The Debian mirror; `KVMOPS_LAB_MIRROR` names another one."""
    return os.environ.get("KVMOPS_LAB_MIRROR", "")


def proxies() -> list[str]:
    """The way to it that apt of this machine takes, as mmdebstrap does not look for it."""
    settings = run("apt-config", "dump", "--no-empty", "Acquire").splitlines()
    return [f"--aptopt={line}" for line in settings if re.match(r"Acquire::https?::(\S+::)?Proxy ", line)]


def path(*, bare: bool = False) -> Path:
    return CACHE / f"rootfs-{'bare-' if bare else ''}{recipe_hash(bare=bare)}"


def build(*, bare: bool = False) -> Path:
    """Return the root file system, building it first where the cache has none.

    One that is `bare` has nothing that a role installs, and all of that as packages in a source of its own.
    """
    root = path(bare=bare)
    if root.is_dir():
        os.utime(root)
        return root
    CACHE.mkdir(parents=True, exist_ok=True)
    for stale in CACHE.glob("rootfs-*.tmp*"):
        shutil.rmtree(stale)
    # Another checkout may have a lab on one of another recipe.
    for outdated in CACHE.glob("rootfs-*"):
        if time.time() - outdated.stat().st_mtime > KEPT_DAYS * 86400:
            shutil.rmtree(outdated)
    packages = SERVER if bare else PACKAGES
    say(f"building the hosts' root file system with mmdebstrap ({len(packages)} packages; about a minute, once)")
    # Under a temporary name until complete: a build that was killed never looks finished.
    temporary = Path(tempfile.mkdtemp(prefix=f"{root.name}.tmp", dir=CACHE))
    tree = temporary / "root"
    options = ["--variant=minbase", f"--include={','.join(packages)}", *proxies(), *(_fetching() if bare else ())]
    command = [*SHUT_IN, "mmdebstrap", *options, SUITE, str(tree)]
    if mirror():
        command.append(mirror())
    _run_with_progress(command)
    _configure(tree)
    if bare:
        _make_source(tree)
    tree.rename(root)
    temporary.rmdir()
    say(f"root file system ready: {root}")
    return root


def _fetching() -> list[str]:
    """Options of mmdebstrap that leave packages in the tree as files, with all that they depend on."""
    wanted = " ".join(BY_ROLES)
    steps = (
        f'chroot "$1" apt-get --yes --quiet --no-install-recommends --download-only install {wanted}',
        f'mkdir -p "$1/{SOURCE}" && mv "$1"/var/cache/apt/archives/*.deb "$1/{SOURCE}/"',
    )
    return [f"--customize-hook={step}" for step in steps]


def _make_source(tree: Path) -> None:
    """Make these files the host's only source of packages, and let apt know it."""
    index = []
    for file in sorted((tree / SOURCE).glob("*.deb")):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        about = run("dpkg-deb", "--field", file).rstrip()
        index.append(f"{about}\nFilename: ./{file.name}\nSize: {file.stat().st_size}\nSHA256: {digest}\n")
    (tree / SOURCE / "Packages").write_text("\n".join(index), encoding="utf-8")
    for settings in (tree / "etc/apt/apt.conf.d").glob("*mmdebstrap*"):
        settings.unlink()
    for other in (tree / "etc/apt/sources.list.d").iterdir():
        other.unlink()
    (tree / "etc/apt/sources.list").write_text(f"deb [trusted=yes] file:/{SOURCE} ./\n", encoding="ascii")
    run("chroot", tree, "apt-get", "--quiet", "update")


def _run_with_progress(command: list[str]) -> None:
    tail: list[str] = []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        tail = [*tail[-30:], line]
        if line.startswith("I: "):
            say(line[3:].strip())
    if process.wait():
        raise LabError("mmdebstrap failed:\n" + "".join(tail))


def _configure(tree: Path) -> None:
    for name, text in FILES.items():
        target = tree / name.removesuffix(".append")
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("a" if name.endswith(".append") else "w", encoding="utf-8") as handle:
            handle.write(text)
    (tree / "etc/sudoers.d/deploy").chmod(0o440)
    # Every host gets an identity of its own at boot.
    for key in (tree / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    (tree / "etc/machine-id").write_text("", encoding="ascii")
    (tree / "var/lib/dbus/machine-id").unlink(missing_ok=True)
    (tree / "etc/hostname").unlink(missing_ok=True)
    (tree / "etc/resolv.conf").unlink(missing_ok=True)
    run("chroot", tree, "useradd", "--create-home", "--shell", "/bin/bash", "deploy")
