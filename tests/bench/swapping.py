"""Measures swaps between two models, or starts of many: reads a JSON file, prints seconds as JSON.

Runs where the servers run, in a container too, so it uses the standard library alone. A swap is
from the request for B, while A is ready and idle in its place, to the first byte of B's answer;
then the other way round. A start of many is until all are ready, by hand one after another. The
ways take turns, so that they share the machine's moods.
"""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

LOOK_S = 0.002  # by hand: between two looks at /health
PATIENCE_S = 120.0
AFTER_STOPS_S = 3.0  # what the last ones left behind ends: magid lists the GPUs once more


class ByHand:
    """Stops the running server, starts the other one and polls /health, then asks it."""

    def __init__(self, servers: list[dict[str, Any]]) -> None:
        self._servers = servers
        self._processes: list[subprocess.Popen[bytes]] = []

    def swap_to(self, number: int) -> None:
        server = self._servers[number]
        self.end()
        self._start(server)
        ask(server["port"], server["key"], server["model"])

    def start_all(self) -> None:
        for server in self._servers:
            self._start(server)

    def _start(self, server: dict[str, Any]) -> None:
        process = subprocess.Popen(
            server["argv"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._processes.append(process)
        deadline = time.monotonic() + PATIENCE_S
        while not is_ready(server["port"]):
            if time.monotonic() > deadline or process.poll() is not None:
                raise SystemExit(f"cannot start {server['argv']}")
            time.sleep(LOOK_S)

    def end(self) -> None:
        while self._processes:
            process = self._processes.pop()
            process.send_signal(signal.SIGTERM)
            process.wait()


class ByDevice:
    """Starts the servers of each device by hand one after another, those of all devices at once."""

    def __init__(self, devices: list[list[dict[str, Any]]]) -> None:
        self._devices = [ByHand(servers) for servers in devices]

    def start_all(self) -> None:
        """Returns when the slowest device has all of its servers."""
        with ThreadPoolExecutor(len(self._devices)) as threads:
            list(threads.map(ByHand.start_all, self._devices))

    def end(self) -> None:
        for device in self._devices:
            device.end()


class Through:
    """Asks a gateway that stops and starts servers itself."""

    def __init__(self, port: int, models: list[str]) -> None:
        self._port, self._models = port, models

    def swap_to(self, number: int) -> None:
        ask(self._port, "any", self._models[number])

    def start_all(self) -> None:
        self._all("start", "ready")

    def end(self) -> None:
        self._all("stop", "stopped")

    def _all(self, verb: str, state: str) -> None:
        """Returns when that is the state of all servers that magid knows.

        By its events: to ask again and again would take the processor from the loads.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S)
        deadline = time.monotonic() + PATIENCE_S
        try:
            connection.request("GET", "/api/events")
            events = events_in(connection.getresponse())
            states = {one["port"]: one["state"] for one in next(events)["servers"]["servers"]}
            call(self._port, "POST", f"/api/models/servers/{verb}-all")
            while set(states.values()) != {state}:
                changed = next(events).get("server")
                if changed is not None:
                    states[changed["port"]] = changed["state"]
                if time.monotonic() > deadline:
                    raise SystemExit(f"not all servers are {state}: {states}")
        finally:
            connection.close()


def events_in(answer: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """Yields the data of each event, and of each comment nothing: {}."""
    while line := answer.readline():
        if line.startswith(b"data: "):
            yield json.loads(line[6:])
        elif line.startswith(b":"):
            yield {}


def is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def call(port: int, method: str, path: str) -> Any:
    """The answer of magid's API."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise SystemExit(f"{method} {path}: {answer.status} {text[:300]!r}")
        return json.loads(text)
    finally:
        connection.close()


def ask(port: int, key: str, model: str) -> None:
    """Returns with the first byte of the answer to a request for one token."""
    body = json.dumps({"model": model, "prompt": "a", "max_tokens": 1, "stream": True})
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request("POST", "/v1/completions", body, headers)
        answer = connection.getresponse()
        if answer.status != 200 or not answer.read(1):
            raise SystemExit(f"cannot use port {port}: {answer.status} {answer.read()[:300]!r}")
    finally:
        connection.close()


def forget_pages(paths: list[str]) -> None:
    """Drops the files from the page cache; those that a process has mapped stay."""
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)


def made_of(ways: dict[str, Any]) -> dict[str, ByHand | Through]:
    return {
        name: ByHand(way["servers"]) if "servers" in way else Through(way["port"], way["models"])
        for name, way in ways.items()
    }


def measure_starts(ways: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    made: dict[str, ByHand | ByDevice | Through] = {
        name: ByDevice(way["devices"]) for name, way in ways.items() if "devices" in way
    }
    made |= made_of({name: way for name, way in ways.items() if name not in made})
    took: dict[str, list[float]] = {name: [] for name in ways}
    for way in made.values():
        way.end()
    for number in range(rounds):
        for name in list(ways) if number % 2 else reversed(ways):
            time.sleep(AFTER_STOPS_S)
            began = time.perf_counter()
            made[name].start_all()
            took[name].append(time.perf_counter() - began)
            made[name].end()
    return took


def measure(ways: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    made = made_of(ways)
    for way in made.values():
        way.swap_to(0)
    took: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(1, rounds + 1):
        for name in list(ways) if number % 2 else reversed(ways):
            forget_pages(ways[name].get("cold", [])[number % 2 : number % 2 + 1])
            time.sleep(0.2)  # what the last swap left behind ends
            began = time.perf_counter()
            made[name].swap_to(number % 2)
            took[name].append(time.perf_counter() - began)
    for way in made.values():
        if isinstance(way, ByHand):
            way.end()
    return took


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text())
    run = measure_starts if asked.get("starts") else measure
    print(json.dumps(run(asked["ways"], asked["rounds"])))
