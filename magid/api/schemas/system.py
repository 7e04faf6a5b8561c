"""Schemas of what magid runs with: its settings, and llama-servers side by side."""

from typing import Any

from typing_extensions import TypedDict


class ConfiguredSetting(TypedDict):
    """One setting of magid.yaml, as it is in force since the start.

    `source` is "default", FILE:LINE, an environment variable, or an option of the command line.
    """

    key: str
    value: Any
    default: Any
    source: str
    description: str


class ConfigurationReply(TypedDict):
    """`path` is the file that was read at the start, if there was one."""

    path: str | None
    settings: list[ConfiguredSetting]


class ListedEngine(TypedDict):
    """A llama-server that `magictl engine add` has added. `gpus` are those that it listed then.

    `models` are those that have been given it; see the setting `engine`.
    """

    name: str
    version: str
    used: bool
    gpus: list[str]
    models: list[str]
    source: str
    sha256: str | None
    addedAt: str


class EnginesReply(TypedDict):
    """`used` is null where llama_server_path or the system decides which llama-server is used."""

    used: str | None
    engines: list[ListedEngine]
