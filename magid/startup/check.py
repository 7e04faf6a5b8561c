"""`magid --check`: prints the configuration in force, or all that keeps magid from starting.

Where magid is a service of this machine, it is checked as the service: with the addresses of its
socket units and the rights of the user magi. Root drops its own rights for good; the process ends
with the check.
"""

import os
import pwd
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from magid.auth import token_store
from magid.config import loading
from magid.config.loading import Effective
from magid.config.settings import Config
from magid.doctor.collect import services
from magid.doctor.collect.commands import CannotCollect
from magid.doctor.facts import Listener, ServiceUnit
from magid.errors import InvalidConfig, TokensUnusable
from magid.files import lock
from magid.servers import choose
from magid.startup import addresses, files
from magid.startup.problem import Problem, problem_of, rendered

MAGI: Final = "magi"
SERVICE: Final = "magid.service"


@dataclass(frozen=True, slots=True)
class StartupFacts:
    """Facts collected before root drops its rights. `units` is empty if magid is not a service."""

    units: Mapping[str, ServiceUnit]
    listeners: Sequence[Listener]

    @property
    def is_service(self) -> bool:
        return SERVICE in self.units and self.units[SERVICE].load != "not-found"


def check(given: Mapping[str, str], env: Mapping[str, str], failing: int) -> int:
    """Prints its findings. Returns 0, or `failing` if magid or a socket of it would not start."""
    machine = look()
    if machine.is_service and os.geteuid() == 0:
        become_magi()
    effective, found = problems(given, env, machine)
    if effective and not found:
        sys.stdout.write(loading.render(effective) + "\n")
    for text in map(rendered, found):
        sys.stderr.write(f"{text}\n")
    if found and machine.is_service:
        command = addresses.restart_command(machine.units, machine.listeners)
        sys.stderr.write(f"then: {command}\n")
    if machine.is_service and not _is_magi():
        sys.stderr.write("files that only magi may read were not checked: sudo magid --check\n")
    return failing if found else 0


def look() -> StartupFacts:
    """Queries systemd and the kernel. Blocks for a few seconds at most."""
    try:
        units = services.units()
    except CannotCollect:
        return StartupFacts({}, ())
    return StartupFacts(units, services.listeners())


def become_magi() -> None:
    """Drops root's rights for good. Does nothing if there is no user magi."""
    try:
        magi = pwd.getpwnam(MAGI)
    except KeyError:
        return
    os.setgroups(os.getgrouplist(MAGI, magi.pw_gid))
    os.setgid(magi.pw_gid)
    os.setuid(magi.pw_uid)


def _is_magi() -> bool:
    try:
        return pwd.getpwnam(MAGI).pw_uid == os.geteuid()
    except KeyError:
        return True  # reported as a problem by itself


def problems(
    given: Mapping[str, str], env: Mapping[str, str], machine: StartupFacts
) -> tuple[Effective | None, list[Problem]]:
    """Returns the configuration, or None if it is invalid, and all problems that were found."""
    found = list(_of_units(machine)) if machine.is_service else []
    try:
        effective = loading.load(given, env)
    except InvalidConfig as error:
        faults = (error.message, *error.details.get("others", ()))
        return None, [*found, *(_fault(message) for message in faults)]
    settings = effective.config
    try:
        choose.check(settings)
    except InvalidConfig as error:
        found.append(problem_of(error.message))
    found += _of_addresses(settings, machine)
    if machine.is_service:
        found += files.outside_sandbox(settings, machine.units[SERVICE])
    if not machine.is_service or _is_magi():
        found += files.problems(settings, is_service=machine.is_service)
    return effective, found


def _fault(message: str) -> Problem:
    """Returns an error of the configuration, whose message names the place, as a problem."""
    what, _, why = message.partition(": ")
    return Problem(what, why)


def _of_units(machine: StartupFacts) -> Iterator[Problem]:
    for name in (SERVICE, *addresses.SOCKETS):
        unit = machine.units[name]
        if unit.load == "masked" and name == SERVICE:
            yield Problem(f"cannot start {name}", "it is masked", run=(f"systemctl unmask {name}",))
        elif unit.load not in ("loaded", "masked"):
            yield Problem(
                f"cannot start {name}",
                f"systemd cannot use its files ({unit.load})",
                run=(f"systemd-analyze verify {name}",),
            )
    try:
        pwd.getpwnam(MAGI)
    except KeyError:
        yield Problem(
            f"cannot start {SERVICE}", "there is no user magi",
            run=("systemd-sysusers", "systemd-tmpfiles --create"),
        )  # fmt: skip


def _of_addresses(settings: Config, machine: StartupFacts) -> Iterator[Problem]:
    has_token = _has_token(settings.state_dir)
    if machine.is_service:
        yield from addresses.of_service(machine.units, machine.listeners, has_token=has_token)
    else:
        yield from addresses.of_process(
            settings.addresses, has_token=has_token, is_running=lock.is_held(settings.state_dir)
        )


def _has_token(state_dir: Path) -> bool:
    try:
        return bool(token_store.read(state_dir / token_store.NAME))
    except TokensUnusable:
        return True  # it admits no caller, or is unreadable for this user
