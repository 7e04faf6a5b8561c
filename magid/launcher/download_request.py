"""The request about a download, checked to the last part. Pure."""

from dataclasses import fields
from typing import Any, Final

from msgspec import Struct

from magid.errors import InvalidInput
from magid.library.source import ModelSource, checked
from magid.library.transfer_command import ACTIONS, MOST_CHECKED

_PARTS: Final = {field.name for field in fields(ModelSource)}


class DownloadRequest(Struct, frozen=True):
    """Carries out one action of `magi-download` in a unit of its own.

    `run` starts the unit and does not wait for it; `list` and `check` reply as
    `protocol.output_reply` does. `more`: further models that `check` is about.
    Where to download from and to, only the configuration says.
    """

    action: str
    source: ModelSource
    more: tuple[ModelSource, ...] = ()


def checked_download(action: Any, source: Any, more: Any = ()) -> DownloadRequest:
    """Returns the request if each part of it has its type and form. Raises InvalidInput."""
    if action not in ACTIONS:
        raise _unusable("action", f"should be one of {', '.join(ACTIONS)}")
    if not isinstance(more, list | tuple) or len(more) >= MOST_CHECKED:
        raise _unusable("more", f"should be a list of up to {MOST_CHECKED - 1} models")
    if more and action != "check":
        raise _unusable("more", "is for `check` alone")
    further = tuple(_source(one) for one in more)
    if any(one.tag or one.draft for one in further):
        raise _unusable("more", "should name files, without tags or drafts")
    return DownloadRequest(action, _source(source), further)


def _source(source: Any) -> ModelSource:
    if not isinstance(source, dict) or source.keys() != _PARTS:
        raise _unusable("source", f"should have {', '.join(sorted(_PARTS))}")
    texts = [value for name, value in source.items() if name != "draft"]
    if type(source["draft"]) is not bool or not all(isinstance(text, str) for text in texts):
        raise _unusable("source", "should have texts, and true or false as draft")
    return checked(ModelSource(**source))


def _unusable(name: str, why: str) -> InvalidInput:
    return InvalidInput(f"cannot use {name}: it {why}", field=name)
