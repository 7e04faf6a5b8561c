"""The program that downloads, as a process of its own, against a hub on loopback."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from magid.library import job
from magid.library.job import JobStatus
from magid.library.source import ModelSource
from tests.support.deadlines import DEADLINE_S
from tests.support.hub import ModelHub

ROOT = Path(__file__).resolve().parents[2]


class Transfers:
    """Runs actions on one library. Pauses are short, and no proxy is in the way."""

    def __init__(self, library: Path, hub: ModelHub) -> None:
        self.library = library
        self.hub = hub
        self.options = {"stall": "100", "give-up": "2", "first-pause": "0.05", "reserve": "0"}
        self.environment = {"PATH": os.environ["PATH"]}
        self.token_path: Path | None = None

    def argv(self, action: str, source: ModelSource) -> list[str]:
        given = {
            "library": str(self.library), "endpoint": self.hub.url,
            "repository": source.repository, "revision": source.revision,
            "tag": source.tag, "file": source.file, **self.options,
        }  # fmt: skip
        if self.token_path:
            given["token-path"] = str(self.token_path)
        words = [word for name, value in given.items() for word in (f"--{name}", value)]
        return [sys.executable, "-m", "magid.library.transfer", action, *words]

    def act(self, action: str, source: ModelSource) -> subprocess.CompletedProcess[str]:
        """Carries the action out, and waits for its end."""
        return subprocess.run(
            self.argv(action, source), cwd=ROOT, env=self.environment, capture_output=True,
            text=True, timeout=DEADLINE_S, check=False,
        )  # fmt: skip

    def run(self, source: ModelSource) -> JobStatus:
        """Downloads; returns the state that it ended in."""
        done = self.act("run", source)
        status = self.status(source)
        assert done.returncode == int(status.state == "failed"), done.stderr
        return status

    @contextmanager
    def running(self, source: ModelSource) -> Iterator[subprocess.Popen[bytes]]:
        """A download under way; killed at the end of the block, if it has not ended."""
        process = subprocess.Popen(
            self.argv("run", source), cwd=ROOT, env=self.environment, stderr=subprocess.DEVNULL
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait(DEADLINE_S)

    def folder(self, source: ModelSource) -> Path:
        return job.jobs_folder(self.library) / source.job_id

    def status(self, source: ModelSource) -> JobStatus:
        status = job.read_status(self.folder(source))
        assert status is not None
        return status

    def wait_for(self, source: ModelSource, state: str, at_least: int = 0) -> JobStatus:
        """Until the job is in this state, and so many bytes are here."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            status = job.read_status(self.folder(source))
            here = sum(part.stat().st_size for part in self.folder(source).glob("*.part"))
            if status and status.state == state and here >= at_least:
                return status
            assert time.monotonic() < deadline, status
            time.sleep(0.01)

    def until(self, source: ModelSource, holds: Callable[[JobStatus], bool]) -> JobStatus:
        """Until this holds for what the job has written of itself."""
        deadline = time.monotonic() + DEADLINE_S
        while not ((status := job.read_status(self.folder(source))) and holds(status)):
            assert time.monotonic() < deadline, status
            time.sleep(0.01)  # another process writes the file; nothing tells of it
        return status

    def stop(self, process: subprocess.Popen[bytes]) -> int:
        process.send_signal(signal.SIGTERM)
        return process.wait(DEADLINE_S)

    @property
    def models(self) -> dict[str, bytes]:
        """Path below the library -> content, of all that is offered."""
        found = (p for p in self.library.rglob("*.gguf") if job.JOBS not in p.parts)
        return {str(p.relative_to(self.library)): p.read_bytes() for p in found}
