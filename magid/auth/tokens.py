"""Tokens for callers of the API: format, scopes, and the stored part. Pure.

A token is `magi_ID_SECRET`: ID finds its entry, SECRET is 43 letters and digits, 256 random bits.
Only the SHA-256 of the whole is stored. A slow hash, as for passwords, would add nothing, because
2^256 secrets cannot be tried at any speed, and would cost each request milliseconds.
"""

import hashlib
import re
import secrets
import string
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace
from typing_extensions import TypedDict

from magid.errors import InvalidInput, TokenExists, TokenNotFound

FORMAT: Final = 1
MAX_TOKENS = 1000
MAX_MODELS = 100  # of one token
MAX_LIMIT = 10**12
_LETTERS = string.ascii_letters + string.digits
_SECRET_LENGTH = 43  # 62^43 > 2^256
_FIRST = datetime(1, 1, 1, tzinfo=UTC)
_LAST = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
_TOKEN = re.compile(rb"magi_([0-9a-f]{8})_[0-9A-Za-z]{43}")
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"


class Scope(StrEnum):
    """What a token allows."""

    READ = "read"  # GET below /api, metrics
    ADMIN = "admin"  # everything
    INFER = "infer"  # the gateway


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(values))


# `\Z`: for Python, `$` is before a final newline too.
Moment = Annotated[datetime, Meta(tz=True)]


Limit = Annotated[int, Meta(ge=1, le=MAX_LIMIT)]


class TokenLimits(
    Struct, frozen=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True
):
    """What a token may ask of the gateway; None: as much as it likes."""

    requests_per_minute: Limit | None = None
    tokens_per_day: Limit | None = None
    requests_at_once: Limit | None = None


class Token(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    """The stored part of a token. `models`: ids, globs, aliases or tiers; None: all models."""

    name: Annotated[str, Meta(pattern=rf"^{NAME}\Z")]
    id: Annotated[str, Meta(pattern=r"^[0-9a-f]{8}\Z")]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1, max_length=3)]
    created_at: Moment
    models: (
        Annotated[
            tuple[Annotated[str, Meta(min_length=1, max_length=200)], ...],
            Meta(min_length=1, max_length=MAX_MODELS),
        ]
        | None
    ) = None
    limits: TokenLimits | None = None
    expires_at: Moment | None = None
    last_used_at: Moment | None = None  # up to ten minutes old: see `token_store`


class ApiLimits(TypedDict):
    requestsPerMinute: int | None
    tokensPerDay: int | None
    requestsAtOnce: int | None


class ApiToken(TypedDict):
    """A token in the API's answers, without its secret."""

    name: str
    id: str
    scopes: list[Scope]
    models: list[str] | None
    limits: ApiLimits | None
    createdAt: str
    expiresAt: str | None
    expired: bool
    lastUsedAt: str | None


