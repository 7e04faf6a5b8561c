"""What magid runs with: its settings, each with its source, and llama-servers side by side."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from magid.config import loading
from tests.support.magictl import magictl
from tests.support.rest import Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder: Path = tmp_path_factory.mktemp("system")
    running = parts.daemon(folder, f"engines_dir: {folder}/engines\ngateway: {{queue_limit: 7}}\n")
    with running, running.client:
        yield running


def test_each_setting_has_its_value_and_where_it_comes_from(magid: Running) -> None:
    found = magid.get("/api/configuration")
    assert found["path"] == str(magid.configuration)
    rows = {row["key"]: row for row in found["settings"]}
    assert [*rows] == [setting.key for setting in loading.settings()]
    assert rows["model_paths"]["value"] == [str(magid.models)]
    assert rows["model_paths"]["source"] == "MODEL_SCAN_PATH"
    queue = rows["gateway.queue_limit"]
    assert (queue["value"], queue["default"]) == (7, 256)
    line = magid.configuration.read_text().splitlines().index("gateway: {queue_limit: 7}") + 1
    assert queue["source"] == f"{magid.configuration}:{line}"
    assert rows["log_level"]["source"] == "default"
    assert rows["log_level"]["value"] == rows["log_level"]["default"] == "info"
    typed = json.loads(magictl("config", "--json", **magid.environment).stdout)
    assert {key: row["source"] for key, row in rows.items()} == {
        key: row["source"] for key, row in typed.items()
    }


def test_the_configuration_is_the_one_of_the_start(magid: Running) -> None:
    before, text = magid.get("/api/configuration"), magid.configuration.read_text()
    magid.configuration.write_text(text + "log_level: debug\n")
    assert magid.get("/api/configuration") == before
    magid.configuration.write_text(text)


def test_engines_and_which_is_used(magid: Running) -> None:
    folder = magid.folder / "engines"
    assert magid.get("/api/engines") == {"used": None, "engines": []}
    for name in ("cuda", "vulkan", "half"):
        (folder / name).mkdir(parents=True)
        about = {"name": name, "version": "0.7.0", "source": "/srv/x.tar.gz", "sha256": "",
                 "program": "files/llama-server", "gpus": ["CUDA0"], "added_at": 1.5e9}  # fmt: skip
        (folder / name / "engine.json").write_text(json.dumps(about))
        if name != "half":  # which is being added
            (folder / name / "llama-server").symlink_to("files/llama-server")
    (folder / "default").symlink_to("vulkan")
    found = magid.get("/api/engines")
    assert [(one["name"], one["gpus"], one["addedAt"]) for one in found["engines"]] == [
        ("cuda", ["CUDA0"], "2017-07-14T02:40:00Z"), ("vulkan", ["CUDA0"], "2017-07-14T02:40:00Z"),
    ]  # fmt: skip
    # The daemon's llama_server_path comes before all engines.
    assert found["used"] is None
    assert [one["used"] for one in found["engines"]] == [False, False]
    assert [one["models"] for one in found["engines"]] == [[], []]
