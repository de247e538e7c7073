# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The option table: the same in code, documentation and libvirt, and what it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys

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
# What libvirt has and virt_migrate does not offer.
NOT_OFFERED = set()
# What the table has and libvirt 9.0, which the fake is, has not.
NEWER = {
    "bandwidth.avail.switchover",
    "compression.zlib.level",
    "compression.zstd.level",
    "migrate_disks_detect_zeroes",
    "migrate_disks_target_zero",
}
LIST_CONSTANTS = """
import json, libvirt
print(json.dumps({name: getattr(libvirt, name) for name in dir(libvirt) if name.startswith("VIR_MIGRATE_")}))
"""


def real_constants():
    """The constants of the bindings that are installed, None where no Python here has any."""
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            done = subprocess.run([python, "-c", LIST_CONSTANTS], check=False, capture_output=True, text=True)
        except FileNotFoundError:
            continue
        if done.returncode == 0:
            return json.loads(done.stdout)
    return None


FAKE_CONSTANTS = {name: getattr(fake, name) for name in dir(fake) if name.startswith("VIR_MIGRATE_")}
CONSTANTS = [FAKE_CONSTANTS, *filter(None, [real_constants()])]


def offered():
    return {f"VIR_MIGRATE_{name}" for option in options.OPTIONS for _value, names in option.flags for name in names}, {
        option.param for option in options.OPTIONS if option.param
    }


def test_every_option_is_documented_as_it_is():

    def described(rows):
        found = {}
        for name, row in rows.items():
            found[name] = {key: value for key, value in row.items() if key not in ("description", "suboptions")}
            if "suboptions" in row:
                found[name]["options"] = described(row["suboptions"])
        return found

    documented = described(DOCUMENTED)
    spec = {
        name: {key: value for key, value in row.items() if key != "no_log"}
        for name, row in options.argument_spec().items()
    }
    assert documented == spec


def test_the_documentation_says_which_libvirt_a_newer_option_needs():
    for option in options.OPTIONS:
        said = DOCUMENTED[option.name]["description"]
        said = " ".join((said if isinstance(said, str) else " ".join(said)).split())
        if option.since > (5, 2, 0):
            assert f"ince libvirt {options.dotted(option.since)}" in said, option.name


@pytest.mark.parametrize("constants", CONSTANTS)
def test_nothing_that_libvirt_has_is_missing(constants):
    flags, params = offered()
    known = {name for name, value in constants.items() if name in flags or (isinstance(value, str) and value in params)}
    assert constants.keys() - known == NOT_OFFERED


def test_every_flag_and_parameter_exists_in_libvirt():
    flags, params = offered()
    assert flags <= FAKE_CONSTANTS.keys()
    assert params - {value for value in FAKE_CONSTANTS.values() if isinstance(value, str)} == NEWER


def test_the_fake_has_the_numbers_of_libvirt():
    real = real_constants() or {}
    assert {name: FAKE_CONSTANTS[name] for name in FAKE_CONSTANTS if name in real} == {
        name: real[name] for name in FAKE_CONSTANTS if name in real
    }


def test_every_option_that_reaches_libvirt_has_its_version():
    for option in options.OPTIONS:
        assert bool(option.flags or option.param) == (option.since > options.ANCIENT), option.name


def test_every_option_that_limits_its_value_says_what_it_accepts():
    for option in options.OPTIONS:
        if option.pattern or option.minimum is not None or option.elements:
            assert option.accepted, option.name


@pytest.mark.parametrize(
    ("option", "row"), [(option, row) for option in options.OPTIONS for row in (*option.clashes, *option.needs)]
)
def test_every_combination_is_of_options_and_values_that_exist(option, row):
    for about, values in ((option, row.when), (options.BY_NAME[row.other], row.values)):
        if values == options.GIVEN or about.type == "bool":
            continue
        assert values
        for value in values:
            assert any(re.fullmatch(value, choice) for choice in about.choices) or (
                about.pattern and value.endswith("://.*") and f"{value[:-4]}" in about.accepted
            )
    assert row.reason
    assert row.cure


