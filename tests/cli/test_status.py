"""status, ls, ps, show, cat and rescan: what there is and what runs."""

import json

import pytest

from magid import __version__
from tests.support.magictl import HOSTILE, Type, magictl
from tests.support.rest import ALPHA, BETA, DEEPSEEK, QWEN
from tests.support.running import Running

pytestmark = pytest.mark.slow


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
    done = type_in("ls")
    head, *rows = [line.split() for line in done.stdout.splitlines()]
    assert head == ["MODEL", "TIER", "THINKING", "SIZE", "FITS", "ENABLED"]
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "3 models are not wanted" in done.stderr, "beside the table, which scripts read"
    table = {row[0]: row for row in rows}
    assert len(table) == 5
    assert table[ALPHA][1:3] == ["fast", "no"]
    assert table[ALPHA][-2:] == ["yes", "yes"]
    assert table[DEEPSEEK][-1] == "no"
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
    moving = {"servers", "models", "memory", "uptimeSeconds", "timestamp"}  # they go on
    assert {k: v for k, v in typed.items() if k not in moving} == {
        k: v for k, v in asked.items() if k not in moving
    }


def test_rescan(type_in: Type) -> None:
    done = type_in("rescan")
    assert done.stdout == "5 models, 0 added, 0 removed\n"
    assert "Broken" in done.stderr
    assert "3 models are not wanted" in done.stderr
    assert json.loads(type_in("rescan --json").stdout)["modelsFound"] == 5


def test_apply_reads_the_folders_first(type_in: Type) -> None:
    done = type_in("apply --rescan")
    assert done.stdout.startswith("5 models, 0 added, 0 removed\nNothing to do")
    assert "Broken" in done.stderr
    assert set(json.loads(type_in("apply --rescan --json").stdout)) >= {"message", "start", "stop"}


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


def test_ps_leaves_out_what_is_stopped(type_in: Type) -> None:
    type_in(f"stop {ALPHA} --json")
    assert type_in("ps -q").stdout == f"{BETA}\n"
    assert type_in("ps -a -q").stdout == f"{ALPHA}\n{BETA}\n"
    type_in(f"unload {BETA}")
    assert type_in("ps").stderr.splitlines() == [
        "no servers run; 2 are stopped: magictl ps -a",
        "pending:      2 to start, 0 to stop: magictl apply",
    ]
    assert type_in("start --all").stdout.startswith(
        "Start of all wanted servers requested\n+ llama"
    )
    for model in (ALPHA, BETA):
        assert type_in(f"wait {model}").stdout == f"{model} is ready\n"


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


def test_version_of_both(type_in: Type) -> None:
    lines = type_in("version").stdout.splitlines()
    assert lines[:1] == [f"magictl {__version__}"]
    assert [line.split()[0] for line in lines] == ["magictl", "magid", "llama-server"]
    assert json.loads(type_in("version --json").stdout)["server"]["magid"] == __version__
