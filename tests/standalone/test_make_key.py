"""keymaker over a socket: who may ask, and where the key is before anybody has it."""

import re
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from magid.standalone import make_key
from magid.standalone.make_key import NoKey, answer, serve, write_new
from tests.support.deadlines import DEADLINE_S

OF_A_UNIT = "unit/llama-server@8080.service/api-key"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "keys").mkdir()
    return tmp_path / "keys"


@contextmanager
def asked(tmp_path: Path, whose: str | None) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection: systemd's, from an address that ends so, and the maker's."""
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as systemd:
        listening.bind(str(tmp_path / "key.sock"))
        listening.listen()
        if whose is not None:
            systemd.bind(f"\0{secrets.token_hex(8)}/{whose}")
        systemd.settimeout(DEADLINE_S)
        systemd.connect(str(tmp_path / "key.sock"))
        maker, _ = listening.accept()
        with maker:
            yield systemd, maker


def keys_in(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "keys").iterdir())


def test_each_process_has_a_key_of_its_own(tmp_path: Path, folder: Path) -> None:
    seen = set()
    for number in range(3):
        own = tmp_path / str(number)
        own.mkdir()
        with asked(own, OF_A_UNIT) as (systemd, maker):
            answer(maker, str(folder))
            maker.close()
            key = systemd.makefile("rb").read()
        assert len(key) >= 43
        assert (folder / "8080.key").read_bytes().strip() == key
        seen.add(key)
    assert len(seen) == 3
    assert keys_in(tmp_path) == ["8080.key"]


@pytest.mark.parametrize(
    "whose",
    [
        None,
        "unit/ssh.service/api-key",
        "unit/llama-server@8080.service/other",
        "unit/llama-server@../x.service/api-key",
        "unit/llama-server@808080.service/api-key",
        "unit/llama-server@08080.service/api-key",
        "unit/llama-server@0.service/api-key",
        "unit/llama-server@99999.service/api-key",
        "unit/llama-server@8080.service/api-key/more",
        f"x/{OF_A_UNIT}",
        f"{OF_A_UNIT}\n",
    ],
)
def test_a_key_is_for_units_of_models_alone(
    tmp_path: Path, folder: Path, whose: str | None
) -> None:
    with asked(tmp_path, whose) as (systemd, maker):
        with pytest.raises(NoKey, match="no credential of a model's unit"):
            answer(maker, str(folder))
        maker.close()
        assert systemd.recv(1) == b""
    assert keys_in(tmp_path) == []


def test_a_key_that_magid_could_not_read_is_not_given_out(tmp_path: Path) -> None:
    folder = tmp_path / "absent"
    with asked(tmp_path, OF_A_UNIT) as (systemd, maker):
        with pytest.raises(NoKey, match="systemd-tmpfiles"):
            answer(maker, str(folder))
        maker.close()
        assert systemd.recv(1) == b""


def test_it_answers_until_it_is_idle(
    tmp_path: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One that it refuses does not end it."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "key.sock"))
        listening.listen()
        server = threading.Thread(target=serve, args=(listening, str(folder), 0.5))
        server.start()
        seen = [
            whole(tmp_path / "key.sock", whose)
            for whose in ("unit/stranger.service/api-key", OF_A_UNIT, OF_A_UNIT)
        ]
        server.join(DEADLINE_S)
        assert not server.is_alive()
    assert [len(key) for key in seen] == [0, 43, 43]
    assert seen[1] != seen[2]
    assert capfd.readouterr().err.startswith("error: cannot make a key for ")


def whole(path: Path, whose: str) -> bytes:
    """What systemd would take for a key."""
    with socket.socket(socket.AF_UNIX) as systemd:
        systemd.bind(f"\0{secrets.token_hex(8)}/{whose}")
        systemd.settimeout(DEADLINE_S)
        systemd.connect(str(path))
        with systemd.makefile("rb") as answered:
            return answered.read()


def test_only_systemd_starts_it() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", make_key.__file__],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot listen: ")


def test_a_key_and_its_file(folder: Path) -> None:
    (folder / ".8080.new").write_text("left behind")
    first = write_new(str(folder), 8080)
    second = write_new(str(folder), 8080)
    assert first != second
    assert len(second) == 43
    assert re.fullmatch(rb"[A-Za-z0-9_-]+", second)
    assert [path.name for path in folder.iterdir()] == ["8080.key"]
    assert (folder / "8080.key").stat().st_mode & 0o7777 == 0o640
