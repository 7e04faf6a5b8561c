"""What local users and a magid that was taken over try: ports, secrets, the launcher."""

import itertools
import json
import random
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from magid.api.routes import ROUTES
from magid.gateway.routing.endpoints import ENDPOINTS
from magid.launcher.protocol import Ping, StartRequest, request_line
from magid.systemd.unit_names import unit_name
from tests.lab.container import ENVIRONMENT, Container, booted
from tests.lab.hostile_requests import FOREIGN, hostile
from tests.lab.launching import FLAGS, Asker
from tests.lab.serving import FILES, MODELS, Daemon, installed_in
from tests.lab.trees import RELEASES, Release, Tree
from tests.support.deadlines import DEADLINE_S, SET_UP_S

pytestmark = pytest.mark.slow

ONE = next(iter(MODELS))
PORT = MODELS[ONE]
UNIT = unit_name(PORT)
THIEF = (Path(__file__).parent / "inside/thief.py").read_text()
CANARY = "the-prompt-that-nobody-else-may-read"
CALLER = (Path(__file__).parent / "inside/caller.py").read_text()
ASK_MANY = (Path(__file__).parent / "inside/ask_many.py").read_text()
SEED = 20_260_101
REQUESTS = 150
DECOYS = ("decoy.service", unit_name(FOREIGN))
HELD_S = 3.0  # in which systemd tries again several times
USER = "nobody"


@pytest.fixture(scope="module")
def container(all_trees: dict[Release, Tree]) -> Iterator[Container]:
    """One release is enough: whose a socket is, is the kernel's word."""
    with booted(all_trees[RELEASES[0]]) as one:
        yield one


@pytest.fixture(scope="module")
def daemon(container: Container, chat_model: Path) -> Iterator[Daemon]:
    one = installed_in(container, chat_model)
    one.wait_ready()
    yield one
    one.client.close()


