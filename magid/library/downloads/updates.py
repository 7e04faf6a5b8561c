"""Asks the hub whether it has newer files of models. A unit or a child asks for many, not magid."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from magid.errors import HubFailed, InvalidInput, MagidError, NotAllowed, NotReady
from magid.library import updates
from magid.library.downloads.owner import Downloads
from magid.library.origins import Origin
from magid.library.source import ModelSource
from magid.library.transfer_command import MOST_CHECKED
from magid.library.updates import OFFLINE, UNKNOWN, ModelUpdate


class _Asked(NamedTuple):
    """A model that the hub is asked about."""

    model_id: str
    source: ModelSource
    known: Sequence[Origin]  # its files here, the first shard first


async def outdated(downloads: Downloads, files: Mapping[str, Sequence[str]]) -> list[ModelUpdate]:
    """Returns the state of each model. `files`: its paths by its id, the first shard first.

    Where the hub has answered about none of many models, it is asked about no more: it would cost
    as long again. Raises NotReady, NotAllowed.
    """
    origins = await downloads.origins([path for paths in files.values() for path in paths])
    found: dict[str, ModelUpdate] = {}
    asked: list[_Asked] = []
    for model_id, paths in files.items():
        known = [origins[path] for path in paths if path in origins]
        if not known or paths[0] not in origins:
            reason = "nothing tells where it came from"
            found[model_id] = ModelUpdate(model_id, UNKNOWN, reason=reason)
            continue
        try:
            asked.append(_Asked(model_id, updates.source_of(known), known))
        except InvalidInput as error:
            found[model_id] = ModelUpdate(model_id, UNKNOWN, reason=error.message)
    silence = ""
    for batch in _batches(asked):
        answers = _not_asked(batch, silence) if silence else await _checked(downloads, batch)
        found |= {update.model_id: update for update in answers}
        if all(update.state == OFFLINE for update in answers):
            silence = answers[0].reason
    return [found[model_id] for model_id in files]


def _batches(asked: Sequence[_Asked]) -> Iterator[Sequence[_Asked]]:
    """Yields what one process asks for each; models of one repository are together."""
    ordered = sorted(asked, key=lambda one: (one.source.repository, one.source.revision))
    for at in range(0, len(ordered), MOST_CHECKED):
        yield ordered[at : at + MOST_CHECKED]


def _not_asked(batch: Sequence[_Asked], silence: str) -> list[ModelUpdate]:
    return [
        ModelUpdate(one.model_id, OFFLINE, one.source.text, one.known[0].commit, reason=silence)
        for one in batch
    ]


async def _checked(downloads: Downloads, batch: Sequence[_Asked]) -> list[ModelUpdate]:
    try:
        answers = await downloads.check([one.source for one in batch])
    except (NotReady, NotAllowed):
        raise
    except MagidError as error:
        if isinstance(error, InvalidInput) and len(batch) > 1:  # it is about one of them, or few
            half = len(batch) // 2
            first = await _checked(downloads, batch[:half])
            return first + await _checked(downloads, batch[half:])
        return [updates.failed(*one, error) for one in batch]
    return [
        updates.failed(*one, HubFailed(str(answer["message"]), cause=str(answer["error"])))
        if "error" in answer
        else updates.compared(*one, answer)
        for one, answer in zip(batch, answers, strict=True)
    ]
