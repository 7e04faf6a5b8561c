"""A model hub on loopback that speaks Hugging Face's protocol: an API, and a host for the files.

Two servers on two ports, as the real ones are two hosts: the API redirects to the files. A file is
given as bytes, or as a path for large ones. Faults are queued: each answers one request.
"""

import hashlib
import json
import re
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

SMALL_BYTES = 1024  # below it a file is git's own, above it LFS's, as .gitattributes would have it


@dataclass
class HubRepository:
    """A repository; `commit` changes with its content, as git's does."""

    files: dict[str, bytes | Path]
    licence: str = "apache-2.0"
    is_gated: bool = False
    renamed_to: str = ""
    branches: dict[str, str] = field(default_factory=dict)  # name -> commit; main is added
    # Of files that are only listed: digests, and sizes that no disk of a test has.
    oids: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    @property
    def commit(self) -> str:
        listing = [f"{path} {self.oid(path)}" for path in sorted(self.files)]
        return hashlib.sha1("\n".join(listing).encode(), usedforsecurity=False).hexdigest()

    def size(self, path: str) -> int:
        if path in self.sizes:
            return self.sizes[path]
        content = self.files[path]
        return content.stat().st_size if isinstance(content, Path) else len(content)

    def is_lfs(self, path: str) -> bool:
        return self.size(path) >= SMALL_BYTES

    def oid(self, path: str) -> str:
        """SHA-256 of a large file, git's SHA-1 of a small one."""
        if path in self.oids:
            return self.oids[path]
        content = self.files[path]
        if isinstance(content, Path):
            return _sha256_of_file(content)
        if self.is_lfs(path):
            return hashlib.sha256(content).hexdigest()
        head = b"blob %d\0" % len(content)
        return hashlib.sha1(head + content, usedforsecurity=False).hexdigest()


_SUMS: dict[Path, str] = {}


def _sha256_of_file(path: Path) -> str:
    if path not in _SUMS:
        with path.open("rb") as file:
            _SUMS[path] = hashlib.file_digest(file, "sha256").hexdigest()
    return _SUMS[path]


@dataclass(frozen=True)
class HubFault:
    """How one request for content goes wrong. `after` bytes are sent first."""

    kind: str  # cut | stall | status | wrong | whole
    after: int = 0
    status: int = 500
    retry_after: str = ""


