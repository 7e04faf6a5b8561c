"""The second address, where clients of Ollama look: one command turns it on."""

import threading
from collections.abc import Iterator

import httpx
import pytest

from tests.lab import serving
from tests.lab.container import Container, booted
from tests.lab.serving import Daemon
from tests.lab.trees import RELEASES, Release, Tree
from tests.support import ggufs

pytestmark = pytest.mark.slow

OLLAMA = "http://127.0.0.1:11434"
PAUSE_S = 0.01  # between requests, of which a hundred a second are enough to notice a gap


@pytest.fixture(scope="module", params=[RELEASES[0], RELEASES[-1]], ids=str)
def daemon(
    request: pytest.FixtureRequest,
    all_trees: dict[Release, Tree],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Daemon]:
    model = ggufs.write_chat_model(
        tmp_path_factory.mktemp("ollama-lab") / "Demo-F16.gguf", quantization="F16"
    )
    with booted(all_trees[request.param]) as container:
        made = serving.installed_in(container, model)
        made.wait_ready()
        yield made
        made.client.close()


class Asking:
    """Asks magid's first address again and again, on a new connection each time."""

    def __init__(self, container: Container) -> None:
        self.failures: list[str] = []
        self.answers = 0
        self._container = container
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        while not self._is_over.wait(PAUSE_S):
            try:
                with self._container.client("http://127.0.0.1:8000") as client:
                    client.get("/livez").raise_for_status()
                self.answers += 1
            except httpx.HTTPError as error:
                self.failures.append(repr(error))

    def __enter__(self) -> "Asking":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._thread.join()


def answers(container: Container) -> bool:
    try:
        with container.client(OLLAMA) as client:
            return client.get("/").text == "Ollama is running"
    except httpx.ConnectError:
        return False


def test_one_command_turns_it_on_and_refuses_no_client(daemon: Daemon) -> None:
    container, before = daemon.container, daemon.pids()
    assert not answers(container)
    with Asking(container) as asking:
        container.systemctl("enable", "--now", "magid-ollama.socket")
        container.wait_until(lambda: answers(container), "an answer at Ollama's port")
    assert asking.failures == []
    assert asking.answers
    daemon.wait_ready()
    assert daemon.pids() == before
    with container.client(OLLAMA) as client:
        listed = {entry["name"] for entry in client.get("/api/tags").json()["models"]}
        assert {f"{model_id}:latest" for model_id in before} <= listed
        body = {
            "model": "auto",
            "messages": [{"role": "user", "content": "Hello"}],
            "stream": False,
        }
        assert client.post("/api/chat", json=body).json()["done"] is True
        assert client.get("/api/tags", headers={"Host": "evil.example"}).status_code == 421


def test_a_restart_and_a_boot_keep_it(daemon: Daemon) -> None:
    container = daemon.container
    container.systemctl("restart", "magid.service")
    assert answers(container)
    daemon.client.close()
    container.reboot()
    container.wait_until(lambda: answers(container), "an answer after the boot")
    said = container.journal("init.scope")
    assert not [entry for entry in said if "ordering cycle" in str(entry.get("MESSAGE"))]
    daemon.client = container.client("http://127.0.0.1:8000")
    daemon.wait_ready()


def test_it_is_turned_off(daemon: Daemon) -> None:
    container = daemon.container
    container.systemctl("disable", "--now", "magid-ollama.socket")
    container.systemctl("restart", "magid.service")
    daemon.wait_ready()
    assert not answers(container)
