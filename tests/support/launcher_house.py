"""A folder for tests of the launcher."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from magid.config.settings import Config
from magid.launcher.protocol import StartRequest
from magid.llama.spec import ServerSpec

FLAGS = frozenset(
    {
        *("--api-key-file", "--metrics", "--no-ui", "--offline", "--cors-origins", "--mmproj"),
        *("--temp", "--ctx-size", "--embeddings", "--tools", "--log-file", "--model-draft"),
    }
)
BLOB = "models--org--x/blobs/" + "0a" * 32  # as huggingface_hub and llama.cpp name it


class House:
    """A folder with models, a program, and things that are none of a model's business."""

    def __init__(self, home: Path) -> None:
        self.models = home / "models"
        self.outside = home / "outside"
        self.models.mkdir()
        self.outside.mkdir()
        for folder in (self.models, self.outside):
            (folder / "a.gguf").write_bytes(b"GGUF")
        (self.models / "deep").mkdir()
        (self.models / "deep" / "b.gguf").write_bytes(b"GGUF")
        (self.models / "notes.txt").write_text("")
        (self.models / "folder.gguf").mkdir()
        (self.models / "link.gguf").symlink_to(self.outside / "a.gguf")
        (self.models / "within.gguf").symlink_to("a.gguf")
        (self.models / "away").symlink_to(self.outside)
        os.mkfifo(self.models / "pipe.gguf")
        for number in (1, 2):
            (self.models / f"s-0000{number}-of-00002.gguf").write_bytes(b"GGUF")
        (self.models / "t-00001-of-00002.gguf").write_bytes(b"GGUF")
        self.program = home / "bin" / "llama-server"
        self.program.parent.mkdir()
        self.program.write_text("#!/bin/sh\n")
        self.program.chmod(0o755)
        self.settings = Config(
            model_paths=(self.models,), llama_server_path=self.program, port_range=(8080, 8099)
        )

    def spec(self, **changes: Any) -> ServerSpec:
        spec = ServerSpec("demo", 0, 8080, "127.0.0.1", str(self.models / "a.gguf"))
        return replace(spec, **changes)

    def order(self, **changes: Any) -> StartRequest:
        return StartRequest(self.spec(**changes), None, FLAGS)
