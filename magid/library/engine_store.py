"""Adds, lists, chooses and removes engines: llama-servers side by side. For root. Blocks.

An engine counts once its `llama-server` link is there, and that is made last: after the files are
on the disk and the program was tried. `llama/engines` has the layout.
"""

import fcntl
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

import msgspec
from msgspec import Struct

from magid.errors import CannotWrite, Conflict, InvalidInput, MagidError, NotFound
from magid.files.atomic import replace_file
from magid.library import unpacking
from magid.llama import engines
from magid.llama.engines import DEFAULT, PROGRAM

MANIFEST: Final = "engine.json"
_FILES: Final = "files"
_MAX_MANIFEST: Final = 64 * 1024
_PIECE: Final = 1 << 20
_ADDING: Final = ".adding-"
_REMOVING: Final = ".removing-"
_CHOOSING: Final = f".{DEFAULT}-"
_LOCK: Final = ".lock"
_TAKEN: Final = (DEFAULT, "system", "none")


class Tried(Struct, frozen=True):
    """What a trial of a program has shown; `problem` is why it cannot be used."""

    version: str = ""
    gpus: tuple[str, ...] = ()  # as it lists them
    problem: str = ""


class Engine(Struct, frozen=True):
    """One engine, as its manifest has it."""

    name: str
    version: str
    source: str
    sha256: str  # of the archive or the single file; "" for a folder
    program: str  # below the engine's folder
    gpus: tuple[str, ...]
    added_at: float  # seconds since the epoch


Try = Callable[[Path], Tried]


def listed(folder: Path) -> list[Engine]:
    """Returns the engines that count, by name. Never raises."""
    found = []
    with suppress(OSError):
        for path in sorted(folder.iterdir()):
            with suppress(OSError, msgspec.MsgspecError):
                is_name = engines.NAME.fullmatch(path.name) and path.name != DEFAULT
                if is_name and os.path.lexists(path / PROGRAM):
                    content = (path / MANIFEST).read_bytes()[:_MAX_MANIFEST]
                    found.append(msgspec.json.decode(content, type=Engine))
    return found


