"""Owns the tokens and their file while magid is running.

Before the first token is made, the file does not exist, and local callers need none. From then on
TCP requires a token, even after the last one is revoked; only removing the file opens it again. A
file that cannot be used locks every caller out. It contains no secret, only magid's user may read
it, and no older copies are kept, because they would bring back revoked tokens. `TokenStore` lives
on the event loop; the functions that read and write the file block.
"""

import asyncio
import hmac
import logging
import os
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct
from msgspec.structs import asdict, replace

from magid.auth import tokens
from magid.auth.limits import Limits
from magid.auth.tokens import Credential, Scope, Token, TokenLimits
from magid.errors import MagidError, TokensUnusable
from magid.files.atomic import cannot_write, replace_file

log = logging.getLogger(__name__)


FLUSH_S = 600.0  # between writes of "last used", which a kill of magid loses


class Caller(Struct, frozen=True):
    """An authenticated caller. `models` limits its requests to the gateway; None: no limit.

    `session` finds its session, where it has one; `person` has made the link that began it.
    """

    name: str = ""  # of the token; empty without a token
    models: tuple[str, ...] | None = None
    id: str = ""
    limits: Limits | None = None
    session: bytes = b""
    person: str = ""


class TokenEntry:
    """One token, with the values that each request needs. `used`: seconds since the epoch, or 0."""

    __slots__ = ("caller", "digest", "expires", "scopes", "token", "used")

    def __init__(self, token: Token, used: float) -> None:
        given = frozenset(token.scopes)
        self.token = token
        self.used = used
        # infinity if it never does
        self.expires = token.expires_at.timestamp() if token.expires_at else float("inf")
        self.scopes = frozenset(Scope) if Scope.ADMIN in given else given
        self.digest = bytes.fromhex(token.sha256)
        self.caller = Caller(token.name, token.models, token.id, _limits(token))


