"""Which projector is taken for which model."""

from pathlib import Path

import pytest

from magid.discovery.scanner import Scanner
from magid.discovery.tiers import Thresholds
from tests.support import ggufs
from tests.support.scanning import only, reasons, scan

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


_SHARDED = "Q4_K_M/Demo-1B-Q4_K_M"


@pytest.mark.parametrize(
    ("models", "projectors", "pairs"),
    [
        # a repository: a folder for each encoding, the projector in the root or in a folder there
        (
            {"Q4_K_M/Demo-1B-Q4_K_M": {}, "UD-Q8_K_XL/Demo-1B-UD-Q8_K_XL": {}},
            {"mmproj-BF16": {}, "mmproj-F16": {}},
            {"Demo-1B-Q4_K_M": "mmproj-F16", "Demo-1B-UD-Q8_K_XL": "mmproj-F16"},
        ),
        ({_SHARDED: {}}, {"mmproj/mmproj-BF16": {}}, {"Demo-1B-Q4_K_M": "mmproj-BF16"}),
        ({"Demo-1B-F16": {}}, {"MMPROJ/F16": {}}, {"Demo-1B-F16": "F16"}),
        ({f"quants/{_SHARDED}": {}}, {"mmproj-F16": {}}, {"Demo-1B-Q4_K_M": "mmproj-F16"}),
        # what is nearer wins, whatever it is called
        (
            {"a/Demo-1B": {}, "b/Demo-1B-Q8_0": {}},
            {"mmproj-Demo-1B-F16": {}, "a/mmproj-BF16": {}},
            {"Demo-1B": "mmproj-BF16", "Demo-1B-Q8_0": "mmproj-Demo-1B-F16"},
        ),
        # a parent that others share: by name, or by width with one model below it
        (
            {"a/Demo-1B": {}, "b/Other-1B": {}},
            {"mmproj-Demo-1B": {}},
            {"Demo-1B": "mmproj-Demo-1B"},
        ),
        ({"a/Demo-1B": {}, "b/Other-1B": {}}, {"mmproj-F16": {}}, {}),
        ({"a/Demo-1B": _WIDE, "b/Other-1B": _WIDE}, {"mmproj-F16": _WIDE}, {}),
        ({"a/Demo-1B": {}}, {"mmproj-F16": {}}, {}),
        ({"a/Demo-1B": _WIDE}, {"mmproj-F16": _WIDE}, {"Demo-1B": "mmproj-F16"}),
        ({"a/Demo-1B": {}}, {"mmproj-Other-1B": {}}, {}),
        ({"a/Demo-1B": {}}, {"mmproj-Demo-4B": {}}, {}),
        ({_SHARDED: {}}, {"mmproj-Demo-1B": _WIDE}, {}),
        # the header's name before the file's
        ({"Q8_0/Demo-1B": {}}, {"mmproj-F16": {"general.basename": "Other"}}, {}),
        (
            {"a/x": {"general.basename": "Demo"}, "b/Other-1B": {}},
            {"mmproj-F16": {"general.basename": "Demo"}},
            {"x": "mmproj-F16"},
        ),
        # too far, and beside
        ({"a/b/c/Demo-1B": {}}, {"mmproj-Demo-1B": {}}, {}),
        ({"a/Demo-1B": {}}, {"b/mmproj-Demo-1B": {}}, {}),
    ],
)
def test_projectors_in_other_folders(
    tmp_path: Path,
    models: dict[str, dict[str, object]],
    projectors: dict[str, dict[str, object]],
    pairs: dict[str, str],
) -> None:
    for name, metadata in models.items():
        if name.endswith(_SHARDED):
            ggufs.write_split_model(tmp_path / name, 2, metadata=metadata)
        else:
            ggufs.write_chat_model(tmp_path / f"{name}.gguf", metadata=metadata)
    for name, metadata in projectors.items():
        ggufs.write_mmproj(tmp_path / f"{name}.gguf", metadata=metadata)
    found = scan(tmp_path)
    paired = {m.stem: Path(m.companions[0].path).stem for m in found.models if m.companions}
    assert paired == pairs


@pytest.mark.parametrize(
    ("models", "projector", "why"),
    [
        (
            {"a": {}},
            ("mmproj-a", _WIDE),
            "its width is 128, but that of a.gguf is 64",
        ),
        (
            {"a-1b": {}, "b-1b": {}},
            ("mmproj-F16", {}),
            "its name does not say to which of several models",
        ),
        ({"x/a-1b": {}}, ("mmproj-c-1b", {}), "its name does not match a-1b.gguf"),
    ],
)
def test_a_projector_without_a_model_is_reported_with_the_reason(
    tmp_path: Path,
    models: dict[str, dict[str, object]],
    projector: tuple[str, dict[str, object]],
    why: str,
) -> None:
    for name, metadata in models.items():
        ggufs.write_chat_model(tmp_path / f"{name}.gguf", metadata=metadata)
    name, metadata = projector
    ggufs.write_mmproj(tmp_path / f"{name}.gguf", metadata=metadata)
    found = scan(tmp_path)
    (reason,) = reasons(found).values()
    assert "is a projector without a model: " in reason
    assert why in reason
    assert reason.endswith("; put it into the folder of its model")
    assert (len(found.models), len(found.companions)) == (len(models), 1)


def test_a_projector_alone_or_one_of_several_matches_is_no_problem(tmp_path: Path) -> None:
    ggufs.write_chat_model(tmp_path / "a" / "Demo-1B.gguf")
    for name in ("a/mmproj-F16", "a/mmproj-BF16", "b/mmproj-Other-2B"):
        ggufs.write_mmproj(tmp_path / f"{name}.gguf")
    assert scan(tmp_path).broken == ()


def test_the_stamp_covers_the_projector(tmp_path: Path) -> None:
    ggufs.write_chat_model(tmp_path / "Demo-1B.gguf")
    scanner = Scanner([tmp_path], Thresholds(), None)
    alone = only(scanner.scan()).stamp
    ggufs.write_mmproj(tmp_path / "mmproj.gguf")
    paired = only(scanner.scan()).stamp
    assert alone != paired
    assert paired == only(scanner.scan()).stamp
