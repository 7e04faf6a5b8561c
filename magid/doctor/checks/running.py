"""What runs, or should: llama-server, the launcher, magid and its servers."""

from collections.abc import Iterator
from typing import Final

from magid.doctor.checks.installed import restarted
from magid.doctor.checks.units import LAUNCHER, set_aside
from magid.doctor.collect.services import TRIAL
from magid.doctor.facts import (
    CheckSkipped,
    Facts,
    Finding,
    FindingSeverity,
    NotCollected,
    answering,
    known,
)
from magid.errors import MagidError
from magid.llama.arguments import server_argv
from magid.llama.spec import ServerSpec

# What magid leaves out where a program does not know it, and what is lost then.
_PROTECTION: Final = {
    "--offline": "it may download files",
    "--cors-origins": "web pages may read the answers of a server whose key they have",
    "--metrics": "there are no figures of its own",
}
_INSTALL: Final = "install a llama-server from 2025 or later"


def sandbox(facts: Facts) -> Iterator[Finding]:
    """A unit with the sandbox of a model can be started, and cannot send to other machines."""
    trial = known(facts.trial)
    if trial.failed:
        files = () if isinstance(facts.units, NotCollected) else facts.units[TRIAL].drop_ins
        changes = f"; the units of models have local changes: {' '.join(files)}" if files else ""
        yield Finding(
            "sandbox-fails",
            f"no unit with the sandbox of a model can be started: {trial.failed}",
            f"so no model can be{changes}",
            do="set them aside:" if files else "its log says why:",
            run=(*set_aside(files), "magictl apply")
            if files
            else ("journalctl -n 20 --no-pager -u llama-server@doctor.service",),
        )
    if trial.egress:
        yield Finding(
            "servers-can-send",
            "servers can send to other machines: IPAddressDeny= has no effect here",
            "systemd needs the kernel's BPF for control groups (v2) for it, which some containers "
            "and old kernels do not give",
            FindingSeverity.WARNING,
            do="keep them in with a firewall, or run magid on a machine that has it",
        )


def llama_server(facts: Facts) -> Iterator[Finding]:
    """There is a llama-server, it runs in the sandbox, and it has the options that magid needs."""
    trial = known(facts.trial)
    program = trial.program
    if program is None:
        return
    if program.problem:
        yield Finding(
            "llama-server-does-not-run",
            program.problem
            if program.problem.startswith("cannot ")
            else f"{program.path} does not run: {program.problem}",
            _why_not(program.problem),
            do=_what_to_do(program.problem),
        )
        return
    if trial.failed:
        return
    yield from _too_old(program.path, program.flags, program.version)


def _too_old(path: str, flags: frozenset[str], version: str) -> Iterator[Finding]:
    spec = ServerSpec("doctor", 0, 8080, "127.0.0.1", "/m.gguf", ctx_size=1, n_threads=1)
    try:
        server_argv(spec, path, "/key", flags)
    except MagidError as error:
        yield Finding(
            "llama-server-too-old", error.message, f"it is version {version}", do=_INSTALL
        )
        return
    lost = [f"{flag} ({why})" for flag, why in _PROTECTION.items() if flag not in flags]
    if lost:
        yield Finding(
            "llama-server-old",
            f"{path} is old: it does not know {', '.join(lost)}",
            f"it is version {version}",
            FindingSeverity.WARNING,
            do=_INSTALL,
        )


def _why_not(problem: str) -> str:
    if "shared librar" in problem or ".so" in problem:
        return "a library that it needs is not there, or cannot be seen within the sandbox"
    if "Exec format error" in problem:
        return "it was built for another kind of processor, or is no program at all"
    return ""


def _what_to_do(problem: str) -> str:
    if "shared librar" in problem or ".so" in problem:
        return (
            "install the library; or put it beside llama-server, or into the lib folder beside "
            "the bin folder that it is in"
        )
    if problem.startswith("cannot "):
        return ""  # it says so itself
    return "put a llama-server for this machine there, or set llama_server_path in magid.yaml"


def launcher(facts: Facts) -> Iterator[Finding]:
    """The privileged helper answers."""
    _runs(facts, "magi-launcher.socket")
    if not isinstance(facts.units, NotCollected) and facts.units[LAUNCHER].load == "masked":
        raise CheckSkipped(NotCollected(f"{LAUNCHER} is masked"))  # the check of the units says so
    if why := known(facts.launcher):
        yield Finding(
            "launcher-silent",
            f"magi-launcher does not answer: {why}",
            "no server can be started or stopped by magid",
            run=(
                "systemctl reset-failed magi-launcher.service magi-launcher.socket",
                "systemctl stop magi-launcher.service",
                "systemctl restart magi-launcher.socket",
            ),
        )


def magid(facts: Facts) -> Iterator[Finding]:
    """The daemon answers."""
    daemon = known(facts.daemon)
    if not daemon.problem:
        return
    _runs(facts, "magid.service")
    yield Finding(
        "magid-silent",
        daemon.problem,
        "models that run go on, but nothing can be asked or changed",
        run=restarted() if facts.service else (),
        do="" if facts.service else "start it: `magid`, or `make run`",
    )


def _runs(facts: Facts, name: str) -> None:
    """Raises CheckSkipped if the unit does not run: the check of the units reports that."""
    unit = None if isinstance(facts.units, NotCollected) else facts.units.get(name)
    if facts.service and unit and (unit.active == "inactive" or unit.has_failed):
        raise CheckSkipped(NotCollected(f"{name} does not run"))


# -- servers ---------------------------------------------------------------------------------


def servers(facts: Facts) -> Iterator[Finding]:
    """Every server that magid wants has come up."""
    for server in answering(facts).servers:
        if server.state in ("failed", "backoff"):
            yield Finding(
                "server-failed",
                f"{server.unit} ({server.model_id}) is in state {server.state}",
                server.reason,
                run=(
                    f"journalctl -n 20 --no-pager -u {server.unit}",
                    f"magictl restart {server.model_id}",
                ),
            )
