# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action plugin: what it adds from the inventory and from the destination, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace
from unittest import mock

import pytest
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.loader import connection_loader

from ansible_collections.kvmops.migration.plugins.action import virt_migrate as action

FACTS = {"host": {"uuid": "u2", "hostname": "kvm2"}, "journal": [{"path": "/vm/a"}]}
HOSTS = {
    "kvm1": {"ansible_host": "192.0.2.1", "migration_address": "198.51.100.1"},
    "kvm2": {"ansible_host": "192.0.2.2", "migration_address": "198.51.100.2"},
    "kvm3": {"ansible_host": "192.0.2.3"},
    "kvm4": {},
    "kvm6": {"migration_address": "2001:db8::6"},
    "stor1": {},
}


@pytest.fixture
def run(monkeypatch):
    """Run the plugin on kvm1; gives back the arguments of the module and the warnings."""
    warnings, asked = [], []
    monkeypatch.setattr(action.display, "warning", warnings.append)

    def execute(self, module, args):
        asked.append((self._host, module, args))
        return run.facts()

    monkeypatch.setattr(
        action.Elsewhere, "__init__", lambda self, plugin, host, host_vars: setattr(self, "_host", host)
    )
    monkeypatch.setattr(action.Elsewhere, "execute", execute)

    def run(group=None, delegate_to=None, async_val=0, **args):
        task = mock.MagicMock(args={"name": "a", **args}, async_val=async_val, delegate_to=delegate_to)
        plugin = action.ActionModule(task, mock.MagicMock(), mock.MagicMock(), None, mock.MagicMock(), None)
        plugin._execute_module = mock.MagicMock(return_value={"changed": True})
        plugin._remove_tmp_path = mock.MagicMock()
        variables = {
            "inventory_hostname": "kvm1",
            "hostvars": HOSTS,
            "groups": {"all": list(HOSTS), "hypervisors": ["kvm1", "kvm2"], "other": ["kvm3"]},
        }
        if group:
            variables["migration_hosts_group"] = group
        assert plugin.run(task_vars=variables)["changed"]
        (module, given), options = plugin._execute_module.call_args
        assert module == "kvmops.migration.virt_migrate"
        assert options["wrap_async"] == bool(async_val)
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
    assert done.asked == [("kvm2", "kvmops.migration.virt_migrate_info", {"name": ["a"]})]
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


@pytest.mark.parametrize("delegate_to", [None, "kvm3"])
def test_a_host_finds_no_way_to_itself(run, delegate_to):
    done = run(dest_host=delegate_to or "kvm1", delegate_to=delegate_to)
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


def test_it_works_in_the_background(run):
    assert run(dest_host="kvm2", async_val=60).given["_dest_facts"] == FACTS


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
            result = action.Elsewhere(plugin, "kvm2", host_vars).execute("m", {"x": 1})
            assert result == FACTS
            runner._execute_module.assert_called_once()
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

        read = action._readable(Broken(ansible_broken=1, ansible_host="x", other="y"))
        assert read == {"ansible_facts": {}, "ansible_host": "x"}
