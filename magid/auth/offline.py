"""Tokens while magid does not run: it would not start where it needs one and there is none.

Root becomes the owner of the state directory before it touches anything in there.
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
    """It cannot be done; the text is for a person. `code` and `details` as of the API."""

    def __init__(self, error: MagidError) -> None:
        super().__init__(error.message)
        self.code = error.code
        self.details = dict(error.details)


def create_token(env: Mapping[str, str], body: Mapping[str, Any]) -> dict[str, Any]:
    """What POST /api/tokens does, in the state directory of the configuration in force. Blocks.

    Raises Impossible, also while magid runs; the others do too.
    """
    return _done(env, lambda path: _create(path, body))


def list_tokens(env: Mapping[str, str]) -> dict[str, Any]:
    """What GET /api/tokens does."""
    return _done(env, _list)


def revoke_token(env: Mapping[str, str], name: str) -> dict[str, Any]:
    """What DELETE /api/tokens/{name} does."""
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
    """Holds magid's own lock: no other process changes the state directory meanwhile."""
    _become_owner(folder)
    try:
        lock = document.lock(folder)
    except AlreadyRunning:
        raise Conflict(
            f"cannot use the tokens in {folder}: magid is running; leave --offline out"
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
        expires_at=datetime.fromisoformat(expires) if expires else None,
    )
    token_store.write(path, tokens.added(_read(path), token))
    return {
        "message": f"Token {token.name!r} made; it is shown only here",
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
    """Files that root made would not be magid's to read, and its folder could lead root astray."""
    try:
        owner = folder.stat()
    except OSError as error:
        raise CannotWrite(
            f"cannot use the tokens in {folder}: {error.strerror}; give it as magid has it, in "
            "magid.yaml (state_dir) or MAGI_STATE_DIR"
        ) from None
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.setgroups([])
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)
