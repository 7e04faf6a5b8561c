"""The launcher's words: what is meant arrives as it was, anything else is InvalidInput."""

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magid.errors import InvalidInput
from magid.launcher.download_request import DownloadRequest
from magid.launcher.protocol import (
    MAX_LINE_BYTES,
    DevicesRequest,
    ForgetRequest,
    LauncherReply,
    Ping,
    PredictRequest,
    Request,
    StartRequest,
    StopRequest,
    output_in,
    output_reply,
    parse_reply,
    parse_request,
    reply_line,
    request_line,
)
from magid.library.source import ModelSource
from magid.library.transfer_command import MOST_CHECKED
from magid.llama.short_runs import MAX_BYTES
from magid.llama.spec import ServerSpec
from tests.support.values import FULL_SPEC, PLACEMENT

REQUESTS: list[Request] = [
    StartRequest(FULL_SPEC, "production", frozenset({"--metrics", "-ngl"})),
    StartRequest(ServerSpec("m", 0, 1024, "::1", "/m.gguf"), None, frozenset()),
    StopRequest(8080),
    ForgetRequest(65_535),
    Ping(),
    DevicesRequest(),
    DevicesRequest("vulkan"),
    PredictRequest(FULL_SPEC, frozenset({"--fit", "-lv"})),
    StartRequest(FULL_SPEC, None, frozenset(), PLACEMENT),
    PredictRequest(FULL_SPEC, frozenset(), PLACEMENT, for_start=True),
    DownloadRequest("run", ModelSource("org/Repo", "v1", "Q4_K_M", draft=True)),
    DownloadRequest("remove", ModelSource("org/Repo", file="a/b.gguf")),
]


def body(**changes: Any) -> dict[str, Any]:
    """A good start request with something else in it."""
    good: dict[str, Any] = {
        "verb": "start",
        "spec": asdict(FULL_SPEC),
        "profile": None,
        "flags": [],
    }
    return good | {"placement": None} | changes


def placed(**changes: Any) -> dict[str, Any]:
    return body(placement=asdict(PLACEMENT) | changes)


def spec(**changes: Any) -> dict[str, Any]:
    return body(spec=asdict(FULL_SPEC) | changes)


def line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda one: type(one).__name__)
def test_requests_arrive(request_: Request) -> None:
    assert parse_request(request_line(request_)) == request_


@given(st.binary(max_size=MAX_BYTES))
def test_the_output_of_a_device_list_arrives(output: bytes) -> None:
    arrived = parse_reply(reply_line(output_reply(output)))
    assert output_in(arrived.details) == output.decode(errors="replace")


def test_the_longest_output_fits_into_a_line() -> None:
    assert len(reply_line(output_reply(b"[" * MAX_BYTES))) <= MAX_LINE_BYTES


@pytest.mark.parametrize("details", [{}, {"output": "%"}, {"output": 5}, {"output": "é"}], ids=repr)
def test_a_reply_without_output(details: dict[str, str | int]) -> None:
    with pytest.raises(InvalidInput, match="output"):
        output_in(details)


def test_the_hash_of_a_spec_arrives() -> None:
    arrived = parse_request(request_line(StartRequest(FULL_SPEC, None, frozenset())))
    assert isinstance(arrived, StartRequest)
    assert arrived.spec.hash == FULL_SPEC.hash


@pytest.mark.parametrize(
    "reply",
    [
        LauncherReply(),
        LauncherReply(details={"units": 3}),
        LauncherReply("NotAllowed", "cannot use it", {"field": "port"}),
    ],
    ids=repr,
)
def test_replies_arrive(reply: LauncherReply) -> None:
    assert parse_reply(reply_line(reply)) == reply


def test_a_request_that_is_too_long_is_not_sent() -> None:
    long = replace(FULL_SPEC, extra_args=("x" * MAX_LINE_BYTES,))
    with pytest.raises(InvalidInput, match="cannot use request"):
        request_line(StartRequest(long, None, frozenset()))


