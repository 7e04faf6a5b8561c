"""Balancing over real servers, some of which are killed, frozen or slow."""

import concurrent.futures
import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import fake_llama, fleets, ggufs
from tests.support.fleets import LONG, MEDIUM, chat
from tests.support.rest import Parts
from tests.support.running import Running, frozen

CHAT = "/v1/chat/completions"
SERVERS = 3
pytestmark = pytest.mark.slow


def write(models: Path) -> None:
    ggufs.write_chat_model(
        models / "Medium-F16.gguf", name="Medium", quantization="F16", context=LONG
    )


@contextmanager
def trio(
    parts: Parts, folder: Path, strategy: str, more: str = "", slots: int = 4
) -> Iterator[Running]:
    """Three servers of one model."""
    with fleets.fleet(
        parts,
        folder,
        write,
        profile="name: Test\nenabled_models: ['*']\n"
        f"load_balancing: {{strategy: {strategy}, health_check_interval: 1}}\n",
        defaults=f"{{n_threads: 1, parallel: {slots}, ctx_size: {LONG}, instances: {SERVERS}}}",
        configuration=more,
    ) as running:
        yield running


def ports(magid: Running) -> dict[int, int]:
    """Port -> process id, of the servers that are ready."""
    servers = magid.get("/api/models/servers")["servers"]
    return {s["port"]: s["pid"] for s in servers if s["isReady"]}


def port_of(answer: httpx.Response) -> int:
    return int(answer.headers["x-magi-server"].partition("@")[2])


def many(magid: Running, count: int, at_once: int, body: dict[str, Any]) -> list[httpx.Response]:
    with (
        fleets.client(magid) as client,
        concurrent.futures.ThreadPoolExecutor(at_once) as pool,
    ):
        return list(pool.map(lambda _: client.post(CHAT, json=body), range(count)))


@pytest.mark.parametrize("strategy", ["round_robin", "least_outstanding"])
def test_all_servers_share_the_work(parts: Parts, tmp_path: Path, strategy: str) -> None:
    with trio(parts, tmp_path / "x", strategy) as magid:
        answers = many(magid, 30, 1, chat(MEDIUM))
        assert {answer.status_code for answer in answers} == {200}
        assert set(Counter(map(port_of, answers)).values()) == {10}


def test_a_killed_server_costs_nobody_an_answer(parts: Parts, tmp_path: Path) -> None:
    with trio(parts, tmp_path / "x", "round_robin") as magid:
        before = ports(magid)
        victim = min(before)
        with fleets.client(magid) as client:
            # A stream on another server goes on through all of it.
            held = [client.send(client.build_request(
                "POST", CHAT, json=chat(MEDIUM, stream=True, max_tokens=3_000, ignore_eos=True)
            ), stream=True) for _ in range(SERVERS)]  # fmt: skip
            # So do requests that the victim works on: they begin anew on another one.
            with concurrent.futures.ThreadPoolExecutor(12) as pool:
                body = chat(MEDIUM, max_tokens=300, ignore_eos=True)
                pending = [pool.submit(client.post, CHAT, json=body) for _ in range(24)]
                concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED)
                os.kill(before[victim], signal.SIGKILL)
                answers = [future.result() for future in pending]
            assert {answer.status_code for answer in answers} == {200}
            endings = {port_of(stream): stream.read() for stream in held}
        for port, text in endings.items():
            if port == victim:
                assert b'"error"' in text
                assert b"[DONE]" not in text
            else:
                assert text.endswith(b"data: [DONE]\n\n")
        magid.wait_for("the server again", lambda: len(ports(magid)) == SERVERS)
        again = Counter(map(port_of, many(magid, 30, 1, chat(MEDIUM))))
        assert again.keys() == before.keys()


def test_a_frozen_server_is_left_and_comes_back(parts: Parts, tmp_path: Path) -> None:
    with trio(parts, tmp_path / "x", "round_robin") as magid:
        before = ports(magid)
        victim = min(before)
        with frozen(before[victim]):
            answers = many(magid, 12, 6, chat(MEDIUM))
            assert {answer.status_code for answer in answers} == {200}
            assert victim not in set(map(port_of, answers))
        with fleets.client(magid) as client:
            seen = (port_of(client.post(CHAT, json=chat(MEDIUM))) for _ in range(100_000))
            assert victim in seen


def test_a_slow_server_gets_less(parts: Parts, tmp_path: Path) -> None:
    """One is busy with long answers; requests go where there is less to do."""
    with trio(parts, tmp_path / "x", "least_outstanding") as magid, fleets.client(magid) as client:
        long = chat(MEDIUM, stream=True, max_tokens=30_000, ignore_eos=True)
        stream = client.send(client.build_request("POST", CHAT, json=long), stream=True)
        busy = port_of(stream)
        assert busy not in set(map(port_of, many(magid, 10, 1, chat(MEDIUM))))
        stream.close()


