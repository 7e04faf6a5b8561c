"""The keys of `magictl set`: values as people write them, and what is said about wrong ones."""

from typing import Any

import pytest

from magid.cli.client import Refused
from magid.cli.setting_keys import KEYS, default_of, explain, like, parse
from magid.llama.options import allowed_options


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("ctxSize=8192", "ctxSize", 8192),
        ("ctx-size=8K", "ctxSize", 8192),
        ("CTX_SIZE=8k", "ctxSize", 8192),
        ("memoryMax=24G", "memoryMax", 24 * 2**30),
        ("memoryMax=24GiB", "memoryMax", 24 * 2**30),
        ("cpuQuota=50%", "cpuQuota", 50),
        ("cpuQuota=50", "cpuQuota", 50),
        ("idleStopSeconds=10m", "idleStopSeconds", 600),
        ("device=Vulkan1,Vulkan2", "device", "Vulkan1,Vulkan2"),
        ("start=on-demand", "start", "on-demand"),
        ("extraArgs=--temp 0.2", "extraArgs", ["--temp", "0.2"]),
        ("extraArgs=--chat-template 'phi3'", "extraArgs", ["--chat-template", "phi3"]),
        ("port=8085", "port", 8085),
        ("enabled=no", "enabled", False),
        ("enabled=true", "enabled", True),
        ("memoryMax=", "memoryMax", None),
    ],
)
def test_values_as_people_write_them(text: str, key: str, value: Any) -> None:
    assert parse(text) == (key, value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("memoryMax=1", "cannot set memoryMax=1: it must be at least 64M (for example 24G)"),
        ("memoryMax=9999T", "cannot set memoryMax=9999T: it must be at most 1024T (for example 24"),
        ("memoryMax=50%", "cannot set memoryMax=50%: it must be a whole number, also with K, M, G"),
        ("cpuQuota=24G", "cannot set cpuQuota=24G: it must be a whole number, also with % (for ex"),
        ("cpuQuota=0%", "cannot set cpuQuota=0%: it must be at least 1% (for example 150%)"),
        ("parallel=many", "cannot set parallel=many: it must be a whole number (for example 4)"),
        ("start=never", "cannot set start=never: it must be always or on-demand (for example on-"),
        ("enabled=maybe", "cannot set enabled=maybe: it must be yes or no (for example yes)"),
        ("device=/dev/x", "cannot set device=/dev/x: it must be none, or names or ids of `ma"),
        ("port=80", "cannot set port=80: it must be at least 1024 (for example 8085)"),
        ("ctxSize", "cannot set ctxSize: it has no value; give ctxSize=8192, or ctxSize= for its"),
        ("ctx=1", "cannot set 'ctx': known are nGpuLayers, device, "),
        ("extraArgs='", "cannot set extraArgs=': it must be words as a shell reads them: No closi"),
        ("extraArgs=-c 1", "cannot set -c in extraArgs: it has a key of its own, ctxSize"),
        ("extraArgs=--port=1", "cannot set --port=1 in extraArgs: it has a key of its own, port"),
    ],
)
def test_what_is_wrong_is_said_in_the_words_of_the_key(text: str, message: str) -> None:
    with pytest.raises(Refused) as caught:
        parse(text)
    assert str(caught.value).startswith(message)
    assert caught.value.status == 2
    assert "\ntry: magictl set " in str(caught.value)


@pytest.mark.parametrize("setting", KEYS, ids=lambda setting: setting.key)
def test_every_example_can_be_typed(setting: Any) -> None:
    key, value = parse(like(setting).replace("'", ""))
    assert key == setting.key
    assert value is not None


def test_help_has_every_key_and_every_argument() -> None:
    text = " ".join(explain().split())
    for setting in KEYS:
        shown = f"{like(setting)} {setting.meaning}. {setting.allowed}; default: "
        assert f"{shown}{default_of(setting)} " in text
    for names in allowed_options():
        assert f" {names.split()[-1]}" in text
