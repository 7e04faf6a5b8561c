"""The settings of magid, their defaults and their checks. Pure.

`Config` is frozen and complete: every setting has a default. `loading.load` fills it from the YAML
file, the environment and the command line, in rising priority, and records the source of each
value.
"""

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from magid.config.addresses import Address, TcpAddress, parse_address, rpc_server
from magid.config.values import (
    Billions,
    Host,
    Port,
    Seconds,
    distinct,
    hub_address,
    listenable,
    network,
    ordered,
    origin,
    path_prefix,
    profile_name,
)
from magid.errors import InvalidInput
from magid.files.schema import Fault, Mismatch, Rule, Schema, about
from magid.llama.options import check_extra_args
from magid.llama.runtime_settings import SETTINGS, RuntimeSettings

# -- rules ---------------------------------------------------------------------------------------


def _up_to_powerful(value: float, limit: float) -> float:
    if value > limit:
        raise ValueError(f"should be at most powerful_min ({limit:g}), not {value:g}")
    return value


def _from_first_on(value: float, least: float) -> float:
    if value < least:
        raise ValueError(f"should be at least first_delay ({least:g}), not {value:g}")
    return value


def _below(value: Path, folder: Path) -> Path:
    return folder / value  # an absolute path stays what it is


def _with_certificate(value: Path | None, certificate: Path | None) -> Path | None:
    if (value is None) != (certificate is None):
        raise ValueError("should be set together with tls_cert, or not at all")
    return value


def _apart_from_servers(value: tuple[str, ...], servers: tuple[int, int]) -> tuple[str, ...]:
    low, high = servers
    for address in map(parse_address, value):
        if isinstance(address, TcpAddress) and low <= address.port <= high:
            raise ValueError(
                f"should leave port {address.port} to the servers: it is in port_range "
                f"[{low}, {high}]"
            )
    return value


def _allowed(value: RuntimeSettings) -> RuntimeSettings:
    """Checks what types alone do not: bounds, and which arguments are allowed."""
    for setting in SETTINGS:
        given = getattr(value, setting.name)
        if given != setting.default:
            setting.values.check(given)
    try:
        check_extra_args(value.extra_args)
    except InvalidInput as error:
        raise Mismatch([Fault(("extra_args",), error.message)]) from None
    return value


# -- the settings --------------------------------------------------------------------------------

_MODEL_PATHS = (Path("/var/lib/magi/models"), Path("/models"))


class Section(Schema, frozen=True):
    """Settings that stand together."""


class TierBounds(Section, frozen=True):
    """The bounds of tiers, in billions of parameters."""

    powerful_min: Annotated[Billions, about("A model of at least this size is powerful")] = 14.0
    fast_max: Annotated[
        Billions,
        Rule(_up_to_powerful, beside="powerful_min"),
        about("Below this size a model of at most 4 bits per weight is fast"),
    ] = 7.0


class Restart(Section, frozen=True):
    """Restarts of a server that has ended by itself."""

    limit: Annotated[
        int,
        Meta(ge=0, le=1000),
        about("Restarts within the window before a server counts as failed; 0: none"),
    ] = 5
    window: Annotated[Seconds, about("Seconds over which restarts are counted")] = 600.0
    first_delay: Annotated[
        Seconds, about("Seconds before the first restart; doubled for each further one")
    ] = 1.0  # fmt: skip
    max_delay: Annotated[
        Seconds,
        Rule(_from_first_on, beside="first_delay"),
        about("Longest delay before a restart, in seconds"),
    ] = 60.0


