"""The laboratory itself: what its machines are and enforce, and that nothing of them remains."""

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from magid import __version__
from tests.lab import folders
from tests.lab.container import CommandFailed, Container, booted
from tests.lab.installing import install_magid
from tests.lab.layers import home
from tests.lab.trees import RELEASES, ROOT, VENDOR, Release, Tree
from tests.support import ggufs

pytestmark = pytest.mark.slow

DYNAMIC_UIDS = range(61184, 65520)  # systemd's own range, systemd.exec(5)
MODEL = "/srv/models/Demo-Tiny-F16.gguf"
PORT = 8080
IMPORTS = "import sanic, uvloop, pydantic, yaml, psutil, sdnotify, dbus_fast.aio, systemd.journal"


def in_unit(container: Container, properties: list[str], *argv: str) -> tuple[int, str]:
    """Exit status and output of a program run as a transient unit with these properties."""
    chosen = [f"--property={text}" for text in properties]
    command = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", *chosen, "--", *argv]
    done = container.run(command, check=False)
    return done.returncode, done.stdout


# --- what they are --------------------------------------------------------------------------


def test_boots_the_release(container: Container, release: Release) -> None:
    assert container.systemctl("is-system-running") == "running", container.diagnosis()
    assert container.systemctl("--version").split()[1] == str(release.systemd)
    shown = container.run(["python3", "-c", "import sys; print(*sys.version_info[:2], sep='.')"])
    assert shown.stdout.strip() == release.python


def test_has_the_dependencies_of_magid(container: Container) -> None:
    code = f"import sys; sys.path.insert(0, {VENDOR!r}); {IMPORTS}"
    container.run(["python3", "-I", "-W", "error", "-c", code])


def test_runs_magid_of_the_checkout(container: Container) -> None:
    install_magid(container)
    version = container.run(["magid", "--version"], user="nobody").stdout
    assert version == f"magid {__version__}\n"
    assert "usage: magictl" in container.run(["magictl", "--help"], user="nobody").stdout


def test_systemd_knows_the_units_of_the_checkout(container: Container) -> None:
    install_magid(container)
    kinds = {".service", ".socket", ".slice", ".target"}
    files = [path.name for path in (ROOT / "systemd").iterdir() if path.suffix in kinds]
    units = [name.replace("@.", "@an-instance.") for name in files]
    assert units
    loaded = {name: container.show(name, "LoadState")["LoadState"] for name in units}
    assert loaded == dict.fromkeys(units, "loaded")


def test_installing_again_leaves_no_module_of_the_version_before(container: Container) -> None:
    install_magid(container)
    container.write("/usr/lib/magi/magid/former.py", "")
    assert container.read("/etc/magi/magid.yaml") == (ROOT / "etc/magid.yaml").read_bytes()
    container.write("/etc/magi/magid.yaml", "profile: mine\n")
    install_magid(container)
    assert not container.exists("/usr/lib/magi/magid/former.py")
    assert container.read("/etc/magi/magid.yaml") == b"profile: mine\n"


# --- what they do ---------------------------------------------------------------------------


def test_journal_has_what_a_unit_says(container: Container) -> None:
    container.run(["systemd-run", "--wait", "--unit=speaker", "echo", "heard in the journal"])
    entries = container.journal("speaker.service", "_TRANSPORT=stdout")
    assert [entry["MESSAGE"] for entry in entries] == ["heard in the journal"]


def test_dynamic_user(container: Container) -> None:
    status, uid = in_unit(container, ["DynamicUser=yes"], "id", "-u")
    assert status == 0
    assert int(uid) in DYNAMIC_UIDS


@contextlib.contextmanager
def listener(container: Container, port: int) -> Iterator[None]:
    server = ["python3", "-m", "http.server", "--bind", "127.0.0.1", str(port)]
    container.run(["systemd-run", "--unit=listener", "--collect", *server])
    try:
        container.wait_until(lambda: listens(container, port), f"listener on {port}")
        yield
    finally:
        container.systemctl("stop", "listener")


def listens(container: Container, port: int) -> bool:
    return f":{port} " in container.run(["ss", "--tcp", "--listening", "--numeric"]).stdout


@pytest.mark.parametrize(
    ("properties", "reached"),
    [
        ([], True),
        (["IPAddressDeny=any"], False),
        (["IPAddressDeny=any", "IPAddressAllow=localhost"], True),
    ],
    ids=["free", "denied", "allowed"],
)
def test_address_rules_are_enforced(
    container: Container, properties: list[str], reached: bool
) -> None:
    with listener(container, 8001):
        curl = ("curl", "--silent", "--max-time", "2", "http://127.0.0.1:8001/etc/hostname")
        status, _ = in_unit(container, properties, *curl)
    assert (status == 0) is reached


def test_bind_rules_are_enforced_where_systemd_can(container: Container, release: Release) -> None:
    """Debian 12's systemd is built without BPF_FRAMEWORK, and ignores them."""
    code = "import socket; socket.socket().bind(('127.0.0.1', 8002))"
    status, _ = in_unit(container, ["SocketBindDeny=any"], "python3", "-c", code)
    assert (status == 0) is (release.systemd < 257)