def test_the_defaults_are_accepted():
    options.validate({**DEFAULTS, "name": "a"})


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("bandwidth", [0, 1, 2**43 - 1], [-1, 2**43]),
        ("switchover_bandwidth", [0, 2**43 - 1], [-1, 2**43]),
        ("parallel_connections", [1, 255], [0, 256, -1]),
        ("disks_port", [1, 65535], [0, 65536]),
        ("compression_xbzrle_cache", [4096, 2**26, 2**62], [0, 1, 2048, 4097, 3 * 2**20, 2**63, -4096]),
        ("compression_mt_level", [0, 9], [-1, 10]),
        ("compression_mt_threads", [1, 255], [0, 256]),
        ("compression_mt_dthreads", [1, 255], [0, 256]),
        ("compression_zlib_level", [0, 9], [-1, 10]),
        ("compression_zstd_level", [0, 20], [-1, 21]),
        ("compression", [["mt"], ["xbzrle", "mt"]], [[], ["mt", "mt"]]),
        ("migrate_disks", [["vda"], ["vda", "vdb"]], [[], ["vda", "vda"], ["v/a"], [""]]),
        ("detect_zeroes", [["vda"]], [[], ["a b"]]),
        ("target_zero", [["vda"]], [[], ["a b"]]),
        (
            "migrate_uri",
            ["tcp://kvm2", "tcp://10.0.0.1:49152", "tcp://[fd00::2]:1", "rdma://10.0.0.1", "unix:///run/x.sock"],
            [
                "kvm2",
                "tcp:kvm2",
                "tcp://",
                "tcp://h:0",
                "tcp://h:65536",
                "tcp://h:x",
                "udp://h",
                "unix://x",
                "tcp://-h",
            ],
        ),
        (
            "disks_uri",
            ["tcp://kvm2:49153", "tcp://[fd00::2]:1", "unix:///run/x.sock"],
            ["tcp://kvm2", "rdma://kvm2:1", "unix:x", "tcp://h:99999"],
        ),
        (
            "graphics_uri",
            ["spice://kvm2", "spice://kvm2:5900", "spice://kvm2:5900/?tlsPort=5901&tlsSubject=x", "vnc://[::1]:5900"],
            ["http://kvm2", "spice://", "spice://h:5900?", "spice://h/x"],
        ),
        ("listen_address", ["0.0.0.0", "::", "fd00::2", "kvm2"], ["tcp://kvm2", "[::]", "a b", "-x", ""]),
        ("tls_destination", ["kvm2.example.org", "10.0.0.1", "fd00::2"], ["tcp://kvm2", "", "*.x"]),
        ("dest_name", ["b", "b c"], ["a/b", "", "a\nb"]),
        ("connect_timeout", [1, 600], [0, 601]),
        ("timeout", [1, 31536000], [0, -1, 31536001]),
        ("timeout_per_gib", [1, 31536000], [0, 31536001]),
        ("max_downtime", [1, 2000000], [0, 2000001]),
        ("auto_converge_initial", [1, 99], [0, 100]),
        ("auto_converge_increment", [1, 99], [0, 100]),
        ("postcopy_bandwidth", [0, 2**43 - 1], [-1, 2**43]),
        ("policy", ["none", "must_complete", "my.own-one_2"], ["", "1st", "a b"]),
        ("policy_steps", [[{}], [{}, {}]], [[]]),
    ],
)
def test_what_a_value_may_be(name, good, bad):
    tuned = {"auto_converge": True, "postcopy": name == "postcopy_bandwidth"}
    base = {**DEFAULTS, **tuned, "name": "a", "parallel": name in ("parallel_connections", "compression_zlib_level")}
    method = name.split("_")[1] if name.startswith("compression_") else None
    if method:
        base.update(compression=[method], parallel=method in ("zlib", "zstd"))
    for value in good:
        options.validate({**base, name: value})
    for value in bad:
        with pytest.raises(Refusal) as refused:
            options.validate({**base, name: value})
        assert refused.value.message.startswith(f"{name}: ")
        assert refused.value.cure == f"accepted: {options.BY_NAME[name].accepted}"
        assert "\n" not in refused.value.message


