"""`magictl` as a person types it, against a real daemon with real servers."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from magid import __version__
from magid.cli import completion_grammar, interaction, main
from tests.support.deadlines import DEADLINE_S
from tests.support.rest import (
    ALPHA,
    BETA,
    DEEPSEEK,
    GAMMA,
    PROFILE,
    QWEN,
    Parts,
    forget_overrides,
    write_models,
)
from tests.support.running import Running

pytestmark = pytest.mark.slow

MAGICTL = str(Path(sys.executable).with_name("magictl"))
PACKAGING = Path(__file__).parents[2] / "packaging"
HOSTILE = "\x1b[2J\u202e\x9b31m"  # clears a terminal, turns text round, colours it
Done = subprocess.CompletedProcess[str]


def environment(url: str | None, **more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], **({"MAGI_URL": url} if url else {}), **more}


def magictl(*words: str, url: str | None = None, typed: str = "", **more: str) -> Done:
    return subprocess.run(
        [MAGICTL, *words],
        env=environment(url, **more),
        input=typed,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=DEADLINE_S,
        check=False,
    )


@pytest.fixture(scope="module")
def shared(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("cli")
    running = parts.daemon(folder)
    running.environment["MAGI_BIND"] += f",unix:{folder}/magid.sock"
    write_models(running.models)
    (running.models / f"Broken{HOSTILE}.gguf").write_bytes(b"GGUF")
    with running, running.client:
        running.wait_ready()
        yield running


@pytest.fixture
def magid(shared: Running) -> Iterator[Running]:
    """A daemon with two servers that run; each test leaves it so, but for overrides."""
    yield shared
    forget_overrides(shared)


@pytest.fixture
def type_in(magid: Running) -> Callable[..., Done]:
    """Type a command that has to succeed, or to end with `status`."""

    def type_in(line: str, status: int = 0) -> Done:
        done = magictl(*line.split(), url=magid.url)
        assert done.returncode == status, done
        assert "Traceback" not in done.stderr
        return done

    return type_in


Type = Callable[..., Done]


# -- looking ---------------------------------------------------------------------------------


def test_status(type_in: Type) -> None:
    lines = type_in("status").stdout.splitlines()
    assert lines[:4] == [
        f"magid {__version__}: serving, ready",
        "profile:      test",
        "models:       5 known, 2 enabled",
        "servers:      2 ready",
    ]
    assert lines[4].startswith("llama-server: ")


def test_ls(type_in: Type) -> None:
    head, *rows = [line.split() for line in type_in("ls").stdout.splitlines()]
    assert head == ["MODEL", "TIER", "THINKING", "SIZE", "PORT", "ENABLED", "FOUND"]
    table = {row[0]: row for row in rows}
    assert len(table) == 5
    assert table[ALPHA][1:3] == ["fast", "no"]
    assert table[ALPHA][6] == "yes"
    assert table[DEEPSEEK][5:7] == ["-", "no"]
    assert table[DEEPSEEK][-1] == "ago"
    fast = type_in("ls -q --tier fast").stdout.splitlines()
    assert sorted(fast) == [ALPHA, QWEN]
    assert type_in("list -q").stdout.splitlines() == list(table)


def test_ps(type_in: Type) -> None:
    head, *rows = [line.split() for line in type_in("ps").stdout.splitlines()]
    assert head[:4] == ["UNIT", "MODEL", "STATE", "PID"]
    assert [row[1:3] for row in rows] == [[ALPHA, "ready"], [BETA, "ready"]]
    assert all(row[0].startswith("llama-server@") for row in rows)


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("ls --json", "/api/models/registry"),
        ("ps --json", "/api/models/servers"),
        ("status --json", "/api/models/status"),
        (f"show {ALPHA} --json", f"/api/models/{ALPHA}"),
        ("profile show test --json", "/api/models/profiles/test"),
    ],
)
def test_json_is_what_the_api_answers(magid: Running, type_in: Type, line: str, path: str) -> None:
    typed, asked = json.loads(type_in(line).stdout), magid.get(path)
    assert typed.keys() == asked.keys()
    moving = {"servers", "memory", "uptimeSeconds"}  # times and memory go on
    assert {k: v for k, v in typed.items() if k not in moving} == {
        k: v for k, v in asked.items() if k not in moving
    }


def test_profile_ls(type_in: Type) -> None:
    assert type_in("profile ls").stdout == "test (active)\n"


def test_logs(type_in: Type) -> None:
    lines = type_in(f"logs {ALPHA} -n 500 --grep listening").stdout.splitlines()
    assert lines
    assert all("listening" in line for line in lines)
    assert len(type_in(f"logs {ALPHA} -n 2").stdout.splitlines()) == 2


def test_logs_of_magid_itself(magid: Running, type_in: Type) -> None:
    lines = type_in("logs -n 500 --grep ready").stdout.splitlines()
    assert any(f"({ALPHA}) is ready after " in line for line in lines)
    assert all(re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z [a-z]+: ", line) for line in lines)
    assert len(type_in("logs -n 1").stdout.splitlines()) == 1
    (told,) = json.loads(type_in("logs -n 1 --json").stdout)["lines"]
    assert told.keys() == magid.get("/api/logs?lines=1")["lines"][0].keys()


def test_logs_of_magid_are_followed_across_a_restart(magid: Running, type_in: Type) -> None:
    """Each entry once, and none is missed."""
    words = [MAGICTL, "logs", "-f", "-n", "1", "--grep", "decided for"]
    type_in(f"tier {QWEN} balanced")
    with subprocess.Popen(
        words, env=environment(magid.url), stdout=subprocess.PIPE, text=True
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline().endswith("tierOverride='balanced'\n")
        magid.stop()
        magid.start()
        magid.wait_ready()
        type_in(f"tier {QWEN} powerful")
        assert process.stdout.readline().endswith("tierOverride='powerful'\n")
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == ""
    assert process.returncode == 130


def test_logs_follow_until_ctrl_c(magid: Running) -> None:
    process = subprocess.Popen(
        [MAGICTL, "logs", ALPHA, "-f", "-n", "1"],
        env=environment(magid.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, errors) == (130, "")


# -- doing -----------------------------------------------------------------------------------


def test_stop_start_and_restart_wait_for_the_end(magid: Running, type_in: Type) -> None:
    assert type_in(f"stop {ALPHA} {BETA}").stdout == (
        f"Stop of {ALPHA} done\nStop of {BETA} done\n"
    )
    assert {s["state"] for s in magid.servers().values()} == {"stopped"}
    type_in(f"start {ALPHA} {BETA}")
    before = magid.servers()
    assert {s["state"] for s in before.values()} == {"ready"}
    type_in(f"restart {ALPHA}")
    assert magid.servers()[ALPHA]["pid"] != before[ALPHA]["pid"]
    assert type_in(f"start --no-wait {ALPHA}").stdout == f"Start of {ALPHA} requested\n"


def test_one_that_is_refused_does_not_keep_the_others_from_being_done(
    magid: Running, type_in: Type
) -> None:
    done = type_in(f"restart {DEEPSEEK} nothing {ALPHA}", 1)
    assert done.stdout == f"Restart of {ALPHA} done\n"
    assert done.stderr.splitlines() == [
        f"magictl: cannot start '{DEEPSEEK}'",
        "it is disabled",
        f"try: magictl enable {DEEPSEEK}",
        "magictl: cannot find model 'nothing'",
        "magid knows 5, none of this name",
        "try: magictl ls",
    ]


def test_overrides(magid: Running, type_in: Type) -> None:
    assert type_in(f"tier {ALPHA} powerful").stdout == f"Tier updated for {ALPHA}\n"
    assert type_in(f"thinking {ALPHA} on").returncode == 0
    done = type_in(f"disable {ALPHA}")
    assert done.stderr == "what runs differs now from what is wanted: magictl apply\n"
    row = magid.get("/api/models/registry")["models"][ALPHA]
    assert (row["tierOverride"], row["thinkingOverride"], row["enabled"]) == (
        "powerful", True, False,
    )  # fmt: skip
    assert "1 to stop: magictl apply" in type_in("status").stdout
    plan = type_in("diff").stdout.splitlines()
    assert type_in("apply --dry-run").stdout.splitlines() == plan
    assert [line[0] for line in plan] == ["-", " "]
    assert ALPHA in plan[0]
    assert BETA in plan[1]
    type_in(f"enable {ALPHA}")
    type_in(f"tier {ALPHA} auto")
    type_in(f"thinking {ALPHA} off")
    assert type_in("apply").stdout.startswith("Nothing to do")


def test_profiles(magid: Running, type_in: Type) -> None:
    (magid.profiles / "other.yaml").write_text(PROFILE)
    assert type_in("profile activate other").stdout.startswith("Profile 'other' activated\n")
    assert type_in("profile ls").stdout == "other (active)\ntest\n"
    assert "it is the active one" in type_in("profile delete other --yes", 1).stderr
    type_in("profile activate test")
    assert type_in("profile delete other", 2).stderr.splitlines() == [
        "magictl: cannot delete profile 'other'",
        "no terminal to ask on",
        "try: the same with --yes",
    ]
    assert type_in("profile delete other --yes").stdout == "Profile 'other' deleted successfully\n"


def test_rescan(type_in: Type) -> None:
    done = type_in("rescan")
    assert done.stdout == "5 models, 0 added, 0 removed\n"
    assert "Broken" in done.stderr
    assert json.loads(type_in("rescan --json").stdout)["modelsFound"] == 5


# -- how a model runs ------------------------------------------------------------------------


def test_set_changes_and_reverts(magid: Running, type_in: Type) -> None:
    done = type_in(f"set {ALPHA} ctx-size=1K parallel=2 memory_max=2GiB start=on-demand")
    assert done.stdout == f"Runtime settings updated for {ALPHA}\n"
    assert magictl("set", ALPHA, "extraArgs=--temp 0.5", url=magid.url).returncode == 0
    changed = magid.get(f"/api/models/{ALPHA}")
    assert {key: changed[key] for key in ("ctxSize", "parallel", "memoryMax", "start")} == {
        "ctxSize": 1024, "parallel": 2, "memoryMax": 2**31, "start": "on-demand",
    }  # fmt: skip
    assert changed["extraArgs"] == ["--temp", "0.5"]
    assert "cannot limit" in type_in(f"cat {ALPHA}", 1).stdout  # memory, without systemd
    type_in(f"set {ALPHA} memoryMax=")
    lines = [line.split() for line in type_in(f"cat {ALPHA}").stdout.splitlines()]
    assert ["--ctx-size", "1024", "override"] in lines
    assert ["--temp", "0.5", "extraArgs:", "override"] in lines
    type_in(f"set {ALPHA} ctxSize= parallel= start= extraArgs=")
    reverted = magid.get(f"/api/models/{ALPHA}")
    assert (reverted["ctxSize"], reverted["parallel"], reverted["extraArgs"]) == (512, 1, [])


def test_set_the_port_too(magid: Running, type_in: Type) -> None:
    port = magid.servers()[ALPHA]["port"]
    done = type_in(f"set {ALPHA} port={port} ctxSize=512")
    assert len(done.stdout.splitlines()) == 2
    assert magid.get(f"/api/models/{ALPHA}")["sources"]["port"] == "override"
    answers = type_in(f"set {ALPHA} port= ctxSize= --json").stdout.splitlines()
    assert [json.loads(line)["modelId"] for line in answers] == [ALPHA, ALPHA]


def test_cat_has_every_argument_with_its_source(magid: Running, type_in: Type) -> None:
    argv = magid.get(f"/api/models/{ALPHA}")["argv"][0]
    program, *lines = type_in(f"cat {ALPHA}").stdout.splitlines()
    assert program == argv[0]
    told = {line.split()[0]: line.rsplit("  ", 1)[1] for line in lines}
    assert [word for word in argv if word in told] == list(told)
    assert (told["--model"], told["--offline"]) == ("discovery", "magid")
    assert "default" in told["--ctx-size"]
    assert json.loads(type_in(f"cat {ALPHA} --json").stdout)["argv"] == [argv]
    assert not type_in(f"cat {DEEPSEEK}").stderr


def test_show_is_for_people(type_in: Type) -> None:
    lines = [line.split() for line in type_in(f"show {ALPHA}").stdout.splitlines()]
    assert lines[0] == [ALPHA]
    assert ["tier", "fast", "discovery"] in lines
    assert ["parallel", "1", "default"] in [line[:3] for line in lines]


# -- servers ---------------------------------------------------------------------------------


def test_ps_leaves_out_what_is_stopped(type_in: Type) -> None:
    type_in(f"stop {ALPHA} --json")
    assert type_in("ps -q").stdout == f"{BETA}\n"
    assert type_in("ps -a -q").stdout == f"{ALPHA}\n{BETA}\n"
    type_in(f"unload {BETA}")
    assert type_in("ps").stderr == "no servers run; 2 are stopped: magictl ps -a\n"
    assert type_in("start --all").stdout.startswith(
        "Start of all wanted servers requested\n+ llama"
    )
    for model in (ALPHA, BETA):
        assert type_in(f"wait {model}").stdout == f"{model} is ready\n"


def test_wait_sees_what_others_do(magid: Running, type_in: Type) -> None:
    with subprocess.Popen(
        [MAGICTL, "wait", ALPHA, "--for=stopped", "--json"],
        env=environment(magid.url), stdout=subprocess.PIPE, text=True,
    ) as waiting:  # fmt: skip
        type_in(f"stop {ALPHA}")
        answer, _ = waiting.communicate(timeout=DEADLINE_S)
    assert waiting.returncode == 0
    assert [s["state"] for s in json.loads(answer)["servers"]] == ["stopped"]
    type_in(f"load {ALPHA}")


def test_wait_means_what_is_wanted_now(type_in: Type) -> None:
    type_in(f"set {ALPHA} ctxSize=256")
    late = type_in(f"wait {ALPHA} --timeout 2", 124)
    assert late.stderr.endswith("try: magictl diff, magictl ps -a\n")
    type_in("apply")
    assert type_in(f"wait {ALPHA}").stdout == f"{ALPHA} is ready\n"
    type_in(f"set {ALPHA} ctxSize=")
    type_in("apply")
    type_in(f"wait {ALPHA}")


def test_events(magid: Running, type_in: Type) -> None:
    process = subprocess.Popen(
        [MAGICTL, "events", "--json"], env=environment(magid.url), stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert first["event"] == "snapshot"
        assert ALPHA in first["data"]["registry"]["models"]
        type_in(f"tier {QWEN} balanced")
        second = json.loads(process.stdout.readline())
        assert second["event"] == "registry"
        assert list(second["data"]["models"]) == [QWEN]
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130


def test_events_for_a_person(magid: Running, type_in: Type) -> None:
    """Each kind that is there to be told, in its order; none but what is news for a person."""
    process = subprocess.Popen(
        [MAGICTL, "events"], env=environment(magid.url), stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        told = iter(process.stdout.readline, "")
        ready = "2 of 2 servers ready; serving, ready, profile test"
        assert next(told).endswith(f"  5 models, {ready}\n")

        def until(end: str) -> None:
            line = next(line for line in told if line.endswith(f"  {end}\n"))
            assert re.fullmatch(r"\d\d:\d\d:\d\d  .*\n", line)

        type_in(f"tier {QWEN} balanced")
        until(f"registry: {QWEN} changed")
        (magid.profiles / "other.yaml").write_text(PROFILE)
        until("profiles: other changed")
        (magid.profiles / "other.yaml").unlink()
        until("profiles: nothing changed, other removed")
        port = magid.servers()[ALPHA]["port"]
        type_in(f"stop {ALPHA}")
        until(f"llama-server@{port}.service ({ALPHA}) is stopped")
        until("magid: serving, ready, profile test, 1 to start")
        type_in(f"start {ALPHA}")
        until(f"llama-server@{port}.service ({ALPHA}) is ready")
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=DEADLINE_S)


OVERALL = {"phase": "serving", "ready": False, "reasons": ["a", "b"], "activeProfile": None,
           "pendingChanges": {"stop": 2, "start": 1}}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "data", "line"),
    [
        ("serverRemoved", {"port": 8080, "unit": "x@1.service", "modelId": "m"},
         "x@1.service (m) is no more"),
        ("status", OVERALL, "magid: serving, not ready (a; b), profile -, 2 to stop, 1 to start"),
        ("registry", {"models": {}, "removed": ["m"], "registry": {"portRange": []}},
         "registry: portRange changed, m removed"),
        ("figures", {"servers": [], "memory": {}}, ""),
        ("requests", {"requests": {"running": 1}}, ""),
        ("ofTomorrow", {}, ""),
    ],
)  # fmt: skip
def test_an_event_for_a_person(kind: str, data: Any, line: str) -> None:
    said = f"event: {kind}\nid: 1\ndata: {json.dumps(data)}\n\n".encode()
    with strange(b"HTTP/1.1 200 OK\r\n\r\n" + said) as url:
        done = magictl("--request-timeout", "2", "events", url=url)
    assert done.returncode == 124
    assert {text[10:] for text in done.stdout.splitlines()} == ({line} if line else set())


def test_the_bar_of_a_load() -> None:
    server = {"state": "loading", "stateReason": ""}
    lines = [interaction.bar("m", [server], seconds) for seconds in (0.0, 20.0, 600.0)]
    assert [line.count("#") for line in lines] == sorted({line.count("#") for line in lines})
    assert all("." in line.partition("]")[0] for line in lines)  # it is not done before it is done
    assert lines[1].endswith("] m: loading, 20 s")
    ready = {"state": "ready", "stateReason": ""}
    assert "." not in interaction.bar("m", [ready], 1.0).partition("]")[0]
    broken = {"state": "backoff", "stateReason": "it\x1b crashed"}
    assert "m: backoff, it? crashed" in interaction.bar("m", [ready, broken], 1.0)
    assert interaction.bar("m", [], 3.0) == "m: asked for, 3 s"


def test_top_once(type_in: Type) -> None:
    lines = type_in("top").stdout.splitlines()
    assert lines[0].startswith("magid: serving, profile test, up ")
    assert lines[3].split()[:3] == ["MODEL", "PORT", "STATE"]
    assert [line.split()[0] for line in lines[4:]] == [ALPHA, BETA]
    assert json.loads(type_in("top --json").stdout).keys() == {"status", "requests"}


# -- talking ---------------------------------------------------------------------------------


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


# -- profiles --------------------------------------------------------------------------------

BAD = "name: Night\nenabled_models: ['*']\ntier_config:\n  - name: fast\n    max_scor: 3\n"
EDITOR = """\
#!/usr/bin/python3
import pathlib, sys
path = pathlib.Path(sys.argv[1])
text = path.read_text()
{change}
path.write_text(text)
"""


def test_a_profile_from_a_file_and_from_standard_input(
    magid: Running, type_in: Type, tmp_path: Path
) -> None:
    file = tmp_path / "night.yaml"
    file.write_text("name: Night\nenabled_models: [alpha*]\n")
    assert type_in(f"profile validate {file}").stdout == f"{file} is a valid profile, 'Night'\n"
    done = type_in(f"profile create {file}")
    assert done.stdout == "Profile 'Night' created successfully\n"
    assert done.stderr == "try: magictl profile activate night\n"
    assert "try: magictl profile edit night" in type_in(f"profile create {file}", 1).stderr
    shown = type_in("profile show night").stdout
    assert "name: Night\n" in shown
    assert "enabled_models:\n- alpha*\n" in shown
    again = magictl("profile", "create", "-", url=magid.url,
                    typed=json.dumps({"name": "Day", "enabledModels": ["beta*"]}))  # fmt: skip
    assert again.returncode == 0, again
    type_in("profile delete night --yes")
    type_in("profile delete day --yes")


def test_validate_says_line_and_field(type_in: Type, tmp_path: Path) -> None:
    file = tmp_path / "night.yaml"
    file.write_text(BAD)
    for verb in ("validate", "create"):
        assert type_in(f"profile {verb} {file}", 1).stderr.splitlines() == [
            f"magictl: cannot use {file}",
            "line 5: tier_config[0].max_scor is not known; did you mean 'max_score'?",
            "try: man 5 magi-profile",
        ]
    good = tmp_path / "good.yaml"
    good.write_text("name: Good\n")
    done = type_in(f"profile validate {file} {good} {tmp_path}/none", 1)
    assert done.stdout == f"{good} is a valid profile, 'Good'\n"
    assert f"cannot read {tmp_path}/none\nNo such file or directory" in done.stderr


@pytest.fixture
def night(magid: Running) -> Iterator[Path]:
    """The file of a profile."""
    file = magid.profiles / "night.yaml"
    file.write_text(PROFILE)
    yield file
    file.unlink()


def editing(folder: Path, change: str) -> dict[str, str]:
    program = folder / "editor"
    program.write_text(EDITOR.format(change=change))
    program.chmod(0o755)
    return {"EDITOR": str(program), "TMPDIR": str(folder)}


def test_edit(magid: Running, night: Path, tmp_path: Path) -> None:
    renamed = editing(tmp_path, "text = text.replace('two that run', 'one of them')")
    done = magictl("profile", "edit", "night", url=magid.url, **renamed)
    assert (done.returncode, done.stdout) == (0, "Profile 'night' replaced successfully\n")
    assert magid.get("/api/models/profiles/night")["description"] == "one of them"
    done = magictl("profile", "edit", "night", url=magid.url, **editing(tmp_path, "pass"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "Nothing was changed\n")
    assert [path.name for path in tmp_path.iterdir()] == ["editor"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("text += 'nonsense: 1\\n'", "nonsense is not known; known are"),
        (
            "pathlib.Path({file!r}).write_text('name: Other\\n'); text += '# mine\\n'",
            "it has changed since you read it",
        ),
    ],
)
def test_edit_loses_nothing(
    magid: Running, night: Path, tmp_path: Path, change: str, said: str
) -> None:
    options = editing(tmp_path, change.format(file=str(night)))
    done = magictl("profile", "edit", "night", url=magid.url, **options)
    assert done.returncode == 1
    assert said in done.stderr
    kept = Path(done.stderr.splitlines()[-1].removeprefix("your text is in "))
    assert "two that run" in kept.read_text()
    assert night.read_text() in (PROFILE, "name: Other\n")


def test_edit_without_a_working_editor(magid: Running) -> None:
    for editor, said in (("false", "false ended with status 1"), ("/none", "No such file")):
        done = magictl("profile", "edit", "test", url=magid.url, EDITOR=editor)
        assert done.returncode == 1
        assert said in done.stderr


# -- what goes wrong -------------------------------------------------------------------------


USAGE = "cannot read the command line"
NEAR = (
    "magictl: cannot find model '{0}'\nmagid knows 5, none of this name\n"
    f"did you mean '{ALPHA}'?\ntry: magictl ls\n"
)


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("show nothing", 4, "magictl: cannot find model 'nothing'"),
        ("start nothing", 4, "magictl: cannot find model 'nothing'"),
        ("logs nothing", 4, "magictl: cannot find model 'nothing'"),
        ("logs -f nothing", 4, "magictl: cannot find model 'nothing'"),
        ("logs nothing -n 0", 1, "magictl: cannot read lines='0'"),
        ("profile show nothing", 4, "magictl: cannot find profile 'nothing'"),
        ("profile activate ../../etc/passwd", 4, "magictl: cannot find profile"),
        ("show ../../livez?x=#y%00", 4, "magictl: cannot find model '../../livez?x=#y%00'"),
        (f"start {ALPHA} --timeout -1", 1, "magictl: cannot read wait='-1'"),
        (
            "start",
            2,
            "magictl: cannot start without a model\nnone is named\ntry: magictl start MOD",
        ),
        ("stop --all", 2, "magictl: cannot stop all servers\nno terminal to ask on\ntry: the same"),
        (f"stop --all --yes {ALPHA}", 2, "magictl: cannot stop some and all\ngive models or --all"),
        ("profile show", 2, f"magictl profile show: {USAGE}\nthe following arguments are requi"),
        ("", 2, f"magictl: {USAGE}\nthe following arguments are required: VERB\ntry: magictl --"),
        ("dance", 2, f"magictl: {USAGE}\nthere is no verb 'dance'; choose from status, ls, "),
        ("stat", 2, f"magictl: {USAGE}\nthere is no verb 'stat'; did you mean 'status'?\ntry: "),
        (f"tier {ALPHA} hug", 2, f"magictl tier: {USAGE}\nthere is no tier 'hug'; choose from fa"),
        (f"tier {ALPHA} fsat", 2, f"magictl tier: {USAGE}\nthere is no tier 'fsat'; did you mean "),
        ("profile shoe x", 2, f"magictl profile: {USAGE}\nthere is no action 'shoe'; did you mean"),
        (f"show {ALPHA[:9]}", 4, NEAR.format(ALPHA[:9])),
        ("show alpha_instrukt_0p0b_q40_fast", 4, NEAR.format("alpha_instrukt_0p0b_q40_fast")),
        (
            "profile show tset",
            4,
            "magictl: cannot find profile 'tset'\nmagid knows 1, none of this",
        ),
        (f"set {ALPHA} ctxsizes=1", 2, "magictl: cannot set 'ctxsizes'\nknown are nGpuLayers, ctx"),
        (f"set {ALPHA} ctxSize", 2, "magictl: cannot read 'ctxSize'\ngive KEY=VALUE, or KEY= for "),
        (f"set {ALPHA} ctxSize=big", 2, "magictl: cannot read 'ctxSize=big'\ngive a whole number"),
        (
            f"set {ALPHA} extraArgs=--rpc",
            1,
            "magictl: cannot use '--rpc' (extraArgs[0])\n--rpc makes ",
        ),
        ("wait nothing", 4, "magictl: cannot find model 'nothing'"),
        (f"wait {DEEPSEEK} --timeout 2", 124, f"magictl: cannot wait longer for {DEEPSEEK}\nit "),
        ("run nothing Hello", 4, "magictl: cannot find model 'nothing'\nmagid knows 5, none of"),
        ("--request-timeout nan ls", 2, f"magictl: {USAGE}\nargument --request-timeout: 'nan' sh"),
        ("top --every 0", 2, f"magictl top: {USAGE}\nargument --every: '0' should be a number of"),
        (
            f"run {ALPHA}",
            2,
            f"magictl: cannot ask {ALPHA}\nstandard input is empty\ntry: magictl run",
        ),
    ],
)
def test_errors(type_in: Type, line: str, status: int, said: str) -> None:
    done = type_in(line, status)
    assert done.stdout == ""
    assert done.stderr.startswith(said)


@pytest.mark.parametrize(
    "line",
    ["logs nothing --since x", "logs --since yesterday", "logs -n 0", f"start {ALPHA} --timeout -1",
     f"set {ALPHA} ctxSize=-7", "profile activate ../x", f"start {DEEPSEEK}", "logs -f nothing"],
)  # fmt: skip
def test_what_magid_refuses_is_told_in_three_lines(magid: Running, line: str) -> None:
    done = magictl(*line.split(), url=magid.url)
    what, why, advice = done.stderr.splitlines()
    assert what.startswith("magictl: cannot ")
    assert why
    assert advice.startswith("try: ")


def test_options_of_magictl_itself_may_stand_behind_the_verb(magid: Running) -> None:
    away = "http://127.0.0.1:1"
    for words in (["ps", "-q", "--url", magid.url], [f"--url={magid.url}", "ps", "-q"]):
        assert magictl(*words, url=away).stdout.splitlines() == [ALPHA, BETA]
    coloured = magictl("ps", "--no-color", url=magid.url, FORCE_COLOR="1")
    assert "\x1b" not in coloured.stdout
    assert magictl("ps", "--url", url=magid.url).returncode == 2
    prompt = magictl("route", "--", "--url", url=magid.url)
    assert (prompt.returncode, prompt.stderr) == (0, "")


def test_the_unix_socket(magid: Running) -> None:
    path = magid.folder / "magid.sock"
    assert magictl("status", url=f"unix:{path}").returncode == 0
    assert magictl("--url", f"unix:{path}", "ps", url="http://127.0.0.1:1").returncode == 0


@pytest.mark.parametrize("where", ["http://127.0.0.1:{port}", "unix:{folder}/none", "unix:{stale}"])
def test_no_daemon(free_port: Callable[[], int], tmp_path: Path, where: str) -> None:
    stale = tmp_path / "stale"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(stale))
    url = where.format(port=free_port(), folder=tmp_path, stale=stale)
    for words in (["status"], ["logs", "-f", "x"]):
        done = magictl(*words, url=url)
        assert (done.returncode, done.stdout) == (1, "")
        what, why, advice = done.stderr.splitlines()
        assert what == f"magictl: cannot reach magid at {url}"
        assert why in ("Connection refused", "No such file or directory")
        assert advice == "try: systemctl status magid, or give --url"


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:8000", "localhost:8000", "https://host/x", "http://host:99999", "http://",
     "http://host/prefix", "ftp://host", "http://[::1"],
)  # fmt: skip
def test_a_url_that_cannot_be_used(url: str) -> None:
    done = magictl("status", url=url)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"magictl: cannot use '{url}'\ngive https://HOST:PORT, http://HOST:PORT or unix:/PATH\n"
        "try: --url http://127.0.0.1:8000\n"
    )


class Stranger(BaseHTTPRequestHandler):
    """Something else on the port."""

    answer = b""
    asked = Event()

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.wfile.write(self.answer)
        self.asked.set()

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def strange(answer: bytes, asked: Event | None = None) -> Iterator[str]:
    """The URL of a server that answers so, whatever it is asked."""
    handler = type("Handler", (Stranger,), {"answer": answer, "asked": asked or Event()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
LINE = json.dumps({"message": f"log {HOSTILE} line\tend"})
SPOKEN = json.dumps({"choices": [{"delta": {"content": f"log {HOSTILE} line"}}]})
SEVERAL = json.dumps({"lines": [
    {"timestamp": "T", "level": "error", "message": "one\r\ntwo\n\n\x1b[2J"},
]}).encode()  # fmt: skip
LINES = b'{"lines": [%s]}' % LINE.encode()


@pytest.mark.parametrize(
    ("answer", "line", "status", "stdout", "stderr"),
    [
        (b"SSH-2.0-x\r\n", "status", 1, "", "cannot reach magid"),
        (b"", "status", 1, "", "cannot reach magid"),
        (HEAD % 9 + b"<html>...", "status", 1, "", "cannot understand what answers"),
        (HEAD % 90 + b"{", "status", 1, "", "cannot understand what answers"),
        (b"HTTP/1.1 500 x\r\n\r\n[]", "status", 1, "", "cannot GET /api/models/status\nstatus 500"),
        (HEAD % len(LINES) + LINES, "logs x", 0, "log ?[2J??31m line      end\n", ""),
        (HEAD % len(SEVERAL) + SEVERAL, "logs", 0, "T error: one?\n  two\n  \n  ?[2J\n", ""),
        (
            b"HTTP/1.1 200 OK\r\n\r\nevent: log\nid: 1\ndata: " + LINE.encode() + b"\n\n",
            "--request-timeout 2 logs x -f", 124, "log ?[2J??31m line      end\n", "no answer in",
        ),
        (
            b"HTTP/1.1 200 OK\r\n\r\ndata: " + SPOKEN.encode() + b"\n\ndata: [DONE]\n\n",
            "run x Hello", 0, "log ?[2J??31m line\n", "",
        ),
        (
            b'HTTP/1.1 200 OK\r\n\r\ndata: {"error": {"message": "cannot go on: lost"}}\n\n',
            "run x Hello", 1, "", "magictl: cannot go on\nlost\n",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nev",
            "logs x -f", 1, "", "ended the stream",
        ),
        (
            b"HTTP/1.1 404 x\r\n\r\n" + json.dumps({"message": f"a{HOSTILE}\nb"}).encode(),
            "show x", 4, "", "magictl: a?[2J??31m\nb\n",
        ),
    ],
)  # fmt: skip
def test_strange_answers(answer: bytes, line: str, status: int, stdout: str, stderr: str) -> None:
    with strange(answer) as url:
        done = magictl(*line.split(), url=url)
    assert done.returncode == status, done
    wanted = stdout.splitlines()  # who follows asks again and again
    assert done.stdout.splitlines()[: len(wanted) or 1] == wanted
    assert stderr in done.stderr
    assert "Traceback" not in done.stderr


def test_who_follows_a_log_without_a_line_goes_on_too() -> None:
    asked = Event()
    with strange(b"HTTP/1.1 200 OK\r\n\r\n: nothing yet\n\n", asked) as url:
        process = subprocess.Popen(
            [MAGICTL, "--request-timeout", "3", "logs", "-f"], env=environment(url),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert asked.wait(DEADLINE_S)
    output, errors = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, output) == (124, ""), errors


@pytest.mark.parametrize("line", ["rescan", "rescan --json", "ls --json", "status"])
def test_names_with_control_characters_are_neutralised(type_in: Type, line: str) -> None:
    done = type_in(line)
    assert all(char.isprintable() or char == "\n" for char in done.stdout + done.stderr)
    if "--json" in line:
        assert HOSTILE in json.dumps(json.loads(done.stdout), ensure_ascii=False).replace(
            "\\u001b", "\x1b"
        )


def test_a_terminal_that_knows_only_ascii(magid: Running) -> None:
    (magid.models / "Tränen.gguf").write_bytes(b"GGUF")
    try:
        done = magictl("rescan", url=magid.url, PYTHONIOENCODING="ascii")
    finally:
        (magid.models / "Tränen.gguf").unlink()
    assert done.returncode == 0
    assert "Tr\\xe4nen.gguf" in done.stderr


# -- output that goes nowhere ----------------------------------------------------------------


def test_a_reader_that_goes_away(magid: Running) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as after `magictl ls | head -0`
    with os.fdopen(writing, "w") as output:
        done = subprocess.run(
            [MAGICTL, "ls"], env=environment(magid.url), stdout=output, stderr=subprocess.PIPE,
            timeout=DEADLINE_S, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_full_disk(magid: Running) -> None:
    with Path("/dev/full").open("w") as output:
        done = subprocess.run(
            [MAGICTL, "ls"], env=environment(magid.url), stdout=output, stderr=subprocess.PIPE,
            text=True, timeout=DEADLINE_S, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "magictl: cannot write to standard output: No space left on device\n"


# -- the command itself ----------------------------------------------------------------------


def test_version_of_both(type_in: Type) -> None:
    lines = type_in("version").stdout.splitlines()
    assert lines[:1] == [f"magictl {__version__}"]
    assert [line.split()[0] for line in lines] == ["magictl", "magid", "llama-server"]
    assert json.loads(type_in("version --json").stdout)["server"]["magid"] == __version__


def every_verb() -> Iterator[completion_grammar.Command]:
    for verb in completion_grammar.read(main.parser()).verbs:
        yield from verb.verbs or (verb,)


def test_every_verb_has_examples_that_can_be_typed() -> None:
    for verb in every_verb():
        assert 2 <= len(verb.examples) <= 3, verb.name
        for example in verb.examples:
            words = shlex.split(example.partition(" > ")[0].partition(" < ")[0], comments=False)
            typed = words[words.index("magictl") + 1 :]
            if "|" in typed:
                typed = typed[: typed.index("|")]
            assert main.parser().parse_args(typed).run, example


def test_help_has_the_examples() -> None:
    done = magictl("profile", "edit", "--help")
    assert "examples:\n  magictl profile edit production\n" in done.stdout


@pytest.mark.parametrize(
    ("settings", "is_coloured"),
    [
        ({}, False), ({"FORCE_COLOR": "1"}, True), ({"CLICOLOR_FORCE": "1"}, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)  # fmt: skip
def test_colours_off_a_terminal(
    magid: Running, settings: dict[str, str], is_coloured: bool
) -> None:
    assert ("\x1b[" in magictl("ps", url=magid.url, **settings).stdout) is is_coloured
    assert "\x1b[" not in magictl("--no-color", "ps", url=magid.url, **settings).stdout


def test_nothing_takes_longer_than_the_request_timeout(free_port: Callable[[], int]) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = magictl("--request-timeout", "0.2", "ls", "-q", url=url)
    assert (done.returncode, done.stdout) == (124, "")
    assert done.stderr.splitlines() == [
        "magictl: cannot ls",
        "no answer in the time given",
        "try: a longer --request-timeout, or magictl doctor",
    ]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_what_the_package_installs(shell: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, PACKAGING / "completions.py", tmp_path], check=True)
    installed = {path.read_text() for path in tmp_path.rglob("*magictl*") if path.is_file()}
    assert magictl("completion", shell).stdout in installed


@pytest.mark.parametrize("words", [["version"], ["--version"]])
def test_version(words: list[str]) -> None:
    done = magictl(*words, url="http://127.0.0.1:1")  # nobody is there
    assert (done.returncode, done.stdout) == (0, f"magictl {__version__}\n")


def test_it_starts_without_the_daemons_code() -> None:
    code = "import sys, magid.cli.main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"sanic", "pydantic", "asyncio", "yaml", "psutil", "inspect", "logging"}
    ours = {".".join(name.split(".")[:2]) for name in loaded if name.startswith("magid")}
    assert ours == {"magid", "magid.cli"}


# -- the last one: it restarts the daemon ----------------------------------------------------


def test_who_follows_goes_on_when_magid_is_back(magid: Running) -> None:
    process = subprocess.Popen(
        [MAGICTL, "events", "--json"], env=environment(magid.url), stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "snapshot"
        magid.stop()
        magid.start()
        seen = (json.loads(line)["event"] for line in process.stdout)
        assert "snapshot" in seen  # everything once more: what changed meanwhile is in it
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=DEADLINE_S)
    magid.wait_ready()
