"""Manages tokens while magid is not running: without a token it may be unable to start.

Root switches to the owner of the state directory before it touches a file in it.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from magid.auth import token_store, tokens
from magid.auth.tokens import Scope, Token
from magid.config import loading
from magid.errors import AlreadyRunning, CannotWrite, Conflict, MagidError
from magid.files import lock as document


class Impossible(Exception):
    """The operation failed; the text is for a person. `code` and `details` are as in the API."""

    def __init__(self, error: MagidError) -> None:
        super().__init__(error.message)
        self.code = error.code
        self.details = dict(error.details)


def create_token(env: Mapping[str, str], body: Mapping[str, Any]) -> dict[str, Any]:
    """Does the same as POST /api/tokens, in the configured state directory. Blocks.

    Raises Impossible, also if magid is running, as the other functions do.
    """
    return _done(env, lambda path: _create(path, body))


def list_tokens(env: Mapping[str, str]) -> dict[str, Any]:
    """Does the same as GET /api/tokens."""
    return _done(env, _list)


def revoke_token(env: Mapping[str, str], name: str) -> dict[str, Any]:
    """Does the same as DELETE /api/tokens/{name}."""
    return _done(env, lambda path: _revoke(path, name))


def _done(env: Mapping[str, str], do: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    try:
        folder = loading.load({}, env).config.state_dir
        with _owned(folder):
            return do(folder / token_store.NAME)
    except MagidError as error:
        raise Impossible(error) from None


@contextmanager
def _owned(folder: Path) -> Iterator[None]:
    """Holds magid's lock, so that no other process changes the state directory meanwhile."""
    _become_owner(folder)
    try:
        lock = document.lock(folder)
    except AlreadyRunning:
        raise Conflict(
            f"cannot use the tokens in {folder}: magid is running; omit --offline"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _create(path: Path, body: Mapping[str, Any]) -> dict[str, Any]:
    expires = body.get("expiresAt")
    token, secret = tokens.make(
        body["name"],
        map(Scope, body["scopes"]),
        models=body.get("models"),
        limits=tokens.limits_of(body["limits"]) if body.get("limits") else None,
        expires_at=datetime.fromisoformat(expires) if expires else None,
    )
    token_store.write(path, tokens.added(_read(path), token))
    return {
        "message": f"Token {token.name!r} made; it is shown only once",
        "token": secret,
        "entry": _shown(token),
    }


def _list(path: Path) -> dict[str, Any]:
    found = token_store.read(path)
    by_name = sorted(found or (), key=lambda token: token.name)
    return {"required": found is not None, "problem": None, "tokens": [*map(_shown, by_name)]}


def _revoke(path: Path, name: str) -> dict[str, Any]:
    token_store.write(path, tokens.without(_read(path), name))
    return {"message": f"Token {name!r} revoked"}


def _read(path: Path) -> tuple[Token, ...]:
    return token_store.read(path) or ()


def _shown(token: Token) -> tokens.ApiToken:
    return tokens.shown(token, datetime.now(UTC))


def _become_owner(folder: Path) -> None:
    """Drops root: magid could not read root's files, and its folder could have hostile links."""
    try:
        owner = folder.stat()
    except OSError as error:
        raise CannotWrite(
            f"cannot use the tokens in {folder}: {error.strerror}; set magid's state directory, in "
            "magid.yaml (state_dir) or MAGI_STATE_DIR"
        ) from None
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.setgroups([])
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)
