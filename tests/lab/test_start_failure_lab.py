"""A magid that cannot start, under systemd: it says why, and nothing is retried for ever."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.api.test_tls import make_pair
from tests.lab.container import Container
from tests.lab.installing import install_magid
from tests.lab.serving import UNITS
from tests.lab.trees import NEWEST, OLDEST

# What systemd does with a socket whose service fails again and again differs between these two.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize(
        "release", [OLDEST, NEWEST], ids=lambda one: one.name, indirect=True, scope="session"
    ),
]

SOCKET = "/run/magi/magid.sock"
SOCKETS = ("magid.socket", "magid-local.socket", "magid-view.socket")
SETTINGS = "/etc/magi/magid.yaml"
# Returns when the socket is closed under it.
CONNECT = f"""\
import socket
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect("{SOCKET}")
    sock.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n")
    try:
        assert sock.recv(1) == b""
    except ConnectionResetError:
        pass
"""
SOUND = "model_paths: [/var/lib/magi/models]\n"
STATUS = "/api/models/status"


@pytest.fixture(scope="module")
def machine(container: Container) -> Container:
    install_magid(container)
    container.write(SETTINGS, SOUND)
    container.systemctl("enable", *UNITS)
    container.systemctl("start", *UNITS)
    return container


@contextmanager
def broken(machine: Container, settings: str) -> Iterator[None]:
    """magid.yaml cannot be used, and magid is restarted with it; sound again afterwards."""
    machine.write(SETTINGS, settings)
    machine.systemctl("restart", "magid.service", check=False)
    try:
        yield
    finally:
        machine.write(SETTINGS, SOUND)
        machine.systemctl("restart", "magid.service")


def starts(machine: Container) -> int:
    said = machine.journal("magid.service")
    return sum(entry["MESSAGE"].startswith("magid: cannot") for entry in said)


def error_of(machine: Container, user: str | None = None) -> str:
    """What magictl says of a magid that does not run. It takes two seconds on an idle machine."""
    began = time.monotonic()
    done = machine.run(["magictl", "status"], user=user, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert time.monotonic() - began < 15  # and not for as long as it is tried again
    return done.stderr


def test_clients_get_the_reason_and_the_sockets_stay_open(machine: Container) -> None:
    with broken(machine, "port_rnage: [1, 2]\n"):
        assert machine.show("magid.service", "ActiveState", "ExecMainStatus") == {
            "ActiveState": "failed", "ExecMainStatus": "78",
        }  # fmt: skip
        before = starts(machine)
        for _ in range(30):
            with machine.unix_client(SOCKET) as client:
                answer = client.get(STATUS)
            assert (answer.status_code, answer.json()["error"]) == (503, "CannotStart")
            assert f"{SETTINGS}: line 1: port_rnage" in answer.json()["message"]
        with machine.client("http://127.0.0.1:8000") as client:
            assert client.get(STATUS).json()["error"] == "CannotStart"
        for user in (None, "magi"):  # with and without the right to read the journal
            done = error_of(machine, user)
            assert done.startswith(f"magictl: cannot use {SETTINGS}\nline 1: port_rnage")
            assert "systemctl restart magid\n" in done
        assert starts(machine) - before <= 6  # one answers all that come within ten seconds
        assert machine.systemctl("is-active", *SOCKETS).split() == ["active"] * len(SOCKETS)
        why = machine.show("magid.service", "StatusText")["StatusText"]
        assert f"{SETTINGS}: line 1: port_rnage" in why  # for every user, without the journal
        machine.wait_until(
            lambda: machine.systemctl("is-active", "magid.service", check=False) == "failed",
            "end of the last start",
        )
        settled = starts(machine)
        assert machine.show("magid.service", "NRestarts") == {"NRestarts": "0"}
        assert starts(machine) == settled
        found = machine.run(["magictl", "doctor"], check=False).stdout
        assert f"cannot use {SETTINGS}: line 1: port_rnage" in found
    with machine.unix_client(SOCKET) as client:
        assert client.get("/livez").status_code == 200


def test_a_stopped_one_is_said_to_be_stopped(machine: Container) -> None:
    machine.systemctl("stop", "magid.service", *SOCKETS)
    assert (
        error_of(machine)
        == "magictl: cannot use magid\nit is stopped\ntry: systemctl start magid\n"
    )
    machine.systemctl("start", "magid")
    machine.run(["magictl", "profile", "ls"])


def test_a_tcp_port_in_use_leaves_the_unix_socket(machine: Container) -> None:
    machine.systemctl("stop", "magid.service", *SOCKETS)
    thief = ["python3", "-m", "http.server", "--bind", "127.0.0.1", "8000"]
    machine.run(["systemd-run", "--unit=thief", "--working-directory=/srv", *thief])
    listening = ["ss", "--listening", "--tcp", "--numeric", "--no-header", "sport = 8000"]
    machine.wait_until(lambda: bool(machine.run(listening).stdout), "thief")
    try:
        machine.systemctl("start", "magid-local.socket")
        machine.systemctl("start", "magid.service")
        with machine.unix_client(SOCKET) as client:
            problems = client.get(STATUS).json()["problems"]
        assert [p for p in problems if p.startswith("cannot listen on TCP: magid.socket")]
        assert machine.systemctl("is-active", *SOCKETS, check=False).split() == [
            "failed", "active", "active",
        ]  # fmt: skip
    finally:
        machine.systemctl("stop", "thief")
    # The command of the message is enough.
    machine.systemctl("restart", "magid")
    assert machine.http("GET", "http://127.0.0.1:8000/livez").status_code == 200
    with machine.unix_client(SOCKET) as client:
        problems = client.get(STATUS).json()["problems"]
        assert [p for p in problems if "cannot listen" in p] == []


def test_where_it_cannot_even_be_run_systemd_gives_up(machine: Container) -> None:
    """Nothing can answer then: systemd's limits close the sockets, and nothing is retried."""
    folder = "/etc/systemd/system/magid.service.d"
    # Each start fails within milliseconds: at this rate systemd's own limits of sockets come first.
    machine.write(
        f"{folder}/broken.conf",
        "[Service]\nExecStartPre=\nExecStart=\nExecStart=/usr/bin/none\n",
    )
    machine.systemctl("daemon-reload")
    try:
        machine.systemctl("restart", "magid.service", check=False)
        assert machine.show("magid.service", "ActiveState", "ExecMainStatus") == {
            "ActiveState": "failed", "ExecMainStatus": "203",
        }  # fmt: skip
        said = error_of(machine)
        assert said.splitlines()[1] in (
            "its program /usr/bin/magid is not there, or cannot be run",
            "magid.service: Failed at step EXEC spawning /usr/bin/none: No such file or directory",
        )
        machine.run(["python3", "-I", "-c", CONNECT])
        machine.wait_until(
            lambda: (
                machine.systemctl("is-active", *SOCKETS, "magid.service", check=False).split()
                == ["failed"] * len([*SOCKETS, "magid.service"])
            ),
            "end of the tries",
        )
        assert error_of(machine).startswith("magictl: cannot ")
    finally:
        machine.run(["rm", "-r", folder])
        machine.systemctl("daemon-reload")
        machine.systemctl("reset-failed", "magid.service")
        machine.systemctl("start", *SOCKETS, "magid.service")
    assert machine.http("GET", "http://127.0.0.1:8000/livez").status_code == 200


