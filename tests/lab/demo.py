# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make demo`: the lab boots, centos64a moves live from labkvm1 to labkvm2, and everything is shown as it happens."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

from .host import Host
from .paths import LabError, require_root

REPOSITORY = Path(__file__).resolve().parents[2]
PLAYBOOKS = REPOSITORY / "playbooks"
HYPERVISORS = ("labkvm1", "labkvm2")
VM = "centos64a"
PATIENCE = 20
RECORD = re.compile(r"kvmops: record (\S+) (\d+)")

BEGAN = time.monotonic()


def title(text: str) -> None:
    print(f"\n=== {text}  [{time.monotonic() - BEGAN:.0f} s]", flush=True)


def shell(command: str, folder: Path = PLAYBOOKS) -> str:
    """Run a command as a person would type it, show it and what it prints, and stop where it fails."""
    print(f"$ {command}", flush=True)
    process = subprocess.Popen(command, shell=True, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    if process.wait():
        raise LabError(f"`{command}` ended with {process.returncode}")
    return "".join(lines)


def last_record(host: Host) -> tuple[str, str]:
    """Boot id and number of the last record that the guest has printed there; it may have come just now."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        log = host.execute("tail", "-c", "4000", f"/var/log/libvirt/qemu/{VM}.serial.log").stdout
        found: list[tuple[str, str]] = RECORD.findall(log)
        if found:
            return found[-1]
        time.sleep(0.1)
    raise LabError(f"{VM} runs on {host.name} and has written no record within {PATIENCE} s")


def where() -> tuple[str, str, int]:
    """Show what both hypervisors and the guest's own console say; return host, boot id and last record."""
    running = None
    for name in HYPERVISORS:
        host = Host(name)
        asked = host.execute("virsh", "domstate", VM)
        state = asked.stdout.strip() if asked.returncode == 0 else "not defined"
        said = ""
        if state == "running":
            boot, record = last_record(host)
            said = f"  boot id {boot}, last record on its disk {record}"
            running = (name, boot, int(record))
        print(f"  {name}: {VM} is {state}{said}")
    if running is None:
        raise LabError(f"{VM} runs nowhere")
    return running


def changed(output: str) -> int:
    return sum(int(count) for count in re.findall(r"\bchanged=(\d+)", output))


def demo() -> None:
    require_root()
    title("The lab: three hosts on three networks, prepared by the collection's roles, and a guest")
    shell("make lab", REPOSITORY)
    title("Before")
    host, boot, record = where()

    title("What would happen (check mode): a change is announced, none is made")
    announced = changed(shell(f"ansible-playbook migrate.yml -e vm={VM} --check"))
    if not announced or where()[0] != host:
        raise LabError("check mode did not announce the move, or made it")

    title("The move")
    shell(f"ansible-playbook migrate.yml -e vm={VM}")
    title("After")
    new_host, new_boot, new_record = where()
    if new_host == host or new_boot != boot or new_record <= record:
        raise LabError(f"before: {(host, boot, record)}, after: {(new_host, new_boot, new_record)}")
    print(f"  {host} -> {new_host}: the same boot, {new_record - record} records later")

    title("The same command again changes nothing")
    again = changed(shell(f"ansible-playbook migrate.yml -e vm={VM}"))
    if again:
        raise LabError(f"the second run changed {again} times")

    title("Your turn")
    print(f"""\
  . .venv/bin/activate && cd playbooks
  ansible-playbook migrate.yml -e vm={VM} -e dest={host}     # and back
  ansible-playbook migrate.yml -e vm={VM} -e report=/tmp/{VM}.html # and a page about it, for your browser
  ansible hypervisors -m command -a 'virsh list --all'
  ansible {host} -m command -a 'tail -n 3 /var/log/libvirt/qemu/{VM}.serial.log'
  make -C .. lab-down                                             # take it all down""")


def main() -> int:
    try:
        demo()
    except LabError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
