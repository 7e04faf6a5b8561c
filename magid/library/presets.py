"""Reads the presets of llama.cpp's router (--models-preset), an INI file. Pure.

Each section is a model; `[*]`, and keys above the first section, count for all. A key is an option
of llama-server without its dashes, or the environment variable of one.
"""

import configparser
from collections.abc import Iterator, Mapping
from typing import Any, Final

from magid.errors import InvalidInput
from magid.library.foreign import ForeignModel, ForeignModels
from magid.library.server_options import taken_over
from magid.llama import options
from magid.llama.runtime_settings import SETTINGS

_MAX_BYTES: Final = 2**20
_ALL: Final = "*"
_TOP: Final = "\x00"  # a section that no file can have, for keys above the first
_WORDS: Final[Mapping[str, bool]] = {
    "true": True, "on": True, "enabled": True, "1": True,
    "false": False, "off": False, "disabled": False, "0": False,
}  # fmt: skip
# Environment variables that are not the option's name in capitals.
_VARIABLES: Final[Mapping[str, str]] = {
    "N_PARALLEL": "--parallel", "N_PREDICT": "--n-predict", "BATCH": "--batch-size",
    "UBATCH": "--ubatch-size", "HF_REPO": "--hf-repo", "THREADS": "--threads",
}  # fmt: skip
_IS_SET: Final = frozenset(option for setting in SETTINGS for option in setting.options)


def parse(content: bytes, source: str) -> ForeignModels:
    """Raises InvalidInput if none of it can be used. What has no counterpart is a fault."""
    if len(content) > _MAX_BYTES:
        raise InvalidInput(f"cannot import {source}: it is larger than {_MAX_BYTES} bytes")
    reader = configparser.RawConfigParser(
        strict=False, delimiters=("=",), comment_prefixes=("#", ";"), default_section=_TOP,
        allow_no_value=True, empty_lines_in_values=False,
    )  # fmt: skip
    # As configparser documents it: names of options keep their capitals.
    reader.optionxform = str  # type: ignore[method-assign, assignment]
    try:
        # llama.cpp continues no line; configparser would continue those that are indented.
        lines = map(str.strip, content.decode("utf-8-sig").splitlines())
        reader.read_string("\n".join((f"[{_TOP}]", *lines)), source)
    except (configparser.Error, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidInput(f"cannot import {source}: it is no INI file: {reason}") from None
    shared = dict(reader.defaults())
    if reader.has_section(_ALL):
        shared |= dict(reader.items(_ALL))
    sections = [name for name in reader.sections() if name != _ALL]
    if not sections:
        raise InvalidInput(f"cannot import {source}: it has no section, as [my-model]")
    models = tuple(_model(name, {**shared, **dict(reader.items(name))}) for name in sections)
    return ForeignModels("llama.cpp presets", models)


def _model(name: str, keys: dict[str, Any]) -> ForeignModel:
    starts = _WORDS.get(str(keys.pop("load-on-startup", "")).lower(), False)
    idle = keys.pop("sleep-idle-seconds", None)
    for key in ("version", "stop-timeout"):
        keys.pop(key, None)
    found = taken_over(list(_words(keys)))
    found.settings["start"] = "always" if starts else "on-demand"
    if str(idle or "").isdecimal() and 1 <= int(idle) <= 2_592_000 and not starts:
        found.settings["idleStopSeconds"] = int(idle)
    repository, tag = found.repository, found.tag
    if not (found.path or repository) and name.count("/") == 1:
        repository, _, tag = name.partition(":")  # a model of the cache, by its own name
    return ForeignModel(
        name, found.path, repository, tag, found.settings, {name: {}}, tuple(found.faults)
    )


def _words(keys: Mapping[str, str | None]) -> Iterator[str]:
    """The command line that the keys stand for."""
    for key, value in keys.items():
        option = _option(key)
        text = (value or "").strip()
        is_on = _WORDS.get(text.lower())
        if value is None or _is_switch(option, is_on):
            yield from _switched(option, is_on)
        else:
            yield option
            yield text


def _is_switch(option: str, is_on: bool | None) -> bool:
    """Whether the option takes no value; one that magid does not know, by the value it has."""
    if options.is_switch(option) or options.is_switch(f"--no-{option.lstrip('-')}"):
        return True
    return is_on is not None and not options.is_option(option) and option not in _IS_SET


def _switched(option: str, is_on: bool | None) -> Iterator[str]:
    """The switch; if it is off, the one that says so, if there is one."""
    if is_on is not False:
        yield option
    elif options.is_switch(off := f"--no-{option.lstrip('-')}"):
        yield off


def _option(key: str) -> str:
    if key.startswith("LLAMA_ARG_"):
        name = key.removeprefix("LLAMA_ARG_")
        return _VARIABLES.get(name, "--" + name.lower().replace("_", "-"))
    if key.startswith("-"):
        return key
    return f"-{key}" if len(key) <= 3 and options.is_short(key) else f"--{key}"
