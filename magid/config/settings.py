"""The configuration: a YAML file, overridden by environment variables, overridden by flags.

`Config` is frozen and complete: every setting has a default. `load` puts the parts together and
knows for each value where it came from; every error is one line with file or variable, key,
reason and what is allowed.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from magid.config.addresses import Address, TcpAddress, parse_address
from magid.config.values import (
    AbsolutePath,
    Billions,
    Host,
    Line,
    Port,
    Seconds,
    allowed_arguments,
    distinct,
    listenable,
    ordered,
    origin,
    profile_name,
    refused,
)
from magid.errors import InvalidConfig
from magid.files import strict_yaml
from magid.files.strict_yaml import Scalar, YamlError

DEFAULT_PATH = Path("/etc/magi/magid.yaml")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class TierThresholds(_Section):
    """Where tiers begin and end, in billions of parameters."""

    powerful_min: Billions = Field(14.0, description="From this size on a model is powerful")
    fast_max: Billions = Field(
        7.0, description="Below this size a model of at most 4 bits per weight is fast"
    )

    @field_validator("fast_max")
    @classmethod
    def _below_powerful(cls, value: float, info: ValidationInfo) -> float:
        limit = info.data.get("powerful_min", value)
        if value > limit:
            raise refused(f"should be at most powerful_min ({limit:g}), not {value:g}")
        return value


class ServerDefaults(_Section):
    """How servers run where the user set nothing; null leaves it to llama-server."""

    n_gpu_layers: Annotated[StrictInt, Field(ge=-1, le=9999)] | None = Field(
        None, description="Layers on the GPU; null: as many as fit"
    )
    ctx_size: Annotated[StrictInt, Field(ge=0, le=2**24)] | None = Field(
        None, description="Context of a server in tokens, for all its slots; 0: the model's own"
    )
    n_threads: Annotated[StrictInt, Field(ge=1, le=1024)] | None = Field(
        None, description="CPU threads of a server"
    )
    batch_size: Annotated[StrictInt, Field(ge=1, le=2**20)] | None = Field(
        None, description="Tokens that are processed at once"
    )
    parallel: Annotated[StrictInt, Field(ge=1, le=1024)] | None = Field(
        None, description="Requests that a server works on side by side"
    )
    instances: Annotated[StrictInt, Field(ge=1, le=16)] = Field(
        1, description="Servers of each enabled model"
    )
    start: Literal["always", "on-demand"] = Field(
        "always", description="When servers start: with magid, or with a model's first request"
    )
    idle_stop_seconds: Annotated[StrictInt, Field(ge=1, le=2_592_000)] | None = Field(
        None,
        description="Seconds without a request after which on-demand servers stop; null: never",
    )
    extra_args: Annotated[
        tuple[Line, ...], Field(max_length=64), AfterValidator(allowed_arguments)
    ] = Field((), description="More arguments for llama-server, one list item each")
    memory_max: Annotated[StrictInt, Field(ge=2**26, le=2**50)] | None = Field(
        None, description="Bytes of memory at which a server is ended; needs systemd"
    )
    cpu_quota: Annotated[StrictInt, Field(ge=1, le=102_400)] | None = Field(
        None, description="Processor time of a server, in percent of one processor; needs systemd"
    )


class Restart(_Section):
    """What happens after a server has ended by itself."""

    limit: Annotated[StrictInt, Field(ge=0, le=1000)] = Field(
        5, description="Restarts within the window before a server counts as failed; 0: none"
    )
    window: Seconds = Field(600, description="Seconds over which restarts are counted")
    first_delay: Seconds = Field(1, description="Seconds before the first restart; then doubled")
    max_delay: Seconds = Field(60, description="Seconds that the delay never exceeds")

    @field_validator("max_delay")
    @classmethod
    def _from_first_on(cls, value: float, info: ValidationInfo) -> float:
        least = info.data.get("first_delay", value)
        if value < least:
            raise refused(f"should be at least first_delay ({least:g}), not {value:g}")
        return value


class Gateway(_Section):
    """How requests to models are taken."""

    max_body_bytes: Annotated[StrictInt, Field(ge=1024, le=2**30)] = Field(
        33_554_432, description="The largest request body for a model, in bytes: images are in it"
    )
    queue_limit: Annotated[StrictInt, Field(ge=0, le=100_000)] = Field(
        256, description="Requests that may wait for a free slot of one model or tier"
    )
    queue_timeout: Seconds = Field(60, description="Seconds that a request waits for a free slot")
    max_loaded: Annotated[StrictInt, Field(ge=1, le=10_000)] | None = Field(
        None, description="On-demand models that may run at once; null: as many as are asked for"
    )


class Config(_Section):
    """Every setting of the daemon. Times are in seconds, sizes in bytes."""

    model_paths: Annotated[
        tuple[AbsolutePath, ...], Field(min_length=1, max_length=64), AfterValidator(distinct)
    ] = Field(
        (Path("/var/lib/magi/models"), Path("/models")),
        description="Folders that are searched for GGUF files",
    )
    state_dir: AbsolutePath = Field(
        Path("/var/lib/magi"), description="Where the daemon keeps its own files"
    )
    registry_path: AbsolutePath = Field(
        default_factory=lambda data: data.get("state_dir", Path("/")) / "model_registry.json",
        description="The registry; without it, model_registry.json in state_dir",
    )
    profiles_dir: AbsolutePath = Field(
        Path("/etc/magi/profiles"), description="Where the profiles are, one NAME.yaml each"
    )
    shipped_profiles_dir: AbsolutePath = Field(
        Path("/usr/share/magi/profiles"),
        description="Profiles of magid's own; one of the same name in profiles_dir goes first",
    )
    profile: Annotated[StrictStr, AfterValidator(profile_name)] | None = Field(
        "development", description="The profile of the very first start; null: none"
    )
    launcher: Literal["auto", "systemd", "process"] = Field(
        "auto", description="What runs the servers: auto takes systemd where it is the init"
    )
    llama_server_path: AbsolutePath | None = Field(
        None, description="The llama-server program; null: searched for in the usual places"
    )
    llama_server_host: Host = Field("127.0.0.1", description="The address that servers listen on")
    max_startup_time: Seconds = Field(
        120, description="Seconds after which a server that is not ready has failed"
    )
    readiness_check_interval: Seconds = Field(
        2, description="Seconds between two looks whether a server is ready"
    )
    stop_timeout: Seconds = Field(
        10, description="Seconds that a server gets to end before it is killed"
    )
    port_range: Annotated[tuple[Port, Port], AfterValidator(ordered)] = Field(
        (8080, 8099), description="Ports of the servers, [lowest, highest]"
    )
    bind: Annotated[
        tuple[Annotated[StrictStr, AfterValidator(listenable)], ...],
        Field(min_length=1, max_length=16),
        AfterValidator(distinct),
    ] = Field(
        ("127.0.0.1:8000",),
        description="Where the API listens: HOST:PORT, [IPV6]:PORT or unix:/PATH",
    )
    allowed_hosts: Annotated[tuple[Host, ...], Field(max_length=256)] = Field(
        (), description="Names by which clients may call the API, besides the machine's own"
    )
    allowed_origins: Annotated[
        tuple[Annotated[StrictStr, AfterValidator(origin)], ...], Field(max_length=256)
    ] = Field((), description="Web origins whose pages may call the API, besides its own")
    tls_cert: AbsolutePath | None = Field(
        None, description="The certificate, with its chain, that TCP is answered with; null: no TLS"
    )
    tls_key: AbsolutePath | None = Field(None, description="The private key of tls_cert")
    tier_thresholds: TierThresholds = TierThresholds()
    server_defaults: ServerDefaults = ServerDefaults()
    restart: Restart = Restart()
    gateway: Gateway = Gateway()
    removed_model_days: Annotated[StrictInt, Field(ge=0, le=36_500)] = Field(
        90, description="Days that decisions about a model wait for its vanished file"
    )
    max_body_bytes: Annotated[StrictInt, Field(ge=1024, le=2**30)] = Field(
        1_048_576, description="The largest request body, in bytes"
    )
    request_timeout: Seconds = Field(
        10, description="Seconds in which a whole request has to arrive"
    )
    send_timeout: Seconds = Field(
        60, description="Seconds after which a client that takes no answer is cut off"
    )
    drain_timeout: Seconds = Field(
        10, description="Seconds that requests under way get at shutdown"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least serious messages that are logged"
    )

    @field_validator("tier_thresholds", "server_defaults", "restart", "gateway", mode="before")
    @classmethod
    def _emptied(cls, value: object) -> object:
        return {} if value is None else value  # a section whose keys are all commented out

    @field_validator("tls_key")
    @classmethod
    def _with_certificate(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if (value is None) != (info.data.get("tls_cert") is None):
            raise refused("should be set together with tls_cert, or not at all")
        return value

    @field_validator("bind")
    @classmethod
    def _apart_from_servers(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        low, high = info.data.get("port_range", (0, 0))
        for address in map(parse_address, value):
            if isinstance(address, TcpAddress) and low <= address.port <= high:
                raise refused(
                    f"should leave port {address.port} to the servers: it is in port_range "
                    f"[{low}, {high}]"
                )
        return value

    @property
    def may_lack_folders(self) -> bool:
        """Whether nothing is wrong if a model folder is not there: nobody has asked for it."""
        return "model_paths" not in self.model_fields_set

    @property
    def addresses(self) -> tuple[Address, ...]:
        """`bind`, taken apart."""
        return tuple(map(parse_address, self.bind))


# -- where values come from ----------------------------------------------------------------------


def _text(text: str) -> Scalar:
    return text


def _path(text: str) -> str:
    return str(Path(text).absolute())  # of a shell's user: relative to where he stands


def _paths(text: str) -> list[str]:
    return [_path(part) for part in text.split(os.pathsep) if part]


def _words(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _range(text: str) -> list[Scalar]:
    return [strict_yaml.scalar(part.strip()) for part in text.split("-")]


# What can be given outside the file: how its text is read, and its variable if it has one.
_OUTSIDE: Mapping[str, tuple[Callable[[str], Any], str | None]] = {
    "model_paths": (_paths, "MODEL_SCAN_PATH"),
    "state_dir": (_path, "MAGI_STATE_DIR"),
    "registry_path": (_path, "REGISTRY_PATH"),
    "profiles_dir": (_path, "MAGI_PROFILES_DIR"),
    "shipped_profiles_dir": (_path, "MAGI_SHIPPED_PROFILES_DIR"),
    "profile": (_text, "MAGI_PROFILE"),
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
    "removed_model_days": (strict_yaml.scalar, None),
    "max_body_bytes": (strict_yaml.scalar, None),
    "request_timeout": (strict_yaml.scalar, None),
    "send_timeout": (strict_yaml.scalar, None),
    "drain_timeout": (strict_yaml.scalar, None),
    "log_level": (_text, None),
}

FILE_VARIABLE = "MAGI_CONFIG"
FILE_KEY = "config"  # its flag, --config, beside the settings' own


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table of settings; `key` of a nested one is `restart.limit`."""

    key: str
    variable: str | None
    flag: str | None
    default: str  # as it is written in the file
    description: str


