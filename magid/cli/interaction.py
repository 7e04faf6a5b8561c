"""Questions to the user, editing a text, deadlines, and progress on a terminal.

`edited` saves only a valid text, as visudo and systemctl edit do; `within` bounds the time that
an action may take.
"""

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from magid.cli.client import TIMED_OUT, Client, Refused
from magid.cli.errors import report
from magid.cli.output import plain


def confirmed(what: str, *, yes: bool) -> None:
    """Returns if the user confirms. Raises Refused if not, or if stdin is not a terminal."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise Refused(
            f"cannot {what}: standard input is not a terminal\ntry: the same with --yes", 2
        )
    if not agrees(f"{what[:1].upper()}{what[1:]}?"):
        raise Refused(f"cannot {what}: you answered no")


def agrees(question: str) -> bool:
    """Asks the question. Anything but a yes is a no; so is the end of the input."""
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


LONGEST_WAIT_S = 3600.0  # of the API
LONGEST_S = 1e8  # three years: the limit of the timer


UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}


def seconds(text: str) -> float:
    """Parses an option's value: 30, 30s, 5m, 1h30m. argparse shows the error to the user."""
    parts = re.findall(r"([0-9]*\.?[0-9]+)(ms|min|[smhd])", text)
    try:
        if parts and "".join(map("".join, parts)) == text:
            value = sum(float(number) * UNITS_S[unit] for number, unit in parts)
        else:
            value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= LONGEST_S:
        raise argparse.ArgumentTypeError(f"{text!r} should be a time above 0, as 30, 30s or 5m")
    return value


def wait_seconds(text: str) -> float:
    """Parses a time as `seconds` does, of up to an hour: magid waits no longer for a server."""
    value = seconds(text)
    if value > LONGEST_WAIT_S:
        raise argparse.ArgumentTypeError(f"{text!r} should be 1h at most")
    return value


@contextmanager
def within(limit_s: float | None, message: str) -> Iterator[None]:
    """Raises Refused with `message` after `limit_s`; None: no limit.

    Uses a signal, because it must end reads, writes and connects alike; main thread only. May be
    nested: the outer limit continues after the inner one.
    """
    if limit_s is None:
        yield
        return

    def over(*_: object) -> None:
        raise Refused(message, TIMED_OUT)

    before = signal.signal(signal.SIGALRM, over)
    rest, _ = signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, rest)
        signal.signal(signal.SIGALRM, before)


EDITORS = ("editor", "nano", "vim", "vi")  # in the order of systemctl edit


def edited(text: str, name: str, save: Callable[[str], Any]) -> Any:
    """Opens the text in an editor and returns the result of `save`; None if it is unchanged.

    `save` raises Refused for an invalid text: the user sees why and may edit again. If the user
    declines, or stdin is not a terminal, the text stays in a file that the error names.
    """

    folder = tempfile.mkdtemp(prefix="magictl-")
    path = os.path.join(folder, name)  # noqa: PTH118  # saves an import
    _write(path, text)
    keep = False
    try:
        while True:
            _edit(path)
            with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123
                now = file.read()
            if now == text:
                return None
            try:
                return save(now)
            except Refused as error:
                report(None, error)
                if not sys.stdin.isatty() or not agrees("Edit it again?"):
                    keep = True
                    raise Refused(f"cannot save it as it is: your text is in {path}") from None
    finally:
        if not keep:
            os.unlink(path)  # noqa: PTH108
            os.rmdir(folder)  # noqa: PTH106


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write(text)


def _edit(path: str) -> None:
    """Runs the editor until it ends. Raises Refused if there is none, or it failed."""

    chosen = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    command = shlex.split(chosen) if chosen else [next(filter(shutil.which, EDITORS), "")]
    if not command[0]:
        raise Refused("cannot edit: there is no editor\ntry: EDITOR=PROGRAM, or apt install nano")
    try:
        status = subprocess.run([*command, path], check=False).returncode
    except OSError as error:
        raise Refused(f"cannot run the editor {command[0]!r}: {error.strerror}") from None
    if status:
        raise Refused(f"cannot save: {command[0]} ended with status {status}; nothing was changed")


WIDTH = 24
TICK_S = 0.1
STEPS = {"stopped": 0.0, "backoff": 0.05, "starting": 0.15, "loading": 0.3, "ready": 1.0}
HALF_S = 20.0  # the bar of a load covers half of the rest in this time, as its end is unknown


class Progress:
    """Shows the model's state while the block runs; shows nothing if stderr is no terminal."""

    def __init__(self, client: Client, model: str, *, wanted: bool = True) -> None:
        self._client = client
        self._model = model
        self._servers: dict[int, Any] = {}
        self._done = threading.Event()
        is_shown = wanted and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._threads = [
            threading.Thread(target=target, daemon=True)
            for target in (self._listen, self._paint)
            if is_shown
        ]

    def __enter__(self) -> "Progress":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        for thread in self._threads[1:]:  # not the listener, which may block: it is a daemon thread
            thread.join()

    def _listen(self) -> None:
        try:
            for kind, data, _ in self._client.stream("/api/events"):
                if self._done.is_set():
                    return
                servers = data["servers"]["servers"] if kind == "snapshot" else []
                for server in [data["server"]] if kind == "server" else servers:
                    if server["modelId"] == self._model:
                        self._servers[server["port"]] = server
        except Refused:
            return  # the request that waits for the answer reports the error

    def _paint(self) -> None:
        began, erase = time.monotonic(), ""
        while not self._done.wait(TICK_S):
            erase = "\r\x1b[K"
            line = bar(self._model, list(self._servers.values()), time.monotonic() - began)
            sys.stderr.write(f"{erase}{line}")
            sys.stderr.flush()
        sys.stderr.write(erase)
        sys.stderr.flush()


def bar(model: str, servers: list[Any], seconds: float) -> str:
    """Returns the line to show after `seconds`. Pure."""
    if not servers:
        return f"{plain(model)}: requested, {seconds:.0f} s"
    share = sum(_share(server["state"], seconds) for server in servers) / len(servers)
    filled = int(share * WIDTH)
    slowest = min(servers, key=lambda server: STEPS.get(server["state"], 0.0))
    reason = f", {slowest['stateReason']}" if slowest["stateReason"] else ""
    drawn = "#" * filled + "." * (WIDTH - filled)
    return f"[{drawn}] {plain(model)}: {slowest['state']}{plain(reason)}, {seconds:.0f} s"


def _share(state: str, seconds: float) -> float:
    done = STEPS.get(state, 0.0)
    if state != "loading":
        return done
    rest: float = 0.5 ** (seconds / HALF_S)
    return done + (0.95 - done) * (1 - rest)
