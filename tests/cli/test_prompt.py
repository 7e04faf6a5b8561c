"""The prompt of `magictl run`, at a terminal: Ctrl-C is heard at every moment of it."""

import fcntl
import os
import pty
import select
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.deadlines import DEADLINE_S

MAGICTL = Path(sys.executable).with_name("magictl")
SOURCE = Path(__file__).parents[1] / "support" / "late_select.c"
PROMPT = b">>> "


class Terminal:
    """A person in front of one program."""

    def __init__(self, screen: int) -> None:
        self._screen = screen
        self.seen = b""

    def press(self, keys: bytes) -> None:
        os.write(self._screen, keys)

    def read(self) -> bytes:
        """What comes next; b"" once the program has ended."""
        assert select.select([self._screen], [], [], DEADLINE_S)[0], f"nothing behind {self.seen!r}"
        try:
            return os.read(self._screen, 4096)
        except OSError:  # how Linux says that nobody is at the other end any more
            return b""

    def wait_prompts(self, count: int) -> None:
        while self.seen.count(PROMPT) < count:
            new = self.read()
            assert new, f"it ended: {self.seen!r}"
            self.seen += new


@contextmanager
def conversation(preload: Path | None = None) -> Iterator[tuple[Terminal, subprocess.Popen[bytes]]]:
    """With a model, which is not asked: no magid is there."""
    screen, end = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "MAGI_URL": "http://127.0.0.1:9", "TERM": "dumb"}
    if preload is not None:
        environment["LD_PRELOAD"] = str(preload)
    process = subprocess.Popen(
        [MAGICTL, "run", "demo"],
        stdin=end,
        stdout=end,
        stderr=end,
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(end)
    try:
        yield Terminal(screen), process
    finally:
        process.kill()
        process.wait()
        os.close(screen)


@pytest.fixture(scope="module")
def late_select(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Readline shows its prompt, and waits for a key some time later."""
    library = tmp_path_factory.mktemp("late") / "late_select.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, SOURCE], check=True)
    return library


@pytest.mark.slow  # it takes a C compiler
def test_an_interrupt_right_behind_a_fresh_prompt(late_select: Path) -> None:
    """It comes before the wait for a key has begun, and no key comes."""
    with conversation(late_select) as (terminal, process):
        for count in (1, 2, 3):
            terminal.wait_prompts(count)
            terminal.press(b"\x03")
        terminal.wait_prompts(4)
        terminal.press(b"\x04")
        assert process.wait(DEADLINE_S) == 0


def test_interrupts_while_a_line_is_typed() -> None:
    """What was typed is dropped; the end of the input ends it well."""
    with conversation() as (terminal, process):
        terminal.wait_prompts(1)
        terminal.press(b"never sent\x03")
        terminal.wait_prompts(2)
        terminal.press(b"\r")
        terminal.wait_prompts(3)
        terminal.press(b"\x04")
        assert process.wait(DEADLINE_S) == 0
        assert b"cannot" not in terminal.seen
