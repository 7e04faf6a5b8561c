"""Drafts of a real daemon's models: llama-server says how many of its guesses were right."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest

from tests.support import drafting, ggufs
from tests.support.magictl import magictl
from tests.support.rest import Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Three models: with layers of its own, with a draft beside it, with one that cannot load."""
    running = parts.daemon(tmp_path_factory.mktemp("drafts") / "magid")
    (running.profiles / "test.yaml").write_text("name: Test\nenabled_models: [own*]\n")
    drafting.write(running.models / "a" / "Own-F32.gguf", name="Own")
    drafting.write(running.models / "b" / "Beside-F32.gguf", "trunk", name="Beside")
    drafting.write(running.models / "b" / "mtp-Beside-F32.gguf", "draft", name="Beside")
    drafting.write(running.models / "d" / "Leaving-F32.gguf", "trunk", name="Leaving")
    drafting.write(running.models / "d" / "mtp-Leaving-F32.gguf", "draft", name="Leaving")
    ggufs.write_chat_model(running.models / "c" / "Broken-F32.gguf", name="Broken")
    ggufs.write_tensors(
        running.models / "c" / "eagle3-Broken.gguf",
        {"general.architecture": "eagle3", "eagle3.target_hidden_size": 64},
        {"fc.weight": np.zeros((1, 32))},
    )
    with running, running.client:
        running.wait_ready()
        yield running


def model_id(magid: Running, word: str) -> str:
    models: dict[str, Any] = magid.get("/api/models/registry")["models"]
    return next(found for found in models if found.startswith(word))


def guesses(magid: Running, model: str) -> tuple[str, int]:
    """The answer, and how many of its tokens were guessed."""
    body = {"model": model, "temperature": 0, "messages": [{"role": "user", "content": "hello"}]}
    answer = magid.ask("POST", "/v1/chat/completions", body)
    told = answer["timings"]
    assert told.get("draft_n", 0) == told.get("draft_n_accepted", 0), "all are right here"
    return answer["choices"][0]["message"]["content"], told.get("draft_n", 0)


def start(magid: Running, word: str) -> str:
    model = model_id(magid, word)
    magid.ask("PUT", f"/api/models/{model}/enabled", {"enabled": True})
    magid.ask("POST", f"/api/models/servers/{model}/start?wait=60")
    return model


def command_of(magid: Running, model: str) -> str:
    (server,) = (s for s in magid.get("/api/models/servers")["servers"] if s["modelId"] == model)
    return " ".join(psutil.Process(server["pid"]).cmdline())


def test_layers_of_its_own(magid: Running) -> None:
    model = start(magid, "own")
    assert guesses(magid, model) == (ggufs.ANSWER, 12)
    told = magid.get(f"/api/models/{model}")
    assert told["draft"] == "auto"
    assert told["drafting"] == {"type": "mtp", "filePath": None, "reason": "layers of its own file"}
    shown = magictl("show", model, url=magid.url).stdout
    assert re.search(r"drafts with +mtp: the model itself +layers of its own file", shown)
    memory = magid.get(f"/api/models/{model}/memory")
    assert memory["draftBytes"] > 0
    assert "draft: " in magictl("fits", model, url=magid.url).stderr


def test_a_file_beside_it_and_its_setting(magid: Running) -> None:
    model = start(magid, "beside")
    draft = magid.models / "b" / "mtp-Beside-F32.gguf"
    assert guesses(magid, model) == (ggufs.ANSWER, 12)
    assert f"--spec-type draft-mtp --spec-draft-model {draft}" in command_of(magid, model)
    path = f"/api/models/{model}/runtime-settings"
    told = magid.ask("PUT", path, {"draft": "off"})
    assert told["restartRequired"]
    magid.ask("POST", f"/api/models/servers/{model}/restart?wait=60")
    assert guesses(magid, model) == (ggufs.ANSWER, 0)
    assert magid.get(f"/api/models/{model}")["drafting"]["reason"] == "switched off"
    refused = magid.ask("PUT", path, {"draft": "other.gguf"}, status=400)
    assert refused["message"].endswith(
        f"other.gguf is no draft in its folder; there is {draft.name}"
    )
    magid.ask("PUT", path, {"draft": draft.name})
    magid.ask("POST", f"/api/models/servers/{model}/restart?wait=60")
    assert guesses(magid, model) == (ggufs.ANSWER, 12)