BAD_PORTS: tuple[object, ...] = (
    *("8080", "ssh.service", 8080.0, True, None, [8080], {}, -1, 0, 22, 1023, 65_536),
    *(10**30, "8080.service/../ssh", "8080\n"),
)
BAD_FIELDS: dict[str, tuple[object, ...]] = {
    "model_id": ("", "A", "a b", "a/b", "%i", "é", "x" * 129, None, 1, "a\n", "a\x00"),
    "instance": (-1, 16, "0", None, 1.0, False),
    "port": (80, 65_536, "8080", None),
    "host": ("", "a b", "/run/x.sock", "x" * 254, "127.0.0.1\n--tools", None),
    "model_path": (
        *("", "x.gguf", "../x.gguf", "/models/../etc/shadow", "/models/./x", "//x"),
        *("/models//x", "/models/x/", "/x\x00y", "/x\ny", "/\ud800", "/" + "x" * 5000),
        *(None, 1, ["/x"]),
    ),
    "mmproj_path": ("", "x", "/a/../b", 1),
    "kind": ("", "shell", None, ["chat"], {}),
    "n_gpu_layers": (-2, 10_000, "all", 1.5, True),
    "ctx_size": (-1, 2**24 + 1, "4096"),
    "n_threads": (0, 1025),
    "batch_size": (0, 2**20 + 1),
    "parallel": (0, 1025),
    "extra_args": ("--temp", None, [1], [""], ["a\nb"], ["é"], ["x"] * 65, ["x" * 4097]),
    "memory_max": (0, 2**26 - 1, 2**50 + 1, "1G", True),
    "cpu_quota": (0, 102_401, 1.5),
    "offload": ("", "none", None, 1),
    "stamp": (None, 1, "a b", "x" * 4097, "'"),
}
PLACE = {"name": "CUDA0", "id": "CUDA0", "need": 1}
BAD_PLACES: dict[str, tuple[object, ...]] = {
    "devices": (
        *(None, "CUDA0", {}, [None], ["CUDA0"], [{}], [PLACE] * 33, [PLACE | {"argv": "x"}]),
        *([PLACE | {"name": name}] for name in ("", "CUDA 0", "--tools", "a\n", "é", 0, None)),
        *([PLACE | {"id": name}] for name in ("", "a b", "x" * 65, "a,b", "a=b", None)),
        *([PLACE | {"need": need}] for need in (-1, 2**60 + 1, "1", None, True)),
    ),
    "host": (-1, None, "1", 1.0),
    "extent": ("", "most", None, ["all"]),
    "source": ("", "guess", None),
    "pins_devices": (None, 0, 1, "yes"),
    "n_gpu_layers": (-1, 10_000, "all", True),
    "ctx_size": (0, 2**24 + 1, "4096"),
    "fit_target": (-1, "1", True, 2**30 + 1),
    "cache_ram": (-1, "1", True, 2**30 + 1),
    "host_later": (-1, "1", True, 2**60 + 1),
    "shares": (None, [-1], ["1"], [1.0], [0] * 33),
}
HOSTILE: list[tuple[str, bytes]] = [
    ("request", b""),
    ("request", b"\n"),
    ("request", b"null\n"),
    ("request", b"[]\n"),
    ("request", b'"start"\n'),
    ("request", b"{}"),  # no newline
    ("request", b'{"verb":"ping"} {"verb":"ping"}\n'),
    ("request", b'{"verb":"ping","verb":"ping"}\n'),
    ("request", b'{"verb":"ping","port":NaN}\n'),
    ("request", b'{"verb":"ping","port":-Infinity}\n'),
    ("request", b'{"verb":"ping"}\xff\n'),
    ("request", '{"verb":"ping"}'.encode("utf-16") + b"\n"),
    ("request", b"[" * 60_000 + b"\n"),
    ("request", b'{"a":' * 5_000 + b"\n"),
    ("request", b'{"verb":"ping","x":' + b"9" * 5_000 + b"}\n"),
    ("request", b" " * MAX_LINE_BYTES + b"\n"),
    ("request", line({"verb": "ping", "port": 8080})),
    ("request", line({"verb": "stop"})),
    ("request", line({"verb": "stop", "port": 8080, "unit": "ssh.service"})),
    ("request", line({"verb": "devices"})),
    *(("engine", line({"verb": "devices", "engine": x})) for x in ("../x", "/x", "", 1, "a\n")),
    ("verb", line({})),
    ("verb", line({"verb": None})),
    ("verb", line({"verb": "restart", "port": 8080})),
    ("verb", line({"verb": ["stop"], "port": 8080})),
    ("verb", line({"verb": {}, "port": 8080})),
    *(("port", line({"verb": "stop", "port": port})) for port in BAD_PORTS),
    ("request", line(body(argv=["/bin/sh"]))),
    ("request", line(body(properties=[["User", "root"]]))),
    ("request", line({"verb": "start", "spec": asdict(FULL_SPEC), "flags": []})),
    ("spec", line(body(spec=None))),
    ("spec", line(body(spec=[]))),
    ("spec", line(body(spec={}))),
    ("spec", line(spec(User="root"))),
    ("spec", line(spec(environment={"LD_PRELOAD": "/tmp/x.so"}))),
    ("spec", line(spec(program="/bin/sh"))),
    ("profile", line(body(profile=""))),
    ("profile", line(body(profile="../x"))),
    ("profile", line(body(profile="a\nMAGI_SPEC=0"))),
    ("profile", line(body(profile="x" * 64))),
    ("flags", line(body(flags="--metrics"))),
    ("flags", line(body(flags=["--x"] * 2000))),
    ("flags[0]", line(body(flags=["x"]))),
    ("flags[0]", line(body(flags=["--x=y"]))),
    ("flags[0]", line(body(flags=[1]))),
    *(("placement", line(placed(**{k: v}))) for k, values in BAD_PLACES.items() for v in values),
    ("placement", line(body(placement={}))),
    ("placement", line(body(placement="none"))),
    ("placement", line(placed(argv="--tools"))),
    *(
        (f"spec.{name}", line(spec(**{name: value})))
        for name, values in BAD_FIELDS.items()
        for value in values
    ),
]


