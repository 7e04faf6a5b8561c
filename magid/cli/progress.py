"""One line on a terminal while a server loads, fed by the daemon's events."""

import os
import sys
import threading
import time
from types import TracebackType
from typing import Any

from magid.cli.client import Client, Refused
from magid.cli.output import plain

WIDTH = 24
TICK_S = 0.1
STEPS = {"stopped": 0.0, "backoff": 0.05, "starting": 0.15, "loading": 0.3, "ready": 1.0}
HALF_S = 20.0  # the bar of a load goes half of the rest in this time: nobody knows its end


class Progress:
    """Shows the model's state as long as the block runs; nothing where stderr is no terminal."""

    def __init__(self, client: Client, model: str, *, wanted: bool = True) -> None:
        self._client = client
        self._model = model
        self._servers: dict[int, Any] = {}
        self._done = threading.Event()
        is_shown = wanted and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._threads = [
            threading.Thread(target=target, daemon=True)
            for target in (self._listen, self._paint)
            if is_shown
        ]

    def __enter__(self) -> "Progress":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        for thread in self._threads[1:]:  # the listener may wait for the network: it is a daemon
            thread.join()

    def _listen(self) -> None:
        try:
            for kind, data, _ in self._client.stream("/api/events"):
                if self._done.is_set():
                    return
                servers = data["servers"]["servers"] if kind == "snapshot" else []
                for server in [data["server"]] if kind == "server" else servers:
                    if server["modelId"] == self._model:
                        self._servers[server["port"]] = server
        except Refused:
            return  # who waits for the answer itself hears of it

    def _paint(self) -> None:
        began, erase = time.monotonic(), ""
        while not self._done.wait(TICK_S):
            erase = "\r\x1b[K"
            line = bar(self._model, list(self._servers.values()), time.monotonic() - began)
            sys.stderr.write(f"{erase}{line}")
            sys.stderr.flush()
        sys.stderr.write(erase)
        sys.stderr.flush()


def bar(model: str, servers: list[Any], seconds: float) -> str:
    """The line to show after so many seconds. Pure."""
    if not servers:
        return f"{plain(model)}: asked for, {seconds:.0f} s"
    share = sum(_share(server["state"], seconds) for server in servers) / len(servers)
    filled = int(share * WIDTH)
    slowest = min(servers, key=lambda server: STEPS.get(server["state"], 0.0))
    reason = f", {slowest['stateReason']}" if slowest["stateReason"] else ""
    drawn = "#" * filled + "." * (WIDTH - filled)
    return f"[{drawn}] {plain(model)}: {slowest['state']}{plain(reason)}, {seconds:.0f} s"


def _share(state: str, seconds: float) -> float:
    done = STEPS.get(state, 0.0)
    if state != "loading":
        return done
    rest: float = 0.5 ** (seconds / HALF_S)
    return done + (0.95 - done) * (1 - rest)
