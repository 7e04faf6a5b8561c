"""Files that are still being downloaded."""

from pathlib import Path

import pytest

from magid.discovery.scanner import Scanner
from magid.discovery.tiers import Thresholds
from tests.support import ggufs
from tests.support.scanning import names, reasons, scan, settle

MARKS = ("aria2", "part", "crdownload", "incomplete", "downloadInProgress", "download", "partial")


@pytest.mark.parametrize("ending", MARKS)
def test_a_right_header_with_zeros_behind_it_is_no_model_yet(tmp_path: Path, ending: str) -> None:
    path = ggufs.write_sparse_model(tmp_path / "Demo-7B-Q4_K_M.gguf", parameters_billions=7)
    mark = path.with_name(f"{path.name}.{ending}")
    mark.touch()
    ggufs.write_chat_model(tmp_path / "Other-1B.gguf")
    settle(tmp_path)
    scanner = Scanner([tmp_path], Thresholds(), tmp_path / "cache.json")
    assert [one.filename for one in scanner.first_listing()] == ["Other-1B.gguf"]
    found = scanner.scan()
    assert (names(found), list(reasons(found))) == (["Other-1B.gguf"], [path.name])
    assert f"is still being downloaded, as {mark.name} next to it shows; " in found.broken[0].reason
    assert (scanner.has_downloads, scanner.has_fewer_downloads()) == (True, False)

    mark.unlink()
    assert scanner.has_fewer_downloads()
    done = scanner.scan()
    assert (names(done), done.broken) == ([path.name, "Other-1B.gguf"], ())
    assert not scanner.has_downloads

    mark.touch()  # it is downloaded once more
    assert names(scanner.scan()) == ["Other-1B.gguf"]


def test_one_shard_makes_its_model_wait(tmp_path: Path) -> None:
    _, second = ggufs.write_split_model(tmp_path / "Demo", 2)
    second.with_name(f"{second.name}.aria2").touch()
    found = scan(tmp_path)
    assert found.models == ()
    assert found.broken[0].reason.startswith(f"shard 2 of 2 ({second.name}) is still being down")


@pytest.mark.parametrize("name", ["X.gguf.part", "X.GGUF.DownloadInProgress"])
def test_a_download_without_its_final_name_is_reported(tmp_path: Path, name: str) -> None:
    ggufs.write_chat_model(tmp_path / name)
    found = scan(tmp_path)
    assert found.models == ()
    assert reasons(found)[name].startswith("is still being downloaded; ")


@pytest.mark.parametrize("name", ["X.part", "X.gguf.txt", "X.gguf.part.txt", ".X.gguf.part"])
def test_other_files_mark_nothing(tmp_path: Path, name: str) -> None:
    ggufs.write_chat_model(tmp_path / "X.gguf")
    (tmp_path / name).touch()
    found = scan(tmp_path)
    assert (names(found), found.broken) == (["X.gguf"], ())
