"""Finds and asks llama-server, also where its file system may not answer.

On a share whose server is away, a look at the file and the start of the program wait for as long
as that is so, and cannot be interrupted. So whatever may wait for another machine is asked in a
worker, `python -m magid.llama.program_search`, which is left behind if it does not answer. On a
disk of this machine a thread looks (`installed_program.LocalSearch`), which costs no process.
"""

import asyncio
import threading
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any, Final

from magid.errors import LlamaServerMissing
from magid.host.mounts import may_hang
from magid.host.workers import LATE_S, Silent, Worker, WorkerEnded, serve
from magid.llama.program import PROBE_S, FoundProgram, LlamaProgram, find_program, look_at, probe

_MODULE: Final = "magid.llama.program_search"
_NEWS_S: Final = 0.1  # to read an answer that has begun to come
_AGAIN_S: Final = 30.0  # before another worker tries a path that does not answer


class Foreign(Exception):
    """The path is on a mount that may not answer."""


def look_here(program: Path) -> FoundProgram | None:
    """Is `look_at` where no other machine is waited for: raises Foreign elsewhere."""
    if may_hang(str(program)):
        raise Foreign
    return look_at(program)


class ProgramSearch:
    """Runs `find_program` and `probe` in a worker where they might wait. Blocks; thread-safe.

    A path that was silent for `late_s` is asked again in the background, and until it answers every
    call for it fails at once. The two runs of `probe` may take `run_s` each on top. Raises
    LlamaServerMissing.
    """

    def __init__(self, late_s: float = LATE_S, run_s: float = PROBE_S) -> None:
        self._late_s = late_s
        self._run_s = run_s
        self._silent: dict[str, Worker] = {}  # by path: the one worker that waits for it
        self._lock = threading.Lock()
        self._is_closed = False

    def find(self, configured: str | None, search_path: str) -> FoundProgram:
        """Is `find_program`. A folder of the search path that does not answer is passed over."""
        errors: list[LlamaServerMissing] = []

        def look(program: Path) -> FoundProgram | None:
            if not may_hang(str(program)):
                return look_at(program)
            try:
                seen = self._ask("look", str(program), self._late_s)
            except LlamaServerMissing as error:
                errors.append(error)
                return None
            return FoundProgram(program, Path(seen[0]), tuple(seen[1])) if seen else None

        try:
            return find_program(configured, search_path, look)
        except LlamaServerMissing:
            if errors:
                raise errors[0] from None
            raise

    def probe(self, program: Path) -> LlamaProgram:
        """Is `probe`, in a worker in any case."""
        said = self._ask("probe", str(program), 2 * self._run_s + self._late_s)
        if "missing" in said:
            raise LlamaServerMissing(said["missing"], program=str(program))
        return LlamaProgram(program, said["version"], frozenset(said["flags"]), said["changed_at"])

    def _ask(self, what: str, path: str, limit_s: float) -> Any:
        try:
            with self._lock:
                return self._answer(what, path, limit_s)
        except Silent:
            raise no_answer(path, may_hang(path)) from None
        except WorkerEnded:
            raise _cannot_ask(path, "its reader ended; try again") from None
        except OSError as error:
            raise _cannot_ask(path, f"no process can start: {error.strerror}") from error

    def _answer(self, what: str, path: str, limit_s: float) -> Any:
        """Raises Silent, WorkerEnded, and OSError if no worker can be started."""
        if self._is_closed or self._is_silent(path):
            raise Silent
        worker = self._begin(what, path)
        try:
            said = worker.receive(limit_s, lambda: self._is_closed)
        except Silent:
            self._silent[path] = worker
            raise
        except WorkerEnded:
            worker.end()
            raise
        worker.end()
        return said

    def _is_silent(self, path: str) -> bool:
        """Whether the path still gives no answer, as far as is known. Does not block."""
        worker = self._silent.get(path)
        if worker is None:
            return False
        if worker.has_news and _has_answered(worker):
            self._silent.pop(path).end()
            return False
        if monotonic() - worker.made_at > _AGAIN_S:
            self._silent[path] = self._begin("look", path)
            worker.end(is_stuck=True)
        return True

    def _begin(self, what: str, path: str) -> Worker:
        worker = Worker(_MODULE)
        worker.submit([[what, path]])
        worker.flush()
        return worker

    def close(self) -> None:
        """Ends all waits and workers; one that hangs ends when its mount answers. Idempotent."""
        self._is_closed = True
        with self._lock:
            silent, self._silent = self._silent, {}
        for worker in silent.values():
            worker.end(is_stuck=not worker.has_news)


def _has_answered(worker: Worker) -> bool:
    """Whether its news is more than a heartbeat."""
    with suppress(WorkerEnded):
        try:
            worker.receive(_NEWS_S)
        except Silent:
            return False
    return True


def no_answer(path: str, mount: str | None) -> LlamaServerMissing:
    """Returns the error for a path on a mount that is silent; None: on which one is not known."""
    return _cannot_ask(
        path,
        f"{mount or 'its file system'} does not answer; check that file system, or set "
        "llama_server_path in /etc/magi/magid.yaml (LLAMA_SERVER_PATH) to a program on a disk of "
        "this machine",
    )


def _cannot_ask(path: str, why: str) -> LlamaServerMissing:
    return LlamaServerMissing(f"cannot ask llama-server {path}: {why}", program=path)


# -- in the worker ---------------------------------------------------------------------------


def _carried_out(request: Any) -> Any:
    match request:
        case ["look", path]:
            found = look_at(Path(path))
            return [str(found.real), found.identity] if found else []
        case ["probe", path]:
            try:
                said = asyncio.run(probe(Path(path)))
            except LlamaServerMissing as error:
                return {"missing": error.message}
            flags = sorted(said.flags)
            return {"version": said.version, "flags": flags, "changed_at": said.changed_at}
        case _:
            raise ValueError(request)


def main() -> None:
    """Runs the worker until its input ends."""
    serve(_carried_out)


if __name__ == "__main__":
    main()
