"""Settings from defaults, the file, the environment and the command line, each with its source."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args

import msgspec
from msgspec import Struct

from magid.config.settings import Config, Section
from magid.errors import InvalidConfig
from magid.files import schema, strict_yaml
from magid.files.schema import Fault, Mismatch, Schema
from magid.files.strict_yaml import Scalar, YamlError
from magid.llama.runtime_settings import BY_NAME, SETTINGS, RuntimeSettings, numbers_of

DEFAULT_PATH = Path("/etc/magi/magid.yaml")


# -- where values come from ----------------------------------------------------------------------


def _text(text: str) -> Scalar:
    return text


def _name(text: str) -> Scalar:
    return None if text == "null" else text  # as in the file: none


def _path(text: str) -> str:
    return str(Path(text).absolute())  # relative to the working directory, as in a shell


def _paths(text: str) -> list[str]:
    return [_path(part) for part in text.split(os.pathsep) if part]


def _words(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _range(text: str) -> list[Scalar]:
    return [strict_yaml.scalar(part.strip()) for part in text.split("-")]


# Settings that have a flag: the parser of its text, and the environment variable, if any.
_OUTSIDE: Mapping[str, tuple[Callable[[str], Any], str | None]] = {
    "model_paths": (_paths, "MODEL_SCAN_PATH"),
    "library_path": (_path, "MAGI_LIBRARY_PATH"),
    "state_dir": (_path, "MAGI_STATE_DIR"),
    "registry_path": (_path, "REGISTRY_PATH"),
    "profiles_dir": (_path, "MAGI_PROFILES_DIR"),
    "shipped_profiles_dir": (_path, "MAGI_SHIPPED_PROFILES_DIR"),
    "page_dir": (_path, "MAGI_PAGE_DIR"),
    "profile": (_name, "MAGI_PROFILE"),
    "launcher": (_text, "MAGI_LAUNCHER"),
    "llama_server_path": (_path, "LLAMA_SERVER_PATH"),
    "llama_server_host": (_text, "LLAMA_SERVER_HOST"),
    "max_startup_time": (strict_yaml.scalar, "MAX_STARTUP_TIME"),
    "readiness_check_interval": (strict_yaml.scalar, "READINESS_CHECK_INTERVAL"),
    "stop_timeout": (strict_yaml.scalar, None),
    "port_range": (_range, None),
    "bind": (_words, "MAGI_BIND"),
    "allowed_hosts": (_words, None),
    "allowed_origins": (_words, None),
    "trusted_proxies": (_words, None),
    "public_path": (_text, None),
    "removed_model_days": (strict_yaml.scalar, None),
    "max_body_bytes": (strict_yaml.scalar, None),
    "request_timeout": (strict_yaml.scalar, None),
    "send_timeout": (strict_yaml.scalar, None),
    "drain_timeout": (strict_yaml.scalar, None),
    "log_level": (_text, None),
}


FILE_VARIABLE = "MAGI_CONFIG"
FILE_KEY = "config"  # the flag --config, which is not a setting


class Setting(Struct, frozen=True):
    """One row of the table of settings. A nested setting has a key like `restart.limit`."""

    key: str
    variable: str | None
    flag: str | None
    default: str  # as in the file
    description: str
    allowed: str = ""  # of run-time settings


def settings() -> tuple[Setting, ...]:
    """Returns all settings, in the order of the shipped file."""
    defaults = values(Config())
    allowed = {f"server_defaults.{setting.name}": setting.allowed for setting in SETTINGS}
    return tuple(
        Setting(
            key=key,
            variable=_OUTSIDE[key][1] if key in _OUTSIDE else None,
            flag=_flag(key) if key in _OUTSIDE else None,
            default=_shown(defaults[key]),
            description=description,
            allowed=allowed.get(key, ""),
        )
        for key, description in _descriptions(Config)
    )


def _descriptions(kind: type[Schema], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, annotation in schema.hints(kind).items():
        if isinstance(annotation, type) and issubclass(annotation, Section):
            yield from _descriptions(annotation, f"{name}.")
        elif get_args(annotation)[:1] == (RuntimeSettings,):
            yield from ((f"{name}.{setting.name}", setting.description) for setting in SETTINGS)
        else:
            yield prefix + name, schema.description(annotation)


def values(config: Config) -> dict[str, Any]:
    """Returns the values of all settings by key, as JSON has them."""
    flat: dict[str, Any] = {}
    for key, value in msgspec.to_builtins(config, enc_hook=str).items():
        nested = value.items() if isinstance(value, dict) else None
        flat |= {key: value} if nested is None else {f"{key}.{name}": v for name, v in nested}
    return flat


def _shown(value: Any) -> str:
    whole = isinstance(value, float) and value.is_integer()
    return json.dumps(int(value) if whole else value, ensure_ascii=False)


def _flag(key: str) -> str:
    return "--" + key.replace("_", "-")


# -- loading -------------------------------------------------------------------------------------


class Effective(Struct, frozen=True):
    """The configuration in force."""

    config: Config
    sources: Mapping[str, str]  # key -> "default" | "FILE:LINE" | variable | flag
    path: Path | None  # the file that was read, if any


def load(
    argv_overrides: Mapping[str, str], env: Mapping[str, str], default_path: Path = DEFAULT_PATH
) -> Effective:
    """Reads and checks all settings. Blocks. Raises InvalidConfig with one line for a person.

    `argv_overrides` are the texts of flags by key (`bind`, and `config` for another file). The
    default file may be missing, but not one that was named. An empty variable counts as unset.
    """
    if unknown := argv_overrides.keys() - _OUTSIDE.keys() - {FILE_KEY}:
        raise InvalidConfig(f"cannot use {_flag(min(unknown))}: it is not known; see magid --help")
    document = _read(argv_overrides, env, default_path)
    data, given = dict(document.data), {}
    for key, (parse, variable) in _OUTSIDE.items():
        if variable and (text := env.get(variable)):
            data[key], given[key] = parse(text), variable
        if key in argv_overrides:
            data[key], given[key] = parse(argv_overrides[key]), _flag(key)
    try:
        config = checked(data)
    except Mismatch as error:
        raise _invalid(error.faults, given, document) from None
    sources = {key: given.get(key) or _position(key, document) for key, _ in _descriptions(Config)}
    return Effective(config, sources, Path(document.name) if document.name else None)


_SECTIONS: Final = ("tier_thresholds", "server_defaults", "restart", "gateway", "downloads")


def checked(given: Mapping[str, Any]) -> Config:
    """Returns the configuration with these values, decoded from YAML. Pure. Raises Mismatch."""
    data = prepared(given)
    defaults = data.get("server_defaults")
    if isinstance(defaults, Mapping) and not defaults.keys() <= BY_NAME.keys():
        from magid.files import explanation  # msgspec ignores keys that a dataclass lacks

        return explanation.read(data, Config)
    return schema.read(data, Config)


def prepared(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values without empty sections, and with `24G` as the number it stands for."""
    data = {
        key: {} if value is None and key in _SECTIONS else value for key, value in given.items()
    }
    if isinstance(defaults := data.get("server_defaults"), Mapping):
        data["server_defaults"] = numbers_of(defaults)
    return data


