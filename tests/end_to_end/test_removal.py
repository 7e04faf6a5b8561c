"""Models are removed over the API and with magictl, with all that others need left in place."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import ggufs
from tests.support.magictl import Done, magictl
from tests.support.rest import ALPHA, BETA, GAMMA, Parts, refused, serving
from tests.support.running import Running

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("removal")
    models = folder / "home/models"
    with serving(parts, folder / "home", f"library_path: {models}\n") as running:
        yield running


@pytest.fixture
def eyes(magid: Running) -> Iterator[dict[str, str]]:
    """Two models that share a projector, by their quantization."""
    folder = magid.models / "org/Eye"
    for quantization in ("Q4_0", "Q8_0"):
        ggufs.write_chat_model(folder / f"Eye-{quantization}.gguf", quantization=quantization)
    ggufs.write_mmproj(folder / "mmproj-Eye.gguf")
    magid.ask("POST", "/api/models/rescan")
    rows = magid.get("/api/models/registry")["models"]
    yield {row["quantization"]: i for i, row in rows.items() if "Eye" in row["filename"]}
    for path in folder.glob("*"):
        path.unlink()
    magid.ask("POST", "/api/models/rescan")


def type_in(magid: Running, line: str, status: int = 0) -> Done:
    done = magictl(*line.split(), url=magid.url)
    assert done.returncode == status, done
    return done


def files(magid: Running) -> set[str]:
    return {path.name for path in magid.models.rglob("*") if path.is_file()}


def delete(magid: Running, model_id: str, query: str = "files=true", status: int = 200) -> Any:
    return magid.ask("DELETE", f"/api/models/{model_id}?{query}", status=status)


def test_a_shared_projector_stays_until_the_last(magid: Running, eyes: dict[str, str]) -> None:
    four, eight = eyes["q4_0"], eyes["q8_0"]
    magid.ask("PUT", f"/api/models/{four}/runtime-settings", {"ctxSize": 1024})
    before = files(magid)
    planned = delete(magid, four, "files=true&dryRun=true")
    assert (planned["dryRun"], files(magid)) == (True, before)
    done = delete(magid, four)
    assert before - files(magid) == {"Eye-Q4_0.gguf"}
    assert (done["removed"], done["freedBytes"]) == (planned["removed"], planned["freedBytes"])
    assert [one["reason"] for one in done["stays"]] == [f"is needed by {eight}"]
    registry = magid.get("/api/models/registry")
    assert four not in registry["models"]
    assert four in [one["modelId"] for one in registry["modelsRemoved"]]
    assert not done["forgotten"]
    last = delete(magid, eight, "files=true&forget=true")
    assert {Path(path).name for path in last["removed"]} == {"Eye-Q8_0.gguf", "mmproj-Eye.gguf"}
    assert last["forgotten"]
    assert eight not in str(magid.get("/api/models/registry"))
    assert not (magid.models / "org").exists()


def test_a_running_model_is_refused_or_stopped(magid: Running) -> None:
    for model_id in (ALPHA, BETA):
        path = f"/api/models/{model_id}?files=true"
        error = refused(magid, "DELETE", path, None, 409)
        assert "it is running (llama-server@" in error["message"]
    assert {"Alpha-Instruct-Q4_0.gguf", "Beta-F16.gguf"} <= files(magid)
    done = delete(magid, ALPHA, "files=true&stop=true")
    assert done["message"].startswith(f"{ALPHA}: 1 file removed, ")
    assert ALPHA not in [name for name, s in magid.servers().items() if s["state"] == "ready"]
    assert magid.servers()[BETA]["state"] == "ready"


def test_it_takes_a_word(magid: Running) -> None:
    error = refused(magid, "DELETE", f"/api/models/{GAMMA}", None, 400)
    assert "without files=true" in error["message"]
    refused(magid, "DELETE", "/api/models/none_such?files=true", None, 404)


def test_a_person_is_asked(magid: Running, eyes: dict[str, str]) -> None:
    asked = type_in(magid, f"rm {eyes['q4_0']}", 2)
    assert asked.stdout.splitlines()[0].endswith("/Eye-Q4_0.gguf")
    assert f"stays: it is needed by {eyes['q8_0']}" in asked.stdout
    assert asked.stderr.endswith("try: the same with --yes\n")
    shown = type_in(magid, f"rm {eyes['q4_0']} --dry-run")
    assert shown.stdout == asked.stdout
    assert "Eye-Q4_0.gguf" in files(magid)
    done = type_in(magid, f"rm {eyes['q4_0']} {eyes['q8_0']} --yes")
    assert done.stdout.count(" removed, ") == 2
    assert "--forget drops that too" in done.stderr


def test_what_is_in_no_library(parts: Parts, tmp_path: Path) -> None:
    with serving(parts, tmp_path / "home") as magid:
        error = refused(magid, "DELETE", f"/api/models/{GAMMA}?files=true", None, 409)
        assert "library_path in magid.yaml names one" in error["message"]
        said = type_in(magid, f"rm {GAMMA} --yes", 1).stderr
        assert said.startswith(f"magictl: cannot remove {GAMMA}\n")
        assert "Gamma-Thinking-F16.gguf" in files(magid)


def test_what_the_disk_holds(magid: Running, eyes: dict[str, str]) -> None:
    with (magid.models / "org/Eye/Eye-Q8_0.gguf").open("ab") as file:
        file.write(bytes(range(256)) * 8192)
    (magid.models / "lost.bin").write_bytes(b"x" * 2**21)
    found = magid.get("/api/library/disk")
    (root,) = found["roots"]
    assert (root["path"], root["isLibrary"], root["problem"]) == (str(magid.models), True, "")
    assert found["models"][0]["modelId"] == eyes["q8_0"]
    assert all(one["sizeBytes"] > 0 for one in found["models"]), "also of those below a MiB"
    assert [one["path"] for one in found["others"]] == [str(magid.models / "lost.bin")]
    shown = type_in(magid, "df").stdout
    assert "magictl rm may delete there" in shown
    assert f"{magid.models}/lost.bin  2.0 MiB" in shown
    (magid.models / "lost.bin").unlink()


def test_over_the_apis_of_llama_cpp_and_ollama(magid: Running, eyes: dict[str, str]) -> None:
    four, eight = eyes["q4_0"], eyes["q8_0"]
    assert magid.client.delete("/models").status_code == 400
    assert magid.client.delete("/models?model=none").status_code == 404
    assert magid.client.delete(f"/models?model={BETA}").json()["error"]["code"] == "conflict"
    assert magid.client.delete(f"/models?model={four}").json() == {"success": True}
    gone = magid.client.request("DELETE", "/api/delete", json={"model": f"{eight}:latest"})
    assert (gone.status_code, gone.json()) == (200, {})
    assert not (magid.models / "org").exists()
    assert {four, eight}.isdisjoint(magid.get("/api/models/registry")["models"])
