"""Which launcher is chosen."""

from pathlib import Path

import pytest

from magid.config.settings import Config
from magid.errors import InvalidConfig
from magid.llama.installed_program import InstalledProgram
from magid.servers import choose as launchers
from magid.servers.choose import choose
from magid.servers.processes.backend import ProcessBackend


@pytest.mark.parametrize(
    ("setting", "booted", "reachable", "chosen"),
    [
        ("auto", True, True, "systemd"),
        ("auto", True, False, "process"),
        ("auto", False, True, "process"),
        ("auto", False, False, "process"),
        ("process", True, True, "process"),
        ("process", False, False, "process"),
        ("systemd", True, True, "systemd"),
    ],
)
def test_choose(setting: str, booted: bool, reachable: bool, chosen: str) -> None:
    assert choose(setting, booted=booted, reachable=reachable) == chosen


@pytest.mark.parametrize(
    ("booted", "reachable", "why"),
    [
        (False, False, "does not run systemd"),
        (False, True, "does not run systemd"),
        (True, False, r"systemctl start magi-launcher\.socket"),
    ],
)
def test_what_is_asked_for_and_not_there(booted: bool, reachable: bool, why: str) -> None:
    with pytest.raises(InvalidConfig, match=f"cannot use launcher systemd: .*{why}"):
        choose("systemd", booted=booted, reachable=reachable)


def test_the_embedded_one_is_built(tmp_path: Path) -> None:
    settings = Config(launcher="process", state_dir=tmp_path)
    program = InstalledProgram(None, "")
    assert isinstance(launchers.build(settings, program, lambda: None), ProcessBackend)
