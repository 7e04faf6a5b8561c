"""Ports of magid and of its servers that other programs have."""

import shlex
from collections.abc import Iterator
from typing import Final

from magid.doctor.checks.installed import restarted
from magid.doctor.facts import (
    AS_ROOT,
    Facts,
    Finding,
    FindingSeverity,
    Listener,
    NotCollected,
    configured,
    known,
)
from magid.systemd.unit_names import unit_name

SOCKET: Final = "magid.socket"
_EVERY: Final = ("0.0.0.0", "::")


def ports(facts: Facts) -> Iterator[Finding]:
    """No other program listens on a port of a server, or in magid's place."""
    if taken := taker(facts):
        where, one = taken
        yield Finding(
            "api-port-taken",
            f"port {one.port} is taken by {_who(one)}, so {SOCKET} cannot listen on {where}",
            "magid answers on its unix socket alone",
            do=f"end it, or let magid listen elsewhere (`systemctl edit {SOCKET}`):",
            run=(*_ended(one), *restarted()) if one.pid else (AS_ROOT,),
        )
    low, high = configured(facts).port_range
    daemon = facts.daemon
    wanted = set() if isinstance(daemon, NotCollected) else {model.port for model in daemon.models}
    seen: set[tuple[int, int]] = set()
    for one in known(facts.listeners):
        if not low <= one.port <= high or (one.port, one.pid) in seen or _is_server(facts, one):
            continue
        seen.add((one.port, one.pid))
        yield Finding(
            "server-port-taken",
            f"port {one.port} is taken by {_who(one)}",
            f"it is in port_range [{low}, {high}]"
            + (f", and {unit_name(one.port)} needs it" if one.port in wanted else ""),
            FindingSeverity.ERROR if one.port in wanted else FindingSeverity.WARNING,
            do="end it, or choose another port_range in /etc/magi/magid.yaml:",
            run=_ended(one),
        )


def taker(facts: Facts) -> tuple[str, Listener] | None:
    """Returns an address that magid.socket cannot listen on, and who does; None if it can."""
    if isinstance(facts.units, NotCollected) or isinstance(facts.listeners, NotCollected):
        return None
    unit = facts.units.get(SOCKET)
    if unit is None or not unit.has_failed:
        return None
    for address in unit.shown.get("Listen", "").split():
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        for one in facts.listeners:
            same = one.host == host or one.host in _EVERY or host in _EVERY
            if port == str(one.port) and same and one.unit != "init.scope":
                return address, one
    return None


def _is_server(facts: Facts, one: Listener) -> bool:
    """Whether it is a server's own; without root, whether a server's unit runs on its port."""
    units = facts.units
    if one.pid:
        return one.unit == unit_name(one.port) or not facts.service
    unit = None if isinstance(units, NotCollected) else units.get(unit_name(one.port))
    return unit is not None and unit.active in ("active", "activating", "reloading")


def _who(one: Listener) -> str:
    if not one.pid:
        return "a program that only root can name"
    return f"{one.program} (pid {one.pid}{f', {one.unit}' if one.unit else ''})"


def _ended(one: Listener) -> tuple[str, ...]:
    if not one.pid:
        return (AS_ROOT,)
    if one.unit.endswith(".service"):
        return (f"systemctl stop {shlex.quote(one.unit)}",)
    return (f"kill {one.pid}",)