class ModelHub:
    """`url` is the endpoint. `asked` has each request: server, method, path, headers."""

    def __init__(
        self,
        repositories: dict[str, HubRepository],
        *,
        token: str = "",
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.repositories = repositories
        self.token = token  # what gated repositories take
        self.page_entries = 3  # of a tree, so that lists have several pages
        self.faults: deque[HubFault] = deque()
        self.api_faults: deque[HubFault] = deque()
        self.asked: list[tuple[str, str, str, dict[str, str]]] = []
        self.redirect_to = ""  # another host for files
        self.speed: Callable[[int], None] = lambda count: None  # called for each chunk that is sent
        self.released = threading.Event()  # ends all stalls
        self._api = _server(_Api, self, host, tls)
        self._cdn = _server(_Files, self, host, tls)
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://{host}:{self._api.server_port}"
        self.files_url = f"{scheme}://{host}:{self._cdn.server_port}"

    def requests_of(self, server: str) -> list[tuple[str, dict[str, str]]]:
        """Path and headers of all requests to `api` or `files`."""
        return [(path, head) for name, _, path, head in self.asked if name == server]

    def close(self) -> None:
        self.released.set()
        for server in (self._api, self._cdn):
            server.shutdown()
            server.server_close()


@contextmanager
def running_hub(
    repositories: dict[str, HubRepository], *, token: str = "", tls: ssl.SSLContext | None = None
) -> Iterator[ModelHub]:
    hub = ModelHub(repositories, token=token, tls=tls)
    try:
        yield hub
    finally:
        hub.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: ModelHub

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is what the tests are about."""


def _server(
    handler: type[BaseHTTPRequestHandler], hub: ModelHub, host: str, tls: ssl.SSLContext | None
) -> _Server:
    server = _Server((host, 0), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.hub = hub
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
    ).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    name = ""
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # http.server's name
        pass

    def do_GET(self) -> None:
        self.hub.asked.append((self.name, self.command, self.path, dict(self.headers)))
        self.answer(unquote(urlsplit(self.path).path))

    do_HEAD = do_GET  # noqa: N815  # http.server's name

    @property
    def hub(self) -> ModelHub:
        return self.server.hub

    def answer(self, path: str) -> None:
        raise NotImplementedError

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def fail(self, fault: HubFault) -> None:
        self.reply(fault.status, **_only(Retry_After=fault.retry_after))

    def refuse(self, status: int, code: str, message: str) -> None:
        self.reply(
            status, json.dumps({"error": message}).encode(),
            X_Error_Code=code, X_Error_Message=message,
        )  # fmt: skip

    def send_json(self, body: Any, **headers: str) -> None:
        self.reply(200, json.dumps(body).encode(), Content_Type="application/json", **headers)


def _only(**headers: str) -> Any:
    """The headers that have a value."""
    return {name: value for name, value in headers.items() if value}


class _Api(_Handler):
    name = "api"

    def answer(self, path: str) -> None:
        if self.hub.api_faults:
            fault = self.hub.api_faults.popleft()
            self.fail(fault)
        elif match := re.fullmatch("/api/models/([^/]+/[^/]+)(/.*)?", path):
            name, rest = match[1], match[2] or ""
            self.with_repository(name, lambda r: self.describe(name, r, rest))
        elif match := re.fullmatch("/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            name, revision, file = match.groups()
            self.with_repository(name, lambda r: self.resolve(name, r, revision, file))
        else:
            self.refuse(404, "", "no such page")

    def with_repository(self, name: str, then: Callable[[HubRepository], None]) -> None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            self.refuse(401, "RepoNotFound", "Repository not found")
        elif repository.renamed_to:
            self.reply(307, Location=self.path.replace(name, repository.renamed_to))
        elif self.headers.get("Authorization") not in (None, f"Bearer {self.hub.token}"):
            self.refuse(401, "", "Invalid credentials in Authorization header")
        elif repository.is_gated and "Authorization" not in self.headers:
            self.refuse(401, "GatedRepo", "Access to this model is restricted")
        else:
            then(repository)

    def describe(self, name: str, repository: HubRepository, rest: str) -> None:
        if rest == "/refs":
            branches = {**repository.branches, "main": repository.commit}
            refs = [
                {"name": b, "ref": f"refs/heads/{b}", "targetCommit": c}
                for b, c in branches.items()
            ]
            self.send_json({"branches": refs, "converts": [], "tags": []})
        elif match := re.fullmatch("/tree/([^/]+)", rest):
            self.tree(name, repository, match[1])
        elif rest == "" or rest.startswith("/revision/"):
            commit = self.commit_of(repository, rest.removeprefix("/revision/") or "main")
            if commit:
                self.send_json(self.info(name, repository, commit))
        else:
            self.refuse(404, "", "no such page")

    def info(self, name: str, repository: HubRepository, commit: str) -> dict[str, Any]:
        siblings: list[dict[str, Any]] = [{"rfilename": path} for path in sorted(repository.files)]
        return {
            "_id": "0", "id": name, "modelId": name, "sha": commit, "private": False,
            "gated": "auto" if repository.is_gated else False, "siblings": siblings,
            "tags": ["gguf"], "downloads": 0, "likes": 0,
            "cardData": {"license": repository.licence},
        }  # fmt: skip

    def commit_of(self, repository: HubRepository, revision: str) -> str:
        """The commit; "" after a refusal has been sent."""
        if revision in ("main", repository.commit):
            return repository.commit
        if revision in repository.branches:
            return repository.branches[revision]
        self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return ""

    def tree(self, name: str, repository: HubRepository, revision: str) -> None:
        commit = self.commit_of(repository, revision)
        if not commit:
            return
        query = parse_qs(urlsplit(self.path).query)
        begin, count = int(query.get("cursor", ["0"])[0]), self.hub.page_entries
        paths = sorted(repository.files)
        entries: list[dict[str, Any]] = [
            {"type": "directory", "oid": "0" * 40, "size": 0, "path": folder}
            for folder in sorted({p.rpartition("/")[0] for p in paths} - {""})
        ]
        entries += [self.entry(repository, path) for path in paths]
        more = begin + count < len(entries)
        address = (
            f"{self.hub.url}/api/models/{name}/tree/{commit}?recursive=true&cursor={begin + count}"
        )
        # llama.cpp reads the first page alone, of a thousand entries: so it gets one.
        whole = "llama-cpp" in self.headers.get("User-Agent", "")
        page = entries if whole else entries[begin : begin + count]
        link = {"Link": f'<{address}>; rel="next"'} if more and not whole else {}
        self.send_json(page, **link)

    def entry(self, repository: HubRepository, path: str) -> dict[str, Any]:
        oid, size = repository.oid(path), repository.size(path)
        if not repository.is_lfs(path):
            return {"type": "file", "oid": oid, "size": size, "path": path}
        pointer = hashlib.sha1(oid.encode(), usedforsecurity=False).hexdigest()
        lfs = {"oid": oid, "size": size, "pointerSize": 134}
        return {"type": "file", "oid": pointer, "size": size, "lfs": lfs, "path": path}

    def resolve(self, name: str, repository: HubRepository, revision: str, path: str) -> None:
        commit = self.commit_of(repository, revision)
        if not commit:
            return
        if path not in repository.files:
            self.refuse(404, "EntryNotFound", "Entry not found")
            return
        oid = repository.oid(path)
        headers = _only(X_Repo_Commit=commit, Accept_Ranges="bytes")
        if not repository.is_lfs(path):
            content = repository.files[path]
            assert isinstance(content, bytes)
            self.reply(200, content, ETag=f'"{oid}"', **headers)
            return
        host = self.hub.redirect_to or self.hub.files_url
        self.reply(
            302,
            Location=f"{host}/{quote(name)}/{quote(path)}?sig=1",
            X_Linked_Etag=f'"{oid}"', X_Linked_Size=str(repository.size(path)),
            ETag=f'"{hashlib.md5(oid.encode(), usedforsecurity=False).hexdigest()}"',
            **headers,
        )  # fmt: skip


class _Files(_Handler):
    name = "files"

    def answer(self, path: str) -> None:
        _, owner, name, rest = path.split("/", 3)
        repository = self.hub.repositories[f"{owner}/{name}"]
        size, etag = repository.size(rest), f'"{repository.oid(rest)[:32]}"'
        fault = self.hub.faults.popleft() if self.hub.faults else HubFault("")
        if fault.kind == "status":
            self.fail(fault)
            return
        begin = self.begin_of(size, etag) if fault.kind != "whole" else 0
        if begin >= size:
            self.reply(416, Content_Range=f"bytes */{size}")
            return
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{size - 1}/{size}")
        for key, value in (("ETag", etag), ("Accept-Ranges", "bytes")):
            self.send_header(key, value)
        self.send_header("Content-Length", str(size - begin))
        self.end_headers()
        if self.command != "HEAD":
            self.send_content(repository.files[rest], begin, fault)

    def begin_of(self, size: int, etag: str) -> int:
        asked = re.fullmatch(r"bytes=([0-9]+)-([0-9]*)", self.headers.get("Range", ""))
        if asked is None or self.headers.get("If-Range", etag) != etag:
            return 0
        return int(asked[1])

    def send_content(self, content: bytes | Path, begin: int, fault: HubFault) -> None:
        limit = begin + fault.after if fault.kind in ("cut", "stall") else None
        for chunk in _chunks(content, begin, limit):
            self.wfile.write(bytes(len(chunk)) if fault.kind == "wrong" else chunk)
            self.hub.speed(len(chunk))
        if fault.kind == "stall":
            self.wfile.flush()
            self.hub.released.wait()
        if fault.kind in ("cut", "stall"):
            self.close_connection = True


def _chunks(content: bytes | Path, begin: int, end: int | None) -> Iterator[bytes]:
    if isinstance(content, bytes):
        step = 1 << 16
        stop = len(content) if end is None else end
        yield from (content[at : min(at + step, stop)] for at in range(begin, stop, step))
        return
    with content.open("rb") as file:
        file.seek(begin)
        left = (content.stat().st_size if end is None else end) - begin
        while left > 0 and (data := file.read(min(1 << 20, left))):
            left -= len(data)
            yield data
