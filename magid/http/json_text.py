"""JSON of any content, by pydantic_core, which the first use imports: no start waits for it."""

from typing import Any, Literal


def to_json(value: object) -> bytes:
    """Returns `value` as JSON. Raises ValueError for a value that JSON does not have."""
    import pydantic_core

    return pydantic_core.to_json(value)


def from_json(
    text: str | bytes | bytearray, *, cache_strings: Literal["all", "keys"] = "all"
) -> Any:
    """Parses JSON. `cache_strings` says which strings share memory. Raises ValueError."""
    import pydantic_core

    return pydantic_core.from_json(text, cache_strings=cache_strings)
