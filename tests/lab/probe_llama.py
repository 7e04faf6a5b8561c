"""A llama-server that looks around in its unit, writes what it could do to its log, and serves.

Run in a container in place of the real one: what a model process can do if it is not what it should
be. Its log gets one line `PROBE {...}`: name of an attempt -> "done", or why not; and what
inside/reach.py says, where a test has put it there.
"""

import ctypes
import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

OUTSIDE = "192.0.2.1"  # an address of the container that is not loopback
OTHER_MODEL = "/models/Other.gguf"
CLONE_NEWUSER = 0x1000_0000
REACH = "/usr/local/lib/reach.py"


def option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


def read(path: str) -> None:
    if Path(path).is_dir():
        if not any(Path(path).iterdir()):
            raise OSError(errno.ENODATA, "nothing in it")
    else:
        Path(path).read_bytes()


def write(path: str) -> None:
    Path(path).write_text("x")
    Path(path).unlink()


def connect(family: int, address: Any) -> None:
    with socket.socket(family) as sock:
        sock.settimeout(1)
        sock.connect(address)


def bind(port: int) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", port))


def new_namespace() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def strangers() -> None:
    pids = [name for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - names
    if not any(int(pid) != os.getpid() for pid in pids):
        raise OSError(errno.ENOENT, "no other process is seen")


def attempts() -> dict[str, Callable[[], None]]:
    port = int(option("--port"))
    reads = ["/etc/magi/magid.yaml", "/var/lib/magi", "/var/lib/magi/secret", "/home/person/note"]
    reads += ["/run/magi-keys", f"/run/magi-keys/{port}.key", f"/run/magi-keys/{port + 1}.key"]
    reads += [f"/run/credentials/llama-server@{port + 1}.service/api-key", OTHER_MODEL]
    reads += ["/etc/shadow", "/root", "/srv/note", "/dev/kmsg", "/sys/kernel/debug"]
    reads += [option("--model"), option("--api-key-file")]
    writes = ["/etc", "/usr", "/var", "/var/lib", "/models", "/run", "/dev", "/home", "/root", "/"]
    writes += ["/tmp", "/var/tmp", "/dev/shm", "/sys/fs/cgroup"]
    sockets = ["/run/magi/launcher.sock", "/run/magi/key.sock"]
    sockets += ["/run/dbus/system_bus_socket", "/run/systemd/private"]
    return {
        **{f"read {path}": lambda path=path: read(path) for path in reads},  # type: ignore[misc]  # a default binds it now
        **{f"write {path}": lambda path=path: write(f"{path}/probe") for path in writes},  # type: ignore[misc]  # likewise
        **{
            f"connect {path}": lambda path=path: connect(socket.AF_UNIX, path)  # type: ignore[misc]  # likewise
            for path in sockets
        },
        "connect out": lambda: connect(socket.AF_INET, (OUTSIDE, 9)),
        "bind another port": lambda: bind(port + 1000),
        "overwrite the model": lambda: Path(option("--model")).open("r+b").close(),
        "new user namespace": new_namespace,
        "see strangers": strangers,
    }


def outcome(attempt: Callable[[], None]) -> str:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "done"


class Server(BaseHTTPRequestHandler):
    """As much of llama-server as readiness is about."""

    def do_GET(self) -> None:
        key = Path(option("--api-key-file")).read_text().strip()
        if self.path == "/health":
            self._answer(200, {"status": "ok"})
        elif self.headers.get("Authorization") == f"Bearer {key}":
            self._answer(200, {"model_alias": option("--alias")})
        else:
            self._answer(401, {})

    def _answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        return


def main() -> None:
    if "--help" in sys.argv:
        sys.stdout.write("-m, --model FNAME\n--port PORT\n--api-key-file FNAME\n-a, --alias X\n")
        return
    found = {name: outcome(attempt) for name, attempt in attempts().items()}
    sys.stdout.write(f"PROBE {json.dumps(found)}\n")
    sys.stdout.flush()
    if Path(REACH).exists():
        subprocess.run([sys.executable, "-I", REACH, "server"], check=False)
    ThreadingHTTPServer(("127.0.0.1", int(option("--port"))), Server).serve_forever()


if __name__ == "__main__":
    main()
