"""Which projector is taken for which model."""

from pathlib import Path

import pytest

from magid.discovery.scanner import Scanner
from magid.discovery.tiers import Thresholds
from tests.support import ggufs
from tests.support.scanning import only, scan

_WIDE = {"llama.embedding_length": 128, "clip.vision.projection_dim": 128}


@pytest.mark.parametrize(
    ("models", "projectors", "pairs"),
    [
        # a folder of one model in several encodings: whatever is there
        (
            {"Demo-1B-F16": {}, "Demo-1B-Q8_0": {}},
            {"mmproj-F16": {}},
            {"Demo-1B-F16": "mmproj-F16", "Demo-1B-Q8_0": "mmproj-F16"},
        ),
        ({"Demo-1B-F16": {}}, {"mmproj-Other-2B": {}}, {"Demo-1B-F16": "mmproj-Other-2B"}),
        # a flat collection: by name
        (
            {"gemma-3-4b-it-Q4_0": {}, "gemma-3-12b-it-Q4_0": {}, "qwen3-4b": {}},
            {"mmproj-gemma-3-4b-it-f16": {}, "gemma-3-12b-it-mmproj": {}},
            {
                "gemma-3-4b-it-Q4_0": "mmproj-gemma-3-4b-it-f16",
                "gemma-3-12b-it-Q4_0": "gemma-3-12b-it-mmproj",
            },
        ),
        (
            {"qwen2.5-vl-7b-instruct": {}, "qwen2.5-7b-instruct": {}},
            {"mmproj-qwen2.5-vl-7b": {}},
            {"qwen2.5-vl-7b-instruct": "mmproj-qwen2.5-vl-7b"},
        ),
        ({"a-1b": {}, "b-1b": {}}, {"mmproj-F16": {}}, {}),
        # by width, which beats every name
        ({"a-1b": _WIDE, "b-1b": {}}, {"mmproj-F16": _WIDE}, {"a-1b": "mmproj-F16"}),
        ({"a-1b": {}}, {"mmproj-a-1b": _WIDE}, {}),
        # the closest name, then the encoding that every device computes
        (
            {"a-vl-1b": {}},
            {"mmproj-a-1b-F16": {}, "mmproj-a-vl-1b-BF16": {}, "mmproj-a-vl-1b-F16": {}},
            {"a-vl-1b": "mmproj-a-vl-1b-F16"},
        ),
    ],
)
def test_projectors(
    tmp_path: Path,
    models: dict[str, dict[str, object]],
    projectors: dict[str, dict[str, object]],
    pairs: dict[str, str],
) -> None:
    for stem, metadata in models.items():
        ggufs.write_chat_model(tmp_path / f"{stem}.gguf", metadata=metadata)
    for stem, metadata in projectors.items():
        pairs_of_clip = {"general.architecture": "clip", "general.type": "mmproj"}
        ggufs.write_chat_model(tmp_path / f"{stem}.gguf", metadata=metadata | pairs_of_clip)
    found = scan(tmp_path)
    assert {
        Path(model.path).stem: Path(model.companions[0].path).stem
        for model in found.models
        if model.companions
    } == pairs
    assert len(found.companions) == len(projectors)


def test_a_projector_in_another_folder_is_not_taken(tmp_path: Path) -> None:
    ggufs.write_chat_model(tmp_path / "a" / "Demo-1B.gguf")
    ggufs.write_mmproj(tmp_path / "mmproj-Demo-1B.gguf")
    assert only(scan(tmp_path)).companions == ()


def test_the_stamp_covers_the_projector(tmp_path: Path) -> None:
    ggufs.write_chat_model(tmp_path / "Demo-1B.gguf")
    scanner = Scanner([tmp_path], Thresholds(), None)
    alone = only(scanner.scan()).stamp
    ggufs.write_mmproj(tmp_path / "mmproj.gguf")
    paired = only(scanner.scan()).stamp
    assert alone != paired
    assert paired == only(scanner.scan()).stamp
