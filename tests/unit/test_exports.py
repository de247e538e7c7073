# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files as of exports(5): what is read, what is compared, and that nobody else's lines change."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ansible_collections.kvmops.migration.plugins.module_utils._pure import exports
from ansible_collections.kvmops.migration.plugins.module_utils._pure.exports import Client
from ansible_collections.kvmops.migration.plugins.module_utils._pure.refusal import Refusal


def read(text):
    """Paths with their clients, and lines with problems."""
    parsed = exports.parse(text.encode())
    found = [
        (entry.path, {client.host: ",".join(client.options) for client in entry.clients}) for entry in parsed.entries
    ]
    return found, [problem.line for problem in parsed.problems]


# Each of these was given to exportfs of nfs-utils 2.6.2, which took it so.
@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("# /vm *(rw)\n\n  # more \\\n", []),
        ("/vm *(rw,no_root_squash,sync)\n", [("/vm", {"*": "rw,no_root_squash,sync"})]),
        ("/vm *(rw)", [("/vm", {"*": "rw"})]),
        ("  /vm\t10.0.0.1(rw) # (ro)\n", [("/vm", {"10.0.0.1": "rw"})]),
        ("/a a(rw) \\\n   b(ro)\n# x \\\n/b *()\n", [("/a", {"a": "rw", "b": "ro"}), ("/b", {"*": ""})]),
        ("/a\\\n  a(rw)\n", [("/a", {"a": "rw"})]),
        ('"/c d" *(rw)\n', [("/c d", {"*": "rw"})]),
        ('/"c d"e *(rw)\n', [("/c de", {"*": "rw"})]),
        ("/c\\040d\\134\\043\\042 *(rw)\n", [('/c d\\#"', {"*": "rw"})]),
        ("/\\303\\244 *(rw)\n/ö *(ro)\n", [("/ä", {"*": "rw"}), ("/ö", {"*": "ro"})]),
        ('/b "10.0.0.1(rw, sync)" *.x(ro\\054sync)\n', [("/b", {"10.0.0.1": "rw,sync", "*.x": "ro,sync"})]),
        ("/a b#c(rw)\n", [("/a", {"b#c": "rw"})]),
        ("/a\n", [("/a", {"": ""})]),
        ("/a host (rw)\n", [("/a", {"host": "", "": "rw"})]),
        ("/a -rw,sync a b(ro)\n", [("/a", {"a": "rw,sync", "b": "rw,sync,ro"})]),
        ("/a a(ro) -rw b c(sync)\n", [("/a", {"a": "ro", "b": "rw", "c": "rw,sync"})]),
        ("/a -rw\n/b *(ro)\n", [("/a", {"": "rw"}), ("/b", {"*": "ro"})]),
        ("/a *(ro)\r\n/b *(rw) \r\n", [("/a", {"*": "ro"}), ("/b", {"*": "rw"})]),
        ("/a *(rw,)\n", [("/a", {"*": "rw"})]),
        ("/a *(squash_uids=0-15,20,rw)\n", [("/a", {"*": "squash_uids=0-15,20,rw"})]),
        (
            "/b @net(rw) fe80::/64(rw) 2001:db8::1(ro) 10.0.0.0/255.255.255.0(ro) *.example.com(ro) gss/krb5(rw)\n",
            [
                (
                    "/b",
                    {
                        "@net": "rw",
                        "fe80::/64": "rw",
                        "2001:db8::1": "ro",
                        "10.0.0.0/255.255.255.0": "ro",
                        "*.example.com": "ro",
                        "gss/krb5": "rw",
                    },
                )
            ],
        ),
    ],
)
def test_c8_116_a_file_is_read_as_exportfs_reads_it(text, found):
    assert read(text) == (found, [])


