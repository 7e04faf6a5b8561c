"""Answers that take their time, to clients that leave meanwhile: what is done is logged."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from magid.errors import Conflict
from magid.gateway.dispatcher import Dispatcher
from magid.gateway.frontend.lasting_answers import WorkAnswer
from magid.gateway.frontend.model_pull import ModelPull
from magid.gateway.frontend.own_answers import OwnCall
from magid.gateway.frontend.response_writer import ResponseWriter
from magid.gateway.proxy.two_stage import ActiveRequest
from magid.gateway.routing.endpoints import Style
from magid.library.downloads.owner import Downloads
from magid.library.job import JobStatus
from magid.library.source import ModelSource

SOURCE = ModelSource("org/Tiny", tag="Q8_0")


class Slow:
    """Downloads that begin when the test says so."""

    def __init__(self) -> None:
        self.may_begin = asyncio.Event()
        self.error: Conflict | None = None
        self.seen: dict[str, JobStatus] = {}

    def subscribe(self, _changed: object) -> Callable[[], None]:
        return lambda: None

    async def pull(self, source: ModelSource) -> JobStatus:
        await self.may_begin.wait()
        if self.error is not None:
            raise self.error
        return JobStatus(source.job_id, source, 1.0, "queued")


Begin = Callable[[OwnCall, Slow], ActiveRequest]
BEGINS: list[Begin] = [
    lambda call, slow: ModelPull(call, SOURCE, is_stream=True),
    lambda call, slow: WorkAnswer(call, slow.pull(SOURCE), Style.OPENAI),
]


@pytest.mark.parametrize("begin", BEGINS, ids=["pull", "work"])
@pytest.mark.parametrize(
    ("error", "logged"), [(None, ["change"]), (Conflict("cannot do it"), [])], ids=["ok", "error"]
)
async def test_what_a_client_that_left_has_changed_is_logged(
    begin: Begin, error: Conflict | None, logged: list[str]
) -> None:
    slow, told = Slow(), list[str]()
    slow.error = error
    call = OwnCall(
        cast(Dispatcher, None), cast(Downloads, slow), cast(ResponseWriter, None), lambda: True,
        lambda: told.append("change"), lambda _error: told.append("error"),
    )  # fmt: skip
    active: Any = begin(call, slow)
    active.cancel()
    slow.may_begin.set()
    tasks = asyncio.all_tasks() - {cast("asyncio.Task[None]", asyncio.current_task())}
    await asyncio.wait(tasks)
    assert told == logged
