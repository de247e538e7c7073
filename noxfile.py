# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sessions for people and pipelines that know nox: targets of make, and what antsibull-nox.toml asks for besides."""

from __future__ import annotations

import antsibull_nox
import nox

TARGETS = ("lint", "unit", "unit-core220", "unit-core219", "pythons", "docs", "artifact", "importer", "release")


def session_of(target: str) -> None:
    def session(of: nox.Session) -> None:
        of.run("make", target, external=True)

    session.__doc__ = f"make {target}"
    # make knows the environment that each target needs.
    nox.session(name=f"make-{target}", venv_backend="none", default=False)(session)


for name in TARGETS:
    session_of(name)
antsibull_nox.load_antsibull_nox_toml()

if __name__ == "__main__":
    nox.main()