def test_a_real_llama_server_runs_in_a_sandbox(container: Container, tmp_path: Path) -> None:
    model = ggufs.write_chat_model(tmp_path / "model.gguf", quantization="F16")
    container.write(MODEL, model.read_bytes())
    sandbox = ("DynamicUser=yes", "ProtectSystem=strict", "ProtectHome=yes", "PrivateTmp=yes")
    rules = [f"--property={text}" for text in (*sandbox, "IPAddressDeny=any")]
    server = [container.release.llama_server, "--model", MODEL, "--port", str(PORT), "--offline"]
    container.run(
        ["systemd-run", "--unit=tiny", "--property=IPAddressAllow=localhost", *rules, *server]
    )
    with container.client(f"http://127.0.0.1:{PORT}") as client:
        container.wait_until(lambda: is_healthy(client), "healthy llama-server")
        question = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
        answer = client.post("/v1/chat/completions", json=question).json()
    assert ggufs.ANSWER.startswith(answer["choices"][0]["message"]["content"].strip())
    pid = container.pid_of("tiny")
    owner = container.run(["stat", "--format=%u", f"/proc/{pid}"]).stdout
    assert int(owner) in DYNAMIC_UIDS
    container.systemctl("stop", "tiny")
    assert container.pid_of("tiny") == 0


def is_healthy(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


# --- reaching into them ---------------------------------------------------------------------


def test_many_requests_at_once_arrive(container: Container) -> None:
    with (
        listener(container, 8003),
        container.client("http://127.0.0.1:8003") as client,
        ThreadPoolExecutor(32) as pool,
    ):
        got = list(pool.map(lambda _: client.get("/etc/os-release"), range(400)))
    assert {answer.status_code for answer in got} == {200}
    assert {answer.content for answer in got} == {container.read("/etc/os-release")}


def test_an_event_loop_runs_in_there(container: Container) -> None:
    async def ask() -> set[int]:
        async with httpx.AsyncClient(trust_env=False) as client:
            url = "http://127.0.0.1:8003/etc/os-release"
            answered = await asyncio.gather(*(client.get(url) for _ in range(20)))
        return {answer.status_code for answer in answered}

    with listener(container, 8003):
        assert container.network.call(lambda: asyncio.run(ask())) == {200}


def test_a_refused_connection_is_seen_as_such(container: Container) -> None:
    with pytest.raises(httpx.ConnectError, match="refused"):
        container.http("GET", "http://127.0.0.1:8004/")


def test_a_socket_file_is_reached(container: Container) -> None:
    path = "/run/lab-test.sock"
    server = f"""
import http.server, socketserver
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(204)
        self.end_headers()
    def address_string(self):
        return "a socket file"
socketserver.UnixStreamServer({path!r}, Handler).serve_forever()
"""
    container.run(["systemd-run", "--unit=on-a-file", "--collect", "python3", "-c", server])
    container.wait_until(lambda: container.exists(path), "socket file")
    with container.unix_client(path) as client:
        container.wait_until(lambda: answers(client), "answer")
    container.systemctl("stop", "on-a-file")
    container.run(["rm", path])


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/").status_code == 204
    except httpx.ConnectError:
        return False


def test_files(container: Container) -> None:
    container.write("/srv/deep/file", b"\0\xff", mode=0o600)
    assert container.exists("/srv/deep/file")
    assert container.read("/srv/deep/file") == b"\0\xff"
    assert container.run(["stat", "--format=%a", "/srv/deep/file"]).stdout == "600\n"
    with pytest.raises(CommandFailed, match="No such file"):
        container.read("/srv/other")


def test_an_absolute_link_stays_inside(container: Container) -> None:
    container.run(["ln", "-sfn", "/etc", "/srv/link"])
    container.write("/srv/link/lab-test", "in there")
    assert container.read("/etc/lab-test") == b"in there"
    assert not Path("/etc/lab-test").exists()


def test_programs(container: Container) -> None:
    assert container.run(["cat"], input="given").stdout == "given"
    assert container.run(["id", "-un"], user="nobody").stdout == "nobody\n"
    assert container.run(["sh", "-c", "echo $A"], environment={"A": "b"}).stdout == "b\n"
    assert container.run(["false"], check=False).returncode == 1
    with pytest.raises(CommandFailed, match="ended with 2:\nno"):
        container.run(["sh", "-c", "echo no; exit 2"])


@pytest.mark.parametrize("user", [None, "nobody"])
def test_a_program_that_takes_too_long_is_ended(container: Container, user: str | None) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        container.run(["sleep", "1234"], timeout=0.5, user=user)
    container.wait_until(
        lambda: not container.run(["pgrep", "-f", "sleep 1234"], check=False).stdout, "end of it"
    )


def test_a_wait_in_vain_shows_the_journal(container: Container) -> None:
    container.run(["systemd-run", "--wait", "--unit=witness", "echo", "what happened"])
    with pytest.raises(AssertionError, match=r"(?s)no miracle within 0.1 s.*what happened"):
        container.wait_until(lambda: False, "miracle", deadline=0.1)


# --- their lives ----------------------------------------------------------------------------


def started(container: Container) -> str:
    return container.systemctl("show", "--property=UserspaceTimestampMonotonic", "--value")


@pytest.mark.parametrize("again", ["reboot", "poweroff", "crash"])
def test_what_is_on_disk_outlives_a_boot(fresh_container: Container, again: str) -> None:
    fresh_container.write("/var/lib/kept", "kept")
    fresh_container.write("/run/lost", "lost")
    before = started(fresh_container)
    match again:
        case "reboot":
            fresh_container.reboot()
        case "poweroff":
            fresh_container.poweroff()
            fresh_container.boot()
        case _:
            fresh_container.crash()
            fresh_container.boot()
    assert started(fresh_container) != before
    assert fresh_container.read("/var/lib/kept") == b"kept"
    assert not fresh_container.exists("/run/lost")
    assert fresh_container.systemctl("is-system-running") == "running"


def test_two_do_not_see_each_other(container: Container, fresh_container: Container) -> None:
    """Each has a control group of its own, and in it services of the same names."""
    groups = [control_groups(one) for one in (container, fresh_container)]
    assert groups[0].isdisjoint(groups[1])
    for one, own in zip((container, fresh_container), groups, strict=True):
        assert all(one.name in path for path in own), own
    for one in (container, fresh_container):
        one.write("/srv/name", one.name)
        one.run(["systemd-run", "--unit=same", "sleep", "infinity"])
    with listener(container, 8005), listener(fresh_container, 8005):
        for one in (container, fresh_container):
            assert one.http("GET", "http://127.0.0.1:8005/srv/name").text == one.name
    fresh_container.systemctl("stop", "same")
    assert container.show("same", "ActiveState") == {"ActiveState": "active"}
    container.systemctl("stop", "same")


def control_groups(container: Container) -> set[str]:
    """Of its PID 1, as the host sees them, in the hierarchies that systemd uses."""
    command = container.command([])
    leader = command[command.index("--target") + 1]
    lines = Path(f"/proc/{leader}/cgroup").read_text().splitlines()
    fields = [line.split(":", 2) for line in lines]
    return {path for _, controllers, path in fields if controllers in ("", "name=systemd")}


def remains(name: str) -> list[str]:
    """What there is on this machine of a container."""
    # os.walk passes over what others remove meanwhile.
    found = [folder for folder, *_ in os.walk("/sys/fs/cgroup") if Path(folder).name == name]
    found += [str(path) for path in Path("/run/systemd/nspawn").rglob(f"*{name}*")]
    found += [str(path) for path in (home() / "run").glob(name)]
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if name in line]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        found += [words] if name in words else []
    return found


