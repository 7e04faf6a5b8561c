"""Many streams while servers are killed and restarted, profiles switched, folders scanned.

One model is left alone: none of its requests may fail. The other one's servers are killed: its
requests may fail with what says so (a status, or one error as the last event), and none may hang.
Afterwards nothing may have grown. `python -m tests.soak.load SECONDS STREAMS SEED FOLDER`.
"""

import asyncio
import json
import os
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil

from tests.soak.crowds import pid_of, wait_for
from tests.soak.figures import Figures, slope
from tests.soak.parts import daemon
from tests.support import ggufs
from tests.support.fleets import MEDIUM, SMALL, write_small
from tests.support.rest import Parts
from tests.support.running import Running

HANGS_S = 120.0  # no request takes so long
PAUSE_S = (0.3, 1.2)  # between two disturbances
SAMPLE_S = 0.5
MOST_GROWTH = 48 * 2**20  # bytes, of the second half over the first
CALM, TROUBLED = MEDIUM, SMALL
EXCUSED = {"404", "502", "503", "cut"}  # 404: of a profile without it


def write_two(models: Path) -> None:
    write_small(models)
    ggufs.write_chat_model(
        models / "Medium-F16.gguf", name="Medium", quantization="F16", context=32_768
    )


# -- clients ---------------------------------------------------------------------------------------


class Ended(Exception):
    """The connection ended before the answer did."""