def render(effective: Effective) -> str:
    """Returns the text of `magid --check`: lines of `key = value  # source`, aligned. Pure."""
    found = values(effective.config)
    left = {key: f"{key} = {_shown(found[key])}" for key in effective.sources}
    width = max(map(len, left.values()))
    return "\n".join(f"{left[k]:<{width}}  # {source}" for k, source in effective.sources.items())


def _read(
    argv_overrides: Mapping[str, str], env: Mapping[str, str], default_path: Path
) -> strict_yaml.Document:
    named, source = argv_overrides.get(FILE_KEY), _flag(FILE_KEY)
    if not named:
        named, source = env.get(FILE_VARIABLE), FILE_VARIABLE
    path = Path(named).absolute() if named else default_path
    try:
        return strict_yaml.load(path)
    except FileNotFoundError:
        if named:
            raise InvalidConfig(
                f"cannot use {source}: {path} does not exist; name an existing file, or unset it"
            ) from None
        return strict_yaml.Document({}, {}, "")
    except YamlError as error:
        raise InvalidConfig(str(error)) from None


def _position(key: str, document: strict_yaml.Document) -> str:
    line = document.lines.get(tuple(key.split(".")))
    return "default" if line is None else f"{document.name}:{line}"


def _invalid(
    problems: Sequence[Fault],
    given: Mapping[str, str],
    document: strict_yaml.Document,
) -> InvalidConfig:
    """Returns the error for the first problem; `others` in its details are the other messages."""
    first, *others = [_describe(problem, given, document) for problem in problems]
    message, key, source = first
    return InvalidConfig(message, key=key, source=source, others=tuple(m for m, _, _ in others))


def _describe(
    problem: Fault, given: Mapping[str, str], document: strict_yaml.Document
) -> tuple[str, str, str]:
    """Returns message, key and source."""
    source = given.get(str(problem.path[0])) if problem.path else None
    if source is None:
        line = document.line(problem.path)
        file = document.name or "the configuration"
        source = f"{file}: line {line}" if line else file
    if problem.reason.startswith("cannot "):
        return f"{problem.reason} ({problem.key} is set by {source})", problem.key, source
    return f"cannot use {source}: {problem}", problem.key, source
