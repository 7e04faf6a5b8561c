"""A first scan that fails with an unforeseen error, as /readyz shows it."""

import os
import re
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import ggufs
from tests.support.rest import Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow

MESSAGE = 'cannot scan, because of an internal error: RuntimeError("can\'t start new thread")'
USER = ("setpriv", f"--reuid={2_000_000_000 + os.getpid()}", "--clear-groups")
SHOWN = f"{MESSAGE} (tried again by itself)"


@pytest.fixture
def magid(parts: Parts, tmp_path: Path) -> Iterator[Running]:
    """Without its model folder, and as a user of its own: root has no limit of processes."""
    running = parts.daemon(tmp_path / "house")
    running.models.rmdir()
    to_read_all = ("--inh-caps=+dac_override", "--ambient-caps=+dac_override")
    running.through = (*USER, *to_read_all)
    with running, running.client:
        running.wait_for("the first scan", lambda: "model folder" in str(reasons(running)))
        yield running


def test_it_is_shown_and_tried_again(magid: Running) -> None:
    with no_more_threads(magid):
        magid.client.post("/api/models/rescan")
        answer = magid.client.get("/readyz")
        assert answer.status_code == 503
        assert SHOWN in answer.json()["reasons"]
        conditions = magid.get("/api/models/status")["conditions"]
        assert ("StateUnknown", SHOWN) in [(one["code"], one["message"]) for one in conditions]
    assert re.search(f"ERROR .*{re.escape(MESSAGE)}\nTraceback", magid.log.read_text())
    ggufs.write_chat_model(magid.models / "One.gguf")
    magid.wait_for("another scan", lambda: SHOWN not in reasons(magid))
    assert len(magid.get("/api/models/registry")["models"]) == 1


@contextmanager
def no_more_threads(magid: Running) -> Iterator[None]:
    assert magid.process is not None
    limit = [*USER, "prlimit", f"--pid={magid.process.pid}"]
    subprocess.run([*limit, "--nproc=1:"], check=True)
    try:
        yield
    finally:
        soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
        subprocess.run([*limit, f"--nproc={soft}:"], check=True)


def reasons(magid: Running) -> list[str]:
    found: list[str] = magid.client.get("/readyz").json().get("reasons", [])
    return found
