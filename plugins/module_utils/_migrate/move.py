# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""The move itself, once it is known that the guest is on the source and nothing is in its way at the destination."""

from __future__ import annotations

import posixpath
from contextlib import suppress
from typing import Any, Callable, Dict, List, Mapping

from .._libvirt import Host, LibvirtFailure, unknown_flags
from .._pure import certificates, checks, domain_xml, jobstats, messages, outcome, storage
from .._pure import options as table
from .._pure import uri as uris
from .._pure.refusal import Refusal
from . import place as places
from .disks import Disks, Layout, remove_images
from .job import Job
from .local import Local
from .place import Place
from .probe import Storage
from .report import MOVING, PLANNED, Report, Request
from .settle import End, Ledger, Settlement

# What a person does about an outcome that the engine must not touch.
CURES = {
    outcome.FAILED: "run again when the cause is removed",
    outcome.SPLIT_BRAIN: "find out which of the two is the right one, and destroy the other with virsh destroy",
    outcome.UNDETERMINED: "run again when both hosts answer and no job is going on",
    outcome.POSTCOPY: "restore the network between the hosts; destroy neither of the two",
    outcome.CRASH: "look at the end of /var/log/libvirt/qemu/NAME.log, then virsh destroy and start the VM",
    outcome.LOST: "restore the definition from a backup; the images are where they were",
    outcome.MIGRATED: "undefine it on the source when it is no longer needed there",
}


