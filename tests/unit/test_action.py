# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action plugins: what they add from the inventory and from other hosts, how they watch, and what they refuse."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import time
from types import SimpleNamespace
from unittest import mock

import pytest
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.loader import connection_loader

from ansible_collections.kvmops.migration.plugins.action import virt_migrate_info, virt_migrate_queue
from ansible_collections.kvmops.migration.plugins.plugin_utils import errand, runs, sites

FACTS = {"host": {"uuid": "u2", "hostname": "kvm2"}, "journal": [{"path": "/vm/a"}]}
HOSTS = {
    "kvm1": {"ansible_host": "192.0.2.1", "migration_address": "198.51.100.1"},
    "kvm2": {"ansible_host": "192.0.2.2", "migration_address": "198.51.100.2"},
    "kvm3": {"ansible_host": "192.0.2.3"},
    "kvm4": {},
    "kvm6": {"migration_address": "2001:db8::6"},
    "stor1": {},
}


class Site:
    """A host that answers as a test says."""

    def __init__(self, host, asked, facts):
        self.host = host
        self._asked = asked
        self._facts = facts

    def execute(self, module, args, wrap_async=False):
        self._asked.append((self.host, module, args))
        return self._facts()


@pytest.fixture
def run(monkeypatch):
    """The arguments that the module on kvm1 gets; gives back what was asked of others, and the warnings."""
    warnings, asked = [], []
    monkeypatch.setattr(errand.display, "warning", warnings.append)

    def run(group=None, on="kvm1", **args):
        variables = {
            "inventory_hostname": "kvm1",
            "hostvars": HOSTS,
            "groups": {"all": list(HOSTS), "hypervisors": ["kvm1", "kvm2"], "other": ["kvm3"]},
        }
        if group:
            variables["migration_hosts_group"] = group
        here = Site(on, asked, dict)
        given = errand.Errand(
            here, {"name": "a", **args}, variables, lambda host: Site(host, asked, run.facts)
        ).arguments()
        return SimpleNamespace(given=given, warnings=warnings, asked=asked)

    run.facts = lambda: FACTS
    return run


def test_the_destination_comes_from_the_inventory_and_tells_of_itself(run):
    done = run(dest_host="kvm2")
    assert done.given == {
        "name": "a",
        "dest_host": "kvm2",
        "dest_uri": "qemu+ssh://root@198.51.100.2/system",
        "migrate_uri": "tcp://198.51.100.2",
        "_dest_facts": FACTS,
    }
    assert done.asked == [("kvm2", "kvmops.migration.virt_migrate_info", {"name": ["a"], "facts": True})]
    assert done.warnings == []


@pytest.mark.parametrize(
    ("dest", "uri", "migrate_uri"),
    [
        ("kvm3", "qemu+ssh://root@192.0.2.3/system", None),
        ("kvm4", "qemu+ssh://root@kvm4/system", None),
        ("kvm6", "qemu+ssh://root@[2001:db8::6]/system", "tcp://[2001:db8::6]"),
    ],
)
def test_the_address_is_the_best_that_the_host_has(run, dest, uri, migrate_uri):
    given = run(dest_host=dest).given
    assert given["dest_uri"] == uri
    assert given.get("migrate_uri") == migrate_uri


def test_what_was_said_is_kept(run):
    given = run(dest_host="kvm2", dest_uri="qemu+tls://kvm2/system", migrate_uri="tcp://kvm2").given
    assert (given["dest_uri"], given["migrate_uri"]) == ("qemu+tls://kvm2/system", "tcp://kvm2")
    assert given["_dest_facts"] == FACTS


@pytest.mark.parametrize("said", [True, "yes"])
def test_a_tunnel_takes_no_address_for_data(run, said):
    assert "migrate_uri" not in run(dest_host="kvm2", tunnelled=said).given
    assert run(dest_host="kvm2", tunnelled="no").given["migrate_uri"] == "tcp://198.51.100.2"


