"""The hub of the tests is one to programs of others: huggingface_hub, and llama.cpp's own -hf."""

import itertools
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from magid.gateway.frontend.model_downloads import entries
from magid.library.job import JobStatus
from magid.library.selection import RepositoryFile, choose
from magid.library.source import ModelSource
from tests.support import ggufs, programs
from tests.support.deadlines import DEADLINE_S
from tests.support.hub import HubFault, HubRepository, ModelHub, running_hub

pytestmark = pytest.mark.slow

TOKEN = "hf_" + "a" * 34
WEIGHTS = random.Random(4).randbytes(2_000_000)
DOWNLOAD = """
import sys
from huggingface_hub import snapshot_download
print(snapshot_download(sys.argv[1], token=sys.argv[2] or False))
"""
REFUSED = """
import sys
from huggingface_hub import hf_hub_download
from huggingface_hub import errors
for repository, file in (("org/None", "x"), ("org/Plain", "x"), ("org/Gated", "m-Q4_0.gguf")):
    try:
        hf_hub_download(repository, file, token=False)
    except Exception as error:
        print(type(error).__name__)
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelHub]:
    tiny = ggufs.write_chat_model(tmp_path_factory.mktemp("hub") / "tiny-Q8_0.gguf", name="Tiny")
    files: dict[str, bytes | Path] = {
        "README.md": b"# Plain\n", "a/m-Q4_0.gguf": WEIGHTS, "a/n-Q8_0.gguf": WEIGHTS[::-1],
        "config.json": b"{}",
    }  # fmt: skip
    repositories = {
        "org/Plain": HubRepository(files),
        "org/Gated": HubRepository({"m-Q4_0.gguf": WEIGHTS}, is_gated=True),
        "org/Tiny": HubRepository(
            {"a-F16.gguf": WEIGHTS, "tiny-Q8_0.gguf": tiny, "z-F32.gguf": WEIGHTS}
        ),
    }
    with running_hub(repositories, token=TOKEN) as hub:
        yield hub


def python(hub: ModelHub, folder: Path, program: str, *words: str) -> str:
    environment = {
        "PATH": os.environ["PATH"], "HF_ENDPOINT": hub.url, "HF_HOME": str(folder),
        "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
    }  # fmt: skip
    done = subprocess.run(
        [str(programs.client_python()), "-c", program, *words],
        env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("repository", ["org/Plain", "org/Gated"])
def test_huggingface_hub_downloads_from_it(hub: ModelHub, tmp_path: Path, repository: str) -> None:
    hub.faults += [HubFault("cut", 1_000_000)]
    folder = Path(python(hub, tmp_path, DOWNLOAD, repository, TOKEN))
    expected = hub.repositories[repository].files
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert found == expected
    assert folder.name == hub.repositories[repository].commit


def test_huggingface_hub_understands_its_refusals(hub: ModelHub, tmp_path: Path) -> None:
    said = python(hub, tmp_path, REFUSED).split()
    assert said == ["RepositoryNotFoundError", "RemoteEntryNotFoundError", "GatedRepoError"]


def test_what_the_router_lists_under_way(
    hub: ModelHub, tmp_path: Path, llama_server: Path, free_port: Callable[[], int]
) -> None:
    """llama.cpp's own shows it as magid does, but for `progress`, which newer ones have."""
    hub.released.clear()
    hub.faults.append(HubFault("stall", 1_000_000))
    port = free_port()
    process = subprocess.Popen(
        [str(llama_server), "--port", str(port)],
        env={
            "PATH": os.environ["PATH"], "HF_ENDPOINT": f"{hub.url}/", "LLAMA_CACHE": str(tmp_path),
        },
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        next(line for line in process.stdout if "listening" in line)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S) as router:
            router.post("/models", json={"model": "org/Tiny:Q8_0"}).raise_for_status()
            (theirs,) = router.get("/models").raise_for_status().json()["data"]
    finally:
        process.kill()
        process.wait(DEADLINE_S)
        process.stdout.close()
        hub.released.set()
        hub.faults.clear()
    source = ModelSource("org/Tiny", tag="Q8_0")
    (ours,) = entries([JobStatus("id", source, 1.0, "downloading")], hub.url)
    assert ours.keys() <= theirs.keys()
    for name in ("id", "object", "aliases", "architecture"):
        assert ours[name] == theirs[name]
    assert ours["status"]["value"] == theirs["status"]["value"] == "downloading"
    assert type(ours["status"]["args"]) is type(theirs["status"]["args"])


def test_llama_server_downloads_from_it(
    hub: ModelHub, tmp_path: Path, llama_server: Path, free_port: Callable[[], int]
) -> None:
    """Of three models it takes the one that `choose` would; it ends with its end of the pipe."""
    hub.asked.clear()
    argv = [str(llama_server), "-hf", "org/Tiny", "--port", str(free_port()), "-c", "256"]
    process = subprocess.Popen(
        argv,
        env={
            "PATH": os.environ["PATH"], "HF_ENDPOINT": f"{hub.url}/", "LLAMA_CACHE": str(tmp_path),
        },
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        lines = iter(process.stdout.readline, "")
        said = list(itertools.takewhile(lambda line: "model loaded" not in line, lines))
    finally:
        process.kill()
        process.wait(DEADLINE_S)
        process.stdout.close()
    repository = hub.repositories["org/Tiny"]
    listed = [
        RepositoryFile(path, repository.size(path), repository.oid(path))
        for path in sorted(repository.files)
    ]
    variant = choose(listed, ModelSource("org/Tiny"))
    assert variant is not None
    wanted = f"/org/Tiny/{variant.files[0].path}?sig=1"
    assert {path for path, _ in hub.requests_of("files")} == {wanted}, said
