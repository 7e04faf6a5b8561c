"""Servers that cannot run, each in its own way: what is said of it, and how often it is tried.

The real llama-server runs the other models meanwhile, which must not notice; one model gets
`tests.support.fake_llama` in its place, because the real one hangs or crashes when it likes.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from magid.systemd.unit_names import unit_name
from tests.lab.container import Container
from tests.lab.serving import FILES, MODELS, Daemon, installed_in
from tests.lab.trees import NEWEST, OLDEST, ROOT

# Between these two systemd changed what it says of units; the others are like one of them.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize(
        "release", [OLDEST, NEWEST], ids=lambda one: one.name, indirect=True, scope="session"
    ),
]

ONE, OTHER, THIRD = MODELS
PORT = MODELS[ONE]
UNIT = unit_name(PORT)
FAKE = "/usr/local/lib/fake_llama.py"
PROGRAM = "/usr/local/bin/llama-server-in-trouble"
TROUBLE = "/etc/trouble"  # the behaviour; none: the real one runs
LOADED = "/etc/trouble-over"
LIMIT, FIRST_S = 2, 0.3
STARTING = "7d4958e842da4a758f6c1cdc7b36dcc5"  # SD_MESSAGE_UNIT_STARTING


def program(container: Container) -> str:
    return f"""\
#!/bin/sh
case " $* " in *" {ONE} "*)
    [ ! -e {TROUBLE} ] || exec python3 -S {FAKE} $(cat {TROUBLE}) -- "$@"
esac
exec {container.release.llama_server} "$@"
"""


def settings(max_startup_s: float) -> str:
    return f"""\
model_paths: [/models]
profile: everything
llama_server_path: {PROGRAM}
max_startup_time: {max_startup_s}
readiness_check_interval: 0.2
server_defaults: {{n_threads: 1, parallel: 1, ctx_size: 512}}
restart: {{limit: {LIMIT}, first_delay: {FIRST_S}, max_delay: 2}}
"""


@pytest.fixture(scope="module")
def installed(container: Container, chat_model: Path) -> Iterator[Daemon]:
    container.write(FAKE, (ROOT / "tests/support/fake_llama.py").read_bytes())
    container.write(PROGRAM, program(container), 0o755)
    one = installed_in(container, chat_model, settings(30))
    one.wait_ready()
    yield one
    one.client.close()


@pytest.fixture
def daemon(installed: Daemon) -> Iterator[Daemon]:
    """All models are ready, before and after, and two of them meanwhile, untouched."""
    before = installed.pids()
    yield installed
    container = installed.container
    container.run(["rm", "-f", TROUBLE, LOADED])
    assert installed.client.post(f"/api/models/servers/{ONE}/restart").status_code == 202
    installed.wait_ready()
    assert {m: installed.pids()[m] for m in (OTHER, THIRD)} == {
        m: before[m] for m in (OTHER, THIRD)
    }
    assert installed.units() == {unit_name(port) for port in MODELS.values()}


def starts(container: Container, since: int) -> list[float]:
    """When PID 1 began to start the unit; seconds."""
    entries = container.journal(UNIT, f"MESSAGE_ID={STARTING}")
    return [int(entry["__REALTIME_TIMESTAMP"]) / 1e6 for entry in entries[since:]]


@contextmanager
def given_up(daemon: Daemon) -> Iterator[None]:
    """What is begun in there is tried as often as configured, with pauses, and then no more."""
    container = daemon.container
    since = len(starts(container, 0))
    yield
    daemon.wait_state("failed", ONE)
    tried = starts(container, since)
    # systemd counts the start that it refuses, too: it may have told of it.
    assert len(tried) in (LIMIT + 1, LIMIT + 2), tried
    assert all(later - earlier >= FIRST_S for earlier, later in pairwise(tried)), tried
    assert container.show(UNIT, "ActiveState")["ActiveState"] == "failed"
    assert daemon.client.get("/readyz").status_code == 503
    assert starts(container, since) == tried


def restart(daemon: Daemon) -> None:
    reply = daemon.client.post(f"/api/models/servers/{ONE}/restart")
    assert reply.status_code == 202, reply.text


def test_one_that_crashes_at_once(daemon: Daemon) -> None:
    daemon.container.write(TROUBLE, "crashes")
    with given_up(daemon):
        daemon.reported("backoff", ONE, lambda: restart(daemon))
    reason = daemon.server(ONE)["stateReason"]
    assert reason.startswith("exited with status 1: broken on purpose")
    assert reason.endswith(f"given up after {LIMIT} restarts")


def test_one_that_hangs_in_loading(daemon: Daemon) -> None:
    container = daemon.container
    container.write("/etc/magi/magid.yaml", settings(1.5))
    container.write(TROUBLE, f"loading={LOADED}")
    try:
        with given_up(daemon):
            daemon.reported("loading", ONE, lambda: restart(daemon))
            container.wait_until(  # in one of its tries
                lambda: container.show(UNIT, "StatusText")["StatusText"].startswith("loading"),
                "status of the unit",
            )
        reason = daemon.server(ONE)["stateReason"]
        assert "the server was not ready within 1.5 s: it was still loading the model" in reason
    finally:
        container.write("/etc/magi/magid.yaml", settings(30))


def test_one_that_does_not_open_its_port(daemon: Daemon) -> None:
    container = daemon.container
    container.write("/etc/magi/magid.yaml", settings(1.5))
    container.write(TROUBLE, "never-binds")
    try:
        with given_up(daemon):
            restart(daemon)
        reason = daemon.server(ONE)["stateReason"]
        assert "the server was not ready within 1.5 s: its port does not answer" in reason
    finally:
        container.write("/etc/magi/magid.yaml", settings(30))


def test_a_long_load_is_waited_for(daemon: Daemon) -> None:
    """Also over a reload, after which systemd counts by the unit's own limit again."""
    container = daemon.container
    container.write(TROUBLE, f"loading={LOADED}")
    restart(daemon)
    daemon.wait_state("loading", ONE)

    def has_loaded_for(seconds: int) -> bool:
        said = re.match(r"loading \((\d+) s\)", container.show(UNIT, "StatusText")["StatusText"])
        return said is not None and int(said[1]) >= seconds

    container.systemctl("daemon-reload")
    container.wait_until(lambda: has_loaded_for(3), "load of 3 s")
    container.write(LOADED, "")
    daemon.wait_state("ready", ONE)
    assert container.show(UNIT, "NRestarts")["NRestarts"] == "0"


