"""Servers as units of a real systemd, and what people do meanwhile."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from magid.launcher.protocol import Ping
from magid.log.events import Event
from magid.systemd.unit_names import unit_name
from tests.lab.container import Container
from tests.lab.launching import Asker
from tests.lab.serving import MODELS, Daemon, check_agreement, installed_in
from tests.lab.trees import NEWEST, OLDEST
from tests.support.deadlines import DEADLINE_S

# Between these two systemd changed what it says of units; the others are like one of them.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize(
        "release", [OLDEST, NEWEST], ids=lambda one: one.name, indirect=True, scope="session"
    ),
]

ONE, OTHER, THIRD = MODELS
UNIT = unit_name(MODELS[ONE])


@pytest.fixture(scope="module")
def installed(container: Container, chat_model: Path) -> Iterator[Daemon]:
    daemon = installed_in(container, chat_model)
    yield daemon
    daemon.client.close()


@pytest.fixture
def daemon(installed: Daemon) -> Iterator[Daemon]:
    """All models are ready, before and after; no unit is left over, and no override lost."""
    installed.wait_ready()
    installed.put(THIRD, "tier", {"tier": "fast"})
    yield installed
    if installed.state(ONE) != "ready":
        installed.container.systemctl("reset-failed", UNIT, check=False)
        installed.container.systemctl("start", UNIT)
    installed.wait_ready()
    assert installed.units() == {unit_name(port) for port in MODELS.values()}
    assert installed.client.get(f"/api/models/{THIRD}").json()["tierOverride"] == "fast"


def test_systemctl_and_the_api_agree(daemon: Daemon) -> None:
    check_agreement(daemon)


def test_metrics_and_targets(daemon: Daemon) -> None:
    """What a scrape asks of systemd, and of the units' own figures, is there."""
    text = daemon.client.get("/metrics").text
    for model_id, server in daemon.servers().items():
        labels = f'model="{model_id}",port="{server["port"]}"'
        assert f'magi_server_state{{{labels},state="ready"}} 1.0' in text
        names = ["cpu_seconds_total", "load_seconds"]
        # A machine may have no memory controller.
        names += ["memory_bytes"] if server["memoryBytes"] is not None else []
        for name in names:
            sample = f"magi_server_{name}{{{labels}}} "
            (found,) = [line for line in text.splitlines() if line.startswith(sample)]
            assert float(found.removeprefix(sample)) > 0
    targets = daemon.client.get("/sd/prometheus").json()
    assert {t["labels"]["unit"] for t in targets} == {unit_name(p) for p in MODELS.values()}
    for target in targets:
        path = target["labels"]["__metrics_path__"]
        assert "llamacpp:requests_processing 0" in daemon.client.get(path).text


def test_what_a_person_does_shows(daemon: Daemon) -> None:
    systemctl = daemon.container.systemctl
    systemctl("stop", UNIT)
    daemon.wait_state("stopped", ONE)
    assert daemon.server(ONE)["stateReason"] == "by systemctl"
    systemctl("start", UNIT)
    daemon.wait_state("ready", ONE)
    before = daemon.pids()[ONE]
    systemctl("restart", UNIT)
    daemon.wait_state("ready", ONE)
    assert daemon.pids()[ONE] != before
    assert daemon.state(OTHER) == "ready"


