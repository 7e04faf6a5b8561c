"""Words that a native engineer would not write: in no code, document or message."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACES = (
    *("magid", "docs", "packaging/man", "packaging/prometheus", "systemd", "etc", "debian/magi.*"),
    *("debian/rules", "README.md", "ARCHITECTURE.md", "SECURITY.md", "CHANGELOG.md"),
    "CONTRIBUTING.md",
)
BANNED = (
    r"anew",
    r"lest",
    r"all the same",
    r"of before",
    r"hears? of",
    r"becomes? of",
    r"looks? whether",
    r"lets? go of",
    r"nobody",
    r"somebody",
    r"whoever",
    r"whom",
    r"mistake in magid",
    r"looked after",
    r"sound server",
    r"tether",
)
PATTERN = re.compile(rf"\b({'|'.join(BANNED)})\b", re.IGNORECASE)
# The user of that name.
NAMES = re.compile(r"\"nobody\"|user nobody|\bNOBODY\b")


def documents() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--", *PLACES], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    files = [ROOT / name for name in listed] or [p for n in PLACES for p in (ROOT / n).rglob("*")]
    return [path for path in files if path.is_file() and path.suffix not in (".pyc", ".png")]


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_word_that_is_not_used(path: Path) -> None:
    found = [
        f"{number}: {line.strip()}"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if PATTERN.search(line) and not NAMES.search(line)
    ]
    assert found == []


def test_the_test_finds_such_words() -> None:
    assert PATTERN.search("It looks whether somebody is there.")
    assert not PATTERN.search("the latest sound of a model")
