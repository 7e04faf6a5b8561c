"""Which llama-server the launcher runs: the configured one, or an engine of root's."""

from pathlib import Path

import pytest
from msgspec import structs

from magid.errors import InvalidConfig, LlamaServerMissing
from magid.launcher.policy import authorize, program_folders
from magid.llama.program import FoundProgram
from tests.support.launcher_house import House


def test_the_program_is_that_of_the_default_engine(house: House) -> None:
    folder = house.models.parent / "engines"
    home = folder / "fast"
    (home / "files/bin").mkdir(parents=True)
    program = home / "files/bin/llama-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (home / "llama-server").symlink_to("files/bin/llama-server")
    (folder / "default").symlink_to("fast")
    for part in (folder, *folder.parents[:2]):
        part.chmod(0o755)
    engines = structs.replace(house.settings, llama_server_path=None, engines_dir=folder)
    order = authorize(house.order(), engines)
    assert order.argv[0] == str(home / "llama-server")
    assert str(home / "files") in order.program_folders
    folder.chmod(0o777)
    with pytest.raises(InvalidConfig, match="users other than root may write to"):
        authorize(house.order(), engines)
    configured = structs.replace(engines, llama_server_path=house.program)
    assert authorize(house.order(), configured).argv[0] == str(house.program)


def test_a_model_runs_with_its_own_engine(house: House) -> None:
    """By its name: the program is what root's folder has under it, whatever else is configured."""
    folder = house.models.parent / "engines"
    for name in ("own", "all"):
        (folder / name).mkdir(parents=True)
        (folder / name / "llama-server").symlink_to(house.program)
    (folder / "default").symlink_to("all")
    for part in (folder, *folder.parents[:2]):
        part.chmod(0o755)
    settings = structs.replace(house.settings, engines_dir=folder)
    order = authorize(house.order(engine="own"), settings)
    assert order.argv[0] == str(folder / "own/llama-server")
    assert str(house.program.parent.parent) in order.program_folders
    assert authorize(house.order(engine="system"), settings).argv[0] == str(house.program)
    plain = structs.replace(settings, llama_server_path=None)
    for engine in (None, "default"):
        argv = authorize(house.order(engine=engine), plain).argv
        assert argv[0] == str(folder / "all/llama-server")
    with pytest.raises(LlamaServerMissing, match="cannot use the engine 'gone': it is not inst"):
        authorize(house.order(engine="gone"), settings)
    folder.chmod(0o777)
    with pytest.raises(InvalidConfig, match="users other than root may write to"):
        authorize(house.order(engine="own"), settings)
    assert authorize(house.order(), settings).argv[0] == str(house.program)


@pytest.mark.parametrize(
    ("program", "folders"),
    [
        ("/usr/bin/llama-server", ("/usr",)),
        ("/opt/llama/bin/llama-server", ("/opt/llama",)),
        ("/opt/llama/llama-server", ("/opt/llama",)),
    ],
)
def test_program_folders(program: str, folders: tuple[str, ...]) -> None:
    path = Path(program)
    assert program_folders(FoundProgram(path, path, (0, 0, 0, 0))) == folders
