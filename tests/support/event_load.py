"""What makes events on a daemon: decisions, requests, restarts and scans, as users make them.

Each kind comes from threads of its own at its own pace; what comes of it is counted where every
client gets it, on `/api/events`. So a rate is what a page was sent, and not what was asked for.
"""

import itertools
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

import httpx

from tests.support import ggufs
from tests.support.deadlines import DEADLINE_S
from tests.support.running import Running

SCANNED = 5  # model files that a scan finds new, or gone
DECISIONS = (
    ("tier", "tier", ("fast", "powerful", "balanced")),
    ("thinking", "thinking", (True, False)),
    ("tier", "tier", (None,)),
    ("thinking", "thinking", (None,)),
)


@dataclass(frozen=True, slots=True)
class Pace:
    """How much of each kind a second is tried; 0: none."""

    decisions: float = 6.0
    requests: float = 12.0
    restarts: float = 2.0  # of each model that is restarted
    scans: float = 0.1


class EventLoad:
    """Under way inside of the block.

    `decided` gets decisions, `restarted` is restarted, and `asked` answers requests. `failures` are
    answers that were none of those expected.
    """

    def __init__(
        self,
        magid: Running,
        *,
        decided: Sequence[str],
        restarted: Sequence[str],
        asked: str,
        pace: Pace,
        seed: int = 1,
    ) -> None:
        self.counts: Counter[str] = Counter()  # of events by their kind
        self.failures: list[str] = []
        self._magid = magid
        self._stop = threading.Event()
        self._ready = {model: threading.Event() for model in restarted}
        dice = random.Random(seed)
        kinds: list[tuple[float, Callable[[httpx.Client], None]]] = [
            (pace.decisions, self._decide(decided, dice)),
            (pace.requests, self._ask(asked)),
            (pace.scans, self._scan()),
        ]
        kinds += [(pace.restarts, self._restart(model)) for model in restarted]
        self._threads = [
            threading.Thread(target=self._repeat, args=(rate, act)) for rate, act in kinds if rate
        ]
        self._watched = socket.create_connection(("127.0.0.1", magid.port))
        self._threads.append(threading.Thread(target=self._watch))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        with suppress(OSError):
            self._watched.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._watched.close()

    # -- acting ----------------------------------------------------------------------------------

    def _repeat(self, rate: float, act: Callable[[httpx.Client], None]) -> None:
        """At this rate, or as often as it can be done."""
        due = time.monotonic()
        once = httpx.Limits(max_keepalive_connections=0)  # a kept one may end just when it is used
        with httpx.Client(
            base_url=self._magid.url, timeout=DEADLINE_S, trust_env=False, limits=once
        ) as client:
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                due = max(due + 1 / rate, time.monotonic())
                act(client)

    def _expect(self, answer: httpx.Response, *others: int) -> None:
        if not answer.is_success and answer.status_code not in others:
            self.failures.append(f"{answer.request.url.path}: {answer.status_code} {answer.text}")

    def _decide(self, models: Sequence[str], dice: random.Random) -> Callable[..., None]:
        """Each makes a value other than the last one of its model and kind."""
        turn = itertools.count()

        def decide(client: httpx.Client) -> None:
            number = next(turn)
            what, name, values = DECISIONS[number % len(DECISIONS)]
            value = values[number // len(DECISIONS) % len(values)]
            path = f"/api/models/{dice.choice(models)}/{what}"
            self._expect(client.put(path, json={name: value}))

        return decide

    def _ask(self, model: str) -> Callable[[httpx.Client], None]:
        body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}

        def ask(client: httpx.Client) -> None:
            self._expect(client.post("/v1/chat/completions", json=body))

        return ask

    def _restart(self, model: str) -> Callable[[httpx.Client], None]:
        ready = self._ready[model]

        def restart(client: httpx.Client) -> None:
            ready.clear()
            self._expect(client.post(f"/api/models/servers/{model}/restart"), 409)
            deadline = time.monotonic() + DEADLINE_S
            while not ready.wait(1.0) and not self._stop.is_set():
                if time.monotonic() > deadline:
                    self.failures.append(f"{model}: not ready again")
                    return

        return restart

    def _scan(self) -> Callable[[httpx.Client], None]:
        """Finds some models that were not there, and the next time that they are gone."""
        paths = [self._magid.models / f"Scanned-{n}-4B-Q4_K_M.gguf" for n in range(SCANNED)]

        def scan(client: httpx.Client) -> None:
            for path in paths:
                if path.exists():
                    path.unlink()
                else:
                    ggufs.write_sparse_model(path, parameters_billions=4.0)
            self._expect(client.post("/api/models/rescan"))

        return scan

    # -- watching --------------------------------------------------------------------------------

    def _watch(self) -> None:
        self._watched.sendall(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        kind = ""
        with self._watched.makefile("rb") as lines:
            for line in lines:
                if line.startswith(b"event: "):
                    kind = line[7:].strip().decode()
                    self.counts[kind] += 1
                elif kind == "server" and line.startswith(b"data: "):
                    self._note(json.loads(line[6:])["server"])

    def _note(self, server: dict[str, object]) -> None:
        ready = self._ready.get(str(server["modelId"]))
        if ready is not None and server["state"] == "ready":
            ready.set()
