"""The machine below: disks, the clock, memory."""

import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from magid.doctor.facts import (
    CheckSkipped,
    Facts,
    Finding,
    FindingSeverity,
    NotCollected,
    answering,
    known,
)
from magid.llama.runtime_settings import SETTINGS
from magid.systemd import journald_conf

FULL: Final = 16 * 2**20  # bytes: a registry of a thousand models, and what systemd writes
NEARLY: Final = 0.02  # of a file system, and at most _NEARLY_MOST
_NEARLY_MOST: Final = 2**30
_FEW_INODES: Final = 100


def disks(facts: Facts) -> Iterator[Finding]:
    """There is room for magid's state and for logs."""
    for volume in known(facts.volumes):
        where = shlex.quote(volume.path)
        biggest = (f"du -xah {where} | sort -h | tail",)
        if volume.read_only:
            yield Finding(
                "disk-read-only",
                f"the file system of {volume.path} is read-only",
                "the kernel does that after errors of a disk: `dmesg` tells",
                run=(f"findmnt -T {where}", f"mount -o remount,rw {where}"),
            )
        elif volume.free < FULL:
            yield Finding(
                "disk-full",
                f"the disk is full: {_mib(volume.free)} are free on {volume.path}",
                "decisions about models are refused with status 507 until there is room",
                do="make room; the largest files are named by:",
                run=(*biggest, "journalctl --vacuum-size=200M"),
            )
        elif volume.free < min(volume.size * NEARLY, _NEARLY_MOST):
            yield Finding(
                "disk-nearly-full",
                f"the disk is nearly full: {_mib(volume.free)} are free on {volume.path}",
                severity=FindingSeverity.WARNING,
                do="make room; the largest files are named by:",
                run=biggest,
            )
        if volume.inodes and volume.free_inodes < _FEW_INODES:
            yield Finding(
                "inodes-used-up",
                f"no more files can be made on {volume.path}: {volume.free_inodes} inodes are free",
                "there are too many small files",
                do="find the folder with the most files, and tidy it up:",
                run=(f"du -x --inodes {where} | sort -n | tail",),
            )


def writing(facts: Facts) -> Iterator[Finding]:
    """The user magi can make a file in the state folder, and make it durable."""
    state = facts.settings.config.state_dir
    if why := known(facts.writing):
        yield Finding(
            "state-not-writable",
            f"the user magi cannot write to {state}: {why}",
            "no decision about a model can be kept",
            run=(f"chown magi:magi {shlex.quote(str(state))}",
                 f"chmod 0750 {shlex.quote(str(state))}"),
        )  # fmt: skip


def clock(facts: Facts) -> Iterator[Finding]:
    """The time is not before what has happened already."""
    machine = known(facts.machine)
    latest = max(machine.installed, machine.written)
    if machine.clock < latest - 60:
        yield Finding(
            "clock-wrong",
            f"the clock is wrong: it is {_when(machine.clock)}, and magid's files are of "
            f"{_when(latest)}",
            "it was set back, or has lost its battery; logs, restarts and certificates need it",
            do="set it: `timedatectl set-ntp true`; if it is right, the files are wrong:",
            run=(f"touch {shlex.quote(str(facts.settings.config.state_dir))}/*",),
        )
    if machine.synchronised is False and not machine.container:
        yield Finding(
            "clock-not-synchronised",
            "the clock is not synchronised with the network",
            "it drifts; what happened when cannot be compared with other machines",
            FindingSeverity.NOTE,
            run=("timedatectl set-ntp true",),
        )


def journal(facts: Facts) -> Iterator[Finding]:
    """Systemd keeps the logs of magid and of the models."""
    machine = known(facts.machine)
    if not machine.systemd:
        raise CheckSkipped(NotCollected("this machine does not run systemd"))
    if machine.storage == journald_conf.NONE:
        folder = "/etc/systemd/journald.conf.d"
        yield Finding(
            "journal-keeps-nothing",
            "systemd's journal keeps no logs: Storage=none in journald.conf",
            "`magictl logs` has nothing to show, and why a server failed cannot be said",
            FindingSeverity.WARNING,
            run=(
                f"mkdir -p {folder} && printf '[Journal]\\nStorage=auto\\n' >{folder}/zz-magi.conf",
                "systemctl restart systemd-journald.service",
            ),
        )


_CONTROLLERS: Final = {setting.key: setting.controller for setting in SETTINGS}
_KERNEL: Final = {
    "memory": "boot with cgroup_enable=memory on the kernel's command line, or use a kernel that "
    "has it",
}


def limits(facts: Facts) -> Iterator[Finding]:
    """The limits of the models are in force."""
    machine = known(facts.machine)
    asked: dict[str, list[str]] = {}
    for model in answering(facts).models:
        for limit in sorted(model.limits):
            asked.setdefault(limit, []).append(model.model_id)
    for limit, models in asked.items():
        controller = _CONTROLLERS[limit]
        if machine.systemd and controller not in machine.controllers:
            yield Finding(
                "limit-not-in-force",
                f"{limit} of {', '.join(models)} is not in force: this kernel has no {controller} "
                "controller for control groups",
                "the servers run without it",
                FindingSeverity.WARNING,
                do=_KERNEL.get(controller, "use a kernel that has it"),
            )


def memory(facts: Facts) -> Iterator[Finding]:
    """The models that start at boot fit into the memory of the machine and its GPUs."""
    daemon, machine = answering(facts), known(facts.machine)
    total = machine.memory + video_memory(facts)
    for model in daemon.models:
        if model.size > total:
            yield Finding(
                "model-does-not-fit",
                f"{model.model_id} does not fit: its files have {_gib(model.size)}, and the "
                f"machine has {_gib(total)} with its GPUs",
                run=(f"magictl disable {model.model_id}", "magictl apply"),
            )
    starting = [model for model in daemon.models if model.always and model.size <= total]
    wanted = sum(model.size for model in starting)
    if wanted > total:
        largest = max(starting, key=lambda model: model.size).model_id
        yield Finding(
            "models-do-not-fit",
            f"the enabled models have {_gib(wanted)} together, and the machine has "
            f"{_gib(total)} with its GPUs",
            "they start one after another, and the last ones fail or push the others out",
            FindingSeverity.WARNING,
            do="disable some, the largest first, or let them start on demand:",
            run=(f"magictl disable {largest}", "magictl apply"),
        )


def video_memory(facts: Facts) -> int:
    """Returns the bytes on the GPUs that llama-server has found; 0 if it could not be run."""
    trial = facts.trial
    program = None if isinstance(trial, NotCollected) else trial.program
    return sum(gpu.device.total or 0 for gpu in program.gpus) if program else 0


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _when(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")
