"""A machine without a GPU: what it lacks memory for is refused, by llama-server's own figures."""

from collections.abc import Iterator
from itertools import pairwise

import psutil
import pytest

from tests.support import ggufs, rest
from tests.support.deadlines import DEADLINE_S
from tests.support.rest import ALPHA, Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow

WIDE = "wide_0p0b_f16_balanced"
MIB = 1 << 20
PROGRAM = 96 * MIB  # what llama-server itself holds, with its vocabulary and threads
MOST_CTX = 1 << 24  # with it, the model's cache takes a TiB


@pytest.fixture(scope="module")
def magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = parts.daemon(tmp_path_factory.mktemp("host"))
    rest.write_models(running.models)
    ggufs.write_wide_model(
        running.models / "Wide-F16.gguf", name="Wide", width=256, feed=64, layers=64
    )
    (running.profiles / "test.yaml").write_text("name: Test\nenabled_models: []\n")
    with running, running.client:
        running.wait_for("the models", lambda: running.client.get("/readyz").status_code == 200)
        yield running


def test_a_start_that_no_machine_has_memory_for(magid: Running) -> None:
    magid.ask("PUT", f"/api/models/{WIDE}/enabled", {"enabled": True})
    magid.ask("PUT", f"/api/models/{WIDE}/runtime-settings", {"ctxSize": MOST_CTX})
    answer = magid.client.post(f"/api/models/servers/{WIDE}/start?wait=60")
    assert (answer.status_code, answer.json()["error"]) == (507, "DoesNotFit")
    assert answer.json()["details"]["needBytes"] > 1 << 40
    assert "of the machine's memory, which has room for" in answer.json()["message"]
    conditions = magid.get("/api/models/status")["conditions"]
    (condition,) = (one for one in conditions if one["code"] == "DoesNotFit")
    assert condition["modelIds"] == [WIDE]
    assert magid.get(f"/api/models/{WIDE}")["memory"]["fits"] == "no"
    assert magid.get("/api/models/servers")["servers"] == [], "nothing was started"


def test_a_request_for_it(magid: Running) -> None:
    settings = {"ctxSize": MOST_CTX, "start": "on-demand"}
    magid.ask("PUT", f"/api/models/{WIDE}/enabled", {"enabled": True})
    magid.ask("PUT", f"/api/models/{WIDE}/runtime-settings", settings)
    body = {"model": WIDE, "messages": [{"role": "user", "content": "?"}], "max_tokens": 1}
    answer = magid.client.post("/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 507, answer.text
    assert "has room for" in answer.json()["error"]["message"]
    magid.ask("PUT", f"/api/models/{WIDE}/runtime-settings", {"ctxSize": 512})
    answer = magid.client.post("/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    magid.ask("POST", f"/api/models/servers/{WIDE}/stop?wait=60")


def test_what_fits_is_said_without_a_prediction(magid: Running) -> None:
    own = magid.get(f"/api/models/{ALPHA}")["memory"]
    assert (own["fits"], own["source"]) == ("yes", "estimated")
    assert own["why"] == "it would start on the processor"
    predicted = magid.get(f"/api/models/{ALPHA}/memory?ctxSize=2048")["host"]["totalBytes"]
    assert predicted <= own["need"]["hostBytes"]


def held_by(magid: Running, model_id: str) -> int:
    """What its process holds beside pages of files, in bytes."""
    memory = psutil.Process(magid.servers()[model_id]["pid"]).memory_info()
    return int(memory.rss - memory.shared)


def test_what_a_server_holds_is_what_was_predicted(magid: Running) -> None:
    """Before and after its first long prompt."""
    settings = {"ctxSize": 4096, "parallel": 1}
    magid.ask("PUT", f"/api/models/{WIDE}/enabled", {"enabled": True})
    magid.ask("PUT", f"/api/models/{WIDE}/runtime-settings", settings)
    buffers = magid.get(f"/api/models/{WIDE}/memory?ctxSize=4096&parallel=1")["host"]["buffers"]
    context = sum(one["contextBytes"] for one in buffers)
    copies = sum(one["modelBytes"] for one in buffers if one["name"] != "Host")
    most = context + copies + sum(one["computeBytes"] for one in buffers) + PROGRAM
    assert context == 256 * MIB, "which is cleared when it starts"
    magid.ask("POST", f"/api/models/servers/{WIDE}/start")
    magid.wait_for("it", lambda: magid.servers()[WIDE]["state"] == "ready")
    assert context + copies <= held_by(magid, WIDE) <= most
    body = {"model": WIDE, "prompt": "a" * 700, "max_tokens": 1}
    answer = magid.client.post("/v1/completions", json=body, timeout=DEADLINE_S)
    assert answer.json()["usage"]["prompt_tokens"] > 600
    assert context + copies <= held_by(magid, WIDE) <= most
    magid.ask("POST", f"/api/models/servers/{WIDE}/stop?wait=60")


def bounds_of(magid: Running) -> list[str]:
    """The sizes of its prompt cache in its command line, which the API shows too."""
    command = psutil.Process(magid.servers()[WIDE]["pid"]).cmdline()
    (shown,) = magid.get(f"/api/models/{WIDE}")["argv"]
    assert command[-len(shown) + 1 :] == shown[1:]  # llama-server may run by its own loader
    return [value for name, value in pairwise(command) if name == "--cache-ram"]


def test_its_prompt_cache_is_bounded(magid: Running) -> None:
    """By what the machine has left at its start: a crash and a restart of others change nothing."""
    magid.ask("PUT", f"/api/models/{WIDE}/enabled", {"enabled": True})
    magid.ask("PUT", f"/api/models/{WIDE}/runtime-settings", {"ctxSize": 512})
    magid.ask("POST", f"/api/models/servers/{WIDE}/start?wait=60")
    first = magid.servers()[WIDE]
    bounds = bounds_of(magid)
    assert len(bounds) == 1 or psutil.virtual_memory().total > 64 << 30
    assert all(int(mib) % 256 == 0 or int(mib) == 128 for mib in bounds)
    assert all(int(mib) < 8192 for mib in bounds)
    assert (first["placement"], first["specCurrent"]) == (None, True)
    psutil.Process(first["pid"]).kill()
    magid.wait_for("it again", lambda: is_another(magid, first["pid"]))
    assert bounds_of(magid) == bounds
    magid.ask("PUT", f"/api/models/{WIDE}/runtime-settings", {"extraArgs": ["--cache-ram", "64"]})
    magid.ask("POST", "/api/models/apply")
    magid.wait_for("the user's own", lambda: is_another(magid, first["pid"]) and own(magid))
    assert bounds_of(magid) == ["64"]
    magid.ask("POST", f"/api/models/servers/{WIDE}/stop?wait=60")


def is_another(magid: Running, pid: int) -> bool:
    now = magid.servers()[WIDE]
    return bool(now["isReady"] and now["pid"] != pid)


def own(magid: Running) -> bool:
    return bool(magid.servers()[WIDE]["specCurrent"])
