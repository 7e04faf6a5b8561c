"""The file of tokens on disk: no secret is in it, and only magid's user may read it.

No older copies are kept: they would bring back what was revoked. Everything here blocks.
"""

from pathlib import Path

from pydantic import ValidationError

from magid.auth import tokens
from magid.auth.tokens import Token
from magid.errors import TokensUnusable
from magid.files.atomic import cannot_write, discard, sync_directory, write_temporary

NAME = "tokens.json"
_MODE = 0o600
_MAX_BYTES = 4 * 2**20


def read(path: Path) -> tuple[Token, ...] | None:
    """None where no token was ever made. Raises TokensUnusable; the file is left as it is."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ValueError(f"it is larger than {_MAX_BYTES} bytes")
        return tokens.parse(content)
    except FileNotFoundError:
        if path.is_symlink():
            raise _unusable(path, "it is a link that leads nowhere") from None
        return None
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from None
    except ValidationError as error:
        raise _unusable(path, tokens.first_fault(error)) from None
    except ValueError as error:
        raise _unusable(path, str(error)) from None


def _unusable(path: Path, why: str) -> TokensUnusable:
    return TokensUnusable(
        f"cannot use {path}: {why}; nobody gets in over TCP until it is mended, or removed with "
        "all tokens in it, and magid reloaded (systemctl reload magid)",
        path=str(path),
    )


def write(path: Path, kept: tuple[Token, ...]) -> None:
    """Replace the file; it is durable on return. Raises CannotWrite; then the old one stays."""
    try:
        temporary = write_temporary(path, tokens.serialise(kept), mode=_MODE)
        try:
            temporary.rename(path)
        except BaseException:
            discard(temporary)
            raise
        sync_directory(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from None
