"""What a defect in a handler does to its caller: an application with handlers that have one."""

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from magid.__main__ import compose, installed_program
from magid.api.app import make_app
from magid.api.context import Context
from magid.api.protocol import listen
from magid.api.reply import Call, Reply, Stream, reply
from magid.api.routes import Access, Route
from magid.config.settings import Config
from magid.log.setup import RingLog
from tests.support.deadlines import PATIENCE_S


async def broken(ctx: Context, call: Call) -> Reply:
    """Has a defect."""
    raise ZeroDivisionError("an inside secret")


async def cannot_be_written(ctx: Context, call: Call) -> Reply:
    """Answers what is no JSON."""
    return reply({"answer": object()})


async def breaks_later(ctx: Context, call: Call) -> Stream:
    """Has a defect behind its first event."""

    async def events() -> AsyncGenerator[bytes]:
        yield b"data: 1\n\n"
        raise ZeroDivisionError("an inside secret")

    return Stream(events())


async def breaks_at_once(ctx: Context, call: Call) -> Stream:
    """Has a defect before its first event."""

    async def events() -> AsyncGenerator[bytes]:
        yield b"%d" % (1 // len(call.params))

    return Stream(events())


TABLE = tuple(
    Route("GET", f"/{handler.__name__}", handler, None, Access.READ)
    for handler in (broken, cannot_be_written, breaks_later, breaks_at_once)
)


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application with these routes."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = Config(
            model_paths=(folder,), state_dir=folder, profiles_dir=folder, launcher="process"
        )
        context = compose(config, RingLog(), installed_program(config))
        listening = await listen(make_app(context, TABLE), [taken])
        try:
            url = f"http://127.0.0.1:{taken.getsockname()[1]}"
            async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
                yield client
        finally:
            listening.close()
            async with asyncio.timeout(PATIENCE_S):
                await listening.ended()


@pytest.mark.parametrize("path", ["/broken", "/cannot_be_written", "/breaks_at_once"])
async def test_a_defect_is_logged_with_its_trace_and_answered_without(
    path: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(tmp_path) as client:
        response = await client.get(path, headers={"X-Request-Id": "mine"})
        assert response.status_code == 500
        own = response.headers["x-request-id"]
        assert own != "mine"
        assert response.headers["x-content-type-options"] == "nosniff"
        error = response.json()
        assert (error["error"], error["details"]) == ("InternalError", {"requestId": own})
        assert "secret" not in response.text
        again = await client.get(path)
        assert again.json()["details"]["requestId"] == again.headers["x-request-id"] != own
    traces = [entry for entry in caplog.records if own in entry.getMessage()]
    assert traces[0].levelno == logging.ERROR
    assert traces[0].exc_info


async def test_a_stream_that_breaks_ends_its_connection(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/breaks_later")
        assert (await client.get("/openapi.json")).status_code == 200
