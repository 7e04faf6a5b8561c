"""Proxies of others in front of magid, as docs/clients.md configures them: real programs."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support import npm
from tests.support.deadlines import DEADLINE_S
from tests.support.running import ROOT

# What nginx is told beside the snippet.
AROUND = """\
daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ }}
http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
{server} }}
"""
# The same for Caddy, which would get a certificate for the name and answer on port 80 too.
CADDY = "{\n    admin off\n    auto_https off\n}\n"
VITE = ROOT / "tests/http/vite"


def program(name: str, private: str) -> str:
    """The one that packaging/test-tools has unpacked, else an installed one."""
    unpacked = ROOT / ".cache" / private
    found = str(unpacked) if unpacked.exists() else shutil.which(name)
    assert found, f"there is no {name}: run packaging/test-tools"
    return found


def replaced(text: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


@contextmanager
def running(command: list[str | Path], folder: Path, address: str) -> Iterator[httpx.Client]:
    """A client of the proxy that this command runs in the foreground."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    process = subprocess.Popen(command, cwd=folder, env=environment)
    # Retries until it listens. A connection for each request: a proxy may end one that it has kept,
    # and nothing that changes something is sent twice.
    transport = httpx.HTTPTransport(retries=10, limits=httpx.Limits(max_keepalive_connections=0))
    try:
        with httpx.Client(base_url=address, transport=transport, timeout=DEADLINE_S) as client:
            yield client
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


@contextmanager
def nginx(folder: Path, server: str, port: int, magid: int) -> Iterator[httpx.Client]:
    server = replaced(
        server, ("listen 80", f"listen 127.0.0.1:{port}"), ("127.0.0.1:8000", f"127.0.0.1:{magid}")
    )
    (folder / "nginx.conf").write_text(AROUND.format(folder=folder, server=server))
    own = program("nginx", "nginx/usr/sbin/nginx")
    command: list[str | Path] = [own, "-e", f"{folder}/error.log", "-p", str(folder), "-c"]
    command.append(folder / "nginx.conf")
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    with running(command, folder, f"http://127.0.0.1:{port}") as client:
        yield client


@contextmanager
def caddy(folder: Path, site: str, port: int, magid: int) -> Iterator[httpx.Client]:
    name = site.partition(" ")[0]
    site = replaced(
        site,
        (f"{name} {{", f"http://{name}:{port} {{\n    bind 127.0.0.1"),
        ("127.0.0.1:8000", f"127.0.0.1:{magid}"),
    )
    (folder / "Caddyfile").write_text(CADDY + site)
    own = program("caddy", "caddy/usr/bin/caddy")
    command: list[str | Path] = [own, "run", "--config", "Caddyfile", "--adapter", "caddyfile"]
    with running(command, folder, f"http://127.0.0.1:{port}") as client:
        yield client


@contextmanager
def vite(folder: Path, config: str, port: int, magid: int) -> Iterator[httpx.Client]:
    """Its development server. What it writes beside its packages stays in the folder."""
    (folder / "node_modules").mkdir()
    for package in npm.installed(VITE).iterdir():
        (folder / "node_modules" / package.name).symlink_to(package)
    (folder / "vite.config.ts").write_text(
        replaced(config, ("127.0.0.1:8000", f"127.0.0.1:{magid}"))
    )
    (folder / "index.html").write_text("<!doctype html><title>A page</title>")
    program = folder / "node_modules/vite/bin/vite.js"
    command: list[str | Path] = ["node", program, "--host", "127.0.0.1", "--strictPort", "--port"]
    command.append(str(port))
    with running(command, folder, f"http://127.0.0.1:{port}") as client:
        yield client
