"""Where a model came from, kept beside it in a hidden file: `.FILE.origin.json`."""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from magid.library.shared_files import new_file, read_at_once

_MAX_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Origin:
    """The source of one file, as the hub said when it was downloaded (seconds since the epoch)."""

    endpoint: str
    repository: str
    revision: str
    commit: str
    licence: str
    path: str
    oid: str
    downloaded_at: float


def origin_path(file: Path) -> Path:
    """Returns where the origin of a file is kept."""
    return file.with_name(f".{file.name}.origin.json")


def write(file: Path, origin: Origin) -> None:
    """Replaces what is known of the file's origin, in one step. Raises OSError."""
    path = origin_path(file)
    new = path.with_name(f"{path.name}.new")
    with new_file(new) as content:
        json.dump(asdict(origin), content)
        content.flush()
        os.fsync(content.fileno())
    new.replace(path)


def read(file: Path) -> Origin | None:
    """Returns the file's origin; None if it is not known. Blocks."""
    with suppress(OSError, ValueError, TypeError, RecursionError):
        origin = Origin(**json.loads(read_at_once(origin_path(file), _MAX_BYTES)))
        texts = (getattr(origin, name) for name in Origin.__slots__[:-1])
        if all(isinstance(text, str) for text in texts) and isinstance(
            origin.downloaded_at, int | float
        ):
            return origin
    return None
