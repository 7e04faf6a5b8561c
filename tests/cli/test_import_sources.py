"""import SOURCE: decisions of Ollama, llama-swap and llama.cpp, taken over by a running magid."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ggufs, rest
from tests.support.magictl import Type, magictl
from tests.support.ollama_folder import OllamaFolder
from tests.support.rest import ALPHA, BETA
from tests.support.running import Running

pytestmark = pytest.mark.slow

PROFILES = "/api/models/profiles"
LLAMA_SWAP = """\
models:
  small:
    cmd: llama-server --port ${{PORT}} -m {models}/Alpha-Instruct-Q4_0.gguf -c 1024 --lora x.gguf
    aliases: [gpt-4o]
    filters: {{setParams: {{top_k: 1}}}}
  same:
    cmd: llama-server -m {models}/Alpha-Instruct-Q4_0.gguf -c 512
  gone:
    cmd: llama-server -m /srv/gone.gguf -c 512
"""
PRESETS = """\
[beta]
model = {models}/Beta-F16.gguf
threads = 2
load-on-startup = on
"""


@pytest.fixture
def clean(magid: Running) -> Iterator[None]:
    """Takes away what an import has made."""
    yield
    for name in ("llama-swap", "llama-cpp-presets", "ollama", "hub-cache"):
        if name in magid.get(PROFILES):
            magid.ask("DELETE", f"{PROFILES}/{name}")
    shutil.rmtree(magid.models / "ollama", ignore_errors=True)
    magid.ask("POST", "/api/models/rescan")


@pytest.mark.usefixtures("clean")
def test_llama_swap(magid: Running, type_in: Type, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(LLAMA_SWAP.format(models=magid.models))
    shown = type_in(f"import llama-swap {file} --dry-run")
    assert shown.stdout.splitlines() == [
        f"+ {ALPHA}: ctxSize 1024",
        f"+ {ALPHA}: start on-demand",
        "+ profile llama-swap: llama-swap",
        "! small: --lora names a file or folder, which is not allowed",
        "! same: it has the file of small, whose settings count for both",
        "! gone: ctxSize 512, start on-demand; there is no /srv/gone.gguf here: add it to a model "
        "folder, then magictl rescan, and import again",
        "3 to import, 0 here already, 3 left out",
    ]
    assert "llama-swap" not in magid.get(PROFILES)
    refused = type_in(f"import llama-swap {file}", 2)
    assert refused.stderr.endswith("try: the same with --yes\n")
    type_in(f"import llama-swap {file} --yes")
    profile = magid.get(f"{PROFILES}/llama-swap")
    variant = {"model": ALPHA, "set": {"top_k": 1}}
    assert profile["aliases"] == {"small": variant, "gpt-4o": variant, "same": ALPHA}
    assert profile["enabledModels"] == [ALPHA]
    assert rest.model(magid, ALPHA)["ctxSize"] == 1024
    again = type_in(f"import llama-swap {file} --yes")
    assert again.stdout.endswith("\n0 imported, 3 here already, 3 left out\n")


@pytest.mark.usefixtures("clean")
def test_decisions_made_here_stay(magid: Running, type_in: Type, tmp_path: Path) -> None:
    file = tmp_path / "presets.ini"
    file.write_text(PRESETS.format(models=magid.models))
    type_in(f"set {BETA} nThreads=1")
    done = type_in(f"import presets {file} --yes")
    assert f"! {BETA}: nThreads 1 stays as it was decided here; --replace takes over 2\n" in (
        done.stdout
    )
    assert rest.model(magid, BETA)["nThreads"] == 1
    assert magid.get(f"{PROFILES}/llama-cpp-presets")["aliases"] == {"beta": BETA}


@pytest.mark.usefixtures("clean")
def test_a_store_of_ollama_in_place(magid: Running, type_in: Type, tmp_path: Path) -> None:
    store = OllamaFolder(magid.models / "ollama")
    content = ggufs.write_chat_model(tmp_path / "x.gguf", quantization="Q8_0").read_bytes()
    store.add("registry.ollama.ai/library/tiny/latest", model=content, template=b"{{ .Prompt }}",
              params=json.dumps({"num_ctx": 1024, "top_k": 3}).encode())  # fmt: skip
    before = sorted(store.folder.rglob("*"))
    magid.ask("POST", "/api/models/rescan")
    done = type_in(f"import ollama {store.folder} --yes")
    assert done.stderr.splitlines() == [
        "see what would start and stop: magictl diff; then magictl apply"
    ]
    profile = magid.get(f"{PROFILES}/ollama")
    (model_id,) = profile["enabledModels"]
    found = rest.model(magid, model_id)
    assert found["filePath"] == str(store.path(store.blob(content)))
    assert (found["filename"], found["ctxSize"]) == ("tiny-latest.gguf", 1024)
    variant = {"model": model_id, "defaults": {"top_k": 3}}
    assert profile["aliases"] == {"tiny:latest": variant, "tiny": variant}
    assert sorted(store.folder.rglob("*")) == before


def test_a_store_that_is_no_model_folder(magid: Running, type_in: Type, tmp_path: Path) -> None:
    store = OllamaFolder(tmp_path / "store")
    store.add("registry.ollama.ai/library/tiny/latest", model=b"GGUF")
    done = type_in(f"import ollama {store.folder} --yes")
    assert done.stderr.splitlines()[:3] == [
        f"{store.folder} is no model folder of magid: nothing in it can run yet",
        "add it to model_paths in /etc/magi/magid.yaml, as root:",
        f"  model_paths: [{magid.models}, {store.folder}]",
    ]
    assert done.stdout.endswith("0 imported, 0 here already, 1 left out\n")


@pytest.mark.parametrize(
    ("words", "said", "status"),
    [
        ("presets", "cannot import presets\nname its file", 2),
        ("llama-swap a b", "cannot import llama-swap\nname its file", 2),
        ("ollama a b", "cannot import ollama\nname one folder", 2),
        ("synapse", "cannot import synapse\nname its folder or files", 2),
        ("llama-swap {}/none", "cannot read {}/none\nNo such file", 1),
        ("ollama {}", "cannot import {}\nit has no folders manifests and blobs", 1),
        ("hub-cache {}", "cannot import {}\nit has no GGUF files", 1),
        ("synapse {}", "cannot import {}\nit has neither", 1),
    ],
)
def test_what_cannot_be_imported(
    type_in: Type, tmp_path: Path, words: str, said: str, status: int
) -> None:
    done = type_in(f"import {words.format(tmp_path)}", status)
    assert said.format(tmp_path) in done.stderr


def test_json(magid: Running, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(LLAMA_SWAP.format(models=magid.models))
    done = magictl("import", "llama-swap", str(file), "--dry-run", "--json", url=magid.url)
    answer = json.loads(done.stdout)
    assert answer["changes"][0]["what"] == "ctxSize 1024"
    assert len(answer["left"]) == 3
