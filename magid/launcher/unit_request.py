"""The description of a model's unit: checked by `policy`, turned into properties by `sandbox`."""

from dataclasses import dataclass
from ipaddress import IPv4Address

from magid.llama.placement import Placement
from magid.llama.spec import ServerSpec
from magid.standalone.before_exec import BIND, CONNECT, NO_PORT


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """A model file as the launcher found it: the same path may name another file later."""

    path: str  # what llama-server is told
    device: int
    inode: int
    blob: str = ""  # what is mounted there, if the path is a link in a hub's cache

    @property
    def source(self) -> str:
        """The path of the file itself."""
        return self.blob or self.path

    def __str__(self) -> str:
        return f"{self.device}:{self.inode}:{self.path}"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Timeouts in seconds, and the limits of automatic restarts."""

    max_startup_s: float
    check_interval_s: float
    stop_timeout_s: float
    restarts: int  # 0: none
    window_s: float  # in which the restarts are counted
    first_delay_s: float
    max_delay_s: float


@dataclass(frozen=True, slots=True)
class UnitRequest:
    """Everything that determines one unit."""

    spec: ServerSpec
    profile: str | None
    argv: tuple[str, ...]  # llama-server's, the program first
    files: tuple[CheckedFile, ...]  # all shards, projector, draft, adapters
    roots: tuple[str, ...]  # the model folders, links resolved: hidden
    program_folders: tuple[str, ...]  # bound back in where a hidden folder contains them
    scripts: str  # the folder of exec_model.py and wait_ready.py
    key_source: str  # the socket that gives every process a new key
    groups: tuple[str, ...]  # groups that exist here and open GPU devices or model files
    patience: Timeouts
    filters_port: bool = False  # exec_model.py keeps the server to its port; else the unit does
    placement: Placement | None = None
    remote: tuple[str, ...] = ()  # RPC servers, ADDRESS:PORT, that it may reach

    @property
    def server_words(self) -> list[str]:
        """The arguments of exec_model.py on ports: its own, and those that it may reach."""
        return [f"{BIND}{self.spec.port}"] * self.filters_port + self._connect_words

    @property
    def short_words(self) -> list[str]:
        """As `server_words`, for a short unit, which listens on no port."""
        return [f"{BIND}{NO_PORT}"] * self.filters_port + self._connect_words

    @property
    def _connect_words(self) -> list[str]:
        return [f"{CONNECT}{port}" for port in sorted({p for _, p in self._pairs})]

    @property
    def remote_addresses(self) -> list[bytes]:
        """Their IPv4 addresses, each once."""
        return [IPv4Address(host).packed for host in sorted({h for h, _ in self._pairs})]

    @property
    def _pairs(self) -> list[tuple[str, str]]:
        return [(host, port) for host, _, port in (one.rpartition(":") for one in self.remote)]
