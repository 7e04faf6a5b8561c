"""Short words for scanning folders in tests."""

import os
import time
from contextlib import closing
from pathlib import Path

from msgspec.structs import replace

from magid.discovery.found import FoundModel, Scan
from magid.discovery.scanner import Scanner
from magid.discovery.tiers import Thresholds
from tests.support.deadlines import PATIENCE_S


def scan(*roots: Path) -> Scan:
    """One scan by a new scanner that keeps nothing."""
    with closing(Scanner(roots, Thresholds(), None)) as scanner:
        return scanner.scan()


def names(found: Scan) -> list[str]:
    return [model.filename for model in found.models]


def reasons(found: Scan) -> dict[str, str]:
    """File name -> why it is broken."""
    return {Path(file.path).name: file.reason for file in found.broken}


def only(found: Scan) -> FoundModel:
    (model,) = found.models
    return model


def timeless(found: Scan) -> Scan:
    """The same scan as if it had taken no time, to compare two of them."""
    return replace(found, duration_s=0.0)


def settle(folder: Path) -> None:
    """Return when every file is so old that a later change must show in its ctime."""
    deadline = time.monotonic() + PATIENCE_S
    newest = max(path.stat().st_ctime_ns for path in folder.rglob("*"))
    while time.time_ns() - newest < 50_000_000:
        assert time.monotonic() < deadline
        os.sched_yield()
