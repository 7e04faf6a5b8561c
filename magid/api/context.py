"""The context of handlers: the daemon, and answers that are cached as bytes."""

import asyncio
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from msgspec import Struct, field

from magid.api import views
from magid.api.engine_reads import EngineReads
from magid.api.gpu_views import gpus_reply
from magid.api.page import Page
from magid.api.reply import etag_of
from magid.api.schemas import gpus as gpu_schemas
from magid.api.schemas import servers as server_schemas
from magid.api.sse import Fanout
from magid.auth.authenticator import Authenticator
from magid.auth.sign_in_delays import SignInDelays
from magid.auth.token_store import TokenStore
from magid.catalog.effective import Model
from magid.config.addresses import Address
from magid.config.loading import Effective
from magid.control.conditions import Code, DaemonCondition, Severity, in_order
from magid.control.daemon import Daemon
from magid.control.fits import ModelFit
from magid.control.program_conditions import (
    engines_missing,
    gpu_unused,
    misses_gpu,
    needs_default,
    older_program,
)
from magid.control.snapshot import Snapshot
from magid.errors import MagidError, NotReady
from magid.gateway.dispatcher import Dispatcher
from magid.host import debian_packages, display_controllers
from magid.http.json_text import to_json
from magid.library.downloads.owner import Downloads
from magid.library.turns import Turns
from magid.llama import gpu_packages
from magid.llama.program import LlamaProgram, ProgramOf
from magid.log.setup import OwnLog, RingLog
from magid.servers.backend import ObservedServer


class DashboardState(Struct):
    """What `GET` requests show of servers, status, profiles and requests."""

    servers: dict[int, server_schemas.Server]  # by port
    status: dict[str, Any]
    profiles: dict[str, str]  # name -> revision
    requests: dict[str, int]
    memory: server_schemas.Memory


