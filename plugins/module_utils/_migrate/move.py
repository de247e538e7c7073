# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""The move itself, once it is known that the guest is on the source and nothing is in its way at the destination."""

from __future__ import annotations

import posixpath
from contextlib import suppress
from typing import Any, Callable, Dict, List, Mapping, Tuple

from .._libvirt import Host, LibvirtFailure, unknown_flags
from .._pure import certificates, checks, domain_xml, jobstats, messages, outcome, schedule, storage
from .._pure import options as table
from .._pure import uri as uris
from .._pure.domain_xml import Definition
from .._pure.refusal import Refusal
from .._pure.schedule import Size, Step
from . import place as places
from .disks import Disks, Layout, remove_images
from .guest import Guest
from .job import Job, Watch
from .local import Local
from .place import Place
from .probe import Storage
from .report import MOVING, PLANNED, Report, Request
from .settle import End, Ledger, Settlement

# Of a move that was ended from here.
GIVEN_UP_CURES = {
    "not_converged": "give it more bandwidth or a higher max_downtime, or let policy: must_complete bring it to an end",
    "no_statistics": "look at the libvirt daemon on the source, then run again",
}
# Seconds that a call of the one that watches over the job may take.
WATCH_PATIENCE = 10.0
# QEMU has post-copy over parallel connections since this version.
PARALLEL_POSTCOPY = (10, 1, 0)

