"""Listens where a server of a model must not get to: world-open sockets, abstract ones, resolvers.

Every datagram is answered. Says "listening" when all are there.
"""

import select
import socket
import sys
from pathlib import Path

HOSTS = ("127.0.0.1", "127.0.0.53", "127.0.0.54", "::1", "192.0.2.1")
FOLDERS = ("/run", "/run/lock", "/tmp", "/var/tmp", "/dev/shm", "/opt", "/etc", "/srv")
ABSTRACT = "\0magi-lab-open"


def listening() -> list[socket.socket]:
    sockets = []
    for folder in FOLDERS:
        path = Path(folder, "open.sock")
        path.unlink(missing_ok=True)
        sockets.append(socket.socket(socket.AF_UNIX))
        sockets[-1].bind(str(path))
        path.chmod(0o777)
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
        sockets.append(socket.socket(socket.AF_UNIX, kind))
        sockets[-1].bind(f"{ABSTRACT}-{kind}")
    for host in HOSTS:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            sockets.append(socket.socket(family, kind))
            sockets[-1].bind((host, 53))
    for sock in sockets:
        if sock.type != socket.SOCK_DGRAM:
            sock.listen(64)
    return sockets


def main() -> None:
    sockets = listening()
    sys.stdout.write("listening\n")
    sys.stdout.flush()
    while True:
        for sock in select.select(sockets, [], [])[0]:
            if sock.type == socket.SOCK_DGRAM:
                _, sender = sock.recvfrom(100)
                if sender:
                    sock.sendto(b"!", sender)
            else:
                sock.accept()[0].close()


if __name__ == "__main__":
    main()
