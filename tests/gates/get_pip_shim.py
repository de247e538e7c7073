# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Give ansible-test the pip bootstrap script that it would fetch from a site of its own.

ansible-test fills its virtual environments with a get-pip script from ci-files.testing.ansible.com, which a machine
with nothing but a package index cannot reach. It takes a file of the right name in its cache instead: this writes one,
made from the pip wheel of the same version, when the original cannot be had. It does nothing when the file is there.
"""

from __future__ import annotations

import base64
import subprocess
import sys
import tempfile
import types
import urllib.error
import urllib.request
from pathlib import Path

from ansible_test._internal.python_requirements import get_venv_packages

URL = "https://ci-files.testing.ansible.com/ansible-test/get-pip-{version}.py"
CACHE = Path("~/.ansible/test/cache").expanduser()

SCRIPT = '''\
"""Run pip {version} from the wheel below, in place of the get-pip script of the same version."""
import base64
import os
import sys
import tempfile

with tempfile.TemporaryDirectory() as directory:
    wheel = os.path.join(directory, {name!r})
    with open(wheel, "wb") as stream:
        stream.write(base64.b85decode(WHEEL))
    sys.path.insert(0, wheel)
    from pip._internal.cli.main import main

    # Those two belong to get-pip; pip has no such options.
    arguments = [argument for argument in sys.argv[1:] if argument not in ("--no-setuptools", "--no-wheel")]
    status = main(["install", *arguments])
sys.exit(status)
'''


def original(version: str) -> bytes | None:
    try:
        with urllib.request.urlopen(URL.format(version=version), timeout=15) as answer:
            return bytes(answer.read())
    except (urllib.error.URLError, TimeoutError):
        return None


def substitute(version: str) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
        subprocess.run([*command, "--no-deps", "--dest", directory, f"pip=={version}"], check=True)
        (wheel,) = Path(directory).glob("pip-*.whl")
        text = SCRIPT.format(version=version, name=wheel.name)
        content = f"WHEEL = {base64.b85encode(wheel.read_bytes()).decode()!r}\n"
        docstring, rest = text.split("\n", 1)
        return f"{docstring}\n{content}{rest}".encode()


def main() -> None:
    version = get_venv_packages(types.SimpleNamespace(version="%d.%d" % sys.version_info[:2]))["pip"]
    target = CACHE / f"get_pip_{version.replace('.', '_')}.py"
    if target.exists():
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(".new")
    temporary.write_bytes(original(version) or substitute(version))
    temporary.replace(target)


if __name__ == "__main__":
    main()
