"""A store of Ollama, as its documentation describes it."""

import hashlib
import json
from pathlib import Path

KIND = "application/vnd.ollama.image."


class OllamaFolder:
    """Blobs and manifests below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "blobs").mkdir(parents=True)
        (folder / "manifests").mkdir()

    def blob(self, content: bytes) -> str:
        """Adds a blob; returns its digest."""
        digest = hashlib.sha256(content).hexdigest()
        (self.folder / "blobs" / f"sha256-{digest}").write_bytes(content)
        return f"sha256:{digest}"

    def path(self, digest: str) -> Path:
        return self.folder / "blobs" / digest.replace(":", "-")

    def add(self, name: str, **layers: bytes) -> Path:
        """Adds a model `HOST/NAMESPACE/NAME/TAG` of these layers; returns its manifest."""
        manifest = self.folder / "manifests" / name
        manifest.parent.mkdir(parents=True, exist_ok=True)
        listed = [
            {"mediaType": KIND + kind, "digest": self.blob(content), "size": len(content)}
            for kind, content in layers.items()
        ]
        document = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {"mediaType": "application/vnd.docker.container.image.v1+json",
                       "digest": self.blob(b"{}"), "size": 2},
            "layers": listed,
        }  # fmt: skip
        manifest.write_text(json.dumps(document))
        return manifest
