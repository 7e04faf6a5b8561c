"""Which LoRA adapters a model has, and what they are called."""

from pathlib import Path

from tests.support import adapting, ggufs
from tests.support.scanning import only, reasons, scan


def test_those_beside_a_model(tmp_path: Path) -> None:
    ggufs.write_chat_model(tmp_path / "Demo-1B.gguf")
    first = adapting.write(tmp_path / "pirate talk.gguf", "XY")
    second = adapting.write(tmp_path / "formal.gguf", "PQ")
    found = scan(tmp_path)
    assert not found.broken
    adapters = only(found).adapters
    assert [(one.name, one.path) for one in adapters] == [
        ("formal", str(second)),
        ("pirate-talk", str(first)),
    ]
    assert adapters[0].size_bytes == second.stat().st_size
    assert adapters[0].stamp != adapters[1].stamp


def test_one_for_another_model_is_told(tmp_path: Path) -> None:
    """llama-server would refuse to start with it."""
    ggufs.write_chat_model(tmp_path / "Demo-1B.gguf")
    adapting.write(tmp_path / "style.gguf", "XY", architecture="qwen3")
    found = scan(tmp_path)
    assert only(found).adapters == ()
    assert reasons(found) == {
        "style.gguf": "is a LoRA adapter without a model: it needs a model of 'qwen3', and "
        "Demo-1B.gguf is 'llama'; put it into the folder of its model"
    }


def test_several_models_in_one_folder(tmp_path: Path) -> None:
    """Only a name tells whose it is."""
    ggufs.write_chat_model(tmp_path / "Demo-1B.gguf")
    ggufs.write_chat_model(tmp_path / "Other-1B.gguf")
    adapting.write(tmp_path / "Demo-LoRA-F16.gguf", "XY")
    adapting.write(tmp_path / "style.gguf", "XY")
    found = scan(tmp_path)
    names = {model.filename: [one.name for one in model.adapters] for model in found.models}
    assert names == {"Demo-1B.gguf": ["Demo-LoRA-F16"], "Other-1B.gguf": []}
    assert list(reasons(found)) == ["style.gguf"]


def test_names_that_cannot_be_used(tmp_path: Path) -> None:
    """llama-server ends a path at a comma, Ollama's clients add ":latest"; two have one name."""
    ggufs.write_chat_model(tmp_path / "Demo-1B.gguf")
    for name in ("a,b", "c:d", "latest", "e f", "e-f", "g"):
        adapting.write(tmp_path / f"{name}.gguf", "XY")
    assert [one.name for one in only(scan(tmp_path)).adapters] == ["e-f", "g"]
