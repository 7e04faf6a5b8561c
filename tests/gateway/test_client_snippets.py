"""The programs in docs/clients.md, as they stand there, against a magid with real servers."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import fleets
from tests.support.deadlines import DEADLINE_S
from tests.support.fleets import SMALL
from tests.support.rest import Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow

DOCUMENT = Path(__file__).parents[2] / "docs/clients.md"
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(), re.M | re.S)


@pytest.fixture(scope="module")
def magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with fleets.fleet(parts, tmp_path_factory.mktemp("snippets"), fleets.write_small) as running:
        yield running


def printed(magid: Running, word: str) -> str:
    """What the one program with this word in it prints."""
    (program,) = (text for text in PROGRAMS if word in text)
    assert "http://127.0.0.1:8000" in program
    done = subprocess.run(
        [sys.executable, "-I", "-c", program.replace("http://127.0.0.1:8000", magid.url)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ollamas_client(magid: Running) -> None:
    said = printed(magid, "import ollama")
    assert f"{SMALL}:latest" in said
    assert "I am a tiny" in said


def test_a_client_of_the_router(magid: Running) -> None:
    magid.ask("POST", f"/api/models/servers/{SMALL}/stop?wait=60")
    assert printed(magid, "/models/sse") == f"{SMALL} loaded\n"
