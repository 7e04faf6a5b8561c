"""Checks a model's files as root, in folders that other users may write to.

Every folder of a path is opened by its name within its parent, never through a link. So nothing
outside the model folders is ever reached, whatever is renamed meanwhile. The device and inode of
each file are recorded for exec_model.py to compare. Blocks: a handful of system calls.

One kind of link is followed, the one that a hub's cache is made of: from a snapshot to a blob of
the same repository. The blob is checked as any other file, and mounted under the link's name, by
which llama-server finds the other files of a model.

A folder may be a mount that does not answer. So where a file system may wait for another machine,
the launcher checks files in a worker, `python -m magid.launcher.model_files`, and waits for no
folder other than the one that the file is in. On disks of this machine it needs no worker.
"""

import os
import posixpath
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from magid.errors import InvalidInput, MagidError, NotAllowed, ServerFailed
from magid.host.mounts import may_hang
from magid.host.workers import LATE_S, Silent, Unanswered, Worker, WorkerEnded, serve
from magid.launcher.unit_request import CheckedFile

MAX_SHARDS: Final = 512
# Total size of the paths of one model. The unit's file contains each path three times, and a line
# of that file may have 1 MiB: systemd loses the command of a longer line at a daemon-reload.
MAX_PATHS_BYTES: Final = 128 * 1024
_MODULE: Final = "magid.launcher.model_files"
_MAX_LINKS: Final = 40  # as Linux counts

# Exactly as llama.cpp names shards: it derives the other names from the first one.
_SHARD = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf", re.DOTALL)
# In a cache of huggingface_hub or llama.cpp, and in a store of Ollama: named after their content.
_BLOB = re.compile(r".+/blobs/(?:[0-9a-f]{40}|(?:sha256-)?[0-9a-f]{64})", re.DOTALL)
# A link of such a cache, in the repository that is its first group.
_SNAPSHOT = re.compile(r"(.+/models--[^/]+)/snapshots/[^/]+/.+", re.DOTALL)
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def real_roots(configured: Iterable[Path]) -> tuple[str, ...]:
    """Returns the model folders that exist, links resolved; follows only links that root owns.

    Any user who may write to a folder could put another link there.
    """
    found = (_resolved(str(path)) for path in configured)
    return tuple(dict.fromkeys(path for path in found if path is not None))


def check_files(paths: Iterable[str], roots: Iterable[str]) -> tuple[CheckedFile, ...]:
    """Returns each file with its current device and inode.

    Raises NotAllowed for a path outside the roots, and for anything but a regular file whose name
    ends in .gguf or is a blob's, or a link to a blob; ServerFailed for one that cannot be opened.
    """
    return tuple(_check(path, tuple(roots)) for path in paths)


def shards(path: str) -> tuple[str, ...]:
    """Returns the paths of all files of the model whose first file this is. Pure. InvalidInput."""
    match = _SHARD.fullmatch(path)
    if not match:
        return (path,)
    count = int(match[3])
    if int(match[2]) != 1 or not 1 <= count <= MAX_SHARDS:
        raise InvalidInput(
            f"cannot use {path}: it is not the first of at most {MAX_SHARDS} files of a model",
            field="spec.model_path",
        )
    size = count * len(path.encode())
    if size > MAX_PATHS_BYTES:
        raise InvalidInput(
            f"cannot use {path[:100]}...: the paths of its {count} files have {size} bytes in all, "
            f"and {MAX_PATHS_BYTES} is the most; move the model to a folder with a shorter path",
            field="spec.model_path",
        )
    return tuple(f"{match[1]}-{n:05}-of-{count:05}.gguf" for n in range(1, count + 1))


@dataclass(frozen=True, slots=True)
class Examined:
    """A model's files as they were checked, and the model folders."""

    files: tuple[CheckedFile, ...]
    roots: tuple[str, ...]  # links resolved
    unanswered: tuple[str, ...] = ()  # folders that hang, as configured; the files are in none