def test_nothing_stays_behind(tree: Tree) -> None:
    with booted(tree) as container:
        name = container.name
        container.run(["systemd-run", "--property=Restart=always", "sleep", "infinity"])
        assert len(remains(name)) >= 3, "else it cannot be seen that they go"
    assert not remains(name)


def test_nothing_stays_behind_after_a_failure(tree: Tree) -> None:
    with contextlib.suppress(RuntimeError), booted(tree) as container:
        name = container.name
        raise RuntimeError
    assert not remains(name)


KILLED = """
import sys
from pathlib import Path
from tests.lab.container import booted
from tests.lab.trees import Release, Tree
release, *layers = sys.argv[1:]
with booted(Tree(Release(release, 0, ""), tuple(map(Path, layers)))) as container:
    print(container.name, container.run(["true"]) and container._running().leader, flush=True)
    sys.stdin.read()
"""


def test_a_killed_session_leaves_what_the_next_one_sweeps(tree: Tree) -> None:
    arguments = [tree.release.name, *map(str, tree.layers)]
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as session:
        assert session.stdout is not None
        name, leader = session.stdout.readline().split()
        ended = os.pidfd_open(int(leader))
        session.send_signal(signal.SIGKILL)
    try:
        assert select.select([ended], [], [], 10.0)[0], "the container has outlived its session"
    finally:
        os.close(ended)
    assert not [line for line in Path("/proc/mounts").read_text().splitlines() if name in line]
    folders.sweep_up()
    assert not remains(name)


def test_a_copy_serves_where_no_overlay_can_be_mounted(all_trees: dict[Release, Tree]) -> None:
    """A matter of the machine that runs the tests, not of the release."""
    smallest = all_trees[RELEASES[1]]
    with booted(smallest, copied=True) as container:
        kind = container.run(["stat", "--file-system", "--format=%T", "/"]).stdout.strip()
        assert kind != "overlayfs"
        container.write("/var/lib/kept", "kept")
        container.reboot()
        assert container.read("/var/lib/kept") == b"kept"
    assert not remains(container.name)
