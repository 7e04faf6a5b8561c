"""Programs that pass requests on to a llama-server: nginx, llama-server's router, LiteLLM."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import _free_port


@dataclass(frozen=True, slots=True)
class Way:
    """One way to the same server. `pid`: the process whose CPU counts."""

    name: str
    port: int
    pid: int | None
    key: str
    model: str


def nginx_program() -> str | None:
    """The private one of packaging/bench-tools, else an installed one."""
    private = Path(".cache/nginx/usr/sbin/nginx")
    return str(private.absolute()) if private.exists() else shutil.which("nginx")


def nginx(folder: Path, upstream: int, *, keep: bool) -> Iterator[tuple[int, int]]:
    """Port and worker's pid."""
    folder.mkdir()
    port = _free_port()
    kept = "proxy_http_version 1.1; proxy_set_header Connection '';"
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;\n"
        "events { worker_connections 1024; }\n"
        f"http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;\n"
        f"fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n"
        "keepalive_requests 1000000;\n"
        f"upstream llama {{ server 127.0.0.1:{upstream};"
        f"{' keepalive 16; keepalive_timeout 4s; keepalive_requests 99;' if keep else ''} }}\n"
        f"server {{ listen 127.0.0.1:{port} reuseport;\n"
        f"location / {{ proxy_pass http://llama; proxy_buffering off; "
        f"{kept if keep else 'proxy_http_version 1.1;'} }} }} }}\n"
    )
    program = nginx_program()
    assert program
    process = subprocess.Popen([program, "-c", str(folder / "nginx.conf"), "-p", str(folder)])
    try:
        wait_for_port(port)
        worker = subprocess.run(
            ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
        )
        yield port, int(worker.stdout.split()[0])
    finally:
        process.terminate()
        process.wait()


# The router starts itself again as /proc/self/exe, which for our private llama-server is a loader.
# Where that one stands in the place of the system's, for this process alone, no loader is needed.
_AS_ITSELF = """
mount --bind "$1/ld-linux-x86-64.so.2" "$(readlink -f /lib64/ld-linux-x86-64.so.2)" || exit
shift
LD_LIBRARY_PATH=$PWD:$PWD/llama exec "$@"
"""


def router(
    folder: Path, program: Path, models: Mapping[str, Path], options: Sequence[str]
) -> Iterator[tuple[int, int]]:
    """llama-server's own router, in front of servers of its own. Needs root for its loader.

    `models` by the names of their files there; `options` are those of the servers.
    """
    (folder / "models").mkdir(parents=True)
    for name, model in models.items():
        (folder / "models" / name).hardlink_to(model)
    port = _free_port()
    libraries = program.parent / "usr/lib/x86_64-linux-gnu"
    command = [str(program)]
    if libraries.exists():
        command = ["unshare", "-m", "sh", "-c", _AS_ITSELF, "sh", str(libraries)]
        command.append(str(program.parent / "usr/bin/llama-server"))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--models-dir", folder / "models", "--port", str(port), "--host",
             "127.0.0.1", "--no-webui", "-lv", "0", *options],
            stdout=log, stderr=log, cwd=libraries if libraries.exists() else folder,
        )  # fmt: skip
    try:
        wait_for_port(port)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


def litellm(folder: Path, program: str, direct: Way) -> Iterator[tuple[int, int]]:
    """LiteLLM's proxy, one worker: too heavy for the lock, so from an environment of its own."""
    folder.mkdir()
    port = _free_port()
    (folder / "config.yaml").write_text(
        f"model_list: [{{model_name: {direct.model}, litellm_params: {{model: openai/x, api_base: "
        f"'http://127.0.0.1:{direct.port}/v1', api_key: '{direct.key}'}}}}]\n"
        "general_settings: {master_key: sk-bench}\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "--config", folder / "config.yaml", "--host", "127.0.0.1",
             "--port", str(port)],
            stdout=log, stderr=log, cwd=folder,
        )  # fmt: skip
    try:
        wait_for_port(port)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