class TokenStore:
    """The tokens of the file at `path`. The caller holds the lock of the state directory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = asyncio.Lock()
        self._by_id: dict[str, TokenEntry] = {}
        self._seen: tuple[int, ...] | None = None  # identity of the file last read or written
        self._written_at: dict[str, float] = {}  # last use of each token, according to the file
        self.exists = False
        self.closings = 0  # how often TCP was closed: by a first token, once more after an opening
        self.problem: TokensUnusable | None = None

    # -- reading -------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether no token was ever made."""
        return not self.exists

    @property
    def requires_token(self) -> bool:
        """Whether TCP is protected, so that magid may listen beyond loopback."""
        return bool(self._by_id) or self.problem is not None

    @property
    def all(self) -> tuple[Token, ...]:
        """All tokens, by name, with their last use."""
        return tuple(
            replace(entry.token, last_used_at=_moment(entry.used))
            for entry in sorted(self._by_id.values(), key=lambda entry: entry.token.name)
        )

    def find(self, presented: Credential) -> TokenEntry | None:
        """Returns the entry of a credential, even if expired. Takes the same time without one."""
        entry = self._by_id.get(presented.id)
        is_right = hmac.compare_digest(presented.digest, entry.digest if entry else _NO_DIGEST)
        return entry if entry and is_right else None

    def entry(self, ident: str) -> TokenEntry | None:
        """Returns the token of this id, even if expired."""
        return self._by_id.get(ident)

    def named(self, name: str) -> TokenEntry | None:
        """Returns the token of this name, even if expired."""
        return next((e for e in self._by_id.values() if e.token.name == name), None)

    def holds(self, caller: Caller) -> bool:
        """Whether the caller's token is still valid: neither revoked nor expired."""
        entry = self._by_id.get(caller.id)
        return entry is not None and entry.caller is caller and time.time() < entry.expires

    # -- changing ------------------------------------------------------------------------

    async def load(self) -> None:
        """Reads the file, at the start and for a reload. Logs an error if it cannot be used."""
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
        limits: TokenLimits | None = None,
    ) -> tuple[Token, str]:
        """Creates a token, which is valid once the file is durable; returns it and its secret.

        Raises TokenExists, InvalidInput, CannotWrite, TokensUnusable.
        """
        token, secret = tokens.make(
            name, scopes, models=models, expires_at=expires_at, limits=limits
        )
        await self._change(lambda present: tokens.added(present, token))
        log.info("token %s was made, for %s", name, ", ".join(token.scopes))
        return token, secret

    async def revoke(self, name: str) -> None:
        """Revokes a token at once. Raises TokenNotFound, CannotWrite, TokensUnusable."""
        await self._change(lambda present: tokens.without(present, name))
        log.info("token %s was revoked", name)

    async def limit(self, name: str, limits: TokenLimits) -> Token:
        """Changes its limits, which count from the next request on.

        Raises TokenNotFound, InvalidInput, CannotWrite, TokensUnusable.
        """
        await self._change(lambda present: tokens.limited(present, name, limits))
        log.info("token %s has new limits: %s", name, _given(limits) or "none")
        return next(token for token in self.all if token.name == name)

    async def flush(self) -> None:
        """Writes the times of last use if they have changed. Logs errors, never raises."""
        if all(int(e.used) <= self._written_at.get(i, 0.0) for i, e in self._by_id.items()):
            return
        try:
            await self._change(lambda present: present)
        except MagidError as error:
            log.warning("%s", error.message)

    async def flush_periodically(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()

    # -- inside --------------------------------------------------------------------------

    async def _change(self, decide: Callable[[tuple[Token, ...]], tuple[Token, ...]]) -> None:
        """Changes and writes the tokens; not cancelled with its caller, as its thread is not."""
        await asyncio.shield(asyncio.ensure_future(self._change_shielded(decide)))

    async def _change_shielded(
        self, decide: Callable[[tuple[Token, ...]], tuple[Token, ...]]
    ) -> None:
        async with self._lock:
            if self._seen != await asyncio.to_thread(_identity, self._path):
                await self._load()  # the file was edited
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
        """Replaces the entries; an unchanged entry stays the same object, as `holds` relies on."""
        self.closings += found is not None and not self.exists
        self.exists = found is not None
        self._seen = seen
        self._written_at = {t.id: _seconds(t.last_used_at) for t in found or ()}
        before, self._by_id = self._by_id, {}
        for token in found or ():
            entry = before.get(token.id)
            if entry is None or not _is_same(entry.token, token):
                entry = TokenEntry(token, _seconds(token.last_used_at))
            self._by_id[token.id] = entry


def _given(limits: TokenLimits) -> dict[str, int]:
    return {name: value for name, value in asdict(limits).items() if value is not None}


def _limits(token: Token) -> Limits | None:
    given = token.limits
    if given is None:
        return None
    return Limits(given.requests_per_minute, given.tokens_per_day, given.requests_at_once)


_NO_DIGEST = bytes(32)  # is compared with the digest of an unknown token


def _is_same(one: Token, other: Token) -> bool:
    return replace(one, last_used_at=None) == replace(other, last_used_at=None)


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
    """Returns the tokens; None if there is no file. Raises TokensUnusable."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ValueError(f"it is larger than {_MAX_BYTES} bytes")
        return tokens.parse(content)
    except FileNotFoundError:
        if path.is_symlink():
            raise _unusable(path, "it is a link to a file that does not exist") from None
        return None
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from None
    except ValueError as error:
        raise _unusable(path, str(error)) from None


def _unusable(path: Path, why: str) -> TokensUnusable:
    return TokensUnusable(
        f"cannot use {path}: {why}; no caller is let in over TCP until you repair the file, or "
        "remove it with all its tokens, and run: systemctl reload magid",
        path=str(path),
    )


def write(path: Path, kept: tuple[Token, ...]) -> None:
    """Replaces the file durably. Raises CannotWrite; the old file then stays."""
    try:
        replace_file(path, tokens.serialise(kept), mode=_MODE)
    except OSError as error:
        raise cannot_write(path, error) from None