def test_a_stream_that_systemctl_ends_says_so(daemon: Daemon) -> None:
    body = {"model": ONE, "prompt": "a", "max_tokens": 400, "stream": True, "ignore_eos": True}
    body["n_probs"] = 200  # much text for each token: it cannot all be sent before it is read
    with daemon.client.stream("POST", "/v1/completions", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        daemon.container.systemctl("kill", "--signal=STOP", UNIT)
        daemon.container.systemctl("stop", UNIT)
        last = [line for line in lines if line][-1]
    error = json.loads(last.removeprefix("data: "))["error"]
    assert (error["code"], "(by systemctl)" in error["message"]) == ("server_stopped", True), error
    daemon.container.systemctl("start", UNIT)
    daemon.wait_state("ready", ONE)


def test_a_model_stopped_by_hand_stays_stopped(daemon: Daemon) -> None:
    daemon.container.systemctl("stop", UNIT)
    daemon.wait_state("stopped", ONE)
    daemon.client.post("/api/models/rescan").raise_for_status()
    daemon.container.systemctl("reload", "magid")
    daemon.container.systemctl("restart", "magid")
    daemon.wait_serving()
    assert daemon.state(ONE) == "stopped"
    assert daemon.client.post(f"/api/models/servers/{ONE}/start").status_code == 202
    daemon.wait_state("ready", ONE)


@pytest.mark.parametrize(
    ("signal", "reason"),
    [
        ("KILL", "crashed (SIGKILL)"),
        ("SEGV", "crashed (SIGSEGV)"),
        ("TERM", "exited with status 0"),  # llama-server ends in order, but was not stopped
    ],
)
def test_a_crash_is_made_good(daemon: Daemon, signal: str, reason: str) -> None:
    before = daemon.server(ONE)
    kill = ("kill", f"--signal={signal}", UNIT)
    server = daemon.reported("backoff", ONE, lambda: daemon.container.systemctl(*kill))
    assert server["stateReason"] == f"{reason}; restarting in 1 s"
    daemon.wait_state("ready", ONE)
    after = daemon.server(ONE)
    assert (after["pid"] != before["pid"], after["stateReason"]) == (True, "")
    assert daemon.state(OTHER) == "ready"


def test_stopping_all_models(daemon: Daemon) -> None:
    daemon.container.systemctl("stop", "magi-models.target")
    for model_id in MODELS:
        daemon.wait_state("stopped", model_id)
        assert daemon.server(model_id)["stateReason"] == "with magi-models.target"
    status = daemon.client.get("/api/models/status").json()
    assert (status["ready"], status["problems"]) == (
        True, [f"3 wanted models are stopped: {', '.join(MODELS)} (with magi-models.target)"],
    )  # fmt: skip
    assert daemon.client.post("/api/models/servers/start-all").status_code in (200, 202)
    daemon.wait_ready()


@pytest.mark.parametrize("verb", ["daemon-reload", "daemon-reexec"])
def test_systemd_anew_changes_nothing(daemon: Daemon, verb: str) -> None:
    before = daemon.pids()
    daemon.container.systemctl(verb)
    daemon.container.systemctl("stop", UNIT)
    daemon.wait_state("stopped", ONE)
    daemon.container.systemctl("start", UNIT)
    daemon.wait_state("ready", ONE)
    assert daemon.pids()[OTHER] == before[OTHER]


def test_a_new_bus(daemon: Daemon) -> None:
    before = daemon.pids()
    since = len(daemon.container.journal("magid"))
    daemon.container.systemctl("restart", "dbus")

    def is_watched_again() -> bool:
        new = daemon.container.journal("magid")[since:]
        return any("systemd is watched again" in str(entry["MESSAGE"]) for entry in new)

    daemon.container.wait_until(is_watched_again, "new connection")
    daemon.container.systemctl("kill", "--signal=KILL", UNIT)
    daemon.wait_state("ready", ONE)
    daemon.container.wait_until(lambda: daemon.pids()[ONE] != before[ONE], "another process")
    assert daemon.pids()[OTHER] == before[OTHER]


@pytest.mark.parametrize("how", ["restart", "kill", "launcher"])
def test_models_outlive_magid_and_its_launcher(daemon: Daemon, how: str) -> None:
    before = daemon.pids()
    match how:
        case "restart":
            daemon.container.systemctl("restart", "magid")
        case "kill":
            daemon.container.systemctl("kill", "--signal=KILL", "magid")
        case _:
            daemon.container.systemctl("kill", "--signal=KILL", "magi-launcher")
    daemon.wait_ready()
    assert daemon.pids() == before
    if how != "launcher":
        daemon.container.systemctl("stop", UNIT)
        daemon.wait_state("stopped", ONE)


@pytest.mark.parametrize(
    "end",
    [
        ("stop", "magi-launcher.service"),
        ("kill", "--signal=TERM", "magi-launcher.service"),
        ("kill", "--signal=KILL", "magi-launcher.service"),
    ],
    ids=" ".join,
)
def test_a_launcher_that_ends_is_woken(daemon: Daemon, end: tuple[str, ...]) -> None:
    """A unit that is stopped then can be started all the same, though nobody asks magid."""
    container, before = daemon.container, daemon.pids()
    launcher = container.pid_of("magi-launcher.service")
    container.systemctl(*end)
    container.wait_until(
        lambda: container.pid_of("magi-launcher.service") not in (0, launcher), "another launcher"
    )
    assert Asker.of(container).ask(Ping()).details == {"units": len(MODELS)}
    container.systemctl("stop", UNIT)
    container.systemctl("start", UNIT)
    daemon.wait_state("ready", ONE)
    assert daemon.pids()[THIRD] == before[THIRD]


def test_limits(daemon: Daemon) -> None:
    """The values; nothing enforces them in here: the container has no such controllers."""
    before = daemon.pids()
    daemon.put(ONE, "runtime-settings", {"memoryMax": 2**31, "cpuQuota": 150})
    try:
        daemon.restart(ONE, 200, wait=DEADLINE_S)
        shown = daemon.container.show(UNIT, "MemoryMax", "CPUQuotaPerSecUSec")
        assert shown == {"MemoryMax": str(2**31), "CPUQuotaPerSecUSec": "1.500000s"}
        assert daemon.server(ONE)["specCurrent"] is True
        assert daemon.pids()[OTHER] == before[OTHER]
    finally:
        daemon.put(ONE, "runtime-settings", {"memoryMax": None, "cpuQuota": None})
        daemon.restart(ONE, 200, wait=DEADLINE_S)


def test_a_drop_in_by_hand(daemon: Daemon) -> None:
    container, folder = daemon.container, "/etc/systemd/system/llama-server@.service.d"
    try:
        container.write(f"{folder}/nice.conf", "[Service]\nNice=7\n")
        container.systemctl("daemon-reload")
        container.systemctl("restart", UNIT)
        daemon.wait_state("ready", ONE)
        assert container.show(UNIT, "Nice")["Nice"] == "7"
        assert daemon.server(ONE)["specCurrent"] is True
    finally:
        container.run(["rm", "-r", folder])
        container.systemctl("daemon-reload")


def test_a_drop_in_that_breaks_the_unit(daemon: Daemon) -> None:
    """The one server says so, the others run on; without it, all is well again."""
    container, folder = daemon.container, f"/etc/systemd/system/{UNIT}.d"
    before = daemon.pids()
    try:
        container.write(f"{folder}/broken.conf", "[Service]\nExecStart=/bin/true\n")
        container.systemctl("daemon-reload")
        assert container.run(["systemctl", "restart", UNIT], check=False).returncode != 0
        # systemd does not touch what runs when it is to restart what it cannot start.
        assert container.show(UNIT, "ActiveState")["ActiveState"] == "active"
        assert daemon.state(ONE) == daemon.state(OTHER) == "ready"
        assert daemon.pids() == before
    finally:
        container.run(["rm", "-r", folder])
        container.systemctl("daemon-reload")
    container.systemctl("restart", UNIT)
    daemon.wait_state("ready", ONE)


def test_a_launcher_killed_in_mid_request(daemon: Daemon) -> None:
    """Where it is hit is left to chance; what was asked for is done, or can be asked for again."""
    container = daemon.container
    before = daemon.pids()
    for number, pause in enumerate((0.0, 0.01, 0.03, 0.1)):
        daemon.put(ONE, "runtime-settings", {"ctxSize": 256 + 64 * number})
        daemon.restart(ONE, 202)
        time.sleep(pause)  # where it is hit is left to chance
        container.systemctl("kill", "--signal=KILL", "magi-launcher")
        container.wait_until(
            lambda: daemon.state(ONE) in ("ready", "failed", "stopped"), "an end of it"
        )
    if daemon.state(ONE) != "ready" or not daemon.server(ONE)["specCurrent"]:
        daemon.restart(ONE, 200, wait=DEADLINE_S)
    daemon.wait_state("ready", ONE)
    server = daemon.server(ONE)
    assert (server["specCurrent"], server["pid"]) == (True, container.pid_of(UNIT))
    assert {m: daemon.pids()[m] for m in (OTHER, THIRD)} == {m: before[m] for m in (OTHER, THIRD)}
    assert daemon.client.get(f"/api/models/{ONE}").json()["ctxSize"] == 448


def test_the_first_connection_starts_magid(daemon: Daemon) -> None:
    container, before = daemon.container, daemon.pids()
    with container.client() as tcp, container.unix_client("/run/magi/magid.sock") as local:
        addresses = ("http://127.0.0.1:8000", "http://[::1]:8000")
        clients = (*((tcp, f"{address}/livez") for address in addresses), (local, "/livez"))
        for client, url in clients:
            container.systemctl("stop", "magid")
            assert container.show("magid", "ActiveState")["ActiveState"] == "inactive"
            assert client.get(url).status_code == 200
            assert container.show("magid", "ActiveState")["ActiveState"] == "active"
    daemon.wait_serving()
    assert daemon.pids() == before


def test_a_magid_that_hangs_is_replaced(daemon: Daemon) -> None:
    container, before = daemon.container, daemon.pids()
    folder = "/etc/systemd/system/magid.service.d"
    try:
        container.write(f"{folder}/watchdog.conf", "[Service]\nWatchdogSec=1\n")
        container.systemctl("daemon-reload")
        container.systemctl("restart", "magid")
        pid = container.pid_of("magid")
        # It alone: a child that is stopped on its way to its program would keep magid's lock.
        container.run(["sh", "-c", f"kill -STOP {pid}"])
        container.wait_until(lambda: container.pid_of("magid") not in (0, pid), "another magid")
        daemon.wait_ready()
        assert daemon.pids() == before
        said = [str(entry["MESSAGE"]) for entry in container.journal("magid")]
        assert any("Watchdog timeout" in text for text in said)
    finally:
        container.run(["rm", "-r", folder])
        container.systemctl("daemon-reload")
        container.systemctl("restart", "magid")


def test_reload_says_so(daemon: Daemon) -> None:
    container = daemon.container
    container.systemctl("reload", "magid")
    said = ["journalctl", "--unit=magid", "--grep=tokens and the certificate"]
    container.wait_until(lambda: not container.run(said, check=False).returncode, "the beginning")
    running = {"ActiveState": "active", "SubState": "running"}  # "reloading" until it says READY=1
    container.wait_until(lambda: container.show("magid", *running) == running, "the end")


def test_logs_have_what_systemd_says(daemon: Daemon) -> None:
    daemon.container.systemctl("restart", UNIT)
    daemon.wait_state("ready", ONE)

    def has(text: str) -> Callable[[], bool]:
        return lambda: any(text in line["message"] for line in lines())

    def lines() -> list[dict[str, Any]]:
        reply = daemon.client.get(f"/api/models/servers/{ONE}/logs?lines=500")
        reply.raise_for_status()
        found: list[dict[str, Any]] = reply.json()["lines"]
        return found

    for text in ("model loaded", f"Started {UNIT}"):
        daemon.container.wait_until(has(text), text)


def test_magids_own_entries_have_fields(daemon: Daemon) -> None:
    daemon.container.systemctl("restart", UNIT)
    daemon.wait_state("ready", ONE)
    ready = f"MESSAGE_ID={Event.SERVER_READY.value}"
    daemon.container.wait_until(lambda: bool(daemon.entries(f"MAGI_MODEL={ONE}", ready)), "it")
    entry = daemon.entries(f"MAGI_MODEL={ONE}", ready)[-1]
    assert (entry["MAGI_UNIT"], entry["MAGI_EVENT"]) == (UNIT, "server_ready")
    assert (entry["SYSLOG_IDENTIFIER"], entry["PRIORITY"]) == ("magid", "6")
    assert entry["_SYSTEMD_UNIT"] == "magid.service"
    assert entry["_TRANSPORT"] == "journal"
    assert (entry["CODE_FUNC"], entry["LOGGER"]) == ("on_change", "magid.control.audit_log")
    assert not daemon.entries("MAGI_MODEL=nothing")


def test_the_catalog_explains_them(daemon: Daemon) -> None:
    done = daemon.container.run(
        ["journalctl", "-u", "magid", "--catalog", "--no-pager",
         f"MESSAGE_ID={Event.STARTED.value}"]
    )  # fmt: skip
    assert "Subject: magid answers" in done.stdout


def test_the_log_of_magid_over_rest(daemon: Daemon) -> None:
    """From the journal: what an earlier magid has written too. Several lines stay one entry."""
    before = daemon.client.get("/api/logs?lines=1").json()["lines"][0]
    daemon.container.systemctl("restart", "magid")
    daemon.wait_ready()
    path = "/api/logs?follow=true"
    with daemon.client.stream("GET", path, headers={"Last-Event-ID": before["cursor"]}) as stream:
        stream.raise_for_status()
        entries = (json.loads(li[6:]) for li in stream.iter_lines() if li.startswith("data: "))
        seen = []
        for entry in entries:
            seen.append(entry["event"])
            if entry["event"] == "started":
                break
    assert seen.index("ended") < seen.index("started")
    refused = daemon.client.get("/livez", headers={"Host": "evil", "X-Request-Id": "lab.1"})
    assert refused.status_code == 421
    daemon.container.wait_until(
        lambda: bool(daemon.entries("MAGI_CLIENT_REQUEST_ID=lab.1")), "the refusal"
    )
    found = daemon.client.get("/api/logs?grep=evil&lines=1").json()["lines"]
    assert [line["clientRequestId"] for line in found] == ["lab.1"]
    assert [line["requestId"] for line in found] == [refused.headers["x-request-id"]]


def test_the_log_is_followed(daemon: Daemon) -> None:
    path = f"/api/models/servers/{ONE}/logs?follow=true&lines=1"
    with daemon.client.stream("GET", path) as stream:
        stream.raise_for_status()
        daemon.container.systemctl("restart", UNIT)
        assert any("model loaded" in line for line in stream.iter_lines())
