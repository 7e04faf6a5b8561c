"""Nobody pays for somebody else's request, whatever it does to a server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import fake_llama, fleets, ggufs
from tests.support.fleets import SMALL, chat
from tests.support.rest import Parts
from tests.support.running import Running

CHAT = "/v1/chat/completions"
ROUNDS = 20
ROUNDS_OF_CUTS = 3  # each waits for systemd to say whether the server was stopped
BAD_IN_A_ROW = 5
pytestmark = pytest.mark.slow


def write_two(models: Path) -> None:
    """Of one tier."""
    for name in ("Small", "Other"):
        ggufs.write_chat_model(models / f"{name}-Q4_0.gguf", name=name, quantization="Q4_0")


def processes(magid: Running) -> set[int]:
    servers = magid.get("/api/models/servers")["servers"]
    return {server["pid"] for server in servers if server["isReady"]}


def good_beside_bad(
    magid: Running, bad: tuple[str, dict[str, Any]], model: str, rounds: int = ROUNDS
) -> set[int]:
    """Statuses of one client, while another one sends `bad`; its own are what it returns."""
    before = processes(magid)
    statuses = set()
    with fleets.client(magid) as one, fleets.client(magid) as another:
        for _ in range(rounds):
            for _ in range(BAD_IN_A_ROW):
                statuses.add(another.post(bad[0], json=bad[1]).status_code)
            answer = one.post(CHAT, json=chat(model))
            assert answer.status_code == 200, answer.text
    assert processes(magid) == before
    log = magid.log.read_text()
    assert "gets no requests" not in log
    assert "restarting the server" not in log
    return statuses


@pytest.fixture(scope="module")
def magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two real servers of the tier `fast`."""
    with fleets.fleet(parts, tmp_path_factory.mktemp("x"), write_two) as running:
        yield running


BAD = {
    "a message without a role": (CHAT, {"messages": [{"role": None, "content": "x"}]}),
    "a tool without a function": (CHAT, {**chat(), "tools": [{"type": "function"}]}),
    "no such token": ("/detokenize", {"tokens": [99_999_999]}),
}


@pytest.mark.parametrize("model", [SMALL, "fast", "auto"])
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_requests_that_llama_server_answers_with_500(
    magid: Running, bad: tuple[str, dict[str, Any]], model: str
) -> None:
    path, body = bad
    assert good_beside_bad(magid, (path, {**body, "model": model}), model) == {500}


@pytest.mark.parametrize("how", ["500", "503", "cut", "garbled"])
def test_requests_that_a_server_cannot_stand(parts: Parts, tmp_path: Path, how: str) -> None:
    """Not even the servers of a tier, one after another."""
    program = fake_llama.install(tmp_path / "fake", f"bad={how}")
    fake = Parts(program, parts.free_port, parts.free_ports)
    with fleets.fleet(fake, tmp_path / "x", write_two, defaults="{}") as magid:
        bad = (CHAT, chat("fast", "a bad one"))
        rounds = ROUNDS_OF_CUTS if how == "cut" else ROUNDS
        statuses = good_beside_bad(magid, bad, "fast", rounds)
        assert statuses == ({int(how)} if how.isdecimal() else {502})


def test_a_server_that_fails_magids_own_request_is_replaced(parts: Parts, tmp_path: Path) -> None:
    """It works for nobody: the others of its tier go on, and it comes back as a new process."""
    program = fake_llama.install(tmp_path / "fake", f"fails-once={tmp_path / 'mark'}")
    fake = Parts(program, parts.free_port, parts.free_ports)
    with (
        fleets.fleet(fake, tmp_path / "x", write_two, defaults="{}") as magid,
        fleets.client(magid) as client,
    ):
        before = processes(magid)

        def one_was_replaced() -> bool:
            answers: list[httpx.Response] = [client.post(CHAT, json=chat("fast")) for _ in range(4)]
            assert {answer.status_code for answer in answers} <= {200, 500}
            return len(processes(magid)) == len(before) and processes(magid) != before

        magid.wait_for("a new process", one_was_replaced)
        answers = [client.post(CHAT, json=chat("fast")) for _ in range(10)]
        assert {answer.status_code for answer in answers} == {200}
        assert len(processes(magid) & before) == 1
