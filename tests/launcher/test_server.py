"""What the launcher makes of requests, without systemd: what it refuses, and how it answers.

The sentence these tests stand for: whoever has taken over magid can at most run llama-server with
legal options, on models below the model folders, in the box of `sandbox`.
"""

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from magid.config.settings import Config
from magid.errors import (
    CannotWrite,
    InvalidConfig,
    InvalidInput,
    MagidError,
    NotAllowed,
    ServerFailed,
)
from magid.launcher.keys import KeyRing
from magid.launcher.model_files import (
    MAX_PATHS_BYTES,
    MAX_SHARDS,
    Examiner,
    check_files,
    examine,
    real_roots,
    shards,
)
from magid.launcher.policy import authorize, covers, program_folders, read_config
from magid.launcher.protocol import (
    MAX_LINE_BYTES,
    LauncherReply,
    StartRequest,
    parse_reply,
    reply_line,
    request_line,
)
from magid.launcher.sandbox import unit_properties
from magid.launcher.server import MAX_CONNECTIONS, LauncherServer, refusal
from magid.launcher.transient_units import Units, seen_in
from magid.launcher.unit_request import CheckedFile
from magid.llama.spec import ServerSpec
from magid.systemd.bus import Bus, major
from tests.support.deadlines import PATIENCE_S
from tests.support.mounts import mounted

FLAGS = frozenset(
    {
        *("--api-key-file", "--metrics", "--no-ui", "--offline", "--cors-origins", "--mmproj"),
        *("--temp", "--ctx-size", "--embeddings", "--tools", "--log-file", "--model-draft"),
    }
)
VERSIONS = (252, 257, 262)


class House:
    """A folder with models, a program, and things that are none of a model's business."""

    def __init__(self, home: Path) -> None:
        self.models = home / "models"
        self.outside = home / "outside"
        self.models.mkdir()
        self.outside.mkdir()
        for folder in (self.models, self.outside):
            (folder / "a.gguf").write_bytes(b"GGUF")
        (self.models / "deep").mkdir()
        (self.models / "deep" / "b.gguf").write_bytes(b"GGUF")
        (self.models / "notes.txt").write_text("")
        (self.models / "folder.gguf").mkdir()
        (self.models / "link.gguf").symlink_to(self.outside / "a.gguf")
        (self.models / "within.gguf").symlink_to("a.gguf")
        (self.models / "away").symlink_to(self.outside)
        os.mkfifo(self.models / "pipe.gguf")
        for number in (1, 2):
            (self.models / f"s-0000{number}-of-00002.gguf").write_bytes(b"GGUF")
        (self.models / "t-00001-of-00002.gguf").write_bytes(b"GGUF")
        self.program = home / "bin" / "llama-server"
        self.program.parent.mkdir()
        self.program.write_text("#!/bin/sh\n")
        self.program.chmod(0o755)
        self.settings = Config(
            model_paths=(self.models,), llama_server_path=self.program, port_range=(8080, 8099)
        )

    def spec(self, **changes: Any) -> ServerSpec:
        spec = ServerSpec("demo", 0, 8080, "127.0.0.1", str(self.models / "a.gguf"))
        return replace(spec, **changes)

    def order(self, **changes: Any) -> StartRequest:
        return StartRequest(self.spec(**changes), None, FLAGS)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


# -- what may be asked for -------------------------------------------------------------------


def test_a_good_request(house: House) -> None:
    order = authorize(house.order(extra_args=("--temp", "0.5")), house.settings)
    status = (house.models / "a.gguf").stat()
    assert [(f.path, f.device, f.inode) for f in order.files] == [
        (str(house.models / "a.gguf"), status.st_dev, status.st_ino)
    ]
    assert order.argv[0] == str(house.program)
    assert "--api-key-file" in order.argv
    assert order.argv[-2:] == ("--temp", "0.5")
    assert order.roots == (str(house.models),)


@pytest.mark.parametrize(
    ("path", "files"),
    [
        ("deep/b.gguf", ["deep/b.gguf"]),
        (
            "s-00001-of-00002.gguf",
            ["s-00001-of-00002.gguf", "s-00002-of-00002.gguf"],
        ),
    ],
)
def test_good_files(house: House, path: str, files: list[str]) -> None:
    order = authorize(house.order(model_path=str(house.models / path)), house.settings)
    assert [file.path for file in order.files] == [str(house.models / name) for name in files]


