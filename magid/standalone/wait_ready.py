"""Waits until a model's server is ready.

    wait_ready.py HOST PORT ALIAS KEY_FILE MAX_S EVERY_S

As the unit's ExecStartPost=, it makes `systemctl start` return when the model answers. It polls
/health, reports the state (STATUS=) to systemd and extends the start's timeout
(EXTEND_TIMEOUT_USEC=). At the end it verifies that the port belongs to our server.

Runs as `python3 -I -S` with the standard library only. Exit status: 0 if the server is ready; 1,
with the reason on stderr, if it ended, took longer than MAX_S seconds, or if another program
answers on its port.
"""

import json
import os
import secrets
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import NamedTuple

ANSWER_S = 5.0  # for one answer of a busy server
ALIVE_S = 60.0  # silence of this program after which systemd aborts the start
# Between two checks: the first pause, and the share of the time so far, up to
# `readiness_check_interval`. Each check takes processor time from the load. Requests to the model
# and the next start go by magid's own, earlier look; only who waits for the start itself
# (`systemctl start`, `?wait=`) waits for this program.
_FIRST_PAUSE_S = 0.02
_SHARE = 0.05
_LISTEN = "0A"  # TCP_LISTEN in /proc/net/tcp
_MAX_BODY = 1024 * 1024
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class ServerNotReady(Exception):
    """It will not become ready; the text says why."""


class ServerAddress(NamedTuple):
    """The server to poll, and the alias and key that identify it."""

    host: str
    port: int
    alias: str
    key_file: Path  # read when the server answers: it may not exist before


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status."""
    # systemd stops the unit: that is no failure of its start, which any other end would be.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    try:
        host, port, alias, key_file, longest, every = arguments
        server = ServerAddress(host, int(port), alias, Path(key_file))
        took = wait(server, float(longest), float(every), _main_pid())
    except (ServerNotReady, OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    _notify(f"STATUS=ready after {took:.1f} s")
    return 0


def wait(server: ServerAddress, longest_s: float, every_s: float, main_pid: int | None) -> float:
    """Returns the seconds until the server was ready. Raises ServerNotReady.

    The pause between checks grows with the time so far, to `every_s`. systemd is told once a second
    and whenever the state changes, not after each check.
    """
    process = _handle(main_pid)
    began, took, status, told = time.monotonic(), 0.0, 0, ""
    try:
        while (left := longest_s - took) > 0:
            _pause(process, min(pause_s(took, every_s), left))
            status = _health(server, min(ANSWER_S, left + 0.1))
            if status == 200 and _is_ours(server):
                return time.monotonic() - began
            took = time.monotonic() - began
            before, told = told, f"STATUS={_seen(status)} ({took:.0f} s)"
            if told != before:
                _notify(f"{told}\nEXTEND_TIMEOUT_USEC={int(ALIVE_S * 1_000_000)}")
    finally:
        if process is not None:
            os.close(process)
    raise ServerNotReady(f"the server was not ready within {longest_s:g} s: {_LATE[_seen(status)]}")


def pause_s(took_s: float, longest_s: float) -> float:
    """Returns how long to wait before the next check. Pure."""
    return min(max(_FIRST_PAUSE_S, _SHARE * took_s), longest_s)


_LATE = {
    "starting": "its port does not answer",
    "loading": "it was still loading the model; a larger max_startup_time gives it more time",
    "failing": "/health answers with an error",
}


def _seen(status: int) -> str:
    return {0: "starting", 200: "starting", 503: "loading"}.get(status, "failing")


# -- the process -----------------------------------------------------------------------------


def _main_pid() -> int | None:
    text = os.environ.get("MAINPID", "")
    return int(text) if text.isdigit() else None


def _handle(pid: int | None) -> int | None:
    """Returns a pidfd, which becomes readable when the process ends. Raises ServerNotReady."""
    if pid is None:
        return None
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise ServerNotReady("the server ended before it was ready") from None


def _pause(process: int | None, seconds: float) -> None:
    """Waits; raises ServerNotReady if the server ends, because systemd does not stop us then."""
    if process is None:
        time.sleep(seconds)
    elif select.select([process], [], [], seconds)[0]:
        raise ServerNotReady("the server ended before it was ready")


# -- the server ------------------------------------------------------------------------------


def _health(server: ServerAddress, timeout_s: float) -> int:
    """Returns the status of /health; 0 without an answer."""
    try:
        return _get(server, "/health", None, timeout_s)[0]
    except (OSError, HTTPException):
        return 0


def _is_ours(server: ServerAddress) -> bool:
    """Whether our server answers; False if it is gone. Raises ServerNotReady for another program.

    Only our server refuses a wrong key, accepts the right one and has our alias. /props needs a
    key; /health is public in every version, and /v1/models in those before 2026. The key is only
    sent to a program of the unit's own user, which no program outside the unit has.
    """
    key = server.key_file.read_text().strip()
    try:
        why = _why_foreign(server, key)
    except (OSError, HTTPException):
        return False
    if why:
        raise ServerNotReady(f"another program answers on port {server.port}: {why}")
    return True


def _listening(host: str, port: int) -> set[tuple[int, int]]:
    """Returns user and inode of each socket that listens there, from the kernel's tables."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = {*(_in_hex(family, str(at[0])) for family, _, _, _, at in found), "0" * 8, "0" * 32}
    places = {f"{address}:{port:04X}" for address in addresses}
    sockets = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except FileNotFoundError:  # no IPv6 here
            continue
        rows = (line.split() for line in lines)
        sockets |= {(int(r[7]), int(r[9])) for r in rows if r[3] == _LISTEN and r[1] in places}
    return sockets


