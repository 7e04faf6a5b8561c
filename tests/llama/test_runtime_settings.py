"""The table of run-time settings, and that every place that has settings has it from there."""

import json
from dataclasses import asdict, fields, replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from magid.api.schemas import bodies
from magid.api.schemas.models import DiscoveredModel
from magid.catalog import registry
from magid.config import loading
from magid.errors import InvalidInput
from magid.launcher import protocol
from magid.llama.arguments import server_argv
from magid.llama.options import check_extra_args
from magid.llama.runtime_settings import (
    BY_NAME,
    SERVER_SETTINGS,
    SETTINGS,
    RuntimeSetting,
    RuntimeSettings,
    not_in_force,
)
from magid.llama.setting_values import BYTES, PERCENT, SECONDS, TOKENS, Choice, Integer
from magid.llama.spec import ServerSpec
from tests.support.values import FULL_SPEC, NOW

SPEC = ServerSpec("demo_tiny", 0, 8080, "127.0.0.1", "/models/demo.gguf")
by_key = pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)


def example(setting: RuntimeSetting) -> Any:
    return setting.values.parse(setting.example)


# -- the hash ------------------------------------------------------------------------------------


def test_no_upgrade_restarts_a_server_that_runs() -> None:
    """The hashes as the first version had them: a changed one is a restart of every server."""
    assert SPEC.hash == "18866116730b8ba1"
    assert FULL_SPEC.hash == "cf89890ad95eee74"


def test_a_setting_that_came_later_is_in_the_hash_only_when_it_is_set() -> None:
    assert "device" in asdict(SPEC)
    assert replace(SPEC, device="CUDA0").hash == "4e4f99d085b48252"


def test_adapters_that_were_found_restart_nothing() -> None:
    assert replace(SPEC, lora_paths=("/l.gguf",), lora_stamp="1", lora_bytes=9).hash == SPEC.hash


def test_a_draft_that_was_found_restarts_nothing() -> None:
    found = replace(SPEC, draft_type="eagle3", draft_path="/models/d.gguf", draft_stamp="1")
    assert found.hash == SPEC.hash
    assert replace(found, draft="d.gguf").hash != SPEC.hash


@pytest.mark.parametrize("setting", SERVER_SETTINGS, ids=lambda setting: setting.key)
def test_a_setting_that_is_set_counts_in_the_hash(setting: RuntimeSetting) -> None:
    assert replace(SPEC, **{setting.name: example(setting)}).hash != SPEC.hash


# -- every place ---------------------------------------------------------------------------------


def in_configuration(setting: RuntimeSetting, value: object) -> object:
    config = loading.checked({"server_defaults": {setting.name: value}})
    return getattr(config.server_defaults, setting.name)


def in_request(setting: RuntimeSetting, value: object) -> object:
    body = bodies.SettingsBody.model_validate_json(json.dumps({setting.key: value}))
    return body.given()[setting.name]


def in_registry(setting: RuntimeSetting, value: object) -> object:
    entry = registry.ModelEntry(model_id="m", path="/m.gguf", size_bytes=1, discovered_at=NOW)
    document = registry.document_of(registry.Registry(models={"m": entry}))
    document["models"]["m"]["settings"] = {setting.key: value}
    return registry.parse(document).models["m"].settings[setting.name]


def in_launcher(setting: RuntimeSetting, value: object) -> object:
    spec = asdict(SPEC) | {setting.name: value}
    body: Any = {"verb": "start", "spec": spec, "profile": None, "flags": [], "placement": None}
    request = protocol.parse_request(json.dumps(body).encode() + b"\n")
    assert isinstance(request, protocol.StartRequest)
    return getattr(request.spec, setting.name)


PLACES = (in_configuration, in_request, in_registry, in_launcher)
REFUSALS = (ValidationError, ValueError, InvalidInput)


@by_key
def test_every_place_takes_what_the_table_allows(setting: RuntimeSetting) -> None:
    values = setting.values
    good, bad = [example(setting)], [[], {}, True, "?\n", 1.5]
    if isinstance(values, Integer):
        good += [values.low, values.high]
        bad += [values.low - 1, values.high + 1, str(values.low)]
    elif isinstance(values, Choice):
        good, bad = [*values.words], ["", values.words[0].upper(), *bad]
    for place in PLACES:
        if place is in_launcher and setting not in SERVER_SETTINGS:
            continue
        for value in good:
            assert place(setting, value) == value, place
        for value in bad:
            if value == [] and setting.default == ():
                continue
            with pytest.raises(REFUSALS):
                place(setting, value)


