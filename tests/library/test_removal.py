"""Which files of a model go, and which stay because another one needs them."""

from pathlib import Path

from magid.library.removal import RemovalPlan, plan_removal
from tests.support import ggufs
from tests.support.ollama_folder import OllamaFolder
from tests.support.scanning import scan


def plan(folder: Path, name: str, root: Path | None = None) -> RemovalPlan:
    models = {model.stem: model for model in scan(folder).models}
    return plan_removal(name, models, str(root or folder))


def names(found: RemovalPlan) -> tuple[list[str], dict[str, str]]:
    stays = {Path(one.path).name: one.reason for one in found.stays}
    return [Path(path).name for path in found.goes], stays


def test_all_shards_and_the_projector_of_one_model(tmp_path: Path) -> None:
    ggufs.write_split_model(tmp_path / "a/Big", 2)
    ggufs.write_mmproj(tmp_path / "a/mmproj-Big.gguf")
    goes, stays = names(plan(tmp_path, "Big"))
    assert sorted(goes) == ["Big-00001-of-00002.gguf", "Big-00002-of-00002.gguf",
                            "mmproj-Big.gguf"]  # fmt: skip
    assert not stays


def test_a_shared_projector_stays_until_the_last_model_goes(tmp_path: Path) -> None:
    for quantization in ("Q4_0", "Q8_0"):
        ggufs.write_chat_model(tmp_path / f"Eye-{quantization}.gguf", quantization=quantization)
    ggufs.write_mmproj(tmp_path / "mmproj-Eye.gguf")
    goes, stays = names(plan(tmp_path, "Eye-Q4_0"))
    assert (goes, stays) == (["Eye-Q4_0.gguf"], {"mmproj-Eye.gguf": "is needed by Eye-Q8_0"})
    (tmp_path / "Eye-Q4_0.gguf").unlink()
    assert names(plan(tmp_path, "Eye-Q8_0")) == (["Eye-Q8_0.gguf", "mmproj-Eye.gguf"], {})


def test_a_link_goes_before_its_blob_and_a_blob_elsewhere_stays(tmp_path: Path) -> None:
    blob = ggufs.write_chat_model(tmp_path / "hub/models--a--b/blobs" / ("0a" * 32))
    link = tmp_path / "hub/models--a--b/snapshots/c/x.gguf"
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)
    assert plan(tmp_path, "x").goes == (str(link), str(blob))
    goes, stays = names(plan(tmp_path, "x", link.parent))
    assert goes == ["x.gguf"]
    assert stays[blob.name].startswith(f"is outside {link.parent}, the one folder that magid may")
    nothing = plan_removal("x", {m.stem: m for m in scan(tmp_path).models}, None)
    assert not nothing.goes
    assert "library_path in magid.yaml names one" in nothing.stays[0].reason


def test_a_store_of_ollama_is_ollamas(tmp_path: Path) -> None:
    content = ggufs.write_chat_model(tmp_path / "source/x.gguf").read_bytes()
    store = OllamaFolder(tmp_path / "store")
    store.add("registry.ollama.ai/library/tiny/latest", model=content)
    found = plan(store.folder, "tiny-latest")
    assert not found.goes
    assert all("`ollama rm` removes it there" in one.reason for one in found.stays)


def test_a_folder_named_manifests_makes_no_store(tmp_path: Path) -> None:
    file = ggufs.write_chat_model(tmp_path / "manifests/x.gguf")
    ggufs.write_chat_model(tmp_path / "blobs/y.gguf")
    assert plan(tmp_path / "manifests", "x").goes == (str(file),)
    beside = ggufs.write_chat_model(tmp_path / "org/manifests/a/b/c/d/c-d.gguf")
    assert plan(tmp_path, "c-d").goes == (str(beside),)