class Caller:
    """One client with one connection, opened again when it ended: httpx cannot do 500 of them."""

    def __init__(self, port: int, model: str) -> None:
        self._port = port
        body = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
        data = json.dumps({**body, "max_tokens": 16, "stream": True})
        lines = ["POST /v1/chat/completions HTTP/1.1", "Host: localhost"]
        lines += ["Content-Type: application/json", f"Content-Length: {len(data)}", "", data]
        self._request = "\r\n".join(lines).encode()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self) -> str:
        """How it ended: "ok", its status, "cut", "hangs", or what else went wrong."""
        try:
            async with asyncio.timeout(HANGS_S):
                return await self._ask()
        except TimeoutError:
            outcome = "hangs"
        except (Ended, ConnectionError, asyncio.IncompleteReadError):
            outcome = "cut"
        self.close()
        return outcome

    async def _ask(self) -> str:
        if self._streams is None or self._streams[0].at_eof():
            self.close()
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(self._request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        status = head.split()[1]
        length = re.search(r"content-length: (\d+)", head)
        body = await (reader.readexactly(int(length[1])) if length else chunks(reader))
        if "connection: close" in head:
            self.close()
        if status != "200":
            return status
        return ending(body.decode())

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None


async def chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return body


def ending(events: str) -> str:
    """How a stream ended: "ok", "cut" by one error at its end, or in what other way."""
    lines = events.rstrip().split("\n")
    errors = sum(map(is_error, lines)) if '"error"' in events else 0
    if errors == 1 and is_error(lines[-1]):
        return "cut"
    if errors:
        return f"has {errors} errors"
    return "ok" if lines[-1] == "data: [DONE]" else f"ended with {lines[-1]!r}"


def is_error(line: str) -> bool:
    with suppress(ValueError):
        return "error" in json.loads(line.removeprefix("data: "))
    return False


async def ask_on(caller: Caller, end: float, seen: Counter[str]) -> None:
    while time.monotonic() < end:
        outcome = await caller.ask()
        seen[outcome] += 1
        if outcome != "ok":
            await asyncio.sleep(0.1)  # as clients do that were refused
    caller.close()


async def ask_once(port: int, model: str) -> str:
    caller = Caller(port, model)
    try:
        return await caller.ask()
    finally:
        caller.close()


# -- trouble ---------------------------------------------------------------------------------------


async def kill(client: httpx.AsyncClient) -> None:
    for server in (await client.get("/api/models/servers?all=true")).json()["servers"]:
        if server["modelId"] == TROUBLED and server["pid"]:
            with suppress(ProcessLookupError):
                os.kill(server["pid"], signal.SIGKILL)


async def restart(client: httpx.AsyncClient) -> None:
    done = await client.post(f"/api/models/servers/{TROUBLED}/restart")
    assert done.status_code in (200, 202, 409), done.text


async def rescan(client: httpx.AsyncClient) -> None:
    (await client.post("/api/models/rescan")).raise_for_status()


async def switch(client: httpx.AsyncClient) -> None:
    """To a profile without the troubled model, and back."""
    for name in ("calm", "test"):
        done = await client.post(f"/api/models/profiles/{name}/activate?apply=true")
        done.raise_for_status()
        await asyncio.sleep(0.2)  # some time in force: this is the trouble


TROUBLES = (kill, kill, restart, rescan, switch)


async def trouble(url: str, end: float, dice: random.Random, figures: Figures) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
        while time.monotonic() < end:
            figures.rounds += 1
            await dice.choice(TROUBLES)(client)
            await asyncio.sleep(dice.uniform(*PAUSE_S))


async def sample(process: psutil.Process, end: float, seen: list[tuple[float, float]]) -> None:
    while time.monotonic() < end:
        seen.append((time.monotonic(), process.memory_info().rss))
        await asyncio.sleep(SAMPLE_S)


# -- all together ----------------------------------------------------------------------------------


async def under_way(
    magid: Running, seconds: float, streams: int, dice: random.Random, figures: Figures
) -> list[tuple[float, float]]:
    """The memory of the daemon over time."""
    end = time.monotonic() + seconds
    outcomes = {CALM: Counter[str](), TROUBLED: Counter[str]()}
    samples: list[tuple[float, float]] = []
    async with asyncio.TaskGroup() as tasks:
        for number in range(streams):
            model = (CALM, TROUBLED)[number % 2]
            tasks.create_task(ask_on(Caller(magid.port, model), end, outcomes[model]))
        tasks.create_task(trouble(magid.url, end, dice, figures))
        tasks.create_task(sample(psutil.Process(pid_of(magid)), end, samples))
    for model, excused in ((CALM, set[str]()), (TROUBLED, EXCUSED)):
        wrong = {k: n for k, n in outcomes[model].items() if k not in {"ok", *excused}}
        figures.check(not wrong, f"{model}: {wrong}")
        figures.more[model] = dict(outcomes[model])
    figures.check(outcomes[CALM]["ok"] > 0, f"{CALM}: no answer at all")
    return samples


def left_over(magid: Running) -> Iterator[str]:
    for folder in (magid.state, magid.profiles):
        yield from (str(path) for path in folder.rglob("*tmp*"))


def run(
    seconds: float, streams: int, seed: int, folder: Path, given: Parts | None = None
) -> Figures:
    figures = Figures(f"{streams} streams", seed)
    with daemon(folder / "magid", write_two, given) as magid:
        (magid.profiles / "calm.yaml").write_text(f"name: Calm\nenabled_models: ['{CALM}']\n")
        process = psutil.Process(pid_of(magid))
        before = process.num_fds()
        dice = random.Random(seed)
        samples = asyncio.run(under_way(magid, seconds, streams, dice, figures))
        half = len(samples) // 2
        first, second = (max(rss for _, rss in part) for part in (samples[:half], samples[half:]))
        figures.check(second - first < MOST_GROWTH, f"{second - first} bytes more memory")
        figures.more["memory slope KiB/min"] = round(slope(samples[half:]) * 60 / 1024)
        with figures.recovery():
            recover(magid, figures)
        # The trouble may have left it no time to get ready: now it has.
        outcome = asyncio.run(ask_once(magid.port, TROUBLED))
        figures.check(outcome == "ok", f"{TROUBLED}, after all trouble: {outcome}")
        wait_for(at_rest(process, before), figures, f"{before} descriptors as before")
        figures.check(len(servers_of(process)) == 2, f"processes: {process.children()}")
        figures.check(not list(left_over(magid)), f"files: {list(left_over(magid))}")
        figures.check("Traceback" not in magid.log.read_text(), "a traceback in the log")
    return figures


def servers_of(process: psutil.Process) -> list[psutil.Process]:
    """Its children, but for the reader of headers, which stays a while after each scan."""
    return [
        one for one in process.children() if "magid.discovery.header_workers" not in one.cmdline()
    ]


def recover(magid: Running, figures: Figures) -> None:
    """All as wanted again, by what a person would do."""
    magid.ask("POST", "/api/models/profiles/test/activate?apply=true")
    for model in (CALM, TROUBLED):
        magid.ask("POST", f"/api/models/servers/{model}/start")
        magid.wait_state(model, "ready")


def at_rest(process: psutil.Process, before: int) -> Callable[[], bool]:
    return lambda: process.num_fds() <= before + 4


if __name__ == "__main__":
    done = run(float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
    print(done.line())
    sys.exit(bool(done.failures))
