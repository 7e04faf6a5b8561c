"""Pages behind a proxy: the snippets of docs/clients.md, with nginx, Caddy and Vite themselves."""

import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from magid.config.loading import load
from tests.support import fleets, ggufs, npm, proxies, rest
from tests.support.deadlines import DEADLINE_S
from tests.support.fleets import SMALL
from tests.support.running import ROOT, Running

pytestmark = pytest.mark.slow

# Behind this chapter are the settings of clients.
DOCUMENT = (ROOT / "docs/clients.md").read_text().partition("\n## Libraries and SDKs\n")[0]
NAME = "magi.example.org"
CHANGES = ("/api/models/apply?dryRun=true", "/v1/chat/completions")  # of Sanic and of the gateway


def snippets(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT, re.M | re.S)


@pytest.mark.parametrize("text", snippets("yaml"))
def test_settings_can_be_used(tmp_path: Path, text: str) -> None:
    file = tmp_path / "magid.yaml"
    file.write_text(text)
    load({}, {}, file)


def write(models: Path) -> None:
    """A model that says the same again and again: its stream lasts for seconds."""
    ggufs.write_chat_model(
        models / "Small-Q4_0.gguf", name="Small", quantization="Q4_0", context=fleets.LONG,
        endless=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def magid(parts: rest.Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    settings = f"allowed_hosts: [{NAME}]\ntrusted_proxies: [127.0.0.1]\n"
    folder = tmp_path_factory.mktemp("daemon")
    with fleets.fleet(parts, folder, write, configuration=settings) as running:
        yield running


def statuses(client: httpx.Client, headers: dict[str, str]) -> set[int]:
    body = {"model": "nobody"}
    return {client.post(path, json=body, headers=headers).status_code for path in CHANGES}


LET_IN = {200, 404}


@pytest.mark.parametrize(
    "lines",
    [
        ("Host $http_host;", "Host $http_host;"),
        ("Host $http_host;", "Host $host; proxy_set_header X-Forwarded-Host $http_host;"),
        ("Host $http_host;", "X-Forwarded-Host $http_host;"),
    ],
    ids=["as documented", "without the port", "with a Host of its own"],
)
def test_a_page_behind_nginx_makes_changes(
    magid: Running, tmp_path: Path, free_port: Callable[[], int], lines: tuple[str, str]
) -> None:
    (server,) = snippets("nginx")
    port = free_port()
    server = proxies.replaced(server, lines)
    own = {"Host": f"{NAME}:{port}", "Origin": f"http://{NAME}:{port}"}
    with proxies.nginx(tmp_path, server, port, magid.port) as client:
        assert statuses(client, own) == LET_IN
        assert statuses(client, own | {"Origin": "http://evil.example"}) == {403}
        evil = {"Host": "evil.example", "Origin": "http://evil.example"}
        assert statuses(client, evil) == {421}
        assert client.get("/v1/models", headers=own).status_code == 200


def test_a_page_behind_caddy_makes_changes(
    magid: Running, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    (site,) = snippets("caddy")
    port = free_port()
    own = {"Host": f"{NAME}:{port}", "Origin": f"http://{NAME}:{port}"}
    with proxies.caddy(tmp_path, site, port, magid.port) as client:
        assert statuses(client, own) == LET_IN
        assert statuses(client, own | {"Origin": "http://evil.example"}) == {403}
        assert client.get("/v1/models", headers=own).status_code == 200


def test_caddy_asks_magid_when_it_has_the_whole_request(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """Else it reads the rest beside an answer that has begun, and may cut that answer off."""
    (site,) = snippets("caddy")
    head = f"Host: {NAME}\r\nContent-Length: 2\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as magid:
        magid.settimeout(DEADLINE_S)
        with proxies.caddy(tmp_path, site, free_port(), magid.getsockname()[1]) as client:
            assert client.get("/").content == b"", "Caddy's own answer: it listens"
            address = (client.base_url.host, client.base_url.port)
            with socket.create_connection(address) as slow, socket.create_connection(address) as ok:
                slow.sendall(f"POST /slow HTTP/1.1\r\n{head}{{".encode())
                ok.sendall(f"POST /whole HTTP/1.1\r\n{head}{{}}".encode())
                with magid.accept()[0] as first:
                    assert first.recv(4096).startswith(b"POST /whole ")
                    slow.sendall(b"}")
                    with magid.accept()[0] as second:
                        assert second.recv(4096).startswith(b"POST /slow ")


def test_a_page_of_vite_makes_changes(
    magid: Running, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    (config,) = snippets("ts")
    port = free_port()
    own = {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"}
    with proxies.vite(tmp_path, config, port, magid.port) as client:
        assert "A page" in client.get("/", headers={"Accept": "text/html"}).text
        assert statuses(client, own | {"Sec-Fetch-Site": "same-origin"}) == LET_IN
        assert statuses(client, own | {"Origin": "http://evil.example"}) == {403}
        assert client.get("/v1/models", headers=own).status_code == 200


def test_each_package_of_vite_has_a_hash() -> None:
    npm.check_lock(proxies.VITE)


PROXIES: dict[str, Any] = {"nginx": proxies.nginx, "caddy": proxies.caddy, "ts": proxies.vite}
LINES = {"/v1/chat/completions": b"data: {", "/api/chat": b'{"'}  # how an event begins


@pytest.mark.parametrize("language", PROXIES)
def test_a_streamed_answer_comes_as_it_is_made(
    magid: Running, tmp_path: Path, free_port: Callable[[], int], language: str
) -> None:
    (snippet,) = snippets(language)
    host = {"Host": NAME} if language != "ts" else {}
    options = {"num_predict": 15_000}
    with PROXIES[language](tmp_path, snippet, free_port(), magid.port) as client:
        for path, start in LINES.items():
            body = {**fleets.chat(SMALL, max_tokens=15_000), "stream": True, "options": options}
            with client.stream("POST", path, json=body, headers=host) as answer:
                assert answer.status_code == 200
                pieces = answer.iter_raw()  # kept: its end would be that of the answer
                first = next(pieces)
                (request, *_) = magid.get("/api/requests")["requests"]
                assert (request["path"], request["outcome"]) == (path, "running")
            assert first.startswith(start)


@pytest.mark.parametrize(
    ("page", "headers"),
    [
        ("http://localhost:5173", {"Sec-Fetch-Site": "same-origin"}),
        (f"http://{NAME}:5173", {"X-Forwarded-Host": f"{NAME}:5173"}),
        (f"https://{NAME}", {"Host": NAME, "X-Forwarded-Host": NAME}),
    ],
    ids=["vite", "vite --host", "caddy"],
)
def test_the_head_that_a_proxy_sends(magid: Running, page: str, headers: dict[str, str]) -> None:
    with httpx.Client(base_url=magid.url, timeout=DEADLINE_S, trust_env=False) as client:
        assert statuses(client, {"Origin": page, **headers}) == LET_IN
        assert statuses(client, {"Origin": page}) == {403}