def add(folder: Path, name: str, source: Path, try_it: Try, sha256: str = "") -> Engine:
    """Unpacks, tries and keeps an engine. Raises MagidError, and then leaves nothing behind.

    `source` is a folder, a tar archive, or a llama-server that is a single file; `sha256` is what
    the archive or file has to have.
    """
    home = folder / _checked(name)
    _prepare(folder)
    if os.path.lexists(home):
        raise Conflict(f"cannot add engine {name!r}: there is one; remove it first, or choose "
                       "another name")  # fmt: skip
    with _staging(folder) as staging:
        try:
            digest = _fetch(source, staging / _FILES, sha256.lower())
            program = _program_in(staging / _FILES)
            staging.chmod(0o755)
            staging.rename(home)
        except OSError as error:
            raise CannotWrite(f"cannot add engine {name!r}: {error}") from error
        finally:
            unpacking.remove_tree(staging)
        try:
            return _tried(home, name, source, digest, f"{_FILES}/{program}", try_it)
        except BaseException:
            unpacking.remove_tree(home)
            raise


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """Yields a new folder that is locked, under whatever name, until the block or we end."""
    with _turn(folder):  # no other process takes it for a leftover before it is locked
        staging = Path(tempfile.mkdtemp(prefix=_ADDING, dir=folder))
        descriptor = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield staging
    finally:
        os.close(descriptor)


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Waits until no other process changes the folder. Raises OSError.

    By a file that its owner alone can open: a user who may read a folder may lock it for ever.
    """
    descriptor = os.open(
        folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder. Raises OSError; BlockingIOError if another process has it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _drop_leftovers(folder: Path) -> None:
    """Removes what an `add` or `remove` that was killed has left. Idempotent."""
    with _turn(folder):
        for path in folder.iterdir():
            if _is_unfinished(path):
                with suppress(OSError), _locked(path):
                    unpacking.remove_tree(path)
            elif path.name.startswith((_REMOVING, _CHOOSING)):
                unpacking.remove_tree(path)


def _is_unfinished(path: Path) -> bool:
    """Whether this is a folder of `add`, before its engine counts."""
    is_engine = engines.NAME.fullmatch(path.name) and (path / _FILES).is_dir()
    is_untried = is_engine and not os.path.lexists(path / PROGRAM)
    return path.name.startswith(_ADDING) or bool(is_untried)


def _tried(home: Path, name: str, source: Path, digest: str, program: str, try_it: Try) -> Engine:
    """Tries the program where it will be run, and makes the engine count."""
    seen = try_it(home / program)
    if seen.problem:
        raise InvalidInput(f"cannot add engine {name!r}: {seen.problem}")
    made = Engine(name, seen.version, str(source), digest, program, seen.gpus, time.time())
    replace_file(home / MANIFEST, json.dumps(msgspec.to_builtins(made), indent=2).encode(),
                 mode=0o644)  # fmt: skip
    (home / PROGRAM).symlink_to(program)
    os.sync()
    return made


def use(folder: Path, name: str | None) -> None:
    """Makes an engine the default, or none; servers that run are left alone. Idempotent."""
    if name is not None and _checked(name) not in [one.name for one in listed(folder)]:
        raise _unknown(name)
    _prepare(folder)
    link, new = folder / DEFAULT, folder / f"{_CHOOSING}{os.getpid()}"
    try:
        with _turn(folder):
            if name is None:
                link.unlink(missing_ok=True)
            else:
                new.unlink(missing_ok=True)
                new.symlink_to(name)
                new.replace(link)
    except OSError as error:
        raise CannotWrite(f"cannot choose an engine: {error}") from error


def remove(folder: Path, name: str, models: Sequence[str] = ()) -> None:
    """Removes an engine that nothing uses. Raises Conflict, NotFound, CannotWrite.

    `models` are those that have been given it.
    """
    home = folder / _checked(name)
    _prepare(folder)
    if not os.path.lexists(home):
        raise _unknown(name)
    if engines.default_engine(folder) == name:
        raise Conflict(
            f"cannot remove engine {name!r}: it is the one in use; `magictl engine use` another "
            "one, or `system`"
        )
    if models:
        raise Conflict(
            f"cannot remove engine {name!r}: it is set for {', '.join(models)}; `magictl engine "
            f"use default {models[0]}` has a model run with the engine of all"
        )
    if pids := sorted(_running(home)):
        raise Conflict(
            f"cannot remove engine {name!r}: it is running as process {', '.join(map(str, pids))}; "
            "restart these servers first"
        )
    gone = folder / f"{_REMOVING}{name}-{os.getpid()}"
    try:
        home.rename(gone)
    except OSError as error:
        raise CannotWrite(f"cannot remove engine {name!r}: {error}") from error
    unpacking.remove_tree(gone)


def _checked(name: str) -> str:
    if not engines.NAME.fullmatch(name) or name in _TAKEN:
        raise InvalidInput(
            f"cannot use {name[:70]!r} as the name of an engine: it has 1 to 63 of a-z, 0-9, '.', "
            f"'_' and '-', begins with a letter or digit, and is none of {', '.join(_TAKEN)}"
        )
    return name


def _unknown(name: str) -> MagidError:
    return NotFound(f"cannot find engine {name!r}; `magictl engine ls` lists them")


def _prepare(folder: Path) -> None:
    try:
        folder.mkdir(0o755, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "only root may write there")
        engines.check_owned(folder, os.geteuid())
        _drop_leftovers(folder)
    except OSError as error:
        raise CannotWrite(
            f"cannot change the engines in {folder}: {error.strerror}; run this as root"
        ) from None


def _running(home: Path) -> Iterator[int]:
    """Yields the processes whose program is below this folder, of those that we may see."""
    below = f"{os.path.realpath(home)}/"
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str((entry / "exe").readlink()).startswith(below):
                yield int(entry.name)


# -- what is added ---------------------------------------------------------------------------


def _fetch(source: Path, files: Path, sha256: str) -> str:
    """Copies or unpacks into `files`; returns the digest of an archive or a single file.

    A copy is hashed and then unpacked, which its owner cannot change any more.
    """
    files.mkdir(0o755)
    if source.is_dir():
        if sha256:
            raise InvalidInput(f"cannot check {source}: --sha256 is for an archive or a file")
        unpacking.copy_folder(source, files)
        return ""
    with tempfile.TemporaryFile(dir=files.parent) as copy:
        try:
            digest = _copied(source, copy)
        except OSError as error:
            raise InvalidInput(f"cannot read {source}: {error.strerror}") from None
        if sha256 and digest != sha256:
            raise InvalidInput(f"cannot add {source}: its SHA-256 is {digest}, not {sha256}")
        copy.seek(0)
        if copy.read(4) == b"\x7fELF":
            copy.seek(0)
            unpacking.write_program(copy, files / PROGRAM)
        else:
            copy.seek(0)
            unpacking.unpack_archive(copy, files)
    return digest


def _copied(source: Path, copy: IO[bytes]) -> str:
    digest, left = hashlib.sha256(), unpacking.MAX_BYTES
    descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - of a descriptor
        while piece := file.read(_PIECE):
            left -= len(piece)
            if left < 0:
                raise InvalidInput(f"cannot add {source}: it is too large")
            digest.update(piece)
            copy.write(piece)
    return digest.hexdigest()


def _program_in(files: Path) -> str:
    """Returns the path of the llama-server that is nearest to the top. Raises InvalidInput."""
    found = [
        path.relative_to(files)
        for path in files.rglob(PROGRAM)
        if path.is_file() and os.access(path, os.X_OK)
    ]
    if not found:
        raise InvalidInput(f"cannot find an executable {PROGRAM} in it")
    return str(min(found, key=lambda path: (len(path.parts), str(path))))
