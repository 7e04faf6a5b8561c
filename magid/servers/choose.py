"""Chooses the server backend from the configuration and what the machine has."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from magid.config.settings import Config
from magid.errors import InvalidConfig
from magid.llama.program import ProgramOf
from magid.servers.backend import ServerBackend
from magid.servers.processes.backend import ProcessBackend
from magid.servers.processes.supervisor import RestartPolicy

SOCKET: Final = Path("/run/magi/launcher.sock")
_BOOTED: Final = Path("/run/systemd/system")  # sd_booted(3)


def choose(setting: str, *, booted: bool, reachable: bool) -> str:
    """Returns `systemd` or `process`. Raises InvalidConfig if the configured one is unavailable.

    `booted`: systemd is this machine's init. `reachable`: the launcher's socket exists; `auto`
    takes it as the sign that magid was installed as a service.
    """
    if setting != "systemd":
        return "systemd" if setting == "auto" and booted and reachable else "process"
    if not booted:
        raise InvalidConfig(
            "cannot use launcher systemd: this machine does not run systemd; set launcher to "
            "process or auto"
        )
    if not reachable:
        raise InvalidConfig(
            f"cannot use launcher systemd: there is no {SOCKET}; run `systemctl start "
            "magi-launcher.socket`, or set launcher to process"
        )
    return "systemd"


def check(settings: Config) -> str:
    """Returns which backend `build` creates. Checks two paths. Raises InvalidConfig."""
    return choose(settings.launcher, booted=_BOOTED.is_dir(), reachable=SOCKET.is_socket())


def build(settings: Config, program: ProgramOf, profile: Callable[[], str | None]) -> ServerBackend:
    """Creates the backend, not open yet. Raises InvalidConfig.

    `profile` returns the active profile's name.
    """
    if check(settings) == "systemd":
        return _with_systemd(settings, program, profile)
    restart = settings.restart
    return ProcessBackend(
        settings.state_dir / "keys",
        program,
        max_startup_s=settings.max_startup_time,
        check_interval_s=settings.readiness_check_interval,
        stop_timeout_s=settings.stop_timeout,
        restart=RestartPolicy(
            limit=restart.limit,
            window_s=restart.window,
            first_delay_s=restart.first_delay,
            max_delay_s=restart.max_delay,
        ),
        remote=settings.rpc_servers,
    )


def _with_systemd(
    settings: Config, program: ProgramOf, profile: Callable[[], str | None]
) -> ServerBackend:
    # Imported here: the D-Bus library is slow to import, and `process` does not need it installed.
    try:
        from magid.servers.systemd.backend import SystemdBackend
    except ModuleNotFoundError as error:
        raise InvalidConfig(
            f"cannot use launcher systemd: Python's module {error.name} is not there; install "
            "dbus-fast, or set launcher to process"
        ) from error
    return SystemdBackend(program, profile=profile, stop_timeout_s=settings.stop_timeout)
