"""Several llama-servers side by side: where they are, and which one is used.

    FOLDER/NAME/llama-server    a link to the program, made when the engine has been tried
    FOLDER/NAME/engine.json     what is known of it; see `library/engine_store`
    FOLDER/NAME/files/          what was unpacked
    FOLDER/default              a link to NAME: the engine of all servers; without it none is used
    FOLDER/.lock                locked by the process that changes the folder

Root owns all of it, and every folder above. A request names an engine and no program, so nothing
but these links decides what runs.
"""

import os
import re
import stat
from pathlib import Path
from typing import Final

from magid.errors import InvalidConfig, LlamaServerMissing

PROGRAM: Final = "llama-server"
DEFAULT: Final = "default"
SYSTEM: Final = "system"  # in a setting: none of the engines
NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def default_engine(folder: Path) -> str | None:
    """Returns the name that the link leads to; None without a link. Never raises."""
    try:
        name = (folder / DEFAULT).readlink().name
    except OSError:
        return None
    return name if NAME.fullmatch(name) else None


def default_program(folder: Path) -> Path | None:
    """Returns the program of the default engine, which may not exist; None without such an engine.

    By the engine's own name: a server that runs is not another engine's after a change of the link.
    """
    name = default_engine(folder)
    return None if name is None else folder / name / PROGRAM


def program_for(engine: str | None, configured: str | None, folder: Path | None) -> str | None:
    """Returns the program that a server runs whose setting is `engine`; None: one is searched for.

    `configured` is `llama_server_path`, which comes before the default engine; a server's own
    engine comes before both. Looks at the disk. Raises LlamaServerMissing if the engine is not
    installed.
    """
    if is_named(engine) and engine is not None:
        if folder is None or not is_installed(folder, engine):
            raise missing(engine)
        return str(folder / engine / PROGRAM)
    if configured is not None or folder is None or engine == SYSTEM:
        return configured
    program = default_program(folder)
    return None if program is None else str(program)


def is_named(engine: str | None) -> bool:
    """Whether the setting `engine` names one of the engines."""
    return engine not in (None, DEFAULT, SYSTEM)


def is_installed(folder: Path, name: str) -> bool:
    """Whether there is an engine of this name, with a program. Never raises."""
    try:
        return NAME.fullmatch(name) is not None and (folder / name / PROGRAM).exists()
    except OSError:
        return False


def installed(folder: Path) -> frozenset[str]:
    """Returns the names of all engines that have a program. Never raises."""
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError:
        return frozenset()
    return frozenset(name for name in names if is_installed(folder, name))


def missing(name: str) -> LlamaServerMissing:
    """Returns the error of a server whose engine is not there."""
    return LlamaServerMissing(
        f"cannot use the engine {name!r}: it is not installed; `magictl engine add {name} PATH` "
        "adds it, and `magictl engine use default MODEL` has the model run with the engine of all",
        engine=name,
    )


def chosen_at(program: Path) -> float:
    """Returns when the program's engine became the default, in seconds since the epoch; else 0."""
    link = program.parent.parent / DEFAULT
    try:
        is_chosen = program.name == PROGRAM and link.readlink().name == program.parent.name
        return link.lstat().st_ctime if is_chosen else 0.0
    except OSError:
        return 0.0


def check_owned(folder: Path, owner: int = 0) -> None:
    """Raises InvalidConfig if a user other than `owner` or root may write to it or to one above it.

    Folders that do not exist are not looked at.
    """
    for part in (folder, *folder.parents):
        try:
            status = os.lstat(part)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise InvalidConfig(f"cannot look at {part}: {error.strerror}") from None
        if stat.S_ISLNK(status.st_mode) and status.st_uid == 0:
            continue  # as /var may be one; where it leads is the next parent's business
        is_sticky = bool(status.st_mode & stat.S_ISVTX) and part != folder
        others_write = status.st_mode & 0o022 and not is_sticky
        if status.st_uid not in (0, owner) or others_write:
            raise InvalidConfig(
                f"cannot use the engines in {folder}: users other than root may write to {part}; "
                f"chown root:root {part} and chmod go-w it, or set engines_dir in magid.yaml"
            )