def test_a_module_that_cannot_be_imported_is_said_once(machine: Container) -> None:
    """Every user gets the reason, with or without the journal; nothing is retried."""
    module, away = "/usr/lib/magi/vendor/msgspec", "/srv/msgspec"
    machine.run(["mv", module, away])
    try:
        before = machine.show("magid.service", "NRestarts")
        machine.systemctl("restart", "magid.service", check=False)
        assert machine.show("magid.service", "ActiveState", "ExecMainStatus", "NRestarts") == {
            "ActiveState": "failed", "ExecMainStatus": "78", **before,
        }  # fmt: skip
        for user in (None, "magi"):
            sudo = "" if user is None else "sudo "
            assert error_of(machine, user) == (
                "magictl: cannot start magid\n"
                "ModuleNotFoundError: No module named 'msgspec'\n"
                "magid does not run because of this\n"
                f"try: {sudo}apt install --reinstall magi python3-systemd\n"
                f"     {sudo}magid --check\n"
                f"     {sudo}systemctl restart magid\n"
            )
        with machine.client("http://127.0.0.1:8000") as client:
            answer = client.get(STATUS)
        assert (answer.status_code, answer.json()["error"]) == (503, "CannotStart")
        assert "msgspec" not in answer.text
        checked = machine.run(["magid", "--check"], check=False)
        assert checked.returncode == 78
        assert checked.stderr.splitlines()[-1] == (
            "magid: cannot start magid: ModuleNotFoundError: No module named 'msgspec'; "
            "apt install --reinstall magi python3-systemd"
        )
        assert machine.systemctl("is-active", *SOCKETS).split() == ["active"] * len(SOCKETS)
    finally:
        machine.run(["mv", away, module])
        machine.systemctl("restart", "magid.service")
    assert machine.http("GET", "http://127.0.0.1:8000/livez").status_code == 200


