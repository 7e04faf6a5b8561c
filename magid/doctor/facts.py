"""The facts about a machine that `magictl doctor` collects. Pure data.

A fact that could not be collected is `NotCollected`, with the reason and the command that would
get it; `known` ends a check that needs it. So no check has to ask who runs it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar

from magid.config.settings import Config
from magid.gpus.device import Gpu

T = TypeVar("T")

AS_ROOT: Final = "sudo magictl doctor"


class FindingSeverity(StrEnum):
    """How bad a finding is: an error keeps something from working, or open to others."""

    ERROR = "error"
    WARNING = "warning"  # works today
    NOTE = "note"  # good to know; shown with --all only


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem, and what fixes it.

    `name` is the same on every machine, and its check's alone: "registry-broken".
    """

    name: str
    what: str
    why: str = ""
    severity: FindingSeverity = FindingSeverity.ERROR
    do: str = ""  # for a person, where no command can do it
    run: tuple[str, ...] = ()  # to be pasted into root's shell, in this order


@dataclass(frozen=True, slots=True)
class NotCollected:
    """A look that was not taken. `run` is the command that takes it; empty: none does, here."""

    why: str
    run: str = ""


class CheckSkipped(Exception):
    """A check that could not be made, for what `unknown` says."""

    def __init__(self, unknown: NotCollected) -> None:
        super().__init__(unknown.why)
        self.unknown = unknown


def known(value: T | NotCollected) -> T:
    """Returns the value. Raises CheckSkipped if it was not collected."""
    if isinstance(value, NotCollected):
        raise CheckSkipped(value)
    return value


# -- what was seen ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Settings:
    """The configuration that the service reads.

    With a `problem`, or where the caller may not read it (`unread`), `config` is the default one.
    """

    path: Path
    config: Config
    problem: str = ""
    unread: NotCollected | None = None

    @property
    def unknown(self) -> NotCollected | None:
        """Why what is configured is unknown; None if `config` is what the file says."""
        return NotCollected(f"{self.path} cannot be used") if self.problem else self.unread


@dataclass(frozen=True, slots=True)
class Machine:
    """What the machine is."""

    systemd: int  # the major version; 0: it is not the init
    features: frozenset[str]  # that systemd was built with: "+BPF_FRAMEWORK"
    unified: bool  # cgroup v2 alone
    container: bool
    clock: float  # seconds since the epoch
    synchronised: bool | None  # None: unknown
    installed: float  # when magid's own files were put there, as their file system says
    written: float  # the newest time in magid's state; 0: there is none
    memory: int  # bytes of RAM
    controllers: frozenset[str]  # of control groups, that the kernel has
    storage: str  # journald's: "none" keeps no logs


@dataclass(frozen=True, slots=True)
class Accounts:
    """Users and groups of magid's that there are."""

    users: frozenset[str]
    groups: frozenset[str]


@dataclass(frozen=True, slots=True)
class ServiceUnit:
    """One unit, as systemd has it loaded."""

    name: str
    load: str  # LoadState
    active: str  # ActiveState
    enabled: str  # UnitFileState
    result: str  # Result
    stale: bool  # NeedDaemonReload
    fragment: str
    drop_ins: tuple[str, ...]
    invocation: str
    shown: Mapping[str, str]  # the properties of its sandbox, and what it listens on

    @property
    def said(self) -> str:
        """Why it cannot start, as magid itself has told systemd; "" if it has not."""
        text = self.shown.get("StatusText", "")
        return text if text.startswith("cannot ") and self.active != "active" else ""

    @property
    def has_failed(self) -> bool:
        """Whether it does not run because it failed, or is started again since it failed."""
        again = self.result not in ("", "success") or bool(self.said)
        return self.active == "failed" or (self.active == "activating" and again)


@dataclass(frozen=True, slots=True)
class Place:
    """A file, folder or socket of magid's."""

    path: str
    user: str
    group: str
    mode: int  # permission bits


@dataclass(frozen=True, slots=True)
class Volume:
    """The file system that a path of magid's is on. Sizes in bytes."""

    path: str
    free: int
    size: int
    free_inodes: int
    inodes: int  # 0: it does not count them
    read_only: bool


@dataclass(frozen=True, slots=True)
class Folder:
    """A model folder as the user magi finds it, with all that is below it."""

    path: str
    refused: tuple[tuple[str, str], ...] = ()  # path -> why it cannot be entered or listed
    missing: bool = False
    mount: str = ""  # what fstab mounts on it or above it, and is not mounted
    late: str = ""  # that it does not answer, in words


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model's file as the launcher finds it; `refused` is why it would not run it."""

    path: str
    refused: str = ""
    target: str = ""  # of a link that leads out of the model folders, to a file


@dataclass(frozen=True, slots=True)
class SandboxTrial:
    """What a unit with a model's very sandbox could do; or why there was no such unit."""

    failed: str = ""  # the unit did not come up
    files: Mapping[str, str] | None = None  # path -> why it cannot be read; "" if it can
    ways: Mapping[str, str] | None = None  # path -> the folder because of which it cannot
    nodes: Mapping[str, str] | None = None  # the same of each GPU device node
    egress: bool = False  # it can send to another machine
    program: "Program | None" = None


