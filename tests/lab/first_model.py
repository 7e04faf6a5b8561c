"""The README's way to a first model: two commands, from a hub on the machine itself."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.lab import person
from tests.lab.container import Container
from tests.lab.trees import ROOT
from tests.support import transcript
from tests.support.hub import HubRepository, ModelHub

SETTINGS = "/etc/magi/magid.yaml"
HOST = "127.0.0.7"  # the hub's own address: a download reaches no other of 127.0.0.0/8
REPOSITORY, FILE = "bartowski/Qwen3-4B-GGUF", "Qwen3-4B-Q4_K_M.gguf"
AFTERWARDS = (
    ["magictl", "rm", "qwen3", "--stop", "--forget", "--yes"],
    ["rm", "-r", "/var/lib/magi/models/.downloads"],
)


def pull_and_run(container: Container, wait_serving: Callable[[], None], model: Path) -> None:
    """What the README shows comes again; afterwards the machine is as it was."""
    repository = HubRepository({FILE: model.read_bytes()})
    hub = container.network.call(lambda: ModelHub({REPOSITORY: repository}, host=HOST))
    settings = container.read(SETTINGS)
    endpoint = f"downloads: {{endpoint: '{hub.url}', reserve: 0}}\n"
    try:
        _restarted(container, settings + endpoint.encode(), wait_serving)
        type_in = partial(person.typed_on_terminal, container)
        transcript.check_document(ROOT / "README.md", type_in, "First models")
    finally:
        hub.close()
    for command in AFTERWARDS:
        container.run(command)
    _restarted(container, settings, wait_serving)


def _restarted(container: Container, settings: bytes, wait_serving: Callable[[], None]) -> None:
    container.write(SETTINGS, settings)
    container.systemctl("restart", "magid")
    wait_serving()
