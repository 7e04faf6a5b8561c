"""Asks the hub, model by model, whether it has newer files. A unit or a child asks, not magid."""

from collections.abc import Mapping, Sequence

from magid.errors import HubFailed, InvalidInput, ServerFailed
from magid.library import updates
from magid.library.downloads.owner import Downloads
from magid.library.origins import Origin
from magid.library.updates import OFFLINE, UNKNOWN, ModelUpdate


async def outdated(downloads: Downloads, files: Mapping[str, Sequence[str]]) -> list[ModelUpdate]:
    """Returns the state of each model. `files`: its paths by its id, the first shard first.

    A hub that is silent is asked no second time: it would cost as long for each model. Raises
    NotReady, NotAllowed.
    """
    origins = await downloads.origins([path for paths in files.values() for path in paths])
    found: list[ModelUpdate] = []
    silence = ""
    for model_id, paths in files.items():
        known = [origins[path] for path in paths if path in origins]
        if not known or paths[0] not in origins:
            found.append(ModelUpdate(model_id, UNKNOWN, reason="nothing tells where it came from"))
            continue
        update = await _asked(downloads, model_id, known, silence)
        silence = update.reason if update.state == OFFLINE else silence
        found.append(update)
    return found


async def _asked(
    downloads: Downloads, model_id: str, known: Sequence[Origin], silence: str
) -> ModelUpdate:
    try:
        source = updates.source_of(known)
    except InvalidInput as error:
        return ModelUpdate(model_id, UNKNOWN, reason=error.message)
    if silence:
        return ModelUpdate(model_id, OFFLINE, source.text, known[0].commit, reason=silence)
    try:
        answer = await downloads.ask("check", source)
    except (HubFailed, ServerFailed) as error:
        return updates.failed(model_id, source, known, error)
    return updates.compared(model_id, source, known, answer)
