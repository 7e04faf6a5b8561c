"""The short forms of `make soak`, seeded: what they did is printed, and nothing may have failed."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest

from tests.soak import __main__ as soak
from tests.soak import bodies, crowds, headers, hostile, load, pages
from tests.soak.figures import Figures, growth, slope
from tests.soak.pulse import Beat, Beats, Pulse, control, verdict
from tests.support.deadlines import DEADLINE_S, SET_UP_S
from tests.support.rest import Parts

ROOT = Path(__file__).parents[2]
SEED = 20_260_101

pytestmark = pytest.mark.slow


def run_module(topic: str, *arguments: object, own: Sequence[str] = ()) -> str:
    """The line of figures of a topic in a process of its own; fails with it."""
    done = subprocess.run(
        [*own, sys.executable, "-m", f"tests.soak.{topic}", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SET_UP_S,
        check=False,
    )
    print(done.stdout, end="")  # noqa: T201 - figures
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def expect_none(figures: Figures) -> None:
    print(figures.line())  # noqa: T201 - figures
    assert figures.rounds
    assert figures.failures == []


def test_kill_9_of_writers(tmp_path: Path) -> None:
    line = run_module("kills", 200, SEED, tmp_path)
    acknowledged = re.search(r"acknowledged writes (\d+)", line)
    assert acknowledged
    assert int(acknowledged[1]) >= 60, "the writer was killed before it wrote anything"


def test_system_calls_that_fail(tmp_path: Path) -> None:
    line = run_module("faults", "run", 16, SEED, tmp_path)
    hits = re.search(r"refused or ended (\d+)", line)
    assert hits
    assert int(hits[1]) >= 4, "no fault was injected"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_disks(tmp_path: Path) -> None:
    run_module("disks", SEED, tmp_path, own=["unshare", "--mount", "--propagation", "private"])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take the network away")
def test_no_network_is_needed(parts: Parts, tmp_path: Path) -> None:
    run_module("offline", parts.llama_server, tmp_path, own=["unshare", "--net"])


def test_connections_that_ask_nothing(parts: Parts, tmp_path: Path) -> None:
    expect_none(crowds.run(500, SEED, tmp_path, parts))


def test_streams_while_servers_are_killed(parts: Parts, tmp_path: Path) -> None:
    expect_none(load.run(8, 50, SEED, tmp_path, parts))


def test_servers_that_were_taken_over(parts: Parts, tmp_path: Path) -> None:
    expect_none(hostile.run(SEED, tmp_path, parts, count=32))


def test_bodies_that_would_hold_the_loop(parts: Parts, tmp_path: Path) -> None:
    expect_none(bodies.run(0.05, SEED, tmp_path, parts))


def test_mutated_headers() -> None:
    expect_none(headers.run(50_000, SEED))


def test_every_prefix_of_a_valid_file() -> None:
    for pieces in headers.seeds(headers.Dice(SEED))[::3]:
        expect_none(headers.run_every(headers.prefixes(b"".join(pieces)), "prefixes of a file"))


def test_every_byte_flipped() -> None:
    data = b"".join(headers.seeds(headers.Dice(SEED))[0])
    expect_none(headers.run_every(headers.flips(data), "flipped bytes"))


def test_a_failure_fails(tmp_path: Path) -> None:
    """The judge itself: what a reader must not do is seen."""
    assert headers.problem(b"GGUF", 4) == ""
    without_tensors = b"GGUF\x03" + bytes(19)  # its padding need not be there: nothing is behind it
    assert headers.problem(without_tensors, 24) == ""
    figures = Figures("judge", 0)
    figures.check(False, "as expected")
    assert "1 failures" in figures.line()
    assert "as expected" in figures.line()


def test_every_topic_can_be_run(tmp_path: Path) -> None:
    for topic in soak.TOPICS:
        words = soak.command(topic, 0.001, SEED, str(tmp_path))
        assert (ROOT / "tests" / "soak" / f"{topic}.py").exists()
        assert words[-1] != "FOLDER"


def test_a_pause_of_the_machine_is_not_the_loops() -> None:
    """The judge of the pulse: what was late in the control at the same time does not count."""
    machine, held = Beat(10.0, 0.09, 0.08, 0.001), Beat(20.0, 0.07, 0.07, 0.06)
    seen = Beats([Beat(9.0, 0.001, 0.001, 0.0), machine, held], [])
    beside = Beats([Beat(10.05, 0.07, 0.07, 0.0), Beat(19.9, 0.001, 0.001, 0.0)], [])
    shown = verdict(seen, beside)
    assert shown["later than 50 ms"] == "2, of which 1 are the loop's own"
    assert str(shown["the worst"]).startswith(
        "70 ms late (computed for 60 ms, the control 0 ms late); 80 ms late"
    )
    assert verdict(beside, beside)["later than 50 ms"] == "1, of which 0 are the loop's own"


def test_a_loop_that_is_held_is_seen() -> None:
    """By a pulse, and not by its control."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        held = threading.Event()
        serving = pool.submit(answer_late, listener, held)
        with control() as beside, Pulse(listener.getsockname()[1], os.getpid()) as pulse:
            assert held.wait(DEADLINE_S)
        serving.result(DEADLINE_S)
    assert pulse.beats.failures == beside.beats.failures == []
    assert max(beat.took_s for beat in pulse.beats.beats) > 0.2
    assert len(beside.beats.beats) > 10


def answer_late(listener: socket.socket, held: threading.Event) -> None:
    """One request, the tenth; all others at once, until the client leaves."""
    connection, _ = listener.accept()
    with connection:
        for number in count(1):
            if not connection.recv(65536):
                return
            if number == 10:
                time.sleep(0.2)  # what is measured is this time
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            if number == 20:
                held.set()


def test_growth() -> None:
    noise = [(-1.0) ** number for number in range(60)]
    flat = growth([(at, 50 + off) for at, off in enumerate(noise)])
    rising = growth([(at, 50 + 0.2 * at + off) for at, off in enumerate(noise)])
    assert not flat.exceeds(1)
    assert rising.amount == pytest.approx(0.2 * 59, abs=0.5)
    assert rising.exceeds(8)
    assert not rising.exceeds(12)
    assert not growth([(0, 0), (1, 100)]).exceeds(1)  # too few to tell


def test_pages_are_judged_after_their_warm_up() -> None:
    def failures(minutes: int, heap: Callable[[int], float]) -> list[str]:
        figures = Figures("pages", 0)
        flat = dict.fromkeys(pages.FIGURES, 5.0)
        pages.judge(
            [(60.0 * at, {**flat, "heap": heap(at)}) for at in range(minutes + 1)],
            pages.Most(), figures,
        )  # fmt: skip
        assert "heap" in figures.more
        assert ("growth" in figures.more) == (minutes < 20)
        return figures.failures

    assert failures(60, lambda minute: 40.0 + min(minute, 10)) == []
    assert len(failures(60, lambda minute: 40.0 + minute / 10)) == 1
    assert failures(15, lambda minute: 40.0 + minute) == []


def test_slope() -> None:
    assert slope([(0, 1), (1, 3), (2, 5)]) == pytest.approx(2)
    assert slope([(1, 1)]) == 0
