"""The box as data: what every model unit has, on every systemd, whatever is asked for."""

from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magid.errors import InvalidInput, MagidError, NotAllowed
from magid.launcher.sandbox import NOTIFY, Property, field_of, unit_properties
from magid.launcher.unit_request import CheckedFile, Timeouts, UnitRequest
from magid.llama.placement import PlacedDevice
from magid.llama.spec import ServerSpec
from tests.support.values import PLACEMENT, UUIDS

VERSIONS = (252, 254, 257, 262)
PATIENCE = Timeouts(120, 2, 10, 5, 600, 1, 60)
ORDER = UnitRequest(
    spec=ServerSpec("demo", 0, 8080, "127.0.0.1", "/models/a.gguf"),
    profile="production",
    argv=("/usr/bin/llama-server", "--model", "/models/a.gguf"),
    files=(CheckedFile("/models/a.gguf", 1, 2),),
    roots=("/models",),
    program_folders=("/usr",),
    scripts="/usr/lib/magi/magid/standalone",
    key_source="/run/magi/key.sock",
    groups=("render",),
    patience=PATIENCE,
)
# What no drop of code may open, by name and value.
CLOSED: dict[str, Any] = {
    "DynamicUser": True,
    "NoNewPrivileges": True,
    "CapabilityBoundingSet": 0,
    "AmbientCapabilities": 0,
    "ProtectSystem": "strict",
    "PrivateTmp": True,
    "PrivateUsers": True,
    "PrivateIPC": True,
    "ProtectProc": "invisible",
    "MemoryDenyWriteExecute": True,
    "RestrictSUIDSGID": True,
    "DevicePolicy": "closed",
    "KeyringMode": "private",
    "UMask": 0o077,
    "LimitCORE": 0,
    "Type": "notify",
    "NotifyAccess": "all",
    "Slice": "magi.slice",
    "PartOf": ["magi-models.target"],
    "CollectMode": "inactive",
    "IgnoreOnIsolate": True,
    "AddRef": True,
    "OOMPolicy": "stop",
    "KillMode": "mixed",
    "LoadCredential": [("api-key", "/run/magi/key.sock")],
    "SocketBindDeny": [(0, 0, 0, 0)],
    "SocketBindAllow": [(0, 6, 1, 8080)],
    "IPAddressDeny": [(2, bytes(4), 0), (10, bytes(16), 0)],
    "IPAddressAllow": [(2, b"\x7f\0\0\1", 32), (10, bytes(15) + b"\1", 128)],
    "ReadOnlyPaths": ["/tmp", "/var/tmp"],
    "RestrictAddressFamilies": (True, ["AF_INET", "AF_INET6", "AF_UNIX"]),
}
FORBIDDEN = {"BindsTo", "Requires", "Requisite", "Upholds", "OnFailure", "FailureAction"}


def made(order: UnitRequest = ORDER, version: int = 257) -> dict[str, Any]:
    return {p.name: p.value for p in unit_properties(order, version)}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_box_is_closed(version: int) -> None:
    properties = made(version=version)
    assert {name: properties[name] for name in CLOSED} == CLOSED
    assert properties.keys().isdisjoint(FORBIDDEN)
    assert "magid.service" not in repr(properties)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_command(version: int) -> None:
    properties = made(version=version)
    if version < 254:
        ((path, argv, ignore),) = properties["ExecStart"]
        assert ignore is False
    else:
        ((path, argv, flags),) = properties["ExecStartEx"]
        assert flags == ["no-env-expand"]
    start = ["/usr/bin/python3", "-I", "-S", "/usr/lib/magi/magid/standalone/exec_model.py"]
    assert path == argv[0]
    assert argv == [*start, "ready:120:2", "1:2:/models/a.gguf", "--", *ORDER.argv]
    assert "ExecStartPost" not in "".join(properties)  # the sandbox would be made once more
    assert ("ExecStartEx" in properties) == (version >= 254)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_kernel_that_keeps_servers_to_their_ports(version: int) -> None:
    """In the place of the programs that systemd would load, which do the same."""
    properties = made(replace(ORDER, filters_port=True), version)
    command = properties["ExecStart" if version < 254 else "ExecStartEx"][0][1]
    assert command[4] == "bind:8080"
    assert made(version=version).keys() - properties.keys() == {"SocketBindDeny", "SocketBindAllow"}


