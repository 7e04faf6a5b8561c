"""From the name in a request to the servers that may answer it. Pure.

Hard gates come first, whatever name was asked for: the kind of model, context, images, tools. Where
nothing passes, the error says which gate it was.
"""

from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from typing import Any

from msgspec import Struct, field

from magid.catalog.effective import Model
from magid.discovery.tiers import Tier
from magid.errors import (
    ContextExceeded,
    DoesNotFit,
    InvalidInput,
    ModelNotFound,
    ModelNotRunning,
    NotReady,
    ServerFailed,
)
from magid.gateway.routing.endpoints import INFILL
from magid.gateway.routing.fleet import AUTO, AvailableModel, Backend, Fleet
from magid.gateway.routing.request import ParsedRequest, Prompt

STRENGTH: tuple[Tier, ...] = (Tier.FAST, Tier.BALANCED, Tier.POWERFUL)


class Reason(StrEnum):
    """What led to a model or tier: `ModelRoute.why` in one word, for counting."""

    MODEL = "model"  # it was asked for by name
    TIER = "tier"  # likewise
    SCORE = "score"  # auto: by how complex the request is
    NO_EVIDENCE = "no_evidence"  # auto: nothing in it told how complex it is
    CONVERSATION = "conversation"  # auto: a conversation never drops a tier
    DEFAULT = "default"  # auto: nothing is generated, so nothing is judged


class ModelRoute(Struct):  # not frozen, which would make each one cost a microsecond more
    """Not to be changed. `pool` is the model or tier whose servers may answer."""

    pool: str
    backends: tuple[Backend, ...]
    why: str  # for a person
    tier: Tier | None = None
    parts: Mapping[str, Any] = field(default_factory=dict)  # of an automatic choice
    process: str | None = None  # the server that a conversation was at
    starts: str | None = None  # the model to start, where no server is ready
    is_open: bool = False  # it cannot be told yet: models are still being found
    reason: Reason = Reason.TIER
    wanted: Tier | None = None  # the tier before it had to fall to another one

    @property
    def waits(self) -> bool:
        """Returns whether no server can answer now, but one may soon."""
        return self.is_open or self.starts is not None

    @property
    def awaits(self) -> tuple[bool, str | None]:
        """What a request of this route waits for: the first scan, a model's start, or a slot."""
        return self.is_open, self.starts


class _Rejected(Struct, frozen=True):
    """Why one model cannot answer this request."""

    offer: AvailableModel
    why: str
    may_come: bool = False
    is_unable: bool = False  # whether it runs or not
    lacks_room: bool = False  # for the prompt


LATEST = ":latest"  # Ollama's clients add it to a name without a tag
_HUBS = ("hf.co/", "huggingface.co/")


def of_hub(name: str, fleet: Fleet) -> str | None:
    """The id of the one model that was downloaded as `ORG/REPO:TAG` or `ORG/REPO`, else None.

    Clients of llama.cpp and Ollama call it so. A tag is part of a file's name, as for `-hf`. The
    name may be as long as a body: nothing is compiled of it, or kept.
    """
    for hub in _HUBS:
        name = name.removeprefix(hub)
    repository, _, tag = name.removesuffix(LATEST).partition(":")
    if "/" not in repository:
        return None
    folder, wanted = f"{repository}/", (f"{tag}.".lower(), f"{tag}-".lower())
    files = {
        model_id: path.removeprefix(folder).lower()
        for model_id, path in fleet.hub_paths.items()
        if path.startswith(folder)
    }
    found = [i for i, file in files.items() if not tag or any(word in file for word in wanted)]
    return found[0] if len(found) == 1 else None


def by_name(name: str, fleet: Fleet) -> str:
    """The model id, tier or `auto` that a name leads to. Raises ModelNotFound."""
    if name not in fleet.aliases:
        name = name.removesuffix(LATEST)
    if name in fleet.offers or name in STRENGTH or name == AUTO:
        return name
    target = fleet.aliases.get(name)
    if target is not None and target != name:
        target = fleet.aliases.get(target, target)
        if target in fleet.offers or target in STRENGTH or target == AUTO:
            return target
    name = of_hub(name, fleet) or name
    if name in fleet.offers:
        return name
    if name in fleet.disabled:
        raise ModelNotFound(
            f"cannot use model {name!r}: it is disabled; PUT /api/models/{name}/enabled with "
            '{"enabled": true}, then POST /api/models/apply',
            modelId=name,
        )
    raise ModelNotFound(
        f"cannot find model {name[:200]!r}; GET /v1/models lists the names that can be used",
        modelId=name[:200],
    )


def to_model(model_id: str, request: ParsedRequest, fleet: Fleet) -> ModelRoute:
    """Raises InvalidInput for a gate, NotReady or ServerFailed without a server."""
    offer = fleet.offers[model_id]
    rejected = _gate(offer, request)
    if rejected is not None:
        raise _refusal(request, [rejected], fleet)
    return _route(model_id, [offer], "model", offer.tier, Reason.MODEL)


