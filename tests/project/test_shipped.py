"""The files in etc/ are what the program takes them for."""

import re
from pathlib import Path

import pytest

from magid.catalog.profile import matches
from magid.catalog.profile_store import ProfileDir
from magid.config import loading as config
from magid.config.loading import settings
from magid.config.settings import Config
from magid.discovery.tiers import Tier
from magid.files import strict_yaml

_ETC = Path(__file__).resolve().parents[2] / "etc"
_SETTING = re.compile(r"#(?! |$)|#(?= {2,})")  # what to remove; prose is "# " and text


def _uncommented() -> str:
    lines = (_ETC / "magid.yaml").read_text(encoding="utf-8").splitlines()
    return "\n".join(_SETTING.sub("", line, count=1) for line in lines)


def test_the_configuration_as_shipped_changes_nothing() -> None:
    effective = config.load({}, {}, _ETC / "magid.yaml")
    assert effective.config == Config()
    assert set(effective.sources.values()) == {"default"}


def test_every_setting_is_shown_with_its_default(tmp_path: Path) -> None:
    path = tmp_path / "magid.yaml"
    path.write_text(_uncommented(), encoding="utf-8")
    effective = config.load({}, {}, path)
    assert effective.config == Config()
    assert all(source.startswith(f"{path}:") for source in effective.sources.values())


def test_every_setting_is_explained_as_in_the_program() -> None:
    lines = (_ETC / "magid.yaml").read_text(encoding="utf-8").splitlines()
    shown = strict_yaml.loads(_uncommented(), "etc/magid.yaml").lines
    for setting in settings():
        line = shown[tuple(setting.key.split("."))]
        variable = f" [{setting.variable}]" if setting.variable else ""
        assert lines[line - 2].strip("# ") == setting.description + variable


def _enables(profile: str) -> set[Tier]:
    loaded = ProfileDir(_ETC / "profiles").get(profile)
    return {tier for tier in Tier if matches(loaded, f"any_8p0b_q4km_{tier}", tier)}


@pytest.mark.parametrize(
    ("profile", "tiers"),
    [
        ("development", {Tier.FAST, Tier.BALANCED}),
        ("production", set(Tier)),
        ("fast-only", {Tier.FAST}),
    ],
)
def test_profiles_select_by_tier_on_any_machine(profile: str, tiers: set[Tier]) -> None:
    assert _enables(profile) == tiers


@pytest.mark.parametrize("profile", ["development", "production", "fast-only"])
def test_profiles_route_only_to_tiers_that_they_enable(profile: str) -> None:
    loaded = ProfileDir(_ETC / "profiles").get(profile)
    assert {row.name for row in loaded.tier_config} == _enables(profile)
    assert {loaded.two_stage.stage1_tier, loaded.two_stage.stage2_tier} <= _enables(profile)
    assert loaded.description


def test_the_profiles_are_those_and_the_first_one_is_there() -> None:
    names = ProfileDir(_ETC / "profiles").list()
    assert names == ["development", "fast-only", "production"]
    assert Config().profile in names