@pytest.mark.parametrize("version", VERSIONS)
def test_run_is_hidden_and_one_place_is_writable(version: int) -> None:
    properties = made(version=version)
    folders = dict(properties["TemporaryFileSystem"])
    assert folders["/run"] == "ro"
    writable = {path: options for path, options in folders.items() if options != "ro"}
    assert writable == {"/dev/shm": "size=1G,nr_inodes=16384,mode=1777"}
    environment = {"HOME=/dev/shm", "TMPDIR=/dev/shm", "CUDA_DEVICE_ORDER=PCI_BUS_ID"}
    assert set(properties["Environment"]) == environment
    in_run = {path for _, path, *_ in properties["BindReadOnlyPaths"] if path.startswith("/run")}
    assert in_run == {"/run/systemd/notify"}


@pytest.mark.parametrize(
    ("host", "more"),
    [
        ("127.0.0.1", []),
        ("::1", []),
        ("localhost", []),
        ("0.0.0.0", []),
        ("::", []),
        ("192.0.2.1", []),
        ("127.0.0.9", [(2, b"\x7f\0\0\x09", 32)]),
    ],
)
def test_its_own_address_is_allowed(host: str, more: list[Any]) -> None:
    """wait_ready.py connects to it, in the unit."""
    spec = replace(ORDER.spec, host=host)
    allowed = made(replace(ORDER, spec=spec))["IPAddressAllow"]
    assert allowed == [*CLOSED["IPAddressAllow"], *more]


@pytest.mark.parametrize("version", VERSIONS)
def test_what_an_old_systemd_does_not_know(version: int) -> None:
    new = {"RestartSteps", "RestartMaxDelayUSec"}
    assert (new <= made(version=version).keys()) == (version >= 254)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"Restart": "always", "StartLimitBurst": 6, "RestartSteps": 6}),
        ({"restarts": 0}, {"Restart": "no", "StartLimitBurst": 1}),
        ({"first_delay_s": 0.2}, {"RestartUSec": 200_000}),
        ({"max_delay_s": 1.5}, {"RestartSteps": 1, "RestartMaxDelayUSec": 1_500_000}),
        ({"stop_timeout_s": 2.5}, {"TimeoutStopUSec": 2_500_000}),
        # wait_ready.py ends a start that takes too long, and says why.
        ({"max_startup_s": 300}, {"TimeoutStartUSec": 360_000_000}),
        # A server that hangs in loading takes 190 s each time, and must come to its sixth.
        ({}, {"StartLimitIntervalUSec": 6 * 190_000_000}),
        ({"window_s": 5000}, {"StartLimitIntervalUSec": 5_000_000_000}),
    ],
)
def test_patience(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    properties = made(replace(ORDER, patience=replace(PATIENCE, **changes)))
    assert {name: properties[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"memory_max": 2**33}, {"MemoryMax": 2**33}),
        ({"cpu_quota": 250}, {"CPUQuotaPerSecUSec": 2_500_000}),
    ],
)
def test_limits(changes: dict[str, Any], expected: dict[str, int]) -> None:
    properties = made(replace(ORDER, spec=replace(ORDER.spec, **changes)))
    limits = ("MemoryMax", "CPUQuotaPerSecUSec")
    assert {name: properties[name] for name in limits if name in properties} == expected


def test_no_steps_without_growth() -> None:
    patience = replace(PATIENCE, first_delay_s=5, max_delay_s=5)
    assert "RestartSteps" not in made(replace(ORDER, patience=patience))


def order_of(*, model: str, root: str, program: str = "/usr") -> UnitRequest:
    return replace(
        ORDER, files=(CheckedFile(model, 1, 2),), roots=(root,), program_folders=(program,)
    )


@pytest.mark.parametrize(
    ("order", "hidden", "shown", "home"),
    [
        (order_of(model="/models/a", root="/models"), "/models", ["/models/a"], "yes"),
        (order_of(model="/var/lib/m/a", root="/var/lib/m"), "/var", ["/var/lib/m/a"], "yes"),
        (order_of(model="/home/u/m/a", root="/home/u/m"), "/var", ["/home/u/m/a"], "tmpfs"),
        (order_of(model="/m/a", root="/m", program="/opt/l"), "/m", ["/m/a"], "yes"),
        (order_of(model="/m/a", root="/m", program="/srv/l"), "/srv", ["/srv/l", "/m/a"], "yes"),
        (order_of(model="/m/a", root="/m", program="/home/l"), "/m", ["/home/l", "/m/a"], "tmpfs"),
        (
            order_of(model="/run/m/a", root="/run/m", program="/run/l"),
            "/run",
            ["/run/l", "/run/m/a"],
            "yes",
        ),
    ],
    ids=repr,
)
def test_what_is_seen(order: UnitRequest, hidden: str, shown: list[str], home: str) -> None:
    properties = made(order)
    assert (hidden, "ro") in properties["TemporaryFileSystem"]
    assert [source for source, *_ in properties["BindReadOnlyPaths"]] == [*shown, NOTIFY]
    assert properties["ProtectHome"] == home