def examine(paths: Sequence[str], configured: Sequence[Path]) -> Examined:
    """Resolves the roots and checks the files; blocks for as long as the folders take.

    Raises as `check_files`.
    """
    roots = real_roots(configured)
    return Examined(check_files(paths, roots), roots)


class Examiner:
    """Runs `examine`, in workers where it may hang, for `late_s` seconds at most. Thread-safe.

    Every method blocks, and raises ServerFailed if a worker cannot be started, or dies.
    """

    def __init__(self, late_s: float = LATE_S) -> None:
        self._late_s = late_s
        self._hung = Unanswered()

    def __call__(self, paths: Sequence[str], configured: Sequence[Path]) -> Examined:
        """Checks the files. Raises as `check_files`; ServerFailed if the folder hangs."""
        if not any(map(may_hang, (*map(str, configured), *paths))):
            return examine(paths, configured)
        with self._worker(paths[0], configured) as (worker, roots, late):
            for root in late:
                if _is_in(paths[0], root) and not any(_is_in(paths[0], one) for one in roots):
                    raise _no_answer(paths[0], root)
            worker.submit([["check", paths, roots]])
            try:
                answer = worker.receive(self._late_s)
            except Silent:
                raise _no_answer(paths[0], "its folder") from None
        if "refused" in answer:
            kind = NotAllowed if answer["code"] == "NotAllowed" else ServerFailed
            raise kind(answer["refused"], path=answer["path"])
        return Examined(tuple(CheckedFile(*file) for file in answer["files"]), roots, late)

    def refusals(self, paths: Sequence[str], configured: Sequence[Path]) -> dict[str, str]:
        """Returns the reason for each of these files that the launcher would refuse to run."""
        found: dict[str, str] = {}
        with self._worker("", configured) as (worker, roots, _late):
            worker.submit(["check", [path], roots] for path in paths)
            for path in paths:
                try:
                    found[path] = worker.receive(self._late_s).get("refused", "")
                except Silent:
                    found[path] = _no_answer(path, "its folder").message
                    break
        return {path: why for path, why in found.items() if why}

    def roots(self, configured: Sequence[Path]) -> tuple[str, ...]:
        """Returns the folders of `real_roots` without the folders that hang."""
        if not any(map(may_hang, map(str, configured))):
            return real_roots(configured)  # a worker takes 0.1 s of the processor, with each list
        with self._worker("", configured) as (_worker, roots, _late):
            return roots

    @contextmanager
    def _worker(
        self, path: str, configured: Sequence[Path]
    ) -> Iterator[tuple[Worker, tuple[str, ...], tuple[str, ...]]]:
        """Yields a worker that answers, the roots that answer, and the roots that do not."""
        found: dict[str, str | None] = {}
        worker: Worker | None = None
        try:
            for root in _nearest_first(map(str, configured), path):
                if root in self._hung:
                    continue
                worker = worker or Worker(_MODULE)
                worker.submit([["root", root]])
                try:
                    found[root] = worker.receive(self._late_s)["root"]
                except Silent:
                    self._hung.add(root, worker)
                    worker = None
            late = tuple(str(root) for root in configured if str(root) not in found)
            worker = worker or Worker(_MODULE)
            yield worker, tuple(dict.fromkeys(filter(None, found.values()))), late
        except WorkerEnded:
            raise ServerFailed("cannot check the model's files; try again") from None
        except OSError as error:
            raise ServerFailed(
                f"cannot check the model's files: no process can start: {error.strerror}"
            ) from error
        finally:
            if worker is not None:
                worker.end()

    def close(self) -> None:
        self._hung.close()


def _nearest_first(roots: Iterable[str], path: str) -> list[str]:
    """Sorts the roots that contain the path by name first: these are needed in any case. Pure."""
    return sorted(roots, key=lambda root: not _is_in(path, root))


def _is_in(path: str, root: str) -> bool:
    return PurePosixPath(path).is_relative_to(root)


def _no_answer(path: str, root: str) -> ServerFailed:
    return ServerFailed(
        f"cannot open the model file {path}: {root} does not answer; check that file system, "
        "then start the model again"
    )


