"""The port of a server that has ended is taken by another user's program: it hears nothing."""

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from magid.units import unit_name
from tests.lab.container import ENVIRONMENT, Container
from tests.lab.serving import MODELS, Daemon, installed_in
from tests.lab.trees import RELEASES, Release

pytestmark = pytest.mark.slow

ONE = next(iter(MODELS))
PORT = MODELS[ONE]
UNIT = unit_name(PORT)
THIEF = (Path(__file__).parent / "inside/thief.py").read_text()
CANARY = "the-prompt-that-nobody-else-may-read"
HELD_S = 3.0  # in which systemd tries again several times
USER = "nobody"


@pytest.fixture(scope="session")
def release() -> Release:
    """One is enough: whose a socket is, is the kernel's word."""
    return RELEASES[0]


@pytest.fixture(scope="module")
def daemon(container: Container, chat_model: Path) -> Iterator[Daemon]:
    one = installed_in(container, chat_model)
    one.wait_ready()
    yield one
    one.client.close()


class Thief:
    """Waits for the port from `thief` on; `heard` is there after it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.heard = ""

    def wait_bound(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "bound\n"

    def end(self) -> None:
        told, _ = self._process.communicate(timeout=20)
        self.heard = json.loads(told)["heard"]


@contextmanager
def thief(container: Container) -> Iterator[Thief]:
    command = container.command(["python3", "-I", "-c", THIEF, str(PORT), ONE], USER)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT, text=True
    ) as process:
        try:
            one = Thief(process)
            yield one
            one.end()
        finally:
            process.kill()


def ask(daemon: Daemon, over: threading.Event, statuses: list[int]) -> None:
    """Prompts for this model without a pause."""
    body = {"model": ONE, "prompt": CANARY, "max_tokens": 1}
    with daemon.container.client("http://127.0.0.1:8000") as client:
        while not over.is_set():
            try:
                statuses.append(client.post("/v1/completions", json=body).status_code)
            except httpx.TransportError:
                statuses.append(0)


@contextmanager
def asking(daemon: Daemon) -> Iterator[list[int]]:
    over, statuses = threading.Event(), list[int]()
    asker = threading.Thread(target=ask, args=(daemon, over, statuses))
    asker.start()
    try:
        yield statuses
    finally:
        over.set()
        asker.join(60)


def test_a_thief_of_the_port_hears_nothing(daemon: Daemon) -> None:
    """Neither prompt nor key, from the crash on and through all attempts to start again."""
    container = daemon.container
    key = container.read(f"/run/magi-keys/{PORT}.key").decode().strip()
    with asking(daemon) as statuses:
        container.wait_until(lambda: 200 in statuses, "an answer")
        with thief(container) as stranger:
            # magid wakes up with requests to pass on, and does not know yet.
            container.systemctl("kill", "--signal=STOP", "magid")
            try:
                container.systemctl("kill", "--signal=KILL", UNIT)
                stranger.wait_bound()
            finally:
                container.systemctl("kill", "--signal=CONT", "magid")
            end = time.monotonic() + HELD_S
            shown = {daemon.state(ONE) for _ in iter(lambda: time.monotonic() < end, False)}
        asked = len(statuses)
    print(container.release.name, asked, "requests; it was shown", shown)  # noqa: T201 - a figure
    new_key = container.read(f"/run/magi-keys/{PORT}.key").decode().strip()
    assert CANARY not in stranger.heard
    assert key not in stranger.heard
    assert new_key not in stranger.heard
    assert "failed" in shown or "backoff" in shown, shown
    container.systemctl("reset-failed", UNIT, check=False)
    container.systemctl("start", UNIT)
    daemon.wait_state("ready", ONE)
    body = {"model": ONE, "prompt": CANARY, "max_tokens": 1}
    assert daemon.client.post("/v1/completions", json=body).status_code == 200
