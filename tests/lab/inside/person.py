"""Run in a container: types command lines, each into a shell of its own, and tells what came.

Standard input: a JSON list of {"command", "keys": [[what is waited for, what is typed], ...],
"terminal"}. Standard output: a JSON list of [output, exit status], both streams in their order.
"""

import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from typing import Any

PATIENCE_S = 900.0  # an upgrade of the whole machine is one command
SIZE = struct.pack("HHHH", 40, 160, 0, 0)
HOME = {"PATH": "/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin", "HOME": "/root", "LANG": "C.UTF-8"}


def type_in(step: dict[str, Any]) -> tuple[str, int]:
    argv = ["bash", "-c", step["command"]]
    if step["terminal"]:
        return on_terminal(argv, step["keys"])
    done = subprocess.run(
        argv, env=HOME, cwd="/root", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    return done.stdout.decode(errors="replace"), done.returncode


def on_terminal(argv: list[str], keys: list[list[str]]) -> tuple[str, int]:
    pid, terminal = os.forkpty()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, SIZE)
        os.chdir("/root")
        os.execvpe(argv[0], argv, {**HOME, "TERM": "xterm"})
    try:
        output = _watched(terminal, list(keys))
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        _, status = os.waitpid(pid, 0)  # first: to close the terminal is to hang up on it
        os.close(terminal)
    return output.decode(errors="replace"), os.waitstatus_to_exitcode(status)


def _watched(terminal: int, keys: list[list[str]]) -> bytes:
    """All output. Keys are typed when what they wait for has come, behind those before."""
    output, seen, ends = b"", 0, time.monotonic() + PATIENCE_S
    while True:
        at = output.find(keys[0][0].encode(), seen) if keys else -1
        if at >= 0:
            seen = at + len(keys[0][0].encode())
            os.write(terminal, keys.pop(0)[1].encode())
            continue
        readable, _, _ = select.select([terminal], [], [], max(0.0, ends - time.monotonic()))
        if not readable:
            raise TimeoutError(f"waited for {keys[:1]}; so far:\n{output.decode()}")
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # EIO: nobody has it open any more
            piece = b""
        if not piece:
            return output
        output += piece


if __name__ == "__main__":
    json.dump([type_in(step) for step in json.load(sys.stdin)], sys.stdout)
