"""The keys of servers, as the launcher keeps them."""

import os
from pathlib import Path

import pytest

from magid.errors import (
    CannotWrite,
)
from magid.launcher.keys import KeyRing


def test_keys(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys", "magi-absent")
    if os.geteuid() == 0:
        ring.prepare()
        ring.prepare()
        assert (tmp_path / "keys").stat().st_mode & 0o7777 == 0o2750
    else:
        (tmp_path / "keys").mkdir()
    ring.write_new(8080)
    first = ring.path(8080).read_text()
    ring.write_new(8080)
    assert ring.path(8080).read_text() != first
    assert len(first.strip()) >= 43
    assert ring.path(8080).stat().st_mode & 0o7777 == 0o640
    ring.write_new(8081)
    ring.keep_only({8081})
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["8081.key"]
    ring.remove(8081)
    ring.remove(8081)


def test_keys_without_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match="systemd-tmpfiles"):
        KeyRing(tmp_path / "absent", "magi-absent").write_new(8080)
