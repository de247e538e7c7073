#!/usr/bin/python
# Copyright: (c) 2026, The kvmops.migration authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: virt_migrate
short_description: Let a libvirt VM live on another host
version_added: 1.0.0
description:
  - The wish is that the VM lives at the destination, and nowhere else. A VM that already does is left alone.
  - A running VM moves live. One that is shut off moves as a definition, with the files that the two hosts do not
    share, which libvirt does not bring. The source's libvirt drives the destination (peer to peer) unless
    O(control) says otherwise.
  - An option that is newer than libvirt or QEMU on one of the two hosts is refused with the version that it
    needs; what excludes each other is refused before a connection is used.
  - Whether both hosts share a disk is proven, by a probe file or by the WWN of a block device, and never guessed. A
    shared disk is never copied; one that is not shared is copied by QEMU while the VM runs, and sent through ssh,
    verified, when it is shut off (M(kvmops.migration.virt_domblk_copy) has more options for that).
  - What libvirt keeps beside memory and disks goes along (autostart flag, metadata, changes that wait for the next
    start, UEFI variables, TPM state, snapshots, checkpoints), or the move is refused with what helps.
  - While a run moves the VM, the same call joins it. One that wants another end for the VM, its disks or its data is
    refused; one that only wants another way there, such as another O(policy) or O(bandwidth), joins it with a warning.
  - What happened is decided from the VM's state on both hosts and not from an error code. While one of them
    does not answer, nothing is started, resumed, undefined or deleted.
author:
  - The kvmops.migration authors (@kvmops)
extends_documentation_fragment:
  - kvmops.migration.attributes.libvirt
  - kvmops.migration.attributes
