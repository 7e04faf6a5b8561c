"""A whole magid whose llama-server is on a mount that hangs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounts import Mounted, mounted
from tests.support.rest import ALPHA, Parts, write_models
from tests.support.running import Running

pytestmark = pytest.mark.slow


@pytest.fixture
def magid(parts: Parts, tmp_path: Path) -> Iterator[tuple[Running, Mounted]]:
    """Not started. What the program needs but itself is on a disk of this machine."""
    running = parts.daemon(tmp_path / "house")
    write_models(running.models)
    program = tmp_path / "net" / "llama-server"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {parts.llama_server} "$@"\n')
    program.chmod(0o755)
    running.environment["LLAMA_SERVER_PATH"] = str(program)
    with mounted(program.parent) as mount, running.client:
        yield running, mount
        mount.thaw()


def test_magid_answers_and_says_so(magid: tuple[Running, Mounted]) -> None:
    running, mount = magid
    with running:
        running.wait_ready()
        mount.hang()
        running.wait_for("the condition", lambda: "does not answer" in said(running))
        assert str(mount.folder) in said(running)
        assert running.client.get("/livez").status_code == 200
        assert running.complete(running.servers()[ALPHA]["port"]), "what runs goes on"
        failed = running.client.post(f"/api/models/servers/{ALPHA}/restart?wait=60")
        assert "does not answer" in failed.text
        mount.thaw()
        running.wait_for("the end of the condition", lambda: "does not answer" not in said(running))
        running.ask("POST", f"/api/models/servers/{ALPHA}/start?wait=60")
        assert running.complete(running.servers()[ALPHA]["port"])
        mount.hang()
        assert running.stop() == 0


def said(running: Running) -> str:
    conditions = running.get("/api/models/status")["conditions"]
    return " ".join(one["message"] for one in conditions if one["code"] == "NoProgram")


def test_a_program_that_cannot_even_be_looked_at(parts: Parts, tmp_path: Path) -> None:
    """As one in a folder that may not be entered, which root, who runs tests, never meets."""
    running = parts.daemon(tmp_path / "house")
    write_models(running.models)
    running.environment["LLAMA_SERVER_PATH"] = f"/{'a' * 300}/llama-server"
    with running, running.client:
        reason = running.wait_state(ALPHA, "failed")["stateReason"]
        assert "it is not an executable program" in reason
        answer = running.client.get("/readyz")
        assert answer.status_code == 503
        assert "it is not an executable program" in answer.text
        assert running.get("/api/models/status")["conditions"]
