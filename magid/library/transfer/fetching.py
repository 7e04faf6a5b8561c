"""Gets one file into its part: hashed while it is written, resumed, retried, at a bounded rate.

Reading and writing are one thread's, hashing and syncing another's: a processor hashes a gigabyte
in a second or two, and a disk is slower than that. What was written is dropped from the page cache,
which would otherwise lose the pages of models that run.
"""

import hashlib
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from magid.library.job import PlannedFile
from magid.library.transfer.http_client import HubReply, HubSilent, explained
from magid.library.transfer.hub import AskedToWait

CHUNK: Final = 1 << 20
_BUFFERS: Final = 8
_SYNC_BYTES: Final = 32 << 20
_SHA256_DIGITS: Final = 64
_LONGEST_PAUSE_S: Final = 60.0


class Changed(Exception):
    """The file at the source is another one than was planned."""


class Damaged(Exception):
    """The whole file is here and its digest is not the one that the hub names."""


class TransferWatch(Protocol):
    """Is told of progress; its methods may raise to end the transfer."""

    def moved(self) -> None:
        """Bytes have come: `PlannedFile.done` says how many there are."""

    def waiting(self, reason: str) -> None:
        """Nothing comes for a while, and why."""

    def note(self, text: str) -> None:
        """Something happened that a person should know."""

    def verifying(self) -> None:
        """What is here is read and hashed."""

    def receiving(self) -> None:
        """Bytes of the hub are waited for."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: the first pause before a retry, and the time without a byte that is too long."""

    first_pause_s: float = 1.0
    give_up_s: float = 3600.0


class Digest:
    """The digest that an object id is: SHA-256 of the content, or git's SHA-1 of a blob."""

    def __init__(self, oid: str, size: int) -> None:
        self._oid = oid
        if len(oid) == _SHA256_DIGITS:
            self._hash = hashlib.sha256()
        else:
            self._hash = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)

    def update(self, data: memoryview | bytes) -> None:
        self._hash.update(data)

    def check(self) -> None:
        """Raises Damaged."""
        if self._hash.hexdigest() != self._oid:
            raise Damaged(f"its digest is {self._hash.hexdigest()}, and the hub has {self._oid}")


class _Hasher:
    """Hashes and syncs what was written, in a thread of its own, with a bounded backlog."""

    def __init__(self, digest: Digest, descriptor: int) -> None:
        self._digest, self._descriptor = digest, descriptor
        # A signal may end what this thread does at any instruction. In a Queue, written in Python,
        # its lock could stay taken, and `finish` would wait for ever.
        self._full: queue.SimpleQueue[tuple[bytearray, int] | None] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
        for _ in range(_BUFFERS):
            self._free.put(bytearray(CHUNK))
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def buffer(self) -> bytearray:
        """Returns a buffer to fill. Blocks. Raises the OSError of a failed sync."""
        if self._error is not None:
            raise self._error
        return self._free.get()

    def add(self, buffer: bytearray, count: int) -> None:
        self._full.put((buffer, count))

    def finish(self) -> None:
        """Waits until everything is hashed and durable. Raises OSError."""
        self._full.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error
        self._sync()

    def _work(self) -> None:
        unsynced = 0
        while (item := self._full.get()) is not None:
            buffer, count = item
            self._digest.update(memoryview(buffer)[:count])
            unsynced += count
            if unsynced >= _SYNC_BYTES and self._error is None:
                unsynced = 0
                try:
                    self._sync()
                except OSError as error:
                    self._error = error
            self._free.put(buffer)

    def _sync(self) -> None:
        os.fdatasync(self._descriptor)
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


