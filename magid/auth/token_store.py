"""The one owner of the tokens while magid runs, and of their file.

As long as no token was ever made, the file is not there and being local is enough. From the first
one on TCP asks for a token, also when the last one is revoked: only removing the file opens it
again. A file that cannot be used keeps everybody out. It holds no secret, only magid's user may
read it, and no older copies are kept: they would bring back what was revoked. `TokenStore` lives on
the event loop; the functions that read and write the file block.
"""

import asyncio
import hmac
import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from magid.auth import tokens
from magid.auth.tokens import Credential, Scope, Token
from magid.errors import MagidError, TokensUnusable
from magid.files.atomic import cannot_write, discard, sync_directory, write_temporary

log = logging.getLogger(__name__)


# What is lost of "last used" when magid is killed, and how coarse it is on disk.
FLUSH_S = 600.0


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `models`: what its requests to the gateway are limited to; None: nothing."""

    name: str = ""  # of the token; empty without one
    models: tuple[str, ...] | None = None
    id: str = ""


@dataclass(slots=True)
class TokenEntry:
    """One token in use. `used` is when it last was, in seconds since the epoch; 0: never.

    What is worked out once is what each request needs.
    """

    token: Token
    used: float
    expires: float = field(init=False)  # infinite where it never does
    scopes: frozenset[Scope] = field(init=False)
    digest: bytes = field(init=False)
    caller: Caller = field(init=False)

    def __post_init__(self) -> None:
        token = self.token
        given = frozenset(token.scopes)
        self.expires = token.expires_at.timestamp() if token.expires_at else float("inf")
        self.scopes = frozenset(Scope) if Scope.ADMIN in given else given
        self.digest = bytes.fromhex(token.sha256)
        self.caller = Caller(token.name, token.models, token.id)


class TokenStore:
    """The tokens of the file at `path`. The caller holds the lock of the state directory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = asyncio.Lock()
        self._by_id: dict[str, TokenEntry] = {}
        self._seen: tuple[int, ...] | None = None  # which file was read or written last
        self._written_at: dict[str, float] = {}  # when each was last used, as the file has it
        self.exists = False
        self.problem: TokensUnusable | None = None

    # -- reading -------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether no token was ever made."""
        return not self.exists

    @property
    def requires_token(self) -> bool:
        """Whether magid may be reachable from elsewhere: a token exists, or its file is broken."""
        return bool(self._by_id) or self.problem is not None

    @property
    def all(self) -> tuple[Token, ...]:
        """By name, each with its last use."""
        return tuple(
            entry.token.model_copy(update={"last_used_at": _moment(entry.used)})
            for entry in sorted(self._by_id.values(), key=lambda entry: entry.token.name)
        )

    def find(self, presented: Credential) -> TokenEntry | None:
        """The token that was shown, also if it has expired. As much work where there is none."""
        entry = self._by_id.get(presented.id)
        is_right = hmac.compare_digest(presented.digest, entry.digest if entry else _NOBODY)
        return entry if entry and is_right else None

    def holds(self, caller: Caller) -> bool:
        """Whether its token still counts: neither revoked nor expired."""
        entry = self._by_id.get(caller.id)
        return entry is not None and entry.caller is caller and time.time() < entry.expires

    # -- changing ------------------------------------------------------------------------

    async def load(self) -> None:
        """Read the file, at the start and when asked to reload. What is wrong with it is logged."""
        async with self._lock:
            await self._load()
        if self.problem is not None:
            log.error("%s", self.problem.message)

    async def create(
        self,
        name: str,
        scopes: Iterable[Scope],
        models: Iterable[str] | None = None,
        expires_at: datetime | None = None,
    ) -> tuple[Token, str]:
        """A new token; it counts once the file is durable.

        Raises TokenExists, InvalidInput, CannotWrite, TokensUnusable.
        """
        token, secret = tokens.make(name, scopes, models=models, expires_at=expires_at)
        await self._change(lambda present: tokens.added(present, token))
        log.info("token %s was made, for %s", name, ", ".join(token.scopes))
        return token, secret

    async def revoke(self, name: str) -> None:
        """Refuses it from here on. Raises TokenNotFound, CannotWrite, TokensUnusable."""
        await self._change(lambda present: tokens.without(present, name))
        log.info("token %s was revoked", name)

    async def flush(self) -> None:
        """Write down when tokens were last used, if that has changed. What fails is logged."""
        if all(int(e.used) <= self._written_at.get(i, 0.0) for i, e in self._by_id.items()):
            return
        try:
            await self._change(lambda present: present)
        except MagidError as error:
            log.warning("%s", error.message)

    async def flush_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()

    # -- inside --------------------------------------------------------------------------

    async def _change(self, decide: Callable[[tuple[Token, ...]], tuple[Token, ...]]) -> None:
        """Goes on to its end if the caller is cancelled: its thread would go on writing."""
        await asyncio.shield(asyncio.ensure_future(self._change_alone(decide)))

    async def _change_alone(self, decide: Callable[[tuple[Token, ...]], tuple[Token, ...]]) -> None:
        async with self._lock:
            if self._seen != await asyncio.to_thread(_identity, self._path):
                await self._load()  # someone has edited it
            if self.problem is not None:
                raise self.problem
            after = decide(self.all)
            await asyncio.to_thread(write, self._path, after)
            self._take(after, await asyncio.to_thread(_identity, self._path))

    async def _load(self) -> None:
        self.problem = None
        found: tuple[Token, ...] | None = ()
        seen = await asyncio.to_thread(_identity, self._path)
        try:
            found = await asyncio.to_thread(read, self._path)
        except TokensUnusable as error:
            self.problem = error
        self._take(found, seen)

    def _take(self, found: tuple[Token, ...] | None, seen: tuple[int, ...] | None) -> None:
        """Entries that stay the same stay the same objects: who holds one sees it revoked."""
        self.exists = found is not None
        self._seen = seen
        self._written_at = {t.id: _seconds(t.last_used_at) for t in found or ()}
        before, self._by_id = self._by_id, {}
        for token in found or ():
            entry = before.get(token.id)
            if entry is None or not _is_same(entry.token, token):
                entry = TokenEntry(token, _seconds(token.last_used_at))
            self._by_id[token.id] = entry


_NOBODY = bytes(32)  # what a token is held against where none is found


def _is_same(one: Token, other: Token) -> bool:
    unused = {"last_used_at": None}
    return one.model_copy(update=unused) == other.model_copy(update=unused)


def _moment(seconds: float) -> datetime | None:
    return datetime.fromtimestamp(int(seconds), UTC) if seconds else None


def _seconds(moment: datetime | None) -> float:
    return moment.timestamp() if moment else 0.0


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


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
        f"cannot use {path}: {why}; TCP is closed until it is repaired, or removed with "
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
