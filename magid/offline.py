"""The first token, made while magid does not run: it would not start where it needs one.

Root becomes the user whom the state directory belongs to, before anything is touched in it.
"""

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from magid import config, store, tokenfile, tokens
from magid.errors import AlreadyRunning, CannotWrite, Conflict, MagidError
from magid.tokens import Scope


class Impossible(Exception):
    """It cannot be done; the text is for a person."""


def create_token(env: Mapping[str, str], body: Mapping[str, Any]) -> dict[str, str]:
    """What POST /api/tokens does, in the state directory of the configuration in force. Blocks.

    Raises Impossible, also while magid runs.
    """
    try:
        folder = config.load({}, env).config.state_dir
        _become_owner(folder)
        lock = _lock(folder)
        try:
            return _create(folder / tokenfile.NAME, body)
        finally:
            lock.release()
    except MagidError as error:
        raise Impossible(error.message) from None


def _lock(folder: Path) -> store.Lock:
    try:
        return store.lock(folder)
    except AlreadyRunning:
        raise Conflict(
            f"cannot make a token in {folder}: magid is running; leave --offline out"
        ) from None


def _create(path: Path, body: Mapping[str, Any]) -> dict[str, str]:
    expires = body.get("expiresAt")
    token, secret = tokens.make(
        body["name"],
        map(Scope, body["scopes"]),
        models=body.get("models"),
        expires_at=datetime.fromisoformat(expires) if expires else None,
    )
    tokenfile.write(path, tokens.added(tokenfile.read(path) or (), token))
    return {"message": f"Token {token.name!r} made; it is shown only here", "token": secret}


def _become_owner(folder: Path) -> None:
    """Files that root made would not be magid's to read, and its folder could lead root astray."""
    try:
        owner = folder.stat()
    except OSError as error:
        raise CannotWrite(
            f"cannot make a token in {folder}: {error.strerror}; give it as magid has it, in "
            "magid.yaml (state_dir) or MAGI_STATE_DIR"
        ) from None
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.setgroups([])
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)
