# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The disk that all machines of the lab start from: the hosts' root file system with its SELinux labels.

It is written without a mount and without SELinux on this machine: mkfs copies the tree, and the labels, which the
policy in the tree knows by path, go straight into the inodes. Beside it lies the initramfs that all machines boot with.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from .guest import initramfs
from .paths import CACHE, SHUT_IN, LabError, run, say
from .rootfs import KEPT_DAYS

HERE = Path(__file__).resolve().parent
INIT = HERE / "machine-init"
FIRST = HERE / "first.py"
DISK_MIB = 8192
MODULES = ("virtio_pci", "virtio_blk", "ext4")
APPLETS = ("sh", "mount", "umount", "insmod", "sleep", "cp", "mkdir", "chroot", "switch_root")
# Started by Debian when their packages are installed: a host that serves and mounts nothing yet has them off.
SWITCHED_OFF = (
    "/etc/systemd/system/multi-user.target.wants/nfs-server.service",
    "/etc/systemd/system/multi-user.target.wants/rpcbind.service",
    "/etc/systemd/system/sockets.target.wants/rpcbind.socket",
)
# The policy's own library says what belongs to a path; it runs in the tree, which has it.
LOOKUP = """
import selinux, sys
selinux.selinux_set_policy_root("/etc/selinux/default")
selinux.matchpathcon_init("/etc/selinux/default/contexts/files/file_contexts")
for line in sys.stdin:
    mode, _blank, path = line.rstrip("\\n").partition(" ")
    try:
        print(selinux.matchpathcon(path, int(mode))[1])
    except OSError:
        print("<<none>>")
"""


def build(root: Path) -> Path:
    """Return the folder with `disk.raw` and `initrd`, made first where the cache has none."""
    recipe = hashlib.sha256(root.name.encode())
    for source in (Path(__file__), INIT, FIRST, Path(initramfs.__file__)):
        recipe.update(source.read_bytes())
    folder = CACHE / f"machine-{recipe.hexdigest()[:16]}"
    if folder.is_dir():
        os.utime(folder)
        return folder
    for outdated in CACHE.glob("machine-*"):
        if time.time() - outdated.stat().st_mtime > KEPT_DAYS * 86400:
            shutil.rmtree(outdated)
    say("building the machines' disk and its SELinux labels (once)")
    # Under a temporary name until complete: a build that was killed never looks finished.
    temporary = Path(tempfile.mkdtemp(prefix="machine-tmp", dir=CACHE))
    try:
        _write_initrd(root, temporary / "initrd")
        _write_disk(root, temporary / "disk.raw")
        temporary.rename(folder)
    finally:
        if temporary.exists():
            shutil.rmtree(temporary)
    say(f"disk of the machines ready: {folder}")
    return folder


def kernel(root: Path) -> Path:
    kernels = sorted((root / "boot").glob("vmlinuz-*"))
    if not kernels:
        raise LabError(f"{root} has no boot/vmlinuz-*; the package linux-image-cloud-amd64 brings it")
    return kernels[-1]


def labels(root: Path, files: Iterable[tuple[str, int]]) -> list[str]:
    """What the policy in the tree says of each path and mode; "<<none>>" where it says nothing."""
    wanted = "".join(f"{mode} {path}\n" for path, mode in files)
    return run(*SHUT_IN, "chroot", root, "python3", "-c", LOOKUP, stdin=wanted, timeout=600).splitlines()


def _write_initrd(root: Path, target: Path) -> None:
    folder = root / "usr/lib/modules" / kernel(root).name.removeprefix("vmlinuz-")
    archive = initramfs.Archive()
    for name in ("bin", "dev", "proc", "sys", "modules", "seed", "root"):
        archive.folder(name)
    archive.device("dev/console", 5, 1)
    archive.file("init", INIT.read_bytes(), 0o755)
    archive.file("first.py", FIRST.read_bytes())
    archive.file("bin/busybox", (root / "bin/busybox").read_bytes(), 0o755)
    for applet in APPLETS:
        archive.link(f"bin/{applet}", "busybox")
    initramfs.add_modules(archive, initramfs.modules(folder, MODULES, ("crc32c_generic",)), "order")
    target.write_bytes(archive.compressed())


def _write_disk(root: Path, disk: Path) -> None:
    run(
        *("mkfs.ext4", "-q", "-F", "-L", "kvmops-root", "-m", "0", "-J", "size=32", "-d", root),
        *("-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", disk, f"{DISK_MIB}M"),
        timeout=600,
    )
    files = [("/", os.lstat(root).st_mode), ("/lost+found", stat.S_IFDIR)]
    for folder, folders, names in os.walk(root):
        for name in (*folders, *names):
            path = Path(folder) / name
            files.append((f"/{path.relative_to(root)}", os.lstat(path).st_mode))
    if odd := [path for path, _mode in files if '"' in path or "\n" in path]:
        raise LabError(f"the root file system has names that cannot be labelled: {odd}")
    script = [f"rm {path}" for path in SWITCHED_OFF]
    for (path, _mode), label in zip(files, labels(root, files)):
        if label != "<<none>>" and path not in SWITCHED_OFF:
            script.append(f'ea_set "{path}" security.selinux {label}')
    done = subprocess.run(
        ["debugfs", "-w", "-f", "-", str(disk)],
        input="\n".join(script) + "\n",
        text=True,
        capture_output=True,
        timeout=600,
        check=False,
    )
    # It says what it does on one stream and what it cannot do on the other, and ends with 0.
    said = [line for line in done.stderr.splitlines() if line and not line.startswith("debugfs 1.")]
    if done.returncode or said:
        raise LabError("debugfs could not label the machines' disk:\n" + "\n".join(said[:20]))
