"""Debian's Prometheus, unpacked by packaging/test-tools: its linter, and servers for tests."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support.deadlines import DEADLINE_S

ROOT = Path(__file__).resolve().parents[2]
UNPACKED = ROOT / ".cache" / "prometheus" / "usr" / "bin"
POLL_S = 0.1  # it tells of nothing by itself


def program(name: str) -> str:
    """`prometheus` or `promtool`; a test that wants it fails where there is none."""
    found = shutil.which(name, path=str(UNPACKED)) or shutil.which(name)
    assert found, f"there is no {name}: run packaging/test-tools"
    return found


def promtool(*arguments: str, text: str = "") -> tuple[int, str]:
    """Its exit status and all that it said."""
    done = subprocess.run(
        [program("promtool"), *arguments],
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    return done.returncode, done.stdout


class Prometheus:
    """A server that runs."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=DEADLINE_S, trust_env=False)

    def close(self) -> None:
        self._client.close()

    def get(self, path: str, **query: str) -> Any:
        """The `data` of an answer of its API, which must be a success."""
        answer = self._client.get(f"/api/v1/{path}", params=query).json()
        assert answer["status"] == "success", f"{query}: {answer.get('error')}"
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The present value of each series: {"metric": labels, "value": [time, text]}."""
        found: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return found

    def wait_for(self, expression: str, is_so: Callable[[list[dict[str, Any]]], bool]) -> None:
        """Ask until it is so."""
        deadline = time.monotonic() + DEADLINE_S
        while not is_so(found := self.query(expression)):
            assert time.monotonic() < deadline, f"{expression}: {found}; {self.get('targets')}"
            time.sleep(POLL_S)


@contextmanager
def running(folder: Path, port: int, config: dict[str, Any]) -> Iterator[Prometheus]:
    """A server with this configuration, on a loopback port; ended behind the block."""
    path = folder / "prometheus.json"
    path.write_text(json.dumps(config))  # JSON is YAML
    log = folder / "prometheus.log"
    command = [
        program("prometheus"), f"--config.file={path}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=info",
    ]  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder
        )
    server = Prometheus(f"http://127.0.0.1:{port}")
    try:
        _await_ready(process, log)
        yield server
    finally:
        server.close()
        process.terminate()
        process.wait(DEADLINE_S)


def _await_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while "Server is ready to receive web requests" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(POLL_S)


def names_in(expression: str) -> set[str]:
    """The metrics that an expression of ours asks for: those with a prefix, and `up`."""
    plain = re.sub(r'"[^"]*"', "", expression)
    return set(re.findall(r"\b(?:magi_\w+|process_\w+|llamacpp:\w+|up)\b", plain))


def family_of(name: str, histograms: Sequence[str]) -> str:
    """The name in the table for the name of a series."""
    stem = re.sub(r"_(bucket|sum|count)$", "", name)
    return stem if stem in histograms else name
