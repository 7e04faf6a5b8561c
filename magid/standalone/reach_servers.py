"""Prints which RPC servers answer: `reach_servers.py SECONDS ADDRESS:PORT...`.

One line each: the server, a space, and why it does not answer; nothing after the space if it does.
All are tried at once. Runs inside a model's unit, which may reach what magid and its launcher may
not, and as a child, with the standard library only.

llama.cpp's RPC server takes one client at a time. The kernel connects others too, and they wait for
an answer until the first one ends. So this script says nothing and ends its side of the connection:
a server that takes it then ends its own, whatever version of the protocol it speaks.
"""

import errno
import os
import selectors
import socket
import sys
import time
from collections.abc import Sequence

_LATE = "no answer in time"
_BUSY = "it takes no client now: another one uses it, or it hangs"


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
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            if why := _begun(sock, server):
                found[server] = why
                sock.close()
            else:
                waiting.register(sock, selectors.EVENT_WRITE, server)
        while waiting.get_map() and (left := end - time.monotonic()) > 0:
            for key, events in waiting.select(left):
                sock = key.fileobj  # type: ignore[assignment]  # registered above
                is_connected = bool(events & selectors.EVENT_WRITE)
                found[key.data] = why = _ended(sock) if is_connected else ""
                if why == _BUSY:
                    waiting.modify(sock, selectors.EVENT_READ, key.data)
                else:
                    waiting.unregister(sock)
                    sock.close()
        for key in list(waiting.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]  # a socket
    return found


def _begun(sock: socket.socket, server: str) -> str:
    """Begins to connect. Returns why it cannot be; the socket can be written to when it is."""
    host, _, port = server.rpartition(":")
    sock.setblocking(False)
    number = sock.connect_ex((host, int(port)))
    return "" if number in (0, errno.EINPROGRESS) else os.strerror(number)


def _ended(sock: socket.socket) -> str:
    """Ends this side of the connection. Returns why there is none; _BUSY until the server ends."""
    if number := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        return os.strerror(number)
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError as error:
        return os.strerror(error.errno or 0)
    return _BUSY


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