def test_a_bare_uri_is_passed_on(run):
    done = run(dest_uri="qemu+ssh://x/system")
    assert done.given == {"name": "a", "dest_uri": "qemu+ssh://x/system"}
    assert done.asked == []


@pytest.mark.parametrize(("group", "known"), [(None, "kvm1, kvm2"), ("other", "kvm3"), ("none", ", ".join(HOSTS))])
def test_an_unknown_destination_is_answered_with_the_known_ones(run, group, known):
    with pytest.raises(AnsibleActionFail) as refused:
        run(dest_host="kvm9", group=group)
    assert str(refused.value) == f"dest_host: 'kvm9' is not in the inventory; known hosts: {known}"
    # The oldest ansible-core has more in it.
    told = {"changed": False, "outcome": "refused", "failure_class": "bad_option"}
    assert refused.value.result.items() >= told.items()


@pytest.mark.parametrize("host", ["kvm1", "kvm3"])
def test_a_host_finds_no_way_to_itself(run, host):
    done = run(dest_host=host, on=host)
    assert done.given["dest_uri"] == "qemu:///system"
    assert done.asked == []
    assert "migrate_uri" not in done.given


def refuse_connection():
    raise AnsibleConnectionFailure("no route\nto host")


@pytest.mark.parametrize(
    "facts",
    [
        refuse_connection,
        lambda: {"failed": True, "msg": "no route\nto host"},
        lambda: {"unreachable": True, "msg": "no route to host"},
    ],
)
def test_a_destination_that_does_not_tell_is_a_warning(run, facts):
    run.facts = facts
    done = run(dest_host="kvm2")
    assert "_dest_facts" not in done.given
    assert done.given["dest_uri"] == "qemu+ssh://root@198.51.100.2/system"
    (warning,) = done.warnings
    assert "kvm2 does not tell" in warning
    assert "no route to host" in warning


def test_the_facts_cannot_be_made_up_in_a_playbook(run):
    with pytest.raises(AnsibleActionFail, match="_dest_facts"):
        run(dest_host="kvm2", _dest_facts=FACTS)


@pytest.mark.parametrize("option", ["cancel", "cleanup"])
def test_what_needs_no_destination_asks_none(run, option):
    done = run(dest_host="kvm2", **{option: True})
    assert "dest_uri" not in done.given
    assert done.asked == []


