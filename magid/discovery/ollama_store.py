"""Lists the models of an Ollama store by its manifests.

    manifests/HOST/NAMESPACE/NAME/TAG    JSON: the layers of a model, by digest
    blobs/sha256-HEX                     a layer; that of a model is a GGUF file

A layer is listed below its manifest, as if that were a folder: `.../llama3/8b/llama3-8b.gguf`. So
it has a name that says what it is, and a projector lies beside its model alone.
"""

import json
import os
import re
import stat
from collections.abc import Container, Iterable, Iterator
from typing import Any, Final

from msgspec import Struct

MODEL: Final = "application/vnd.ollama.image.model"
PROJECTOR: Final = "application/vnd.ollama.image.projector"
_DIGEST: Final = re.compile(r"sha256[:-]([0-9a-f]{64})")
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_PROJECTOR: Final = "-mmproj.gguf"
_BLOB: Final = re.compile(r"/blobs/sha256-[0-9a-f]{64}$")
_MANIFESTS: Final = re.compile(r"/manifests/")
_FOLDERS: Final = ("manifests", "blobs")
_LEVELS: Final = 4  # HOST/NAMESPACE/NAME/TAG
_MAX_BYTES: Final = 2**20  # of a manifest; real ones have 1 KiB
_MOST: Final = 10_000  # manifests
_DEFAULT_HOST: Final = "registry.ollama.ai"
_DEFAULT_NAMESPACE: Final = "library"


class OllamaLayer(Struct, frozen=True):
    """A part of a model: its media type, and its blob's path."""

    kind: str
    path: str


class OllamaManifest(Struct, frozen=True):
    """One model of a store. `layers` are in the manifest's order."""

    path: str
    parts: tuple[str, str, str, str]  # host, namespace, name, tag
    layers: tuple[OllamaLayer, ...]

    @property
    def name(self) -> str:
        """As Ollama shows it: `llama3:8b`, `someone/x:latest`, `hf.co/ORG/REPO:Q4_K_M`."""
        host, namespace, name, tag = self.parts
        if host != _DEFAULT_HOST:
            return f"{host}/{namespace}/{name}:{tag}"
        return f"{name}:{tag}" if namespace == _DEFAULT_NAMESPACE else f"{namespace}/{name}:{tag}"

    def listed(self) -> Iterator[tuple[str, str]]:
        """Yields the path under which each GGUF layer is listed, and its blob's path.

        Later models and projectors of one manifest have numbers: a model may be split.
        """
        _, _, name, tag = self.parts
        counts = {MODEL: 0, PROJECTOR: 0}
        for layer in self.layers:
            if layer.kind in counts:
                counts[layer.kind] += 1
                number = f"-{counts[layer.kind]}" if counts[layer.kind] > 1 else ""
                ending = _PROJECTOR if layer.kind == PROJECTOR else ".gguf"
                yield f"{self.path}/{name}-{tag}{number}{ending}", layer.path


def is_store(names: Container[str]) -> bool:
    """Whether a folder with subfolders of these names is a store."""
    return all(name in names for name in _FOLDERS)


def is_of_store(folder: str) -> bool:
    """Whether a subfolder of a store is one of its own two."""
    return folder.rpartition("/")[2] in _FOLDERS


def is_in_store(path: str, model: Iterable[str]) -> bool:
    """Whether this path of a model is that of a layer, as it is listed or as its blob. By its text.

    `model` are all paths of the model: a folder of any name holds files of its own, but what is
    listed below a manifest is a blob of the same store.
    """
    if _BLOB.search(path):
        return True
    stores = tuple(f"{path[: at.start()]}/blobs/" for at in _MANIFESTS.finditer(path))
    return any(one.startswith(stores) and _BLOB.search(one) for one in model)


def is_projector(path: str, real: str) -> bool:
    """Whether `listed` gives this path to a projector whose blob is `real`."""
    return path.endswith(_PROJECTOR) and is_in_store(path, (real,))


def manifests(store: str) -> Iterator[OllamaManifest | tuple[str, str]]:
    """Yields each manifest in path order; for an unusable one its path and a reason. Blocks.

    Never raises OSError. Follows no link, and reads at most 10,000 manifests of at most 1 MiB.
    """
    for number, parts in enumerate(_names(f"{store}/manifests", ())):
        path = f"{store}/manifests/{'/'.join(parts)}"
        if number >= _MOST:
            yield path, f"is not read: a store may have at most {_MOST} manifests"
            return
        try:
            layers = tuple(_layers(_content(path), f"{store}/blobs"))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            yield path, f"cannot be read as a manifest of Ollama: {reason}"
        else:
            host, namespace, name, tag = parts
            yield OllamaManifest(path, (host, namespace, name, tag), layers)


def _names(folder: str, above: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    is_last = len(above) == _LEVELS - 1
    try:
        with os.scandir(folder) as entries:
            found = sorted(
                entry.name
                for entry in entries
                if _NAME.fullmatch(entry.name)
                and (entry.is_file if is_last else entry.is_dir)(follow_symlinks=False)
            )
    except OSError:
        return
    for name in found:
        if is_last:
            yield (*above, name)
        else:
            yield from _names(f"{folder}/{name}", (*above, name))


def _content(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - of a descriptor
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is not a regular file")
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"it is larger than {_MAX_BYTES} bytes")
    return content


def _layers(content: bytes, blobs: str) -> Iterator[OllamaLayer]:
    try:
        document: Any = json.loads(content)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    layers = document.get("layers") if isinstance(document, dict) else None
    if not isinstance(layers, list):
        raise ValueError("it has no layers")
    for layer in layers:
        if not isinstance(layer, dict):
            raise ValueError("a layer is no mapping")
        kind, digest = layer.get("mediaType"), layer.get("digest")
        match = _DIGEST.fullmatch(digest) if isinstance(digest, str) else None
        if match is None or not isinstance(kind, str):
            raise ValueError("a layer has no digest")
        yield OllamaLayer(kind, f"{blobs}/sha256-{match[1]}")
