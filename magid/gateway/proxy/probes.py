"""Asking a server by ourselves: what it can, whether it is well, whether it does its work."""

from pydantic_core import to_json

from magid.discovery.kinds import ModelKind
from magid.errors import BadReply, ServerUnreachable
from magid.gateway.proxy.breaker import is_own_trouble
from magid.gateway.routing.fleet import Backend, Facts, facts_of
from magid.llama.client import get_json

LOOK_S = 1.0  # between two looks at all servers
TIMEOUT_S = 2.0
UNWELL = 2  # failed looks at /health in a row
# One token; a busy server may let it wait for its turn.
WORK_TIMEOUT_S = 30.0

_WORK: dict[ModelKind, tuple[str, dict[str, object]]] = {
    ModelKind.CHAT: ("/v1/completions", {"prompt": "a", "max_tokens": 1}),
    ModelKind.EMBEDDING: ("/v1/embeddings", {"input": "a"}),
    ModelKind.RERANKER: ("/v1/rerank", {"query": "a", "documents": ["a"]}),
}


async def facts(backend: Backend) -> Facts | None:
    """None if it does not tell."""
    try:
        _, props = await _asked(backend, "/props")
    except ServerUnreachable:
        return None
    return facts_of(props)


async def is_healthy(backend: Backend) -> bool | None:
    """By /health, which needs no key. None: magid could not even ask."""
    try:
        status, _ = await get_json(backend.address, "/health", key=None, timeout_s=TIMEOUT_S)
    except ServerUnreachable as error:
        return None if is_own_trouble(error.__cause__) else False
    return status == 200


async def is_idle(backend: Backend) -> bool:
    """Whether no slot is at work; a server that does not tell is not known to be."""
    try:
        _, slots = await _asked(backend, "/slots")
    except ServerUnreachable:
        return False
    return isinstance(slots, list) and not _any_at_work(slots)


def _any_at_work(slots: list[object]) -> bool:
    return any(isinstance(slot, dict) and slot.get("is_processing") for slot in slots)


async def can_work(
    backend: Backend, kind: ModelKind, *, timeout_s: float = WORK_TIMEOUT_S
) -> bool | None:
    """Whether it answers the smallest request of its kind. A refusal (4xx, 501) counts as well.

    None: it cannot be told. It works on others' requests and had no time for this one, or magid
    could not even ask.
    """
    path, body = _WORK[kind]
    try:
        status, _ = await _asked(backend, path, to_json(body), timeout_s=timeout_s)
    except BadReply:
        return False
    except ServerUnreachable as error:
        if is_own_trouble(error.__cause__):
            return None
        return await _is_merely_busy(backend, timeout_s)
    return status < 500 or status == 501


async def _is_merely_busy(backend: Backend, timeout_s: float) -> bool | None:
    """None: it is. False: it is idle, or its loop stands still, and yet it did not answer."""
    try:
        _, slots = await _asked(backend, "/slots", timeout_s=timeout_s)
    except ServerUnreachable:
        return False
    return False if isinstance(slots, list) and not _any_at_work(slots) else None


async def _asked(
    backend: Backend, path: str, body: bytes | None = None, *, timeout_s: float = TIMEOUT_S
) -> tuple[int, object]:
    """With its key, which no other program gets to see. Raises ServerUnreachable."""
    address = backend.address
    return await get_json(
        address, path, key=backend.key, uid=backend.uid, timeout_s=timeout_s, body=body
    )
