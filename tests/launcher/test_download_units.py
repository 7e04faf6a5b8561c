"""The unit of a download as data: what it may reach, write and read, whatever is asked for."""

import ipaddress
from pathlib import Path
from typing import Any

import pytest

from magid.config.settings import Config, DownloadSettings
from magid.errors import InvalidInput, NotAllowed
from magid.launcher.download_request import DownloadRequest
from magid.launcher.download_units import authorize_download, download_unit
from magid.launcher.sandbox import Property
from magid.library.source import ModelSource

SOURCE = ModelSource("org/Repo", tag="Q4_K_M")
RUN = DownloadRequest("run", SOURCE)
CLOSED: dict[str, Any] = {
    "User": "magi-library",
    "Group": "magi-models",
    "NoNewPrivileges": True,
    "CapabilityBoundingSet": 0,
    "AmbientCapabilities": 0,
    "ProtectSystem": "strict",
    "PrivateDevices": True,
    "DevicePolicy": "closed",
    "PrivateTmp": True,
    "PrivateUsers": True,
    "MemoryDenyWriteExecute": True,
    "RestrictSUIDSGID": True,
    "SocketBindDeny": [(0, 0, 0, 0)],
    "BindPaths": [("/models/new", "/models/new", False, 0x4000)],
    "ReadWritePaths": ["/models/new"],
    "CPUWeight": 20,
    "IOWeight": 20,
}


def settings(tmp_path: Path, **changes: Any) -> Config:
    downloads = DownloadSettings(token_path=tmp_path / "token", **changes)
    library = Path("/models/new")
    return Config(model_paths=(Path("/models"),), library_path=library, downloads=downloads)


def made(tmp_path: Path, request: DownloadRequest = RUN, **changes: Any) -> list[Property]:
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text("# comment\nnameserver 127.0.0.53\nnameserver fe80::1%eth0\nsearch x\n")
    return authorize_download(request, settings(tmp_path, **changes), 262, resolv_conf)


def value(properties: list[Property], name: str) -> Any:
    (found,) = (p.value for p in properties if p.name == name)
    return found


@pytest.mark.parametrize("action", ["run", "pause", "remove", "list", "check"])
def test_the_closed_box(tmp_path: Path, action: str) -> None:
    properties = made(tmp_path, DownloadRequest(action, SOURCE))
    assert {name: value(properties, name) for name in CLOSED} == CLOSED
    assert ("/etc/magi", "ro") in value(properties, "TemporaryFileSystem")
    ((program, argv, flags),) = value(properties, "ExecStartEx")
    assert (program, argv[1], flags) == ("/usr/lib/magi/magi-download", action, ["no-env-expand"])
    assert "--repository=org/Repo" in argv


def test_a_question_about_several_models(tmp_path: Path) -> None:
    """No part of a source has a colon, and none is an option."""
    more = (ModelSource("org/Other", "v2", file="-a b.gguf"), ModelSource("o/R", file="x/y.gguf"))
    ((_, argv, _),) = value(made(tmp_path, DownloadRequest("check", SOURCE, more)), "ExecStartEx")
    assert argv[-2:] == ["--model=org/Other:v2:-a b.gguf", "--model=o/R:main:x/y.gguf"]


def networks(properties: list[Property], name: str) -> set[str]:
    found = value(properties, name)
    return {str(ipaddress.ip_network((address, bits))) for _, address, bits in found}


def test_the_network(tmp_path: Path) -> None:
    properties = made(tmp_path)
    denied = networks(properties, "IPAddressDeny")
    private = (
        "127.0.0.1",
        "10.1.2.3",
        "192.168.1.1",
        "172.16.0.1",
        "169.254.169.254",
        "::1",
        "fd00::1",
    )
    for text in private:
        address = ipaddress.ip_address(text)
        assert any(address in ipaddress.ip_network(each) for each in denied), text
    public = ipaddress.ip_address("18.164.174.23")
    assert not any(public in ipaddress.ip_network(each) for each in denied)
    assert networks(properties, "IPAddressAllow") == {"127.0.0.53/32", "fe80::1/128"}
    mirror = made(tmp_path, endpoint="http://10.1.2.3:8080/hub")
    assert "10.1.2.3/32" in networks(mirror, "IPAddressAllow")


def test_the_token(tmp_path: Path) -> None:
    token = tmp_path / "token"
    assert all(p.name != "LoadCredential" for p in made(tmp_path))
    token.write_text("hf_secret")
    token.chmod(0o600)
    properties = made(tmp_path)
    assert value(properties, "LoadCredential") == [("hub-token", str(token))]
    assert "hf_secret" not in repr(properties)
    for mode in (0o640, 0o604, 0o620):
        token.chmod(mode)
        with pytest.raises(NotAllowed, match="chmod 600"):
            made(tmp_path)


def test_units_are_named_after_the_source() -> None:
    assert download_unit(RUN) == f"magi-download@{SOURCE.job_id}.service"
    assert download_unit(DownloadRequest("list", SOURCE)) == "magi-download@list.service"
    assert download_unit(DownloadRequest("check", SOURCE)) == "magi-download@check.service"


def test_a_library_that_cannot_be_used(tmp_path: Path) -> None:
    outside = Config(model_paths=(Path("/models"),), library_path=Path("/srv/new"))
    with pytest.raises(NotAllowed, match="library_path"):
        authorize_download(RUN, outside, 262)
    spaced = Config(model_paths=(Path("/models"),), library_path=Path("/models/a b"))
    with pytest.raises(InvalidInput, match="library_path"):
        authorize_download(RUN, spaced, 262)
