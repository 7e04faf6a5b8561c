"""What a running server's command line tells of its settings, and what differs from a spec."""

from dataclasses import replace
from typing import Any

import pytest

from magid.llama.arguments import server_argv
from magid.llama.placement import Placement
from magid.llama.runtime_settings import SERVER_SETTINGS
from magid.llama.spec import ServerSpec
from magid.llama.spec_values import differences, of_command, of_spec
from tests.support.values import PLACEMENT

SPEC = ServerSpec("demo_tiny", 0, 8080, "127.0.0.1", "/models/demo.gguf", ctx_size=512, parallel=2)
NEW = frozenset(setting.options[0] for setting in SERVER_SETTINGS if setting.options)
OLD = frozenset(setting.options[-1] for setting in SERVER_SETTINGS if setting.options)
FIXED = frozenset({"--api-key-file", "--mmproj", "--temp", "--seed", "--flash-attn"})
NEWEST = NEW | FIXED | {"--metrics", "--no-ui", "--offline", "--cors-origins", "--embeddings"}
OLDEST = OLD | FIXED | {"--no-webui", "--embedding"}
ASIDE = ("memory_max", "cpu_quota", "offload", "draft", "engine")
FULL: dict[str, Any] = {
    "n_gpu_layers": -1, "device": "CUDA0,CUDA1", "ctx_size": 0, "n_threads": 8, "batch_size": 2048,
    "parallel": 4, "extra_args": ("--temp", "0.2", "--flash-attn", "on"),
    "mmproj_path": "/models/mmproj a.gguf", "kind": "embedding",
}  # fmt: skip


@pytest.mark.parametrize("flags", [NEWEST, OLDEST])
@pytest.mark.parametrize("changes", [{}, FULL, {"n_threads": 1}, {"extra_args": ("--seed", "-1")}])
def test_a_command_line_shows_what_the_spec_says(
    changes: dict[str, Any], flags: frozenset[str]
) -> None:
    spec = replace(SPEC, **changes)
    shown = dict(of_command(server_argv(spec, "/usr/bin/llama-server", "/run/key", flags)))
    whole = dict(of_spec(spec))
    assert shown == {name: whole[name] for name in whole if name not in ASIDE}


def test_what_a_placement_decides_is_no_value_of_the_spec() -> None:
    spec = replace(SPEC, ctx_size=None, extra_args=("--temp", "0.2"))
    argv = server_argv(spec, "/llama", "/run/key", NEWEST | {"--fit", "--tensor-split"}, PLACEMENT)
    assert argv[-6:] == ["--tensor-split", "667,333", "--fit", "off", "--temp", "0.2"]
    shown = dict(of_command(argv, PLACEMENT))
    whole = dict(of_spec(spec))
    assert shown == {name: whole[name] for name in whole if name not in ASIDE}


@pytest.mark.parametrize(
    "placement",
    [replace(PLACEMENT, cache_ram=512), Placement((), 1, "own", source="unknown", cache_ram=512)],
    ids=["with a place", "alone"],
)
def test_the_bound_of_a_prompt_cache_is_no_value_of_the_spec(placement: Placement) -> None:
    spec = replace(SPEC, ctx_size=None, extra_args=("--seed", "1", "--temp", "0.2"))
    flags = NEWEST | {"--fit", "--tensor-split", "--cache-ram"}
    argv = server_argv(spec, "/llama", "/run/key", flags, placement)
    assert argv[argv.index("--cache-ram") + 1] == "512"
    shown = dict(of_command(argv, placement))
    assert shown["extra_args"] == "--seed 1 --temp 0.2"
    assert differences(of_command(argv, placement), replace(spec, parallel=3)) == (
        "settings changed: parallel 2 -> 3"
    )


def test_a_bound_of_the_users_own_is_a_value_of_the_spec() -> None:
    spec = replace(SPEC, extra_args=("--cache-ram", "64"))
    flags = NEWEST | {"--fit", "--tensor-split", "--cache-ram"}
    argv = server_argv(spec, "/llama", "/run/key", flags, PLACEMENT)
    assert PLACEMENT.cache_ram is None
    assert dict(of_command(argv, PLACEMENT))["extra_args"] == "--cache-ram 64"


@pytest.mark.parametrize("extra", [("--cache-ram", "64"), ("--fit", "on")])
def test_what_the_user_has_set_is_a_value_of_the_spec(extra: tuple[str, ...]) -> None:
    spec, flags = replace(SPEC, extra_args=extra), NEWEST | {"--fit", "--cache-ram"}
    bound = None if "--cache-ram" in extra else 512
    placement = Placement((), 1, "own", source="unknown", cache_ram=bound)
    argv = server_argv(spec, "/llama", "/run/key", flags, placement)
    assert dict(of_command(argv, placement))["extra_args"] == " ".join(extra)


def test_a_draft_that_was_found_is_no_value_of_the_spec() -> None:
    own = replace(SPEC, draft_type="mtp", draft_path="/models/d.gguf", lora_paths=("/l.gguf",))
    flags = NEWEST | {"--lora-scaled", "--spec-type", "--spec-type=draft-mtp", "--spec-draft-model"}
    plain = of_command(server_argv(SPEC, "/llama", "/run/key", flags))
    assert of_command(server_argv(own, "/llama", "/run/key", flags)) == plain
    users = replace(own, extra_args=("--spec-type", "draft-mtp"))
    shown = dict(of_command(server_argv(users, "/llama", "/run/key", flags)))
    assert shown["extra_args"] == "--spec-type draft-mtp"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"parallel": 3}, "settings changed: parallel 2 -> 3"),
        (
            {"ctx_size": None, "extra_args": ("--temp", "0.2")},
            "settings changed: ctxSize 512 -> not set, extraArgs not set -> --temp 0.2",
        ),
        (
            {"memory_max": 2**32, "cpu_quota": 150},
            "settings changed: memoryMax not set -> 4G, cpuQuota not set -> 150%",
        ),
        ({"host": "::1"}, "settings changed: host 127.0.0.1 -> ::1"),
        ({"model_path": "/data/demo.gguf"}, "its file is now /data/demo.gguf"),
        ({"mmproj_path": "/models/p.gguf"}, "its projector is now /models/p.gguf"),
        (
            {"parallel": 1, "model_path": "/data/demo.gguf"},
            "settings changed: parallel 2 -> 1; its file is now /data/demo.gguf",
        ),
        ({"stamp": "other"}, "its file changed"),
    ],
)
def test_what_differs(changes: dict[str, Any], said: str) -> None:
    assert differences(of_spec(SPEC), replace(SPEC, **changes)) == said


def test_what_is_not_known_is_not_claimed() -> None:
    shown = of_command(server_argv(SPEC, "/usr/bin/llama-server", "/run/key", NEWEST))
    assert (
        differences(shown, replace(SPEC, memory_max=2**32))
        == "its file, engine, limit, offload or draft changed"
    )
    assert differences(shown, replace(SPEC, parallel=3)) == "settings changed: parallel 2 -> 3"
    assert differences((), replace(SPEC, parallel=3)) == "its settings or its file changed"


@pytest.mark.parametrize(
    "command", [[], ["/usr/bin/llama-server"], ["/bin/sh", "-c", "exec x"], ["x", "--model"]]
)
def test_a_command_that_is_not_ours_shows_nothing(command: list[str]) -> None:
    assert of_command(command) == ()
