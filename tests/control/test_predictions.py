"""Predictions are made once for the same files, program and arguments, one at a time."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from magid.control import predictions as module
from magid.control.prediction_cache import MAX_KEPT, Prediction
from magid.control.predictions import Predictions
from magid.errors import Busy, InvalidInput, LlamaServerMissing
from magid.llama.program import LlamaProgram
from magid.llama.spec import ServerSpec
from tests.support.deadlines import PATIENCE_S
from tests.support.recording_backend import StillLauncher

LINES = ["| memory breakdown [MiB] |", "|   - Host | 6 = 1 + 2 + 3 |"]
TABLE = json.dumps({"why": "done", "status": -9, "lines": LINES})
FLAGS = frozenset({"--fit", "-lv", "--ctx-size", "--parallel", "--threads"})
PROGRAM = LlamaProgram(Path("/llama"), "1", FLAGS, 5.0)
SPEC = ServerSpec("m", 0, 8080, "127.0.0.1", "/m.gguf", ctx_size=512, stamp="1:2")


@pytest.fixture
def launcher() -> StillLauncher:
    found = StillLauncher(prompt=True)
    found.memory = TABLE
    return found


@pytest.fixture
def predictions(launcher: StillLauncher) -> Predictions:
    return Predictions(launcher)


async def test_asked_once(launcher: StillLauncher, predictions: Predictions) -> None:
    first = await predictions.of(SPEC, PROGRAM)
    assert first.estimate is not None
    assert first.estimate.host_total.total == 6 << 20
    same = replace(SPEC, model_id="copy", instance=1, port=8081, memory_max=1 << 30)
    assert await predictions.of(same, PROGRAM) is first
    assert launcher.predicted == [SPEC]


@pytest.mark.parametrize(
    "change", [{"ctx_size": 1024}, {"parallel": 2}, {"stamp": "1:3"}, {"model_path": "/n.gguf"},
               {"extra_args": ("--fit", "off")}],
)  # fmt: skip
async def test_another_server(
    launcher: StillLauncher, predictions: Predictions, change: dict[str, object]
) -> None:
    other = replace(SPEC, **change)  # type: ignore[arg-type]  # a table of test values
    await predictions.of(SPEC, PROGRAM)
    await predictions.of(other, PROGRAM)
    assert launcher.predicted == [SPEC, other]


async def test_another_program(launcher: StillLauncher, predictions: Predictions) -> None:
    for program in (
        PROGRAM,
        structs.replace(PROGRAM, version="2"),
        structs.replace(PROGRAM, changed_at=6.0),
    ):
        await predictions.of(SPEC, program)
    assert len(launcher.predicted) == 3


@pytest.mark.parametrize(
    ("memory", "problem"),
    [
        (LlamaServerMissing("cannot find llama-server"), "cannot find llama-server"),
        ("exec_model: refused", "cannot predict the memory: exec_model: refused"),
        ('{"why": "late", "status": -9, "lines": []}', "in time; try again"),
    ],
)
async def test_a_failure_is_not_kept(
    launcher: StillLauncher, predictions: Predictions, memory: str | Exception, problem: str
) -> None:
    launcher.memory = memory
    failed = await predictions.of(SPEC, PROGRAM)
    assert failed.estimate is None
    assert problem in failed.problem
    launcher.memory = TABLE
    assert (await predictions.of(SPEC, PROGRAM)).estimate is not None


async def test_how_the_last_try_failed(launcher: StillLauncher) -> None:
    """It is told once, for what is told may ask again, and is over with the next success."""
    told: list[None] = []
    predictions = Predictions(launcher, on_made=lambda: told.append(None))
    assert predictions.kept(SPEC, PROGRAM) is None
    launcher.memory = "error: cannot load this file"
    for _ in range(2):
        await predictions.of(SPEC, PROGRAM)
    failed = predictions.kept(SPEC, PROGRAM)
    assert failed is not None
    assert failed.problem == "cannot predict the memory: error: cannot load this file"
    assert len(told) == 1
    for number in range(300):
        await predictions.of(replace(SPEC, ctx_size=1000 + number), PROGRAM)
    assert predictions.kept(SPEC, PROGRAM) is None, "not without end"
    await predictions.of(SPEC, PROGRAM)
    launcher.memory = TABLE
    await predictions.of(SPEC, PROGRAM)
    made = predictions.kept(SPEC, PROGRAM)
    assert made is not None
    assert made.estimate is not None


async def test_one_that_the_launcher_puts_off_has_not_failed(
    launcher: StillLauncher, predictions: Predictions
) -> None:
    launcher.memory = Busy("cannot predict it now: a start waits")
    with pytest.raises(Busy, match="a start waits"):
        await predictions.of(SPEC, PROGRAM)
    assert predictions.kept(SPEC, PROGRAM) is None
    put_off = await predictions.of(SPEC, PROGRAM, for_start=True)
    assert put_off.problem == "cannot predict it now: a start waits", "no start is refused"


async def test_an_option_that_the_program_lacks(predictions: Predictions) -> None:
    failed = await predictions.of(replace(SPEC, n_threads=2, device="CUDA0"), PROGRAM)
    assert failed.problem.startswith("cannot use device")


async def begun(
    launcher: StillLauncher, predictions: Predictions, count: int
) -> list[asyncio.Task[Prediction]]:
    """Asks for so many at once, of which the first does not end yet."""
    launcher.hold("predict", 0)
    tasks = [
        asyncio.create_task(predictions.of(replace(SPEC, ctx_size=number), PROGRAM))
        for number in range(count)
    ]
    await launcher.wait_for(lambda: bool(launcher.predicted))
    return tasks


async def test_one_at_a_time_and_not_without_end(
    launcher: StillLauncher, predictions: Predictions
) -> None:
    tasks = await begun(launcher, predictions, module.MAX_WAITING)
    with pytest.raises(Busy, match="8 other predictions wait"):
        await predictions.of(replace(SPEC, ctx_size=77), PROGRAM)
    assert len(launcher.predicted) == 1
    launcher.release("predict", 0)
    async with asyncio.timeout(PATIENCE_S):
        assert all(made.estimate for made in await asyncio.gather(*tasks))
    assert len(launcher.predicted) == module.MAX_WAITING
    assert (await predictions.of(replace(SPEC, ctx_size=77), PROGRAM)).estimate


async def test_who_asks_for_the_same_waits_for_it(
    launcher: StillLauncher, predictions: Predictions
) -> None:
    launcher.hold("predict", 0)
    tasks = [asyncio.create_task(predictions.of(SPEC, PROGRAM)) for _ in range(3)]
    await launcher.wait_for(lambda: bool(launcher.predicted))
    tasks[0].cancel()
    launcher.release("predict", 0)
    async with asyncio.timeout(PATIENCE_S):
        rest = await asyncio.gather(*tasks[1:])
    assert rest[0] is rest[1]
    assert len(launcher.predicted) == 2


async def test_a_start_waits_for_none_that_yields_to_other_work(
    launcher: StillLauncher, predictions: Predictions
) -> None:
    """Neither for the one in progress, nor for those that wait; these are made afterwards."""
    tasks = await begun(launcher, predictions, 3)
    start = asyncio.create_task(predictions.of(SPEC, PROGRAM, for_start=True))
    await launcher.wait_for(lambda: len(launcher.predicted) == 2)
    assert (launcher.predicted[1], launcher.for_start) == (SPEC, [False, True])
    launcher.release("predict", 0)
    async with asyncio.timeout(PATIENCE_S):
        assert all(made.estimate for made in await asyncio.gather(start, *tasks))
    sizes = [spec.ctx_size for spec in launcher.predicted]
    assert (sizes[:2], sorted(sizes[2:])) == ([0, 512], [0, 1, 2])  # type: ignore[type-var]  # none is None
    assert launcher.for_start[2:] == [False] * 3


@pytest.mark.parametrize("turns", range(12))
async def test_a_start_that_is_called_off_leaves_the_event_loop_to_others(
    launcher: StillLauncher, predictions: Predictions, turns: int
) -> None:
    """However far it has come by then: the prediction that it had put off is made."""
    (task,) = await begun(launcher, predictions, 1)
    start = asyncio.create_task(predictions.of(SPEC, PROGRAM, for_start=True))
    for _ in range(turns):
        await asyncio.sleep(0)
    start.cancel()
    launcher.release("predict", 0)
    async with asyncio.timeout(PATIENCE_S):
        assert (await task).estimate


async def test_one_that_is_called_off_ends(
    launcher: StillLauncher, predictions: Predictions
) -> None:
    (task,) = await begun(launcher, predictions, 1)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    launcher.release("predict", 0)
    assert (await predictions.of(SPEC, PROGRAM)).estimate


async def test_it_is_bounded(launcher: StillLauncher, predictions: Predictions) -> None:
    for number in range(MAX_KEPT + 1):
        await predictions.of(replace(SPEC, ctx_size=number), PROGRAM)
    await predictions.of(replace(SPEC, ctx_size=1), PROGRAM)
    assert len(launcher.predicted) == MAX_KEPT + 1
    await predictions.of(replace(SPEC, ctx_size=0), PROGRAM)
    assert len(launcher.predicted) == MAX_KEPT + 2, "the oldest went"


async def test_a_bug_is_no_answer(launcher: StillLauncher, predictions: Predictions) -> None:
    launcher.memory = RuntimeError("broken")
    with pytest.raises(RuntimeError):
        await predictions.of(SPEC, PROGRAM)
    launcher.memory = InvalidInput("cannot use spec")
    assert (await predictions.of(SPEC, PROGRAM)).problem == "cannot use spec"


async def test_they_outlive_magid(launcher: StillLauncher, tmp_path: Path) -> None:
    path = tmp_path / "predictions.json"
    first = await Predictions(launcher, path).of(SPEC, PROGRAM)
    later = Predictions(launcher, path)
    assert await later.of(SPEC, PROGRAM) == first
    await later.of(replace(SPEC, ctx_size=1024), PROGRAM)
    assert await Predictions(launcher, path).of(SPEC, PROGRAM) == first
    assert len(launcher.predicted) == 2


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[" * 100_000, b'{"schema": 2, "kept": {}}', b'{"schema": 1}',
                b'{"schema": 1, "kept": {"x": {"at": "now"}}}', b"\xff"],
)  # fmt: skip
async def test_a_damaged_file_counts_as_empty(
    launcher: StillLauncher, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "predictions.json"
    path.write_bytes(content)
    first = await Predictions(launcher, path).of(SPEC, PROGRAM)
    assert first.estimate is not None
    assert await Predictions(launcher, path).of(SPEC, PROGRAM) == first
    assert len(launcher.predicted) == 1


async def test_a_file_that_cannot_be_written(launcher: StillLauncher, tmp_path: Path) -> None:
    predictions = Predictions(launcher, tmp_path / "missing" / "predictions.json")
    first = await predictions.of(SPEC, PROGRAM)
    assert await predictions.of(SPEC, PROGRAM) is first
