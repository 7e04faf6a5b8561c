"""Where llama.cpp's own RPC server is: beside a llama-server, or where packages put it.

Upstream and Debian call it `ggml-rpc-server`; upstream's archives before 2026 `rpc-server`.
Debian's package llama.cpp-tools-extra has it in a folder of its own, which is in no PATH.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from magid.errors import LlamaServerMissing
from magid.llama.program import FoundProgram

NAMES: Final = ("ggml-rpc-server", "rpc-server")
_FOLDERS: Final = ("/usr/local/bin", "/usr/bin")
_DEBIAN: Final = "usr/libexec/*/llama/bin"


def find_rpc_program(llama_server: FoundProgram | None, root: Path = Path("/")) -> Path:
    """Returns the RPC server of this llama-server, else another one. Raises LlamaServerMissing.

    That of the same build comes first: it has the same back ends. Blocks.
    """
    for path in _places(llama_server, root):
        if path.is_file() and os.access(path, os.X_OK):
            return path
    raise LlamaServerMissing(
        "cannot find llama.cpp's RPC server beside llama-server, in /usr/local/bin or /usr/bin: "
        "Debian has it in the package llama.cpp-tools-extra; an engine (`magictl engine add`) has "
        "it where its archive does"
    )


def _places(llama_server: FoundProgram | None, root: Path) -> Iterator[Path]:
    beside: Iterable[Path] = ()
    if llama_server is not None:
        beside = dict.fromkeys((llama_server.real.parent, llama_server.path.parent))
    usual = (root / folder.lstrip("/") for folder in _FOLDERS)
    for folder in (*beside, *usual, *sorted(root.glob(_DEBIAN))):
        yield from (folder / name for name in NAMES)
