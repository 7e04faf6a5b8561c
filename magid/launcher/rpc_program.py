"""`magi-rpc-program`: notes for magi-rpc.service which RPC server of llama.cpp it has to run.

The service cannot look by itself: its sandbox hides the configuration, as a model's does. So root
looks before each start (magi-rpc-program.service), as the launcher does for llama-server, and
systemd reads the note as an environment file.
"""

import sys
from contextlib import closing
from pathlib import Path
from typing import Final

from magid.config.settings import Config
from magid.errors import InvalidConfig, LlamaServerMissing, MagidError
from magid.launcher.policy import configured_program, read_config
from magid.llama.program import FoundProgram
from magid.llama.program_search import ProgramSearch
from magid.llama.rpc_program import find_rpc_program

NOTE: Final = Path("/run/magi/rpc-program")
VARIABLE: Final = "MAGI_RPC_SERVER"


def main() -> int:
    """Always returns 0: the service itself then says that it has no program, and stays down."""
    path = ""
    try:
        path = str(find_rpc_program(_llama_server(read_config())))
        note(path)
    except MagidError as error:
        sys.stderr.write(f"error: {error.message}\n")
        note("")
    return 0


def note(path: str, where: Path = NOTE) -> None:
    """Writes the path for systemd. Raises InvalidConfig for one that it could not read back."""
    if not path.isprintable() or "'" in path:
        raise InvalidConfig(f"cannot use {path!r}: it has a quote or a control character")
    where.write_text(f"{VARIABLE}='{path}'\n")


def _llama_server(settings: Config) -> FoundProgram | None:
    """Returns None without a llama-server: this machine may run no models of its own."""
    with closing(ProgramSearch()) as search:
        try:
            return configured_program(settings, search.find)
        except LlamaServerMissing:
            return None


if __name__ == "__main__":
    sys.exit(main())
