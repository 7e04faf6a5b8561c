"""Engines as a person uses them: another llama-server and back, while models run."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.magictl import Done, magictl
from tests.support.rest import ALPHA, BETA, Parts, write_models
from tests.support.running import Running

pytestmark = pytest.mark.slow


@pytest.fixture
def engines() -> Iterator[Path]:
    """A folder of engines that every user can enter, as those that try them have to."""
    folder = Path(tempfile.mkdtemp(prefix="magi-engines-", dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder / "engines"
    shutil.rmtree(folder)


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


def test_to_another_engine_and_back(parts: Parts, tmp_path: Path, engines: Path) -> None:
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


def program_of(magid: Running, model_id: str = ALPHA) -> str:
    """The program of the next start, as magid shows it."""
    return str(magid.get(f"/api/models/{model_id}")["argv"][0][0])


def pids(magid: Running) -> dict[str, int]:
    return {model_id: server["pid"] for model_id, server in magid.servers().items()}


def test_an_engine_for_one_model_and_back(parts: Parts, tmp_path: Path, engines: Path) -> None:
    magid = parts.daemon(tmp_path / "home", f"engines_dir: {engines}\n")
    write_models(magid.models)
    with magid, magid.client:
        magid.wait_ready()
        before = pids(magid)
        said = type_in(magid, f"engine use own {ALPHA}", 1).stderr
        assert "there is no engine 'own'" in said.replace("\n", " ")
        type_in(magid, f"engine add own {build_of(parts, tmp_path / 'own')}")
        assert "magictl apply" in type_in(magid, f"engine use own {ALPHA}").stderr
        assert program_of(magid) == str(engines / "own/llama-server")
        assert program_of(magid, BETA) == str(parts.llama_server)
        assert pids(magid) == before
        plan = magid.ask("POST", "/api/models/apply?dryRun=true")
        assert {line["modelId"] for line in plan["stop"] + plan["start"]} == {ALPHA}
        type_in(magid, f"restart {ALPHA}")
        after = pids(magid)
        assert (after[ALPHA] != before[ALPHA], after[BETA]) == (True, before[BETA])
        assert type_in(magid, "engine ls").stdout.splitlines()[1].split()[-2:-1] == [ALPHA]
        assert magid.get(f"/api/models/{ALPHA}")["engine"] == "own"
        assert magid.get("/api/engines")["engines"][0]["models"] == [ALPHA]
        assert f"it is set for {ALPHA}" in type_in(magid, "engine rm own --yes", 1).stderr
        type_in(magid, f"engine use default {ALPHA}")
        assert program_of(magid) == str(parts.llama_server)
        assert magid.get(f"/api/models/{ALPHA}")["engine"] is None


def test_an_engine_that_is_gone_blocks_its_model_alone(
    parts: Parts, tmp_path: Path, engines: Path
) -> None:
    """What runs goes on; a boot starts the other models, and this one when it is back."""
    magid = parts.daemon(tmp_path / "home", f"engines_dir: {engines}\n")
    write_models(magid.models)
    with magid.client:
        with magid:
            magid.wait_ready()
            type_in(magid, f"engine add own {build_of(parts, tmp_path / 'own')}")
            type_in(magid, f"engine use own {ALPHA}")
            type_in(magid, f"restart {ALPHA}")
            before = pids(magid)
            (engines / "own").rename(tmp_path / "away")
            type_in(magid, "gpus --refresh")
            assert conditions(magid)["EngineMissing"]["severity"] == "warning"
            assert magid.get("/api/models/status")["conditions"]
            assert "ChangesPending" not in conditions(magid)
            type_in(magid, "apply --yes")
            assert pids(magid) == before
            refused = type_in(magid, f"restart {ALPHA}", 1).stderr
            assert "cannot use the engine 'own'" in refused
            assert pids(magid) == before
        with magid:  # as a boot: the servers have ended with magid
            magid.wait_state(BETA, "ready")
            found = conditions(magid)["EngineMissing"]
            assert (found["severity"], found["modelIds"]) == ("error", [ALPHA])
            assert ALPHA not in magid.servers()
            (tmp_path / "away").rename(engines / "own")
            magid.wait_state(ALPHA, "ready")
            magid.wait_ready()
            assert "EngineMissing" not in conditions(magid)


def test_a_broken_build_does_not_count(parts: Parts, tmp_path: Path, engines: Path) -> None:
    build = tmp_path / "build"
    build.mkdir()
    (build / "llama-server").write_text("#!/bin/sh\necho no such library >&2; exit 127\n")
    (build / "llama-server").chmod(0o755)
    magid = parts.daemon(tmp_path / "home", f"engines_dir: {engines}\n")
    refused = type_in(magid, f"engine add own {build}", 1)
    assert "`--help` ended with 127: no such library" in refused.stderr
    assert [path.name for path in engines.iterdir()] == [".lock"]
    done = magictl("engine", "use", "own", url=magid.url, MAGI_CONFIG=str(magid.configuration),
                   LLAMA_SERVER_PATH="/opt/llama-server")  # fmt: skip
    assert "llama_server_path in magid.yaml names another" in done.stderr.replace("\n", " ")


def test_a_build_that_is_tried_as_root_has_no_right_of_root(
    parts: Parts, tmp_path: Path, engines: Path
) -> None:
    build = tmp_path / "build"
    build.mkdir()
    script = "#!/bin/sh\necho --model M; echo --port N; echo version: $(id -u) $(id -G) $(umask)\n"
    (build / "llama-server").write_text(script)
    (build / "llama-server").chmod(0o755)
    magid = parts.daemon(tmp_path / "home", f"engines_dir: {engines}\n")
    said = type_in(magid, f"engine add odd {build}").stdout
    assert said.startswith("engine odd added: llama-server 65519 65519 0077,")
