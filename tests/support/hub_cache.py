"""A cache that huggingface_hub itself has written, of a model in several files."""

from pathlib import Path

from tests.support import ggufs, programs
from tests.support.resolving_hub import COMMIT, hub

REPOSITORY = "acme/Omega-GGUF"
SHARDS = tuple(f"Q8_0/Omega-Q8_0-0000{n}-of-00002.gguf" for n in (1, 2))
SNAPSHOT = f"models--acme--Omega-GGUF/snapshots/{COMMIT}"
_PROGRAM = """
import sys, huggingface_hub as hub
for name in sys.argv[2:]:
    hub.hf_hub_download(sys.argv[1], name)
"""


def write_sharded(cache: Path, source: Path) -> list[Path]:
    """Has huggingface_hub download the model into `cache`; returns the links of its files.

    `source` is where the model is written first.
    """
    files = ggufs.write_split_model(source / "Omega-Q8_0", 2, name="Omega", quantization="Q8_0")
    with hub(REPOSITORY, dict(zip(SHARDS, files, strict=True))) as address:
        environment = {"HF_ENDPOINT": address, "HF_HUB_CACHE": str(cache)}
        environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        command: list[str | Path] = [
            programs.client_python(),
            "-I",
            "-c",
            _PROGRAM,
            REPOSITORY,
            *SHARDS,
        ]
        programs.output(command, source, environment)
    links = [cache / SNAPSHOT / name for name in SHARDS]
    assert all(link.is_symlink() and link.resolve().parent.name == "blobs" for link in links)
    return links
