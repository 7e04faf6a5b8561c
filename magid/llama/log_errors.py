"""Why a llama-server ended: the last errors in its output, and what its exit status means. Pure."""

import re
import signal
from contextlib import suppress

_MAX_QUOTE = 300  # characters of a log line that go into a reason


# llama-server's own lines: "0.00.010.289 E text", the letter being the level.
_LOG_PREFIX = re.compile(r"[0-9.]{5,20} (?P<level>[A-Z]) +(?P<text>.*)")
_ERROR_TEXT = re.compile(r"^error\b|\berror: |terminate called|ASSERT|out of memory")
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_CRASHES = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)


class LastErrors:
    """What a process said of its own end: the first and the last error line, in bounded memory."""

    def __init__(self) -> None:
        self.first_error = ""
        self.last_error = ""

    def hear(self, line: str) -> None:
        if text := error_text(line):
            self.first_error = self.first_error or text
            self.last_error = text


def error_text(line: str) -> str:
    """The message of a log line that reports an error, without time and level; else "".

    Lines of llama-server carry their level; those of the libraries below it do not.
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


def exit_reason(returncode: int, words: LastErrors, *, was_ready: bool) -> str:
    """Why a process ended without being asked to, in words.

    `returncode` is negative for a signal. A start that fails tells the cause first and what comes
    of it afterwards; in a server that had been ready only the last error can belong to its end.
    """
    quote = words.last_error if was_ready else words.first_error
    if returncode >= 0:
        return f"exited with status {returncode}" + (f": {quote}" if quote else "")
    with suppress(ValueError):
        number = signal.Signals(-returncode)
        if number is signal.SIGKILL:
            return "crashed (SIGKILL), killed by someone or by the kernel because memory ran out"
        if number not in _CRASHES:
            return f"was ended by {number.name}"
        return f"crashed ({number.name})" + (f": {quote}" if quote else "")
    return f"was killed by signal {-returncode}"