def without_second_start(
    route: ModelRoute, started: Collection[str], request: ParsedRequest, fleet: Fleet
) -> ModelRoute:
    """The route, or that to a model which came up for this request: it starts no second one.

    What a server says of itself may be less than what its model's files promise. Raises as
    `to_model` does.
    """
    ready = [i for i in started if i in fleet.offers and fleet.offers[i].backends]
    if route.starts is None or route.starts in started or not ready:
        return route
    return to_model(ready[0], request, fleet)


def to_tier(
    tier: Tier, request: ParsedRequest, fleet: Fleet, why: str, floor: Tier | None = None
) -> ModelRoute:
    """An empty tier falls to the next stronger ones, then to weaker ones, not below `floor`.

    Only where no model of the floor or above is enabled any more does that not hold. Tools and
    code to fill in go to models that were made for them (`_misfit`), if any of those can answer.
    """
    if floor is not None and not _offers_from(floor, request, fleet):
        floor, why = None, f"{why}; nothing is left of its conversation's tier"
    rejected: list[_Rejected] = []
    order = _order(tier, floor)
    is_picky = (request.has_tools or request.endpoint.upstream == INFILL) and any(
        not _misfit(offer, request) and _gate(offer, request) is None
        for candidate in order
        for offer in fleet.of_tier(candidate, request.endpoint.kinds)
    )
    for candidate in order:
        passing = []
        for offer in fleet.of_tier(candidate, request.endpoint.kinds):
            problem = _gate(offer, request)
            if problem is None and is_picky and (why_not := _misfit(offer, request)):
                problem = _Rejected(offer, why_not, is_unable=True)
            if problem is None:
                passing.append(offer)
            else:
                rejected.append(problem)
        if passing:
            note = "" if candidate is tier else f"; {tier} has no model for it"
            route = _route(candidate, passing, f"{why}{note}{_passed_over(rejected)}", candidate)
            route.wanted = tier
            return route
    raise _refusal(request, rejected, fleet)


def _misfit(offer: AvailableModel, request: ParsedRequest) -> str:
    """Why a model that can answer was not made for this request; empty where nothing says so.

    llama-server makes up a form of tools for templates without a place for them, which their models
    were not taught, and of some models it guesses the tokens for infill.
    """
    if request.has_tools and offer.tools is False:
        return "cannot call tools: its chat template has no place for them"
    if request.endpoint.upstream == INFILL and not offer.model.abilities.infill:
        return "cannot fill in code: its header names no tokens for it"
    return ""


_MOST_NAMED = 3


def _passed_over(rejected: list[_Rejected]) -> str:
    """For the header of an answer: which models could not be started, or cannot do it."""
    said = [f"; {r.offer.model_id} could not be started" for r in rejected if r.offer.resting]
    unable = [r for r in rejected if r.is_unable]
    said += [f"; {r.offer.model_id} {r.why.partition(':')[0]}" for r in unable[:_MOST_NAMED]]
    more = len(unable) - _MOST_NAMED
    return "".join(said) + (f"; nor can {more} more" if more > 0 else "")


def _route(
    pool: str, passing: list[AvailableModel], why: str, tier: Tier, reason: Reason = Reason.TIER
) -> ModelRoute:
    """Servers that are ready come first; where there is none, one model is started."""
    if len(passing) == 1 and passing[0].backends:
        return ModelRoute(pool, passing[0].backends, why, tier, reason=reason)
    backends = tuple(b for offer in passing for b in offer.backends)
    if backends:
        return ModelRoute(pool, backends, why, tier, reason=reason)
    first = min(passing, key=lambda offer: (offer.is_failing, offer.model.found.size_bytes))
    return ModelRoute(pool, (), why, tier, starts=first.model_id, reason=reason)


def _offers_from(floor: Tier, request: ParsedRequest, fleet: Fleet) -> bool:
    above = STRENGTH[STRENGTH.index(floor) :]
    return any(fleet.of_tier(tier, request.endpoint.kinds) for tier in above)


def _order(tier: Tier, floor: Tier | None) -> tuple[Tier, ...]:
    at = STRENGTH.index(tier)
    weaker = STRENGTH[:at][::-1]
    least = STRENGTH.index(floor) if floor else 0
    return (*STRENGTH[at:], *(t for t in weaker if STRENGTH.index(t) >= least))