# And of each of these exportfs loses a part, or all that is below.
@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("/a *(rw)\n/b *(rw\n/c *(ro)\n", 2, "the options of * are no list"),
        ("/a *(rw)\n/b *(rw, sync)\n/c *(ro)\n", 2, "without blanks"),
        ("/a *(rw)\n/b *(rw)x\n/c *(ro)\n", 2, "the options of *"),
        ("/a *(rw)\n/b *(\n/c *(ro)\n", 2, "the options of *"),
        ("/a *(rw)\n/b *(rw)#no comment\n/c *(ro)\n", 2, "the options of *"),
        ("/a *(rw)\nb *(rw)\n/c *(ro)\n", 2, "'b' is no path that begins with /"),
        ("/a *(rw)\n\r\n/c *(ro)\n", 2, "exportfs reads nothing below that"),
        ('/a *(rw)\n""\n/c *(ro)\n', 2, "exportfs reads nothing below that"),
        ('/a *(rw)\n"/b *(rw)\n/c *(ro)\n', 2, "a quote that is not closed"),
        ("/a *(rw)\n/b x(rw) \v y(rw)\n/c *(ro)\n", 2, "a control character"),
        ("/a *(rw)\n/b -rw -ro x\n/c *(ro)\n", 2, "a second list of default options, -ro"),
        ("/a *(rw)\n/b *(anonuid=me)\n/c *(ro)\n", 2, "anonuid=me is no number"),
        ("/a *(rw)\n\n/b \\\n x(ro) \\\n y(rw # (\n/c *(ro)\n", 3, "the options of y"),
    ],
)
def test_c8_116_a_broken_line_is_found_and_the_others_are_read(text, line, words):
    parsed = exports.parse(text.encode())
    ((found),) = parsed.problems
    assert found.line == line
    assert words in found.text
    assert [entry.path for entry in parsed.entries] == ["/a", "/c"]


def test_c8_116_a_backslash_or_a_zero_in_the_wrong_place_is_found():
    assert "backslash" in exports.parse(b"/a *(rw) \\").problems[0].text
    assert exports.parse(b"# x\n/a\0 *(rw)\n").problems[0].line == 2


# Comparing


def means(text):
    return exports.meaning(text.split(",") if text else [])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("rw,sync", "sync,rw"),
        ("rw", "rw,sync,wdelay,hide,nocrossmnt,secure,root_squash,no_all_squash,no_subtree_check,acl,no_pnfs,sec=sys"),
        ("", "ro"),
        ("ro,rw", "rw"),
        ("anonuid=-2", "anonuid=4294967294"),
        ("anonuid=65534,anongid=65534", ""),
        ("fsid=root", "fsid=0"),
        ("mp=/x", "mountpoint=/x"),
        ("fsid=01234567:89abcdef:01234567:89abcdef", "fsid=0123456789ABCDEF0123456789abcdef"),
        ("auth_nlm,rw", "secure_locks,rw"),
        ("sec=krb5,rw", "rw,sec=krb5"),
        ("sec=unix,rw", "rw"),
        ("rw,sec=krb5:sys", "sec=krb5,sec=sys,rw,sec=krb5,rw"),
    ],
)
def test_c8_116_options_are_compared_by_what_they_come_to(one, other):
    assert means(one) == means(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("rw", "ro"),
        ("rw", "rw,async"),
        ("rw", "rw,no_root_squash"),
        ("rw,anonuid=1", "rw,anonuid=2"),
        ("rw,fsid=1", "rw"),
        ("sec=krb5:sys", "sec=sys:krb5"),
        ("sec=krb5,rw,sec=sys,ro", "sec=krb5,ro,sec=sys,rw"),
        ("rw,nordirplus", "rw"),
    ],
)
def test_c8_116_options_that_differ_are_not_taken_for_the_same(one, other):
    assert means(one) != means(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("", "*"),
        ("10.0.0.0/24", "10.0.0.0/255.255.255.0"),
        ("10.0.0.7/24", "10.0.0.0/24"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("Kvm1.Example", "kvm1.example"),
    ],
)
def test_two_spellings_of_one_client_are_one_client(one, other):
    assert exports.client_key(one) == exports.client_key(other)
    assert exports.client_key(one) != exports.client_key("kvm2")


# What is wanted


