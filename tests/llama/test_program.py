"""Finding llama-server, and what it says about itself."""

import asyncio
import os
from pathlib import Path

import pytest

from magid.errors import LlamaServerMissing
from magid.llama.installed_program import InstalledProgram
from magid.llama.program import advice, find_program, flags_in, probe, version_in
from tests.support import fake_llama
from tests.support.deadlines import PATIENCE_S


def test_a_configured_program(tmp_path: Path) -> None:
    program = fake_llama.install(tmp_path)
    assert find_program(str(program), "").path == program


@pytest.mark.parametrize("what", ["absent", "folder", "not executable"])
def test_a_configured_program_that_cannot_be_run(tmp_path: Path, what: str) -> None:
    program = tmp_path / "llama-server"
    if what == "folder":
        program.mkdir()
    elif what == "not executable":
        program.write_text("#!/bin/sh\n")
    with pytest.raises(LlamaServerMissing, match="LLAMA_SERVER_PATH"):
        find_program(str(program), os.environ["PATH"])


@pytest.mark.parametrize(
    ("system", "words"),
    [
        ({"ID": "debian", "VERSION_ID": "12"}, "llama_server_path in /etc/magi/magid.yaml"),
        ({"ID": "debian", "VERSION_ID": "13"}, "into /usr/local/bin"),
        ({"ID": "debian", "VERSION_ID": "14"}, "`apt install llama.cpp-tools`"),
        ({"ID": "debian"}, "`apt install llama.cpp-tools`"),
        ({"ID": "ubuntu", "VERSION_ID": "24.04"}, "into /usr/local/bin"),
        ({}, "LLAMA_SERVER_PATH"),
    ],
)
def test_how_to_get_one(system: dict[str, str], words: str) -> None:
    assert words in advice(system)


def test_the_search_path(tmp_path: Path) -> None:
    """Behind /usr/local/bin and /usr/bin; relative folders of it are not looked into."""
    program = fake_llama.install(tmp_path / "b")
    (tmp_path / "a").mkdir()
    found = find_program(None, f".::{tmp_path}/a:{tmp_path}/b")
    usual = [Path("/usr/local/bin/llama-server"), Path("/usr/bin/llama-server")]
    assert found.path == next((path for path in usual if path.exists()), program)


async def test_the_real_program(llama_server: Path) -> None:
    program = await probe(llama_server)
    assert program.path == llama_server
    assert program.version != "unknown"
    assert {"--model", "-m", "--port", "--api-key-file", "--metrics", "-ngl"} <= program.flags
    assert {"--spec-type=draft-mtp", "--spec-type=draft-eagle3"} <= program.flags


async def test_the_fake_program(tmp_path: Path) -> None:
    program = await probe(fake_llama.install(tmp_path))
    assert program.version == "1.2.3 (build 45, commit fake)"
    assert "--not-an-option" not in program.flags


@pytest.mark.parametrize(
    ("behaviour", "timeout_s", "why"),
    [
        ("silent-help", 0.5, "did not end within 0.5 s"),
        ("endless-help", PATIENCE_S, "prints too much"),
        ("foreign-help", PATIENCE_S, "does not list llama-server's options"),
    ],
)
async def test_no_llama_server(tmp_path: Path, behaviour: str, timeout_s: float, why: str) -> None:
    program = fake_llama.install(tmp_path, behaviour)
    with pytest.raises(LlamaServerMissing, match=why):
        await probe(program, timeout_s=timeout_s)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("#!/bin/sh\necho cannot load libfoo.so >&2; exit 127\n", "127: cannot load libfoo.so"),
        ("#!/bin/sh\nkill -SEGV $$\n", "it printed nothing"),
        ("no program", "Exec format error"),
    ],
)
async def test_a_broken_program(tmp_path: Path, text: str, why: str) -> None:
    program = tmp_path / "llama-server"
    program.write_text(text)
    program.chmod(0o755)
    with pytest.raises(LlamaServerMissing, match=why):
        await probe(program)