class Thief:
    """Waits for the port from `thief` on; `heard` is there after it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.heard = ""

    def wait_bound(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "bound\n"

    def end(self) -> None:
        output, _ = self._process.communicate(timeout=DEADLINE_S)
        self.heard = json.loads(output)["heard"]


@contextmanager
def thief(container: Container) -> Iterator[Thief]:
    command = container.command(["python3", "-I", "-c", THIEF, str(PORT), ONE], USER)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT, text=True
    ) as process:
        try:
            one = Thief(process)
            yield one
            one.end()
        finally:
            process.kill()


def ask(daemon: Daemon, over: threading.Event, statuses: list[int]) -> None:
    """Prompts for this model without a pause."""
    body = {"model": ONE, "prompt": CANARY, "max_tokens": 1}
    with daemon.container.client("http://127.0.0.1:8000") as client:
        while not over.is_set():
            try:
                statuses.append(client.post("/v1/completions", json=body).status_code)
            except httpx.TransportError:
                statuses.append(0)


@contextmanager
def asking(daemon: Daemon) -> Iterator[list[int]]:
    over, statuses = threading.Event(), list[int]()
    asker = threading.Thread(target=ask, args=(daemon, over, statuses))
    asker.start()
    try:
        yield statuses
    finally:
        over.set()
        asker.join(DEADLINE_S)


def test_a_models_server_is_answered_nothing(daemon: Daemon) -> None:
    """From inside its unit, on every route of both tables; whoever else is on the machine is."""
    container = daemon.container
    operations = [(r.method, r.path) for r in ROUTES] + [(e.method, e.path) for e in ENDPOINTS]
    requests = [f"{method} {re.sub(r'{.+}', 'none', path)}" for method, path in operations]
    requests += ["OPTIONS /v1/messages", "OPTIONS /api/tokens", "GET /nothing", "GET /v1/nothing"]
    uid = container.show(UNIT, "UID")["UID"]
    inside = ["nsenter", "--target", str(container.pid_of(UNIT)), "--mount", "--wd=/"]
    as_model = ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups"]
    code = ["/usr/bin/python3", "-I", "-c", CALLER]

    done = container.run([*inside, *as_model, *code], input="\n".join(requests), timeout=300)
    statuses = dict(json.loads(done.stdout))
    reached = [status for status in statuses.values() if status]
    assert len(reached) == 3 * len(requests)  # of the service's addresses one is IPv6
    assert set(reached) == {403}
    assert not container.exists("/var/lib/magi/tokens.json")

    harmless = "GET /livez\nGET /api/models/status\nGET /v1/models\nPOST /api/tokens"
    done = container.run(code, input=harmless, user=USER)
    others = dict(json.loads(done.stdout))
    for host in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
        found = [others[f"{host} {line}"] for line in harmless.splitlines()]
        assert found == [200, 200, 200, 403]
    # The first token is not made over TCP.
    assert not container.exists("/var/lib/magi/tokens.json")


def test_a_thief_of_the_port_gets_no_request(daemon: Daemon) -> None:
    """Neither prompt nor key, from the crash on and through all attempts to start again."""
    container = daemon.container
    key = container.read(f"/run/magi-keys/{PORT}.key").decode().strip()
    with asking(daemon) as statuses:
        container.wait_until(lambda: 200 in statuses, "an answer")
        with thief(container) as stranger:
            # magid wakes up with requests to pass on, and does not know yet.
            container.systemctl("kill", "--signal=STOP", "magid")
            try:
                container.systemctl("kill", "--signal=KILL", UNIT)
                stranger.wait_bound()
            finally:
                container.systemctl("kill", "--signal=CONT", "magid")
            shown = set[str]()

            def is_noticed() -> bool:
                shown.add(daemon.state(ONE))
                return bool(shown & {"failed", "backoff"})

            container.wait_until(is_noticed, "a server that is known to have ended")
            end = time.monotonic() + HELD_S
            shown |= {daemon.state(ONE) for _ in iter(lambda: time.monotonic() < end, False)}
        requests = len(statuses)
    print(container.release.name, requests, "requests; it was shown", shown)  # noqa: T201 - a figure
    new_key = container.read(f"/run/magi-keys/{PORT}.key").decode().strip()
    assert CANARY not in stranger.heard
    assert key not in stranger.heard
    assert new_key not in stranger.heard
    assert "failed" in shown or "backoff" in shown, shown
    container.systemctl("stop", UNIT)  # a try that met the thief may be under way
    container.systemctl("reset-failed", UNIT, check=False)
    container.systemctl("start", UNIT)
    daemon.wait_state("ready", ONE)
    body = {"model": ONE, "prompt": CANARY, "max_tokens": 1}
    assert daemon.client.post("/v1/completions", json=body).status_code == 200


# -- secrets -----------------------------------------------------------------------------------

# Where what is on standard input occurs, line by line as patterns; its own files are left out.
SEARCH = """
cat >/srv/patterns
find() { sed "s|^|$1: |"; }
cd /
grep -a -l -F -f /srv/patterns /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | find proc
journalctl --all --no-pager -o export | grep -a -m1 -F -f /srv/patterns | find journal
systemctl show --all '*' | grep -a -F -f /srv/patterns | head -3 | find properties
systemctl cat 'llama-server@*' magid.service | grep -a -F -f /srv/patterns | head -3 | find units
grep -r -a -l -s -F -f /srv/patterns --exclude-dir=magi-keys --exclude-dir=credentials \
    --exclude=api-key /var/lib/magi /var/log /etc /run /tmp | find files
