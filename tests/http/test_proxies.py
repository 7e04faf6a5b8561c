"""Pages behind a proxy: the snippets of docs/clients.md, and nginx itself in front of magid."""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from magid.config.loading import load
from tests.support import rest
from tests.support.deadlines import DEADLINE_S
from tests.support.running import ROOT, Running

pytestmark = pytest.mark.slow

# Behind this chapter are the settings of clients.
DOCUMENT = (ROOT / "docs/clients.md").read_text().partition("\n## Libraries and SDKs\n")[0]
NAME = "magi.example.org"
CHANGES = ("/api/models/apply?dryRun=true", "/v1/chat/completions")  # of Sanic and of the gateway
# What nginx is told beside the snippet.
AROUND = """\
daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ }}
http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
{server} }}
"""


def snippets(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT, re.M | re.S)


@pytest.mark.parametrize("text", snippets("yaml"))
def test_settings_can_be_used(tmp_path: Path, text: str) -> None:
    file = tmp_path / "magid.yaml"
    file.write_text(text)
    load({}, {}, file)


@pytest.fixture(scope="module")
def magid(parts: rest.Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Without a model: its answer to a request that is let in is 200 or 404."""
    settings = f"allowed_hosts: [{NAME}]\ntrusted_proxies: [127.0.0.1]\n"
    running = parts.daemon(tmp_path_factory.mktemp("daemon"), settings)
    with running, running.client:
        running.wait_ready()
        yield running


@contextmanager
def nginx(folder: Path, server: str, port: int) -> Iterator[httpx.Client]:
    private = ROOT / ".cache/nginx/usr/sbin/nginx"
    program = str(private) if private.exists() else shutil.which("nginx")
    assert program, "there is no nginx: run packaging/test-tools"
    (folder / "nginx.conf").write_text(AROUND.format(folder=folder, server=server))
    command = [program, "-e", f"{folder}/error.log", "-p", str(folder), "-c"]
    checked = subprocess.run(
        [*command, str(folder / "nginx.conf"), "-t"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    process = subprocess.Popen([*command, str(folder / "nginx.conf")])
    transport = httpx.HTTPTransport(retries=10)  # until it listens
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", transport=transport, timeout=DEADLINE_S
        ) as client:
            yield client
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


def statuses(client: httpx.Client, headers: dict[str, str]) -> set[int]:
    body = {"model": "nobody"}
    return {client.post(path, json=body, headers=headers).status_code for path in CHANGES}


LET_IN = {200, 404}


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("Host $http_host;", "Host $host; proxy_set_header X-Forwarded-Host $http_host;"),
        ("Host $http_host;", "X-Forwarded-Host $http_host;"),
    ],
    ids=["as documented", "without the port", "with a Host of its own"],
)
def test_a_page_behind_nginx_makes_changes(
    magid: Running, tmp_path: Path, free_port: Callable[[], int], lines: tuple[str, ...]
) -> None:
    (server,) = snippets("nginx")
    port = free_port()
    for old, new in (
        ("listen 80", f"listen 127.0.0.1:{port}"), ("127.0.0.1:8000", f"127.0.0.1:{magid.port}"),
        *([lines] if lines else []),
    ):  # fmt: skip
        assert old in server
        server = server.replace(old, new)
    own = {"Host": f"{NAME}:{port}", "Origin": f"http://{NAME}:{port}"}
    with nginx(tmp_path, server, port) as client:
        assert statuses(client, own) == LET_IN
        assert statuses(client, own | {"Origin": "http://evil.example"}) == {403}
        evil = {"Host": "evil.example", "Origin": "http://evil.example"}
        assert statuses(client, evil) == {421}
        assert client.get("/v1/models", headers=own).status_code == 200


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
