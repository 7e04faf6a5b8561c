"""Who may write to a model folder swaps files and folders for links while the launcher looks."""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from magid.errors import MagidError
from magid.launcher.model_files import check_files
from tests.support.deadlines import DEADLINE_S

LOOKS = 3000  # at least; a look takes 30 us
OUTCOMES = 2  # the real thing is found, or it is refused

pytestmark = pytest.mark.slow


SWAP = """
import os, sys
place, beside, link, target = sys.argv[1:]
print("begins", flush=True)
while True:
    os.symlink(target, link)
    os.rename(place, beside)
    os.rename(link, place)
    os.unlink(place)
    os.rename(beside, place)
"""


@contextmanager
def swapping(place: Path, target: Path) -> Iterator[None]:
    """`place` is now the real thing, now a link, now nothing."""
    beside, link = place.with_name("beside"), place.with_name("link")
    words = [sys.executable, "-I", "-S", "-c", SWAP, *map(str, (place, beside, link, target))]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as racer:
        assert racer.stdout is not None
        assert racer.stdout.readline() == b"begins\n"
        try:
            yield
        finally:
            racer.kill()


@pytest.mark.parametrize("what", ["file", "folder"])
def test_nothing_outside_is_ever_reached(tmp_path: Path, what: str) -> None:
    root, outside = tmp_path / "models", tmp_path / "outside"
    for folder in (root / "deep", outside):
        folder.mkdir(parents=True)
        (folder / "a.gguf").write_text("x")
    (root / "a.gguf").write_text("x")
    if what == "file":
        path, place, target = root / "a.gguf", root / "a.gguf", outside / "a.gguf"
    else:
        path, place, target = root / "deep/a.gguf", root / "deep", outside
    good, secret = path.stat().st_ino, (outside / "a.gguf").stat().st_ino
    seen: Counter[str] = Counter()
    end_s = time.monotonic() + DEADLINE_S
    with swapping(place, target):
        # On a busy machine either side may do much of its work before the other one has a turn.
        while seen.total() < LOOKS or not seen["found"] or len(seen) < OUTCOMES:
            assert time.monotonic() < end_s, f"the race was not won and lost: {dict(seen)}"
            try:
                (found,) = check_files([str(path)], [str(root)])
            except MagidError as error:
                seen[type(error).__name__] += 1
            else:
                assert found.inode != secret
                assert found.inode == good
                seen["found"] += 1
    print(f"{what}: {seen.total()} looks: {dict(seen)}")  # noqa: T201 - a figure
