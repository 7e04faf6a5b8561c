"""The purge, as root, of folders whose owner swaps them for links while it is under way."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.deadlines import DEADLINE_S

POSTRM = Path(__file__).parents[2] / "debian" / "magi.postrm"
FILES = 300
ROUNDS = 10
# In turn a folder and a link of the same name, without a moment between them.
SWAP = """
import ctypes, os, sys
place, link, target = sys.argv[1:]
exchange = ctypes.CDLL(None).renameat2
os.symlink(target, link)
print("begins", flush=True)
while True:
    if exchange(-100, place.encode(), -100, link.encode(), 2) and not os.path.lexists(link):
        os.symlink(target, link)
"""

pytestmark = pytest.mark.slow


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """The real one, for a machine below `tmp_path`."""
    path, text = tmp_path / "postrm", POSTRM.read_text()
    for folder in ("/var/lib/magi", "/etc/magi", "/run/magi"):
        assert folder in text
        text = text.replace(folder, f"{tmp_path}{folder}")
    path.write_text(text)
    return path


def purge(script: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["sh", str(script), "purge"],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )


def filled(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(FILES):
        (folder / f"{number}.json").touch()
    return folder


def test_state_goes_and_models_stay(script: Path, tmp_path: Path) -> None:
    state = tmp_path / "var/lib/magi"
    filled(state / "cache/deep")
    (state / "model_registry.json").touch()
    (state / "link").symlink_to(filled(tmp_path / "outside"))
    (state / "models/one/empty").mkdir(parents=True)
    kept = {state / "models/one/A.gguf", state / "models/notes.txt", state / "cache/B.GGUF"}
    for path in kept:
        path.touch()
    done = purge(script)
    assert (done.returncode, done.stderr) == (0, "")
    assert "what is below" in done.stdout
    left = {path for path in state.rglob("*") if not path.is_dir()}
    assert left == kept
    assert not (state / "models/one/empty").exists()
    assert len(list((tmp_path / "outside").iterdir())) == FILES


def test_a_folder_that_is_swapped_for_a_link_leads_nowhere(script: Path, tmp_path: Path) -> None:
    """The names within are those of files outside, which root could remove."""
    outside = filled(tmp_path / "outside")
    for number in range(ROUNDS):
        place = filled(tmp_path / f"var/lib/magi/cache{number}")
        names = map(str, (place, f"{place}-link", outside))
        words = [sys.executable, "-I", "-S", "-c", SWAP, *names]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as racer:
            assert racer.stdout is not None
            assert racer.stdout.readline() == b"begins\n"
            try:
                done = purge(script)
            finally:
                racer.kill()
        assert done.returncode == 0, done.stderr
        assert len(list(outside.iterdir())) == FILES
    sys.stdout.write(f"{ROUNDS} purges of a swapping folder: nothing outside was removed\n")
