"""Model folders and files: as the user magi reaches them, and as the launcher finds them."""

import re
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Final

from magid.config.settings import Config
from magid.discovery.roots import Roots
from magid.discovery.walker import printable
from magid.doctor.collect.commands import ask_as_magi
from magid.doctor.facts import Folder, ModelFile
from magid.launcher.model_files import Examiner

MAX_FILES: Final = 200  # that are tried; a folder with more of them has the same troubles
_OCTAL = re.compile(r"\\([0-7]{3})")


def folders(settings: Config) -> tuple[Folder, ...]:
    """Each model folder that has to be there. For root. Raises CannotLook.

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
    links = [ModelFile(path, why) for path, why in listing.broken if _is_about_a_link(why)]
    return (*found, *links[:MAX_FILES])


def _is_about_a_link(reason: str) -> bool:
    return reason.startswith("is a link")
