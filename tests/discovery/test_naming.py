"""Names of models, by a table of real file names and by what hostile ones must not do."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magid.discovery.naming import (
    FILE_TYPES,
    ModelName,
    file_stem,
    identify,
    nominal_bits,
    spellings,
    split_name,
)
from magid.discovery.tiers import Thresholds, assign_tier, detect_thinking, effective_billions

_ROWS = [
    line.split("\t")
    for line in (Path(__file__).parents[1] / "support" / "names.tsv").read_text().splitlines()
    if line and not line.startswith("#")
]
_LABEL = re.compile(r"-([0-9.]+)([MB])(?:-A([0-9.]+)B)?-", re.IGNORECASE)
_ID = re.compile(r"[a-z0-9_]{1,128}")
_METADATA_KEYS = (
    "general.architecture",
    "general.basename",
    "general.finetune",
    "general.version",
    "general.size_label",
    "general.file_type",
)


def _name(filename: str, count: int = 0, **metadata: object) -> ModelName:
    pairs = {f"general.{key}": value for key, value in metadata.items()}
    return identify(filename, pairs, parameter_count=count)


@pytest.mark.parametrize("row", _ROWS, ids=[row[0] for row in _ROWS])
def test_names_of_real_files(row: list[str]) -> None:
    filename, family, version, variant, size, quantization, thinking, tier, model_id = row
    label = _LABEL.search(filename)
    assert label
    total = float(label[1]) * (1e9 if label[2] in "bB" else 1e6)
    active = float(label[3]) * 1e9 if label[3] else total

    name = identify(filename, {}, parameter_count=round(total))
    mode, _ = detect_thinking(None, filename)
    bits = nominal_bits(name.quantization)
    assert bits is not None
    dense = active == total
    assigned = assign_tier(
        billions=name.size_params if dense else effective_billions(round(total), round(active)),
        bits=bits,
        thinking=mode,
        thresholds=Thresholds(),
    )

    assert (name.family, name.version or "", name.variant or "") == (family, version, variant)
    assert (f"{name.size_params:.1f}", name.quantization) == (size, quantization)
    assert (mode, assigned, name.base_id(assigned)) == (thinking, tier, model_id)


@pytest.mark.parametrize(
    ("filename", "metadata", "parts"),
    [
        # the header first, whatever the file is called
        (
            "blob.gguf",
            {"basename": "Meta-Llama-3.1", "finetune": "Instruct", "size_label": "8B"},
            ("llama", "3.1", "instruct", 8.0, "unknown"),
        ),
        (
            "x-Q4_K_M.gguf",
            {"basename": "Mistral", "finetune": "Instruct", "version": "v0.3"},
            ("mistral", "v0.3", "instruct", 1.2, "q4_k_m"),
        ),
        # a base name that already says all of it
        (
            "x.gguf",
            {
                "basename": "Qwen3-4B-Instruct-2507",
                "finetune": "Instruct",
                "version": "2507",
                "size_label": "4B",
                "file_type": 15,
            },
            ("qwen3", None, "instruct_2507", 4.0, "q4_k_m"),
        ),
        ("x.gguf", {"basename": "Phi", "version": "3.5"}, ("phi", "3.5", None, 1.2, "unknown")),
        ("x.gguf", {"file_type": 1024 + 7}, ("x", None, None, 1.2, "q8_0")),
        # a label that does not tell the total: the file's plain one, else the exact count
        (
            "Qwen3-30B-A3B-Q4_K_M.gguf",
            {"basename": "Qwen3", "size_label": "128x1.8B"},
            ("qwen3", None, None, 30.0, "q4_k_m"),
        ),
        ("Mixtral-8x7B-Instruct-v0.1.Q4_0.gguf", {}, ("mixtral", "v0.1", "instruct", 1.2, "q4_0")),
        ("Llama-4-Scout-17B-16E-Q2_K.gguf", {}, ("llama", "4", "scout", 1.2, "q2_k")),
        ("gemma-3n-E4B-it-Q8_0.gguf", {}, ("gemma", "3n", "it", 1.2, "q8_0")),
        # contexts are not sizes
        (
            "Qwen2.5-7B-Instruct-1M-Q8_0.gguf",
            {},
            ("qwen2.5", None, "instruct_1m", 7.0, "q8_0"),
        ),
        ("Foo-1M-7B-Q8_0.gguf", {}, ("foo", None, "1m", 7.0, "q8_0")),
        ("Phi-3-mini-128k-IQ2_XXS.gguf", {}, ("phi", "3", "mini_128k", 1.2, "iq2_xxs")),
        # nothing to go by in either
        ("ggml-model-f16.gguf", {"architecture": "llama"}, ("llama", None, None, 1.2, "f16")),
        ("model.gguf", {}, ("model", None, None, 1.2, "unknown")),
        (".gguf", {"architecture": 7}, ("model", None, None, 1.2, "unknown")),
        # what a header should not hold
        (
            "Qwen3-4B-Q4_K_M.gguf",
            {"basename": 5, "finetune": (1,), "version": 2.5, "size_label": True, "file_type": "7"},
            ("qwen3", None, None, 4.0, "q4_k_m"),
        ),
        (
            "a.gguf",
            {"basename": "\x1b]0;\u202e", "file_type": -1},
            ("a", None, None, 1.2, "unknown"),
        ),
        ("a.gguf", {"basename": "model"}, ("a", None, None, 1.2, "unknown")),
        # encodings as they are written
        ("Foo-1B-fp16.gguf", {}, ("foo", None, None, 1.0, "f16")),
        ("foo.1b.q4-k-m.gguf", {}, ("foo", None, None, 1.0, "q4_k_m")),
        ("Foo-1B-Q4_0_4_8.GGUF", {}, ("foo", None, None, 1.0, "q4_0_4_8")),
        ("Foo.i1-IQ1_M.gguf", {}, ("foo", None, "i1", 1.2, "iq1_m")),
        ("Foo-1B-MXFP4_MOE-00002-of-00004.gguf", {}, ("foo", None, None, 1.0, "mxfp4_moe")),
        ("Qwen_Qwen3-8B-Q6_K.gguf", {}, ("qwen3", None, None, 8.0, "q6_k")),
        (
            "DeepSeek-Coder-V2-Lite-16B-Q4_0.gguf",
            {},
            ("deepseek", "v2", "coder_lite", 16.0, "q4_0"),
        ),
        ("Foo-1B-split.gguf", {}, ("foo", None, None, 1.0, "unknown")),
    ],
)
def test_parts(
    filename: str,
    metadata: dict[str, object],
    parts: tuple[str, str | None, str | None, float, str],
) -> None:
    name = _name(filename, 1_234_000_000, **metadata)
    assert (
        name.family,
        name.version,
        name.variant,
        name.size_params,
        name.quantization,
    ) == parts


def test_an_unknown_encoding_is_named_by_its_bits() -> None:
    assert identify("a.gguf", {}, parameter_count=1, bits=5.6).quantization == "6bit"
    assert nominal_bits("6bit") is None


@pytest.mark.parametrize(
    ("filename", "instruct", "coder"),
    [
        ("qwen2.5-coder-14b-instruct.gguf", True, True),
        ("codestral-22b.gguf", False, True),
        ("starcoder2-3b.gguf", False, True),
        ("gemma-3-4b-it.gguf", True, False),
        ("some-encoder-decoder-1b.gguf", False, False),
        ("italian-7b.gguf", False, False),
    ],
)
def test_marks(filename: str, *, instruct: bool, coder: bool) -> None:
    name = _name(filename)
    assert (name.is_instruct, name.is_coder) == (instruct, coder)


@pytest.mark.parametrize(
    ("filename", "shown"),
    [
        ("DeepSeek-R1-8B-Q4_K_M.gguf", "DEEPSEEK R1 8.0B Q4_K_M"),
        ("gpt-oss-20b-mxfp4.gguf", "GPT-OSS 20.0B MXFP4"),
        ("Qwen3-4B-Instruct-2507-Q8_0.gguf", "QWEN3 INSTRUCT 2507 4.0B Q8_0"),
    ],
)
def test_display_name(filename: str, shown: str) -> None:
    assert _name(filename).display_name() == shown


@pytest.mark.parametrize(
    ("quantization", "bits"),
    [("q4_k_m", 4), ("iq4_xs", 4), ("mxfp4", 4), ("nvfp4", 4), ("q5_1", 5), ("tq2_0", 2),
     ("q8_0", 8), ("fp8", 8), ("bf16", 16), ("f32", 32), ("unknown", None)],
)  # fmt: skip
def test_nominal_bits(quantization: str, bits: float | None) -> None:
    assert nominal_bits(quantization) == bits


def test_file_types_are_those_of_the_gguf_package() -> None:
    from gguf import LlamaFileType

    theirs = {
        int(kind): kind.name.removeprefix("ALL_").removeprefix("MOSTLY_").lower()
        for kind in LlamaFileType
        if kind.name != "GUESSED"
    }
    assert dict(FILE_TYPES) == theirs | {38: "mxfp4"}


@pytest.mark.parametrize(
    ("filename", "model_id"),
    [
        ("モデル-7B-Q4_0.gguf", "model_7p0b_q40_fast"),
        ("Éclair-7B-Q4_0.gguf", "eclair_7p0b_q40_fast"),
        ("../../etc/passwd.gguf", "etc_passwd_0p0b_unknown_fast"),
        (f"{'f' * 100}-{'v' * 100}-7B-Q4_0.gguf", f"{'f' * 80}_{'v' * 25}_7p0b_q40_fast"),
        ("a b;$(c)\n.gguf", "a_b_c_0p0b_unknown_fast"),
    ],
)
def test_ids_of_odd_names(filename: str, model_id: str) -> None:
    assert _name(filename).base_id("fast") == model_id


@given(
    filename=st.text(max_size=300),
    metadata=st.dictionaries(
        st.sampled_from(_METADATA_KEYS),
        st.text() | st.integers() | st.floats() | st.booleans() | st.tuples(st.text()),
    ),
    count=st.integers(0, 2**63),
    bits=st.floats(0, 1e9),
)
def test_any_name_gives_an_id(
    filename: str, metadata: dict[str, object], count: int, bits: float
) -> None:
    name = identify(filename, metadata, parameter_count=count, bits=bits)
    assert _ID.fullmatch(name.base_id("powerful"))
    assert name.family
    assert name.display_name().isprintable()
    assert len(name.display_name()) < 512


@given(st.from_regex(r"[A-Za-z0-9._-]{0,200}", fullmatch=True))
def test_a_name_is_taken_apart_the_same_in_capitals(name: str) -> None:
    assert split_name(name.upper()) == split_name(name.lower())


def test_every_spelling_of_every_size() -> None:
    others = {"moe_8b_70b", "moe_8p0b_70p0b", "moe_8b_70p0b"}
    first, *rest = spellings("moe_8p0b_70b")
    assert (first, set(rest)) == ("moe_8p0b_70b", others)
    assert all(set(spellings(one)) == {first, *others} for one in rest)
    assert spellings("qwen3_1p5b_q4km_fast") == ("qwen3_1p5b_q4km_fast",)
    assert len(spellings("_".join(["8b"] * 1000))) == 16


@pytest.mark.parametrize(
    ("filename", "stem"),
    [
        ("Demo-1B-F32.gguf", "Demo-1B-F32"),
        ("Demo-1B.GGUF", "Demo-1B"),
        ("Demo-1B-00001-of-00003.gguf", "Demo-1B"),
        ("Demo.00001-of-00003.gguf", "Demo"),
        ("00001-of-00003.gguf", "00001-of-00003"),
        ("one-of-many.gguf", "one-of-many"),
        (".gguf", ""),
    ],
)
def test_a_file_is_called_without_its_ending_and_the_number_of_a_shard(
    filename: str, stem: str
) -> None:
    assert file_stem(filename) == stem