def test_a_crash_loop_is_quoted_from_the_log(machine: Container) -> None:
    """It ends before it answers, and systemd starts it again and again."""
    folder = "/etc/systemd/system/magid.service.d"
    program = "ExecStart=/usr/bin/python3 -Ic 'raise RuntimeError(\"broken\")'"
    machine.write(f"{folder}/broken.conf", f"[Service]\nExecStart=\n{program}\n")
    machine.systemctl("daemon-reload")
    try:
        machine.systemctl("restart", "magid.service", check=False)
        said = error_of(machine)
        assert said.startswith("magictl: cannot start magid\nRuntimeError: broken\n")
        assert said.endswith(
            "try: journalctl -n 20 -u magid\n     magid --check\n     systemctl restart magid\n"
        )
        assert "journalctl" in error_of(machine, "magi")  # who may not read the journal
    finally:
        machine.run(["rm", "-r", folder])
        machine.systemctl("daemon-reload")
        machine.systemctl("stop", *SOCKETS, "magid.service")  # also a start that is under way
        machine.systemctl("reset-failed", "magid.service")
        machine.systemctl("start", *SOCKETS, "magid.service")
    assert machine.http("GET", "http://127.0.0.1:8000/livez").status_code == 200


# -- owners --------------------------------------------------------------------------------------

OTHER = 4711  # no user of this machine
STATE = "/var/lib/magi"
MODEL = f"{STATE}/models/A-1B-Q4_K_M.gguf"


def owner(machine: Container, path: str) -> str:
    return machine.run(["stat", "--dereference", "--format=%u:%g", path]).stdout.strip()


def test_a_backup_from_a_machine_with_other_user_ids(machine: Container) -> None:
    """It is put right by the next start, but for models, and no model's group is lost."""
    machine.systemctl("restart", "magid.service")
    machine.run(["magictl", "token", "create", "--name", "a", "--scope", "read"])
    magi = machine.run(["sh", "-c", "echo $(id -u magi):$(id -g magi)"]).stdout.strip()
    machine.write(f"{STATE}/models/A-1B-Q4_K_M.gguf", b"GGUF")
    machine.write("/etc/magi/profiles/mine.yaml", "name: Mine\nenabled_models: []\n", 0o640)
    files = [f"{STATE}/model_registry.json", f"{STATE}/tokens.json", "/etc/magi/profiles/mine.yaml"]
    try:
        machine.systemctl("stop", "magid.service")
        machine.run(["chown", "-R", f"{OTHER}:{OTHER}", STATE, "/etc/magi/profiles"])
        machine.systemctl("start", "magid.service")
        assert [owner(machine, path) for path in (STATE, *files)] == [magi] * 4
        assert owner(machine, MODEL) == f"{OTHER}:{OTHER}"
        shown = machine.run(["magictl", "profile", "ls"]).stdout
        assert "mine" in shown.split()
        assert machine.run(["magictl", "token", "ls"]).stdout.split("\n")[1].startswith("a ")
        with machine.unix_client(SOCKET) as client:
            problems = client.get(STATUS).json()["problems"]
        # The model is none: its bytes are only there to have an owner.
        assert [p for p in problems if p.startswith("cannot ")] == []
        said = [entry["MESSAGE"] for entry in machine.journal("magid.service")]
        assert f"gave {STATE}/tokens.json to magi: it belonged to user {OTHER}" in said
    finally:
        machine.run(["rm", "-f", MODEL, files[-1], f"{STATE}/tokens.json"])
        machine.systemctl("restart", "magid.service")


def test_the_state_on_another_disk_by_a_link(machine: Container) -> None:
    machine.systemctl("stop", "magid.service")
    machine.run(["mv", STATE, "/srv/magi"])
    machine.run(["ln", "-s", "/srv/magi", STATE])
    try:
        machine.systemctl("start", "magid.service")
        with machine.unix_client(SOCKET) as client:
            assert client.get("/livez").status_code == 200
        assert machine.exists("/srv/magi/magid.lock")
    finally:
        machine.systemctl("stop", "magid.service")
        machine.run(["rm", STATE])
        machine.run(["mv", "/srv/magi", STATE])
        machine.systemctl("start", "magid.service")


