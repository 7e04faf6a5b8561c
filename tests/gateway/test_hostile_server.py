"""A llama-server that was taken over harms its own clients alone, in bounded memory."""

import asyncio
import json
import threading
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from socket import create_server, socket

import pytest

from magid.errors import ServerUnreachable
from magid.gateway.routing.fleet import MAX_CONTEXT, MAX_SLOTS, facts_of
from magid.host.ports import HostPort
from magid.llama.client import get_json, get_metrics
from tests.support import hostile
from tests.support.deadlines import DEADLINE_S
from tests.support.hostile import SMALL, Answer, Taken, answer_to, misbehave, model, request
from tests.support.hostile_llama import HOSTILE, PRINTED, VALUES, Connection, Ends
from tests.support.rest import Parts

MOST_KIB = 8 * 1024
CHAT = "/v1/chat/completions"
STAGES = """\
two_stage: {{enabled: true, stage1_tier: {}, stage2_tier: {}}}
"""


@contextmanager
def ready(parts: Parts, folder: Path, profile: str) -> Iterator[Taken]:
    with hostile.taken_over(parts, folder, profile) as taken:
        for number in range(hostile.COUNT):
            hostile.wait_sound(taken.magid, model(number))
        hostile.wait_sound(taken.magid, SMALL)
        yield taken
        log = taken.magid.log.read_text()
        assert "Traceback" not in log, log[-5000:]
        assert "magid failed with an internal error" not in log


@pytest.fixture(scope="module")
def taken(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Taken]:
    with ready(parts, tmp_path_factory.mktemp("hostile"), hostile.PROFILE) as taken:
        yield taken


@contextmanager
def bounded(taken: Taken) -> Iterator[None]:
    """It takes no more memory within the block, not even for a moment, than it may."""
    hostile.forget_peak(taken.pid)
    before = hostile.kib(taken.pid, "VmRSS")
    yield
    assert hostile.kib(taken.pid, "VmHWM") - before < MOST_KIB


@pytest.mark.slow
@pytest.mark.parametrize(("number", "name"), list(enumerate(hostile.NAMES)), ids=hostile.NAMES)
def test_a_server_that_misbehaves(taken: Taken, number: int, name: str) -> None:
    """Its client gets one error or a cut, and nobody else notices."""
    magid = taken.magid
    hostile.wait_sound(magid, model(number))
    with bounded(taken):
        assert misbehave(magid, name, model(number)) == ""
        assert misbehave(magid, "", SMALL) == ""


@pytest.mark.slow
def test_what_it_prints_is_kept_in_bounded_memory(taken: Taken) -> None:
    """Its lines are there, the last ones, and the daemon's own page of them is whole."""
    for number, name in enumerate(PRINTED):
        hostile.wait_sound(taken.magid, model(number))
        with bounded(taken):
            assert misbehave(taken.magid, name, model(number)) == ""
            lines = taken.magid.get(f"/api/models/servers/{model(number)}/logs?lines=5")["lines"]
            assert lines, name


@pytest.mark.slow
def test_absurd_figures_are_none(taken: Taken) -> None:
    """No figure of magid becomes infinite, and no answer of its stops being JSON."""
    hostile.wait_sound(taken.magid, model(0))
    assert misbehave(taken.magid, "absurd figures", model(0)) == ""
    rows = taken.magid.client.get("/api/requests").text
    for row in json.loads(rows, parse_constant=pytest.fail)["requests"]:
        assert (row["tokensPerSecond"] or 0) < 1e6
    assert "Inf" not in taken.magid.client.get("/metrics").text.replace('le="+Inf"', "")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "endless head", "2500 interim answers in one segment", "204 with chunks", "endless chunks",
        "endless chunks of a byte", "type text/html", "headers that act", "compressed",
        "answers not UTF-8", "500 until the end to messages",
    ],
)  # fmt: skip
def test_the_figures_of_a_server(taken: Taken, name: str) -> None:
    taken.order("/metrics", name)
    try:
        with bounded(taken):
            answer = taken.magid.client.get(f"/api/models/servers/{model(1)}/metrics")
    finally:
        taken.forget()
    assert answer.status_code in (200, 502, 503)
    assert "set-cookie" not in answer.headers
    assert answer.headers["content-type"].startswith(("text/plain", "application/json"))
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.slow
def test_a_server_that_answers_before_it_is_asked(taken: Taken) -> None:
    """What it says then is nobody's answer."""
    hostile.wait_sound(taken.magid, model(2))
    taken.order("ACCEPT", "early")
    try:
        for _ in range(5):
            answer = Answer.of(answer_to(taken.magid, request(CHAT, "", model(2))))
            assert answer.is_error or b'"from":"hostile"' in answer.body
    finally:
        taken.forget()


