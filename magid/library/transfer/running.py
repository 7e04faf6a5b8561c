"""Carries out one job: waits for its turn, plans, gets each file, and puts all into place at once.

Nothing of a model is offered before all of it is here: the files are renamed into the library when
the last one has been checked, the first shard last.
"""

import errno
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from magid.library import job, origins
from magid.library.job import JobStatus, PlannedFile
from magid.library.selection import ModelVariant, choose, missing_shards, variants
from magid.library.source import ModelSource
from magid.library.transfer.fetching import Changed, Damaged, Digest, Fetcher, Patience
from magid.library.transfer.http_client import HttpClient, HubSilent
from magid.library.transfer.hub import AskedToWait, Hub, Refusal, Revision
from magid.wording.counts import counted

_WRITE_S: Final = 1.0  # between two writes of the status
_TURN_S: Final = 0.5
_RATE_S: Final = 5.0  # over which the rate is averaged
_FIRST_CONTACT_S: Final = 60.0  # a person waits for this: less patience than for the bytes
_TRIES: Final = 2  # for a file whose digest is wrong, as its beginning was here before


class Stopped(BaseException):
    """A signal asks the process to end. No Exception: nothing on the way may swallow it."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the administrator has set. Sizes in bytes, times in seconds; 0: no limit of the rate."""

    library: Path
    endpoint: str
    token: str = ""
    token_path: str = ""
    at_once: int = 2
    reserve: int = 1 << 30
    rate_limit: int = 0
    stall_s: float = 30.0
    patience: Patience = field(default_factory=Patience)

    def hub(self, quiet: Callable[[], None] = lambda: None) -> Hub:
        http = HttpClient(self.endpoint, self.token, self.stall_s, quiet)
        return Hub(http, self.token_path, has_token=bool(self.token))