class _TokenFile(Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal[1]
    tokens: Annotated[tuple[Token, ...], Meta(max_length=MAX_TOKENS)]


class Credential(Struct, frozen=True):
    """What a caller presented, hashed. `id` is empty if it does not have a token's format.

    `is_session`: it is a session's cookie, and `lacks` says why the request may not act with it.
    """

    id: str
    digest: bytes
    is_session: bool = False
    lacks: str = ""


def mint() -> tuple[str, str, str]:
    """Returns a new token, its id, and the hash to store."""
    ident = secrets.token_hex(4)
    secret = "".join(secrets.choice(_LETTERS) for _ in range(_SECRET_LENGTH))
    token = f"magi_{ident}_{secret}"
    return token, ident, hashlib.sha256(token.encode()).hexdigest()


def credential_from_headers(
    authorization: bytes | None, api_key: bytes | None
) -> Credential | None:
    """Returns the credential in the two headers, if any; `Bearer TOKEN` wins over `x-api-key`.

    Takes the same time for any content.
    """
    held = api_key or None
    if authorization:
        scheme, _, rest = authorization.strip().partition(b" ")
        held = rest.strip() if scheme.lower() == b"bearer" else authorization
    if not held:
        return None
    return credential_of(held)


def credential_of(held: bytes) -> Credential:
    """Returns the credential that a token is, hashed."""
    match = _TOKEN.fullmatch(held)
    return Credential(match[1].decode() if match else "", hashlib.sha256(held).digest())


def has_expired(token: Token, now: datetime) -> bool:
    return token.expires_at is not None and token.expires_at <= now


def shown(token: Token, now: datetime) -> ApiToken:
    """Returns the token for the API."""
    return {
        "name": token.name,
        "id": token.id,
        "scopes": list(token.scopes),
        "models": None if token.models is None else list(token.models),
        "limits": _shown_limits(token.limits),
        "createdAt": _time(token.created_at) or "",
        "expiresAt": _time(token.expires_at),
        "expired": has_expired(token, now),
        "lastUsedAt": _time(token.last_used_at),
    }


def _shown_limits(limits: TokenLimits | None) -> ApiLimits | None:
    return (
        None
        if limits is None
        else {
            "requestsPerMinute": limits.requests_per_minute,
            "tokensPerDay": limits.tokens_per_day,
            "requestsAtOnce": limits.requests_at_once,
        }
    )


def _time(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


# -- all tokens ----------------------------------------------------------------------------------


def make(
    name: str,
    scopes: Iterable[Scope],
    *,
    models: Iterable[str] | None = None,
    limits: TokenLimits | None = None,
    expires_at: datetime | None = None,
    now: datetime | None = None,
) -> tuple[Token, str]:
    """Makes a token; returns its entry and the token itself.

    Raises InvalidInput for a date in the past or beyond the year 9999, a limit without effect, and
    an invalid name.
    """
    given, only = tuple(scopes), None if models is None else tuple(models)
    _check_models(given, only)
    if limits is not None:
        _check_limited(given)
    created = (now or datetime.now(UTC)).replace(microsecond=0)
    if expires_at is not None and expires_at <= created:
        raise InvalidInput(
            f"cannot make a token that expires at {expires_at.isoformat()}: that is in the past; "
            "give a later time",
            field="expiresAt",
        )
    expires_at = None if expires_at is None else _expiry(expires_at)
    secret, ident, digest = mint()
    token = Token(
        name=name,
        id=ident,
        sha256=digest,
        scopes=_distinct(given),
        models=None if only is None else _distinct(only),
        limits=_or_none(limits),
        created_at=created,
        expires_at=expires_at,
    )
    try:
        return msgspec.convert(msgspec.to_builtins(token), Token), secret
    except msgspec.ValidationError as error:
        raise InvalidInput(f"cannot make a token: {_fault(error)}") from None


def _expiry(moment: datetime) -> datetime:
    """In UTC, as it is shown. Raises InvalidInput where UTC has no such date."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise InvalidInput(
            f"cannot make a token that expires at {moment.isoformat()}: in UTC that is beyond the "
            "year 9999; give an earlier time, or none",
            field="expiresAt",
        ) from None


def _check_limited(scopes: tuple[Scope, ...]) -> None:
    if Scope.INFER not in scopes and Scope.ADMIN not in scopes:
        raise InvalidInput(
            "cannot limit the requests of this token: only those to the gateway are limited; give "
            "it the scope infer",
            field="limits",
        )


def _or_none(limits: TokenLimits | None) -> TokenLimits | None:
    return None if limits == TokenLimits() else limits


def _check_models(scopes: tuple[Scope, ...], models: tuple[str, ...] | None) -> None:
    if models is None:
        return
    if Scope.ADMIN in scopes or Scope.INFER not in scopes:
        raise InvalidInput(
            "cannot limit this token to models: the limit applies only to the gateway; give it the "
            "scope infer, and not admin",
            field="models",
        )
    if "auto" in models:
        raise InvalidInput(
            "cannot limit a token to auto, which is not a model: omit it; auto chooses among the "
            "models that the token may use",
            field="models",
        )
    for model in models:
        try:
            model.encode()
        except UnicodeEncodeError:
            raise InvalidInput(
                f"cannot limit a token to {model[:100]!r}: it is not valid Unicode, so no model "
                "has this name; GET /v1/models lists the names",
                field="models",
            ) from None


def added(tokens: tuple[Token, ...], new: Token) -> tuple[Token, ...]:
    """Adds a token. Raises TokenExists if the name is taken, InvalidInput if there are too many."""
    if any(token.name == new.name for token in tokens):
        raise TokenExists(
            f"cannot make token {new.name!r}: it exists already; choose another name, or revoke it "
            f"first: magictl token revoke {new.name}",
            name=new.name,
        )
    if len(tokens) >= MAX_TOKENS:
        raise InvalidInput(f"cannot keep more than {MAX_TOKENS} tokens; revoke some first")
    return (*tokens, new)


def without(tokens: tuple[Token, ...], name: str) -> tuple[Token, ...]:
    """Removes a token. Raises TokenNotFound."""
    left = tuple(token for token in tokens if token.name != name)
    if len(left) == len(tokens):
        raise TokenNotFound(
            f"cannot find token {name[:100]!r}: it does not exist; GET /api/tokens lists all "
            "(magictl token ls)",
            name=name[:100],
        )
    return left


def limited(tokens: tuple[Token, ...], name: str, limits: TokenLimits) -> tuple[Token, ...]:
    """The token of this name has these limits. Raises TokenNotFound, InvalidInput."""
    others = without(tokens, name)
    token = next(token for token in tokens if token.name == name)
    _check_limited(token.scopes)
    return (*others, replace(token, limits=_or_none(limits)))


def limits_of(given: Mapping[str, Any]) -> TokenLimits:
    """Returns limits by the API's names. Raises InvalidInput."""
    try:
        return msgspec.convert(given, TokenLimits)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"cannot limit a token: {_fault(error)}", field="limits") from None


def _fault(error: msgspec.ValidationError) -> str:
    """Returns what does not fit, with its place before it, and never the value."""
    what, _, where = str(error).partition(" - at `$.")
    return f"{where.rstrip('`')}: {what}" if where else what


def parse(content: bytes) -> tuple[Token, ...]:
    """Parses the content of a token file. Raises ValueError with the first problem."""
    try:
        found = msgspec.json.decode(content, type=_TokenFile).tokens
    except msgspec.ValidationError as error:
        raise ValueError(_fault(error)) from None
    for what in ("name", "id"):
        seen = [getattr(token, what) for token in found]
        if len(set(seen)) < len(seen):
            raise ValueError(f"two tokens have the same {what}")
    return tuple(map(_with_times_in_utc, found))


def _with_times_in_utc(token: Token) -> Token:
    created, expires, used = map(_utc, (token.created_at, token.expires_at, token.last_used_at))
    return replace(token, created_at=created, expires_at=expires, last_used_at=used)


def _utc(moment: datetime | None) -> datetime | None:
    """The second in UTC; where UTC has no such date, the first or last one that it has."""
    if moment is None:
        return None
    try:
        return moment.replace(microsecond=0).astimezone(UTC)
    except OverflowError:
        return _FIRST if moment.year == 1 else _LAST


def serialise(tokens: Iterable[Token]) -> bytes:
    document = _TokenFile(format=FORMAT, tokens=tuple(tokens))
    return msgspec.json.format(msgspec.json.encode(document)) + b"\n"