class DownloadSettings(Section, frozen=True):
    """Where downloads come from, and how much they may take."""

    endpoint: Annotated[
        Annotated[str, Rule(hub_address)],
        about("The hub that models are downloaded from, or a mirror of it"),
    ] = "https://huggingface.co"
    token_path: Annotated[
        Path, about("The file with the token for the hub, for root alone; it may be missing")
    ] = Path("/etc/magi/hub-token")
    at_once: Annotated[
        int, Meta(ge=1, le=16), about("Downloads that may run at once; others wait")
    ] = 2  # fmt: skip
    rate_limit: Annotated[
        Annotated[int, Meta(ge=1024, le=2**40)] | None,
        about("Bytes per second of each download; null: no limit"),
    ] = None
    reserve: Annotated[
        int,
        Meta(ge=0, le=2**50),
        about("Bytes of the library's file system that downloads leave free"),
    ] = 2**30


class Gateway(Section, frozen=True):
    """Limits of requests to models."""

    max_body_bytes: Annotated[
        int,
        Meta(ge=1024, le=2**30),
        about("The largest request body for a model, in bytes, images included"),
    ] = 33_554_432
    queue_limit: Annotated[
        int,
        Meta(ge=0, le=100_000),
        about("Requests that may wait for a free slot of one model or tier"),
    ] = 256
    queue_timeout: Annotated[
        Seconds, about("Seconds that a request may wait for a free slot")
    ] = 60.0  # fmt: skip
    max_loaded: Annotated[
        Annotated[int, Meta(ge=1, le=10_000)] | None,
        about("On-demand models that may run at once; null: no limit"),
    ] = None


