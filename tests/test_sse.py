"""The fan-out of events: order, nothing missed, a watcher that does not read."""

import asyncio

from magid.api.sse import QUEUE_LIMIT, Fanout


async def first() -> bytes:
    return b"first"


async def test_a_watcher_gets_the_first_word_and_then_every_event_in_order() -> None:
    fanout = Fanout()
    watcher = fanout.watch(first)
    assert await anext(watcher) == b"first"
    for number in range(3):
        fanout.publish("server", {"number": number})
    events = [await anext(watcher) for _ in range(3)]
    assert events[0] == b'id: 1\nevent: server\ndata: {"revision":1,"number":0}\n\n'
    assert [event.split(b"\n")[0] for event in events] == [b"id: 1", b"id: 2", b"id: 3"]
    await watcher.aclose()


async def test_what_happens_while_the_first_word_is_made_is_not_missed() -> None:
    fanout = Fanout()

    async def slow() -> bytes:
        fanout.publish("server", {})
        return b"first"

    watcher = fanout.watch(slow)
    assert await anext(watcher) == b"first"
    assert b"id: 1" in await anext(watcher)
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
    async with asyncio.timeout(5):
        for watcher in watchers:
            rest = [event async for event in watcher]
            assert len(rest) == 1
            assert b"event: resync" in rest[0]
