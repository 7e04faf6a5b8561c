"""Conditions of this machine's llama-server: the newest one runs, and it finds the GPUs. Pure."""

from collections.abc import Iterable

from magid.config.settings import Config
from magid.control.conditions import Code, DaemonCondition, Severity, listed
from magid.control.devices import DeviceList
from magid.host.display_controllers import NAMES
from magid.llama.gpu_packages import PackageAdvice
from magid.servers.backend import ObservedServer
from magid.wording.counts import counted


def older_program(
    servers: Iterable[ObservedServer], changed_at: float
) -> Iterable[DaemonCondition]:
    """Notes the models whose server was started before llama-server was replaced, at this time."""
    started = (s for s in servers if s.state.is_running and s.started_at is not None)
    names = sorted({s.model_id for s in started if (s.started_at or 0.0) < changed_at})
    if names:
        yield DaemonCondition(
            Code.OLDER_PROGRAM,
            f"{counted(len(names), 'model runs', 'models run')} an older llama-server, from before "
            f"it was replaced: {listed(names)}",
            Severity.NOTE,
            (f"magictl restart {' '.join(names)}",),
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