async def test_it_is_probed_once(tmp_path: Path) -> None:
    """And again when the file is another one, or when there was none."""
    program = tmp_path / "llama-server"
    installed = InstalledProgram(str(program), "")
    with pytest.raises(LlamaServerMissing):
        await installed()
    fake_llama.install(tmp_path)
    first, same = await asyncio.gather(installed(), installed())
    assert first is same is await installed()
    other = fake_llama.install(tmp_path / "other", "fine")
    other.replace(program)
    again = await installed()
    assert (again.version, again.flags) == (first.version, first.flags)
    assert again is not first


async def test_each_engine_has_its_own_program(tmp_path: Path) -> None:
    """One that is not there is missed alone, and is found when it is there."""
    engines = tmp_path / "engines"
    system = fake_llama.install(tmp_path / "system")
    installed = InstalledProgram(str(system), "", engines_dir=engines)
    with pytest.raises(LlamaServerMissing, match="cannot use the engine 'own': it is not install"):
        await installed("own")
    assert (await installed()).path == (await installed("system")).path == system
    own = fake_llama.install(engines / "own")
    assert (await installed("own")).path == own
    assert (await installed("own")) is (await installed("own"))
    (engines / "default").symlink_to("own")
    assert (await installed()).path == system, "llama_server_path comes first"
    plain = InstalledProgram(None, "", engines_dir=engines)
    chosen, its_own = await plain(), await plain("own")
    assert chosen.path == its_own.path == own
    assert chosen.changed_at >= (engines / "default").lstat().st_ctime
    assert its_own.changed_at == own.stat().st_ctime, "the choice for all is none of its business"


async def test_a_program_that_is_unusable_is_not_run_for_every_question(tmp_path: Path) -> None:
    runs, program = tmp_path / "runs", tmp_path / "llama-server"
    program.write_text(f"#!/bin/sh\necho x >>{runs}; exit 1\n")
    program.chmod(0o755)
    installed = InstalledProgram(str(program), "")
    for _ in range(3):
        with pytest.raises(LlamaServerMissing):
            await installed()
    assert runs.read_text() == "x\n"
    fake_llama.install(tmp_path / "mended", "fine").replace(program)
    assert (await installed()).path == program  # another file: looked at at once


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("-t,    --threads N     number", {"-t", "--threads"}),
        ("--perf, --no-perf      whether", {"--perf", "--no-perf"}),
        ("-fa,   --flash-attn [on|off|auto]  set", {"-fa", "--flash-attn"}),
        ("--fim-qwen-1.5b-default   use", {"--fim-qwen-1.5b-default"}),
        ("                        --no-option in a text", set()),
        ("----- common params -----", set()),
        ("--draft, --draft-max N   the argument has been removed. use another", set()),
        ("- auto: a list", set()),
        (
            "--spec-type none,draft-simple,ngram-map-k4v\n     the types",
            {
                *("--spec-type", "--spec-type=none", "--spec-type=draft-simple"),
                "--spec-type=ngram-map-k4v",
            },
        ),
        (
            "--spec-type [none|draft-mtp]  the type",
            {"--spec-type", "--spec-type=none", "--spec-type=draft-mtp"},
        ),
        ("", set()),
    ],
)
def test_flags_in(text: str, flags: set[str]) -> None:
    assert flags_in(text) == flags


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("version: 0.7.0 (build 11669)\nbuilt with GNU", "0.7.0 (build 11669)"),
        ("ggml_cuda_init: found 1 device\nversion: 4610 (abc)\n", "4610 (abc)"),
        ("something else", "unknown"),
        ("", "unknown"),
    ],
)
def test_version_in(text: str, version: str) -> None:
    assert version_in(text) == version


def test_a_place_that_cannot_be_looked_at_is_no_program() -> None:
    """As a folder that may not be entered, which root, who runs tests, never meets."""
    unreachable = f"/{'a' * 300}"
    with pytest.raises(LlamaServerMissing, match="is not an executable program"):
        find_program(f"{unreachable}/llama-server", "")
