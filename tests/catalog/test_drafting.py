"""Which draft a model starts with, by its setting."""

import pytest

from magid.catalog.drafting import by_folder, drafting
from magid.discovery.found import FoundModel
from tests.support import drafting as models
from tests.support import ggufs
from tests.support.scanning import scan


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FoundModel]:
    folder = tmp_path_factory.mktemp("models")
    models.write(folder / "a" / "Demo-8B.gguf")
    models.write(folder / "a" / "mtp-Demo-8B.gguf", "draft")
    ggufs.write_chat_model(folder / "b" / "Large-8B.gguf")
    ggufs.write_chat_model(folder / "b" / "Small-1B.gguf")
    ggufs.write_embedding_model(folder / "b" / "Embedding-1B.gguf")
    return {model.filename: model for model in scan(folder).models}


@pytest.mark.parametrize(
    ("model", "setting", "expected", "reason"),
    [
        ("Demo-8B.gguf", "auto", ("mtp", ""), "layers of its own file"),
        ("Demo-8B.gguf", "off", None, "switched off"),
        ("Demo-8B.gguf", "mtp-Demo-8B.gguf", ("mtp", "mtp-Demo-8B.gguf"), "as it is set"),
        (
            "Demo-8B.gguf",
            "Small-1B.gguf",
            None,
            "Small-1B.gguf is no draft in its folder; there is mtp-Demo-8B.gguf",
        ),
        ("Large-8B.gguf", "auto", None, "none was found"),
        ("Large-8B.gguf", "Small-1B.gguf", ("simple", "Small-1B.gguf"), "as it is set"),
        ("Large-8B.gguf", "Large-8B.gguf", None, "Large-8B.gguf is no draft in its folder"),
        ("Large-8B.gguf", "Embedding-1B.gguf", None, "Embedding-1B.gguf is no draft in its folder"),
        ("Embedding-1B.gguf", "auto", None, "a model of kind embedding uses none"),
    ],
)
def test_what_a_setting_means(
    found: dict[str, FoundModel],
    model: str,
    setting: str,
    expected: tuple[str, str] | None,
    reason: str,
) -> None:
    chosen = drafting(found[model], setting, by_folder(found.values()))
    draft = chosen.draft
    assert (draft and (draft.kind, draft.filename)) == expected
    assert chosen.reason == reason
    assert chosen.is_missing == (expected is None and setting.endswith(".gguf"))
