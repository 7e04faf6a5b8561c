"""All checks, causes before effects, so that fixing from the top takes the least work."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from magid.doctor.checks import (
    conditions,
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
from magid.doctor.facts import CheckSkipped, Facts, Finding, FindingSeverity, NotCollected


@dataclass(frozen=True, slots=True)
class Check:
    """One check. `says` is its result if `find` finds nothing."""

    name: str
    says: str
    find: Callable[[Facts], Iterable[Finding]]


CHECKS: Final = (
    Check("systemd", "systemd can run models", installed.systemd),
    Check("accounts", "the users and groups are there", installed.accounts),
    Check("disks", "there is room on the disks", machine.disks),
    Check("clock", "the clock is right", machine.clock),
    Check("journal", "systemd keeps the logs", machine.journal),
    Check("owners", "magid's files are its own", installed.owners),
    Check("writing", "magid can write its state", machine.writing),
    Check("settings", "the configuration can be used", configured.settings),
    Check("profiles", "all profiles can be read", configured.profiles),
    Check("registry", "the registry is whole", configured.registry),
    Check("tokens", "the tokens can be read", configured.tokens),
    Check("exposure", "only this machine gets in without a token", configured.exposure),
    Check("ports", "no other program has a port of magid's", ports.ports),
    Check("units", "magid's units are up", units.units),
    Check("drop-ins", "no drop-in takes protection away", units.drop_ins),
    Check("launcher", "the launcher answers", running.launcher),
    Check("magid", "magid answers", running.magid),
    Check("sandbox", "the sandbox of servers can be made, and holds", running.sandbox),
    Check("llama-server", "llama-server runs in the sandbox", running.llama_server),
    Check("folders", "magid can list the model folders", models.folders),
    Check("files", "servers can read the model files", models.files),
    Check("broken", "no model file is broken", models.broken),
    Check("gpu-nodes", "servers can open the GPUs", gpu.nodes),
    Check("gpu-driver", "the GPU driver fits its library", gpu.driver),
    Check("gpu-use", "models use the GPUs they should", gpu.use),
    Check("gpu-room", "the GPUs have what the settings ask of them", gpu_room.room),
    Check("limits", "the models' limits are in force", machine.limits),
    Check("memory", "the models fit into memory", machine.memory),
    Check("servers", "every server is up", running.servers),
    Check("conditions", "magid reports nothing else", conditions.conditions),
)


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one check: findings, or why it was not made."""

    check: Check
    findings: tuple[Finding, ...] = ()
    not_made: NotCollected | None = None

    @property
    def severity(self) -> FindingSeverity | None:
        """The worst of its findings; None if all is well."""
        found = {finding.severity for finding in self.findings}
        return next((severity for severity in FindingSeverity if severity in found), None)


def results(facts: Facts) -> list[Result]:
    """Runs all checks, in the order of the table. Pure."""
    return [_result(check, facts) for check in CHECKS]


def _result(check: Check, facts: Facts) -> Result:
    """Keeps the findings of a check that was skipped later on."""
    findings: list[Finding] = []
    try:
        for finding in check.find(facts):
            findings.append(finding)
    except CheckSkipped as error:
        return Result(check, tuple(findings), error.unknown)
    return Result(check, tuple(findings))
