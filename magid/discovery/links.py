"""Resolves symbolic links. A link out of the model folders is reported, not followed."""

import os
import stat
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

from magid.discovery.walker import NO_ANSWER, File, is_below, is_utf8, printable, stat_key

OUTSIDE: Final = "is a link to a file outside the model folders"
_MAX_LINKS: Final = 40  # as Linux counts
_SEARCHED: Final = 2000  # entries of a linked folder
_DEPTH: Final = 3  # levels of folders, including the linked one


def follow(link: str, within: Sequence[str], late: Sequence[str]) -> File | tuple[str, str]:
    """Returns the target of a link, or the link and a reason. Blocks; never raises OSError.

    `within` are the tops of all roots, `late` those of roots that do not answer. The target itself
    is not followed, should it have become a link meanwhile. The reason is empty for a link without
    the name of a model that leads to no model.
    """
    is_named = link[-5:].lower() == ".gguf"
    if late and _leads_into(link, late):
        return link, NO_ANSWER if is_named else ""
    try:
        target = os.path.realpath(link, strict=True)
        status = os.lstat(target)
    except OSError as error:  # among them ELOOP
        return link, _unseen(link, error, is_named=is_named)
    if not is_named:
        return link, _linked_folder(target, status, within)
    if reason := _refused(target, status, within):
        return link, reason
    return File(link, target, stat_key(status))


def _unseen(link: str, error: OSError, *, is_named: bool) -> str:
    if not is_named:
        name = link.rpartition("/")[2]
        if "." in name or (isinstance(error, FileNotFoundError) and not _is_absolute(link)):
            return ""
        return (
            f"is a link to {_text_of(link)}, which magid cannot read: {error.strerror}; if that is "
            "a folder with models, let user magi enter it and add it to model_paths in magid.yaml"
        )
    if isinstance(error, FileNotFoundError):
        return "is a link to a file that does not exist"
    return f"is a link that cannot be followed: {error.strerror}"


def _linked_folder(target: str, status: os.stat_result, within: Sequence[str]) -> str:
    if not stat.S_ISDIR(status.st_mode) or target in within or is_below(target, within):
        return ""
    if any(is_below(top, [target]) for top in within) or not _may_hold_models(target):
        return ""
    return f"is a link to a folder outside the model folders: {printable(target)}; {_add(target)}"


def _add(folder: str) -> str:
    return f"add {printable(folder)} to model_paths in magid.yaml"


def _may_hold_models(folder: str) -> bool:
    """Whether there is a file with a model's name, or a folder that cannot be read."""
    try:
        return any(name[-5:].lower() == ".gguf" for name in islice(_names(folder), _SEARCHED))
    except OSError:
        return True


def _names(folder: str, depth: int = _DEPTH) -> Iterator[str]:
    folders = []
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry.name
            if depth > 1 and entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
    for one in folders:
        yield from _names(one, depth - 1)


def _text_of(link: str) -> str:
    try:
        return printable(os.readlink(link))  # noqa: PTH115 - pathlib would only wrap it
    except OSError:
        return "something"


def _is_absolute(link: str) -> bool:
    return _text_of(link).startswith("/")


def _leads_into(link: str, folders: Sequence[str]) -> bool:
    """Decides by the texts of the links: touches nothing in these folders."""
    for _ in range(_MAX_LINKS):
        try:
            target = os.readlink(link)  # noqa: PTH115 - pathlib would only wrap it
        except OSError:
            return False
        link = os.path.normpath(os.path.join(os.path.dirname(link), target))  # noqa: PTH118, PTH120
        if is_below(link, folders):
            return True
    return False


def _refused(target: str, status: os.stat_result, within: Sequence[str]) -> str | None:
    if not is_utf8(target):
        return "is a link to a file whose name is not valid UTF-8"
    if not is_below(target, within):
        folder = target.rpartition("/")[0]
        return f"{OUTSIDE}: {target}; {_add(folder)}"
    if not stat.S_ISREG(status.st_mode):
        return "is a link to something that is not a regular file"
    return None
