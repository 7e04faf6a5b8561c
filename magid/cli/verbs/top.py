"""top: what runs, live."""

import argparse
import os
import queue
import sys
import threading
import time
from typing import Any

from magid.cli.client import MODELS, TIMED_OUT, Client, Refused
from magid.cli.interaction import seconds
from magid.cli.output import lines_of, print_json, size, span
from magid.cli.parser import Verbs
from magid.cli.verbs.events import changes

LEAST_S = 0.2  # between two redraws, however many changes come
HEAD = ("MODEL", "PORT", "STATE", "CPU%", "MEMORY", "REQUESTS", "TOKENS/S", "UPTIME")


def add(verbs: Verbs) -> None:
    sub = verbs.add(
        "top", top, "servers and their load, live on a terminal; Ctrl-C ends",
        examples=("magictl top", "magictl top --once", "magictl top --every 5"),
        json="status and requests of the API, once",
    )  # fmt: skip
    sub.add_argument("--once", action="store_true", help="print it once, as off a terminal")
    sub.add_argument("--every", type=seconds, default=2.0, metavar="TIME",
                     help="look again after so long without a change (2)")  # fmt: skip


def top(client: Client, args: argparse.Namespace) -> int:
    now = _look(client)
    if args.json:
        print_json({"status": now["status"], "requests": now["requests"]})
    elif args.once or not sys.stdout.isatty():
        print("\n".join(screen(now, None)))
    else:
        _live(client, max(args.every, LEAST_S), now)
    return 0


def _look(client: Client) -> dict[str, Any]:
    return {
        "at": time.monotonic(),
        "status": client.call("GET", f"{MODELS}/status"),
        "requests": client.call("GET", "/api/requests?limit=200"),
    }


def _live(client: Client, every_s: float, now: dict[str, Any]) -> None:
    """Redraws at once after a change, else every `every_s` seconds, because figures always move."""
    updates: queue.SimpleQueue[Refused | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(client, updates), daemon=True).start()
    before: dict[str, Any] | None = None
    sys.stdout.write("\x1b[?1049h\x1b[?25l")  # the other screen, no cursor
    try:
        while True:
            _paint(screen(now, before))
            time.sleep(LEAST_S)
            try:
                error = updates.get(timeout=every_s - LEAST_S)
                while error is None and not updates.empty():
                    error = updates.get()
            except queue.Empty:
                error = None
            if error is not None:
                raise error
            try:
                before, now = now, _look(client)
            except Refused as away:  # the listener says when that is for good
                if away.status == TIMED_OUT:
                    raise
                _paint(str(away).split("\n"))
    except KeyboardInterrupt:
        return
    finally:
        sys.stdout.write("\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()


def _listen(client: Client, updates: "queue.SimpleQueue[Refused | None]") -> None:
    try:
        for _ in changes(client):
            updates.put(None)
    except Refused as error:
        updates.put(error)


def _paint(lines: list[str]) -> None:
    """Draws over the old lines: clearing the screen first would flicker."""
    height = os.get_terminal_size(sys.stdout.fileno()).lines
    text = "".join(f"{line}\x1b[K\r\n" for line in lines[: height - 1])
    sys.stdout.write(f"\x1b[H{text}\x1b[J")
    sys.stdout.flush()


# -- what is on it ---------------------------------------------------------------------------


def screen(now: dict[str, Any], before: dict[str, Any] | None) -> list[str]:
    """Returns the lines. Shares of a processor need two samples. Pure."""
    status, requests = now["status"], now["requests"]
    memory = status["memory"]
    running = {m: n for m, n in _running(requests).items() if n}
    lines = [
        f"magid: {status['phase']}, profile {status['activeProfile'] or '-'}, "
        f"up {span(status['uptimeSeconds'])}",
        f"memory: {size(memory['availableBytes'])} of {size(memory['totalBytes'])} available; "
        f"requests: {requests['running']} running, {requests['waiting']} waiting",
        "",
    ]
    rows = [
        (s["modelId"], s["port"], s["state"], _share(s, now, before), size(s["memoryBytes"]),
         running.get(s["modelId"], 0), _speed(requests, s["modelId"]),
         span(s["uptimeSeconds"]) if s["isRunning"] else None)
        for s in status["servers"]
    ]  # fmt: skip
    return lines + lines_of(HEAD, rows)


def _running(requests: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for request in requests["requests"]:
        if request["durationSeconds"] is None and request["modelId"]:
            counts[request["modelId"]] = counts.get(request["modelId"], 0) + 1
    return counts


def _speed(requests: Any, model: str) -> str | None:
    """Returns the tokens per second of the last answer."""
    for request in requests["requests"]:
        if request["modelId"] == model and request["tokensPerSecond"]:
            return f"{request['tokensPerSecond']:.1f}"
    return None


def _share(server: Any, now: dict[str, Any], before: dict[str, Any] | None) -> str | None:
    for old in before["status"]["servers"] if before else ():
        is_same = (old["port"], old["pid"]) == (server["port"], server["pid"])
        if is_same and old["cpuSeconds"] is not None and server["cpuSeconds"] is not None:
            spent = server["cpuSeconds"] - old["cpuSeconds"]
            return f"{100 * spent / (now['at'] - before['at']):.0f}" if before else None
    return None
