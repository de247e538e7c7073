# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""The files of the machine that the module runs on: images, the journal and the records of runs.

The journal says which images a VM left behind here, so that a later move back may replace them. It is one JSON file per
VM. A run that has begun to change something has its ledger among the unfinished ones until it is settled, and its
record among the runs afterwards: one JSON file per run, and beside it what the controller has measured meanwhile.
Nothing in them is secret, and only root reads them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from contextlib import suppress
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from .._images.look import RunCommand
from .._pure import certificates
from .._pure.status import MOVING, RUNS, STATE_DIRECTORY
from . import jsonfile
from .ledger import Ledger

KEPT_RUNS = 100
NETWORKS = "/sys/class/net"
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Local:
    """What the engine does with local files, in one place, so that tests can give it a directory of their own."""

    def __init__(self, run_command: RunCommand) -> None:
        directory = STATE_DIRECTORY
        self._run_command = run_command
        self._journal = os.path.join(directory, "journal")
        self._runs = os.path.join(directory, RUNS)
        self._unfinished = os.path.join(directory, "unfinished")

    # Images

    def identity(self, path: str) -> Dict[str, int] | None:
        """What tells whether an image is still the file that it was, or None where there is none."""
        try:
            found = os.stat(path)
        except OSError:
            return None
        return {"size": found.st_size, "mtime_ns": found.st_mtime_ns, "inode": found.st_ino, "device": found.st_dev}

    def has_directory(self, path: str) -> bool:
        """Whether the directory of that file is there."""
        return os.path.isdir(os.path.dirname(path))

    def locked(self, path: str) -> bool:
        """Whether a process holds a lock on the file, as QEMU does on the images of a VM."""
        try:
            inode = os.stat(path).st_ino
            with open("/proc/locks", encoding="ascii") as table:
                text = table.read()
        except OSError:
            return False
        # The device in this table is not the one of stat() on every file system: the inode alone errs on the safe side.
        return any(field.endswith(f":{inode}") for field in text.split())

    # Logs

    def daemon_errors(self, since: float) -> List[Tuple[float, str]]:
        """What libvirt's daemon has logged as errors here from that moment on; times are seconds since the epoch."""
        command = ["journalctl", "--quiet", "--no-pager", "--output=json", "--priority=err", f"--since=@{since:.3f}"]
        if shutil.which(command[0]) is None:
            return []
        status, output, _errors = self._run_command([*command, "_COMM=libvirtd", "+", "_COMM=virtqemud"])
        entries = [json.loads(line) for line in output.splitlines()] if status == 0 else []
        # What is no text comes as a list of bytes.
        return [
            (int(entry["__REALTIME_TIMESTAMP"]) / 10**6, entry["MESSAGE"])
            for entry in entries
            if isinstance(entry.get("MESSAGE"), str)
        ]

    # Networks

    def traffic(self) -> Dict[str, Tuple[int, int]]:
        """Bytes that each network interface has sent and received; loopback is none."""
        found = {}
        for name in sorted(os.listdir(NETWORKS)) if os.path.isdir(NETWORKS) else ():
            counters = [_text(os.path.join(NETWORKS, name, "statistics", f"{way}_bytes")) for way in ("tx", "rx")]
            if name != "lo" and all(counter.strip().isdigit() for counter in counters):
                found[name] = (int(counters[0]), int(counters[1]))
        return found

    def link(self, address: str) -> Tuple[str, int | None]:
        """The network interface that leads to that address, and the megabits per second that it says of itself."""
        program = shutil.which("ip", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin")))
        if program is None:
            return "", None
        _status, output, _errors = self._run_command([program, "-o", "route", "get", address])
        match = re.search(r" dev (\S+)", output)
        return (match[1], _speed(match[1])) if match else ("", None)

    # Certificates

    def certificates(self) -> Dict[str, Any]:
        """The certificates that this machine's QEMU has for migration over TLS."""
        conf = certificates.settings(_text(certificates.QEMU_CONF))
        choice = certificates.directories(conf)
        directory = next((path for path in choice[:-1] if os.path.isdir(path)), choice[-1])
        names = (certificates.AUTHORITY, *certificates.SERVER, *certificates.CLIENT)
        return {
            "directory": directory,
            "files": [name for name in names if os.path.exists(os.path.join(directory, name))],
            "verify": certificates.verifies(conf),
        }

    def certificate_facts(self) -> Dict[str, Any]:
        """By name, what is known of those certificates; nothing without openssl."""
        known = self.certificates()
        found: Dict[str, Any] = {}
        for name in (certificates.AUTHORITY, certificates.SERVER[0], certificates.CLIENT[0]):
            if name not in known["files"] or shutil.which(certificates.DESCRIBE[0]) is None:
                continue
            path = os.path.join(known["directory"], name)
            status, output, errors = self._run_command([*certificates.DESCRIBE, path])
            found[name] = {**certificates.described(output), "path": path}
            if status:
                found[name]["trouble"] = f"openssl cannot read it: {_last(errors)}"
            elif name != certificates.AUTHORITY:
                found[name]["trouble"] = self._chain_trouble(
                    path, os.path.join(known["directory"], certificates.AUTHORITY)
                )
        return found

    def _chain_trouble(self, path: str, authority: str) -> str:
        """Why a certificate is none of that authority; its dates are judged by the clock of the one who judges."""
        command = ["openssl", "verify", "-no_check_time", "-CAfile", authority, path]
        status, output, errors = self._run_command(command)
        return f"it is not of {authority}: {_last(errors or output)}" if status else ""

    # The journal

    def journal(self) -> List[Dict[str, Any]]:
        """Every image that a VM left behind here, with what has become of it."""
        entries = []
        for name in sorted(_names(self._journal)):
            record = _read(os.path.join(self._journal, name)) or {}
            for image in record.get("images", []):
                entries.append({**image, "uuid": record["uuid"], "name": record["name"], **self._now(image)})
        return entries

    def _now(self, image: Mapping[str, Any]) -> Dict[str, Any]:
        identity = self.identity(image["path"])
        if identity is None:
            return {"state": "gone", "locked": False}
        return {"state": _compare(image, identity), "locked": self.locked(image["path"])}

    def leave_behind(self, uuid: str, name: str, images: Sequence[Mapping[str, Any]]) -> None:
        """Note the images that the VM leaves here; what an earlier move of it left elsewhere stays noted."""
        path = os.path.join(self._journal, f"{uuid}.json")
        paths = {image["path"] for image in images}
        earlier = (_read(path) or {}).get("images", [])
        kept = [image for image in earlier if image["path"] not in paths and os.path.exists(image["path"])]
        jsonfile.store(path, {"version": 1, "uuid": uuid, "name": name, "images": [*kept, *images]}, lasting=True)

    def forget(self, uuid: str, paths: Sequence[str]) -> None:
        """Take images out of the journal: the VM did not leave them after all."""
        path = os.path.join(self._journal, f"{uuid}.json")
        record = _read(path)
        if record is None:
            return
        record["images"] = [image for image in record["images"] if image["path"] not in paths]
        if record["images"]:
            jsonfile.store(path, record, lasting=True)
        else:
            os.unlink(path)

    # Runs that have begun

    def open_run(self, ledger: Ledger) -> None:
        """Note what a run is about to change, or what has changed about that."""
        jsonfile.store(os.path.join(self._unfinished, f"{ledger.run}.json"), ledger.plain(), lasting=True)

    def close_run(self, run_id: str) -> None:
        """The run is settled: nothing of it is left to do."""
        # One that stays is settled once more, and nothing is left to do then.
        with suppress(OSError):
            os.unlink(os.path.join(self._unfinished, f"{run_id}.json"))

    def unfinished(self) -> List[Ledger]:
        """The migrations that were not settled, the oldest first."""
        return [Ledger.read(plain) for plain in self._all_unfinished() if "kind" not in plain]

    def open_copy(self, ledger: Any) -> None:
        """The same of a relocation, whose ledger has a `kind`."""
        jsonfile.store(os.path.join(self._unfinished, f"{ledger.run}.json"), ledger.plain(), lasting=True)

    def copies(self) -> List[Dict[str, Any]]:
        """The relocations that were not settled, the oldest first."""
        return [plain for plain in self._all_unfinished() if "kind" in plain]

    def _all_unfinished(self) -> List[Dict[str, Any]]:
        found = [jsonfile.load(os.path.join(self._unfinished, name)) for name in sorted(_names(self._unfinished))]
        return [plain for plain in found if plain and plain.get("run") and plain.get("uuid")]

    def begun(self, uuid: str) -> Dict[str, Dict[str, Any]]:
        """By path, the devices that runs with this VM which were not settled have begun to write to."""
        carried = [one for plain in self._all_unfinished() if plain["uuid"] == uuid for one in plain.get("carried", ())]
        return {one["dest"]: one["begun"] for one in carried if one.get("begun")}

    # Records of runs

    def record_run(self, run_id: str, record: Mapping[str, Any]) -> None:
        """Keep the record of a run, and only the newest of all records."""
        jsonfile.store(os.path.join(self._runs, f"{run_id}.json"), record, lasting=True)
        for name in sorted(_names(self._runs))[:-KEPT_RUNS]:
            for path in (name, _beside(name)):
                with suppress(FileNotFoundError):
                    os.unlink(os.path.join(self._runs, path))

    def last_records(self, names: Sequence[str]) -> List[Dict[str, Any]]:
        """The newest record of each VM of which there is one here, or of each of these VMs, the newest first."""
        found: Dict[str, Dict[str, Any]] = {}
        for name in sorted(_names(self._runs), reverse=True):
            record = jsonfile.load(os.path.join(self._runs, name)) or {}
            vm = record.get("name")
            if isinstance(vm, str) and vm not in found and (not names or vm in names):
                outage = jsonfile.load(os.path.join(self._runs, _beside(name)))
                found[vm] = {**record, **({"outage": outage} if outage else {})}
        return list(found.values())


def _compare(image: Mapping[str, Any], identity: Mapping[str, int]) -> str:
    """unchanged; unsettled: the same file, of a run that was killed before it knew what it left; or changed."""
    # The number of a device can be another one after a reboot.
    if all(image.get(key) == value for key, value in identity.items() if key != "device"):
        return "unchanged"
    same_file = "inode" in image and all(image.get(key) == identity.get(key) for key in ("inode", "device"))
    return "unsettled" if same_file and image.get("phase") == MOVING else "changed"


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "no reason given"


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def _speed(interface: str) -> int | None:
    """Megabits per second. A bridge tells the speed of any of its ports, of guests among them: ask those of devices."""
    folder = os.path.join(NETWORKS, interface)
    ports = os.path.join(folder, "brif")
    real = [
        port
        for port in (sorted(os.listdir(ports)) if os.path.isdir(ports) else ())
        if not os.path.exists(os.path.join(NETWORKS, port, "tun_flags"))
    ]
    told = [_text(os.path.join(NETWORKS, name, "speed")).strip() for name in real or [interface]]
    # It is -1 where there is none to tell, and reading it fails where the link is down.
    return max((int(speed) for speed in told if speed.isdigit() and int(speed)), default=None)


def _beside(name: str) -> str:
    """The file beside a record that has what the controller has measured while the run went on."""
    return f"{name[: -len('.json')]}.outage"


def _names(directory: str) -> List[str]:
    try:
        return [name for name in os.listdir(directory) if name.endswith(".json")]
    except OSError:
        return []


def _read(path: str) -> Dict[str, Any] | None:
    """A record, or None for one that is not there or not ours: half a file must not stop a run."""
    record = jsonfile.load(path) or {}
    try:
        good = all(isinstance(image["path"], str) for image in record["images"])
        return record if good and _UUID.fullmatch(record["uuid"]) and record["name"] else None
    except (KeyError, TypeError):
        return None
