# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports of hosts, and who reaches them: by listeners that are really bound and connections that are really tried."""

from __future__ import annotations

from contextlib import contextmanager

LISTEN = """
import socket, sys, threading
def serve(listener):
    while True:
        listener.accept()[0].close()
for listener in [socket.create_server(("", int(port))) for port in sys.argv[1:]]:
    threading.Thread(target=serve, args=(listener,)).start()
"""
SCAN = """
import socket, sys
for target in sys.argv[1:]:
    address, port = target.rsplit(":", 1)
    try:
        socket.create_connection((address, int(port)), 3).close()
        print(target)
    except OSError:
        pass
"""


@contextmanager
def listening(host, *ports):
    """A listener is bound on each of the ports: what does not answer is closed by the firewall."""
    command = "systemd-run --quiet --collect --unit=kvmops-listen python3 -c %s " + " ".join(map(str, ports))
    host.check_output(command, LISTEN)
    try:
        host.check_output(
            "for try in $(seq 300); do ss -Hltn | grep -q ':%d ' && exit 0; sleep 0.1; done; exit 1" % ports[-1]
        )
        yield
    finally:
        host.check_output("systemctl stop kvmops-listen")


def reached(host, addresses, *ports) -> set[int]:
    """Those of the ports that answer on all of the addresses; no port may answer on some of them only."""
    targets = [f"{address}:{port}" for address in addresses for port in ports]
    said = host.check_output("python3 -c %s " + " ".join(targets), SCAN).split()
    answers = {port: sum(target.endswith(f":{port}") for target in said) for port in ports}
    assert set(answers.values()) <= {0, len(addresses)}, said
    return {port for port, number in answers.items() if number}
