"""Downloads asked for over Ollama's API: started, and followed until their end."""

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from magid.control.snapshot import Phase
from magid.errors import (
    CannotWrite,
    Conflict,
    HubFailed,
    InvalidInput,
    MagidError,
    NotReady,
    Unauthenticated,
)
from magid.gateway.frontend.own_answers import OwnCall, OwnRequest, fields_of, no_name
from magid.gateway.ollama import pulls
from magid.http.framing import LAST_CHUNK, ReplyHead, chunk
from magid.http.json_text import to_json
from magid.library.job import ACTIVE, JobStatus
from magid.library.source import ModelSource

LOOK_S: Final = 1.0  # between checks that the client may still be told
_HEAD: Final = ReplyHead(200, b"application/x-ndjson", None, is_chunked=True, keeps_alive=True)
_JSON: Final = b"Content-Type: application/json\r\n"
_OF_THIS_MACHINE: Final = ("DiskFull", "CannotWrite")  # codes of downloads that have failed


def pull_wanted(request: OwnRequest) -> tuple[ModelSource, bool]:
    """Returns what the body names, and whether its client wants a stream. Raises InvalidInput."""
    fields = fields_of(request)
    name = fields.get("model") or fields.get("name")  # `name` is the older one
    if not isinstance(name, str):
        raise no_name()
    is_stream = fields.get("stream", True)
    if not isinstance(is_stream, bool | None):
        raise InvalidInput("cannot use `stream`: it is neither true nor false", field="stream")
    return pulls.source_of(name), is_stream is not False


class ModelPull:
    """One client of a download. Implements `ActiveRequest`.

    The download is the daemon's: it goes on when its client leaves. Nothing is queued for a client
    that stops reading: it gets the state of that moment when it reads again.
    """

    def __init__(self, call: OwnCall, source: ModelSource, *, is_stream: bool) -> None:
        self._call, self._source, self._is_stream = call, source, is_stream
        self._loop = asyncio.get_running_loop()
        self._sent: JobStatus | None = None
        self._latest: JobStatus | None = None  # None: not begun
        self._is_over = self._is_paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._unsubscribe = call.downloads.subscribe(self._on_status)
        self._start = self._loop.create_task(call.downloads.pull(source))
        self._start.add_done_callback(self._on_start)

    def _on_start(self, start: "asyncio.Task[JobStatus]") -> None:
        if start.cancelled():
            return
        error = start.exception()
        if error is None:
            self._call.on_change()  # also of a client that has left
        if self._is_over:
            return
        if error is not None:
            self.cancel()
            self._call.on_error(error)
            return
        if self._is_stream:
            self._call.writer.begins(_HEAD, b"", _chunk([pulls.FIRST]))
        self._latest = self._call.downloads.seen.get(self._source.job_id, start.result())
        self._timer = self._loop.call_later(LOOK_S, self._look)
        self._tell()

    def _on_status(self, status: JobStatus) -> None:
        if self._latest is not None and status.id == self._source.job_id:
            self._latest = status
            self._tell()

    def _tell(self) -> None:
        now = self._latest
        if now is None or self._is_over or self._is_paused:
            return
        news = _chunk(pulls.lines(self._sent, now))
        if self._is_stream and news:
            self._call.writer.goes_on(news)
        self._sent = now
        if now.state == "done":
            self._succeed()
        elif now.state not in ACTIVE:
            self._break_off(_failure(now))

    def _succeed(self) -> None:
        self.cancel()
        writer = self._call.writer
        if self._is_stream:
            writer.goes_on(_chunk(pulls.LAST) + LAST_CHUNK)
            writer.ends()
        else:
            writer.respond(200, _JSON, to_json(pulls.SUCCESS))

    def _break_off(self, error: MagidError) -> None:
        self.cancel()
        if self._is_stream:
            self._call.writer.breaks_off(error, is_inside_chunk=False)
        else:
            self._call.writer.fails(error)

    def _look(self) -> None:
        """Ends the answer where it cannot go on. The download does."""
        if reason := self._why_not():
            self._break_off(reason)
        else:
            self._timer = self._loop.call_later(LOOK_S, self._look)

    def _why_not(self) -> MagidError | None:
        text = self._source.text
        if self._source.job_id not in self._call.downloads.seen:
            return Conflict(f"cannot go on: the download of {text} was removed meanwhile")
        if not self._call.may_go_on():
            return Unauthenticated(
                f"cannot tell how far {text} is: the token does not count any more; the download "
                "goes on"
            )
        if self._call.dispatcher.daemon.phase is Phase.DRAINING:
            return NotReady(
                f"cannot tell how far {text} is: magid ends; pull it again to follow the download"
            )
        return None

    def pause(self, *, paused: bool) -> None:
        self._is_paused = paused
        if not paused:
            self._tell()

    def cancel(self) -> None:
        """Stops following; the download goes on. Idempotent."""
        if self._is_over:
            return
        self._is_over = True
        self._unsubscribe()
        if self._timer is not None:
            self._timer.cancel()


def _chunk(told: Iterable[dict[str, Any]]) -> bytes:
    """Returns the lines as one chunk; nothing if there are none."""
    text = b"".join(to_json(line) + b"\n" for line in told)
    return chunk(text) if text else b""


def _failure(status: JobStatus) -> MagidError:
    """Returns why a download does not go on by itself."""
    if status.state == "paused":
        return Conflict(
            f"cannot go on: the download of {status.source.text} is paused; pull it again to "
            "continue"
        )
    if status.code in _OF_THIS_MACHINE:
        return CannotWrite(status.reason)
    return HubFailed(status.reason, cause=status.code)
