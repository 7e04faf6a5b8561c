"""Programs in docs/clients.md, as they stand there, against a magid with real servers."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import fleets, ggufs, programs
from tests.support.fleets import SMALL
from tests.support.rest import Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with fleets.fleet(parts, tmp_path_factory.mktemp("snippets"), fleets.write_small) as running:
        yield running


def printed(magid: Running, word: str, folder: Path) -> str:
    program = programs.snippet("python", word, magid.url)
    return programs.output([sys.executable, "-I", "-c", program], folder)


def test_ollamas_client(magid: Running, tmp_path: Path) -> None:
    said = printed(magid, "import ollama", tmp_path)
    assert f"{SMALL}:latest" in said
    assert "I am a tiny" in said


def test_the_sdks(magid: Running, tmp_path: Path) -> None:
    said = printed(magid, "import openai", tmp_path)
    assert said == f"{ggufs.ANSWER}\n" * 2 + ggufs.ANSWER


def test_langchain(magid: Running, tmp_path: Path) -> None:
    assert printed(magid, "langchain", tmp_path) == ggufs.ANSWER


def test_a_client_of_the_router(magid: Running, tmp_path: Path) -> None:
    magid.ask("POST", f"/api/models/servers/{SMALL}/stop?wait=60")
    assert printed(magid, "/models/sse", tmp_path) == f"{SMALL} loaded\n"