def test_the_queue_is_bounded_and_says_when_to_come_again(parts: Parts, tmp_path: Path) -> None:
    limits = "gateway: {queue_limit: 2, queue_timeout: 1}\n"
    with (
        trio(parts, tmp_path / "x", "round_robin", limits, slots=1) as magid,
        fleets.client(magid) as client,
    ):
        long = chat(MEDIUM, stream=True, max_tokens=32_000, ignore_eos=True)
        held = [client.send(client.build_request("POST", CHAT, json=long), stream=True)
                for _ in range(SERVERS)]  # fmt: skip
        assert {port_of(stream) for stream in held} == ports(magid).keys()
        answers = many(magid, 4, 4, chat(MEDIUM))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(refused) >= 2
        for answer in refused:
            assert int(answer.headers["retry-after"]) > 0
            assert answer.json()["error"]["type"] == "rate_limit_error"
        for stream in held:
            stream.close()
        # As soon as a server has noticed.
        statuses = (client.post(CHAT, json=chat(MEDIUM)).status_code for _ in range(100))
        assert 200 in statuses


def test_a_server_that_lost_its_mind_is_restarted(parts: Parts, tmp_path: Path) -> None:
    """It answers /health and fails its completions: cannot be had of a real one on demand."""
    program = fake_llama.install(tmp_path / "fake", f"fails-once={tmp_path / 'mark'}")
    fake = Parts(program, parts.free_port, parts.free_ports)
    with (
        fleets.fleet(fake, tmp_path / "x", write, defaults="{}") as magid,
        fleets.client(magid) as client,
    ):
        (pid,) = ports(magid).values()
        answers = [client.post(CHAT, json=chat(MEDIUM)).status_code for _ in range(3)]
        assert answers == [500, 500, 500]  # a request may be at fault: magid asks by itself
        magid.wait_for("a new process", lambda: set(ports(magid).values()) not in ({pid}, set()))
        assert client.post(CHAT, json=chat(MEDIUM)).status_code == 200
        log = magid.log.read_text()
        assert "gets no requests: it fails a request of magid's own" in log
        assert log.count("restarting the server") == 1


def test_one_conversation_stays_where_its_prefix_is_cached(parts: Parts, tmp_path: Path) -> None:
    """By llama-server's own count, far more of the prompts is reused than with round robin."""
    shares = {}
    for strategy in ("round_robin", "prefix_affinity"):
        with trio(parts, tmp_path / strategy, strategy) as magid:
            shares[strategy] = cached_share(magid)
    assert shares["prefix_affinity"] > 0.7, shares
    assert shares["prefix_affinity"] > 1.5 * shares["round_robin"], shares


def cached_share(magid: Running) -> float:
    """Of all prompt tokens in eight conversations of six turns, which take turns."""
    talks: list[list[dict[str, str]]] = [
        [{"role": "system", "content": f"You are number {n}. " + "Be kind. " * 20}]
        for n in range(8)
    ]
    cached = total = 0
    with fleets.client(magid) as client:
        for turn in range(6):
            for number, talk in enumerate(talks):
                talk.append({"role": "user", "content": f"Question {turn} of {number}? " * 5})
                answer = client.post(CHAT, json={**chat(MEDIUM), "messages": talk}).json()
                talk.append(
                    {"role": "assistant", "content": answer["choices"][0]["message"]["content"]}
                )
                cached += answer["usage"]["prompt_tokens_details"]["cached_tokens"]
                total += answer["usage"]["prompt_tokens"]
    return cached / total


def test_weights_share_a_tier_between_its_models(parts: Parts, tmp_path: Path) -> None:
    def write_two(models: Path) -> None:
        for name in ("Small", "Other"):
            ggufs.write_chat_model(models / f"{name}-Q4_0.gguf", name=name, quantization="Q4_0")

    profile = (
        "name: Test\nenabled_models: ['*']\n"
        "load_balancing: {strategy: round_robin, weights: {'small*': 3, 'tier:fast': 1}}\n"
    )
    with (
        fleets.fleet(parts, tmp_path / "x", write_two, profile=profile) as magid,
        fleets.client(magid) as client,
    ):
        answers = [client.post(CHAT, json=chat("fast")) for _ in range(40)]
        shares = Counter(answer.headers["x-magi-model"].partition("_")[0] for answer in answers)
        assert shares == {"small": 30, "other": 10}


def test_without_load_balancing_the_first_server_takes_all(parts: Parts, tmp_path: Path) -> None:
    with trio(parts, tmp_path / "x", "round_robin, enabled: false") as magid:
        answers = many(magid, 10, 1, chat(MEDIUM))
        assert set(map(port_of, answers)) == {min(ports(magid))}
