"""Models in several files, whole and damaged."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import ggufs
from tests.support.scanning import reasons, scan


def test_shards_are_one_model(tmp_path: Path) -> None:
    whole = ggufs.write_chat_model(tmp_path / "whole" / "Demo-1B-F32.gguf")
    paths = ggufs.write_split_model(tmp_path / "split" / "Demo-1B-F32", 3)
    split, one = scan(tmp_path).models
    assert split.files == tuple(map(str, paths))
    assert (split.path, split.filename) == (str(paths[0]), paths[0].name)
    assert split.size_bytes == sum(path.stat().st_size for path in paths)
    assert split.size_bytes > one.size_bytes == whole.stat().st_size
    assert split.parameter_count == one.parameter_count
    assert split.bits_per_weight == pytest.approx(one.bits_per_weight)
    assert split.base_id == one.base_id


@pytest.mark.parametrize("separator", [".", "_"])
def test_shards_that_llama_cpp_would_not_find_by_name(tmp_path: Path, separator: str) -> None:
    for path in ggufs.write_split_model(tmp_path / "x", 2):
        path.rename(path.with_name("x" + separator + path.name[2:]))
    (broken,) = scan(tmp_path).broken
    assert "shard 1 of 2 has the wrong name; rename it to *-00001-of-00002.gguf" in broken.reason


def _rename(old: str, new: str) -> Callable[[Path], object]:
    return lambda folder: (folder / old).rename(folder / new)


def _of_four(folder: Path) -> None:
    for number in (1, 2, 3):
        (folder / f"x-0000{number}-of-00003.gguf").rename(folder / f"x-{number}-of-4.gguf")
    shutil.copy(folder / "x-3-of-4.gguf", folder / "x-4-of-4.gguf")


def _swap(folder: Path) -> None:
    one, two = (folder / f"x-0000{number}-of-00003.gguf" for number in (1, 2))
    one.rename(folder / "swap")
    two.rename(one)
    (folder / "swap").rename(two)


def _truncate(folder: Path) -> None:
    os.truncate(folder / "x-00002-of-00003.gguf", 40)


def _from_elsewhere(folder: Path) -> None:
    other = ggufs.write_split_model(folder / "other" / "y", 3)
    shutil.copy(other[1], folder / "x-00003-of-00003.gguf")
    shutil.rmtree(folder / "other")


@pytest.mark.parametrize(
    ("damage", "path", "reason"),
    [
        (
            lambda folder: (folder / "x-00002-of-00003.gguf").unlink(),
            "x-00001-of-00003.gguf",
            "shard 2 of 3 is missing",
        ),
        (
            lambda folder: (folder / "x-00001-of-00003.gguf").unlink(),
            "x-00002-of-00003.gguf",
            "shard 1 of 3 is missing",
        ),
        (
            lambda folder: [(folder / f"x-0000{n}-of-00003.gguf").unlink() for n in (1, 2)],
            "x-00003-of-00003.gguf",
            "2 of its 3 shards are missing",
        ),
        (
            lambda folder: shutil.copy(folder / "x-00001-of-00003.gguf", folder / "x_1-of-3.gguf"),
            "x-00001-of-00003.gguf",
            "there are two files for shard 1 of 3",
        ),
        (
            _rename("x-00003-of-00003.gguf", "x-00004-of-00003.gguf"),
            "x-00001-of-00003.gguf",
            "is named shard 4 of 3",
        ),
        (_of_four, "x-1-of-4.gguf", "belongs to a model of 3 shards, by its header"),
        (
            _swap,
            "x-00001-of-00003.gguf",
            "shard 1 of 3 (x-00001-of-00003.gguf) has the header of another",
        ),
        (
            _from_elsewhere,
            "x-00001-of-00003.gguf",
            "shard 3 of 3 (x-00003-of-00003.gguf) has the header of another",
        ),
        (_truncate, "x-00001-of-00003.gguf", "shard 2 of 3 (x-00002-of-00003.gguf) is truncated"),
        (
            lambda folder: (folder / "x-00002-of-00003.gguf").write_bytes(b""),
            "x-00001-of-00003.gguf",
            "shard 2 of 3 (x-00002-of-00003.gguf) is empty",
        ),
    ],
)
def test_shards_that_do_not_fit(
    tmp_path: Path, damage: Callable[[Path], object], path: str, reason: str
) -> None:
    ggufs.write_split_model(tmp_path / "x", 3)
    damage(tmp_path)
    found = scan(tmp_path)
    (broken,) = found.broken
    assert found.models == ()
    assert broken.path == str(tmp_path / path)
    assert reason in broken.reason


def test_a_shard_with_tensors_missing(tmp_path: Path) -> None:
    ggufs.write_split_model(tmp_path / "x", 2)
    ggufs.write_chat_model(
        tmp_path / "x-00002-of-00002.gguf", metadata={"split.no": 1, "split.count": 2}
    )
    assert "tensors instead of" in reasons(scan(tmp_path))["x-00001-of-00002.gguf"]


def test_a_shard_under_the_name_of_a_whole_model(tmp_path: Path) -> None:
    first, second = ggufs.write_split_model(tmp_path / "x", 2)
    second.unlink()
    first.rename(tmp_path / "x.gguf")
    assert "is one of 2 shards by its header" in reasons(scan(tmp_path))["x.gguf"]
