"""Units that run for a moment in a model's own sandbox, and are no servers. Pure.

What a server can open and see is decided by a dozen settings together, drop-ins of the
administrator for all models among them. So a question about it is asked in a unit that has the
properties of a model's, made by the same functions, and is an instance of llama-server@.
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
        *("NotifyAccess", "ExecStart", "ExecStartEx", "ExecStartPost", "ExecStartPostEx"),
        *("TimeoutStartUSec", "Restart", "RestartUSec", "RestartPreventExitStatus"),
        *("StartLimitIntervalUSec", "StartLimitBurst", "RestartSteps", "RestartMaxDelayUSec"),
        *("LoadCredential", "LogExtraFields", "MemoryMax", "CPUQuotaPerSecUSec"),
    }
)


def request(
    settings: Config,
    program: FoundProgram | None,
    roots: tuple[str, ...],
    files: Iterable[CheckedFile],
) -> UnitRequest:
    """Returns the request of a server with these files: no more of it matters than its sandbox."""
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
