"""Asks magid's TCP port for everything that the lines on stdin name: `METHOD PATH`.

Prints, as JSON, each with its status for every way to its own machine.
"""

import json
import socket
import sys

PLACES = (
    (socket.AF_INET, "127.0.0.1"),
    (socket.AF_INET, "127.1.2.3"),
    (socket.AF_INET6, "::1"),
    (socket.AF_INET6, "::ffff:127.0.0.1"),
)
BODY = b'{"name": "mine", "scopes": ["admin"]}'


def status(family: int, host: str, method: str, path: str) -> int:
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n"
    )
    with socket.socket(family) as sock:
        sock.settimeout(60)
        try:
            sock.connect((host, 8000))
        except ConnectionRefusedError:
            return 0
        sock.sendall(head.encode() + BODY)
        return int(sock.makefile("rb").readline().split()[1])


requests = [line.split() for line in sys.stdin.read().splitlines()]
answers = [
    [f"{host} {method} {path}", status(family, host, method, path)]
    for family, host in PLACES
    for method, path in requests
]
sys.stdout.write(json.dumps(answers))
