"""What the hub has of several models now: one process asks for all, a few repositories at a time.

Prints a line of JSON for each model as its answer comes: `model`, its number in the request, and
`commit` and `files` with their digests, or `error` and `message`. What cannot be said of one ends
nothing else; those that the hub has not answered about by the deadline get a line that says so.
"""

import json
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from magid.library.selection import with_companions
from magid.library.source import ModelSource
from magid.library.transfer.http_client import HubSilent
from magid.library.transfer.hub import Hub, Refusal, Revision
from magid.library.transfer.running import chosen

AT_ONCE: Final = 4  # repositories that are asked for side by side
DEADLINE_S: Final = 60.0  # less than the process is given (`transfer_command.QUESTIONS`)
MOST_BYTES: Final = 40_000  # of all lines: they go through the launcher's reply
_SHORT: Final = 600  # bytes that are kept for the line of each model that is still to come

Answer = dict[str, Any]


def check(
    hub: Callable[[], Hub],
    sources: Sequence[ModelSource],
    write: Callable[[str], object],
    deadline_s: float = DEADLINE_S,
) -> None:
    """Calls `write` with each line. `hub` makes a client, which is one thread's."""
    told: queue.SimpleQueue[tuple[int, Answer]] = queue.SimpleQueue()
    todo: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    groups = _by_repository(sources)
    for group in groups:
        todo.put(group)
    for _ in range(min(AT_ONCE, len(groups))):
        # Daemons: one that waits for a silent hub does not keep the process from ending.
        threading.Thread(target=_work, args=(hub, sources, todo, told), daemon=True).start()
    lines = _AnswerLines(len(sources), write)
    left = set(range(len(sources)))
    end = time.monotonic() + deadline_s
    while left:
        try:
            number, answer = told.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            break
        left.discard(number)
        lines.write(number, answer)
    for number in sorted(left):
        message = f"cannot ask the hub about {sources[number].repository}: no answer in time"
        lines.write(number, _error("HubUnreachable", message))


def _by_repository(sources: Sequence[ModelSource]) -> list[list[int]]:
    """Returns the numbers of the models, those of one repository and revision together."""
    groups: dict[tuple[str, str], list[int]] = {}
    for number, source in enumerate(sources):
        groups.setdefault((source.repository, source.revision), []).append(number)
    return list(groups.values())


def _work(
    hub: Callable[[], Hub],
    sources: Sequence[ModelSource],
    todo: "queue.SimpleQueue[list[int]]",
    told: "queue.SimpleQueue[tuple[int, Answer]]",
) -> None:
    """Asks for one repository after another, until there is none left."""
    while True:
        try:
            group = todo.get_nowait()
        except queue.Empty:
            return
        for number, answer in _answers(hub, sources, group):
            told.put((number, answer))


def _answers(
    hub: Callable[[], Hub], sources: Sequence[ModelSource], group: Sequence[int]
) -> Iterable[tuple[int, Answer]]:
    first = sources[group[0]]
    try:
        revision = hub().revision(first)
    except Exception as error:  # any: a defect ends no other question
        return [(number, failure(error, first)) for number in group]
    return [(number, _digests(revision, sources[number])) for number in group]


def _digests(revision: Revision, source: ModelSource) -> Answer:
    """Returns the digest of each file that the model has now, or that it is gone."""
    try:
        files = with_companions(revision.files, chosen(revision, source))
    except Exception as error:  # any, as above
        return failure(error, source)
    return {"commit": revision.commit, "files": {file.path: file.oid for file in files}}


def failure(error: Exception, source: ModelSource) -> Answer:
    """Returns why the hub cannot be asked, as an answer. Pure."""
    why = f"cannot ask the hub about {source.repository}"
    match error:
        case Refusal():
            return _error(error.code, str(error))
        case HubSilent():
            return _error("HubUnreachable", f"{why}: {error}; try again later")
        case _:
            return _error("InternalError", f"{why}: {type(error).__name__}: {error}")


def _error(code: str, message: str) -> Answer:
    return {"error": code, "message": message}


class _AnswerLines:
    """Writes lines, and keeps room for those of the models that are still to come."""

    def __init__(self, count: int, write: Callable[[str], object]) -> None:
        self._to_come, self._write = count, write
        self._left = max(MOST_BYTES, count * _SHORT)

    def write(self, number: int, answer: Answer) -> None:
        self._to_come -= 1
        room = self._left - self._to_come * _SHORT
        line = json.dumps({"model": number, **answer})
        if len(line) >= room and "error" in answer:
            line = json.dumps({"model": number, **answer, "message": str(answer["message"])[:60]})
        elif len(line) >= room:
            line = json.dumps({"model": number, **_error("TooLong", _TOO_LONG)})
        self._left -= len(line) + 1
        self._write(line + "\n")


_TOO_LONG: Final = "cannot look for newer files: the model has too many; see its page at the hub"
