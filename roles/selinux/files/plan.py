# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What SELinux and AppArmor lack on this host for the role's wish. Changes nothing.

One look at everything: libsemanage takes seconds to be asked even where it has nothing to do, and most hosts have
nothing to do.
"""

import copy
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

# What that profile lets the helper read by itself.
READABLE = ("/var/lib/libvirt/images", "/media", "/mnt", "/opt", "/srv")
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
PROGRAMS = ("matchpathcon", "restorecon")
LIBRARIES = ("selinux", "semanage", "seobject")


def type_in(label):
    parts = label.split(":")
    return parts[2] if len(parts) > 2 else None


class Host:
    """The host that this runs on, or a copy of what this reads of it, below another root."""

    def __init__(self, root=""):
        self.root = root

    def read(self, path):
        try:
            with open(self.root + path, encoding="utf-8", errors="replace") as stream:
                return stream.read()
        except OSError:
            return None

    def exists(self, path):
        return os.access(self.root + path, os.F_OK)

    def real(self, path):
        """The path that links lead to; below another root, without that root."""
        return os.path.realpath(self.root + path)[len(self.root and os.path.realpath(self.root)) :] or "/"

    def type_of(self, path):
        """SELinux type of a file, or None."""
        try:
            label = os.getxattr(self.root + path, "security.selinux").decode("utf-8", "replace")
        except OSError:
            return None
        return type_in(label.rstrip("\0"))

    def expected(self, path):
        """The type that the policy and the administrator's rules give to a file of this name, or None."""
        try:
            done = subprocess.run(
                ["matchpathcon", "-n", path],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=dict(os.environ, PATH=PATH),
                check=False,
            )
        except OSError:
            return None
        return type_in(done.stdout.decode("utf-8", "replace").strip())

    def equipped(self):
        """Whether the programs and libraries that set all this are installed."""
        programs = all(shutil.which(name, path=PATH) for name in PROGRAMS)
        return programs and all(importlib.util.find_spec(name) for name in LIBRARIES)


def problems(wish):
    found = []
    for name, value in sorted(wish["booleans"].items()):
        if not isinstance(value, bool):
            found.append("selinux_booleans: %s is %s, and must be true or false" % (name, json.dumps(value)))
    for path in wish["directories"]:
        # Each of these means something else in a context's pattern or in a profile.
        if not re.match(r"^/[^\x00-\x1f*?\[\]{}^\"\\]+$", path) or "/../" in path + "/":
            text = json.dumps(path)
            found.append('selinux_image_directories: %s is no absolute path, or has one of *?[]{}^"\\ in it' % text)
    if not re.match(r"^\w+$", wish["type"]):
        found.append("selinux_image_type: '%s' is not the name of a type, like virt_image_t" % wish["type"])
    return found


def pattern(path):
    """What a context's rule says for a directory and all in it."""
    return re.sub(r"([.+$()|])", r"\\\1", path.rstrip("/")).replace(" ", r"\s") + "(/.*)?"


# --- SELinux


def selinux_mode(host):
    """Enforcing, permissive or disabled; a container sees its host's SELinux and cannot use it."""
    enforce = host.read("/sys/fs/selinux/enforce")
    for line in (host.read("/proc/self/mounts") or "").splitlines():
        fields = line.split()
        if len(fields) > 3 and fields[2] == "selinuxfs" and "ro" in fields[3].split(","):
            enforce = None
    return {"1": "enforcing", "0": "permissive"}.get((enforce or "").strip(), "disabled")


