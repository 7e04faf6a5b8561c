"""Stores of other programs: Ollama's, and caches that real clients of a hub have written."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from magid.errors import InvalidInput
from magid.library import foreign, hub_store, ollama
from tests.support import ggufs, programs
from tests.support.deadlines import DEADLINE_S
from tests.support.ollama_folder import OllamaFolder
from tests.support.resolving_hub import COMMIT, hub
from tests.support.scanning import only, scan

LIBRARY = "registry.ollama.ai/library"
REPOSITORY, FILE = "acme/Alpha-GGUF", "Alpha-1B-Q4_0.gguf"


def test_what_a_modelfile_has_set(tmp_path: Path) -> None:
    store = OllamaFolder(tmp_path)
    parameters = {"num_ctx": 4096, "num_gpu": 20, "temperature": 0.6, "stop": ["<a>"],
                  "num_predict": 100, "mirostat": 1, "num_thread": "many"}  # fmt: skip
    store.add(
        f"{LIBRARY}/llama3/latest", model=b"GGUF", template=b"{{ .Prompt }}", license=b"MIT",
        system=b"Be brief.", params=json.dumps(parameters).encode(), adapter=b"GGUF adapter",
    )  # fmt: skip
    store.add(f"{LIBRARY}/mlx/latest", tensor=b"x")
    store.add(f"{LIBRARY}/odd/1", model=b"GGUF 2", params=b"[]")
    found = ollama.read(str(tmp_path))
    llama3, mlx, odd = found.models
    assert llama3.path == str(store.path(store.blob(b"GGUF")))
    assert llama3.settings == {"ctxSize": 4096, "nGpuLayers": 20}
    defaults = {"temperature": 0.6, "stop": ["<a>"], "max_tokens": 100}
    variant = {"defaults": defaults, "system": "Be brief."}
    assert llama3.names == {"llama3:latest": variant, "llama3": variant}
    assert llama3.faults == (
        "its adapter is left out: magid runs models without adapters",
        "its template is left out: llama-server uses that of the GGUF file",
        "parameter mirostat has no counterpart",
        "nThreads 'many' should be a whole number from 1 to 1024",
    )
    assert mlx.faults == ("it is no GGUF file, which llama-server needs",)
    assert odd.faults == ("its parameters cannot be read",)
    made, faults = foreign.as_profile(found, {"llama3:latest": "llama3_8b", "odd:1": "odd"}, ())
    assert made["enabledModels"] == ["llama3_8b", "odd"]
    assert made["aliases"]["llama3"] == {"model": "llama3_8b", **variant}
    assert (made["aliases"]["odd:1"], faults) == ("odd", [])


def test_a_variant_that_magid_does_not_take_leaves_the_name(tmp_path: Path) -> None:
    store = OllamaFolder(tmp_path)
    store.add(f"{LIBRARY}/a/1", model=b"GGUF", system=b"\x1b[2J")
    made, faults = foreign.as_profile(ollama.read(str(tmp_path)), {"a:1": "a_1b"}, ())
    assert made["aliases"] == {"a:1": "a_1b"}
    assert faults[0].startswith("a:1: its parameters are left out: system")


def test_a_folder_that_is_no_store(tmp_path: Path) -> None:
    for read in (ollama.read, hub_store.read):
        with pytest.raises(InvalidInput, match=f"cannot import {tmp_path}: it has no "):
            read(str(tmp_path))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("hub")
    file = ggufs.write_chat_model(folder / FILE, quantization="Q4_0")
    with hub(REPOSITORY, {FILE: file}) as address:
        yield address


def assert_found(cache: Path) -> None:
    """The import has the name that clients of llama.cpp use; discovery has the same file."""
    (model,) = hub_store.read(str(cache)).models
    assert model.name == f"{REPOSITORY}:Q4_0"
    assert Path(model.path).parent.name == "blobs"
    assert only(scan(cache)).path == model.path
    assert (cache / "models--acme--Alpha-GGUF/refs/main").read_text().strip() == COMMIT


@pytest.mark.slow
def test_a_cache_that_huggingface_hub_wrote(address: str, tmp_path: Path) -> None:
    program = "import sys, huggingface_hub as hub; hub.hf_hub_download(*sys.argv[1:])"
    python = programs.client_python()
    environment = {"HF_ENDPOINT": address, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
    command: list[str | Path] = [python, "-I", "-c", program, REPOSITORY, FILE]
    programs.output(command, tmp_path, environment)
    assert_found(tmp_path)


@pytest.mark.slow
def test_a_cache_that_llama_server_wrote(address: str, tmp_path: Path, llama_server: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HF_ENDPOINT": address, "HOME": str(tmp_path),
                   "LLAMA_CACHE": str(tmp_path)}  # fmt: skip
    words: list[str | Path] = [llama_server, "-hf", f"{REPOSITORY}:Q4_0", "--port", "0"]
    with subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        try:
            said = next((line for line in process.stdout if "model loaded" in line), "")
        finally:
            process.terminate()
        assert said, process.communicate(timeout=DEADLINE_S)[0]
    assert_found(tmp_path)
