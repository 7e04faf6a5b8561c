"""What the launcher makes of requests, without systemd: what it allows, and what it refuses.

The sentence these tests stand for: whoever has taken over magid can at most run llama-server with
legal options, on models below the model folders, in the box of `sandbox`.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from magid.config.settings import Config
from magid.errors import InvalidConfig, InvalidInput, MagidError, NotAllowed, ServerFailed
from magid.launcher.model_files import MAX_PATHS_BYTES, MAX_SHARDS, check_files, real_roots, shards
from magid.launcher.policy import ConfigFile, authorize, read_config
from magid.launcher.protocol import StartRequest
from magid.launcher.sandbox import unit_properties
from magid.launcher.unit_request import CheckedFile
from magid.llama.placement import PlacedDevice, Placement
from tests.support.launcher_house import BLOB, FLAGS, House

VERSIONS = (252, 257, 262)
OLLAMA = "ollama/blobs/sha256-" + "0b" * 32


def test_rpc_servers_are_the_administrators(house: House) -> None:
    """The unit reaches those of its place, and no other that is configured."""
    here, other = "10.0.0.2:50052", "10.0.0.3:50053"
    settings = structs.replace(house.settings, rpc_servers=(here, other))
    placed = PlacedDevice("RPC1", here, 5)
    placement = Placement((placed,), 0, "all", pins_devices=True)
    request = house.order()
    request = structs.replace(
        request, placement=placement, flags=request.flags | {"--rpc", "--device", "--fit"}
    )
    order = authorize(request, settings)
    assert order.remote == (here,)
    made = {p.name: p.value for p in unit_properties(order, 257)}
    assert (2, bytes([10, 0, 0, 2]), 32) in made["IPAddressAllow"]
    assert (2, bytes([10, 0, 0, 3]), 32) not in made["IPAddressAllow"]
    gate = made["ExecStartEx"][0][1]
    assert "connect:50052" in gate[: gate.index("--")]
    assert "connect:50053" not in gate
    with pytest.raises(NotAllowed, match=r"magid\.yaml does not have it"):
        authorize(request, house.settings)


# -- what may be asked for -------------------------------------------------------------------


def test_a_good_request(house: House) -> None:
    order = authorize(house.order(extra_args=("--temp", "0.5")), house.settings)
    status = (house.models / "a.gguf").stat()
    assert [(f.path, f.device, f.inode) for f in order.files] == [
        (str(house.models / "a.gguf"), status.st_dev, status.st_ino)
    ]
    assert order.argv[0] == str(house.program)
    assert "--api-key-file" in order.argv
    assert order.argv[-2:] == ("--temp", "0.5")
    assert order.roots == (str(house.models),)


@pytest.mark.parametrize(
    ("path", "files"),
    [
        ("deep/b.gguf", ["deep/b.gguf"]),
        (
            "s-00001-of-00002.gguf",
            ["s-00001-of-00002.gguf", "s-00002-of-00002.gguf"],
        ),
        (BLOB, [BLOB]),
        (OLLAMA, [OLLAMA]),
    ],
)
def test_good_files(house: House, path: str, files: list[str]) -> None:
    for blob in (BLOB, OLLAMA):
        (house.models / blob).parent.mkdir(parents=True)
        (house.models / blob).write_bytes(b"GGUF")
    order = authorize(house.order(model_path=str(house.models / path)), house.settings)
    assert [file.path for file in order.files] == [str(house.models / name) for name in files]


BAD_PATHS: list[tuple[str, type[MagidError]]] = [
    ("{outside}/a.gguf", NotAllowed),
    ("/etc/passwd", NotAllowed),
    ("/etc/shadow.gguf", NotAllowed),
    ("/dev/mem", NotAllowed),
    ("/proc/self/root/etc/passwd", NotAllowed),
    ("{models}", NotAllowed),
    ("{models}.gguf", NotAllowed),
    ("{models}-other/a.gguf", NotAllowed),
    ("{models}/notes.txt", NotAllowed),
    ("{models}/blobs/notes", NotAllowed),
    ("{models}/deep/" + "a" * 64, NotAllowed),
    ("{models}/folder.gguf", NotAllowed),
    ("{models}/pipe.gguf", NotAllowed),
    ("{models}/link.gguf", NotAllowed),
    ("{models}/within.gguf", NotAllowed),
    ("{models}/away/a.gguf", ServerFailed),
    ("{models}/a.gguf/x.gguf", ServerFailed),
    ("{models}/absent.gguf", ServerFailed),
    ("{models}/" + "x" * 300 + ".gguf", ServerFailed),
    ("{models}/t-00001-of-00002.gguf", ServerFailed),
    ("{models}/s-00002-of-00002.gguf", InvalidInput),
    ("{models}/s-00001-of-00000.gguf", InvalidInput),
    ("{models}/s-00001-of-99999.gguf", InvalidInput),
]


# A projector is one file, whatever its name.
BAD_PROJECTORS = [(path, error) for path, error in BAD_PATHS if "-of-" not in path]


@pytest.mark.parametrize(
    ("field", "path", "error"),
    [
        *(("model_path", path, error) for path, error in BAD_PATHS),
        *(("mmproj_path", path, error) for path, error in BAD_PROJECTORS),
    ],
)
def test_bad_files(house: House, field: str, path: str, error: type[MagidError]) -> None:
    full = path.format(models=house.models, outside=house.outside)
    with pytest.raises(error, match=r"^cannot "):
        authorize(house.order(**{field: full}), house.settings)


BAD_SPECS: list[dict[str, Any]] = [
    {"port": 8079},
    {"port": 8100},
    {"port": 1024},
    {"host": "0.0.0.0"},
    {"host": "::"},
    {"host": "192.0.2.1"},
    {"host": "localhost"},
    *(
        {"extra_args": arguments}
        for arguments in (
            ("--tools", "all"),
            ("--log-file", "/tmp/x"),
            ("--model-draft", "/etc/passwd"),
            ("--model", "/etc/passwd"),
            ("-m", "/etc/passwd"),
            ("--lora", "/etc/passwd"),
            ("--host", "0.0.0.0"),
            ("--port", "22"),
            ("--api-key", "x"),
            ("--api-key-file", "/dev/null"),
            ("--path", "/"),
            ("--slot-save-path", "/tmp"),
            ("--rpc", "evil:1"),
            ("--hf-repo", "evil/model"),
            ("--model-url", "http://evil"),
            ("--chat-template-file", "/etc/passwd"),
            ("--grammar-file", "/etc/passwd"),
            ("--ssl-key-file", "/etc/passwd"),
            ("--agent",),
            ("--props",),
            ("--temp=1",),
            ("--tem", "1"),
            ("--temp", "1;id"),
            ("--temp", "$HOME"),
            ("--temp", "%i"),
            ("--temp",),
            ("1",),
            ("--", "x"),
            ("--temp", "1", "--temp", "2"),
            ("--chat-template", "{{ x }}"),
            ("-v",),
        )
    ),
]


@pytest.mark.parametrize("changes", BAD_SPECS, ids=repr)
def test_bad_specs(house: House, changes: dict[str, Any]) -> None:
    with pytest.raises((NotAllowed, InvalidInput), match=r"^cannot "):
        authorize(house.order(**changes), house.settings)


def test_flags_cannot_open_the_server(house: House) -> None:
    """A program that knows no --api-key-file is not run, whatever magid says that it knows."""
    with pytest.raises(MagidError, match="--api-key-file"):
        authorize(StartRequest(house.spec(), None, frozenset()), house.settings)


ANY_TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(arguments=st.lists(ANY_TEXT | st.sampled_from(sorted(FLAGS)), max_size=4), tail=ANY_TEXT)
def test_whatever_is_asked_the_box_is_the_same(
    house: House, arguments: list[str], tail: str
) -> None:
    path = f"{house.models}/{tail}".rstrip("/")
    start = house.order(extra_args=tuple(arguments), model_path=path)
    try:
        order = authorize(start, house.settings)
    except (MagidError, ValueError):
        return
    for file in order.files:
        assert Path(file.path).resolve().is_relative_to(house.models)
    good = authorize(house.order(), house.settings)
    changing = ("ExecStart", "ExecStartEx", "BindReadOnlyPaths", "LogExtraFields")
    for version in VERSIONS:
        ours, theirs = unit_properties(order, version), unit_properties(good, version)
        assert [p for p in ours if p.name not in changing] == [
            p for p in theirs if p.name not in changing
        ]


# -- the folders -----------------------------------------------------------------------------


def test_roots(tmp_path: Path, house: House) -> None:
    link = tmp_path / "linked"
    link.symlink_to(house.models)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    given_ = [link, house.models, tmp_path / "absent", loop, tmp_path / "x" / ".." / "models"]
    expected = (str(house.models),) if os.geteuid() == 0 else real_roots([house.models])
    assert real_roots(given_) == expected


def test_a_link_of_somebody_else(tmp_path: Path, house: House) -> None:
    link = tmp_path / "linked"
    link.symlink_to(house.models)
    if os.geteuid() == 0:
        os.chown(link, 65_534, 65_534, follow_symlinks=False)
    assert real_roots([link]) == ()


def test_a_renamed_folder_is_not_followed(house: House) -> None:
    path = str(house.models / "deep" / "b.gguf")
    assert check_files([path], (str(house.models),))
    (house.models / "deep").rename(house.models / "was-deep")
    (house.models / "deep").symlink_to(house.outside)
    (house.outside / "b.gguf").write_bytes(b"")
    with pytest.raises(ServerFailed, match="cannot open"):
        check_files([path], (str(house.models),))


@pytest.mark.parametrize(
    ("path", "count"),
    [
        ("/m/a.gguf", 1),
        ("/m/a-00001-of-00001.gguf", 1),
        (f"/m/a-00001-of-{MAX_SHARDS:05}.gguf", MAX_SHARDS),
        ("/m/a-1-of-3.gguf", 1),
        ("/m/a_00001-of-00003.gguf", 1),
    ],
)
def test_shards(path: str, count: int) -> None:
    assert len(shards(path)) == count
    assert shards(path)[0] == path


def test_the_paths_of_a_model_are_bounded_in_sum() -> None:
    """As long as any path may be, with as many files as any model may have: 6 MB of a unit."""
    name = f"/x-00001-of-{MAX_SHARDS:05}.gguf"
    longest = ("/" + "m" * 200) * 30
    with pytest.raises(InvalidInput, match="a folder with a shorter path") as caught:
        shards(longest[: 4095 - len(name)] + name)
    assert len(caught.value.message) < 500
    assert len(shards(longest[: 250 - len(name)] + name)) == MAX_SHARDS  # a long one of real life
    with pytest.raises(InvalidInput):
        shards("/" + "ü" * 130 + name)  # it is bytes that count


@pytest.mark.parametrize("version", VERSIONS)
def test_the_largest_unit(house: House, version: int) -> None:
    """In systemd's file no line may have 1 MiB."""
    name = f"x-00001-of-{MAX_SHARDS:05}.gguf"
    path = "/m/" + "m" * (MAX_PATHS_BYTES // MAX_SHARDS - len(name) - 4) + "/" + name
    files = tuple(CheckedFile(each, 2**32, 2**64 - 1) for each in shards(path))
    order = authorize(house.order(), house.settings)
    properties = unit_properties(replace(order, files=files), version)
    assert sum(len(repr(each)) for each in properties) < 512 * 1024


def test_the_configuration_has_to_be_roots(tmp_path: Path) -> None:
    path = tmp_path / "magid.yaml"
    path.write_text("port_range: [9000, 9001]\n")
    path.chmod(0o666)
    with pytest.raises(InvalidConfig, match="users other than root may write"):
        read_config(path)
    assert read_config(tmp_path / "absent.yaml") == Config()


def test_the_configuration_is_read_again_when_its_file_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "magid.yaml"
    path.write_text("port_range: [9000, 9001]\n")
    read = ConfigFile(path, settled_ns=0)
    first = read()
    assert first.port_range == (9000, 9001)
    assert read() is first
    path.write_text("port_range: [9000, 9002]\n")
    assert read().port_range == (9000, 9002)
    path.chmod(0o666)
    with pytest.raises(InvalidConfig, match="users other than root may write"):
        read()
    path.unlink()
    assert read() == Config()


def test_a_file_that_has_just_changed_is_not_kept(tmp_path: Path) -> None:
    """It may change again and have the same times."""
    path = tmp_path / "magid.yaml"
    path.write_text("port_range: [9000, 9001]\n")
    read = ConfigFile(path)
    assert read() is not read()