BAD_PATHS: list[tuple[str, type[MagidError]]] = [
    ("{outside}/a.gguf", NotAllowed),
    ("/etc/passwd", NotAllowed),
    ("/etc/shadow.gguf", NotAllowed),
    ("/dev/mem", NotAllowed),
    ("/proc/self/root/etc/passwd", NotAllowed),
    ("{models}", NotAllowed),
    ("{models}.gguf", NotAllowed),
    ("{models}-other/a.gguf", NotAllowed),
    ("{models}/notes.txt", NotAllowed),
    ("{models}/folder.gguf", NotAllowed),
    ("{models}/pipe.gguf", NotAllowed),
    ("{models}/link.gguf", NotAllowed),
    ("{models}/within.gguf", NotAllowed),
    ("{models}/away/a.gguf", ServerFailed),
    ("{models}/a.gguf/x.gguf", ServerFailed),
    ("{models}/absent.gguf", ServerFailed),
    ("{models}/" + "x" * 300 + ".gguf", ServerFailed),
    ("{models}/t-00001-of-00002.gguf", ServerFailed),
    ("{models}/s-00002-of-00002.gguf", InvalidInput),
    ("{models}/s-00001-of-00000.gguf", InvalidInput),
    ("{models}/s-00001-of-99999.gguf", InvalidInput),
]


# A projector is one file, whatever its name.
BAD_PROJECTORS = [(path, error) for path, error in BAD_PATHS if "-of-" not in path]


@pytest.mark.parametrize(
    ("field", "path", "error"),
    [
        *(("model_path", path, error) for path, error in BAD_PATHS),
        *(("mmproj_path", path, error) for path, error in BAD_PROJECTORS),
    ],
)
def test_bad_files(house: House, field: str, path: str, error: type[MagidError]) -> None:
    full = path.format(models=house.models, outside=house.outside)
    with pytest.raises(error, match=r"^cannot "):
        authorize(house.order(**{field: full}), house.settings)


BAD_SPECS: list[dict[str, Any]] = [
    {"port": 8079},
    {"port": 8100},
    {"port": 1024},
    {"host": "0.0.0.0"},
    {"host": "::"},
    {"host": "192.0.2.1"},
    {"host": "localhost"},
    *(
        {"extra_args": arguments}
        for arguments in (
            ("--tools", "all"),
            ("--log-file", "/tmp/x"),
            ("--model-draft", "/etc/passwd"),
            ("--model", "/etc/passwd"),
            ("-m", "/etc/passwd"),
            ("--lora", "/etc/passwd"),
            ("--host", "0.0.0.0"),
            ("--port", "22"),
            ("--api-key", "x"),
            ("--api-key-file", "/dev/null"),
            ("--path", "/"),
            ("--slot-save-path", "/tmp"),
            ("--rpc", "evil:1"),
            ("--hf-repo", "evil/model"),
            ("--model-url", "http://evil"),
            ("--chat-template-file", "/etc/passwd"),
            ("--grammar-file", "/etc/passwd"),
            ("--ssl-key-file", "/etc/passwd"),
            ("--agent",),
            ("--props",),
            ("--temp=1",),
            ("--tem", "1"),
            ("--temp", "1;id"),
            ("--temp", "$HOME"),
            ("--temp", "%i"),
            ("--temp",),
            ("1",),
            ("--", "x"),
            ("--temp", "1", "--temp", "2"),
            ("--chat-template", "{{ x }}"),
            ("-v",),
        )
    ),
]


@pytest.mark.parametrize("changes", BAD_SPECS, ids=repr)
def test_bad_specs(house: House, changes: dict[str, Any]) -> None:
    with pytest.raises((NotAllowed, InvalidInput), match=r"^cannot "):
        authorize(house.order(**changes), house.settings)


def test_flags_cannot_open_the_server(house: House) -> None:
    """A program that knows no --api-key-file is not run, whatever magid says that it knows."""
    with pytest.raises(MagidError, match="--api-key-file"):
        authorize(StartRequest(house.spec(), None, frozenset()), house.settings)


ANY_TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(arguments=st.lists(ANY_TEXT | st.sampled_from(sorted(FLAGS)), max_size=4), tail=ANY_TEXT)
def test_whatever_is_asked_the_box_is_the_same(
    house: House, arguments: list[str], tail: str
) -> None:
    path = f"{house.models}/{tail}".rstrip("/")
    start = house.order(extra_args=tuple(arguments), model_path=path)
    try:
        order = authorize(start, house.settings)
    except (MagidError, ValueError):
        return
    for file in order.files:
        assert Path(file.path).resolve().is_relative_to(house.models)
    good = authorize(house.order(), house.settings)
    changing = ("ExecStart", "ExecStartEx", "BindReadOnlyPaths", "LogExtraFields")
    for version in VERSIONS:
        ours, theirs = unit_properties(order, version), unit_properties(good, version)
        assert [p for p in ours if p.name not in changing] == [
            p for p in theirs if p.name not in changing
        ]


