# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two fake hosts with a VM, and the modules run against them from their arguments to their answer."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args

from ansible_collections.kvmops.migration.plugins.module_utils._images import look
from ansible_collections.kvmops.migration.plugins.module_utils._migrate import devices, facts, local, worker, writes
from ansible_collections.kvmops.migration.plugins.module_utils._pure.images import Image
from ansible_collections.kvmops.migration.plugins.modules import virt_domblk_info, virt_migrate, virt_migrate_info
from fake import carry as fake_carry
from fake import libvirt as fake

UUID = "5ba1ab1e-0000-4000-8000-000000000001"
OTHER = "5ba1ab1e-0000-4000-8000-000000000002"
IMAGE = "/vm/a.qcow2"
DEST_URI = "qemu+ssh://root@kvm2/system"
NO_TLS = {"directory": "/etc/pki/qemu", "files": [], "verify": True}


def disk_xml(target="vda", path=IMAGE, image="qcow2", device="disk", extra="", kind="file", attribute="file"):
    source = f"<source {attribute}='{path}'/>" if path else ""
    return (
        f"<disk type='{kind}' device='{device}'><driver name='qemu' type='{image}'/>{source}"
        f"<target dev='{target}'/>{extra}</disk>"
    )


def volume_xml(name, pool="vm", image="qcow2"):
    return (
        f"<disk type='volume' device='disk'><driver name='qemu' type='{image}'/><source pool='{pool}' volume='{name}'/>"
        "<target dev='vda'/></disk>"
    )


def domain_xml(name="a", uuid=UUID, disks=None, nvram=""):
    devices = disk_xml() if disks is None else "".join(disks)
    firmware = f"<os><nvram>{nvram}</nvram></os>" if nvram else ""
    return (
        f"<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>256</memory>{firmware}"
        f"<devices>{devices}</devices></domain>"
    )


