"""magictl right after a start of magid, which does not know its models before it has read them."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ggufs
from tests.support.deadlines import DEADLINE_S
from tests.support.magictl import MAGICTL, environment, magictl
from tests.support.mounts import Mounted, mounted
from tests.support.rest import Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow

ALPHA = "alpha_0p0b_f16_balanced"


@pytest.fixture
def restarted(parts: Parts, tmp_path: Path) -> Iterator[tuple[Running, Mounted]]:
    """A magid that was started again, and whose first scan does not end before the mount thaws."""
    running = parts.daemon(tmp_path / "house")
    folder = tmp_path / "net"
    ggufs.write_chat_model(folder / "Alpha-F16.gguf", quantization="F16")
    running.environment["MODEL_SCAN_PATH"] = str(folder)
    (running.profiles / "test.yaml").write_text("name: Test\nenabled_models: ['*']\n")
    with mounted(folder) as mount, running.client:
        with running:
            running.wait_ready()
            assert running.stop() == 0
        mount.hang()
        with running:
            yield running, mount
            mount.thaw()


@pytest.mark.parametrize("words", [["wait", ALPHA], ["wait", "Alpha-F16.gguf"], ["ls", "-q"]])
def test_verbs_wait_for_the_first_scan(
    restarted: tuple[Running, Mounted], words: list[str]
) -> None:
    running, mount = restarted
    running.ask("GET", "/api/models/registry", status=503)
    running.log.write_text("")
    with subprocess.Popen(
        [MAGICTL, *words], env=environment(running.url), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as asking:  # fmt: skip
        latest = time.monotonic() + DEADLINE_S
        while ": 503" not in running.log.read_text():
            assert asking.poll() is None, asking.communicate()
            assert time.monotonic() < latest, "magictl has not asked"
            time.sleep(0.05)  # between two looks
        mount.thaw()
        output, errors = asking.communicate(timeout=DEADLINE_S)
    assert (asking.returncode, errors) == (0, "")
    assert output == (f"{ALPHA} is ready\n" if words[0] == "wait" else f"{ALPHA}\n")


def test_wait_ends_with_its_own_timeout(restarted: tuple[Running, Mounted]) -> None:
    running, _ = restarted
    late = magictl("wait", ALPHA, "--timeout", "1", url=running.url)
    assert late.returncode == 124
    assert late.stderr.startswith(f"magictl: cannot wait longer for {ALPHA}\n")


def test_the_status_knows_the_models_of_before(restarted: tuple[Running, Mounted]) -> None:
    running, _ = restarted
    status = running.get("/api/models/status")
    assert (status["phase"], status["totalModels"]) == ("scanning", 1)
    assert status["enabledModels"] is None
    assert set(status["modelsByTier"].values()) == {None}
    said = magictl("status", url=running.url)
    assert said.returncode == 3
    assert "models:       1 known from before, the folders are not read yet\n" in said.stdout