def _carried_out(request: Any) -> Any:
    match request:
        case ["root", configured]:
            return {"root": _resolved(configured)}
        case ["check", paths, roots]:
            try:
                files = check_files(paths, roots)
            except MagidError as error:
                path = error.details.get("path", paths[0])
                return {"refused": error.message, "code": error.code, "path": path}
            return {"files": [(one.path, one.device, one.inode, one.blob) for one in files]}
        case _:
            raise ValueError(request)


def main() -> None:
    """Runs the worker until its input ends."""
    serve(_carried_out)


# -- one file --------------------------------------------------------------------------------


def _check(path: str, roots: tuple[str, ...]) -> CheckedFile:
    root = next((r for r in roots if PurePosixPath(path).is_relative_to(r)), None)
    if root is None or path == root:
        raise NotAllowed(f"cannot use {path}: it is not in a model folder", path=path)
    if not path.lower().endswith(".gguf") and not _BLOB.fullmatch(path):
        raise NotAllowed(f"cannot use {path}: its name does not end in .gguf", path=path)
    try:
        status = status_without_links(path)
        blob = _blob_behind(path, roots) if stat.S_ISLNK(status.st_mode) else ""
        status = status_without_links(blob) if blob else status
    except OSError as error:
        raise ServerFailed(f"cannot open the model file {path}: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise NotAllowed(f"cannot use {path}: it is not a regular file", path=path)
    return CheckedFile(path, status.st_dev, status.st_ino, blob)


def status_without_links(path: str) -> os.stat_result:
    """Returns the file's status. Raises OSError; ENOTDIR if a folder of the path is a link."""
    with _folder_of(path) as (folder, name):
        return os.stat(name, dir_fd=folder, follow_symlinks=False)


def _blob_behind(path: str, roots: tuple[str, ...]) -> str:
    """Returns the path of the blob that a link of a hub's cache leads to; "" for another link.

    By the link's text: no folder of its path is a link, so `..` means what it says. Raises OSError.
    """
    with _folder_of(path) as (folder, name):
        text = os.readlink(name, dir_fd=folder)
    blob = posixpath.normpath(f"{posixpath.dirname(path)}/{text}")
    repository = _SNAPSHOT.fullmatch(path)
    is_own = repository is not None and posixpath.dirname(blob) == f"{repository[1]}/blobs"
    is_inside = any(_is_in(blob, root) for root in roots)
    return blob if is_own and is_inside and _BLOB.fullmatch(blob) else ""


@contextmanager
def _folder_of(path: str) -> Iterator[tuple[int, str]]:
    """Yields the open folder of a file, and the file's name. Raises as `status_without_links`."""
    *folders, name = path.strip("/").split("/")
    with ExitStack() as held:
        above = os.open("/", _FOLDER)
        held.callback(os.close, above)
        for folder in folders:
            above = os.open(folder, _FOLDER, dir_fd=above)
            held.callback(os.close, above)
        yield above, name


# -- a root ----------------------------------------------------------------------------------


def _resolved(path: str) -> str | None:
    """Returns the path without links; None if it does not exist or a link is not owned by root."""
    todo, done, links = path.split("/"), "", 0
    while todo:
        name = todo.pop(0)
        if name in ("", "."):
            continue
        if name == "..":
            done = done.rpartition("/")[0]
            continue
        here = f"{done}/{name}"
        try:
            target = _target(here)
        except OSError:
            return None
        if target is None:
            done = here
            continue
        links += 1
        if links > _MAX_LINKS:
            return None
        todo = [*target.split("/"), *todo]
        done = "" if target.startswith("/") else done
    return done or "/"


def _target(path: str) -> str | None:
    """Returns the target of root's link; None if it is no link. OSError for another user's link."""
    status = os.lstat(path)
    if not stat.S_ISLNK(status.st_mode):
        return None
    if status.st_uid != 0:
        raise PermissionError(f"{path} is a link that root did not make")
    return str(Path(path).readlink())


if __name__ == "__main__":
    main()
