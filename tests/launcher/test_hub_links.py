"""Which links of a hub's cache the launcher follows, and what a unit sees of them."""

from contextlib import closing
from pathlib import Path

import pytest
from msgspec import structs

from magid.errors import NotAllowed
from magid.launcher.model_files import Examiner
from magid.launcher.policy import authorize
from magid.launcher.sandbox import unit_properties
from tests.support.launcher_house import BLOB, House

SNAPSHOT = "models--org--x/snapshots/" + "0c" * 20


def cached(house: House, *links: tuple[str, str]) -> Path:
    """A repository in a hub's cache with one blob, and these links: name below it, target."""
    blob = house.models / BLOB
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(b"GGUF")
    for name, target in links:
        link = blob.parents[1] / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
    return blob


def test_the_shards_of_a_hubs_cache_are_mounted_under_their_names(house: House) -> None:
    folder = f"snapshots/{'0c' * 20}/Q8_0"
    names = [f"x-{n:05}-of-00002.gguf" for n in (1, 2)]
    blob = cached(house, *[(f"{folder}/{name}", f"../../../blobs/{'0a' * 32}") for name in names])
    paths = [str(blob.parents[1] / folder / name) for name in names]
    with closing(Examiner()) as examiner:
        order = authorize(house.order(model_path=paths[0]), house.settings, examiner)
    assert order == authorize(house.order(model_path=paths[0]), house.settings)
    assert [(f.path, f.source, f.inode) for f in order.files] == [
        (path, str(blob), blob.stat().st_ino) for path in paths
    ]
    made = {p.name: p.value for p in unit_properties(order, 257)}
    bound = [one[:2] for one in made["BindReadOnlyPaths"]]  # magid's own too, from some places
    of_models = [one for one in bound if str(house.models) in "".join(one)]
    assert of_models == [(str(blob), path) for path in paths]
    assert (str(house.models), "ro") in made["TemporaryFileSystem"]
    gate = made["ExecStartEx"][0][1]
    assert f"{blob.stat().st_dev}:{blob.stat().st_ino}:{paths[1]}" in gate


@pytest.mark.parametrize(
    "target",
    [
        "../../../outside.gguf",
        "../../../models--org--y/blobs/" + "0a" * 32,  # of another repository
        "../../blobs/../../a.gguf",
        "../../blobs/x.gguf",
        "../../blobs/" + "0d" * 32,  # it is a link itself
        "/etc/passwd",
        "x.gguf",
    ],
)
def test_other_links_are_not_followed(house: House, target: str) -> None:
    blob = cached(house, (f"snapshots/{'0c' * 20}/x.gguf", target))
    (blob.parent / "x.gguf").write_bytes(b"GGUF")
    (blob.parent / ("0d" * 32)).symlink_to(house.models / "a.gguf")
    other = house.models / "models--org--y/blobs" / ("0a" * 32)
    other.parent.mkdir(parents=True)
    other.write_bytes(b"GGUF")
    path = f"{house.models}/{SNAPSHOT}/x.gguf"
    with pytest.raises(NotAllowed, match="is not a regular file"):
        authorize(house.order(model_path=path), house.settings)


def test_a_link_out_of_the_model_folder_is_not_followed(house: House) -> None:
    blob = cached(house, (f"snapshots/{'0c' * 20}/x.gguf", f"../../blobs/{'0a' * 32}"))
    only = structs.replace(house.settings, model_paths=(blob.parents[1] / "snapshots",))
    with pytest.raises(NotAllowed, match="is not a regular file"):
        authorize(house.order(model_path=f"{house.models}/{SNAPSHOT}/x.gguf"), only)
