"""What a process can reach from where it is: `reach.py NAME`, one line `REACH NAME {...}`.

writable: paths that can be written to, or made something in; with the room that there is.
sockets: those of the machine, in files and abstract, that take a connection.
addresses: that take a connection or answer a datagram: all that anybody here listens on, and MORE.
memories: processes, apart from this one and its parent, whose memory it could write to.
left: what an earlier run has left in places that can be written to.

It leaves a mark wherever it can, by all means there are: files, shared memory, queues, keys. Not
where it is called `host`.
"""

import ctypes
import json
import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

MARK = "magi-lab-left"
KEY = 0x6D616769
OUTSIDE = "192.0.2.1"
MORE = [(host, 53) for host in ("127.0.0.1", "127.0.0.53", "127.0.0.54", "::1", OUTSIDE)]
KINDS = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET)
PATIENCE_S = 0.5  # what is denied is dropped in silence


def entries() -> Iterator[tuple[str, os.stat_result]]:
    """All paths there are but for processes."""
    yield "/", Path("/").stat()
    for folder, folders, files in os.walk("/"):
        if folder == "/proc":
            folders[:] = [name for name in folders if not name.isdigit()]
        for name in (*folders, *files):
            path = os.path.join(folder, name)  # noqa: PTH118 - there are many
            with suppress(OSError):
                yield path, os.lstat(path)


def can_write(path: str, mode: int) -> bool:
    try:
        if stat.S_ISDIR(mode):
            Path(path, f"{MARK}-try").touch(exist_ok=False)
            Path(path, f"{MARK}-try").unlink()
        elif stat.S_ISREG(mode):
            return os.access(path, os.W_OK)
        elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY))
        else:
            return False
    except OSError:
        return False
    return True


def room(folder: str) -> list[int]:
    """Bytes and files that fit there."""
    found = os.statvfs(folder)
    return [found.f_blocks * found.f_frsize, found.f_files]


def takes(family: int, address: Any) -> bool:
    for kind in KINDS if family == socket.AF_UNIX else KINDS[:1]:
        with suppress(OSError), socket.socket(family, kind) as sock:
            sock.settimeout(PATIENCE_S)
            sock.connect(address)
            return True
    return False


def answers(family: int, address: Any) -> bool:
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE_S)
        sock.sendto(b"?", address)
        return bool(sock.recv(10))
    return False


def abstract() -> set[str]:
    lines = Path("/proc/net/unix").read_text().splitlines()
    return {line.split(None, 7)[7] for line in lines if " @" in line}


def listeners() -> Iterator[tuple[str, int]]:
    for table, any_host, host in (
        ("tcp", "00000000", "127.0.0.1"),
        ("tcp6", "0" * 32, "::1"),
    ):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            number, _, port = local.partition(":")
            if state == "0A" and number in (any_host, "0100007F", "0" * 24 + "01000000"):
                yield host, int(port, 16)


def memories() -> list[int]:
    others = {int(path.name) for path in Path("/proc").glob("[1-9]*")} - {os.getpid(), os.getppid()}
    found = []
    for pid in sorted(others):
        with suppress(OSError), Path(f"/proc/{pid}/mem").open("r+b"):
            found.append(pid)
    return found


def leave_marks(folders: list[str]) -> None:
    for folder in folders:
        with suppress(OSError):
            Path(folder, MARK).write_text("x")
    libc = ctypes.CDLL(None)
    libc.shmget(KEY, 4096, 0o1600)
    libc.semget(KEY, 1, 0o1600)
    libc.msgget(KEY, 0o1600)
    libc.mq_open(f"/{MARK}".encode(), os.O_CREAT | os.O_RDWR, 0o600, None)
    add_key, user_keyring = {"x86_64": 248, "aarch64": 217}[os.uname().machine], -4
    libc.syscall(add_key, b"user", MARK.encode(), b"x", 1, user_keyring)


def main(name: str) -> None:
    seen = list(entries())
    writable = sorted(path for path, status in seen if can_write(path, status.st_mode))
    folders = [path for path in writable if Path(path).is_dir()]
    left = [path for path in folders if Path(path, MARK).exists()]
    files = {path for path, status in seen if stat.S_ISSOCK(status.st_mode)}
    names = {path: path for path in files} | {path: "\0" + path[1:] for path in abstract()}
    sockets = sorted(path for path, address in names.items() if takes(socket.AF_UNIX, address))
    addresses = set()
    for host, port in {*MORE, *listeners()}:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        addresses |= {f"tcp {host} {port}"} if takes(family, (host, port)) else set()
        addresses |= {f"udp {host} {port}"} if answers(family, (host, port)) else set()
    if name != "host":
        leave_marks(folders)
    found = {
        "writable": writable,
        "room": {folder: room(folder) for folder in folders},
        "left": left,
        "sockets": sockets,
        "addresses": sorted(addresses),
        "memories": [] if name == "host" else memories(),
    }
    sys.stdout.write(f"REACH {name} {json.dumps(found)}\n")


if __name__ == "__main__":
    main(sys.argv[1])