class TestElsewhere:
    """The login of the other host, made from its own variables."""

    @pytest.fixture
    def login(self):
        # A plugin's options are known once it has been loaded.
        connection_loader.get("ssh", class_only=True)

        def make(become=None, **host_vars):
            task = mock.MagicMock(
                become=become, become_method="sudo", connection="ssh", delegate_to="kvm1", async_val=9
            )
            task.copy.return_value = task
            task.dump_attrs.return_value = {"retries": 3, "timeout": 0, "remote_user": "ann"}
            loader = mock.MagicMock()
            connection = loader.connection_loader.get_with_context.return_value = mock.MagicMock(), None
            connection[0]._load_name = "ssh"
            connection[0]._shell._load_name = "sh"
            play_context = mock.MagicMock(timeout=10, password="", become_pass="")
            play_context.copy.return_value = play_context
            plugin = SimpleNamespace(
                _task=task,
                _play_context=play_context,
                _shared_loader_obj=loader,
                _loader=None,
                _templar=mock.MagicMock(),
            )
            runner = loader.action_loader.get.return_value
            runner._execute_module.return_value = FACTS
            runner._connection = connection[0]
            runner._low_level_execute_command.return_value = {"stdout": "said"}
            site = sites.Elsewhere(plugin, "kvm2", host_vars)
            assert site.execute("m", {"x": 1}) == FACTS
            assert site.shell("say it") == "said"
            runner._execute_module.assert_called_once()
            loader.connection_loader.get_with_context.assert_called_once()
            site.close()
            connection[0].close.assert_called_once()
            return SimpleNamespace(task=task, loader=loader, connection=connection[0], runner=runner)

        return make

    def test_it_is_the_other_hosts_own(self, login):
        made = login(ansible_host="192.0.2.2", ansible_user="deploy", inventory_hostname="kvm2", secret="x")
        assert made.task.delegate_to is None
        assert made.task.async_val == 0
        kind = made.loader.connection_loader.get_with_context.call_args[0][0]
        assert kind == "ssh"
        options = made.connection.set_options.call_args[1]
        assert options["var_options"]["ansible_host"] == "192.0.2.2"
        assert options["var_options"]["ansible_user"] == "deploy"
        assert options["task_keys"] == {"timeout": 10, "remote_user": "ann"}
        variables = made.runner._execute_module.call_args[1]["task_vars"]
        assert "secret" not in variables
        made.connection.set_become_plugin.assert_called_once_with(None)

    def test_its_connection_may_be_another(self, login):
        made = login(ansible_connection="local")
        assert made.loader.connection_loader.get_with_context.call_args[0][0] == "local"

    @pytest.mark.parametrize(
        ("of_task", "of_host", "becomes"),
        [(None, True, True), (False, "yes", True), (True, None, True), (True, False, False), (None, None, False)],
    )
    def test_the_hosts_word_on_becoming_root_counts(self, login, of_task, of_host, becomes):
        host_vars = {} if of_host is None else {"ansible_become": of_host}
        plugin = login(become=of_task, **host_vars).connection.set_become_plugin.call_args[0][0]
        assert (plugin is not None) == becomes
        assert plugin is None or plugin.name == "sudo"

    def test_a_variable_that_cannot_be_templated_is_left_out(self):
        class Broken(dict):
            def __getitem__(self, key):
                if key == "ansible_broken":
                    raise AnsibleActionFail("undefined")
                return super().__getitem__(key)

        read = sites._readable(Broken(ansible_broken=1, ansible_host="x", other="y"))
        assert read == {"ansible_facts": {}, "ansible_host": "x"}


class Source:
    """The source host of a run, as a script of what it says at each look."""

    host = "kvm1"

    def __init__(self, *looks, start=None):
        self.starts = [start or {"run": "r1", "watching": True, "changed": False}]
        self.looks = list(looks)
        self.executed, self.scripts, self.resets = [], [], 0

    def execute(self, module, args):
        self.executed.append(args)
        return self.starts.pop(0)

    def shell(self, command):
        self.scripts.append(command)
        if not self.looks:
            return ""
        look = self.looks.pop(0)
        if isinstance(look, str):
            return look
        raise look

    def reset(self):
        self.resets += 1


MOVING = (
    'alive\n{"run": "r1", "name": "a", "source": "kvm1", "dest": "kvm2", "phase": "moving", "percent": 7, "memory":'
    ' {"total": 100, "done": 7}, "disk": {"total": 0, "done": 0}, "throughput": 9, "dirty_rate": 0, "iteration": 1,'
    ' "elapsed": 1.0, "actions": []}'
)
DONE = 'done\n{"changed": true, "outcome": "migrated"}'


@pytest.fixture
def watch(monkeypatch):
    """Watch a run to its end, without waiting; gives back the run and what a person was told."""
    clock = [0.0]
    monkeypatch.setattr(runs.time, "monotonic", lambda: clock[0])

    def watch(source):
        told = []
        run = runs.Run(source, {"name": "a"}, told.append)
        run.start()
        while run.result is None:
            clock[0] += 0.5
            run.look()
        return run.result, told

    return watch


def test_a_run_is_watched_told_of_and_fetched(watch):
    source = Source(MOVING, MOVING, DONE)
    result, told = watch(source)
    assert result == {"changed": True, "outcome": "migrated"}
    assert told == [
        "a: kvm1 -> kvm2: 7 %, memory 7 B of 100 B, 9 B/s, pass 1, 1 s",
        "a: Ctrl-C stops only the watching of it; cancel.yml ends it",
    ]
    assert source.executed == [{"name": "a", "_watch": True}]
    assert "/run/kvmops-migration/r1" in source.scripts[0]
    assert source.scripts[-1] == runs.REMOVE.format(folder="/run/kvmops-migration/r1")


