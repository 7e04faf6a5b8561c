"""A request in two stages frees its bodies as it ends, and not when the collector comes by."""

import gc
import json
import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from magid.catalog.profile import TwoStageRules
from magid.errors import MagidError, ServerLost
from magid.gateway.accounting.request_log import Outcome
from magid.gateway.proxy.two_stage import TwoStageRequest
from magid.gateway.routing.endpoints import find
from magid.gateway.routing.request import ParsedRequest, parse
from magid.http.framing import ReplyHead

DRAFT = json.dumps({"choices": [{"message": {"content": "A draft"}}]}).encode()


class Sent:
    """A request on its way, as a `ForwardedRequest` is: it holds its client."""

    def __init__(self, request: ParsedRequest, client: Any) -> None:
        self.request, self.client = request, client
        self.record = SimpleNamespace(model_id="m", outcome=Outcome.RUNNING)

    def cancel(self) -> None:
        self.record.outcome = Outcome.CANCELLED


class Client:
    def begins(self, head: ReplyHead, fields: bytes, data: bytes) -> None: ...

    def goes_on(self, data: bytes) -> None: ...

    def ends(self) -> None: ...

    def fails(self, error: MagidError, fields: bytes = b"") -> None: ...

    def breaks_off(self, error: MagidError, *, is_inside_chunk: bool) -> None: ...


def answered(sent: Sent, body: bytes) -> None:
    head = ReplyHead(200, b"application/json", len(body), is_chunked=False, keeps_alive=True)
    sent.client.begins(head, b"", body)


@pytest.mark.parametrize("end", ["ends", "fails", "breaks_off", "cancel"])
@pytest.mark.parametrize("has_draft", [True, False])
def test_the_bodies_of_a_request_in_two_stages_are_freed_at_once(
    end: str, *, has_draft: bool
) -> None:
    endpoint = find("POST", "/v1/chat/completions")
    assert endpoint is not None
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "x"}]}).encode()
    request = ParsedRequest(endpoint, body, *parse(endpoint, body))
    sent: list[Sent] = []

    def begin(variant: ParsedRequest, client: Any) -> Any:
        sent.append(Sent(variant, client))
        return sent[-1]

    gc.collect()
    gc.disable()
    try:
        stages = TwoStageRequest(request, Client(), TwoStageRules(enabled=True), begin)
        if has_draft:
            answered(sent[0], DRAFT)
            sent[0].client.ends()
        else:
            sent[0].client.fails(ServerLost("cannot finish"))
        answered(sent[1], DRAFT)
        if end == "cancel":
            stages.cancel()
        elif end == "breaks_off":
            sent[1].client.breaks_off(ServerLost("cannot finish"), is_inside_chunk=False)
        else:
            sent[1].client.fails(ServerLost("x")) if end == "fails" else sent[1].client.ends()
        held: list[weakref.ref[Any]] = [weakref.ref(one) for one in (stages, *sent)]
        del stages
        sent.clear()
        assert [one() for one in held] == [None, None, None]
    finally:
        gc.enable()
