"""The units as shipped: what systemd's own tools say of them, and what the design forbids."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from magid.launcher.sandbox import DEVICES, SWITCHES
from magid.log.events import Event, about
from tests.support.deadlines import DEADLINE_S

SHIPPED = Path(__file__).parents[2] / "systemd"
FILES = sorted(
    p for p in SHIPPED.iterdir() if p.suffix in (".service", ".socket", ".target", ".slice")
)
SERVICES = [path for path in FILES if path.suffix == ".service"]
PROGRAMS = (
    *("/usr/bin/magid", "/usr/lib/magi/magi-launcher", "/usr/lib/magi/magi-key", "/bin/kill"),
    *("/usr/lib/magi/magi-owners", "/usr/bin/nvidia-smi", "/usr/bin/systemctl"),
    *("/usr/lib/magi/magi-rpc-program", "/usr/bin/python3"),
)
# Units that are part of systemd, or of what we only wish for.
FOREIGN = (
    *("sysinit.target", "basic.target", "sockets.target", "multi-user.target", "network.target"),
    *("shutdown.target", "local-fs.target", "paths.target", "timers.target", "swap.target"),
    *("dbus.socket", "systemd-modules-load.service", "nvidia-persistenced.service"),
    "modprobe@nvidia_uvm.service",
)
MOST_EXPOSURE = 1.5


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with the units and programs that they name, and nothing else."""
    units = tmp_path / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    for path in FILES:
        shutil.copy(path, units)
    for name in FOREIGN:
        section = {
            "socket": "[Socket]\nListenStream=/x\n",
            "service": "[Service]\nExecStart=/bin/kill\n",
        }
        (units / name).write_text(section.get(name.rpartition(".")[2], "[Unit]\n"))
    for program in (*PROGRAMS, "/usr/bin/nvidia-modprobe"):
        path = tmp_path / program.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    return tmp_path


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def test_systemd_finds_nothing_wrong(root: Path) -> None:
    done = analyze("verify", "--man=no", f"--root={root}", *(path.name for path in FILES))
    said = [line for line in done.stderr.splitlines() if "magi" in line]
    assert (done.returncode, said) == (0, []), done.stderr


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_exposure(path: Path, root: Path) -> None:
    done = analyze("security", "--offline=yes", f"--root={root}", path.name)
    match = re.search(r"Overall exposure level for .*: ([0-9.]+)", done.stdout)
    assert match, done.stderr
    print(f"{path.name}: {match[1]}")  # noqa: T201 - a figure
    assert float(match[1]) <= MOST_EXPOSURE


def setting(name: str, key: str) -> list[str]:
    """All values of a key in one file."""
    lines = (SHIPPED / name).read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{key}=")]


def test_no_module_of_nvidia_is_tried_without_its_driver() -> None:
    condition = setting("magi-gpu.service", "ConditionPathExists")
    assert condition == ["/proc/driver/nvidia/version"]
    wanted = setting("magi-gpu.service", "Wants")
    assert wanted == ["modprobe@nvidia_uvm.service"]
    assert setting(f"{wanted[0]}.d/magi.conf", "ConditionPathExists") == condition


def test_nothing_ties_models_to_magid() -> None:
    assert not list(SHIPPED.rglob("llama-server@*"))
    for name in ("magi-models.target", "magi.slice", "magi-gpu.service"):
        for key in ("PartOf", "BindsTo", "Requires", "StopWhenUnneeded"):
            assert not setting(name, key)


@pytest.mark.parametrize(
    ("name", "key", "values"),
    [
        ("magid.socket", "ListenStream", ["127.0.0.1:8000", "[::1]:8000"]),
        ("magid-local.socket", "ListenStream", ["/run/magi/magid.sock"]),
        ("magid-local.socket", "SocketMode", ["0660"]),
        ("magid-view.socket", "ListenStream", ["/run/magi/view.sock"]),
        ("magid-view.socket", "SocketMode", ["0660"]),
        ("magid-view.socket", "SocketGroup", ["magi-view"]),
        ("magid-view.socket", "FileDescriptorName", ["magid-view"]),
        ("magid-ollama.socket", "ListenStream", ["127.0.0.1:11434"]),
        ("magid-ollama.socket", "FileDescriptorName", ["magid-ollama"]),
        ("magi-rpc.socket", "ListenStream", ["127.0.0.1:50052"]),
        ("magi-rpc.socket", "IPAddressDeny", ["any"]),
        ("magi-rpc.socket", "IPAddressAllow", ["127.0.0.1"]),
        ("magi-rpc.service", "PrivateNetwork", ["yes"]),
        ("magi-rpc.service", "DynamicUser", ["yes"]),
        ("magi-rpc.service", "DevicePolicy", ["closed"]),
        ("magi-rpc.service", "RestartPreventExitStatus", ["78"]),
        ("magi-rpc.service", "MemoryMax", ["75%"]),
        ("magi-launcher.socket", "SocketMode", ["0660"]),
        ("magi-launcher.socket", "SocketGroup", ["magi"]),
        ("magi-launcher.socket", "TriggerLimitIntervalSec", ["0"]),
        ("magi-key.socket", "SocketMode", ["0600"]),
        ("magi-key.socket", "SocketUser", ["root"]),
        ("magi-key.socket", "TriggerLimitIntervalSec", []),
        ("magi-key.service", "Requires", ["magi-key.socket"]),
        ("magi-key.service", "RestrictAddressFamilies", ["none"]),
        ("magi-key.service", "CapabilityBoundingSet", [""]),
        ("magid.service", "User", ["magi"]),
        ("magid.service", "LimitNOFILE", ["524288"]),
        ("magid.service", "Type", ["notify"]),
        ("magid.service", "CapabilityBoundingSet", [""]),
        ("magid.service", "RestartPreventExitStatus", ["78 200 203 216 217 226"]),
        ("magid.service", "Requires", []),
        ("magid.service", "ExecStartPre", ["-+/usr/lib/magi/magi-owners"]),
        ("magid.service", "StateDirectory", []),
        ("magi-launcher.service", "PrivateNetwork", ["yes"]),
        ("magi-launcher.service", "RestrictAddressFamilies", ["AF_UNIX"]),
    ],
)
def test_what_the_design_says(name: str, key: str, values: list[str]) -> None:
    assert setting(name, key) == values


