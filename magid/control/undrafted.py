"""Models whose draft is not there, or not used, and why. Pure."""

from collections.abc import Iterator, Mapping
from typing import Final

from msgspec import Struct

from magid.catalog.effective import Model
from magid.servers.backend import ObservedServer

SETTING: Final = "draft"


class Undrafted(Struct, frozen=True):
    """One model that runs without the draft it should have, or does not start for want of it."""

    model_id: str
    message: str
    is_blocked: bool = False
    remedy: tuple[str, ...] = ()


def missing_draft(model: Model) -> str:
    """Returns why the draft that the model's own setting names is not there; "" if it is.

    A name in server_defaults is for the models that have such a file.
    """
    is_own = SETTING in model.entry.settings
    return model.drafting.reason if is_own and model.drafting.is_missing else ""


def gone_drafts(
    before: Mapping[str, Model], gone: Mapping[str, str], models: Mapping[str, Model]
) -> dict[str, str]:
    """Returns model id -> the draft file that `auto` had found before, and finds no more.

    `gone` is the result of the last time.
    """
    found = {}
    for model_id, model in models.items():
        last = before[model_id].drafting.draft if model_id in before else None
        path = last.path if last is not None else gone.get(model_id)
        if path and model.drafting.draft is None and model.settings.draft == "auto":
            found[model_id] = path
    return found


def undrafted(
    models: Mapping[str, Model],
    gone: Mapping[str, str],
    observed: Mapping[int, ObservedServer],
    left_out: Mapping[int, tuple[str, str]],
) -> Iterator[Undrafted]:
    """Yields the enabled models without their draft. `left_out`: see `loading.LeftOut`."""
    running = {server.model_id for server in observed.values() if server.state.is_running}
    for model_id, model in models.items():
        if not model.enabled:
            continue
        if why := missing_draft(model):
            yield _blocked(model, why, is_running=model_id in running)
        elif model_id in gone:
            text = f"{model_id} has lost its draft: {gone[model_id]} is gone; it starts without one"
            yield Undrafted(model_id, text, remedy=(f"magictl show {model_id}",))
    for port, (spec_hash, why) in left_out.items():
        server = observed.get(port)
        if server is not None and server.state.is_running and server.spec_hash == spec_hash:
            text = f"{server.model_id} runs without {why}"
            yield Undrafted(server.model_id, text, remedy=(f"magictl show {server.model_id}",))


def _blocked(model: Model, why: str, *, is_running: bool) -> Undrafted:
    follows = "runs on, and cannot be started again" if is_running else "is not started"
    return Undrafted(
        model.model_id,
        f"{model.model_id} {follows}: {why}, which its setting draft names",
        is_blocked=not is_running and not model.is_on_demand,
        remedy=(f"magictl set {model.model_id} draft=auto", f"magictl start {model.model_id}"),
    )
