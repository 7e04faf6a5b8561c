"""What a llama-server is started with."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magid.errors import InvalidInput, LlamaServerMissing
from magid.llama.arguments import child_environment, prediction_argv, server_argv
from magid.llama.options import allowed_options, check_extra_args
from magid.llama.program import flags_in, version_in
from magid.llama.runtime_settings import MAX_EXTRA_ARGS
from magid.llama.spec import ServerSpec

SPEC = ServerSpec("demo_tiny", 0, 8080, "127.0.0.1", "/models/demo.gguf")
FIXED = ["--model", "/models/demo.gguf", "--alias", "demo_tiny", "--host", "127.0.0.1"]
FIXED += ["--port", "8080", "--api-key-file", "/run/key"]
FLAGS = frozenset({"--api-key-file", "--metrics", "--no-ui", "--no-webui", "--offline"})
FLAGS |= {"--cors-origins", "--n-gpu-layers", "--ctx-size", "--threads", "--batch-size"}
FLAGS |= {"--parallel", "--mmproj", "--embeddings", "--reranking", "--seed"}
# Spellings of the table that llama-server 0.7.0 no longer has.
OLD = {"--mlock", "--no-mmap", "--draft-max", "--draft-min"}


PREDICTING = ["--fit", "on", "-lv", "4"]


def test_a_prediction_has_the_arguments_of_the_server() -> None:
    spec = replace(SPEC, ctx_size=4096, extra_args=("--seed", "1", "--fit", "off"))
    flags = FLAGS | {"--fit", "-lv", "--no-warmup"}
    argv = prediction_argv(spec, "/llama", flags)
    server = server_argv(spec, "/llama", "/run/key", flags)
    del server[5:11]  # its address and key
    assert argv == [*server, "-ngl", "999", *PREDICTING, "--no-warmup"]
    chosen = prediction_argv(replace(spec, n_gpu_layers=7), "/llama", flags - {"--no-warmup"})
    assert chosen[-4:] == PREDICTING
    assert "999" not in chosen


DRAFTING = FLAGS | {"--spec-type", "--spec-draft-model"}
DRAFTING |= {f"--spec-type=draft-{kind}" for kind in ("mtp", "eagle3", "simple")}
OWN_LAYERS = replace(SPEC, draft_type="mtp")
BESIDE = replace(SPEC, draft_type="eagle3", draft_path="/models/d.gguf")
CHOSEN = replace(BESIDE, draft="d.gguf")


@pytest.mark.parametrize(
    ("spec", "flags", "words"),
    [
        (OWN_LAYERS, DRAFTING, "--spec-type draft-mtp"),
        (BESIDE, DRAFTING, "--spec-type draft-eagle3 --spec-draft-model /models/d.gguf"),
        (CHOSEN, DRAFTING, "--spec-type draft-eagle3 --spec-draft-model /models/d.gguf"),
        (OWN_LAYERS, FLAGS, ""),
        (BESIDE, DRAFTING - {"--spec-type=draft-eagle3"}, ""),
        (BESIDE, DRAFTING - {"--spec-draft-model"}, ""),
        # the first llama-servers with drafts know one type, and its option by another name
        (
            replace(BESIDE, draft_type="simple"),
            FLAGS | {"--model-draft"},
            "--model-draft /models/d.gguf",
        ),
        (
            replace(OWN_LAYERS, extra_args=("--spec-type", "ngram-mod")),
            DRAFTING,
            "--spec-type ngram-mod",
        ),
    ],
)
def test_a_draft(spec: ServerSpec, flags: frozenset[str], words: str) -> None:
    argv = server_argv(spec, "/llama", "/run/key", flags)
    at = next((n for n, word in enumerate(argv) if word in ("--spec-type", "--model-draft")), None)
    found = [] if at is None else argv[at : at + len(words.split())]
    assert " ".join(found) == words
    assert argv.count("--spec-type") <= 1
    assert " ".join(found) in " ".join(prediction_argv(spec, "/llama", flags))


@pytest.mark.parametrize(
    ("spec", "flags", "why"),
    [
        (CHOSEN, FLAGS, "this llama-server does not know --spec-type draft-eagle3"),
        (CHOSEN, DRAFTING - {"--spec-draft-model"}, "does not know --spec-draft-model"),
        (
            replace(CHOSEN, extra_args=("--spec-type", "none")),
            DRAFTING,
            "extraArgs has --spec-type; clear one setting",
        ),
    ],
)
def test_a_draft_that_was_chosen_is_never_dropped(
    spec: ServerSpec, flags: frozenset[str], why: str
) -> None:
    with pytest.raises(InvalidInput, match=why):
        server_argv(spec, "/llama", "/run/key", flags)


def test_adapters_are_loaded_and_not_applied() -> None:
    spec = replace(SPEC, lora_paths=("/models/a.gguf", "/models/b b.gguf"))
    argv = server_argv(spec, "/llama", "/run/key", FLAGS | {"--lora-scaled"})
    assert argv[5:7] == ["--lora-scaled", "/models/a.gguf:0,/models/b b.gguf:0"]
    assert server_argv(spec, "/llama", "/run/key", FLAGS) == server_argv(
        SPEC, "/llama", "/run/key", FLAGS
    )


@pytest.fixture(scope="module")
def help_text(llama_server: Path) -> str:
    done = subprocess.run([llama_server, "--help"], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture(scope="module")
def version(llama_server: Path) -> str:
    done = subprocess.run([llama_server, "--version"], capture_output=True, text=True, check=True)
    return version_in(done.stdout + done.stderr)


@pytest.mark.parametrize(
    "args",
    [
        "",
        "--flash-attn on",
        "-fa auto -ctk q8_0 -ctv q8_0",
        "--split-mode layer --tensor-split 3,1 --main-gpu 0",
        "--no-mmap --mlock",
        "--load-mode mmap+mlock",
        "--rope-freq-base 1e6 --rope-scaling yarn --yarn-orig-ctx 32768",
        "--seed -1 --temp 0.7 --top-k 40 --top-p 0.95 --min-p 0.05",
        "--reasoning-budget -1 --reasoning-format deepseek-legacy --jinja",
        "--chat-template granite-4.0",
        "--spec-type draft-mtp,ngram-simple --spec-draft-n-max 3",
        "--cpu-moe --n-cpu-moe 12 --cache-ram 0 --kv-unified",
        "--pooling rank --ubatch-size 2048",
    ],
)
def test_allowed(args: str) -> None:
    words = args.split()
    assert check_extra_args(words) == tuple(words)


@pytest.mark.parametrize(
    ("args", "field", "why"),
    [
        # what magid sets
        (["--port", "9"], 0, "PUT /api/models/{modelId}/port"),
        (["--seed", "1", "-c", "4096"], 2, "use the run-time setting ctxSize"),
        (["-ngl", "99"], 0, "nGpuLayers"),
        (["-np", "2"], 0, "parallel"),
        (["--host", "0.0.0.0"], 0, "set by magid"),
        (["--api-key", "x"], 0, "set by magid"),
        (["--api-key-file", "/etc/shadow"], 0, "set by magid"),
        (["--cors-origins", "*"], 0, "set by magid"),
        (["--webui"], 0, "set by magid"),
        (["--no-cors-credentials"], 0, "not an allowed"),
        (["--embedding"], 0, "set by magid"),
        # what opens the machine
        (["--tools", "all"], 0, "run commands"),
        (["--agent"], 0, "run commands"),
        (["--mcp-servers-json", "{}"], 0, "run commands"),
        (["--ui-mcp-proxy"], 0, "run commands"),
        (["--rpc", "host:1"], 0, "network"),
        (["-hf", "x/y"], 0, "network"),
        (["--model-url", "http://x"], 0, "network"),
        (["--gpt-oss-20b-default"], 0, "network"),
        (["--slot-save-path", "/"], 0, "file or folder"),
        (["--media-path", "/"], 0, "file or folder"),
        (["--log-file", "/etc/passwd"], 0, "file or folder"),
        (["--video-ffmpeg-dir", "/tmp"], 0, "file or folder"),
        (["--chat-template-file", "/x"], 0, "file or folder"),
        (["--models-dir", "/"], 0, "file or folder"),
        (["--lora", "x"], 0, "file or folder"),
        (["-md", "x"], 0, "file or folder"),
        (["-v"], 0, "prompt"),
        (["--version"], 0, "exit"),
        # forms
        (["--seed=1"], 0, "without '='"),
        (["--port=1"], 0, "set by magid"),
        (["--see", "1"], 0, "not an allowed"),
        (["-seed", "1"], 0, "not an allowed"),
        (["--SEED", "1"], 0, "not an allowed"),
        (["--seed", "1", "--seed", "2"], 2, "twice"),
        (["-fa", "on", "--flash-attn", "off"], 2, "twice"),
        (["--seed"], 0, "missing"),
        (["--jinja", "on"], 1, "it is not an option"),
        ([""], 0, "it is not an option"),
        (["--"], 0, "not an allowed"),
        (["\u2013\u2013seed", "1"], 0, "it is not an option"),
        # values
        (["--seed", "x"], 1, "a whole number from -1 to 4294967295"),
        (["--seed", "1\n"], 1, "whole number"),
        (["--seed", "\u0661"], 1, "whole number"),
        (["--seed", "1 "], 1, "whole number"),
        (["--seed", "99999999999"], 1, "whole number"),
        (["--top-p", "1.5"], 1, "a number from 0 to 1"),
        (["--top-p", "nan"], 1, "a number"),
        (["--top-p", "1e99"], 1, "a number"),
        (["--prio", "3"], 1, "from -1 to 2"),
        (["-lv", "5"], 1, "from 0 to 4"),
        (["--flash-attn", "--jinja"], 1, "one of on, off, auto"),
        (["--flash-attn", "on,off"], 1, "one of"),
        (["--tensor-split", "1,,2"], 1, "commas between"),
        (["--tensor-split", "1;2"], 1, "commas between"),
        (["--chat-template", "{{ x }}"], 1, "one of bailing"),
        (["--chat-template", "granite-4x0"], 1, "one of bailing"),
    ],
)
def test_refused(args: list[str], field: int, why: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_extra_args(args)
    error = caught.value
    assert error.details["field"] == f"extraArgs[{field}]"
    assert error.details["argument"] == args[field][:80]
    assert error.message.startswith(f"cannot use {args[field]!r} (extraArgs[{field}]): ")
    assert why in error.message


def test_too_many() -> None:
    with pytest.raises(InvalidInput, match="at most 64 are allowed"):
        check_extra_args(["--jinja"] * (MAX_EXTRA_ARGS + 1))


def test_a_long_argument_is_not_repeated_whole() -> None:
    with pytest.raises(InvalidInput) as caught:
        check_extra_args(["x" * 1_000_000])
    assert len(caught.value.message) < 300


WORDS = st.sampled_from([name for names in allowed_options() for name in names.split(", ")])
VALUES = st.from_regex(r"[A-Za-z0-9.,:_+$%;/{}\s-]{0,12}", fullmatch=True)


@given(st.lists(st.one_of(WORDS, VALUES, st.text(max_size=8)), max_size=6))
def test_what_is_accepted_is_harmless(args: list[str]) -> None:
    try:
        accepted = check_extra_args(args)
    except InvalidInput:
        return
    assert all(re.fullmatch(r"[A-Za-z0-9.,:_+-]+", word) for word in accepted)


def test_the_real_program_agrees(help_text: str, version: str) -> None:
    """It knows the options, all but the old spellings, and takes a value where the table says so.

    Which ones it lacks is known of the version that the table was made from.
    """
    known, unknown = flags_in(help_text), set()
    for names, value in allowed_options().items():
        for name in names.split(", "):
            if name in known:
                assert bool(_metavar(help_text, name)) is bool(value), name
            else:
                unknown.add(name)
    assert unknown == OLD or not version.startswith("0.7.0 ")


def test_no_allowed_option_takes_a_path_or_an_address(help_text: str) -> None:
    free = re.compile(r"FNAME|FILE|PATH|DIR|URL|KEY|TOKEN|JSON|STRING|HOST|ORIGINS|SERVERS|repo")
    for names in allowed_options():
        assert not free.search(_metavar(help_text, names.split(", ")[0])), names


def _metavar(help_text: str, name: str) -> str:
    """What stands behind the names of an option, before two spaces or the end of the line."""
    for line in help_text.splitlines():
        if name in flags_in(line):
            return re.sub(r"^(--?[A-Za-z][\w.-]*(,\s*)?)+\s?", "", line).split("  ")[0].strip()
    return ""


def test_a_plain_server() -> None:
    argv = server_argv(SPEC, "/usr/bin/llama-server", "/run/key", FLAGS)
    assert argv == [
        "/usr/bin/llama-server",
        *FIXED,
        *("--metrics", "--no-ui", "--offline", "--cors-origins", "localhost"),
    ]


@pytest.mark.parametrize(
    ("changes", "added"),
    [
        ({"n_gpu_layers": 0}, ["--n-gpu-layers", "0"]),
        ({"ctx_size": 4096}, ["--ctx-size", "4096"]),
        ({"n_threads": 4}, ["--threads", "4"]),
        ({"batch_size": 512}, ["--batch-size", "512"]),
        ({"parallel": 2}, ["--parallel", "2"]),
        ({"mmproj_path": "/models/mmproj.gguf"}, ["--mmproj", "/models/mmproj.gguf"]),
        ({"kind": "embedding"}, ["--embeddings"]),
        ({"kind": "reranker"}, ["--reranking"]),
        ({"extra_args": ("--seed", "-1")}, ["--seed", "-1"]),
    ],
)
def test_settings(changes: dict[str, Any], added: list[str]) -> None:
    plain = server_argv(SPEC, "p", "/run/key", FLAGS)
    spec = replace(SPEC, **changes)
    assert server_argv(spec, "p", "/run/key", FLAGS) == [*plain, *added]


def test_an_older_program() -> None:
    old = frozenset({"--api-key-file", "--no-webui"})
    assert server_argv(SPEC, "p", "/run/key", old) == ["p", *FIXED, "--no-webui"]


def test_a_program_without_keys() -> None:
    with pytest.raises(LlamaServerMissing, match="--api-key-file"):
        server_argv(SPEC, "p", "/run/key", FLAGS - {"--api-key-file"})


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"ctx_size": 1}, "--ctx-size"),
        ({"kind": "reranker"}, "--reranking"),
        ({"extra_args": ("--jinja",)}, "--jinja"),
    ],
)
def test_a_choice_is_never_dropped(changes: dict[str, Any], missing: str) -> None:
    spec = replace(SPEC, **changes)
    with pytest.raises(InvalidInput, match=f"does not know {missing}"):
        server_argv(spec, "p", "/run/key", frozenset({"--api-key-file"}))


def test_extra_args_are_checked_again() -> None:
    with pytest.raises(InvalidInput, match="--tools"):
        server_argv(replace(SPEC, extra_args=("--tools", "all")), "p", "k", FLAGS)


def test_environment() -> None:
    given_one = {
        "PATH": "/bin",
        "HOME": "/h",
        "CUDA_VISIBLE_DEVICES": "0",
        "LD_PRELOAD": "x",
        "LD_LIBRARY_PATH": "x",
        "GGML_BACKEND_PATH": "x",
        "LLAMA_ARG_PORT": "1",
        "LLAMA_API_KEY": "x",
        "LLAMA_SERVER_ROUTER_PORT": "1",
        "HF_TOKEN": "x",
        "http_proxy": "x",
    }
    assert child_environment(given_one) == {
        "PATH": "/bin",
        "HOME": "/h",
        "CUDA_VISIBLE_DEVICES": "0",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
