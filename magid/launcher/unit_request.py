"""What decides about the unit of one model: checked by `policy`, made a unit by `sandbox`."""

from dataclasses import dataclass

from magid.llama.spec import ServerSpec


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """A model file as it was when the launcher looked: the same path may name another one later."""

    path: str
    device: int
    inode: int

    def __str__(self) -> str:
        return f"{self.device}:{self.inode}:{self.path}"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Times in seconds, and how often a server that ended by itself is started again."""

    max_startup_s: float
    check_interval_s: float
    stop_timeout_s: float
    restarts: int  # 0: none
    window_s: float  # over which they are counted
    first_delay_s: float
    max_delay_s: float


@dataclass(frozen=True, slots=True)
class UnitRequest:
    """All that decides about one unit."""

    spec: ServerSpec
    profile: str | None
    argv: tuple[str, ...]  # of llama-server, the program first
    files: tuple[CheckedFile, ...]  # all shards, and the projector
    roots: tuple[str, ...]  # the model folders, links resolved: hidden
    program_folders: tuple[str, ...]  # shown again where they are in something hidden
    scripts: str  # the folder of exec_model.py and wait_ready.py
    key_source: str  # the socket that has a new key for every process
    groups: tuple[str, ...]  # that exist here and open GPU devices or model files
    patience: Timeouts
