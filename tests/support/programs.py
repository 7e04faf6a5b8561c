"""Programs of others that tests run from start to end."""

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.deadlines import DEADLINE_S, SET_UP_S

ROOT = Path(__file__).resolve().parents[2]


def output(
    command: Sequence[str | Path],
    folder: Path,
    environment: Mapping[str, str] | None = None,
    seconds: float = DEADLINE_S,
) -> str:
    """What it prints; a failure shows all that it said. It sees nothing of our environment."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(Path.home()), **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def client_python() -> Path:
    """The Python of packaging/clients.lock, installed where it is missing."""
    subprocess.run([ROOT / "packaging/client-tools"], timeout=SET_UP_S, check=True)
    return ROOT / ".cache/clients/bin/python"


def snippet(language: str, word: str, url: str) -> str:
    """The one block of docs/clients.md with this word in it, with the daemon's address."""
    text = (ROOT / "docs/clients.md").read_text()
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)
    (found,) = (block for block in blocks if word in block)
    assert "http://127.0.0.1:8000" in found
    return str(found.replace("http://127.0.0.1:8000", url))
