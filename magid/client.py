"""How `magictl` talks to the daemon: HTTP over a socket. Imports no daemon code.

Of the standard library it takes the small parts: the command has to start in no time.
"""

import http.client
import json
import socket
import urllib.parse
from collections.abc import Callable, Iterable
from typing import Any

TIMEOUT_S = 3700.0  # above the longest ?wait=
MODELS = "/api/models"


class Refused(Exception):
    """The daemon answered with an error, or did not answer. `status` is the exit status."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def quoted(name: str) -> str:
    """As one part of a path."""
    return urllib.parse.quote(name, safe="", errors="surrogateescape")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """Talks to the daemon at `where`: a URL, or `unix:/path`. Raises Refused for a bad one."""

    def __init__(self, where: str) -> None:
        self.where = where
        self._connect = _connector(where)

    def call(self, method: str, path: str, body: object = None) -> Any:
        """The parsed answer. Raises Refused with the daemon's own words."""
        connection, response = self._ask(method, path, body)
        try:
            answer = self._parsed(response)
        finally:
            connection.close()
        if response.status >= 400:
            raise _refusal(response.status, answer, f"{method} {path}")
        return answer

    def stream(self, path: str) -> Iterable[tuple[str, Any]]:
        """The events of a server-sent stream: kind and parsed data, until it ends."""
        connection, response = self._ask("GET", path)
        try:
            if response.status >= 400:
                raise _refusal(response.status, self._parsed(response), f"follow {path}")
            kind = ""
            for raw in response:
                field, _, value = raw.decode(errors="replace").rstrip("\n").partition(": ")
                if field == "event":
                    kind = value
                elif field == "data":
                    yield kind, json.loads(value)
        except (OSError, http.client.HTTPException) as error:
            raise Refused(f"magid at {self.where} ended the stream: {_why(error)}") from None
        finally:
            connection.close()

    def _ask(
        self, method: str, path: str, body: object = None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = self._connect()
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data is not None else {}
        try:
            connection.request(method, path, data, headers)
            return connection, connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            may_not = isinstance(error, PermissionError)
            hint = "sudo, or join the group magi" if may_not else "systemctl status magid"
            raise Refused(
                f"cannot reach magid at {self.where}: {_why(error)}\ntry: {hint}, or give --url"
            ) from None

    def _parsed(self, response: http.client.HTTPResponse) -> Any:
        try:
            text = response.read()
            return json.loads(text) if text else None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Refused(
                f"cannot understand what answers at {self.where}: {_why(error)}\n"
                "try: check that it is magid, or give --url"
            ) from None


def _connector(where: str) -> Callable[[], http.client.HTTPConnection]:
    if where.startswith("unix:"):
        return lambda: _UnixConnection(where.removeprefix("unix:"))
    try:
        parts = urllib.parse.urlsplit(where)
        host, port = parts.hostname, parts.port or 80
        usable = parts.scheme == "http" and parts.path in ("", "/")
    except ValueError:
        host, port, usable = None, 0, False
    if not host or not usable:
        raise Refused(f"cannot use {where!r}: give http://HOST:PORT or unix:/PATH", 2)
    return lambda: http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)


def _refusal(status: int, answer: Any, what: str) -> Refused:
    message = answer.get("message") if isinstance(answer, dict) else None
    return Refused(message or f"cannot {what}: status {status}", 4 if status == 404 else 1)


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
