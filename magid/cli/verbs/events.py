"""Follows a stream of the daemon's across its restarts. And `events`, which prints changes."""

import argparse
import time
from collections.abc import Iterator
from typing import Any

from magid.cli import hints
from magid.cli.client import TIMED_OUT, Client, Refused
from magid.cli.output import DIM, json_line, paint, plain, size
from magid.cli.parser import Verbs
from magid.wording.counts import counted

AWAY_S = 60.0  # how long a daemon may be away
PAUSE_S = 0.2


def add(verbs: Verbs) -> None:
    verbs.add(
        "events", events, "every change as it comes, until Ctrl-C",
        examples=("magictl events", "magictl events --json | jq 'select(.event == \"server\")'"),
        json="JSON lines: event, and data as the API has it",
    )  # fmt: skip


def changes(client: Client) -> Iterator[tuple[str, Any]]:
    """Kind and data; a `snapshot` of everything comes first, and again when the daemon is back.

    Raises as `followed` does.
    """
    return followed(client, "/api/events")


def followed(client: Client, path: str) -> Iterator[tuple[str, Any]]:
    """The events of a stream, which is taken up behind the last one when it ends.

    Raises Refused if it cannot be had at the start, or not for AWAY_S: then with what was said
    last, as it need not be the daemon's absence.
    """
    after, is_known, lost_at, why = "", False, 0.0, None
    while True:
        try:
            for kind, data, key in client.stream(path, after=after):
                after, is_known, lost_at, why = key, True, 0.0, None
                if kind == "resync":
                    break  # the daemon stops, or magictl read too slowly
                yield kind, data
            is_known = True  # it has ended in good order, with or without events
        except Refused as error:
            if not is_known or error.status == TIMED_OUT:
                raise
            why = error
        lost_at = lost_at or time.monotonic()
        if time.monotonic() - lost_at > AWAY_S:
            raise why or Refused(
                f"cannot follow magid any longer: nothing came for {AWAY_S:g} s\n"
                "try: systemctl status magid"
            )
        time.sleep(PAUSE_S)


def events(client: Client, args: argparse.Namespace) -> int:
    for kind, data in changes(client):
        if args.json:
            json_line({"event": kind, "data": data})
        elif text := _told(kind, data):
            moment = paint(time.strftime("%H:%M:%S"), DIM)
            print(f"{moment}  {plain(text)}", flush=True)
    return 0


def _told(kind: str, data: Any) -> str:
    """Returns one line for a person; empty for an event that would only distract."""
    match kind:
        case "snapshot":
            servers = data["servers"]
            models = counted(len(data["registry"]["models"]), "model")
            return (
                f"{models}, {servers['readyServers']} of "
                f"{counted(servers['totalServers'], 'server')} ready; {_overall(data)}"
            )
        case "server":
            server = data["server"]
            return f"{server['unit']} ({server['modelId']}) {_state(server)}"
        case "registry":
            gone = "".join(f", {name} removed" for name in data["removed"])
            changed = ", ".join([*data["models"], *data.get("registry", {})])
            return f"registry: {changed or 'nothing'} changed{gone}"
        case "serverRemoved":
            return f"{data['unit']} ({data['modelId']}) was removed"
        case "profiles":
            removed = "".join(f", {name} removed" for name in data["removed"])
            return f"profiles: {', '.join(data['changed']) or 'nothing'} changed{removed}"
        case "download":
            download = data["download"]
            why = f": {download['reason']}" if download["reason"] else ""
            return f"download of {download['source']} is {download['state']}{why}"
        case "downloadRemoved":
            return f"download {data['id']} was removed"
        case "gpus" if data["gpus"]:
            free = (f"{gpu['name']} {size(gpu['freeBytes'])} free" for gpu in data["gpus"])
            return f"GPUs: {', '.join(free)}"
        case "figures" | "requests":
            return ""  # every few seconds: `magictl top` shows them
        case "status":
            return f"magid: {_overall(data)}"
        case _:
            return ""  # of a newer magid


def _state(server: Any) -> str:
    """What magid's log says too: "is ready", "crashed (SIGKILL); restarting in 15 s"."""
    state, reason = server["state"], server["stateReason"]
    if state == "backoff" and reason:
        return str(reason)
    said = {"failed": "has failed", "backoff": "is being restarted"}.get(state, f"is {state}")
    return f"{said}: {reason}" if reason else said


def _overall(data: Any) -> str:
    ready = (
        "ready" if data["ready"] else f"not ready ({hints.translated('; '.join(data['reasons']))})"
    )
    pending = [f"{count} to {what}" for what, count in data["pendingChanges"].items() if count]
    return ", ".join([data["phase"], ready, f"profile {data['activeProfile'] or '-'}", *pending])
