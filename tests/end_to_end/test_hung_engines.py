"""A whole magid with an engine on a mount that hangs."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.support.mounts import mounted
from tests.support.rest import ALPHA, Parts, write_models
from tests.support.running import Running

pytestmark = pytest.mark.slow

REQUESTS = 60  # more than a pool of asyncio has threads
PATH = f"/api/models/{ALPHA}/runtime-settings"


def threads(magid: Running) -> int:
    assert magid.process is not None
    status = Path(f"/proc/{magid.process.pid}/status").read_text()
    return int(status.partition("Threads:")[2].split()[0])


def asked(magid: Running, number: int) -> tuple[int, str]:
    """Every other one gives the model an engine."""
    if number % 2:
        reply = magid.client.put(PATH, json={"engine": "own"})
    else:
        reply = magid.client.get("/api/engines")
    return reply.status_code, reply.json().get("message", "")


def test_requests_about_engines_are_refused(parts: Parts, tmp_path: Path) -> None:
    folder, net = tmp_path / "engines", tmp_path / "net"
    for made in (folder, net):
        made.mkdir()
    (net / "llama-server").touch()
    (folder / "own").symlink_to(net)
    magid = parts.daemon(tmp_path / "home", f"engines_dir: {folder}\n")
    write_models(magid.models)
    with mounted(net) as mount, magid, magid.client:
        magid.wait_ready()
        assert magid.ask("PUT", PATH, {"engine": "default"})
        before = threads(magid)
        mount.hang()
        try:
            with ThreadPoolExecutor(REQUESTS) as pool:
                answers = set(pool.map(partial(asked, magid), range(REQUESTS)))
            message = f"cannot look at the engines in {folder}: the disk or mount does not answer"
            assert answers == {(503, f"{message}; try again later")}
            assert threads(magid) <= before + 2, "the one that waits, and one of a pool"
            assert magid.get(f"/api/models/{ALPHA}")["engine"] == "default"
            magid.ask("POST", f"/api/models/servers/{ALPHA}/restart?wait=60")
        finally:
            mount.thaw()  # no process ends that waits for it
        magid.wait_for("the disk's answer", lambda: asked(magid, 1)[0] == 200)