class Config(Section, frozen=True):
    """Every setting of the daemon. Times are in seconds, sizes in bytes."""

    model_paths: Annotated[
        tuple[Path, ...],
        Meta(min_length=1, max_length=64),
        Rule(distinct),
        about("Folders that are searched for GGUF files"),
    ] = _MODEL_PATHS
    library_path: Annotated[
        Path,
        about("The folder that magid downloads to and deletes from; in or below model_paths"),
    ] = Path("/var/lib/magi/models")
    state_dir: Annotated[Path, about("Where the daemon keeps its own files")] = Path(
        "/var/lib/magi"
    )
    registry_path: Annotated[
        Path,
        Rule(_below, beside="state_dir"),
        about("The registry; without it, model_registry.json in state_dir"),
    ] = Path("model_registry.json")
    profiles_dir: Annotated[
        Path, about("Where the profiles are, one NAME.yaml each")
    ] = Path("/etc/magi/profiles")  # fmt: skip
    shipped_profiles_dir: Annotated[
        Path, about("Profiles that come with magid; a file in profiles_dir replaces its namesake")
    ] = Path("/usr/share/magi/profiles")
    page_dir: Annotated[
        Path, about("The built page, which is served at /; an empty folder switches it off")
    ] = Path("/usr/share/magi/page")
    profile: Annotated[
        Annotated[str, Rule(profile_name)] | None,
        about("The profile that the very first start activates; null: none"),
    ] = "development"
    launcher: Annotated[
        Literal["auto", "systemd", "process"],
        about("What runs the servers; auto: systemd if it is the init system"),
    ] = "auto"
    llama_server_path: Annotated[
        Path | None, about("The llama-server program; null: searched for in the usual places")
    ] = None
    engines_dir: Annotated[
        Path,
        about("Where `magictl engine` keeps llama-servers; root's, and so is every folder above"),
    ] = Path("/var/lib/magi-engines")
    llama_server_host: Annotated[
        Host, about("The address that servers listen on")
    ] = "127.0.0.1"  # fmt: skip
    max_startup_time: Annotated[
        Seconds, about("Seconds after which a server that is not ready has failed")
    ] = 120.0
    readiness_check_interval: Annotated[
        Seconds,
        about("Longest pause between readiness checks, in seconds; it begins with 5 ms"),
    ] = 0.02  # fmt: skip
    stop_timeout: Annotated[
        Seconds, about("Seconds that a server has to stop before it is killed")
    ] = 10.0
    port_range: Annotated[
        tuple[Port, Port], Rule(ordered), about("Ports of the servers, [lowest, highest]")
    ] = (8080, 8099)
    bind: Annotated[
        tuple[Annotated[str, Rule(listenable)], ...],
        Meta(min_length=1, max_length=16),
        Rule(distinct),
        Rule(_apart_from_servers, beside="port_range"),
        about("Where the API listens: HOST:PORT, [IPV6]:PORT or unix:/PATH"),
    ] = ("127.0.0.1:8000",)
    allowed_hosts: Annotated[
        tuple[Host, ...],
        Meta(max_length=256),
        about("Host names under which clients may call the API, besides the machine's own"),
    ] = ()
    allowed_origins: Annotated[
        tuple[Annotated[str, Rule(origin)], ...],
        Meta(max_length=256),
        about("Web or app origins whose pages may call the API, besides its own"),
    ] = ()
    trusted_proxies: Annotated[
        tuple[Annotated[str, Rule(network)], ...],
        Meta(max_length=256),
        about("Addresses of reverse proxies whose X-Forwarded-Host is trusted"),
    ] = ()
    public_path: Annotated[
        str,
        Rule(path_prefix),
        about("The path below which trusted_proxies show the page and the API, like /magi/"),
    ] = "/"
    tls_cert: Annotated[
        Path | None,
        about("The TLS certificate of the API, with its chain; null: no TLS"),
    ] = None
    tls_key: Annotated[
        Path | None,
        Rule(_with_certificate, beside="tls_cert"),
        about("The private key of tls_cert"),
    ] = None
    tier_thresholds: TierBounds = TierBounds()
    server_defaults: Annotated[RuntimeSettings, Rule(_allowed)] = RuntimeSettings()
    gpu_reserve: Annotated[
        int,
        Meta(ge=0, le=2**50),
        about("Bytes of each GPU's memory, and of the machine's, that magid leaves free"),
    ] = 2**30
    ctx_default_max: Annotated[
        int,
        Meta(ge=4096, le=2**24),
        about("The largest context, in tokens, that a model on a GPU gets by itself"),
    ] = 32_768
    rpc_servers: Annotated[
        tuple[Annotated[str, Rule(rpc_server)], ...],
        Meta(max_length=16),
        Rule(distinct),
        about(
            "RPC servers of llama.cpp, ADDRESS:PORT in a private network, whose GPUs models may use"
        ),
    ] = ()
    restart: Restart = Restart()
    gateway: Gateway = Gateway()
    downloads: DownloadSettings = DownloadSettings()
    removed_model_days: Annotated[
        int,
        Meta(ge=0, le=36_500),
        about("Days before the settings of a model whose file is gone are forgotten"),
    ] = 90
    max_body_bytes: Annotated[
        int, Meta(ge=1024, le=2**30), about("The largest request body, in bytes")
    ] = 1_048_576
    request_timeout: Annotated[
        Seconds, about("Seconds within which a whole request has to arrive")
    ] = 10.0  # fmt: skip
    send_timeout: Annotated[
        Seconds, about("Seconds after which a client that does not read its answer is cut off")
    ] = 60.0
    drain_timeout: Annotated[
        Seconds, about("Seconds that requests in progress have to finish at shutdown")
    ] = 10.0  # fmt: skip
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        about("The lowest level of messages that are logged"),
    ] = "info"

    @property
    def may_lack_folders(self) -> bool:
        """Whether a missing model folder needs no warning, because it is only a default."""
        return self.model_paths is _MODEL_PATHS

    @property
    def library_root(self) -> Path | None:
        """The one folder whose models magid may add and delete.

        None if `library_path` is in none of `model_paths`: nothing in it would be offered.
        """
        offered = (self.library_path.is_relative_to(path) for path in self.model_paths)
        return self.library_path if any(offered) else None

    @property
    def addresses(self) -> tuple[Address, ...]:
        """`bind`, parsed."""
        return tuple(map(parse_address, self.bind))
