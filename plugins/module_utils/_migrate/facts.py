# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""What a host says of itself that VMs depend on: facts, and no judgement. Nothing is changed by asking.

What libvirt tells comes over any connection; what only the host's own files tell, from a module that runs there.
"""

from __future__ import annotations

import errno
import grp
import ipaddress
import os
import pwd
import re
import selectors
import shutil
import socket
import stat
import sys
import time
from contextlib import suppress
from typing import Any, Callable, Collection, Dict, Iterable, List, Mapping, Sequence, Tuple

from .._libvirt import Host, LibvirtFailure, NoAnswer, bounded
from .._pure import certificates, images, needs
from .._pure.preflight import LOCAL_TYPES, mount_fact

# Seconds that a name gets to resolve.
NAME_PATIENCE = 3.0
# Seconds that a port gets to answer.
PORT_PATIENCE = 2.0
# All files are looked for below this directory.
ROOT = "/"
# Who runs QEMU where qemu.conf does not say.
QEMU_USERS = ("libvirt-qemu", "qemu")
SELINUX_BOOLEANS = ("virt_use_nfs", "virt_use_samba", "virt_use_fusefs")

# What libvirt's client calls through ssh on the other host; one of them is enough.
SSH_HELPERS = ("virt-ssh-helper", "nc")
# Where a shell that comes through ssh finds programs.
_LOGIN_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin:/run/current-system/sw/bin"
# The daemons that run QEMU's guests, by their process IDs' files.
_DAEMONS = {"run/virtqemud.pid": "virtqemud", "run/libvirtd.pid": "libvirtd"}
_LISTENING = "0A"


def of_host(host: Host, wanted: Collection[str] = ("networks", "filters", "memory", "secrets")) -> Dict[str, Any]:
    """What libvirt tells; what its driver does not know is not there."""
    offers = needs.offers(host.capabilities)
    facts: Dict[str, Any] = {
        "machines": {arch: list(names) for arch, names in offers.machines.items()},
        "types": {arch: list(names) for arch, names in offers.types.items()},
        "emulators": list(offers.emulators),
        "cpu": offers.cpu,
    }
    questions: Dict[str, Callable[[], Any]] = {
        "networks": host.networks,
        "filters": host.filters,
        "memory": host.memory,
        "secrets": host.secrets,
    }
    for name, ask in questions.items():
        if name in wanted:
            with suppress(LibvirtFailure, AttributeError):
                facts[name] = ask()
    return facts


def of_machine() -> Dict[str, Any]:
    """What the files of this machine tell. Nothing is asked that could keep us waiting."""
    conf = certificates.settings(text_of("etc/libvirt/qemu.conf"))
    listeners = _listeners()
    return {
        "now": time.time(),
        "interfaces": _interfaces(),
        "local_addresses": _local_addresses(),
        "linux_bridges": [
            name for name in names_in("sys/class/net") if os.path.isdir(path_of(f"sys/class/net/{name}/bridge"))
        ],
        "mounts": _mounts(),
        "qemu_conf": {name: conf[name] for name in _SETTINGS if name in conf},
        "qemu_user": _qemu_user(conf),
        "hooks": _hooks(),
        "selinux": _selinux(),
        "listening": sorted({port for _address, port in listeners}),
        "listeners": listeners,
        "huge_pages": _huge_pages(),
        "swap_free": _swap_free(),
        "userfaultfd": text_of("proc/sys/vm/unprivileged_userfaultfd").strip(),
        "userfaultfd_device": _is_for_others("dev/userfaultfd"),
        "swtpm": shutil.which("swtpm") is not None,
        "ssh_helpers": [name for name in SSH_HELPERS if shutil.which(name, path=_LOGIN_PATH)],
        "daemon_ssh": _daemon_ssh(),
    }


_SETTINGS = (
    "migration_address",
    "migration_host",
    "migration_port_min",
    "migration_port_max",
    "migrate_tls_force",
    "dynamic_ownership",
    "lock_manager",
    "security_driver",
)


def own_addresses() -> List[str]:
    """What this machine's own name resolves to here."""
    return addresses(socket.gethostname())


def addresses(name: str) -> List[str]:
    """What a name resolves to here, nothing where it does not."""
    try:
        found = bounded(lambda: socket.getaddrinfo(name, None, type=socket.SOCK_STREAM), NAME_PATIENCE, name)
    except (OSError, UnicodeError, NoAnswer):
        return []
    return list(dict.fromkeys(str(one[4][0]) for one in found))


