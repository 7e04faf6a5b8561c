"""Reads llama-swap's configuration: its models, their names, filters and times. Pure."""

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, Final

from magid.errors import InvalidInput
from magid.files import strict_yaml
from magid.files.strict_yaml import YamlError
from magid.library.foreign import ForeignModel, ForeignModels, Names
from magid.library.server_options import ServerOptions, taken_over

_MAX_BYTES: Final = 2**20
_MACRO: Final = re.compile(r"\$\{([A-Za-z0-9_.-]{1,64})\}")
_MOST_EXPANSIONS: Final = 1000  # of one command
_MOST_CHARACTERS: Final = 64 * 1024
_COMMENT: Final = re.compile(r"^\s*#.*$", re.MULTILINE)
# What its models have that says nothing of a decision of magid's.
_SILENT: Final = frozenset({
    "cmd", "aliases", "ttl", "filters", "proxy", "checkEndpoint", "name", "description", "macros",
    "cmdStop", "metadata", "unlisted", "sendLoadingState",
})  # fmt: skip
_WHOLE: Final[Mapping[str, str]] = {
    "groups": "which models run together is decided by memory here; see max_loaded in magid.yaml",
    "matrix": "which models run together is decided by memory here; see max_loaded in magid.yaml",
    "hooks": "models that start at boot have start=always here: magictl set MODEL start=always",
    "peers": "other machines are not asked; put a proxy in front of several magids",
    "apiKeys": "make tokens: magictl token create",
    "profiles": "make profiles: magictl profile create",
}


def parse(content: bytes, source: str) -> ForeignModels:
    """Raises InvalidInput if none of it can be used. What has no counterpart is a fault."""
    try:
        data = strict_yaml.loads(content, source, max_bytes=_MAX_BYTES).data
    except YamlError as error:
        raise InvalidInput(str(error)) from None
    models = data.get("models")
    if not isinstance(models, dict):
        raise InvalidInput(f"cannot import {source}: it has no mapping `models`, as llama-swap's")
    macros = _macros(data.get("macros"))
    found = tuple(
        _model(name, given, macros, data.get("globalTTL"))
        for name, given in models.items()
        if isinstance(given, dict)
    )
    faults = [
        f"{name}: it is not a mapping" for name, m in models.items() if not isinstance(m, dict)
    ]
    faults += [f"{key}: {why}" for key, why in _WHOLE.items() if data.get(key)]
    return ForeignModels("llama-swap", found, tuple(faults))


def _macros(given: Any) -> dict[str, str]:
    """A mapping, or a list of mappings, as newer releases write it."""
    parts = given if isinstance(given, list) else [given]
    return {
        name: str(value) for part in parts if isinstance(part, dict) for name, value in part.items()
    }


def _model(
    name: str, given: Mapping[str, Any], macros: Mapping[str, str], ttl: Any
) -> ForeignModel:
    own = {**macros, **_macros(given.get("macros")), "MODEL_ID": name, "PORT": "1"}
    faults = [
        f"{key} has no counterpart" for key, value in given.items() if value and key not in _SILENT
    ]
    found = ServerOptions(settings={}, faults=[])
    try:
        found = taken_over(_arguments(_expanded(str(given.get("cmd") or ""), own)))
    except ValueError as error:
        faults.append(str(error))
    faults += found.faults
    found.settings["start"] = "on-demand"
    found.settings.update(_idle(given.get("ttl", ttl), faults))
    return ForeignModel(
        name,
        found.path,
        found.repository,
        found.tag,
        found.settings,
        _names(name, given, own, faults),
        tuple(faults),
    )


def _expanded(text: str, macros: Mapping[str, str]) -> str:
    """Puts in the macros, which may hold macros. Raises ValueError for one that is unknown."""
    for _ in range(_MOST_EXPANSIONS):
        match = _MACRO.search(text)
        if match is None:
            return text
        if match[1] not in macros or len(text) > _MOST_CHARACTERS:
            raise ValueError(f"its command cannot be read: macro {match[0]}")
        text = text[: match.start()] + macros[match[1]] + text[match.end() :]
    raise ValueError("its command cannot be read: its macros never end")


def _arguments(command: str) -> list[str]:
    """The words behind the llama-server, or behind llama.cpp's image. Raises ValueError."""
    try:
        words = shlex.split(_COMMENT.sub("", command).replace("\\\n", " "))
    except ValueError as error:
        raise ValueError(f"its command cannot be read: {error}") from None
    for at, word in enumerate(words):
        is_server = PurePosixPath(word).name.startswith("llama-server")
        if is_server or ("llama.cpp" in word and ":" in word and not word.startswith("-")):
            return words[at + 1 :]
    raise ValueError(f"its command starts {words[0] if words else 'nothing'!r}, not llama-server")


def _idle(ttl: Any, faults: list[str]) -> Iterator[tuple[str, int]]:
    """Its models stop after so many seconds; 0 and -1 mean never."""
    if ttl is None or ttl in (0, -1):
        return
    if type(ttl) is int and 1 <= ttl <= 2_592_000:
        yield "idleStopSeconds", ttl
    else:
        faults.append(f"ttl {ttl!r:.40} should be whole seconds")


def _names(
    name: str, given: Mapping[str, Any], macros: Mapping[str, str], faults: list[str]
) -> Names:
    aliases = given.get("aliases") or []
    if not isinstance(aliases, list):
        aliases = [aliases]
    filters = given.get("filters") or {}
    if not isinstance(filters, dict):
        faults.append("filters should be a mapping")
        filters = {}
    variant = _variant(filters, faults)
    names: dict[str, Mapping[str, Any]] = {str(one): variant for one in (name, *aliases)}
    for pattern, parameters in _mapping(filters, "setParamsByID", faults).items():
        try:
            one = _expanded(str(pattern), macros)
        except ValueError:
            faults.append(f"filters.setParamsByID: {pattern!r:.60} cannot be read")
            continue
        given_set = {
            **variant.get("set", {}),
            **(parameters if isinstance(parameters, dict) else {}),
        }
        names[one] = {**variant, "set": given_set} if given_set else variant
    return names


def _variant(filters: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    """A profile's variant. llama-swap never changes `model` either."""
    known = {"stripParams", "strip_params", "setParams", "setParamsByID"}
    faults += [f"filters.{key} has no counterpart" for key in filters if key not in known]
    strip = filters.get("stripParams") or filters.get("strip_params") or ""
    words = [one.strip() for one in strip.split(",")] if isinstance(strip, str) else []
    made: dict[str, Any] = {}
    values = _mapping(filters, "setParams", faults)
    if values:
        made["set"] = values
    stripped = [word for word in words if word and word != "model" and word not in values]
    return {**made, "strip": stripped} if stripped else made


def _mapping(filters: Mapping[str, Any], key: str, faults: list[str]) -> dict[str, Any]:
    given = filters.get(key) or {}
    if isinstance(given, dict):
        return {name: value for name, value in given.items() if name != "model"}
    faults.append(f"filters.{key} should be a mapping")
    return {}
