"""Checks the addresses that magid would listen on: in use, or reachable from other machines."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Final

from magid.api import sockets
from magid.config.addresses import Address, TcpAddress, UnixAddress, is_loopback, parse_address
from magid.doctor.facts import Listener, ServiceUnit
from magid.errors import InvalidConfig
from magid.startup.problem import Problem, problem_of

TCP_SOCKET: Final = "magid.socket"
SOCKETS: Final = (TCP_SOCKET, "magid-local.socket", "magid-view.socket")
TOKEN: Final = "magictl token create --offline --scope admin --name NAME"
_EVERY: Final = frozenset({"0.0.0.0", "::"})
_STREAM: Final = re.compile(r"(\S+) \(Stream\)")


def of_service(
    units: Mapping[str, ServiceUnit], listeners: Sequence[Listener], *, has_token: bool
) -> Iterator[Problem]:
    """Yields the problems with the addresses of the socket units. Pure."""
    for name in SOCKETS:
        unit = units[name]
        for address in listens_on(unit):
            yield from exposure(address, has_token=has_token)
            if isinstance(address, TcpAddress) and unit.active != "active":
                yield from _taken(address, listeners)


def restart_command(units: Mapping[str, ServiceUnit], listeners: Sequence[Listener]) -> str:
    """Returns the command that brings magid up on all addresses that its units name. Pure.

    An active socket unit keeps its old addresses until it is stopped, whatever its files say. An
    inactive one is started with the service: `systemctl restart` of both would start it while the
    service runs, which systemd 252 refuses.
    """
    bound = {(one.host, one.port) for one in listeners}
    changed = [
        name
        for name in SOCKETS
        if units[name].active == "active"
        and any(
            isinstance(address, TcpAddress) and (address.host, address.port) not in bound
            for address in listens_on(units[name])
        )
    ]
    stops = f"systemctl stop {' '.join(changed)} && " if changed else ""
    return f"{stops}systemctl restart magid"


def listens_on(unit: ServiceUnit) -> list[Address]:
    """Parses the addresses of a socket unit from Listen= of `systemctl show`. Pure."""
    found: list[Address] = []
    for text in _STREAM.findall(unit.shown.get("Listen", "")):
        try:
            found.append(UnixAddress(text) if text.startswith("/") else parse_address(text))
        except ValueError:
            continue  # another kind of socket: magid refuses it itself
    return found


def exposure(address: Address, *, has_token: bool) -> Iterator[Problem]:
    """Yields a problem if other machines can reach the address and there is no token. Pure."""
    if isinstance(address, TcpAddress) and not has_token and not is_loopback(address.host):
        yield Problem(
            f"cannot listen on {written(address)}",
            "other machines can reach it and no token exists",
            do="make a token, or name loopback addresses only:",
            run=(TOKEN,),
        )


def _taken(address: TcpAddress, listeners: Sequence[Listener]) -> Iterator[Problem]:
    by = [one for one in listeners if one.port == address.port and _overlap(one.host, address.host)]
    if by:
        yield Problem(
            f"cannot listen on {written(address)}",
            f"{_who(by[0])} listens there",
            do="end it, or choose another port (systemctl edit magid.socket):",
            run=_ended(by[0], address.port),
        )


def _overlap(one: str, other: str) -> bool:
    return one == other or not _EVERY.isdisjoint((one, other))


def _who(one: Listener) -> str:
    if not one.pid:
        return "a program that only root can name"
    return f"{one.program} (pid {one.pid}{f', {one.unit}' if one.unit else ''})"


def _ended(one: Listener, port: int) -> tuple[str, ...]:
    if not one.pid:
        return (f"ss --listening --tcp --processes 'sport = {port}'",)
    if one.pid == 1:
        return ("systemctl list-sockets --all",)
    if one.unit.endswith(".service"):
        return (f"systemctl stop {shlex.quote(one.unit)}",)
    return (f"kill {one.pid}",)


def written(address: TcpAddress) -> str:
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}"


def of_process(
    addresses: Sequence[Address], *, has_token: bool, is_running: bool
) -> Iterator[Problem]:
    """Yields the problems with addresses that magid binds itself.

    Binds and closes each address, unless magid already runs.
    """
    for address in addresses:
        exposed = list(exposure(address, has_token=has_token))
        yield from exposed
        if exposed or is_running:
            continue
        try:
            with closing(sockets.take([address], has_token=has_token)):
                pass
        except InvalidConfig as error:
            yield problem_of(error.message)
