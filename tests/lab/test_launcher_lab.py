"""The launcher and the units it makes, on real systemd of every release."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from magid.launcher.protocol import ForgetRequest, Ping, StartRequest, StopRequest, request_line
from magid.standalone.call_filters import can_bind_only
from tests.lab.launching import FLAGS, MODEL, SETTINGS, Asker, score
from tests.lab.probe_llama import OTHER_MODEL, OUTSIDE

pytestmark = pytest.mark.slow

PROBE = "/usr/local/bin/probe-llama"


@pytest.fixture
def probing(asker: Asker) -> Iterator[Asker]:
    """The launcher with a program that tries what it can."""
    container = asker.container
    container.write(PROBE, "#!/usr/bin/python3 -I\n" + _source(), 0o755)
    container.write("/etc/magi/magid.yaml", SETTINGS + f"llama_server_path: {PROBE}\n")
    yield asker
    container.write("/etc/magi/magid.yaml", SETTINGS)


def _source() -> str:
    return (Path(__file__).parent / "probe_llama.py").read_text()


# -- one model -------------------------------------------------------------------------------


def test_a_model_answers_and_is_boxed(asker: Asker) -> None:
    spec = asker.spec()
    container = asker.container
    with asker.running(spec) as unit:
        shown = container.show(
            unit, "Slice", "StatusText", "PartOf", "User", "Restart", "NRestarts"
        )
        assert shown["Slice"] == "magi.slice"
        assert shown["StatusText"].startswith("ready after")
        assert (shown["PartOf"], shown["NRestarts"]) == ("magi-models.target", "0")
        key = container.run(["cat", f"/run/magi-keys/{spec.port}.key"], user="magi").stdout.strip()
        url = f"http://127.0.0.1:{spec.port}"
        assert container.http("GET", f"{url}/health").status_code == 200
        assert container.http("GET", f"{url}/props").status_code == 401
        bearer = {"Authorization": f"Bearer {key}"}
        assert container.http("GET", f"{url}/props", headers=bearer).status_code == 200
        assert container.journal(unit, f"MAGI_SPEC={spec.hash}", "MAGI_MODEL=demo_tiny")
        for checked in (unit, "magi-launcher.service"):
            exposure = score(container, checked)
            print(f"{container.release.name}: {checked} {exposure}")  # noqa: T201 - a figure
            assert exposure <= 1.5
    assert container.run(["test", "-e", f"/run/magi-keys/{spec.port}.key"], check=False).returncode


def test_the_launcher_says_that_it_is_there(asker: Asker) -> None:
    assert asker.ask(Ping()).ok


def test_a_start_by_hand_after_a_stop(asker: Asker) -> None:
    spec, container = asker.spec(), asker.container
    with asker.running(spec) as unit:
        first = container.pid_of(unit)
        container.systemctl("stop", unit)
        assert container.show(unit, "LoadState", "ActiveState") == {
            "LoadState": "loaded",
            "ActiveState": "inactive",
        }
        container.systemctl("start", unit)  # returns when it is ready
        assert container.show(unit, "ActiveState")["ActiveState"] == "active"
        assert container.pid_of(unit) not in (0, first)
        assert container.http("GET", f"http://127.0.0.1:{spec.port}/health").status_code == 200


# Stops a unit as soon as it starts, and prints how systemd calls that.
STOP_EARLY = """\
systemctl start --no-block "$1"
until [ "$(systemctl show -P SubState "$1")" = start ]; do :; done
systemctl stop "$1"
systemctl show -P ActiveState -P Result "$1"
systemctl reset-failed "$1"
"""


def test_a_stop_before_the_first_readiness_check_is_no_failure(asker: Asker) -> None:
    """exec_model.py does not handle SIGTERM, nor does llama-server at first."""
    container = asker.container
    with asker.running(asker.spec()) as unit:
        container.systemctl("stop", unit)
        for _ in range(5):
            done = container.run(["sh", "-c", STOP_EARLY, "sh", unit])
            assert set(done.stdout.split()) == {"inactive", "success"}
        assert unit not in container.systemctl("list-units", "--failed", "--all")
        container.systemctl("start", unit)
        assert container.show(unit, "ActiveState")["ActiveState"] == "active"


def test_a_stop_through_the_launcher(asker: Asker) -> None:
    spec, container = asker.spec(), asker.container
    with asker.running(spec) as unit:
        pid = container.pid_of(unit)
        assert asker.ask(StopRequest(spec.port)).ok
        assert not container.exists(f"/proc/{pid}")
        assert container.show(unit, "ActiveState")["ActiveState"] == "inactive"
        assert asker.ask(StopRequest(spec.port)).ok
        assert asker.start(spec).ok
        asker.wait_active(spec)


def test_forgetting(asker: Asker) -> None:
    spec, container = asker.spec(), asker.container
    with asker.running(spec) as unit:
        assert asker.ask(ForgetRequest(spec.port)).ok
        assert container.show(unit, "LoadState")["LoadState"] == "not-found"
        assert asker.ask(ForgetRequest(spec.port)).ok


def test_the_same_again_is_a_restart(asker: Asker) -> None:
    spec, container = asker.spec(), asker.container
    with asker.running(spec) as unit:
        first = container.show(unit, "InvocationID")
        assert asker.start(spec).ok
        container.wait_until(
            lambda: (
                container.show(unit, "InvocationID") != first and asker.is_in(spec.port, "active")()
            ),
            "restart",
        )


def test_another_one_in_its_place(asker: Asker) -> None:
    spec, container = asker.spec(), asker.container
    other = asker.spec(port=spec.port, model_id="demo_other", ctx_size=128)
    with asker.running(spec) as unit:
        assert asker.start(other, profile=None).ok
        asker.wait_active(other)
        assert "demo_other" in container.show(unit, "Description")["Description"]
        assert container.journal(unit, f"MAGI_SPEC={other.hash}")


CHANGING = (  # with time, or by what ran last
    *("ExecStart", "ExecStartEx", "EffectiveMemory"),
    *("MemoryCurrent", "MemoryPeak", "MemoryAvailable", "MemorySwap", "CPUUsageNSec"),
    *("TasksCurrent", "IPIngress", "IPEgress", "IORead", "IOWrite"),
)


def test_a_reload_and_a_reexec_change_nothing(asker: Asker) -> None:
    """What systemd wrote to the unit's file is what it was told: the box stays closed."""
    spec, container = asker.spec(), asker.container

    def stable(unit: str) -> set[tuple[str, ...]]:
        lines = container.systemctl("show", unit).splitlines()
        fields = (line.partition("=")[::2] for line in lines if not line.startswith(CHANGING))
        return {(name, *sorted(value.split())) for name, value in fields}

    with asker.running(spec) as unit:
        before, command = stable(unit), container.read(f"/proc/{container.pid_of(unit)}/cmdline")
        for verb in ("daemon-reload", "daemon-reexec"):
            container.systemctl(verb)
            assert stable(unit) == before
        assert score(container, unit) <= 1.5
        container.systemctl("restart", unit)
        assert container.read(f"/proc/{container.pid_of(unit)}/cmdline") == command
        container.systemctl("stop", unit)
        container.systemctl("start", unit)


