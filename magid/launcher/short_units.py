"""Short units: they run in a model's sandbox for a moment and are not servers. Pure.

A dozen settings together decide what a server can open and see, the administrator's drop-ins for
all models among them. So llama-server is asked in an instance of llama-server@ that has the
properties of a model's unit, made by the same functions.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from magid.config.settings import Config
from magid.launcher.policy import groups_here, patience_of, program_folders
from magid.launcher.sandbox import Property, command_property, unit_properties
from magid.launcher.unit_request import CheckedFile, UnitRequest
from magid.llama.program import FoundProgram
from magid.llama.spec import ServerSpec
from magid.standalone import SCRIPTS

_GPU_UNIT: Final = "magi-gpu.service"
_NOTICE: Final = 5  # systemd does not log each start and end of the unit
# What makes a unit a server.
LEFT_OUT: Final = frozenset(
    {
        *("Description", "PartOf", "Wants", "After", "CollectMode", "AddRef", "Type"),
        *("NotifyAccess", "ExecStart", "ExecStartEx", "TimeoutStartUSec"),
        *("Restart", "RestartUSec", "RestartPreventExitStatus"),
        *("StartLimitIntervalUSec", "StartLimitBurst", "RestartSteps", "RestartMaxDelayUSec"),
        *("LoadCredential", "LogExtraFields", "MemoryMax", "CPUQuotaPerSecUSec"),
    }
)


def request(
    settings: Config,
    program: FoundProgram | None,
    roots: tuple[str, ...],
    files: Iterable[CheckedFile],
    remote: tuple[str, ...] = (),
    *,
    filters_port: bool = False,
) -> UnitRequest:
    """Returns a request with these files, of which only the sandbox is used.

    With `filters_port`, exec_model.py closes the ports (`short_words`), and the unit does not.
    """
    port, host = settings.port_range[0], settings.llama_server_host
    return UnitRequest(
        spec=ServerSpec("none", 0, port, host, "/"),
        profile=None,
        argv=(),
        files=tuple(files),
        roots=roots,
        program_folders=program_folders(program) if program else (),
        scripts=str(SCRIPTS),
        key_source="/dev/null",
        groups=groups_here(),
        patience=patience_of(settings),
        filters_port=filters_port,
        remote=remote,
    )


def properties(
    order: UnitRequest, version: int, argv: Sequence[str], seconds: float, what: str
) -> list[Property]:
    """Returns the unit that runs `argv` in the sandbox of this request, `seconds` at most."""
    kept = [p for p in unit_properties(order, version) if p.name not in LEFT_OUT]
    return [
        *kept,
        Property("Description", "s", what),
        Property("Type", "s", "oneshot"),
        Property("CollectMode", "s", "inactive-or-failed"),
        Property("TimeoutStartUSec", "t", int(seconds * 1e6)),
        command_property("ExecStart", argv, version),
    ]


def quiet(made: Iterable[Property], user: str) -> list[Property]:
    """Returns these properties for a unit that runs as `user`, often, and needs the GPUs."""
    return [
        *(p for p in made if p.name != "User"),
        Property("User", "s", user),
        Property("LogLevelMax", "i", _NOTICE),
        Property("Wants", "as", [_GPU_UNIT]),
        Property("After", "as", [_GPU_UNIT]),
    ]
