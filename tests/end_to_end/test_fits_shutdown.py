"""A llama-server that does not get to its prediction holds nothing up."""

import os
import select
import threading
from pathlib import Path

import httpx
import pytest

from tests.support import rest
from tests.support.deadlines import DEADLINE_S
from tests.support.rest import ALPHA, Parts

pytestmark = pytest.mark.slow

HANGS = """#!/bin/sh
case "$*" in *"--fit on"*) echo $$ >{pid}.new; mv {pid}.new {pid}; exec sleep 1000 ;; esac
exec "{program}" "$@"
"""


def test_magid_ends_during_a_prediction(parts: Parts, tmp_path: Path) -> None:
    program, pid = tmp_path / "llama-server", tmp_path / "pid"
    program.write_text(HANGS.format(program=parts.llama_server, pid=pid))
    program.chmod(0o755)
    running = Parts(program, parts.free_port, parts.free_ports).daemon(tmp_path / "magid")
    rest.write_models(running.models)
    answers: list[httpx.Response | httpx.HTTPError] = []

    def ask() -> None:
        try:
            answers.append(
                httpx.get(f"{running.url}/api/models/{ALPHA}/memory", timeout=DEADLINE_S)
            )
        except httpx.HTTPError as error:
            answers.append(error)

    with running, running.client:
        running.wait_ready()
        asking = threading.Thread(target=ask)
        asking.start()
        running.wait_for("the prediction", pid.exists)
        assert running.get("/livez"), "others are answered meanwhile"
        predicting = os.pidfd_open(int(pid.read_text()))
    asking.join(DEADLINE_S)
    assert len(answers) == 1
    try:
        assert select.select([predicting], [], [], DEADLINE_S)[0], "llama-server has ended too"
    finally:
        os.close(predicting)