# -- two stages ------------------------------------------------------------------------------

DRAFTS = [
    "endless chunks", "endless chunks of a byte", "endless events", "endless event",
    "endless comments", "500 without end to completions", "length too long", "closed at once",
    "endless head", "400 with wide JSON", "400 with deep JSON", "type text/html", "bare 204",
]  # fmt: skip


@pytest.mark.slow
def test_drafts_without_end(parts: Parts, tmp_path: Path) -> None:
    """The answer comes without a draft."""
    profile = hostile.PROFILE + STAGES.format("balanced", "fast")
    with ready(parts, tmp_path, profile) as taken:
        for number, name in enumerate(DRAFTS):
            hostile.wait_sound(taken.magid, model(number))
            with bounded(taken):
                answer = Answer.of(answer_to(taken.magid, request(CHAT, name, "auto")))
            assert (answer.status, answer.is_whole) == (200, True), name
            assert "x-magi-draft-model" not in answer.fields, name


@pytest.mark.slow
def test_final_answers_without_end(parts: Parts, tmp_path: Path) -> None:
    """Whose usage is counted up, so that magid reads them."""
    profile = hostile.PROFILE + STAGES.format("fast", "balanced")
    failed = {name for name in DRAFTS if HOSTILE[name].ends is Ends.FAILED}
    with ready(parts, tmp_path, profile) as taken:
        for number, name in enumerate(DRAFTS):
            hostile.wait_sound(taken.magid, model(number))
            with bounded(taken):
                raw = answer_to(taken.magid, request(CHAT, name, "auto"))
            answer = Answer.of(raw)
            if name in failed:
                assert answer.status >= 500 or answer.ends_with_error or not answer.is_whole, name
            elif name == "endless event":
                assert answer.ends_with_error, raw[-300:]
            assert len(raw) < 2 * hostile.TAKEN


# -- what magid itself asks ------------------------------------------------------------------


@asynccontextmanager
async def answering(name: str, folder: Path) -> AsyncIterator[HostPort]:
    """A server of which each answer is this one."""
    orders = folder / "orders"
    orders.write_text(f"/x {name}\n/metrics {name}\n")
    with create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_serve_once, args=(listener, orders))
        thread.start()
        yield HostPort("127.0.0.1", listener.getsockname()[1])
        await asyncio.to_thread(thread.join, DEADLINE_S)
        assert not thread.is_alive()


def _serve_once(listener: socket, orders: Path) -> None:
    peer, _ = listener.accept()
    Connection(peer, "m", "k", orders).serve()


@pytest.mark.parametrize("name", HOSTILE)
async def test_what_magid_asks_by_itself(name: str, tmp_path: Path) -> None:
    async with answering(name, tmp_path) as endpoint:
        tracemalloc.start()
        with suppress(ServerUnreachable):
            await get_json(endpoint, "/x", key="k", timeout_s=0.5)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 8 * 2**20


async def test_figures_without_end(tmp_path: Path) -> None:
    async with answering("endless chunks", tmp_path) as endpoint:
        with pytest.raises(ServerUnreachable, match="too long"):
            await get_metrics(endpoint, key="k", timeout_s=DEADLINE_S)


@pytest.mark.parametrize("claimed", [0, -5, 10**4000, True])
def test_what_a_server_may_claim(claimed: int) -> None:
    facts = facts_of({"total_slots": claimed, "default_generation_settings": {"n_ctx": claimed}})
    assert facts is not None
    assert 1 <= facts.slots <= MAX_SLOTS
    assert facts.context is None or 0 < facts.context < MAX_CONTEXT


def test_every_value_is_tried() -> None:
    assert {f"answers {name}" for name in VALUES} <= HOSTILE.keys()
    assert len(HOSTILE) >= 30
