"""Sends each line of its input to the launcher, on a connection of its own; prints the answers."""

import socket
import sys

for line in sys.stdin.buffer:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(120)
        try:
            sock.connect("/run/magi/launcher.sock")
            sock.sendall(line)
            answer = sock.makefile("rb").readline()
        except OSError as error:
            answer = type(error).__name__.encode() + b"\n"
    sys.stdout.buffer.write(answer or b"\n")