"""


def found_in(container: Container, *patterns: str) -> list[str]:
    """Where any of them can be read: processes, journal, units, files."""
    done = container.run(["sh", "-c", SEARCH], input="\n".join(patterns) + "\n")
    container.run(["rm", "/srv/patterns"])
    return done.stdout.splitlines()


def answers(daemon: Daemon) -> str:
    """What the API says without parameters, of each model and its server, and in errors."""
    paths = [path for path in daemon.client.get("/openapi.json").json()["paths"] if "{" not in path]
    for model_id in MODELS:
        paths += [f"/api/models/{model_id}", f"/api/models/servers/{model_id}/logs?lines=500"]
    said = [answer_of(daemon, path) for path in paths]
    for key in ("wrong", "Bearer wrong"):
        body = {"model": "gone", "prompt": CANARY}
        headers = {"Authorization": key}
        said.append(daemon.client.post("/v1/completions", json=body, headers=headers).text)
    return "\n".join(said)


def answer_of(daemon: Daemon, path: str) -> str:
    """The whole answer, or the first event of a stream, which has no end."""
    with daemon.client.stream("GET", path) as answer:
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            return "".join(itertools.takewhile(bool, answer.iter_lines()))
        return answer.read().decode()


@contextmanager
def shown_token(daemon: Daemon) -> Iterator[str]:
    """One that is in force, and is shown with each request. Without it nobody gets in over TCP."""
    container, headers = daemon.container, daemon.client.headers
    create = ["magictl", "token", "create", "--name", "canary", "--scope", "admin"]
    token = container.run(create).stdout.strip()
    assert re.fullmatch(r"magi_[0-9a-f]{8}_[0-9A-Za-z]{43}", token)
    assert daemon.client.get("/api/models/status").status_code == 401
    headers["Authorization"] = f"Bearer {token}"
    try:
        yield token
    finally:
        del headers["Authorization"]
        # Revoked, it would leave the door shut: without the file it is as it was before.
        container.systemctl("stop", "magid.service")
        container.run(["rm", "/var/lib/magi/tokens.json"])
        container.systemctl("start", "magid.service")
        daemon.wait_ready()


def use(daemon: Daemon, token: str) -> str:
    """As meant, and in places where it does not belong; what was answered there."""
    container, client = daemon.container, daemon.client
    body = {"model": ONE, "prompt": CANARY, "max_tokens": 1}
    assert client.get("/api/models/status").status_code == 200
    assert client.post("/v1/completions", json=body).status_code == 200
    environment = {"MAGI_TOKEN": token, "MAGI_URL": "http://127.0.0.1:8000"}
    assert container.run(["magictl", "status"], environment=environment).returncode == 0
    wrong, said = token[:-1] + ("a" if token[-1] != "a" else "b"), []
    headers: list[tuple[dict[str, str], int]] = [
        ({"Authorization": f"Bearer {wrong}"}, 401),
        ({"Authorization": f"Basic {token}"}, 401),
        ({"Authorization": "", "x-api-key": wrong}, 401),
        ({"Host": f"{token[14:]}.example"}, 421),
        ({"Origin": f"https://{token[14:]}.example"}, 403),
    ]
    for shown, status in headers:
        for path in ("/api/models/status", "/v1/models"):
            answer = client.get(path, headers=shown)
            assert answer.status_code == status, (path, shown, answer.text)
            said.append(answer.text)
    for path in ("/api/models/status", "/v1/models", "/nowhere", "/livez"):
        for query in (f"token={token}", f"access_token={wrong}", f"x={token}", token):
            answer = client.get(f"{path}?{query}")
            assert answer.status_code in (400, 404), (path, answer.text)
            said.append(answer.text)
    # As the name of something the answer names it, to who sent it; no log may.
    for path in (f"/api/models/{token}", f"/v1/models/{token}", f"/{token}"):
        assert client.get(path).status_code == 404
    return "".join(said)


def test_keys_and_prompts_are_nowhere(daemon: Daemon) -> None:
    """After crashes, restarts and thousands of requests, the ones of the tests above too."""
    container = daemon.container
    body = {"model": ONE, "prompt": CANARY, "max_tokens": 1}
    assert daemon.client.post("/v1/completions", json=body).status_code == 200
    assert daemon.client.post("/v1/completions", json=body | {"n_predict": []}).status_code
    keys = [
        container.read(f"/run/magi-keys/{port}.key").decode().strip() for port in MODELS.values()
    ]
    assert len(set(keys)) == len(MODELS)
    with shown_token(daemon) as token:
        said = use(daemon, token) + answers(daemon)
        secrets = (*keys, CANARY, token[14:-1])  # of the wrong one too; what is before names it
        assert found_in(container, *secrets) == []
    assert not [secret for secret in secrets if secret in said]
    # That the search finds what is there: a model's id is in all of these places.
    places = {line.partition(":")[0] for line in found_in(container, ONE)}
    assert places == {"proc", "journal", "properties", "units", "files"}
    assert ONE in said


# -- the launcher ------------------------------------------------------------------------------


@contextmanager
def decoys(container: Container) -> Iterator[dict[str, int]]:
    """Units that are not magid's, one of them of a name that its servers have: their processes."""
    unit = "[Service]\nExecStart=/bin/sleep infinity\n"
    for name in DECOYS:
        container.write(f"/run/systemd/system/{name}", unit)
    container.run(["sh", "-c", "ln -s /etc/shadow /models/link.gguf; ln -s /etc /models/away"])
    container.run(["sh", "-c", "mkfifo /models/fifo.gguf; mkdir /models/folder.gguf"])
    container.systemctl("daemon-reload")
    container.systemctl("start", *DECOYS)
    try:
        yield {name: container.pid_of(name) for name in DECOYS}
    finally:
        container.systemctl("stop", *DECOYS)
        container.run(["rm", *(f"/run/systemd/system/{name}" for name in DECOYS)])
        container.run(["sh", "-c", "cd /models; rm -r link.gguf away fifo.gguf folder.gguf"])
        container.systemctl("daemon-reload")


