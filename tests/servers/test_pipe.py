"""Pipes of children, read on the daemon's own kind of loop."""

import asyncio
import os
import threading
from pathlib import Path

import uvloop

from magid.servers.processes.pipe import PipeReader
from tests.support.deadlines import DEADLINE_S


def test_a_pipe_that_ends_takes_no_file_from_a_thread() -> None:
    """Uvloop's own transport closes it twice: a file opened in between was lost (EBADF)."""
    lost: list[OSError] = []
    is_over = threading.Event()

    def open_files() -> None:
        while not is_over.is_set():
            try:
                Path("/proc/self/stat").read_bytes()
            except OSError as error:
                lost.append(error)

    async def run() -> None:
        for _ in range(300):
            reading, writing = os.pipe()
            ended = asyncio.Event()
            PipeReader(reading, lambda data: None, ended.set)
            os.close(writing)
            await ended.wait()

    threads = [threading.Thread(target=open_files) for _ in range(4)]
    for thread in threads:
        thread.start()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(run(), DEADLINE_S))
    is_over.set()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert lost == []
