"""A key for every process of a server, on real systemd of every release."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from magid.systemd.unit_names import unit_name
from tests.lab.container import Container
from tests.lab.serving import MODELS, Daemon, installed_in

pytestmark = pytest.mark.slow

ONE = next(iter(MODELS))
PORT = MODELS[ONE]
UNIT = unit_name(PORT)
SOCKET = "/run/magi/key.sock"
HELPERS = (
    "magi-launcher.socket",
    "magi-launcher.service",
    "magid.socket",
    "magid-local.socket",
    "magid-view.socket",
)
CALM = {"model": ONE, "prompt": "a", "max_tokens": 1}
# As systemd asks. What is answered, if anything.
ASK_FOR_A_KEY = f"""\
import socket
with socket.socket(socket.AF_UNIX) as sock:
    sock.bind("\\0ab/unit/llama-server@{PORT}.service/api-key")
    try:
        sock.connect("{SOCKET}")
        print(sock.makefile().read())
    except OSError as error:
        print(type(error).__name__)
"""
# By a process that was taken over: its own unit's view, user and lack of rights.
LOOK_AROUND = f"""\
import glob, os
for path in ("/run/magi", "{SOCKET}", "/run/magi-keys", "/run/magi-keys/{PORT}.key"):
    print(path, os.path.lexists(path))
for process in glob.glob("/proc/[0-9]*"):
    for name in glob.glob(process + "/fd/*"):
        try:
            target = os.readlink(name)
        except OSError:
            continue
        if "magi-keys" in target or "key.sock" in target:
            print(name, True)
"""


SILENT = """\
import socket
listening = socket.socket(fileno=3)
while True:
    listening.accept()[0].close()
