"""The types of settings: their checks, and the messages for values that fail them. Pure."""

import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from msgspec import Meta

from magid.config.addresses import is_host, is_network, is_origin, parse_address
from magid.files.schema import Rule


def listenable(text: str) -> str:
    try:
        parse_address(text)
    except ValueError as error:
        raise ValueError(f"should be {error}") from None
    return text


def host(text: str) -> str:
    host = text.lower()
    if not is_host(host):
        raise ValueError("should be a host name or an IP address, without port and brackets")
    return host


def origin(text: str) -> str:
    origin = text.lower().removesuffix("/")
    if not is_origin(origin):
        raise ValueError(
            "should be like https://magi.example, http://localhost:5173 or app://obsidian.md"
        )
    return origin


def network(text: str) -> str:
    if not is_network(text):
        raise ValueError("should be an IP address or a network, like 127.0.0.1 or 10.1.0.0/16")
    return text


_PATH = range(1, 200)  # characters


def path_prefix(text: str) -> str:
    """Returns the path with a slash at both ends. It becomes a part of a Set-Cookie header."""
    if not re.fullmatch(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*/?", text) or len(text) not in _PATH:
        raise ValueError("should be a path like /magi/")
    return text if text.endswith("/") else f"{text}/"


def hub_address(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
        raise ValueError("should be like https://huggingface.co, without a user and a query")
    return text.rstrip("/")


def profile_name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", text):  # as in catalog.profile
        raise ValueError("should be a profile's name, like fast-only")
    return text


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) != len(values):
        raise ValueError("should have no duplicates")
    return values


def ordered(values: tuple[int, int]) -> tuple[int, int]:
    if values[0] > values[1]:
        raise ValueError(f"should be [lowest, highest], not [{values[0]}, {values[1]}]")
    return values


Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Port = Annotated[int, Meta(ge=1024, le=65_535)]
Billions = Annotated[float, Meta(ge=0, le=100_000)]
Host = Annotated[str, Rule(host)]
