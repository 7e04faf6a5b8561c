"""Profiles over REST: list, read, create, replace, delete, activate."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import rest
from tests.support.rest import ALPHA, BETA, DEEPSEEK, QWEN
from tests.support.running import Running
from tests.support.values import EXAMPLE_PROFILE

PROFILES = "/api/models/profiles"


@pytest.fixture
def magid(shared: Running) -> Iterator[Running]:
    """Leaves `test` as the only profile, active and applied."""
    yield shared
    shared.ask("POST", f"{PROFILES}/test/activate")
    for path in shared.profiles.iterdir():
        if path.name != "test.yaml":
            path.unlink()


def test_create_read_and_delete(magid: Running) -> None:
    created = magid.ask("POST", PROFILES, EXAMPLE_PROFILE, status=201)
    assert created == {
        "message": "Profile 'Development' created successfully",
        "profileName": "development",
        "path": str(magid.profiles / "development.yaml"),
    }
    assert Path(created["path"]).is_file()
    assert magid.get(PROFILES) == ["development", "test"]
    assert magid.get(f"{PROFILES}/development") == {
        **EXAMPLE_PROFILE,
        "active": False,
        "missingModels": ["qwen3_4p0b_q4km_fast"],
    }
    assert magid.get(f"{PROFILES}/test")["active"]
    gone = magid.ask("DELETE", f"{PROFILES}/development", status=200)
    assert gone == {"message": "Profile 'development' deleted successfully"}
    assert magid.get(PROFILES) == ["test"]


def test_the_smallest_profile_gets_defaults(magid: Running) -> None:
    magid.ask("POST", PROFILES, {"name": "Bare"}, status=201)
    shown = magid.get(f"{PROFILES}/bare")
    assert (shown["description"], shown["enabledModels"], shown["missingModels"]) == ("", [], [])
    assert [tier["name"] for tier in shown["tierConfig"]] == ["fast", "balanced", "powerful"]
    assert shown["twoStage"] == EXAMPLE_PROFILE["twoStage"]
    assert shown["loadBalancing"] == EXAMPLE_PROFILE["loadBalancing"]


def test_what_was_read_can_be_written_back(magid: Running) -> None:
    magid.ask("POST", PROFILES, EXAMPLE_PROFILE)
    shown = magid.get(f"{PROFILES}/development")
    own = {key: value for key, value in shown.items() if key in EXAMPLE_PROFILE}
    magid.ask("PUT", f"{PROFILES}/development", own)
    assert magid.get(f"{PROFILES}/development") == shown


def test_names_become_file_names(magid: Running) -> None:
    made = magid.ask("POST", PROFILES, {"name": "../../etc/Pässe & Co"})
    assert made["profileName"] == "etc-passe-co"
    assert Path(made["path"]).parent == magid.profiles


def test_selectors_that_select_nothing_are_shown(magid: Running) -> None:
    enabled = [
        "deepseek_r1_8b_q4km_powerful",
        "tier:balanced",
        "qwen3*",
        "nobody*",
        "x_1p0b_q40_fast",
    ]
    magid.ask("POST", PROFILES, {"name": "Mixed", "enabledModels": enabled})
    shown = magid.get(f"{PROFILES}/mixed")
    assert shown["missingModels"] == ["nobody*", "x_1p0b_q40_fast"]


def test_a_profile_exists_once(magid: Running) -> None:
    magid.ask("POST", PROFILES, {"name": "Night Run"})
    answer = rest.refused(magid, "POST", PROFILES, {"name": "night-run"}, 409)
    assert (answer["error"], answer["details"]) == ("ProfileExists", {"profileName": "night-run"})


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
@pytest.mark.parametrize(
    "name", ["nobody", "Test", "test.yaml", "..", "%2e%2e%2ftest", "test%00", "t" * 64, "-test"]
)
def test_no_such_profile(magid: Running, method: str, name: str) -> None:
    path = f"{PROFILES}/{name}" + ("/activate" if method == "POST" else "")
    body = {"name": "X"} if method == "PUT" else None
    if name == "..":  # the client itself resolves it
        path = path.replace("..", "%2e.")
    assert rest.refused(magid, method, path, body, 404)["error"] == "ProfileNotFound"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": " "}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "???"}, "name"),
        ({"name": 5}, "name"),
        ({"name": "X", "description": "a\u0000"}, "description"),
        ({"name": "X", "enabledModels": "all"}, "enabledModels"),
        ({"name": "X", "enabledModels": ["*", "../x"]}, "enabledModels[1]"),
        ({"name": "X", "enabledModels": ["tier:huge"]}, "enabledModels[0]"),
        ({"name": "X", "enabledModels": ["*"] * 1001}, "enabledModels"),
        ({"name": "X", "tierConfig": [{"name": "fast"}]}, "tierConfig[0].maxScore"),
        ({"name": "X", "tierConfig": [{"name": "fast", "maxScore": -1}]}, "tierConfig[0].maxScore"),
        ({"name": "X", "twoStage": {"enabled": "no"}}, "twoStage.enabled"),
        ({"name": "X", "loadBalancing": {"strategy": "random"}}, "loadBalancing.strategy"),
        ({"name": "X", "colour": "red"}, "colour"),
        ({"name": "X", "aliases": {"x": {"model": "auto", "set": 5}}}, "aliases.x.set"),
        ({"name": "X", "aliases": {"a\nb": "auto"}}, "aliases.a\nb"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_profiles_that_are_refused(
    magid: Running, method: str, body: dict[str, object], field: str
) -> None:
    if method == "PUT" and body.get("name") == "???":
        return  # the file keeps its name
    path = PROFILES if method == "POST" else f"{PROFILES}/test"
    answer = rest.refused(magid, method, path, body, 400)
    assert answer["details"]["field"] == field
    assert magid.get(PROFILES) == ["test"]


# -- concurrency -------------------------------------------------------------------------------


def test_a_replacement_counts_only_for_what_was_read(magid: Running) -> None:
    magid.ask("POST", PROFILES, EXAMPLE_PROFILE)
    path = f"{PROFILES}/development"
    tag = magid.client.get(path).headers["etag"]
    body = {**EXAMPLE_PROFILE, "description": "changed"}
    for stale in ('"other"', f"W/{tag}", "garbage"):
        response = magid.client.put(path, json=body, headers={"If-Match": stale})
        assert (response.status_code, response.json()["error"]) == (412, "StaleRevision")
    done = magid.client.put(path, json=body, headers={"If-Match": f'"other", {tag}'})
    assert done.json() == {
        "message": "Profile 'development' replaced successfully",
        "profileName": "development",
        "active": False,
    }
    assert magid.get(path)["description"] == "changed"
    assert magid.client.put(path, json=body, headers={"If-Match": tag}).status_code == 412
    for blind in ({}, {"If-Match": "*"}):
        assert magid.client.put(path, json=EXAMPLE_PROFILE, headers=blind).status_code == 200
    assert magid.client.get(path).headers["etag"] == tag  # the same content again


def test_a_tag_covers_all_that_is_answered(magid: Running) -> None:
    tag = magid.client.get(f"{PROFILES}/test").headers["etag"]
    magid.ask("POST", PROFILES, {"name": "None"})
    magid.ask("POST", f"{PROFILES}/none/activate?apply=false")
    again = magid.client.get(f"{PROFILES}/test", headers={"If-None-Match": tag})
    assert (again.status_code, again.json()["active"]) == (200, False)
    content = {key: value for key, value in again.json().items() if key in EXAMPLE_PROFILE}
    kept = magid.client.put(f"{PROFILES}/test", json=content, headers={"If-Match": tag})
    assert kept.status_code == 200  # the file is the one that was read


def test_an_edit_by_hand_counts_as_a_change(magid: Running) -> None:
    magid.ask("POST", PROFILES, EXAMPLE_PROFILE)
    path = f"{PROFILES}/development"
    tag = magid.client.get(path).headers["etag"]
    file = magid.profiles / "development.yaml"
    file.write_text(file.read_text().replace("Fast iteration", "Slow iteration"))
    changed = magid.client.put(path, json=EXAMPLE_PROFILE, headers={"If-Match": tag})
    assert changed.status_code == 412
    assert magid.get(path)["description"].startswith("Slow")


# -- the active one ----------------------------------------------------------------------------


def test_the_active_profile_stays(magid: Running) -> None:
    answer = rest.refused(magid, "DELETE", f"{PROFILES}/test", None, 409)
    assert (answer["error"], answer["details"]) == ("ProfileActive", {"profileName": "test"})


def test_a_profile_is_activated_and_applied_in_one_step_or_two(magid: Running) -> None:
    magid.ask("POST", PROFILES, {"name": "Beta", "enabledModels": ["beta*"]})
    shown = magid.ask("POST", f"{PROFILES}/beta/activate?dryRun=true", status=200)
    assert (shown["message"], shown["applied"]) == ("Nothing was changed", False)
    assert [line["modelId"] for line in shown["stop"]] == [ALPHA]
    assert magid.get("/api/models/status")["activeProfile"] == "test"
    assert rest.model(magid, ALPHA)["enabled"]
    answer = magid.ask("POST", f"{PROFILES}/beta/activate?apply=false", status=200)
    assert (answer["message"], answer["profileName"]) == ("Profile 'beta' activated", "beta")
    assert answer["applied"] is False
    assert [line["modelId"] for line in answer["stop"]] == [ALPHA]
    assert magid.get("/api/models/status")["activeProfile"] == "beta"
    assert magid.servers()[ALPHA]["isReady"]
    assert not rest.model(magid, ALPHA)["enabled"]
    applied = magid.ask("POST", f"{PROFILES}/beta/activate", status=202)
    assert applied["applied"] is True
    magid.wait_for("alpha to stop", lambda: magid.servers().keys() == {BETA})
    back = magid.ask("POST", f"{PROFILES}/test/activate", status=202)
    assert [line["modelId"] for line in back["start"]] == [ALPHA]
    magid.wait_for("both", lambda: both_ready(magid))
    again = magid.ask("POST", f"{PROFILES}/test/activate", status=200)
    assert (again["applied"], again["stop"], again["start"]) == (False, [], [])


def both_ready(magid: Running) -> bool:
    return [server["isReady"] for server in magid.servers().values()] == [True, True]


def test_overrides_outlive_a_change_of_profile(magid: Running) -> None:
    magid.ask("POST", PROFILES, {"name": "None", "enabledModels": []})
    magid.ask("PUT", f"/api/models/{ALPHA}/enabled", {"enabled": True})
    magid.ask("POST", f"{PROFILES}/none/activate?apply=false")
    assert rest.model(magid, ALPHA)["enabled"]
    assert not rest.model(magid, BETA)["enabled"]
    rest.forget_overrides(magid)


def test_more_models_than_ports_are_told_and_not_lost(magid: Running) -> None:
    magid.ask("POST", PROFILES, {"name": "All", "enabledModels": ["*"]})
    answer = magid.ask("POST", f"{PROFILES}/all/activate?apply=false", status=200)
    blocked = {line["modelId"]: line for line in answer["blocked"]}
    assert len(blocked) == 2
    assert blocked.keys() <= {DEEPSEEK, QWEN, "gamma_thinking_0p0b_f16_powerful"}
    assert all("port_range" in line["reason"] and line["port"] is None for line in blocked.values())
    assert magid.client.get("/readyz").status_code == 503


def test_a_broken_file_is_shown_and_can_be_replaced(magid: Running) -> None:
    file = magid.profiles / "broken.yaml"
    file.write_text("name: Broken\nenabled_models: [*everything]\n")
    path = f"{PROFILES}/broken"
    assert magid.get(PROFILES) == ["broken", "test"]
    for method, suffix in (("GET", ""), ("POST", "/activate")):
        answer = rest.refused(magid, method, path + suffix, None, 409)
        assert answer["error"] == "InvalidProfile"
        assert f"{file}: line 2" in answer["message"]
    magid.ask("PUT", path, {"name": "Mended"})
    assert magid.get(path)["name"] == "Mended"


def test_a_folder_that_cannot_be_written(magid: Running) -> None:
    aside = magid.folder / "aside"
    magid.profiles.rename(aside)
    try:
        answer: dict[str, Any] = rest.refused(magid, "POST", PROFILES, {"name": "New"}, 507)
        assert answer["error"] == "CannotWrite"
        assert magid.get(PROFILES) == []
    finally:
        aside.rename(magid.profiles)


# -- as text -----------------------------------------------------------------------------------

TEXTS = "/api/models/profile-texts"
COMMENTED = """\
# For the night.
name: Night Shift
enabled_models:
- 'alpha*'  # small
# nothing else
"""


def test_a_text_is_kept_with_its_comments(magid: Running) -> None:
    created = magid.ask("POST", TEXTS, {"text": COMMENTED}, status=201)
    assert created["profileName"] == "night-shift"
    assert Path(created["path"]).read_text() == COMMENTED
    path = f"{TEXTS}/night-shift"
    response = magid.client.get(path)
    shown = {"profileName": "night-shift", "text": COMMENTED, "faults": []}
    assert response.json() == shown
    assert magid.get(f"{PROFILES}/night-shift")["enabledModels"] == ["alpha*"]
    tag = response.headers["etag"]
    assert magid.client.get(path, headers={"If-None-Match": tag}).status_code == 304
    changed = COMMENTED.replace("alpha", "beta")
    done = magid.client.put(path, json={"text": changed}, headers={"If-Match": tag})
    assert done.json()["message"] == "Profile 'night-shift' replaced successfully"
    assert Path(created["path"]).read_text() == changed
    late = magid.client.put(path, json={"text": COMMENTED}, headers={"If-Match": tag})
    assert (late.status_code, late.json()["error"]) == (412, "StaleRevision")
    again = rest.refused(magid, "POST", TEXTS, {"text": COMMENTED}, 409)
    assert again["error"] == "ProfileExists"


def test_a_text_is_refused_with_all_that_is_wrong_by_line(magid: Running) -> None:
    before = (magid.profiles / "test.yaml").read_text()
    text = "name: X\ntier_config:\n- name: fast\n  max_score: many\ncolour: red\n"
    answer = rest.refused(magid, "PUT", f"{TEXTS}/test", {"text": text}, 400)
    found = {(one["line"], one["field"]) for one in answer["details"]["errors"]}
    assert found == {(4, "tier_config[0].max_score"), (5, "colour")}
    no_yaml = rest.refused(magid, "POST", TEXTS, {"text": "name: [\n"}, 400)
    assert no_yaml["details"]["errors"][0]["line"] == 2
    missing = rest.refused(magid, "POST", TEXTS, {"text": "description: x\n"}, 400)
    assert missing["details"]["errors"] == [
        {"line": None, "field": "name", "reason": "is missing; add it"}
    ]
    assert rest.refused(magid, "PUT", f"{TEXTS}/none", {"text": COMMENTED}, 404)
    assert magid.get(PROFILES) == ["test"]
    assert (magid.profiles / "test.yaml").read_text() == before


def test_a_broken_file_is_shown_and_can_be_mended(magid: Running) -> None:
    file = magid.profiles / "broken.yaml"
    file.write_text("name: Broken\nenabled_models: 5\n")
    assert rest.refused(magid, "GET", f"{PROFILES}/broken", None, 409)
    shown = magid.get(f"{TEXTS}/broken")
    assert shown["text"] == file.read_text()
    assert [(one["line"], one["field"]) for one in shown["faults"]] == [(2, "enabled_models")]
    magid.ask("PUT", f"{TEXTS}/broken", {"text": COMMENTED})
    assert magid.get(f"{PROFILES}/broken")["name"] == "Night Shift"
    file.write_bytes(b"name: \xff\n")
    refused = rest.refused(magid, "GET", f"{TEXTS}/broken", None, 409)
    assert "UTF-8" in refused["message"]
