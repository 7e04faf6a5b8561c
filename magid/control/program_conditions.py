"""Conditions of this machine's llama-server: the newest one runs, and it finds the GPUs. Pure."""

from collections.abc import Iterable, Mapping

from magid.config.settings import Config
from magid.control.conditions import Code, DaemonCondition, Severity, listed
from magid.control.devices import DeviceList
from magid.control.planner import Blocked, Wanted
from magid.host.display_controllers import NAMES
from magid.llama.engines import DEFAULT
from magid.llama.gpu_packages import PackageAdvice
from magid.servers.backend import ObservedServer
from magid.wording.counts import counted


def older_program(
    servers: Iterable[ObservedServer], wanted: Wanted, changed_at: Mapping[str | None, float]
) -> Iterable[DaemonCondition]:
    """Notes the models whose server was started before its llama-server was replaced.

    `changed_at` is the time of that, by engine; None: the one of all models.
    """
    started = (s for s in servers if s.state.is_running and s.started_at is not None)
    names = sorted(
        {
            server.model_id
            for server in started
            if (server.started_at or 0.0) < changed_at.get(_engine_of(server, wanted), 0.0)
        }
    )
    if names:
        yield DaemonCondition(
            Code.OLDER_PROGRAM,
            f"{counted(len(names), 'model runs', 'models run')} an older llama-server, from before "
            f"it was replaced: {listed(names)}",
            Severity.NOTE,
            (f"magictl restart {' '.join(names)}",),
            tuple(names),
        )


def _engine_of(server: ObservedServer, wanted: Wanted) -> str | None:
    """Returns the engine that it was started with, if that is known, else the one to start with."""
    known, spec = dict(server.values), wanted.by_port.get(server.port)
    engine = known.get("engine", spec.engine if spec else None)
    return None if engine == DEFAULT else engine


def needs_default(wanted: Wanted) -> bool:
    """Whether a server would be started with the engine of all models, as far as is known."""
    return not wanted.specs or any(spec.engine in (None, DEFAULT) for spec in wanted.specs)


def engines_missing(
    blocked: Iterable[Blocked], servers: Iterable[ObservedServer]
) -> Iterable[DaemonCondition]:
    """Names the models whose engine is gone; what runs with it goes on."""
    by_engine: dict[str, list[str]] = {}
    for line in blocked:
        if line.engine:
            by_engine.setdefault(line.engine, []).append(line.model_id)
    running = {server.model_id for server in servers if server.state.is_running}
    for engine, names in by_engine.items():
        yield DaemonCondition(
            Code.ENGINE_MISSING,
            f"the engine {engine!r} is not installed, and {listed(names)} "
            f"{'has' if len(names) == 1 else 'have'} no other",
            Severity.WARNING if running.issuperset(names) else Severity.ERROR,
            (f"magictl engine add {engine} PATH", f"magictl engine use default {names[0]}"),
            tuple(names),
        )


def misses_gpu(devices: DeviceList, vendors: frozenset[str], config: Config) -> bool:
    """Whether llama-server has listed no GPU in a machine that has one, and one is wanted."""
    defaults = config.server_defaults
    is_declined = defaults.n_gpu_layers == 0 or defaults.device == "none"
    has_none = devices.listed_at is not None and not devices.gpus and not devices.problem
    return has_none and not is_declined and bool(vendors & NAMES.keys())


def gpu_unused(vendors: frozenset[str], advice: PackageAdvice) -> DaemonCondition:
    """Says that models run on the processor, and what gives llama-server the GPU."""
    makers = " and ".join(NAMES[vendor] for vendor in sorted(vendors & NAMES.keys()))
    return DaemonCondition(
        Code.GPU_UNUSED,
        f"this machine has a GPU of {makers}, and llama-server finds none: models run on the "
        f"processor; {advice.text}",
        remedy=(*advice.run, "magictl gpus --refresh") if advice.run else ("magictl doctor",),
    )
