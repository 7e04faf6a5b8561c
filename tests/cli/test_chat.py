"""run and route: prompts."""

import json

import pytest

from tests.support.magictl import Type, magictl
from tests.support.rest import ALPHA, BETA, GAMMA
from tests.support.running import Running

pytestmark = pytest.mark.slow


def test_run_streams_an_answer(magid: Running) -> None:
    spoken = magictl("run", ALPHA, "Hello", url=magid.url)
    assert (spoken.returncode, spoken.stderr) == (0, "")
    assert spoken.stdout.strip()
    assert spoken.stdout.endswith("\n")
    piped = magictl("run", ALPHA, url=magid.url, typed="Hello\n")
    assert piped.stdout == spoken.stdout
    pieces = magictl("run", ALPHA, "Hello", "--json", url=magid.url).stdout.splitlines()
    said = [json.loads(p)["choices"][0]["delta"].get("content") or "" for p in pieces]
    assert "".join(said) == spoken.stdout.removesuffix("\n")


def test_piped_input_is_added_to_the_prompt(magid: Running) -> None:
    magictl("run", ALPHA, "Summarise:", url=magid.url, typed="one\ntwo\n")
    counted = magid.get("/api/requests")["requests"][0]["promptTokens"]
    magictl("run", ALPHA, "Summarise:", url=magid.url)
    assert magid.get("/api/requests")["requests"][0]["promptTokens"] < counted


def test_what_a_model_thinks_is_left_out_of_a_pipe(magid: Running, type_in: Type) -> None:
    type_in(f"enable {GAMMA}")
    type_in(f"start {GAMMA}")
    try:
        pieces = magictl("run", GAMMA, "Hello", "--json", url=magid.url).stdout
        assert "reasoning_content" in pieces
        deltas = [json.loads(p)["choices"][0]["delta"] for p in pieces.splitlines()]
        said = "".join(delta.get("content") or "" for delta in deltas)
        assert magictl("run", GAMMA, "Hello", url=magid.url).stdout.strip() == said.strip()
    finally:
        type_in(f"stop {GAMMA}")


def test_route(magid: Running, type_in: Type) -> None:
    lines = magictl("route", "Prove it, step by step.", url=magid.url).stdout.splitlines()
    assert lines[0].startswith("auto -> ")
    assert lines[1].startswith("why: ")
    assert any(line.split() == ["PART", "POINTS"] for line in lines)
    assert any(line.split()[:1] == [BETA] and line.endswith("chosen") for line in lines)
    assert json.loads(type_in("route Hello --json").stdout)["model"] == "auto"
