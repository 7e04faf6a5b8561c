"""What there is to choose from, by which names. Pure: made from values, nothing runs."""

from pathlib import Path

from magid.catalog.profile import Profile
from magid.config.settings import Config
from magid.control.snapshot import ActiveProfile, Disk, build
from magid.discovery.found import FoundModel
from magid.gateway.routing import fleet
from magid.gateway.routing.fleet import Fleet
from tests.support import ggufs
from tests.support.scanning import scan
from tests.support.values import merged

ALL = ActiveProfile("all", Profile(name="All", enabled_models=["*"]), "r1")


def stopped(*models: FoundModel) -> Fleet:
    """All enabled, on demand, and none running."""
    merge = merged(*models)
    config = Config.model_validate({"server_defaults": {"start": "on-demand"}})
    now = build(1, merge.registry, Disk(merge.found, listed=True), ALL, config, ())
    return fleet.build(now, {}, {}, {})


def test_a_model_in_several_files_goes_by_its_name_without_the_number(tmp_path: Path) -> None:
    ggufs.write_split_model(tmp_path / "Demo-7B-F32", 2)
    ggufs.write_chat_model(tmp_path / "Other-1B-Q4_0.GGUF", quantization="Q4_0")
    now = stopped(*scan(tmp_path).models)
    assert now.aliases.keys() >= {"Demo-7B-F32", "Other-1B-Q4_0"}
    assert not any("-of-" in name for name in now.aliases)
