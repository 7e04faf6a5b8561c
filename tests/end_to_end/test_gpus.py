"""GPUs of a real daemon with a real llama-server: over REST and by magictl."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import rest
from tests.support.gpus import MakeGpus
from tests.support.magictl import magictl
from tests.support.rest import ALPHA, Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow

MIB = 1 << 20


def listed(magid: Running) -> bool:
    return magid.get("/api/gpus")["listedAt"] is not None


def free(magid: Running) -> list[int]:
    return [gpu["freeBytes"] // MIB for gpu in magid.get("/api/gpus")["gpus"]]


def test_two_gpus(make_gpus: MakeGpus, parts: Parts, tmp_path: Path) -> None:
    gpus = make_gpus((8192, 300), (24576, 0))
    own = Parts(gpus.llama_server, parts.free_port, parts.free_ports)
    running = own.daemon(tmp_path / "magid")
    (running.profiles / "test.yaml").write_text("name: Test\nenabled_models: ['alpha*']\n")
    rest.write_models(running.models)
    with running, running.client:
        running.wait_ready()
        running.wait_for("a list of GPUs", lambda: listed(running))
        by_setting(running)
        others(running, gpus.fakes[1].use)


def by_setting(magid: Running) -> None:
    """A model goes where its setting says, and the list is new when it has loaded and stopped."""
    assert magid.get("/api/gpus")["serversAnywhere"] == []
    settings = {"device": "RPC0", "nGpuLayers": 99, "ctxSize": 131_072}
    magid.ask("PUT", f"/api/models/{ALPHA}/runtime-settings", settings)
    magid.ask("POST", f"/api/models/servers/{ALPHA}/restart?wait=60")
    magid.wait_for("the memory that alpha takes", lambda: free(magid)[0] < 7892)
    one, two = magid.get("/api/gpus")["gpus"]
    assert (one["name"], one["totalBytes"], one["kind"]) == ("RPC0", 8192 * MIB, None)
    assert [server["modelId"] for server in one["servers"]] == [ALPHA]
    assert 294 <= one["othersBytes"] // MIB <= 306
    assert (two["othersBytes"], two["servers"]) == (0, [])
    assert two["roomBytes"] == 23 * 1024 * MIB
    shown = magictl("gpus", url=magid.url)
    head, first, second = shown.stdout.splitlines()
    assert head.split() == ["GPU", "DESCRIPTION", "KIND", "TOTAL", "FREE", "OTHERS", "SERVERS"]
    assert re.fullmatch(rf"RPC0 .* - +8\.0 GiB +7\.. GiB +\d+\.0 MiB +{ALPHA}", first), first
    assert re.fullmatch(r"RPC1 .* - +24\.0 GiB +24\.0 GiB +0 B +-", second), second
    text = magid.client.get("/metrics").text
    total = re.search(r'^magi_gpu_device_total_bytes\{device="RPC0"\} (\S+)$', text, re.M)
    assert total
    assert float(total[1]) == 8192 * MIB
    magid.ask("POST", f"/api/models/servers/{ALPHA}/stop?wait=60")
    magid.wait_for("the memory that alpha had", lambda: free(magid)[0] == 7892)


def others(magid: Running, use: Callable[[int], None]) -> None:
    """What other programs use is seen on request."""
    use(20_000)
    assert free(magid)[1] == 24_576
    gpus = magid.ask("POST", "/api/gpus/refresh")["gpus"]
    assert gpus[1]["othersBytes"] == 20_000 * MIB
    use(24_576)
    assert "24.0 GiB" in magictl("gpus", "--refresh", url=magid.url).stdout.splitlines()[2]
    assert free(magid)[1] == 0


def test_no_gpu(parts: Parts, tmp_path: Path) -> None:
    running = parts.daemon(tmp_path / "magid")
    with running, running.client:
        running.wait_for("a list of GPUs", lambda: listed(running))
        answer = running.get("/api/gpus")
        assert (answer["gpus"], answer["problem"]) == ([], None)
        done = magictl("gpus", url=running.url)
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr.startswith("no GPUs: llama-server finds none")


def test_why_they_are_not_known(parts: Parts, tmp_path: Path) -> None:
    running = parts.daemon(tmp_path / "magid")
    running.environment["LLAMA_SERVER_PATH"] = "/no/llama-server"
    with running, running.client:
        answer = running.ask("POST", "/api/gpus/refresh")
        assert (answer["gpus"], answer["listedAt"]) == ([], None)
        assert answer["problem"].startswith("cannot use /no/llama-server")
        done = magictl("gpus", url=running.url)
        assert done.stderr.splitlines()[0] == "the GPUs are not known"
        assert "problem:      cannot use /no/llama-server" in done.stderr
