"""Where llama.cpp's RPC server is looked for."""

from pathlib import Path

import pytest

from magid.errors import InvalidConfig, LlamaServerMissing
from magid.launcher.rpc_program import note
from magid.llama.program import look_at
from magid.llama.rpc_program import find_rpc_program


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_the_one_of_the_same_build_comes_first(tmp_path: Path) -> None:
    root = tmp_path / "root"
    debian = program(root / "usr/libexec/x86_64-linux-gnu/llama/bin/ggml-rpc-server")
    assert find_rpc_program(None, root) == debian
    own = program(root / "usr/local/bin/rpc-server")
    assert find_rpc_program(None, root) == own
    engine = tmp_path / "engine"
    real = program(engine / "files/bin/llama-server")
    link = engine / "llama-server"
    link.symlink_to(real)
    assert find_rpc_program(look_at(link), root) == own, "this engine has none"
    beside = program(engine / "files/bin/rpc-server")
    assert find_rpc_program(look_at(link), root) == beside


def test_what_cannot_be_run_is_none(tmp_path: Path) -> None:
    path = program(tmp_path / "usr/bin/ggml-rpc-server")
    path.chmod(0o644)
    with pytest.raises(LlamaServerMissing, match=r"package llama\.cpp-tools-extra"):
        find_rpc_program(None, tmp_path)


def test_the_note_for_systemd(tmp_path: Path) -> None:
    where = tmp_path / "note"
    note("/opt/a b/$x/rpc-server", where)
    assert where.read_text() == "MAGI_RPC_SERVER='/opt/a b/$x/rpc-server'\n"
    for bad in ("/opt/it's", "/opt/a\nb"):
        with pytest.raises(InvalidConfig):
            note(bad, where)