@pytest.mark.parametrize(
    "together",
    [
        {"tunnelled": True, "parallel": True},
        {"tunnelled": True, "copy_storage": "all"},
        {"tunnelled": True, "copy_storage": "inc"},
        {"tunnelled": True, "migrate_disks": ["vda"]},
        {"tunnelled": True, "storage": "copy"},
        {"tunnelled": True, "disks_port": 1},
        {"tunnelled": True, "disks_uri": "unix:///x"},
        {"tunnelled": True, "synchronous_writes": True},
        {"tunnelled": True, "detect_zeroes": ["vda"]},
        {"tunnelled": True, "target_zero": ["vda"]},
        {"tunnelled": True, "migrate_uri": "tcp://x"},
        {"tunnelled": True, "listen_address": "::"},
        {"tunnelled": True, "tls": "true"},
        {"tunnelled": True, "control": "direct"},
        {"zerocopy": True},
        {"zerocopy": True, "parallel": True, "tls": "true"},
        {"zerocopy": True, "parallel": True, "compression": ["zstd"]},
        {"compression": ["xbzrle"], "parallel": True},
        {"compression": ["mt"], "parallel": True},
        {"compression": ["zlib", "zstd"], "parallel": True},
        {"compression": ["zlib"]},
        {"compression": ["zstd"]},
        {"compression_mt_level": 1},
        {"compression_mt_threads": 1, "compression": ["xbzrle"]},
        {"compression_mt_dthreads": 1, "compression": ["xbzrle"]},
        {"compression_xbzrle_cache": 4096, "compression": ["mt"]},
        {"compression_zlib_level": 1, "compression": ["zstd"], "parallel": True},
        {"compression_zstd_level": 1, "compression": ["zlib"], "parallel": True},
        {"parallel_connections": 2},
        {"parallel": True, "migrate_uri": "rdma://x"},
        {"rdma_pin_all": True},
        {"rdma_pin_all": True, "migrate_uri": "tcp://x"},
        {"tls": "true", "migrate_uri": "rdma://x"},
        {"tls": "false", "tls_destination": "x"},
        {"disks_port": 1, "disks_uri": "unix:///x"},
        {"disks_uri": "unix:///x", "tls": "true"},
        {"copy_storage": "none", "disks_port": 1},
        {"copy_storage": "none", "disks_uri": "unix:///x"},
        {"copy_storage": "none", "synchronous_writes": True},
        {"copy_storage": "none", "detect_zeroes": ["vda"]},
        {"copy_storage": "none", "target_zero": ["vda"]},
        {"copy_storage": "inc", "storage": "shared"},
        {"mode": "offline", "copy_storage": "inc"},
        {"mode": "offline", "persistent_xml": "<domain/>"},
        {"persistent": False, "persistent_xml": "<domain/>"},
        {"listen_address": "::", "migrate_uri": "unix:///x"},
        {"auto_converge_initial": 30},
        {"auto_converge_increment": 30},
        {"timeout_action": "postcopy", "timeout": 60},
        {"postcopy_after_precopy": True},
        {"postcopy_bandwidth": 10},
        {"postcopy": True, "mode": "nonlive"},
        {"postcopy": True, "mode": "offline"},
        {"postcopy": True, "suspend": True},
        {"postcopy": True, "tunnelled": True},
        {"postcopy": True, "compression": ["mt"]},
        {"postcopy_resume": True, "mode": "nonlive"},
        {"postcopy_resume": True, "tunnelled": True},
    ],
)
def test_c2_63_what_excludes_each_other_is_refused_by_name_with_the_reason(together):
    with pytest.raises(Refusal) as refused:
        options.validate({**DEFAULTS, "name": "a", **together})
    assert refused.value.failure_class == "bad_combination"
    assert sum(name in refused.value.message for name in together) >= min(2, len(together)) - 1
    assert any(refused.value.message.startswith(name) for name in together)
    assert refused.value.cure
    assert "<domain" not in refused.value.message


