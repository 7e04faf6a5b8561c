"""What magid and its launcher say, if they answer."""

import socket
from collections.abc import Callable, Mapping
from typing import Any, Final

from magid.doctor.collect.files import LAUNCHER
from magid.doctor.facts import Daemon, Model, Server
from magid.errors import InvalidInput
from magid.launcher.protocol import MAX_LINE_BYTES, Ping, parse_reply, request_line

MODELS: Final = "/api/models"
Ask = Callable[[str], Any]  # a path -> the parsed answer, or an exception that says why
_LAUNCHER_S: Final = 10.0


def daemon(ask: Ask) -> Daemon:
    """Blocks for as long as magid does. Never raises."""
    try:
        status = ask(f"{MODELS}/status")
        servers = ask(f"{MODELS}/servers")["servers"]
        registry = ask(f"{MODELS}/registry")
    except Exception as error:  # whatever it is, it is the finding
        return Daemon(problem=": ".join(str(error).splitlines()[:2]) or type(error).__name__)
    return Daemon(
        profile=status["activeProfile"],
        servers=tuple(
            Server(s["unit"], s["modelId"], s["state"], s["stateReason"] or "") for s in servers
        ),
        models=tuple(_model(m) for m in registry["models"].values() if m["enabled"]),
        broken=tuple((b["path"], b["reason"]) for b in registry["modelsBroken"]),
    )


def _model(shown: Mapping[str, Any]) -> Model:
    return Model(
        shown["modelId"],
        shown["sizeBytes"] * shown["instances"],
        shown["nGpuLayers"],
        shown["port"],
        shown["start"] == "always",
    )


def launcher(path: str = LAUNCHER) -> str:
    """Why the launcher does not answer; "" if it does. Blocks for at most ten seconds.

    Raises PermissionError for those whom it would not hear.
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
    return reply.message