@pytest.mark.parametrize(
    "text",
    ["", "CUDA0,", ",CUDA0", "CUDA0, CUDA1", "../CUDA0", "/dev/nvidia0", "--rpc", "RPC[a:1]",
     "CUDA0\n", "CUDA0000", "x" * 17, "\u0661", "CUDA\u0661", ",".join(["CUDA0"] * 33)],
)  # fmt: skip
def test_a_device_is_a_name_and_nothing_else(text: str) -> None:
    device = BY_NAME["device"]
    for place in PLACES:
        assert place(device, "Vulkan1,Vulkan2") == "Vulkan1,Vulkan2"
        with pytest.raises(REFUSALS):
            place(device, text)


@by_key
def test_a_row_is_whole(setting: RuntimeSetting) -> None:
    assert setting.meaning[0].isupper()
    assert not setting.meaning.endswith(".")
    assert bool(setting.unset) == (setting.default is None)
    assert (type(None) in get_args(setting.annotation)) == (setting.default is None)
    assert setting.values.check(example(setting)) == example(setting)
    assert setting.show(example(setting)) == setting.example or setting.values.unit.startswith(
        "seconds"
    )
    if isinstance(setting.values, Choice):
        assert get_args(setting.annotation) == setting.values.words


def test_answers_have_every_setting() -> None:
    assert {setting.key for setting in SETTINGS} <= DiscoveredModel.__annotations__.keys()
    assert [each.name for each in fields(RuntimeSettings)] == [each.name for each in SETTINGS]
    assert [setting.key for setting in SETTINGS if setting.name == "ctx_size"] == ["ctxSize"]


@pytest.mark.parametrize(
    "setting", [s for s in SERVER_SETTINGS if s.options], ids=lambda setting: setting.key
)
def test_a_setting_of_llama_server_is_an_argument_and_no_extra_one(setting: RuntimeSetting) -> None:
    spec = replace(SPEC, **{setting.name: example(setting)})
    for flag in setting.options:
        argv = server_argv(spec, "p", "/key", frozenset({"--api-key-file", flag}))
        assert argv[argv.index(flag) + 1] == setting.example
        with pytest.raises(InvalidInput, match=rf"use the run-time setting {setting.key}"):
            check_extra_args([flag, setting.example])


# -- as people write values ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "text", "value"),
    [
        (Integer(0, 2**24, TOKENS), "8192", 8192),
        (Integer(0, 2**24, TOKENS), "8k", 8192),
        (Integer(1, 2**50, BYTES), "24G", 24 * 2**30),
        (Integer(1, 2**50, BYTES), "24gb", 24 * 2**30),
        (Integer(1, 2**50, BYTES), "24GiB", 24 * 2**30),
        (Integer(1, 2**50, BYTES), "100B", 100),
        (Integer(1, 1000, PERCENT), "50%", 50),
        (Integer(1, 1000, PERCENT), "50", 50),
        (Integer(1, 10**6, SECONDS), "10m", 600),
        (Integer(1, 10**6, SECONDS), "2d", 172_800),
        (Integer(-1, 9), "-1", -1),
    ],
)
def test_values_are_read(values: Integer, text: str, value: int) -> None:
    assert values.parse(text) == value


@pytest.mark.parametrize(
    ("values", "text", "reason"),
    [
        (Integer(2**26, 2**50, BYTES), "1", "must be at least 64M"),
        (Integer(2**26, 2**50, BYTES), "2000T", "must be at most 1024T"),
        (Integer(2**26, 2**50, BYTES), "50%", "must be a whole number, also with K, M, G or T"),
        (Integer(1, 200, PERCENT), "0", "must be at least 1%"),
        (Integer(1, 200, PERCENT), "half", "must be a whole number, also with %"),
        (Integer(1, 9), "1k", "must be a whole number"),
        (Integer(1, 9), "٣", "must be a whole number"),
        (Integer(1, 9), "1" * 99, "must be a whole number"),
        (Choice(("always", "on-demand")), "never", "must be always or on-demand"),
    ],
)
def test_the_reason_is_in_the_words_of_the_value(values: Any, text: str, reason: str) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        values.parse(text)
    assert str(caught.value).startswith(reason)


@given(st.sampled_from([s for s in SETTINGS if isinstance(s.values, Integer)]), st.data())
def test_what_is_shown_can_be_typed(setting: RuntimeSetting, data: st.DataObject) -> None:
    assert isinstance(setting.values, Integer)
    value = data.draw(st.integers(setting.values.low, setting.values.high))
    assert setting.values.parse(setting.values.show(value)) == value


def test_limits_that_a_kernel_does_not_keep() -> None:
    """Only those that are set, each by the controller that it needs."""
    limited = RuntimeSettings(memory_max=2**30, cpu_quota=150)
    assert not_in_force(limited, frozenset({"cpu", "memory"})) == {}
    assert not_in_force(RuntimeSettings(), frozenset()) == {}
    assert not_in_force(limited, frozenset({"cpu"})) == {
        "memoryMax": "this kernel has no memory controller for control groups"
    }
    assert not_in_force(limited, frozenset()).keys() == {"memoryMax", "cpuQuota"}
