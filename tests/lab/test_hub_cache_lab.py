"""Models of a hub's cache as units: what a unit sees of it."""

import subprocess
from pathlib import Path

import pytest

from tests.lab.launching import Asker
from tests.support import hub_cache

pytestmark = pytest.mark.slow


def test_shards_of_a_hubs_cache(asker: Asker, tmp_path: Path) -> None:
    """llama-server sees them under their names, and nothing else of the cache."""
    container, cache = asker.container, "/models/hub"
    links = hub_cache.write_sharded(tmp_path / "hub", tmp_path)
    packed = subprocess.run(["tar", "-C", tmp_path / "hub", "-c", "."], capture_output=True,
                            check=True)  # fmt: skip
    container.write("/models/hub.tar", packed.stdout)
    container.run(["mkdir", cache])
    container.run(["tar", "-C", cache, "-xf", "/models/hub.tar"])
    first = f"{cache}/{links[0].relative_to(tmp_path / 'hub')}"
    with asker.running(asker.spec(model_path=first)) as unit:
        inside = f"/proc/{container.pid_of(unit)}/root/models"
        seen = container.run(["find", inside, "-type", "f", "-o", "-type", "l"]).stdout
        assert sorted(seen.split()) == sorted(
            f"{inside}/hub/{link.relative_to(tmp_path / 'hub')}" for link in links
        )
        container.systemctl("daemon-reload")
        container.systemctl("restart", unit)
    container.run(["sh", "-c", f"cd {first.rpartition('/')[0]} && ln -sf ../../../../x {first}"])
    assert asker.start(asker.spec(model_path=first)).error == "NotAllowed"
    container.run(["rm", "-r", cache, "/models/hub.tar"])
