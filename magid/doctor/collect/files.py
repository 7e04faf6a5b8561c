"""Files and folders: owners, places, free space; magid's own state; model files.

State is read as magid reads it; model folders as the user magi reaches them and as the launcher
finds them.
"""

import grp
import os
import pwd
import re
import stat
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from magid.auth import token_store
from magid.catalog import original
from magid.catalog import registry as catalog_registry
from magid.catalog.profile_store import ProfileDir
from magid.config.settings import Config
from magid.discovery.links import OUTSIDE
from magid.discovery.roots import Roots
from magid.discovery.walker import printable
from magid.doctor.collect.commands import ask_as_magi
from magid.doctor.facts import (
    Accounts,
    Folder,
    ModelFile,
    Place,
    ProfileFiles,
    RegistryFiles,
    Tokens,
    Volume,
)
from magid.errors import MagidError, TokensUnusable
from magid.files import document
from magid.launcher.model_files import Examiner

ETC: Final = "/etc/magi"
RUN: Final = "/run/magi"
KEYS: Final = "/run/magi-keys"
API: Final = f"{RUN}/magid.sock"
VIEW: Final = f"{RUN}/view.sock"  # for the group magi-view, which may only read
LAUNCHER: Final = f"{RUN}/launcher.sock"
KEY_SOCKET: Final = f"{RUN}/key.sock"
MODELS: Final = "models"  # in the state folder, where there are no other model folders


def accounts() -> Accounts:
    """All users and groups that are asked for by name."""
    return Accounts(
        frozenset(name for name in ("magi",) if _has(pwd.getpwnam, name)),
        frozenset(
            name
            for name in ("magi", "magi-models", "magi-view", "render", "video", "systemd-journal")
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
        *(ETC, str(path), RUN, KEYS, API, VIEW, LAUNCHER, KEY_SOCKET),
        *(str(settings.profiles_dir), str(state), str(state / MODELS)),
        str(settings.registry_path),
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
    """What is at this path, its name below `root`; None if nothing is. Follows links."""
    try:
        status = path.stat()
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


def registry(settings: Config) -> RegistryFiles:
    """Changes nothing. Raises PermissionError where the caller may not read it."""
    path = settings.registry_path
    with suppress(FileNotFoundError):
        path.open("rb").close()
    found = sorted(path.parent.glob(f"{path.name}.corrupt-*"))
    foreign = [one for one in found if _is_original(one)]
    return RegistryFiles(
        str(path),
        document.why_unusable(path, catalog_registry.parse),
        tuple(str(one) for one in found if one not in foreign),
        tuple(map(str, foreign)),
    )


def _is_original(path: Path) -> bool:
    try:
        return bool(original.parse_registry(path.read_bytes(), str(path)).models)
    except (OSError, MagidError):
        return False


def profiles(settings: Config) -> ProfileFiles:
    """Changes nothing. Raises PermissionError where the caller may not read one of them."""
    found = ProfileDir(settings.profiles_dir, settings.shipped_profiles_dir)
    names = found.list()
    for name in names:
        with suppress(FileNotFoundError):
            (settings.profiles_dir / f"{name}.yaml").open("rb").close()
    broken = {name: why for name in names if (why := _why_broken(found, name))}
    return ProfileFiles(frozenset(names), broken)


def _why_broken(profiles: ProfileDir, name: str) -> str:
    try:
        profiles.get(name)
    except MagidError as error:
        return error.message
    return ""


def tokens(settings: Config) -> Tokens:
    """Returns the state of the token file. Raises PermissionError if the caller may not read it."""
    path = settings.state_dir / token_store.NAME
    with suppress(FileNotFoundError):
        path.open("rb").close()
    try:
        found = token_store.read(path)
    except TokensUnusable as error:
        return Tokens(problem=error.message)
    return Tokens(None if found is None else len(found))


MAX_FILES: Final = 200  # that are tried; a folder with more of them has the same troubles
_OCTAL = re.compile(r"\\([0-7]{3})")


def folders(settings: Config) -> tuple[Folder, ...]:
    """Each model folder that has to be there. For root. Raises CannotCollect.

    One that hangs is not reached for as the user magi: that would hang too.
    """
    with closing(Roots(settings.model_paths)) as roots:
        unreadable = {root.path: root for root in roots.listing().unreadable_roots}
        tops = roots.tops
    seen = {path: unreadable.get(printable(top)) for path, top in tops.items()}
    absent = {path for path, root in seen.items() if root and root.is_absent}
    late = {path: root.reason for path, root in seen.items() if root and root.is_late}
    wanted = [path for path in tops if not (path in absent and settings.may_lack_folders)]
    there = [path for path in wanted if path not in absent and path not in late]
    refused = ask_as_magi("reach", *there) if there else {}
    points = unmounted(_lines("/etc/fstab"), _lines("/proc/self/mounts"))
    return tuple(
        Folder(
            path,
            refused=tuple((where, why) for where, why in refused.get(path, ())),
            missing=path in absent,
            mount=_mount_of(path, points),
            late=late.get(path, ""),
        )
        for path in wanted
    )


def unread(settings: Config, path: Path) -> dict[str, tuple[str, str]]:
    """The files that the user magi should be able to read and cannot: why, and where on the way.

    For root. Raises CannotCollect.
    """
    wanted = (
        *(path, settings.tls_cert, settings.tls_key, settings.registry_path),
        *(settings.state_dir / token_store.NAME, *sorted(settings.profiles_dir.glob("*.yaml"))),
    )
    there = [str(one) for one in wanted if one and one.exists()]
    found: dict[str, list[str]] = ask_as_magi("read", *there) if there else {}
    return {one: (why, where) for one, (why, where) in found.items() if why}


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return []


def unmounted(fstab: Iterable[str], mounts: Iterable[str]) -> list[str]:
    """Mount points of fstab(5) on which nothing is mounted. Pure."""
    there = {fields[1] for line in mounts if len(fields := line.split()) > 1}
    wanted = [line.split() for line in fstab if not line.lstrip().startswith("#")]
    points = [fields[1] for fields in wanted if len(fields) > 2 and fields[1].startswith("/")]
    return [_unescaped(point.rstrip("/") or "/") for point in points if point not in there]


def _unescaped(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def _mount_of(path: str, points: Iterable[str]) -> str:
    return next((point for point in points if Path(path).is_relative_to(point)), "")


def files(settings: Config) -> tuple[ModelFile, ...]:
    """The model files that are there, as the launcher sees them. For root."""
    with closing(Roots(settings.model_paths)) as roots:
        listing = roots.listing()
    paths = [file.real for file in listing.files[:MAX_FILES]]
    with closing(Examiner()) as examiner:
        refused = examiner.refusals(paths, settings.model_paths)
    found = [ModelFile(path, refused.get(path, "")) for path in paths]
    links = [(path, why) for path, why in listing.broken if _is_about_a_model(why)]
    return (*found, *(ModelFile(path, why, _outside(path, why)) for path, why in links[:MAX_FILES]))


def _is_about_a_model(reason: str) -> bool:
    """Whether a model's name leads to a file that is not one of a model folder."""
    return reason.startswith(("is a link to a file", "is a link to something", "is a link that"))


def _outside(link: str, why: str) -> str:
    """Where a link leads, if a file is there that could be a model."""
    target = os.path.realpath(link) if why.startswith(OUTSIDE) else ""
    return target if os.path.isfile(target) else ""  # noqa: PTH113