def test_the_sandbox_of_rpc_servers_is_that_of_models() -> None:
    """What the launcher gives every model, magi-rpc.service has in its file."""
    for name in (*SWITCHES, "NoNewPrivileges", "PrivateTmp", "PrivateMounts"):
        assert setting("magi-rpc.service", name) == ["yes"], name
    assert setting("magi-rpc.service", "DeviceAllow") == [f"{name} rw" for name in DEVICES]
    assert setting("magi-rpc.service", "CapabilityBoundingSet") == [""]
    assert setting("magi-rpc.service", "ProtectSystem") == ["strict"]


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("magid*.socket")), ids=lambda path: path.name)
def test_the_start_limit_closes_all_sockets_before_another_closes_one(path: Path) -> None:
    assert setting(path.name, "Service") == ["magid.service"]
    span = setting("magid.service", "StartLimitIntervalSec")
    assert setting(path.name, "TriggerLimitIntervalSec") == span
    starts, triggers = (
        int(setting(name, key)[0])
        for name, key in (("magid.service", "StartLimitBurst"), (path.name, "TriggerLimitBurst"))
    )
    assert triggers > 2 * starts


def test_users_and_folders(tmp_path: Path) -> None:
    """The tools of systemd take the files, and make what they say."""
    for folder in ("etc", "var", "run"):
        (tmp_path / folder).mkdir()
    (tmp_path / "etc/group").write_text("systemd-journal:x:101:\n")
    for tool, kind in (("systemd-sysusers", "sysusers.d"), ("systemd-tmpfiles", "tmpfiles.d")):
        path = tmp_path / "usr/lib" / kind
        path.mkdir(parents=True)
        shutil.copy(SHIPPED / kind / "magi.conf", path)
        if tool == "systemd-sysusers":
            subprocess.run([tool, f"--root={tmp_path}"], check=True, timeout=DEADLINE_S)
    assert "magi:" in (tmp_path / "etc/passwd").read_text()
    groups = (tmp_path / "etc/group").read_text()
    assert "magi-models:" in groups
    assert "magi-view:" in groups


def test_catalog() -> None:
    text = (SHIPPED / "magi.catalog").read_text()
    ids = re.findall(r"^-- ([0-9a-f]{32})$", text, re.MULTILINE)
    assert len(set(ids)) == len(ids)
    assert set(ids) == {event.value for event in Event}
    assert len(set(Event)) == len(Event.__members__), "an id is used twice"
    assert all(re.fullmatch("[0-9a-f]{32}", event.value) for event in Event)
    for entry in text.split("\n-- ")[1:]:
        head, _, body = entry.partition("\n\n")
        assert re.search(r"^Subject: \S", head, re.MULTILINE), entry
        assert body.strip(), entry
    known = {"MESSAGE_ID"} | set(
        about(Event.PHASE, model="", port=1, request="", profile="", error="", caller="")["fields"]
    )
    assert set(re.findall(r"@(\w+)@", text)) <= known


def test_systemd_takes_the_catalog(tmp_path: Path) -> None:
    """It is a compiler of its own, and says what it does not understand."""
    folder = tmp_path / "usr/lib/systemd/catalog"
    folder.mkdir(parents=True)
    shutil.copy(SHIPPED / "magi.catalog", folder)
    (tmp_path / "var/lib/systemd/catalog").mkdir(parents=True)
    command = ["journalctl", f"--root={tmp_path}"]
    done = subprocess.run(
        [*command, "--update-catalog"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    listed = subprocess.run(
        [*command, "--list-catalog"], capture_output=True, text=True, timeout=DEADLINE_S, check=True
    )
    assert {line.split()[0] for line in listed.stdout.splitlines()} == {e.value for e in Event}