def _connect(connection: HTTPConnection) -> None:
    """Connects; raises ServerNotReady, before sending anything, if another user has the port.

    If the same sockets listen before and after, the connection belongs to one of them.
    """
    before = _listening(connection.host, connection.port)
    connection.connect()
    after = _listening(connection.host, connection.port)
    strangers = {user for user, _ in before | after} - {os.getuid()}
    if strangers:
        raise ServerNotReady(
            f"another program has port {connection.port}: it runs as user {min(strangers)}"
        )
    if before != after or not after:
        raise ConnectionAbortedError("the server has just started to listen, or has ended")


def _in_hex(family: int, address: str) -> str:
    """Returns an IP address as in those tables: 32-bit words in the machine's byte order."""
    packed = socket.inet_pton(family, address.partition("%")[0])
    return "".join(f"{word:08X}" for (word,) in struct.iter_unpack("=I", packed))


def _why_foreign(server: ServerAddress, key: str) -> str:
    status, _ = _get(server, "/props", secrets.token_urlsafe(32), ANSWER_S)
    if status != 401:
        return f"it answers a wrong key with {status} instead of 401"
    status, props = _get(server, "/props", key, ANSWER_S)
    if status != 200:
        return f"it answers our key with {status}"
    shown = props.get("model_alias") if isinstance(props, dict) else None
    if not isinstance(shown, str):
        shown = _first_model(server, key)
    return "" if shown == server.alias else f"it serves {shown!r}, not {server.alias!r}"


def _first_model(server: ServerAddress, key: str) -> str | None:
    """Returns the alias of a server whose /props has none (before mid-2025)."""
    _, models = _get(server, "/v1/models", key, ANSWER_S)
    match models:
        case {"data": [{"id": str(shown)}, *_]}:
            return shown
        case _:
            return None


def _get(server: ServerAddress, path: str, key: str | None, timeout_s: float) -> tuple[int, object]:
    """Returns the status, and the body's JSON or None. Raises OSError, HTTPException."""
    host = _EVERY_ADDRESS.get(server.host, server.host)
    connection = HTTPConnection(host, server.port, timeout=timeout_s)
    try:
        headers = {}
        if key is not None:
            _connect(connection)
            headers["Authorization"] = f"Bearer {key}"
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        body = answer.read(_MAX_BODY)
    finally:
        connection.close()
    try:
        return answer.status, json.loads(body)
    except (ValueError, RecursionError):
        return answer.status, None


# -- systemd ---------------------------------------------------------------------------------


def _notify(message: str) -> None:
    """Notifies systemd as sd_notify(3) does. Best effort: a failure does not fail the start."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto(message.encode(), address)
    except OSError:
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
