"""What is found to guess a model's next tokens."""

from pathlib import Path

import numpy as np
import pytest

from magid.discovery.drafts import KINDS, draft_kind
from tests.support import drafting, ggufs
from tests.support.scanning import names, only, reasons, scan


def test_layers_of_its_own(tmp_path: Path) -> None:
    drafting.write(tmp_path / "Demo-1B.gguf")
    (draft,) = only(scan(tmp_path)).drafts
    assert (draft.kind, draft.path) == ("mtp", None)


def test_a_header_alone_promises_nothing(tmp_path: Path) -> None:
    """llama-server aborts when it drafts with layers that the file does not have."""
    drafting.write(tmp_path / "Demo-1B.gguf", "trunk")
    assert only(scan(tmp_path)).drafts == ()


def test_an_architecture_that_llama_server_drafts_nothing_with(tmp_path: Path) -> None:
    tensor = np.zeros((1, 32))
    pairs = {"general.architecture": "exaone-moe", "exaone-moe.nextn_predict_layers": 1}
    ggufs.write_tensors(tmp_path / "a.gguf", pairs, {"blk.0.nextn.enorm.weight": tensor})
    assert only(scan(tmp_path)).drafts == ()


def test_a_file_beside_it(tmp_path: Path) -> None:
    drafting.write(tmp_path / "Demo-1B.gguf", "trunk")
    path = drafting.write(tmp_path / "mtp-Demo-1B.gguf", "draft")
    found = scan(tmp_path)
    (draft,) = only(found).drafts
    assert (draft.kind, draft.path, draft.filename) == ("mtp", str(path), path.name)
    assert draft.stamp
    assert not found.broken


def test_its_own_layers_come_before_files(tmp_path: Path) -> None:
    drafting.write(tmp_path / "Demo-1B.gguf")
    drafting.write(tmp_path / "mtp-Demo-1B.gguf", "draft")
    write_draft(tmp_path / "eagle3-Demo-1B.gguf", "eagle3")
    found = only(scan(tmp_path)).drafts
    assert [(draft.kind, draft.path is None) for draft in found] == [
        ("mtp", True),
        ("mtp", False),
        ("eagle3", False),
    ]


def write_draft(path: Path, architecture: str, width: int = 64) -> Path:
    pairs = {
        "general.architecture": architecture,
        f"{architecture}.target_hidden_size": width,
    }
    return ggufs.write_tensors(path, pairs, {"fc.weight": np.zeros((1, 32))})


@pytest.mark.parametrize(
    ("name", "architecture", "kind"),
    [
        ("mtp-a.gguf", "qwen35", "mtp"),
        ("a-assistant.gguf", "gemma4-assistant", "mtp"),
        ("eagle3-a.gguf", "eagle3", "eagle3"),
        ("a-eagle.gguf", "eagle3", "eagle3"),
        ("dflash-a.gguf", "dflash", "dflash"),
        ("dspark-a.gguf", "dflash", "dspark"),
        ("DSpark_a.gguf", "qwen3", "dspark"),
    ],
)
def test_kinds(name: str, architecture: str, kind: str) -> None:
    assert draft_kind(name, {"general.architecture": architecture}) == kind
    assert kind in KINDS


def test_a_draft_for_another_model_is_told(tmp_path: Path) -> None:
    ggufs.write_chat_model(tmp_path / "a" / "Demo-1B.gguf")
    drafting.write(tmp_path / "a" / "mtp-Demo-1B.gguf", "draft")
    ggufs.write_chat_model(tmp_path / "b" / "Demo-2B.gguf")
    write_draft(tmp_path / "b" / "eagle3-Demo-2B.gguf", "eagle3", 128)
    found = scan(tmp_path)
    assert names(found) == ["Demo-1B.gguf", "Demo-2B.gguf"]
    assert [model.drafts for model in found.models] == [(), ()]
    assert reasons(found) == {
        "mtp-Demo-1B.gguf": "is a draft without a model: it needs a model of 'hy_v3', and "
        "Demo-1B.gguf is 'llama'; put it into the folder of its model",
        "eagle3-Demo-2B.gguf": "is a draft without a model: its width is 128, but that of "
        "Demo-2B.gguf is 64; put it into the folder of its model",
    }


def test_a_file_that_only_its_name_makes_a_draft(tmp_path: Path) -> None:
    """llama-server would refuse to start with it."""
    ggufs.write_chat_model(tmp_path / "Demo-1B.gguf")
    ggufs.write_chat_model(tmp_path / "mtp-Demo-1B.gguf")
    found = scan(tmp_path)
    assert names(found) == ["Demo-1B.gguf"]
    assert only(found).drafts == ()


def test_each_of_several_models_gets_its_own(tmp_path: Path) -> None:
    for size in ("4B", "9B"):
        ggufs.write_chat_model(tmp_path / f"Demo-{size}-Q4_0.gguf")
        write_draft(tmp_path / f"eagle3-Demo-{size}-F16.gguf", "eagle3")
    got = {model.filename: model.drafts[0].filename for model in scan(tmp_path).models}
    assert got == {
        "Demo-4B-Q4_0.gguf": "eagle3-Demo-4B-F16.gguf",
        "Demo-9B-Q4_0.gguf": "eagle3-Demo-9B-F16.gguf",
    }


def test_an_embedding_model_has_none(tmp_path: Path) -> None:
    ggufs.write_embedding_model(tmp_path / "Demo-1B.gguf")
    write_draft(tmp_path / "eagle3-Demo-1B.gguf", "eagle3")
    assert only(scan(tmp_path)).drafts == ()
