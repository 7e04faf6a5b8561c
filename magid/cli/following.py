"""Follows the daemon's changes, across its restarts. And `events`, which prints them."""

import argparse
import time
from collections.abc import Iterator
from typing import Any

from magid.cli.deadline import TIMED_OUT
from magid.cli.output import DIM, json_line, paint, plain
from magid.cli.verbs import Verbs
from magid.client import Client, Refused

AWAY_S = 60.0  # for how long a daemon that went away may take to come back
PAUSE_S = 0.2


def add(verbs: Verbs) -> None:
    verbs.add(
        "events", events, "every change as it comes, until Ctrl-C",
        examples=("magictl events", "magictl events --json | jq 'select(.event == \"server\")'"),
        json="JSON lines: event, and data as the API has it",
    )  # fmt: skip


def changes(client: Client) -> Iterator[tuple[str, Any]]:
    """Kind and data; a `snapshot` of everything comes first, and again when the daemon is back.

    Raises Refused if it cannot be reached at the start, or stays away.
    """
    is_known, lost_at = False, 0.0
    while True:
        try:
            for kind, data, _ in client.stream("/api/events"):
                is_known, lost_at = True, 0.0
                if kind == "resync":
                    break  # it ends or we were too slow: from the start
                yield kind, data
        except Refused as error:
            if not is_known or error.status == TIMED_OUT:
                raise
        lost_at = lost_at or time.monotonic()
        if time.monotonic() - lost_at > AWAY_S:
            raise Refused(
                f"cannot follow magid any longer: it went away {AWAY_S:g} s ago\n"
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
    """One line for a person; empty for what would only be in the way."""
    match kind:
        case "snapshot":
            servers = data["servers"]
            return (
                f"{len(data['registry']['models'])} models, {servers['readyServers']} of "
                f"{servers['totalServers']} servers ready; {_overall(data)}"
            )
        case "server":
            server = data["server"]
            reason = f": {server['stateReason']}" if server["stateReason"] else ""
            return f"{server['unit']} ({server['modelId']}) is {server['state']}{reason}"
        case "registry":
            gone = "".join(f", {name} removed" for name in data["removed"])
            changed = ", ".join([*data["models"], *data.get("registry", {})])
            return f"registry: {changed or 'nothing'} changed{gone}"
        case "serverRemoved":
            return f"{data['unit']} ({data['modelId']}) is no more"
        case "profiles":
            removed = "".join(f", {name} removed" for name in data["removed"])
            return f"profiles: {', '.join(data['changed']) or 'nothing'} changed{removed}"
        case "figures" | "requests":
            return ""  # every few seconds: `magictl top` shows them
        case _:
            return f"magid: {_overall(data)}"


def _overall(data: Any) -> str:
    ready = "ready" if data["ready"] else f"not ready ({'; '.join(data['reasons'])})"
    return f"{data['phase']}, {ready}, profile {data['activeProfile'] or '-'}"
