"""magid's Sanic application: signals with and without a handler."""

import asyncio

from magid.api.protocol import Application


async def test_only_a_signal_with_a_handler_is_dispatched() -> None:
    app = Application("test-signals", configure_logging=False)
    handled: list[object] = []

    @app.signal("http.lifecycle.request")
    async def handle(request: object) -> None:
        handled.append(request)

    app.signal_router.finalize()
    await app.dispatch("http.lifecycle.request", inline=True, context={"request": "GET /"})
    assert handled == ["GET /"]
    before = asyncio.all_tasks()
    assert await app.dispatch("http.lifecycle.exception", context={"exception": "one"}) is None
    assert asyncio.all_tasks() == before
    assert handled == ["GET /"]
