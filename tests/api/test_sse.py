"""The fan-out of events: order, nothing missed, a watcher that does not read."""

import asyncio

from magid.api.sse import QUEUE_BYTES, QUEUE_LIMIT, Fanout
from tests.support.deadlines import PATIENCE_S


async def first() -> bytes:
    return b"first"


async def test_a_watcher_gets_the_first_word_and_then_every_event_in_order() -> None:
    fanout = Fanout()
    watcher = fanout.watch(first)
    assert await anext(watcher) == b"first"
    for number in range(3):
        fanout.publish("server", {"number": number})
    events = [part + b"\n\n" for part in (await anext(watcher)).split(b"\n\n")[:-1]]
    assert events[0] == b'id: 1\nevent: server\ndata: {"revision":1,"number":0}\n\n'
    assert [event.split(b"\n")[0] for event in events] == [b"id: 1", b"id: 2", b"id: 3"]
    await watcher.aclose()


async def test_the_first_word_holds_what_happens_while_it_is_made() -> None:
    """It is not repeated, and what comes at once behind it is not missed."""
    fanout = Fanout()

    async def slow() -> bytes:
        fanout.publish("server", {})
        return b"first"

    watcher = fanout.watch(slow)
    assert await anext(watcher) == b"first"
    fanout.publish("server", {})
    assert b"id: 2" in await anext(watcher)
    await watcher.aclose()


async def test_a_watcher_that_does_not_read_is_told_to_start_anew_and_costs_others_nothing() -> (
    None
):
    fanout = Fanout()
    stuck, brisk = fanout.watch(first), fanout.watch(first)
    await anext(stuck)
    await anext(brisk)
    for _ in range(QUEUE_LIMIT + 10):
        fanout.publish("server", {})
        assert b"event: server" in await anext(brisk)
    assert b"event: resync" in await anext(stuck)
    assert [event async for event in stuck] == []
    assert (fanout.listeners, fanout.dropped) == (1, 1)
    await brisk.aclose()


async def test_close_ends_every_stream() -> None:
    fanout = Fanout()
    watchers = [fanout.watch(first) for _ in range(3)]
    for watcher in watchers:
        await anext(watcher)
    fanout.close()
    async with asyncio.timeout(PATIENCE_S):
        for watcher in watchers:
            rest = [event async for event in watcher]
            assert len(rest) == 1
            assert b"event: resync" in rest[0]


async def test_what_waits_for_a_watcher_is_bounded_in_bytes_too() -> None:
    fanout = Fanout()
    stuck, brisk = fanout.watch(first), fanout.watch(first)
    await anext(stuck)
    await anext(brisk)
    large = "x" * (QUEUE_BYTES // 4)
    for _ in range(6):
        fanout.publish("registry", {"text": large})
        assert b"event: registry" in await anext(brisk)
    assert fanout.dropped == 1
    assert b"event: resync" in await anext(stuck)
    assert [event async for event in stuck] == []
    fanout.publish("registry", {"text": "x" * (QUEUE_BYTES + 1)})
    assert b"event: registry" in await anext(brisk), "one event alone is never too large"
    await brisk.aclose()


async def test_who_listens_is_known() -> None:
    fanout = Fanout()
    assert not fanout.heard.is_set()
    watcher = fanout.watch(first)
    await anext(watcher)
    assert fanout.heard.is_set()
    await watcher.aclose()
    assert not fanout.heard.is_set()


async def test_one_that_closes_while_the_first_word_is_made_still_ends() -> None:
    fanout = Fanout()

    async def closing() -> bytes:
        fanout.close()
        return b"first"

    async with asyncio.timeout(PATIENCE_S):
        told = [event async for event in fanout.watch(closing)]
    assert told[0] == b"first"
    assert b"event: resync" in told[1]
