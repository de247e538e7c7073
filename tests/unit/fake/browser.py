# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real browser without a window, driven through two pipes by the protocol of its developer tools."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import struct
import tempfile
import zlib

PROGRAMS = ("chromium-headless-shell", "chromium", "google-chrome")
# Nothing is looked up, and nothing is asked of its maker.
SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-pipe",
)
# The numbers that the browser expects of its pipes.
READS, WRITES = 3, 4


class Browser:
    """One browser with one page."""

    def __init__(self):
        program = next(filter(None, map(shutil.which, PROGRAMS)), None)
        if program is None:
            raise FileNotFoundError(f"there is none of {', '.join(PROGRAMS)}: make setup installs the first one")
        self._profile = tempfile.mkdtemp(prefix="kvmops-browser-")
        commands, self._commands = self._pipe()
        self._answers, answers = self._pipe()
        null = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1, 2)]
        self._pid = os.posix_spawn(
            program,
            [program, *SWITCHES, f"--user-data-dir={self._profile}", "about:blank"],
            {**os.environ, "HOME": self._profile},
            file_actions=[
                *null,
                (os.POSIX_SPAWN_DUP2, commands, READS),
                (os.POSIX_SPAWN_DUP2, answers, WRITES),
            ],
        )
        os.close(commands)
        os.close(answers)
        self._number = 0
        self._rest = b""
        self._session = {}
        # What it has told of by itself, by the name of the event.
        self.events = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        self._call(
            "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0
        )

    @staticmethod
    def _pipe():
        """Both ends of a pipe, with numbers that are nobody's else."""
        ends = os.pipe()
        high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 20) for end in ends)
        for end in ends:
            os.close(end)
        return high

    def close(self):
        self._session = {}
        self._call("Browser.close")
        os.waitpid(self._pid, 0)
        os.close(self._commands)
        os.close(self._answers)
        shutil.rmtree(self._profile, ignore_errors=True)

    def show(self, path, width, scheme="light", media="screen"):
        """Load a file; forget what was told before."""
        self._call(
            "Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": scheme}]
        )
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.events = []
        self._call("Page.navigate", url=f"file://{path}")
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._take()
        # What comes right after that.
        self.ask("new Promise(done => requestAnimationFrame(() => setTimeout(done, 20)))")

    def told(self, *methods):
        return [event["params"] for event in self.events if event["method"] in methods]

    def ask(self, expression):
        """The value of an expression of the page's own language."""
        said = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in said:
            raise AssertionError(said["exceptionDetails"])
        return said["result"].get("value")

    def picture(self, clip=None):
        """What is seen of the page, whole or in the rectangle `clip`, as a PNG file."""
        if clip is None:
            size = self._call("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"]}
        said = self._call("Page.captureScreenshot", captureBeyondViewport=True, clip={**clip, "scale": 1})
        return base64.b64decode(said["data"])

    def printed(self):
        """The page as a PDF file."""
        return base64.b64decode(self._call("Page.printToPDF", printBackground=True)["data"])

    def _call(self, method, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params, **self._session}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            said = self._take()
            if said.get("id") == self._number:
                if "error" in said:
                    raise AssertionError(f"{method}: {said['error']}")
                return said["result"]

    def _take(self):
        while b"\0" not in self._rest:
            more = os.read(self._answers, 1 << 16)
            if not more:
                raise EOFError("the browser has gone")
            self._rest += more
        message, _end, self._rest = self._rest.partition(b"\0")
        said = json.loads(message)
        if "id" not in said:
            self.events.append(said)
        return said


def pixels(png):
    """The pixels of a picture as the browser makes it, each as red, green and blue."""
    width, height, depth, kind, _compression, _filter, interlaced = struct.unpack(">IIBBBBB", png[16:29])
    assert (depth, interlaced) == (8, 0)
    size = {2: 3, 6: 4}[kind]
    packed, at = b"", 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            packed += png[at + 8 : at + 8 + length]
        at += length + 12
    data, before, found = zlib.decompress(packed), bytes(width * size), []
    for row in range(height):
        start = row * (width * size + 1)
        line = bytearray(data[start + 1 : start + 1 + width * size])
        _unfilter(data[start], line, before, size)
        found += [tuple(line[x : x + 3]) for x in range(0, len(line), size)]
        before = bytes(line)
    return found


def _unfilter(kind, line, before, size):
    """See the PNG specification, 9.2."""
    for at in range(len(line)):
        left = line[at - size] if at >= size else 0
        corner = before[at - size] if at >= size else 0
        above = before[at]
        guess = left + above - corner
        near = min((left, above, corner), key=lambda one: abs(guess - one))
        line[at] = (line[at] + (0, left, above, (left + above) // 2, near)[kind]) & 255