def settings() -> tuple[Setting, ...]:
    """Every setting, in the order of the shipped file."""
    defaults = _flat(Config().model_dump(mode="json"))
    return tuple(
        Setting(
            key=key,
            variable=_OUTSIDE[key][1] if key in _OUTSIDE else None,
            flag=_flag(key) if key in _OUTSIDE else None,
            default=_shown(defaults[key]),
            description=description,
        )
        for key, description in _descriptions(Config)
    )


def _descriptions(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, _Section):
            yield from _descriptions(kind, f"{name}.")
        else:
            yield prefix + name, field.description or ""


def _flat(data: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        nested = value.items() if isinstance(value, dict) else None
        flat |= {key: value} if nested is None else {f"{key}.{name}": v for name, v in nested}
    return flat


def _shown(value: Any) -> str:
    whole = isinstance(value, float) and value.is_integer()
    return json.dumps(int(value) if whole else value, ensure_ascii=False)


def _flag(key: str) -> str:
    return "--" + key.replace("_", "-")


# -- loading -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Effective:
    """The configuration in force."""

    config: Config
    sources: Mapping[str, str]  # key -> "default" | "FILE:LINE" | variable | flag
    path: Path | None  # the file that was read, if any


def load(
    argv_overrides: Mapping[str, str], env: Mapping[str, str], default_path: Path = DEFAULT_PATH
) -> Effective:
    """Read and check everything. Blocks. Raises InvalidConfig with one line for a person.

    `argv_overrides` has the texts of flags by key (`bind`, and `config` for another file). The
    default file may be absent, one that was asked for may not. An empty variable is unset.
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
        config = Config.model_validate(data)
    except ValidationError as error:
        raise _invalid(strict_yaml.first_problem(error, Config), given, document) from None
    sources = {key: given.get(key) or _position(key, document) for key, _ in _descriptions(Config)}
    return Effective(config, sources, Path(document.name) if document.name else None)


def render(effective: Effective) -> str:
    """The configuration as `magid --check` prints it: `key = value  # source`, aligned. Pure."""
    values = _flat(effective.config.model_dump(mode="json"))
    left = {key: f"{key} = {_shown(values[key])}" for key in effective.sources}
    width = max(map(len, left.values()))
    return "\n".join(f"{left[k]:<{width}}  # {source}" for k, source in effective.sources.items())


def _read(
    argv_overrides: Mapping[str, str], env: Mapping[str, str], default_path: Path
) -> strict_yaml.Document:
    asked, source = argv_overrides.get(FILE_KEY), _flag(FILE_KEY)
    if not asked:
        asked, source = env.get(FILE_VARIABLE), FILE_VARIABLE
    path = Path(asked).absolute() if asked else default_path
    try:
        return strict_yaml.load(path)
    except FileNotFoundError:
        if asked:
            raise InvalidConfig(
                f"cannot use {source}: {path} does not exist; name a file that does, or unset it"
            ) from None
        return strict_yaml.Document({}, {}, "")
    except YamlError as error:
        raise InvalidConfig(str(error)) from None


def _position(key: str, document: strict_yaml.Document) -> str:
    line = document.lines.get(tuple(key.split(".")))
    return "default" if line is None else f"{document.name}:{line}"


def _invalid(
    problem: strict_yaml.Problem, given: Mapping[str, str], document: strict_yaml.Document
) -> InvalidConfig:
    source = given.get(str(problem.path[0])) if problem.path else None
    if source is None:
        line = document.line(problem.path)
        file = document.name or "the configuration"
        source = f"{file}: line {line}" if line else file
    if problem.reason.startswith("cannot "):
        text = f"{problem.reason} ({problem.key} is set by {source})"
    else:
        text = f"cannot use {source}: {problem}"
    return InvalidConfig(text, key=problem.key, source=source)