class Fetcher:
    """Gets files of one job. `open_at` asks the hub for a path, with headers."""

    def __init__(
        self,
        open_at: Callable[[str, dict[str, str]], HubReply],
        watch: TransferWatch,
        patience: Patience,
        rate_limit: int = 0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._open = open_at
        self._watch = watch
        self._patience = patience
        self._sleep = sleep
        self._bytes_per_s = rate_limit

    def fetch(self, file: PlannedFile, part: Path) -> None:
        """Makes the part whole and durable, with the right digest. Blocks.

        Raises Refusal and OSError, HubSilent once its patience is over, Changed, and Damaged,
        after which the part is gone.
        """
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._fetch(file, descriptor)
        except Damaged:
            part.unlink(missing_ok=True)
            file.done, file.etag = 0, ""
            raise
        finally:
            os.close(descriptor)

    def _fetch(self, file: PlannedFile, descriptor: int) -> None:
        digest = self._digest_of_part(file, descriptor)
        self._watch.receiving()
        pause, silent_since = self._patience.first_pause_s, time.monotonic()
        while file.done < file.size:
            before = file.done
            try:
                digest = self._stream(file, descriptor, digest)
                continue
            except HubSilent as error:
                if file.done != before:
                    pause, silent_since = self._patience.first_pause_s, time.monotonic()
                elif time.monotonic() - silent_since > self._patience.give_up_s:
                    raise
                seconds = max(pause, error.seconds if isinstance(error, AskedToWait) else 0.0)
                self._watch.waiting(f"{error}; next try in {seconds:.0f} s")
                self._sleep(seconds)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
        digest.check()
        file.is_whole = True

    def _digest_of_part(self, file: PlannedFile, descriptor: int) -> Digest:
        """Returns the digest of what is here, which it reads; more than the file's size goes."""
        here = os.fstat(descriptor).st_size
        if here > file.size:
            os.ftruncate(descriptor, 0)
            here = 0
        file.done = 0
        digest = Digest(file.oid, file.size)
        if here:
            self._watch.verifying()
        buffer = bytearray(CHUNK)
        while file.done < here and (count := os.preadv(descriptor, [buffer], file.done)):
            digest.update(memoryview(buffer)[:count])
            file.done += count
            self._watch.moved()
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return digest

    def _stream(self, file: PlannedFile, descriptor: int, digest: Digest) -> Digest:
        """Appends what one answer has; returns the digest of all that is here then."""
        asked: dict[str, str] = {}
        if file.done:
            asked["Range"] = f"bytes={file.done}-"
            if file.etag:
                asked["If-Range"] = file.etag
        reply = self._open(file.path, asked)
        try:
            _check_is_planned(reply, file)
            if file.done and not _continues(reply, file):
                self._watch.note(f"{file.path} starts over: {_why_over(reply, file)}")
                os.ftruncate(descriptor, 0)
                file.done, digest = 0, Digest(file.oid, file.size)
                if reply.status != 200:
                    file.etag = ""
                    return digest
            elif reply.status != (206 if asked else 200):
                raise HubSilent(f"the hub answers {reply.status} for {file.path}")
            file.etag = reply.headers.get("ETag") or ""
            self._append(reply, file, descriptor, digest)
        finally:
            reply.close()
        return digest

    def _append(self, reply: HubReply, file: PlannedFile, descriptor: int, digest: Digest) -> None:
        hasher = _Hasher(digest, descriptor)
        began, base = time.monotonic(), file.done
        try:
            while file.done < file.size:
                buffer = hasher.buffer()
                room = memoryview(buffer)[: min(CHUNK, file.size - file.done)]
                try:
                    count = reply.body.readinto1(room)
                except Exception as error:  # http.client raises more than OSError
                    raise HubSilent(explained(error)) from error
                if not count:
                    raise HubSilent("the connection was cut")
                _write(descriptor, room[:count], file.done)
                hasher.add(buffer, count)
                file.done += count
                self._watch.moved()
                self._slow_down(file.done - base, began)
        finally:
            hasher.finish()

    def _slow_down(self, count: int, began: float) -> None:
        if self._bytes_per_s:
            ahead = count / self._bytes_per_s - (time.monotonic() - began)
            if ahead > 0:
                self._sleep(ahead)


def _write(descriptor: int, data: memoryview, at: int) -> None:
    while data:
        count = os.pwrite(descriptor, data, at)
        data, at = data[count:], at + count


def _check_is_planned(reply: HubReply, file: PlannedFile) -> None:
    """Raises Changed if the hub's own headers name another object. Not all hubs have them."""
    linked = reply.header("X-Linked-Etag").removeprefix("W/").strip('"').lower()
    if linked and linked != file.oid:
        raise Changed(f"{file.path} is another file at the source now")


def _continues(reply: HubReply, file: PlannedFile) -> bool:
    """Whether the answer goes on where the part ends, with the same content."""
    etag = reply.headers.get("ETag") or ""
    is_same = not file.etag or not etag or etag == file.etag
    begins = (reply.headers.get("Content-Range") or "").startswith(f"bytes {file.done}-")
    return reply.status == 206 and begins and is_same


def _why_over(reply: HubReply, file: PlannedFile) -> str:
    etag = reply.headers.get("ETag") or ""
    if file.etag and etag and etag != file.etag:
        return "the file has changed at the source"
    return "the source does not continue a download"
