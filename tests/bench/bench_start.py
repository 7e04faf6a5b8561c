"""What a start of magid takes beside that of a bare Sanic service: `python -m` this module.

`python -m tests.bench.bench_start trixie` measures on one release only.

From exec to READY=1, by systemd's own clock, in a booted container of each release; the two are
restarted in turn, with the same sandbox, while magid's three models run on. Needs root.
"""

import platform
import sys
import tempfile
from pathlib import Path
from statistics import median

from tests.bench.bench_gguf import cpu
from tests.lab.container import Container, booted
from tests.lab.serving import installed_in
from tests.lab.trees import RELEASES, VENDOR, build_all
from tests.support import ggufs

ROUNDS = 15
TARGET = 1.6
PROGRAM = "/usr/local/bin/smallest"
SMALLEST = f"""\
#!/usr/bin/python3 -I
import sys
sys.path.insert(0, {VENDOR!r})
import sdnotify
import uvloop
from sanic import Sanic, text

app = Sanic("smallest", configure_logging=False)
app.config.update(ACCESS_LOG=False, MOTD=False)

@app.get("/")
async def answer(request):
    return text("")

async def serve():
    server = await app.create_server("127.0.0.1", 8001, return_asyncio_server=True)
    await server.startup()
    await server.start_serving()
    sdnotify.SystemdNotifier().notify("READY=1")
    await server.serve_forever()

uvloop.run(serve())
"""


def install_smallest(container: Container) -> None:
    """The same unit as magid's, but for what it runs and where it listens.

    Both go before other work on the machine, as far as the container may say so.
    """
    container.write(PROGRAM, SMALLEST, 0o755)
    unit = container.read("/usr/lib/systemd/system/magid.service").decode()
    kept = [line for line in unit.splitlines() if not line.startswith(("Requires=", "Sockets="))]
    text = "\n".join(kept).replace("ExecStart=/usr/bin/magid", f"ExecStart={PROGRAM}")
    container.write("/etc/systemd/system/smallest.service", text)
    for name in ("smallest", "magid"):
        container.write(f"/etc/systemd/system/{name}.service.d/first.conf", "[Service]\nNice=-15\n")
    container.systemctl("daemon-reload")


def start_ms(container: Container, name: str) -> float:
    """From exec to READY=1 of a new start."""
    container.systemctl("restart", name)
    names = ("ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    shown = container.show(f"{name}.service", *names)
    began, ready = (int(shown[name]) for name in names)
    return (ready - began) / 1000


def measure(container: Container) -> None:
    install_smallest(container)
    rounds = [
        {name: start_ms(container, name) for name in ("smallest", "magid")} for _ in range(ROUNDS)
    ]
    ratio = median(took["magid"] / took["smallest"] for took in rounds)
    base, ours = (median(took[name] for took in rounds) for name in ("smallest", "magid"))
    met = "met" if ratio <= TARGET else "MISSED"
    print(
        f"{container.release.name:10} exec to READY {ratio:5.2f}x   {ours:6.0f} ms beside "
        f"{base:6.0f} ms of a bare Sanic (target {TARGET}x: {met})"
    )


def main() -> None:
    print(f"machine: {cpu()}, Python {platform.python_version()}")
    names = sys.argv[1:]
    trees = build_all([one for one in RELEASES if not names or one.name in names], print)
    with tempfile.TemporaryDirectory(prefix="magid-bench-") as folder:
        model = ggufs.write_chat_model(Path(folder) / "Demo.gguf", quantization="F16")
        for tree in trees.values():
            with booted(tree) as container:
                daemon = installed_in(container, model)
                with daemon.client:
                    daemon.wait_ready()
                measure(container)


if __name__ == "__main__":
    main()
