"""A program that plays llama-server and misbehaves on demand.

For what the real one cannot be made to do at will: load slowly, ignore SIGTERM, accept every key.
It speaks real HTTP on a real port. `install` writes a program file whose behaviour is fixed, since
neither the arguments nor the environment of a server are the test's to choose.
"""

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

HELP = """\
----- common params -----

-h,    --help, --usage                  print usage and exit
-m,    --model FNAME                    model path to load
-mm,   --mmproj FILE                    path to a multimodal projector file
-a,    --alias STRING                   set model name aliases
--host HOST                             ip address to listen on
--port PORT                             port to listen
--api-key-file FNAME                    path to file containing API keys
                                        --not-an-option in the text of another
--embedding, --embeddings               restrict to only support embedding use case
--ui,  --webui, --no-ui, --no-webui     whether to enable the Web UI (default: enabled)
"""


def install(folder: Path, *behaviour: str) -> Path:
    """Write a llama-server program into `folder` that behaves so; its path.

    never-binds       runs on without a port
    crashes           says why and exits with status 3
    loading=FILE      /health answers 503 until FILE exists
    health-error      /health answers 500
    fails-once=FILE   answers 500 to all POSTs, in the process that makes FILE; a later one works
    bad=HOW           answers POSTs that hold the word "bad" with this status, or "cut": by ending
                      the connection, or "garbled": with what is no HTTP
    shares-port       lets others of the same user listen on its port too
    deaf              ignores SIGTERM
    any-key           accepts every key
    other-alias       shows another model
    no-alias          /props has no alias: it is in /v1/models, as in old versions
    leaves-child=FILE makes a process of its own in its group, that one's pid in FILE
    record=FILE       writes its argv and environment to FILE as JSON
    says=TEXT         prints TEXT as it is
    endless-help, silent-help, foreign-help   when asked what it can do
    """
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "llama-server"
    words = shlex.join([sys.executable, "-S", str(Path(__file__).resolve()), *behaviour, "--"])
    program.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    program.chmod(0o755)
    return program


class FakeLlama(BaseHTTPRequestHandler):
    """Answers as llama-server 0.7.0 does: /health is public, the rest wants the key."""

    behaviour: dict[str, str]
    alias: str
    key: str

    def do_GET(self) -> None:
        if self.path == "/health":
            self._health()
        elif not self._may_pass():
            self._answer(401, {"error": {"code": 401, "message": "Invalid API Key"}})
        elif self.path == "/props":
            self._answer(200, {} if "no-alias" in self.behaviour else {"model_alias": self.alias})
        elif self.path == "/v1/models":
            self._answer(200, {"object": "list", "data": [{"id": self.alias}]})
        else:
            self._answer(404, {"error": {"code": 404, "message": "File Not Found"}})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "bad" in self.behaviour and b"bad" in body:
            self._misbehave(self.behaviour["bad"])
        elif self.behaviour.get("fails-once") == "now":
            self._answer(500, {"error": {"code": 500, "message": "Invalid device"}})
        else:
            received = hashlib.sha256(body).hexdigest()
            self._answer(200, {"choices": [], "model": self.alias, "received": received})

    def _misbehave(self, how: str) -> None:
        if how.isdecimal():
            self._answer(int(how), {"error": {"code": int(how), "message": "on purpose"}})
            return
        if how == "garbled":
            self.wfile.write(b"SMTP ready\r\n\r\n")
        self.close_connection = True

    def _may_pass(self) -> bool:
        said = self.headers.get("Authorization", "")
        return "any-key" in self.behaviour or said == f"Bearer {self.key}"

    def _health(self) -> None:
        loaded = self.behaviour.get("loading")
        if loaded and not Path(loaded).exists():
            self._answer(503, {"error": {"code": 503, "message": "Loading model"}})
        elif "health-error" in self.behaviour:
            self._answer(500, {"error": {"code": 500}})
        else:
            self._answer(200, {"status": "ok"})

    def _answer(self, status: int, body: object) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def main(behaviour: dict[str, str], arguments: list[str]) -> None:
    if arguments in (["--help"], ["--version"]):
        describe(behaviour, arguments[0])
        return
    prepare(behaviour, arguments)
    if "crashes" in behaviour:
        sys.exit("error: broken on purpose")
    if "never-binds" in behaviour:
        threading.Event().wait()
    serve(behaviour, arguments)


def describe(behaviour: dict[str, str], option: str) -> None:
    if "silent-help" in behaviour:
        threading.Event().wait()
    while "endless-help" in behaviour:
        sys.stdout.write("-x " * 5000)
    if option == "--version":
        sys.stdout.write("version: 1.2.3 (build 45, commit fake)\nbuilt with care\n")
    else:
        sys.stdout.write("usage: something else\n" if "foreign-help" in behaviour else HELP)


def prepare(behaviour: dict[str, str], arguments: list[str]) -> None:
    if "deaf" in behaviour:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if record := behaviour.get("record"):
        seen = {"argv": arguments, "environ": dict(os.environ), "pid": os.getpid()}
        Path(record).write_text(json.dumps(seen))
    if mark := behaviour.get("fails-once"):
        behaviour["fails-once"] = "over" if Path(mark).exists() else "now"
        Path(mark).touch()
    if child := behaviour.get("leaves-child"):
        left = subprocess.Popen(["/bin/sleep", "1000"])
        Path(child).write_text(str(left.pid))
    sys.stdout.write(behaviour.get("says", ""))
    sys.stdout.flush()


def serve(behaviour: dict[str, str], arguments: list[str]) -> None:
    options = dict(pairwise(arguments))
    FakeLlama.behaviour = behaviour
    FakeLlama.alias = "stranger" if "other-alias" in behaviour else options["--alias"]
    FakeLlama.key = Path(options["--api-key-file"]).read_text().strip()
    address = (options["--host"], int(options["--port"]))
    ThreadingHTTPServer.allow_reuse_port = "shares-port" in behaviour
    ThreadingHTTPServer(address, FakeLlama).serve_forever(poll_interval=0.05)


def parse(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Behaviour in front of `--`, the arguments of a llama-server behind it."""
    end = words.index("--")
    pairs = (word.partition("=") for word in words[:end])
    return {name: value for name, _, value in pairs}, words[end + 1 :]


if __name__ == "__main__":
    main(*parse(sys.argv[1:]))