def test_a_drop_in_applies(asker: Asker) -> None:
    spec, container = asker.spec(), asker.container
    folder = "/etc/systemd/system/llama-server@.service.d"
    try:
        with asker.running(spec) as unit:
            container.write(f"{folder}/more.conf", "[Service]\nNice=7\n")
            container.systemctl("daemon-reload")
            container.systemctl("restart", unit)
            assert container.show(unit, "Nice")["Nice"] == "7"
    finally:
        container.run(["rm", "-rf", folder])
        container.systemctl("daemon-reload")


def test_the_target_stops_all(asker: Asker) -> None:
    one, two = asker.spec(), asker.spec(model_id="demo_two")
    with asker.running(one), asker.running(two):
        asker.container.systemctl("stop", "magi-models.target")
        for spec in (one, two):  # systemctl waits for the target alone
            asker.wait_state(spec.port, "inactive")


# -- the launcher's own end ------------------------------------------------------------------


def test_a_killed_launcher_takes_its_references_again(asker: Asker) -> None:
    spec, container = asker.spec(), asker.container
    with asker.running(spec) as unit:
        pid, launcher = container.pid_of(unit), container.pid_of("magi-launcher.service")
        container.systemctl("kill", "--signal=KILL", "magi-launcher.service")
        container.wait_until(
            lambda: container.pid_of("magi-launcher.service") not in (0, launcher), "new launcher"
        )
        assert asker.ask(Ping()).details == {"units": 1}
        assert container.pid_of(unit) == pid
        container.systemctl("stop", unit)
        container.systemctl("start", unit)
        assert asker.start(spec).ok