attributes:
  check_mode:
    support: full
    details:
      - Finds every obstacle that the real run would find, all of them and not only the first, by probe files that exist
        for the time of the check. They are in RV(checks), and the module fails where one of them is in the way.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  name:
    description: Name of the VM.
    type: str
    required: true
    aliases: [guest]
  uri:
    description:
      - URI of the libvirt that has the VM now, as seen from the host that the module runs on,
        C(driver[+transport]://[user@][host][:port]/path[?extra]).
      - Drivers are C(qemu), C(xen) and C(test); transports are C(ssh), C(tls), C(tcp), C(unix), C(libssh),
        C(libssh2) and C(ext).
      - Extras are those that L(libvirt knows,https://libvirt.org/uri.html) for the transport. C(command) and C(netcat)
        name programs that are run, here and on the other host.
    type: str
    default: qemu:///system
  dest_uri:
    description:
      - URI of the libvirt that shall have the VM, with the driver of O(uri).
      - Opened by the module, and with O(control=p2p) by the source's libvirt with root's own credentials there.
      - Overrides O(dest_host). One of the two is needed, but for O(cleanup) and O(cancel).
    type: str
  dest_host:
    description:
      - Inventory name of the destination. The URI is built from its C(migration_address), else its
        C(ansible_host), else its name.
      - The destination's journal is read through Ansible's own login, so that an image which an earlier
        move of the VM left there can be replaced. So is whether it has certificates for O(tls).
    type: str
  dest_name:
    description:
      - Name of the VM at the destination, where it shall be another one. A VM that is there under that name
        is left alone.
    type: str
  dest_xml:
    description:
      - The XML of the VM for the destination, for example with other paths, bridges or addresses to listen
        on. What the guest sees must stay the same.
      - Must have the name and the UUID of the VM. It is shown nowhere, because it may hold secrets.
      - Where it gives a disk another image file, that file is the one that is proven shared or copied to, and
        the persistent definition names it as well unless O(persistent_xml) is given.
    type: str
  persistent_xml:
    description:
      - The XML that is defined at the destination, for the next start of the VM. By default the definition
        that the source has.
      - Must have the UUID of the VM. Refused for a VM that is shut off, whose definition is O(dest_xml).
    type: str
  mode:
    description:
      - V(auto) moves a running VM live and one that is shut off as a definition with its files.
      - V(live) and V(offline) refuse a VM that is in the other state.
      - V(nonlive) pauses a running VM for the time of the move. It always converges.
      - Options about how data travels mean nothing for a VM that is shut off, but for O(bandwidth).
    type: str
    default: auto
    choices: [auto, live, nonlive, offline]
  control:
    description:
      - Who drives the move. With V(p2p) the source's libvirt connects to the destination, and the move
        survives whoever asked for it.
      - With V(direct) the module drives both ends through its own two connections. The host that it runs on needs a
        login at the destination; that is the source, unless O(uri) leads from a third host to the source.
      - V(unmanaged) is for C(xen) URIs only. QEMU's driver in libvirt always prepares both ends.
    type: str
    default: p2p
    choices: [p2p, direct, unmanaged]
  tunnelled:
    description:
      - Send the VM's memory inside the connection of the two libvirts (as safe as the transport of
        O(dest_uri)), instead of from QEMU to QEMU.
      - Needs O(control=p2p). Disks are not copied that way.
    type: bool
    default: false
  storage:
    description:
      - V(auto) decides for each disk by evidence from both hosts.
      - V(shared) refuses a disk that is proven not shared, and believes it of one for which there is no
        proof.
      - V(copy) refuses a disk that is proven shared.
    type: str
    default: auto
    choices: [auto, shared, copy]
  copy_storage:
    description:
      - V(all) copies the disks that are not shared, V(none) copies none and refuses a disk that is not
        shared.
      - V(inc) copies of these disks only what lies on top of their base image, which must be at the
        destination already. The image on top of it is made there.
      - Cannot be combined with O(storage) other than V(auto).
    type: str
    choices: [none, all, inc]
  migrate_disks:
    description:
      - Targets of the disks to copy, for example V(vda). By default all writable disks that are not
        shared.
    type: list
    elements: str
  disks_port:
    description: Port at which the destination takes the disks in. By default one from libvirt's range.
    type: int
  disks_uri:
    description:
      - Where the destination takes the disks in, C(tcp://ADDRESS:PORT) or C(unix:///PATH). Excludes
        O(disks_port), and is needed where O(migrate_uri) is a socket file. Since libvirt 6.8.0.
      - A socket file must be reachable from the source under the same path, which is up to you, and its disks travel
        without O(tls). The memory may go another way.
    type: str
  synchronous_writes:
    description:
      - While a disk is copied let the guest's own writes wait until they are on both hosts, so that the copy
        ends. Since libvirt 8.0.0.
    type: bool
    default: false
  detect_zeroes:
    description:
      - Targets of copied disks in which zeroes are looked for, so that the copy stays as sparse as the
        original. Since libvirt 10.9.0.
    type: list
    elements: str
  target_zero:
    description:
      - Targets of copied disks whose image at the destination reads as zeroes already, so that no zeroes need
        to be written. Since libvirt 12.2.0.
    type: list
    elements: str
  persistent:
    description:
      - Define the VM persistently at the destination. By default a VM that is persistent on the source is so at the
        destination, and a transient one stays transient.
      - Where the destination has another definition of the VM already, it is replaced (with V(false), it stays), and a
        warning says so.
    type: bool
  undefine_source:
    description:
      - Take the definition away from the source. With V(false) the VM's autostart flag is cleared there.
    type: bool
    default: true
  suspend:
    description:
      - Leave a VM that ran paused at the destination.
      - With QEMU before 10.0 a VM that came paused and used its disks in place must run for a moment before it can be
        moved on; it is refused before that.
    type: bool
    default: false
  change_protection:
    description:
      - Ask libvirt to let nobody change the VM's definition while it moves. Between two daemons that know it
        this is so anyway.
    type: bool
    default: false
  abort_on_error:
    description: End the move when the guest meets an input or output error meanwhile.
    type: bool
    default: false
  unsafe:
    description:
      - Skip libvirt's own check of disks and their cache modes, and leave it to libvirt and QEMU whether devices such
        as those of the host can move.
      - With O(copy_storage=none) also accept disks that are not shared. They are lost unless something else
        carries them over.
    type: bool
    default: false
  force:
    description:
      - Replace an image that lies at the destination already and that neither evidence nor the journal
        accounts for.
      - An image that another VM or a process has is never replaced.
    type: bool
    default: false
  migrate_uri:
    description:
      - Where the destination takes the VM's memory and disks in, C(tcp://ADDRESS[:PORT]),
        C(rdma://ADDRESS[:PORT]) (the VM needs a hard limit of its memory) or C(unix:///PATH).
      - With O(dest_host) the default is the destination's C(migration_address) where it has one, unless the
        move is O(tunnelled).
    type: str
  listen_address:
    description: Address on which the destination's QEMU listens. By default that of its C(qemu.conf).
    type: str
  graphics_uri:
    description:
      - Where people who look at the VM's console shall connect again, C(spice://ADDRESS[:PORT][?tlsPort=PORT])
        or C(vnc://ADDRESS[:PORT]).
    type: str
  rdma_pin_all:
    description: Pin all memory at once. Needs a O(migrate_uri) with C(rdma).
    type: bool
    default: false
  tls:
    description:
      - Whether the two QEMUs encrypt what they send. Since libvirt 3.2.0.
      - V(auto) does where both hosts are known to have certificates (the module runs on the source, and
        O(dest_host) is given), else it warns.
      - V(false) says that clear is accepted.
    type: str
    default: auto
    choices: [auto, 'true', 'false']
  tls_destination:
    description:
      - Name that the destination's certificate must have. By default the host in O(migrate_uri), so that it is needed
        with O(tls=true) through a socket file. Since libvirt 6.0.0.
    type: str
  bandwidth:
    description: Limit in MiB per second, up to 8796093022207; V(0) is libvirt's default.
    type: int
  switchover_bandwidth:
    description:
      - MiB per second that QEMU reckons with when it decides whether what is left fits in the downtime; V(0)
        lets it measure. Since libvirt 11.1.0.
    type: int
  parallel:
    description:
      - Send memory over several connections. Since libvirt 5.2.0.
    type: bool
    default: false
  parallel_connections:
    description: How many connections, from 1 to 255, with O(parallel=true). QEMU's default is 2.
    type: int
  zerocopy:
    description:
      - Let the source's kernel send memory without copying it first. Needs O(parallel=true), excludes
        O(compression) and O(tls=true). Since libvirt 8.5.0.
    type: bool
    default: false
  compression:
    description:
      - Methods by which memory is compressed.
      - V(xbzrle) sends what has changed of a page, V(mt) compresses in several threads (until QEMU 9.0); both
        for one connection only.
      - V(zlib) and V(zstd) are for O(parallel=true) only, one of the two. Since libvirt 9.4.0.
    type: list
    elements: str
    choices: [xbzrle, mt, zlib, zstd]
  compression_mt_level:
    description: From 0 (none) to 9 (smallest) for V(mt) in O(compression). QEMU's default is 1.
    type: int
  compression_mt_threads:
    description: Threads that compress on the source, from 1 to 255. QEMU's default is 8.
    type: int
  compression_mt_dthreads:
    description: Threads that decompress at the destination, from 1 to 255. QEMU's default is 2.
    type: int
  compression_xbzrle_cache:
    description: Bytes of the cache of pages for V(xbzrle), a power of two and at least a page.
    type: int
  compression_zlib_level:
    description: From 0 (none) to 9 (smallest) for V(zlib) in O(compression). Since libvirt 9.4.0.
    type: int
  compression_zstd_level:
    description: From 0 (the default) to 20 (smallest) for V(zstd) in O(compression). Since libvirt 9.4.0.
    type: int
  timeout:
    description:
      - Seconds that the data of a VM that runs or is paused may travel. Then O(timeout_action) is done.
    type: int
  timeout_per_gib:
    description:
      - The same in seconds for each GiB of the VM's memory and of what is allocated of the disks that are copied,
        counted as one GiB at least. Whichever of the two comes first counts.
    type: int
  timeout_action:
    description:
      - V(abort) ends the move and the VM goes on where it is.
      - V(suspend) stops the VM for what is left to send. It goes on at the destination, or where it was if the
        move fails.
      - V(postcopy) lets the VM run at the destination before all its memory is there. Needs
        O(postcopy=true).
    type: str
    default: abort
    choices: [abort, suspend, postcopy]
  policy:
    description:
      - What is done when the VM changes its memory faster than it can be sent. A policy is a list of steps as in
        O(policy_steps), and each of the following is no more than that.
      - V(none) waits.
      - V(minimal_downtime) slows the VM down (as O(auto_converge)), permits it to be stopped for 50, 75 and 100 % of
        O(max_downtime) after 4, 6 and 8 stalled passes, and gives up after 40 of them, 150 s for each GiB or 150 s
        without progress.
      - V(must_complete) permits 50 and 100 % of O(max_downtime) after 1 and 2 stalled passes; after 3 of them or
        100 s for each GiB it goes over to post-copy, and after 6 of them or 120 s for each GiB it stops the
        VM. Where post-copy is not possible it goes without, with a warning.
      - V(never_pause) slows the VM down, and gives up as V(minimal_downtime) does.
      - Any other name is that of O(policy_steps).
    type: str
    default: none
  policy_steps:
    description:
      - The steps of a policy of your own. Each is done once, as soon as it is due, in the order of the list. After
        V(abort) and V(postcopy) there is none; after V(suspend) only V(abort).
      - Post-copy does not begin before memory travels, nor within 30 s after the throughput has suddenly fallen to less
        than half, because a network that fails in post-copy takes the VM with it.
      - Steps that stop the VM or hand it over wait up to 10 s for a moment when little is left, unless they are due by
        V(elapsed) or V(iteration).
      - A VM that is paused, or that O(mode=nonlive) pauses, changes nothing. Of all steps only V(abort)
        counts for it.
    type: list
    elements: dict
    suboptions:
      when:
        description:
          - What O(policy_steps[].at) counts.
          - V(start) counts nothing. V(iteration) is the number of the pass over the memory that has begun.
          - V(stalled_iterations) is the number of passes in a row that have left no less to send than the best
            one before.
          - V(seconds_per_gib) is seconds for each GiB as in O(timeout_per_gib), V(no_progress) seconds since less
            remained than ever before, V(elapsed) seconds.
        type: str
        required: true
        choices: [start, iteration, stalled_iterations, seconds_per_gib, no_progress, elapsed]
      at:
        description: The number at which the step is due. Left out with V(start) in O(policy_steps[].when).
        type: float
      do:
        description:
          - What is done. V(auto_converge) is for V(start) in O(policy_steps[].when) only, and V(postcopy),
            V(suspend) and V(abort) are not for it.
          - V(raise_downtime) never lowers the limit, and never goes above O(max_downtime) where that is given.
        type: str
        required: true
        choices: [auto_converge, raise_downtime, set_bandwidth, postcopy, suspend, abort]
      downtime:
        description: Milliseconds, with V(raise_downtime) in O(policy_steps[].do).
        type: int
      percent:
        description: Percent of O(max_downtime), instead of O(policy_steps[].downtime).
        type: int
      bandwidth:
        description: MiB per second, with V(set_bandwidth) in O(policy_steps[].do).
        type: int
  max_downtime:
    description:
      - Milliseconds that the VM may stand still at the end. QEMU's own limit is 300.
      - With a policy that raises the limit, how far it may go; where this is not given, 500 or the highest
        O(policy_steps[].downtime), whichever is more. Without one, what is set at the start.
      - The limit of before is set back when the VM stays.
    type: int
  auto_converge:
    description: Slow the VM down until it changes its memory less fast than it can be sent.
    type: bool
    default: false
  auto_converge_initial:
    description: Percent by which the VM is slowed down first, from 1 to 99. QEMU's default is 20.
    type: int
  auto_converge_increment:
    description: Percent that are added as long as it is not enough, from 1 to 99. QEMU's default is 10.
    type: int
  postcopy:
    description:
      - Permit post-copy, where the VM runs at the destination before all its memory is there. It begins by
        O(timeout_action), O(policy), O(policy_steps), O(postcopy_after_precopy) or C(virsh migrate-postcopy).
      - A network that fails meanwhile stops the VM until O(postcopy_resume).
      - Refused for a VM with devices of the host, or with memory in huge pages or in a file, and with
        O(parallel) before QEMU 10.1. A VM that is paused moves without it.
    type: bool
    default: false
  postcopy_after_precopy:
    description: Begin post-copy when the first pass over the memory is done. Needs O(postcopy=true).
    type: bool
    default: false
  postcopy_bandwidth:
    description:
      - Limit in MiB per second after the VM has gone over; V(0) is no limit. Needs O(postcopy=true).
    type: int
  postcopy_resume:
    description:
      - Where a post-copy of the VM has failed, go on with it. Give the other options as they were.
      - For a VM in any other state this changes nothing. Since libvirt 8.5.0.
    type: bool
    default: false
  preflight:
    description:
      - Before anything is changed, all checks are made, and their findings are in RV(checks). This says what happens
        where one that judges the two hosts and the way between them fails, such as their networks, memory or ports.
      - V(enforce) refuses the move, V(warn) warns and moves, and V(skip) makes no such checks.
      - What would put the VM or its disks at risk is refused in any case.
    type: str
    choices: [enforce, warn, skip]
    default: enforce
  sync_time:
    description:
      - After a VM has moved while it ran, let its guest agent set its clock, as C(virsh domtime --sync) does. A clock
        stands still as long as its VM does.
      - Without a connected agent nothing is done, and an agent that fails is only warned about.
    type: bool
    default: true
  wait_for_job:
    description:
      - Whether to wait for the end of a job, such as a migration or a backup, that somebody else has begun with the
        VM. Otherwise such a VM is refused.
    type: bool
    default: false
  on_controller_loss:
    description:
      - The run belongs to a process on the source host, which goes on when the controller is interrupted, killed or cut
        off. This says what it does when no controller has watched it for 30 seconds.
      - V(continue) finishes the move; the next run with the same wish joins it. V(cancel) ends it, and the VM goes on
        where it was.
      - Means nothing with C(async), where no controller watches.
    type: str
    choices: [continue, cancel]
    default: continue
  progress:
    description:
      - Whether the controller prints how far the move is, at least every 10 seconds and whenever something is done
        about it. With C(async) there is nothing to print.
    type: bool
    default: true
  outage_address:
    description:
      - Measure from outside how long the VM does not answer while it moves, by L(ping,https://manpages.debian.org/ping)
        of this address.
    type: str
  outage_from:
    description: Inventory name of the host that sends the probes of O(outage_address). By default the controller.
    type: str
  cleanup:
    description:
      - Only settle what earlier runs with this VM have left that were killed or could not tell where it is; no move is
        begun and no destination is needed, but for a run whose O(dest_uri) had a password. Passwords are kept
        nowhere, so it must be given again.
      - Every run does this first for its VM.
    type: bool
    default: false
  cancel:
    description:
      - End the migration of this VM away from this host that goes on, whoever has begun it, and settle it; no
        destination is needed.
      - A run that was asked to end gets 120 seconds for it. One that still goes on is left at it, and the task
        fails.
    type: bool
    default: false
  connect_timeout:
    description: Seconds that each host gets to answer when the connection is opened.
    type: int
    default: 20
  _watch:
    description: Set by the collection's own action plugin, which watches the run.
    type: bool
    default: false
  _dest_facts:
    description: What the destination says about itself. Filled by the action plugin, and refused in a playbook.
    type: dict
seealso:
  - module: kvmops.migration.virt_migrate_info
  - module: community.libvirt.virt
"""

EXAMPLES = r"""
---
- name: Let a VM live on another host of the inventory
  kvmops.migration.virt_migrate:
    name: centos64a
    dest_host: labkvm2

- name: Move it by URI, with the data on the private network
  kvmops.migration.virt_migrate:
    name: centos64a
    dest_uri: qemu+ssh://root@labkvm2/system
    migrate_uri: tcp://172.16.1.232

- name: Rename it, leave it paused, over four connections with compression
  kvmops.migration.virt_migrate:
    name: centos64a
    dest_host: labkvm2
    dest_name: centos64a-copy
    suspend: true
    parallel: true
    parallel_connections: 4
    compression: [zstd]

- name: Only what lies on top of the base image, encrypted
  kvmops.migration.virt_migrate:
    name: centos64a
    dest_host: labkvm2
    copy_storage: inc
    tls: true

- name: Bring it to an end whatever it writes, with at most a second of standstill before post-copy is tried
  kvmops.migration.virt_migrate:
    name: centos64a
    dest_host: labkvm2
    policy: must_complete
    max_downtime: 1000

- name: A policy of your own
  kvmops.migration.virt_migrate:
    name: centos64a
    dest_host: labkvm2
    policy: office_hours
    policy_steps:
      - {when: stalled_iterations, at: 2, do: raise_downtime, downtime: 400}
      - {when: stalled_iterations, at: 4, do: raise_downtime, downtime: 800}
      - {when: seconds_per_gib, at: 60, do: abort}

- name: Go on with a post-copy that a broken network has stopped
  kvmops.migration.virt_migrate:
    name: centos64a
    dest_host: labkvm2
    postcopy_resume: true

- name: See what would happen
  kvmops.migration.virt_migrate:
    name: centos64a
    dest_host: labkvm2
  check_mode: true
  diff: true
"""

RETURN = r"""
name:
  description: Name of the VM.
  returned: always
  type: str
  sample: centos64a
uuid:
  description: UUID of the VM, by which it was matched on both hosts.
  returned: when the VM was found
  type: str
outcome:
  description:
    - V(migrated), V(already_there), or V(planned) in check mode; V(nothing_to_do) with O(cleanup) and O(cancel).
    - After a failure V(refused) (nothing was tried), V(failed) (the VM is where it was), V(split_brain),
      V(undetermined), V(postcopy_failed), V(crashed) or V(lost).
  returned: always
  type: str
  sample: migrated
source:
  description: The host that the VM left, with C(uri), C(host) and the VM's C(state) there afterwards.
  returned: when the VM was found
  type: dict
dest:
  description: The host that the VM came to, with C(uri), C(host) and the VM's C(state) there afterwards.
  returned: when the VM was found
  type: dict
mode:
  description: V(live), V(nonlive), V(offline), or V(none) when nothing had to move.
  returned: when the VM was found
  type: str
storage:
  description: V(copy), V(shared), V(mixed) or V(none), over all disks.
  returned: when the VM was found
  type: str
transport:
  description: V(native) or V(tunnelled), or V(none) when nothing had to move.
  returned: when the VM was found
  type: str
  sample: native
flags:
  description: Flags of libvirt's migration call, without C(VIR_MIGRATE_).
  returned: when the VM was found
  type: list
  elements: str
params:
  description: Typed parameters of libvirt's migration call; definitions are not shown.
  returned: when the VM was found
  type: dict
downtime_ms:
  description: Milliseconds that the VM stood still, by libvirt's count.
  returned: when the VM was found
  type: int
  sample: 94
downtime_limit_ms:
  description: Milliseconds for which the VM was permitted to stand still, at the end of the job.
  returned: when the VM was found
  type: int
  sample: 300
duration_s:
  description: Seconds of the module's own work.
  returned: always
  type: float
memory:
  description:
    - Statistics of the memory transfer, with C(bytes), C(iterations), C(dirty_rate) and C(throughput)
      (bytes per second), and C(throttle), the percent by which the VM was slowed down.
  returned: when the VM was found
  type: dict
disk:
  description: Statistics of the disk transfer.
  returned: after a live move
  type: dict
disks:
  description:
    - The disks, each with C(target), C(source) and C(dest) (the paths on both hosts), C(format), C(action)
      (copy, shared or skip), C(evidence) and C(reason).
  returned: when the VM was found
  type: list
  elements: dict
files:
  description:
    - The files that are sent, each with C(target) (that of a disk, C(nvram) or C(tpm)), C(source), C(dest), C(format),
      C(action) (copy, update, convert or keep), C(reason), and C(bytes), which is what it holds data for.
  returned: when a VM that is shut off has files that the hosts do not share
  type: list
  elements: dict
copied:
  description: C(bytes_sent), and C(seconds) of the copies.
  returned: after files were sent
  type: dict
  sample: {"bytes_sent": 22205225, "seconds": 0.151}
removed:
  description: Paths of images that were removed from the source, as M(kvmops.migration.virt_domblk_copy) can ask for.
  returned: when there were any
  type: list
  elements: str
networks:
  description:
    - What each network interface of the source carried while the job went on, the busiest first, each with
      C(interface), C(tx_bytes) and C(rx_bytes). All traffic of the host counts.
    - Empty where the module does not run on the source.
  returned: when the VM was found
  type: list
  elements: dict
  sample: [{"interface": "private0", "tx_bytes": 290456101, "rx_bytes": 1203344}]
series:
  description:
    - Samples taken while the VM moved, at most 120, each with C(t) (seconds), what is processed and what remains of
      memory and disks in bytes, C(iteration), C(dirty_rate) and smoothed C(throughput) in bytes per second, C(percent),
      C(memory_percent) and C(disk_percent). While files of a VM that is shut off are copied, C(t) counts from the
      beginning of that, and only what concerns disks is told.
  returned: when the VM was found
  type: list
  elements: dict
run:
  description:
    - Name of the run. What it has answered is kept as its record on the host that it ran on, in
      C(/var/lib/kvmops-migration/runs), with what O(outage_address) has found. The newest 100 are kept.
  returned: when something was begun
  type: str
  sample: 1795715649-5c32e813
began:
  description: When the run began, in seconds since 1970.
  returned: when something was begun
  type: float
  sample: 1795715649.312
steps:
  description: The steps of the run, each with C(step) and C(t), in seconds since the run began.
  returned: when something was begun
  type: list
  elements: dict
  sample: [{"t": 0.0, "step": "checking"}, {"t": 0.025, "step": "journalled"}, {"t": 0.031, "step": "moving"}]
snapshots:
  description:
    - Names of the snapshots that go with the VM. They are in its images, so all of them must be shared; what libvirt
      knows of them is carried over.
  returned: when the VM was found
  type: list
  elements: str
checkpoints:
  description: Names of the checkpoints that go with the VM.
  returned: when the VM was found
  type: list
  elements: str
guest_time:
  description:
    - Whether the guest's clock was set after the move (O(sync_time)), V(set), V(no_agent) or V(failed). Null where
      there was nothing to set.
  returned: when the VM was found
  type: str
  sample: set
left_behind:
  description:
    - Files that stay on the source, each with C(host), C(target) and C(path). The target is that of a disk, V(nvram)
      for the variables of UEFI firmware, or V(tpm) for the state of a TPM.
  returned: when the VM was found
  type: list
  elements: dict
actions:
  description:
    - What was done while the data travelled and afterwards, in order, each with C(t) (seconds since the start of
      the job), C(action), C(value) (milliseconds of a downtime, MiB per second of a bandwidth), C(reason), and C(error)
      where libvirt refused it.
    - Actions are those of O(policy_steps[].do), V(set_downtime), and V(undefine_source), V(resume_source),
      V(remove_dest_definition) and V(remove_dest_images) to settle what a job has left.
  returned: when the VM was found
  type: list
  elements: dict
  sample: [{"t": 41.2, "action": "raise_downtime", "value": 500, "reason": "it has taken 40 s"}]
progress:
  description:
    - C(percent) of all bytes, C(memory), and C(disk) where disks are copied. They never go backwards, and are 100 only
      when the VM has moved.
  returned: after a move was tried
  type: dict
outage:
  description:
    - The longest time without an answer from O(outage_address), with C(longest_ms) (null where nothing answered),
      C(replies), C(interval_ms) between two probes, C(began_at) (seconds since 1970), C(address) and C(from).
  returned: with O(outage_address)
  type: dict
logs:
  description: The last lines of the logs that QEMU keeps of the VM, by C(source) and C(dest).
  returned: on failure, when something was tried
  type: dict
settled:
  description:
    - What was settled of earlier runs that had been killed, each with C(run), C(outcome) and C(actions).
  returned: when there was something
  type: list
  elements: dict
adopted:
  description: The run that was going on already, and that this call has joined, or would join in check mode.
  returned: when there was one
  type: str
ended:
  description: The run that was ended by O(cancel).
  returned: when there was one
  type: str
checks:
  description:
    - What was looked at before the move, each with C(id), C(status) (V(pass), V(warn), V(fail) or V(skipped)),
      C(evidence), C(cure), and C(role), the role of this collection that does it, where there is one.
    - What looks at memory or room of the destination has C(takes) too, with C(what), and C(need) and C(free) in bytes.
    - A check has several rows where it has found several things. It is V(skipped) where nothing of this move depends
      on it, or something that it needs is not known.
    - Empty where nothing had to be checked.
  returned: always
  type: list
  elements: dict
  sample:
    - id: networks
      status: fail
      evidence: labkvm2 has no libvirt network blue, which centos64a is in
      cure: "define and start it there: virsh net-dumpxml blue on labkvm1, virsh net-define on labkvm2"
      role: null
forecast:
  description:
    - What the move is expected to be like, an estimate by how fast the VM writes its memory (measured for a second by
      QEMU 5.2.0 with libvirt 7.2.0, times C(factor), because it writes faster while it moves) and by what the way
      carries (O(bandwidth), the VM's own limit, or the link that leads to the destination).
    - C(converges) (null where it cannot be told), C(dirty_rate) and C(speed) in bytes per second, C(factor), C(link)
      (the network interface), C(pass_s) (seconds for all memory once), C(memory_s) and C(disk_s), C(downtime_ms) (at
      most), C(recommended) (each with C(option), C(value) and C(reason)), and C(text), all of it in one line.
  returned: in check mode, for a VM that runs or is paused, unless O(preflight=skip)
  type: dict
  sample:
    converges: true
    dirty_rate: 10485760
    factor: 3.0
    speed: 117500000
    link: private0
    pass_s: 9.138
    memory_s: 12.407
    disk_s: 0.571
    downtime_ms: 300
    recommended: []
    text: >-
      it writes 10.0 MiB/s, reckoned 3 times that while it moves; private0 lets 112.1 MiB/s through; memory in about
      12 s; disks in about 0.6 s; a standstill of 300 ms at most
failure_class:
  description: One word for the kind of failure.
  returned: on failure
  type: str
  sample: pool_missing
cure:
  description: What helps.
  returned: on failure
  type: str
role:
  description: The role of this collection that does it.
  returned: on failure, where there is one
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.kvmops.migration.plugins.module_utils._answer import leave
from ansible_collections.kvmops.migration.plugins.module_utils._libvirt import needing
from ansible_collections.kvmops.migration.plugins.module_utils._migrate.start import start
from ansible_collections.kvmops.migration.plugins.module_utils._pure.options import argument_spec


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    leave(module, needing(lambda: start(module)))


if __name__ == "__main__":
    main()
