# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: it can have breaking changes at any time.
"""The move itself, once it is known that the guest is on the source and nothing is in its way at the destination."""

from __future__ import annotations

import posixpath
from contextlib import suppress
from dataclasses import replace
from typing import Any, Dict, List, Mapping, Tuple

from .._images.carry import Carrying, Way, teller, way_to
from .._images.look import chain_of, users_of
from .._libvirt import Host, LibvirtFailure, NotFound, Volume, unknown_flags
from .._pure import certificates, checks, domain_xml, domblk, jobstats, outcome, schedule, storage
from .._pure import options as table
from .._pure import status as statuses
from .._pure import uri as uris
from .._pure.domain_xml import Definition
from .._pure.domblk import File, Wish
from .._pure.preflight import Case, no_page_faults
from .._pure.refusal import Refusal
from .._pure.schedule import Size, Step
from . import facts, moments, outlook, probe, survey
from . import place as places
from .disks import Disks, Layout, remove_images
from .ending import Ending, tried
from .guest import Guest
from .hazards import check_asleep
from .job import Job, Watch
from .ledger import Image, Ledger
from .limits import Limits
from .links import Links
from .local import Local
from .outlook import Measuring
from .place import Place
from .probe import Storage
from .report import Report, Request
from .settle import Settlement

NOTHING_CARRIED = Carrying((), Way(), Wish(), "", 0.0, lambda _file: False)
# QEMU has post-copy over parallel connections since this version.
PARALLEL_POSTCOPY = (10, 1, 0)


