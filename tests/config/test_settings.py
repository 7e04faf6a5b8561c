"""The configuration: where values come from, and what is said about wrong ones."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from magid.catalog import profile
from magid.config import loading as config
from magid.config.addresses import TcpAddress, UnixAddress, is_loopback, parse_address
from magid.config.loading import load, render, settings
from magid.config.settings import Config
from magid.errors import InvalidConfig, ProfileNotFound


def _load(
    tmp_path: Path,
    text: str = "",
    env: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
) -> config.Effective:
    path = tmp_path / "magid.yaml"
    path.write_text(text, encoding="utf-8")
    return load(flags or {}, env or {}, path)


def _refusal(
    tmp_path: Path,
    text: str = "",
    env: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
) -> str:
    with pytest.raises(InvalidConfig) as caught:
        _load(tmp_path, text, env, flags)
    message = caught.value.message
    assert "\n" not in message
    return message.replace(str(tmp_path), "DIR")


def test_without_anything_all_is_default(tmp_path: Path) -> None:
    effective = load({}, {}, tmp_path / "absent.yaml")
    assert effective.config == Config()
    assert effective.path is None
    assert set(effective.sources.values()) == {"default"}


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("MODEL_SCAN_PATH", "/a:/b", "model_paths", (Path("/a"), Path("/b"))),
        ("MODEL_SCAN_PATH", "/with space:", "model_paths", (Path("/with space"),)),
        ("MODEL_SCAN_PATH", "models", "model_paths", (Path.cwd() / "models",)),
        ("MAGI_LIBRARY_PATH", "/a/b", "library_path", Path("/a/b")),
        ("REGISTRY_PATH", "/r.json", "registry_path", Path("/r.json")),
        ("REGISTRY_PATH", "data/r.json", "registry_path", Path.cwd() / "data/r.json"),
        ("LLAMA_SERVER_PATH", "/opt/llama-server", "llama_server_path", Path("/opt/llama-server")),
        ("LLAMA_SERVER_HOST", "0.0.0.0", "llama_server_host", "0.0.0.0"),
        ("MAX_STARTUP_TIME", "30", "max_startup_time", 30),
        ("MAX_STARTUP_TIME", "0.5", "max_startup_time", 0.5),
        ("READINESS_CHECK_INTERVAL", "1", "readiness_check_interval", 1),
        ("MAGI_PROFILES_DIR", "/p", "profiles_dir", Path("/p")),
        ("MAGI_SHIPPED_PROFILES_DIR", "/p", "shipped_profiles_dir", Path("/p")),
        ("MAGI_PAGE_DIR", "/p", "page_dir", Path("/p")),
        ("MAGI_PROFILE", "fast-only", "profile", "fast-only"),
        ("MAGI_PROFILE", "8", "profile", "8"),
        ("MAGI_PROFILE", "null", "profile", None),
        ("MAGI_STATE_DIR", "/s", "state_dir", Path("/s")),
        ("MAGI_LAUNCHER", "process", "launcher", "process"),
        ("MAGI_BIND", "[::1]:9000, unix:/run/x", "bind", ("[::1]:9000", "unix:/run/x")),
    ],
)
def test_variables(tmp_path: Path, variable: str, text: str, key: str, value: object) -> None:
    effective = _load(tmp_path, env={variable: text})
    assert getattr(effective.config, key) == value
    assert effective.sources[key] == variable
    assert {s.key: s.variable for s in settings()}[key] == variable


def test_file_then_variable_then_flag(tmp_path: Path) -> None:
    text = "\nmax_startup_time: 1\nstop_timeout: 1\nrestart:\n  limit: 9\n"
    text += "readiness_check_interval: 1\n"
    effective = _load(
        tmp_path,
        text,
        {"MAX_STARTUP_TIME": "2", "READINESS_CHECK_INTERVAL": "2", "MAGI_PROFILE": ""},
        {"max_startup_time": "3"},
    )
    times = effective.config
    assert (times.max_startup_time, times.readiness_check_interval, times.stop_timeout) == (3, 2, 1)
    file = tmp_path / "magid.yaml"
    assert {k: v for k, v in effective.sources.items() if v != "default"} == {
        "max_startup_time": "--max-startup-time",
        "readiness_check_interval": "READINESS_CHECK_INTERVAL",
        "stop_timeout": f"{file}:3",
        "restart.limit": f"{file}:5",
    }


def test_the_registry_is_in_the_state_folder(tmp_path: Path) -> None:
    assert _load(tmp_path, "state_dir: /s").config.registry_path == Path("/s/model_registry.json")


@pytest.mark.parametrize(
    ("models", "library", "root"),
    [
        ("/a:/b", "/b", Path("/b")),
        ("/a:/b", "/b/new", Path("/b/new")),
        ("/a:/b", "/bee", None),
        ("/a/b", "/a", None),
    ],
)
def test_only_a_folder_that_is_searched_is_a_library(
    tmp_path: Path, models: str, library: str, root: Path | None
) -> None:
    variables = {"MODEL_SCAN_PATH": models, "MAGI_LIBRARY_PATH": library}
    assert load({}, variables, tmp_path / "absent.yaml").config.library_root == root


def test_another_file_can_be_named(tmp_path: Path) -> None:
    named, other = tmp_path / "named.yaml", tmp_path / "other.yaml"
    named.write_text("stop_timeout: 3")
    other.write_text("stop_timeout: 4")
    env = {"MAGI_CONFIG": str(named)}
    assert load({}, env, other).config.stop_timeout == 3
    assert load({"config": str(other)}, env).config.stop_timeout == 4
    named.unlink()
    with pytest.raises(InvalidConfig, match=r"cannot use MAGI_CONFIG: .*named.yaml does not exist"):
        load({}, env, other)


def test_an_emptied_section_is_default(tmp_path: Path) -> None:
    assert _load(tmp_path, "restart:\n#  limit: 3\n").config == Config()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_startup_tme: 3", "line 1: max_startup_tme is not known; did you mean 'max_startup_"),
        ("\nrestart: {limitt: 3}", "line 2: restart.limitt is not known; did you mean 'limit'?"),
        ("zzz: 1", "line 1: zzz is not known; known are allowed_hosts, allowed_origins, bind, "),
        ("max_startup_time: yes", "line 1: max_startup_time should be a valid number, not 'yes'"),
        ("max_startup_time: '5'", "line 1: max_startup_time should be a valid number, not '5'"),
        ("max_startup_time: true", "line 1: max_startup_time should be a valid number, not True"),
        ("max_startup_time: 0", "line 1: max_startup_time should be greater than 0, not 0"),
        ("max_startup_time: 1e9", "line 1: max_startup_time should be less than or equal to 86400"),
        ("restart:\n  limit: -1", "line 2: restart.limit should be greater than or equal to 0, no"),
        ("restart: 3", "line 1: restart should be a mapping of keys to values, not 3"),
        (
            "restart: {max_delay: 0.5}",
            "line 1: restart.max_delay should be at least first_delay (1",
        ),
        ("bind: 127.0.0.1:8000", "line 1: bind should be a list, not '127.0.0.1:8000'"),
        ("bind: []", "line 1: bind should have at least 1 item, not 0"),
        ("bind: ['a:1', 2]", "line 1: bind[0] should be an IP address (IPv6 in brackets) or local"),
        ("bind: ['[::1]:1', '[::1]:1']", "line 1: bind should have no duplicates"),
        ("bind: ['127.0.0.1:8090']", "line 1: bind should leave port 8090 to the servers: it is"),
        ("port_range: [9000, 8090]", "line 1: port_range should be [lowest, highest], not [9000"),
        ("port_range: [80, 8090]", "line 1: port_range[0] should be greater than or equal to 1024"),
        ("port_range: [9000]", "line 1: port_range[1] is missing; add it"),
        ("port_range: [1, 2, 3]", "line 1: port_range should have at most 2 items, not 3"),
        ("model_paths: [/a, b]", "line 1: model_paths[1] should be an absolute path, not 'b'"),
        ("model_paths:\n- /a\n- ~", "line 3: model_paths[1] should be an absolute path"),
        ("state_dir: 7", "line 1: state_dir should be an absolute path, not 7"),
        ('state_dir: "/a\\nb"', "line 1: state_dir should be a path of printable UTF-8 text, not"),
        ("launcher: docker", "line 1: launcher should be 'auto', 'systemd' or 'process', not 'doc"),
        ("profile: ../x", "line 1: profile should be a profile's name, like fast-only, not '../x'"),
        ("llama_server_host: -x", "line 1: llama_server_host should be a host name or an IP"),
        ("allowed_hosts: ['x:80']", "line 1: allowed_hosts[0] should be a host name or an IP addr"),
        ("trusted_proxies: [10.0.0.1/8]", "line 1: trusted_proxies[0] should be an IP address or"),
        ("allowed_origins: [a.b]", "line 1: allowed_origins[0] should be like https://magi.examp"),
        ("tier_thresholds: {fast_max: 15}", "line 1: tier_thresholds.fast_max should be at most p"),
        ("tier_thresholds:\n  powerful_min: 2", "line 1: tier_thresholds.fast_max should be at"),
        ("server_defaults: {ctx_size: 1.5}", "line 1: server_defaults.ctx_size should be a valid"),
        ("server_defaults: {extra_args: [1]}", "line 1: server_defaults.extra_args[0] should be"),
        ("\nserver_defaults:\n  ctx_sise: 1", "line 3: server_defaults.ctx_sise is not known; did"),
        ("server_defaults: {memory_max: 24X}", "line 1: server_defaults.memory_max should be a v"),
        ("server_defaults: {memory_max: 1M}", "line 1: server_defaults.memory_max should be a va"),
        ("server_defaults: {ctx_size: '8192'}", "line 1: server_defaults.ctx_size should be a val"),
        ("server_defaults: [1]", "line 1: server_defaults should be a mapping of keys to values"),
    ],
)
def test_wrong_values_in_the_file(tmp_path: Path, text: str, message: str) -> None:
    assert _refusal(tmp_path, text).startswith(f"cannot use DIR/magid.yaml: {message}")


def test_wrong_files(tmp_path: Path) -> None:
    assert _refusal(tmp_path, "a: 1\na: 2") == (
        "cannot read DIR/magid.yaml: line 2: key 'a' is given twice; remove one"
    )
    with pytest.raises(InvalidConfig, match="not a regular file"):
        load({}, {}, tmp_path)


@pytest.mark.parametrize(
    ("env", "flags", "message"),
    [
        ({"MAX_STARTUP_TIME": "2m"}, {}, "MAX_STARTUP_TIME: max_startup_time should be a valid"),
        ({"MAX_STARTUP_TIME": "1"}, {"max_startup_time": "-1"}, "--max-startup-time: max_startup"),
        ({}, {"port_range": "8080"}, "--port-range: port_range[1] is missing"),
        ({}, {"bind": ""}, "--bind: bind should have at least 1 item, not 0"),
        ({}, {"bnd": "x"}, "--bnd: it is not known; see magid --help"),
        ({"MAGI_STATE_DIR": "/\udcff"}, {}, "MAGI_STATE_DIR: state_dir should be a path of print"),
        ({"MAGI_LAUNCHER": "\udcff"}, {}, "MAGI_LAUNCHER: launcher should be text in UTF-8"),
        ({"MAX_STARTUP_TIME": "\udcff"}, {}, "MAX_STARTUP_TIME: max_startup_time should be a val"),
        ({}, {"log_level": "\udcff"}, "--log-level: log_level should be "),
    ],
)
def test_wrong_values_elsewhere(
    tmp_path: Path, env: dict[str, str], flags: dict[str, str], message: str
) -> None:
    assert _refusal(tmp_path, "", env, flags).startswith(f"cannot use {message}")


def test_a_port_range_as_flag(tmp_path: Path) -> None:
    assert _load(tmp_path, flags={"port_range": "9000-9010"}).config.port_range == (9000, 9010)


def test_a_certificate_and_its_key_come_together(tmp_path: Path) -> None:
    pair = "tls_cert: /etc/magi/cert.pem\ntls_key: /etc/magi/key.pem\n"
    assert _load(tmp_path, pair).config.tls_cert == Path("/etc/magi/cert.pem")
    for half in pair.splitlines():
        assert "should be set together with tls_cert" in _refusal(tmp_path, half)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8000", TcpAddress("127.0.0.1", 8000)),
        ("[::1]:80", TcpAddress("::1", 80)),
        ("localhost:1", TcpAddress("localhost", 1)),
        ("unix:/run/magi/x.sock", UnixAddress("/run/magi/x.sock")),
        ("unix:/" + "x" * 106, UnixAddress("/" + "x" * 106)),
        ("unix:/" + "x" * 107, None),
        ("unix:x", None),
        ("unix:", None),
        ("127.0.0.1", None),
        ("127.0.0.1:", None),
        ("127.0.0.1:0", None),
        ("127.0.0.1:65536", None),
        ("127.0.0.1:\u0661", None),  # int() takes any digits
        ("127.0.0.1:+80", None),
        ("[127.0.0.1]:80", None),
        ("::1:80", None),
        ("::1", None),
        (":80", None),
        ("*:80", None),
        ("magi.example:80", None),
        ("http://127.0.0.1:80", None),
        ("", None),
    ],
)
def test_addresses(text: str, address: TcpAddress | UnixAddress | None) -> None:
    if address is None:
        with pytest.raises(ValueError, match=r"^an? |^HOST:PORT"):
            parse_address(text)
    else:
        assert parse_address(text) == address


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.evil.example", False),
    ],
)
def test_loopback(host: str, *, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_names_are_kept_in_lower_case(tmp_path: Path) -> None:
    text = "allowed_hosts: [Magi.Example, '::1']\nallowed_origins: ['HTTPS://Magi.Example:8443']"
    effective = _load(tmp_path, text).config
    assert effective.allowed_hosts == ("magi.example", "::1")
    assert effective.allowed_origins == ("https://magi.example:8443",)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("app://obsidian.md/", "app://obsidian.md"),
        ("chrome-extension://ophjlpahpchlmihnnnihgmmeilfjmjjc", None),
        ("moz-extension://3c0fa3cf-9a0f-4c1d-8f6f-0d5a4a8a2f10", None),
        ("vscode-webview://0r9ocnhmg1pl2bpvj6nd1jq5qvgpbmoqm4bo9h1uq6mgqnqd5jq6", None),
        ("tauri://localhost", None),
        ("http://[::1]:5173/", "http://[::1]:5173"),
    ],
)
def test_origins_of_apps(tmp_path: Path, given: str, kept: str | None) -> None:
    effective = _load(tmp_path, f"allowed_origins: ['{given}']").config
    assert effective.allowed_origins == (kept or given,)


@pytest.mark.parametrize(
    "given",
    ["*", "null", "file://x", "app://", "app://*", "app://a/b", "app://a//", "ws://a", "://a",
     "app:a", "http://a/b", "https://*.example"],
)  # fmt: skip
def test_what_is_no_origin(tmp_path: Path, given: str) -> None:
    with pytest.raises(InvalidConfig, match="should be like"):
        _load(tmp_path, f"allowed_origins: ['{given}']")


@pytest.mark.parametrize("name", ["a", "fast-only", "0", "-a", "A", "a_b", "", "a" * 63, "a" * 64])
def test_profile_names_are_those_of_profiles(tmp_path: Path, name: str) -> None:
    flags = {"profile": name}
    try:
        profile.check_slug(name)
    except ProfileNotFound:
        assert "profile should be a profile's name" in _refusal(tmp_path, flags=flags)
    else:
        assert _load(tmp_path, flags=flags).config.profile == name


def test_check_prints_every_value_with_its_source(tmp_path: Path) -> None:
    effective = _load(tmp_path, "stop_timeout: 2.5", {"MAGI_BIND": "[::1]:8000"})
    lines = render(effective).splitlines()
    assert len({line.rindex("  # ") for line in lines}) == 1
    pairs = {left.strip(): right.strip() for left, _, right in (x.rpartition("#") for x in lines)}
    assert pairs["stop_timeout = 2.5"] == f"{tmp_path}/magid.yaml:1"
    assert pairs['bind = ["[::1]:8000"]'] == "MAGI_BIND"
    assert pairs["max_startup_time = 120"] == "default"
    assert [line.split(" = ")[0] for line in lines] == [s.key for s in settings()]


def test_the_table_of_settings_is_complete() -> None:
    table = {setting.key: setting for setting in settings()}
    assert all(setting.description for setting in table.values())
    assert table["restart.limit"].default == "5"
    assert table["restart.limit"].flag is None
    assert table["bind"].flag == "--bind"
    tops = {key.split(".")[0] for key in table}
    assert tops == set(Config.__struct_fields__)


def test_the_configuration_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match="immutable"):
        Config().restart.limit = 7  # type: ignore[misc]  # that is the point


def test_sizes_and_shares_are_as_people_write_them(tmp_path: Path) -> None:
    text = "server_defaults: {memory_max: 24G, cpu_quota: 50%, idle_stop_seconds: 10m}"
    defaults = _load(tmp_path, text).config.server_defaults
    assert (defaults.memory_max, defaults.cpu_quota) == (24 * 2**30, 50)
    assert defaults.idle_stop_seconds == 600


def test_extra_arguments_are_held_against_the_allow_list(tmp_path: Path) -> None:
    path = tmp_path / "magid.yaml"
    path.write_text('server_defaults:\n  extra_args: ["--port", "1"]\n')
    with pytest.raises(InvalidConfig, match=r"--port is set by magid.*line 2"):
        config.load({"config": str(path)}, {})


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1:50052", ""),
        ("10.1.2.3:1", ""),
        ("192.168.0.2:65535", ""),
        ("100.64.0.7:50052", ""),
        ("8.8.8.8:50052", "must not be reached over the internet"),
        ("172.32.0.1:50052", "must not be reached over the internet"),
        ("gpu.example:50052", "IPv4 address"),
        ("[::1]:50052", "IPv4 address"),
        ("0.0.0.0:50052", "must not be reached over the internet"),
        ("10.0.0.1:0", "port of 1 to 65535"),
        ("10.0.0.1:65536", "port of 1 to 65535"),
        ("10.0.0.1", "port of 1 to 65535"),
        ("10.0.0.1:1 --tools all", "port of 1 to 65535"),
        ("10.0.0.1,8.8.8.8:1", "IPv4 address"),
    ],
)
def test_rpc_servers(tmp_path: Path, address: str, why: str) -> None:
    """llama.cpp's RPC has no password: it is for private networks."""
    text = f"rpc_servers: ['{address}']"
    if not why:
        assert _load(tmp_path, text, {}).config.rpc_servers == (address,)
        return
    with pytest.raises(InvalidConfig, match=why):
        _load(tmp_path, text, {})
