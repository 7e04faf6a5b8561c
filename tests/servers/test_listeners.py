"""Listeners: who is called, in which order, and what an error in one of them does."""

import pytest

from magid.servers.listeners import Listeners


def test_listeners_are_called_until_they_unsubscribe() -> None:
    listeners: Listeners[str] = Listeners()
    seen: list[str] = []
    unsubscribe = listeners.subscribe(seen.append)
    listeners.notify("first")
    unsubscribe()
    unsubscribe()
    listeners.notify("second")
    assert (seen, len(listeners)) == (["first"], 0)


def test_a_further_change_comes_after_the_one_that_caused_it() -> None:
    listeners: Listeners[int] = Listeners()
    seen: list[tuple[str, int]] = []

    def cause(change: int) -> None:
        seen.append(("cause", change))
        if change == 1:
            listeners.notify(2)

    listeners.subscribe(cause)
    listeners.subscribe(lambda change: seen.append(("other", change)))
    listeners.notify(1)
    assert seen == [("cause", 1), ("other", 1), ("cause", 2), ("other", 2)]


def test_a_listener_that_raises_is_logged_and_stays(caplog: pytest.LogCaptureFixture) -> None:
    listeners: Listeners[str] = Listeners()
    seen: list[str] = []

    def broken(change: str) -> None:
        raise ValueError(change)

    listeners.subscribe(broken)
    listeners.subscribe(seen.append)
    listeners.notify("one")
    listeners.notify("two")
    assert seen == ["one", "two"]
    assert [record.getMessage() for record in caplog.records] == [
        "a listener failed on one",
        "a listener failed on two",
    ]
