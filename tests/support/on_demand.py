"""Requests for models on demand, without HTTP on the client's side, and servers that are idle."""

import asyncio
from contextlib import suppress
from typing import Any

from magid.errors import MagidError
from magid.gateway.routing.endpoints import find
from magid.gateway.routing.request import ParsedRequest
from magid.http.framing import ReplyHead


class Client:
    """Implements `ResponseSink`; `answer` is the status, or the error."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[int | MagidError] = asyncio.get_running_loop().create_future()
        self._status = 0
        self.fields = b""

    def begins(self, head: ReplyHead, fields: bytes, data: bytes) -> None:
        self._status, self.fields = head.status, fields

    def goes_on(self, data: bytes) -> None:
        pass

    def ends(self) -> None:
        self.answer.set_result(self._status)

    def fails(self, error: MagidError, fields: bytes = b"") -> None:
        self.answer.set_result(error)

    def breaks_off(self, error: MagidError, *, is_inside_chunk: bool) -> None:
        self.answer.set_result(error)


class IdleServers:
    """Idle llama-servers whose models know no tools; the next `busy` calls of /props fail."""

    def __init__(self) -> None:
        self.busy = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers = {
            "/slots": b"[]",
            "/props": b'{"total_slots":2,"chat_template_caps":{"supports_tools":false}}',
        }
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = head.partition("Content-Length: ")[2].partition("\r\n")[0]
                await reader.readexactly(int(length or 0))
                path = head.split(" ")[1]
                if path == "/props" and self.busy:
                    self.busy -= 1
                    break
                body = answers.get(path, b"{}")
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        writer.close()


def request(model: str, method: str = "POST", **fields: Any) -> ParsedRequest:
    endpoint = find(method, "/v1/chat/completions" if method == "POST" else "/props")
    assert endpoint is not None
    values = {"model": model, "messages": [{"role": "user", "content": "Hello"}], **fields}
    return ParsedRequest(endpoint, b'{"tools":[]}' if "tools" in fields else b"{}", values, model)
