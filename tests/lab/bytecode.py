# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""On a machine of the lab: Python keeps what it has compiled of archives, as it does of files.

Ansible sends every module as an archive of sources, and under emulation the compiler takes longer than the module. An
entry is known by the interpreter and by the source itself, so that none is ever out of date.
"""

import _imp
import marshal
import os
import sys
import zipimport

FOLDER = "/var/cache/kvmops-bytecode"
compiled = zipimport._compile_source


def kept(pathname, source):
    """The code of a source, compiled only where nobody has done that before."""
    path = f"{FOLDER}/{sys.implementation.cache_tag}-{len(source):x}-{_imp.source_hash(1, source).hex()}"
    try:
        with open(path, "rb") as stream:
            return marshal.load(stream)
    except (OSError, EOFError, ValueError):
        pass
    code = compiled(pathname, source)
    own = f"{path}.{os.getpid()}"
    try:
        os.makedirs(FOLDER, mode=0o755, exist_ok=True)  # noqa: PTH103 - pathlib would be loaded by every Python
        with open(own, "wb") as stream:
            marshal.dump(code, stream)
        os.rename(own, path)  # noqa: PTH104 - likewise
    except OSError:
        pass  # not everybody may write there
    return code


zipimport._compile_source = kept
