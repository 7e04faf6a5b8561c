"""What runs, or should: llama-server, the launcher, magid, its ports and its servers."""

import shlex
from collections.abc import Iterator
from typing import Final

from magid.doctor.facts import CheckSkipped, Facts, Finding, Listener, NotCollected, Severity, known
from magid.errors import MagidError
from magid.llama.arguments import server_argv
from magid.llama.spec import ServerSpec
from magid.systemd.unit_names import unit_name

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
        yield Finding(
            f"no unit with the sandbox of a model can be started: {trial.failed}",
            "so no model can be; a drop-in for llama-server@ may be wrong",
            run=("systemctl cat llama-server@doctor.service",
                 "journalctl -n 20 --no-pager -u llama-server@doctor.service"),
        )  # fmt: skip
    if trial.egress:
        yield Finding(
            "servers can send to other machines: IPAddressDeny= has no effect here",
            "systemd needs the kernel's BPF for control groups (v2) for it, which some containers "
            "and old kernels do not give",
            Severity.WARNING,
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
        yield Finding(error.message, f"it is version {version}", do=_INSTALL)
        return
    lost = [f"{flag} ({why})" for flag, why in _PROTECTION.items() if flag not in flags]
    if lost:
        yield Finding(
            f"{path} is old: it does not know {', '.join(lost)}",
            f"it is version {version}",
            Severity.WARNING,
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
    if why := known(facts.launcher):
        yield Finding(
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
    refused = "Permission denied" in daemon.problem
    if refused:
        raise CheckSkipped(NotCollected(daemon.problem, "sudo magictl doctor"))
    run = ("systemctl restart magid.socket magid-local.socket magid.service",)
    yield Finding(
        daemon.problem,
        "models that run go on, but nothing can be asked or changed",
        run=(
            "systemctl reset-failed magid.service magid.socket magid-local.socket",
            "systemctl stop magid.service",
            *run,
        )
        if facts.service
        else (),
        do="" if facts.service else "start it: `magid`, or `make run`",
    )


def _runs(facts: Facts, name: str) -> None:
    """Raises CheckSkipped if the unit does not run: the check of the units reports that."""
    unit = None if isinstance(facts.units, NotCollected) else facts.units.get(name)
    if facts.service and unit and unit.active in ("inactive", "failed"):
        raise CheckSkipped(NotCollected(f"{name} does not run"))


# -- ports -----------------------------------------------------------------------------------


def ports(facts: Facts) -> Iterator[Finding]:
    """No other program listens on a port of a server, or in magid's place."""
    low, high = facts.settings.config.port_range
    daemon = facts.daemon
    wanted = set() if isinstance(daemon, NotCollected) else {model.port for model in daemon.models}
    seen: set[tuple[int, int]] = set()
    for one in known(facts.listeners):
        if not low <= one.port <= high or (one.port, one.pid) in seen or _is_server(facts, one):
            continue
        seen.add((one.port, one.pid))
        yield Finding(
            f"port {one.port} is taken by {_who(one)}",
            f"it is in port_range [{low}, {high}]"
            + (f", and {unit_name(one.port)} needs it" if one.port in wanted else ""),
            Severity.ERROR if one.port in wanted else Severity.WARNING,
            do="end it, or choose another port_range in /etc/magi/magid.yaml:",
            run=_ended(one),
        )


def _is_server(facts: Facts, one: Listener) -> bool:
    """Whether it is a server's own; without root, whether a server's unit runs on its port."""
    units = facts.units
    if one.pid:
        return one.unit == unit_name(one.port) or not facts.service
    unit = None if isinstance(units, NotCollected) else units.get(unit_name(one.port))
    return unit is not None and unit.active in ("active", "activating", "reloading")


def _who(one: Listener) -> str:
    if not one.pid:
        return "a program that only root can name"
    return f"{one.program} (pid {one.pid}{f', {one.unit}' if one.unit else ''})"


def _ended(one: Listener) -> tuple[str, ...]:
    if not one.pid:
        return (f"ss --listening --tcp --processes 'sport = {one.port}'",)
    if one.unit.endswith(".service"):
        return (f"systemctl stop {shlex.quote(one.unit)}",)
    return (f"kill {one.pid}",)


# -- servers ---------------------------------------------------------------------------------


def servers(facts: Facts) -> Iterator[Finding]:
    """Every server that magid wants has come up."""
    for server in known(facts.daemon).servers:
        if server.state in ("failed", "backoff"):
            yield Finding(
                f"{server.unit} ({server.model_id}) is in state {server.state}",
                server.reason,
                run=(
                    f"journalctl -n 20 --no-pager -u {server.unit}",
                    f"magictl restart {server.model_id}",
                ),
            )
