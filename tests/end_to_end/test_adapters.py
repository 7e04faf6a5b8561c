"""LoRA adapters as names of a real daemon's model: the answer shows which one it came from."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest

from tests.support import adapting, ggufs
from tests.support.magictl import magictl
from tests.support.rest import Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One model with two adapters, on demand; one whose adapter cannot be loaded."""
    running = parts.daemon(tmp_path_factory.mktemp("adapters") / "magid")
    (running.profiles / "test.yaml").write_text("name: Test\nenabled_models: ['*']\n")
    with running.configuration.open("a") as file:
        file.write("gateway: {queue_timeout: 60}\n")
    settings = running.configuration.read_text()
    running.configuration.write_text(
        settings.replace("parallel: 1", "parallel: 1, start: on-demand")
    )
    ggufs.write_chat_model(running.models / "a" / "Demo-F16.gguf")
    adapting.write(running.models / "a" / "ix.gguf", "XY")
    adapting.write(running.models / "a" / "pq.gguf", "PQ")
    ggufs.write_chat_model(running.models / "b" / "Broken-F16.gguf")
    ggufs.write_tensors(
        running.models / "b" / "bad.gguf",
        {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora"},
        {"nothing.lora_a": np.zeros((4, 32))},
    )
    with running, running.client:
        running.wait_ready()
        yield running


def model_id(magid: Running, word: str) -> str:
    models: dict[str, Any] = magid.get("/api/models/registry")["models"]
    return next(found for found in models if found.startswith(word))


def names(magid: Running) -> list[str]:
    return [one["id"] for one in magid.get("/v1/models")["data"]]


def said(magid: Running, name: str) -> str:
    messages = [{"role": "user", "content": "hello"}]
    body = {"model": name, "temperature": 0, "max_tokens": 4, "messages": messages}
    answer = magid.ask("POST", "/v1/chat/completions", body)
    return str(answer["choices"][0]["message"]["content"])


def test_each_name_has_its_adapter_and_the_model_none(magid: Running) -> None:
    model = model_id(magid, "demo")
    assert {model, f"{model}:ix", f"{model}:pq"} <= set(names(magid))
    assert set(said(magid, f"{model}:pq")) <= set("PQ"), "the request that starts the server"
    assert ggufs.ANSWER.startswith(said(magid, model).strip())
    assert set(said(magid, f"{model}:ix")) <= set("XY")
    assert ggufs.ANSWER.startswith(said(magid, model).strip())
    told = magid.get(f"/api/models/{model}")["adapters"]
    assert [one["name"] for one in told] == [f"{model}:ix", f"{model}:pq"]
    assert f"adapter          {model}:ix" in magictl("show", model, url=magid.url).stdout
    (server,) = magid.get("/api/models/servers")["servers"]
    assert "--lora-scaled" in psutil.Process(server["pid"]).cmdline()
    refused = magid.client.post("/v1/chat/completions", json={"model": f"{model}:none"})
    assert refused.status_code == 404


def test_a_running_server_offers_what_it_has_loaded(magid: Running) -> None:
    model = model_id(magid, "demo")
    said(magid, model)
    adapting.write(magid.models / "a" / "aa.gguf", "RS")
    magid.ask("POST", "/api/models/rescan")
    magid.wait_for("its names", lambda: f"{model}:pq" in names(magid))
    assert f"{model}:aa" not in names(magid)
    assert set(said(magid, f"{model}:pq")) <= set("PQ"), "its number has not changed"
    magid.ask("POST", f"/api/models/servers/{model}/restart?wait=60")
    magid.wait_for("its names", lambda: f"{model}:aa" in names(magid))
    assert set(said(magid, f"{model}:aa")) <= set("RS")
    assert set(said(magid, f"{model}:pq")) <= set("PQ")


def test_an_adapter_that_cannot_load_keeps_no_model_from_starting(magid: Running) -> None:
    model = model_id(magid, "broken")
    assert f"{model}:bad" in names(magid)
    assert ggufs.ANSWER.startswith(said(magid, model).strip())
    assert f"{model} starts without its adapters" in magid.log.read_text()
    magid.wait_for("its names", lambda: f"{model}:bad" not in names(magid))
