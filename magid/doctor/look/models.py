"""Model folders and files: as the user magi reaches them, and as the launcher finds them."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from magid import folders as walking
from magid.config import Config
from magid.doctor.facts import Folder, ModelFile
from magid.doctor.look.programs import ask_as_magi
from magid.errors import MagidError
from magid.modelfiles import check_files, real_roots

MAX_FILES: Final = 200  # that are tried; a folder with more of them has the same troubles
_OCTAL = re.compile(r"\\([0-7]{3})")


def folders(settings: Config) -> tuple[Folder, ...]:
    """Each model folder that has to be there. For root. Raises CannotLook."""
    wanted = [str(path) for path in settings.model_paths if not settings.may_lack(str(path))]
    there = [path for path in wanted if Path(path).is_dir()]
    refused = ask_as_magi("reach", *there) if there else {}
    absent = unmounted(_lines("/etc/fstab"), _lines("/proc/self/mounts"))
    return tuple(
        Folder(
            path,
            refused=tuple((where, why) for where, why in refused.get(path, ())),
            missing=path not in there,
            mount=_mount_of(path, absent),
        )
        for path in wanted
    )


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
    listing = walking.walk(settings.model_paths)
    roots = real_roots(settings.model_paths)
    found = [ModelFile(file.real, _refusal(file.real, roots)) for file in listing.files]
    links = [ModelFile(path, why) for path, why in listing.broken if Path(path).is_symlink()]
    return (*found[:MAX_FILES], *links[:MAX_FILES])


def _refusal(path: str, roots: Iterable[str]) -> str:
    try:
        check_files((path,), roots)
    except MagidError as error:
        return error.message
    return ""
