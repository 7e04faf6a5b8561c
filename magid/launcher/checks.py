"""Checks of the values in a request. Pure.

Each returns the value with the type that it has then, or raises InvalidInput with its name.
"""

import re
from collections.abc import Callable
from typing import Any

from magid.errors import InvalidInput

_PATH = re.compile(r"/[^\x00]{1,4094}")

Check = Callable[[str, Any], Any]


def boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise bad(name, "should be true or false")
    return value


def whole_number(low: int, high: int) -> Check:
    def check(name: str, value: Any) -> int:
        if type(value) is not int or not low <= value <= high:  # to isinstance, a bool is an int
            raise bad(name, f"should be a whole number from {low} to {high}")
        return value

    return check


def matching(pattern: re.Pattern[str], says: str) -> Check:
    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise bad(name, f"should be {says}")
        return value

    return check


def or_none(other: Check) -> Check:
    return lambda name, value: None if value is None else other(name, value)


def many(item: Check, most: int) -> Check:
    def check(name: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) > most:
            raise bad(name, f"should be a list of at most {most}")
        return tuple(item(f"{name}[{at}]", part) for at, part in enumerate(value))

    return check


def path(name: str, value: Any) -> str:
    """Checks for an absolute path in its one shortest form, of printable characters."""
    if (
        not isinstance(value, str)
        or not _PATH.fullmatch(value)
        or not value.isprintable()
        or {"", ".", ".."} & set(value[1:].split("/"))
    ):
        raise bad(name, "should be an absolute path, without '..' and unprintable characters")
    return value


def plain_path(name: str, value: Any) -> str:
    """Checks a path of a list: llama-server ends it at a comma and at a colon."""
    found = path(name, value)
    if not {",", ":"}.isdisjoint(found):
        raise bad(name, "should have no comma and no colon")
    return found


def one_of(words: tuple[str, ...]) -> Callable[[str, Any], str]:
    def check(name: str, value: Any) -> str:
        if value not in words:
            raise bad(name, f"should be one of {', '.join(words)}")
        return str(value)

    return check


def bad(name: str, why: str) -> InvalidInput:
    return InvalidInput(f"cannot use {name}: it {why}", field=name)