def test_a_draft_that_cannot_load_keeps_no_model_from_starting(magid: Running) -> None:
    model = start(magid, "broken")
    assert guesses(magid, model)[1] == 0
    assert "--spec-type" not in command_of(magid, model)
    assert f"{model} starts without its draft" in magid.log.read_text()
    assert magictl("diff", url=magid.url).stdout.strip().endswith("runs as wanted (ready)")
    assert told_of(magid, model)[0].startswith(f"{model} runs without its draft (")
    # one that a person has chosen is never dropped
    magid.ask("PUT", f"/api/models/{model}/runtime-settings", {"draft": "eagle3-Broken.gguf"})
    failed = magid.ask("POST", f"/api/models/servers/{model}/restart?wait=60", status=503)
    assert failed["error"] == "ServerFailed"


def told_of(magid: Running, model: str) -> list[str]:
    """The messages of its condition."""
    conditions = magid.get("/api/models/status")["conditions"]
    return [
        one["message"]
        for one in conditions
        if one["code"] == "DraftUnused" and one["modelIds"] == [model]
    ]


def counted(magid: Running, model: str) -> tuple[float, float]:
    """The tokens that its draft has guessed, and those that were right, by /metrics."""
    text = magid.client.get("/metrics").text
    lines = [line for line in text.splitlines() if f'model="{model}"' in line]
    names = ("magi_gateway_draft_tokens_total{", "magi_gateway_accepted_draft_tokens_total{")
    guessed, right = (
        sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))
        for name in names
    )
    return guessed, right


def test_a_draft_that_goes_away(magid: Running) -> None:
    """One that `auto` had found is done without; one that is chosen is waited for."""
    magid.ask("PUT", f"/api/models/{model_id(magid, 'broken')}/enabled", {"enabled": False})
    model = start(magid, "leaving")
    folder = magid.models / "d"
    draft = folder / "mtp-Leaving-F32.gguf"
    before = counted(magid, model)
    assert guesses(magid, model)[1] == 12
    guessed, right = counted(magid, model)
    assert (guessed - before[0], right - before[1]) == (12, 12)

    kept = draft.rename(folder / "kept")
    magid.ask("POST", "/api/models/rescan")
    assert told_of(magid, model) == [f"{model} has lost its draft: {draft} is gone; it starts "
                                     "without one"]  # fmt: skip
    assert guesses(magid, model)[1] == 12, "the server keeps what it has loaded"
    magid.ask("POST", f"/api/models/servers/{model}/restart?wait=60")
    assert guesses(magid, model)[1] == 0

    kept.rename(draft)
    magid.ask("POST", "/api/models/rescan")
    assert told_of(magid, model) == []
    magid.ask("PUT", f"/api/models/{model}/runtime-settings", {"draft": draft.name})
    draft.rename(kept)
    magid.ask("POST", "/api/models/rescan")
    (told,) = told_of(magid, model)
    assert told.startswith(f"{model} runs on, and cannot be started again: {draft.name} is no")
    magid.ask("POST", f"/api/models/servers/{model}/stop?wait=60")
    refused = magid.ask("POST", f"/api/models/servers/{model}/start?wait=60", status=409)
    assert refused["error"] == "DraftMissing"
    assert draft.name in refused["message"]
    assert told_of(magid, model)[0].startswith(f"{model} is not started: {draft.name} is no")
    assert magid.client.get("/readyz").status_code == 503

    kept.rename(draft)
    magid.ask("POST", "/api/models/rescan")
    magid.ask("POST", f"/api/models/servers/{model}/start?wait=60")
    assert (guesses(magid, model)[1], told_of(magid, model)) == (12, [])