@pytest.mark.parametrize(("takes", "apart"), [(0.1, 1.1), (0.5, 2.5), (3.0, 8.0)])
def test_a_host_that_answers_slowly_is_looked_at_less_often(monkeypatch, takes, apart):
    clock, begun = [0.0], []
    monkeypatch.setattr(runs.time, "monotonic", lambda: clock[0])

    class Slow(Source):
        def shell(self, command):
            begun.append(clock[0])
            clock[0] += takes
            return super().shell(command)

    run = runs.Run(Slow(*[MOVING] * 20, DONE), {"name": "a"}, None)
    run.start()
    while run.result is None:
        run.look()
        clock[0] += 0.1
    # The last one removes what the run has left.
    assert begun[-2] - begun[-3] == pytest.approx(apart, abs=0.15)


def test_what_is_answered_at_once_needs_no_watching(watch):
    source = Source(start={"changed": False, "outcome": "already_there"})
    assert watch(source)[0]["outcome"] == "already_there"
    assert source.scripts == []


class Shell(Source):
    """A run whose host also does what a shell does, in an environment of its own."""

    def __init__(self, path, **answer):
        super().__init__(start={"changed": True, "outcome": "migrated", **answer})
        self._environment = {"PATH": str(path)}

    def shell(self, command):
        command = ["/bin/sh", "-c", command]
        return subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False).stdout


PINGS = """#!/bin/sh
for at in 1 2 3 5 6; do echo "[$at.0] 64 bytes from x"; done; exec /bin/sleep 2
"""


@pytest.fixture
def probed(tmp_path):
    """Do a run with a probe from a host that has these programs; gives back its result."""

    def probed(ping=None, **answer):
        for tool in ("sh", "mktemp", "setsid", "sleep", "kill", "cat", "rm", "awk"):
            (tmp_path / tool).symlink_to(shutil.which(tool))
        if ping is not None:
            (tmp_path / "ping").write_text(ping)
            (tmp_path / "ping").chmod(0o755)
        site = Shell(tmp_path, **answer)
        run = errand.Errand(site, {"name": "a", "outage_address": "x", "progress": False}, {}, lambda host: site)
        run.start()
        run.close()
        return run.result

    return probed


def test_an_outage_is_measured_and_needs_no_warning(probed):
    result = probed(PINGS)
    assert result["outage"]["replies"] == 5
    assert result["outage"]["longest_ms"] == 1980
    assert "warnings" not in result


@pytest.mark.parametrize("changed", [True, False])
def test_a_host_without_ping_is_warned_about(probed, changed):
    result = probed(changed=changed, warnings=["w"])
    assert result["outage"]["longest_ms"] is None
    assert result["warnings"][0] == "w"
    assert result["warnings"][1].startswith(
        "outage_address: the outage of x was not measured from kvm1: there is no ping"
    )


@pytest.mark.parametrize(("changed", "warnings"), [(True, 1), (False, 0)])
def test_an_address_that_never_answers_is_warned_about_where_something_has_moved(probed, changed, warnings):
    result = probed("#!/bin/sh\nexec /bin/sleep 2\n", changed=changed)
    assert len(result.get("warnings", [])) == warnings
    assert "no answer from that address" in str(result.get("warnings", "no answer from that address"))


def test_a_run_that_goes_on_already_is_joined(watch):
    source = Source(MOVING, DONE, start={"run": "r0", "watching": True, "adopted": True})
    result, told = watch(source)
    assert result["adopted"] == "r0"
    assert "run r0 is at it already" in told[0]
    # Whoever began it fetches the answer for good.
    assert not any(script.startswith("rm ") for script in source.scripts)


