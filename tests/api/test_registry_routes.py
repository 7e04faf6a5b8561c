"""Models, summaries and probes, asked of a running daemon."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import rest
from tests.support.rest import ALPHA, BETA, DEEPSEEK, GAMMA, QWEN
from tests.support.running import Running

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
UNKNOWN = "no_such_1p0b_q40_fast"


# -- the registry ------------------------------------------------------------------------------


def test_registry(magid: Running) -> None:
    write_broken(magid.models)
    magid.ask("POST", "/api/models/rescan")
    registry = magid.get("/api/models/registry")
    assert registry["models"].keys() == {ALPHA, BETA, GAMMA, DEEPSEEK, QWEN}
    assert registry["scanPath"] == str(magid.models)
    assert TIMESTAMP.fullmatch(registry["lastScan"])
    low, high = registry["portRange"]
    assert high - low == rest.PORTS - 1
    assert registry["tierThresholds"] == {"powerful_min": 14.0, "fast_max": 7.0}
    assert registry["modelsRemoved"] == []
    broken = [Path(file["path"]).name for file in registry["modelsBroken"]]
    assert broken == ["Broken-Q4_0.gguf", "Foreign-\\xff.gguf"]
    assert all(file["reason"] for file in registry["modelsBroken"])


def write_broken(models: Path) -> None:
    (models / "Broken-Q4_0.gguf").write_bytes(b"GGUF")
    (models / os.fsdecode(b"Foreign-\xff.gguf")).write_bytes(b"GGUF")


def test_one_model_in_the_registry(magid: Running) -> None:
    shown = rest.model(magid, DEEPSEEK)
    path = str(magid.models / "DeepSeek-R1-8B-Q4_K_M.gguf")
    expected = {
        "filePath": path,
        "filename": "DeepSeek-R1-8B-Q4_K_M.gguf",
        "family": "deepseek",
        "version": "r1",
        "variant": None,
        "sizeParams": 8.0,
        "quantization": "q4_k_m",
        "isThinkingModel": True,
        "thinkingOverride": None,
        "assignedTier": "powerful",
        "tierOverride": None,
        "port": None,
        "enabled": False,
        "modelId": DEEPSEEK,
        "displayName": "DEEPSEEK R1 8.0B Q4_K_M",
        "files": [path],
    }
    assert expected.items() <= shown.items()


def test_rescan(magid: Running) -> None:
    write_broken(magid.models)
    answer = magid.ask("POST", "/api/models/rescan", status=200)
    assert answer["message"] == "Re-scan completed successfully"
    counts = (answer["modelsFound"], answer["modelsAdded"], answer["modelsRemoved"])
    assert counts == (5, 0, 0)
    assert TIMESTAMP.fullmatch(answer["timestamp"])
    assert len(answer["modelsBroken"]) == 2
    assert answer["durationMs"] > 0
    assert (answer["added"], answer["removed"]) == ([], [])


@pytest.mark.parametrize(
    ("tier", "ids"),
    [("fast", [ALPHA, QWEN]), ("balanced", [BETA]), ("powerful", [DEEPSEEK, GAMMA])],
)
def test_models_of_a_tier(magid: Running, tier: str, ids: list[str]) -> None:
    models = magid.get(f"/api/models/tiers/{tier}")
    assert [shown["modelId"] for shown in models] == ids
    assert models[0] == rest.model(magid, ids[0])


def test_a_tier_lists_models_by_their_override(magid: Running) -> None:
    magid.ask("PUT", f"/api/models/{BETA}/tier", {"tier": "fast"})
    assert [m["modelId"] for m in magid.get("/api/models/tiers/fast")] == [ALPHA, BETA, QWEN]
    assert magid.get("/api/models/tiers/balanced") == []


@pytest.mark.parametrize("tier", ["FAST", "medium", "fast%20", "%66ast%00"])
def test_no_such_tier(magid: Running, tier: str) -> None:
    answer = rest.refused(magid, "GET", f"/api/models/tiers/{tier}", None, 400)
    assert answer["error"] == "InvalidInput"
    assert answer["details"]["field"] == "tier"


@pytest.mark.parametrize("spelling", [DEEPSEEK, "deepseek_r1_8b_q4km_powerful"])
def test_both_spellings_of_a_size_are_one_model(magid: Running, spelling: str) -> None:
    assert magid.get(f"/api/models/{spelling}")["modelId"] == DEEPSEEK
    answer = magid.ask("PUT", f"/api/models/{spelling}/tier", {"tier": "fast"})
    assert answer["modelId"] == DEEPSEEK
    answer = rest.refused(magid, "POST", f"/api/models/servers/{spelling}/start", None, 409)
    assert answer["error"] == "ModelDisabled"


def test_one_model_with_the_reasons_of_its_values(magid: Running) -> None:
    magid.ask("PUT", f"/api/models/{ALPHA}/runtime-settings", {"ctxSize": 256})
    shown = magid.get(f"/api/models/{ALPHA}")
    of_list = rest.model(magid, ALPHA)
    del of_list["memory"]  # lists have what was true a moment ago
    assert of_list == {key: shown[key] for key in of_list}
    assert shown["ports"] == [shown["port"]]
    assert shown["sources"]["ctxSize"] == "override"
    assert shown["sources"]["nThreads"] == "default"
    assert shown["sources"]["enabled"] == "profile test"
    assert (shown["wanted"], shown["wantedReason"]) == (True, "in the active profile 'test'")
    (argv,) = shown["argv"]
    for option, value in (
        ("--alias", ALPHA), ("--ctx-size", "256"), ("--port", str(shown["port"])),
        ("--model", shown["filePath"]),
    ):  # fmt: skip
        assert argv[argv.index(option) + 1] == value
    idle = magid.get(f"/api/models/{GAMMA}")
    assert (idle["wanted"], idle["ports"], idle["argvProblem"]) == (False, [], "")
    assert idle["argv"][0][:3] == [argv[0], "--model", idle["filePath"]]  # what it would run as


def test_one_model_can_be_looked_at_without_a_llama_server(
    parts: rest.Parts, tmp_path: Path
) -> None:
    magid = parts.daemon(tmp_path / "bare")
    magid.environment["LLAMA_SERVER_PATH"] = str(tmp_path / "none")
    rest.write_models(magid.models)
    with magid, magid.client:
        magid.wait_for("a scan", lambda: magid.client.get("/api/models/registry").is_success)
        shown = magid.get(f"/api/models/{ALPHA}")
        assert shown["argv"] == []
        lacking = shown["argvProblem"]
        assert "install" in lacking
        magid.wait_for("starts that failed", lambda: lacking in magid.client.get("/readyz").text)
        ready = magid.client.get("/readyz")
        assert ready.status_code == 503
        assert [reason for reason in ready.json()["reasons"] if lacking in reason]
        status = magid.get("/api/models/status")
        assert not status["ready"]
        assert [problem for problem in status["problems"] if lacking in problem]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("PUT", "/tier", {"tier": "fast"}),
        ("PUT", "/thinking", {"thinking": True}),
        ("PUT", "/enabled", {"enabled": True}),
        ("PUT", "/port", {"port": None}),
        ("PUT", "/runtime-settings", {}),
    ],
)
def test_no_such_model(magid: Running, method: str, path: str, body: object) -> None:
    answer = rest.refused(magid, method, f"/api/models/{UNKNOWN}{path}", body, 404)
    assert (answer["error"], answer["details"]) == ("ModelNotFound", {"modelId": UNKNOWN})


# -- answers that are kept ready ---------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/api/models/registry", "/api/models/tiers/fast", "/api/models/tiers/powerful",
        "/api/models/profiles", "/api/models/profiles/test", "/openapi.json",
    ],
)  # fmt: skip
def test_what_the_caller_has_already_is_not_sent_again(magid: Running, path: str) -> None:
    first = magid.client.get(path)
    tag = first.headers["etag"]
    assert first.headers["cache-control"] == "no-cache"
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = magid.client.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert "content-type" not in again.headers
    other = magid.client.get(path, headers={"If-None-Match": '"other"'})
    assert (other.status_code, other.content) == (200, first.content)


def test_a_change_changes_the_tag(magid: Running) -> None:
    paths = ["/api/models/registry", "/api/models/tiers/balanced"]
    before = [magid.client.get(path).headers["etag"] for path in paths]
    magid.ask("PUT", f"/api/models/{BETA}/thinking", {"thinking": False})
    after = [magid.client.get(path).headers["etag"] for path in paths]
    assert all(old != new for old, new in zip(before, after, strict=True))
    magid.ask("PUT", f"/api/models/{BETA}/thinking", {"thinking": None})
    assert [magid.client.get(path).headers["etag"] for path in paths] == before


# -- summaries and probes ----------------------------------------------------------------------


def test_status(magid: Running) -> None:
    status = magid.get("/api/models/status")
    assert (status["phase"], status["ready"], status["activeProfile"]) == ("serving", True, "test")
    assert (status["totalModels"], status["enabledModels"]) == (5, 2)
    assert status["modelsByTier"] == {"fast": 2, "balanced": 1, "powerful": 2}
    assert status["serversByState"]["ready"] == 2
    assert sum(status["serversByState"].values()) == len(status["servers"]) == 2
    assert [one.partition(":")[0] for one in status["problems"]] == ["2 files cannot be used"]
    codes = {one["code"]: one for one in status["conditions"]}
    assert codes.keys() == {"FilesBroken", "ModelsLeftOut"}
    assert codes["ModelsLeftOut"]["modelIds"] == sorted(
        {GAMMA, *codes["ModelsLeftOut"]["modelIds"]}
    )
    assert status["pendingChanges"] == {"stop": 0, "start": 0}
    assert status["memory"]["totalBytes"] > status["memory"]["availableBytes"] > 0
    assert status["versions"]["llamaServer"]
    assert Path(status["versions"]["llamaServerPath"]).is_file()
    magid.ask("PUT", f"/api/models/{ALPHA}/enabled", {"enabled": False})
    status = magid.get("/api/models/status")
    assert status["pendingChanges"] == {"stop": 1, "start": 0}
    for path in ("/api/models/status", "/readyz"):
        (pending,) = [o for o in magid.get(path)["conditions"] if o["code"] == "ChangesPending"]
        assert pending == {
            "code": "ChangesPending", "severity": "note", "modelIds": [ALPHA],
            "message": f"changes are pending (to stop: {ALPHA})",
            "remedy": ["magictl diff", "magictl apply"],
        }  # fmt: skip


@pytest.mark.parametrize("path", ["/readyz", "/healthz", "/health"])
def test_readiness(magid: Running, path: str) -> None:
    now = magid.get(path)
    assert (now["status"], now["phase"], now["reasons"]) == ("ok", "serving", [])
    assert [one.partition(":")[0] for one in now["warnings"]] == ["2 files cannot be used"]
    assert magid.get(f"{path}?model={ALPHA}")["status"] == "ok"
    off = magid.client.get(path, params={"model": GAMMA})
    assert (off.status_code, off.headers["retry-after"]) == (503, "2")
    assert off.json()["reasons"] == [f"{GAMMA} has no server"]
    unknown = rest.refused(magid, "GET", f"{path}?model={UNKNOWN}", None, 404)
    assert unknown["error"] == "ModelNotFound"


def test_liveness(magid: Running) -> None:
    assert magid.get("/livez") == {"status": "ok"}


# -- before the first scan ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/api/models/registry", None),
        ("GET", "/api/models/tiers/fast", None),
        ("GET", f"/api/models/{ALPHA}", None),
        ("PUT", f"/api/models/{ALPHA}/tier", {"tier": "fast"}),
        ("PUT", f"/api/models/{ALPHA}/thinking", {"thinking": True}),
        ("PUT", f"/api/models/{ALPHA}/enabled", {"enabled": True}),
        ("PUT", f"/api/models/{ALPHA}/port", {"port": None}),
        ("PUT", f"/api/models/{ALPHA}/runtime-settings", {}),
        ("POST", f"/api/models/servers/{ALPHA}/start", None),
        ("POST", f"/api/models/servers/{ALPHA}/restart", None),
    ],
)
def test_nothing_is_known_before_a_scan_has_succeeded(
    blind: Running, method: str, path: str, body: object
) -> None:
    answer = rest.refused(blind, method, path, body, 503)
    assert answer["error"] == "NotReady"
    response = blind.client.request(method, path, json=body) if body else None
    assert response is None or int(response.headers["retry-after"]) > 0


def test_what_is_known_without_a_scan(blind: Running) -> None:
    assert "cannot read any model folder" in blind.log.read_text()
    answer = rest.refused(blind, "POST", "/api/models/rescan", None, 500)
    assert answer["error"] == "RescanFailed"
    assert str(blind.models) in answer["message"]
    assert blind.get("/livez") == {"status": "ok"}
    assert blind.get("/api/models/servers")["servers"] == []
    assert blind.get("/api/models/profiles") == ["test"]
    status = blind.get("/api/models/status")
    assert not status["ready"]
    assert any(str(blind.models) in problem for problem in status["problems"])
    ready = blind.client.get("/readyz")
    assert (ready.status_code, ready.headers["retry-after"]) == (503, "2")


def test_a_folder_that_comes_later(parts: rest.Parts, tmp_path: Path) -> None:
    with without_folder(parts, tmp_path) as running:
        running.models.mkdir()
        assert running.ask("POST", "/api/models/rescan")["modelsFound"] == 0
        assert running.get("/api/models/registry")["models"] == {}
        assert running.get("/readyz")["status"] == "ok"


@contextmanager
def without_folder(parts: rest.Parts, folder: Path) -> Iterator[Running]:
    running = parts.daemon(folder)
    running.models.rmdir()
    with running, running.client:
        running.wait_for("the end of boot", lambda: phase(running) == "serving")
        yield running


@pytest.fixture(scope="module")
def blind(parts: rest.Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A daemon whose model folder is not there."""
    with without_folder(parts, tmp_path_factory.mktemp("blind")) as running:
        yield running


def phase(magid: Running) -> str:
    return str(magid.get("/api/models/status")["phase"])
