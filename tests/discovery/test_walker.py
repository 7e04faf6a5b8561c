"""What a walk through the model folders sees, follows and refuses."""

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from magid.discovery.found import Scan
from magid.discovery.roots import Roots
from tests.support import ggufs
from tests.support.scanning import names, only, reasons, scan, timeless


def test_a_hugging_face_cache(tmp_path: Path) -> None:
    repository = tmp_path / "models--org--demo"
    blob = ggufs.write_chat_model(repository / "blobs" / "0a1b2c")
    for snapshot in ("aaaa", "bbbb"):
        link = repository / "snapshots" / snapshot / "Demo-3B-Q8_0.gguf"
        link.parent.mkdir(parents=True)
        link.symlink_to("../../blobs/0a1b2c")
    model = only(scan(tmp_path))
    assert (model.path, model.filename) == (str(blob), "Demo-3B-Q8_0.gguf")
    assert (model.files, model.base_id) == ((str(blob),), "demo_3p0b_q80_balanced")


def test_shards_in_a_hugging_face_cache_keep_the_names_they_are_found_by(tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshots" / "aaaa"
    snapshot.mkdir(parents=True)
    for number, path in enumerate(ggufs.write_split_model(tmp_path / "blobs" / "x", 2)):
        blob = path.rename(path.with_name(f"blob{number}"))
        (snapshot / path.name).symlink_to(blob)
    model = only(scan(tmp_path))
    assert model.path == str(snapshot / "x-00001-of-00002.gguf")
    assert all(Path(file).is_symlink() for file in model.files)


def test_links_that_are_not_followed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    inside = ggufs.write_chat_model(root / "a" / "a-1B-F32.gguf")
    outside = ggufs.write_chat_model(tmp_path / "secret.gguf")
    also_outside = ggufs.write_chat_model(tmp_path / "root-2" / "b.gguf")
    (root / "outside.gguf").symlink_to(outside)
    (root / "beside.gguf").symlink_to(also_outside)
    (root / "dangling.gguf").symlink_to(root / "nowhere")
    (root / "loop.gguf").symlink_to("loop.gguf")
    (root / "device.gguf").symlink_to("/dev/zero")
    (root / "folder.gguf").symlink_to(root / "a")
    (root / "a" / "up").symlink_to(root)
    found = scan(root)
    assert [model.path for model in found.models] == [str(inside)]
    expected = {
        "outside.gguf": "outside the model folders",
        "beside.gguf": "outside the model folders",
        "dangling.gguf": "a file that does not exist",
        "loop.gguf": "cannot be followed",
        "device.gguf": "outside the model folders",
        "folder.gguf": "a link to something that is not a regular file",
    }
    why = reasons(found)
    assert why.keys() == expected.keys()
    assert all(part in why[name] for name, part in expected.items())


def test_a_link_out_of_the_model_folders_is_reported_with_the_remedy(tmp_path: Path) -> None:
    root, outside = tmp_path / "models", tmp_path / "elsewhere" / "pub"
    ggufs.write_chat_model(root / "a-1B.gguf")
    ggufs.write_chat_model(outside / "org" / "b-1B.gguf")
    ggufs.write_chat_model(tmp_path / "far" / "1" / "2" / "3" / "c.gguf")
    (root / "pub").symlink_to(outside)
    (root / "again.gguf").symlink_to(outside / "org" / "b-1B.gguf")
    (root / "within").symlink_to(root)
    (root / "above").symlink_to(tmp_path)
    (root / "far").symlink_to(tmp_path / "far")
    (root / "README.md").symlink_to("nowhere")
    (root / "old").symlink_to("gone")
    (root / "unmounted").symlink_to(tmp_path / "disk")
    found = scan(root)
    assert names(found) == ["a-1B.gguf"]
    assert reasons(found) == {
        "pub": f"is a link to a folder outside the model folders: {outside}; "
        f"add {outside} to model_paths in magid.yaml",
        "again.gguf": "is a link to a file outside the model folders: "
        f"{outside}/org/b-1B.gguf; add {outside}/org to model_paths in magid.yaml",
        "unmounted": f"is a link to {tmp_path}/disk, which magid cannot read: No such file or "
        "directory; if that is a folder with models, let user magi enter it and add it to "
        "model_paths in magid.yaml",
    }
    both = scan(root, outside)
    assert names(both) == ["b-1B.gguf", "a-1B.gguf"]
    assert list(reasons(both)) == ["unmounted"]


def test_every_file_counts_once(tmp_path: Path) -> None:
    path = ggufs.write_chat_model(tmp_path / "b" / "b.gguf")
    (tmp_path / "b" / "c.gguf").hardlink_to(path)
    (tmp_path / "a.gguf").symlink_to(path)
    (tmp_path / "again").symlink_to(tmp_path / "b")
    roots = (tmp_path / "b", tmp_path, tmp_path / "again", tmp_path)
    assert [model.path for model in scan(*roots).models] == [str(path)]


def test_files_are_in_path_order_whether_links_or_not(tmp_path: Path) -> None:
    (tmp_path / "blob").touch()
    (tmp_path / "b.gguf").touch()
    (tmp_path / "a.gguf").symlink_to("blob")
    with closing(Roots([tmp_path])) as roots:
        assert [file.name for file in roots.listing().files] == ["a.gguf", "b.gguf"]


def test_a_root_may_be_a_link(tmp_path: Path) -> None:
    path = ggufs.write_chat_model(tmp_path / "disk" / "a.gguf")
    (tmp_path / "models").symlink_to(tmp_path / "disk")
    assert only(scan(tmp_path / "models")).path == str(path)


def test_what_is_hidden_stays_so(tmp_path: Path) -> None:
    ggufs.write_chat_model(tmp_path / ".trash" / "a.gguf")
    ggufs.write_chat_model(tmp_path / "._a.gguf")
    assert scan(tmp_path).models == ()
    assert names(scan(tmp_path / ".trash")) == ["a.gguf"]


def test_a_folder_may_be_called_like_a_file(tmp_path: Path) -> None:
    ggufs.write_chat_model(tmp_path / "x.gguf" / "a.gguf")
    assert names(scan(tmp_path)) == ["a.gguf"]


def test_a_folder_that_is_not_valid_utf8(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/\xfe"
    os.mkdir(folder)  # noqa: PTH102 - Path takes no bytes
    ggufs.write_chat_model(tmp_path / "a.gguf")
    os.rename(tmp_path / "a.gguf", folder + b"/a.gguf")  # noqa: PTH104 - Path takes no bytes
    found = scan(tmp_path)
    assert (found.models, list(reasons(found))) == ((), ["a.gguf"])


@pytest.mark.parametrize("make", [lambda root: None, lambda root: root.touch()])
def test_a_root_that_cannot_be_read_hides_no_other(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    ggufs.write_chat_model(tmp_path / "good" / "a-1B-F32.gguf")
    make(tmp_path / "bad")
    found = scan(tmp_path / "bad", tmp_path / "good")
    assert names(found) == ["a-1B-F32.gguf"]
    (root,) = found.unreadable_roots
    assert (root.path, root.reason[:15]) == (str(tmp_path / "bad"), "cannot be read:")


def test_no_roots_and_no_files(tmp_path: Path) -> None:
    assert timeless(scan()) == Scan()
    assert timeless(scan(tmp_path)) == Scan(empty_folders=(str(tmp_path),))
