# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be opened and closed on this host: the role's wish against what the firewall says. Changes nothing.

One look at everything, so that a run that finds the host as wished costs one task. What differs becomes rich rules of
the zones in which the peers' packets arrive, and not a zone, a policy or an ipset of the role's own: those need a
reload of firewalld, which drops what others have set for now only, and a zone with the peers as its sources would also
decide what else they may reach.
"""

import copy
import ipaddress
import json
import os
import re
import shutil
import socket
import subprocess
import sys

# What firewalld means by these names, for iptables.
SERVICES = {
    "mountd": ["20048/tcp", "20048/udp"],
    "nfs": ["2049/tcp"],
    "nfs3": ["2049/tcp", "2049/udp"],
    "rpc-bind": ["111/tcp", "111/udp"],
    "ssh": ["22/tcp"],
}
# Their rules would be cleared by firewalld's start, or would still apply after those of iptables.
OTHERS = {
    "firewalld": ["iptables", "ip6tables", "netfilter-persistent", "nftables", "ufw"],
    "iptables": ["firewalld", "nftables"],
}


class Host:
    """The host that this runs on; tests have another one."""

    def run(self, *command):
        """Standard output of a command, or None where it fails or is missing."""
        environment = dict(os.environ, LC_ALL="C", PATH=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        try:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, check=False
            )
        except OSError:
            return None
        return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None

    def has(self, program):
        return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is not None

    def active(self, units):
        """Those of the units that are running."""
        # With several units it fails unless all of them run.
        script = 'for unit in "$@"; do systemctl -q is-active "$unit" && echo "$unit"; done; true'
        return (self.run("sh", "-c", script, "sh", *units) or "").split()

    def enabled(self, unit):
        return (self.run("systemctl", "is-enabled", unit) or "").strip() == "enabled"

    def read(self, path):
        try:
            with open(path, encoding="utf-8", errors="replace") as stream:
                return stream.read()
        except OSError:
            return None

    def resolve(self, name):
        try:
            return sorted({str(entry[4][0]).partition("%")[0] for entry in socket.getaddrinfo(name, None)})
        except (OSError, UnicodeError):
            return []


# --- the wish


def problems(wish):
    """What is wrong with the variables, one line each."""
    found = []
    for port in wish["ports"]:
        match = re.match(r"^(\d{1,5})(?:-(\d{1,5}))?/(?:tcp|udp|sctp|dccp)$", port)
        first, last = (int(match.group(1)), int(match.group(2) or match.group(1))) if match else (0, 0)
        if not 1 <= first <= last <= 65535:
            found.append(
                "firewall_ports: '%s' is not PORT/PROTOCOL or FIRST-LAST/PROTOCOL, like 49152-49215/tcp" % port
            )
    unknown = [name for name in wish["services"] if wish["backend"] == "iptables" and name not in SERVICES]
    for name in unknown:
        known = ", ".join(sorted(SERVICES))
        found.append("firewall_services: '%s' is not known for iptables, these are: %s" % (name, known))
    for name in wish["services"]:
        if not re.match(r"^[A-Za-z0-9_.-]+$", name):
            found.append("firewall_services: '%s' is not the name of a service" % name)
    for name in wish["sources"]:
        if network(name) is None:
            found.append("firewall_sources: '%s' is not an address or a network, like 192.0.2.0/24" % name)
    closed = wish["ports"] or wish["services"]
    if closed and wish["open_to"] == "peers" and not wish["peers"] and not wish["sources"]:
        found.append(
            "firewall_peers is empty, so nobody could come in: migration_hosts_group names a group of the inventory,"
            " firewall_peers or firewall_sources say who may, or firewall_open_to is all"
        )
    for name in sorted(name for name, peer in wish["peers"].items() if peer is None):
        found.append("firewall_peers: '%s' is not in the inventory" % name)
    return found


def network(text):
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def sources(wish, host):
    """`(for ports, for services, errors)`: networks from which somebody may come, in a fixed order."""
    found = {"ports": set(), "services": set()}
    errors = []
    for name, peer in sorted(wish["peers"].items()):
        for kind in found:
            addresses = []
            for address in peer[kind]:
                known = network(address)
                addresses += [known] if known else [network(each) for each in host.resolve(address)]
            if not addresses and wish[kind]:
                tried = ", ".join(peer[kind]) or "none of its variables is set"
                errors.append("firewall_peers: %s has no address that this host knows (%s)" % (name, tried))
            # A name that a host has for itself leads nowhere from here.
            found[kind].update(each for each in addresses if not each.is_loopback)
    for text in wish["sources"]:
        for kind in found:
            found[kind].add(network(text))
    ordered = {kind: sorted(each, key=lambda item: (item.version, item)) for kind, each in found.items()}
    return ordered["ports"], ordered["services"], errors


def plain(each):
    """A network as firewalld and iptables write it."""
    return str(each.network_address) if each.prefixlen == each.max_prefixlen else str(each)


# --- firewalld


def zones(text):
    """What `firewall-cmd --list-all-zones` prints: `{zone: {"sources": [...], ..., "rich rules": [...]}}`."""
    found = {}
    zone = key = ""
    for line in (text or "").splitlines():
        if re.match(r"^\S", line):
            zone = line.split()[0]
            found[zone] = {}
        elif line.startswith("\t") and zone:
            found[zone].setdefault(key, []).append(line.strip())
        elif ":" in line and zone:
            key, value = line.strip().split(":", 1)
            found[zone][key] = value.split()
    return found


def running_default(host):
    """The default zone of a firewalld that runs, asked without the second that firewall-cmd takes to start."""
    service = "org.fedoraproject.FirewallD1"
    said = host.run("busctl", "call", service, "/org/fedoraproject/FirewallD1", service, "getDefaultZone")
    return (said or "").partition('"')[2].partition('"')[0]


class Firewalld:
    """What firewalld has, running or not."""

    def __init__(self, host, active):
        self.host = host
        ask = "firewall-cmd" if active else "firewall-offline-cmd"
        self.default = running_default(host) if active else (host.run(ask, "--get-default-zone") or "").strip()
        self.runtime = zones(host.run(ask, "--list-all-zones"))
        self.permanent = zones(host.run(ask, "--permanent", "--list-all-zones")) if active else self.runtime
        self.active = active
        self._interfaces = {}

    def rules(self, zone, permanent):
        having = self.permanent if permanent else self.runtime
        return having.get(zone, {}).get("rich rules", [])

    def zone_of_interface(self, interface):
        for zone, facts in sorted(self.runtime.items()):
            for bound in facts.get("interfaces", []):
                if interface == bound or (bound.endswith("+") and interface.startswith(bound[:-1])):
                    return zone
        return self.default

    def zone_of(self, each):
        """The zone in which a packet from there arrives: its source decides before the interface does."""
        for zone, facts in sorted(self.runtime.items()):
            for bound in map(network, facts.get("sources", [])):
                if bound is not None and bound.version == each.version and each.subnet_of(bound):
                    return zone
        address = str(each.network_address)
        if address not in self._interfaces:
            route = re.search(r"\bdev (\S+)", self.host.run("ip", "route", "get", address) or "")
            self._interfaces[address] = route.group(1) if route else ""
        return self.zone_of_interface(self._interfaces[address])


def rich_rule(what, each=None):
    """A rule in the words in which firewalld repeats it."""
    source = 'family="ipv%d" source address="%s" ' % (each.version, plain(each)) if each is not None else ""
    if "/" in what:
        port, protocol = what.split("/")
        return 'rule %sport port="%s" protocol="%s" accept' % (source, port, protocol)
    return 'rule %sservice name="%s" accept' % (source, what)


def wanted_rules(wish, firewalld, for_ports, for_services):
    wanted = []
    for kind, those in (("ports", for_ports), ("services", for_services)):
        found = {each: wish["zone"] or firewalld.zone_of(each) for each in those}
        if wish["open_to"] == "all":
            everywhere = sorted({wish["zone"] or firewalld.default, *found.values()})
            wanted += [(zone, rich_rule(what)) for what in wish[kind] for zone in everywhere]
        else:
            wanted += [(found[each], rich_rule(what, each)) for what in wish[kind] for each in those]
    return list(dict.fromkeys(wanted))


def commands(changes, active):
    """All changes in few calls: a site has hundreds of rules, and each call takes its time."""
    calls = {}
    for change in changes:
        for scope in ("permanent", "immediate"):
            if change[scope] and (active or scope == "permanent"):
                option = "--add-rich-rule=" if change["state"] == "enabled" else "--remove-rich-rule="
                calls.setdefault((scope, change["zone"], option), []).append(option + change["rule"])
    program = "firewall-cmd" if active else "firewall-offline-cmd"
    return [
        [program, *(["--permanent"] if active and scope == "permanent" else []), "--zone=" + zone, *options]
        for (scope, zone, _option), options in calls.items()
    ]


def way_in(host, wish, firewalld):
    """Where firewalld, once started, would close the port that Ansible has come in through."""
    port, interface = wish["login_port"], ""
    process = str(os.getpid())
    while process not in ("", "0", "1"):
        environment = host.read("/proc/%s/environ" % process) or ""
        login = re.search(r"(?:^|\0)SSH_CONNECTION=\S+ \d+ (\S+) (\d+)", environment)
        if login:
            port = int(login.group(2))
            route = re.search(r"^\d+: (\S+) .*\binet6? %s/" % re.escape(login.group(1)), addresses(host), re.MULTILINE)
            interface = route.group(1) if route else ""
            break
        parent = re.search(r"^PPid:\s+(\d+)", host.read("/proc/%s/status" % process) or "", re.MULTILINE)
        process = parent.group(1) if parent else ""
    zone = firewalld.zone_of_interface(interface)
    facts = firewalld.runtime.get(zone, {})
    opened = "%d/tcp" % port in facts.get("ports", []) or (port == 22 and "ssh" in facts.get("services", []))
    if opened or facts.get("target") == ["ACCEPT"]:
        return []
    return [{"zone": zone, "port": "%d/tcp" % port}]


def addresses(host):
    return host.run("ip", "-o", "address", "show") or ""


def plan_firewalld(wish, host, answer, record):
    answer["installed"] = host.has("firewall-cmd")
    answer["active"] = answer["installed"] and host.active(["firewalld"]) == ["firewalld"]
    answer["enabled"] = answer["installed"] and host.enabled("firewalld")
    service = {"active": answer["active"], "enabled": answer["enabled"]}
    firewalld = Firewalld(host, answer["active"]) if answer["installed"] else None
    known = (record or {}).get("rules", [])
    login = (record or {}).get("login", [])
    wanted = []
    if wish["state"] == "present":
        for_ports, for_services, errors = sources(wish, host)
        answer["errors"] += errors
        for unit in host.active(OTHERS["firewalld"]) if not answer["active"] else []:
            answer["errors"].append(
                "firewall_backend: firewalld would take the place of %s.service, which runs here with rules of its own;"
                " move those to firewalld and stop it, or set firewall_backend: iptables" % unit
            )
        if firewalld:
            answer["errors"] += missing_names(wish, host, firewalld)
            wanted = wanted_rules(wish, firewalld, for_ports, for_services)
            if not answer["active"]:
                answer["login"] = way_in(host, wish, firewalld)
                login = login + [each for each in answer["login"] if each not in login]
    elif not firewalld:
        known = []

    for zone, rule in wanted:
        lacking = {
            "permanent": rule not in firewalld.rules(zone, True),
            "immediate": rule not in firewalld.rules(zone, False),
        }
        if any(lacking.values()):
            answer["changes"].append(dict(lacking, zone=zone, rule=rule, state="enabled"))
    ours, gone = [], []
    for entry in known:
        there = (
            {
                "permanent": entry["permanent"] and entry["rule"] in firewalld.rules(entry["zone"], True),
                "immediate": entry["immediate"] and entry["rule"] in firewalld.rules(entry["zone"], False),
            }
            if firewalld
            else {}
        )
        if (entry["zone"], entry["rule"]) in wanted:
            ours.append(entry)
        elif any(there.values()):
            gone.append(entry)
            answer["changes"].append(dict(there, zone=entry["zone"], rule=entry["rule"], state="disabled"))
    for change in answer["changes"]:
        if change["state"] == "enabled":
            same = [entry for entry in ours if (entry["zone"], entry["rule"]) == (change["zone"], change["rule"])]
            entry = same[0] if same else {"zone": change["zone"], "rule": change["rule"]}
            for scope in ("permanent", "immediate"):
                entry[scope] = entry.get(scope, False) or change[scope]
            if not same:
                ours.append(entry)

    answer["commands"] = commands(answer["changes"], answer["active"])
    if wish["state"] == "present":
        kept = {"service": (record or {}).get("service", service), "login": login}
        answer["record"] = dict(kept, rules=in_order(ours + gone))
        answer["record_after"] = dict(kept, rules=in_order(ours))
    elif record:
        answer["service"] = {
            "stop": answer["active"] and not record["service"]["active"],
            "disable": answer["enabled"] and not record["service"]["enabled"],
        }
        answer["login"] = login if firewalld else []
        answer["record"] = record
    return answer


def in_order(rules):
    return sorted(rules, key=lambda entry: (entry["zone"], entry["rule"]))


def missing_names(wish, host, firewalld):
    found = []
    if wish["zone"] and wish["zone"] not in firewalld.runtime:
        known = ", ".join(sorted(firewalld.runtime))
        found.append("firewall_zone: firewalld has no zone '%s' here, but these: %s" % (wish["zone"], known))
    for name in wish["services"]:
        paths = [folder + "/services/" + name + ".xml" for folder in ("/etc/firewalld", "/usr/lib/firewalld")]
        if all(host.read(path) is None for path in paths):
            found.append("firewall_services: firewalld knows no service '%s' here (firewall-cmd --get-services)" % name)
    return found


# --- iptables


def tables(wish, version, for_ports, for_services):
    """The rules of the two chains for one family, as `iptables-restore` reads them.

    The first chain, before all rules of others, lets in. The last one, behind them all, turns everybody else away from
    what the role opens: a host whose INPUT accepts what nobody forbids would be open to all otherwise.
    """
    lines = []
    first, last = wish["chains"]["first"], wish["chains"]["last"]
    for kind, those in (("ports", for_ports), ("services", for_services)):
        opened = wish[kind] if kind == "ports" else [each for name in wish[kind] for each in SERVICES[name]]
        for each in opened:
            port, protocol = each.split("/")
            ports = "-p %s -m %s --dport %s" % (protocol, protocol, port.replace("-", ":"))
            if wish["open_to"] == "all":
                lines.append("-A %s %s -j ACCEPT" % (first, ports))
                continue
            lines += ["-A %s -s %s %s -j ACCEPT" % (first, one, ports) for one in those if one.version == version]
            lines.append("-A %s ! -i lo %s -m conntrack --ctstate NEW -j REJECT" % (last, ports))
    return list(dict.fromkeys(lines))


def meaning(line):
    """What tells a rule from others, however this release of iptables repeats it."""
    words = line.split()
    return tuple(
        words[words.index(option) + 1] if option in words else "" for option in ("-A", "-s", "-p", "--dport", "-j")
    )


def plan_iptables(wish, host, answer, record):
    # What an earlier run has opened by firewalld, which is off now, stays on record.
    answer["record"] = record
    answer["installed"] = host.has("iptables-restore")
    answer["active"] = host.active([wish["unit_file"].rpartition("/")[2]]) != []
    chains = sorted(wish["chains"].values())
    for_ports, for_services, errors = sources(wish, host)
    answer["errors"] += errors
    for unit in host.active(OTHERS["iptables"]):
        answer["errors"].append(
            "firewall_backend: rules of iptables open nothing beside %s.service, which runs here; stop it"
            " (firewall_state: absent does, where the role has started it) or set firewall_backend: firewalld" % unit
        )
    for version, program in ((4, "iptables"), (6, "ip6tables")):
        lines = tables(wish, version, for_ports, for_services)
        answer["tables"][str(version)] = lines
        if version == 6 and host.read("/proc/net/if_inet6") is None:
            continue
        there = (host.run(program, "-w", "-S") or "").splitlines()
        ours = {meaning(line) for line in there if line.split()[:2] in [["-A", chain] for chain in chains]}
        jumps = {line for line in there if line in ["-A INPUT -j " + chain for chain in chains]}
        if ours != {meaning(line) for line in lines} or len(jumps) != 2:
            answer["repair"] = True
    return answer


# --- both


def plan(wish, host):
    answer = {
        "errors": problems(wish) if wish["state"] == "present" else [],
        "apt": host.has("apt-get"),
        "installed": False,
        "active": False,
        "enabled": False,
        "login": [],
        "changes": [],
        "commands": [],
        "service": {"stop": False, "disable": False},
        "tables": {"4": [], "6": []},
        "repair": False,
        "iptables": host.read(wish["unit_file"]) is not None,
        "recorded": None,
        "record": None,
        "record_after": None,
    }
    if answer["errors"]:
        return answer
    text = host.read(wish["record_file"])
    record = json.loads(text) if text else None
    answer["recorded"] = copy.deepcopy(record)
    by_iptables = wish["backend"] == "iptables" and wish["state"] == "present"
    return (plan_iptables if by_iptables else plan_firewalld)(wish, host, answer, record)


if __name__ == "__main__":
    print(json.dumps(plan(json.loads(sys.argv[1]), Host())))
