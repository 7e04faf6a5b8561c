"""`magid` as a command: flags, exit statuses, signals, sockets of systemd, its log."""

import json
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from magid import __version__
from magid.api.routes import ROUTES, Access
from magid.gateway.routing.endpoints import ENDPOINTS
from tests.support import fake_llama
from tests.support.deadlines import DEADLINE_S
from tests.support.running import ROOT, Running

pytestmark = pytest.mark.slow

ALPHA = "alpha_1p0b_q4km_fast"


def run(*arguments: str, environment: dict[str, str] | None = None) -> "Done":
    return subprocess.run(
        [sys.executable, "-m", "magid", *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **(environment or {})},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


Done = subprocess.CompletedProcess[str]


def test_the_limit_of_open_files_is_raised(magid: Running) -> None:
    """A stream takes two, and 1024 is what systemd and shells give."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        magid.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert magid.process is not None
    assert resource.prlimit(magid.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)


# -- without running -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", [[sys.executable, "-m", "magid"], [str(Path(sys.executable).with_name("magid"))]]
)
def test_both_ways_to_call_it(command: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [*command, "--version"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"magid {__version__}\n", "")


def test_check_prints_every_value_with_its_source(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    file = tmp_path / "magid.yaml"
    file.write_text("# a comment\nport_range: [9100, 9109]\nrestart: {limit: 3}\n")
    done = run(
        "--check", "--config", str(file), "--log-level", "debug",
        environment={
            "MAX_STARTUP_TIME": "77", "MODEL_SCAN_PATH": "/one:/two",
            "MAGI_STATE_DIR": str(tmp_path / "state"), "MAGI_BIND": f"127.0.0.1:{free_port()}",
        },
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    rows = dict(re.split(r" +# ", line, maxsplit=1) for line in done.stdout.splitlines())
    for value, source in {
        "port_range = [9100, 9109]": f"{file}:2",
        "restart.limit = 3": f"{file}:3",
        "max_startup_time = 77": "MAX_STARTUP_TIME",
        'model_paths = ["/one", "/two"]': "MODEL_SCAN_PATH",
        'log_level = "debug"': "--log-level",
        "drain_timeout = 10": "default",
    }.items():
        assert rows[value] == source
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("text", "arguments", "said"),
    [
        ("port_rnage: [1, 2]\n", [], "magid.yaml: line 1"),
        ("a: [\n", [], "magid.yaml"),
        ("", ["--port-range", "9-1"], "--port-range"),
        ("", ["--bind", "0.0.0.0:8000"], "no token exists"),
        ("", ["--launcher", "systemd"], "cannot use launcher systemd"),
    ],
)
@pytest.mark.parametrize("check", [["--check"], []])
def test_a_bad_configuration_is_one_line_and_78(
    tmp_path: Path, text: str, arguments: list[str], said: str, check: list[str]
) -> None:
    file = tmp_path / "magid.yaml"
    file.write_text(text)
    done = run(*check, *arguments, environment={"MAGI_CONFIG": str(file)})
    assert (done.returncode, done.stdout) == (78, "")
    line, _, commands = done.stderr.partition("\n")
    assert re.fullmatch(r"magid: cannot [^\n]+", line)
    assert said in line
    assert bool(commands) <= bool(check)  # what mends it, below


def test_check_finds_all_of_it_at_once(tmp_path: Path, free_port: Callable[[], int]) -> None:
    file, state, port = tmp_path / "magid.yaml", tmp_path / "state", free_port()
    state.mkdir()
    (state / "magid.lock").mkdir()
    (state / "tokens.json").write_text("{")
    (state / "model_registry.json").write_text('{"format": 99, "writtenBy": "magid 9"}')
    file.write_text(
        f"state_dir: {state}\nbind: ['127.0.0.1:{port}', '0.0.0.0:8000', 'unix:{tmp_path}/no/s']\n"
        f"tls_cert: {tmp_path}/none\ntls_key: {tmp_path}/none\n"
    )
    with socket.create_server(("127.0.0.1", port)):
        done = run("--check", "--config", str(file))
    assert (done.returncode, done.stdout) == (78, "")
    found = [line for line in done.stderr.splitlines() if line.startswith("magid: cannot ")]
    for what in (
        f"cannot listen on 127.0.0.1:{port}: pid {os.getpid()} (",
        f"cannot listen on {tmp_path}/no/s: No such file or directory",
        f"cannot use {state}/magid.lock: it is a folder",
        f"cannot use {state}/tokens.json: ",
        f"cannot use {state}/model_registry.json: it has format 99",
        f"cannot use the certificate {tmp_path}/none with the key {tmp_path}/none: ",
    ):
        assert [line for line in found if line.startswith(f"magid: {what}")], done.stderr
    assert len(found) == 6  # of tokens that cannot be read none lets others in
    assert f"    mv {state}/magid.lock {state}/magid.lock.off\n" in done.stderr
    assert sorted(path.name for path in state.iterdir()) == [
        "magid.lock", "model_registry.json", "tokens.json",
    ]  # fmt: skip


def test_check_names_every_mistake_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "magid.yaml"
    file.write_text("port_range: [8080]\nport_rnage: [1, 2]\nrestart:\n  limits: 3\n")
    done = run("--check", "--config", str(file))
    assert done.returncode == 78
    *unknown, short = done.stderr.splitlines()
    assert {line.partition(" is not known")[0] for line in unknown} == {
        f"magid: cannot use {file}: line 2: port_rnage",
        f"magid: cannot use {file}: line 4: restart.limits",
    }
    assert short.startswith(f"magid: cannot use {file}: line 1: port_range")


def test_check_of_a_magid_that_runs_finds_nothing(magid: Running) -> None:
    magid.start()
    done = run("--check", environment=magid.environment)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [["--nonsense"], ["serve"], ["--bind"]])
def test_usage_errors_are_2(arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: magid")


def test_a_port_in_use_and_a_state_that_cannot_be_written_are_78(magid: Running) -> None:
    with socket.create_server(("127.0.0.1", magid.port)):
        done = run(environment=magid.environment)
    assert (done.returncode, done.stdout) == (78, "")
    assert f"cannot listen on 127.0.0.1:{magid.port}: pid {os.getpid()} (" in done.stderr
    done = run("--state-dir", str(magid.configuration / "x"), environment=magid.environment)
    assert (done.returncode, done.stdout) == (78, "")
    assert re.fullmatch(r"magid: cannot write [^\n]+\n", done.stderr)


# -- sockets of systemd ----------------------------------------------------------------------


def test_sockets_of_systemd(magid: Running, free_port: Callable[[], int]) -> None:
    """As a socket unit has it: TCP and unix, and the daemon begins with the first connection."""
    port, path = free_port(), magid.folder / "magid.sock"
    command = ["systemd-socket-activate", "-l", f"127.0.0.1:{port}", "-l", str(path)]
    for name in magid.environment:
        command += ["-E", name]
    environment = {**magid.environment, "MAGI_BIND": "127.0.0.1:1"}  # would not work here
    with magid.log.open("wb") as log:
        process = subprocess.Popen(
            [*command, sys.executable, "-m", "magid"],
            cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_listening(process, magid.log)
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(transport=transport, timeout=DEADLINE_S) as local:
            assert local.get("http://anything/livez").json() == {"status": "ok"}
        url = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{url}/livez", timeout=DEADLINE_S, trust_env=False).status_code == 200
        said = f"answers on 127.0.0.1:{port}, unix:{path}"
        assert said in magid.log.read_text()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
    assert path.exists()  # PID 1's to remove, not ours


def test_the_socket_for_readers(magid: Running) -> None:
    """Told by the name that its unit gives it; whatever changes or asks a model is refused."""
    path, view = magid.folder / "magid.sock", magid.folder / "readers.sock"
    command = ["systemd-socket-activate", "--fdname=magid-local:magid-view"]
    command += ["-l", str(path), "-l", str(view)]
    for name in magid.environment:
        command += ["-E", name]
    with magid.log.open("wb") as log:
        process = subprocess.Popen(
            [*command, sys.executable, "-m", "magid"],
            cwd=ROOT, env=magid.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_listening(process, magid.log)
        readers, everyone = (
            httpx.Client(
                transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://localhost",
                timeout=DEADLINE_S, headers={"Authorization": "Bearer of-no-use-here"},
            )
            for socket in (view, path)
        )  # fmt: skip
        with readers, everyone:
            assert readers.get("/livez").status_code == 200
            assert readers.get("/api/models/status").status_code == 200
            assert readers.get("/metrics").status_code == 200
            for method, target in forbidden_to_readers():
                refused = readers.request(method, target, json={})
                assert refused.status_code == 403, (method, target, refused.text)
                assert "magi-view" in refused.text
            first = {"name": "first", "scopes": ["read"]}
            assert everyone.post("/api/tokens", json=first).status_code == 201
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0


def forbidden_to_readers() -> Iterator[tuple[str, str]]:
    """Every route that changes something, and every path of the gateway."""
    for route in ROUTES:
        if route.access is Access.CHANGE:
            yield route.method, re.sub(r"{\w+}", "x", route.path)
    for endpoint in ENDPOINTS:
        yield endpoint.method, re.sub(r"{\w+}", "x", endpoint.path)


def wait_listening(process: "subprocess.Popen[bytes]", log: Path) -> None:
    """systemd-socket-activate says so once the sockets are there."""
    ended = os.pidfd_open(process.pid)
    try:
        while b"Listening on" not in log.read_bytes() or log.read_bytes().count(b"Listening") < 2:
            over, _, _ = select.select([ended], [], [], 0.02)
            assert not over, log.read_text()
    finally:
        os.close(ended)


# -- notify and log --------------------------------------------------------------------------


def test_what_systemd_is_told(magid: Running) -> None:
    """READY=1 comes when the API answers, and STATUS says in one line what goes on."""
    (magid.folder / "loaded").touch()
    path = magid.folder / "told"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(path))
        notify.settimeout(DEADLINE_S)
        with magid.log.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "magid"],
                cwd=ROOT,
                env={**magid.environment, "NOTIFY_SOCKET": str(path)},
                stdout=log,
                stderr=log,
            )
        try:
            assert notify.recv(4096) == b"READY=1"
            assert (
                httpx.get(f"{magid.url}/livez", timeout=DEADLINE_S, trust_env=False).status_code
                == 200
            )
            told = b""
            while told != b"STATUS=serving: 1 ready, profile test":
                told = notify.recv(4096)
        finally:
            process.terminate()
            assert process.wait(DEADLINE_S) == 0
        for last in (b"STOPPING=1", b"STATUS=draining: 1 stopped, profile test"):
            while told != last:
                told = notify.recv(4096)


@pytest.mark.parametrize("of", ["stderr", "another"])
def test_levels_for_the_journal(magid: Running, of: str) -> None:
    """Only where stderr leads to the journal: JOURNAL_STREAM alone is inherited by anyone."""
    reading, writing = os.pipe()
    status = Path(f"/proc/self/fd/{writing}" if of == "stderr" else os.devnull).stat()
    stream = f"{status.st_dev}:{status.st_ino}"
    process = subprocess.Popen(
        [sys.executable, "-m", "magid"],
        cwd=ROOT,
        env={**magid.environment, "JOURNAL_STREAM": stream, "MAGI_PROFILE": "absent"},
        stdin=subprocess.DEVNULL,
        stderr=writing,
    )
    os.close(writing)
    with os.fdopen(reading) as lines:
        seen = [next(lines)]
        while "answers on" not in seen[-1]:
            seen.append(next(lines))
        process.terminate()
        seen += lines
    assert process.wait(DEADLINE_S) == 0
    if of == "stderr":
        assert all(re.match(r"<[3-7]>\S", line) for line in seen)
        assert any(line.startswith("<3>cannot find profile 'absent'") for line in seen)
        assert any(re.match(r"<6>magid [0-9.]+ answers on", line) for line in seen)
    else:
        assert all(re.match(r"[0-9-]{10} .* (INFO|ERROR|WARNING) magid", line) for line in seen)


def test_servers_get_nothing_of_what_is_for_the_daemon_alone(magid: Running) -> None:
    record = magid.folder / "record.json"
    program = fake_llama.install(magid.folder / "other", f"record={record}")
    magid.environment |= {
        "LLAMA_SERVER_PATH": str(program),
        "LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x",
        "JOURNAL_STREAM": "1:2", "WATCHDOG_USEC": "1", "MY_TOKEN": "secret",
    }  # fmt: skip
    with magid:
        magid.wait_ready()
        given = json.loads(record.read_text())["environ"]
        assert not given.keys() & {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET",
                                   "JOURNAL_STREAM", "WATCHDOG_USEC", "MY_TOKEN"}  # fmt: skip
        assert given["PATH"] == magid.environment["PATH"]