def test_what_a_joined_run_does_otherwise_is_in_its_answer(watch):
    source = Source(DONE, start={"run": "r0", "watching": True, "adopted": True, "warnings": ["bandwidth"]})
    assert watch(source)[0]["warnings"] == ["bandwidth"]


def test_an_answer_that_was_lost_on_the_way_is_fetched_again(watch):
    source = Source(MOVING, 'done\n{"chang', DONE)
    assert watch(source)[0]["outcome"] == "migrated"


def test_a_joined_run_whose_answer_is_gone_is_asked_for_again(watch):
    source = Source(MOVING, "gone\n", start={"run": "r0", "watching": True, "adopted": True})
    source.starts.append({"changed": False, "outcome": "already_there"})
    assert watch(source)[0]["outcome"] == "already_there"


@pytest.mark.parametrize("end", ["dead\nlast words", "gone\n"])
def test_c3_75_a_killed_run_is_undetermined_and_says_what_helps(watch, end):
    result, _told = watch(Source(MOVING, end))
    assert result["failed"]
    assert result["outcome"] == "undetermined"
    assert "its process on kvm1 was killed" in result["msg"]
    assert "run again" in result["cure"]


def test_a_host_out_of_sight_for_a_while_is_not_lost(watch):
    source = Source(MOVING, AnsibleConnectionFailure("no route"), "garbage", MOVING, DONE)
    result, told = watch(source)
    assert result["outcome"] == "migrated"
    assert source.resets == 2
    assert [line for line in told if "out of sight" in line] == ["a: kvm1 is out of sight, the run goes on there"]


def test_c3_75_one_out_of_sight_for_good_leaves_the_run_to_itself(watch):
    result, _told = watch(Source(MOVING, *[AnsibleConnectionFailure("no route")] * 200))
    assert result["outcome"] == "undetermined"
    assert "kvm1 cannot be reached: no route" in result["msg"]


@pytest.fixture
def queue(queue_of, monkeypatch):
    """The same with every move done at once, in this process."""

    def apart(self, work):
        answers, answer = os.pipe()
        with os.fdopen(answer, "wb") as stream:
            pickle.dump(work(), stream)
        return answers

    monkeypatch.setattr(virt_migrate_queue.ActionModule, "_apart", apart)
    return queue_of


def judged(name):
    """What check mode answers to its move."""
    row = {"id": "memory", "status": "pass", "evidence": "", "takes": {"what": "memory", "need": 4, "free": 5}}
    checks = [row] if name in ("big", "Big") else []
    return {"name": name, "changed": True, "outcome": "planned", "warnings": ["w"], "checks": checks}


@pytest.fixture
def queue_of(monkeypatch):
    """Run virt_migrate_queue with sites that answer at once; gives back its result and who was asked what."""
    asked, judges = [], []

    class Fake(Source):
        def __init__(self, plugin, host, host_vars):
            super().__init__()
            self.host = host

        def execute(self, module, args):
            if module.endswith("_info"):
                asked.append((self.host, args)) if judges else None
                if self.host == "kvm4":
                    raise AnsibleConnectionFailure("no route")
                moves = [judged(one["name"]) for one in args.get("_moves", ())]
                return {**FACTS, "moves": moves} if moves else FACTS
            asked.append((self.host, args))
            if args["name"] == "bad":
                raise AnsibleConnectionFailure("no route")
            return {
                "changed": True,
                "outcome": "migrated",
                "warnings": ["w"],
                "failed": args["name"] == "no",
                "msg": "m",
            }

        def close(self):
            pass

    monkeypatch.setattr(virt_migrate_queue, "Elsewhere", Fake)
    monkeypatch.setattr(runs, "TICK", 0)

    def queue(check=False, **args):
        judges.extend([True] * check)
        task = mock.MagicMock(args=args, async_val=0, check_mode=check)
        plugin = virt_migrate_queue.ActionModule(task, mock.MagicMock(), mock.MagicMock(), None, mock.MagicMock(), None)
        variables = {"inventory_hostname": "kvm1", "hostvars": HOSTS, "groups": {"all": list(HOSTS)}}
        return plugin.run(task_vars=variables), asked

    return queue