@dataclass(frozen=True, slots=True)
class Program:
    """What llama-server said, run in the sandbox; or `problem`."""

    path: str
    problem: str = ""
    version: str = ""
    flags: frozenset[str] = frozenset()
    gpus: tuple[Gpu, ...] = ()
    unlisted: str = ""  # why `--list-devices` gave no list


@dataclass(frozen=True, slots=True)
class Listener:
    """A TCP socket that listens on this machine. `pid` 0: whose it is only root may see."""

    host: str
    port: int
    pid: int = 0
    program: str = ""
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Gpus:
    """The GPUs of this machine, and what their drivers have made of them."""

    vendors: frozenset[str]  # of the display controllers on PCI, as "10de"
    majors: frozenset[str]  # the names of /proc/devices
    nodes: tuple[Place, ...]  # /dev/nvidia*, /dev/dri/renderD*, /dev/kfd
    driver: str  # the version of the NVIDIA module that is loaded
    libraries: tuple[str, ...]  # the versions of libcuda.so that are installed
    system: Mapping[str, str] = field(default_factory=dict)  # the fields of os-release
    packages: Mapping[str, str] = field(default_factory=dict)  # of ggml: name -> version


@dataclass(frozen=True, slots=True)
class RegistryFiles:
    """The registry on disk, and what is wrong with it."""

    path: str
    problem: str = ""  # why it cannot be used; "" if it can
    aside: tuple[str, ...] = ()  # broken ones that were set aside
    original: tuple[str, ...] = ()  # those that the original program has written


@dataclass(frozen=True, slots=True)
class ProfileFiles:
    """All profiles that there are, and those that cannot be used."""

    names: frozenset[str]
    broken: Mapping[str, str]  # name -> why


@dataclass(frozen=True, slots=True)
class Tokens:
    """Who may call over TCP. `count` None: no token was ever made, or the file is removed."""

    count: int | None = None
    problem: str = ""  # why the file cannot be used; then no caller is admitted


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """One server, as magid tells of it."""

    unit: str
    model_id: str
    state: str
    reason: str
    devices: tuple[tuple[str, str], ...] = ()  # name and id of each GPU that it was placed on


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One enabled model, as magid tells of it."""

    model_id: str
    size: int  # bytes of its files
    layers: int | None  # that were asked onto the GPU
    port: int | None
    always: bool  # it starts at boot
    limits: frozenset[str] = frozenset()  # the names of those that are set: "memoryMax"
    device: str = ""  # its setting
    offload: str = "all"  # its setting
    fits: str = ""  # whether it has room now, and why
    why: str = ""
    on_gpus: int = 0  # bytes that it needs there; 0: not known


@dataclass(frozen=True, slots=True)
class ConditionFacts:
    """One condition, as magid tells of it: see control/conditions."""

    code: str
    severity: str
    message: str
    remedy: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DaemonFacts:
    """What magid says of itself; or why it does not."""

    problem: str = ""
    profile: str | None = None
    servers: tuple[ServerFacts, ...] = ()
    models: tuple[ModelFacts, ...] = ()
    broken: tuple[tuple[str, str], ...] = ()  # a model file's path, and the reason
    conditions: tuple[ConditionFacts, ...] = ()
    others: Mapping[str, int] = field(default_factory=dict)  # GPU -> bytes of other programs


@dataclass(frozen=True, slots=True)
class Facts:
    """All of it, at one moment."""

    service: bool  # magid is installed as a service of this machine
    settings: Settings
    machine: Machine | NotCollected
    accounts: Accounts | NotCollected
    units: Mapping[str, ServiceUnit] | NotCollected
    places: Mapping[str, Place] | NotCollected  # those that are there
    volumes: tuple[Volume, ...] | NotCollected
    writing: str | NotCollected  # why the user magi cannot write its state; "" if it can
    folders: tuple[Folder, ...] | NotCollected
    files: tuple[ModelFile, ...] | NotCollected
    unread: Mapping[str, tuple[str, str]] | NotCollected  # path -> why magi cannot read it, where
    trial: SandboxTrial | NotCollected
    listeners: tuple[Listener, ...] | NotCollected
    gpus: Gpus | NotCollected
    registry: RegistryFiles | NotCollected
    profiles: ProfileFiles | NotCollected
    tokens: Tokens | NotCollected
    daemon: DaemonFacts | NotCollected
    launcher: str | NotCollected  # why the launcher does not answer; "" if it does
    said: Mapping[str, tuple[str, ...]] | NotCollected  # unit -> what its log says of GPUs


def configured(facts: Facts) -> Config:
    """Returns what is configured. Raises CheckSkipped if the file cannot be used or read."""
    if facts.settings.unknown:
        raise CheckSkipped(facts.settings.unknown)
    return facts.settings.config


def answering(facts: Facts) -> DaemonFacts:
    """Returns what magid says of itself. Raises CheckSkipped if it says nothing."""
    daemon = known(facts.daemon)
    if daemon.problem:
        raise CheckSkipped(NotCollected("magid does not answer"))
    return daemon