# -- the folders -----------------------------------------------------------------------------


def test_roots(tmp_path: Path, house: House) -> None:
    link = tmp_path / "linked"
    link.symlink_to(house.models)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    given_ = [link, house.models, tmp_path / "absent", loop, tmp_path / "x" / ".." / "models"]
    expected = (str(house.models),) if os.geteuid() == 0 else real_roots([house.models])
    assert real_roots(given_) == expected


def test_a_link_of_somebody_else(tmp_path: Path, house: House) -> None:
    link = tmp_path / "linked"
    link.symlink_to(house.models)
    if os.geteuid() == 0:
        os.chown(link, 65_534, 65_534, follow_symlinks=False)
    assert real_roots([link]) == ()


def test_a_renamed_folder_is_not_followed(house: House) -> None:
    path = str(house.models / "deep" / "b.gguf")
    assert check_files([path], (str(house.models),))
    (house.models / "deep").rename(house.models / "was-deep")
    (house.models / "deep").symlink_to(house.outside)
    (house.outside / "b.gguf").write_bytes(b"")
    with pytest.raises(ServerFailed, match="cannot open"):
        check_files([path], (str(house.models),))


@pytest.mark.parametrize(
    ("path", "count"),
    [
        ("/m/a.gguf", 1),
        ("/m/a-00001-of-00001.gguf", 1),
        (f"/m/a-00001-of-{MAX_SHARDS:05}.gguf", MAX_SHARDS),
        ("/m/a-1-of-3.gguf", 1),
        ("/m/a_00001-of-00003.gguf", 1),
    ],
)
def test_shards(path: str, count: int) -> None:
    assert len(shards(path)) == count
    assert shards(path)[0] == path


def test_the_paths_of_a_model_are_bounded_in_sum() -> None:
    """As long as any path may be, with as many files as any model may have: 6 MB of a unit."""
    name = f"/x-00001-of-{MAX_SHARDS:05}.gguf"
    longest = ("/" + "m" * 200) * 30
    with pytest.raises(InvalidInput, match="a folder with a shorter path") as caught:
        shards(longest[: 4095 - len(name)] + name)
    assert len(caught.value.message) < 500
    assert len(shards(longest[: 250 - len(name)] + name)) == MAX_SHARDS  # a long one of real life
    with pytest.raises(InvalidInput):
        shards("/" + "ü" * 130 + name)  # it is bytes that count


@pytest.mark.parametrize("version", VERSIONS)
def test_the_largest_unit(house: House, version: int) -> None:
    """In systemd's file no line may have 1 MiB."""
    name = f"x-00001-of-{MAX_SHARDS:05}.gguf"
    path = "/m/" + "m" * (MAX_PATHS_BYTES // MAX_SHARDS - len(name) - 4) + "/" + name
    files = tuple(CheckedFile(each, 2**32, 2**64 - 1) for each in shards(path))
    order = authorize(house.order(), house.settings)
    properties = unit_properties(replace(order, files=files), version)
    assert sum(len(repr(each)) for each in properties) < 512 * 1024


@pytest.mark.parametrize(
    ("program", "folders"),
    [
        ("/usr/bin/llama-server", ("/usr",)),
        ("/opt/llama/bin/llama-server", ("/opt/llama",)),
        ("/opt/llama/llama-server", ("/opt/llama",)),
    ],
)
def test_program_folders(program: str, folders: tuple[str, ...]) -> None:
    assert program_folders(Path(program)) == folders


def test_the_configuration_has_to_be_roots(tmp_path: Path) -> None:
    path = tmp_path / "magid.yaml"
    path.write_text("port_range: [9000, 9001]\n")
    path.chmod(0o666)
    with pytest.raises(InvalidConfig, match="others than root may write"):
        read_config(path)
    assert read_config(tmp_path / "absent.yaml") == Config()


# -- keys ------------------------------------------------------------------------------------


def test_keys(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys", "magi-absent")
    if os.geteuid() == 0:
        ring.prepare()
        ring.prepare()
        assert (tmp_path / "keys").stat().st_mode & 0o7777 == 0o2750
    else:
        (tmp_path / "keys").mkdir()
    ring.write_new(8080)
    first = ring.path(8080).read_text()
    ring.write_new(8080)
    assert ring.path(8080).read_text() != first
    assert len(first.strip()) >= 43
    assert ring.path(8080).stat().st_mode & 0o7777 == 0o640
    ring.write_new(8081)
    ring.keep_only({8081})
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["8081.key"]
    ring.remove(8081)
    ring.remove(8081)


def test_keys_without_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match="systemd-tmpfiles"):
        KeyRing(tmp_path / "absent", "magi-absent").write_new(8080)


# -- systemd's answers -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"), [("252.39-1~deb12u2", 252), ("257", 257), ("262-1", 262), ("v1", 0)]
)
def test_versions(text: str, number: int) -> None:
    assert major(text) == number