def _gate(offer: AvailableModel, request: ParsedRequest) -> _Rejected | None:
    """The first gate that this model does not pass, being ready last. Raises InvalidInput."""
    endpoint = request.endpoint
    if offer.kind not in endpoint.kinds and not endpoint.takes_any_by_name:
        return _Rejected(offer, f"is a model for {_USES[offer.kind]}")
    if endpoint.reads_messages and _may_fetch(offer) and request.prompt.is_remote:
        raise InvalidInput(_REMOTE)
    if endpoint.generates and not _is_plain(offer, request):
        missing = _missing_room(offer, request.prompt)
        if missing:
            return _Rejected(offer, missing, is_unable=True, lacks_room=True)
        missing = _missing_ability(offer, request.prompt)
        if missing:
            return _Rejected(offer, missing, is_unable=True)
    if not offer.backends and not offer.can_be_started:
        return _Rejected(offer, offer.why_none, offer.may_come)
    return None


# A server that fetched what a client names would ask, for the client, what only this machine can
# reach: services on loopback, a cloud's metadata. Under systemd it has no network beyond loopback.
_REMOTE = (
    "cannot pass on an image or sound by its address: neither magid nor its servers fetch anything "
    "for a client; send it along, as data:image/png;base64,..."
)


def _may_fetch(offer: AvailableModel) -> bool:
    """A server without projector refuses all media unseen, and this is not looked at for it."""
    return offer.images is not False or offer.audio is not False


def _is_plain(offer: AvailableModel, request: ParsedRequest) -> bool:
    """Whether it passes on sight, which most do: a token has at least one byte."""
    room, body = offer.context, request.body
    if request.outline is not None:
        return False  # to search a large body takes longer than to look at its outline
    return (room is None or len(body) < room / 2) and b"image" not in body and b"audio" not in body


def _missing_room(offer: AvailableModel, prompt: Prompt) -> str:
    room = offer.context
    if room is None or prompt.tokens <= room * _LENIENCE:
        return ""
    return f"has a context of {room} tokens, and the prompt alone has about {prompt.tokens}"


# Estimates err: only what cannot fit by any reckoning is refused here. llama-server counts itself.
_LENIENCE = 1.3
_USES = {"chat": "conversations", "embedding": "embeddings", "reranker": "ranking"}


def _missing_ability(offer: AvailableModel, prompt: Prompt) -> str:
    if prompt.images and offer.images is False:
        return "cannot see images: it has no projector for them"
    if prompt.audio and offer.audio is False:
        return "cannot hear audio: it has no projector for it"
    return ""


def _refusal(request: ParsedRequest, rejected: Iterable[_Rejected], fleet: Fleet) -> Exception:
    problems = list(rejected)
    if not problems:
        kinds = " or ".join(sorted(request.endpoint.kinds))
        if request.only is not None:
            return ModelNotFound(
                f"cannot answer for {request.model!r}: no {kinds} model is enabled that this token "
                "may use; GET /v1/models lists those that it may"
            )
        return ModelNotFound(
            f"cannot answer for {request.model!r}: no {kinds} model is enabled; "
            "GET /api/models/registry lists all models"
        )
    said = "; ".join(f"{p.offer.model_id} {p.why}" for p in problems[:5])
    if all(p.offer.lacks_memory for p in problems):
        return DoesNotFit(f"cannot answer: {said}")
    waiting = [p for p in problems if p.why == p.offer.why_none]
    if any(p.may_come for p in waiting):
        return NotReady(f"cannot answer yet: {said}")
    stopped = [p.offer for p in waiting if not p.offer.is_failing]
    if stopped:
        smallest = min(stopped, key=lambda offer: offer.model.found.size_bytes)
        return ModelNotRunning(f"cannot answer: {said}", modelId=smallest.model_id)
    if waiting:
        return ServerFailed(f"cannot answer: {said}")
    hint = _who_can(request, fleet)
    message = f"cannot answer this request: {said}{hint}"
    if all(p.lacks_room for p in problems):
        return ContextExceeded(
            message, field="model", promptTokens=request.prompt.tokens,
            contextTokens=max(p.offer.context or 0 for p in problems), hint=hint,
        )  # fmt: skip
    return InvalidInput(message, field="model")


def _who_can(request: ParsedRequest, fleet: Fleet) -> str:
    """Which model would do instead; empty where none would."""
    if not request.endpoint.generates:
        return ""
    prompt = request.prompt
    for offer in fleet.offers.values():
        is_able = not (_missing_room(offer, prompt) or _missing_ability(offer, prompt))
        if offer.kind in request.endpoint.kinds and is_able:
            return f"; {offer.model_id} can"
    for model_id, model in fleet.disabled.items():
        if model.found.kind in request.endpoint.kinds and _would_do(model, prompt):
            return f"; {model_id} can, which is disabled"
    return ""


def _would_do(model: Model, prompt: Prompt) -> bool:
    """Whether it could if it were enabled. What nothing tells counts against it."""
    able, room = model.abilities, model.context_length
    has_room = room is None or prompt.tokens <= room * _LENIENCE
    sees = able.images or not prompt.images
    return bool(has_room and sees and (able.audio or not prompt.audio))