class Lab:
    """Two fake hosts, kvm1 with a running VM `a`, and the modules that run against them."""

    def __init__(self, tmp_path, monkeypatch, capsys):
        self.world = fake.use(fake.World("kvm1", "kvm2"))
        self.kvm1, self.kvm2 = self.world["kvm1"], self.world["kvm2"]
        self._tmp_path = tmp_path
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        # By path, what becomes of a look at an image, and why.
        self.unreadable = {}
        self.locked = set()
        # What the daemon on the module's host has logged as errors.
        self.daemon_errors = []
        # By host, what of certificates is there.
        self.certificates = {}
        monkeypatch.setattr(local.Local, "identity", lambda _, path: self.identity(self.world.local, path))
        monkeypatch.setattr(local.Local, "locked", lambda _, path: path in self.locked)
        real = look.Images.image
        monkeypatch.setattr(look.Images, "image", lambda *args: self.image(*args[1:]) or real(*args))
        monkeypatch.setattr(local.Local, "daemon_errors", lambda _, since: list(self.daemon_errors))
        monkeypatch.setattr(AnsibleModule, "warn", lambda _, text, **more: self.warnings.append(text))
        monkeypatch.setattr(local.Local, "certificates", lambda _: self.certificates.get(self.world.local, NO_TLS))
        self.certificate_facts = {}
        monkeypatch.setattr(
            local.Local, "certificate_facts", lambda _: self.certificate_facts.get(self.world.local, {})
        )
        fake_carry.use(self.world, monkeypatch)
        # By host, what its own files tell; by address, ports that a firewall closes; and names that are known.
        self.machines = {}
        self.closed_ports = {}
        self.names = {}
        self.probed = []
        # By address, the interface that leads there from the module's host, and the Mb/s that it says of itself.
        self.links = {}
        monkeypatch.setattr(local.Local, "link", lambda _, address: self.links.get(address, ("", None)))
        monkeypatch.setattr(facts, "of_machine", lambda: dict(self.machines.get(self.world.local, {})))
        monkeypatch.setattr(facts, "closed_to", lambda machine, _directories: machine.get("closed", {}))
        monkeypatch.setattr(devices, "known", lambda: self.machines.get(self.world.local, {}).get("devices", {}))
        # By host and directory on NFS, what an attempt to write there comes to; it goes well where nothing is said.
        self.writes = {}
        monkeypatch.setattr(writes, "attempt", self._attempt)
        monkeypatch.setattr(facts, "own_addresses", lambda: self.names.get(self.world.local, ["172.16.1.9"]))
        monkeypatch.setattr(facts, "addresses", lambda name: self.names.get(name, ["172.16.1.9"]))
        monkeypatch.setattr(facts, "ports", self._ports)
        self.on("kvm1")

    def _attempt(self, directories, machine):
        well = {who: {"look": "", "error": "", "owner": uid} for who, uid in (("qemu", 64055), ("root", 0))}
        said = self.writes.get(self.world.local, {})
        return {one: said.get(one, well) for one in writes.on_nfs(directories, machine.get("mounts", ()))}

    def _ports(self, address, numbers):
        self.probed += [(address, number) for number in numbers]
        closed = self.closed_ports.get(address, ())
        return {number: "No route to host" if number in closed else "" for number in numbers}

    def on(self, name):
        """Let modules run on that host."""
        self.world.local = name
        self._monkeypatch.setattr(local, "STATE_DIRECTORY", str(self._tmp_path / name))
        self._monkeypatch.setattr(worker, "RUN_DIRECTORY", str(self._tmp_path / "run" / name))
        return self

    def identity(self, host, path):
        file = self.world[host].file(path)
        return None if file is None else {"size": file.allocation, "mtime_ns": hash(file.content), "inode": id(file)}

    def image(self, path, image):
        """What is known of an image on the module's host; nothing where it is none, or a real file."""
        if self.world[self.world.local].file(path) is None or Path(path).exists():
            return None
        state, problem = self.unreadable.get(path, ("ok", ""))
        return Image(path, image, state=state, problem=problem)

    def add(self, host="kvm1", name="a", uuid=UUID, state=fake.VIR_DOMAIN_RUNNING, image=IMAGE, **more):
        """A VM on a host, with its image."""
        more.setdefault("xml", domain_xml(name, uuid, [disk_xml(path=image)] if image else []))
        guest = fake.Guest(name, uuid, state=state, **more)
        self.world[host].guests[uuid] = guest
        if image and self.world[host].file(image) is None:
            self.world[host].write(image, fake.File(content=f"{name} v1"))
        return guest

    def _main(self, module, arguments):
        self._capsys.readouterr()
        self.warnings = []
        with patch_module_args(arguments), pytest.raises(SystemExit) as end:
            module.main()
        result = json.loads(self._capsys.readouterr().out)
        assert "warnings" not in result, "they go through AnsibleModule.warn"
        result.setdefault("failed", False)
        assert (end.value.code != 0) == result["failed"]
        # What a module was given comes back to the controller as well, and is as public as its answer.
        return SimpleNamespace(**result, warnings=self.warnings)

    def move(self, check=False, diff=False, **options):
        """Run virt_migrate; the default is VM `a` to kvm2, in clear and content with it."""
        arguments = {"name": "a", "dest_uri": DEST_URI, "tls": "false", **options}
        return self._main(virt_migrate, {**arguments, "_ansible_check_mode": check, "_ansible_diff": diff})

    def info(self, **options):
        return self._main(virt_migrate_info, options)

    def domblk_info(self, check=False, **options):
        return self._main(virt_domblk_info, {**options, "_ansible_check_mode": check})

    def facts(self, host):
        """What the action plugin brings from the destination."""
        here = self.world.local
        said = vars(self.on(host).info(facts=True))
        self.on(here)
        return {key: said[key] for key in ("host", "journal", "pools")}

    def where(self):
        """State of the VM on each host, None where it is not."""
        return tuple(host.guests[UUID].state if UUID in host.guests else None for host in (self.kvm1, self.kvm2))

    def flags(self):
        """Names of the flags of the last migration, as libvirt got them."""
        bits = self.world.migrations[-1]["flags"]
        flags = {name[len("VIR_MIGRATE_") :]: getattr(fake, name) for name in dir(fake) if name.startswith("VIR_MIG")}
        return {name for name, bit in flags.items() if isinstance(bit, int) and bits & bit}

    def params(self):
        """Typed parameters of the last migration, as libvirt got them."""
        return self.world.migrations[-1]["params"]

    def lose_postcopy(self):
        """From now on every migration of VM `a` fails in post-copy, with half of its memory on each host."""

        def lose(phase, source, dest, guest):
            if phase == "perform":
                guest.state, guest.reason = fake.VIR_DOMAIN_PAUSED, fake.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED
                there = dest.guests[UUID]
                there.state, there.reason = fake.VIR_DOMAIN_RUNNING, fake.VIR_DOMAIN_RUNNING_POSTCOPY_FAILED
                raise fake.libvirtError("operation failed: job 'migration out' failed in post-copy phase", 9)

        self.world.script = lose

    def strays(self):
        """Probes and transient pools that somebody forgot."""
        return [
            name
            for host in self.world.hosts.values()
            for name in [*host.pools, *(file for directory in host.directories.values() for file in directory)]
            if "kvmops-probe" in name
        ]

    def unfinished(self):
        """The ledgers of runs that nobody has settled."""
        runs = sorted((self._tmp_path / "kvm1" / "unfinished").glob("*.json"))
        return [json.loads(path.read_text()) for path in runs]

    def record(self, host="kvm1"):
        runs = sorted((self._tmp_path / host / "runs").glob("*.json"))
        return [json.loads(path.read_text()) for path in runs]

    def journal_file(self):
        path = self._tmp_path / "kvm1" / "journal" / f"{UUID}.json"
        return json.loads(path.read_text()) if path.exists() else None
