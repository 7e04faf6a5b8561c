"""Revisions in a cache of huggingface_hub."""

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from magid.discovery.hub_cache import current, main_revision, repository
from magid.discovery.walker import File
from tests.support import ggufs
from tests.support.scanning import names, only, scan
from tests.support.values import merged

OLD, NEW = "a" * 40, "b" * 40


class Repository:
    """Files as the hub's client lays them out."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "models--org--demo"

    def add(self, commit: str, name: str, parameters: float = 1.0) -> Path:
        """A file of this revision; returns its blob."""
        blob = self.folder / "blobs" / f"{commit[:4]}{name.encode().hex()}"
        ggufs.write_sparse_model(blob, parameters_billions=parameters)
        link = self.folder / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
        return blob

    def name_main(self, commit: str) -> None:
        (self.folder / "refs").mkdir(parents=True, exist_ok=True)
        (self.folder / "refs" / "main").write_text(commit)


@pytest.fixture
def hub(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


@pytest.mark.parametrize("meant", [OLD, NEW])
def test_main_says_which_revision_is_meant(hub: Repository, tmp_path: Path, meant: str) -> None:
    blobs = {commit: hub.add(commit, "Q4/Demo-1B-Q4_K_M.gguf") for commit in (OLD, NEW)}
    assert len(scan(tmp_path).models) == 2  # without `main` each was requested
    hub.name_main(meant)
    assert only(scan(tmp_path)).path == str(blobs[meant])


def test_a_file_that_only_an_older_revision_has_stays(hub: Repository, tmp_path: Path) -> None:
    hub.add(OLD, "Demo-1B-Q8_0.gguf")
    hub.add(OLD, "Demo-1B-Q4_K_M.gguf")
    hub.add(NEW, "Demo-1B-Q4_K_M.gguf")
    hub.name_main(NEW)
    assert sorted(names(scan(tmp_path))) == ["Demo-1B-Q4_K_M.gguf", "Demo-1B-Q8_0.gguf"]


def test_of_revisions_that_main_has_left_the_newest_counts(hub: Repository, tmp_path: Path) -> None:
    older, newer = hub.add(NEW, "Demo-1B-F16.gguf"), hub.add(OLD, "Demo-1B-F16.gguf")
    os.utime(older, (1, 1))
    hub.name_main("c" * 40)
    assert only(scan(tmp_path)).path == str(newer)


def test_a_new_revision_keeps_the_id_and_what_was_decided(hub: Repository, tmp_path: Path) -> None:
    hub.add(OLD, "Demo-1B-Q4_K_M.gguf", parameters=1.0)
    hub.name_main(OLD)
    before = merged(*scan(tmp_path).models)
    ((model_id, entry),) = before.registry.models.items()
    registry = before.registry.with_entry(replace(entry, enabled_override=True))
    blob = hub.add(NEW, "Demo-1B-Q4_K_M.gguf", parameters=1.01)
    hub.name_main(NEW)
    after = merged(*scan(tmp_path).models, registry=registry)
    ((kept_id, kept),) = after.registry.models.items()
    assert (kept_id, kept.path, kept.enabled_override) == (model_id, str(blob), True)


@pytest.mark.parametrize("content", [b"", b"../..", b"\xff", b"x" * 5000, None])
def test_a_reference_that_names_nothing(hub: Repository, content: bytes | None) -> None:
    hub.name_main("x")
    reference = hub.folder / "refs" / "main"
    reference.unlink()
    if content is None:
        reference.mkdir()
    else:
        reference.write_bytes(content)
    found = main_revision(str(hub.folder))
    assert found is None
    assert main_revision(str(hub.folder.parent)) is None


def test_only_snapshots_are_compared() -> None:
    key = (1, 1, 1, 1, 1)
    files = [
        File(path, path, key)
        for path in ("/m/models--a/blobs/x.gguf", "/m/a/snapshots/1/x.gguf", "/m/models--a/x.gguf")
    ]
    assert current(files, {"/m/models--a": "1"}) == files
    assert [repository(file.path) for file in files] == ["/m/models--a", None, None]
