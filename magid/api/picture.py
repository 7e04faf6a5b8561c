"""What a WebUI shows, as one value, and what has changed from one look to the next. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from magid.api.schemas import models

# They change all the time: they are told by themselves, and not with the server's whole row.
FIGURES = ("memoryBytes", "cpuSeconds", "uptimeSeconds")
_MEMORY_STEP = 0.01  # of the machine's memory: less is no news


@dataclass(slots=True)
class Picture:
    """All that `GET` shows of servers, status, profiles and requests."""

    servers: dict[int, models.Server]  # by port
    status: dict[str, Any]
    profiles: dict[str, str]  # name -> revision
    requests: dict[str, int]
    memory: models.Memory


def changes(before: Picture, now: Picture) -> Iterator[tuple[str, dict[str, Any]]]:
    """Kind and payload of each event that leads from one to the other."""
    for port in before.servers.keys() - now.servers.keys():
        gone = before.servers[port]
        yield "serverRemoved", {"port": port, "unit": gone["unit"], "modelId": gone["modelId"]}
    for port, server in now.servers.items():
        old = before.servers.get(port)
        if old is None or lasting(old) != lasting(server):
            yield "server", {"server": server}
    if before.status != now.status:
        yield "status", now.status
    if before.profiles != now.profiles:
        yield "profiles", {"profiles": sorted(now.profiles), **_profile_changes(before, now)}
    if before.requests != now.requests:
        yield "requests", {"requests": now.requests}
    if _figures_differ(before, now):
        yield "figures", {"servers": [figures(s) for s in now.servers.values()],
                          "memory": now.memory}  # fmt: skip


def lasting(server: Mapping[str, Any]) -> dict[str, Any]:
    """A server's row without what changes all the time."""
    return {name: value for name, value in server.items() if name not in FIGURES}


def figures(server: Mapping[str, Any]) -> dict[str, Any]:
    """What changes all the time, and whose it is."""
    return {name: server[name] for name in ("port", "modelId", *FIGURES)}


def _profile_changes(before: Picture, now: Picture) -> dict[str, list[str]]:
    changed = (name for name, text in now.profiles.items() if before.profiles.get(name) != text)
    return {
        "changed": sorted(changed),
        "removed": sorted(before.profiles.keys() - now.profiles.keys()),
    }


def _figures_differ(before: Picture, now: Picture) -> bool:
    """Time that only passes is no news: who shows it can count by itself."""
    for port, server in now.servers.items():
        old = before.servers.get(port)
        if old is not None and any(
            old[name] != server[name] for name in ("memoryBytes", "cpuSeconds")
        ):
            return True
    free, old_free = now.memory["availableBytes"] or 0, before.memory["availableBytes"] or 0
    return abs(free - old_free) > _MEMORY_STEP * (now.memory["totalBytes"] or 0)
