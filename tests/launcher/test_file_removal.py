"""The unit that removes files as data: it may write to one folder, and no other in its place."""

import os
from pathlib import Path
from typing import Any

import pytest

from magid.config.settings import Config
from magid.errors import NotAllowed
from magid.launcher.file_removal import library_of, removal_unit
from magid.launcher.protocol import RemoveRequest
from magid.llama.file_removal import FileIdentity


@pytest.fixture
def settings(tmp_path: Path) -> Config:
    library = tmp_path / "models"
    library.mkdir()
    return Config(model_paths=(library,), library_path=library)


def test_the_program_is_told_which_folder_the_library_was(settings: Config) -> None:
    folder = settings.library_path
    library = library_of(settings)
    request = RemoveRequest((FileIdentity(f"{folder}/a.gguf", 1, 2),))
    properties = {p.name: p.value for p in removal_unit(request, library, 262)}
    ((_, argv, _),) = properties["ExecStartEx"]
    assert argv[-2:] == [f"{folder.stat().st_dev}:{folder.stat().st_ino}:{folder}",
                         f"1:2:{folder}/a.gguf"]  # fmt: skip
    closed: dict[str, Any] = {
        "BindPaths": [(str(folder), str(folder), False, 0x4000)],
        "ReadWritePaths": [str(folder)],
        "CapabilityBoundingSet": 1 << 1,  # CAP_DAC_OVERRIDE
        "PrivateNetwork": True,
        "NoNewPrivileges": True,
    }
    assert {name: properties[name] for name in closed} == closed


def test_what_is_no_folder_of_its_own_is_refused(settings: Config, tmp_path: Path) -> None:
    folder = settings.library_path
    folder.rename(tmp_path / "elsewhere")
    for make in (lambda: folder.write_text(""), lambda: None):
        make()
        with pytest.raises(NotAllowed, match="library_path"):
            library_of(settings)
        folder.unlink(missing_ok=True)
    folder.symlink_to(tmp_path / "elsewhere")
    os.lchown(folder, 1, 1)
    with pytest.raises(NotAllowed, match="library_path"):
        library_of(settings)


def test_a_path_outside_is_refused(settings: Config) -> None:
    request = RemoveRequest((FileIdentity("/etc/passwd", 1, 2),))
    with pytest.raises(NotAllowed, match="not below"):
        removal_unit(request, library_of(settings), 262)
