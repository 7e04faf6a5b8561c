"""Engines as a person uses them: another llama-server and back, while models run."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.magictl import Done, magictl
from tests.support.rest import ALPHA, Parts, write_models
from tests.support.running import Running

pytestmark = pytest.mark.slow


def type_in(magid: Running, line: str, status: int = 0) -> Done:
    done = magictl(*line.split(), url=magid.url, MAGI_CONFIG=str(magid.configuration))
    assert done.returncode == status, done
    return done


def build_of(parts: Parts, folder: Path) -> Path:
    """A build that is a program of its own."""
    folder.mkdir()
    program = folder / "llama-server"
    program.write_text(f'#!/bin/sh\nexec "{parts.llama_server}" "$@"\n')
    program.chmod(0o755)
    return folder


def conditions(magid: Running) -> dict[str, Any]:
    return {one["code"]: one for one in magid.get("/api/models/status")["conditions"]}


def test_to_another_engine_and_back(parts: Parts, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    engines = tmp_path / "engines"
    old, new = (build_of(parts, tmp_path / name) for name in ("old", "new"))
    magid = parts.daemon(tmp_path / "home", f"engines_dir: {engines}\n")
    write_models(magid.models)
    del magid.environment["LLAMA_SERVER_PATH"]
    magid.environment["PATH"] = "/nowhere"
    assert type_in(magid, f"engine add old {old}").stdout.startswith("engine old added: llama-")
    assert "is used from the next start" in type_in(magid, "engine use old").stdout
    with magid, magid.client:
        magid.wait_ready()
        assert program_of(magid) == str(engines / "old/llama-server")
        pid = magid.servers()[ALPHA]["pid"]
        type_in(magid, f"engine add new {new}")
        assert program_of(magid) == str(engines / "old/llama-server")
        type_in(magid, "engine use new")
        assert program_of(magid) == str(engines / "new/llama-server")
        assert magid.servers()[ALPHA]["pid"] == pid
        assert ALPHA in conditions(magid)["OlderProgram"]["modelIds"]
        listed = type_in(magid, "engine ls").stdout
        assert listed.splitlines()[1].split()[:2] == ["*", "new"]
        type_in(magid, f"restart {ALPHA}")
        assert magid.servers()[ALPHA]["pid"] != pid
        assert ALPHA not in conditions(magid)["OlderProgram"]["modelIds"]
        assert "it is the one in use" in type_in(magid, "engine rm new --yes", 1).stderr
        type_in(magid, "engine use old")
        assert program_of(magid) == str(engines / "old/llama-server")
        type_in(magid, "engine rm new --yes")
        assert "cannot find engine 'new'" in type_in(magid, "engine use new", 1).stderr


def program_of(magid: Running) -> str:
    """The program of the next start, as magid shows it."""
    return str(magid.get(f"/api/models/{ALPHA}")["argv"][0][0])


def test_a_broken_build_does_not_count(parts: Parts, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    build = tmp_path / "build"
    build.mkdir()
    (build / "llama-server").write_text("#!/bin/sh\necho no such library >&2; exit 127\n")
    (build / "llama-server").chmod(0o755)
    magid = parts.daemon(tmp_path / "home", f"engines_dir: {tmp_path}/engines\n")
    refused = type_in(magid, f"engine add own {build}", 1)
    assert "`--help` ended with 127: no such library" in refused.stderr
    assert not list((tmp_path / "engines").iterdir())
    done = magictl("engine", "use", "own", url=magid.url, MAGI_CONFIG=str(magid.configuration),
                   LLAMA_SERVER_PATH="/opt/llama-server")  # fmt: skip
    assert "llama_server_path in magid.yaml names another" in done.stderr.replace("\n", " ")
