"""A store of Ollama as a model folder."""

import json
import os
from pathlib import Path

import pytest

from magid.discovery.ollama_store import OllamaManifest, manifests
from tests.support import ggufs
from tests.support.ollama_folder import OllamaFolder
from tests.support.scanning import names, only, reasons, scan

LIBRARY = "registry.ollama.ai/library"


@pytest.fixture
def store(tmp_path: Path) -> OllamaFolder:
    return OllamaFolder(tmp_path / "models")


@pytest.fixture
def model(tmp_path: Path) -> bytes:
    return ggufs.write_chat_model(tmp_path / "source" / "x.gguf").read_bytes()


def test_a_model_is_its_blob_by_the_name_in_the_manifest(store: OllamaFolder, model: bytes) -> None:
    store.add(f"{LIBRARY}/llama3/8b", model=model, license=b"MIT", params=b'{"top_k": 1}')
    found = only(scan(store.folder))
    assert found.filename == "llama3-8b.gguf"
    assert found.path == str(store.path(store.blob(model)))
    assert found.files == (found.path,)


def test_a_store_below_a_model_folder_beside_other_models(
    store: OllamaFolder, model: bytes, tmp_path: Path
) -> None:
    store.add("hf.co/acme/x-GGUF/Q4_K_M", model=model)
    found = scan(tmp_path)
    assert sorted(names(found)) == ["x-GGUF-Q4_K_M.gguf", "x.gguf"]


def test_two_names_of_one_blob_are_one_model(store: OllamaFolder, model: bytes) -> None:
    for tag in ("8b", "latest"):
        store.add(f"{LIBRARY}/llama3/{tag}", model=model)
    assert names(scan(store.folder)) == ["llama3-8b.gguf"]


def test_models_share_a_projector_and_each_has_it(store: OllamaFolder, tmp_path: Path) -> None:
    projector = ggufs.write_mmproj(tmp_path / "source" / "p.gguf").read_bytes()
    for tag, quantization in (("q4", "Q4_0"), ("q8", "Q8_0")):
        path = tmp_path / "source" / f"{tag}.gguf"
        model = ggufs.write_chat_model(path, quantization=quantization).read_bytes()
        store.add(f"{LIBRARY}/llava/{tag}", model=model, projector=projector)
    store.add(f"{LIBRARY}/plain/latest", model=ggufs.write_chat_model(
        tmp_path / "source" / "plain.gguf", quantization="F16").read_bytes())  # fmt: skip
    found = scan(store.folder)
    expected = str(store.path(store.blob(projector)))
    paired = {model.filename: [one.path for one in model.companions] for model in found.models}
    assert paired == {
        "llava-q4.gguf": [expected],
        "llava-q8.gguf": [expected],
        "plain-latest.gguf": [],
    }
    assert not found.broken


def test_what_is_not_whole_is_named(store: OllamaFolder, model: bytes) -> None:
    whole = store.add(f"{LIBRARY}/a/whole", model=model)
    gone = store.add(f"{LIBRARY}/a/gone", model=b"GGUF gone")
    store.path(store.blob(b"GGUF gone")).unlink()
    whole.with_name("text").write_text("no JSON")
    whole.with_name("list").write_text('{"layers": [1]}')
    whole.with_name("deep").write_text("[" * 100_000)
    whole.with_name("escape").write_text(
        json.dumps({"layers": [{"mediaType": "application/vnd.ollama.image.model",
                                "digest": "sha256:../../../../etc/passwd"}]})
    )  # fmt: skip
    found = scan(store.folder)
    assert names(found) == ["a-whole.gguf"]
    broken = reasons(found)
    assert broken.keys() == {"a-gone.gguf", "text", "list", "deep", "escape"}
    assert broken["text"] == "cannot be read as a manifest of Ollama: it is not JSON"
    assert broken["a-gone.gguf"].startswith(f"lacks its file {store.folder}/blobs/sha256-")
    assert gone.exists()


def test_models_beside_a_store_are_found_too(store: OllamaFolder, model: bytes) -> None:
    store.add(f"{LIBRARY}/a/real", model=model)
    ggufs.write_chat_model(store.folder / "org/repo/Other-Q4_0.gguf")
    assert sorted(names(scan(store.folder))) == ["Other-Q4_0.gguf", "a-real.gguf"]


def test_links_and_pipes_in_a_store_lead_nowhere(
    store: OllamaFolder, model: bytes, tmp_path: Path
) -> None:
    manifest = store.add(f"{LIBRARY}/a/real", model=model)
    secret = tmp_path / "secret"
    manifest.rename(secret)
    manifest.symlink_to(secret)
    os.mkfifo(manifest.with_name("pipe"))
    (store.folder / "manifests/linked").symlink_to(store.folder / "manifests" / LIBRARY)
    assert not list(manifests(str(store.folder)))
    digest = store.blob(b"GGUF elsewhere")
    store.path(digest).unlink()
    store.path(digest).symlink_to(secret)
    manifest.with_name("link").write_text(
        json.dumps({"layers": [{"mediaType": "application/vnd.ollama.image.model",
                                "digest": digest}]})
    )  # fmt: skip
    found = scan(store.folder)
    assert not found.models
    assert "is not a regular file" in reasons(found)["a-link.gguf"]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (f"{LIBRARY}/llama3/8b", "llama3:8b"),
        ("registry.ollama.ai/someone/x/latest", "someone/x:latest"),
        ("hf.co/acme/x-GGUF/Q4_K_M", "hf.co/acme/x-GGUF:Q4_K_M"),
    ],
)
def test_names_are_those_that_ollama_shows(store: OllamaFolder, path: str, name: str) -> None:
    store.add(path, model=b"GGUF")
    (found,) = manifests(str(store.folder))
    assert isinstance(found, OllamaManifest)
    assert found.name == name
