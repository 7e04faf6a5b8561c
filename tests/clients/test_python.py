"""Clients in Python that are heavy, unmodified, through the gateway to real llama-servers.

Each process runs the client's program in docs/clients.md and then one of programs/, which prints
what it found as JSON: the imports take seconds, and the first ones, which compile thousands of
modules, minutes on a slow machine.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import fleets, ggufs, programs
from tests.support.deadlines import SET_UP_S
from tests.support.fleets import CALLER, SMALL, THINKER, VECTORS
from tests.support.rest import Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow

FEW = "I am a tiny"


@pytest.fixture(scope="module")
def python() -> Path:
    return programs.client_python()


@pytest.fixture(scope="module")
def magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("clients")
    with fleets.fleet(parts, folder, fleets.write_with_caller) as running:
        running.ask("PUT", f"/api/models/{CALLER}/tier", {"tier": "powerful"})  # not for `auto`
        yield running


def found(magid: Running, python: Path, folder: Path, word: str, *models: str) -> Any:
    """What the program has found; the one of the document has printed what a model says."""
    documented = programs.snippet("python", word, magid.url)
    program = (Path(__file__).parent / f"programs/with_{word.split()[1]}.py").read_text()
    text = f"{documented}\nprint()\n{program}"
    environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # else it asks the network for prices
    command: list[str | Path] = [python, "-I", "-c", text, magid.url, *models]
    *said, last = programs.output(command, folder, environment, SET_UP_S).splitlines()
    assert ggufs.ANSWER in "\n".join(said)
    return json.loads(last)


def test_litellm(magid: Running, python: Path, tmp_path: Path) -> None:
    answers = found(magid, python, tmp_path, "import litellm", SMALL, CALLER, VECTORS)
    expected = {
        "said": FEW,
        "streamed": FEW,
        "calls": ['{"a": "b"}'],
        "unknown": "NotFoundError",
        "too long": "ContextWindowExceededError",
    }
    assert answers == {
        "openai": expected,
        "anthropic": expected,
        "ollama_chat": expected | {"too long": "BadRequestError"},  # by status alone
        "responses": ggufs.ANSWER,
        "vectors": [64, 64],
    }


def test_pydantic_ai(magid: Running, python: Path, tmp_path: Path) -> None:
    answers = found(magid, python, tmp_path, "from pydantic_ai", SMALL, CALLER, THINKER)
    thought = ggufs.THINKING_ANSWER.rpartition("\n")[2]
    expected = {
        "turns": [ggufs.ANSWER] * 2,
        "after thoughts": [thought] * 2,
        "streamed": ggufs.ANSWER,
        "calls": ["b", "b"],
    }
    assert answers == {"chat": expected, "responses": expected}


def test_llama_index(magid: Running, python: Path, tmp_path: Path) -> None:
    answers = found(magid, python, tmp_path, "from llama_index", SMALL, CALLER)
    assert answers == {"said": FEW, "streamed": FEW, "text": FEW, "called": "b"}


def test_llm(magid: Running, python: Path, tmp_path: Path) -> None:
    """Its configuration from the document: two turns, and a tool over chat and over Responses."""
    models = programs.snippet("yaml", "api_base", magid.url)
    models += models.replace("id: magid", "id: other") + "  responses: true\n"
    (tmp_path / "extra-openai-models.yaml").write_text(models)

    environment = {"LLM_USER_PATH": str(tmp_path)}
    command: list[str | Path] = [python, "-I", "-m", "llm", "-m", "magid", "Hello"]
    assert programs.output(command, tmp_path, environment, SET_UP_S) == f"{ggufs.ANSWER}\n"
    program = Path(__file__).parent / "programs/with_llm.py"
    command = [python, "-I", program, "magid", "other"]
    answers = programs.output(command, tmp_path, environment, SET_UP_S)
    expected = [ggufs.ANSWER, ggufs.ANSWER, "b", "b"]
    assert json.loads(answers) == {"magid": expected, "other": expected}