class RunningJob:
    """One job at work; the caller holds its lock. Also the `TransferWatch` of its transfers."""

    def __init__(self, options: Options, folder: Path, status: JobStatus) -> None:
        self._options = options
        self._folder = folder
        self._status = status
        self._written_at = self._averaged_at = time.monotonic()
        self._averaged_done = 0
        self._received = 0
        self._sleep: Callable[[float], None] = time.sleep

    # -- the whole of it ---------------------------------------------------------------------

    def run(self) -> int:
        """Returns the exit status: 0 if the model is here, 1 if that has failed for good."""
        status = self._status
        try:
            slot = self._wait_for_turn()
            try:
                self._carry_out()
            finally:
                os.close(slot)
        except Stopped:
            status.was_stopped = True
            self._end("paused", "", "stopped by a signal: `magictl pull` or a reboot continues it")
            return 0
        except Refusal as error:
            return self._fail(error.code, str(error))
        except HubSilent as error:
            return self._fail("HubUnreachable", f"cannot reach the hub: {error}; continue it later")
        except Damaged as error:
            return self._fail("DigestMismatch", f"cannot use what came: {error}; nothing is kept")
        except OSError as error:
            return self._fail(*_explained(error, self._options.library))
        status.notes = [n for n in status.notes if n]
        self._end("done", "", "")
        return 0

    def _fail(self, code: str, reason: str) -> int:
        self._end("failed", code, reason)
        return 1

    def _carry_out(self) -> None:
        self._turn_to("downloading")
        revision = self._contact()
        variant = chosen(revision, self._status.source)
        self._plan(revision, variant)
        while True:
            try:
                self._fetch_all(revision.commit)
                break
            except Changed as error:
                self.note(f"starts over: {error}")
                revision = self._contact()
                self._plan(revision, chosen(revision, self._status.source))
        self._install()

    def _wait_for_turn(self) -> int:
        """Returns the descriptor of a slot; the oldest job that waits gets it."""
        self._turn_to("queued")
        self._write(durably=True)
        jobs = self._folder.parent
        while True:
            if not self._is_behind(jobs):
                for number in range(self._options.at_once):
                    if (slot := job.take(jobs / f"slot.{number}")) is not None:
                        return slot
            self._sleep(_TURN_S)

    def _is_behind(self, jobs: Path) -> bool:
        own = (self._status.created_at, self._status.id)
        for folder in jobs.iterdir():
            other = job.read_status(folder) if folder != self._folder else None
            if (
                other is not None
                and other.state == "queued"
                and (other.created_at, other.id) < own
                and job.is_held(folder / job.LOCK)
            ):
                return True
        return False

    # -- planning ----------------------------------------------------------------------------

    def _contact(self) -> Revision:
        """Asks the hub what there is. Patient if the job had been planned before."""
        patience = self._options.patience
        longest = patience.give_up_s if self._status.files else _FIRST_CONTACT_S
        pause, since = patience.first_pause_s, time.monotonic()
        while True:
            try:
                return self._options.hub().revision(self._status.source)
            except HubSilent as error:
                if time.monotonic() - since + pause > min(longest, patience.give_up_s):
                    raise
                seconds = max(pause, error.seconds if isinstance(error, AskedToWait) else 0.0)
                self.waiting(f"{error}; next try in {seconds:.0f} s")
                self._sleep(seconds)
                pause = min(2 * pause, _FIRST_CONTACT_S)

    def _plan(self, revision: Revision, variant: ModelVariant) -> None:
        """Notes which files are to come; of an earlier plan, keeps those that are the same."""
        status, before = self._status, {f.path: f for f in self._status.files}
        files = [PlannedFile(f.path, f.size, f.oid) for f in (*variant.files, *variant.companions)]
        if before and status.commit != revision.commit:
            same = sum(
                before.get(f.path) is not None and before[f.path].oid == f.oid for f in files
            )
            self.note(
                "the repository has changed meanwhile: of "
                f"{counted(len(files), 'file')}, {len(files) - same} start over"
            )
        for file in files:
            old = before.pop(file.path, None)
            if old is None or old.oid != file.oid:
                self._part(file).unlink(missing_ok=True)
            else:
                file.done, file.etag, file.is_whole = old.done, old.etag, old.is_whole
        for gone in before.values():
            self._part(gone).unlink(missing_ok=True)
        status.commit, status.licence, status.files = revision.commit, revision.licence, files
        self._check_space(sum(f.size - f.done for f in files if not self._is_here(f)))
        self._write(durably=True)

    def _check_space(self, needed: int) -> None:
        """Raises Refusal if there is not room for so many bytes, and the reserve."""
        found = os.statvfs(self._folder)
        free = found.f_bavail * found.f_frsize
        if free - needed < self._options.reserve:
            raise Refusal(
                "DiskFull",
                f"cannot go on: {_mb(needed)} are still to come, and {self._options.library} has "
                f"{_mb(free)} free, of which {_mb(self._options.reserve)} are reserved; make room, "
                "then continue",
            )

    # -- files -------------------------------------------------------------------------------

    def _fetch_all(self, commit: str) -> None:
        hub, source = self._options.hub(self._quiet), self._status.source

        fetcher = Fetcher(
            lambda path, asked: hub.open(source, commit, path, asked),
            self,
            self._options.patience,
            self._options.rate_limit,
            self._sleep,
        )
        for file in self._status.files:
            if self._is_here(file):
                file.done, file.is_whole = file.size, True
            elif not (file.is_whole and self._size_of_part(file) == file.size):
                self._fetch(fetcher, file)

    def _fetch(self, fetcher: Fetcher, file: PlannedFile) -> None:
        for left in reversed(range(_TRIES)):
            was_begun = self._size_of_part(file) > 0
            try:
                fetcher.fetch(file, self._part(file))
            except Damaged as error:
                if not left or not was_begun:
                    raise Damaged(f"{file.path}: {error}") from None
                self.note(f"{file.path} starts over: {error}")
                continue
            self._write(durably=True)
            return

    def _is_here(self, file: PlannedFile) -> bool:
        """Whether the library has this very file, from an earlier download, or by its digest."""
        path = self._target(file)
        try:
            if path.stat().st_size != file.size or path.is_symlink():
                return False
        except OSError:
            return False
        known = origins.read(path)
        if known is not None and known.oid:
            return known.oid == file.oid
        self._turn_to("verifying")
        return _has_digest(path, file)

    def _install(self) -> None:
        """Puts all files into place, the first one last; then the job's parts are gone."""
        self._turn_to("verifying")
        status = self._status
        for file in reversed(status.files):
            target, part = self._target(file), self._part(file)
            target.parent.mkdir(parents=True, exist_ok=True)
            if part.exists():
                part.chmod(0o644)
                part.replace(target)
            origins.write(
                target,
                origins.Origin(
                    self._options.endpoint, status.source.repository, status.source.revision,
                    status.commit, status.licence, file.path, file.oid, time.time(),
                ),
            )  # fmt: skip
        for folder in {self._target(file).parent for file in status.files}:
            job.sync_folder(folder)
        job.sync_folder(self._options.library)

    def _target(self, file: PlannedFile) -> Path:
        name = file.path.replace(" ", "_")  # systemd cannot mount a path with a space
        return self._options.library / self._status.source.repository / name

    def _part(self, file: PlannedFile) -> Path:
        return self._folder / f"{file.oid}.part"

    def _size_of_part(self, file: PlannedFile) -> int:
        try:
            return self._part(file).stat().st_size
        except FileNotFoundError:
            return 0

    # -- what is heard of transfers ----------------------------------------------------------

    def moved(self) -> None:
        now = time.monotonic()
        if now - self._written_at < _WRITE_S:
            return
        if self._status.state == "downloading":
            self._average(now)
            self._status.reason = ""
            self._check_space(0)
        self._write()

    def _quiet(self) -> None:
        """Nothing has come for a second: all that is here is shown, and a rate that falls."""
        now = time.monotonic()
        if now - self._written_at >= _WRITE_S:
            self._average(now)
            with suppress(OSError):  # of a full disk, which the next byte meets
                self._write()

    def waiting(self, reason: str) -> None:
        self._status.reason, self._status.rate = reason, 0.0
        self._write()

    def note(self, text: str) -> None:
        self._status.notes = [*self._status.notes[-19:], text]
        self._write()

    def verifying(self) -> None:
        self._turn_to("verifying")

    def receiving(self) -> None:
        self._turn_to("downloading")

    def _average(self, now: float) -> None:
        elapsed = max(now - self._averaged_at, 0.001)
        latest = max(0, self._status.done - self._averaged_done) / elapsed
        weight = min(1.0, elapsed / _RATE_S)
        self._status.rate += weight * (latest - self._status.rate)
        self._averaged_at, self._averaged_done = now, self._status.done

    def _turn_to(self, state: str) -> None:
        if self._status.state != state or self._status.code:
            self._status.state, self._status.code, self._status.reason = state, "", ""
            self._averaged_at, self._averaged_done = time.monotonic(), self._status.done
            self._write()

    def _end(self, state: str, code: str, reason: str) -> None:
        status = self._status
        status.state, status.code, status.reason, status.rate = state, code, reason, 0.0
        with suppress(OSError):  # a full disk: the state is seen by the lock, the reason is logged
            self._write(durably=True)

    def _write(self, *, durably: bool = False) -> None:
        self._written_at = time.monotonic()
        self._status.updated_at = time.time()
        job.write_status(self._folder, self._status, durably=durably)