def move(name, **more):
    return {"name": name, "source": "kvm1", "dest_host": "kvm2", **more}


def test_c8_120_a_queue_moves_all_and_one_that_fails_keeps_no_other(queue):
    result, asked = queue(moves=[move("a"), move("bad"), move("no"), move("b", mode="live")], options={"tls": "false"})
    assert [name for _host, name in [(host, args["name"]) for host, args in asked]] == ["a", "bad", "no", "b"]
    assert all(host == "kvm1" and args["tls"] == "false" for host, args in asked)
    assert [one.get("outcome") for one in result["results"]] == ["migrated", None, "migrated", "migrated"]
    assert result["failed"]
    assert result["msg"] == "bad: no route\nno: m"
    assert result["warnings"] == ["w", "w", "w"]


def test_a_queue_in_check_mode_asks_every_host_once_and_watches_nothing(queue):
    result, asked = queue(
        check=True,
        moves=[move("a"), move("b", source="kvm2", dest_host="kvm3"), move("c", dest_host="kvm3"), move("d")],
        options={"tls": "false"},
    )
    assert [(one["name"], one["outcome"]) for one in result["results"]] == [(name, "planned") for name in "abcd"]
    assert (result["changed"], result["warnings"]) == (True, ["w"] * 4)
    assert [host for host, args in asked if "_moves" not in args] == ["kvm2", "kvm3"]
    judged = {host: args["_moves"] for host, args in asked if "_moves" in args}
    assert {host: [one["name"] for one in moves] for host, moves in judged.items()} == {
        "kvm1": ["a", "c", "d"],
        "kvm2": ["b"],
    }
    for one in (*judged["kvm1"], *judged["kvm2"]):
        assert (one["tls"], one["_dest_facts"], "_watch" in one) == ("false", FACTS, False)
    assert judged["kvm1"][0]["dest_uri"] == "qemu+ssh://root@198.51.100.2/system"


def test_a_host_that_does_not_answer_keeps_no_other_move_from_being_judged(queue):
    result, _asked = queue(check=True, moves=[move("a", source="kvm4"), move("b"), move("c", dest_host="nosuch")])
    assert [one.get("outcome") for one in result["results"]] == [None, "planned", "refused"]
    assert result["results"][0]["failure_class"] == "unreachable"
    assert "a: no route" in result["msg"]
    assert "c: dest_host: 'nosuch' is not in the inventory" in result["msg"]


def test_vms_of_two_hosts_that_a_third_has_no_memory_for_together(queue):
    result, _asked = queue(check=True, moves=[move("big", dest_host="kvm3"), {**move("a"), "dest_host": "kvm3"}])
    assert "failed" not in result
    two = [move("big", dest_host="kvm3"), move("Big", source="kvm2", dest_host="kvm3")]
    result, _asked = queue(check=True, moves=two)
    assert [one.get("failed", False) for one in result["results"]] == [False, True]
    assert result["msg"].startswith("Big: big and Big take 8 B of memory together, and kvm3 has 5 B; cure: ")


@pytest.fixture
def info(monkeypatch):
    """Run virt_migrate_info on kvm1; what was asked of whom."""
    asked = []
    monkeypatch.setattr(virt_migrate_info, "Here", lambda _plugin, host, _vars: Site(host, asked, dict))
    monkeypatch.setattr(sites, "Elsewhere", lambda _plugin, host, _vars: Closing(host, asked, lambda: FACTS))

    def info(**args):
        task = mock.MagicMock(args=args, async_val=0, delegate_to=None)
        plugin = virt_migrate_info.ActionModule(task, mock.MagicMock(), mock.MagicMock(), None, mock.MagicMock(), None)
        variables = {"inventory_hostname": "kvm1", "hostvars": HOSTS, "groups": {"all": list(HOSTS)}}
        plugin.run(task_vars=variables)
        return asked

    return info


class Closing(Site):
    def close(self):
        pass