def ports(address: str, numbers: Sequence[int]) -> Dict[int, str]:
    """By port of another host, nothing where packets get there and back, else what keeps them from it.

    A port where nobody listens answers by refusing. One where somebody does is not for us to connect to: a QEMU that
    waits for a guest would take us for it.
    """
    found: Dict[int, str] = {}
    waiting = selectors.DefaultSelector()
    trying: Dict[int, socket.socket] = {}
    deadline = time.monotonic() + PORT_PATIENCE
    try:
        for number in numbers:
            family, place = _place(address, number)
            one = trying[number] = socket.socket(family, socket.SOCK_STREAM)
            # What a firewall answers by ICMP looks like a port where nobody listens, but for this (ip(7)).
            with suppress(OSError):
                one.setsockopt(*_RECVERR[family], 1)
            one.setblocking(False)
            error = one.connect_ex(place)
            if error == errno.EINPROGRESS:
                waiting.register(one, selectors.EVENT_WRITE, number)
            else:
                found[number] = _answer(error, one)
        while len(found) < len(trying) and time.monotonic() < deadline:
            for key, _events in waiting.select(max(0.0, deadline - time.monotonic())):
                one = trying[key.data]
                waiting.unregister(one)
                found[key.data] = _answer(one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), one)
    finally:
        waiting.close()
        for one in trying.values():
            one.close()
    return {number: found.get(number, "no answer") for number in numbers}


# By family, the level and number of IP_RECVERR and IPV6_RECVERR, which Python has no names for.
_RECVERR = {
    int(socket.AF_INET): (socket.IPPROTO_IP, 11),
    int(socket.AF_INET6): (socket.IPPROTO_IPV6, 25),
}


def _answer(error: int, one: socket.socket) -> str:
    if error == errno.ECONNREFUSED and told_by_icmp(one):
        return "a firewall rejects it"
    return "" if error in (0, errno.ECONNREFUSED) else os.strerror(error)


def told_by_icmp(one: socket.socket) -> bool:
    """Whether an error of a socket with IP_RECVERR came by ICMP, and not from the port itself."""
    try:
        return bool(one.recvmsg(1, 512, socket.MSG_ERRQUEUE)[1])
    except OSError:
        return False


def _place(address: str, number: int) -> Tuple[int, Any]:
    found = bounded(lambda: socket.getaddrinfo(address, number, type=socket.SOCK_STREAM), NAME_PATIENCE, address)
    return found[0][0], found[0][4]


def path_of(name: str) -> str:
    return os.path.join(ROOT, name)


