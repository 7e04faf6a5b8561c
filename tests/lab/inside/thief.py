"""Takes the port of a server that has ended, and passes itself off as it: `PORT ALIAS`, any user.

Says "bound" when it has the port; at the end of its input, what it was sent, as JSON.
It knows magid's code: it refuses the first key that it is shown and takes the second.
"""

import json
import select
import socket
import sys
import time


def main(port: int, alias: str) -> None:
    listener = taken(port)
    print("bound", flush=True)  # noqa: T201 - its word to the test
    heard = serve(listener, alias)
    print(json.dumps({"heard": heard.decode("latin-1")}))  # noqa: T201 - as above


def taken(port: int) -> socket.socket:
    while True:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen(128)
        except OSError:
            listener.close()
            time.sleep(0.0002)
            continue
        return listener


def serve(listener: socket.socket, alias: str) -> bytes:
    """All that it was sent until its input ended."""
    heard, refused = b"", False
    while sys.stdin not in (ready := select.select([listener, sys.stdin], [], [])[0]):
        assert listener in ready
        client, _ = listener.accept()
        client.settimeout(0.2)
        with client:
            try:
                request = client.recv(65_536)
            except OSError:
                continue
            heard += request
            refused = b"/props" in request and not refused
            client.sendall(answer(alias, refused=refused))
    return heard


def answer(alias: str, *, refused: bool) -> bytes:
    body = json.dumps({"model_alias": alias, "status": "ok", "choices": []}).encode()
    status = b"401 Unauthorized" if refused else b"200 OK"
    head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    return head % (status, len(body)) + b"Connection: close\r\n\r\n" + body


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
