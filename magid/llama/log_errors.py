"""Finds out why a llama-server ended, from its output and its exit status. Pure."""

import re
import signal
from contextlib import suppress

_MAX_QUOTE = 300  # characters of a log line in a reason

# llama-server's own lines: "0.00.010.289 E text", the letter being the level.
_LOG_PREFIX = re.compile(r"[0-9.]{5,20} (?P<level>[A-Z]) +(?P<text>.*)")
_ERROR_TEXT = re.compile(r"^error\b|\berror: |terminate called|ASSERT|out of memory")
# CUDA and ROCm: "cudaMalloc failed: out of memory"; Vulkan: "ErrorOutOfDeviceMemory"; ggml itself:
# "failed to allocate CUDA0 buffer of size ...", "unable to allocate ...".
_NO_MEMORY = re.compile(r"(?:failed|unable) to allocate|out of memory|OutOfDeviceMemory")
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_CRASHES = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)


class LastErrors:
    """The first and the last error line of a process."""

    def __init__(self) -> None:
        self.first_error = ""
        self.last_error = ""

    def add(self, line: str) -> None:
        if text := error_text(line):
            self.first_error = self.first_error or text
            self.last_error = text


def error_text(line: str) -> str:
    """Returns the message of an error line, without time and level; "" for other lines.

    llama-server's lines have a level; those of its libraries do not.
    """
    line = _COLOUR.sub("", line)
    marked = _LOG_PREFIX.fullmatch(line)
    if marked and marked["level"] != "E":
        return ""
    text = marked["text"] if marked else line
    if not marked and not _ERROR_TEXT.search(line):
        return ""
    printable = "".join(sign if sign.isprintable() else " " for sign in text)
    return " ".join(printable.split())[:_MAX_QUOTE]


def is_out_of_memory(reason: str) -> bool:
    """Returns whether this reason of a failed start is an allocation that a device refused."""
    return _NO_MEMORY.search(reason) is not None


def exit_reason(returncode: int, errors: LastErrors, *, was_ready: bool) -> str:
    """Returns why a process ended by itself, for a person.

    `returncode` is negative for a signal. When a start fails, the first error is the cause and
    later ones are its effects; when a ready server ends, only the last error can be the cause.
    """
    quote = errors.last_error if was_ready else errors.first_error
    if returncode >= 0:
        return f"exited with status {returncode}" + (f": {quote}" if quote else "")
    with suppress(ValueError):
        number = signal.Signals(-returncode)
        if number is signal.SIGKILL:
            return "crashed (SIGKILL), killed by a user or by the kernel because memory ran out"
        if number not in _CRASHES:
            return f"was ended by {number.name}"
        return f"crashed ({number.name})" + (f": {quote}" if quote else "")
    return f"was killed by signal {-returncode}"
