"""`GET /models/sse` of llama.cpp's router: the status of each model, and each change of one.

Downloads are told of too, to callers who may use all models. Nothing is queued: a client that stops
reading gets the current state when it reads again.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from magid.control.snapshot import Phase
from magid.control.state import Change
from magid.gateway.frontend.model_downloads import download_changes
from magid.gateway.frontend.own_answers import OwnCall, visible
from magid.gateway.routing import model_list
from magid.http.framing import ReplyHead, chunk
from magid.http.json_text import to_json
from magid.library.job import JobStatus

SETTLE_S = 0.1  # changes that come together are compared once
KEEP_ALIVE_S = 15.0  # a comment, which keeps proxies from closing the connection
_HEAD = ReplyHead(200, b"text/event-stream", None, is_chunked=True, keeps_alive=True)

Statuses = Mapping[str, Mapping[str, Any]]


def changes(before: Statuses, now: Statuses) -> Iterator[dict[str, Any]]:
    """The events that lead from `before` to `now`. Pure."""
    for model_id in before.keys() - now.keys():
        yield {"model": model_id, "event": "model_remove", "data": {}}
    for model_id, status in now.items():
        if before.get(model_id) != status:
            data = {"status": status["value"], **({"failed": True} if "failed" in status else {})}
            yield {"model": model_id, "event": "model_status", "data": data}


class ModelEvents:
    """One client's stream. Implements `ActiveRequest`. Ends when magid drains.

    `only`: the models that the client may see; None: all of them.
    """

    def __init__(self, call: OwnCall, only: tuple[str, ...] | None) -> None:
        self._call, self._only = call, only
        self._dispatcher, self._sink = call.dispatcher, call.writer
        self._may_go_on = call.may_go_on
        self._loop = asyncio.get_running_loop()
        self._sent: Statuses = {}
        self._downloads: Mapping[str, JobStatus] = {}
        self._is_over = self._is_paused = False
        self._settling: asyncio.TimerHandle | None = None
        self._unsubscribe: tuple[Callable[[], None], ...] = (
            self._dispatcher.daemon.subscribe(self._on_change),
            call.downloads.subscribe(self._on_change),
        )
        self._silence = self._loop.call_later(KEEP_ALIVE_S, self._keep_alive)
        self._sink.begins(_HEAD, b"", self._news() or chunk(b": no model yet\n\n"))

    def _news(self) -> bytes:
        """The events since the last call, as one chunk; empty if there are none."""
        now = model_list.statuses(visible(self._dispatcher, self._only))
        before, self._sent = self._sent, now
        told = [*changes(before, now), *self._news_of_downloads()]
        events = b"".join(b"data: %b\n\n" % to_json(event) for event in told)
        return chunk(events) if events else b""

    def _news_of_downloads(self) -> Iterator[dict[str, Any]]:
        if self._only is None:
            before, self._downloads = self._downloads, dict(self._call.downloads.seen)
            endpoint = self._dispatcher.daemon.config.downloads.endpoint
            yield from download_changes(before, self._downloads, endpoint)

    def _on_change(self, _change: Change | JobStatus) -> None:
        if self._settling is None:
            self._settling = self._loop.call_later(SETTLE_S, self._tell)

    def _tell(self) -> None:
        self._settling = None
        if self._is_over or self._is_paused:
            return
        if not self._may_go_on():
            self._end()  # without the news, which its token may no longer read
            return
        self._send(self._news())
        if self._dispatcher.daemon.phase is Phase.DRAINING:
            self._end()

    def _keep_alive(self) -> None:
        self._silence = self._loop.call_later(KEEP_ALIVE_S, self._keep_alive)
        if not self._is_paused:
            self._send(chunk(b": keep-alive\n\n"))
            self._tell()

    def _send(self, data: bytes) -> None:
        if data:
            self._sink.goes_on(data)

    def _end(self) -> None:
        self.cancel()
        self._sink.goes_on(b"0\r\n\r\n")
        self._sink.ends()

    def pause(self, *, paused: bool) -> None:
        self._is_paused = paused
        if not paused:
            self._tell()

    def cancel(self) -> None:
        """Stops watching. Idempotent."""
        unsubscribe, self._unsubscribe = self._unsubscribe, ()
        for each in unsubscribe:
            each()
        self._is_over = True
        self._silence.cancel()
        if self._settling is not None:
            self._settling.cancel()
