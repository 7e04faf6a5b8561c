"""magictl's HTTP client: over a unix socket, or over TCP with the caller's token.

Imports no daemon code and only small parts of the standard library: magictl must start fast.
"""

import argparse
import http.client
import json
import os
import re
import socket
import ssl
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any

from magid.cli import reachability
from magid.cli.output import note
from magid.cli.reachability import Connect, Unreachable
from magid.cli.transport_errors import speaks_tls, why

TIMED_OUT = 124  # the exit status of timeout(1)
TIMEOUT_S = 3700.0  # above the longest ?wait=
CONNECT_S = 10.0  # to another machine
_LOCAL_CONNECT_S = 2.0
SCAN_S = 60.0  # how long a command that has no timeout of its own waits for the first scan
_SCAN_PAUSE_S = 0.2
MODELS = "/api/models"
_UNREAD = ("NotReady", "ModelNotFound")  # what magid answers before it has read the folders, too


class Refused(Exception):
    """The daemon answered with an error, or did not answer. `status` is the exit status.

    `code` and `details` are `error` and `details` of the daemon's answer; empty without an answer.
    """

    def __init__(self, message: str, status: int = 1, code: str = "", details: Any = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.details: dict[str, Any] = details if isinstance(details, dict) else {}


def quoted(name: str) -> str:
    """Returns the name percent-encoded, as one segment of a path."""
    return urllib.parse.quote(name, safe="", errors="surrogateescape")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_LOCAL_CONNECT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """Sends requests to the daemon at `where`: a URL or `unix:/path`. Raises Refused for a bad one.

    `cacert` is the file with the certificate to trust for https; None: those of the system.
    While magid's first scan after a start goes on, requests that need its result are repeated for
    at most `patience_s`; None: without a limit.
    """

    def __init__(
        self,
        where: str,
        token: str | None = None,
        cacert: str | None = None,
        patience_s: float | None = SCAN_S,
    ) -> None:
        self.where = where
        self._patience_s = patience_s
        self._connect = _connector(where, cacert)
        self._shown = {"Authorization": f"Bearer {token}"} if token else {}

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Returns the parsed answer. Raises Refused with the daemon's message."""
        return self.tagged(method, path, body)[0]

    def tagged(self, method: str, path: str, body: object = None, tag: str = "") -> tuple[Any, str]:
        """Returns the parsed answer and its ETag; `tag` is sent as If-Match."""
        began, is_scanned = time.monotonic(), False
        while True:
            try:
                return self._answered(method, path, body, tag)
            except Refused as error:
                is_late = (
                    self._patience_s is not None and time.monotonic() - began > self._patience_s
                )
                if is_scanned or is_late or error.code not in _UNREAD:
                    raise
            if self._is_scanning():
                time.sleep(_SCAN_PAUSE_S)
            else:
                is_scanned = True  # the scan may have ended since the answer: one more try

    def _is_scanning(self) -> bool:
        """Returns whether the first scan of the model folders has not ended yet."""
        try:
            answer, _ = self._answered("GET", f"{MODELS}/status")
        except Refused:
            return False
        return isinstance(answer, dict) and answer.get("phase") == "scanning"

    def _answered(
        self, method: str, path: str, body: object = None, tag: str = ""
    ) -> tuple[Any, str]:
        connection, response = self._ask(method, path, body, {"If-Match": tag} if tag else {})
        try:
            answer = self._parsed(response)
        finally:
            connection.close()
        if response.status >= 400:
            raise _refusal(response.status, answer)
        return answer, response.headers.get("ETag", "")

    def stream(
        self, path: str, body: object = None, *, after: str = ""
    ) -> Iterator[tuple[str, Any, str]]:
        """Yields kind, parsed data and id of each server-sent event until the stream ends.

        `after` is the id of the last event that the caller has. A request with a body is POSTed: a
        conversation, which ends with `[DONE]`.
        """
        method = "GET" if body is None else "POST"
        resume = {"Last-Event-ID": after} if after else {}
        connection, response = self._ask(method, path, body, resume)
        try:
            if response.status >= 400:
                raise _refusal(response.status, self._parsed(response))
            kind = key = ""
            for raw in response:
                field, _, value = raw.decode(errors="replace").rstrip("\r\n").partition(": ")
                if field == "event":
                    kind = value
                elif field == "id":
                    key = value
                elif field == "data" and value != "[DONE]":
                    yield kind, json.loads(value), key
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Refused(f"magid at {self.where} ended the stream: {why(error)}") from None
        finally:
            connection.close()

    def _ask(
        self, method: str, path: str, body: object, headers: dict[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = self._connect()
        data = None if body is None else json.dumps(body).encode()
        headers = {**headers, **self._shown}
        if data is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.connect()
            connection.sock.settimeout(TIMEOUT_S)
            connection.request(method, path, data, headers)
            reachability.wait_for_answer(connection, self.where, self._connect)
            return connection, connection.getresponse()
        except Unreachable as error:
            connection.close()
            raise Refused(str(error)) from None
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            self._refuse_plain(connection, error)
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> Refused:
        """Says why magid does not run, where systemd knows it."""
        reason = "" if isinstance(error, PermissionError) else reachability.failure_at(self.where)
        if reason:
            return Refused(reachability.explained(reason))
        return Refused(
            f"cannot reach magid at {self.where}: {why(error)}\ntry: {_hint(error)}, or give --url"
        )

    def _refuse_plain(self, connection: http.client.HTTPConnection, error: Exception) -> None:
        """Raises Refused if the port was asked for http:// and speaks TLS."""
        is_cut = isinstance(error, ConnectionResetError | http.client.BadStatusLine)
        is_plain = self.where.lower().startswith("http://")
        if is_cut and is_plain and speaks_tls(connection.host, connection.port):
            raise Refused(
                f"cannot reach magid at {self.where}: this port speaks TLS; use https://\n"
                f"try: --url https{self.where[4:]}"
            ) from None

    def _parsed(self, response: http.client.HTTPResponse) -> Any:
        try:
            text = response.read()
            return json.loads(text) if text else None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Refused(
                f"cannot understand what answers at {self.where}: {why(error)}\n"
                "try: check that it is magid, or give --url"
            ) from None


def _hint(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "sudo, or join the group magi"
    if isinstance(error, ssl.SSLCertVerificationError):
        return "--cacert FILE with the certificate that you trust"
    return "systemctl status magid"


def _connector(where: str, cacert: str | None) -> Connect:
    if where.startswith("unix:"):
        return lambda: _UnixConnection(where.removeprefix("unix:"))
    try:
        parts = urllib.parse.urlsplit(where)
        host, port, scheme = parts.hostname, parts.port, parts.scheme
        usable = scheme in ("http", "https") and parts.path in ("", "/")
    except ValueError:
        host, port, scheme, usable = None, 0, "", False
    if not host or not usable:
        raise Refused(
            f"cannot use {where!r}: give https://HOST:PORT, http://HOST:PORT or unix:/PATH\n"
            "try: --url http://127.0.0.1:8000",
            2,
        )
    if scheme == "http":
        return lambda: http.client.HTTPConnection(host, port, timeout=CONNECT_S)
    context = _trusting(cacert)
    return lambda: http.client.HTTPSConnection(host, port, timeout=CONNECT_S, context=context)


def _trusting(cacert: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=cacert)
    except OSError as error:
        raise Refused(
            f"cannot use the certificate {cacert}: {why(error)}\ntry: --cacert FILE", 2
        ) from None


def _refusal(status: int, answer: Any) -> Refused:
    """Returns magid's error as Refused; below /v1 it is in `error`, as in OpenAI's API."""
    said = answer if isinstance(answer, dict) else {}
    code = said.get("error", "")
    if isinstance(code, dict):
        said, code = code, str(code.get("code") or "")
    message = said.get("message") or (
        f"cannot go on: what answers sent status {status} and no reason\n"
        "try: check that it is magid, or give --url"
    )
    details = said.get("details")
    if code == "CannotStart" and details:  # else it is on another machine, and not said
        return Refused(reachability.explained(message))
    result = TIMED_OUT if code == "TimedOut" else 4 if status == 404 else 1
    return Refused(message, result, code, details)


def add(root: argparse.ArgumentParser) -> None:
    root.add_argument(
        "--token", help="the token; `ps` shows it to everyone, so rather in a file (MAGI_TOKEN)"
    )
    root.add_argument(
        "--token-file", metavar="FILE", help="read the token from this file (MAGI_TOKEN_FILE)"
    )
    root.add_argument(
        "--cacert", metavar="FILE", help="trust this certificate for https:// (MAGI_CACERT)"
    )


def token(args: argparse.Namespace) -> str | None:
    """Returns the token. Flags override the environment. Raises Refused for a file without one."""
    if args.token:
        return str(args.token)
    if args.token_file:
        return _read(args.token_file)
    if given := os.environ.get("MAGI_TOKEN"):
        return given
    path = os.environ.get("MAGI_TOKEN_FILE")
    return _read(path) if path else None


_TRY = "try: magictl token create --name NAME --scope SCOPE >FILE"


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:  # noqa: PTH123  # saves an import
            found = file.read().strip()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no token"
        raise Refused(f"cannot read the token in {path}: {why}\n{_TRY}", 2) from None
    if not found or not found.isprintable() or " " in found:
        raise Refused(f"cannot use {path}: there is no token in it\n{_TRY}", 2)
    return found


def warn(where: str, token: str | None) -> None:
    """Warns on stderr if the token goes to another machine unencrypted."""
    if token is None or not where.lower().startswith("http://"):
        return
    host = urllib.parse.urlsplit(where).hostname or ""
    if host == "localhost" or host == "::1" or re.fullmatch(r"127(\.[0-9]{1,3}){3}", host):
        return
    note(f"magictl: the token is sent to {host} unencrypted\nanyone on the way can read it\n"
         "try: https:// with --cacert FILE, or ssh")  # fmt: skip


def cacert(args: argparse.Namespace) -> str | None:
    return args.cacert or os.environ.get("MAGI_CACERT")
