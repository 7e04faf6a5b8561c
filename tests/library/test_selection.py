"""The files that make up a model: llama.cpp's own rule for -hf."""

import pytest

from magid.library.selection import ModelVariant, RepositoryFile, choose, missing_shards, variants
from magid.library.source import ModelSource

PLAIN = ("README.md", "m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "m-BF16.gguf")
SHARDS = (
    "UD-Q4_K_XL/m-UD-Q4_K_XL-00001-of-00003.gguf", "UD-Q4_K_XL/m-UD-Q4_K_XL-00003-of-00003.gguf",
    "UD-Q4_K_XL/m-UD-Q4_K_XL-00002-of-00003.gguf", "UD-Q2_K_XL/m-UD-Q2_K_XL.gguf",
    "mmproj-F16.gguf", "mmproj-F32.gguf", "imatrix.gguf",
)  # fmt: skip
DRAFTS = ("m-Q4_K_M.gguf", "mtp-m-Q8_0.gguf", "mtp-m-Q4_K_M.gguf", "eagle3-m.gguf", "m.mmproj")


def files(*paths: str) -> list[RepositoryFile]:
    return [RepositoryFile(path, 1000 + at, "0" * 64) for at, path in enumerate(paths)]


def names(variant: ModelVariant | None) -> list[str]:
    return [] if variant is None else [f.path for f in (*variant.files, *variant.companions)]


@pytest.mark.parametrize(
    ("paths", "source", "chosen"),
    [
        (PLAIN, ModelSource("o/r"), ["m-Q4_K_M.gguf"]),
        (PLAIN[:2], ModelSource("o/r"), ["m-Q8_0.gguf"]),
        (("m-BF16.gguf", "m-F16.gguf"), ModelSource("o/r"), ["m-BF16.gguf"]),
        (PLAIN, ModelSource("o/r", tag="q4_k_s"), ["m-Q4_K_S.gguf"]),
        (PLAIN, ModelSource("o/r", tag="Q4_K"), []),
        (PLAIN, ModelSource("o/r", tag="Q5_K_M"), []),
        (PLAIN, ModelSource("o/r", file="M-bf16.gguf"), ["m-BF16.gguf"]),
        (PLAIN, ModelSource("o/r", file="README.md"), []),
        (("README.md",), ModelSource("o/r"), []),
        (SHARDS, ModelSource("o/r", tag="UD-Q4_K_XL"), [*sorted(SHARDS[:3]), "mmproj-F16.gguf"]),
        (SHARDS, ModelSource("o/r", tag="UD-Q2_K_XL"), [SHARDS[3], "mmproj-F16.gguf"]),
        (DRAFTS, ModelSource("o/r"), ["m-Q4_K_M.gguf"]),
        (
            DRAFTS,
            ModelSource("o/r", tag="Q4_K_M", draft=True),
            ["m-Q4_K_M.gguf", "mtp-m-Q4_K_M.gguf"],
        ),
        (
            (*DRAFTS[:1], *DRAFTS[3:]),
            ModelSource("o/r", draft=True),
            ["m-Q4_K_M.gguf", "eagle3-m.gguf"],
        ),
        (("preset.ini", *PLAIN), ModelSource("o/r"), ["m-Q4_K_M.gguf"]),
        (("../m-Q4_K_M.gguf", "m-Q8_0.gguf"), ModelSource("o/r"), ["m-Q8_0.gguf"]),
    ],
)
def test_the_choice(paths: tuple[str, ...], source: ModelSource, chosen: list[str]) -> None:
    assert names(choose(files(*paths), source)) == chosen


def test_the_nearest_projector_is_the_one_of_the_deepest_shared_folder() -> None:
    paths = ("mmproj-Q4.gguf", "a/b/m-Q4_K_M.gguf", "a/mmproj-BF16.gguf", "a/c/mmproj-Q4.gguf")
    assert names(choose(files(*paths), ModelSource("o/r"))) == [paths[1], paths[2]]


def test_all_variants() -> None:
    found = variants(files(*SHARDS, *PLAIN))
    assert {(v.name, len(v.files)) for v in found} == {
        ("Q8_0", 1), ("Q4_K_M", 1), ("Q4_K_S", 1), ("BF16", 1), ("Q2_K_XL", 1), ("Q4_K_XL", 3),
    }  # fmt: skip
    assert [v.size for v in found] == sorted(v.size for v in found)


def test_a_model_that_lacks_shards() -> None:
    whole = choose(files(*SHARDS), ModelSource("o/r", tag="UD-Q4_K_XL"))
    part = choose(files(*SHARDS[:2]), ModelSource("o/r", tag="UD-Q4_K_XL"))
    assert whole is not None
    assert part is not None
    assert (missing_shards(whole), missing_shards(part)) == (0, 1)
