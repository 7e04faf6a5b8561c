"""Starts and stops the processes that download: as units of systemd, or as children of magid."""

import logging
import os
import sys
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final, Protocol

from magid.config.settings import Config
from magid.errors import ServerFailed
from magid.launcher.download_request import DownloadRequest
from magid.launcher.protocol import output_in
from magid.library.source import ModelSource
from magid.library.transfer_command import QUESTIONS, STOP_S, arguments
from magid.servers.processes.child import Child
from magid.servers.processes.short_runs import output_of
from magid.servers.systemd.launcher_client import LauncherClient

log = logging.getLogger(__name__)

_UNIT_S: Final = 60.0  # for the launcher to start or end a unit
_MODULE: Final = "magid.library.transfer"
_PASSED: Final = (
    "PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
)  # fmt: skip


class DownloadStarter(Protocol):
    """Runs the actions of `magi-download`. Each raises MagidError if it cannot be carried out."""

    async def run(self, source: ModelSource) -> None:
        """Starts the download, and does not wait for it. Idempotent while it runs."""

    async def pause(self, source: ModelSource) -> None:
        """Ends the process, and notes that a person has paused it. Idempotent."""

    async def remove(self, source: ModelSource) -> None:
        """Ends the process, and removes the job and its parts. Idempotent."""

    def ask(self, question: str, source: ModelSource) -> Coroutine[Any, Any, str]:
        """Returns what the hub says, as JSON. `question` is one of QUESTIONS."""

    def check(self, sources: Sequence[ModelSource]) -> Coroutine[Any, Any, str]:
        """Returns what the hub has of each, up to MOST_CHECKED, in lines of JSON."""

    async def close(self) -> None:
        """Ends the children. Units run on. Idempotent."""


class UnitDownloads:
    """By magi-launcher: each download is `magi-download@ID.service`."""

    def __init__(self) -> None:
        self._client = LauncherClient()

    async def run(self, source: ModelSource) -> None:
        await self._client.call(DownloadRequest("run", source), _UNIT_S)

    async def pause(self, source: ModelSource) -> None:
        await self._client.call(DownloadRequest("pause", source), _UNIT_S)

    async def remove(self, source: ModelSource) -> None:
        await self._client.call(DownloadRequest("remove", source), _UNIT_S)

    async def ask(self, question: str, source: ModelSource) -> str:
        return await self._output_of(DownloadRequest(question, source))

    async def check(self, sources: Sequence[ModelSource]) -> str:
        return await self._output_of(DownloadRequest("check", sources[0], tuple(sources[1:])))

    async def _output_of(self, request: DownloadRequest) -> str:
        seconds = QUESTIONS[request.action].seconds + _UNIT_S
        return output_in(await self._client.call(request, seconds))

    async def close(self) -> None:
        """Does nothing: units are systemd's."""


class ChildDownloads:
    """As children, which end with magid; the next magid resumes them."""

    def __init__(self, settings: Config) -> None:
        self._settings = settings
        self._children: dict[str, Child] = {}

    async def run(self, source: ModelSource) -> None:
        child = self._children.get(source.job_id)
        if child is not None and not child.has_exited:
            return
        self._children[source.job_id] = await self._spawn("run", source)

    async def pause(self, source: ModelSource) -> None:
        await self._end_and("pause", source)

    async def remove(self, source: ModelSource) -> None:
        await self._end_and("remove", source)

    async def ask(self, question: str, source: ModelSource) -> str:
        argv = self._argv(question, source)
        return await output_of(argv, QUESTIONS[question], environment(os.environ))

    async def check(self, sources: Sequence[ModelSource]) -> str:
        argv = self._argv("check", sources[0], sources[1:])
        return await output_of(argv, QUESTIONS["check"], environment(os.environ))

    async def close(self) -> None:
        children, self._children = self._children, {}
        for child in children.values():
            await child.end(STOP_S)

    async def _end_and(self, action: str, source: ModelSource) -> None:
        if (child := self._children.pop(source.job_id, None)) is not None:
            await child.end(STOP_S)
        done = await self._spawn(action, source)
        ended = await done.wait(STOP_S)
        await done.end(0)
        if not ended or done.returncode:
            raise ServerFailed(
                f"cannot {action} {source.text}: see the log of magid for the reason"
            )

    async def _spawn(self, action: str, source: ModelSource) -> Child:
        try:
            return await Child.spawn(
                self._argv(action, source),
                environment(os.environ),
                lambda line: log.info("download of %s: %s", source.text, line),
            )
        except OSError as error:
            raise ServerFailed(f"cannot {action} {source.text}: {error.strerror}") from error

    def _argv(
        self, action: str, source: ModelSource, more: Sequence[ModelSource] = ()
    ) -> list[str]:
        own = [sys.executable, "-s", "-P", "-m", _MODULE]
        return [*own, *arguments(action, source, self._settings, more)]


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment of a child: proxies and certificates, and where magid is."""
    passed = {name: environ[name] for name in _PASSED if name in environ}
    return passed | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))}
