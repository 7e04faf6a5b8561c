"""magid's own log: what goes to the journal, and how, what a terminal gets, and what is kept."""

import asyncio
import io
import logging
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from magid.log.buffer import LogRing
from magid.log.events import Event, about
from magid.log.setup import (
    JournalHandler,
    JournalLog,
    PrefixHandler,
    RingHandler,
    RingLog,
    TerminalHandler,
    harmless,
)
from magid.systemd.journal import Journal
from magid.systemd.journal_socket import JournalSocket, encoded
from tests.support.deadlines import PATIENCE_S
from tests.support.fake_journal import FakeJournal

# What a file name, a client or a model can bring into a line of a log.
HOSTILE = {
    "\x1b[2J\x1b]0;owned\x07": "\\x1b[2J\\x1b]0;owned\\x07",
    "\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\": (
        "\\x1b]8;;http://evil\\x1b\\click\\x1b]8;;\\x1b\\"
    ),
    "safe\rroot# rm": "safe\\rroot# rm",
    "\u202egnp.exe": "\\u202egnp.exe",
    "\u2066a\u2069\u200f": "\\u2066a\\u2069\\u200f",
    "\x9b31m": "\\x9b31m",
    "a\x00b\x08\x7f": "a\\x00b\\x08\\x7f",
    "\u2028\u2029": "\\u2028\\u2029",
    "\ud800": "\\ud800",
    "Größe 模型 🙂": "Größe 模型 🙂",
    "two\nlines\tand a tab": "two\nlines\tand a tab",
}


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[socket.socket]:
    """A journal's socket, at `tmp_path/socket`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "socket"))
        listening.settimeout(PATIENCE_S)
        yield listening


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    logger = logging.getLogger("tests.own-log")
    logger.propagate = False
    logger.setLevel("DEBUG")
    yield logger
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = True


def parsed(data: bytes) -> dict[str, str]:
    """By the protocol's own rules."""
    fields = {}
    while data:
        line, _, data = data.partition(b"\n")
        name, sign, value = line.partition(b"=")
        if not sign:
            (size,) = struct.unpack("<Q", data[:8])
            value, data = data[8 : 8 + size], data[8 + size + 1 :]
        fields[name.decode()] = value.decode()
    return fields


def received(receiver: socket.socket) -> dict[str, str]:
    """The next entry, sent as a datagram or as a file."""
    data, files, _flags, _address = socket.recv_fds(receiver, 1 << 20, 1)
    if files:
        assert data == b""
        with pytest.raises(PermissionError):
            os.write(files[0], b"x")  # sealed: journald refuses what can still be changed
        with os.fdopen(files[0], "rb") as file:
            file.seek(0)
            data = file.read()
    return parsed(data)


def to_journal(tmp_path: Path) -> JournalHandler:
    return Strict(JournalSocket(str(tmp_path / "socket")), PrefixHandler(io.StringIO()))


