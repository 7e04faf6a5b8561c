"""Runs llama-server until it has predicted its memory.

    predict_memory.py SECONDS NICENESS -- PROGRAM ARGUMENT...

llama-server prints the prediction before it reads the weights, and is killed then. It needs an
address of its own, which it binds first: a socket in a folder that nothing else uses.

Prints one line of JSON: `why` it was over (`done`: the prediction has ended; `ended`: llama-server
itself; `late`, `long`: its time, or the size of its output), its exit `status` (negative: the
signal), and the `lines` that matter: the tables, what would fit, and errors.

Runs inside a model's unit and as a child, with the standard library only. What it reads may come
from a llama-server that a hostile file has taken over.
"""

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

_MAX_READ: Final = 4 << 20
_MAX_KEPT: Final = 16_000  # bytes; as JSON at most twice as many
_MAX_LINE: Final = 500
_DONE: Final = (b"fitting params to free memory took", b"load_tensors:")
_KEPT: Final = (
    *(b"| memory breakdown [MiB]", b"|   - ", b"context size reduced from "),
    b" for the extra model ",  # the next table is of a draft
)
_ERRORS: Final = (b" E ", b"error", b"terminate called")
_EXEC_CHILD: Final = Path(__file__).resolve().with_name("exec_child.py")


def main(arguments: Sequence[str]) -> int:
    if len(arguments) < 4 or arguments[2] != "--":
        sys.stderr.write("usage: predict_memory.py SECONDS NICENESS -- PROGRAM ARGUMENT...\n")
        return 2
    seconds, niceness, _, *command = arguments
    with suppress(OSError):
        os.nice(int(niceness))
    folder = tempfile.mkdtemp()
    try:
        report = predicted([*command, "--host", f"{folder}/predict.sock"], float(seconds))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.buffer.write(json.dumps(report, ensure_ascii=False).encode() + b"\n")
    return 0


def predicted(command: Sequence[str], seconds: float) -> dict[str, object]:
    """Returns the report. llama-server ends with this process, in whatever way that ends."""
    wrapper = [sys.executable, "-I", "-S", str(_EXEC_CHILD), str(os.getpid()), "--"]
    process = subprocess.Popen(
        [*wrapper, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    lines: list[str] = []
    try:
        why = collected(process.stdout, time.monotonic() + seconds, lines)
        if why == "ended":
            process.wait(seconds)  # it has closed its output, or ended
    except subprocess.TimeoutExpired:
        why = "late"
    finally:
        process.kill()
        status = process.wait()
    return {"why": why, "status": status, "lines": lines}


def collected(output: IO[bytes], end: float, lines: list[str]) -> str:
    """Appends the lines that matter that come until `end`; returns why there are no more."""
    left = _MAX_KEPT
    for line in _lines(output, end):
        if isinstance(line, str):
            return line
        if any(mark in line for mark in _DONE):
            return "done"
        if any(mark in line for mark in (*_KEPT, *_ERRORS)):
            text = _plain(line[:_MAX_LINE])
            left -= len(text.encode()) + 4
            if left > 0:
                lines.append(text)
    return "ended"


def _lines(output: IO[bytes], end: float) -> Iterator[bytes | str]:
    """Yields the lines without their ends; a str, which is the last, says what cut them off."""
    rest, size = b"", 0
    while True:
        if not select.select([output], [], [], max(0.0, end - time.monotonic()))[0]:
            yield "late"
            return
        piece = os.read(output.fileno(), 65_536)
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
        size += len(piece)
        if not piece:
            yield rest
            return
        if size > _MAX_READ:
            yield "long"
            return


def _plain(line: bytes) -> str:
    return "".join(c if c.isprintable() else "?" for c in line.decode(errors="replace"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
