"""A small HTTP client: redirects by hand, proxies by the usual variables, and one secret.

The token goes to the endpoint's own scheme, host and port, and to no other: a redirect to the host
that keeps the files loses it. Never follows from https to http.
"""

import base64
import http.client
import io
import select
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

REDIRECTS: Final = (301, 302, 303, 307, 308)
_MOST_REDIRECTS: Final = 5
_PORTS: Final = {"http": 80, "https": 443}
_AGENT: Final = "magid"
_QUIET_S: Final = 1.0  # without a byte, until `quiet` is called again

Headers = Mapping[str, str]


class HubSilent(Exception):
    """No answer: the name is unknown, the connection was refused, cut or silent. May pass."""


@dataclass(slots=True)
class HubReply:
    """An answer whose body is not read yet. `hops` are the answers that led to it."""

    url: str
    status: int
    headers: http.client.HTTPMessage
    body: http.client.HTTPResponse
    connection: http.client.HTTPConnection
    hops: tuple["HubReply", ...] = ()

    def header(self, name: str) -> str:
        """Returns the first header of that name on the way here, or ""."""
        for reply in (*self.hops, self):
            if (value := reply.headers.get(name)) is not None:
                return str(value)
        return ""

    def close(self) -> None:
        self.connection.close()


class HttpClient:
    """Makes requests to one endpoint, and to where it redirects. Blocks; one use at a time.

    `quiet` is called in each second in which no byte of an answer comes.
    """

    def __init__(
        self, endpoint: str, token: str, timeout_s: float, quiet: Callable[[], None] = lambda: None
    ) -> None:
        self.endpoint = endpoint.rstrip("/")
        self._origin = _origin_of(urlsplit(self.endpoint))
        self._token = token
        self._timeout_s = timeout_s
        self._quiet = quiet
        self._proxies = urllib.request.getproxies_environment()
        self._tls = ssl.create_default_context()

    def get(self, url: str, headers: Headers, *, follows: bool = True) -> HubReply:
        """Returns the answer to GET; the caller closes it. Raises HubSilent.

        With `follows` false, a redirect is the answer.
        """
        if self._origin[0] == "https" and not url.startswith("https:"):  # as of a next page
            raise HubSilent(f"{_host(self.endpoint)} names an address that is not https")
        hops: tuple[HubReply, ...] = ()
        while True:
            reply = self._once(url, headers)
            reply.hops = hops
            location = reply.headers.get("Location")
            if not follows or reply.status not in REDIRECTS or not location:
                return reply
            reply.close()
            hops = (*hops, reply)
            if len(hops) > _MOST_REDIRECTS:
                raise HubSilent(f"{_host(url)} redirects again and again")
            after = urljoin(url, location)
            if urlsplit(after).scheme not in _PORTS or (
                url.startswith("https:") and not after.startswith("https:")
            ):
                raise HubSilent(f"{_host(url)} redirects to an address that is not https")
            url = after

    def _once(self, url: str, headers: Headers) -> HubReply:
        parts = urlsplit(url)
        own = {"User-Agent": _AGENT, "Accept-Encoding": "identity", **headers}
        if self._token and _origin_of(parts) == self._origin:
            own["Authorization"] = f"Bearer {self._token}"
        connection, target = self._connect(parts, own)
        # Typed as a class; http.client only calls it.
        connection.response_class = partial(_Response, self._quiet)  # type: ignore[assignment]
        try:
            connection.request("GET", target, headers=own)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise HubSilent(f"{_host(url)}: {explained(error)}") from error
        return HubReply(url, response.status, response.headers, response, connection)

    def _connect(
        self, parts: SplitResult, headers: dict[str, str]
    ) -> tuple[http.client.HTTPConnection, str]:
        """Returns a connection for this address, not open yet, and what to ask of it."""
        scheme, host, port = _origin_of(parts)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        proxy = self._proxy_for(scheme, host, port)
        if proxy is None:
            return self._opened(scheme, host, port), target
        if scheme == "http":
            headers.update(_proxy_key(proxy))
            address = f"http://{parts.netloc}{target}"
            return self._opened(proxy.scheme, proxy.hostname or "", proxy.port), address
        connection = http.client.HTTPSConnection(
            proxy.hostname or "", proxy.port or _PORTS[proxy.scheme],
            timeout=self._timeout_s, context=self._tls,
        )  # fmt: skip
        connection.set_tunnel(host, port, _proxy_key(proxy))
        return connection, target

    def _proxy_for(self, scheme: str, host: str, port: int) -> SplitResult | None:
        address = self._proxies.get(scheme) or self._proxies.get("all")
        if not address or _bypasses(f"{host}:{port}", self._proxies):
            return None
        parts = urlsplit(address if "://" in address else f"http://{address}")
        if parts.scheme not in _PORTS or not parts.hostname:
            raise HubSilent(f"the proxy {parts.hostname or address!r} is no http:// address")
        return parts

    def _opened(self, scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
        number = port or _PORTS[scheme]
        if scheme == "https":
            return http.client.HTTPSConnection(
                host, number, timeout=self._timeout_s, context=self._tls
            )
        return http.client.HTTPConnection(host, number, timeout=self._timeout_s)


class _Response(http.client.HTTPResponse):
    """An answer that tells while nothing of it comes."""

    def __init__(
        self, quiet: Callable[[], None], sock: socket.socket, *given: Any, **more: Any
    ) -> None:
        super().__init__(sock, *given, **more)
        self.fp = io.BufferedReader(_Watched(self.fp.detach(), sock, quiet))


class _Watched(io.RawIOBase):
    """The bytes of a connection. Each read waits for the socket's timeout at most."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, quiet: Callable[[], None]) -> None:
        self._raw, self._sock, self._quiet = raw, sock, quiet
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._sock.fileno()

    def readinto(self, buffer: Any) -> int | None:
        """Raises TimeoutError and other OSErrors."""
        since, longest = time.monotonic(), self._sock.gettimeout()
        while not self._has_come():
            self._quiet()
            if longest is not None and time.monotonic() - since > longest:
                raise TimeoutError
        count: int | None = self._raw.readinto(buffer)
        return count

    def _has_come(self) -> bool:
        """Whether a read would not wait; waits for a while itself. True too at the end."""
        if isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
            return True  # it was decrypted with what was read before
        return bool(self._poll.poll(1000 * _QUIET_S))

    def close(self) -> None:
        self._raw.close()
        super().close()


def explained(error: Exception) -> str:
    """Returns why a connection failed, in words."""
    if isinstance(error, TimeoutError):
        return "no byte came in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, http.client.IncompleteRead | http.client.RemoteDisconnected):
        return "the connection was cut"
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return f"the answer is no HTTP ({type(error).__name__})"


def _origin_of(parts: SplitResult) -> tuple[str, str, int]:
    scheme = parts.scheme if parts.scheme in _PORTS else "https"
    return scheme, (parts.hostname or "").lower(), parts.port or _PORTS[scheme]


def _bypasses(host: str, proxies: dict[str, str]) -> bool:
    """Whether no_proxy names the host. The function is public on every system, but not typed."""
    return bool(urllib.request.proxy_bypass_environment(host, proxies))  # type: ignore[attr-defined]


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _proxy_key(proxy: SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
