"""Documents of tests, and what lies around them."""

import re
from pathlib import Path
from typing import Any

from magid.files.document import Loaded, Store


def accept(document: Any) -> int:
    """The tests' documents are {"n": number}, at times with ballast."""
    if not isinstance(document, dict) or type(document.get("n")) is not int:
        raise ValueError("n: has to be a whole number")
    return int(document["n"])


def load(path: Path) -> Loaded[int]:
    return Store(path, ballast_bytes=0).load(accept)


def saved(path: Path, *numbers: int) -> Store:
    store = Store(path, ballast_bytes=0)
    for number in numbers:
        store.save({"n": number})
    return store


def names(path: Path) -> list[str]:
    """What lies around the document, in short: "", ".1", ".corrupt-*", and temporary files."""
    short = (entry.name.removeprefix(path.name) for entry in path.parent.iterdir())
    return sorted(re.sub(r"corrupt-.*", "corrupt-*", name) for name in short)
