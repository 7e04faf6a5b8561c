"""Ends one fetch after another by an exception, as that of a signal, each at the next place in it.

`python -m tests.support.stopped_anywhere HUB`: writes how many places there were. Python runs the
handler of a signal between any two instructions; a lock that is taken then may never be left.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from magid.library.job import PlannedFile
from magid.library.source import ModelSource
from magid.library.transfer.fetching import Fetcher, Patience
from magid.library.transfer.http_client import HttpClient
from magid.library.transfer.hub import Hub
from magid.library.transfer.running import Stopped

SOURCE = ModelSource("org/Plain")


class Watch:
    """Takes no part."""

    def moved(self) -> None: ...

    def waiting(self, reason: str) -> None: ...

    def note(self, text: str) -> None: ...

    def verifying(self) -> None: ...

    def receiving(self) -> None: ...


class StopAt:
    """Raises Stopped at the place of this number, counted in the queues between the threads."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self, frame: FrameType, _event: str, _arg: object) -> Callable[..., Any] | None:
        names = [Path(one.f_code.co_filename).name for one in (frame, frame.f_back) if one]
        if names[0] not in ("queue.py", "fetching.py") and names[-1] != "queue.py":
            return None
        self.left -= 1
        if self.left < 0:
            sys.settrace(None)
            raise Stopped
        return self


def main() -> None:
    hub = Hub(HttpClient(sys.argv[1], "", 100.0), "", has_token=False)
    revision = hub.revision(SOURCE)
    found = revision.files[0]
    number = 0
    with tempfile.TemporaryDirectory() as folder:
        while stopped_at(number, hub, revision.commit, found, Path(folder)):
            number += 1
    sys.stdout.write(f"{number}\n")


def stopped_at(number: int, hub: Hub, commit: str, found: Any, folder: Path) -> bool:
    """Returns whether there was such a place."""
    fetcher = Fetcher(
        lambda path, asked: hub.open(SOURCE, commit, path, asked), Watch(), Patience()
    )
    sys.settrace(StopAt(number))
    try:
        fetcher.fetch(PlannedFile(found.path, found.size, found.oid), folder / f"{number}.part")
    except Stopped:
        return True
    finally:
        sys.settrace(None)
    return False


if __name__ == "__main__":
    main()