def text_of(name: str) -> str:
    try:
        with open(path_of(name), encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def names_in(name: str) -> List[str]:
    try:
        return sorted(os.listdir(path_of(name)))
    except OSError:
        return []


def _is_for_others(name: str) -> bool:
    """Whether somebody but root may use a device."""
    try:
        return bool(os.stat(path_of(name)).st_mode & 0o066)
    except OSError:
        return False


def _interfaces() -> Dict[str, int]:
    """By network device, bridges among them, its MTU."""
    found = {name: text_of(f"sys/class/net/{name}/mtu").strip() for name in names_in("sys/class/net")}
    return {name: int(mtu) for name, mtu in found.items() if mtu.isdigit()}


def _mounts() -> List[Dict[str, Any]]:
    """What is mounted where images may lie, and is not hidden by another mount: the longest path is what is seen."""
    known = images.mounts(text_of("proc/self/mountinfo"))
    return [
        {
            "path": mount.point,
            "type": mount.fstype,
            "read_only": "ro" in mount.options,
            # Whether files have labels there, of their own or one for all of them.
            "labelled": any(option == "seclabel" or option.startswith("context=") for option in mount.options),
            # Whether a lock that is taken here is seen here only (nfs(5)).
            "own_locks": any(option in _OWN_LOCKS for option in mount.options),
        }
        for mount in known
        if mount.fstype not in _NO_STORAGE and images.mount_of(mount.point, known) is mount
    ]


_OWN_LOCKS = ("nolock", "local_lock=all", "local_lock=posix")

_NO_STORAGE = frozenset(
    (
        *("autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs", "efivarfs"),
        *("fusectl", "hugetlbfs", "mqueue", "nsfs", "proc", "pstore", "ramfs", "rpc_pipefs", "securityfs", "selinuxfs"),
        *("sysfs", "tracefs"),
    )
)


def _qemu_user(conf: Dict[str, str]) -> Dict[str, Any]:
    """Who runs QEMU, in a name and in the numbers that a file server sees; empty where that is not known."""
    wanted = conf.get("user", "")
    for name in [wanted] if wanted else QEMU_USERS:
        number = name.lstrip("+")
        with suppress(KeyError):
            user = pwd.getpwuid(int(number)) if number.isdigit() else pwd.getpwnam(name)
            return {"name": user.pw_name, "uid": user.pw_uid, "gid": _gid(conf.get("group", ""), user.pw_gid)}
    return {}


def _gid(wanted: str, default: int) -> int:
    number = wanted.lstrip("+")
    if number.isdigit():
        return int(number)
    with suppress(KeyError):
        return grp.getgrnam(wanted).gr_gid
    return default


def _hooks() -> List[str]:
    """What libvirt calls for each VM that comes or goes (https://libvirt.org/hooks.html)."""
    own = ["qemu"] if "qemu" in names_in("etc/libvirt/hooks") else []
    own += [f"qemu.d/{name}" for name in names_in("etc/libvirt/hooks/qemu.d")]
    return [f"/etc/libvirt/hooks/{name}" for name in own]


def closed_to(machine: Mapping[str, Any], directories: Iterable[str]) -> Dict[str, str]:
    """By directory, the first one on the way there that QEMU's user may not pass; `machine` is of_machine().

    Only what is on file systems of this host is looked at: a server may be silent, and decides by itself. Where there
    are rules beside the mode (acl(5)), nothing is said.
    """
    user = machine["qemu_user"]
    if not user.get("uid"):
        return {}
    groups = set(os.getgrouplist(user["name"], user["gid"]))
    found: Dict[str, str] = {}
    for directory in dict.fromkeys(directories):
        if mount_fact(f"{directory}/image", machine["mounts"]).get("type") in LOCAL_TYPES:
            closed = next((one for one in _way_to(directory) if not _passes(user["uid"], groups, one)), "")
            if closed:
                found[directory] = closed
    return found


def _way_to(directory: str) -> List[str]:
    parts = directory.strip("/").split("/")
    return ["/", *("/" + "/".join(parts[: number + 1]) for number in range(len(parts)))]


def _passes(uid: int, groups: Collection[int], directory: str) -> bool:
    try:
        path = path_of(directory.lstrip("/"))
        state = os.stat(path)
        if "system.posix_acl_access" in os.listxattr(path):
            return True
    except OSError:
        return True
    bit = stat.S_IXUSR if state.st_uid == uid else stat.S_IXGRP if state.st_gid in groups else stat.S_IXOTH
    return bool(state.st_mode & bit)


def _daemon_ssh() -> bool | None:
    """Whether the daemon finds ssh, which it looks for by its own environment; None where that is not known."""
    for file, name in _DAEMONS.items():
        number = text_of(file).strip()
        # The file of a daemon that was killed stays.
        if not number.isdigit() or text_of(f"proc/{number}/comm").strip() != name:
            continue
        environment = dict(one.partition("=")[::2] for one in text_of(f"proc/{number}/environ").split("\0"))
        if environment != {"": ""}:
            return shutil.which("ssh", path=environment.get("PATH", "")) is not None
    return None


def _selinux() -> Dict[str, Any]:
    """Whether SELinux enforces, and which of its switches are on; empty where there is none."""
    enforces = text_of("sys/fs/selinux/enforce").strip()
    if not enforces:
        return {}
    switches = {name: text_of(f"sys/fs/selinux/booleans/{name}")[:1] for name in SELINUX_BOOLEANS}
    return {"enforcing": enforces == "1", "on": [name for name, value in switches.items() if value == "1"]}


def _listeners() -> List[Tuple[str, int]]:
    """The addresses and ports where somebody listens."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in text_of(f"proc/net/{table}").splitlines()[1:]:
            words = line.split()
            if len(words) > 3 and words[3] == _LISTENING:
                address, _colon, port = words[1].rpartition(":")
                found.add((_address(address), int(port, 16)))
    return sorted(found)


def _address(digits: str) -> str:
    """An address of /proc/net/tcp: words of 32 bits, each in the machine's own order of bytes."""
    words = [int(digits[start : start + 8], 16) for start in range(0, len(digits), 8)]
    packed = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    return str(ipaddress.ip_address(packed))


def _local_addresses() -> List[str]:
    """The addresses of this machine's own interfaces, by the kernel's table of routes (type LOCAL) for IPv4."""
    found = []
    last = ""
    for line in text_of("proc/net/fib_trie").splitlines():
        words = line.split()
        if words[:1] == ["|--"]:
            last = words[1]
        elif words[:3] == ["/32", "host", "LOCAL"]:
            found.append(last)
    for line in text_of("proc/net/if_inet6").splitlines():
        found.append(str(ipaddress.ip_address(bytes.fromhex(line.split()[0]))))
    return list(dict.fromkeys(found))


def _huge_pages() -> Dict[str, int]:
    """By their size in bytes, as text, the huge pages that are free."""
    found = {}
    for name in names_in("sys/kernel/mm/hugepages"):
        size = name.partition("-")[2].partition("kB")[0]
        free = text_of(f"sys/kernel/mm/hugepages/{name}/free_hugepages").strip()
        if size.isdigit() and free.isdigit():
            found[str(int(size) << 10)] = int(free)
    return found


def _swap_free() -> int:
    match = re.search(r"^SwapFree:\s+(\d+) kB", text_of("proc/meminfo"), re.MULTILINE)
    return int(match[1]) << 10 if match else 0