def test_info_without_destinations_asks_the_host_alone(info):
    assert info(name=["a"]) == [("kvm1", errand.INFO_MODULE, {"name": ["a"]})]


def test_info_judges_every_vm_and_every_other_host(info):
    *others, (host, _module, args) = info(
        name="a,b", dest_hosts=["kvm1", "kvm2", "kvm3"], options={"mode": "live"}, uri="qemu:///session"
    )
    assert [one[0] for one in others] == ["kvm2", "kvm3"]
    assert host == "kvm1"
    moves = args["_moves"]
    assert [(one["name"], one["dest_host"]) for one in moves] == [
        (name, dest) for dest in ("kvm2", "kvm3") for name in "ab"
    ]
    assert {(one["mode"], one["uri"]) for one in moves} == {("live", "qemu:///session")}
    assert moves[0]["migrate_uri"] == "tcp://198.51.100.2"


def test_info_judges_all_vms_where_none_is_named(info):
    assert ["name" in one for one in info(dest_hosts=["kvm2"])[-1][2]["_moves"]] == [False]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"_moves": []}, "_moves is filled by the collection"),
        ({"dest_hosts": ["kvm2"], "options": {"bandwith": 1}}, "options: 'bandwith' is not known"),
        ({"dest_hosts": ["nosuch"]}, "dest_host: 'nosuch' is not in the inventory"),
    ],
)
def test_what_info_cannot_do_is_refused(info, args, said):
    with pytest.raises(AnsibleActionFail) as refused:
        info(**args)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"moves": [move("a", bandwith=1)]}, "moves: 'bandwith' is not known; cure: accepted: name, guest"),
        ({"moves": [move("a")], "options": {"bandwith": 1}}, "options: 'bandwith' is not known"),
        (
            {"moves": [move("a"), move("b", bandwidth=-1)]},
            "moves: b: bandwidth: -1 is not accepted; cure: accepted: MiB",
        ),
        ({"moves": [move("a")], "options": {"copy_storage": "x"}}, "moves: a: value of copy_storage must be one of"),
        ({"moves": [move("a", dest_host=None)]}, "moves: a: no destination was given"),
        ({"moves": [{"name": "a"}]}, "has no source"),
        ({"moves": "a"}, "moves: 'a' is not accepted; cure: accepted: a list of mappings"),
        ({"moves": [move("a", source="kvm9")]}, "source 'kvm9' of a is not in the inventory; cure: known hosts: kvm1"),
        ({"moves": [move("a")], "limits": {"total": 0}}, "limits: total: 0 is not accepted"),
        ({"moves": [move("a")], "limit": {}}, "virt_migrate_queue: 'limit' is not known"),
    ],
)
def test_what_a_queue_cannot_do_is_refused_before_anything(queue, args, said):
    with pytest.raises(AnsibleActionFail) as refused:
        queue(**args)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_nobody_watches_for_an_ansible_that_is_gone(monkeypatch):
    monkeypatch.setattr(runs, "TICK", 0)
    vigil = runs.Vigil()
    vigil.wait()
    monkeypatch.setattr(runs.os, "getppid", lambda: 0)
    with pytest.raises(AnsibleActionFail, match="main process is gone"):
        vigil.wait()


def test_a_host_that_is_silent_keeps_no_other_move_waiting(monkeypatch, queue_of, tmp_path):
    """Each move is watched by a process of its own."""

    def run(self):
        deadline = time.monotonic() + 10
        while self.name == "slow" and not (tmp_path / "b").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (tmp_path / self.name).touch()
        if self.name == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        return {"changed": True, "outcome": "migrated"}

    monkeypatch.setattr(errand.Errand, "run", run)
    result, _asked = queue_of(moves=[move("slow"), move("b"), move("killed", source="kvm2")])
    assert [one["outcome"] for one in result["results"]] == ["migrated", "migrated", "undetermined"]
    assert "killed: the process that watched it was killed" in result["msg"]
