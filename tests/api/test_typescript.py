"""TypeScript against the daemon: a client made from /openapi.json, and the examples in seed/.

The packages are those of typescript/package-lock.json, installed once per lock file into
~/.cache/magi, without running their scripts. `seed/` has the examples that WebUI authors began
with, byte by byte.
"""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import fake_llama, ggufs, npm, programs, rest
from tests.support.running import Running

pytestmark = pytest.mark.slow

HERE = Path(__file__).parents[1] / "typescript"
ALPHA = "alpha_1p0b_q4km_fast"
BETA = "beta_8p0b_q4km_balanced"


@pytest.fixture(scope="module")
def modules() -> Path:
    return npm.installed(HERE)


@pytest.fixture(scope="module")
def magid(parts: rest.Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = parts.daemon(tmp_path_factory.mktemp("typescript"))
    program = fake_llama.install(running.folder / "bin")
    running.environment["LLAMA_SERVER_PATH"] = str(program)
    low, high = running.port_range
    running.configuration.write_text(f"port_range: [{low}, {high}]\n")
    ggufs.write_sparse_model(running.models / "Alpha-1B-Q4_K_M.gguf", parameters_billions=1)
    ggufs.write_sparse_model(running.models / "Beta-8B-Q4_K_M.gguf", parameters_billions=8)
    with running, running.client:
        running.wait_ready()
        yield running


@pytest.fixture(scope="module")
def built(magid: Running, modules: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything, generated and compiled; a mistake in a type fails here."""
    project = tmp_path_factory.mktemp("project")
    shutil.copytree(HERE, project, dirs_exist_ok=True)
    (project / "node_modules").symlink_to(modules)
    for command in commands():
        programs.output([w.replace("http://127.0.0.1:8000", magid.url) for w in command], project)
    programs.output(["npx", "--no-install", "tsc", "--project", "."], project)
    return project / "out"


def commands() -> list[list[str]]:
    """Those of docs/webui.md that make the client."""
    text = (HERE.parent.parent / "docs/webui.md").read_text()
    lines = re.findall(r"^npx openapi-ts .*$", text, re.MULTILINE)
    assert len(lines) == 1
    first, *words = lines[0].split()
    return [[first, "--no-install", *words]]


def result(built: Path, program: str, **environment: str) -> dict[str, Any]:
    (line,) = programs.output(["node", program], built, environment).splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def test_a_client_made_from_the_document(magid: Running, built: Path) -> None:
    answer = result(built, "program.js", MAGI_URL=magid.url)
    rest.forget_overrides(magid)
    assert answer == {
        "models": [ALPHA, BETA],
        "told": "powerful",
        "error": "ModelNotFound",
        "message": "cannot find model 'nothing'; GET /api/models/registry lists 2 models",
        "status": 404,
        "unchanged": 304,
    }


def test_the_examples_as_they_stand(magid: Running, built: Path) -> None:
    answer = result(built, "seed.js", MAGI_PORT=str(magid.port), MODEL_ID=ALPHA)
    after = magid.get("/api/models/registry")
    rest.forget_overrides(magid)
    updated = {"modelId": ALPHA, "tier": "powerful", "override": True}
    assert updated.items() <= answer["updated"].items()
    assert answer["updated"]["message"] == f"Tier updated for {ALPHA}"
    assert answer["profiles"] == ["test"]
    assert answer["refusal"] == {"status": 404, "error": "ModelNotFound"}
    assert answer["hook"] == after
    assert after["models"][ALPHA]["tierOverride"] == "powerful"
    before = answer["registry"]
    assert before["models"].keys() == {ALPHA, BETA}
    assert before["models"][ALPHA]["effectiveTier"] == "fast"
    assert before["tierThresholds"] == {"powerful_min": 14.0, "fast_max": 7.0}


def test_the_lock_names_exact_versions_and_no_host() -> None:
    npm.check_lock(HERE)
