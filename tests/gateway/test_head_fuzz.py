"""Heads that nobody thought of, to both tables: each gets an answer, and none makes a defect."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support import rest
from tests.support.running import Running

pytestmark = pytest.mark.slow

# All that anything here reads, and what proxies add.
NAMES = """
Host Origin Referer Sec-Fetch-Site Authorization X-Api-Key Content-Length Transfer-Encoding
Content-Type Accept Accept-Encoding Connection Keep-Alive Upgrade Expect If-Match If-None-Match
Last-Event-ID Range X-Request-Id X-Conversation-Id X-Forwarded-For X-Forwarded-Host
X-Forwarded-Proto X-Forwarded-Port X-Scheme X-Real-IP Forwarded Via Cookie Anthropic-Version
OpenAI-Beta Traceparent TE Trailer Content-Encoding Access-Control-Request-Method Date
"""
PARTS = """
http:// https:// null [ ] [::1] [::1 [x] :99999999999 : @ / // % %00 %zz localhost 127.0.0.1
0x7f.1 bytes= 0- - -1 9999999999999999999999 1e999 nan chunked gzip , ; = " \' \\ * W/" Bearer
Basic magi_ magi_00000000_ for= proto= multipart/form-data;boundary= text/plain;charset=
;charset=nonsense charset*=utf-8''% q= \x80 \xff \xa0 \xc3\xa9 . .. a 0 websocket close 100-continue
"""
TARGETS = [
    "/livez", "/openapi.json", "/api/models/registry", "/api/events", "/api/logs", "/metrics",
    "/api/models/none", "/nothing", "/v1/models", "/v1/models/none", "/v1/nothing", "/props",
    "/slots", "/sd/prometheus", "/api/tokens", "/v1/chat/completions", "/api/models/rescan",
]  # fmt: skip
METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"]
QUERIES = ["lines", "limit", "wait", "model", "follow", "after", "grep", "since", "instance", "x"]

values = st.lists(st.sampled_from(PARTS.split()), max_size=4).map("".join) | st.text(
    st.characters(max_codepoint=255, exclude_characters="\r\n\x00"), max_size=40
)
long = st.sampled_from(["9" * 5000, "[" * 5000, "a" * 8000, "%" * 3000])
fields = st.lists(st.tuples(st.sampled_from(NAMES.split()), values | long), max_size=4)
queries = st.lists(st.tuples(st.sampled_from(QUERIES), values), max_size=2)


@pytest.fixture(scope="module")
def magid(parts: rest.Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Without a model: whatever is asked of it does nothing."""
    running = parts.daemon(tmp_path_factory.mktemp("fuzz"), "request_timeout: 1\n")
    with running, running.client:
        running.wait_ready()
        yield running
        log = running.log.read_text()
        assert "Traceback" not in log
        assert "ERROR" not in log


def target(path: str, arguments: list[tuple[str, str]]) -> str:
    """What does not belong into a target would be refused before anything reads it."""
    query = "&".join(f"{name}={value}" for name, value in arguments)
    plain = "".join(c if "!" <= c <= "~" and c != "#" else f"%{ord(c):02x}" for c in query)
    return f"{path}?{plain}" if plain else path


def first_line(port: int, raw: bytes) -> bytes:
    """Of the answer; some of them have no end."""
    with rest.connect(port) as connection:
        connection.sendall(raw)
        with connection.makefile("rb") as answer:
            return answer.readline()


@settings(
    max_examples=300, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(st.sampled_from(METHODS), st.sampled_from(TARGETS), fields, queries)
@example("GET", "/livez", [("Origin", "http://[")], [])
@example("GET", "/v1/models", [("Origin", "http://[")], [])
@example("GET", "/api/logs", [], [("lines", "9" * 5000)])
@example("POST", "/v1/chat/completions", [("Content-Length", "9" * 5000)], [])
def test_no_head_makes_a_defect(
    magid: Running,
    method: str,
    path: str,
    fields: list[tuple[str, str]],
    queries: list[tuple[str, str]],
) -> None:
    lines = [f"{method} {target(path, queries)} HTTP/1.1"]
    if random.Random(len(lines[0])).random() < 0.8 and "Host" not in dict(fields):
        lines.append("Host: localhost")
    lines += [f"{name}: {value}" for name, value in fields]
    raw = "\r\n".join([*lines, "", ""]).encode("latin-1")
    answer = first_line(magid.port, raw)
    assert answer.startswith(b"HTTP/1.1 "), (raw, answer)
    assert int(answer.split()[1]) not in (500, 0), (raw, answer)
