"""The table of run-time settings: how a model's servers run.

Each field of `RuntimeSettings` is one row: its name in Python and in magid.yaml, its type, its
values and its description. `SETTINGS` has the rows. Everything else is made from them: the
configuration's `server_defaults`, the registry's overrides, the API's bodies and answers, the
launcher's checks, llama-server's arguments, `magictl set`, `show` and `cat`, the manuals, the
completions, and the tables in docs/. To add a setting, add a field.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Final, Literal

from magid.llama.setting_values import (
    BYTES,
    PERCENT,
    SECONDS,
    TOKENS,
    Arguments,
    Choice,
    Integer,
    Text,
    Values,
)

MAX_INSTANCES: Final = 16
MAX_EXTRA_ARGS: Final = 64
_UUID: Final = "[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
_ADDRESS: Final = "[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}[.][0-7]"
_REMOTE: Final = "[0-9.]{7,15}:[0-9]{1,5}(?:-[0-9]{1,2}of[0-9]{1,2})?"
_DEVICE: Final = f"(?:[A-Za-z]{{1,16}}[0-9]{{0,3}}|(?:GPU|MIG)-{_UUID}|{_ADDRESS}|{_REMOTE})"
_ENGINE: Final = "[a-z0-9][a-z0-9._-]{0,62}"  # as `llama/engines` has it
_DRAFT: Final = r"auto|off|[^/\x00-\x1f\x7f]{1,250}\.gguf"
_DEVICES: Final = f"{_DEVICE}(?:,{_DEVICE}){{0,31}}"


@dataclass(frozen=True, slots=True)
class RuntimeSetting:
    """One row of the table."""

    values: Values
    meaning: str
    unset: str  # what applies if it is not set anywhere
    example: str  # as a person types it
    options: tuple[str, ...]  # of llama-server, the current spelling first; empty: magid's own
    name: str = ""  # in Python and in magid.yaml
    annotation: Any = None  # its type, which includes None if that is the default
    default: Any = None
    controller: str = ""  # the cgroup controller that it needs

    @property
    def key(self) -> str:
        """The name in REST, in the registry and for magictl: `ctxSize`."""
        first, *rest = self.name.split("_")
        return first + "".join(map(str.capitalize, rest))

    @property
    def allowed(self) -> str:
        """The range with its unit: `64M to 1024T (bytes, also with K, M, G or T)`."""
        values = self.values
        return f"{values.range} ({values.unit})" if values.unit else values.range

    def show(self, value: Any) -> str | None:
        """Returns the value as a person may type it; None if it is not set."""
        return None if value is None else self.values.show(value)

    @property
    def description(self) -> str:
        """The meaning, for the configuration."""
        return f"{self.meaning}; null: {self.unset}" if self.default is None else self.meaning


def _setting(
    values: Values,
    meaning: str,
    *,
    example: str,
    unset: str = "",
    options: tuple[str, ...] = (),
    default: Any = None,
    controller: str = "",
) -> Any:
    row = RuntimeSetting(
        values, meaning, unset, example, options, default=default, controller=controller
    )
    about = {"setting": row, "description": row.description}
    return field(default=default, metadata={**about, **values.constraints})


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """The settings that decide how one llama-server runs; `ServerSpec` has them too."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}  # in the configuration

    n_gpu_layers: int | None = _setting(
        Integer(-1, 9999),
        "Layers on the GPU; 0: none",
        unset="all; see offload",
        options=("--n-gpu-layers", "--gpu-layers", "-ngl"),
        example="99",
    )
    device: str | None = _setting(
        Text(_DEVICES, "none, or names or ids of `magictl gpus` with commas between"),
        "GPUs that a server uses; none: only the processor",
        unset="magid chooses by their memory",
        options=("--device", "-dev"),
        example="CUDA0",
    )
    offload: Literal["all", "part", "cpu"] = _setting(
        Choice(("all", "part", "cpu")),
        "Where the GPUs lack room for all layers: all: it does not start; part: as many as fit; "
        "cpu: on the processor",
        default="all",
        example="part",
    )
    ctx_size: int | None = _setting(
        Integer(0, 2**24, TOKENS),
        "Context of a server in tokens, for all its slots; 0: the model's own",
        unset="on a GPU as much as fits, up to ctx_default_max; else llama-server chooses",
        options=("--ctx-size", "-c"),
        example="8192",
    )
    n_threads: int | None = _setting(
        Integer(1, 1024),
        "CPU threads of a server",
        unset="llama-server chooses",
        options=("--threads", "-t"),
        example="8",
    )
    batch_size: int | None = _setting(
        Integer(1, 2**20, TOKENS),
        "Tokens that are processed at once",
        unset="llama-server chooses",
        options=("--batch-size", "-b"),
        example="2048",
    )
    parallel: int | None = _setting(
        Integer(1, 1024),
        "Requests that a server processes in parallel",
        unset="llama-server chooses",
        options=("--parallel", "-np"),
        example="4",
    )
    extra_args: tuple[str, ...] = _setting(
        Arguments(MAX_EXTRA_ARGS),
        "More arguments for llama-server",
        default=(),
        example="--temp 0.2 --flash-attn on",
    )
    draft: str = _setting(
        Text(_DRAFT, "auto, off, or the name of a GGUF file in the model's folder"),
        "What guesses the model's next tokens, which it then checks together: auto: layers of its "
        "own or a draft beside it, where llama-server can use them; off: nothing; or a file",
        default="auto",
        example="off",
    )
    engine: str | None = _setting(
        Text(_ENGINE, "the name of an engine of `magictl engine ls`, or system"),
        "Engine that runs the servers, one of several llama-servers side by side; system: that of "
        "the system",
        unset="the one that is in use for all models",
        example="vulkan",
    )
    memory_max: int | None = _setting(
        Integer(2**26, 2**50, BYTES),
        "Memory limit of a server, in bytes, beyond which it is killed; needs systemd",
        unset="no limit",
        example="24G",
        controller="memory",
    )
    cpu_quota: int | None = _setting(
        Integer(1, 102_400, PERCENT),
        "Processor time of a server, in percent of one processor; needs systemd",
        unset="no limit",
        example="150%",
        controller="cpu",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeSettings(ServerSettings):
    """All settings, with magid's defaults; None leaves a setting to llama-server."""

    instances: int = _setting(
        Integer(1, MAX_INSTANCES), "Servers of each enabled model", default=1, example="2"
    )
    start: Literal["always", "on-demand"] = _setting(
        Choice(("always", "on-demand")),
        "When servers start: at boot and by apply, or with a model's first request",
        default="always",
        example="on-demand",
    )
    idle_stop_seconds: int | None = _setting(
        Integer(1, 2_592_000, SECONDS),
        "Seconds without a request after which on-demand servers stop",
        unset="never",
        example="10m",
    )


SETTINGS: Final[tuple[RuntimeSetting, ...]] = tuple(
    replace(each.metadata["setting"], name=each.name, annotation=each.type)
    for each in fields(RuntimeSettings)
)
BY_NAME: Final = {setting.name: setting for setting in SETTINGS}
BY_KEY: Final = {setting.key: setting for setting in SETTINGS}
SERVER_SETTINGS: Final = tuple(BY_NAME[each.name] for each in fields(ServerSettings))


def server_settings(settings: RuntimeSettings) -> dict[str, Any]:
    """Returns the values of `SERVER_SETTINGS`, by name."""
    return {setting.name: getattr(settings, setting.name) for setting in SERVER_SETTINGS}


def numbers_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values with numbers instead of texts like `24G`; leaves invalid ones alone."""
    return {name: _number_of(name, value) for name, value in values.items()}


def _number_of(name: str, value: object) -> object:
    setting = BY_NAME.get(name)
    if setting is None or not isinstance(value, str) or value[-1:].isdecimal():
        return value  # quoted digits are text, as everywhere in the configuration
    try:
        return setting.values.parse(value) if isinstance(setting.values, Integer) else value
    except ValueError:
        return value


def not_in_force(settings: RuntimeSettings, controllers: frozenset[str]) -> dict[str, str]:
    """Returns the limits that are set but have no effect on this kernel: key -> why. Pure."""
    return {
        setting.key: f"this kernel has no {setting.controller} controller for control groups"
        for setting in SETTINGS
        if setting.controller
        and setting.controller not in controllers
        and getattr(settings, setting.name) is not None
    }
