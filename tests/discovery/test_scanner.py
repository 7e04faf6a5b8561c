"""Scans of real folders with real GGUF files of every kind."""

import json
import os
import shutil
from pathlib import Path

import pytest

from magid.discovery.found import CompanionFile, PendingFile
from magid.discovery.kinds import ModelKind
from magid.discovery.scanner import Scanner
from magid.discovery.tiers import ThinkingMode, Thresholds, Tier
from tests.support import ggufs
from tests.support.scanning import names, only, reasons, scan


def test_one_scan_with_everything_in_it(tmp_path: Path) -> None:
    chat = ggufs.write_chat_model(tmp_path / "a" / "Demo-1B-F16.gguf", quantization="F16")
    thinker = ggufs.write_chat_model(
        tmp_path / "a" / "Demo-2B-F32.gguf", template=ggufs.THINKING_TEMPLATE
    )
    toggle = ggufs.write_chat_model(
        tmp_path / "a" / "Demo-3B-Q4_0.gguf", template=ggufs.TOGGLE_TEMPLATE, quantization="Q4_0"
    )
    embedding = ggufs.write_embedding_model(tmp_path / "b" / "vectors.gguf")
    reranker = ggufs.write_embedding_model(tmp_path / "b" / "z-order.GGUF", pooling="rank")
    split = ggufs.write_split_model(tmp_path / "c" / "Split-5B-F32", 3)
    moe = ggufs.write_sparse_model(
        tmp_path / "d" / "Mix-30B-A3B-Q4_K_M.gguf",
        parameters_billions=30,
        architecture="qwen3moe",
        experts=128,
        experts_used=8,
    )
    mmproj = ggufs.write_mmproj(tmp_path / "e" / "mmproj-F16.gguf")
    draft = ggufs.write_chat_model(tmp_path / "e" / "mtp-Demo-1B.gguf")
    lora = ggufs.write_lora(tmp_path / "e" / "style.gguf")
    imatrix = ggufs.write_imatrix(tmp_path / "e" / "x.gguf")
    vocab = ggufs.write_vocab_only(tmp_path / "e" / "y.gguf")
    (tmp_path / "README.md").write_text("not a model")

    found = scan(tmp_path)

    assert not found.broken
    assert not found.unreadable_roots
    assert [model.path for model in found.models] == [
        str(path) for path in (chat, thinker, toggle, embedding, reranker, split[0], moe)
    ]
    by_name = {model.filename: model for model in found.models}
    kinds = " ".join(model.kind for model in found.models)
    assert kinds == "chat chat chat embedding reranker chat chat"
    assert [model.thinking_mode for model in found.models[:3]] == [
        ThinkingMode.NONE,
        ThinkingMode.ALWAYS,
        ThinkingMode.TOGGLEABLE,
    ]
    assert [model.tier for model in found.models[:3]] == [Tier.BALANCED, Tier.POWERFUL, Tier.FAST]
    assert [model.is_thinking for model in found.models[:3]] == [False, True, False]
    assert by_name[chat.name].context_length == 2048
    assert by_name[chat.name].architecture == "llama"
    assert by_name[chat.name].base_id == "demo_1p0b_f16_balanced"
    assert by_name[chat.name].display_name == "DEMO 1.0B F16"
    assert by_name[moe.name].tier is Tier.BALANCED
    assert sorted(found.companions, key=lambda one: one.kind) == [
        CompanionFile("draft", str(draft)),
        CompanionFile("imatrix", str(imatrix)),
        CompanionFile("lora", str(lora)),
        CompanionFile("mmproj", str(mmproj)),
        CompanionFile("vocab", str(vocab)),
    ]


def test_an_embedding_model_does_not_think(tmp_path: Path) -> None:
    ggufs.write_embedding_model(
        tmp_path / "Qwen3-Embedding-R1.gguf",
        metadata={"tokenizer.chat_template": ggufs.THINKING_TEMPLATE},
    )
    assert only(scan(tmp_path)).thinking_mode is ThinkingMode.NONE


