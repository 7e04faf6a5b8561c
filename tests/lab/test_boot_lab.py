"""Which starts of magid start models: with a real systemd, a boot of the machine and no other."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from magid.systemd.unit_names import unit_name
from tests.lab.container import CommandFailed, Container
from tests.lab.serving import FILES, MODELS, Daemon, installed_in, replaced
from tests.lab.trees import NEWEST

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize(
        "release", [NEWEST], ids=lambda one: one.name, indirect=True, scope="session"
    ),
]

ONE, OTHER, THIRD = MODELS
FRESH = "delta_2p0b_q4km_fast"
HOLD = "/etc/hold"  # while this file exists, the server on the first port does not start
DROP_IN = f"/etc/systemd/system/{unit_name(MODELS[ONE])}.d/hold.conf"
LOST_S = 10.0  # for an answer of systemd; then it is asked again
HELD = f"[Service]\nExecStartPre=sh -c 'while test -e {HOLD}; do sleep 0.1; done'\n"


@pytest.fixture(scope="module")
def daemon(container: Container, chat_model: Path) -> Iterator[Daemon]:
    """With a change of each kind pending: one of settings, one model too many, one too few."""
    one = installed_in(container, chat_model)
    one.wait_ready()
    one.put(ONE, "runtime-settings", {"parallel": 3})
    one.put(OTHER, "enabled", {"enabled": False})
    container.write("/models/Delta-2B-Q4_K_M.gguf", chat_model.read_bytes())
    one.client.post("/api/models/rescan").raise_for_status()
    yield one
    one.client.close()


def pending(daemon: Daemon) -> tuple[list[str], list[str]]:
    """The models that `apply` would stop, and those that it would start."""
    plan = daemon.client.post("/api/models/apply?dryRun=true").json()
    return tuple([line["modelId"] for line in plan[verb]] for verb in ("stop", "start"))  # type: ignore[return-value]  # two


def reboot(daemon: Daemon) -> None:
    daemon.client.close()
    daemon.container.reboot()
    daemon.client = daemon.container.client("http://127.0.0.1:8000")


def is_active(container: Container, unit: str) -> bool:
    return container.show(unit, "ActiveState")["ActiveState"] == "active"


def pid_of(container: Container, unit: str) -> int:
    """0 also while no systemd answers: a question in the middle of a soft-reboot may get lost."""
    argv = ["systemctl", "show", "--property=MainPID", "--value", "--", unit]
    try:
        return int(container.run(argv, timeout=LOST_S).stdout)
    except (CommandFailed, subprocess.TimeoutExpired):
        return 0


def is_in(daemon: Daemon, model_id: str, state: str) -> bool:
    """Also of a magid that does not know its models yet."""
    return bool(daemon.servers().get(model_id, {}).get("state") == state)


def status(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = daemon.client.get("/api/models/status").json()
    return found


def codes(daemon: Daemon) -> set[str]:
    return {one["code"] for one in status(daemon)["conditions"]}


def is_at(daemon: Daemon, path: str) -> bool:
    registry = daemon.client.get("/api/models/registry").json()
    return path in {model["filePath"] for model in registry["models"].values()}


@pytest.mark.parametrize(
    "how",
    [
        ("restart", "magid"),
        ("kill", "--signal=KILL", "magid"),
        ("restart", "magi-launcher"),
        ("daemon-reexec",),
    ],
    ids=" ".join,
)
def test_what_is_pending_stays_pending(daemon: Daemon, how: tuple[str, ...]) -> None:
    container = daemon.container
    before, units = daemon.pids(), daemon.units()
    if "magid" in how:
        replaced(container, *how)
    else:
        container.systemctl(*how)
        replaced(container, "restart", "magid")  # the boot is still the same one
    daemon.wait_serving()
    daemon.client.post("/api/models/rescan").raise_for_status()
    assert daemon.pids() == before
    assert daemon.units() == units
    assert pending(daemon) == ([ONE, OTHER], [ONE, FRESH])
    assert status(daemon)["pendingChanges"] == {"stop": 2, "start": 2}


def test_a_boot_starts_what_is_wanted_even_if_magid_is_killed_meanwhile(daemon: Daemon) -> None:
    container = daemon.container
    container.write(DROP_IN, HELD)
    container.write(HOLD, "")
    reboot(daemon)
    container.wait_until(lambda: is_in(daemon, ONE, "starting"), "the first of them")
    assert daemon.state(THIRD) == "stopped"  # it waits for its turn
    due = json.loads(container.read("/var/lib/magi/boot.json"))["due"]
    assert due == sorted([ONE, FRESH, THIRD])
    replaced(container, "kill", "--signal=KILL", "magid")
    container.run(["rm", HOLD])
    for model_id in (ONE, FRESH, THIRD):
        container.wait_until(lambda one=model_id: is_in(daemon, one, "ready"), model_id)  # type: ignore[misc]  # a default binds it now
    daemon.wait_serving()
    assert OTHER not in daemon.servers()
    assert pending(daemon) == ([], [])
    argv = container.read(f"/proc/{container.pid_of(unit_name(MODELS[ONE]))}/cmdline").decode()
    assert "--parallel\0003\0" in argv
    container.wait_until(
        lambda: not json.loads(container.read("/var/lib/magi/boot.json"))["due"], "end of the boot"
    )


def test_a_model_whose_disk_is_mounted_later_is_started(daemon: Daemon) -> None:
    container = daemon.container
    container.run(["mkdir", "/models/disk", "/away"])
    container.run(["mv", f"/models/{FILES[2]}", "/away"])
    container.run(["mount", "--bind", "/away", "/models/disk"])
    container.wait_until(lambda: is_at(daemon, f"/models/disk/{FILES[2]}"), "scan after the mount")
    reboot(daemon)
    container.wait_until(lambda: is_in(daemon, ONE, "ready"), "the first of them")
    daemon.wait_serving()
    assert THIRD not in daemon.servers()
    (missing,) = [one for one in status(daemon)["conditions"] if one["code"] == "ModelsMissing"]
    assert missing["modelIds"] == [THIRD]
    container.run(["mount", "--bind", "/away", "/models/disk"])
    container.wait_until(lambda: is_in(daemon, THIRD, "ready"), THIRD)
    container.run(["umount", "--lazy", "/models/disk"])
    container.wait_until(lambda: "ModelsMissing" in codes(daemon), "scan after the unmount")
    container.run(["mount", "--bind", "/away", "/models/disk"])
    container.wait_until(lambda: "ModelsMissing" not in codes(daemon), "scan after the mount")
    assert daemon.state(THIRD) == "ready"  # nothing was stopped
    # A soft-reboot, which comes later, unmounts it: from here on the file itself is there.
    container.run(["umount", "--lazy", "/models/disk"])
    container.run(["mv", f"/away/{FILES[2]}", "/models/disk"])
    daemon.client.post("/api/models/rescan").raise_for_status()
    assert is_at(daemon, f"/models/disk/{FILES[2]}")


# -- what else ends or keeps services ----------------------------------------------------------


def test_isolate_leaves_models_alone(daemon: Daemon) -> None:
    before = daemon.pids()
    daemon.container.systemctl("isolate", "multi-user.target")
    daemon.wait_serving()
    assert daemon.pids() == before


@pytest.mark.parametrize("through", ["rescue.target", "soft-reboot"])
def test_a_boot_without_a_new_kernel(daemon: Daemon, through: str) -> None:
    """Both end all services, and the kernel's boot id stays the same."""
    container = daemon.container
    units = {*(unit_name(MODELS[model_id]) for model_id in (ONE, THIRD)), "magid.service"}
    before = {unit: container.pid_of(unit) for unit in units}
    how = (through,) if through == "soft-reboot" else ("isolate", through)
    container.systemctl("--no-block", *how)
    if through == "rescue.target":
        # rescue.target is reached before all that it ends has ended; then basic.target stays.
        container.wait_until(
            lambda: is_active(container, through) and not is_active(container, "basic.target"),
            "rescue mode",
        )
        assert not any(map(container.pid_of, units))
        container.systemctl("--no-block", "isolate", "multi-user.target")
    container.wait_until(
        lambda: all(pid_of(container, unit) not in (0, before[unit]) for unit in units),
        "other processes",
    )
    for model_id in (ONE, THIRD):
        container.wait_until(lambda one=model_id: is_in(daemon, one, "ready"), model_id)  # type: ignore[misc]  # a default binds it now