def test_a_stop_is_not_held_up_by_a_load(daemon: Daemon) -> None:
    """wait_ready.py gives the start its time, and not the stop of a server that does not end."""
    container = daemon.container
    container.write(TROUBLE, f"deaf loading={LOADED}.never")
    restart(daemon)
    daemon.wait_state("loading", ONE)
    container.systemctl("stop", UNIT)
    seen = container.show(UNIT, "ActiveState", "Result", "TimeoutStopUSec")
    assert (seen["ActiveState"], seen["Result"]) == ("failed", "timeout")
    container.run(["rm", TROUBLE])
    container.systemctl("reset-failed", UNIT)
    restart(daemon)
    daemon.wait_state("ready", ONE)


def forgiven(daemon: Daemon) -> list[str]:
    entries = daemon.container.journal("magi-launcher.service")
    return [e["MESSAGE"] for e in entries if e["MESSAGE"].startswith(f"{UNIT} started well")]


def restart_by_hand(daemon: Daemon) -> None:
    """Restarts the unit with systemctl, and waits until the launcher has taken note of it."""
    before = len(forgiven(daemon))
    daemon.container.systemctl("restart", UNIT)
    daemon.container.wait_until(lambda: len(forgiven(daemon)) > before, "start that went well")


def test_people_may_restart_as_often_as_they_like(daemon: Daemon) -> None:
    """Starts that end well do not use up the limit for those that do not."""
    for _ in range(LIMIT + 1):
        restart_by_hand(daemon)
    with given_up(daemon):
        daemon.container.write(TROUBLE, "crashes")
        daemon.container.systemctl("kill", "--signal=KILL", UNIT)
    assert daemon.server(ONE)["stateReason"].startswith("exited with status 1: broken on purpose")


@contextmanager
def stranger(container: Container) -> Iterator[None]:
    """Another program on the port, once it is free."""
    serve = ["python3", "-m", "http.server", "--bind", "127.0.0.1", str(PORT)]
    container.systemctl("stop", UNIT)
    container.systemctl("reset-failed", UNIT)  # earlier starts count towards systemd's limit
    container.run(["systemd-run", "--unit=stranger", "--working-directory=/srv", *serve])
    try:
        listening = ["ss", "--listening", "--tcp", "--numeric", "--no-header", f"sport = {PORT}"]
        container.wait_until(lambda: bool(container.run(listening).stdout), "stranger")
        yield
    finally:
        container.systemctl("stop", "stranger")


def test_one_whose_port_is_taken(daemon: Daemon) -> None:
    with stranger(daemon.container):
        restart(daemon)
        daemon.wait_state("failed", ONE)
        # magid may not look into other users' processes.
        taken = f"port {PORT} is taken by a process of another user (`ss -ltnp`, as root, names it)"
        assert taken in daemon.server(ONE)["stateReason"]


def test_one_whose_port_is_taken_started_by_hand(daemon: Daemon) -> None:
    """Nobody looks first then: what systemd and the server say has to do."""
    with stranger(daemon.container), given_up(daemon):
        done = daemon.container.run(["systemctl", "start", UNIT], check=False)
        assert done.returncode != 0
        daemon.wait_state("failed", ONE)
        reason = daemon.server(ONE)["stateReason"]
        assert f"another program answers on port {PORT}" in reason or "bind" in reason, reason


def test_one_whose_file_has_vanished(daemon: Daemon, chat_model: Path) -> None:
    container, path = daemon.container, f"/models/{FILES[0]}"
    since = len(starts(container, 0))
    container.run(["mv", path, "/srv/aside"])
    try:
        assert container.run(["systemctl", "restart", UNIT], check=False).returncode != 0
        daemon.wait_state("failed", ONE)
        reason = daemon.server(ONE)["stateReason"]
        assert f"cannot use the model file {path}: No such file or directory" in reason
        assert len(starts(container, since)) == 1
    finally:
        container.run(["mv", "/srv/aside", path])


def test_one_whose_file_is_cut_off(daemon: Daemon, chat_model: Path) -> None:
    good = chat_model.read_bytes()
    daemon.container.write(f"/models/{FILES[0]}", good[:-100])
    restart = ["systemctl", "restart", UNIT]
    reported = daemon.reported("backoff", ONE, lambda: daemon.container.run(restart, check=False))
    reason = reported["stateReason"]
    assert reason.startswith("exited with status 1: ")
    assert "not within the file bounds" in reason
    daemon.container.write(f"/models/{FILES[0]}", good)