"""


@pytest.fixture(scope="module")
def daemon(container: Container, chat_model: Path) -> Iterator[Daemon]:
    one = installed_in(container, chat_model)
    one.wait_ready()
    yield one
    one.client.close()


def key_of(container: Container) -> str:
    return container.run(["cat", f"/run/magi-keys/{PORT}.key"], user="magi").stdout.strip()


def status_with(container: Container, key: str) -> int:
    bearer = {"Authorization": f"Bearer {key}"}
    return container.http("GET", f"http://127.0.0.1:{PORT}/props", headers=bearer).status_code


def status_of(container: Container) -> int | None:
    """What the server answers without a key; None if it does not answer."""
    try:
        return container.http("GET", f"http://127.0.0.1:{PORT}/props").status_code
    except httpx.TransportError:
        return None


def renewed(container: Container, act: Callable[[], object]) -> tuple[str, str]:
    """The key before this, and the one of the process that serves after it."""
    pid, old = container.pid_of(UNIT), key_of(container)
    assert status_with(container, old) == 200
    act()

    def is_another() -> bool:
        state = container.show(UNIT, "ActiveState")["ActiveState"]
        return state == "active" and container.pid_of(UNIT) not in (0, pid)

    container.wait_until(is_another, "another process that is ready")
    return old, key_of(container)


def test_every_process_has_a_key_of_its_own(daemon: Daemon) -> None:
    """Whoever starts it, and while neither magid nor its launcher runs."""
    container, seen = daemon.container, list[str]()
    container.systemctl("stop", "magid.service", *HELPERS)
    try:
        for act in (
            lambda: container.systemctl("restart", UNIT),
            lambda: container.run(["kill", "-KILL", str(container.pid_of(UNIT))]),
            lambda: container.systemctl("restart", UNIT),
        ):
            old, new = renewed(container, act)
            assert status_with(container, old) == 401
            assert status_with(container, new) == 200
            seen += [old, new]
    finally:
        container.systemctl("start", *HELPERS[2:], HELPERS[0], "magid.service")
    assert len(set(seen)) == 4
    daemon.wait_ready()
    assert daemon.client.post("/v1/completions", json=CALM).status_code == 200
    found = container.run(["journalctl", "--no-pager"]).stdout
    assert not [key for key in seen if key in found]


def test_magid_knows_the_key_of_the_moment(daemon: Daemon) -> None:
    container = daemon.container
    for act in (
        lambda: container.systemctl("restart", UNIT),
        lambda: container.run(["kill", "-KILL", str(container.pid_of(UNIT))]),
        lambda: container.systemctl("daemon-reexec") or container.systemctl("restart", UNIT),
    ):
        old, new = renewed(container, act)
        assert old != new
        daemon.wait_ready()
        assert daemon.client.post("/v1/completions", json=CALM).status_code == 200
        assert daemon.client.get(f"/api/models/servers/{ONE}/metrics").status_code == 200


def test_a_reload_or_reexec_makes_no_key(daemon: Daemon) -> None:
    container = daemon.container
    before = key_of(container), container.pid_of(UNIT)
    for verb in ("daemon-reload", "daemon-reexec"):
        container.systemctl(verb)
    assert (key_of(container), container.pid_of(UNIT)) == before
    assert status_with(container, before[0]) == 200


def test_a_server_cannot_have_the_key_of_the_next(daemon: Daemon) -> None:
    """Neither the maker of keys nor its files are seen in a unit; nobody but root may ask."""
    container = daemon.container
    before, uid = key_of(container), container.show(UNIT, "UID")["UID"]
    inside = ["nsenter", "--target", str(container.pid_of(UNIT)), "--mount", "--wd=/"]
    as_model = ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups"]
    python = ["/usr/bin/python3", "-I", "-c"]
    looked = container.run([*inside, *as_model, *python, LOOK_AROUND]).stdout.splitlines()
    assert len(looked) == 4
    assert {line.rpartition(" ")[2] for line in looked} == {"False"}
    outcome = container.run([*inside, *as_model, *python, ASK_FOR_A_KEY]).stdout.strip()
    assert outcome == "FileNotFoundError"
    for user in ("magi", "nobody"):
        outcome = container.run([*python, ASK_FOR_A_KEY], user=user).stdout.strip()
        assert outcome == "PermissionError", user
    assert key_of(container) == before
    # That it is asked rightly: root gets one.
    assert container.run([*python, ASK_FOR_A_KEY]).stdout.strip() == key_of(container) != before
    container.systemctl("restart", UNIT)  # what root got is no server's
    daemon.wait_ready()


def test_without_a_key_nothing_is_started(daemon: Daemon) -> None:
    """A maker that answers nothing: systemd takes that for a key, llama-server for none at all."""
    container, drop_in = daemon.container, "/run/systemd/system/magi-key.service.d/fails.conf"
    container.write("/run/silent.py", SILENT)
    for program in ("/usr/bin/python3 -I /run/silent.py", "/bin/false"):
        container.write(drop_in, f"[Service]\nExecStart=\nExecStart={program}\n")
        container.systemctl("daemon-reload")
        container.systemctl("stop", "magi-key.service")
        assert container.run(["systemctl", "restart", UNIT], check=False).returncode != 0, program
        assert container.pid_of(UNIT) == 0 or status_of(container) is None
    said = [str(entry["MESSAGE"]) for entry in container.journal(UNIT)]
    assert any("cannot start without a key" in line for line in said)
    container.run(["rm", "-r", drop_in.rpartition("/")[0]])
    container.systemctl("daemon-reload")
    container.systemctl("reset-failed", UNIT, "magi-key.service", "magi-key.socket", check=False)
    container.systemctl("restart", UNIT)  # and what it wants
    daemon.wait_ready()


def test_many_at_once(daemon: Daemon) -> None:
    """Every server of the machine is started in the same moment."""
    container, units = daemon.container, [unit_name(port) for port in MODELS.values()]
    container.systemctl("stop", *units)
    container.systemctl("stop", "magi-key.socket")  # and its service; a start brings both back
    container.systemctl("start", *units)
    daemon.wait_ready()
    keys = {container.read(f"/run/magi-keys/{port}.key") for port in MODELS.values()}
    assert len(keys) == len(MODELS)
    assert container.show("magi-key.socket", "ActiveState")["ActiveState"] == "active"
