"""The whole daemon with a real llama-server and real models, as an administrator would use it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support import ggufs
from tests.support.deadlines import DEADLINE_S
from tests.support.running import Running

pytestmark = pytest.mark.slow

PROFILE = "name: Test\ndescription: everything\nenabled_models: ['*']\n"


@pytest.fixture
def magid(
    tmp_path: Path,
    llama_server: Path,
    free_ports: Callable[[int], int],
    free_port: Callable[[], int],
) -> Iterator[Running]:
    """A daemon with six models of different kinds and a profile of all; not started yet."""
    low = free_ports(8)
    running = Running(
        tmp_path, port=free_port(), port_range=(low, low + 7), llama_server=llama_server
    )
    write_six(running.models)
    (running.profiles / "test.yaml").write_text(PROFILE)
    yield running
    if running.process is not None and running.process.poll() is None:
        running.stop()
    running.client.close()


def write_six(models: Path) -> None:
    ggufs.write_chat_model(models / "Alpha-Instruct-Q4_0.gguf", quantization="Q4_0")
    ggufs.write_chat_model(models / "Beta-F16.gguf", quantization="F16")
    (models / "deep" / "er").mkdir(parents=True)
    ggufs.write_chat_model(
        models / "deep" / "er" / "Gamma-Thinking-F16.gguf",
        template=ggufs.THINKING_TEMPLATE,
        answer=ggufs.THINKING_ANSWER,
        quantization="F16",
    )
    ggufs.write_embedding_model(models / "Delta-Embed-F32.gguf")
    ggufs.write_split_model(models / "Epsilon-F32", 2)
    ggufs.write_chat_model(models / "Zeta-Coder-Q8_0.gguf", quantization="Q8_0")
    others = models / "others"
    others.mkdir()
    ggufs.write_mmproj(others / "mmproj-Alpha.gguf")
    ggufs.write_lora(others / "lora.gguf")
    ggufs.write_imatrix(others / "imatrix.gguf")
    ggufs.write_vocab_only(others / "vocab.gguf")


def by_family(magid: Running) -> dict[str, Any]:
    return {m["family"]: m for m in magid.get("/api/models/registry")["models"].values()}


def processes_below(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def test_from_a_folder_of_files_to_answers(magid: Running) -> None:
    with magid:
        magid.wait_ready()
        models = by_family(magid)
        assert {f: (m["kind"], m["assignedTier"]) for f, m in models.items()} == {
            "alpha": ("chat", "fast"),
            "beta": ("chat", "balanced"),
            "gamma": ("chat", "powerful"),
            "delta": ("embedding", "balanced"),
            "epsilon": ("chat", "balanced"),
            "zeta": ("chat", "balanced"),
        }
        assert len(models["epsilon"]["files"]) == 2
        servers = magid.servers()
        assert len(servers) == 6
        assert all(s["isReady"] and s["isRunning"] and s["specCurrent"] for s in servers.values())
        assert {s["port"] for s in servers.values()} == {m["port"] for m in models.values()}
        for family, model in models.items():
            if family == "delta":
                assert len(embedding(magid, model["port"])) == 64
            else:
                assert magid.complete(model["port"])
        assert magid.stop() == 0


def embedding(magid: Running, port: int) -> list[float]:
    response = httpx.post(
        f"http://127.0.0.1:{port}/v1/embeddings",
        headers={"Authorization": f"Bearer {magid.key(port)}"},
        json={"input": "hello"},
        timeout=DEADLINE_S,
        trust_env=False,
    )
    assert response.status_code == 200, response.text
    return list(response.json()["data"][0]["embedding"])


def test_a_server_answers_nobody_without_its_key(magid: Running) -> None:
    with magid:
        magid.wait_ready()
        for server in magid.servers().values():
            for headers in ({}, {"Authorization": "Bearer wrong"}):
                answer = httpx.post(
                    f"{server['endpoint']}/v1/completions",
                    json={"prompt": "x"},
                    headers=headers,
                    timeout=DEADLINE_S,
                    trust_env=False,
                )
                assert answer.status_code == 401
            key = magid.key(server["port"])
            line = Path(f"/proc/{server['pid']}/cmdline").read_bytes()
            environment = Path(f"/proc/{server['pid']}/environ").read_bytes()
            assert key.encode() not in line + environment
            assert key not in magid.log.read_text()


def test_decisions_survive_a_restart_and_a_kill(magid: Running) -> None:
    with magid:
        magid.wait_ready()
        ids = {family: m["modelId"] for family, m in by_family(magid).items()}
        magid.ask("PUT", f"/api/models/{ids['alpha']}/tier", {"tier": "powerful"})
        magid.ask("PUT", f"/api/models/{ids['beta']}/thinking", {"thinking": True})
        answer = magid.ask("PUT", f"/api/models/{ids['zeta']}/enabled", {"enabled": False})
        assert answer["restartRequired"]
        magid.ask("PUT", f"/api/models/{ids['delta']}/runtime-settings", {"ctxSize": 256})
        before = by_family(magid)
        servers = {server["pid"] for server in magid.servers().values()}
        assert len(servers) == 6
        orphans = processes_below(magid.process.pid)  # type: ignore[union-attr]  # it runs
        magid.kill()
    gone, alive = psutil.wait_procs(orphans, DEADLINE_S)
    assert servers <= {process.pid for process in gone}  # beside them the reader of headers
    assert not alive, "servers outlived a daemon that was killed"
    with magid:
        magid.wait_ready()
        after = by_family(magid)
        for row in (*before.values(), *after.values()):
            del row["memory"]  # no decision: by what is free and predicted
        assert after == before
        assert after["alpha"]["effectiveTier"] == "powerful"
        assert after["alpha"]["assignedTier"] == "fast"
        assert (after["beta"]["effectiveThinking"], after["beta"]["effectiveTier"]) == (
            True,
            "powerful",
        )
        assert not after["zeta"]["enabled"]
        assert after["delta"]["ctxSize"] == 256
        assert ids["zeta"] not in magid.servers()
        assert len(magid.servers()) == 5


def test_a_killed_server_comes_back(magid: Running) -> None:
    with magid:
        magid.wait_ready()
        model_id, server = next(iter(magid.servers().items()))
        os.kill(server["pid"], 9)
        magid.wait_for(
            "a restart", lambda: magid.servers()[model_id]["invocationId"] != server["invocationId"]
        )
        again = magid.wait_state(model_id, "ready")
        assert again["pid"] != server["pid"]
        assert again["restarts"] == 1
        assert magid.complete(again["port"])


def test_rescan_sees_what_changed_and_touches_nothing_that_runs(magid: Running) -> None:
    with magid:
        magid.wait_ready()
        ids = {family: m["modelId"] for family, m in by_family(magid).items()}
        pids = {model_id: s["pid"] for model_id, s in magid.servers().items()}
        magid.ask("PUT", f"/api/models/{ids['beta']}/tier", {"tier": "fast"})

        ggufs.write_chat_model(magid.models / "Eta-F16.gguf", quantization="F16")
        (magid.models / "Beta-F16.gguf").unlink()
        zeta = magid.models / "Zeta-Coder-Q8_0.gguf"
        zeta.write_bytes(zeta.read_bytes()[:1000])
        replacement = magid.folder / "new.gguf"
        ggufs.write_chat_model(replacement, quantization="Q4_0", seed=7)
        shutil.move(replacement, magid.models / "Alpha-Instruct-Q4_0.gguf")
        (magid.models / "empty.gguf").touch()

        answer = magid.ask("POST", "/api/models/rescan")
        assert (answer["modelsFound"], answer["modelsAdded"], answer["modelsRemoved"]) == (5, 1, 2)
        assert sorted(answer["removed"]) == sorted([ids["beta"], ids["zeta"]])
        broken = {Path(b["path"]).name: b["reason"] for b in answer["modelsBroken"]}
        assert broken.keys() == {"Zeta-Coder-Q8_0.gguf", "empty.gguf"}
        assert "truncated" in broken["Zeta-Coder-Q8_0.gguf"]
        assert {i: s["pid"] for i, s in magid.servers().items() if i in pids} == pids

        registry = magid.get("/api/models/registry")
        removed = {m["modelId"]: m for m in registry["modelsRemoved"]}
        assert removed[ids["beta"]]["tierOverride"] == "fast"
        assert not magid.servers()[ids["alpha"]]["specCurrent"]  # its file was replaced

        plan = magid.ask("POST", "/api/models/apply?dryRun=true")
        assert {line["modelId"] for line in plan["stop"]} == {
            ids[family] for family in ("alpha", "beta", "zeta")
        }
        magid.ask("POST", "/api/models/apply")
        magid.wait_for("the applied plan", lambda: applied(magid))
        assert magid.servers()[ids["alpha"]]["pid"] != pids[ids["alpha"]]
        assert magid.servers()[ids["gamma"]]["pid"] == pids[ids["gamma"]]

        ggufs.write_chat_model(magid.models / "Beta-F16.gguf", quantization="F16")
        back = magid.ask("POST", "/api/models/rescan")
        assert back["added"] == []
        assert by_family(magid)["beta"]["tierOverride"] == "fast"


def applied(magid: Running) -> bool:
    servers = magid.servers().values()
    pending = magid.ask("POST", "/api/models/apply?dryRun=true")
    return not pending["start"] and not pending["stop"] and all(s["isReady"] for s in servers)


def test_profiles_decide_what_runs(magid: Running) -> None:
    with magid:
        magid.wait_ready()
        created = magid.ask(
            "POST",
            "/api/models/profiles",
            {"name": "Only Fast", "description": "d", "enabledModels": ["tier:fast"]},
            status=201,
        )
        assert created["profileName"] == "only-fast"
        assert created["message"] == "Profile 'Only Fast' created successfully"
        assert Path(created["path"]) == magid.profiles / "only-fast.yaml"
        magid.ask("POST", "/api/models/profiles/only-fast/activate")
        magid.wait_for("one server", lambda: len(magid.servers()) == 1 and applied(magid))
        assert [s["tier"] for s in magid.servers().values()] == ["fast"]
        assert magid.get("/readyz")["status"] == "ok"

        edited = (magid.profiles / "only-fast.yaml").read_text().replace("tier:fast", "'*'")
        (magid.profiles / "only-fast.yaml").write_text(edited)
        assert all(m["enabled"] for m in by_family(magid).values())  # seen without a restart
        (magid.profiles / "only-fast.yaml").write_text("name: [\n")
        status = magid.get("/api/models/status")
        assert any("only-fast.yaml" in problem for problem in status["problems"])
        assert all(m["enabled"] for m in by_family(magid).values())  # the last good one holds
        assert magid.ask("GET", "/api/models/profiles/only-fast", status=409)["error"]
        magid.ask("DELETE", "/api/models/profiles/only-fast", status=409)
        magid.ask("POST", "/api/models/profiles/test/activate?apply=false")
        gone = magid.ask("DELETE", "/api/models/profiles/only-fast")
        assert gone["message"] == "Profile 'only-fast' deleted successfully"
    with magid:
        assert magid.get("/api/models/status")["activeProfile"] == "test"


def test_start_stop_and_restart_of_one_model(magid: Running) -> None:
    with magid:
        magid.wait_ready()
        model_id = by_family(magid)["alpha"]["modelId"]
        pid = magid.servers()[model_id]["pid"]
        base = f"/api/models/servers/{model_id}"
        assert magid.ask("POST", f"{base}/start?wait=30")["servers"][0]["pid"] == pid
        assert magid.ask("POST", f"{base}/restart?wait=30")["servers"][0]["pid"] != pid
        stopped = magid.ask("POST", f"{base}/stop?wait=30")["servers"][0]
        assert (stopped["state"], stopped["pid"], stopped["isRunning"]) == ("stopped", None, False)
        assert magid.client.get("/readyz").status_code == 200  # a person's stop is respected
        assert magid.client.get("/readyz", params={"model": model_id}).status_code == 503
        magid.ask("POST", f"{base}/start", status=202)
        magid.wait_state(model_id, "ready")
        lines = magid.get(f"{base}/logs?lines=500&grep=listening")["lines"]
        assert lines
        assert all("listening" in line["message"].lower() for line in lines)
        magid.ask("PUT", f"/api/models/{model_id}/enabled", {"enabled": False})
        assert magid.ask("POST", f"{base}/start", status=409)["error"] == "ModelDisabled"


def test_two_instances_have_two_ports(magid: Running) -> None:
    with magid:
        magid.wait_ready()
        model_id = by_family(magid)["alpha"]["modelId"]
        answer = magid.ask(
            "PUT", f"/api/models/{model_id}/runtime-settings", {"instances": 2, "parallel": 2}
        )
        assert answer["restartRequired"]
        assert answer["runtimeSettings"]["instances"] == 2
        magid.ask("POST", "/api/models/apply")
        magid.wait_for("two servers", lambda: len(ready_of(magid, model_id)) == 2)
        servers = ready_of(magid, model_id)
        assert [s["instance"] for s in servers] == [0, 1]
        assert len({s["port"] for s in servers}) == 2
        assert magid.complete(servers[1]["port"])
        detail = magid.get(f"/api/models/{model_id}")
        assert detail["ports"] == [s["port"] for s in servers]
        assert detail["sources"]["instances"] == "override"
        assert [argv[argv.index("--port") + 1] for argv in detail["argv"]] == [
            str(port) for port in detail["ports"]
        ]


def ready_of(magid: Running, model_id: str) -> list[Any]:
    servers = magid.get("/api/models/servers?all=true")["servers"]
    return [s for s in servers if s["modelId"] == model_id and s["isReady"]]


def test_a_model_runs_on_the_device_that_was_chosen(magid: Running) -> None:
    with magid:
        magid.wait_ready()
        model_id = by_family(magid)["alpha"]["modelId"]
        path = f"/api/models/{model_id}/runtime-settings"
        refused = magid.ask("PUT", path, {"device": "/dev/nvidia0"}, status=400)
        assert refused["details"]["field"] == "device"
        before = magid.servers()
        answer = magid.ask("PUT", path, {"device": "none"})  # every build has that one
        assert answer["restartRequired"]
        magid.ask("POST", "/api/models/apply")
        magid.wait_for("another process", lambda: is_another(magid, model_id, before))
        after = magid.servers()
        assert [m for m in before if after[m]["pid"] != before[m]["pid"]] == [model_id]
        argv = psutil.Process(after[model_id]["pid"]).cmdline()
        assert argv[argv.index("--device") + 1] == "none"
        assert magid.complete(after[model_id]["port"])
        assert magid.get(f"/api/models/{model_id}")["sources"]["device"] == "override"


def is_another(magid: Running, model_id: str, before: dict[str, Any]) -> bool:
    now = magid.servers()[model_id]
    return bool(now["isReady"] and now["pid"] != before[model_id]["pid"])


def test_a_second_daemon_on_the_same_state_refuses_to_start(
    magid: Running, free_port: Callable[[], int]
) -> None:
    with magid:
        second = subprocess.run(
            [sys.executable, "-m", "magid", "--bind", f"127.0.0.1:{free_port()}"],
            env=magid.environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert second.returncode == 1
        assert f"pid {magid.process.pid}" in second.stderr  # type: ignore[union-attr]  # it runs


def test_a_corrupt_registry_falls_back_and_says_so(magid: Running) -> None:
    with magid:
        magid.wait_ready()
        model_id = by_family(magid)["alpha"]["modelId"]
        magid.ask("PUT", f"/api/models/{model_id}/tier", {"tier": "balanced"})
        magid.ask("PUT", f"/api/models/{model_id}/tier", {"tier": "powerful"})
    registry = magid.state / "model_registry.json"
    registry.write_bytes(registry.read_bytes()[:200])
    with magid:
        magid.wait_ready()
        ready = magid.get("/readyz")
        assert any("model_registry.json" in warning for warning in ready["warnings"])
        assert by_family(magid)["alpha"]["tierOverride"] == "balanced"  # the last good one
        assert list(magid.state.glob("model_registry.json.corrupt-*"))
        kind, data = next(magid.events())
        assert kind == "snapshot"
        assert data["problems"]


def test_nothing_is_acknowledged_that_cannot_be_written(magid: Running) -> None:
    with magid:
        magid.wait_ready()
        model_id = by_family(magid)["alpha"]["modelId"]
        registry = magid.state / "model_registry.json"
        before = json.loads(registry.read_text())
        elsewhere = magid.folder / "moved"
        magid.state.rename(elsewhere)
        magid.state.write_text("a file where the folder was")
        try:
            answer = magid.ask(
                "PUT", f"/api/models/{model_id}/tier", {"tier": "powerful"}, status=507
            )
            assert answer["error"] == "CannotWrite"
            assert by_family(magid)["alpha"]["tierOverride"] is None
        finally:
            magid.state.unlink()
            elsewhere.rename(magid.state)
        assert json.loads(registry.read_text()) == before
        magid.ask("PUT", f"/api/models/{model_id}/tier", {"tier": "powerful"})