@pytest.mark.parametrize(
    ("filename", "metadata", "kind"),
    [
        ("a.gguf", {"general.architecture": "nomic-bert"}, ModelKind.EMBEDDING),
        ("Qwen3-Embedding-4B.gguf", {}, ModelKind.EMBEDDING),
        ("bge-reranker-v2.gguf", {}, ModelKind.RERANKER),
        ("a.gguf", {"general.basename": "jina-reranker"}, ModelKind.RERANKER),
        ("a.gguf", {"llama.pooling_type": "4"}, ModelKind.CHAT),
        ("embedded-systems-7B.gguf", {}, ModelKind.CHAT),
    ],
)
def test_kinds(tmp_path: Path, filename: str, metadata: dict[str, object], kind: ModelKind) -> None:
    ggufs.write_chat_model(tmp_path / filename, metadata=metadata)
    assert only(scan(tmp_path)).kind is kind


@pytest.mark.parametrize(
    ("filename", "architecture"),
    [
        ("Qwen3-8B-speculator-Q8_0.gguf", "eagle3"),
        ("Qwen3-8B-blocks-F16.gguf", "dflash"),
        ("gemma-4-31B-it-assistant-Q8_0.gguf", "gemma4-assistant"),
        ("mtp-GLM-4.6-Q4_0.gguf", "glm4moe"),
        ("MTP-Demo-1B.gguf", "llama"),
        ("dspark-Demo-4B-Q4_0.gguf", "llama"),
        ("eagle3-Demo-4B-Q4_0.gguf", "llama"),
    ],
)
def test_drafts_are_companions(tmp_path: Path, filename: str, architecture: str) -> None:
    path = ggufs.write_chat_model(
        tmp_path / filename, metadata={"general.architecture": architecture}
    )
    found = scan(tmp_path)
    assert (found.models, found.broken) == ((), ())
    assert found.companions == (CompanionFile("draft", str(path)),)


def test_a_draft_in_several_files_is_one(tmp_path: Path) -> None:
    """Only the header of the first shard has an architecture."""
    paths = ggufs.write_split_model(
        tmp_path / "Speculator-8B", 2, metadata={"general.architecture": "eagle3"}
    )
    found = scan(tmp_path)
    assert (found.models, found.broken) == ((), ())
    assert found.companions == tuple(CompanionFile("draft", str(path)) for path in paths)


@pytest.mark.parametrize(
    "filename",
    [
        "First-Draft-Writer-24B-Q4_K_M.gguf",
        "Qwen3-0.6B-DRAFT-Q4_0.gguf",
        "Qwen3.5-9B-MTP-Q4_K_M.gguf",
        "eagle-7b.gguf",
        "mtp.gguf",
    ],
)
def test_models_with_the_word_for_a_draft_in_their_names(tmp_path: Path, filename: str) -> None:
    ggufs.write_chat_model(tmp_path / filename)
    assert names(scan(tmp_path)) == [filename]


def test_counts_of_a_mixture_of_experts(tmp_path: Path) -> None:
    ggufs.write_sparse_model(tmp_path / "x.gguf", parameters_billions=10, experts=8, experts_used=2)
    model = only(scan(tmp_path))
    assert model.parameter_count == pytest.approx(10e9, rel=1e-3)
    assert model.active_parameter_count == pytest.approx(1e9 + 9e9 * 2 / 8, rel=1e-3)
    assert model.bits_per_weight == pytest.approx(4.5)  # Q4_K: 144 bytes for 256
    assert model.name.quantization == "q4_k_m"
    assert model.tier is Tier.FAST  # sqrt(10 x 3.25) = 5.7


@pytest.mark.parametrize(
    "metadata",
    [
        {"llama.expert_count": 0, "llama.expert_used_count": 2},
        {"llama.expert_count": 8, "llama.expert_used_count": 0},
        {"llama.expert_count": "many", "llama.expert_used_count": 2},
        {"llama.expert_count": 8, "llama.expert_used_count": 99},
    ],
)
def test_experts_that_make_no_sense(tmp_path: Path, metadata: dict[str, object]) -> None:
    ggufs.write_sparse_model(
        tmp_path / "x.gguf", parameters_billions=1, experts=8, experts_used=2, metadata=metadata
    )
    model = only(scan(tmp_path))
    assert model.active_parameter_count == model.parameter_count