@pytest.mark.parametrize(
    "text",
    [
        "*(rw,no_root_squash,sync)",
        "10.0.1.231(rw)",
        "10.0.1.0/24(rw)",
        "10.0.1.0/255.255.255.0(rw)",
        "fd00::/64(rw)",
        "2001:db8::1(rw)",
        "@hypervisors(rw)",
        "*.example.com(rw)",
        "kvm[12](rw)",
        "labkvm1-storage(rw)",
        "gss/krb5(rw)",
    ],
)
def test_c8_116_every_kind_of_client_is_taken_and_survives_its_writing(text):
    (client,) = exports.wanted("/vm", [text])
    written = exports.with_export(b"", "/vm", [client])
    assert written == f"/vm {text}\n".encode()
    (entry,) = exports.parse(written).entries
    assert entry.clients == (client,)


def test_clients_are_texts_or_dictionaries():
    options = ["rw", "sync"]
    same = ["a(rw,sync)", {"host": "a", "options": options}, {"host": "a", "options": "rw, sync"}]
    assert len({exports.wanted("/vm", [each])[0] for each in same}) == 1
    assert exports.wanted("/vm", ["a", {"host": "b"}]) == [Client("a", ()), Client("b", ())]
    assert exports.with_export(b"", "/vm", exports.wanted("/vm", ["a"])) == b"/vm a(ro)\n"


@pytest.mark.parametrize(
    ("clients", "words"),
    [
        ([], "clients: an export without clients"),
        (["a(rw,ro)"], "clients: number 1, a: options rw and ro exclude each other"),
        (["a(rw)", "b(all_squash,no_all_squash)"], "clients: number 2, b: options all_squash and no_all_squash"),
        (["a(sync,rw,async)"], "options sync and async exclude each other"),
        (["a(anonuid=1,anonuid=2)"], "options anonuid=1 and anonuid=2"),
        (["a(refer=/x@b,replicas=/x@c)"], "refer=/x@b and replicas=/x@c"),
        (["a(no_root_sqash)"], "did you mean no_root_squash?"),
        (["a(rw=1)"], "option rw=1 has no value"),
        (["a(anonuid)"], "option anonuid needs a value"),
        (["a(anonuid=me)"], "option anonuid=me is no number"),
        (["a(rw"], "is not of the form host(option,option)"),
        (["a(rw) b(rw)"], "is not of the form host(option,option)"),
        (["a(mountpoint=/x y)"], "unknown option 'mountpoint=/x y'"),
        ([""], "'' is no client"),
        (["(rw)"], "'' is no client"),
        (["-rw"], "'-rw' is no client"),
        (["a b"], "'a b' is no client"),
        (["10.0.0.0/99(rw)"], "'10.0.0.0/99' is no client"),
        (["300.1.1.1(rw)"], "'300.1.1.1' is no client"),
        (["[2001:db8::1](rw)"], "brackets"),
        (["@(rw)"], "'@' is no client"),
        ([{"host": "a", "option": ["rw"]}], "neither a text"),
        ([{"host": 1}], "neither a text"),
        ([7], "neither a text"),
        ([{"host": "a", "options": {"rw": True}}], "is no list"),
        (["10.0.0.0/24(rw)", "10.0.0.0/255.255.255.0(ro)"], "is there twice"),
    ],
)
def test_c8_116_what_makes_no_sense_is_refused_in_one_line(clients, words):
    with pytest.raises(Refusal) as refusal:
        exports.wanted("/vm", clients)
    assert words in refusal.value.message
    assert "\n" not in refusal.value.message
    assert refusal.value.cure


def test_options_that_exclude_each_other_may_be_those_of_two_flavors():
    assert exports.wanted("/vm", ["a(sec=krb5,rw,sec=sys,ro)"])
    with pytest.raises(Refusal):
        exports.wanted("/vm", ["a(sec=krb5,rw,ro,sec=sys)"])


@pytest.mark.parametrize("path", ["vm", "", "/a\\040b", "/a\0b"])
def test_a_path_that_cannot_be_written_is_refused(path):
    with pytest.raises(Refusal) as refusal:
        exports.wanted(path, ["*(rw)"])
    assert refusal.value.message.startswith("path: ")


@pytest.mark.parametrize(
    ("client", "warned"),
    [
        ("*(rw,no_root_squash,sync)", True),
        ("0.0.0.0/0(no_root_squash,rw)", True),
        ("*(rw)", False),
        ("*(ro,no_root_squash)", False),
        ("*(rw,no_root_squash,all_squash)", False),
        ("10.0.1.0/24(rw,no_root_squash)", False),
        ("10.0.1.*(ro)", True),
    ],
)
def test_c8_116_what_is_open_to_everybody_is_warned_about(client, warned):
    assert bool(exports.hazards("/vm", exports.wanted("/vm", [client]))) == warned


