"""Abilities and contexts as a model would be started: with the settings that it has."""

from typing import Any

import pytest

from magid.catalog.effective import Model, effective_models
from magid.catalog.registry import with_settings
from magid.config.settings import Config
from magid.discovery.abilities import ModelAbilities
from magid.discovery.kinds import ModelKind
from tests.support.values import found, merged


def model(settings: dict[str, Any], **changes: Any) -> Model:
    merge = merged(found("a", abilities=ModelAbilities(tools=False), **changes))
    entry = with_settings(merge.registry.models["a"], settings)
    return effective_models(merge.registry.with_entry(entry), merge.found, None, Config())["a"]


@pytest.mark.parametrize(
    ("arguments", "tools"),
    [((), False), (("--jinja",), False), (("--chat-template", "chatml"), None),
     (("--no-jinja",), None)],
)  # fmt: skip
def test_with_another_template_the_header_does_not_tell(
    arguments: tuple[str, ...], tools: bool | None
) -> None:
    assert model({"extra_args": arguments}).abilities.tools is tools


def test_no_template_makes_an_embedding_model_call_tools() -> None:
    settings = {"extra_args": ("--no-jinja",)}
    assert model(settings, kind=ModelKind.EMBEDDING).abilities.tools is False


@pytest.mark.parametrize(
    ("size", "trained", "length"),
    [(None, 4096, 4096), (0, 4096, 4096), (2048, 4096, 2048), (8192, 4096, 4096),
     (2048, None, 2048), (None, None, None)],
)  # fmt: skip
def test_the_context_is_what_is_set_and_never_more_than_trained_for(
    size: int | None, trained: int | None, length: int | None
) -> None:
    settings = {"ctx_size": size}
    assert model(settings, context_length=trained).context_length == length
