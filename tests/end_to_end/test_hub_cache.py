"""A model in several files of a hub's cache, whose files are links to blobs."""

from pathlib import Path

import pytest

from tests.support import hub_cache
from tests.support.rest import Parts

pytestmark = pytest.mark.slow


def test_a_model_in_several_files_of_a_hubs_cache_answers(parts: Parts, tmp_path: Path) -> None:
    magid = parts.daemon(tmp_path / "home")
    links = hub_cache.write_sharded(magid.models / "hub", tmp_path)
    (magid.profiles / "test.yaml").write_text("name: Test\nenabled_models: ['*']\n")
    with magid, magid.client:
        magid.wait_ready()
        ((model_id, server),) = magid.servers().items()
        assert magid.complete(server["port"])
        model = magid.get(f"/api/models/{model_id}")
        assert model["argv"][0][model["argv"][0].index("--model") + 1] == str(links[0])