@pytest.mark.parametrize(
    ("root", "hidden"),
    [("/data/My Models", "/data"), ("/data/a:b/c d", "/data"), ("/data/$x", "/data/$x")],
)
def test_roots_that_no_mount_can_name(root: str, hidden: str) -> None:
    """Another model's folder: the one above it is hidden, and stays so at a daemon-reload."""
    properties = made(replace(ORDER, roots=("/models", root)))
    assert (hidden, "ro") in properties["TemporaryFileSystem"]
    assert not any(" " in path or ":" in path for path, _ in properties["TemporaryFileSystem"])


@pytest.mark.parametrize("path", ["/srv/my llama", "/opt/a:b"])
def test_a_program_that_no_mount_can_name(path: str) -> None:
    with pytest.raises(InvalidInput, match="rename"):
        made(replace(ORDER, program_folders=(path,)))


@pytest.mark.parametrize("root", ["/", "/My Models", "/usr", "/usr/lib", "/etc", "/run"])
def test_a_root_that_cannot_be_hidden(root: str) -> None:
    with pytest.raises(NotAllowed, match="it holds parts of the system"):
        made(replace(ORDER, roots=(root,)))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("sign", [":", " ", "'", '"', "\\", "$", ";", "%", "ü", "(", "["])
def test_signs_in_paths(sign: str, version: int) -> None:
    order = replace(ORDER, files=(CheckedFile(f"/models/a{sign}b.gguf", 1, 2),))
    if sign in ": '\"\\" or (sign in "$;" and version < 254):
        with pytest.raises(InvalidInput, match="rename the file"):
            made(order, version)
    else:
        made(order, version)


def test_what_it_says_of_itself() -> None:
    fields = made()["LogExtraFields"]
    assert field_of(fields, "MAGI_SPEC") == ORDER.spec.hash
    assert field_of(fields, "MAGI_MODEL") == "demo"
    assert field_of(fields, "MAGI_INSTANCE") == "0"
    assert field_of(fields, "MAGI_PROFILE") == "production"
    assert field_of(fields, "MAGI_ABSENT") == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"profile": None},
        {"files": (CheckedFile("/models/a.gguf", 1, 3),)},
        {"argv": ("/usr/bin/llama-server",)},
        {"patience": replace(PATIENCE, restarts=1)},
        {"scripts": "/usr/lib/other"},
    ],
    ids=repr,
)
def test_another_order_is_another_unit(changes: dict[str, Any]) -> None:
    def digest(order: UnitRequest) -> str:
        return field_of(made(order)["LogExtraFields"], "MAGI_ORDER")

    assert digest(ORDER) == digest(replace(ORDER))
    assert digest(ORDER) != digest(replace(ORDER, **changes))


PATH_PARTS = st.lists(st.text("ab.$-%", min_size=1, max_size=4), min_size=1, max_size=4)


@given(PATH_PARTS, PATH_PARTS, st.sampled_from(VERSIONS))
def test_nothing_of_the_box_depends_on_paths(
    root: list[str], file: list[str], version: int
) -> None:
    folder = str(PurePosixPath("/", *root))
    order = order_of(model=f"{folder}/{'/'.join(file)}.gguf", root=folder)
    try:
        properties: list[Property] = unit_properties(order, version)
    except MagidError:
        return
    found = {p.name: p.value for p in properties}
    assert {name: found[name] for name in CLOSED} == CLOSED


def test_a_file_that_was_rewritten_in_place_makes_another_unit() -> None:
    """Its path, device and inode are the same, and MAGI_SPEC has to be that of the new spec."""
    rewritten = replace(ORDER, spec=replace(ORDER.spec, stamp="another"))
    fields = [made(order)["LogExtraFields"] for order in (ORDER, rewritten)]
    assert len({field_of(each, "MAGI_ORDER") for each in fields}) == 2


def test_a_placement_is_in_the_unit() -> None:
    placed = made(replace(ORDER, placement=PLACEMENT))
    assert field_of(placed["LogExtraFields"], "MAGI_PLACEMENT") == PLACEMENT.text
    assert field_of(made()["LogExtraFields"], "MAGI_PLACEMENT") == ""
    assert field_of(placed["LogExtraFields"], "MAGI_SPEC") == ORDER.spec.hash


def test_gpus_are_numbered_by_their_bus() -> None:
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in made()["Environment"]
    devices = tuple(PlacedDevice("CUDA0", uuid, 1) for uuid in UUIDS)
    chosen = replace(PLACEMENT, devices=devices)
    environment = made(replace(ORDER, placement=chosen))["Environment"]
    assert f"CUDA_VISIBLE_DEVICES={','.join(UUIDS)}" in environment
