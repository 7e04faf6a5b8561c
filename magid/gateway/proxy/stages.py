"""Carries out two stages: the draft is collected, the final answer passed on to the client.

If the draft does not come, the second stage answers without it.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from magid.catalog.profile import TwoStage
from magid.errors import MagidError
from magid.gateway.accounting.request_log import Outcome
from magid.gateway.proxy import two_stage
from magid.gateway.proxy.forward import Client, Exchange
from magid.gateway.routing.request import Asked
from magid.http.framing import ChunkReader, ReplyHead
from magid.http.limits import MAX_COLLECTED_BYTES
from magid.llama.client import Garbled

Begin = Callable[[Asked, Client], Exchange]


class Work(Protocol):
    """What a client's connection holds of a request under way."""

    def cancel(self) -> None: ...

    def pause(self, *, paused: bool) -> None: ...


class Stages:
    """One request in two stages. Implements `Work`, and `exchange.Client` for both."""

    def __init__(self, asked: Asked, client: Client, rules: TwoStage, begin: Begin) -> None:
        """Begins the first stage, or at once the second; raises what that raises."""
        self._asked, self._client, self._rules, self._begin = asked, client, rules, begin
        self._body = bytearray()  # of a draft, or of an answer whose usage is to be counted up
        self._drafted_by = b""
        self._is_final = False
        self._head: ReplyHead | None = None
        self._fields = b""
        self._usage: Mapping[str, Any] = {}
        self._reader: ChunkReader | None = None
        self._events: two_stage.Events | None = None
        fields = two_stage.first(asked.fields, rules.stage1_tier, rules.stage1_max_tokens)
        draft = self._variant(fields, f"{asked.request_id}.draft")
        self._exchange: Exchange | None = None
        try:
            self._exchange = begin(draft, self)
        except MagidError:
            self._is_final = True
            self._exchange = begin(self._final(None), self)

    def _variant(self, fields: Mapping[str, Any], request_id: str) -> Asked:
        return self._asked.changed(fields, model=str(fields["model"]), request_id=request_id)

    # -- Work --------------------------------------------------------------------------------

    def cancel(self) -> None:
        if self._exchange is not None:
            self._exchange.cancel()
        self._release()

    def pause(self, *, paused: bool) -> None:
        if self._is_final and self._exchange is not None:
            self._exchange.pause(paused=paused)

    def _release(self) -> None:
        """It is over: without a circle of references its bodies are freed at once. Idempotent."""
        self._exchange = None

    # -- exchange.Client ---------------------------------------------------------------------

    def begins(self, head: ReplyHead, fields: bytes, data: bytes) -> None:
        self._head, self._fields = head, fields
        if self._is_final and head.is_chunked and head.status == 200 and self._drafted_by:
            self._reader, self._events = ChunkReader(keep=True), two_stage.Events(self._usage)
            self._client.begins(head, fields + self._drafted_by, self._counted(data))
        elif self._is_final and not (self._drafted_by and _can_be_kept(head)):
            self._client.begins(head, fields, data)
            self._head = None  # passed on as it comes
        else:
            self._keep(data)

    def _keep(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > MAX_COLLECTED_BYTES:
            raise Garbled("it is too long")

    def goes_on(self, data: bytes) -> None:
        if self._events is not None:
            self._client.goes_on(self._counted(data))
        elif self._head is None:
            self._client.goes_on(data)
        else:
            self._keep(data)

    def _counted(self, data: bytes) -> bytes:
        assert self._reader is not None
        assert self._events is not None
        self._reader.feed(data)
        payload = b"".join(self._reader.payload or ())
        self._reader.payload = []
        whole = self._events.feed(payload)
        return whole + self._events.end() if self._reader.done else whole

    def ends(self) -> None:
        if not self._is_final:
            self._answer(two_stage.draft_in(bytes(self._body)))
            return
        if self._events is None and self._head is not None:
            body = bytes(self._body)
            if self._head.status == 200:
                body = two_stage.with_usage(body, self._usage)
            head = replace(self._head, length=len(body))
            self._client.begins(head, self._fields + self._drafted_by, body)
        self._client.ends()
        self._release()

    def fails(self, error: MagidError, fields: bytes = b"") -> None:
        if self._is_final or (self._exchange and self._exchange.record.outcome is Outcome.KILLED):
            self._client.fails(error, fields)
            self._release()
        else:
            self._answer(None)

    def breaks_off(self, error: MagidError, *, is_inside_chunk: bool) -> None:
        if not self._is_final:
            self._answer(None)
            return
        if self._events is not None or self._head is None:
            # Events were put into chunks of ours: what was sent is whole.
            inside = is_inside_chunk and self._events is None
            self._client.breaks_off(error, is_inside_chunk=inside)
        else:
            self._client.fails(error, self._fields)
        self._release()

    # -- the second stage --------------------------------------------------------------------

    def _final(self, draft: tuple[str, Mapping[str, Any]] | None) -> Asked:
        """The request for the second stage, with the draft if there is one."""
        tier = str(self._rules.stage2_tier)
        if draft is None or self._exchange is None:
            return self._variant({**self._asked.fields, "model": tier}, self._asked.request_id)
        text, self._usage = draft
        self._drafted_by = f"X-Magi-Draft-Model: {self._exchange.record.model_id}\r\n".encode()
        return self._variant(
            two_stage.second(self._asked.fields, tier, text), self._asked.request_id
        )

    def _answer(self, draft: tuple[str, Mapping[str, Any]] | None) -> None:
        """Begin the second stage. Called within the end of the first."""
        final = self._final(draft)
        self._is_final, self._body, self._head = True, bytearray(), None
        try:
            self._exchange = self._begin(final, self)
        except MagidError as error:
            self._client.fails(error)
            self._release()


def _can_be_kept(head: ReplyHead) -> bool:
    return head.length is not None and head.length <= MAX_COLLECTED_BYTES
