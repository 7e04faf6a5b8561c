"""A daemon with servers that were taken over beside a calm one, and the judge of its answers."""

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from magid.http.limits import MAX_SILENT_BYTES
from tests.support import fleets, ggufs
from tests.support.deadlines import DEADLINE_S
from tests.support.hostile_llama import HOSTILE, PRINTED, Ends, install
from tests.support.rest import Parts
from tests.support.running import Running

COUNT = 4  # hostile servers: one that failed is left out for a second
SMALL = fleets.SMALL
PROFILE = "name: Test\nenabled_models: ['*']\n"
# Bytes that a client takes of an answer without end: enough that magid ends what it bounds first.
TAKEN = 2 * MAX_SILENT_BYTES
# Every line of a head that may be on an answer of the gateway.
HARMLESS = {
    "content-type", "content-length", "transfer-encoding", "connection", "retry-after",
    "x-request-id", "request-id",
    "x-magi-model", "x-magi-server", "x-magi-route", "x-magi-draft-model",
    "x-content-type-options", "content-security-policy", "cache-control", "x-accel-buffering",
}  # fmt: skip


def write_models(models: Path) -> None:
    fleets.write_small(models)
    for number in range(COUNT):
        ggufs.write_chat_model(
            models / f"Hostile{number}-F16.gguf", name=f"Hostile{number}", quantization="F16"
        )


def model(number: int) -> str:
    return f"hostile{number % COUNT}_0p0b_f16_balanced"


@dataclass(frozen=True, slots=True)
class Taken:
    """A daemon and the file that tells its servers what to do when magid itself asks."""

    magid: Running
    orders: Path

    def order(self, path: str, name: str) -> None:
        self.orders.write_text(f"{path} {name}\n")

    def forget(self) -> None:
        self.orders.unlink(missing_ok=True)

    @property
    def pid(self) -> int:
        assert self.magid.process is not None
        return self.magid.process.pid


@contextmanager
def taken_over(parts: Parts, folder: Path, profile: str = PROFILE) -> Iterator[Taken]:
    """Ready; ended behind the block."""
    orders = folder / "orders"
    program = install(folder / "bin", parts.llama_server, orders)
    given = replace(parts, llama_server=program)
    with fleets.fleet(given, folder / "magid", write_models, profile=profile) as magid:
        yield Taken(magid, orders)


# -- asking ----------------------------------------------------------------------------------


def request(path: str, name: str, model_id: str) -> bytes:
    """For a stream where events are to come."""
    is_stream = name in HOSTILE and HOSTILE[name].is_stream
    text = f"misbehave:{name}" if name else "Hello"
    messages = [{"role": "user", "content": text}]
    body = json.dumps(
        {"model": model_id, "max_tokens": 8, "stream": is_stream, "messages": messages}
    ).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def answer_to(magid: Running, data: bytes, most: int = TAKEN) -> bytes:
    """What comes: to the answer's end, to that of the connection, or so many bytes."""
    received = bytearray()
    with socket.create_connection(("127.0.0.1", magid.port), timeout=DEADLINE_S) as connection:
        connection.sendall(data)
        while len(received) < most and not Answer.of(bytes(received)).is_whole:
            with suppress(ConnectionResetError):
                if more := connection.recv(65_536):
                    received += more
                    continue
            break
    return bytes(received)


@dataclass(frozen=True, slots=True)
class Answer:
    """As much of it as there is."""

    status: int
    fields: dict[str, str]  # names in lower case
    body: bytes
    is_whole: bool

    @classmethod
    def of(cls, raw: bytes) -> "Answer":
        head, found, body = raw.partition(b"\r\n\r\n")
        if not found:
            return cls(0, {}, raw, is_whole=False)
        start, *lines = head.decode("latin-1").split("\r\n")
        fields = {n.lower(): v for n, _, v in (line.partition(": ") for line in lines)}
        status = int(start.split(" ")[1])
        if "content-length" in fields:
            is_whole = len(body) >= int(fields["content-length"])
        elif "transfer-encoding" in fields:
            is_whole = body.endswith(b"\r\n0\r\n\r\n") or body == b"0\r\n\r\n"
        else:
            is_whole = status == 204
        return cls(status, fields, body, is_whole)

    @property
    def is_error(self) -> bool:
        """One of magid's own, whole."""
        with suppress(ValueError, TypeError, KeyError, RecursionError):
            error = json.loads(self.body)["error"]
            return self.is_whole and error["message"].startswith("cannot ")
        return False

    @property
    def ends_with_error(self) -> bool:
        """Events that have begun end with an error of magid's."""
        last = self.body[-2000:].rpartition(b"data: ")[2]
        return self.is_whole and b'"message":"cannot ' in last


def problem(name: str, raw: bytes) -> str:
    """What is wrong with this answer to a misbehaviour of this name; empty: nothing."""
    ends = HOSTILE[name].ends if name in HOSTILE else Ends.WHOLE
    answer = Answer.of(raw)
    shown = f"{name}: {ends} was expected, not {raw[:300]!r} ... {raw[-200:]!r} ({len(raw)} bytes)"
    if answer.fields.keys() - HARMLESS:
        return f"{name}: it has {sorted(answer.fields.keys() - HARMLESS)}"
    if answer.status and not is_harmless(answer):
        return f"{name}: it could act in magid's origin: {answer.fields}"
    if b'"from":"another"' in raw:
        return f"{name}: it has the answer to another request"
    if ends is Ends.FAILED:
        is_cut = answer.status > 0 and not answer.is_whole and len(raw) < TAKEN
        fine = answer.is_error or answer.ends_with_error or is_cut
        return "" if fine else shown
    if ends is Ends.WHOLE:
        return "" if answer.is_whole and not answer.is_error else shown
    return "" if len(raw) >= TAKEN and not answer.is_whole else shown


def is_harmless(answer: Answer) -> bool:
    kind = answer.fields.get("content-type", "")
    policy = answer.fields.get("content-security-policy", "")
    return (
        kind.partition(";")[0] in ("application/json", "text/event-stream", "text/plain", "")
        and answer.fields.get("x-content-type-options") == "nosniff"
        and "default-src 'none'" in policy
        and "sandbox" in policy
    )


def wait_sound(magid: Running, model_id: str) -> None:
    """Until it gets requests again, and answers one well."""
    deadline = time.monotonic() + DEADLINE_S
    while Answer.of(answer_to(magid, request("/v1/chat/completions", "", model_id))).status != 200:
        assert time.monotonic() < deadline, f"{model_id} gets no requests any more"
        time.sleep(0.1)  # as a client that was told Retry-After


def misbehave(magid: Running, name: str, model_id: str) -> str:
    """One request to which its server misbehaves so; what is wrong with the answer."""
    path = HOSTILE[name].path if name in HOSTILE else "/v1/chat/completions"
    return problem(name, answer_to(magid, request(path, name, model_id)))


# -- memory ----------------------------------------------------------------------------------


def kib(pid: int, name: str) -> int:
    """VmRSS, or VmHWM: the most that it was since `forget_peak`."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1])


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


NAMES = [*HOSTILE, *PRINTED]
