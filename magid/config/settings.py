"""The settings of magid, their defaults and their checks. Pure.

`Config` is frozen and complete: every setting has a default. `loading.load` fills it from the YAML
file, the environment and the command line, in rising priority, and records the source of each
value.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    ValidationInfo,
    field_validator,
)

from magid.config.addresses import Address, TcpAddress, parse_address
from magid.config.values import (
    AbsolutePath,
    Billions,
    Host,
    Port,
    Seconds,
    distinct,
    listenable,
    network,
    ordered,
    origin,
    profile_name,
    refused,
    refused_at,
)
from magid.errors import InvalidInput
from magid.llama.options import check_extra_args
from magid.llama.runtime_settings import RuntimeSettings, numbers_of


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class TierBounds(Section):
    """The bounds of tiers, in billions of parameters."""

    powerful_min: Billions = Field(14.0, description="A model of at least this size is powerful")
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


class Restart(Section):
    """Restarts of a server that has ended by itself."""

    limit: Annotated[StrictInt, Field(ge=0, le=1000)] = Field(
        5, description="Restarts within the window before a server counts as failed; 0: none"
    )
    window: Seconds = Field(600, description="Seconds over which restarts are counted")
    first_delay: Seconds = Field(
        1, description="Seconds before the first restart; doubled for each further one"
    )
    max_delay: Seconds = Field(60, description="Longest delay before a restart, in seconds")

    @field_validator("max_delay")
    @classmethod
    def _from_first_on(cls, value: float, info: ValidationInfo) -> float:
        least = info.data.get("first_delay", value)
        if value < least:
            raise refused(f"should be at least first_delay ({least:g}), not {value:g}")
        return value


class Gateway(Section):
    """Limits of requests to models."""

    max_body_bytes: Annotated[StrictInt, Field(ge=1024, le=2**30)] = Field(
        33_554_432, description="The largest request body for a model, in bytes, images included"
    )
    queue_limit: Annotated[StrictInt, Field(ge=0, le=100_000)] = Field(
        256, description="Requests that may wait for a free slot of one model or tier"
    )
    queue_timeout: Seconds = Field(
        60, description="Seconds that a request may wait for a free slot"
    )
    max_loaded: Annotated[StrictInt, Field(ge=1, le=10_000)] | None = Field(
        None, description="On-demand models that may run at once; null: no limit"
    )


class Config(Section):
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
        description="Profiles that come with magid; a file in profiles_dir replaces its namesake",
    )
    profile: Annotated[StrictStr, AfterValidator(profile_name)] | None = Field(
        "development", description="The profile that the very first start activates; null: none"
    )
    launcher: Literal["auto", "systemd", "process"] = Field(
        "auto", description="What runs the servers; auto: systemd if it is the init system"
    )
    llama_server_path: AbsolutePath | None = Field(
        None, description="The llama-server program; null: searched for in the usual places"
    )
    llama_server_host: Host = Field("127.0.0.1", description="The address that servers listen on")
    max_startup_time: Seconds = Field(
        120, description="Seconds after which a server that is not ready has failed"
    )
    readiness_check_interval: Seconds = Field(2, description="Seconds between readiness checks")
    stop_timeout: Seconds = Field(
        10, description="Seconds that a server has to stop before it is killed"
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
        (), description="Host names under which clients may call the API, besides the machine's own"
    )
    allowed_origins: Annotated[
        tuple[Annotated[StrictStr, AfterValidator(origin)], ...], Field(max_length=256)
    ] = Field((), description="Web or app origins whose pages may call the API, besides its own")
    trusted_proxies: Annotated[
        tuple[Annotated[StrictStr, AfterValidator(network)], ...], Field(max_length=256)
    ] = Field((), description="Addresses of reverse proxies whose X-Forwarded-Host is trusted")
    tls_cert: AbsolutePath | None = Field(
        None, description="The TLS certificate of the API, with its chain; null: no TLS"
    )
    tls_key: AbsolutePath | None = Field(None, description="The private key of tls_cert")
    tier_thresholds: TierBounds = TierBounds()
    server_defaults: RuntimeSettings = RuntimeSettings()
    restart: Restart = Restart()
    gateway: Gateway = Gateway()
    removed_model_days: Annotated[StrictInt, Field(ge=0, le=36_500)] = Field(
        90, description="Days before the settings of a model whose file is gone are forgotten"
    )
    max_body_bytes: Annotated[StrictInt, Field(ge=1024, le=2**30)] = Field(
        1_048_576, description="The largest request body, in bytes"
    )
    request_timeout: Seconds = Field(
        10, description="Seconds within which a whole request has to arrive"
    )
    send_timeout: Seconds = Field(
        60, description="Seconds after which a client that does not read its answer is cut off"
    )
    drain_timeout: Seconds = Field(
        10, description="Seconds that requests in progress have to finish at shutdown"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The lowest level of messages that are logged"
    )

    @field_validator("tier_thresholds", "server_defaults", "restart", "gateway", mode="before")
    @classmethod
    def _emptied(cls, value: object) -> object:
        return {} if value is None else value  # a section whose keys are all commented out

    @field_validator("server_defaults", mode="before")
    @classmethod
    def _with_suffixes(cls, value: object) -> object:
        return numbers_of(value) if isinstance(value, Mapping) else value

    @field_validator("server_defaults")
    @classmethod
    def _with_allowed_arguments(cls, value: RuntimeSettings) -> RuntimeSettings:
        try:
            check_extra_args(value.extra_args)
        except InvalidInput as error:
            raise refused_at("extra_args", value.extra_args, error.message) from None
        return value

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
        """Whether a missing model folder needs no warning, because it is only a default."""
        return "model_paths" not in self.model_fields_set

    @property
    def addresses(self) -> tuple[Address, ...]:
        """`bind`, parsed."""
        return tuple(map(parse_address, self.bind))
