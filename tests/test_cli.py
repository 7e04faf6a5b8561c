"""`magictl` as a person types it, against a real daemon with real servers."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from magid import __version__
from tests.rest import ALPHA, BETA, DEEPSEEK, PROFILE, Parts, forget_overrides, write_models
from tests.running import DEADLINE_S, Running

pytestmark = pytest.mark.slow

MAGICTL = str(Path(sys.executable).with_name("magictl"))
HOSTILE = "\x1b[2J\u202e\x9b31m"  # clears a terminal, turns text round, colours it
Done = subprocess.CompletedProcess[str]


def environment(url: str | None, **more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], **({"MAGI_URL": url} if url else {}), **more}


def magictl(*words: str, url: str | None = None, **more: str) -> Done:
    return subprocess.run(
        [MAGICTL, *words],
        env=environment(url, **more),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=DEADLINE_S,
        check=False,
    )


@pytest.fixture(scope="module")
def shared(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("cli")
    running = parts.daemon(folder)
    running.environment["MAGI_BIND"] += f",unix:{folder}/magid.sock"
    write_models(running.models)
    (running.models / f"Broken{HOSTILE}.gguf").write_bytes(b"GGUF")
    with running, running.client:
        running.wait_ready()
        yield running


@pytest.fixture
def magid(shared: Running) -> Iterator[Running]:
    """A daemon with two servers that run; each test leaves it so, but for overrides."""
    yield shared
    forget_overrides(shared)


@pytest.fixture
def type_in(magid: Running) -> Callable[..., Done]:
    """Type a command that has to succeed, or to end with `status`."""

    def type_in(line: str, status: int = 0) -> Done:
        done = magictl(*line.split(), url=magid.url)
        assert done.returncode == status, done
        assert "Traceback" not in done.stderr
        return done

    return type_in


Type = Callable[..., Done]


# -- looking ---------------------------------------------------------------------------------


def test_status(type_in: Type) -> None:
    lines = type_in("status").stdout.splitlines()
    assert lines[:4] == [
        f"magid {__version__}: serving, ready",
        "profile:      test",
        "models:       5 known, 2 enabled",
        "servers:      2 ready",
    ]
    assert lines[4].startswith("llama-server: ")


def test_ls(type_in: Type) -> None:
    head, *rows = [line.split() for line in type_in("ls").stdout.splitlines()]
    assert head == ["MODEL", "TIER", "THINKING", "SIZE", "PORT", "ENABLED"]
    table = {row[0]: row for row in rows}
    assert len(table) == 5
    assert table[ALPHA][1:3] == ["fast", "no"]
    assert table[ALPHA][-1] == "yes"
    assert table[DEEPSEEK][-2:] == ["-", "no"]


def test_ps(type_in: Type) -> None:
    head, *rows = [line.split() for line in type_in("ps").stdout.splitlines()]
    assert head[:4] == ["UNIT", "MODEL", "STATE", "PID"]
    assert [row[1:3] for row in rows] == [[ALPHA, "ready"], [BETA, "ready"]]
    assert all(row[0].startswith("llama-server@") for row in rows)


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("ls --json", "/api/models/registry"),
        ("ps --json", "/api/models/servers"),
        ("status --json", "/api/models/status"),
        (f"show {ALPHA}", f"/api/models/{ALPHA}"),
        ("profile show test", "/api/models/profiles/test"),
    ],
)
def test_json_is_what_the_api_answers(magid: Running, type_in: Type, line: str, path: str) -> None:
    typed, asked = json.loads(type_in(line).stdout), magid.get(path)
    assert typed.keys() == asked.keys()
    moving = {"servers", "memory", "uptimeSeconds"}  # times and memory go on
    assert {k: v for k, v in typed.items() if k not in moving} == {
        k: v for k, v in asked.items() if k not in moving
    }


def test_profile_ls(type_in: Type) -> None:
    assert type_in("profile ls").stdout == "test (active)\n"


def test_logs(type_in: Type) -> None:
    lines = type_in(f"logs {ALPHA} -n 500 --grep listening").stdout.splitlines()
    assert lines
    assert all("listening" in line for line in lines)
    assert len(type_in(f"logs {ALPHA} -n 2").stdout.splitlines()) == 2


def test_logs_follow_until_ctrl_c(magid: Running) -> None:
    process = subprocess.Popen(
        [MAGICTL, "logs", ALPHA, "-f", "-n", "1"],
        env=environment(magid.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, errors) == (130, "")


# -- doing -----------------------------------------------------------------------------------


def test_stop_start_and_restart_wait_for_the_end(magid: Running, type_in: Type) -> None:
    assert type_in(f"stop {ALPHA} {BETA}").stdout == (
        f"Stop of {ALPHA} done\nStop of {BETA} done\n"
    )
    assert {s["state"] for s in magid.servers().values()} == {"stopped"}
    type_in(f"start {ALPHA} {BETA}")
    before = magid.servers()
    assert {s["state"] for s in before.values()} == {"ready"}
    type_in(f"restart {ALPHA}")
    assert magid.servers()[ALPHA]["pid"] != before[ALPHA]["pid"]
    assert type_in(f"start --no-wait {ALPHA}").stdout == f"Start of {ALPHA} requested\n"


def test_one_that_is_refused_does_not_keep_the_others_from_being_done(
    magid: Running, type_in: Type
) -> None:
    done = type_in(f"restart {DEEPSEEK} nothing {ALPHA}", 1)
    assert done.stdout == f"Restart of {ALPHA} done\n"
    first, second = done.stderr.splitlines()
    assert first.startswith(f"magictl: cannot start '{DEEPSEEK}': it is disabled")
    assert second.startswith("magictl: cannot find model 'nothing'")


def test_overrides(magid: Running, type_in: Type) -> None:
    assert type_in(f"tier {ALPHA} powerful").stdout == f"Tier updated for {ALPHA}\n"
    assert type_in(f"thinking {ALPHA} on").returncode == 0
    done = type_in(f"disable {ALPHA}")
    assert done.stderr == "what runs differs now from what is wanted: magictl apply\n"
    row = magid.get("/api/models/registry")["models"][ALPHA]
    assert (row["tierOverride"], row["thinkingOverride"], row["enabled"]) == (
        "powerful", True, False,
    )  # fmt: skip
    assert "1 to stop: magictl apply" in type_in("status").stdout
    plan = type_in("apply --dry-run").stdout.splitlines()
    assert plan[0] == "Nothing was changed"
    assert any(line.split()[0] == "stop" and ALPHA in line for line in plan)
    type_in(f"enable {ALPHA}")
    type_in(f"tier {ALPHA} auto")
    type_in(f"thinking {ALPHA} off")
    assert type_in("apply").stdout.startswith("Nothing to do")


def test_profiles(magid: Running, type_in: Type) -> None:
    (magid.profiles / "other.yaml").write_text(PROFILE)
    assert type_in("profile activate other").stdout.startswith("Profile 'other' activated\n")
    assert type_in("profile ls").stdout == "other (active)\ntest\n"
    assert "it is the active one" in type_in("profile delete other", 1).stderr
    type_in("profile activate test")
    assert type_in("profile delete other").stdout == "Profile 'other' deleted successfully\n"


def test_rescan(type_in: Type) -> None:
    done = type_in("rescan")
    assert done.stdout == "5 models, 0 added, 0 removed\n"
    assert "Broken" in done.stderr
    assert json.loads(type_in("rescan --json").stdout)["modelsFound"] == 5


# -- what goes wrong -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("show nothing", 4, "magictl: cannot find model 'nothing'"),
        ("start nothing", 4, "magictl: cannot find model 'nothing'"),
        ("logs nothing", 4, "magictl: cannot find model 'nothing'"),
        ("logs -f nothing", 4, "magictl: cannot find model 'nothing'"),
        ("logs nothing -n 0", 1, "magictl: cannot read lines='0'"),
        ("profile show nothing", 4, "magictl: cannot find profile 'nothing'"),
        ("profile activate ../../etc/passwd", 4, "magictl: cannot find profile"),
        ("show ../../livez?x=#y%00", 4, "magictl: cannot find model '../../livez?x=#y%00'"),
        (f"start {ALPHA} --timeout -1", 1, "magictl: cannot read wait='-1'"),
        ("profile show", 2, "magictl: cannot show a profile without its name"),
        ("", 2, "usage: magictl"),
        ("dance", 2, "usage: magictl"),
        (f"tier {ALPHA} huge", 2, "usage: magictl"),
    ],
)
def test_errors(type_in: Type, line: str, status: int, said: str) -> None:
    done = type_in(line, status)
    assert done.stdout == ""
    assert done.stderr.startswith(said)


def test_the_unix_socket(magid: Running) -> None:
    path = magid.folder / "magid.sock"
    assert magictl("status", url=f"unix:{path}").returncode == 0
    assert magictl("--url", f"unix:{path}", "ps", url="http://127.0.0.1:1").returncode == 0


@pytest.mark.parametrize("where", ["http://127.0.0.1:{port}", "unix:{folder}/none", "unix:{stale}"])
def test_no_daemon(free_port: Callable[[], int], tmp_path: Path, where: str) -> None:
    stale = tmp_path / "stale"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(stale))
    url = where.format(port=free_port(), folder=tmp_path, stale=stale)
    for words in (["status"], ["logs", "-f", "x"]):
        done = magictl(*words, url=url)
        assert (done.returncode, done.stdout) == (1, "")
        first, second = done.stderr.splitlines()
        assert first.startswith(f"magictl: cannot reach magid at {url}: ")
        assert second == "try: systemctl status magid, or give --url"


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:8000", "localhost:8000", "https://host:1", "http://host:99999", "http://",
     "http://host/prefix", "ftp://host", "http://[::1"],
)  # fmt: skip
def test_a_url_that_cannot_be_used(url: str) -> None:
    done = magictl("status", url=url)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"magictl: cannot use '{url}': give http://HOST:PORT or unix:/PATH\n"


class Stranger(BaseHTTPRequestHandler):
    """Something else on the port."""

    answer = b""

    def do_GET(self) -> None:
        self.wfile.write(self.answer)

    def log_message(self, *_: object) -> None:
        pass


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
LINE = json.dumps({"message": f"log {HOSTILE} line\tend"})
LINES = b'{"lines": [%s]}' % LINE.encode()


@pytest.mark.parametrize(
    ("answer", "line", "status", "stdout", "stderr"),
    [
        (b"SSH-2.0-x\r\n", "status", 1, "", "cannot reach magid"),
        (b"", "status", 1, "", "cannot reach magid"),
        (HEAD % 9 + b"<html>...", "status", 1, "", "cannot understand what answers"),
        (HEAD % 90 + b"{", "status", 1, "", "cannot understand what answers"),
        (b"HTTP/1.1 500 x\r\n\r\n[]", "status", 1, "", "cannot GET /api/models/status: status 500"),
        (HEAD % len(LINES) + LINES, "logs x", 0, "log ?[2J??31m line      end\n", ""),
        (
            b"HTTP/1.1 200 OK\r\n\r\nevent: log\ndata: " + LINE.encode() + b"\n\n",
            "logs x -f", 0, "log ?[2J??31m line      end\n", "",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nev",
            "logs x -f", 1, "", "ended the stream",
        ),
        (
            b"HTTP/1.1 404 x\r\n\r\n" + json.dumps({"message": f"a{HOSTILE}\nb"}).encode(),
            "show x", 4, "", "magictl: a?[2J??31m\nb\n",
        ),
    ],
)  # fmt: skip
def test_strange_answers(  # one column of the table each
    free_port: Callable[[], int], answer: bytes, line: str, status: int, stdout: str, stderr: str
) -> None:
    handler = type("Handler", (Stranger,), {"answer": answer})
    with ThreadingHTTPServer(("127.0.0.1", free_port()), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            done = magictl(*line.split(), url=f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            thread.join()
    assert (done.returncode, done.stdout) == (status, stdout), done
    assert stderr in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("line", ["rescan", "rescan --json", "ls --json", "status"])
def test_names_with_control_characters_are_neutralised(type_in: Type, line: str) -> None:
    done = type_in(line)
    assert all(char.isprintable() or char == "\n" for char in done.stdout + done.stderr)
    if "--json" in line:
        assert HOSTILE in json.dumps(json.loads(done.stdout), ensure_ascii=False).replace(
            "\\u001b", "\x1b"
        )


def test_a_terminal_that_knows_only_ascii(magid: Running) -> None:
    (magid.models / "Tränen.gguf").write_bytes(b"GGUF")
    try:
        done = magictl("rescan", url=magid.url, PYTHONIOENCODING="ascii")
    finally:
        (magid.models / "Tränen.gguf").unlink()
    assert done.returncode == 0
    assert "Tr\\xe4nen.gguf" in done.stderr


# -- output that goes nowhere ----------------------------------------------------------------


def test_a_reader_that_goes_away(magid: Running) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as after `magictl ls | head -0`
    with os.fdopen(writing, "w") as output:
        done = subprocess.run(
            [MAGICTL, "ls"], env=environment(magid.url), stdout=output, stderr=subprocess.PIPE,
            timeout=DEADLINE_S, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_full_disk(magid: Running) -> None:
    with Path("/dev/full").open("w") as output:
        done = subprocess.run(
            [MAGICTL, "ls"], env=environment(magid.url), stdout=output, stderr=subprocess.PIPE,
            text=True, timeout=DEADLINE_S, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "magictl: cannot write to standard output: No space left on device\n"


# -- the command itself ----------------------------------------------------------------------


@pytest.mark.parametrize("words", [["version"], ["--version"]])
def test_version(words: list[str]) -> None:
    assert magictl(*words).stdout == f"magictl {__version__}\n"


def test_it_starts_without_the_daemons_code() -> None:
    code = "import sys, magid.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"sanic", "pydantic", "asyncio", "yaml", "psutil", "inspect", "logging"}
    ours = {".".join(name.split(".")[:2]) for name in loaded if name.startswith("magid")}
    assert ours == {"magid", "magid.cli", "magid.client"}
