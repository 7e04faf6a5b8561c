"""A daemon with tokens of each kind."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from magid.auth import token_store, tokens
from magid.auth.tokens import Scope
from tests.support.rest import Parts
from tests.support.running import Running

NOW = datetime.now(UTC)
MADE = {
    "admin": tokens.make("admin", [Scope.ADMIN]),
    "read": tokens.make("read", [Scope.READ]),
    "infer": tokens.make("infer", [Scope.INFER]),
    "small": tokens.make("small", [Scope.INFER], models=["my-model", "tier:balanced"]),
    "expired": tokens.make(
        "expired", [Scope.ADMIN], now=NOW - timedelta(2), expires_at=NOW - timedelta(1)
    ),
    "revoked": tokens.make("revoked", [Scope.ADMIN]),
}
SECRETS = {name: secret for name, (_, secret) in MADE.items()}
UNKNOWN = tokens.mint()[0]


def with_tokens(parts: Parts, folder: Path, configuration: str = "") -> Running:
    """A daemon with all those tokens and a unix socket, not started; its client shows `admin`."""
    running = parts.daemon(folder, configuration)
    running.listen_locally()
    token_store.write(running.state / token_store.NAME, tuple(token for token, _ in MADE.values()))
    running.use_token(SECRETS["admin"])
    return running