# Writing


def changed(text, path, *clients):
    return exports.with_export(text.encode(), path, exports.wanted(path, list(clients))).decode()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("/vm *(rw)\n", "/vm *(rw)\n"),
        ("/vm *(sync,rw)\n", "/vm *(sync,rw)\n"),
        ('"/vm/" -rw,sync * # mine\n', '"/vm/" -rw,sync * # mine\n'),
        ("/vm *(ro)\n", "/vm *(rw)\n"),
        ("\t/vm\t*(ro) # mine\n", "\t/vm *(rw) # mine\n"),
        ("/vm *(ro) \\\n  a(rw) \\\n\n/b *(ro)\n", "/vm *(rw) \\\n\n/b *(ro)\n"),
        ("/vm a(rw)\n/b *(ro)\n  /vm b(rw) # x\n# y\n", "/vm *(rw)\n/b *(ro)\n# y\n"),
        ("/vm -ro,sync *\n", "/vm *(rw)\n"),
        ("# x", "# x\n/vm *(rw)\n"),
        ("/a *(ro) \\\n", "/a *(ro) \\\n\n/vm *(rw)\n"),
        ("/a *(ro)\r\n", "/a *(ro)\r\n/vm *(rw)\n"),
    ],
)
def test_c8_116_an_export_is_added_or_changed_in_its_place(before, after):
    assert changed(before, "/vm", "*(rw)") == after


def test_c8_116_a_client_that_stays_keeps_its_spelling():
    before = "/vm a(sync,rw) B(ro) c(ro)\n"
    assert changed(before, "/vm", "a(rw)", "b(ro,sync)", "d(rw)") == "/vm a(sync,rw) B(ro) d(rw)\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("/vm *(rw)\n", ""),
        ("# x\n  /vm *(rw) # mine\n/b *(ro)\n/vm a(ro)\n", "# x\n/b *(ro)\n"),
        ("/b *(ro)\n", "/b *(ro)\n"),
        ("/vm \\\n *(rw) \\\n a(ro)\n/b *(ro)", "/b *(ro)"),
    ],
)
def test_c8_116_an_export_is_removed_with_its_lines_and_no_other(before, after):
    assert exports.without_export(before.encode(), "/vm").decode() == after


def test_a_client_that_a_path_has_twice_is_told_with_both_places():
    files = {"x": exports.parse(b"/a *(rw)\n/b k(ro) K(rw)\n"), "y": exports.parse(b"\n/a/ *(rw)\n")}
    found = [(name, problem.line, problem.text) for name, problem in exports.twice(files)]
    assert found == [
        ("x", 2, "/b has the client K in x line 2 already"),
        ("y", 2, "/a/ has the client * in x line 1 already"),
    ]


# For every file

# Pieces that make something of each other: words, quotes, escapes, blanks of all kinds, comments, broken things.
PIECES = st.sampled_from(
    [
        "/a",
        "/vm",
        "/b c",
        '"/b c"',
        "/b\\040c",
        "*(rw)",
        "10.0.0.1(ro,sync)",
        "@net(rw)",
        "host",
        "-rw,sync",
        "(rw)",
        "(",
        ")",
        " ",
        "\t",
        "\n",
        "\n\n",
        "\\\n",
        "\\",
        '"',
        "#",
        " # x\n",
        "\r\n",
        "\x0b",
        "\\134",
        "\\200",
        "ä",
        "\x00",
        ",",
    ]
)
TEXTS = st.lists(PIECES, max_size=40).map("".join).map(str.encode) | st.binary(max_size=200)
LINES = st.sampled_from(
    [
        "",
        "# comment",
        "   # more \\",
        "/a *(rw,sync)",
        '  "/b c"   host(ro) # why',
        "/d\\040e -rw,sync a b(ro)",
        "/f \\\n   10.0.0.0/24(rw) \\\n\tfd00::/64(ro)",
        "/g @net(rw)\r",
        "/h\t*.example.com(ro)  ",
        "/vm old(ro)",
        "/vm/ \\\n -ro x # mine",
    ]
)
FILES = st.lists(LINES, max_size=12).flatmap(
    lambda lines: st.sampled_from(["\n".join(lines), "".join(f"{x}\n" for x in lines)])
)
CLIENTS = st.lists(
    st.sampled_from(["*(rw)", "old(ro)", "x(ro)", "10.0.0.1(rw,no_root_squash)", "fd00::/64", "@net(rw,async)"]),
    min_size=1,
    max_size=4,
    unique=True,
)
EDITS = st.lists(
    st.tuples(st.sampled_from(["/vm", "/a", "/b c", "/new", '/n w"\\#ä']), st.none() | CLIENTS), max_size=6
)