def test_a_launcher_killed_within_a_request(asker: Asker) -> None:
    """Whatever it had begun, the next request is carried out as if nothing had been."""
    spec, container = asker.spec(), asker.container
    other = asker.spec(port=spec.port, ctx_size=128)
    with asker.running(spec):
        for pause in (0.0, 0.02, 0.1, 0.25):
            with asker.connected() as sock:
                sock.sendall(request_line(StartRequest(other, None, FLAGS)))
                time.sleep(pause)  # where it is hit is left to chance
                container.systemctl("kill", "--signal=KILL", "magi-launcher.service")
            assert asker.ask(Ping()).ok
        assert asker.start(other).ok
        asker.wait_active(other)


def test_bus_restart(asker: Asker) -> None:
    spec, container = asker.spec(), asker.container
    with asker.running(spec) as unit:
        pid = container.pid_of(unit)
        container.systemctl("restart", "dbus.service")
        container.wait_until(lambda: asker.send_raw(b'{"verb":"ping"}\n') != b"", "answer")
        container.wait_until(lambda: asker.ask(Ping()).details == {"units": 1}, "reference")
        assert container.pid_of(unit) == pid
        container.systemctl("stop", unit)
        container.systemctl("start", unit)


# -- the driver ------------------------------------------------------------------------------


def test_without_nvidias_driver_a_start_tries_no_module_of_it(asker: Asker) -> None:
    """A model would wait for that each time."""
    with asker.running(asker.spec()):
        module = "modprobe@nvidia_uvm.service"
        shown = asker.container.show(module, "ExecMainPID", "DropInPaths")
    assert shown["ExecMainPID"] == "0"
    assert shown["DropInPaths"].endswith(f"/{module}.d/magi.conf"), "it would be tried elsewhere"


# -- the box ---------------------------------------------------------------------------------

FORBIDDEN_READS = (
    *("/etc/magi/magid.yaml", "/var/lib/magi", "/var/lib/magi/secret", "/home/person/note"),
    *("/run/magi-keys", "/etc/shadow", "/root", "/srv/note", "/dev/kmsg", OTHER_MODEL),
)
WRITABLE = frozenset({"/dev/shm"})


def test_what_a_model_process_can_do(probing: Asker) -> None:
    container = probing.container
    for path in ("/var/lib/magi/secret", "/home/person/note", "/srv/note", OTHER_MODEL):
        container.write(path, "secret")
    container.run(["ip", "address", "replace", f"{OUTSIDE}/32", "dev", "lo"])
    spec, other = probing.spec(), probing.spec(instance=1)  # on the next port
    with probing.running(other), probing.running(spec) as unit:
        line = next(
            str(e["MESSAGE"]) for e in container.journal(unit) if "PROBE" in str(e["MESSAGE"])
        )
    found = json.loads(line.removeprefix("PROBE "))
    allowed = {name for name, outcome in found.items() if outcome == "done"}
    expected = {f"read {MODEL}", f"read /run/credentials/{unit}/api-key"}
    expected |= {f"write {path}" for path in WRITABLE} & allowed
    if container.release.systemd < 257 and not can_bind_only():
        expected |= {"bind another port"}  # Debian 12 builds systemd without BPF
    print(container.release.name, found)  # noqa: T201 - a figure
    assert allowed == expected
    assert {f"read {path}" for path in FORBIDDEN_READS} <= found.keys()
