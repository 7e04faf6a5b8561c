"""A trial: one short unit with a model's own sandbox, in which probe_sandbox.py looks around.

Whether a server can open a file or a GPU is decided by a dozen settings together: user and groups,
mounts, the device list, drop-ins of the administrator. To work that out again here would be a
second sandbox, which is wrong one day; so the first one is asked, in a unit of
`launcher/short_units`.

Only root may do this, by asking systemd itself. The launcher is not asked: it takes no paths to
try, and that is worth more than a trial for everybody. It is also how doctor runs llama-server:
never as root, wherever the configuration says that it is.
"""

import asyncio
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

from magid.config.settings import Config
from magid.doctor.collect.commands import PROBE, CannotCollect
from magid.doctor.collect.services import TRIAL
from magid.doctor.facts import Program, SandboxTrial
from magid.errors import MagidError
from magid.gpus.device import gpus_of
from magid.gpus.listing import devices_in, last_line
from magid.launcher import short_units
from magid.launcher.model_files import Examiner, check_files
from magid.launcher.policy import configured_program
from magid.launcher.sandbox import Property, unit_properties
from magid.launcher.unit_request import CheckedFile, UnitRequest
from magid.llama.program import FoundProgram, flags_in, look_at, version_in
from magid.llama.program_search import ProgramSearch
from magid.systemd.bus import MANAGER, MANAGER_PATH, PROPERTIES, Bus, BusError, major, variant

TRIAL_S: Final = 45.0  # three runs of llama-server, each with its own limit
_LOOK_S: Final = 0.05
_SERVICE: Final = "org.freedesktop.systemd1.Service"


def trial(settings: Config, paths: Iterable[str]) -> SandboxTrial:
    """Try these model files, all GPU nodes and llama-server. For root. Raises CannotCollect."""
    program, problem = _program(settings)
    with closing(Examiner()) as examiner:
        roots = examiner.roots(settings.model_paths)
    answer = _answered(settings, program, roots, list(paths))
    return _trial_of(answer, str(program.path) if program else "", problem)


def _answered(
    settings: Config, program: FoundProgram | None, roots: tuple[str, ...], paths: list[str]
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="magi-doctor-", dir="/run") as folder:
        output = Path(folder) / "output"
        try:
            return asyncio.run(_tried(settings, program, roots, paths, output))
        except (BusError, TimeoutError) as error:
            raise CannotCollect(f"systemd made no unit for a trial: {error}") from None


def program_trial(settings: Config, path: Path) -> Program:
    """Try this llama-server, which need not be configured. For root. Raises CannotCollect."""
    found = look_at(path)
    if found is None:
        return Program(str(path), "it is not an executable program")
    with closing(Examiner()) as examiner:
        roots = examiner.roots(settings.model_paths)
    answer = _answered(settings, found, roots, [])
    if "failed" in answer:
        raise CannotCollect(f"it was not tried in the sandbox of models: {answer['failed']}")
    return program_of(str(path), answer["runs"])


def _program(settings: Config) -> tuple[FoundProgram | None, str]:
    try:
        with closing(ProgramSearch()) as search:
            return configured_program(settings, search.find), ""
    except MagidError as error:
        return None, error.message


# -- deciding --------------------------------------------------------------------------------


def properties(
    order: UnitRequest, version: int, argv: Sequence[str], output: Path
) -> list[Property]:
    """The unit of the trial: that of the order, without what makes it a server. Pure."""
    what = "magictl doctor tries the sandbox of models"
    return [
        *short_units.properties(order, version, argv, TRIAL_S, what),
        Property("StandardOutputFile", "s", str(output)),
    ]


def _trial_of(answer: Mapping[str, Any], program: str, problem: str) -> SandboxTrial:
    if "failed" in answer:
        return SandboxTrial(failed=answer["failed"], program=Program(program, problem))
    return SandboxTrial(
        files=answer["files"] | answer["unfit"],
        ways=answer["ways"],
        nodes=answer["nodes"],
        egress=answer["egress"],
        program=(program_of(program, answer["runs"]) if program else Program("", problem)),
    )


