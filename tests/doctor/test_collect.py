"""What magictl doctor collects: units, GPUs, mounts, the trial of a sandbox, magid itself."""

from pathlib import Path
from typing import Any

import pytest

from magid.config.settings import Config
from magid.doctor.collect import collector, files, hardware, sandbox_trial, services
from magid.doctor.facts import (
    AS_ROOT,
    DaemonFacts,
    NotCollected,
)
from magid.launcher import short_units
from magid.launcher.sandbox import unit_properties
from magid.launcher.unit_request import Timeouts, UnitRequest
from magid.llama.spec import ServerSpec

DEVICE = "CUDA0: NVIDIA H100 (81920 MiB, 81000 MiB free)"


def test_what_systemctl_shows() -> None:
    text = "Id=a.socket\nListen=[::1]:1 (Stream)\nListen=127.0.0.1:1 (Stream)\n\nId=b.service\n"
    assert list(services.blocks(text)) == [
        {"Id": "a.socket", "Listen": "[::1]:1 (Stream) 127.0.0.1:1 (Stream)"},
        {"Id": "b.service"},
    ]


def test_gpus_of_a_machine(tmp_path: Path) -> None:
    for path, text in {
        "sys/bus/pci/devices/0000:01:00.0/class": "0x030200\n",
        "sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n",
        "sys/bus/pci/devices/0000:02:00.0/class": "0x020000\n",
        "sys/bus/pci/devices/0000:02:00.0/vendor": "0x8086\n",
        "proc/devices": "Character devices:\n195 nvidia\n226 drm\n\nBlock devices:\n  8 sd\n",
        "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  "
        "550.54.14  Release Build\nGCC version: 12\n",
        "usr/lib/x86_64-linux-gnu/libcuda.so.550.54.15": "",
        "dev/nvidia0": "",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / "dev/nvidia0").chmod(0o640)
    (tmp_path / "usr/lib/x86_64-linux-gnu/libcuda.so.1").symlink_to("libcuda.so.550.54.15")
    seen = hardware.gpus(tmp_path)
    assert (seen.vendors, seen.majors) == (frozenset({"10de"}), frozenset({"nvidia", "drm"}))
    assert [(node.path, node.mode) for node in seen.nodes] == [("/dev/nvidia0", 0o640)]
    assert (seen.driver, seen.libraries) == ("550.54.14", ("550.54.15",))


def test_mounts_that_are_missing() -> None:
    fstab = [
        "# x",
        "nas:/m /mnt/my\\040nas nfs defaults 0 0",
        "tmpfs /tmp tmpfs",
        "UUID=1 none swap",
    ]
    assert files.unmounted(fstab, ["tmpfs /tmp tmpfs rw"]) == ["/mnt/my nas"]


def test_the_trial_is_boxed_as_a_server_is() -> None:
    spec = ServerSpec("m", 0, 8080, "127.0.0.1", "/models/a.gguf", memory_max=2**30)
    order = UnitRequest(
        spec=spec, profile=None, argv=("/l",), files=(), roots=("/models",),
        program_folders=("/usr",), scripts="/usr/lib/magi/magid/standalone", key_source="/k",
        groups=("render",), patience=Timeouts(1, 1, 1, 1, 1, 1, 1),
    )  # fmt: skip
    for version in (252, 257):
        trial = sandbox_trial.properties(
            order, version, ["/usr/bin/python3", "x"], Path("/run/out")
        )
        names = {p.name for p in trial}
        server = unit_properties(order, version)
        assert {p.name for p in server} - names <= short_units.LEFT_OUT
        for needed in ("DynamicUser", "NoNewPrivileges", "DevicePolicy", "IPAddressDeny"):
            assert needed in names
        own = {"Description", "Type", "CollectMode", "TimeoutStartUSec", "StandardOutputFile"}
        assert names - {p.name for p in server} <= own | {"ExecStart"}


@pytest.mark.parametrize(
    ("status", "output", "problem"),
    [
        (
            127,
            "l: error while loading shared libraries: x.so",
            "`--version` ended with 127: l: err",
        ),
        (None, "Exec format error", "Exec format error"),
        (1, "", "`--version` ended with 1: it printed nothing"),
    ],
)
def test_a_program_that_does_not_run(status: int | None, output: str, problem: str) -> None:
    runs = {"--version": {"status": status, "output": output}}
    assert sandbox_trial.program_of("/l", runs).problem.startswith(problem)


def test_a_program_that_runs() -> None:
    texts = {
        "--version": "version: 9000 (abc)\n",
        "--help": "-m, --model X\n--port N\n",
        "--list-devices": f"Available devices:\n  {DEVICE}\n",
    }
    program = sandbox_trial.program_of(
        "/l", {k: {"status": 0, "output": v} for k, v in texts.items()}
    )
    assert (program.version, program.unlisted) == ("9000 (abc)", "")
    assert [gpu.names for gpu in program.gpus] == [("CUDA0",)]
    assert {"-m", "--model", "--port"} <= program.flags


@pytest.mark.parametrize(
    ("status", "output", "why"),
    [
        (139, "ggml_vulkan: Found 1 Vulkan devices:\n", "it ended with 139: ggml_vulkan: Found 1"),
        (None, "it did not end within 10 s", "it did not end within 10 s"),
    ],
)
def test_a_program_that_lists_no_devices(status: int | None, output: str, why: str) -> None:
    good: dict[str, Any] = {"status": 0, "output": "version: 9000\n"}
    listed = {"status": status, "output": output}
    runs = {"--version": good, "--help": good, "--list-devices": listed}
    program = sandbox_trial.program_of("/l", runs)
    assert program.gpus == ()
    assert program.unlisted.startswith(why)


def test_a_broken_configuration_is_a_fact(tmp_path: Path) -> None:
    path = tmp_path / "magid.yaml"
    path.write_text("no_such_key: 1\n")
    settings = collector.read_settings(path)
    assert settings.problem.startswith(f"cannot use {path}: line 1: no_such_key is not known")
    assert settings.config == Config()


def test_a_folder_behind_a_link_counts_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o750)
    (tmp_path / "link").symlink_to("real")
    found = files.place(tmp_path / "link")
    assert found is not None
    assert found.mode == 0o750
    (tmp_path / "real").rmdir()
    assert files.place(tmp_path / "link") is None


def test_a_daemon_that_says_no() -> None:
    def refuse(path: str) -> Any:
        raise OSError("cannot reach it\nnobody is there\ntry: something")

    assert services.daemon(refuse) == DaemonFacts(problem="cannot reach it: nobody is there")
    assert services.launcher("/nowhere/launcher.sock") == "No such file or directory"


def test_a_daemon_that_refuses_this_user() -> None:
    def refuse(path: str) -> Any:
        raise OSError("cannot reach magid at unix:/x: Permission denied\ntry: sudo")

    assert services.daemon(refuse) == NotCollected(
        "cannot reach magid at unix:/x: Permission denied", AS_ROOT
    )