def test_a_state_that_cannot_be_written_is_said_once(machine: Container) -> None:
    """No owner is wrong here: no other start would help, so there is none."""
    lock = f"{STATE}/magid.lock"
    machine.systemctl("stop", "magid.service")
    machine.run(["sh", "-c", f"rm {lock} && mkdir {lock}"])
    try:
        before = starts(machine)
        machine.systemctl("start", "magid.service", check=False)
        assert machine.show("magid.service", "ActiveState", "ExecMainStatus") == {
            "ActiveState": "failed", "ExecMainStatus": "78",
        }  # fmt: skip
        assert starts(machine) == before + 1
        assert error_of(machine).startswith(
            f"magictl: cannot write {lock}\nIs a directory\nmagid does"
        )
    finally:
        machine.run(["rmdir", lock])
        machine.systemctl("restart", "magid.service")


# -- magid --check -------------------------------------------------------------------------------

DROP_IN = "/etc/systemd/system/magid.socket.d"
SERVICE_DROP_IN = "/etc/systemd/system/magid.service.d"
TLS = "tls_cert: /etc/magi/cert.pem\ntls_key: /etc/magi/key.pem\n"
COMMANDS = ("systemctl ", "magictl ", "ch", "install ", "mkdir ", "echo ")


def pair(machine: Container, folder: Path) -> None:
    cert, key = make_pair(folder)
    machine.write("/etc/magi/cert.pem", cert.read_bytes())
    machine.write("/etc/magi/key.pem", key.read_bytes(), 0o600)


def test_check_finds_every_cause_as_magi_and_its_commands_mend_them(
    machine: Container, tmp_path: Path
) -> None:
    sound = machine.run(["magid", "--check"])
    assert sound.stderr == ""
    assert f"{SETTINGS}:1" in sound.stdout
    pair(machine, tmp_path)
    machine.write(SETTINGS, SOUND + TLS + "registry_path: /srv/kept/registry.json\n")
    machine.run(["mkdir", "/srv/kept"])
    machine.write(f"{DROP_IN}/lan.conf", "[Socket]\nListenStream=\nListenStream=0.0.0.0:8000\n")
    machine.systemctl("daemon-reload")
    machine.systemctl("stop", "magid.service", "magid.socket")
    thief = ["python3", "-m", "http.server", "--bind", "127.0.0.1", "8000"]
    machine.run(["systemd-run", "--unit=thief", "--working-directory=/srv", *thief])
    listening = ["ss", "--listening", "--tcp", "--numeric", "--no-header", "sport = 8000"]
    machine.wait_until(lambda: bool(machine.run(listening).stdout), "thief")
    try:
        done = machine.run(["magid", "--check"], check=False)
        assert (done.returncode, done.stdout) == (78, "")
        found = [line for line in done.stderr.splitlines() if line.startswith("magid: ")]
        assert len(found) == 5, done.stderr
        for what in (
            "cannot listen on 0.0.0.0:8000: other machines can reach it",
            "cannot listen on 0.0.0.0:8000: python3 (pid ",
            "cannot use the certificate /etc/magi/cert.pem with the key /etc/magi/key.pem: magi "
            "may not read /etc/magi/key.pem",
            "cannot write to /srv/kept: it belongs to root, and magid runs as magi",
            "cannot write to /srv/kept: the sandbox of magid.service has other folders only",
        ):
            assert [line for line in found if line.startswith(f"magid: {what}")], done.stderr
        nobody = machine.run(["magid", "--check"], user="nobody", check=False)
        assert nobody.returncode == 78
        assert "sudo magid --check" in nobody.stderr

        for line in done.stderr.splitlines():
            if line.startswith("    ") and line.strip().startswith(COMMANDS):
                machine.run(["sh", "-c", line])
        assert machine.run(["magid", "--check"]).stderr == ""
        machine.systemctl("restart", "magid")  # the last line of what it printed
        assert machine.exists("/srv/kept/registry.json.ballast")
    finally:
        machine.systemctl("stop", "thief", check=False)
        machine.run(
            [
                "rm",
                "-rf",
                DROP_IN,
                "/etc/systemd/system/magid.service.d",
                "/srv/kept",
                f"{STATE}/tokens.json",
            ]
        )
        machine.write(SETTINGS, SOUND)
        machine.systemctl("daemon-reload")
        machine.systemctl("restart", "magid.service")


def test_check_knows_a_masked_unit(machine: Container) -> None:
    machine.systemctl("mask", "magid.service")
    try:
        done = machine.run(["magid", "--check"], check=False)
        assert done.returncode == 78
        assert "magid: cannot start magid.service: it is masked\n" in done.stderr
        assert "    systemctl unmask magid.service\n" in done.stderr
    finally:
        machine.systemctl("unmask", "magid.service")