class Context(Struct):
    """One per daemon. `program` finds and probes llama-server; it raises LlamaServerMissing."""

    daemon: Daemon
    program: ProgramOf
    gateway: Dispatcher
    tokens: TokenStore
    downloads: Downloads
    log: OwnLog = field(default_factory=RingLog)  # magid's own log
    started_at: float = field(default_factory=time.time)
    fanout: Fanout = field(default_factory=Fanout)
    sent: DashboardState | None = None  # the state last sent to the watchers of events
    page: Page = Page()
    addresses: tuple[Address, ...] = ()  # on which magid listens
    delays: SignInDelays = field(default_factory=SignInDelays)
    look_at_pci: Callable[[], frozenset[str]] = display_controllers.vendors
    disk_turns: Turns = field(default_factory=Turns)
    profile_turns: Turns = field(default_factory=Turns)
    configuration: Effective | None = None  # None: it came from no file
    not_listening: tuple[str, ...] = ()  # which addresses are not served, and why
    _lacking: str = ""  # why there is no llama-server
    _programs_changed_at: dict[str | None, float] = field(default_factory=dict)  # by engine
    _gpu_vendors: frozenset[str] | None = None  # of the GPUs in the machine; None: not looked at
    _gpu_unused: DaemonCondition | None = None
    _written: dict[str, tuple[Model, ModelFit, bytes]] = field(default_factory=dict)
    _ready_made: dict[str, tuple[tuple[int, int], bytes, str]] = field(default_factory=dict)
    _authenticator: Authenticator | None = None
    _engines: EngineReads | None = None

    @property
    def authenticator(self) -> Authenticator:
        """The one for all connections, of the API and of the gateway."""
        if self._authenticator is None:
            self._authenticator = Authenticator(self.tokens)
        return self._authenticator

    @property
    def engines(self) -> EngineReads:
        """The one that looks at the folder of engines."""
        if self._engines is None:
            self._engines = EngineReads(self.daemon.config.engines_dir)
        return self._engines

    def gpus(self) -> gpu_schemas.GpusReply:
        """Returns the GPUs as they were listed last, and what servers hold there."""
        daemon, listed = self.daemon, self.daemon.gpus.devices.present
        capacity = daemon.gpus.placing.holders.capacity(listed.gpus)
        reserve = daemon.config.gpu_reserve
        servers = daemon.observed().values()
        return gpus_reply(listed, servers, capacity, reserve, daemon.gpus.held.of)

    def need_listing(self) -> Snapshot:
        """Returns the current snapshot. Raises NotReady until the models are known."""
        snapshot = self.daemon.snapshot
        if not snapshot.disk.listed:
            raise NotReady(
                "cannot list models yet: no scan of the model folders has succeeded; "
                "POST /api/models/rescan says why, or try again in a moment"
            )
        return snapshot

    def prepared(self, name: str, make: Callable[[Snapshot], bytes]) -> tuple[bytes, str]:
        """Returns `make(now)` and its ETag; rebuilds them only when the models have changed.

        Raises NotReady until the models are known.
        """
        now = self.need_listing()
        kept = self._ready_made.get(name)
        revision = now.revision, self.daemon.gpus.fits.revision
        if kept is None or kept[0] != revision:
            body = make(now)
            kept = (revision, body, etag_of(body))
            self._ready_made[name] = kept
        return kept[1], kept[2]

    def registry(self) -> tuple[bytes, str]:
        """Returns the whole registry as JSON, and its ETag. Raises NotReady until there is one."""
        return self.prepared("registry", self.registry_json)

    def registry_json(self, now: Snapshot) -> bytes:
        written = self.models_json(now.models)
        for gone in self._written.keys() - now.models.keys():
            del self._written[gone]
        rows = b",".join(b'"%s":%s' % (i.encode(), body) for i, body in written.items())
        frame = to_json(views.registry_frame(now, self.daemon.config))
        return b'{"models":{%s},%s' % (rows, frame[1:])

    def models_json(self, models: Mapping[str, Model]) -> dict[str, bytes]:
        """Returns each model as JSON. Encodes only changed ones: there may be thousands."""
        kept, fits = self._written, self.daemon.gpus.fits
        for model_id, model in models.items():
            fit = fits.of(model_id)
            if model_id not in kept or kept[model_id][:2] != (model, fit):
                kept[model_id] = (model, fit, to_json(views.discovered_model(model, fit)))
        return {model_id: kept[model_id][2] for model_id in models}

    async def servers(self) -> list[server_schemas.Server]:
        """Returns all servers with their current figures."""
        figures = await self.daemon.launcher.figures()
        daemon = self.daemon
        return views.server_list(
            daemon.snapshot, daemon.observed(), figures, time.time(), daemon.queued_ports
        )

    async def servers_of(self, model_id: str) -> list[server_schemas.Server]:
        return [s for s in await self.servers() if s["modelId"] == model_id]

    def server_now(self, observed: ObservedServer) -> server_schemas.Server:
        """Returns one server without figures: cheap enough for every event."""
        return views.server(observed, self.daemon.snapshot, None, time.time())

    async def look_for_program(self) -> None:
        """Checks that llama-server exists, and sees the GPUs, for `conditions`.

        Costs one `stat`; once a start, where it sees no GPU, a look at PCI and at dpkg's list.
        """
        snapshot = self.daemon.snapshot
        changed_at: dict[str | None, float] = {}
        for engine in snapshot.engines:
            with suppress(MagidError):
                changed_at[engine] = (await self.program(engine)).changed_at
        try:
            program = await self.program()
        except MagidError as error:
            self._lacking = error.message if needs_default(snapshot.wanted) else ""
        else:
            self._lacking, changed_at[None] = "", program.changed_at
            await self._look_for_gpus(str(program.path))
        self._programs_changed_at = changed_at

    async def _look_for_gpus(self, program: str) -> None:
        devices, config = self.daemon.gpus.devices.present, self.daemon.config
        if self._gpu_vendors is None and devices.listed_at is not None and not devices.gpus:
            self._gpu_vendors = await asyncio.to_thread(self.look_at_pci)
        vendors = self._gpu_vendors or frozenset()
        if not misses_gpu(devices, vendors, config):
            self._gpu_unused = None
        elif self._gpu_unused is None:
            installed = await asyncio.to_thread(debian_packages.installed, gpu_packages.PACKAGES)
            advice = gpu_packages.advice(_system(), vendors, program, installed)
            self._gpu_unused = gpu_unused(vendors, advice)

    def conditions(self) -> list[DaemonCondition]:
        """Returns the daemon's conditions and those of the API: the one list that all show."""
        found = self.daemon.conditions()
        if self._lacking and not any(self._lacking in one.message for one in found):
            found.append(DaemonCondition(Code.NO_PROGRAM, self._lacking, Severity.ERROR))
        found += [self._gpu_unused] if self._gpu_unused else []
        servers, wanted = self.daemon.observed().values(), self.daemon.snapshot.wanted
        found += older_program(servers, wanted, self._programs_changed_at)
        found += engines_missing(wanted.blocked, servers)
        found += (DaemonCondition(Code.NOT_LISTENING, text) for text in self.not_listening)
        if self.gateway.capture.until is not None:
            found.append(_capturing(self.gateway.capture.until))
        if self.tokens.problem is not None:
            found.append(DaemonCondition(Code.TOKENS_UNUSABLE, self.tokens.problem.message))
        return in_order(found)

    async def versions(self) -> server_schemas.Versions:
        found: LlamaProgram | None
        try:
            found = await self.program()
        except MagidError:
            found = None
        return views.versions(found)

    async def memory(self) -> server_schemas.Memory:
        return views.memory(await self.daemon.gpus.machine.memory())


def _capturing(until: datetime) -> DaemonCondition:
    return DaemonCondition(
        Code.CAPTURING_TEXTS,
        "what clients ask and what models answer is captured until "
        f"{views.when(until)}: administrators can read it",
        remedy=("magictl capture stop",),
    )


def _system() -> Mapping[str, str]:
    """The fields of os-release(5); {} where there is none."""
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}