# What a person does about an outcome that the engine must not touch.
CURES = {
    outcome.FAILED: "run again when the cause is removed",
    outcome.SPLIT_BRAIN: "find out which of the two is the right one, and destroy the other with virsh destroy",
    outcome.UNDETERMINED: "run again when both hosts answer and no job is going on",
    outcome.POSTCOPY: "restore the network between the hosts, then run again with postcopy_resume: true (since libvirt"
    " 8.5.0); destroy neither of the two",
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
        self._options = {**request.options, "persistent": places.stays_persistent(place, request.options)}
        self._report = report
        self._source = source
        self._dest = dest
        self._place = place
        self._local = local
        self._definition = Definition(place.name, place.uuid)
        # Images that an earlier run of this move has noted.
        self._left: List[Dict[str, Any]] = []
        self._source_pools = Storage(source, request.run_id, request.now)
        self._dest_pools = Storage(dest, request.run_id, request.now)
        self._guest = Guest(self._options, report, self._source_pools, self._dest_pools, place)

    def run(self) -> Dict[str, Any]:
        """Check everything, then move; nothing is changed before the last check has passed."""
        mode = self._check_guest()
        before = self._source.xml(self._place.uuid, inactive=True)
        self._check_facts()
        layout = self._lay_out(mode)
        self._check_copies(layout)
        values, steps = self._resolve(mode, layout)
        self._check_versions(values)
        self._describe(mode, layout, values)
        if self._request.check_mode:
            self._report.add(left_behind=self._left_behind(layout))
            planned = domain_xml.renamed(before, values["dest_name"] or self._place.name)
            return self._report.finished(changed=True, outcome=PLANNED, **self._diff(before, planned))
        self._move(mode, layout, values, self._watch(mode, layout, steps))
        return self._finished(before)

    def resume(self) -> Dict[str, Any]:
        """Go on with a post-copy that has failed: what is missing at the destination is fetched from the source."""
        before = self._dest.xml(self._place.uuid, inactive=True)
        self._check_facts()
        domain = self._place.at_source
        values = {
            **table.without_copies(self._options),
            "mode": "live",
            # The disks are at the destination since the guest runs there.
            "copy_storage": "none",
            "dest_xml": None,
            "persistent_xml": None,
            "undefine_source": self._options["undefine_source"] and domain is not None and domain.persistent,
            "auto_converge": False,
            "auto_converge_initial": None,
            "auto_converge_increment": None,
            "postcopy": True,
        }
        values = self._tidied({**values, "tls": self._resolve_tls(values)})
        self._check_versions(values)
        layout = Layout()
        self._left = self._moving()
        self._describe("live", layout, values)
        if self._request.check_mode:
            return self._report.finished(changed=True, outcome=PLANNED, **self._diff(before, before))
        self._move("live", layout, values, Watch(can_abort=False))
        return self._finished(before)

    def _describe(self, mode: str, layout: Layout, values: Mapping[str, Any]) -> None:
        self._report.add(
            mode=mode,
            storage=storage.summary(layout.plans),
            transport="tunnelled" if mode != "offline" and values["tunnelled"] else "native",
            flags=table.flags(values),
            params=table.public(table.params(values)),
            disks=[plan.result() for plan in layout.plans],
        )

    def _finished(self, before: str) -> Dict[str, Any]:
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
        definition = self._definition = domain_xml.parse(self._source.xml(self._place.uuid))
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
        layout = disks.lay_out(wish, mode == "offline", self._facts, self._options["force"])
        self._guest.check(mode, definition, given.get("dest_xml", definition), disks, layout, self._facts)
        return layout

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

    def _resolve(self, mode: str, layout: Layout) -> Tuple[Dict[str, Any], Tuple[Step, ...]]:
        """The options with what the evidence has made of them, and the steps towards the end of the job."""
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
            "postcopy_resume": False,
        }
        steps = self._resolve_steps(values)
        values["auto_converge"] = values["auto_converge"] or schedule.asks(steps, schedule.AUTO_CONVERGE)
        values["postcopy"] = self._may_hand_over() and (values["postcopy"] or schedule.asks(steps, schedule.POSTCOPY))
        values["tls"] = self._resolve_tls(values)
        return self._tidied(values), steps

    @staticmethod
    def _tidied(values: Dict[str, Any]) -> Dict[str, Any]:
        """Without what means nothing as things are."""
        return {
            **values,
            "bandwidth": values["bandwidth"] or None,
            "switchover_bandwidth": values["switchover_bandwidth"] or None,
            "tls_destination": None if values["tls"] == "false" else values["tls_destination"],
            "postcopy_bandwidth": values["postcopy_bandwidth"] if values["postcopy"] else None,
        }

    def _may_hand_over(self) -> bool:
        """A guest that stands still dirties nothing, and libvirt has neither post-copy nor a need to stop it."""
        return self._options["mode"] != "nonlive" and self._place.source_state == outcome.RUNNING

    def _resolve_steps(self, values: Mapping[str, Any]) -> Tuple[Step, ...]:
        steps = schedule.build(self._options)
        if not self._may_hand_over():
            return schedule.without(steps, *(do for do in schedule.DOS if do != schedule.ABORT))
        if not (values["postcopy"] or schedule.asks(steps, schedule.POSTCOPY)):
            return steps
        obstacle = self._postcopy_obstacle(values)
        if not obstacle:
            return steps
        name = self._place.name
        asked = [option for option in ("postcopy", "policy_steps") if self._options[option]]
        if asked:
            raise Refusal(
                f"{asked[0]}: post-copy is not possible with VM {name}: {obstacle}",
                "no_postcopy",
                "leave post-copy out, or remove the obstacle",
            )
        self._report.warn(f"policy {self._options['policy']} goes without post-copy for {name}: {obstacle}")
        return schedule.without(steps, schedule.POSTCOPY)

    def _postcopy_obstacle(self, values: Mapping[str, Any]) -> str:
        """Why libvirt or QEMU would not have post-copy, or nothing."""
        if self._definition.not_on_demand:
            return self._definition.not_on_demand
        for host in (self._source, self._dest):
            if values["parallel"] and host.hypervisor_version < PARALLEL_POSTCOPY:
                needed, there = table.dotted(PARALLEL_POSTCOPY), table.dotted(host.hypervisor_version)
                return f"parallel needs QEMU {needed} for it; {host} has {there}"
        try:
            table.validate({**self._options, "postcopy": True})
            self._check_versions({**values, "postcopy": True})
        except Refusal as refusal:
            return refusal.problem
        return ""

    def _watch(self, mode: str, layout: Layout, steps: Tuple[Step, ...]) -> Watch:
        volumes = [self._source.volume(plan.source) for plan in layout.copied]
        known = [volume.allocation for volume in volumes if volume is not None]
        return Watch(
            statistics=mode in table.ACTIVE,
            steps=steps,
            size=Size(self._definition.memory, sum(known) if len(known) == len(volumes) else None),
            max_downtime=self._options["max_downtime"],
        )

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
        images = [{"host": self._source.hostname, "target": plan.target, "path": plan.source} for plan in layout.copied]
        return images + self._guest.left_behind() + self._left

    def _moving(self) -> List[Dict[str, Any]]:
        """The images of this VM that the journal has as being on their way."""
        return [
            {"host": self._source.hostname, "target": image["target"], "path": image["path"]}
            for image in (self._local.journal() if self._local is not None else [])
            if image["uuid"] == self._place.uuid and image.get("phase") == MOVING
        ]

    # The move

    def _move(self, mode: str, layout: Layout, values: Dict[str, Any], watch: Watch) -> None:
        place = self._place
        params = {**table.params(values), **self._definitions(mode, layout)}
        trouble = self._record(MOVING) or self._note_left_behind(layout)
        if trouble:
            raise Refusal(trouble, "not_permitted", "run as root (become: true)")
        try:
            self._guest.prepare()
            self._prepare_images(layout)
        except Refusal:
            self._guest.undo(())
            self._forget_left_behind(layout)
            self._record(outcome.FAILED)
            raise
        ledger = Ledger(
            ran=place.source_state == outcome.RUNNING,
            defined_at_dest_before=place.at_dest is not None or self._guest.defined,
            persistent=self._options["persistent"],
            undefine_source=self._options["undefine_source"],
            images=tuple(plan.dest for plan in layout.copied),
        )
        if values["control"] == "direct":
            self._source.pair_with(self._dest)
        job = Job(self._source, place.uuid, self._open_watcher, watch)
        settlement = Settlement(self._source, self._dest, place.name, place.uuid, ledger)
        try:
            job.run("" if values["control"] == "unmanaged" else self._dest.uri, params, table.flags(values))
        except BaseException:
            # Whoever stopped us wanted neither the guest to stand still nor its snapshots to be known elsewhere.
            if (job.suspended or self._guest.parked) and settlement.settle().row.outcome == outcome.FAILED:
                self._guest.undo(ledger.images)
            raise
        end = settlement.settle()
        # Connections that broke on the way were opened anew.
        self._source, self._dest = settlement.source.host, settlement.dest.host
        self._source_pools.host, self._dest_pools.host = self._source, self._dest
        self._report.note_end(end)
        self._report.add(
            series=job.series,
            actions=job.actions + [self._cleanup(job, what) for what in end.done],
            progress=job.progress(finished=end.row.outcome == outcome.MIGRATED),
            downtime_limit_ms=job.downtime_limit,
        )
        if end.row.outcome == outcome.MIGRATED:
            self._succeed(mode, layout, job, end)
        else:
            self._fail(layout, job, end)

    @staticmethod
    def _cleanup(job: Job, what: str) -> Dict[str, Any]:
        return {"t": round(job.elapsed(), 3), "action": what, "value": None, "reason": "left by the job"}

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
            raise places.refusal(error, what, outcome=outcome.FAILED) from error

    def _open_watcher(self) -> Host:
        return Host.open(self._options["uri"], self._options["connect_timeout"], patience=WATCH_PATIENCE)

    def _succeed(self, mode: str, layout: Layout, job: Job, end: End) -> None:
        self._report.add(left_behind=self._left_behind(layout))
        self._warn(self._note_left_behind(layout, final=True))
        self._wake(job, end)
        self._refresh_pools()
        self._guest.finish(end, mode in table.ACTIVE)
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

    def _wake(self, job: Job, end: End) -> None:
        """Let a guest go on that was stopped for the end of the job only, where libvirt has not done it."""
        if not job.suspended or end.dest_state != outcome.PAUSED or self._options["suspend"]:
            return
        try:
            self._dest.resume(self._place.uuid)
        except LibvirtFailure as error:
            self._report.warn(f"{self._place.name} could not be resumed on {self._dest}: {error}")
            return
        end.dest_state = self._report.result["dest"]["state"] = outcome.RUNNING

    def _fail(self, layout: Layout, job: Job, end: End) -> None:
        place = self._place
        message = uris.redact(str(job.error)) if job.error else "libvirt reported success"
        known = messages.look_up(message)
        settled = end.row.outcome == outcome.FAILED
        if settled:
            if end.source_state in outcome.ACTIVE:
                self._report.warn(*job.restore(self._source))
            self._guest.undo(tuple(plan.dest for plan in layout.copied))
            self._warn(self._forget_left_behind(layout))
            self._refresh_pools()
        said = outcome.say(end.row, place.name, str(self._source), str(self._dest), end.source_state, end.dest_state)
        self._report.finished(changed=not settled, outcome=end.row.outcome)
        failure_class, cure = end.row.outcome, CURES[end.row.outcome]
        if settled and job.given_up is not None:
            failure_class, reason = job.given_up
            message, cure = f"it was given up: {reason} ({message})", GIVEN_UP_CURES[failure_class]
        elif settled:
            failure_class, cure = known.failure_class, known.cure or cure
        self._report.add(failure_class=failure_class)
        self._warn(self._record(end.row.outcome))
        raise Refusal(
            f"moving {place.name} from {self._source} to {self._dest} failed: {message}; {said}",
            failure_class,
            cure,
            known.role if settled and job.given_up is None else None,
            outcome=end.row.outcome,
        )

    def _refresh_pools(self) -> None:
        self._report.warn(*self._source_pools.refresh_again(), *self._dest_pools.refresh_again())

    def _add_statistics(self, layout: Layout, job: Job) -> None:
        stats = job.last
        with suppress(LibvirtFailure):
            stats = self._dest.job_stats(self._place.uuid, completed=True) or stats
        # The destination's statistics know nothing of the disks, whose copy the source drove.
        seen = jobstats.record(job.last)
        record = {**jobstats.record(stats), "disk": seen["disk"]}
        # What a finished job does not tell any more is as it was seen last.
        record["memory"] = {**seen["memory"], **record["memory"]}
        moved = record["disk"].get("bytes")
        for disk in self._report.result["disks"]:
            if disk["action"] == storage.COPY:
                # libvirt counts all disks together.
                disk["bytes"] = moved if len(layout.copied) == 1 else None
        self._report.add(**record)

    # What stays on the source

    def _note_left_behind(self, layout: Layout, final: bool = False) -> str:
        """Write the journal; returns what went wrong."""
        images = self._left_behind(layout)
        if not images:
            return ""
        if self._local is None:
            where = f"the images left on {self._source} are not in its journal: virt_migrate did not run there"
            return where if final else ""
        noted = []
        for image in images:
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
        paths = [image["path"] for image in self._left_behind(layout) if image not in self._left]
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