class Strict(JournalHandler):
    """Raises what it would print."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - its name in logging
        raise


def test_an_entry_has_its_fields(
    tmp_path: Path, receiver: socket.socket, log: logging.Logger
) -> None:
    log.addHandler(to_journal(tmp_path))
    log.warning(
        "%s is lost", "it",
        extra=about(Event.SERVER_FAILED, model="m", port=8080, request="r", profile="p", error="E"),
    )  # fmt: skip
    entry = received(receiver)
    line = entry.pop("CODE_LINE")
    assert int(line) > 0
    assert Path(entry.pop("CODE_FILE")).name == Path(__file__).name
    assert entry == {
        "MESSAGE": "it is lost",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "magid",
        "LOGGER": "tests.own-log",
        "CODE_FUNC": "test_an_entry_has_its_fields",
        "MESSAGE_ID": Event.SERVER_FAILED.value,
        "MAGI_EVENT": "server_failed",
        "MAGI_MODEL": "m",
        "MAGI_UNIT": "llama-server@8080.service",
        "MAGI_PORT": "8080",
        "MAGI_REQUEST_ID": "r",
        "MAGI_PROFILE": "p",
        "MAGI_ERROR": "E",
    }


def test_levels(tmp_path: Path, receiver: socket.socket, log: logging.Logger) -> None:
    log.addHandler(to_journal(tmp_path))
    for level in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
        log.log(logging.getLevelName(level), level)
    assert [received(receiver)["PRIORITY"] for _ in range(5)] == ["7", "6", "4", "3", "2"]


def test_no_text_makes_a_field_or_a_second_entry(
    tmp_path: Path, receiver: socket.socket, log: logging.Logger
) -> None:
    log.addHandler(to_journal(tmp_path))
    log.info("a\nPRIORITY=0\n_UID=0\n")
    log.info("last", extra=about(Event.SCANNED, model="m\nMESSAGE_ID=forged"))
    entry = received(receiver)
    assert (entry["MESSAGE"], entry["PRIORITY"]) == ("a\nPRIORITY=0\n_UID=0\n", "6")
    assert "_UID" not in entry
    entry = received(receiver)
    assert (entry["MESSAGE"], entry["MESSAGE_ID"]) == ("last", Event.SCANNED.value)
    assert entry["MAGI_MODEL"] == "m\nMESSAGE_ID=forged"


def test_a_trace_is_one_entry_and_a_defect(
    tmp_path: Path, receiver: socket.socket, log: logging.Logger
) -> None:
    log.addHandler(to_journal(tmp_path))
    try:
        raise ValueError("\x1b[2J")
    except ValueError:
        log.exception("it failed")
    entry = received(receiver)
    assert entry["MESSAGE"].startswith("it failed\nTraceback (most recent call last):\n")
    assert entry["MESSAGE"].endswith("ValueError: \\x1b[2J")
    assert (entry["MESSAGE_ID"], entry["PRIORITY"]) == (Event.DEFECT.value, "3")


def test_an_entry_too_big_for_a_datagram_goes_as_a_file(
    tmp_path: Path, receiver: socket.socket, log: logging.Logger
) -> None:
    log.addHandler(to_journal(tmp_path))
    text = "x" * 20_000_000
    log.info(text)
    assert received(receiver)["MESSAGE"] == text


def test_a_journal_that_takes_nothing_is_not_waited_for(
    tmp_path: Path, receiver: socket.socket, log: logging.Logger
) -> None:
    log.addHandler(to_journal(tmp_path))
    for number in range(5000):
        log.info("entry %d", number)
    receiver.setblocking(False)
    seen = []
    try:
        while True:
            seen.append(received(receiver)["MESSAGE"])
    except BlockingIOError:
        pass
    assert seen == [f"entry {number}" for number in range(len(seen))]
    assert 0 < len(seen) < 5000
    log.info("again")
    assert received(receiver)["MESSAGE"].startswith(f"{5000 - len(seen)} log entries are missing")
    assert received(receiver)["MESSAGE"] == "again"


def test_without_a_journal_lines_with_their_level_go_to_stderr(
    tmp_path: Path, log: logging.Logger
) -> None:
    stream = io.StringIO()
    log.addHandler(JournalHandler(JournalSocket(str(tmp_path / "none")), PrefixHandler(stream)))
    log.error("one\ntwo \x1b[2J")
    log.debug("three")
    assert stream.getvalue() == "<3>one\n<3>two \\x1b[2J\n<7>three\n"


@pytest.mark.parametrize(("text", "shown"), HOSTILE.items())
def test_nothing_hostile_reaches_a_terminal_or_the_journal(
    text: str, shown: str, tmp_path: Path, receiver: socket.socket, log: logging.Logger
) -> None:
    assert harmless(text) == shown
    stream = io.StringIO()
    log.addHandler(TerminalHandler(stream))
    log.addHandler(to_journal(tmp_path))
    log.info("%s", text)
    assert stream.getvalue().endswith(f" INFO tests.own-log: {shown}\n")
    assert received(receiver)["MESSAGE"] == shown


def test_encoding() -> None:
    assert encoded({"A": "b", "C": "d\ne"}) == b"A=b\nC\n\x03\0\0\0\0\0\0\0d\ne\n"
    assert encoded({"A": "\ud800"}) == b"A=\\ud800\n"


# -- reading -----------------------------------------------------------------------------------


async def test_the_ring_keeps_what_threads_say(log: logging.Logger) -> None:
    ring = LogRing(capacity=3)
    own = RingLog(ring)
    log.addHandler(RingHandler(ring))
    log.info("from the loop", extra=about(Event.SCANNED, model="m"))
    async with asyncio.timeout(PATIENCE_S):
        (first,) = await own.last(10)
        thread = threading.Thread(target=log.warning, args=("from a thread",))
        thread.start()
        await own.wait(first.cursor)
        thread.join()
    lines = await own.last(10, first.cursor)
    assert [(line.text, line.fields) for line in lines] == [("from a thread", {"PRIORITY": "4"})]
    assert first.fields["MAGI_MODEL"] == "m"
    for number in range(5):
        log.info("%d", number)
    assert [line.text for line in await own.last(10)] == ["2", "3", "4"]


async def test_the_journal_of_magids_own_unit() -> None:
    fake = FakeJournal()
    own = JournalLog("magid.service", Journal(fake.open))
    fake.add("of another", _SYSTEMD_UNIT="other.service")
    fake.add("two\nlines", _SYSTEMD_UNIT="magid.service", PRIORITY="3", MAGI_MODEL="m", _X="y")
    (line,) = await own.last(10)
    assert (line.text, line.fields) == ("two\nlines", {"PRIORITY": "3", "MAGI_MODEL": "m"})
    async with asyncio.timeout(PATIENCE_S):
        waiting = asyncio.create_task(own.wait(line.cursor))
        fake.add("news", _SYSTEMD_UNIT="magid.service")
        await waiting
    assert [found.text for found in await own.last(10, line.cursor)] == ["news"]