def test_headers_with_the_wrong_types(tmp_path: Path) -> None:
    ggufs.write_chat_model(
        tmp_path / "Odd-1B-F32.gguf",
        template=None,
        metadata={
            "general.type": 3,
            "general.basename": 1.5,
            "general.size_label": ["8B"],
            "general.file_type": "15",
            "llama.context_length": "long",
            "llama.pooling_type": True,
            "tokenizer.chat_template": 7,
        },
    )
    model = only(scan(tmp_path))
    assert (model.name.family, model.context_length, model.kind) == ("odd", None, ModelKind.CHAT)


def test_control_characters_of_a_name_go_no_further_than_the_path(tmp_path: Path) -> None:
    ggufs.write_chat_model(tmp_path / "x\x1b]0;y\n-1B-F32.gguf")
    model = only(scan(tmp_path))
    assert model.display_name.isprintable()
    assert model.base_id == "x_0_y_1p0b_f32_balanced"


def test_files_that_are_no_models(tmp_path: Path) -> None:
    ggufs.write_chat_model(tmp_path / "good-1B-F32.gguf")
    (tmp_path / "empty.gguf").touch()
    (tmp_path / "zip.gguf").write_bytes(b"PK\x03\x04" * 10)
    (tmp_path / "pointer.gguf").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    shutil.copy(tmp_path / "good-1B-F32.gguf", tmp_path / "cut.gguf")
    os.truncate(tmp_path / "cut.gguf", 5000)
    os.mkfifo(tmp_path / "fifo.gguf")
    ggufs.write_sparse_model(tmp_path / "pictures.gguf", parameters_billions=1, architecture="flux")
    ggufs.write_chat_model(tmp_path / "nobody.gguf", metadata={"general.architecture": None})
    with open(os.fsencode(tmp_path) + b"/\xff.gguf", "wb"):  # noqa: PTH123 - Path takes no bytes
        pass
    found = scan(tmp_path)
    why = reasons(found)
    assert names(found) == ["good-1B-F32.gguf"]
    expected = {
        "empty.gguf": "is empty",
        "zip.gguf": "is not a GGUF file",
        "pointer.gguf": "is a Git LFS pointer",
        "cut.gguf": "is truncated",
        "fifo.gguf": "is not a regular file",
        "pictures.gguf": "'flux'",
        "nobody.gguf": "general.architecture",
        "\\xff.gguf": "not valid UTF-8",
    }
    assert why.keys() == expected.keys()
    assert all(part in why[name] for name, part in expected.items())
    assert [file.path for file in found.broken] == sorted(file.path for file in found.broken)
    json.dumps([file.path for file in found.broken]).encode()


def test_the_first_listing(tmp_path: Path) -> None:
    path = ggufs.write_chat_model(tmp_path / "a-1B-F32.gguf", name="Demo\x1b[1m")
    shards = ggufs.write_split_model(tmp_path / "b", 2)
    big = ggufs.write_sparse_model(
        tmp_path / "c.gguf", parameters_billions=8, vocabulary=5000, architecture="qwen3"
    )
    ggufs.write_mmproj(tmp_path / "mmproj.gguf")
    ggufs.write_lora(tmp_path / "lora.gguf")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    size = sum(shard.stat().st_size for shard in shards)
    ggufs.write_split_model(tmp_path / "d", 2)[0].unlink()
    assert Scanner([tmp_path], Thresholds(), None).first_listing() == (
        PendingFile(
            str(path), path.name, path.stat().st_size, "llama", "Demo[1m", context_length=2048
        ),
        PendingFile(
            str(shards[0]), shards[0].name, size, "llama", "Demo Split", context_length=2048
        ),
        PendingFile(str(big), big.name, big.stat().st_size, "qwen3", None, context_length=32768),
    )