@given(TEXTS)
@example(b"/a\\ # x\n")
def test_c8_116_what_was_read_is_written_as_it_was(data):
    parsed = exports.parse(data)
    assert parsed.text.encode("latin-1") == data
    # Its exports are pieces of it in their order, and only blanks, comments and broken lines are between them.
    at = 0
    for entry in parsed.entries:
        assert at <= entry.start < entry.path_stop <= entry.stop <= entry.end <= len(data)
        at = entry.end
    for entry in parsed.entries:
        (again,) = exports.parse(parsed.bytes_of(entry)).entries
        assert (again.path, again.clients) == (entry.path, entry.clients)
    # Asking for what is there, or taking away what is not, writes not one byte.
    for path in {entry.path for entry in parsed.entries}:
        clients = [client for entry in parsed.of(path) for client in entry.clients]
        if len({client.key for client in clients}) == len(clients):
            assert exports.with_export(data, path, clients) == data
    assert exports.without_export(data, "/not there") == data


def foreign(data, path):
    """What others have in a file, to the byte: their exports, and what lies between all of them."""
    parsed = exports.parse(data)
    own = parsed.of(path)
    pieces, at = [], 0
    for entry in own:
        pieces.append(data[at : entry.start].rstrip(b" \t"))
        at = entry.end
    return b"".join([*pieces, data[at:]])


@given(FILES, EDITS)
def test_c8_116_no_edit_changes_a_foreign_line(text, edits):
    data = text.encode()
    assert not exports.parse(data).problems
    for path, clients in edits:
        before = data
        if clients is None:
            data = exports.without_export(data, path)
            assert exports.parse(data).of(path) == []
            assert data == foreign(before, path)
        else:
            wanted = exports.wanted(path, clients)
            data = exports.with_export(data, path, wanted)
            assert exports.is_as_wanted(exports.parse(data), path, wanted)
            assert exports.with_export(data, path, wanted) == data
            # A last line gets its end before another follows.
            assert foreign(data, path) in (foreign(before, path), foreign(before, path) + b"\n")
            # What stood behind our own words stays as well.
            tails = [before[entry.stop : entry.end] for entry in exports.parse(before).of(path)]
            ours = exports.parse(data).of(path)[0]
            assert data[ours.stop : ours.end] == (tails or [b"\n"])[0]
        assert not exports.parse(data).problems


@given(st.text(st.characters(exclude_characters="\0"), min_size=1).map(lambda text: f"/{text}"), CLIENTS)
@example("/\udd00", ["a(ro)"])
def test_c8_116_every_path_is_found_again_under_its_name_or_refused(path, clients):
    try:
        wanted = exports.wanted(path, clients)
    except Refusal:
        assert "\\" in path or any("\ud800" <= char <= "\udfff" for char in path)
        return
    (entry,) = exports.parse(exports.with_export(b"# x", path, wanted)).entries
    assert entry.path == path
    assert [(client.key, client.meaning) for client in entry.clients] == [(each.key, each.meaning) for each in wanted]


@given(st.lists(st.sampled_from([*"abcd", "rw", "ro", "sync", "async", "no_root_squash", "sec=krb5:sys", "anonuid=1"])))
def test_c8_116_options_come_to_the_same_when_written_and_read(options):
    written = f"/a *({','.join(options)})\n".encode()
    ((entry),) = exports.parse(written).entries
    assert exports.meaning(entry.clients[0].options) == exports.meaning(options)
