"""What systemd, magid and its launcher report about services, and who listens on which port.

psutil reads /proc: without the right to look at a process its pid is missing.
"""

import re
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, Final

from magid.doctor.collect.commands import CannotCollect, output_of
from magid.doctor.collect.files import LAUNCHER
from magid.doctor.facts import (
    AS_ROOT,
    ConditionFacts,
    DaemonFacts,
    Listener,
    ModelFacts,
    NotCollected,
    ServerFacts,
    ServiceUnit,
)
from magid.errors import InvalidInput, NotAllowed
from magid.host.ports import listening
from magid.launcher.protocol import MAX_LINE_BYTES, Ping, parse_reply, request_line
from magid.llama.runtime_settings import SETTINGS
from magid.systemd.unit_names import unit_of_process

OURS: Final = (
    *("magid.service", "magid.socket", "magid-local.socket", "magid-view.socket"),
    *("magi-launcher.service", "magi-launcher.socket", "magi-key.socket", "magi-gpu.service"),
    *("magi-rpc.service", "magi-rpc.socket"),
)
TRIAL: Final = (
    "llama-server@doctor.service"  # the template: systemd would make it of a file on disk
)
_MODELS: Final = "llama-server@*.service"
# What a drop-in could take away, where sockets listen, and what a service says of itself.
SANDBOX: Final = (
    *("User", "DynamicUser", "NoNewPrivileges", "CapabilityBoundingSet", "ProtectSystem"),
    *("ProtectHome", "PrivateDevices", "DevicePolicy", "RestrictAddressFamilies", "Listen"),
    *("ReadWritePaths", "StatusText", "PrivateNetwork"),
)
_PROPERTIES: Final = (
    *("Id", "LoadState", "ActiveState", "UnitFileState", "Result", "NeedDaemonReload"),
    *("FragmentPath", "DropInPaths", "InvocationID", *SANDBOX),
)


def units() -> dict[str, ServiceUnit]:
    """Returns magid's units, loaded or not, and the loaded model units. Raises CannotCollect."""
    chosen = ",".join(_PROPERTIES)
    names = (*OURS, TRIAL)
    text = output_of(["systemctl", "show", f"--property={chosen}", "--", *names, _MODELS])
    found = {unit.name: unit for unit in map(_unit, blocks(text))}
    if not found:
        raise CannotCollect("systemd does not answer")
    # systemd names no drop-ins for a unit that it could only make of a file.
    found[TRIAL] = replace(found[TRIAL], drop_ins=tuple(map(str, _drop_ins_of_models())))
    return found


def _drop_ins_of_models() -> list[Path]:
    folders = (f"{place}/systemd/system" for place in ("/etc", "/run", "/usr/lib"))
    found = [Path(folder).glob("llama-server@.service.d/*.conf") for folder in folders]
    return sorted(chain.from_iterable(found))


def blocks(text: str) -> Iterator[dict[str, str]]:
    """What `systemctl show` prints: a block for each unit, empty lines between. Pure.

    A property that is there several times (Listen=) is joined by spaces.
    """
    for block in text.strip().split("\n\n"):
        values: dict[str, str] = {}
        for line in block.splitlines():
            name, _, value = line.partition("=")
            values[name] = f"{values[name]} {value}" if name in values else value
        if values.get("Id"):
            yield values


def _unit(shown: Mapping[str, str]) -> ServiceUnit:
    return ServiceUnit(
        name=shown["Id"],
        load=shown.get("LoadState", ""),
        active=shown.get("ActiveState", ""),
        enabled=shown.get("UnitFileState", ""),
        result=shown.get("Result", ""),
        stale=shown.get("NeedDaemonReload") == "yes",
        fragment=shown.get("FragmentPath", ""),
        drop_ins=tuple(shown.get("DropInPaths", "").split()),
        invocation=shown.get("InvocationID", ""),
        shown={name: shown[name] for name in SANDBOX if name in shown},
    )


def version_and_features() -> tuple[int, frozenset[str]]:
    """Of the systemd that is installed; (0, nothing) where there is none. Never raises."""
    try:
        text = output_of(["systemctl", "--version"])
    except CannotCollect:
        return 0, frozenset()
    number = re.match(r"systemd (\d+)", text)
    return (int(number[1]) if number else 0), frozenset(re.findall(r"[+-][A-Z0-9_]+", text))


GPU_WORDS: Final = re.compile(
    r"no usable GPU found|ggml_cuda_init: failed|no CUDA-capable device|cudaGetDeviceCount"
    r"|ROCm error|vk::createInstance|offloaded 0/[1-9]\d* layers",
    re.IGNORECASE,
)
"""What llama.cpp (0.7.0, and ggml's back ends) logs when it goes on without a GPU."""