@pytest.mark.parametrize(
    ("properties", "ours"),
    [
        ({}, False),
        ({"Transient": True}, False),
        ({"LogExtraFields": [b"MAGI_SPEC=x"]}, False),
        ({"Transient": True, "LogExtraFields": [b"MAGI_SPEC="]}, False),
        ({"Transient": True, "LogExtraFields": [b"A=b", b"MAGI_SPEC=x"]}, True),
    ],
)
def test_whose_unit(properties: dict[str, Any], ours: bool) -> None:
    assert seen_in(properties).is_ours == ours


# -- over a socket ---------------------------------------------------------------------------

Ask = Callable[[bytes], Any]


@pytest.fixture
async def address(house: House, tmp_path: Path) -> AsyncIterator[Path]:
    """A launcher on a socket, its bus gone: nothing that is allowed can be carried out."""
    ring = KeyRing(tmp_path / "keys", "magi-absent")
    launcher = LauncherServer(Units(Bus()), ring, lambda: house.settings, request_s=0.5)
    path = tmp_path / "launcher.sock"
    server = await asyncio.start_unix_server(launcher.answer, path, limit=MAX_LINE_BYTES)
    async with server:
        yield path
        async with asyncio.timeout(PATIENCE_S):
            await launcher.drained()


@asynccontextmanager
async def connected(
    path: Path,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        yield reader, writer
    finally:
        writer.close()


async def say(path: Path, data: bytes, *, end: bool = True) -> LauncherReply | None:
    """The answer; None where the connection ended without one, as it may for floods."""
    async with asyncio.timeout(PATIENCE_S), connected(path) as (reader, writer):
        try:
            writer.write(data)
            await writer.drain()
            if end:
                writer.write_eof()
            line = await reader.readline()
        except OSError:
            return None
        return parse_reply(line) if line else None


async def test_ping(address: Path) -> None:
    assert await say(address, b'{"verb":"ping"}\n', end=False) == LauncherReply(
        details={"units": 0}
    )


async def test_it_ends_when_idle(house: House, tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys", "magi-absent")
    async with asyncio.timeout(PATIENCE_S):
        await LauncherServer(Units(Bus()), ring, lambda: house.settings).idle(0.05)


async def test_it_stays_for_its_units(house: House, tmp_path: Path) -> None:
    units = Units(Bus())
    units.held.add(8080)
    launcher = LauncherServer(
        units, KeyRing(tmp_path / "keys", "magi-absent"), lambda: house.settings
    )
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(launcher.idle(0.01), 0.2)


async def test_an_allowed_request_needs_systemd(address: Path, house: House) -> None:
    reply = await say(address, request_line(house.order()))
    assert reply
    assert reply.error == "BusError"


async def test_a_refusal_says_why(address: Path, house: House) -> None:
    reply = await say(address, request_line(house.order(port=8100)))
    assert reply == LauncherReply(
        "NotAllowed",
        "cannot use port 8100: port_range in magid.yaml is [8080, 8099]",
        {"field": "port"},
    )


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "InvalidInput"),
        (b"\n", "InvalidInput"),
        (b'{"verb":"ping"}', "InvalidInput"),
        (b"\x00" * 100 + b"\n", "InvalidInput"),
        (b'{"verb":"stop","port":"8080; rm"}\n', "InvalidInput"),
    ],
    ids=repr,
)
async def test_noise(address: Path, data: bytes, error: str) -> None:
    reply = await say(address, data)
    assert reply
    assert reply.error == error


async def test_a_flood(address: Path) -> None:
    reply = await say(address, b"x" * 1_000_000)
    assert reply is None or reply.error == "InvalidInput"
    assert await say(address, b'{"verb":"ping"}\n')


async def test_a_caller_that_dawdles(address: Path) -> None:
    reply = await say(address, b'{"verb":', end=False)
    assert reply
    assert reply.error == "TimedOut"


