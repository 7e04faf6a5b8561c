"""What users decide about models: tier, thinking, enabled, port and run-time settings."""

import re
from typing import Any

import pytest

from magid.llama.runtime_settings import SETTINGS
from tests.support import rest
from tests.support.rest import ALPHA, BETA, DEEPSEEK, GAMMA, QWEN
from tests.support.running import Running

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
UNKNOWN = "no_such_1p0b_q40_fast"


# -- overrides ---------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", ["fast", "balanced", "powerful"])
def test_tier_override(magid: Running, tier: str) -> None:
    answer = magid.ask("PUT", f"/api/models/{BETA}/tier", {"tier": tier}, status=200)
    assert answer == {
        "message": f"Tier updated for {BETA}",
        "modelId": BETA,
        "tier": tier,
        "override": True,
        "restartRequired": False,
    }
    shown = rest.model(magid, BETA)
    assert (shown["effectiveTier"], shown["assignedTier"]) == (tier, "balanced")
    cleared = magid.ask("PUT", f"/api/models/{BETA}/tier", {"tier": None})
    assert (cleared["tier"], cleared["override"]) == ("balanced", False)
    assert rest.model(magid, BETA)["tierOverride"] is None


@pytest.mark.parametrize(
    ("model_id", "tier_before", "thinking", "tier", "changed"),
    [
        (BETA, None, True, "powerful", True),  # without an override of its tier, powerful
        (BETA, None, False, "balanced", False),
        (BETA, "fast", True, "fast", False),  # the tier that the user chose stays
        (DEEPSEEK, None, True, "powerful", False),  # it was powerful before
        (DEEPSEEK, None, False, "powerful", False),
    ],
)
def test_thinking_override(
    magid: Running,
    model_id: str,
    tier_before: str | None,
    thinking: bool,
    tier: str,
    changed: bool,
) -> None:
    if tier_before:
        magid.ask("PUT", f"/api/models/{model_id}/tier", {"tier": tier_before})
    answer = magid.ask("PUT", f"/api/models/{model_id}/thinking", {"thinking": thinking})
    assert answer == {
        "message": f"Thinking capability updated for {model_id}",
        "modelId": model_id,
        "thinking": thinking,
        "override": True,
        "tierChanged": changed,
        "tier": tier,
        "restartRequired": False,
    }
    shown = rest.model(magid, model_id)
    assert (shown["effectiveThinking"], shown["effectiveTier"]) == (thinking, tier)
    cleared = magid.ask("PUT", f"/api/models/{model_id}/thinking", {"thinking": None})
    assert (cleared["override"], cleared["tierChanged"]) == (False, changed)
    assert cleared["thinking"] is shown["isThinkingModel"]


@pytest.mark.parametrize(
    ("model_id", "enabled", "restart"),
    [(ALPHA, True, False), (ALPHA, False, True), (GAMMA, True, True), (GAMMA, False, False)],
)
def test_enabled_override(
    magid: Running,
    model_id: str,
    enabled: bool,
    restart: bool,
) -> None:
    answer = magid.ask("PUT", f"/api/models/{model_id}/enabled", {"enabled": enabled})
    assert answer == {
        "message": f"Model {model_id} {'enabled' if enabled else 'disabled'}",
        "modelId": model_id,
        "enabled": enabled,
        "override": True,
        "restartRequired": restart,
    }
    assert rest.model(magid, model_id)["enabled"] is enabled
    assert (rest.model(magid, model_id)["port"] is not None) is enabled
    cleared = magid.ask("PUT", f"/api/models/{model_id}/enabled", {"enabled": None})
    assert (cleared["enabled"], cleared["override"]) == (model_id == ALPHA, False)


def test_enabling_more_models_than_there_are_ports(magid: Running) -> None:
    magid.ask("PUT", f"/api/models/{GAMMA}/enabled", {"enabled": True})
    answer = rest.refused(magid, "PUT", f"/api/models/{QWEN}/enabled", {"enabled": True}, 409)
    assert (answer["error"], answer["details"]) == ("PortTaken", {"modelId": QWEN})
    shown = rest.model(magid, QWEN)
    assert (shown["enabled"], shown["enabledOverride"]) == (False, None)
    magid.ask("PUT", f"/api/models/{GAMMA}/enabled", {"enabled": None})
    assert magid.ask("PUT", f"/api/models/{QWEN}/enabled", {"enabled": True})["enabled"]


