# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
# What people type. The work is done by the scripts in tests/gates and by the lab in tests/lab and extensions/molecule.

SHELL := bash
.DELETE_ON_ERROR:
# Targets share one lab and one environment, and what runs side by side is the business of tests/gates/run.py.
.NOTPARALLEL:
.DEFAULT_GOAL := help
# The demo shows `make lab` as a person sees it.
MAKEFLAGS += --no-print-directory

GATES := tests/gates
IN_VENV := $(GATES)/in_venv.sh
# Scenarios of `make molecule`; empty: all of them.
S ?=
# Options for ansible-test, for example: make sanity SANITY='--docker default -v'. Empty: its own virtual environment.
SANITY ?=
# Arguments for pytest, for example: make unit U='-k placement'.
U ?=
# Arguments for the benchmarks, for example: make bench B='memory --runs 4'.
B ?=
# The version that is published, as its tag says: make publish V=1.0.0.
V ?=

.PHONY: help
help: ## list the targets
	@echo 'kvmops.migration: make TARGET'
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Quick start: make demo; make test"

.PHONY: root
root:
	@[ "$$(id -u)" = 0 ] || { echo 'the lab boots containers and makes network namespaces: run make as root (or with sudo)' >&2; exit 1; }

.PHONY: setup packages venv venv-core219 venv-core220 venv-docs venv-importer
setup: packages venv ## install what everything here needs: Debian packages (as root), virtual environment
	@echo 'ready; to work in the environment: . .venv/bin/activate'

packages:
	@$(GATES)/os_packages.sh

venv:
	@$(GATES)/venv.sh venv tests/requirements.txt 3.14 3.13 3.12 3.11 >/dev/null
	@$(GATES)/link.sh

venv-core219:
	@$(GATES)/venv.sh venv-core219 tests/requirements-core219.txt 3.11 3.12 3.13 >/dev/null

venv-core220:
	@$(GATES)/venv.sh venv-core220 tests/requirements-core220.txt 3.14 3.13 3.12 >/dev/null

venv-docs:
	@$(GATES)/venv.sh venv-docs tests/requirements-docs.txt 3.14 3.13 3.12 3.11 >/dev/null

venv-importer:
	@$(GATES)/venv.sh venv-importer tests/requirements-importer.txt 3.14 3.13 3.12 3.11 >/dev/null

.PHONY: lint unit unit-core219 unit-core220 pythons sanity docs artifact importer molecule test test-full
lint: packages venv ## all static checks; G='mypy reuse' runs only those
	@$(IN_VENV) python $(GATES)/run.py lint $(G)

unit: venv ## unit tests on the newest ansible-core
	@$(IN_VENV) python -m pytest tests/unit $(U)

unit-core219: venv venv-core219 ## unit tests on the oldest supported ansible-core
	@$(IN_VENV) -e venv-core219 python -m pytest tests/unit $(U)

unit-core220: venv venv-core220 ## unit tests on the ansible-core in between
	@$(IN_VENV) -e venv-core220 python -m pytest tests/unit $(U)

pythons: venv venv-core219 ## import what runs on hosts, with every Python from 3.8 that is here
	@$(IN_VENV) -e venv-core219 python $(GATES)/pythons.py

sanity: packages venv ## ansible-test sanity on the built collection
	@$(IN_VENV) $(GATES)/sanity.sh $(SANITY)

docs: venv venv-docs ## the documentation site, in build/docs/html; a warning is an error
	@$(IN_VENV) -e venv-docs python $(GATES)/docs.py

artifact: venv ## build what users install, and use it where nothing else is; it stays in build/artifact
	@$(IN_VENV) python $(GATES)/artifact.py

importer: artifact venv-importer ## let galaxy-importer judge the artifact, at its strictest
	@$(IN_VENV) -e venv-importer python $(GATES)/importer.py

molecule: rootfs ## all scenarios on the lab (as root); S='default domblk' runs these, S=roles those of the roles
	@$(IN_VENV) python $(GATES)/scenarios.py $(S)

test: root packages venv ## everything that must pass, quick checks first
	@$(IN_VENV) python $(GATES)/run.py test

test-full: root packages venv ## every case of the scenarios, which takes hours, and the demo
	@KVMOPS_FULL=1 $(IN_VENV) python $(GATES)/run.py full

.PHONY: rootfs lab lab-down demo bench
# Before molecule, which would keep to itself how far this is.
rootfs: root packages venv
	@$(IN_VENV) python -m tests.lab build >/dev/null

lab: rootfs ## boot the lab (as root): labkvm1, labkvm2, labstor1 and the guests
	@$(IN_VENV) molecule create -s default

lab-down: root packages venv ## take the lab down and leave nothing of it
	@$(IN_VENV) molecule destroy -s default

demo: root packages venv ## migrate a running guest before your eyes (as root)
	@$(IN_VENV) python -m tests.lab.demo

bench: root packages venv ## measure virt_migrate against bare virsh (as root, lab up); B='memory --runs 4'
	@$(IN_VENV) python -m tests.bench $(B)

.PHONY: release publish
release: venv ## rehearse the next release on a copy: version, changelog
	@$(IN_VENV) python $(GATES)/release.py

# With a token of Galaxy in GALAXY_TOKEN. The workflow `release` calls it for a tag.
publish: venv
	@$(IN_VENV) python $(GATES)/release.py "$(V)"
	@$(MAKE) importer
	@ANSIBLE_GALAXY_SERVER_LIST=galaxy ANSIBLE_GALAXY_SERVER_GALAXY_URL=https://galaxy.ansible.com/ \
		ANSIBLE_GALAXY_SERVER_GALAXY_TOKEN="$$GALAXY_TOKEN" \
		$(IN_VENV) ansible-galaxy collection publish build/artifact/kvmops-migration-$(V).tar.gz

.PHONY: clean
clean: ## remove what was made in the checkout; the cache stays
	@rm -rf .ansible .mypy_cache .nox .ruff_cache .hypothesis .pytest_cache .venv build playbooks/.collections tests/output kvmops-migration-*.tar.gz
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "kept: $${KVMOPS_CACHE:-$${XDG_CACHE_HOME:-$$HOME/.cache}/kvmops-migration} (rm -rf it to begin cold)"
