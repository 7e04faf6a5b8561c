"""Files and folders: whose they are, where they are, how full that is."""

import grp
import os
import pwd
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from magid.config.settings import Config
from magid.doctor.facts import Accounts, Place, Volume

ETC: Final = "/etc/magi"
RUN: Final = "/run/magi"
KEYS: Final = "/run/magi-keys"
API: Final = f"{RUN}/magid.sock"
LAUNCHER: Final = f"{RUN}/launcher.sock"
KEY_SOCKET: Final = f"{RUN}/key.sock"


def accounts() -> Accounts:
    """All users and groups that are asked for by name."""
    return Accounts(
        frozenset(name for name in ("magi",) if _has(pwd.getpwnam, name)),
        frozenset(
            name
            for name in ("magi", "magi-models", "render", "video", "systemd-journal")
            if _has(grp.getgrnam, name)
        ),
    )


def _has(find: object, name: str) -> bool:
    try:
        assert callable(find)
        find(name)
    except KeyError:
        return False
    return True


def places(settings: Config, path: Path) -> dict[str, Place]:
    """What magid's own files look like, those that are there. A folder above may hide some."""
    state = settings.state_dir
    wanted = (
        *(ETC, str(path), RUN, KEYS, API, LAUNCHER, KEY_SOCKET),
        *(str(settings.profiles_dir), str(state), str(settings.registry_path)),
        *(str(file) for file in sorted(_below(state))),
    )
    found = (place(Path(path)) for path in dict.fromkeys(wanted))
    return {one.path: one for one in found if one}


def _below(folder: Path) -> Iterable[Path]:
    """The files of the state folder itself; models are others' business."""
    try:
        return [path for path in folder.iterdir() if not path.is_dir()]
    except OSError:
        return []


def place(path: Path, root: Path = Path("/")) -> Place | None:
    """What is at this path, its name below `root`; None if nothing is."""
    try:
        status = path.lstat()
    except OSError:
        return None
    name = "/" + str(path.relative_to(root))
    return Place(name, _user(status.st_uid), _group(status.st_gid), stat.S_IMODE(status.st_mode))


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def volumes(paths: Iterable[Path]) -> tuple[Volume, ...]:
    """The file systems of these paths, each once. Blocks for as long as one of them does."""
    found: dict[int, Volume] = {}
    for path in paths:
        there = _nearest(path)
        device = os.stat(there).st_dev  # noqa: PTH116
        if device in found:
            continue
        shown = os.statvfs(there)
        found[device] = Volume(
            path=str(there),
            free=shown.f_bavail * shown.f_frsize,
            size=shown.f_blocks * shown.f_frsize,
            free_inodes=shown.f_favail,
            inodes=shown.f_files,
            read_only=bool(shown.f_flag & os.ST_RDONLY),
        )
    return tuple(found.values())


def _nearest(path: Path) -> Path:
    return next((one for one in (path, *path.parents) if one.exists()), Path("/"))
