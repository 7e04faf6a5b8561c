"""import: files of the original program, taken over by a running magid."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import rest
from tests.support.magictl import Done, Type, magictl
from tests.support.original import DEVELOPMENT, as_registry, entry
from tests.support.rest import ALPHA, BETA, GAMMA, QWEN
from tests.support.running import Running

pytestmark = pytest.mark.slow

PROFILES = "/api/models/profiles"


@pytest.fixture
def folder(magid: Running, tmp_path: Path) -> Iterator[Path]:
    """The folder of the original program, with a registry and a profile."""
    low, high = magid.get("/api/models/registry")["portRange"]
    ports = {name: rest.model(magid, name)["port"] for name in (ALPHA, BETA)}
    registry = as_registry(
        entry("alpha_0p0b_q40_fast", "/models/models--x/snapshots/1/Alpha-Instruct-Q4_0.gguf",
              port=ports[BETA], tier_override="powerful", ctx_size=4096, n_threads=2),
        entry("beta_x", "/models/Beta-F16.gguf", port=ports[ALPHA], thinking_override=True),
        entry("qwen3_4p0b_q4km_fast", "/models/Qwen3-4B-Q2_K.gguf", port=high + 1, enabled=True),
        entry("gone_4p0b_q4km_fast", "/models/Gone-4B-Q4_K_M.gguf", port=None,
              tier_override="fast", batch_size=64),
        entry("gamma_odd", "/models/Gamma-Thinking-F16.gguf", port=None, tier_override="huge"),
        port_range=[low, high],
    )  # fmt: skip
    (tmp_path / "backend/data").mkdir(parents=True)
    (tmp_path / "backend/data/model_registry.json").write_bytes(registry)
    (tmp_path / "config/profiles/empty").mkdir(parents=True)
    (tmp_path / "config/profiles/development.yaml").write_text(DEVELOPMENT)
    yield tmp_path
    if "development" in magid.get(PROFILES):
        magid.ask("DELETE", f"{PROFILES}/development")
    rest.forget_overrides(magid)
    # Each server has its port back, so that it runs as it is wanted. The third port is free now.
    (third,) = {*range(low, high + 1)} - {*ports.values()}
    for name, port in ((ALPHA, third), (BETA, ports[BETA]), (ALPHA, ports[ALPHA])):
        magid.ask("PUT", f"/api/models/{name}/port", {"port": port})


@pytest.fixture
def was(magid: Running) -> dict[str, Any]:
    """The registry before the test, but for the moments."""
    return decided(magid)


def decided(magid: Running) -> dict[str, Any]:
    models = magid.get("/api/models/registry")["models"]
    return {name: magid.get(f"/api/models/{name}") for name in models}


def test_a_dry_run_changes_nothing(
    magid: Running, was: dict[str, Any], folder: Path, type_in: Type
) -> None:
    shown = type_in(f"import --dry-run {folder}")
    ports = {name: was[name]["port"] for name in (ALPHA, BETA)}
    high = magid.get("/api/models/registry")["portRange"][1]
    assert shown.stdout.splitlines() == [
        f"+ {ALPHA}: tier powerful",
        f"+ {ALPHA}: ctxSize 4096",
        f"+ {ALPHA}: nThreads 2",
        f"+ {ALPHA}: port {ports[BETA]}",
        f"+ {BETA}: thinking on",
        f"+ {BETA}: port {ports[ALPHA]}",
        f"+ {QWEN}: enabled yes",
        "+ profile development: Development",
        "! gamma_odd: tier_override 'huge' should be one of fast, balanced, powerful",
        f"! {QWEN}: port {high + 1} is outside port_range {[high - 2, high]} of magid.yaml",
        "! gone_4p0b_q4km_fast: tier fast, batchSize 64; there is no /models/Gone-4B-Q4_K_M.gguf "
        "here: add it to a model folder, then magictl rescan, and import again",
        "8 to import, 0 here already, 3 left out",
    ]
    assert shown.stderr.splitlines() == [
        "profile development: warning: 'deepseek_r10528qwen3_8p0b_q4km_powerful' matches no model;"
        f" did you mean {rest.DEEPSEEK!r}?",
    ]
    assert decided(magid) == was
    assert "development" not in magid.get(PROFILES)


def test_it_asks_first(magid: Running, was: dict[str, Any], folder: Path, type_in: Type) -> None:
    refused = type_in(f"import {folder}", 2)
    assert refused.stdout.startswith(f"+ {ALPHA}: tier powerful\n")
    assert refused.stderr.endswith("standard input is not a terminal\ntry: the same with --yes\n")
    assert decided(magid) == was


def test_what_was_decided_is_decided_here(
    magid: Running, was: dict[str, Any], folder: Path, type_in: Type
) -> None:
    running = [magid.servers()[name]["pid"] for name in (ALPHA, BETA)]
    done = type_in(f"import --yes {folder}")
    assert done.stdout.endswith("8 imported, 0 here already, 3 left out\n")
    now = decided(magid)
    alpha, beta = now[ALPHA], now[BETA]
    assert (alpha["tierOverride"], alpha["ctxSize"], alpha["nThreads"]) == ("powerful", 4096, 2)
    assert (alpha["port"], beta["port"]) == (was[BETA]["port"], was[ALPHA]["port"])
    assert (beta["thinkingOverride"], now[QWEN]["enabledOverride"]) == (True, True)
    assert now[GAMMA] == was[GAMMA]
    profile = magid.get(f"{PROFILES}/development")
    assert profile["tierConfig"][1]["maxScore"] == 10.0
    assert profile["description"] == "Fast iteration with small models"
    assert [magid.servers()[name]["pid"] for name in (ALPHA, BETA)] == running

    again = type_in(f"import --yes {folder}")
    assert again.stdout.endswith("\n0 imported, 8 here already, 3 left out\n")
    assert decided(magid) == now


def test_decisions_made_here_stay(magid: Running, folder: Path, type_in: Type) -> None:
    type_in(f"tier {ALPHA} fast")
    type_in(f"set {ALPHA} ctxSize=2048")
    magid.ask("POST", PROFILES, {"name": "Development", "enabledModels": ["alpha*"]}, status=201)
    done = type_in(f"import --yes {folder}")
    for line in (
        f"! {ALPHA}: tier fast stays as it was decided here; --replace takes over powerful\n",
        f"! {ALPHA}: ctxSize 2048 stays as it was decided here; --replace takes over 4096\n",
        "! profile development: a profile of that name is here; --replace replaces it\n",
    ):
        assert line in done.stdout
    assert rest.model(magid, ALPHA)["tierOverride"] == "fast"

    done = type_in(f"import --yes --replace {folder}")
    assert f"~ {ALPHA}: tier powerful, not fast\n" in done.stdout
    assert "~ profile development: Development, not the one here\n" in done.stdout
    assert done.stdout.endswith("\n3 imported, 5 here already, 3 left out\n")
    assert rest.model(magid, ALPHA)["tierOverride"] == "powerful"
    assert magid.get(f"{PROFILES}/development")["twoStage"]["enabled"]


def test_a_broken_file_keeps_no_other_from_it(magid: Running, folder: Path) -> None:
    (folder / "config/profiles/night.yaml").write_text("profile: {name: Night\n")
    (folder / "backend/data/runtime_settings.json").write_text("{}")
    done = magictl("import", "--json", "--yes", str(folder), url=magid.url)
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert len(answer["changes"]) == 8
    assert answer["changes"][0] == {"subject": ALPHA, "what": "tier powerful", "before": None}
    assert (answer["same"], answer["failed"]) == ([], [])
    assert answer["left"][-1].endswith("belong into server_defaults of magid.yaml")
    (unusable,) = answer["unusable"]
    assert unusable.startswith(f"cannot read {folder}/config/profiles/night.yaml: line ")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none", "cannot read {}\nNo such file"),
        (
            "config/profiles/empty",
            "cannot import {}\nit has neither model_registry.json nor config/profiles",
        ),
    ],
)
def test_no_such_files(folder: Path, type_in: Type, name: str, said: str) -> None:
    assert said.format(folder / name) in type_in(f"import {folder / name}", 1).stderr


def test_what_magid_refuses(magid: Running, folder: Path) -> None:
    """A port that a model has for good here."""
    theirs = rest.model(magid, BETA)["port"]
    magid.ask("PUT", f"/api/models/{BETA}/port", {"port": theirs})
    done: Done = magictl("import", "--yes", str(folder), url=magid.url)
    assert done.returncode == 1
    assert f"cannot give port {theirs} to {ALPHA!r}" in done.stderr.replace("\n", " ")
    assert done.stdout.endswith("6 imported, 0 here already, 5 left out\n")
