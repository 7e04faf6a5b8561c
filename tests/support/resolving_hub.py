"""A hub of one repository, for the caches that its clients write: huggingface_hub, llama-server."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "c" * 40


class _Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    repository = ""
    files: Mapping[str, bytes] = {}

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        name = path.rpartition(f"/{self.repository}/resolve/")[2].partition("/")[2]
        if path.startswith(f"/api/models/{self.repository}"):
            kind = path.removeprefix(f"/api/models/{self.repository}").strip("/").partition("/")[0]
            self._send(json.dumps(self._about(kind)).encode(), {"Content-Type": "application/json"})
        elif name in self.files:
            content = self.files[name]
            etag = hashlib.sha256(content).hexdigest()
            headers = {"ETag": f'"{etag}"', "X-Linked-ETag": f'"{etag}"',
                       "X-Repo-Commit": COMMIT, "X-Linked-Size": str(len(content)),
                       "Accept-Ranges": "bytes"}  # fmt: skip
            self._send(content, headers, with_body=with_body)
        else:
            self._send(b"{}", {"X-Error-Code": "EntryNotFound"}, status=404, with_body=with_body)

    def _about(self, kind: str) -> object:
        if kind == "refs":
            return {
                "branches": [{"name": "main", "ref": "refs/heads/main", "targetCommit": COMMIT}]
            }
        if kind == "tree":
            return [
                {"type": "file", "path": name, "size": len(content), "oid": "0" * 40,
                 "lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content)}}
                for name, content in self.files.items()
            ]  # fmt: skip
        return {"id": self.repository, "sha": COMMIT,
                "siblings": [{"rfilename": name} for name in self.files]}  # fmt: skip

    def _send(
        self, body: bytes, headers: Mapping[str, str], status: int = 200, *, with_body: bool = True
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def hub(repository: str, files: Mapping[str, Path]) -> Iterator[str]:
    """The address of a hub that has this repository, with these files."""
    contents = {name: path.read_bytes() for name, path in files.items()}
    handler = type("Handler", (_Hub,), {"repository": repository, "files": contents})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
