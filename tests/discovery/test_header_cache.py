"""Scans again and again: what is read anew, and what the cache may be trusted with."""

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from magid.discovery.scanner import Scanner
from magid.discovery.tiers import Thresholds, Tier
from tests.support import ggufs
from tests.support.deadlines import PATIENCE_S
from tests.support.scanning import names, only, reasons, settle, timeless


class _Reads:
    """Counts the files that a scan opens, by the progress it reports."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.steps.append((done, total))


def _reads(scanner: Scanner) -> int:
    reads = _Reads()
    scanner.scan(reads)
    assert reads.steps == [(done, len(reads.steps)) for done in range(1, len(reads.steps) + 1)]
    return len(reads.steps)


def test_a_rescan_sees_what_changed(tmp_path: Path) -> None:
    for letter in "abc":
        ggufs.write_chat_model(tmp_path / f"{letter}-1B-F32.gguf")
    scanner = Scanner([tmp_path], Thresholds(), None)
    first = scanner.scan()
    assert timeless(scanner.scan()) == timeless(first)

    ggufs.write_chat_model(tmp_path / "d-1B-F32.gguf")
    (tmp_path / "a-1B-F32.gguf").unlink()
    (tmp_path / "b-1B-F32.gguf").write_bytes(b"damaged")
    ggufs.write_chat_model(tmp_path / "new", template=ggufs.THINKING_TEMPLATE)
    (tmp_path / "new").rename(tmp_path / "c-1B-F32.gguf")
    second = scanner.scan()
    assert names(second) == ["c-1B-F32.gguf", "d-1B-F32.gguf"]
    assert list(reasons(second)) == ["b-1B-F32.gguf"]
    assert second.models[0].is_thinking
    assert second.models[0].stamp != first.models[2].stamp


def test_a_file_replaced_in_place_with_its_old_size_and_times(tmp_path: Path) -> None:
    path = ggufs.write_chat_model(tmp_path / "a.gguf", metadata={"general.basename": "Before"})
    settle(tmp_path)
    scanner = Scanner([tmp_path], Thresholds(), None)
    before = only(scanner.scan())
    assert _reads(scanner) == 0
    status = path.stat()
    path.write_bytes(path.read_bytes().replace(b"Before", b"Behind"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert (before.name.family, only(scanner.scan()).name.family) == ("before", "behind")


def test_only_new_and_changed_files_are_read(tmp_path: Path) -> None:
    models, cache = tmp_path / "models", tmp_path / "cache.json"
    ggufs.write_chat_model(models / "a-1B-F32.gguf")
    ggufs.write_split_model(models / "b", 2)
    (models / "broken.gguf").write_bytes(b"PK")
    settle(models)
    first = Scanner([models], Thresholds(), cache)
    assert [_reads(first), _reads(first)] == [4, 0]

    again = Scanner([models], Thresholds(powerful_min=0.5), cache)
    inode = cache.stat().st_ino
    assert again.first_listing() == ()
    assert _reads(again) == 0
    assert cache.stat().st_ino == inode
    assert again.scan().models[0].tier is Tier.POWERFUL
    assert again.scan().broken == first.scan().broken

    ggufs.write_chat_model(models / "c-1B-F32.gguf")
    assert [pending.filename for pending in again.first_listing()] == ["c-1B-F32.gguf"]
    assert _reads(again) == 1


def test_a_touched_file_is_read_again(tmp_path: Path) -> None:
    path = ggufs.write_chat_model(tmp_path / "a.gguf")
    scanner = Scanner([tmp_path], Thresholds(), None)
    settle(tmp_path)
    assert [_reads(scanner), _reads(scanner)] == [1, 0]
    path.touch()
    settle(tmp_path)
    assert [_reads(scanner), _reads(scanner)] == [1, 0]


def test_a_root_that_comes_back_need_not_be_read_again(tmp_path: Path) -> None:
    root = tmp_path / "disk"
    ggufs.write_chat_model(root / "a-1B-F32.gguf")
    settle(root)
    scanner = Scanner([root], Thresholds(), tmp_path / "cache.json")
    before = scanner.scan()
    root.rename(tmp_path / "unmounted")
    gone = scanner.scan()
    assert (gone.models, len(gone.unreadable_roots)) == ((), 1)
    (tmp_path / "unmounted").rename(root)
    reads = _Reads()
    assert scanner.scan(reads).models == before.models
    assert reads.steps == []


def _with(document: object, *path: object, value: object) -> bytes:
    """The document with one value of it replaced, as JSON."""
    copy = json.loads(json.dumps(document))
    inner = copy
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return json.dumps(copy).encode()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda document, name: b"",
        lambda document, name: b"\xff\xfe{",
        lambda document, name: json.dumps(document).encode()[:-1],
        lambda document, name: b"[]",
        lambda document, name: b'{"schema":1}',
        lambda document, name: b"[" * 100_000,
        lambda document, name: _with(document, "schema", value=0),
        lambda document, name: _with(document, "files", value=[1]),
        lambda document, name: _with(document, "files", name, value=None),
        lambda document, name: _with(document, "files", name, 0, value=[1, 2, 3]),
        lambda document, name: _with(document, "files", name, 0, 2, value="big"),
        lambda document, name: _with(document, "files", name, 1, value=[]),
        lambda document, name: _with(document, "files", name, 1, 0, value=None),
        lambda document, name: _with(document, "files", name, 1, 0, value={"split.no": [1]}),
        lambda document, name: _with(document, "files", name, 1, 2, value="many"),
        lambda document, name: _with(document, "files", name, 1, 4, value=None),
        lambda document, name: _with(document, "files", name, 1, 5, value="perhaps"),
        lambda document, name: _with(document, "files", name, 1, 6, value=0),
        lambda document, name: _with(document, "files", name, 1, 7, value=1),
    ],
)
def test_a_spoilt_cache_is_thrown_away(
    tmp_path: Path, spoil: Callable[[object, str], bytes]
) -> None:
    models, cache = tmp_path / "models", tmp_path / "cache.json"
    path = ggufs.write_chat_model(models / "a-1B-F32.gguf")
    settle(models)
    expected = Scanner([models], Thresholds(), cache).scan()
    good = cache.read_bytes()
    cache.write_bytes(spoil(json.loads(good), str(path)))

    scanner = Scanner([models], Thresholds(), cache)
    reads = _Reads()
    assert timeless(scanner.scan(reads)) == timeless(expected)
    assert (len(reads.steps), cache.read_bytes()) == (1, good)
    assert {entry.name for entry in tmp_path.iterdir()} == {"models", "cache.json"}


@pytest.mark.parametrize("cache", ["missing/cache.json", "folder", "folder/in/a/file"])
def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, cache: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "in").touch()
    path = ggufs.write_chat_model(tmp_path / "models" / "a-1B-F32.gguf")
    scanner = Scanner([tmp_path / "models"], Thresholds(), tmp_path / cache)
    assert only(scanner.scan()).path == str(path)


def test_scans_of_several_threads(tmp_path: Path) -> None:
    for number in range(8):
        ggufs.write_sparse_model(tmp_path / f"m-{number}B.gguf", parameters_billions=1)
    settle(tmp_path)
    scanner = Scanner([tmp_path], Thresholds(), tmp_path / "cache.json")
    reads = _Reads()
    with ThreadPoolExecutor(6) as threads:
        scans = [threads.submit(scanner.scan, reads) for _ in range(6)]
        listings = [threads.submit(scanner.first_listing) for _ in range(2)]
        first, *others = [timeless(one.result()) for one in scans]
    assert len(first.models) == len(reads.steps) == 8  # one scan read, the others saw it
    assert all(other == first for other in others)
    assert all(listing.result() is not None for listing in listings)


def test_a_file_that_changed_just_now_is_read_again(tmp_path: Path) -> None:
    """It might change again within the same tick of the clock and look as it does now."""
    path = ggufs.write_chat_model(tmp_path / "a.gguf")
    deadline = time.monotonic() + PATIENCE_S
    scanner = Scanner([tmp_path], Thresholds(), None)
    scanner.scan()  # its process is there from here on
    while time.monotonic() < deadline:
        path.touch()
        scanner.scan()
        if time.time_ns() - path.stat().st_ctime_ns < 20_000_000:
            assert _reads(scanner) == 1
            return
    pytest.fail("no scan was quick enough to see a file that changed just now")
