"""The keys of servers, as the launcher keeps them."""

import os
from pathlib import Path

from magid.launcher.keys import KeyRing
from magid.standalone.make_key import write_new


def test_keys(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys", "magi-absent")
    if os.geteuid() == 0:
        ring.prepare()
        ring.prepare()
        assert (tmp_path / "keys").stat().st_mode & 0o7777 == 0o2750
    else:
        (tmp_path / "keys").mkdir()
    for port in (8080, 8081):
        write_new(str(tmp_path / "keys"), port)
    assert ring.path(8080).read_text() != ring.path(8081).read_text()
    ring.keep_only({8081})
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["8081.key"]
    ring.remove(8081)
    ring.remove(8081)