def test_a_password_where_none_belongs_is_not_repeated():
    with pytest.raises(Refusal) as refused:
        options.validate({**DEFAULTS, "name": "a", "migrate_uri": "tcp://root:s3cret@kvm2"})
    assert "s3cret" not in refused.value.message


EXAMPLES = {
    "name": ["a"],
    "uri": ["qemu:///system"],
    "dest_uri": ["qemu+ssh://kvm2/system"],
    "dest_host": ["kvm2"],
    "dest_name": ["b"],
    "dest_xml": ["<domain/>"],
    "persistent_xml": ["<domain/>"],
    "migrate_disks": [["vda"], ["vda", "vdb"], []],
    "detect_zeroes": [["vda"]],
    "target_zero": [["vda"]],
    "disks_uri": ["tcp://kvm2:1", "unix:///x"],
    "migrate_uri": ["tcp://kvm2", "rdma://kvm2", "unix:///x"],
    "listen_address": ["::"],
    "graphics_uri": ["spice://kvm2:5900"],
    "tls_destination": ["kvm2"],
    "outage_address": ["192.0.2.7"],
    "outage_from": ["stor1"],
    "policy": ["none", "must_complete", "mine"],
    "policy_steps": [[{"when": "elapsed", "at": 9, "do": "abort"}]],
}


@st.composite
def arguments(draw):
    """Few options at a time, so that many combinations are accepted."""
    values = dict(DEFAULTS, name="a")
    for option in draw(st.lists(st.sampled_from(options.OPTIONS[1:]), max_size=5, unique=True)):
        if option.type == "bool":
            values[option.name] = draw(st.booleans())
        elif option.choices:
            choice = draw(st.sampled_from(option.choices))
            values[option.name] = [choice] if option.elements else choice
        elif option.type == "int":
            values[option.name] = draw(st.integers(option.minimum - 1, option.maximum + 1))
        else:
            values[option.name] = draw(st.sampled_from(EXAMPLES[option.name]))
    return values


@given(arguments())
def test_what_is_accepted_is_no_contradiction(values):
    try:
        options.validate(values)
    except Refusal as refusal:
        assert refusal.failure_class in ("bad_option", "bad_combination")
        assert refusal.cure
        return
    by_qemu = values["copy_storage"] in ("all", "inc") or values["migrate_disks"]
    assert not (by_qemu and values["mode"] == "offline")
    assert not ((by_qemu or values["storage"] == "copy") and values["tunnelled"])
    assert not (values["migrate_disks"] and (values["storage"] == "shared" or values["copy_storage"] == "none"))
    assert not (values["copy_storage"] and values["storage"] != "auto")
    assert values["persistent"] is not False or values["mode"] != "offline"
    assert values["parallel"] or not (values["zerocopy"] or values["parallel_connections"])
    assert not (values["zerocopy"] and (values["compression"] or values["tls"] == "true"))


@given(arguments(), st.sampled_from(["live", "nonlive", "offline"]), st.sampled_from(["all", "inc", "none"]))
def test_the_list_of_disks_is_explicit_whenever_disks_are_copied(values, mode, copy):
    values = {**values, "mode": mode, "copy_storage": copy, "migrate_disks": ["vda"] if copy != "none" else None}
    flags, params = options.flags(values), options.params(values)
    assert bool({"NON_SHARED_DISK", "NON_SHARED_INC"} & set(flags)) == ("migrate_disks" in params)
    assert ("PEER2PEER" in flags) == (values["control"] == "p2p")
    assert ("LIVE" in flags) == (mode == "live")
    assert ("OFFLINE" in flags) == (mode == "offline")
    assert not ("OFFLINE" in flags and "NON_SHARED_DISK" in flags)
    assert "UNSAFE" not in flags or values["unsafe"]
    assert ("COMPRESSED" in flags) == ("compression" in params)
    assert not {"<domain/>"} & set(map(str, options.public(params).values()))
    assert all(options.owner(flag) for flag in flags)