def services(container: Container) -> set[str]:
    """All that are loaded, but for servers of models."""
    listed = container.systemctl("list-units", "--all", "--type=service", "--output=json")
    names = {unit["unit"] for unit in json.loads(listed)}
    return {name for name in names if not name.startswith(("llama-server@", "user"))}


def check_sandboxed(container: Container, units: set[str]) -> None:
    for unit in units:
        shown = container.show(
            *(unit, "Transient", "DynamicUser", "User", "NoNewPrivileges", "ProtectSystem"),
            *("Slice", "ExecStart"),
        )
        port = re.findall(r"@(\d+)", unit)[0]
        assert shown["User"] == f"llama-{port}", unit
        assert shown["Slice"] == "magi.slice"
        assert {shown[k] for k in ("Transient", "DynamicUser", "NoNewPrivileges")} == {"yes"}
        assert shown["ProtectSystem"] == "strict"
        files = re.findall(r" \d+:\d+:(/\S+)", shown["ExecStart"])
        assert files, shown["ExecStart"]
        assert {path.rpartition("/")[2] for path in files} <= set(FILES), files


def test_a_hostile_magid_gets_no_more_than_models(daemon: Daemon) -> None:
    """Requests of the right form for what is not allowed: no unit of others, none unboxed."""
    container, dice = daemon.container, random.Random(SEED)
    asker = Asker.of(container)
    spec = asker.spec(model_path=f"/models/{FILES[0]}", model_id="x")
    good = json.loads(request_line(StartRequest(spec, None, FLAGS)))
    lines = b"".join(hostile(dice, good) for _ in range(REQUESTS))
    ask = ["python3", "-I", "-c", ASK_MANY]
    with decoys(container) as pids:
        before, units = services(container), daemon.units()
        done = container.run(ask, input=lines, user="magi", timeout=SET_UP_S)
        replies = [json.loads(line) for line in done.stdout.splitlines() if line]
        made = daemon.units() - units
        check_sandboxed(container, (daemon.units() - set(DECOYS)))
        assert services(container) == before
        assert {name: container.pid_of(name) for name in DECOYS} == pids
        refused = [reply for reply in replies if not reply["ok"]]
        # As another user, not even the socket can be reached.
        done = container.run(ask, input=lines[:5000], user=USER, timeout=SET_UP_S)
        assert set(done.stdout.split()) == {"PermissionError"}
        for unit in made:
            container.systemctl("stop", unit, check=False)
    print(f"seed {SEED}: {REQUESTS} requests, {len(refused)} refused, {len(made)} units")  # noqa: T201
    assert len(refused) > REQUESTS / 2
    assert made, "nothing was started: the requests were not of the right form"
    assert asker.ask(Ping()).ok
    daemon.wait_ready()