@pytest.mark.parametrize(("field", "data"), HOSTILE, ids=lambda value: repr(value)[:70])
def test_hostile_requests(field: str, data: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"^cannot use ") as caught:
        parse_request(data)
    assert str(caught.value.details["field"]).startswith(field)


@pytest.mark.parametrize(
    "data",
    [b"", b"{}\n", b'{"ok":1}\n', b'{"ok":false}\n', b'{"ok":false,"error":"","message":""}\n'],
)
def test_hostile_replies(data: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"^cannot use reply"):
        parse_reply(data)


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    _meant_or_refused(data + b"\n")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(st.sampled_from(sorted(body())), JSON)
def test_any_value_in_any_place(name: str, value: Any) -> None:
    _meant_or_refused(line(body(**{name: value})))


@given(st.sampled_from(sorted(asdict(FULL_SPEC))), JSON)
def test_any_value_in_any_field(name: str, value: Any) -> None:
    _meant_or_refused(line(spec(**{name: value})))


def _meant_or_refused(data: bytes) -> None:
    try:
        request = parse_request(data)
    except InvalidInput:
        return
    assert parse_request(request_line(request)) == request


@pytest.mark.parametrize(
    ("action", "changes"),
    [
        ("start", {}),
        ("run", {"repository": "org/../etc"}),
        ("run", {"repository": "--help/x"}),
        ("run", {"file": "../../etc/cron.d/x"}),
        ("run", {"file": "a.gguf", "tag": "Q4"}),
        ("run", {"revision": "a b"}),
        ("run", {"draft": "yes"}),
        ("run", {"tag": None}),
        ("run", {"endpoint": "http://example.com"}),
    ],
)
def test_downloads_that_are_refused(action: str, changes: dict[str, Any]) -> None:
    source = asdict(ModelSource("org/Repo")) | changes
    line = json.dumps({"verb": "download", "action": action, "source": source}).encode() + b"\n"
    with pytest.raises(InvalidInput):
        parse_request(line)


FILE = ModelSource("org/Other", "v2", file="a b.gguf")


def test_a_question_about_several_models() -> None:
    request = DownloadRequest("check", ModelSource("org/Repo"), (FILE, FILE))
    assert parse_request(request_line(request)) == request


def test_a_question_about_as_many_files_with_brackets_as_one_may_have() -> None:
    files = [ModelSource(f"org/R{n}", file=f"[a]/x[Q4][{n}].gguf") for n in range(MOST_CHECKED)]
    request = DownloadRequest("check", files[0], tuple(files[1:]))
    assert parse_request(request_line(request)) == request


@pytest.mark.parametrize("before", [rb'"\\"', rb'"\\\""', b'""', b'"a"'], ids=repr)
def test_brackets_behind_a_string_count(before: bytes) -> None:
    with pytest.raises(InvalidInput, match="nested too deeply"):
        parse_request(b"[" + before + b"," + b"[" * 500 + b"\n")


@pytest.mark.parametrize(
    ("action", "more"),
    [
        ("run", [asdict(FILE)]),
        ("list", [asdict(FILE)]),
        ("check", asdict(FILE)),
        ("check", ["org/Repo"]),
        ("check", [asdict(FILE) | {"file": "../x"}]),
        ("check", [asdict(FILE) | {"file": "", "tag": "Q8_0"}]),
        ("check", [asdict(FILE) | {"draft": True}]),
        ("check", [asdict(FILE)] * MOST_CHECKED),
    ],
)
def test_questions_about_several_models_that_are_refused(action: str, more: object) -> None:
    body = {"verb": "download", "action": action, "source": asdict(FILE), "more": more}
    with pytest.raises(InvalidInput):
        parse_request(json.dumps(body).encode() + b"\n")