class Move:
    """Moves one guest. `local` is the source's own files where this machine is the source, else None."""

    def __init__(
        self, request: Request, report: Report, source: Host, dest: Host, place: Place, local: Local | None
    ) -> None:
        self._request = request
        self._options = request.options
        self._report = report
        self._source = source
        self._dest = dest
        self._place = place
        self._local = local
        self._source_pools = Storage(source, request.run_id, request.now)
        self._dest_pools = Storage(dest, request.run_id, request.now)

    def run(self) -> Dict[str, Any]:
        """Check everything, then move; nothing is changed before the last check has passed."""
        mode = self._check_guest()
        before = self._source.xml(self._place.uuid, inactive=True)
        self._check_facts()
        layout = self._lay_out(mode)
        self._check_copies(layout)
        values = self._resolve(mode, layout)
        self._check_versions(values)
        self._report.add(
            mode=mode,
            storage=storage.summary(layout.plans),
            transport="tunnelled" if mode != "offline" and values["tunnelled"] else "native",
            flags=table.flags(values),
            params=table.public(table.params(values)),
            disks=[plan.result() for plan in layout.plans],
        )
        if self._request.check_mode:
            self._report.add(left_behind=self._left_behind(layout))
            planned = domain_xml.renamed(before, values["dest_name"] or self._place.name)
            return self._report.finished(changed=True, outcome=PLANNED, **self._diff(before, planned))
        self._move(mode, layout, values)
        after = before
        if self._request.diff:
            with suppress(LibvirtFailure):
                after = self._dest.xml(self._place.uuid, inactive=True)
        return self._report.finished(**self._diff(before, after))

    # Before the move

    def _check_guest(self) -> str:
        mode = places.choose_mode(self._place, self._options)
        uuid = self._place.uuid
        if mode in table.ACTIVE and self._source.job_active(uuid):
            raise Refusal(
                f"a job is going on with VM {self._place.name} on {self._source}",
                "busy",
                f"wait for its end, or end it: virsh domjobabort {self._place.name}",
            )
        if mode == "offline" and self._source.has_managed_save(uuid):
            raise Refusal(
                f"VM {self._place.name} has a saved state on {self._source}, which an offline move would leave there",
                "managed_save",
                f"start it, or give the state up: virsh managedsave-remove {self._place.name}",
            )
        if mode == "offline" and self._options["persistent_xml"] is not None:
            raise Refusal(
                f"persistent_xml was given, and VM {self._place.name} is shut off: libvirt takes its definition from"
                " dest_xml then",
                "wrong_state",
                "give dest_xml instead",
            )
        return mode

    def _lay_out(self, mode: str) -> Layout:
        definition = domain_xml.parse(self._source.xml(self._place.uuid))
        given = checks.definitions(self._options)
        for option, wanted in given.items():
            domain_xml.check_same(wanted, option, definition, name=option == "dest_xml")
        if (self._options["migrate_uri"] or "").startswith("rdma:") and mode != "offline" and not definition.hard_limit:
            raise Refusal(
                f"migrate_uri: RDMA pins memory, and VM {definition.name} has no limit to that",
                "no_hard_limit",
                f"set one: virsh memtune {definition.name} --hard-limit KIBIBYTES, somewhat above its memory",
            )
        wish = storage.Wish(
            self._options["storage"],
            self._options["copy_storage"],
            tuple(self._options["migrate_disks"] or ()),
            self._options["unsafe"],
        )
        disks = Disks(
            definition,
            given.get("dest_xml"),
            self._source_pools,
            self._dest_pools,
            self._request.run_id,
            self._local,
        )
        return disks.lay_out(wish, mode == "offline", self._facts, self._options["force"])

    def _check_facts(self) -> None:
        self._facts = self._request.facts
        if self._facts is not None and self._request.facts_uuid != self._dest.uuid:
            self._report.warn(
                f"dest_uri leads to {self._dest}, which is not the host that dest_host names: its journal is not used"
            )
            self._facts = None

    def _check_copies(self, layout: Layout) -> None:
        """Refuse what the options say about copies where it does not go with what must be copied."""
        copied = [plan.target for plan in layout.copied]
        if copied and self._options["tunnelled"]:
            raise Refusal(
                f"tunnelled: libvirt copies no disk through its own connection, and disk {copied[0]} is not shared",
                "bad_combination",
                "leave tunnelled out, or put the disk on shared storage",
            )
        migrate_uri = self._options["migrate_uri"] or ""
        if copied and migrate_uri.startswith("unix:") and not self._options["disks_uri"]:
            raise Refusal(
                f"migrate_uri: {migrate_uri} takes in memory only, and disk {copied[0]} is not shared",
                "bad_combination",
                "give disks_uri: unix:///PATH too",
            )
        for option in ("detect_zeroes", "target_zero"):
            for target in self._options[option] or () if copied else ():
                if target not in copied:
                    raise Refusal(
                        f"{option}: disk {target!r} of {self._place.name} is not copied",
                        "disk_target",
                        f"name only disks that are: {', '.join(copied)}",
                    )

    def _resolve(self, mode: str, layout: Layout) -> Dict[str, Any]:
        """The options with what the evidence has made of them."""
        targets = [plan.target for plan in layout.copied]
        options = dict(self._options) if targets else table.without_copies(self._options)
        domain = self._place.at_source
        values = {
            **options,
            "mode": mode,
            "copy_storage": ("inc" if options["copy_storage"] == "inc" else "all") if targets else "none",
            "migrate_disks": targets or None,
            # A transient guest leaves no definition behind, and libvirt has nothing to undefine.
            "undefine_source": options["undefine_source"] and domain is not None and domain.persistent,
            "bandwidth": options["bandwidth"] or None,
            "switchover_bandwidth": options["switchover_bandwidth"] or None,
        }
        values["tls"] = self._resolve_tls(values)
        if values["tls"] == "false":
            values["tls_destination"] = None
        return values

    def _resolve_tls(self, values: Mapping[str, Any]) -> str:
        """Whether the data is encrypted by the two QEMUs: true or false."""
        if values["mode"] == "offline" or values["tls"] == "false":
            return "false"
        here = self._local.certificates() if self._local is not None else None
        there = (self._facts or {}).get("host", {}).get("certificates")
        missing = certificates.missing(here, there) if here and there else None
        if values["tls"] == "true":
            if missing:
                raise Refusal(f"tls: there is no {missing[0]}", "tls_missing", "role libvirt_tls", role="libvirt_tls")
            return "true"
        if values["tunnelled"] or (values["migrate_uri"] or "").startswith("unix:"):
            # Whoever made that way has made it as safe as it is.
            return "false"
        reason = f"there is no {missing[0]}" if missing else "it is not known whether both hosts have certificates"
        if missing == []:
            try:
                table.validate({**self._options, "tls": "true"})
                self._check_versions({**values, "tls": "true"})
                return "true"
            except Refusal as refusal:
                reason = refusal.problem
        self._report.warn(
            f"the data of {self._place.name} travels unencrypted: {reason}; role libvirt_tls sets TLS up,"
            " tls: false accepts this"
        )
        return "false"

    def _check_versions(self, values: Mapping[str, Any]) -> None:
        hosts = (self._source, self._dest)
        is_qemu = uris.parse(self._source.uri).driver == "qemu"
        table.check_versions(
            values,
            {str(host): host.libvirt_version for host in hosts},
            {str(host): host.hypervisor_version for host in hosts} if is_qemu else {},
        )
        for flag in unknown_flags(table.flags(values)):
            raise Refusal(
                f"{table.owner(flag)}: the libvirt bindings of this Python do not know VIR_MIGRATE_{flag}",
                "too_old",
                "upgrade python3-libvirt where the module runs",
            )

    def _left_behind(self, layout: Layout) -> List[Dict[str, Any]]:
        return [{"host": self._source.hostname, "target": plan.target, "path": plan.source} for plan in layout.copied]

    # The move

    def _move(self, mode: str, layout: Layout, values: Dict[str, Any]) -> None:
        place = self._place
        ledger = Ledger(
            ran=place.source_state == outcome.RUNNING,
            defined_at_dest_before=place.at_dest is not None,
            persistent=self._options["persistent"],
            undefine_source=self._options["undefine_source"],
            images=tuple(plan.dest for plan in layout.copied),
        )
        params = {**table.params(values), **self._definitions(mode, layout)}
        trouble = self._record(MOVING) or self._note_left_behind(layout)
        if trouble:
            raise Refusal(trouble, "not_permitted", "run as root (become: true)")
        self._prepare_images(layout)
        if values["control"] == "direct":
            self._source.pair_with(self._dest)
        job = Job(self._source, place.uuid, self._open_watcher)
        job.run("" if values["control"] == "unmanaged" else self._dest.uri, params, table.flags(values))

        settlement = Settlement(self._source, self._dest, place.name, place.uuid, ledger)
        end = settlement.settle()
        # Connections that broke on the way were opened anew.
        self._source, self._dest = settlement.source.host, settlement.dest.host
        self._report.note_end(end)
        self._report.add(series=job.series)
        if end.row.outcome == outcome.MIGRATED:
            self._succeed(mode, layout, job, end)
        else:
            self._fail(layout, job, end)

    def _definitions(self, mode: str, layout: Layout) -> Dict[str, str]:
        """The XML that the destination gets. It has the VM's secrets, and goes into no result, log or journal."""
        definitions = {}
        sparse = [plan.target for plan in layout.copied if self._is_sparse(plan.source)]
        if sparse:
            # Without this they would not stay sparse.
            current = self._options["dest_xml"] or self._source.xml(self._place.uuid, migratable=True, secure=True)
            definitions["destination_xml"] = domain_xml.keep_sparse(current, sparse)
        moved = {plan.target: plan.dest for plan in layout.plans if plan.dest != plan.source}
        if moved and mode != "offline" and self._options["persistent"] and not self._options["persistent_xml"]:
            # Else the next start at the destination would look for the images where they were on the source.
            current = self._source.xml(self._place.uuid, inactive=True, secure=True)
            definitions["persistent_xml"] = domain_xml.repointed(current, moved)
        return definitions

    def _is_sparse(self, path: str) -> bool:
        volume = self._source.volume(path)
        return volume is not None and volume.allocation < volume.capacity

    def _prepare_images(self, layout: Layout) -> None:
        """Take away what is to be replaced at the destination, and make what libvirt does not make by itself."""
        made: List[str] = []
        what = ""
        try:
            for path in layout.replaced:
                what = f"{path} on {self._dest} could not be replaced"
                self._dest.delete_volume(path)
            for overlay in layout.overlays:
                what = f"{overlay.path} on {self._dest} could not be made"
                self._dest.create_volume(
                    overlay.pool,
                    posixpath.basename(overlay.path),
                    overlay.capacity,
                    overlay.format,
                    overlay.backing,
                    overlay.backing_format,
                )
                made.append(overlay.path)
        except LibvirtFailure as error:
            self._report.warn(*remove_images(self._dest, self._place.uuid, made))
            self._forget_left_behind(layout)
            self._record(outcome.FAILED)
            raise places.refusal(error, what, outcome=outcome.FAILED) from error

    def _open_watcher(self) -> Host:
        return Host.open(self._options["uri"], self._options["connect_timeout"])

    def _succeed(self, mode: str, layout: Layout, job: Job, end: End) -> None:
        self._report.add(left_behind=self._left_behind(layout))
        self._warn(self._note_left_behind(layout, final=True))
        self._carry_autostart()
        self._refresh_pools()
        if mode in table.ACTIVE:
            self._add_statistics(layout, job)
        if job.error is not None:
            self._report.warn(
                f"libvirt reported an error, and both hosts show that the VM has moved: {uris.redact(str(job.error))}"
            )
        stays_paused = self._options["suspend"] and end.dest_state == outcome.PAUSED
        if self._place.source_state == outcome.RUNNING and end.dest_state != outcome.RUNNING and not stays_paused:
            self._report.warn(f"{self._place.name} ran before the move and is {end.dest_state} on {self._dest} now")
        self._report.finished(changed=True, outcome=outcome.MIGRATED)
        self._warn(self._record(outcome.MIGRATED))

    def _fail(self, layout: Layout, job: Job, end: End) -> None:
        place = self._place
        message = uris.redact(str(job.error)) if job.error else "libvirt reported success"
        known = messages.look_up(message)
        settled = end.row.outcome == outcome.FAILED
        if settled:
            self._warn(self._forget_left_behind(layout))
            self._refresh_pools()
        said = outcome.say(end.row, place.name, str(self._source), str(self._dest), end.source_state, end.dest_state)
        self._report.finished(changed=not settled, outcome=end.row.outcome, actions=end.done)
        failure_class = known.failure_class if settled else end.row.outcome
        self._report.add(failure_class=failure_class)
        self._warn(self._record(end.row.outcome))
        raise Refusal(
            f"moving {place.name} from {self._source} to {self._dest} failed: {message}; {said}",
            failure_class,
            (known.cure if settled else "") or CURES[end.row.outcome],
            known.role if settled else None,
            outcome=end.row.outcome,
        )

    def _carry_autostart(self) -> None:
        domain = self._place.at_source
        if domain is None or not domain.autostart:
            return
        try:
            if self._options["persistent"]:
                self._dest.set_autostart(self._place.uuid, True)
            if not self._options["undefine_source"]:
                # Both hosts know the VM: only one of them may start it by itself.
                self._source.set_autostart(self._place.uuid, False)
        except LibvirtFailure as error:
            self._report.warn(f"the autostart flag could not be carried over: {error}")

    def _refresh_pools(self) -> None:
        self._source_pools.host, self._dest_pools.host = self._source, self._dest
        self._report.warn(*self._source_pools.refresh_again(), *self._dest_pools.refresh_again())

    def _add_statistics(self, layout: Layout, job: Job) -> None:
        stats = job.last
        with suppress(LibvirtFailure):
            stats = self._dest.job_stats(self._place.uuid, completed=True) or stats
        # The destination's statistics know nothing of the disks, whose copy the source drove.
        record = {**jobstats.record(stats), "disk": jobstats.record(job.last)["disk"]}
        moved = record["disk"].get("bytes")
        for disk in self._report.result["disks"]:
            if disk["action"] == storage.COPY:
                # libvirt counts all disks together.
                disk["bytes"] = moved if len(layout.copied) == 1 else None
        self._report.add(**record)

    # What stays on the source

    def _note_left_behind(self, layout: Layout, final: bool = False) -> str:
        """Write the journal; returns what went wrong."""
        if not layout.copied:
            return ""
        if self._local is None:
            where = f"the images left on {self._source} are not in its journal: virt_migrate did not run there"
            return where if final else ""
        noted = []
        for image in self._left_behind(layout):
            # The running guest still writes: until it has left, only the file itself can be named, not its content.
            identity = self._local.identity(image["path"]) or {}
            if not final:
                identity = {key: value for key, value in identity.items() if key in ("inode", "device")}
            noted.append(
                {
                    "path": image["path"],
                    "target": image["target"],
                    "run": self._request.run_id,
                    "phase": "left_behind" if final else MOVING,
                    "left_at": int(self._request.now),
                    **identity,
                }
            )
        return _tried(lambda local: local.leave_behind(self._place.uuid, self._place.name, noted), self._local)

    def _forget_left_behind(self, layout: Layout) -> str:
        paths = [plan.source for plan in layout.copied]
        return _tried(lambda local: local.forget(self._place.uuid, paths), self._local)

    def _record(self, phase: str) -> str:
        record = {**self._report.result, "outcome": phase, "run": self._request.run_id}
        return _tried(lambda local: local.record_run(self._request.run_id, record), self._local)

    def _warn(self, text: str) -> None:
        if text:
            self._report.warn(text)

    def _diff(self, before: str, after: str) -> Dict[str, Any]:
        if not self._request.diff:
            return {}
        source, dest = places.label(self._source), places.label(self._dest)
        name = self._place.name
        return {
            "diff": [
                {
                    "before_header": name,
                    "after_header": name,
                    "before": f"host: {source}\n",
                    "after": f"host: {dest}\n",
                },
                {
                    "before_header": f"{name} on {source}",
                    "after_header": f"{name} on {dest}",
                    "before": before,
                    "after": after,
                },
            ]
        }


def _tried(act: Callable[[Local], None], local: Local | None) -> str:
    """What went wrong with the journal, or nothing: once the guest may have moved, it must not stop the answer."""
    if local is not None:
        try:
            act(local)
        except OSError as error:
            return f"the journal cannot be written: {error}"
    return ""
