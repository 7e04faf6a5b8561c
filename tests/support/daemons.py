"""A daemon in this process: real store, profiles and scanner, and a launcher without processes."""

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from magid.auth import token_store
from magid.auth.token_store import TokenStore
from magid.catalog.profile_store import ProfileDir
from magid.config.settings import Config
from magid.control.conditions import Severity, messages
from magid.control.daemon import Daemon
from magid.control.snapshot import Phase
from magid.control.state import Change
from magid.discovery.found import Scan
from magid.discovery.scanner import Scanner
from magid.discovery.tiers import Thresholds
from magid.errors import LlamaServerMissing
from magid.files.document import Store
from magid.library.downloads.owner import Downloads
from magid.library.downloads.starting import ChildDownloads
from magid.llama.program import LlamaProgram, ProgramOf
from magid.servers.backend import ServerState
from tests.support import ggufs
from tests.support.deadlines import PATIENCE_S
from tests.support.recording_backend import StillLauncher

ALPHA = "alpha_1p0b_q4km_fast"
BETA = "beta_8p0b_q4km_balanced"
GAMMA = "gamma_30p0b_q4km_powerful"
SIZES = {"Alpha": 1, "Beta": 8, "Gamma": 30}
ONLY_FAST = "name: Test\nenabled_models: ['tier:fast']\n"
EVERYTHING = "name: Test\nenabled_models: ['*']\n"


class Gate:
    """Holds a blocking call in its thread while it is shut."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.at_once = 0  # the most calls that were inside together
        self._inside = 0
        self._open = threading.Event()
        self._open.set()
        self._loop = asyncio.get_running_loop()

    def shut(self) -> None:
        self.reached.clear()
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def pass_through(self) -> None:
        """Called in the thread."""
        self._inside += 1
        self.at_once = max(self.at_once, self._inside)
        self._loop.call_soon_threadsafe(self.reached.set)
        assert self._open.wait(PATIENCE_S), "the test left the gate shut"
        self._inside -= 1


class GatedStore(Store):
    """A store whose saves wait at a gate before they begin."""

    def __init__(self, path: Path, gate: Gate) -> None:
        super().__init__(path)
        self._gate = gate

    def save(self, payload: Mapping[str, Any]) -> int:
        self._gate.pass_through()
        return super().save(payload)


class GatedScanner(Scanner):
    """A scanner whose scans wait at a gate before they begin."""

    def __init__(self, roots: tuple[Path, ...], gate: Gate) -> None:
        super().__init__(roots, Thresholds(), None)
        self._gate = gate

    def scan(self, progress: Callable[[int, int], None] | None = None) -> Scan:
        self._gate.pass_through()
        return super().scan(progress)


async def no_program(_engine: str | None = None, /) -> LlamaProgram:
    raise LlamaServerMissing("cannot find llama-server")


@dataclass
class House:
    """The folders of one daemon, and the daemons that live in it one after another."""

    folder: Path
    launcher: StillLauncher = field(default_factory=lambda: StillLauncher(prompt=True))
    saves: Gate = field(default_factory=Gate)
    scans: Gate = field(default_factory=Gate)
    settings: dict[str, Any] = field(default_factory=dict)
    program: ProgramOf = no_program
    opened: list[Daemon] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)

    def __post_init__(self) -> None:
        for path in (self.models, self.profiles, self.state):
            path.mkdir()
        for name, size in SIZES.items():
            self.add(name, size)
        self.write_profile("test", EVERYTHING)

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @property
    def profiles(self) -> Path:
        return self.folder / "profiles"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def registry(self) -> Path:
        return self.state / "model_registry.json"

    def path_of(self, name: str) -> Path:
        return self.models / f"{name}-{SIZES[name]}B-Q4_K_M.gguf"

    def add(self, name: str, billions: int, **more: Any) -> None:
        path = self.models / f"{name}-{billions}B-Q4_K_M.gguf"
        ggufs.write_sparse_model(path, parameters_billions=billions, **more)

    def write_profile(self, name: str, text: str) -> None:
        """As an editor does it: a new file in the place of the old one."""
        new = self.profiles / f".{name}.new"
        new.write_text(text)
        new.rename(self.profiles / f"{name}.yaml")

    def config(self) -> Config:
        defaults: dict[str, Any] = {
            "model_paths": (self.models,),
            "state_dir": self.state,
            "profiles_dir": self.profiles,
            "profile": "test",
            "port_range": (9000, 9005),
        }
        return Config(**(defaults | self.settings))

    async def in_first_scan(self) -> Daemon:
        """Open, and held in its first scan until `scans.open()`."""
        self.scans.shut()
        daemon = self.daemon()
        await daemon.open()
        await self.scans.reached.wait()
        return daemon

    def daemon(self) -> Daemon:
        """Not open yet."""
        config = self.config()
        daemon = Daemon(
            config=config,
            store=GatedStore(config.registry_path, self.saves),
            profiles=ProfileDir(config.profiles_dir),
            scanner=GatedScanner(config.model_paths, self.scans),
            launcher=self.launcher,
            program=self.program,
        )
        self.opened.append(daemon)
        daemon.subscribe(self.changes.append)
        return daemon

    def tokens(self) -> TokenStore:
        """Of no tokens."""
        return TokenStore(self.state / token_store.NAME)

    def downloads(self, daemon: Daemon) -> Downloads:
        """Of none, and not followed."""
        starter = ChildDownloads(daemon.config)
        return Downloads(daemon.config, starter, daemon.rescan, lambda: daemon.launcher.boot)

    async def running(self) -> Daemon:
        """Booted."""
        daemon = self.daemon()
        await daemon.open()
        await until(daemon, lambda: daemon.phase is Phase.SERVING)
        return daemon

    async def close(self) -> None:
        self.saves.open()
        self.scans.open()
        for daemon in self.opened:
            await daemon.close()


async def until(daemon: Daemon, is_so: Callable[[], bool]) -> None:
    """Wait until it is so; looked at after every change that the daemon tells of."""
    news = asyncio.Event()
    unsubscribe = daemon.subscribe(lambda _change: news.set())
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not is_so():
                news.clear()
                await news.wait()
    finally:
        unsubscribe()


def stored(house: House) -> Any:
    """What the registry file holds."""
    return json.loads(house.registry.read_text())["registry"]


def entry(house: House, model_id: str) -> Any:
    return stored(house)["models"][model_id]


def states(daemon: Daemon) -> dict[str, ServerState]:
    return {server.model_id: server.state for server in daemon.observed().values()}


def errors(daemon: Daemon) -> list[str]:
    """Why /readyz would answer 503."""
    return messages(daemon.conditions(), Severity.ERROR)


def warnings(daemon: Daemon) -> list[str]:
    return messages(daemon.conditions(), Severity.WARNING)
