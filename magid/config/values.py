"""The types of settings: their checks, and the messages for values that fail them. Pure."""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, StrictStr
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from magid.config.addresses import is_host, is_network, is_origin, parse_address


def refused(reason: str) -> PydanticCustomError:
    return PydanticCustomError("setting", "{reason}", {"reason": reason})


def refused_at(key: str, value: object, reason: str) -> ValidationError:
    """The same error, for one key of a section that is checked as a whole."""
    details = InitErrorDetails(type=refused(reason), loc=(key,), input=value)
    return ValidationError.from_exception_data("setting", [details])


def absolute(value: object) -> object:
    if not isinstance(value, (str, Path)) or not str(value).startswith("/"):
        raise refused("should be an absolute path")
    if not str(value).isprintable():  # it goes into JSON, and into lines of logs
        raise refused("should be a path of printable UTF-8 text")
    return value


def listenable(text: str) -> str:
    try:
        parse_address(text)
    except ValueError as error:
        raise refused(f"should be {error}") from None
    return text


def host(text: str) -> str:
    host = text.lower()
    if not is_host(host):
        raise refused("should be a host name or an IP address, without port and brackets")
    return host


def origin(text: str) -> str:
    origin = text.lower().removesuffix("/")
    if not is_origin(origin):
        raise refused(
            "should be like https://magi.example, http://localhost:5173 or app://obsidian.md"
        )
    return origin


def network(text: str) -> str:
    if not is_network(text):
        raise refused("should be an IP address or a network, like 127.0.0.1 or 10.1.0.0/16")
    return text


def profile_name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", text):  # as in catalog.profile
        raise refused("should be a profile's name, like fast-only")
    return text


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) != len(values):
        raise refused("should have no duplicates")
    return values


def ordered(values: tuple[int, int]) -> tuple[int, int]:
    if values[0] > values[1]:
        raise refused(f"should be [lowest, highest], not [{values[0]}, {values[1]}]")
    return values


def one_line(text: str) -> str:
    if not text or not text.isprintable():
        raise refused("should be text on one line")
    return text


AbsolutePath = Annotated[Path, BeforeValidator(absolute)]
Seconds = Annotated[float, Field(strict=True, gt=0, le=86_400, allow_inf_nan=False)]
Port = Annotated[int, Field(strict=True, ge=1024, le=65_535)]
Billions = Annotated[float, Field(strict=True, ge=0, le=100_000, allow_inf_nan=False)]
Host = Annotated[StrictStr, AfterValidator(host)]
Line = Annotated[StrictStr, Field(max_length=4096), AfterValidator(one_line)]