def test_a_port_of_ones_own(magid: Running) -> None:
    low, high = magid.get("/api/models/registry")["portRange"]
    taken = {rest.model(magid, ALPHA)["port"], rest.model(magid, BETA)["port"]}
    (free,) = set(range(low, high + 1)) - taken
    answer = magid.ask("PUT", f"/api/models/{ALPHA}/port", {"port": free}, status=200)
    assert answer == {
        "message": f"Port updated for {ALPHA}",
        "modelId": ALPHA,
        "port": free,
        "override": True,
        "restartRequired": True,
    }
    assert rest.model(magid, ALPHA)["port"] == free
    theirs = rest.model(magid, BETA)["port"]
    conflict = rest.refused(magid, "PUT", f"/api/models/{ALPHA}/port", {"port": theirs}, 409)
    assert (conflict["error"], conflict["details"]) == (
        "PortTaken",
        {"port": theirs, "modelId": BETA},
    )
    (first,) = taken - {theirs}
    magid.ask("PUT", f"/api/models/{ALPHA}/port", {"port": theirs, "exchange": True})
    assert rest.model(magid, BETA)["port"] == free
    magid.ask("PUT", f"/api/models/{ALPHA}/port", {"port": free, "exchange": True})
    assert rest.model(magid, BETA)["port"] == theirs
    magid.ask("PUT", f"/api/models/{ALPHA}/port", {"port": first})  # back to where it runs
    cleared = magid.ask("PUT", f"/api/models/{ALPHA}/port", {"port": None})
    assert (cleared["override"], cleared["restartRequired"]) == (False, False)


@pytest.mark.parametrize("port", [1, 1023, 65535])
def test_a_port_outside_the_range(magid: Running, port: int) -> None:
    answer = rest.refused(magid, "PUT", f"/api/models/{ALPHA}/port", {"port": port}, 400)
    assert answer["details"]["field"] == "port"


# -- run-time settings -------------------------------------------------------------------------


def settings(magid: Running, body: object) -> dict[str, Any]:
    answer: dict[str, Any] = magid.ask("PUT", f"/api/models/{BETA}/runtime-settings", body)
    assert answer["message"] == f"Runtime settings updated for {BETA}"
    return answer


def test_settings_change_one_by_one(magid: Running) -> None:
    assert settings(magid, {})["restartRequired"] is False
    changed = settings(magid, {"ctxSize": 1024, "extraArgs": ["--top-k", "5"]})
    assert changed["restartRequired"] is True
    nothing: dict[str, object] = {setting.key: None for setting in SETTINGS}
    assert changed["runtimeSettings"] == nothing | {
        "ctxSize": 1024, "extraArgs": ["--top-k", "5"],
    }  # fmt: skip
    assert settings(magid, {"batchSize": 64})["runtimeSettings"]["ctxSize"] == 1024
    shown = rest.model(magid, BETA)
    assert (shown["ctxSize"], shown["batchSize"], shown["nThreads"]) == (1024, 64, 1)
    back = settings(magid, {"ctxSize": None, "extraArgs": None, "batchSize": None})
    assert set(back["runtimeSettings"].values()) == {None}
    assert back["restartRequired"] is False
    assert rest.model(magid, BETA)["ctxSize"] == 512  # the configured default


@pytest.mark.parametrize(
    ("extra_args", "field"),
    [
        (["--port", "1"], "extraArgs[0]"),
        (["--top-k", "5", "--api-key", "x"], "extraArgs[2]"),
        (["--top-k", "many"], "extraArgs[1]"),
        (["; rm -rf /"], "extraArgs[0]"),
        (["--top-k", "1\n--rpc"], "extraArgs[1]"),
        ("--top-k 5", "extraArgs"),
        ([5], "extraArgs[0]"),
    ],
)
def test_extra_arguments_that_are_refused(magid: Running, extra_args: object, field: str) -> None:
    path = f"/api/models/{BETA}/runtime-settings"
    answer = rest.refused(magid, "PUT", path, {"extraArgs": extra_args, "ctxSize": 64}, 400)
    assert answer["details"]["field"] == field
    assert rest.model(magid, BETA)["ctxSize"] == 512  # nothing of it was taken


@pytest.mark.parametrize(
    ("what", "body", "field"),
    [
        ("tier", {"tier": "medium"}, "tier"),
        ("tier", {"tier": 1}, "tier"),
        ("tier", {}, "tier"),
        ("tier", {"tier": "fast", "extra": 1}, "extra"),
        ("tier", [], ""),
        ("tier", None, None),
        ("thinking", {"thinking": "yes"}, "thinking"),
        ("thinking", {"thinking": 1}, "thinking"),
        ("enabled", {"enabled": "true"}, "enabled"),
        ("enabled", {"Enabled": True}, "enabled"),
        ("port", {"port": 0}, "port"),
        ("port", {"port": 65536}, "port"),
        ("port", {"port": "8080"}, "port"),
        ("port", {"port": 8080.0}, "port"),
        ("port", {"port": True}, "port"),
        ("port", {"port": 10**400}, "port"),
        ("runtime-settings", {"ctxSize": -1}, "ctxSize"),
        ("runtime-settings", {"ctx_size": 1}, "ctx_size"),
        ("runtime-settings", {"instances": 17}, "instances"),
        ("runtime-settings", {"instances": 0}, "instances"),
        ("runtime-settings", {"x" * 1000: 0}, "x" * 200),
    ],
)  # fmt: skip
def test_bodies_that_are_refused(
    magid: Running, what: str, body: object, field: str | None
) -> None:
    path = f"/api/models/{ALPHA}/{what}"
    if body is None:
        assert rest.refused(magid, "PUT", path, None, 415)["error"] == "UnsupportedMediaType"
        return
    answer = rest.refused(magid, "PUT", path, body, 400)
    assert answer["error"] == "InvalidInput"
    assert answer["details"]["field"] == field
