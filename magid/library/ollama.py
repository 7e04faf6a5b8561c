"""Reads a store of Ollama: the names of its models, and what their Modelfiles have set. Blocks."""

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from magid.discovery import ollama_store
from magid.discovery.ollama_store import OllamaManifest
from magid.errors import InvalidInput
from magid.library.foreign import ForeignModel, ForeignModels, Names
from magid.llama.runtime_settings import BY_KEY

PLACES: Final = ("/usr/share/ollama/.ollama/models", "~/.ollama/models")
_KIND: Final = "application/vnd.ollama.image."
_MAX_BYTES: Final = 2**20  # of a text or of parameters
_LATEST: Final = ":latest"
# Parameters of requests, by the names that llama-server takes.
_PARAMETERS: Final = {
    **{name: name for name in (
        "temperature", "top_k", "top_p", "min_p", "typical_p", "repeat_last_n", "repeat_penalty",
        "presence_penalty", "frequency_penalty", "seed", "stop",
    )},
    "num_predict": "max_tokens",
}  # fmt: skip
_SETTINGS: Final = {"num_ctx": "ctxSize", "num_batch": "batchSize", "num_thread": "nThreads",
                    "num_gpu": "nGpuLayers"}  # fmt: skip
_LEFT: Final[Mapping[str, str]] = {
    "adapter": "its adapter is left out: magid runs models without adapters",
    "messages": "its example messages are left out",
    "template": "its template is left out: llama-server uses that of the GGUF file",
    "tensor": "it is no GGUF file, which llama-server needs",
}


def default_folder() -> str:
    """Returns OLLAMA_MODELS, or the first place that exists."""
    given = os.environ.get("OLLAMA_MODELS")
    places = [given] if given else [str(Path(place).expanduser()) for place in PLACES]
    return next((place for place in places if Path(place).is_dir()), places[0])


def read(folder: str) -> ForeignModels:
    """Raises InvalidInput if the folder is no store that can be read."""
    store = os.path.realpath(folder)
    if not (Path(store, "manifests").is_dir() and Path(store, "blobs").is_dir()):
        nested = Path(store, ".ollama/models")
        if nested.is_dir():
            return read(str(nested))
        raise InvalidInput(
            f"cannot import {folder}: it has no folders manifests and blobs, or they cannot be read"
        )
    models, faults = [], []
    for one in ollama_store.manifests(store):
        if isinstance(one, OllamaManifest):
            models.append(_model(one))
        else:
            faults.append(" ".join(one))
    return ForeignModels("Ollama", tuple(models), tuple(faults), folder=store)


def _model(manifest: OllamaManifest) -> ForeignModel:
    layers = {layer.kind.removeprefix(_KIND): layer.path for layer in manifest.layers}
    faults = [why for kind, why in _LEFT.items() if kind in layers]
    settings: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    if "params" in layers:
        settings, defaults = _parameters(_text(layers["params"], faults), faults)
    variant: dict[str, Any] = {"defaults": defaults} if defaults else {}
    if "system" in layers and (system := _text(layers["system"], faults)):
        variant["system"] = system
    if "model" not in layers and "tensor" not in layers:
        faults.append("it has no model: perhaps one of a cloud")
    path = layers.get("model", "")
    return ForeignModel(
        manifest.name, path, settings=settings, names=_names(manifest.name, variant),
        faults=tuple(faults),
    )  # fmt: skip


def _names(name: str, variant: Mapping[str, Any]) -> Names:
    """The name, and without `:latest`, which Ollama adds by itself."""
    short = name.removesuffix(_LATEST)
    return dict.fromkeys(dict.fromkeys((name, short)), variant)


def _text(path: str, faults: list[str]) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - of a descriptor
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return file.read(_MAX_BYTES).decode("utf-8", "replace")
    except OSError as error:
        faults.append(f"a part of it cannot be read: {path}: {error.strerror}")
        return ""
    faults.append(f"a part of it is not a regular file: {path}")
    return ""


def _parameters(text: str, faults: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns run-time settings, and defaults of requests."""
    settings: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    try:
        given = json.loads(text or "{}")
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        faults.append("its parameters cannot be read")
        return {}, {}
    for name, value in given.items():
        if name in _PARAMETERS:
            defaults[_PARAMETERS[name]] = value
        elif name in _SETTINGS:
            _set(settings, _SETTINGS[name], value, faults)
        else:
            faults.append(f"parameter {name:.60} has no counterpart")
    return settings, defaults


def _set(settings: dict[str, Any], key: str, value: Any, faults: list[str]) -> None:
    """Sets a run-time setting; -1 and 0 leave the choice to the program there."""
    if value in (-1, 0) and key != "nGpuLayers":
        return
    try:
        settings[key] = BY_KEY[key].values.check(value)
    except ValueError as error:
        faults.append(f"{key} {value!r:.40} {error}")
