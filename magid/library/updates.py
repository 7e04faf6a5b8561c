"""Which models have newer files at their hub. Pure. Nothing is updated by it."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from magid.errors import HubFailed, InvalidInput, MagidError
from magid.library.origins import Origin
from magid.library.source import ModelSource, checked

NEWER: Final = "newer"  # at least one of its files is another one there
CURRENT: Final = "current"  # the files are those of the hub
UNKNOWN: Final = "unknown"  # nothing tells where it came from
GATED: Final = "gated"  # its owner gives access on request
GONE: Final = "gone"  # the repository, the revision or the file is not there any more
OFFLINE: Final = "offline"  # the hub does not answer
REFUSED: Final = "refused"  # for another reason, which the text has
STATES: Final = (NEWER, CURRENT, UNKNOWN, GATED, GONE, OFFLINE, REFUSED)
_BY_CAUSE: Final = {
    "RepositoryGated": GATED,
    **dict.fromkeys(
        ("RepositoryNotFound", "RepositoryRenamed", "RevisionNotFound", "VariantNotFound"), GONE
    ),
    "HubUnreachable": OFFLINE,
}


@dataclass(frozen=True, slots=True)
class ModelUpdate:
    """What the hub has of one model. `source` is what to pull to get it; "" if it is unknown."""

    model_id: str
    state: str
    source: str = ""
    commit: str = ""  # of what is here
    latest: str = ""  # of what is there
    files: tuple[str, ...] = ()  # those that are newer there
    reason: str = ""


def source_of(known: Sequence[Origin]) -> ModelSource:
    """Returns what to ask for, by the first file of a model. Raises InvalidInput.

    Who may write to the library could have written the origin.
    """
    first = known[0]
    return checked(ModelSource(first.repository, first.revision, file=first.path))


def answers_in(text: str, count: int) -> list[Mapping[str, Any]]:
    """Returns the hub's answer about each model, by its number in the request.

    `text` has a line of JSON for each, in any order. Where one is missing, its `error` says so.
    """
    found: dict[int, Mapping[str, Any]] = {}
    for line in text.splitlines():
        with suppress(ValueError):
            answer = json.loads(line)
            if isinstance(answer, dict) and type(answer.get("model")) is int:
                found[answer["model"]] = answer
    return [found.get(number, _NO_ANSWER) for number in range(count)]


_NO_ANSWER: Final = {
    "error": "NoAnswer",
    "message": "cannot look for newer files: the process that asks the hub ended before it had",
}


def compared(
    model_id: str, source: ModelSource, known: Sequence[Origin], answer: Mapping[str, Any]
) -> ModelUpdate:
    """Returns how the files here differ from those of the hub's answer to `check`."""
    there = answer["files"]
    newer = tuple(o.path for o in known if o.path in there and there[o.path] != o.oid)
    return ModelUpdate(
        model_id, NEWER if newer else CURRENT, source.text, known[0].commit,
        str(answer["commit"]), newer,
    )  # fmt: skip


def failed(
    model_id: str, source: ModelSource, known: Sequence[Origin], error: MagidError
) -> ModelUpdate:
    """Returns why it cannot be said: in one word, and in the hub's or the launcher's."""
    state = OFFLINE
    if isinstance(error, HubFailed):
        state = _BY_CAUSE.get(str(error.details.get("cause")), REFUSED)
    elif isinstance(error, InvalidInput):  # the hub was not asked
        state = REFUSED
    return ModelUpdate(model_id, state, source.text, known[0].commit, reason=error.message)