async def test_too_many_at_once(address: Path) -> None:
    async with asyncio.timeout(PATIENCE_S):
        held = [await asyncio.open_unix_connection(address) for _ in range(MAX_CONNECTIONS)]
        reply = await say(address, b"")
        assert reply is None or reply.error == "Busy"
        for reader, writer in held:
            assert json.loads(await reader.readline())["error"] == "TimedOut"
            writer.close()
    assert await say(address, b'{"verb":"ping"}\n')


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None
)
@given(at=st.floats(0, 1), noise=st.binary(min_size=1, max_size=6))
def test_mangled_requests(house: House, tmp_path: Path, at: float, noise: bytes) -> None:
    """A good request with some bytes of it changed: an answer, and never one from within."""
    good = request_line(house.order())
    where = int(at * (len(good) - 1))
    mangled = good[:where] + noise.replace(b"\n", b" ") + good[where + len(noise) :]

    async def ask() -> LauncherReply | None:
        ring = KeyRing(tmp_path, "magi-absent")
        launcher = LauncherServer(Units(Bus()), ring, lambda: house.settings, request_s=0.5)
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours, limit=MAX_LINE_BYTES)
        with theirs:
            theirs.sendall(mangled if mangled.endswith(b"\n") else mangled + b"\n")
            await launcher.answer(reader, writer)
            theirs.settimeout(PATIENCE_S)
            return parse_reply(theirs.makefile("rb").readline())

    reply = asyncio.run(ask())
    assert reply
    assert reply.error in (
        *("InvalidInput", "NotAllowed", "ServerFailed", "BusError", "LlamaServerMissing"),
    )


def test_details_that_are_not_plain_stay_here() -> None:
    reply = refusal(NotAllowed("cannot", path="/x", more=[1], error="no"))
    assert parse_reply(reply_line(reply)) == LauncherReply("NotAllowed", "cannot", {"path": "/x"})


# -- a model folder that hangs ---------------------------------------------------------------


def test_only_the_folder_of_that_file_is_waited_for(house: House, tmp_path: Path) -> None:
    net = tmp_path / "data" / "net"
    net.mkdir(parents=True)
    (net / "b.gguf").write_bytes(b"GGUF")
    settings = structs.replace(house.settings, model_paths=(net, house.models))
    with mounted(net) as mount, closing(Examiner(late_s=1.0)) as examiner:
        before = authorize(house.order(), settings, examiner)
        assert before.roots == (str(house.models), str(net))
        mount.hang()
        during = authorize(house.order(), settings, examiner)
        assert during.files == before.files
        assert during.roots == (str(house.models), str(net.parent)), "hidden by what it is in"
        with pytest.raises(ServerFailed, match=r"b\.gguf: /.*/net does not answer"):
            authorize(house.order(model_path=f"{net}/b.gguf"), settings, examiner)
        assert len(stuck()) == 1, "those behind it wait for the one that waits already"
        mount.thaw()
        deadline = time.monotonic() + 60
        while authorize(house.order(), settings, examiner).roots != before.roots:
            assert time.monotonic() < deadline


def stuck() -> list[psutil.Process]:
    waiting = (psutil.STATUS_DISK_SLEEP, psutil.STATUS_SLEEPING)
    living = [child for child in psutil.Process().children() if child.status() in waiting]
    return [child for child in living if "magid.launcher.model_files" in " ".join(child.cmdline())]


@pytest.mark.parametrize(
    ("points", "root", "hidden"),
    [
        (["/", "/data/nas"], "/data/nas/models", ("/data",)),
        (["/", "/data", "/data/nas"], "/data/nas", ("/data",)),
        (["/", "/nas"], "/nas/models", ()),  # the whole system is beside it
        (["/", "/usr/nas"], "/usr/nas", ()),
        (["/", "/opt/nas"], "/opt/nas", ()),  # llama-server is there
    ],
)
def test_what_hides_a_folder_that_hangs(
    points: list[str], root: str, hidden: tuple[str, ...]
) -> None:
    assert covers([root], points, ["/opt/llama.cpp"]) == hidden


def test_examining_in_a_worker_says_the_same(house: House) -> None:
    with closing(Examiner()) as examiner:
        for name in ("a.gguf", "notes.txt", "link.gguf", "pipe.gguf", "none.gguf"):
            path = str(house.models / name)
            told = []
            for look in (examine, examiner):
                try:
                    told.append(repr(look([path], house.settings.model_paths)))
                except MagidError as error:
                    told.append(repr((error.code, error.message)))
            assert told[0] == told[1]