class Move:
    """Moves one guest. `local` is the source's own files where this machine is the source, else None."""

    def __init__(
        self,
        request: Request,
        report: Report,
        source: Host,
        dest: Host,
        place: Place,
        local: Local | None,
        links: Links,
    ) -> None:
        self._request = request
        self._options = {**request.options, "persistent": places.stays_persistent(place, request.options)}
        self._report = report
        self._source = source
        self._dest = dest
        self._place = place
        self._local = local
        self._links = links
        self._definition = Definition(place.name, place.uuid)
        self._source_pools = links.storage(source, request.run_id, request.now)
        self._dest_pools = links.storage(dest, request.run_id, request.now)
        self._guest = Guest(self._options, report, self._source_pools, self._dest_pools, place)
        # The definition that all checks are about, and by target where disks of it shall lie as copies of files.
        self._before = self._text = ""
        # Images of the source, as libvirt knows them.
        self._volumes: Dict[str, Volume | None] = {}
        self._placed: Dict[str, domain_xml.Place] = {}

    def run(self) -> Dict[str, Any]:
        """Check everything, then move; nothing is changed before the last check has passed."""
        findings = self._report.findings
        mode = self._check_guest()
        measuring = self._measure(mode)
        if mode in table.ACTIVE:
            with findings.of("sockets"):
                self._check_socket("migrate_uri")
        before = self._before = self._source.xml(self._place.uuid, inactive=True)
        self._check_facts()
        layout = self._lay_out(mode)
        if mode in table.ACTIVE:
            with findings.of("copies"):
                self._check_copies(layout)
        with findings.of("asleep"):
            check_asleep(self._source, self._place, layout, self._definition.nvram)
        values, steps = self._resolve(mode, layout)
        with findings.of("versions"):
            self._check_versions(values)
        self._describe(mode, layout, values)
        self._judge(mode, layout, values, steps, measuring)
        with self._carrying(mode, layout) as carrying:
            if carrying.files:
                with findings.of("files"):
                    carrying.check()
            findings.settle()
            return self._run(mode, before, layout, values, steps, carrying)

    def _run(
        self,
        mode: str,
        before: str,
        layout: Layout,
        values: Dict[str, Any],
        steps: Tuple[Step, ...],
        carrying: Carrying,
    ) -> Dict[str, Any]:
        if carrying.files:
            self._report.add(files=carrying.plan())
        if self._request.check_mode:
            self._report.add(left_behind=self._ending(self._ledger(mode, self._images(mode, layout))).left_behind())
            planned = domain_xml.renamed(before, values["dest_name"] or self._place.name)
            moved = _moved(layout)
            planned = domain_xml.repointed(planned, moved) if moved else planned
            planned = domain_xml.relocated(planned, self._placed) if self._placed else planned
            return self._report.finished(changed=True, outcome=outcome.PLANNED, **self._diff(before, planned))
        watch = self._watch(mode, layout, steps)
        ledger = self._ledger(mode, self._images(mode, layout))
        ledger.carried = carrying.carried()
        ledger.way = carrying.way
        if self._request.copy.remove_source and self._options["undefine_source"]:
            ledger.remove = self._removable(carrying)
        self._move(ledger, layout, values, watch, carrying)
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
        self._describe("live", layout, values)
        if self._request.check_mode:
            return self._report.finished(changed=True, outcome=outcome.PLANNED, **self._diff(before, before))
        # The images are those of the run that failed, and so is what was noted of the guest.
        earlier = [ledger for ledger in self._request.local.unfinished() if ledger.uuid == self._place.uuid]
        images = tuple(image for ledger in earlier for image in ledger.images)
        for ledger in earlier:
            self._guest.noted.update(ledger.around)
        self._move(self._ledger("live", images), layout, values, Watch(can_abort=False), NOTHING_CARRIED)
        for ledger in earlier:
            self._request.local.close_run(ledger.run)
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
        """What kind of move it is; the guest's state alone tells where that is not as it was said."""
        findings, uuid = self._report.findings, self._place.uuid
        mode = "live" if self._place.source_state in outcome.ACTIVE else "offline"
        with findings.of("mode"):
            self._check_stopped()
            mode = places.choose_mode(self._place, self._options)
        if mode in table.ACTIVE:
            with findings.of("job"):
                if self._source.job_active(uuid):
                    raise Refusal(
                        f"a job is going on with VM {self._place.name} on {self._source}",
                        "busy",
                        f"wait for its end, or end it: virsh domjobabort {self._place.name}",
                    )
            return mode
        with findings.of("managed_save"):
            if self._source.has_managed_save(uuid):
                raise Refusal(
                    f"VM {self._place.name} has a saved state on {self._source}, which an offline move would leave"
                    " there",
                    "managed_save",
                    f"start it, or give the state up: virsh managedsave-remove {self._place.name}",
                )
        with findings.of("definition"):
            if self._options["persistent_xml"] is not None:
                raise Refusal(
                    f"persistent_xml was given, and VM {self._place.name} is shut off: libvirt takes its definition"
                    " from dest_xml then",
                    "wrong_state",
                    "give dest_xml instead",
                )
        return mode

    def _check_stopped(self) -> None:
        if self._request.copy.only_stopped and self._place.source_state in outcome.ACTIVE:
            raise Refusal(
                f"VM {self._place.name} is {self._place.source_state}, and virt_domblk_copy moves only one that is shut"
                " off to another host",
                "wrong_state",
                "shut it down, or move it with virt_migrate",
            )

    def _definitions_given(self, definition: Definition) -> Dict[str, Definition]:
        """By option, the definitions that were given or that follow from where its disks shall lie."""
        copy = self._request.copy
        domblk.check(copy, definition)
        paths = [path for disk in definition.disks for path in disk.files]
        if copy.path_map:
            chains = (chain_of(disk, disk.source, self._request.images) for disk in definition.disks)
            paths += [image.path for chain in chains for image in chain]
        domblk.check_map(copy, list(dict.fromkeys(paths)), definition.name)
        if copy.relocates:
            self._placed = {
                disk.target: domblk.place(disk, copy)
                for disk in definition.disks
                if disk.type == "file" and domblk.concerns(copy, disk, disk.source)
            }
            current = self._source.xml(self._place.uuid, inactive=True, secure=True)
            self._options["dest_xml"] = domain_xml.relocated(current, self._placed)
        given = checks.definitions(self._options)
        for option, wanted in given.items():
            domain_xml.check_same(wanted, option, definition, name=option == "dest_xml")
        return given

    def _lay_out(self, mode: str) -> Layout:
        findings, copy = self._report.findings, self._request.copy
        self._text = self._source.xml(self._place.uuid)
        definition = self._definition = domain_xml.parse(self._text)
        with findings.must("definition"):
            given = self._definitions_given(definition)
        with findings.of("pinned_memory"):
            rdma = (self._options["migrate_uri"] or "").startswith("rdma:")
            if rdma and mode != "offline" and not definition.hard_limit:
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
            self._stays(),
            copy.disks,
            copy.only_stopped,
        )
        disks = self._disks = Disks(
            definition,
            given.get("dest_xml"),
            self._source_pools,
            self._dest_pools,
            self._request.images if self._local is not None else None,
            findings,
            [target for target, there in self._placed.items() if there.block],
            self._told.get("devices"),
        )
        layout = disks.lay_out(wish, mode == "offline", self._facts, self._options["force"])
        self._guest.check(
            mode, self._text, definition, given.get("dest_xml", definition), disks, layout, self._facts, self._stays()
        )
        return layout

    def _check_facts(self) -> None:
        self._facts = self._request.facts
        if self._facts is not None and self._request.facts_uuid != self._dest.uuid:
            self._report.warn(
                f"dest_uri leads to {self._dest}, which is not the host that dest_host names: its journal is not used"
            )
            self._facts = None

    def _judge(
        self,
        mode: str,
        layout: Layout,
        values: Mapping[str, Any],
        steps: Tuple[Step, ...],
        measuring: Measuring | None,
    ) -> None:
        """Look at what both hosts say of themselves, and at the way between them."""
        if self._options["preflight"] != "skip":
            case = self._case(mode, layout, values, self._dest_pools, self._told or None, self._links.attempt)
            if self._forecasts(mode):
                size = self._watch(mode, layout, steps).size
                ahead = outlook.look_ahead(case, self._place.uuid, measuring, self._source, self._local, steps, size)
                self._report.add(forecast=ahead.result())
                case = replace(case, forecast=ahead)
            survey.note(case, self._report, self._options["preflight"])

    def _forecasts(self, mode: str) -> bool:
        """A real run is not to wait for a measurement."""
        asked = self._request.check_mode and self._options["preflight"] != "skip"
        return asked and mode in table.ACTIVE and not self._request.copy.only_stopped

    def _measure(self, mode: str) -> Measuring | None:
        """Begin to measure how fast a guest that goes on meanwhile writes its memory, while the checks are made."""
        goes_on = self._forecasts(mode) and self._may_hand_over()
        return self._links.measure(self._source, self._place.uuid) if goes_on else None

    def _case(
        self,
        mode: str,
        layout: Layout,
        values: Mapping[str, Any],
        pools: Storage,
        told: Mapping[str, Any] | None,
        attempt: survey.Attempt | None = None,
    ) -> Case:
        defined = self._before if mode in table.ACTIVE and self._is_persistent else ""
        look = survey.Survey(
            self._place.name,
            mode,
            {**values, "unsafe": self._options["unsafe"]},
            self._source,
            self._dest,
            pools,
            told,
            self._local,
            attempt=attempt,
        )
        images = {plan.source: self._volume(plan.source) for plan in layout.copied} if mode in table.ACTIVE else {}
        return look.case(self._text, defined, layout, self._definition, images)

    def _explained(self, refusal: Refusal, mode: str, layout: Layout, values: Mapping[str, Any]) -> Refusal:
        """A failure on the way, with what is in the way now: it may have come since the checks."""
        try:
            pools = Storage(self._dest, self._request.run_id, self._request.now)
            case = self._case(mode, layout, values, pools, {**self._told, **facts.of_host(self._dest)})
        except LibvirtFailure:
            return refusal
        return survey.explained(refusal, case, self._report)

    @property
    def _told(self) -> Mapping[str, Any]:
        """What the destination has said of itself by its own login, empty where it was not asked."""
        return (self._facts or {}).get("host", {}).get("facts") or {}

    @property
    def _is_persistent(self) -> bool:
        return self._place.at_source is not None and self._place.at_source.persistent

    def _check_copies(self, layout: Layout) -> None:
        """Refuse what the options say about copies where it does not go with what must be copied."""
        copied = [plan.target for plan in layout.copied]
        if copied:
            self._check_socket("disks_uri")
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

    def _check_socket(self, option: str) -> None:
        """Refuse a socket file that QEMU here cannot connect to, which it would find out when everything is prepared.

        libvirt leaves it to its users that a file made by QEMU at the destination can be reached from the source under
        the same path (libvirt-domain.h, VIR_MIGRATE_PARAM_DISKS_URI): by a directory that both see, or a forwarder.
        """
        given = self._options[option] or ""
        path = given.partition("unix://")[2]
        if path and self._local is not None and not self._local.has_directory(path):
            raise Refusal(
                f"{option}: {given} cannot be reached from {self._source}, which has no directory"
                f" {posixpath.dirname(path)}: the socket file must be there under the same path as on {self._dest}",
                "no_socket",
                f"let both hosts see one directory there, forward the socket (ssh -L), or give {option}: tcp://",
            )

    def _resolve(self, mode: str, layout: Layout) -> Tuple[Dict[str, Any], Tuple[Step, ...]]:
        """The options with what the evidence has made of them, and the steps towards the end of the job."""
        # What a guest that is shut off needs is copied without libvirt.
        targets = [plan.target for plan in layout.copied] if mode in table.ACTIVE else []
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
        steps: Tuple[Step, ...] = ()
        with self._report.findings.of("postcopy"):
            steps = self._resolve_steps(values)
        values["auto_converge"] = values["auto_converge"] or schedule.asks(steps, schedule.AUTO_CONVERGE)
        values["postcopy"] = self._may_hand_over() and (values["postcopy"] or schedule.asks(steps, schedule.POSTCOPY))
        with self._report.findings.of("tls"):
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
        name = self._place.name
        asked = [option for option in ("postcopy", "policy_steps") if self._options[option]]
        obstacle = self._postcopy_obstacle(values)
        if not (obstacle or asked):
            # Where it was asked for, a check of its own says so.
            obstacle = no_page_faults(self._told, f"on {self._dest}")
        if not obstacle:
            return steps
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
        volumes = [self._volume(plan.source) for plan in layout.copied]
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

    # The move

    def _images(self, mode: str, layout: Layout) -> Tuple[Image, ...]:
        return tuple(
            Image(
                plan.target,
                plan.source,
                plan.dest,
                probe.marker(plan.dest, self._request.run_id) if mode in table.ACTIVE else "",
            )
            for plan in layout.copied
        )

    def _ledger(self, mode: str, images: Tuple[Image, ...]) -> Ledger:
        place, options = self._place, self._options
        return Ledger(
            run=self._request.run_id,
            name=place.name,
            uuid=place.uuid,
            dest_name=options["dest_name"] or place.name,
            source_uri=uris.redact(self._source.uri),
            dest_uri=uris.redact(self._dest.uri),
            dest_host=self._dest.hostname,
            dest_uuid=self._dest.uuid,
            mode=mode,
            ran=place.source_state == outcome.RUNNING,
            autostart=place.at_source is not None and place.at_source.autostart,
            defined_at_dest_before=place.at_dest is not None,
            persistent=options["persistent"],
            undefine_source=options["undefine_source"],
            suspend=options["suspend"],
            sync_time=options["sync_time"] and mode in table.ACTIVE,
            images=images,
            **self._guest.noted,
        )

    def _ending(self, ledger: Ledger) -> Ending:
        return Ending(
            ledger,
            self._report,
            self._source,
            self._dest,
            self._local,
            self._request.worker,
            (self._source_pools, self._dest_pools),
        )

    def _move(self, ledger: Ledger, layout: Layout, values: Dict[str, Any], watch: Watch, carrying: Carrying) -> None:
        place, worker = self._place, self._request.worker
        limits = Limits.of(self._source, place.uuid) if watch.statistics else Limits(place.uuid)
        ledger.limits = limits.before
        ending = self._ending(ledger)
        params = {**table.params(values), **self._definitions(ledger.mode, layout)}
        trouble = self._note(ledger) or ending.note_left_behind()
        if trouble:
            raise Refusal(trouble, "not_permitted", "run as root (become: true)")
        worker.phase(statuses.JOURNALLED)
        if ledger.carried:
            self._carry(ending, ledger, carrying)
        self._prepare(ending, ledger, layout)
        worker.phase(statuses.PREPARED)
        if values["control"] == "direct":
            self._source.pair_with(self._dest)
        job = Job(
            self._source,
            place.uuid,
            lambda: places.watcher(self._options),
            watch,
            limits,
            worker,
            lambda: self._note_suspended(ledger),
        )
        worker.phase(statuses.MOVING)
        before = self._traffic()
        try:
            job.run("" if values["control"] == "unmanaged" else self._dest.uri, params, table.flags(values))
        except BaseException:
            if job.suspended:
                # Whoever stopped us did not want the guest to stand still.
                Settlement(self._source, self._dest, ledger, witnessed=True).settle()
            raise
        self._report.add(networks=jobstats.networks(before, self._traffic()))
        end = ending.settle(job)
        self._source, self._dest = ending.hosts
        if end.row.outcome != outcome.MIGRATED:
            refusal = ending.fail(job, end)
            if end.row.outcome == outcome.FAILED and job.given_up is None:
                refusal = self._explained(refusal, ledger.mode, layout, values)
            raise refusal
        ending.succeed(job, end)

    # Files of a guest that is shut off

    def _removable(self, carrying: Carrying) -> Dict[str, Dict[str, int]]:
        """The sources that may go away afterwards, and what tells them from others; another VM may lie on them."""
        known = carrying.known_sources()
        used = users_of(self._source, self._place.uuid, self._request.images)
        for path in sorted(set(known) & set(used)):
            raise Refusal(
                f"remove_source: {path} is used by VM {used[path][0]} as well",
                "image_in_use",
                "leave remove_source out",
            )
        return known

    def _stays(self) -> str:
        """Why they cannot be copied, or nothing."""
        if self._local is None or self._request.images is None:
            return "virt_migrate does not run on the source, so that it cannot be copied"
        if uris.parse(self._dest.uri).is_local:
            return "dest_uri leads nowhere, so that it cannot be copied"
        return ""

    def _carrying(self, mode: str, layout: Layout) -> Carrying:
        copy, options = self._request.copy, self._options
        if mode in table.ACTIVE:
            return NOTHING_CARRIED
        files: Dict[str, File] = {}
        for plan in layout.copied:
            disk = self._definition[plan.target]
            chain = chain_of(disk, disk.source, self._request.images)
            for file in domblk.files(disk, chain, copy, plan.dest):
                files.setdefault(file.source, file)
        for file in self._guest.files:
            files.setdefault(file.source, file)
        if not files:
            return NOTHING_CARRIED
        return Carrying(
            list(files.values()),
            way_to(self._dest.uri, options["migrate_uri"]),
            copy,
            self._request.run_id,
            options["connect_timeout"],
            lambda file: self._guest.may_replace(file, self._disks, self._facts),
            lambda: users_of(self._dest, self._place.uuid),
            self._request.local.begun(self._place.uuid),
            self._links.ahead.open,
        )

    def _carry(self, ending: Ending, ledger: Ledger, carrying: Carrying) -> None:
        """Send the files; when this fails, nothing of them is left."""
        worker = self._request.worker
        tell = teller(worker, "the copy", lambda points: self._report.add(series=points))

        def begins(dest: str, begun: Dict[str, Any]) -> None:
            for one in ledger.carried:
                if one.dest == dest:
                    one.begun = begun
            self._note_carried(ledger)

        try:
            worker.phase(statuses.COPYING)
            known = carrying.copy(tell, worker.phase, begins)
            worker.phase(statuses.COPIED)
            # The last moment at which nothing has its name yet.
            tell(carrying.total, carrying.total)
            self._check_unchanged()
            for one in ledger.carried:
                one.known = known[one.dest]
            self._note_carried(ledger)
            carrying.commit()
        except Exception as error:
            carrying.close()
            try:
                ending.take_back()
            except Refusal as trouble:
                said = error.problem if isinstance(error, Refusal) else str(error)
                raise Refusal(
                    f"{said}; {trouble.problem}", trouble.failure_class, trouble.cure, **trouble.details
                ) from error
            if isinstance(error, Refusal):
                error.details.setdefault("outcome", outcome.FAILED)
            for said in (ending.forget_left_behind(), ending.record(outcome.FAILED)):
                self._warn(said)
            self._request.local.close_run(ledger.run)
            raise
        self._report.add(copied={"bytes_sent": carrying.bytes_sent, "seconds": round(carrying.seconds, 3)})

    def _check_unchanged(self) -> None:
        """What was checked and copied is what the definition still says: a copy takes its time."""
        place = self._place
        try:
            now = self._source.xml(place.uuid, inactive=True)
        except NotFound:
            said = f"VM {place.name} was undefined on {self._source} while its files were copied"
        else:
            if domain_xml.equal(self._before, now):
                return
            said = f"the definition of {place.name} on {self._source} was changed while its files were copied"
        raise Refusal(said, "definition_changed", "run again when nobody changes it")

    def _traffic(self) -> Dict[str, Tuple[int, int]]:
        return self._local.traffic() if self._local is not None else {}

    def _note(self, ledger: Ledger) -> str:
        """Keep the ledger; returns what went wrong."""
        return tried(lambda local: local.open_run(ledger), self._local)

    def _note_carried(self, ledger: Ledger) -> None:
        trouble = self._note(ledger)
        if trouble:
            raise Refusal(trouble, "not_permitted", "make room in /var/lib/kvmops-migration")

    def _note_suspended(self, ledger: Ledger) -> None:
        ledger.suspended = True
        self._note(ledger)

    def _definitions(self, mode: str, layout: Layout) -> Dict[str, str]:
        """The XML that the destination gets. It has the VM's secrets, and goes into no result, log or journal."""
        definitions = {}
        copied = layout.copied if mode in table.ACTIVE else ()
        sparse = [plan.target for plan in copied if self._is_sparse(plan.source)]
        if sparse:
            # Without this they would not stay sparse.
            current = self._options["dest_xml"] or self._source.xml(self._place.uuid, migratable=True, secure=True)
            definitions["destination_xml"] = domain_xml.keep_sparse(current, sparse)
        moved = _moved(layout)
        if moved and mode != "offline" and self._options["persistent"] and not self._options["persistent_xml"]:
            # Else the next start at the destination would look for the images where they were on the source.
            current = self._source.xml(self._place.uuid, inactive=True, secure=True)
            definitions["persistent_xml"] = domain_xml.repointed(current, moved)
        return definitions

    def _is_sparse(self, path: str) -> bool:
        volume = self._volume(path)
        return volume is not None and volume.allocation < volume.capacity

    def _volume(self, path: str) -> Volume | None:
        if path not in self._volumes:
            self._volumes[path] = self._source.volume(path)
        return self._volumes[path]

    def _prepare(self, ending: Ending, ledger: Ledger, layout: Layout) -> None:
        """Let the destination know the snapshots, mark what this run makes there, take away what is to be replaced, and
        make what libvirt does not make by itself."""
        made: List[str] = []
        what = f"{moments.named(ledger.moments)} of {ledger.name} could not be made known on {self._dest}"
        try:
            moments.park(ledger, self._source, self._dest)
            # A run that goes on with another one's images has their marks already.
            for image in ledger.images if layout.copied else ():
                if not image.marker:
                    continue
                what = f"{image.marker} on {self._dest} could not be made"
                pool = self._dest_pools.pool(posixpath.dirname(image.dest))
                if pool is not None:
                    self._dest.create_volume(pool.name, posixpath.basename(image.marker), probe.SIZE)
                    made.append(image.marker)
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
            self._report.warn(*moments.take_back(ledger, self._source, self._dest))
            self._report.warn(*remove_images(self._dest, self._place.uuid, made))
            for trouble in (ending.forget_left_behind(), ending.record(outcome.FAILED)):
                self._warn(trouble)
            self._request.local.close_run(ledger.run)
            known_as = places.names(self._place.name, self._source, self._dest)
            raise places.refusal(error, what, known_as, outcome=outcome.FAILED) from error

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


def _moved(layout: Layout) -> Dict[str, str]:
    """By target, the path at the destination of disks that lie elsewhere there."""
    return {plan.target: plan.dest for plan in layout.plans if plan.dest != plan.source}