def said_of_gpus(names: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Unit -> the lines of its present run that speak of a missing GPU. Raises CannotCollect.

    `names` is unit -> invocation id. The first lines tell: the last may be years of requests.
    """
    said = {}
    for unit, invocation in names.items():
        argv = [
            "journalctl",
            "--quiet",
            "--no-pager",
            "--output=cat",
            f"--grep={GPU_WORDS.pattern}",
        ]
        text = output_of([*argv, "--lines=5", f"_SYSTEMD_INVOCATION_ID={invocation}"])
        said[unit] = tuple(line for line in text.splitlines() if GPU_WORDS.search(line))
    return said


MODELS: Final = "/api/models"
Ask = Callable[[str], Any]  # a path -> the parsed answer, or an exception that says why
_LAUNCHER_S: Final = 10.0
_REFUSED: Final = "Permission denied"


def daemon(ask: Ask) -> DaemonFacts | NotCollected:
    """Blocks for as long as magid does. Never raises."""
    try:
        status = ask(f"{MODELS}/status")
        servers = ask(f"{MODELS}/servers?all=true")["servers"]
        registry = ask(f"{MODELS}/registry")
        gpus = ask("/api/gpus")["gpus"]
    except Exception as error:  # whatever it is, it is the finding
        lines = [line for line in str(error).splitlines() if not line.startswith("try: ")]
        problem = ": ".join(lines[:2]) or type(error).__name__  # doctor has its own advice
        refused = _REFUSED in problem
        return NotCollected(problem, AS_ROOT) if refused else DaemonFacts(problem=problem)
    return DaemonFacts(
        profile=status["activeProfile"],
        servers=tuple(
            ServerFacts(s["unit"], s["modelId"], s["state"], s["stateReason"] or "", _devices(s))
            for s in servers
        ),
        models=tuple(_model(m) for m in registry["models"].values() if m["enabled"]),
        broken=tuple((b["path"], b["reason"]) for b in registry["modelsBroken"]),
        conditions=tuple(
            ConditionFacts(c["code"], c["severity"], c["message"], tuple(c["remedy"]))
            for c in status["conditions"]
        ),
        others={gpu["name"]: gpu["othersBytes"] for gpu in gpus if gpu["othersBytes"]},
    )


def _devices(server: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    placement = server["placement"]
    return tuple((d["name"], d["id"]) for d in placement["devices"]) if placement else ()


def _model(shown: Mapping[str, Any]) -> ModelFacts:
    return ModelFacts(
        shown["modelId"],
        shown["sizeBytes"] * shown["instances"],
        0 if shown.get("device") == "none" else shown["nGpuLayers"],
        shown["port"],
        shown["start"] == "always",
        frozenset(s.key for s in SETTINGS if s.controller and shown.get(s.key) is not None),
        shown["device"] or "",
        shown["offload"],
        shown["memory"]["fits"],
        shown["memory"]["why"],
        (shown["memory"]["need"] or {}).get("devicesBytes", 0),
    )


def launcher(path: str = LAUNCHER) -> str | NotCollected:
    """Why the launcher does not answer; "" if it does. Blocks for at most ten seconds.

    It answers root and magi alone. Raises PermissionError if the caller may not even connect.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(_LAUNCHER_S)
            sock.connect(path)
            sock.sendall(request_line(Ping()))
            with sock.makefile("rb") as answer:
                reply = parse_reply(answer.readline(MAX_LINE_BYTES))
    except PermissionError as error:
        raise PermissionError(error.errno, error.strerror, path) from None
    except (OSError, InvalidInput) as error:
        return getattr(error, "strerror", None) or str(error)
    if reply.error == NotAllowed.__name__:
        return NotCollected("it answers only root and magi", AS_ROOT)
    return reply.message


def listeners() -> tuple[Listener, ...]:
    """All of this machine, by port."""

    found = {(address, port, pid or 0) for address, port, pid in listening()}
    return tuple(
        Listener(host, port, pid, _program(pid), _unit_of(pid))
        for host, port, pid in sorted(found, key=lambda one: (one[1], one[0]))
    )


def _program(pid: int) -> str:
    return _text(pid, "comm").strip()


def _unit_of(pid: int) -> str:
    return unit_of_process(_text(pid, "cgroup"), ".service", ".scope")


def _text(pid: int, name: str) -> str:
    if not pid:
        return ""
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""
