"""The hub's protocol: what a revision is, what it holds, where a file is. And its refusals."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import quote, urljoin, urlsplit

from magid.library.job import MAX_BYTES, is_object_id
from magid.library.selection import RepositoryFile
from magid.library.source import ModelSource
from magid.library.transfer.http_client import (
    REDIRECTS,
    HttpClient,
    HubReply,
    HubSilent,
    explained,
)

_MAX_BODY: Final = 32 << 20  # a page of a tree has a thousand entries of 300 bytes
_MAX_PAGES: Final = 100
_LONGEST_WAIT_S: Final = 600.0  # that the hub may ask for
_COMMIT_DIGITS: Final = 40


class Refusal(Exception):
    """The hub's answer is final. `code` is a stable name; the text says what to do next."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class AskedToWait(HubSilent):
    """The hub answers later: 429 or 503, with the time that it asks for, in seconds."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class Revision:
    """A repository at one commit. `licence` is as its card has it, or ""."""

    commit: str
    licence: str
    files: tuple[RepositoryFile, ...]


class Hub:
    """Asks one hub. Blocks. Raises Refusal, HubSilent."""

    def __init__(self, http: HttpClient, token_path: str, *, has_token: bool) -> None:
        self._http = http
        self._token_path = token_path or "the token file"
        self._has_token = has_token

    def revision(self, source: ModelSource) -> Revision:
        """Returns the commit that the source's revision is now, with all its files."""
        base = f"{self._http.endpoint}/api/models/{source.repository}"
        info = self._json(f"{base}/revision/{quote(source.revision, safe='')}", source)[0]
        commit = info.get("sha") if isinstance(info, dict) else None
        if not isinstance(commit, str) or len(commit) != _COMMIT_DIGITS or not commit.isalnum():
            raise HubSilent(f"{self._http.endpoint} names no commit of {source.repository}")
        card = info.get("cardData")
        licence = card.get("license") if isinstance(card, dict) else None
        files: list[RepositoryFile] = []
        url = f"{base}/tree/{commit}?recursive=true"
        for _ in range(_MAX_PAGES):
            page, reply = self._json(url, source)
            files += filter(None, map(_file_in, page if isinstance(page, list) else ()))
            following = _next(reply)
            if not following:
                return Revision(commit, licence if isinstance(licence, str) else "", tuple(files))
            url = urljoin(url, following)
        raise HubSilent(f"{source.repository} has more files than can be listed")

    def open(
        self, source: ModelSource, commit: str, path: str, headers: dict[str, str]
    ) -> HubReply:
        """Returns the answer with a file's content, or a part of it; the caller closes it."""
        url = f"{self._http.endpoint}/{source.repository}/resolve/{commit}/{quote(path)}"
        reply = self._http.get(url, headers)
        if reply.status in (200, 206, 416):
            return reply
        try:
            if reply.status in (401, 403) and reply.hops:
                raise HubSilent(f"{urlsplit(reply.url).netloc} answers {reply.status}")
            self._refuse(reply, source)
        finally:
            reply.close()
        raise HubSilent(f"the hub answers {reply.status} for {path}")

    def _json(self, url: str, source: ModelSource) -> tuple[Any, HubReply]:
        reply = self._http.get(url, {"Accept": "application/json"}, follows=False)
        try:
            if reply.status != 200:
                self._refuse(reply, source)
            body = _read(reply)
        finally:
            reply.close()
        try:
            return json.loads(body), reply
        except (ValueError, RecursionError):
            raise HubSilent(
                f"{self._http.endpoint} does not answer as a hub does: no JSON at {url}"
            ) from None

    def _refuse(self, reply: HubReply, source: ModelSource) -> None:
        """Raises what an answer that is no success means."""
        status, code = reply.status, reply.header("X-Error-Code")
        repository, host = source.repository, self._http.endpoint
        if status in (429, 503):
            seconds = _wait_s(reply.headers.get("Retry-After"))
            raise AskedToWait(f"the hub asks to wait (it answers {status})", seconds)
        if status >= 500:
            raise HubSilent(f"the hub answers {status}")
        if status in REDIRECTS:
            name = _renamed(reply.headers.get("Location") or "")
            raise Refusal(
                "RepositoryRenamed",
                f"cannot pull {repository}: it is called {name or 'otherwise'} now; pull that name"
                " if it is still the one that you want",
            )
        if code == "GatedRepo" or (status == 403 and not code):
            raise Refusal(
                "RepositoryGated",
                f"cannot pull {repository}: its owner gives access on request; accept the terms at "
                f"{host}/{repository}, and put your token into {self._token_path}",
            )
        if code == "RevisionNotFound":
            raise Refusal(
                "RevisionNotFound",
                f"cannot pull {source.text}: the repository has no revision {source.revision!r}",
            )
        if code == "EntryNotFound":
            raise Refusal("FileNotFound", f"cannot pull {source.text}: the file is not there")
        if status == 401 and self._has_token and code != "RepoNotFound":
            raise Refusal(
                "TokenRefused",
                f"cannot pull {repository}: the hub refuses the token in {self._token_path}",
            )
        if status in (401, 404):
            raise Refusal(
                "RepositoryNotFound",
                f"cannot pull {repository}: {host} has no repository of that name, or shows it to "
                f"its members alone; check the name, or put a token into {self._token_path}",
            )
        raise Refusal("HubRefused", f"cannot pull {repository}: the hub answers {status}")


def _read(reply: HubReply) -> bytes:
    try:
        body = reply.body.read(_MAX_BODY + 1)
    except Exception as error:  # http.client raises more than OSError
        raise HubSilent(f"{urlsplit(reply.url).netloc}: {explained(error)}") from error
    if len(body) > _MAX_BODY:
        raise HubSilent(f"{urlsplit(reply.url).netloc} answers with more than {_MAX_BODY} bytes")
    return body


def _file_in(entry: Any) -> RepositoryFile | None:
    """Returns the file that an entry of a tree is; None for folders and what is not understood."""
    match entry:
        case {"type": "file", "path": str(path), "lfs": {"oid": str(oid), "size": int(size)}}:
            found = RepositoryFile(path, size, oid.lower())
        case {"type": "file", "path": str(path), "oid": str(oid), "size": int(size)}:
            found = RepositoryFile(path, size, oid.lower())
        case _:
            return None
    return found if is_object_id(found.oid) and 0 <= size <= MAX_BYTES else None


def _next(reply: HubReply) -> str:
    """Returns the address of a tree's next page, by RFC 8288; "" behind the last one."""
    for link in (reply.headers.get("Link") or "").split(","):
        address, _, rest = link.strip().partition(">")
        if address.startswith("<") and 'rel="next"' in rest:
            return address[1:]
    return ""


def _renamed(location: str) -> str:
    """Returns ORG/REPO of the address of an API call or of a page; "" if it has none."""
    path = urlsplit(location).path.removeprefix("/api/models")
    parts = path.strip("/").split("/")
    return "/".join(parts[:2]) if len(parts) > 1 else ""


def _wait_s(text: str | None, now: Callable[[], float] = time.time) -> float:
    """Returns the seconds of Retry-After, which has a number or a date; 0 without one."""
    if not text:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - now()
        except ValueError:
            return 0.0
    return min(max(seconds, 0.0), _LONGEST_WAIT_S)
