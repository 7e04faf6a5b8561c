"""What magid itself reports, as far as no check of its own has found the same."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from magid.doctor.checks import (
    configured,
    gpu,
    gpu_room,
    installed,
    machine,
    models,
    ports,
    running,
    units,
)
from magid.doctor.facts import CheckSkipped, Facts, Finding, FindingSeverity, answering

# They pass by themselves, or `running.servers` has the same from the same answer.
_LEFT_OUT: Final = frozenset({"NotServing", "ServerDown"})
# Condition -> the checks that look for its cause, and know more: what they find is told once.
_CAUSES: Final[Mapping[str, tuple[Callable[[Facts], Iterable[Finding]], ...]]] = {
    "StateUnknown": (models.folders,),
    "NoFolder": (models.folders,),
    "FolderSilent": (models.folders,),
    "FolderUnreadable": (models.folders,),
    "ModelsMissing": (models.folders,),
    "FilesBroken": (models.broken, models.files),
    "ProfileUnusable": (configured.profiles,),
    "StateNotSaved": (configured.registry, machine.disks, machine.writing, installed.owners),
    "TokensUnusable": (configured.tokens,),
    "NotListening": (ports.ports, units.units),
    "UnitMasked": (units.units,),
    "NoProgram": (running.llama_server,),
    "DoesNotFit": (gpu_room.room, machine.memory),
    "GpuUnused": (gpu.use, gpu.nodes),
    "LimitsNotInForce": (machine.limits,),
}


def conditions(facts: Facts) -> Iterator[Finding]:
    """No condition that magid reports is left without a finding."""
    for one in answering(facts).conditions:
        causes = _CAUSES.get(one.code, ())
        if one.code not in _LEFT_OUT and not any(_finds(find, facts) for find in causes):
            yield Finding(
                "magid-reports",
                one.message,
                severity=FindingSeverity(one.severity),
                run=tuple(command for command in one.remedy if command != "magictl doctor"),
            )


def _finds(find: Callable[[Facts], Iterable[Finding]], facts: Facts) -> bool:
    try:
        return any(True for _ in find(facts))
    except CheckSkipped:
        return False