def program_of(path: str, runs: Mapping[str, Mapping[str, Any]]) -> Program:
    """llama-server, by what it printed for each option. Pure."""
    for option in ("--version", "--help"):
        status, output = runs[option]["status"], str(runs[option]["output"])
        if status != 0:
            lines = output.strip().splitlines() or ["it printed nothing"]
            how = f"`{option}` ended with {status}: " if status is not None else ""
            return Program(path, f"{how}{lines[-1][:300]}")
    listed = runs["--list-devices"]
    devices = devices_in(str(listed["output"]))
    return Program(
        path,
        version=version_in(str(runs["--version"]["output"])),
        flags=flags_in(str(runs["--help"]["output"])),
        gpus=gpus_of(devices or ()),
        unlisted=_why_unlisted(listed) if devices is None else "",
    )


def _why_unlisted(run: Mapping[str, Any]) -> str:
    how = "" if run["status"] is None else f"it ended with {run['status']}: "
    return f"{how}{last_line(str(run['output']))}"


# -- doing -----------------------------------------------------------------------------------


async def _tried(
    settings: Config,
    program: FoundProgram | None,
    roots: tuple[str, ...],
    paths: list[str],
    output: Path,
) -> dict[str, Any]:
    bus = Bus()
    await bus.open()
    try:
        (text,) = await bus.call(MANAGER_PATH, PROPERTIES, "Get", "ss", MANAGER, "Version")
        version = major(text)
        files, unfit = _fit(settings, program, roots, paths, version)
        order = short_units.request(settings, program, roots, files)
        argv = [
            *(
                "/usr/bin/python3",
                "-I",
                "-S",
                str(PROBE),
                "box",
                str(program.path) if program else "",
            ),
            *(file.path for file in files),
        ]
        unit = properties(order, version, argv, output)
        result = await _run(bus, unit)
    except MagidError as error:
        if isinstance(error, BusError):
            raise
        return {"failed": error.message}
    finally:
        await bus.close()
    answer = _answer(output)
    return {**answer, "unfit": unfit} if answer else {"failed": result or "it gave no answer"}


def _fit(
    settings: Config,
    program: FoundProgram | None,
    roots: tuple[str, ...],
    paths: Iterable[str],
    version: int,
) -> tuple[list[CheckedFile], dict[str, str]]:
    """The files that can be handed to a unit, and why the others cannot."""
    files, unfit = [], {}
    for path in paths:
        try:
            (file,) = check_files((path,), roots)
            unit_properties(short_units.request(settings, program, (), [file]), version)
        except MagidError as error:
            unfit[path] = error.message
        else:
            files.append(file)
    return files, unfit


async def _run(bus: Bus, unit: Sequence[Property]) -> str:
    """Returns when the unit has ended: why it failed, if that was seen. BusError, TimeoutError."""
    body = [[p.name, variant(p.signature, p.value)] for p in unit]
    signature = "ssa(sv)a(sa(sv))"
    await bus.call(
        MANAGER_PATH, MANAGER, "StartTransientUnit", signature, TRIAL, "replace", body, []
    )
    result = ""
    async with asyncio.timeout(TRIAL_S):
        # It is gone as soon as it has ended, well or not: what it wrote tells.
        while (path := await _loaded(bus)) is not None:
            result = await _result(bus, path) or result
            await asyncio.sleep(_LOOK_S)
    return result


def _answer(output: Path) -> dict[str, Any]:
    """What probe_sandbox.py wrote; nothing where it could not."""
    try:
        return dict(json.loads(output.read_text()))
    except (OSError, ValueError):
        return {}


async def _loaded(bus: Bus) -> str | None:
    try:
        (path,) = await bus.call(MANAGER_PATH, MANAGER, "GetUnit", "s", TRIAL)
    except BusError:
        return None
    return str(path)


async def _result(bus: Bus, path: str) -> str:
    with suppress(BusError):
        (result,) = await bus.call(path, PROPERTIES, "Get", "ss", _SERVICE, "Result")
        (status,) = await bus.call(path, PROPERTIES, "Get", "ss", _SERVICE, "ExecMainStatus")
        if result != "success":
            return f"its result is {result}, with status {status}"
    return ""
