"""Which downloads of the library this boot of the machine has seen, and so what it has to resume.

A boot resumes what a shutdown has stopped, once. Its library may come late: as an empty mount
point, or as a folder that cannot be read. So a boot is not over with the first look. Each folder
of jobs is settled when all of it was read for the first time in this boot; what was stopped in it
before, and was not seen elsewhere, is due until then. The record outlives a restart of magid.
"""

import asyncio
import json
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from magid.files.atomic import replace_file
from magid.library.downloads.reader import FoundJobs
from magid.library.job import JobStatus

NAME: Final = "downloads.json"  # in the state directory


class ResumeRecord:
    """Owns the record. Runs on the event loop; disk access in threads."""

    def __init__(self, path: Path, boot: Callable[[], str]) -> None:
        self._path = path
        self._boot_now = boot
        self._boot: str | None = None  # None: not loaded yet
        self._folders: set[str] = set()  # as `FoundJobs.folder` names them
        self._jobs: set[str] = set()
        self._resumes_nothing = False  # the record is an older magid's, which names no jobs
        self._written: dict[str, Any] = {}

    async def load(self) -> None:
        """Reads the record. Idempotent. One that cannot be used counts as none."""
        if self._boot is not None:
            return
        content = await asyncio.to_thread(_read, self._path)
        self._boot = self._boot_now()
        if content.get("boot") != self._boot:
            return
        try:
            self._folders |= set(map(str, content["folders"]))
            self._jobs |= set(map(str, content["jobs"]))
            self._written = content
        except KeyError:
            self._resumes_nothing = True
        except TypeError:
            return

    def is_due(self, folder: str, status: JobStatus) -> bool:
        """Whether this download, which lies in this folder of jobs, is to be resumed. Pure."""
        is_settled = not folder or folder in self._folders or status.id in self._jobs
        return status.was_stopped and not is_settled and not self._resumes_nothing

    def note(self, job_id: str) -> None:
        """Takes the download for seen: a person has decided about it, or it was resumed."""
        self._jobs.add(job_id)

    def settle(self, found: FoundJobs, refused: Collection[str]) -> bool:
        """Takes all that was found for seen, but for the downloads whose start was refused.

        Returns whether nothing is left; otherwise the same has to be tried again.
        """
        self._jobs |= found.jobs.keys() - refused
        is_all = found.is_whole and not refused
        if is_all and found.folder:
            self._folders.add(found.folder)
        return is_all

    async def save(self) -> None:
        """Writes the record if it has changed. What was not written is tried again."""
        folders, jobs = sorted(self._folders), sorted(self._jobs)
        content = {"boot": self._boot, "folders": folders, "jobs": jobs}
        if self._boot is None or self._resumes_nothing or content == self._written:
            return
        with suppress(OSError):
            text = json.dumps(content).encode()
            await asyncio.to_thread(replace_file, self._path, text, mode=0o640)
            self._written = content


def _read(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, RecursionError):
        content = json.loads(path.read_bytes())
        return content if isinstance(content, dict) else {}
    return {}
