"""Owners below magid's folders, put right as root: real files, and links that lead elsewhere."""

import os
from pathlib import Path

import pytest

from magid.standalone.state_owners import PROFILE_FILES, STATE_FILES, adopt

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change owners")

MAGI, OTHER = 61_001, 61_002


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "magi"
    (folder / "models").mkdir(parents=True)
    for name in ("model_registry.json", "model_registry.json.1", "tokens.json", "notes.txt",
                 "models/A.gguf"):  # fmt: skip
        (folder / name).touch(mode=0o640)
        os.chown(folder / name, OTHER, OTHER)
    os.chown(folder, OTHER, OTHER)
    return folder


def owners(*paths: Path) -> list[int]:
    return [path.lstat().st_uid for path in paths]


def test_magids_own_files_are_given_back_and_no_other(state: Path) -> None:
    told = list(adopt(str(state), STATE_FILES, MAGI, MAGI))
    assert owners(state, *sorted(state.glob("*.json*"))) == [MAGI] * 4
    assert (state / "tokens.json").stat().st_gid == MAGI
    assert owners(state / "notes.txt", state / "models/A.gguf") == [OTHER] * 2
    assert told[0] == f"gave {state} to magi: it belonged to user {OTHER}"
    assert len(told) == 4
    assert list(adopt(str(state), STATE_FILES, MAGI, MAGI)) == []


def test_what_was_predicted_is_magids_own(state: Path) -> None:
    (state / "predictions.json").touch()
    list(adopt(str(state), STATE_FILES, MAGI, MAGI))
    assert owners(state / "predictions.json") == [MAGI]


def test_profiles(tmp_path: Path) -> None:
    for name in ("mine.yaml", "other.yml", ".hidden.yaml", "mine.yaml.off"):
        (tmp_path / name).touch()
    list(adopt(str(tmp_path), PROFILE_FILES, MAGI, MAGI))
    assert owners(tmp_path / "mine.yaml", tmp_path / "other.yml") == [MAGI] * 2
    assert owners(tmp_path / ".hidden.yaml", tmp_path / "mine.yaml.off") == [0, 0]


def test_nothing_is_given_away_behind_a_link(state: Path, tmp_path: Path) -> None:
    secret = tmp_path / "shadow"
    secret.touch(mode=0o600)
    for name in ("tokens.json", "model_registry.json"):
        (state / name).unlink()
        (state / name).symlink_to(secret)
    os.mkfifo(state / "magid.lock")
    list(adopt(str(state), STATE_FILES, MAGI, MAGI))
    assert owners(secret) == [0]
    assert owners(state / "magid.lock") == [0]


def test_a_file_with_several_names_is_copied(state: Path) -> None:
    """As the registry and its newest copy are, in a backup too."""
    (state / "model_registry.json.1").unlink()
    (state / "model_registry.json").write_text("{}")
    (state / "model_registry.json.1").hardlink_to(state / "model_registry.json")
    told = list(adopt(str(state), STATE_FILES, MAGI, MAGI))
    both = [state / "model_registry.json", state / "model_registry.json.1"]
    assert owners(*both) == [MAGI] * 2
    assert [path.read_text() for path in both] == ["{}"] * 2
    assert [path.stat().st_mode & 0o777 for path in both] == [0o640] * 2
    assert sum(line.startswith("gave ") for line in told) == 4
    assert sorted(path.name for path in state.glob(".*")) == []


def test_the_other_name_of_a_file_stays_its_owners(state: Path, tmp_path: Path) -> None:
    """Somebody has linked a file of his into a folder of magi's, and magi has moved it."""
    own = tmp_path / "own"
    own.write_text("{}")
    os.chown(own, OTHER, OTHER)
    (state / "tokens.json").unlink()
    (state / "tokens.json").hardlink_to(own)
    (state / "boot.json").hardlink_to(own)
    os.truncate(own, 2**30)
    list(adopt(str(state), STATE_FILES, MAGI, MAGI))
    assert owners(own, state / "tokens.json") == [OTHER] * 2, "too large to be magid's"
    os.truncate(own, 2)
    list(adopt(str(state), STATE_FILES, MAGI, MAGI))
    assert owners(own, state / "tokens.json") == [OTHER, MAGI]


@pytest.mark.parametrize("setting", ["0\n", None])
def test_where_anybody_may_link_any_file_no_copy_is_given(
    state: Path, tmp_path: Path, setting: str | None
) -> None:
    links, secret = tmp_path / "protected_hardlinks", tmp_path / "shadow"
    if setting is not None:
        links.write_text(setting)
    secret.write_text("root:secret")
    (state / "tokens.json").unlink()
    (state / "tokens.json").hardlink_to(secret)
    told = list(adopt(str(state), STATE_FILES, MAGI, MAGI, str(links)))
    assert owners(secret, state / "tokens.json") == [0, 0]
    assert any("set fs.protected_hardlinks to 1 with sysctl" in line for line in told)


def test_a_folder_that_others_could_have_put_there_is_no_link(state: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = state / "link"
    link.symlink_to(elsewhere)  # its folder belongs to another user
    (told,) = adopt(str(link), STATE_FILES, MAGI, MAGI)
    assert told.startswith(f"cannot read {link}: ")
    assert owners(elsewhere) == [0]


def test_a_link_of_roots_is_followed(state: Path, tmp_path: Path) -> None:
    """/var/lib/magi on another disk. Everything above it is root's."""
    above = tmp_path / "lib"
    above.mkdir(mode=0o755)
    (above / "magi").symlink_to(state)
    list(adopt(str(above / "magi"), STATE_FILES, MAGI, MAGI))
    assert owners(state, state / "tokens.json") == [MAGI] * 2


def test_no_folder_is_no_error(tmp_path: Path) -> None:
    assert list(adopt(str(tmp_path / "none"), STATE_FILES, MAGI, MAGI)) == []
