"""The daemon's one owner of downloads: starts them, follows them, and tells of each change.

How far a download is stands in its folder, written by its process. What is kept here is only what
was seen last, to tell what has changed since, and when a process was asked to begin.
"""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from magid.config.settings import Config
from magid.errors import Conflict, DownloadNotFound, HubFailed, MagidError, NotReady
from magid.library import source as sources
from magid.library import updates
from magid.library.downloads import resuming
from magid.library.downloads.reader import FoundJobs, LibraryReader
from magid.library.downloads.resuming import ResumeRecord
from magid.library.downloads.starting import DownloadStarter
from magid.library.job import ACTIVE, JobStatus
from magid.library.origins import Origin
from magid.library.source import ModelSource
from magid.library.transfer_command import library_of
from magid.library.turns import Turns
from magid.log.events import Event, about

log = logging.getLogger(__name__)

_LOOK_S: Final = 1.0  # while something is under way
_BEGIN_S: Final = 30.0  # for a process that was started to say so
_MOST_DOUBLED: Final = 5  # of that time, as often as something is left to resume
_MOST_RESTARTS: Final = 5  # of one download by magid, without a byte in between

Listener = Callable[[JobStatus], None]
RemovalListener = Callable[[str], None]


class Downloads:
    """All downloads of one library. Runs on the event loop; the disk is another process's."""

    def __init__(
        self,
        settings: Config,
        starter: DownloadStarter,
        rescan: Callable[[], Awaitable[object]],
        boot: Callable[[], str],
    ) -> None:
        self._settings = settings
        self._starter = starter
        self._rescan = rescan
        self._record = ResumeRecord(settings.state_dir / resuming.NAME, boot)
        self._reader = LibraryReader(settings.library_path)
        self._found = FoundJobs()  # by the last look
        self._seen: dict[str, JobStatus] = {}
        self._begun: dict[str, tuple[JobStatus, float]] = {}  # asked for, and when
        self._absent: set[str] = set()  # of these, those whose process was not there at the look
        self._restarts: dict[str, tuple[int, int]] = {}  # bytes there were, restarts since
        self._refusals: dict[str, str] = {}  # why a download could not be resumed, as was logged
        self._listeners: list[tuple[Listener, RemovalListener]] = []
        self._asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._rescans: dict[str, asyncio.Task[None]] = {}  # by the download that has ended
        self._lists = Turns()  # each keeps one of the few connections of the launcher

    @property
    def seen(self) -> Mapping[str, JobStatus]:
        """What was seen last, by id. Reads nothing."""
        return self._seen

    def open(self) -> None:
        """Begins to follow downloads, and resumes what a reboot has interrupted."""
        if self._settings.library_root is not None:
            self._task = asyncio.create_task(self._follow())

    def look_again(self) -> None:
        """Has the library looked at soon; called after each scan: its disk may be back."""
        self._asked.set()

    async def close(self) -> None:
        """Ends children; units run on. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        rescans = list(self._rescans.values())
        for rescan in rescans:
            rescan.cancel()
        await asyncio.gather(*rescans, return_exceptions=True)
        await self._lists.close()
        await self._starter.close()
        await self._reader.close()

    def subscribe(
        self, changed: Listener, removed: RemovalListener = lambda _job_id: None
    ) -> Callable[[], None]:
        """Calls `changed` with downloads that have changed, `removed` with ids that are gone.

        The result unsubscribes.
        """
        both = (changed, removed)
        self._listeners.append(both)
        return lambda: self._listeners.remove(both)

    # -- what callers ask for ----------------------------------------------------------------

    async def pull(self, source: ModelSource) -> JobStatus:
        """Starts the download, or continues it. Raises NotAllowed, and what a start raises."""
        library_of(self._settings)
        began_at = time.time()
        await self._starter.run(source)
        self._record.note(source.job_id)
        before = self._seen.get(source.job_id)
        begun = JobStatus(source.job_id, source, time.time())
        if before is not None and before.state != "done":
            begun = replace(before, state="queued", code="", reason="")
        self._begun[source.job_id] = (begun, began_at)
        self._note(begun)
        self._asked.set()
        return begun

    async def listed(self) -> list[JobStatus]:
        """Returns all downloads, the newest first. Raises NotReady."""
        await self._look()
        self._asked.set()  # what is under way without magid's knowledge is followed from here on
        return sorted(self._seen.values(), key=lambda status: -status.created_at)

    async def one(self, job_id: str) -> JobStatus:
        """Returns a download. Raises DownloadNotFound, NotReady."""
        await self._look()
        status = self._seen.get(job_id)
        if status is None:
            raise DownloadNotFound(
                f"cannot find download {job_id[:80]!r}; `magictl download ls` shows all of them",
                downloadId=job_id[:80],
            )
        return status

    async def pause(self, job_id: str) -> JobStatus:
        """Ends the process and keeps what is here. Raises DownloadNotFound, Conflict."""
        status = await self.one(job_id)
        if status.state in ("done", "failed"):
            raise Conflict(f"cannot pause {status.source.text}: it is {status.state} already")
        self._record.note(job_id)
        self._begun.pop(job_id, None)
        await self._starter.pause(status.source)
        return await self.one(job_id)

    async def resume(self, job_id: str) -> JobStatus:
        """Continues a download that is paused or has failed. Raises DownloadNotFound, Conflict."""
        status = await self.one(job_id)
        if status.state == "done":
            raise Conflict(f"cannot resume {status.source.text}: it is done; pull it again")
        return await self.pull(status.source)

    async def remove(self, job_id: str) -> JobStatus:
        """Ends the process; removes the job and what has come. A model that is done stays."""
        status = await self.one(job_id)
        self._record.note(job_id)
        self._begun.pop(job_id, None)
        await self._starter.remove(status.source)
        self._drop(job_id)
        self._asked.set()  # a look that was under way may have taken it up again
        return status

    async def ask(self, question: str, source: ModelSource) -> dict[str, Any]:
        """Returns what the hub answers: to `list`, what models the repository has.

        Raises HubFailed, NotAllowed, ServerFailed.
        """
        library_of(self._settings)
        text = (await self._lists.take(lambda: self._starter.ask(question, source))).strip()
        try:
            answer = json.loads(text.rpartition("\n")[2])
        except ValueError:
            raise HubFailed(
                f"cannot {question} {source.repository}: {text[:200] or 'no answer'}",
                cause="NoAnswer",
            ) from None
        if "error" in answer:
            raise HubFailed(str(answer["message"]), cause=str(answer["error"]))
        return dict(answer)

    async def check(self, sources: Sequence[ModelSource]) -> list[Mapping[str, Any]]:
        """Returns what the hub has of each, up to MOST_CHECKED; see `updates.answers_in`.

        Raises NotAllowed, ServerFailed.
        """
        library_of(self._settings)
        text = await self._lists.take(lambda: self._starter.check(sources))
        return updates.answers_in(text, len(sources))

    async def origin(self, path: str) -> Mapping[str, Any] | None:
        """Returns where this file of the library came from; None if it is not known."""
        with suppress(NotReady):
            found = (await self.origins([path])).get(path)
            return None if found is None else asdict(found)
        return None

    async def origins(self, paths: Iterable[str]) -> dict[str, Origin]:
        """Returns where these files of the library came from, as far as known. Raises NotReady."""
        library = self._settings.library_root
        if library is None:
            return {}
        return await self._reader.origins([p for p in paths if Path(p).is_relative_to(library)])

    # -- following ---------------------------------------------------------------------------

    async def _follow(self) -> None:
        tries = 0
        while True:
            tries = 0 if await self._turn() else tries + 1
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s(tries)):
                    await self._asked.wait()
            self._asked.clear()

    async def _turn(self) -> bool:
        """Looks, and starts what is to be started. Returns whether nothing is left of that."""
        try:
            await self._record.load()
            await self._look()
            is_all = await self._resume_stopped()
            await self._record.save()
            await self._start_absent()
            await self._restart_interrupted()
        except MagidError as error:
            log.debug("cannot look at downloads: %s", error.message)
            return False
        except Exception:  # the following goes on whatever one look meets
            log.exception("looking at downloads failed with an internal error")
            return True
        return is_all

    def _pause_s(self, tries: int) -> float | None:
        """Returns how long to wait for news, in seconds; None: until there are some.

        A scan tells that a disk was mounted. Nothing tells that another error has passed.
        """
        if self._is_busy:
            return _LOOK_S
        return _LOOK_S * 2 ** min(tries - 1, _MOST_DOUBLED) if tries else None

    @property
    def _is_busy(self) -> bool:
        return any(status.state in ACTIVE for status in self._seen.values())

    async def _look(self) -> None:
        """Reads all downloads, and tells of those that have changed."""
        if self._settings.library_root is None:
            return
        self._found = await self._reader.jobs()
        found = self._found.jobs
        self._absent.clear()
        for status, is_alive in found.values():
            self._note(self._offered(self._shown(status, is_alive=is_alive)))
        for job_id in self._seen.keys() - found.keys():
            if (late := self._shown_of_none(job_id)) is None:
                self._drop(job_id)
            else:
                self._note(late)
        if not self._is_busy:
            await self._reader.rest()

    def _shown(self, status: JobStatus, *, is_alive: bool) -> JobStatus:
        """Returns the status as it is to be shown: a process that was started may not be up yet."""
        begun, at = self._begun.get(status.id, (None, 0.0))
        if begun is not None and status.updated_at < at:
            if not is_alive and time.time() - at > _BEGIN_S:
                return replace(status, state="failed", code="NotStarted", reason=_NOT_STARTED)
            if not is_alive:
                self._absent.add(status.id)
            return begun
        self._begun.pop(status.id, None)
        if is_alive or status.state not in ACTIVE:
            return status
        return replace(status, state="queued", rate=0.0, reason=_INTERRUPTED)

    def _shown_of_none(self, job_id: str) -> JobStatus | None:
        """Returns what to show of a download that has no folder; None if it is gone."""
        begun, at = self._begun.get(job_id, (None, 0.0))
        if begun is None or time.time() - at < _BEGIN_S:
            return begun
        return replace(begun, state="failed", code="NotStarted", reason=_NOT_STARTED)

    def _note(self, status: JobStatus) -> None:
        before = self._seen.get(status.id)
        self._seen[status.id] = status
        if before is not None and _facts(before) == _facts(status):
            return
        for changed, _ in tuple(self._listeners):
            changed(status)
        if before is None or before.state != status.state:
            _log(status, is_new=before is None)

    def _drop(self, job_id: str) -> None:
        if self._seen.pop(job_id, None) is None:
            return
        for _, removed in tuple(self._listeners):
            removed(job_id)

    def _offered(self, status: JobStatus) -> JobStatus:
        """Returns the status to show; of one that is done, only when its model can be used.

        A client that waits for the end asks for the model next.
        """
        before = self._seen.get(status.id)
        if status.state != "done" or before is None or before.state == "done":
            return status
        if status.id not in self._rescans:
            self._rescans[status.id] = asyncio.create_task(self._take_up(status))
        return replace(status, state="verifying")

    async def _take_up(self, status: JobStatus) -> None:
        """Reads the model folders, and tells that the download is done."""
        try:
            await self._rescan()
        except MagidError as error:
            log.error("%s", error.message)
        except Exception:  # any: the files are there
            log.exception("reading the model folders failed with an internal error")
        finally:
            del self._rescans[status.id]
        seen = self._seen.get(status.id)
        if seen is not None and seen.state == "verifying":
            self._note(status)

    # -- resuming ----------------------------------------------------------------------------

    async def _resume_stopped(self) -> bool:
        """Resumes what a shutdown has stopped. Returns whether nothing is left of that."""
        found, refused = self._found, set()
        for status in tuple(self._seen.values()):
            # Asked before each start: a person may have decided during the one before.
            if self._record.is_due(found.folder, status) and not await self._run(status):
                refused.add(status.id)
        return self._record.settle(found, refused)

    async def _start_absent(self) -> None:
        """Starts those again that were asked for while an earlier process was ending.

        It counted as the one that was asked for. Does nothing to a process that is just starting.
        """
        for job_id in self._absent & self._begun.keys():
            await self._starter.run(self._begun[job_id][0].source)

    async def _restart_interrupted(self) -> None:
        """Starts those whose process has ended without being told to. Not forever."""
        lost = [s for s in self._seen.values() if s.state == "queued" and s.reason == _INTERRUPTED]
        for status in lost:
            done, tries = self._restarts.get(status.id, (-1, 0))
            tries = tries + 1 if done == status.done else 1
            if tries <= _MOST_RESTARTS:
                self._restarts[status.id] = (status.done, tries)
                await self._run(status)

    async def _run(self, status: JobStatus) -> bool:
        """Continues the download by itself. Returns whether that has begun; logs why not, once."""
        try:
            await self.pull(status.source)
        except MagidError as error:
            if self._refusals.get(status.id) != error.message:
                fields = about(Event.DOWNLOAD_FAILED, error=error.code)
                log.error("%s", error.message, extra=fields)
            self._refusals[status.id] = error.message
            return False
        self._refusals.pop(status.id, None)
        return True


_INTERRUPTED: Final = "its process has ended and is started again"
_NOT_STARTED: Final = "its process did not begin; see `journalctl -u 'magi-download@*'`"


def pulled(text: str, *, draft: bool) -> ModelSource:
    """Returns the source in a request. Raises InvalidInput."""
    return sources.parse(text, draft=draft)


def _facts(status: JobStatus) -> JobStatus:
    """Returns what a listener is told of: all but the time of the last look."""
    return replace(status, updated_at=0.0)


def _log(status: JobStatus, *, is_new: bool) -> None:
    text = status.source.text
    match status.state:
        case "done" if not is_new:
            log.info("%s is downloaded", text, extra=about(Event.DOWNLOAD_DONE))
        case "failed" if not is_new:
            fields = about(Event.DOWNLOAD_FAILED, error=status.code)
            log.error("the download of %s failed: %s", text, status.reason, extra=fields)
        case "downloading":
            log.info("%s is being downloaded", text, extra=about(Event.DOWNLOAD_STARTED))
        case "paused" if not is_new:
            log.info("the download of %s is paused", text, extra=about(Event.DOWNLOAD_PAUSED))