def chosen(revision: Revision, source: ModelSource) -> ModelVariant:
    """Returns the variant that the source means. Raises Refusal."""
    variant = choose(revision.files, source)
    if variant is None:
        names = ", ".join(dict.fromkeys(v.name for v in variants(revision.files)))
        what = f"no file {source.file}" if source.file else f"no {source.tag or 'GGUF model'}"
        raise Refusal(
            "VariantNotFound",
            f"cannot pull {source.text}: the repository has {what}; it has {names or 'no GGUF'}",
        )
    if lacking := missing_shards(variant):
        raise Refusal(
            "VariantNotFound",
            f"cannot pull {source.text}: the repository lacks {counted(lacking, 'shard')} of it",
        )
    return variant


def _has_digest(path: Path, file: PlannedFile) -> bool:
    digest = Digest(file.oid, file.size)
    with path.open("rb", buffering=0) as content:
        for piece in _pieces(content.read):
            digest.update(piece)
    try:
        digest.check()
    except Damaged:
        return False
    return True


def _pieces(read: Callable[[int], bytes]) -> Iterable[bytes]:
    while piece := read(1 << 20):
        yield piece


def _explained(error: OSError, library: Path) -> tuple[str, str]:
    """Returns code and reason of a failure of this machine's."""
    why = f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "DiskFull", f"cannot go on: {library} has no room left; make room, then continue"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            "CannotWrite",
            f"cannot write to {library}: {why}; it has to be writable for the group magi-models: "
            f"chgrp magi-models {library} && chmod 2775 {library}",
        )
    return "CannotWrite", f"cannot go on: {why}"


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
