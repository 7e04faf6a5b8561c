"""Takes over options of a llama-server that another program starts. Pure.

An option of which magid has a run-time setting becomes that; one that users may give as `extraArgs`
becomes one of those; one that magid sets itself is dropped; any other is a fault, one sentence.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from msgspec import Struct

from magid.errors import InvalidInput
from magid.llama import options
from magid.llama.runtime_settings import SETTINGS

_SETTINGS: Final = {option: setting for setting in SETTINGS for option in setting.options}
_MODEL: Final = frozenset({"-m", "--model"})
_REPOSITORY: Final = frozenset({"-hf", "-hfr", "--hf-repo"})
_IN_REPOSITORY: Final = frozenset({"-hff", "--hf-file"})
# magid chooses these, or does the same without being asked.
_DROPPED: Final = frozenset({
    "--port", "--host", "-a", "--alias", "-mm", "--mmproj", "--metrics", "--slots", "--props",
    "--no-webui", "--no-ui", "--webui", "--ui", "--offline", "--embedding", "--embeddings",
    "--rerank", "--reranking", "--no-mmproj", "--mmproj-auto", "--no-mmproj-auto", "--log-disable",
    "--cont-batching", "-cb", "--warmup", "--mmap", "--repack", "--log-timestamps",
    "--log-prefix", "--log-colors", "--no-slots",
})  # fmt: skip
_FLAGS: Final = frozenset({
    "--metrics", "--slots", "--props", "--no-webui", "--no-ui", "--webui", "--ui", "--offline",
    "--embedding", "--embeddings", "--rerank", "--reranking", "--no-mmproj", "--mmproj-auto",
    "--no-mmproj-auto", "--log-disable", "--cont-batching", "-cb", "--warmup", "--mmap",
    "--repack", "--log-timestamps", "--log-prefix", "--no-slots",
})  # fmt: skip
_AS_UNSET: Final = {"--n-gpu-layers": frozenset({"auto", "all", "999", "9999"})}
_VALUE: Final = re.compile(r"-?[0-9.]+.*|[^-].*|", re.S)


class ServerOptions(Struct):
    """What a list of options says."""

    path: str = ""
    repository: str = ""
    tag: str = ""
    settings: dict[str, Any] = {}
    faults: list[str] = []


def taken_over(words: Sequence[str]) -> ServerOptions:
    """Reads llama-server's arguments, without the program. Later options replace earlier ones."""
    found = ServerOptions(settings={}, faults=[])
    extra: dict[str, list[str]] = {}
    for option, value in _pairs(words):
        _add(found, extra, option, value)
    if extra:
        found.settings["extraArgs"] = [word for words in extra.values() for word in words]
    return found


def _pairs(words: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yields each option with its value; None for one without."""
    left = list(words)
    while left:
        option = left.pop(0)
        takes = not options.is_switch(option) and option not in _FLAGS
        has = takes and left and option.startswith("-") and _VALUE.fullmatch(left[0])
        yield option, left.pop(0) if has else None


def _add(found: ServerOptions, extra: dict[str, list[str]], option: str, value: str | None) -> None:
    if option in _MODEL:
        found.path = value or ""
    elif option in _REPOSITORY:
        found.repository, _, found.tag = (value or "").partition(":")
    elif option in _IN_REPOSITORY:
        found.tag = (value or "").rpartition("/")[2].removesuffix(".gguf")
    elif option in _SETTINGS:
        _set(found, option, value or "")
    elif option in _DROPPED:
        return
    else:
        pair = [option] if value is None else [option, value]
        try:
            options.check_extra_args(pair)
        except InvalidInput as error:
            found.faults.append(_reason(option, error.message))
        else:
            extra[options.first_spelling(option)] = pair


def _reason(option: str, message: str) -> str:
    """The message without the place in a list that the person has not written."""
    reason = message.partition("): ")[2] or message
    return reason if option in reason else f"{option}: {reason}"


def _set(found: ServerOptions, option: str, text: str) -> None:
    setting = _SETTINGS[option]
    if text in _AS_UNSET.get(setting.options[0], ()):
        found.settings.pop(setting.key, None)
        return
    try:
        found.settings[setting.key] = setting.values.parse(text)
    except ValueError as error:
        found.faults.append(f"{option} {text:.60}: {setting.key} {error}")
