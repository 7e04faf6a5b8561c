"""Prints which TCP servers answer: `reach_servers.py SECONDS ADDRESS:PORT...`.

One line each: the server, a space, and why it does not answer; nothing after the space if it does.
All are tried at once. Runs inside a model's unit, which may reach what magid and its launcher may
not, and as a child, with the standard library only.
"""

import errno
import os
import selectors
import socket
import sys
import time
from collections.abc import Sequence

_LATE = "no answer in time"


def main(arguments: Sequence[str]) -> int:
    seconds, *servers = arguments
    for server, why in reached(servers, float(seconds)).items():
        sys.stdout.write(f"{server} {why}\n")
    return 0


def reached(servers: Sequence[str], seconds: float) -> dict[str, str]:
    """Returns why each server does not answer; "" if it does."""
    found = dict.fromkeys(servers, _LATE)
    end = time.monotonic() + seconds
    with selectors.DefaultSelector() as waiting:
        for server in servers:
            host, _, port = server.rpartition(":")
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            sock.setblocking(False)
            number = sock.connect_ex((host, int(port)))
            if number == errno.EINPROGRESS:
                waiting.register(sock, selectors.EVENT_WRITE, server)
            else:
                found[server] = _why(number)
                sock.close()
        while waiting.get_map() and (left := end - time.monotonic()) > 0:
            for key, _ in waiting.select(left):
                sock = key.fileobj  # type: ignore[assignment]  # registered above
                found[key.data] = _why(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
                waiting.unregister(sock)
                sock.close()
        for key in list(waiting.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]  # a socket
    return found


def _why(number: int) -> str:
    return os.strerror(number) if number else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