@given(arguments())
def test_a_move_without_copies_says_nothing_of_them(values):
    values = options.without_copies({**values, "mode": "live", "copy_storage": "none"})
    assert not any("disks" in key for key in options.params(values))
    assert not any("NON_SHARED" in flag for flag in options.flags(values))


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


@pytest.mark.parametrize(
    ("values", "libvirt", "qemu", "says"),
    [
        ({"zerocopy": True, "parallel": True}, (8, 4, 9), (8, 0, 0), "zerocopy: true needs libvirt 8.5.0"),
        ({"zerocopy": True, "parallel": True}, (9, 0, 0), (7, 0, 9), "zerocopy: true needs QEMU 7.1.0"),
        ({"parallel": True}, (5, 1, 9), (9, 0, 0), "parallel: true needs libvirt 5.2.0"),
        ({"parallel": True}, (9, 0, 0), (3, 1, 0), "parallel: true needs QEMU 4.0.0"),
        ({"compression": ["zstd"], "parallel": True}, (9, 3, 0), (9, 0, 0), "compression: zstd needs libvirt 9.4.0"),
        ({"compression": ["mt"]}, (9, 3, 0), (9, 1, 0), "compression: mt needs a QEMU before 9.1.0"),
        ({"migrate_uri": "unix:///x"}, (6, 7, 9), (7, 0, 0), "migrate_uri: unix:///x needs libvirt 6.8.0"),
        ({"switchover_bandwidth": 5}, (11, 0, 0), (9, 0, 0), "switchover_bandwidth: 5 needs libvirt 11.1.0"),
        ({"target_zero": ["vda"]}, (12, 1, 0), (9, 0, 0), "target_zero: vda needs libvirt 12.2.0"),
        ({"detect_zeroes": ["vda"]}, (10, 8, 0), (9, 0, 0), "detect_zeroes: vda needs libvirt 10.9.0"),
        ({"tls": "true"}, (3, 1, 0), (9, 0, 0), "tls: true needs libvirt 3.2.0"),
        ({"disks_uri": "unix:///x"}, (6, 7, 0), (9, 0, 0), "disks_uri: unix:///x needs libvirt 6.8.0"),
        ({"synchronous_writes": True}, (7, 9, 0), (9, 0, 0), "synchronous_writes: true needs libvirt 8.0.0"),
        ({"tls_destination": "x", "tls": "auto"}, (5, 9, 0), (9, 0, 0), "tls_destination: x needs libvirt 6.0.0"),
        ({"dest_xml": "<domain>"}, (1, 0, 9), (9, 0, 0), "dest_xml needs libvirt 1.1.0"),
    ],
)
def test_c2_62_the_version_that_is_needed_is_named_with_the_host_that_lacks_it(values, libvirt, qemu, says):
    values = {**DEFAULTS, "mode": "live", **values}
    with pytest.raises(Refusal) as refused:
        options.check_versions(values, {"kvm1": (99, 0, 0), "kvm2": libvirt}, {"kvm2": qemu})
    assert refused.value.message.startswith(says)
    assert "kvm2 has" in refused.value.message


def test_an_option_that_is_not_used_needs_no_version():
    old = {"kvm1": (1, 0, 1)}
    options.check_versions({**DEFAULTS, "mode": "live", "copy_storage": "none"}, old, old)
    options.check_versions({**DEFAULTS, "mode": "offline", "zerocopy": True}, {"kvm1": (1, 0, 1)})