def labelled(host, path):
    """Whether the file system of a path, which may not be there yet, keeps a label for each file."""
    path = host.real(path)
    best, keeps = "", False
    for line in (host.read("/proc/self/mounts") or "").splitlines():
        fields = line.split()
        point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), fields[1])
        if (path + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(best):
            best, keeps = point, "seclabel" in fields[3].split(",")
    return keeps


def lasting(host):
    """The values of booleans that the administrator has set for good."""
    config = re.search(r"^SELINUXTYPE=(\S+)", host.read("/etc/selinux/config") or "", re.MULTILINE)
    text = host.read("/var/lib/selinux/%s/active/booleans.local" % (config.group(1) if config else "targeted")) or ""
    return {name: value == "1" for name, value in re.findall(r"^(\w+)\s*=\s*([01])", text, re.MULTILINE)}


def plan_booleans(wish, host, answer, known):
    """Returns what is to be remembered of the booleans, and fills in what is to be set."""
    kept = {}
    for_good = lasting(host)
    for name, value in sorted(wish["booleans"].items()):
        said = host.read("/sys/fs/selinux/booleans/" + name)
        if said is None:
            answer["errors"].append("selinux_booleans: the policy of this host has no boolean '%s'" % name)
            continue
        now = said.split()[:1] == ["1"]
        if (now, for_good.get(name)) != (value, value):
            answer["booleans"].append({"name": name, "state": value})
        if name in known or (now, for_good.get(name, now)) != (value, value):
            kept[name] = known.get(name, for_good.get(name, now))
    for name, value in sorted(known.items()):
        if name not in wish["booleans"] and host.exists("/sys/fs/selinux/booleans/" + name):
            answer["booleans"].append({"name": name, "state": value})
    return kept


def plan_contexts(wish, host, answer, known):
    """Returns the directories that are to be remembered, and fills in what is to be set."""
    # What a link leads to is what the kernel sees.
    wished = sorted({host.real(path) for path in wish["directories"]})
    kept = [path for path in wished if path in known]
    for path in wished:
        if not labelled(host, path):
            continue
        if {host.expected(path), host.expected(path + "/image")} != {wish["type"]}:
            answer["contexts"].append({"target": pattern(path), "state": "present"})
            answer["relabel"].append(path)
            kept += [path] if path not in kept else []
        elif host.type_of(path) not in (None, wish["type"]):
            answer["relabel"].append(path)
    for path in known:
        if path not in wished:
            answer["contexts"].append({"target": pattern(path), "state": "absent"})
            answer["relabel"].append(path)
    answer["relabel"] = [path for path in answer["relabel"] if host.exists(path) and labelled(host, path)]
    return sorted(kept)


# --- AppArmor


def apparmor_lines(wish, host):
    """What the helper's profile is to permit; None where there is nothing to do, as without AppArmor."""
    if (host.read("/sys/module/apparmor/parameters/enabled") or "").strip() != "Y" or not host.exists(wish["profile"]):
        return None
    if "virt-aa-helper" not in (host.read("/sys/kernel/security/apparmor/profiles") or ""):
        return None
    driver = re.search(r"^\s*security_driver\s*=\s*(.*)", host.read("/etc/libvirt/qemu.conf") or "", re.MULTILINE)
    if driver and "apparmor" not in driver.group(1):
        return None
    lines = []
    for path in wish["directories"]:
        # What guests have in their definitions, and what the kernel sees.
        for each in sorted({path.rstrip("/"), host.real(path)}):
            if not (each + "/").startswith(tuple(known + "/" for known in READABLE)):
                lines += ['"%s/" r,' % each, '"%s/**" r,' % each]
    # The block of an earlier run goes where none is needed any more.
    needless = not lines and wish["marker"].format(mark="BEGIN") not in (host.read(wish["local"]) or "")
    return None if needless else list(dict.fromkeys(lines))


def plan(wish, host):
    answer = {
        "errors": problems(wish) if wish["state"] == "present" else [],
        "selinux": "disabled",
        "equipped": False,
        "booleans": [],
        "contexts": [],
        "relabel": [],
        "apparmor": None,
        "recorded": None,
        "record": None,
        "record_after": None,
    }
    if answer["errors"]:
        return answer
    if wish["state"] == "absent":
        wish = dict(wish, booleans={}, directories=[])
    text = host.read(wish["record_file"])
    answer["recorded"] = json.loads(text) if text else None
    known = copy.deepcopy(answer["recorded"]) or {"booleans": {}, "directories": []}
    answer["apparmor"] = apparmor_lines(wish, host)
    answer["selinux"] = selinux_mode(host)
    answer["record"] = answer["record_after"] = answer["recorded"]
    if answer["selinux"] == "disabled":
        return answer
    answer["equipped"] = host.equipped()
    booleans = plan_booleans(wish, host, answer, known["booleans"])
    directories = plan_contexts(wish, host, answer, known["directories"])
    after = {"booleans": booleans, "directories": directories}
    if after != {"booleans": {}, "directories": []} or answer["recorded"]:
        answer["record"] = {
            "booleans": dict(known["booleans"], **booleans),
            "directories": sorted({*known["directories"], *directories}),
        }
        answer["record_after"] = None if wish["state"] == "absent" else after
    return answer


if __name__ == "__main__":
    print(json.dumps(plan(json.loads(sys.argv[1]), Host())))
