# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The option table: the same in code and documentation, and what it refuses."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.kvmops.migration.plugins.module_utils._pure import options
from ansible_collections.kvmops.migration.plugins.module_utils._pure.refusal import Refusal
from ansible_collections.kvmops.migration.plugins.modules import virt_migrate
from fake import libvirt as fake

DOCUMENTED = yaml.safe_load(virt_migrate.DOCUMENTATION)["options"]
DEFAULTS = {option.name: option.default for option in options.OPTIONS}


def test_every_option_is_documented_as_it_is():
    documented = {
        name: {key: value for key, value in row.items() if key != "description"} for name, row in DOCUMENTED.items()
    }
    assert documented == options.argument_spec()


def test_every_flag_and_parameter_exists_in_libvirt():
    for option in options.OPTIONS:
        for _value, names in option.flags:
            for name in names:
                assert hasattr(fake, f"VIR_MIGRATE_{name}")
        assert option.param in (None, "migrate_disks", "migrate_uri", "bandwidth")


def test_every_option_that_reaches_libvirt_has_its_version():
    for option in options.OPTIONS:
        assert bool(option.flags or option.param) == (option.since > (0, 0, 0)), option.name


def test_every_clash_is_with_an_option_and_a_value_that_exist():
    for option in options.OPTIONS:
        for clash in option.clashes:
            other = options.BY_NAME[clash.other]
            assert other.type == "bool" or set(clash.values) <= set(other.choices)
            assert clash.reason
            assert clash.cure


def test_the_defaults_are_accepted():
    options.validate({**DEFAULTS, "name": "a"})


@st.composite
def arguments(draw):
    values = {"name": "a"}
    for option in options.OPTIONS[1:]:
        if option.type == "bool":
            values[option.name] = draw(st.booleans())
        elif option.choices:
            values[option.name] = draw(st.sampled_from([*option.choices, option.default]))
        elif option.name == "migrate_disks":
            values[option.name] = draw(st.none() | st.lists(st.sampled_from(["vda", "vdb"]), max_size=2))
        else:
            values[option.name] = option.default
    return values


@given(arguments())
def test_what_is_accepted_is_no_contradiction(values):
    try:
        options.validate(values)
    except Refusal as refusal:
        assert refusal.failure_class in ("bad_option", "bad_combination")
        assert refusal.cure
        return
    copying = values["copy_storage"] == "all" or values["storage"] == "copy" or values["migrate_disks"]
    assert not (copying and values["mode"] == "offline")
    assert not (values["migrate_disks"] and (values["storage"] == "shared" or values["copy_storage"] == "none"))
    assert not (values["copy_storage"] and values["storage"] != "auto")
    assert values["persistent"] or values["mode"] != "offline"


@given(arguments(), st.sampled_from(["live", "offline"]))
def test_the_list_of_disks_is_explicit_whenever_disks_are_copied(values, mode):
    values = {**values, "mode": mode, "migrate_disks": ["vda"] if values["copy_storage"] == "all" else None}
    flags, params = options.flags(values), options.params(values)
    assert ("NON_SHARED_DISK" in flags) == ("migrate_disks" in params)
    assert "PEER2PEER" in flags
    assert ("LIVE" in flags) != ("OFFLINE" in flags)
    assert not ("OFFLINE" in flags and "NON_SHARED_DISK" in flags)
    assert "UNSAFE" not in flags or values["unsafe"]


@pytest.mark.parametrize(
    ("version", "refused"),
    [((9, 0, 0), False), ((1, 2, 17), False), ((1, 2, 16), True), ((0, 9, 13), True)],
)
def test_an_option_needs_its_version_on_both_ends(version, refused):
    values = {**DEFAULTS, "mode": "live", "copy_storage": "all", "migrate_disks": ["vda"]}
    for ends in ({"kvm1": version, "kvm2": (9, 0, 0)}, {"kvm1": (9, 0, 0), "kvm2": version}):
        if refused:
            with pytest.raises(Refusal, match="needs libvirt"):
                options.check_versions(values, ends)
        else:
            options.check_versions(values, ends)


def test_an_option_that_is_not_used_needs_no_version():
    options.check_versions({**DEFAULTS, "mode": "live", "copy_storage": "none"}, {"kvm1": (1, 0, 1)})
