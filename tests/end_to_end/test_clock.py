"""A clock that jumps, as one does that hears late of the time: nothing depends on it."""

import os
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from tests.support import rest
from tests.support.rest import ALPHA, BETA, Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parents[1] / "support" / "jumping_clock.c"
YEAR = 365 * 86_400


class Clock:
    """What the daemon takes for the time; `jump` moves it while it runs."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self._library = folder / "jumping_clock.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", self._library, SOURCE], check=True)
        self.jump(0)

    def jump(self, offset: int) -> None:
        """From the true time on, in seconds."""
        new = self._file.with_suffix(".new")
        new.write_text(str(offset))
        new.rename(self._file)

    @property
    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self._library), "CLOCK_OFFSET": str(self._file)}


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


@pytest.fixture
def magid(parts: Parts, tmp_path: Path, clock: Clock) -> Iterator[Running]:
    running = parts.daemon(tmp_path / "house")
    running.environment |= clock.environment
    rest.write_models(running.models)
    with running, running.client:
        running.wait_ready()
        yield running


def years_off(magid: Running) -> int:
    """By the time that it gives its last scan, so that the jump is known to have reached it."""
    magid.ask("POST", "/api/models/rescan")
    scanned = datetime.fromisoformat(magid.get("/api/models/registry")["lastScan"])
    return round((scanned - datetime.now(UTC)).total_seconds() / YEAR)


def talks(magid: Running) -> bool:
    body = {"model": ALPHA, "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}
    return magid.client.post("/v1/chat/completions", json=body).is_success


def test_jumps_while_it_runs_and_between_starts(magid: Running, clock: Clock) -> None:
    pids = {s["modelId"]: s["pid"] for s in magid.get("/api/models/servers?all=true")["servers"]}
    for years, tier in ((20, "powerful"), (-15, "fast"), (0, "powerful")):
        clock.jump(years * YEAR)
        magid.ask("PUT", f"/api/models/{BETA}/tier", {"tier": tier})
        assert years_off(magid) == years
        assert magid.get(f"/api/models/{BETA}")["effectiveTier"] == tier
        assert talks(magid)
        now = magid.get("/api/models/servers?all=true")["servers"]
        assert {s["modelId"]: s["pid"] for s in now} == pids, "no server was restarted for it"
        assert all(s["uptimeSeconds"] >= 0 for s in now)
    for years in (-15, 20):  # the registry is from the future, then very old
        assert magid.stop() == 0
        clock.jump(years * YEAR)
        magid.start()
        magid.wait_ready()
        assert years_off(magid) == years
        assert magid.get(f"/api/models/{BETA}")["effectiveTier"] == "powerful"
        assert talks(magid)


def test_a_start_is_waited_for_by_another_clock(magid: Running, clock: Clock) -> None:
    """The limit of a start, 60 s, is not over when the wall clock says so."""
    clock.jump(3 * 86_400)
    answer = magid.client.post(f"/api/models/servers/{ALPHA}/restart", params={"wait": 50})
    assert answer.status_code == 200, answer.text


def test_a_crash_loop_is_one_by_another_clock(magid: Running, clock: Clock) -> None:
    """To be ready for ten minutes ends the row of restarts; an hour on the wall does not."""
    pid = magid.servers()[ALPHA]["pid"]
    for hours in (1, 2):
        clock.jump(hours * 3600)
        os.kill(pid, signal.SIGKILL)
        magid.wait_for("another process", partial(is_another, magid, pid))
        pid = magid.servers()[ALPHA]["pid"]
    clock.jump(3 * 3600)
    os.kill(pid, signal.SIGKILL)
    reason = magid.wait_state(ALPHA, "failed")["stateReason"]
    assert reason.endswith("given up after 2 restarts")


def is_another(magid: Running, gone: int) -> bool:
    server = magid.servers()[ALPHA]
    return bool(server["state"] == "ready" and server["pid"] != gone)
