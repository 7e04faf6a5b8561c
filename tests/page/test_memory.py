"""The memory of GPUs as bars, by model and by kind, on GPUs of the tests."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.support import ggufs, page
from tests.support.gpus import MakeGpus
from tests.support.rest import Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow

MIB = 1 << 20
ID = "alpha_0p0b_f16_balanced"
CONTEXT = 131_072


@pytest.fixture
def placed(
    make_gpus: MakeGpus, parts: Parts, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """One model, whose context takes 64 MiB of a GPU that others use, too."""
    gpus = make_gpus((300, 40), (20, 0))
    own = Parts(gpus.llama_server, parts.free_port, parts.free_ports)
    running = own.daemon(tmp_path_factory.mktemp("memory"), "gpu_reserve: 1048576\n")
    page.give_to(running)
    ggufs.write_chat_model(running.models / "Alpha-F16.gguf", quantization="F16", context=1 << 20)
    (running.profiles / "test.yaml").write_text("name: Test\nenabled_models: []\n")
    with running, running.client:
        running.wait_ready()
        running.ask("PUT", f"/api/models/{ID}/enabled", {"enabled": True})
        settings = {"ctxSize": CONTEXT, "batchSize": 32}
        running.ask("PUT", f"/api/models/{ID}/runtime-settings", settings)
        running.ask("POST", f"/api/models/servers/{ID}/start")
        running.wait_for("ready", lambda: running.servers().get(ID, {}).get("isReady"))
        yield running


def test_bars_by_model_and_by_kind(chromium: Browser, placed: Running) -> None:
    def holders() -> list[dict[str, int]]:
        return [one for gpu in placed.get("/api/gpus")["gpus"] for one in gpu["servers"]]

    placed.wait_for("kinds", lambda: holders()[0]["modelBytes"] is not None)
    (held,) = holders()
    assert held["contextBytes"] == 64 * MIB
    kinds = held["modelBytes"] + held["contextBytes"] + held["computeBytes"]
    assert held["needBytes"] - 8 * MIB < kinds <= held["needBytes"]
    with page.tab(chromium, placed) as tab:
        for view in ("overview", "system"):
            tab.open(view)
            bar = tab.page.locator("figure.memory").filter(has_text="RPC0")
            expect(bar.locator(".legend")).to_contain_text("64.0 MiB context")
            expect(bar.locator(".legend")).to_contain_text("compute")
            expect(bar.locator(".legend")).to_contain_text("Other programs")
            expect(bar.locator(".legend")).to_contain_text("Free")
            share = "one => one.getBoundingClientRect().width / one.parentElement.clientWidth"
            drawn = bar.locator(".bar .context").evaluate(share)
            assert abs(drawn - 64 / 300) < 0.01
            assert page.axe(tab.page) == []
        assert tab.said == []


def test_what_runs_is_shown_where_it_runs(chromium: Browser, placed: Running) -> None:
    memory = placed.get(f"/api/models/{ID}/memory")
    (server,) = placed.get("/api/models/servers")["servers"]
    names = [device["name"] for device in server["placement"]["devices"]]
    assert [device["name"] for device in memory["devices"]] == names == ["RPC0"]
    argv = placed.get(f"/api/models/{ID}")["argv"][0]
    assert argv[argv.index("--device") + 1] == "RPC0"
    with page.tab(chromium, placed) as tab:
        tab.open(f"models/{ID}")
        tab.sees("--device RPC0")
        tab.page.locator("#set-ctxSize").fill("256K")  # is predicted while it is typed
        caption = tab.page.get_by_role("table", name="Memory of one server").locator("caption")
        expect(caption).to_have_text("With a context of 262,144")
        tab.page.locator("#set-ctxSize").fill("900K")
        tab.sees("Does not fit")
        tab.sees("RPC0 has room for")
